//! The in-process tier: bounded in bytes, evicts by a policy that resists scans.

use std::collections::HashMap;
use std::sync::Arc;

use quick_cache::sync::{Cache as QuickCache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use crate::metrics::Counter;

use super::entry::{Entry, OVERHEAD_BYTES, low_half};
use super::key::{KEY_BYTES_MAX, KeyBuffer};

/// Of each shard, for what is asked for again and again; an entry that is longer is not taken.
const HOT_PERCENT: u32 = 97;

/// Beside the rows of an entry: its key, the struct, and a description with its stamp.
const BESIDE_BYTES: u64 = (KEY_BYTES_MAX + OVERHEAD_BYTES + 16 * 1024) as u64;

pub struct Memory {
    /// By half of the hash of the key: the whole key is compared.
    entries: QuickCache<u64, Arc<Entry>, ByBytes, DefaultHashBuilder, Counting>,
    pub seed: u64,
    /// An entry that takes this much or more fits no shard.
    too_large_bytes: u64,
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
    /// `entry_bytes_max`: the longest rows it is to have room for, as far as its size allows.
    pub fn new(size_bytes: u64, entry_bytes_max: usize, seed: u64) -> Self {
        Self::with_options(&mut OptionsBuilder::new(), size_bytes, entry_bytes_max, seed)
    }

    #[expect(clippy::expect_used, reason = "what has to be given is given")]
    fn with_options(
        options: &mut OptionsBuilder,
        size_bytes: u64,
        entry_bytes_max: usize,
        seed: u64,
    ) -> Self {
        let estimated = usize::try_from(size_bytes / 1024).unwrap_or(usize::MAX).clamp(64, 1 << 20);
        let counting = Counting::default();
        let evictions = Arc::clone(&counting.evictions);
        let hasher = DefaultHashBuilder::default();
        options
            .hot_allocation(f64::from(HOT_PERCENT) / 100.0)
            .estimated_items_capacity(estimated)
            .weight_capacity(size_bytes);
        let make = |options: &OptionsBuilder| {
            let options = options.build().expect("a size and an estimate");
            QuickCache::with_options(options, ByBytes, hasher.clone(), counting.clone())
        };
        let mut entries = make(options);
        let shards = shards(entries.num_shards(), size_bytes, entry_bytes_max);
        if shards < entries.num_shards() {
            entries = make(options.shards(shards));
        }
        let too_large_bytes = hot_bytes(entries.shard_capacity());
        Self { entries, seed, too_large_bytes, evictions }
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

    /// Whether it can be kept here.
    pub fn fits(&self, entry: &Entry) -> bool {
        (entry.size_bytes() as u64) < self.too_large_bytes
    }

    /// Whether rows of this length can.
    pub fn fits_rows(&self, bytes: usize) -> bool {
        (bytes as u64).saturating_add(BESIDE_BYTES) < self.too_large_bytes
    }

    /// Takes the place of what was there, also if it does not fit.
    pub fn insert(&self, entry: Arc<Entry>) {
        let hash = low_half(entry.hash());
        if self.fits(&entry) {
            self.entries.insert(hash, entry);
        } else {
            self.entries.remove(&hash);
        }
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

/// As many as the library has for the cores there are, or fewer, so that the longest entry fits one.
fn shards(most: usize, size_bytes: u64, entry_bytes_max: usize) -> usize {
    let entry_bytes = (entry_bytes_max as u64).saturating_add(BESIDE_BYTES);
    let mut shards = most;
    while shards > 1 && hot_bytes(size_bytes / shards as u64) <= entry_bytes {
        shards /= 2;
    }
    shards
}

/// Less than the library makes of it, whichever way that rounds.
fn hot_bytes(shard_bytes: u64) -> u64 {
    shard_bytes / 100 * u64::from(HOT_PERCENT)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::cache::coherence::Coherence;
    use crate::cache::entry::Answer;

    fn entry(coherence: &Coherence, hash: u128) -> Arc<Entry> {
        long(coherence, hash, 1000)
    }

    fn long(coherence: &Coherence, hash: u128, len: usize) -> Arc<Entry> {
        let answer = Answer::new(&hash.to_le_bytes(), None, &vec![0; len]).unwrap();
        Arc::new(Entry::new(hash, answer, coherence.stamp(&[]).unwrap(), Instant::now()))
    }

    #[test]
    fn what_is_dropped_for_space_is_counted_and_what_is_replaced_is_not() {
        let (memory, coherence) = (Memory::new(1 << 20, 1000, 1), Coherence::new(1));
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
    #[test]
    fn the_longest_entry_there_may_be_fits_whatever_the_cores() {
        const MB: u64 = 1 << 20;
        for (most, size, longest) in [
            (4, 256 * MB, 1 << 20),
            (64, 256 * MB, 5 << 20),
            (256, 256 * MB, 1 << 20),
            (256, 32 * MB, 24 << 20),
            (2048, 2 * MB, 1 << 20),
        ] {
            let mut options = OptionsBuilder::new();
            let memory = Memory::with_options(options.shards(most), size, longest, 1);
            let coherence = Coherence::new(1);
            assert!(memory.fits_rows(longest), "{most} {size} {longest}");
            memory.insert(long(&coherence, 7, longest));
            assert_eq!((memory.entries(), memory.evictions()), (1, 0), "{most} {size} {longest}");
        }
    }

    #[test]
    fn there_are_as_many_shards_as_cores_want_where_entries_fit() {
        for (most, size, longest, expected) in [
            (64, 256 << 20, 1 << 20, 64),
            (256, 1 << 30, 1 << 20, 256),
            (256, 256 << 20, 1 << 20, 128),
            (8, 1 << 20, 1 << 20, 1),
            (64, 256 << 20, 1 << 30, 1),
        ] {
            assert_eq!(shards(most, size, longest), expected, "{most} {size} {longest}");
        }
    }

    #[test]
    fn what_does_not_fit_is_no_eviction_and_leaves_nothing_of_before() {
        let (memory, coherence) = (Memory::new(1 << 20, 1 << 20, 1), Coherence::new(1));
        memory.insert(entry(&coherence, 7));
        let longest = usize::try_from(memory.too_large_bytes).unwrap();
        assert!(!memory.fits(&long(&coherence, 7, longest)));
        memory.insert(long(&coherence, 7, longest));
        assert_eq!((memory.entries(), memory.evictions()), (0, 0));
        // What is said to fit does.
        let beside = long(&coherence, 7, 0).size_bytes() + 1;
        let fits = long(&coherence, 7, longest - beside);
        assert!(memory.fits(&fits) && fits.size_bytes() + 1 == longest);
        memory.insert(fits);
        assert_eq!((memory.entries(), memory.evictions()), (1, 0));
    }
}
