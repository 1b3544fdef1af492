//! One database behind Forebay: the versions of its tables, what its catalogue says, and the
//! verdicts on statements under that catalogue.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use quick_cache::sync::{Cache as QuickCache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::cache::coherence::Scope;
use crate::cache::home::Home;
use crate::insight::{Piece, Pieces, Seat};
use crate::metrics::StatementCounters;
use crate::sql::analysis::is_undecided;
use crate::sql::catalog::Catalog;
use crate::sql::rules::{Restrictions, Rules};
use crate::sql::verdict::{Control, Verdict};

use super::analysis::Analysis;

/// What verdicts take that are remembered per database; beyond it the policy forgets the coldest.
const VERDICTS_BYTES_MAX: u64 = 64 << 20;

/// What one takes beside its material: most of it are counters, with a cell for each thread. So
/// there are 20,000 of texts that people write.
const VERDICT_BYTES: usize = 3 << 10;

/// In as many parts they are kept, each with a lock and a share of the room of its own. With more,
/// as a machine of many cores would have, the longest texts would find none.
const VERDICT_SHARDS: usize = 16;

/// How many there may be.
const VERDICTS_MAX: usize = 20_000;

/// What verdicts are made under; replaced as a whole.
#[derive(Debug)]
pub struct Snapshot {
    /// Moves with every change of the catalogue, never back.
    pub generation: u64,
    /// Where its newest server is; before the first one, nowhere that anybody else is.
    pub home: Arc<Home>,
    /// Changes of the catalogue there that this takes into account.
    home_changes: u64,
    /// `None` while it is being read.
    pub catalog: Option<Arc<Catalog>>,
    /// What the operator says, and what it comes to in that catalogue.
    rules: Arc<Rules>,
    pub restrictions: Arc<Restrictions>,
}

pub struct Database {
    /// Never reused in this process; part of every key.
    pub id: u64,
    /// As PostgreSQL calls it.
    pub name: String,
    /// Guards the current snapshot; held only to clone or replace the `Arc`.
    snapshot: RwLock<Arc<Snapshot>>,
    verdicts: QuickCache<u128, Arc<Known>, ByBytes>,
    seed: u64,
    /// Times the catalogue was invalidated; the reader of the catalogue waits for it to move.
    pub wanted: tokio_free::Signal,
    pub catalog_changes: AtomicU64,
    /// What PostgreSQL is to be asked about.
    pub analysis: Analysis,
    /// PostgreSQL has not answered for longer than it may be spoken for (hazard I8).
    down: AtomicBool,
    /// Which life of PostgreSQL it is written in, as the newest server says; 0: none has said.
    primary: AtomicU64,
    /// Whether a server has said where it is, and what is to be done when one does.
    arrival: AtomicU8,
}

/// Nobody knows yet where it is.
const NOWHERE: u8 = 0;
/// The same, and others where it is are to be told of a flush.
const OWES: u8 = 1;
const ARRIVED: u8 = 2;

/// A verdict with the whole material it belongs to, of which the statement's shape is the end.
#[derive(Debug)]
pub struct Known {
    material: Box<[u8]>,
    shape_at: usize,
    pub verdict: Arc<Verdict>,
    pub uses: Arc<StatementCounters>,
    sightings: AtomicU8,
    /// Where it is counted, if it is one statement.
    pub seat: Seat,
    /// Of a string of several, what is counted of them by itself, once that is wanted.
    pieces: OnceLock<Box<Pieces>>,
}

#[derive(Clone)]
struct ByBytes;

fn verdicts() -> QuickCache<u128, Arc<Known>, ByBytes> {
    let options = OptionsBuilder::new()
        .estimated_items_capacity(VERDICTS_MAX)
        .weight_capacity(VERDICTS_BYTES_MAX)
        .shards(VERDICT_SHARDS)
        .build();
    match options {
        Ok(options) => QuickCache::with_options(
            options,
            ByBytes,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        ),
        // Not with both numbers given.
        Err(_incomplete) => QuickCache::with_weighter(VERDICTS_MAX, VERDICTS_BYTES_MAX, ByBytes),
    }
}

impl Weighter<u128, Arc<Known>> for ByBytes {
    fn weight(&self, _key: &u128, known: &Arc<Known>) -> u64 {
        known.size_bytes() as u64
    }
}

/// Sightings after which a verdict is what it will be.
const FINAL: u8 = u8::MAX;

impl Known {
    /// A verdict on a text that has no shape.
    pub fn unshaped(verdict: Verdict) -> Arc<Self> {
        Arc::new(Self {
            material: Box::default(),
            shape_at: 0,
            verdict: Arc::new(verdict),
            uses: Arc::default(),
            sightings: AtomicU8::new(FINAL),
            seat: Seat::default(),
            pieces: OnceLock::new(),
        })
    }

    /// Nothing more will be found out about it under this catalogue.
    pub fn is_final(&self) -> bool {
        self.sightings.load(Ordering::Relaxed) == FINAL
    }

    /// Notes a sighting of a verdict that is not final; true for the second.
    pub fn is_second_sighting(&self) -> bool {
        let counted = self.sightings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < 2).then_some(count + 1)
        });
        counted == Ok(1)
    }

    /// It was turned away, and is asked about when it is seen again.
    pub fn sight_again(&self) {
        self.sightings.store(1, Ordering::Relaxed);
    }

    pub fn shape(&self) -> &[u8] {
        self.material.get(self.shape_at..).unwrap_or_default()
    }

    /// One of the statements of a string of several, counted from 0.
    pub fn piece(&self, index: usize) -> &Piece {
        self.pieces.get_or_init(|| Box::new(Pieces::of(self.shape()))).get(index)
    }

    /// About what it takes in memory. A string of many statements has a verdict of some length.
    fn size_bytes(&self) -> usize {
        let controls = self.verdict.controls.len() * size_of::<Control>();
        VERDICT_BYTES + self.material.len() + controls + size_of_val(&*self.verdict.ends)
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
            snapshot: RwLock::new(Arc::new(Snapshot {
                generation: 1,
                home: Arc::new(Home::new(seed)),
                home_changes: 0,
                catalog: None,
                rules: Arc::default(),
                restrictions: Arc::default(),
            })),
            verdicts: verdicts(),
            seed,
            wanted: tokio_free::Signal::default(),
            catalog_changes: AtomicU64::new(0),
            analysis: Analysis::default(),
            down: AtomicBool::new(false),
            primary: AtomicU64::new(0),
            arrival: AtomicU8::new(NOWHERE),
        }
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Of the current snapshot.
    pub fn generation(&self) -> u64 {
        self.look(|snapshot| snapshot.generation)
    }

    /// Whether the current snapshot has a catalogue.
    pub fn has_catalog(&self) -> bool {
        self.look(|snapshot| snapshot.catalog.is_some())
    }

    /// What is to be seen in the snapshot of now, without a reference to it.
    fn look<T>(&self, seen: impl Fn(&Snapshot) -> T) -> T {
        {
            let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
            if snapshot.home_changes == snapshot.home.catalog_changes() {
                return seen(&snapshot);
            }
        }
        seen(&self.snapshot())
    }

    /// The snapshot of now. A change that came through another name of this database voids it here.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let snapshot = self.read();
        if snapshot.home_changes == snapshot.home.catalog_changes() {
            return snapshot;
        }
        self.void(Arc::clone);
        self.read()
    }

    fn read(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where its newest server is.
    pub fn home(&self) -> Arc<Home> {
        Arc::clone(&self.read().home)
    }

    /// A server has connected: if it is of another database than those before, what was known of
    /// those says nothing about it, and no answer of theirs is served.
    pub fn move_to(&self, home: &Arc<Home>) {
        let left = self.home();
        if !Arc::ptr_eq(&left, home) {
            self.void(|_| Arc::clone(home));
            left.coherence.invalidate(&Scope::Database);
        }
        // After that: who comes to flush has either been heard of here, or sees the home.
        if self.arrival.load(Ordering::SeqCst) != ARRIVED
            && self.arrival.swap(ARRIVED, Ordering::SeqCst) == OWES
        {
            home.invalidate(&Scope::Database);
        }
    }

    /// Makes every answer of it untrue, for the others of a group as soon as it is known which database
    /// it is, and they can be told.
    pub fn flush(&self) {
        // Otherwise it has arrived, or owes one already.
        let _owes =
            self.arrival.compare_exchange(NOWHERE, OWES, Ordering::SeqCst, Ordering::SeqCst);
        self.home().invalidate(&Scope::Database);
    }

    /// The catalogue at `home` has changed, or may have: verdicts made before are void, under
    /// whatever name, until it is read again. Called before the client hears of its DDL.
    pub fn catalog_changed(&self, home: &Home) {
        home.catalog_changed();
        self.snapshot();
    }

    fn void(&self, home: impl FnOnce(&Arc<Home>) -> Arc<Home>) {
        {
            let mut guard = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            let home = home(&guard.home);
            let home_changes = home.catalog_changes();
            if Arc::ptr_eq(&home, &guard.home) && guard.home_changes == home_changes {
                // Another task was faster; a second time would only void what is being read.
                return;
            }
            let generation = guard.generation + 1;
            *guard = Arc::new(Snapshot {
                generation,
                home,
                home_changes,
                catalog: None,
                rules: Arc::clone(&guard.rules),
                restrictions: Arc::default(),
            });
        }
        self.catalog_changes.fetch_add(1, Ordering::Relaxed);
        self.wanted.raise();
    }

    /// A server was connected to this PostgreSQL, and can write there. Whoever asks another one is
    /// to leave it.
    pub fn set_primary(&self, place: u64) {
        if self.primary.swap(place, Ordering::AcqRel) != place {
            self.wanted.raise();
        }
    }

    pub fn primary(&self) -> Option<u64> {
        Some(self.primary.load(Ordering::Acquire)).filter(|place| *place != 0)
    }

    /// From now on these are the operator's rules; whether they are others than before. Verdicts
    /// made under those are void then.
    pub fn set_rules(&self, rules: &Rules) -> bool {
        let snapshot = self.read();
        if *snapshot.rules == *rules {
            return false;
        }
        let restrictions = snapshot.catalog.as_ref().map(|c| rules.in_catalog(&self.name, c));
        let mut guard = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        // Should the catalogue have changed meanwhile, it is read again: `install` refuses one
        // that was read under other rules.
        let catalog = snapshot.catalog.clone().filter(|_| Arc::ptr_eq(&guard, &snapshot));
        let lost = guard.catalog.is_some() && catalog.is_none();
        *guard = Arc::new(Snapshot {
            generation: guard.generation + 1,
            home: Arc::clone(&guard.home),
            home_changes: guard.home_changes,
            catalog,
            rules: Arc::new(rules.clone()),
            restrictions: restrictions.map(Arc::new).unwrap_or_default(),
        });
        drop(guard);
        if lost {
            self.wanted.raise();
        }
        true
    }

    /// Installs a catalogue read at `home` while `generation` was current; refused if either has
    /// moved since.
    pub fn install(&self, generation: u64, home: &Arc<Home>, catalog: Catalog) -> bool {
        let rules = Arc::clone(&self.read().rules);
        let restrictions = Arc::new(rules.in_catalog(&self.name, &catalog));
        let mut guard = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        if guard.generation != generation || !Arc::ptr_eq(&guard.home, home) {
            return false;
        }
        *guard = Arc::new(Snapshot {
            generation: generation + 1,
            home: Arc::clone(home),
            // As of before the reading: what has moved since voids it at the first look.
            home_changes: guard.home_changes,
            catalog: Some(Arc::new(catalog)),
            rules,
            restrictions,
        });
        true
    }

    /// PostgreSQL has been asked about a verdict: this one takes its place, or none better.
    pub fn decide(&self, known: &Known, verdict: Option<Verdict>) {
        let Some(verdict) = verdict else {
            known.sightings.store(FINAL, Ordering::Relaxed);
            return;
        };
        let decided = Known {
            material: known.material.clone(),
            shape_at: known.shape_at,
            verdict: Arc::new(verdict),
            uses: Arc::default(),
            sightings: AtomicU8::new(FINAL),
            seat: Seat::default(),
            pieces: OnceLock::new(),
        };
        self.verdicts.insert(xxh3_128_with_seed(&known.material, self.seed), Arc::new(decided));
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
        let sightings = AtomicU8::new(if is_undecided(&verdict) { 0 } else { FINAL });
        let known = Arc::new(Known {
            material: material.into(),
            shape_at,
            verdict,
            uses: Arc::default(),
            sightings,
            seat: Seat::default(),
            pieces: OnceLock::new(),
        });
        if !known.verdict.exact_text {
            self.verdicts.insert(hash, Arc::clone(&known));
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::verdict::{BypassReason, Read, Restriction, Write};

    fn verdict() -> Verdict {
        Verdict {
            controls: Vec::new(),
            ends: Box::default(),
            write: Write::None,
            read: Read::Bypass(BypassReason::Unparsable),
            statements: 1,
            tag: "SELECT",
            exact_text: false,
            taints: false,
            restriction: Restriction::default(),
        }
    }

    /// The materials of this many verdicts of this length, as far as they are kept.
    fn kept(count: u64, len: usize) -> Vec<usize> {
        let database = Database::new(1, "app".into(), 7);
        for number in 0..count {
            let mut material = vec![0; len];
            material[..8].copy_from_slice(&number.to_be_bytes());
            database.verdict(&material, 8, verdict);
        }
        database.verdicts.iter().map(|(_, known)| known.material.len()).collect()
    }

    #[test]
    fn verdicts_on_long_texts_take_no_more_room_than_there_is() {
        let kept = kept(400, 256 << 10);
        let bytes: usize = kept.iter().sum();
        assert!(bytes <= 64 << 20, "{bytes}");
        assert!(kept.len() > 100, "{}", kept.len());
    }

    #[test]
    fn there_are_no_more_verdicts_than_their_counters_have_room_for() {
        let count = kept(30_000, 100).len();
        assert!((15_000..=22_000).contains(&count), "{count}");
    }
}
