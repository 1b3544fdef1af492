//! What is worth asking again once all is forgotten: who asked what, and how much of PostgreSQL's
//! time hits on it have saved. Looked for among the entries in memory now and then; hits and
//! look-ups know nothing of it.
//!
//! Says nothing about what is true: who asks again does so as any client, and is answered as one.

pub mod list;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lru::LruCache;
use xxhash_rust::xxh3::Xxh3;

use crate::metrics::WarmUpCounters;

use super::entry::Entry;
use super::key::{self, SessionKey};

/// Kinds of sessions that are remembered; what one more has asked is not asked again.
const ASKERS_MAX: NonZero<usize> = NonZero::new(4096).unwrap();

/// Of one of them, with its settings.
const ASKER_BYTES_MAX: usize = 4 * 1024;

/// A longer statement, with its parameters, is not remembered.
const STATEMENT_BYTES_MAX: usize = 16 * 1024;

/// What an answer that came from Redis is taken to have cost, where nobody has seen it asked.
const TOOK_US: u64 = 1000;

/// Each time it fades, what was saved counts for a sixteenth less: half after eleven.
const FADING: u64 = 16;

/// As whom a statement was asked, as far as that can change an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Whom its servers log in as.
    pub user: String,
    /// Name to SQL that may follow `SET name TO`.
    pub settings: BTreeMap<String, String>,
}

impl Asker {
    /// `None` if it is over the bound.
    pub fn new<'a>(user: &str, settings: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let mut len = user.len();
        let mut of = BTreeMap::new();
        for (name, value) in settings {
            len += name.len() + value.len();
            of.insert(name.to_owned(), value.to_owned());
        }
        (len <= ASKER_BYTES_MAX).then(|| Self { user: user.to_owned(), settings: of })
    }
}

/// A statement that can be asked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    pub asker: Arc<Asker>,
    /// All of it that stands in the key of its answer.
    pub statement: Arc<[u8]>,
    /// Microseconds that its hits have saved, less what has faded.
    pub saved: u64,
    /// What PostgreSQL took for it, in microseconds.
    pub took: u64,
}

impl Recipe {
    fn id(&self) -> u128 {
        id(&self.asker, &self.statement)
    }
}

fn id(asker: &Asker, statement: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    let pairs = asker.settings.iter().flat_map(|(name, value)| [name, value]);
    for text in std::iter::once(&asker.user).chain(pairs) {
        hash.update(&(text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.update(statement);
    hash.digest128()
}

#[derive(Debug)]
struct Known {
    recipe: Recipe,
    /// Hits that are in `saved` already, of the answer that was asked then.
    counted: Option<(Instant, u64)>,
}

/// By what tells them apart.
type Known128 = HashMap<u128, Known>;

/// What all databases of this process would have asked again.
#[derive(Debug)]
pub struct WarmUps {
    on: AtomicBool,
    /// Of one database.
    recipes_max: AtomicUsize,
    /// By database, base and settings. Nothing else is locked inside.
    askers: Mutex<LruCache<(u64, u64, u64), Arc<Asker>>>,
    /// By database. Inside, `askers` and parts of the memory may be locked.
    recipes: Mutex<HashMap<u64, Known128>>,
    /// By database: what the list of the group held when it was last read or written here, with
    /// what each had saved. Nothing else is locked inside.
    listed: Mutex<HashMap<u64, HashMap<u128, u64>>>,
    pub counters: WarmUpCounters,
}

impl Default for WarmUps {
    fn default() -> Self {
        Self {
            on: AtomicBool::new(false),
            recipes_max: AtomicUsize::new(0),
            askers: Mutex::new(LruCache::new(ASKERS_MAX)),
            recipes: Mutex::default(),
            listed: Mutex::default(),
            counters: WarmUpCounters::default(),
        }
    }
}

impl WarmUps {
    /// Whether that has turned it on. Turned off it forgets all.
    pub fn set(&self, on: bool, recipes_max: u32) -> bool {
        let recipes_max = usize::try_from(recipes_max).unwrap_or(usize::MAX);
        self.recipes_max.store(recipes_max, Ordering::Relaxed);
        let was_on = self.on.swap(on, Ordering::Relaxed);
        if !on {
            self.recipes().clear();
            self.listed().clear();
            self.askers().clear();
        }
        on && !was_on
    }

    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// A session of these numbers is going to look up.
    pub fn learn(&self, session: &SessionKey, asker: impl FnOnce() -> Option<Asker>) {
        if !self.is_on() {
            return;
        }
        let numbers = (session.database, session.base, session.settings);
        let mut askers = self.askers();
        if askers.get(&numbers).is_none()
            && let Some(asker) = asker()
        {
            askers.put(numbers, Arc::new(asker));
        }
    }

    /// Begins to look at entries.
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            recipes_max: self.recipes_max.load(Ordering::Relaxed),
            recipes: self.recipes(),
            warm_ups: self,
        }
    }

    /// Called now and then: what is long past counts for less. Of databases that are no more all
    /// is forgotten. `since`: as of the walks from now on.
    pub fn fade(&self, databases: &HashSet<u64>, since: Option<Instant>) {
        self.listed().retain(|database, _| databases.contains(database));
        let mut recipes = self.recipes();
        recipes.retain(|database, _| databases.contains(database));
        for known in recipes.values_mut() {
            known.retain(|_, known| {
                known.recipe.saved -= known.recipe.saved.div_ceil(FADING);
                let may_be_met = known.counted.is_some_and(|(asked_at, _)| Some(asked_at) >= since);
                known.recipe.saved > 0 || may_be_met
            });
        }
    }

    /// The list of the group holds this: what is new there, or has grown since it was last read or
    /// written here, counts as much as there or here, whichever is more. The rest was known here
    /// then, and has faded or been forgotten since: it would come back for ever.
    pub fn merge(&self, database: u64, list: Vec<Recipe>) {
        let before = self.note_list(database, &list);
        let mut walk = self.walk();
        for recipe in list {
            let id = recipe.id();
            if before.get(&id).is_some_and(|saved| recipe.saved <= *saved) {
                continue;
            }
            let known = walk.recipes.entry(database).or_default();
            let here =
                known.entry(id).or_insert_with(|| Known { recipe: recipe.clone(), counted: None });
            here.recipe.saved = here.recipe.saved.max(recipe.saved);
        }
    }

    /// The list of the group holds this. Gives what it held before.
    pub fn note_list(&self, database: u64, list: &[Recipe]) -> HashMap<u128, u64> {
        let saved = list.iter().map(|recipe| (recipe.id(), recipe.saved)).collect();
        self.listed().insert(database, saved).unwrap_or_default()
    }

    /// What has saved most first.
    pub fn hottest(&self, database: u64) -> Vec<Recipe> {
        let recipes = self.recipes();
        let known = recipes.get(&database).into_iter().flat_map(HashMap::values);
        let known = known.filter(|known| known.recipe.saved > 0);
        let mut hottest: Vec<Recipe> = known.map(|known| known.recipe.clone()).collect();
        hottest.sort_by_key(|recipe| std::cmp::Reverse(recipe.saved));
        hottest
    }

    /// It is not to be asked again, unless it saves something anew.
    pub fn forget(&self, database: u64, recipe: &Recipe) {
        let mut recipes = self.recipes();
        if let Some(known) = recipes.get_mut(&database).and_then(|of| of.get_mut(&recipe.id())) {
            // What is counted stays so: its entry may lie in memory for long.
            known.recipe.saved = 0;
        }
    }

    fn askers(&self) -> MutexGuard<'_, LruCache<(u64, u64, u64), Arc<Asker>>> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recipes(&self) -> MutexGuard<'_, HashMap<u64, Known128>> {
        self.recipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listed(&self) -> MutexGuard<'_, HashMap<u64, HashMap<u128, u64>>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look at all entries; over when dropped.
pub struct Walk<'a> {
    warm_ups: &'a WarmUps,
    recipes: MutexGuard<'a, HashMap<u64, Known128>>,
    recipes_max: usize,
}

impl Walk<'_> {
    /// What this one has saved since it was last looked at.
    pub fn note(&mut self, entry: &Entry) {
        let hits = entry.hits.value();
        let Some((session, statement)) = key::split(entry.key()).filter(|_| hits > 0) else {
            return;
        };
        let numbers = (session.database, session.base, session.settings);
        let asker = self.warm_ups.askers().peek(&numbers).map(Arc::clone);
        let Some(asker) = asker.filter(|_| statement.len() <= STATEMENT_BYTES_MAX) else { return };
        let known = self.recipes.entry(session.database).or_default();
        let known = known.entry(id(&asker, statement)).or_insert_with(|| Known {
            recipe: Recipe { asker, statement: statement.into(), saved: 0, took: TOOK_US },
            counted: None,
        });
        if let Some(took) = entry.statement.as_ref().and_then(|statement| statement.took()) {
            known.recipe.took = took;
        }
        let counted = known.counted.filter(|(asked_at, _)| *asked_at == entry.asked_at);
        let new = hits.saturating_sub(counted.map_or(0, |(_, hits)| hits));
        known.counted = Some((entry.asked_at, hits));
        known.recipe.saved =
            known.recipe.saved.saturating_add(new.saturating_mul(known.recipe.took));
        // Twice as many, so that this is seldom.
        if self.recipes.get(&session.database).map_or(0, HashMap::len) > 2 * self.recipes_max {
            self.keep_best();
        }
    }

    fn keep_best(&mut self) {
        for known in self.recipes.values_mut().filter(|known| known.len() > self.recipes_max) {
            let mut saved: Vec<(u64, u128)> =
                known.iter().map(|(id, known)| (known.recipe.saved, *id)).collect();
            saved.sort_unstable_by(|left, right| right.cmp(left));
            for (_, id) in saved.split_off(self.recipes_max) {
                known.remove(&id);
            }
        }
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.keep_best();
    }
}

#[cfg(test)]
mod tests;
