//! What may be remembered, and until when it is true: look up, fill, flush.
//!
//! Knows no protocol state and no client. Versions are compared in `coherence` alone.

pub mod worth;
pub mod coherence;
pub mod group;
pub mod asking;
pub mod home;
pub mod roles;
pub mod key;
pub mod digests;
pub mod entry;
pub mod turns;
pub mod verify;
pub mod fill;
pub mod memory;
pub mod warm;
pub mod sealed;
pub mod breaker;
pub mod stored;
pub mod redis;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::config::OpaqueWrites;
use crate::metrics::AnalysisCounters;

use entry::Entry;
use fill::Fill;
use group::shared::Group;
use key::KeyBuffer;
use memory::{Live, Memory};
use redis::Redis;
use roles::Roles;
use turns::{Turn, Turns};
use verify::Verifier;
use warm::WarmUps;

/// Whether answers are kept and served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Off = 0,
    On = 1,
    /// Everything but serving: what would have been a hit is counted, and goes to PostgreSQL.
    DryRun = 2,
    /// The same, and PostgreSQL's answer is compared with what would have been served.
    Verify = 3,
}

impl Mode {
    /// Whether look-ups are made as if they were to be served.
    pub fn is_on(self) -> bool {
        matches!(self, Self::On | Self::Verify)
    }
}

/// The bounds of the cache; all settings of the `[cache]` section.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub size_bytes: u64,
    pub entry_bytes_max: usize,
    pub max_age: Duration,
    /// Whether PostgreSQL is asked what opaque statements wrote, and how long its answers may
    /// take.
    pub opaque_writes: OpaqueWrites,
    pub ask_median_max: Duration,
    /// Hits of a hundred answers below which a table that is written is cut off; 0: never.
    pub cut_off: u32,
}

/// How old an answer may be.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    pub now: Instant,
    /// Where it is less than `max_age` in general.
    pub max: Option<Duration>,
}

/// The tiers with their limits; shared by every client.
pub struct Cache {
    memory: Memory,
    turns: Arc<Turns>,
    pub roles: Roles,
    /// Asked for what memory has lost.
    pub redis: Option<Arc<Redis>>,
    /// This process answers as one of several.
    pub in_group: bool,
    /// `Mode` as a number; a reload changes it and the two limits below.
    mode: AtomicU8,
    entry_bytes_max: AtomicUsize,
    max_age_us: AtomicU64,
    opaque_writes: AtomicU8,
    ask_median_max_us: AtomicU64,
    cut_off: AtomicU32,
    size_bytes: u64,
    pub analysis: Analyses,
    pub verifier: Arc<Verifier>,
    pub warm_ups: WarmUps,
}

/// Whether PostgreSQL is asked what names alone do not decide, and what came of it.
#[derive(Debug, Default)]
pub struct Analyses {
    auto: AtomicBool,
    pub counters: AnalysisCounters,
}

impl Analyses {
    pub fn set_auto(&self, auto: bool) {
        self.auto.store(auto, Ordering::Relaxed);
    }

    pub fn is_auto(&self) -> bool {
        self.auto.load(Ordering::Relaxed)
    }
}

impl Cache {
    pub fn new(mode: Mode, limits: Limits, seed: u64) -> Self {
        let cache = Self {
            memory: Memory::new(limits.size_bytes, limits.entry_bytes_max, seed),
            turns: Arc::default(),
            roles: Roles::default(),
            redis: None,
            in_group: false,
            mode: AtomicU8::new(0),
            entry_bytes_max: AtomicUsize::new(0),
            max_age_us: AtomicU64::new(0),
            opaque_writes: AtomicU8::new(0),
            ask_median_max_us: AtomicU64::new(0),
            cut_off: AtomicU32::new(0),
            size_bytes: limits.size_bytes,
            analysis: Analyses::default(),
            verifier: Arc::default(),
            warm_ups: WarmUps::default(),
        };
        cache.set(mode, limits);
        cache
    }

    /// Takes effect with the next look-up or fill. The size stays, and with it how long an entry may
    /// be that memory has room for.
    pub fn set(&self, mode: Mode, limits: Limits) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.max_age_us.store(micros(limits.max_age), Ordering::Relaxed);
        self.ask_median_max_us.store(micros(limits.ask_median_max), Ordering::Relaxed);
        self.opaque_writes.store(limits.opaque_writes as u8, Ordering::Relaxed);
        self.entry_bytes_max.store(limits.entry_bytes_max, Ordering::Relaxed);
        self.cut_off.store(limits.cut_off, Ordering::Relaxed);
        if let Some(redis) = &self.redis {
            redis.limit(limits.entry_bytes_max, limits.max_age);
        }
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            1 => Mode::On,
            2 => Mode::DryRun,
            3 => Mode::Verify,
            _ => Mode::Off,
        }
    }

    pub fn limits(&self) -> Limits {
        Limits {
            size_bytes: self.size_bytes,
            entry_bytes_max: self.entry_bytes_max.load(Ordering::Relaxed),
            max_age: Duration::from_micros(self.max_age_us.load(Ordering::Relaxed)),
            opaque_writes: self.opaque_writes(),
            ask_median_max: Duration::from_micros(self.ask_median_max_us.load(Ordering::Relaxed)),
            cut_off: self.cut_off(),
        }
    }

    /// Whether memory has room for the longest answers there may be.
    pub fn has_room(&self) -> bool {
        self.memory.fits_rows(self.limits().entry_bytes_max)
    }

    pub fn opaque_writes(&self) -> OpaqueWrites {
        match self.opaque_writes.load(Ordering::Relaxed) {
            1 => OpaqueWrites::Database,
            2 => OpaqueWrites::Audit,
            _ => OpaqueWrites::Ask,
        }
    }

    pub fn cut_off(&self) -> u32 {
        self.cut_off.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn in_group(self, in_group: bool) -> Self {
        Self { in_group, ..self }
    }

    #[must_use]
    pub fn with_redis(self, redis: Option<Arc<Redis>>) -> Self {
        Self { redis, ..self }
    }

    /// The entry of this very key, if it is true and young enough.
    pub fn look_up(&self, key: &KeyBuffer, age: Age) -> Option<Arc<Entry>> {
        self.memory.get(key).filter(|entry| self.is_true(entry, age))
    }

    /// Whether the entry is true, and young enough for this.
    pub fn is_true(&self, entry: &Entry, age: Age) -> bool {
        let general = self.limits().max_age;
        let max = age.max.map_or(general, |own| own.min(general));
        age.now.saturating_duration_since(entry.asked_at) < max && entry.stamp.holds()
    }

    /// Whether Redis should be asked for what memory did not have. It has nothing better than an
    /// untrue entry that is in memory still, unless others store there too.
    pub fn may_be_in_redis(&self, key: &KeyBuffer) -> bool {
        let Some(redis) = &self.redis else { return false };
        let known_untrue = !redis.is_shared() && self.memory.has(key);
        self.mode().is_on() && !known_untrue && redis.should_ask(key)
    }

    /// Who is to fill this key that was not found. `waits`: whether the caller would wait for
    /// another.
    pub fn take_turn(&self, key: &KeyBuffer, waits: bool) -> Turn {
        match self.mode() {
            Mode::On | Mode::Verify => self.turns.take(key.hash(), waits),
            Mode::Off | Mode::DryRun => Turn::Alone,
        }
    }

    /// Keeps an entry that came from Redis.
    pub fn promote(&self, entry: &Arc<Entry>) {
        self.memory.insert(Arc::clone(entry));
    }

    /// Stores a finished fill unless something it read has moved since its stamp was taken, or it
    /// fits nowhere. Tells whether it was admitted. `group`: of the database it is of.
    pub fn store(&self, mut fill: Fill, group: Option<&Arc<Group>>) -> Option<Arc<Entry>> {
        let leader = fill.take_leader();
        let statement = fill.take_statement();
        let took = fill.took();
        let mut entry = fill.into_entry()?;
        // Invariant: an entry is stored only if its stamp still holds. Attacked by the
        // simulation's twin that stores unchecked.
        if !entry.stamp.holds() {
            entry.stamp.ended(0);
            return None;
        }
        // Only now, since it goes: what comes too late leaves it there, to be judged by the next.
        self.memory.judge_before(&entry);
        let redis = self.redis.as_ref().filter(|_| self.mode().is_on());
        let fits = self.memory.fits(&entry);
        if !fits && !redis.is_some_and(|redis| redis.is_up()) {
            self.memory.insert(Arc::new(entry));
            return None;
        }
        entry.stamp.filled();
        entry.statement = statement.inspect(|statement| {
            statement.kept.one();
            statement.took.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        });
        let entry = Arc::new(entry);
        self.memory.insert(Arc::clone(&entry));
        let is_offered = redis.is_some_and(|redis| redis.offer(&entry, group));
        // Whoever waits for what is kept nowhere does so in vain, each time.
        if (fits || is_offered)
            && let Some(leader) = leader
        {
            leader.stored();
        }
        Some(entry)
    }

    /// Forgets every entry. Fills under way are refused by the databases' slots, which the caller
    /// moves as well.
    pub fn clear(&self) {
        self.note_hot(None);
        self.memory.clear();
    }

    /// Remembers what is worth asking again, of what was asked since then. Looks at every entry,
    /// if it is to be remembered at all.
    pub fn note_hot(&self, since: Option<Instant>) {
        if self.warm_ups.is_on() {
            let mut walk = self.warm_ups.walk();
            self.memory.each(|entry| {
                if since.is_none_or(|since| entry.asked_at >= since) {
                    walk.note(entry);
                }
            });
        }
    }

    /// Whether it is in memory and true; not a use.
    pub fn is_kept(&self, key: &KeyBuffer, now: Instant) -> bool {
        self.memory.peek(key).is_some_and(|entry| self.is_true(&entry, Age { now, max: None }))
    }

    /// Seed of the hashes in this process.
    pub fn seed(&self) -> u64 {
        self.memory.seed
    }

    /// What the second tier is doing, for people.
    pub fn redis_state(&self) -> &'static str {
        self.redis.as_ref().map_or("off", |redis| redis.state())
    }

    /// What is in memory over each slot, by its epoch. Looks at every entry.
    pub fn live(&self) -> HashMap<u64, Live> {
        self.memory.live()
    }

    pub fn entries(&self) -> usize {
        self.memory.entries()
    }

    pub fn evictions(&self) -> u64 {
        self.memory.evictions()
    }

    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::coherence::{Coherence, Scope};
    use crate::cache::key::{SessionKey, StatementKey};
    use crate::sql::verdict::TableId;

    const A: TableId = TableId(16_384);

    #[test]
    fn hits_of_what_a_write_has_ended_count_once_however_many_fills_come_too_late() {
        let limits = Limits {
            size_bytes: 1 << 20,
            entry_bytes_max: 1000,
            max_age: Duration::from_mins(1),
            opaque_writes: OpaqueWrites::Ask,
            ask_median_max: Duration::ZERO,
            cut_off: 5,
        };
        let (cache, coherence) = (Cache::new(Mode::On, limits, 1), Coherence::new(1));
        let now = Instant::now();
        let mut key = KeyBuffer::default();
        let none: &[u8] = &[];
        let [types, formats, values, result_formats] = [none; 4];
        let text = b"SELECT";
        let statement = StatementKey { text, types, formats, values, result_formats };
        assert!(key.set(SessionKey::default(), &statement, cache.seed()));
        let begin = || {
            let mut fill = Fill::begin(&key, coherence.stamp(&[A]).unwrap(), now, 1000);
            fill.complete(b"C\0\0\0\x0dSELECT 0\0");
            fill
        };
        let write = || coherence.begin_write(&Scope::Tables([A].into())).committed();
        let entry = cache.store(begin(), None).unwrap();
        (0..10).for_each(|_| entry.hits.one());
        write();
        for _ in 0..99 {
            let late = begin();
            write();
            assert!(cache.store(late, None).is_none());
            assert!(coherence.is_worth_keeping(&[A], 11, now));
        }
        // Ten hits of a hundred answers.
        assert!(cache.store(begin(), None).is_some());
        assert!(!coherence.is_worth_keeping(&[A], 11, now));
        assert_eq!(coherence.cut_off(&[A]).map(|cut| (cut.ended, cut.hits)), Some((100, 10)));
    }
}
