//! One database behind Forebay: the versions of its tables, what its catalogue says, and the
//! verdicts on statements under that catalogue.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use quick_cache::sync::Cache as QuickCache;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::cache::coherence::Coherence;
use crate::sql::catalog::Catalog;
use crate::sql::verdict::Verdict;

/// Verdicts remembered per database; beyond it the policy forgets the coldest.
const VERDICTS_MAX: usize = 20_000;

/// What verdicts are made under; replaced as a whole.
#[derive(Debug)]
pub struct Snapshot {
    /// Moves with every change of the catalogue, never back.
    pub generation: u64,
    /// `None` while it is being read.
    pub catalog: Option<Arc<Catalog>>,
}

pub struct Database {
    /// Never reused in this process; part of every key.
    pub id: u64,
    /// As PostgreSQL calls it.
    pub name: String,
    pub coherence: Coherence,
    /// Guards the current snapshot; held only to clone or replace the `Arc`.
    snapshot: RwLock<Arc<Snapshot>>,
    verdicts: QuickCache<u128, Arc<Known>>,
    seed: u64,
    /// Times the catalogue was invalidated; the reader of the catalogue waits for it to move.
    pub wanted: tokio_free::Signal,
    pub catalog_changes: AtomicU64,
}

/// A verdict with the whole material it belongs to, of which the statement's shape is the end.
#[derive(Debug)]
pub struct Known {
    material: Box<[u8]>,
    shape_at: usize,
    pub verdict: Arc<Verdict>,
}

impl Known {
    /// A verdict on a text that has no shape.
    pub fn unshaped(verdict: Verdict) -> Arc<Self> {
        Arc::new(Self { material: Box::default(), shape_at: 0, verdict: Arc::new(verdict) })
    }

    pub fn shape(&self) -> &[u8] {
        self.material.get(self.shape_at..).unwrap_or_default()
    }
}

/// A counter somebody may wait on from outside; this module itself never waits.
pub mod tokio_free {
    use std::sync::Mutex;
    use std::sync::PoisonError;

    type Waker = Box<dyn Fn() + Send + Sync>;

    /// Calls whoever registered, when raised.
    #[derive(Default)]
    pub struct Signal(Mutex<Option<Waker>>);

    impl Signal {
        pub fn on_raise(&self, waker: Waker) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
        }

        pub fn raise(&self) {
            if let Some(wake) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
                wake();
            }
        }
    }
}

impl Database {
    pub fn new(id: u64, name: String, seed: u64) -> Self {
        Self {
            id,
            name,
            coherence: Coherence::new(seed),
            snapshot: RwLock::new(Arc::new(Snapshot { generation: 1, catalog: None })),
            verdicts: QuickCache::new(VERDICTS_MAX),
            seed,
            wanted: tokio_free::Signal::default(),
            catalog_changes: AtomicU64::new(0),
        }
    }

    /// Of the current snapshot.
    pub fn generation(&self) -> u64 {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The catalogue has changed, or may have: verdicts made before are void until it is read
    /// again. Called before the client hears of its DDL.
    pub fn catalog_changed(&self) {
        {
            let mut guard = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            let generation = guard.generation + 1;
            *guard = Arc::new(Snapshot { generation, catalog: None });
        }
        self.catalog_changes.fetch_add(1, Ordering::Relaxed);
        self.wanted.raise();
    }

    /// Installs a catalogue read while `generation` was current; refused if it has moved since.
    pub fn install(&self, generation: u64, catalog: Catalog) -> bool {
        let mut guard = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        if guard.generation != generation {
            return false;
        }
        let catalog = Some(Arc::new(catalog));
        *guard = Arc::new(Snapshot { generation: generation + 1, catalog });
        true
    }

    /// The verdict on this material (generation, settings, types, and from `shape_at` on the
    /// shape), made by `classify` if it is not known and kept if it is not tied to the text.
    pub fn verdict(
        &self,
        material: &[u8],
        shape_at: usize,
        classify: impl FnOnce() -> Verdict,
    ) -> Arc<Known> {
        let hash = xxh3_128_with_seed(material, self.seed);
        if let Some(known) = self.verdicts.get(&hash)
            && *known.material == *material
            && !known.verdict.exact_text
        {
            return known;
        }
        let verdict = Arc::new(classify());
        let known = Arc::new(Known { material: material.into(), shape_at, verdict });
        if !known.verdict.exact_text {
            self.verdicts.insert(hash, Arc::clone(&known));
        }
        known
    }
}
