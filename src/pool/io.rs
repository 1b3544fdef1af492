//! The handle clients await: connects servers, hands them on, closes what is due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::server::io::{Connection, ServerError, Target, newest_id};
use crate::server::login::LoginError;
use crate::server::settings::defaults_changes;

use super::Common;
use super::state::{Acquire, Handed, Hold, State};

type Waiter = oneshot::Sender<Handed<Box<Connection>>>;

/// Times that bound a server's life and a client's patience; zero: never.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub query_wait_timeout: Duration,
    pub connect_timeout: Duration,
    /// Zero: at once.
    pub login_retry: Duration,
    pub idle_timeout: Duration,
    pub lifetime: Duration,
}

/// `Times` that change under way, read without a lock. Microseconds.
struct AtomicTimes([AtomicU64; 5]);

impl AtomicTimes {
    fn new(times: Times) -> Self {
        let new = Self(std::array::from_fn(|_| AtomicU64::new(0)));
        new.set(times);
        new
    }

    fn set(&self, times: Times) {
        let Times { query_wait_timeout, connect_timeout, login_retry, idle_timeout, lifetime } =
            times;
        let values = [query_wait_timeout, connect_timeout, login_retry, idle_timeout, lifetime];
        for (place, value) in self.0.iter().zip(values) {
            let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
            place.store(micros, Ordering::Relaxed);
        }
    }

    fn get(&self) -> Times {
        let [query_wait_timeout, connect_timeout, login_retry, idle_timeout, lifetime] =
            self.0.each_ref().map(|place| Duration::from_micros(place.load(Ordering::Relaxed)));
        Times { query_wait_timeout, connect_timeout, login_retry, idle_timeout, lifetime }
    }
}

/// The servers of one database and user.
pub struct Pool {
    pub common: Arc<Common>,
    pub target: Arc<Target>,
    times: AtomicTimes,
    /// What clients call the database.
    pub name: String,
    /// Guards who has which server; nothing else is locked inside.
    state: Mutex<State<Box<Connection>, Waiter>>,
    /// Servers with a smaller id are closed once free: their defaults are out of date.
    retired: AtomicU64,
    /// When the clients now waiting began to, in the order they came; for `maxwait`.
    waiting_since: Mutex<std::collections::BTreeMap<u64, Instant>>,
    next_wait: AtomicU64,
    /// Guards the last failure to connect, until one succeeds; nothing else is locked inside.
    failure: Mutex<Option<Failure>>,
}

#[derive(Debug)]
pub enum AcquireError {
    Timeout,
    Server(ServerError),
    /// Nobody tries to connect for now, since this is what came of it.
    Failing(Option<Failure>),
    /// The program is stopping.
    Stopping,
}

/// A failure to connect or log in, for those who come after.
#[derive(Clone, Debug)]
pub struct Failure {
    at: Instant,
    /// As PostgreSQL gave it, if it was PostgreSQL that refused.
    pub sqlstate: Option<String>,
    pub message: String,
}

impl Failure {
    fn new(error: &ServerError, now: Instant) -> Self {
        let sqlstate = match error {
            ServerError::Login(LoginError::Refused { sqlstate, .. })
            | ServerError::Query { sqlstate, .. } => Some(sqlstate.clone()),
            ServerError::Login(_)
            | ServerError::Connect(_)
            | ServerError::Io(_)
            | ServerError::Closed
            | ServerError::Protocol
            | ServerError::Ambiguous => None,
        };
        Self { at: now, sqlstate, message: error.to_string() }
    }
}

/// Counts for `SHOW POOLS`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolCounts {
    pub active: usize,
    pub idle: usize,
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
    kept: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            self.pool.state().closed(hand);
        }
    }
}

impl Pool {
    pub fn new(
        common: Arc<Common>,
        target: Target,
        name: String,
        size: usize,
        times: Times,
    ) -> Self {
        Self {
            common,
            target: Arc::new(target),
            times: AtomicTimes::new(times),
            name,
            state: Mutex::new(State::new(size)),
            retired: AtomicU64::new(0),
            waiting_since: Mutex::default(),
            next_wait: AtomicU64::new(0),
            failure: Mutex::default(),
        }
    }

    /// A server, after waiting in line if none is free. Cancel-safe: a dropped wait gives its
    /// place in line, or the server it was just handed, back.
    pub async fn acquire(self: &Arc<Self>) -> Result<Lease, AcquireError> {
        let since = Instant::now();
        loop {
            let handed = match self.next() {
                Acquire::Granted(connection) => Handed::Server(connection),
                Acquire::Connect => Handed::Connect,
                Acquire::Busy => self.wait_in_line(since).await?,
                Acquire::Failing => return Err(AcquireError::Failing(self.failure())),
                Acquire::Stopping => return Err(AcquireError::Stopping),
            };
            match handed {
                Handed::Server(connection) => {
                    if let Some(lease) = self.checked(connection, Instant::now()) {
                        return Ok(lease);
                    }
                }
                Handed::Connect => match self.connect(self.place()).await {
                    // There are others, one of which may come free.
                    Err(_) if self.has_others_while_held() => {}
                    connected => return connected,
                },
            }
        }
    }

    fn has_others_while_held(&self) -> bool {
        let state = self.state();
        state.is_held() && state.total() > 0
    }

    /// What there is now for a client.
    fn next(&self) -> Acquire<Box<Connection>> {
        self.resume_if_due(Instant::now());
        self.state().acquire()
    }

    fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets clients connect again when the last failure is long enough ago.
    fn resume_if_due(&self, now: Instant) {
        if !self.state().is_held() {
            return;
        }
        let retry = self.times.get().login_retry;
        let due =
            self.failure().is_none_or(|failure| now.saturating_duration_since(failure.at) >= retry);
        if due {
            self.state().resume(hand);
        }
    }

    /// A server if one is idle; never waits.
    pub fn try_acquire(self: &Arc<Self>, now: Instant) -> Option<Lease> {
        loop {
            match self.next() {
                Acquire::Granted(connection) => {
                    if let Some(lease) = self.checked(connection, now) {
                        return Some(lease);
                    }
                }
                Acquire::Connect => {
                    drop(self.place());
                    return None;
                }
                Acquire::Busy | Acquire::Failing | Acquire::Stopping => return None,
            }
        }
    }

    /// `began`: when the client began to wait, perhaps in an earlier line.
    async fn wait_in_line(
        self: &Arc<Self>,
        began: Instant,
    ) -> Result<Handed<Box<Connection>>, AcquireError> {
        let (sender, receiver) = oneshot::channel();
        self.state().wait(sender);
        let since = WaitingSince::new(self);
        let mut receiver = Returning { pool: Arc::clone(self), receiver: Some(receiver) };
        let handed = match self.times.get().query_wait_timeout {
            Duration::ZERO => receiver.next().await,
            limit => tokio::time::timeout_at((began + limit).into(), receiver.next())
                .await
                .or(Err(AcquireError::Timeout))?,
        };
        drop(since);
        // The pool hangs up on who waits when nothing can come free.
        handed.ok_or_else(|| match self.state().hold_now() {
            Some(Hold::Stopping) => AcquireError::Stopping,
            Some(Hold::Paused | Hold::Suspended) | None => AcquireError::Failing(self.failure()),
        })
    }

    async fn connect(self: &Arc<Self>, place: Place) -> Result<Lease, AcquireError> {
        let connecting = Connection::open(&self.target);
        let opened = match self.times.get().connect_timeout {
            Duration::ZERO => connecting.await,
            limit => tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_elapsed| {
                let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "connect timeout");
                Err(ServerError::Io(error))
            }),
        };
        let connection = Box::new(opened.map_err(|error| self.failed(error))?);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.common.database.move_to(&connection.server.home);
        self.learn_base(&connection);
        tracing::info!(
            server_id = connection.server.id,
            server_pid = connection.server.pid,
            database = %self.name,
            user = %self.common.user,
            "new connection to server"
        );
        Ok(Lease { connection, place })
    }

    /// Notes why no server could be had; for `login_retry` nobody tries again.
    fn failed(&self, error: ServerError) -> AcquireError {
        if !self.times.get().login_retry.is_zero() {
            let failure = Failure::new(&error, Instant::now());
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
            self.state().hold();
        }
        AcquireError::Server(error)
    }

    /// The newest server says how sessions start now; older ones that start otherwise go.
    fn learn_base(&self, connection: &Connection) {
        let known = self.common.base();
        if known.id != connection.server.base.id {
            if known.id != 0 {
                self.retired.fetch_max(connection.server.id, Ordering::Relaxed);
            }
            let server = &connection.server;
            self.common.set_base(Arc::clone(&server.base), server.defaults);
        }
    }

    /// Another size and other times, from now on.
    pub fn set(&self, size: usize, times: Times) {
        self.times.set(times);
        self.state().resize(size, hand);
    }

    /// Closes every server once it is free; new ones learn the defaults of today.
    pub fn retire_all(&self) {
        self.retired.fetch_max(newest_id() + 1, Ordering::Relaxed);
        let gone = self.state().take_idle(|_| true);
        drop(gone);
    }

    /// Whether a server of this pool is to be closed once it is free.
    pub fn is_retired(&self, server_id: u64) -> bool {
        server_id < self.retired.load(Ordering::Relaxed)
    }

    /// What an operator says of who may have a server. Where they are to be closed, idle ones
    /// are gone when this returns.
    pub fn set_hold(&self, hold: Option<Hold>) {
        let mut state = self.state();
        if state.hold_now() == hold {
            return;
        }
        state.set_hold(hold, hand);
        let gone = if state.closes() { state.take_idle(|_| true) } else { Vec::new() };
        drop(state);
        for connection in &gone {
            let (server_id, database) = (connection.server.id, &self.name);
            tracing::info!(server_id, %database, user = %self.target.user, "closing because: pause mode");
        }
        drop(gone);
    }

    /// An idle server that is still alive and not out of date.
    fn checked(self: &Arc<Self>, mut connection: Box<Connection>, now: Instant) -> Option<Lease> {
        let place = self.place();
        if self.is_due(&connection, now) || !connection.is_quiet() {
            return None;
        }
        Some(Lease { connection, place })
    }

    fn place(self: &Arc<Self>) -> Place {
        Place { pool: Arc::clone(self), kept: false }
    }

    fn is_due(&self, connection: &Connection, now: Instant) -> bool {
        let server = &connection.server;
        let lifetime = self.times.get().lifetime;
        let old =
            !lifetime.is_zero() && now.saturating_duration_since(server.connected_at) > lifetime;
        let outdated = server.defaults != defaults_changes();
        old || outdated || server.close_needed || server.id < self.retired.load(Ordering::Relaxed)
    }

    /// Closes idle servers that are too old, too long idle, or gone. Called about once a second.
    pub fn upkeep(&self, now: Instant) {
        self.resume_if_due(now);
        let idle_timeout = self.times.get().idle_timeout;
        let mut state = self.state();
        let mut surplus = state.surplus();
        let due = state.take_idle(|connection| {
            if surplus > 0 {
                surplus -= 1;
                return true;
            }
            let idle = now.saturating_duration_since(connection.server.idle_since);
            (!idle_timeout.is_zero() && idle > idle_timeout)
                || self.is_due(connection, now)
                || !connection.is_quiet()
        });
        drop(state);
        for connection in &due {
            tracing::debug!(server_id = connection.server.id, "closing idle server");
        }
        drop(due);
    }

    pub fn counts(&self, now: Instant) -> PoolCounts {
        let state = self.state();
        let (idle, total, waiting) = (state.idle_count(), state.total(), state.waiting_count());
        drop(state);
        let since = self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
        let max_wait = since.values().next().map(|since| now.saturating_duration_since(*since));
        PoolCounts {
            active: total.saturating_sub(idle),
            idle,
            waiting,
            max_wait: max_wait.unwrap_or_default(),
        }
    }

    /// Servers idle, in use, or being connected.
    pub fn total(&self) -> usize {
        self.state().total()
    }

    /// What is known of each idle server, for `SHOW SERVERS`.
    pub fn idle_servers<T>(&self, read: impl Fn(&Connection) -> T) -> Vec<T> {
        self.state().idle().map(|connection| read(connection)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State<Box<Connection>, Waiter>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Gives a clean server to who waits, or back to the idle ones. One that is not clean is
    /// closed, whoever thought otherwise.
    pub fn release(mut self, now: Instant) {
        let pool = Arc::clone(&self.place.pool);
        if !self.connection.server.is_clean() || pool.is_due(&self.connection, now) {
            return;
        }
        self.connection.server.idle_since = now;
        let mut state = pool.state();
        if state.closes() {
            // Its place is freed under the same lock.
            drop(state);
            return;
        }
        self.place.kept = true;
        state.release(self.connection, hand);
    }
}

fn hand(waiter: Waiter, handed: Handed<Box<Connection>>) -> Result<(), Handed<Box<Connection>>> {
    waiter.send(handed)
}

/// A place in line; when dropped, what was handed to it goes back.
struct Returning {
    pool: Arc<Pool>,
    receiver: Option<oneshot::Receiver<Handed<Box<Connection>>>>,
}

impl Returning {
    async fn next(&mut self) -> Option<Handed<Box<Connection>>> {
        let handed = match &mut self.receiver {
            Some(receiver) => receiver.await.ok(),
            None => None,
        };
        self.receiver = None;
        handed
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        let Some(mut receiver) = self.receiver.take() else { return };
        receiver.close();
        match receiver.try_recv() {
            Ok(Handed::Server(connection)) => self.pool.state().release(connection, hand),
            Ok(Handed::Connect) => self.pool.state().closed(hand),
            Err(_nothing_was_sent) => {}
        }
    }
}

/// Keeps the time at which a wait began, while it lasts.
struct WaitingSince {
    pool: Arc<Pool>,
    id: u64,
}

impl WaitingSince {
    fn new(pool: &Arc<Pool>) -> Self {
        let id = pool.next_wait.fetch_add(1, Ordering::Relaxed);
        let mut since = pool.waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.insert(id, Instant::now());
        drop(since);
        Self { pool: Arc::clone(pool), id }
    }
}

impl Drop for WaitingSince {
    fn drop(&mut self) {
        self.pool.waiting_since.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
