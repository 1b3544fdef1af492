//! The handle clients await: connects servers, tests them, hands them on.

mod acquire;
mod claim;
mod connect;
mod hold;
mod line;
mod upkeep;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use crate::server::base::defaults_changes;
use crate::server::io::{Connection, Target};
use crate::server::start::Start;

use super::Common;
use super::failure::Failure;
use super::rules::{Retirement, Rules};
use super::starts::Starts;
use super::state::{Connecting, Released, State};
pub use acquire::{AcquireError, Next};
pub use claim::{Claim, Quotas, limit};
pub use connect::server_login_failed;
pub use line::Line;
use line::{Waiter, hand};

/// The servers of one database and user.
pub struct Pool {
    pub common: Arc<Common>,
    pub target: Arc<Target>,
    /// What clients call the database.
    pub name: String,
    plain: Start,
    me: Weak<Self>,
    /// Guards what a reload replaces; held only to clone or replace the `Arc`.
    rules: RwLock<Arc<Rules>>,
    /// Of the rules, those that every use of a server needs. Microseconds.
    lifetime: AtomicU64,
    check_delay: AtomicU64,
    /// Guards who has which server; the locks of `quotas` may be taken inside, one at a time.
    state: Mutex<State<Idle, Waiter>>,
    quotas: Arc<Quotas>,
    /// Servers with a smaller id are closed once free: their defaults are out of date.
    retired: AtomicU64,
    /// Guards what new servers are compared with for that; nothing else is locked inside.
    starts: Mutex<Starts>,
    /// Guards the last failure to connect, until one succeeds; nothing else is locked inside.
    failure: Mutex<Option<Failure>>,
    /// Servers being connected.
    connecting: AtomicUsize,
    clients: AtomicUsize,
    /// When it had a client or a server last; nothing else is locked inside.
    used_at: Mutex<Instant>,
}

/// A server that nobody has.
pub struct Idle {
    pub connection: Box<Connection>,
    claim: Claim,
}

/// Counts for `SHOW POOLS`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolCounts {
    pub active: usize,
    pub idle: usize,
    pub connecting: usize,
    pub waiting: usize,
    pub max_wait: Duration,
}

/// A server lent to a client. Dropped without `release`, it is closed.
pub struct Lease {
    pub connection: Box<Connection>,
    place: Place,
}

/// A place in the pool's count; freed when dropped.
struct Place {
    pool: Arc<Pool>,
    claim: Option<Claim>,
}

/// A client of the pool, counted until dropped.
pub struct Guest(Arc<Pool>);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            drop(claim);
            self.pool.change(|state, claim| ((), state.closed(claim, hand)));
        }
    }
}

impl Pool {
    pub fn new(
        common: Arc<Common>,
        target: Target,
        name: String,
        rules: Rules,
        quotas: Quotas,
    ) -> Arc<Self> {
        let pool = Arc::new_cyclic(|me| Self {
            common,
            target: Arc::new(target),
            name,
            plain: Start::plain(),
            me: Weak::clone(me),
            lifetime: AtomicU64::new(0),
            check_delay: AtomicU64::new(u64::MAX),
            state: Mutex::new(State::new(rules.sizes)),
            rules: RwLock::new(Arc::new(rules.clone())),
            quotas: Arc::new(quotas),
            retired: AtomicU64::new(0),
            starts: Mutex::default(),
            failure: Mutex::default(),
            connecting: AtomicUsize::new(0),
            clients: AtomicUsize::new(0),
            used_at: Mutex::new(Instant::now()),
        });
        pool.quotas.database.join(&pool.me);
        pool.quotas.user.join(&pool.me);
        pool.set(rules);
        pool
    }

    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Other rules, from now on.
    pub fn set(&self, rules: Rules) {
        self.lifetime.store(micros(rules.lifetime), Ordering::Relaxed);
        let check_delay = rules.check.as_ref().map_or(u64::MAX, |(delay, _)| micros(*delay));
        self.check_delay.store(check_delay, Ordering::Relaxed);
        let sizes = rules.sizes;
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.change(|state, claim| ((), state.resize(sizes, claim, hand)));
    }

    /// A client more, until what this gives is dropped.
    pub fn enter(self: &Arc<Self>) -> Guest {
        self.clients.fetch_add(1, Ordering::Relaxed);
        Guest(Arc::clone(self))
    }

    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets clients connect again when the last failure is long enough ago, and says if it did.
    fn resume_if_due(&self, now: Instant) -> bool {
        if !matches!(self.state().connecting(), Connecting::Unreachable | Connecting::Refused) {
            return false;
        }
        let retry = self.rules().login_retry;
        let due =
            self.failure().is_none_or(|failure| now.saturating_duration_since(failure.at) >= retry);
        if due {
            self.change(|state, claim| ((), state.resume(claim, hand)));
        }
        due
    }

    fn place(self: &Arc<Self>, claim: Claim) -> Place {
        Place { pool: Arc::clone(self), claim: Some(claim) }
    }

    /// Why this server, which is free, is not to be used again.
    fn is_due(&self, connection: &mut Connection, now: Instant) -> Option<Retirement> {
        self.is_over(connection, now)
            .or_else(|| (!connection.is_quiet()).then_some(Retirement::Gone))
    }

    fn is_over(&self, connection: &Connection, now: Instant) -> Option<Retirement> {
        let server = &connection.server;
        let lifetime = Duration::from_micros(self.lifetime.load(Ordering::Relaxed));
        if now.saturating_duration_since(server.connected_at) >= lifetime {
            return Some(Retirement::Lifetime);
        }
        if connection.link.has_stray_cancel() {
            return Some(Retirement::StrayCancel);
        }
        let outdated = server.defaults != defaults_changes() || server.close_needed;
        (outdated || self.is_retired(server.id)).then_some(Retirement::Outdated)
    }

    fn log_end(&self, connection: &Connection, retirement: Retirement) {
        if self.rules().log_disconnections {
            let server = &connection.server;
            tracing::info!(
                server_id = server.id,
                database = %self.name,
                user = %self.common.user,
                address = %connection.link.ends.address,
                "closing because: {} (age={}s)",
                retirement.text(),
                server.connected_at.elapsed().as_secs()
            );
        }
    }

    pub fn counts(&self, now: Instant) -> PoolCounts {
        let state = self.state();
        let (idle, total, waiting) = (state.idle_count(), state.total(), state.waiting_count());
        let since = state.waiting().filter_map(Waiter::since).min();
        drop(state);
        let max_wait = since.map(|since| now.saturating_duration_since(since));
        let connecting = self.connecting.load(Ordering::Relaxed);
        PoolCounts {
            active: total.saturating_sub(idle).saturating_sub(connecting),
            idle,
            connecting,
            waiting,
            max_wait: max_wait.unwrap_or_default(),
        }
    }

    /// How long ago PostgreSQL could not be reached, if that was the last time it was tried.
    pub fn unreachable_for(&self, now: Instant) -> Option<Duration> {
        let failure = self.failure().filter(Failure::out_of_reach)?;
        Some(now.saturating_duration_since(failure.at))
    }

    /// What is known of each idle server, for `SHOW SERVERS`.
    pub fn idle_servers<T>(&self, read: impl Fn(&Connection) -> T) -> Vec<T> {
        self.state().idle().map(|idle| read(&idle.connection)).collect()
    }

    /// A server is free again: for who waits, here or, at a limit, in another pool.
    fn put_back(self: &Arc<Self>, idle: Idle) {
        let mut state = self.state();
        if state.closes() {
            drop(state);
            self.log_end(&idle.connection, Retirement::Paused);
            // The place is free only when the server is gone.
            let place = self.place(idle.claim);
            drop(idle.connection);
            drop(place);
            return;
        }
        let released = state.release(idle, hand);
        drop(state);
        if released == Released::Idle && self.quotas.is_wanted() {
            self.quotas.make_room();
        }
    }

    /// Another pool has given up something of what they share. Says whether somebody waits still
    /// for want of it.
    fn feed(&self) -> bool {
        self.change_only(|state, claim| ((), state.feed(claim, hand))).1
    }

    fn take_reserve(&self) -> Option<Claim> {
        let claimed = self.change(|state, claim| (state.take_reserve(claim), None));
        if claimed.is_none() && self.quotas.is_full() {
            self.quotas.make_room();
        }
        claimed
    }

    /// Places for servers that nobody waits for; nobody gives way to them.
    fn warm(&self, least: usize) -> Vec<Claim> {
        let mut returned = false;
        let claims = self.state().warm(least, || self.quotas.claim(None, &mut returned));
        if returned {
            self.quotas.feed();
        }
        claims
    }

    /// The one way to change who has which server where a claim may be needed: what nobody took
    /// is dropped, and other pools are told, after the lock is gone. Who waits because a limit is
    /// reached is made room.
    fn change<T>(
        &self,
        change: impl FnOnce(
            &mut State<Idle, Waiter>,
            &mut dyn FnMut() -> Option<Claim>,
        ) -> (T, Option<Claim>),
    ) -> T {
        let (result, starved) = self.change_only(change);
        if starved {
            self.quotas.make_room();
        }
        result
    }

    /// The same without making room. Gives whether somebody waits for that.
    fn change_only<T>(
        &self,
        change: impl FnOnce(
            &mut State<Idle, Waiter>,
            &mut dyn FnMut() -> Option<Claim>,
        ) -> (T, Option<Claim>),
    ) -> (T, bool) {
        let mut returned = false;
        let mut claim = || self.quotas.claim(Some(&self.me), &mut returned);
        let ((result, _spare), starved) = {
            let mut state = self.state();
            (change(&mut state, &mut claim), state.is_starved())
        };
        if returned {
            self.quotas.feed();
        }
        (result, starved)
    }

    fn state(&self) -> MutexGuard<'_, State<Idle, Waiter>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Gives a clean server to who waits, or back to the idle ones. One that is not clean is
    /// closed, whoever thought otherwise.
    pub fn release(mut self, now: Instant) {
        if !self.connection.server.is_clean() {
            return;
        }
        if let Some(retirement) = self.place.pool.is_over(&self.connection, now) {
            self.place.pool.log_end(&self.connection, retirement);
            return;
        }
        self.connection.server.idle_since = now;
        self.give_back();
    }

    fn give_back(self) {
        let Self { connection, mut place } = self;
        if let Some(claim) = place.claim.take() {
            place.pool.put_back(Idle { connection, claim });
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
