//! Which cached answers are still true: one slot per table (or tree) and one for the database,
//! stamps of them taken before an answer is asked for, and guards of commits on their way.
//!
//! Pure and free of locks where a hit is judged. It knows neither entries nor statements nor
//! servers; no other file compares versions. The checks named below live in `tests/simulation`.
//!
//! Invariant: a stamp holds only while no commit that could change what it covers has been sent
//! since it was taken. (`model`: the protocol as it is has no broken story, `unchecked_store`,
//! `bump_before` and `stamp_at_execute` each have one; `oracle`: seeds without a stale read.)
//!
//! Invariant: from before a commit is sent until its outcome is known nothing it touches holds,
//! however many commits overlap. (`model`: `no_in_flight` and `parity` go back in time.)
//!
//! Invariant: a guard settles once, and one that is lost settles never by itself.
//! (`model`: `loss_settled_at_once` goes back in time; `oracle`: twin of the same name.)
//!
//! Invariant: a stamp that has ceased to hold through a commit never holds again, not even when
//! counters run out. (`stress`: threads on the real atomics; unit tests at both bounds.)
//!
//! The slots of a stamp are looked at one after the other, and that suffices: generations only
//! grow, so when the last one is seen unmoved all of them were unmoved when the first was seen,
//! and that instant lies between the request and its answer.

mod uses;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::sql::verdict::TableId;

/// Bits of a slot's word that count commits in flight; the rest is the generation. 16 million
/// commits on their way at once are more than a process has sockets for. A count that reaches the
/// bound stays there: the slot is bypassed until the process ends, which is slow, never wrong.
const IN_FLIGHT_BITS: u32 = 24;
const IN_FLIGHT_MAX: u64 = (1 << IN_FLIGHT_BITS) - 1;

/// 40 bits: 35 years of a thousand commits a second to one table. A generation that reaches the
/// bound stays there and is never stamped again; the next stamp replaces the slot by one of
/// another epoch once nothing is in flight on it.
const GENERATION_MAX: u64 = (1 << (64 - IN_FLIGHT_BITS)) - 1;

/// Slots are kept for every table ever read or written, 128 bytes each. Past this many, tables
/// without a slot are not stamped, and writing one invalidates the database.
const TABLES_MAX: usize = 1 << 17;

/// Version record of a table, a tree or the database.
///
/// A line of cache memory of its own, since every hit reads the database's slot and must not wait
/// for writers of whatever lies beside it.
#[derive(Debug)]
#[repr(align(64))]
pub struct Slot {
    /// `None` is the database.
    table: Option<TableId>,
    epoch: u64,
    /// Generation above, commits in flight below: one load sees both. `SeqCst` throughout: the
    /// order that matters runs through sockets and other processes, writers are rare, and for
    /// readers it costs nothing on the machines we know.
    word: AtomicU64,
    uses: uses::Uses,
}

impl Slot {
    fn new(table: Option<TableId>, epoch: u64) -> Arc<Self> {
        // Not from 0, so that no record of another kind that begins at 0 can match (R12).
        Arc::new(Self {
            table,
            epoch,
            word: AtomicU64::new(word(1, 0)),
            uses: uses::Uses::default(),
        })
    }

    /// `None` is the database.
    pub fn table(&self) -> Option<TableId> {
        self.table
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn generation(&self) -> u64 {
        generation(self.word.load(Ordering::SeqCst))
    }

    pub fn in_flight(&self) -> u64 {
        in_flight(self.word.load(Ordering::SeqCst))
    }

    fn begin(&self) {
        self.change(|word| if in_flight(word) < IN_FLIGHT_MAX { word + 1 } else { word });
    }

    fn roll_back(&self) {
        self.change(landed);
    }

    /// Generation and count move in one step; in two, the generation would have to be first.
    fn commit(&self) {
        self.change(|before| {
            let word = landed(before);
            let next = generation(word).saturating_add(1).min(GENERATION_MAX);
            self::word(next, in_flight(word))
        });
    }

    fn change(&self, next: impl Fn(u64) -> u64) {
        let mut seen = self.word.load(Ordering::SeqCst);
        while let Err(now) =
            self.word.compare_exchange_weak(seen, next(seen), Ordering::SeqCst, Ordering::SeqCst)
        {
            seen = now;
        }
    }

    /// Used up, and nobody holds a guard on it.
    fn is_spent(&self) -> bool {
        self.word.load(Ordering::SeqCst) == word(GENERATION_MAX, 0)
    }
}

fn word(generation: u64, in_flight: u64) -> u64 {
    generation << IN_FLIGHT_BITS | in_flight
}

fn generation(word: u64) -> u64 {
    word >> IN_FLIGHT_BITS
}

fn in_flight(word: u64) -> u64 {
    word & IN_FLIGHT_MAX
}

/// One commit less in flight; a count that hit its bound has lost track and stays.
fn landed(word: u64) -> u64 {
    match in_flight(word) {
        0 | IN_FLIGHT_MAX => word,
        _ => word - 1,
    }
}

/// What a commit may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Tables(Box<[TableId]>),
    Database,
}

/// The slots of one database.
#[derive(Debug)]
pub struct Coherence {
    /// Guards which slot stands for which table, not the slots themselves. Counts are raised under
    /// it, so that no slot is replaced while a guard is made. No other lock is taken inside it.
    slots: RwLock<Slots>,
    tables_max: usize,
    abandoned: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Slots {
    database: Arc<Slot>,
    tables: HashMap<TableId, Arc<Slot>>,
    epochs: Epochs,
    era: Arc<Era>,
}

/// What is in flight, and the era in which it was put there, if it may be widened.
type Begun = (Vec<Arc<Slot>>, Option<Arc<Era>>);

/// Between two calls of [`Coherence::widen`]; held by all that was put in flight then, but for
/// what is of the whole database.
#[derive(Debug, Default)]
struct Era {
    /// Once it is over: the database, until all of it is settled.
    wide: OnceLock<InFlight>,
}

impl Drop for Era {
    fn drop(&mut self) {
        // Whoever wrote more than was thought has made that known before it was settled.
        self.wide.take().into_iter().for_each(InFlight::rolled_back);
    }
}

impl Coherence {
    /// `seed` must come from the system's randomness: it is what keeps entries of another process,
    /// or of an earlier life, from ever matching.
    pub fn new(seed: u64) -> Self {
        let mut epochs = Epochs(seed);
        let database = Slot::new(None, epochs.next());
        Self {
            slots: RwLock::new(Slots {
                database,
                tables: HashMap::new(),
                epochs,
                era: Arc::default(),
            }),
            tables_max: TABLES_MAX,
            abandoned: Arc::default(),
        }
    }

    /// Puts `scope` in flight; to be called before anything is sent that can commit.
    pub fn begin_write(&self, scope: &Scope) -> InFlight {
        let known = {
            let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
            slots.begin(scope)
        };
        let (slots, era) = known.unwrap_or_else(|| {
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            slots.create(scope, self.tables_max);
            // Still unknown: the map is full, so the tables have only the database's slot.
            slots.begin(scope).unwrap_or_else(|| slots.begin_database())
        });
        let abandoned = Arc::clone(&self.abandoned);
        InFlight { slots, announced: Vec::new(), abandoned, era, merged: Vec::new() }
    }

    /// What is in flight now may write more than its scope, of which its owner will know only when
    /// it is settled: until all of it is, the whole database is in flight.
    pub fn widen(&self) {
        let over = {
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut slots.era)
        };
        // Nobody else ends this one.
        let _first = over.wide.set(self.begin_write(&Scope::Database));
    }

    /// Makes every stamp of `scope` cease to hold: FLUSH CACHE, another server behind the address.
    pub fn invalidate(&self, scope: &Scope) {
        self.begin_write(scope).committed();
    }

    /// The slots of `tables` and of the database as they are now; taken before the snapshot is,
    /// that is before Bind or Query is sent. `None` while a commit is in flight on any of them.
    pub fn stamp(&self, tables: &[TableId]) -> Option<Stamp> {
        let known = {
            let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
            slots.see(tables)
        };
        let seen = known.or_else(|| {
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            slots.create(&Scope::Tables(tables.into()), self.tables_max);
            slots.renew(tables);
            slots.see(tables)
        })?;
        Stamp::of(seen)
    }

    /// The stamp that was written out as `versions`, if every slot is of the same epoch still.
    /// Whether it holds is for [`Stamp::holds`] to say, as ever.
    pub fn restore(&self, versions: &[Version]) -> Option<Stamp> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let (first, _) = versions.split_first()?;
        if first.table.is_some() {
            return None;
        }
        versions
            .iter()
            .map(|version| slots.recall(version))
            .collect::<Option<Box<[Seen]>>>()
            .map(|seen| Stamp(seen.into()))
    }

    pub fn database_slot(&self) -> Arc<Slot> {
        Arc::clone(&self.slots.read().unwrap_or_else(PoisonError::into_inner).database)
    }

    /// The slot of a table that was read or written before; for the console.
    pub fn table_slot(&self, table: TableId) -> Option<Arc<Slot>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.tables.get(&table).map(Arc::clone)
    }

    /// Guards dropped unsettled so far. Each is a bug of ours and keeps its tables bypassed.
    pub fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Relaxed)
    }
}

impl Slots {
    /// Raises all counts of `scope`, or none if a slot is missing.
    fn begin(&self, scope: &Scope) -> Option<Begun> {
        let Scope::Tables(tables) = scope else {
            return Some(self.begin_database());
        };
        let slots: Vec<_> =
            tables.iter().map(|table| self.tables.get(table)).collect::<Option<_>>()?;
        let slots = slots.into_iter().inspect(|slot| slot.begin()).map(Arc::clone).collect();
        Some((slots, Some(Arc::clone(&self.era))))
    }

    fn begin_database(&self) -> Begun {
        self.database.begin();
        (vec![Arc::clone(&self.database)], None)
    }

    /// `None` if a slot is missing or spent.
    fn see(&self, tables: &[TableId]) -> Option<Box<[Seen]>> {
        // Of the right size at once: every fill begins here.
        let mut seen = Vec::with_capacity(1 + tables.len());
        let of_tables = tables.iter().map(|table| self.tables.get(table));
        for slot in std::iter::once(Some(&self.database)).chain(of_tables) {
            let slot = slot.filter(|slot| !slot.is_spent())?;
            seen.push(Seen { word: slot.word.load(Ordering::SeqCst), slot: Arc::clone(slot) });
        }
        Some(seen.into_boxed_slice())
    }

    fn recall(&self, version: &Version) -> Option<Seen> {
        let slot = version.table.map_or(Some(&self.database), |table| self.tables.get(&table))?;
        let lived = slot.epoch == version.epoch && version.generation < GENERATION_MAX;
        lived.then(|| Seen { word: word(version.generation, 0), slot: Arc::clone(slot) })
    }

    fn create(&mut self, scope: &Scope, tables_max: usize) {
        let Scope::Tables(tables) = scope else { return };
        for &table in tables {
            if self.tables.contains_key(&table) || self.tables.len() >= tables_max {
                continue;
            }
            let epoch = self.epochs.next();
            self.tables.insert(table, Slot::new(Some(table), epoch));
        }
    }

    /// Replaces spent slots. Old stamps keep the old slot and never match it again.
    fn renew(&mut self, tables: &[TableId]) {
        if self.database.is_spent() {
            self.database = Slot::new(None, self.epochs.next());
        }
        for table in tables {
            if let Some(slot) = self.tables.get_mut(table).filter(|slot| slot.is_spent()) {
                *slot = Slot::new(Some(*table), self.epochs.next());
            }
        }
    }
}

/// `SplitMix64`: every output is a different number until all 2^64 have been given out.
#[derive(Debug)]
struct Epochs(u64);

impl Epochs {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Slots as they were before a fill, the database's first. Every entry, verdict, analysis and
/// catalogue snapshot carries one.
#[derive(Clone, Debug)]
pub struct Stamp(Covered);

/// Entries are many, and most read one table.
#[derive(Clone, Debug)]
enum Covered {
    Pair([Seen; 2]),
    Other(Box<[Seen]>),
}

impl From<Box<[Seen]>> for Covered {
    fn from(seen: Box<[Seen]>) -> Self {
        Vec::from(seen).try_into().map_or_else(|seen: Vec<_>| Self::Other(seen.into()), Self::Pair)
    }
}

#[derive(Clone, Debug)]
struct Seen {
    /// As stamped, with nothing in flight, so that one comparison answers both questions.
    word: u64,
    slot: Arc<Slot>,
}

impl Seen {
    fn holds(&self) -> bool {
        self.slot.word.load(Ordering::SeqCst) == self.word
    }
}

/// One slot of a stamp, for storage outside this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// `None` is the database.
    pub table: Option<TableId>,
    pub epoch: u64,
    pub generation: u64,
}

impl Stamp {
    fn of(seen: Box<[Seen]>) -> Option<Self> {
        let quiet = seen
            .iter()
            .all(|seen| in_flight(seen.word) == 0 && generation(seen.word) < GENERATION_MAX);
        if !quiet {
            uses::overtaken(&seen);
        }
        quiet.then(|| Self(seen.into()))
    }

    /// Whether nothing it covers has moved or is in flight: admits a fill at its end, and serves
    /// a hit. Loads only; no lock, no write.
    pub fn holds(&self) -> bool {
        self.seen().iter().all(Seen::holds)
    }

    /// What it takes of memory beside itself.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Covered::Pair(_) => 0,
            Covered::Other(seen) => size_of_val::<[Seen]>(seen),
        }
    }

    fn seen(&self) -> &[Seen] {
        match &self.0 {
            Covered::Pair(seen) => seen,
            Covered::Other(seen) => seen,
        }
    }

    /// The slots as stamped, the database's first.
    pub fn slots(&self) -> impl Iterator<Item = Version> + '_ {
        self.seen().iter().map(|seen| Version {
            table: seen.slot.table,
            epoch: seen.slot.epoch,
            generation: generation(seen.word),
        })
    }
}

/// Who was told, elsewhere, that a commit is under way.
pub trait Announced: std::fmt::Debug + Send + Sync {
    /// The outcome; called once, or never where the guard is abandoned.
    fn settled(&self, committed: bool);
}

/// Guard of a commit that may or may not have happened yet.
///
/// To be settled by [`rolled_back`](Self::rolled_back) only where the rollback is proven, by
/// [`committed`](Self::committed) otherwise, and only then may the client be told. A guard whose
/// server is lost is kept until that backend is known to be gone, then settled as committed.
///
/// Dropping it unsettled leaves its slots in flight on purpose: an outcome nobody knows must not
/// be taken for one. That is slow and never wrong; it is counted in [`Coherence::abandoned`],
/// which tests require to be 0, and logged as an error. It does not panic, since a runtime that
/// shuts down drops guards too.
#[derive(Debug)]
#[must_use = "a guard dropped unsettled keeps its tables out of the cache"]
pub struct InFlight {
    slots: Vec<Arc<Slot>>,
    announced: Vec<Box<dyn Announced>>,
    abandoned: Arc<AtomicU64>,
    /// In which a part of the database was put in flight; left when that is settled.
    era: Option<Arc<Era>>,
    merged: Vec<Arc<Era>>,
}

impl InFlight {
    /// Proven: nothing changed. Entries that were valid before are valid again.
    pub fn rolled_back(mut self) {
        for slot in self.slots.drain(..) {
            slot.roll_back();
        }
        self.announced.drain(..).for_each(|announced| announced.settled(false));
    }

    /// Committed, or not proven otherwise.
    pub fn committed(mut self) {
        for slot in self.slots.drain(..) {
            slot.commit();
        }
        self.announced.drain(..).for_each(|announced| announced.settled(true));
    }

    /// Has somebody else hear of the outcome, once it counts here.
    pub fn announce(&mut self, announced: Box<dyn Announced>) {
        self.announced.push(announced);
    }

    /// Takes over what `other` guards; both settle as one. A slot in both is counted twice on the
    /// way up and twice on the way down.
    pub fn merge(&mut self, mut other: Self) {
        self.slots.append(&mut other.slots);
        self.merged.extend(other.era.take());
        self.merged.append(&mut other.merged);
        self.announced.append(&mut other.announced);
    }

    /// The tables it holds, `None` for the database; for the log and the console.
    pub fn tables(&self) -> impl Iterator<Item = Option<TableId>> + '_ {
        self.slots.iter().map(|slot| slot.table)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.slots.is_empty() {
            return;
        }
        // It may have written more than it was thought to.
        std::mem::forget((self.era.take(), std::mem::take(&mut self.merged)));
        self.abandoned.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            tables = self.slots.len(),
            "guard of a commit dropped unsettled, its tables stay out of the cache"
        );
    }
}

#[cfg(test)]
mod tests;
