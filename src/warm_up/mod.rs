//! Asks again, at a bounded rate and as the clients that asked, what was of most use before the
//! answers of a whole database were forgotten: whoever made them so was here, elsewhere in the
//! group, or at the console. In a group with a secret also what others remember, at a start.
//!
//! Invariant: nothing is answered here, kept or served. Each question is put by a client of this
//! process's own (`client.rs`), as which the usual rules hold. Attacked by the suite: `warm_up`.

mod client;
mod list;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use crate::cache::coherence::{Coherence, Stamp};
use crate::cache::warm::Recipe;
use crate::cache::{Cache, Mode};
use crate::gateway::{Gateway, Opened};
use crate::pool::database::Database;
use crate::stop;

use client::Outcome;
pub use list::remember;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Nothing of the kind may happen for so long before a warm-up begins: migrations come in many
/// statements.
const QUIET: Duration = Duration::from_millis(500);

/// How often entries are looked through for what is worth remembering.
const NOTE_PERIOD: Duration = Duration::from_mins(1);

/// How long who may not ask now waits.
const BACK_OFF: Duration = Duration::from_millis(100);

/// After a question that was lost on its way.
const LOST_PAUSE: Duration = Duration::from_secs(1);

/// How often something is asked whose answer is not kept: what PostgreSQL has to be asked about is so
/// after the second time.
const ASKED_MAX: u8 = 3;

/// How long a Redis that does not answer is waited for, which has what others remember.
const LIST_PATIENCE: Duration = Duration::from_secs(5);

/// Ends with its owner.
struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is known of one database.
#[derive(Default)]
struct Watch {
    /// Holds for as long as nothing has made the whole database untrue.
    stamp: Option<Stamp>,
    /// There was none to be had at the last look.
    is_in_flight: bool,
    /// Users whom it can be asked for.
    pools: usize,
    /// Since when that is so.
    since: Option<Instant>,
    /// What others remember has been heard.
    is_told: bool,
    running: Option<Running>,
}

impl Watch {
    /// Whether what was kept may have become untrue since the last look: it is in memory still, with
    /// its hits. Not again while the database is in flight, for then nothing is kept; but once more
    /// when it is so no longer, for much can be kept, hit and forgotten between two looks.
    fn look(&mut self, coherence: &Coherence, pools: usize, now: Instant) -> bool {
        let holds = self.stamp.as_ref().is_some_and(Stamp::holds);
        if holds && self.pools == pools {
            return false;
        }
        self.stamp = coherence.stamp(&[]);
        let was_in_flight = std::mem::replace(&mut self.is_in_flight, self.stamp.is_none());
        let is_noted = holds || (was_in_flight && self.is_in_flight);
        self.pools = pools;
        self.since = Some(now);
        self.running = None;
        !is_noted
    }
}

/// For as long as the process lives.
pub async fn keep_warm(gateway: Arc<Gateway>) {
    let mut watches = HashMap::new();
    let mut noted_at = Instant::now();
    let mut ticks = interval(LOOK);
    // After a long look through a large cache there is nothing to make up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_opened = false;
    loop {
        ticks.tick().await;
        if !is_on(&gateway) {
            watches.clear();
            continue;
        }
        if list::is_kept(&gateway) && !std::mem::replace(&mut is_opened, true) {
            gateway.open_known();
        }
        let now = Instant::now();
        if now.saturating_duration_since(noted_at) >= NOTE_PERIOD {
            let databases = gateway.databases().into_iter().map(|(database, _)| database.id);
            let databases: HashSet<u64> = databases.collect();
            watches.retain(|id, _| databases.contains(id));
            let since = lately(&gateway.cache, now);
            gateway.cache.warm_ups.fade(&databases, since);
            note(&gateway.cache, since).await;
            list::write(&gateway).await;
            noted_at = now;
        }
        look(&gateway, &mut watches, now).await;
    }
}

fn is_on(gateway: &Gateway) -> bool {
    gateway.cache.warm_ups.is_on()
        && matches!(gateway.cache.mode(), Mode::On | Mode::Verify)
        && !stop::has_begun(gateway)
}

/// What was asked before is nobody's answer by now, and has not been for a while.
fn lately(cache: &Cache, now: Instant) -> Option<Instant> {
    now.checked_sub(2 * cache.limits().max_age)
}

/// Off the threads that serve clients: there may be a million entries.
async fn note(cache: &Arc<Cache>, since: Option<Instant>) {
    let cache = Arc::clone(cache);
    // Fails only if it panics, and then nothing more is remembered.
    let _noted = tokio::task::spawn_blocking(move || cache.note_hot(since)).await;
}

async fn look(gateway: &Arc<Gateway>, watches: &mut HashMap<u64, Watch>, now: Instant) {
    let mut is_noted = false;
    for (database, _) in gateway.databases() {
        let watch = watches.entry(database.id).or_default();
        let pools = gateway.pools_over(&database).len();
        let is_forgotten = watch.look(&database.home().coherence, pools, now);
        if is_forgotten && !std::mem::replace(&mut is_noted, true) {
            note(&gateway.cache, lately(&gateway.cache, now)).await;
        }
        let is_quiet = watch.stamp.is_some()
            && watch.since.is_some_and(|since| now.saturating_duration_since(since) >= QUIET);
        if is_quiet && can_fill(&database) {
            if !watch.is_told && list::is_kept(gateway) {
                watch.is_told = list::read(gateway, &database).await;
                let waited = watch.since.map(|since| now.saturating_duration_since(since));
                if !watch.is_told && waited < Some(QUIET + LIST_PATIENCE) {
                    continue;
                }
            }
            watch.since = None;
            let recipes = gateway.cache.warm_ups.hottest(database.id);
            if !recipes.is_empty() {
                watch.running = Some(begin(gateway, database, recipes));
            }
        }
    }
}

/// Whether answers could be kept now.
fn can_fill(database: &Database) -> bool {
    let home = database.home();
    database.has_catalog()
        && !database.is_down()
        && home.group.as_ref().is_none_or(|group| group.is_open())
}

fn begin(gateway: &Arc<Gateway>, database: Arc<Database>, recipes: Vec<Recipe>) -> Running {
    tracing::info!(database = %database.name, statements = recipes.len(), "warm-up begins");
    gateway.cache.warm_ups.counters.begun.one();
    let gateway = Arc::clone(gateway);
    Running(tokio::spawn(async move {
        let began = Instant::now();
        warm(&gateway, &database, recipes).await;
        let took_ms = began.elapsed().as_millis();
        tracing::info!(database = %database.name, took_ms, "warm-up over");
    }))
}

/// Asks one after the other.
async fn warm(gateway: &Arc<Gateway>, database: &Database, recipes: Vec<Recipe>) {
    let warm_ups = &gateway.cache.warm_ups;
    let mut due: VecDeque<(Recipe, u8)> = recipes.into_iter().map(|recipe| (recipe, 1)).collect();
    let mut next = tokio::time::Instant::now();
    while let Some((recipe, asked)) = due.pop_front() {
        let user = &recipe.asker.user;
        let pools = gateway.pools_over(database);
        // Whose clients have not come again is asked for when they have.
        let Some(opened) = pools.into_iter().find(|opened| opened.pool.common.user == *user) else {
            continue;
        };
        if client::is_kept(&opened, &recipe) {
            continue;
        }
        sleep_until(next).await;
        let Some(pace) = wait_for_room(gateway, &opened).await else { return };
        next = tokio::time::Instant::now() + pace;
        match client::ask(gateway, &opened, &recipe).await {
            Outcome::Kept => warm_ups.counters.warmed.one(),
            Outcome::NotKept if asked < ASKED_MAX => due.push_back((recipe, asked + 1)),
            Outcome::NotKept => warm_ups.forget(database.id, &recipe),
            Outcome::Refused => {
                warm_ups.counters.failed.one();
                warm_ups.forget(database.id, &recipe);
            }
            Outcome::Lost => {
                warm_ups.counters.failed.one();
                sleep(LOST_PAUSE).await;
            }
        }
    }
}

/// Resolves when a question would keep no client waiting, with how long it is until the next;
/// `None`: there is to be none.
async fn wait_for_room(gateway: &Gateway, opened: &Opened) -> Option<Duration> {
    loop {
        let rate = gateway.config().cache.warm_up;
        if rate == 0 || !is_on(gateway) {
            return None;
        }
        let counts = opened.pool.counts(Instant::now());
        // One more server is connected only where there is none at all.
        let is_free = counts.idle > 0 || counts.active + counts.connecting == 0;
        if counts.waiting == 0
            && is_free
            && !opened.service.is_paused()
            && can_fill(&opened.pool.common.database)
        {
            return Some(Duration::from_secs(1) / rate);
        }
        sleep(BACK_OFF).await;
    }
}

#[cfg(test)]
mod tests {
    use crate::cache::coherence::Scope;

    use super::*;

    #[test]
    fn entries_are_looked_through_when_a_flight_begins_and_when_it_is_over() {
        let (coherence, now) = (Coherence::new(7), Instant::now());
        let mut watch = Watch::default();
        let mut look = || watch.look(&coherence, 1, now);
        assert_eq!([look(), look()], [true, false]);
        let write = coherence.begin_write(&Scope::Database);
        assert_eq!([look(), look(), look()], [true, false, false]);
        write.committed();
        assert_eq!([look(), look()], [true, false]);
        coherence.invalidate(&Scope::Database);
        assert_eq!([look(), look()], [true, false]);
    }
}
