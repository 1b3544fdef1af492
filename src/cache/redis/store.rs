//! Storing in Redis what is offered, many entries at a time; whoever offers waits for nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cache::entry::Entry;
use crate::cache::group::shared::Group;

use super::{Failure, Redis};

/// Entries on their way to Redis, at most; more are dropped, and asked of PostgreSQL again once
/// memory has lost them.
pub(super) const QUEUE_ENTRIES_MAX: usize = 1024;
const QUEUE_BYTES_MAX: usize = 16 << 20;

/// One round trip carries so many entries, so that filling keeps up with many clients.
const BATCH_ENTRIES_MAX: usize = 32;
/// And about so many bytes, so that it takes no longer than a look-up may wait behind it.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// An entry on its way, and whose answers are shared with it.
pub(super) struct Offer {
    pub(super) entry: Arc<Entry>,
    pub(super) group: Option<Arc<Group>>,
}

impl Redis {
    /// Hands an entry over to be stored, and tells whether it is on its way; never waits.
    pub fn offer(&self, entry: &Arc<Entry>, group: Option<&Arc<Group>>) -> bool {
        if !self.is_up() {
            self.counters.dropped.one();
            return false;
        }
        let len = entry.size_bytes();
        let queued = self.queued_bytes.fetch_add(len, Ordering::Relaxed);
        let offer = Offer { entry: Arc::clone(entry), group: group.cloned() };
        let room = queued.saturating_add(len) <= QUEUE_BYTES_MAX;
        if !room || self.queue.try_send(offer).is_err() {
            self.queued_bytes.fetch_sub(len, Ordering::Relaxed);
            self.counters.dropped.one();
            return false;
        }
        true
    }

    /// Stores what is offered, many at a time.
    pub(super) async fn fill(self: Arc<Self>, mut offers: mpsc::Receiver<Offer>) {
        let mut batch = Vec::with_capacity(BATCH_ENTRIES_MAX);
        while offers.recv_many(&mut batch, BATCH_ENTRIES_MAX).await > 0 {
            let mut pipeline = redis::pipe();
            let (mut count, mut len) = (0, 0);
            for offer in batch.drain(..) {
                self.queued_bytes.fetch_sub(offer.entry.size_bytes(), Ordering::Relaxed);
                len += self.add(&offer, &mut pipeline, &mut count);
                if len > BATCH_BYTES_MAX {
                    self.set(&pipeline, count).await;
                    pipeline.clear();
                    (count, len) = (0, 0);
                }
            }
            self.set(&pipeline, count).await;
        }
    }

    /// Puts the entry into the pipeline if it is worth that still; gives its length there.
    fn add(&self, offer: &Offer, pipeline: &mut redis::Pipeline, count: &mut u64) -> usize {
        let entry = &offer.entry;
        let max_age = Duration::from_micros(self.max_age_us.load(Ordering::Relaxed));
        let left = max_age.saturating_sub(entry.asked_at.elapsed()).as_millis();
        let worth = left > 0 && entry.stamp.holds();
        let sealed = worth.then(|| match &self.sharing {
            Some(sharing) => self.seal_shared(sharing, offer),
            None => self.seal_own(offer),
        });
        let Some((name, sealed)) = sealed.flatten() else {
            self.counters.dropped.one();
            return 0;
        };
        let len = sealed.len();
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        pipeline.cmd("SET").arg(name).arg(sealed);
        pipeline.arg("PX").arg(left).ignore();
        *count += 1;
        len
    }

    /// Its name and bytes.
    fn seal_own(&self, Offer { entry, group }: &Offer) -> Option<(String, Vec<u8>)> {
        let prefix = self.prefix_of_own(group.as_deref())?;
        let sealed = self.seal.seal(entry)?;
        self.stored.note(entry.hash(), Instant::now());
        Some((self.seal.name(&prefix, entry.key()), sealed))
    }

    async fn set(&self, pipeline: &redis::Pipeline, count: u64) {
        if count == 0 {
            return;
        }
        let Some(mut connection) = self.connection() else {
            self.counters.dropped.add(count);
            return;
        };
        let failure = match timeout(self.timeout, pipeline.query_async(&mut connection)).await {
            Ok(Ok(())) => {
                self.counters.stores.add(count);
                let mut link = self.link();
                link.breaker.succeeded();
                link.refuses = false;
                return;
            }
            Ok(Err(error)) => error.into(),
            Err(_elapsed) => Failure::Timeout,
        };
        self.counters.dropped.add(count);
        match failure {
            // It is full, or may not be written: what it has can still be read.
            Failure::Refused(reason) => {
                self.counters.errors.one();
                let mut link = self.link();
                if !link.refuses {
                    tracing::warn!(%reason, "redis takes no entries");
                }
                link.refuses = true;
                link.last_error = Some(reason);
            }
            failure @ (Failure::Timeout | Failure::Lost(_)) => self.failed(failure),
        }
    }
}
