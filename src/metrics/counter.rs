//! Numbers that only grow. Relaxed, since nothing is decided by them.

use std::array;
use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

/// Cells of one shard that are made at once: 4 kB, and no line of them another shard's.
const BLOCK_CELLS: usize = 512;

/// Room for two million counters; those beyond count nothing.
const BLOCKS_MAX: usize = 4096;

/// More threads than this share cells.
const SHARDS_MAX: usize = 64;

type Cells = Box<[AtomicU64; BLOCK_CELLS]>;

/// By block, then by shard.
static BLOCKS: [OnceLock<Box<[Cells]>>; BLOCKS_MAX] = [const { OnceLock::new() }; BLOCKS_MAX];

/// Guards which cells are in use; nothing else is locked inside.
static PLACES: Mutex<Places> = Mutex::new(Places { made: 0, free: Vec::new() });

static SHARDS: LazyLock<usize> = LazyLock::new(|| {
    std::thread::available_parallelism().map_or(1, usize::from).clamp(1, SHARDS_MAX)
});

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: Cell<usize> =
        Cell::new(NEXT_THREAD.fetch_add(1, Ordering::Relaxed) % *SHARDS);
}

struct Places {
    made: usize,
    free: Vec<usize>,
}

/// Which of as many shards as there are processors this thread counts in.
pub fn shard() -> usize {
    SHARD.get()
}

/// Of this process. Each thread counts in a cell of its own, so that no two wait for one cache
/// line; whoever reads adds them up.
pub struct Counter {
    place: usize,
    /// Where its cells are, by shard; none if there was no room.
    block: &'static [Cells],
}

impl Default for Counter {
    fn default() -> Self {
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.free.pop().unwrap_or_else(|| {
            places.made += 1;
            places.made - 1
        });
        let block: &[Cells] = match BLOCKS.get(place / BLOCK_CELLS) {
            Some(block) => block.get_or_init(|| (0..*SHARDS).map(|_| cells()).collect()),
            None => &[],
        };
        Self { place, block }
    }
}

fn cells() -> Cells {
    Box::new(array::from_fn(|_| AtomicU64::new(0)))
}

impl Counter {
    pub fn add(&self, amount: u64) {
        if let Some(cells) = self.block.get(shard())
            && let Some(cell) = cells.get(self.place % BLOCK_CELLS)
        {
            cell.fetch_add(amount, Ordering::Relaxed);
        }
    }

    pub fn one(&self) {
        self.add(1);
    }

    pub fn value(&self) -> u64 {
        self.cells().map(|cell| cell.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }

    fn cells(&self) -> impl Iterator<Item = &'static AtomicU64> {
        let cell = self.place % BLOCK_CELLS;
        self.block.iter().filter_map(move |cells| cells.get(cell))
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // Nobody counts here any more: whoever did had a reference.
        for cell in self.cells() {
            cell.store(0, Ordering::Relaxed);
        }
        PLACES.lock().unwrap_or_else(PoisonError::into_inner).free.push(self.place);
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

/// One word that all threads share, for what there are millions of.
#[derive(Debug, Default)]
pub struct SmallCounter(AtomicU64);

impl SmallCounter {
    pub fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_threads_counted_is_added_up() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for amount in 0..1000 {
                        counter.add(amount);
                    }
                });
            }
        });
        assert_eq!(counter.value(), 8 * 999 * 500);
    }

    #[test]
    fn who_comes_next_to_a_place_begins_at_nothing() {
        // Others of this process come and go meanwhile, so that many are taken.
        let counted: Vec<Counter> = (0..=BLOCK_CELLS).map(|_| Counter::default()).collect();
        for counter in &counted {
            counter.one();
        }
        assert!(counted.iter().all(|counter| counter.value() == 1));
        drop(counted);
        let next: Vec<Counter> = (0..=BLOCK_CELLS).map(|_| Counter::default()).collect();
        assert!(next.iter().all(|counter| counter.value() == 0));
    }

    #[test]
    fn without_room_nothing_is_counted() {
        let counter = Counter { place: BLOCKS_MAX * BLOCK_CELLS, block: &[] };
        counter.one();
        assert_eq!(counter.value(), 0);
        std::mem::forget(counter);
    }
}
