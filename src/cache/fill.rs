//! An answer being recorded on its way to a client. It counts only when finished: dropping it
//! forgets it, so an error, a cancel or a lost client never leaves half an answer.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::metrics::{Counter, StatementCounters};
use crate::sql::verdict::TableId;

use super::coherence::Stamp;
use super::entry::Entry;
use super::key::KeyBuffer;
use super::turns::Leader;

/// Recording of one answer; begun before Bind or Query is sent, since that is when PostgreSQL
/// takes the snapshot (hazard H2).
#[derive(Debug)]
pub struct Fill {
    hash: u128,
    key: Box<[u8]>,
    stamp: Stamp,
    asked_at: Instant,
    bytes_max: usize,
    row_description: Option<Bytes>,
    rows: Vec<u8>,
    state: State,
    finished_at: Instant,
    /// Those who wait for it are let go when it ends.
    leader: Option<Leader>,
    statement: Option<Arc<StatementCounters>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Recording,
    Complete,
    /// Something came that an entry may not hold: an error, a notice, too many bytes.
    Spoiled,
}

impl Fill {
    pub fn begin(key: &KeyBuffer, seed: u64, stamp: Stamp, now: Instant, bytes_max: usize) -> Self {
        Self {
            hash: key.hash(seed),
            key: key.bytes().into(),
            stamp,
            asked_at: now,
            bytes_max,
            row_description: None,
            rows: Vec::new(),
            state: State::Recording,
            finished_at: now,
            leader: None,
            statement: None,
        }
    }

    #[must_use]
    pub fn counted_by(self, statement: Arc<StatementCounters>) -> Self {
        Self { statement: Some(statement), ..self }
    }

    #[must_use]
    pub fn led_by(self, leader: Option<Leader>) -> Self {
        Self { leader, ..self }
    }

    pub(super) fn take_leader(&mut self) -> Option<Leader> {
        self.leader.take()
    }

    pub(super) fn take_statement(&mut self) -> Option<Arc<StatementCounters>> {
        self.statement.take()
    }

    /// A RowDescription message, whole.
    pub fn describe(&mut self, message: &[u8]) {
        self.row_description = Some(Bytes::copy_from_slice(message));
    }

    /// DataRow messages, or pieces of them, in order.
    pub fn rows(&mut self, bytes: &[u8]) {
        match self.state {
            State::Recording if self.rows.len() + bytes.len() <= self.bytes_max => {
                self.rows.extend_from_slice(bytes);
            }
            State::Recording | State::Complete => self.spoil(),
            State::Spoiled => {}
        }
    }

    /// The CommandComplete message, whole.
    pub fn complete(&mut self, message: &[u8], now: Instant) {
        self.rows(message);
        self.finished_at = now;
        if self.state == State::Recording {
            self.state = State::Complete;
        }
    }

    /// For broken twins: forgets when the answer was asked.
    pub fn restamp(&mut self, stamp: Stamp) {
        self.stamp = stamp;
    }

    /// The tables it depends on.
    pub fn tables(&self) -> Vec<TableId> {
        self.stamp.slots().filter_map(|version| version.table).collect()
    }

    /// Never to be stored.
    pub fn spoil(&mut self) {
        self.state = State::Spoiled;
        self.rows = Vec::new();
        self.leader = None;
    }

    /// Only a complete answer becomes an entry.
    pub(super) fn into_entry(self) -> Option<Entry> {
        (self.state == State::Complete).then(|| Entry {
            hash: self.hash,
            key: self.key,
            stamp: self.stamp,
            row_description: self.row_description,
            rows: Bytes::from(self.rows.into_boxed_slice()),
            asked_at: self.asked_at,
            cost: self.finished_at.saturating_duration_since(self.asked_at),
            hits: Counter::default(),
            statement: None,
        })
    }
}
