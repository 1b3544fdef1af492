//! A Redis with K in it, and answers that all may read: it may be restarted empty, lose K, and be
//! followed by a replica that has what it had a while ago.

use std::collections::{BTreeMap, VecDeque};

use forebay::cache::group::process::Process;
use forebay::cache::group::script::{Reply, Request};

use crate::group::register::Register;

/// Its clock when the world begins, in milliseconds.
const EPOCH: u64 = 1_000_000;

pub(super) struct Redis {
    /// Which process it is; connections are to one.
    pub(super) number: u8,
    pub(super) has: Kept,
    pub(super) replica: Kept,
    /// What was sent over connections that were given up, and may arrive still.
    pub(super) late: Vec<VecDeque<Request>>,
}

#[derive(Clone, Default)]
pub(super) struct Kept {
    register: Register,
    /// Answers by name.
    pub(super) answers: BTreeMap<String, Vec<u8>>,
}

impl Redis {
    pub(super) fn new() -> Self {
        let (has, replica) = (Kept::default(), Kept::default());
        Self { number: 1, has, replica, late: Vec::new() }
    }

    pub(super) fn process(&self) -> Process {
        Process { run_id: [self.number; 20], replication_id: [self.number; 20] }
    }

    pub(super) fn clock(now: u64) -> u64 {
        EPOCH + now
    }

    pub(super) fn serve(&mut self, request: &Request, now: u64) -> Reply {
        let now = Self::clock(now);
        let answer = self.has.register.call(request, now);
        let is_told = !matches!(request, Request::Check { .. });
        Reply { now: is_told.then_some(now), answer }
    }

    pub(super) fn lose_k(&mut self) {
        self.has.register = Register::default();
    }

    pub(super) fn copy(&mut self) {
        self.replica.clone_from(&self.has);
    }

    /// Another process is there from now on.
    pub(super) fn follow(&mut self, has: Kept) {
        self.number += 1;
        self.has = has;
        self.late.clear();
    }
}
