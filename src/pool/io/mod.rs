//! The handle clients await: connects servers, tests them, hands them on.

mod claim;
mod connect;
mod hold;
mod line;
mod upkeep;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use crate::server::Server;
use crate::server::base::defaults_changes;
use crate::server::io::{Connection, ServerError, Target};
use crate::server::start::Start;

use super::Common;
use super::failure::Failure;
use super::rules::{Retirement, Rules};
use super::starts::Starts;
use super::state::{Acquire, Connecting, Handed, Released, State};
pub use claim::{Claim, Quotas, limit};
pub use connect::server_login_failed;
pub use line::Line;
use line::{Waiter, hand};

/// A server that does not answer when it is tested is closed after this time, where there is no
/// `server_connect_timeout`.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);

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

#[derive(Debug)]
pub enum AcquireError {
    Timeout,
    Server(ServerError),
    /// It waited for a connection, and this is what came of it.
    Failed(Option<Failure>),
    /// Nobody tries to connect for now, since this is what came of it.
    Failing(Option<Failure>),
    /// The program is stopping.
    Stopping,
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

/// What there is now for a client.
pub enum Next {
    Handed(Handed<Idle, Claim>),
    /// A place in line.
    Line(Line),
    /// The line is dissolved, since nothing can come free.
    SentAway,
    Failing,
    Stopping,
    /// What was handed to it was of no use.
    Again,
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

    /// A server, after waiting in line if none is free, until this moment at most. Cancel-safe: a
    /// dropped wait gives its place in line, or the server it was just handed, back.
    pub async fn acquire(self: &Arc<Self>, until: Option<Instant>) -> Result<Lease, AcquireError> {
        self.acquire_for(&self.plain, until).await
    }

    /// The same of a server that starts so. One that starts otherwise makes room for it.
    pub async fn acquire_for(
        self: &Arc<Self>,
        start: &Start,
        until: Option<Instant>,
    ) -> Result<Lease, AcquireError> {
        let acquiring = self.acquire_some_time(start, Next::Again, Instant::now());
        match until {
            None => acquiring.await,
            Some(until) => tokio::time::timeout_at(until.into(), acquiring)
                .await
                .unwrap_or(Err(AcquireError::Timeout)),
        }
    }

    /// What `acquire` does for one who waits since this moment, once this has come.
    pub async fn acquire_next(
        self: &Arc<Self>,
        next: Next,
        since: Instant,
    ) -> Result<Lease, AcquireError> {
        self.acquire_some_time(&self.plain, next, since).await
    }

    async fn acquire_some_time(
        self: &Arc<Self>,
        start: &Start,
        mut next: Next,
        since: Instant,
    ) -> Result<Lease, AcquireError> {
        loop {
            let handed = match std::mem::replace(&mut next, Next::Again) {
                Next::Handed(handed) => handed,
                Next::Line(line) => {
                    next = line.wait().await;
                    continue;
                }
                Next::Again => {
                    next = self.next_for(start, since);
                    continue;
                }
                Next::SentAway => return Err(self.sent_away()),
                Next::Failing => return Err(AcquireError::Failing(self.failure())),
                Next::Stopping => return Err(AcquireError::Stopping),
            };
            let place = match handed {
                Handed::Server(idle) if start.fits(&idle.connection.server) => {
                    if let Some(lease) = self.checked(idle, Instant::now())
                        && let Some(lease) = self.tested(lease).await
                    {
                        return Ok(lease);
                    }
                    continue;
                }
                Handed::Server(idle) => self.evict(idle)?,
                Handed::Connect(claim) => self.place(claim),
            };
            match self.connect(place, start).await {
                Err(_) if self.is_worth_waiting() => {}
                connected => return connected,
            }
        }
    }

    /// The place of a server that starts otherwise than is wanted; it stays while no other could
    /// be connected.
    fn evict(self: &Arc<Self>, idle: Idle) -> Result<Place, AcquireError> {
        let connecting = self.state().connecting();
        if matches!(connecting, Connecting::Unreachable | Connecting::Refused) {
            self.put_back(idle);
            return Err(AcquireError::Failing(self.failure()));
        }
        self.log_end(&idle.connection, Retirement::Evicted);
        Ok(self.place(idle.claim))
    }

    /// After a failure: PostgreSQL may come back, or there are others that may come free.
    fn is_worth_waiting(&self) -> bool {
        let state = self.state();
        match state.connecting() {
            Connecting::Unreachable => true,
            Connecting::Refused => state.total() > 0,
            Connecting::Allowed | Connecting::Starved => false,
        }
    }

    /// A place in line, if there is no server for a client that waits since this moment.
    pub fn next(self: &Arc<Self>, since: Instant) -> Next {
        self.next_for(&self.plain, since)
    }

    /// Without a wait, if that is all there is to do: a server that may be used, else what is left.
    pub fn take_up(self: &Arc<Self>, next: Next, now: Instant) -> Result<Lease, Next> {
        let Next::Handed(Handed::Server(idle)) = next else { return Err(next) };
        let server = &idle.connection.server;
        if !self.plain.fits(server) || self.needs_test(server, now) {
            return Err(Next::Handed(Handed::Server(idle)));
        }
        self.checked(idle, now).ok_or(Next::Again)
    }

    fn next_for(self: &Arc<Self>, start: &Start, since: Instant) -> Next {
        loop {
            let (next, connecting) = self.change(|state, claim| {
                if !start.is_plain() {
                    state.prefer(|idle| start.fits(&idle.connection.server));
                }
                let next = match state.acquire(claim) {
                    Acquire::Granted(idle) => Next::Handed(Handed::Server(idle)),
                    Acquire::Connect(claim) => Next::Handed(Handed::Connect(claim)),
                    Acquire::Busy => {
                        // Under the same lock, or what comes free in between would be missed.
                        let (line, waiter) = Line::new(self, since);
                        state.wait(waiter);
                        Next::Line(line)
                    }
                    Acquire::Failing => Next::Failing,
                    Acquire::Stopping => Next::Stopping,
                };
                ((next, state.connecting()), None)
            });
            let failing = matches!(connecting, Connecting::Unreachable | Connecting::Refused);
            let resumed =
                failing && !matches!(next, Next::Handed(_)) && self.resume_if_due(Instant::now());
            if !(resumed && matches!(next, Next::Failing)) {
                return next;
            }
        }
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

    /// A server if one is idle and needs no test; never waits.
    pub fn try_acquire(self: &Arc<Self>, now: Instant) -> Option<Lease> {
        loop {
            let idle = self.state().take_free()?;
            let Some(lease) = self.checked(idle, now) else { continue };
            if !self.needs_test(&lease.connection.server, now) {
                return Some(lease);
            }
            lease.give_back();
            return None;
        }
    }

    /// An idle server that is still alive and not out of date.
    fn checked(self: &Arc<Self>, idle: Idle, now: Instant) -> Option<Lease> {
        let Idle { mut connection, claim } = idle;
        let place = self.place(claim);
        if let Some(retirement) = self.is_due(&mut connection, now) {
            self.log_end(&connection, retirement);
            return None;
        }
        Some(Lease { connection, place })
    }

    fn needs_test(&self, server: &Server, now: Instant) -> bool {
        let delay = self.check_delay.load(Ordering::Relaxed);
        delay != u64::MAX
            && now.saturating_duration_since(server.idle_since) >= Duration::from_micros(delay)
    }

    /// The same server after it has answered, if it had to.
    async fn tested(&self, mut lease: Lease) -> Option<Lease> {
        if !self.needs_test(&lease.connection.server, Instant::now()) {
            return Some(lease);
        }
        let rules = self.rules();
        let Some((_, check)) = &rules.check else { return Some(lease) };
        let limit = match rules.connect_timeout {
            Duration::ZERO => CHECK_TIMEOUT,
            limit => limit,
        };
        let answer = tokio::time::timeout(limit, lease.connection.query(check)).await;
        if matches!(answer, Ok(Ok(_))) {
            return Some(lease);
        }
        self.log_end(&lease.connection, Retirement::TestFailed);
        None
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
