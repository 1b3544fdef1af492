//! The in-process tier: bounded in bytes, evicts by a policy that resists scans.

use std::collections::HashMap;
use std::sync::Arc;

use quick_cache::sync::{Cache as QuickCache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Lifecycle, Weighter};

use crate::metrics::Counter;

use super::entry::{Entry, low_half};
use super::key::KeyBuffer;

pub struct Memory {
    /// By half of the hash of the key: the whole key is compared.
    entries: QuickCache<u64, Arc<Entry>, ByBytes, DefaultHashBuilder, Counting>,
    pub seed: u64,
    evictions: Arc<Counter>,
}

/// What is in memory over one table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live {
    pub entries: u64,
    pub bytes: u64,
    pub hits: u64,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<u64, Arc<Entry>> for ByBytes {
    fn weight(&self, _key: &u64, entry: &Arc<Entry>) -> u64 {
        entry.size_bytes() as u64
    }
}

/// Counts what is dropped for space.
#[derive(Clone, Default)]
struct Counting {
    evictions: Arc<Counter>,
    /// Has entries dropped outside the locks.
    rest: Outside,
}

type Outside = DefaultLifecycle<u64, Arc<Entry>>;

impl Lifecycle<u64, Arc<Entry>> for Counting {
    type RequestState = <Outside as Lifecycle<u64, Arc<Entry>>>::RequestState;

    /// Not for what is replaced, as the next one is.
    fn before_evict(&self, _: &mut Self::RequestState, _: &u64, _: &mut Arc<Entry>) {
        self.evictions.one();
    }

    fn on_evict(&self, state: &mut Self::RequestState, hash: u64, entry: Arc<Entry>) {
        self.rest.on_evict(state, hash, entry);
    }
}

impl Memory {
    pub fn new(size_bytes: u64, seed: u64) -> Self {
        let estimated = usize::try_from(size_bytes / 1024).unwrap_or(usize::MAX).clamp(64, 1 << 20);
        let counting = Counting::default();
        let evictions = Arc::clone(&counting.evictions);
        let hasher = DefaultHashBuilder::default();
        let entries = QuickCache::with(estimated, size_bytes, ByBytes, hasher, counting);
        Self { entries, seed, evictions }
    }

    pub fn get(&self, key: &KeyBuffer) -> Option<Arc<Entry>> {
        self.entries.get(&low_half(key.hash())).filter(|entry| entry.key() == key.bytes())
    }

    /// Whether there is an entry of this key, true or not. Does not count as a use.
    pub fn has(&self, key: &KeyBuffer) -> bool {
        self.peek(key).is_some()
    }

    /// As `get`, but not a use.
    pub fn peek(&self, key: &KeyBuffer) -> Option<Arc<Entry>> {
        self.entries.peek(&low_half(key.hash())).filter(|entry| entry.key() == key.bytes())
    }

    /// All there is, a lock of one shard at a time.
    pub fn each(&self, mut look: impl FnMut(&Entry)) {
        self.entries.iter().for_each(|(_, entry)| look(&entry));
    }

    /// An answer to this very question was there before: if a write has ended it, what it was of
    /// use for counts.
    pub fn judge_before(&self, entry: &Entry) {
        if let Some(before) =
            self.entries.peek(&low_half(entry.hash())).filter(|old| old.key() == entry.key())
            && !before.stamp.holds()
        {
            before.stamp.ended(before.hits.value());
        }
    }

    /// As `each`.
    pub fn live(&self) -> HashMap<u64, Live> {
        let mut live: HashMap<u64, Live> = HashMap::new();
        for (_, entry) in self.entries.iter() {
            for version in entry.stamp.slots() {
                let live = live.entry(version.epoch).or_default();
                live.entries += 1;
                live.bytes += entry.size_bytes() as u64;
                live.hits += entry.hits.value();
            }
        }
        live
    }

    pub fn insert(&self, entry: Arc<Entry>) {
        self.entries.insert(low_half(entry.hash()), entry);
    }

    pub fn clear(&self) {
        self.entries.clear();
    }

    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    pub fn evictions(&self) -> u64 {
        self.evictions.value()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::cache::coherence::Coherence;
    use crate::cache::entry::Answer;

    fn entry(coherence: &Coherence, hash: u128) -> Arc<Entry> {
        let answer = Answer::new(&hash.to_le_bytes(), None, &[0; 1000]).unwrap();
        Arc::new(Entry::new(hash, answer, coherence.stamp(&[]).unwrap(), Instant::now()))
    }

    #[test]
    fn what_is_dropped_for_space_is_counted_and_what_is_replaced_is_not() {
        let (memory, coherence) = (Memory::new(1 << 20, 1), Coherence::new(1));
        for _ in 0..3 {
            memory.insert(entry(&coherence, 7));
        }
        assert_eq!((memory.entries(), memory.evictions()), (1, 0));
        for hash in 100..5100 {
            memory.insert(entry(&coherence, hash));
        }
        let held = memory.entries() as u64;
        assert!((100..1000).contains(&held), "{held}");
        assert_eq!(memory.evictions(), 5001 - held);
    }
}
