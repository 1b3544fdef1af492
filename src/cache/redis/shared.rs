//! Answers that all of a group have in common: where they lie, and what of them is stored or read.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout;

use crate::cache::digests::{Digests, Session};
use crate::cache::entry::Entry;
use crate::cache::group::shared::Group;
use crate::cache::home::Home;
use crate::cache::key::{self, KeyBuffer};
use crate::cache::sealed::shared::{Material, Reader, SharedSeal};

use super::store::Offer;
use super::{Failure, Redis, Settings};

pub(super) struct Sharing {
    pub(super) seal: SharedSeal,
    pub(super) digests: Digests,
}

impl Sharing {
    /// `None` without a group or its secret.
    pub(super) fn new(settings: &Settings, salt: [u8; 16]) -> Option<Self> {
        let group = settings.group.as_ref().filter(|group| !group.secret.is_empty())?;
        let secret = group.secret.reveal().as_bytes();
        let (bytes_max, from) = (settings.entry_bytes_max, settings.compress_from);
        let seal = SharedSeal::new(secret, salt, bytes_max, from);
        Some(Self { seal, digests: Digests::default() })
    }

    /// What the session of this key is to everybody, and the rest of the key.
    pub(super) fn session<'a>(&self, key: &'a [u8]) -> Option<(Session, &'a [u8])> {
        let (session, statement) = key::split(key)?;
        Some((self.digests.find(&session)?, statement))
    }

    fn material(&self, k: &str, key: &[u8]) -> Option<Material> {
        let (session, statement) = self.session(key)?;
        Material::new(k, &session, statement)
    }
}

/// Seconds and microseconds, as TIME tells them.
type Time = (u64, u64);

impl Redis {
    pub(super) async fn look_up_shared(
        &self,
        sharing: &Sharing,
        key: &KeyBuffer,
        home: &Home,
    ) -> Option<Arc<Entry>> {
        let group = home.group.as_ref().filter(|group| self.is_where(group))?;
        let material = sharing.material(&group.name()?, key.bytes())?;
        let mut connection = self.connection()?;
        self.counters.look_ups.one();
        let mut pipeline = redis::pipe();
        // Not GET: whatever somebody put there, no more than an entry's bytes are read.
        pipeline.cmd("GETRANGE").arg(sharing.seal.name(&material)).arg(0);
        pipeline.arg(sharing.seal.sealed_bytes_max());
        pipeline.cmd("TIME");
        let asked_at = Instant::now();
        let answer = timeout(self.timeout, pipeline.query_async(&mut connection)).await;
        let answer = answer.map_or(Err(Failure::Timeout), |answer| answer.map_err(Failure::from));
        let (sealed, (seconds, micros)): (Vec<u8>, Time) = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                self.failed(failure);
                return None;
            }
        };
        self.link().breaker.succeeded();
        if sealed.is_empty() {
            self.counters.misses.one();
            return None;
        }
        let redis_us = seconds.checked_mul(1_000_000)?.checked_add(micros)?;
        let reader = Reader { group, coherence: &home.coherence, redis_us, asked_at };
        self.opened(sharing.seal.open(&sealed, &material, (key.bytes(), key.hash()), &reader))
    }

    /// Its name and bytes; `None` if others could make nothing of it.
    pub(super) fn seal_shared(
        &self,
        sharing: &Sharing,
        offer: &Offer,
    ) -> Option<(String, Vec<u8>)> {
        let group = offer.group.as_ref().filter(|group| self.is_where(group))?;
        let tables: Vec<_> = offer.entry.stamp.slots().filter_map(|slot| slot.table).collect();
        let (k, versions, clock) = group.versions(&tables)?;
        // Invariant: what it is of was had before, so that nothing has moved in between.
        if !offer.entry.stamp.holds() {
            return None;
        }
        let material = sharing.material(&k, offer.entry.key())?;
        let sealed = sharing.seal.seal(&offer.entry, &material, (&versions, clock))?;
        Some((sharing.seal.name(&material), sealed))
    }

    /// Whether the group of this database agrees in the Redis that this one is connected to. In a
    /// cluster it may be another node.
    pub(super) fn is_where(&self, group: &Group) -> bool {
        let place = group.place();
        place.is_some() && place == self.link().place
    }
}
