//! What may be remembered, and until when it is true: look up, fill, flush.
//!
//! Knows no protocol state and no client. Versions are compared in `coherence.rs` alone.

pub mod coherence;
pub mod key;
pub mod entry;
pub mod fill;
pub mod memory;

use std::sync::Arc;
use std::time::{Duration, Instant};

use entry::Entry;
use fill::Fill;
use key::KeyBuffer;
use memory::Memory;

/// Whether answers are kept and served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Off,
    On,
    /// Everything but serving: what would have been a hit is counted, and goes to PostgreSQL.
    DryRun,
}

/// The bounds of the cache; all settings of the `[cache]` section.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub size_bytes: u64,
    pub entry_bytes_max: usize,
    pub max_age: Duration,
}

/// The memory tier with its limits; shared by every client.
pub struct Cache {
    memory: Memory,
    pub mode: Mode,
    pub limits: Limits,
}

impl Cache {
    pub fn new(mode: Mode, limits: Limits, seed: u64) -> Self {
        Self { memory: Memory::new(limits.size_bytes, seed), mode, limits }
    }

    /// The entry of this very key, if it is true and young enough at `now`.
    pub fn look_up(&self, key: &KeyBuffer, now: Instant) -> Option<Arc<Entry>> {
        let entry = self.memory.get(key)?;
        let young = now.saturating_duration_since(entry.asked_at) < self.limits.max_age;
        (young && entry.stamp.holds()).then_some(entry)
    }

    /// Stores a finished fill unless something it read has moved since its stamp was taken.
    /// Tells whether it was admitted.
    pub fn store(&self, fill: Fill) -> Option<Arc<Entry>> {
        let entry = Arc::new(fill.into_entry()?);
        // Invariant: an entry is stored only if its stamp still holds. Attacked by the
        // simulation's twin that stores unchecked.
        entry.stamp.holds().then(|| {
            self.memory.insert(Arc::clone(&entry));
            entry
        })
    }

    /// Forgets every entry. Fills under way are refused by the databases' slots, which the caller
    /// moves as well.
    pub fn clear(&self) {
        self.memory.clear();
    }

    /// Seed of the hashes in this process.
    pub fn seed(&self) -> u64 {
        self.memory.seed
    }

    /// What the second tier is doing, for people.
    pub fn redis_state(&self) -> String {
        "off".into()
    }

    pub fn entries(&self) -> usize {
        self.memory.entries()
    }

    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }
}
