//! The real atomics under real threads: writers commit and roll back to one table and to the
//! database while readers fill and hit one shared entry. What the database holds is one number;
//! the checks are those of the model, at the granularity of the hardware.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use forebay::cache::coherence::{Coherence, Scope, Stamp};
use forebay::sql::verdict::TableId;

const TABLE: TableId = TableId(1);
const WRITES: u64 = 60_000;

struct World {
    coherence: Coherence,
    /// What a snapshot sees.
    visible: AtomicU64,
    /// Highest write told to a writer, or shown to a reader.
    known: AtomicU64,
    entry: Mutex<Option<Arc<(Stamp, u64)>>>,
    stop: AtomicBool,
    hits: AtomicU64,
}

impl World {
    fn write(&self, scope: &Scope, commits: bool) {
        let guard = self.coherence.begin_write(scope);
        if !commits {
            thread::yield_now();
            return guard.rolled_back();
        }
        let wrote = self.visible.fetch_add(1, Ordering::SeqCst) + 1;
        guard.committed();
        self.known.fetch_max(wrote, Ordering::SeqCst);
    }

    /// Returns what was known before and what was read.
    fn read(&self) -> (u64, u64) {
        let floor = self.known.load(Ordering::SeqCst);
        let entry = self.entry.lock().unwrap().clone();
        if let Some(entry) = entry.filter(|entry| entry.0.holds()) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return (floor, entry.1);
        }
        let stamp = self.coherence.stamp(&[TABLE]);
        let read = self.visible.load(Ordering::SeqCst);
        if let Some(stamp) = stamp.filter(Stamp::holds) {
            *self.entry.lock().unwrap() = Some(Arc::new((stamp, read)));
        }
        (floor, read)
    }
}

#[test]
fn threads_never_read_less_than_was_known_before() {
    let world = World {
        coherence: Coherence::new(3),
        visible: AtomicU64::new(0),
        known: AtomicU64::new(0),
        entry: Mutex::new(None),
        stop: AtomicBool::new(false),
        hits: AtomicU64::new(0),
    };
    thread::scope(|threads| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                threads.spawn(|| {
                    while !world.stop.load(Ordering::Relaxed) {
                        let (floor, read) = world.read();
                        assert!(read >= floor, "read {read} after {floor} was known");
                        world.known.fetch_max(read, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let writers = [Scope::Tables([TABLE].into()), Scope::Database].map(|scope| {
            let world = &world;
            threads.spawn(move || {
                for turn in 0..WRITES {
                    world.write(&scope, turn % 3 != 0);
                }
            })
        });
        let ended: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        world.stop.store(true, Ordering::Relaxed);
        assert!(ended.into_iter().all(|writer| writer.is_ok()));
        assert!(readers.into_iter().all(|reader| reader.join().is_ok()), "a reader went back");
    });
    let (floor, read) = world.read();
    assert_eq!((floor, read), (WRITES / 3 * 4, WRITES / 3 * 4));
    assert!(world.coherence.stamp(&[TABLE]).is_some_and(|stamp| stamp.holds()));
    assert!(world.hits.load(Ordering::Relaxed) > 1000, "nothing was put to the test");
    assert_eq!(world.coherence.abandoned(), 0);
}
