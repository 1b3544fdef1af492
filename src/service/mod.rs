//! Questions of our own to PostgreSQL, off the data path: the catalogue, whether it changed
//! behind our back, and whether the backend of a lost server is gone. One connection a database.
//!
//! Not `tokio-postgres`: our servers need a login with every kind of TLS and secret anyway, and
//! one way to log in is better than two.

mod away;
pub mod lost;
mod round;
mod targets;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::analyst::Analyst;
use crate::cache::coherence::Scope;
use crate::cache::{Cache, Mode};
use crate::config::Config;
use crate::membership;
use crate::pool::database::Database;
use crate::server::Server;
use crate::server::base::changed;
use crate::server::io::{Connection, Rows, ServerError, Target};
use crate::server::login::LoginError;
use crate::sql::catalog::SETUP_QUERIES;
use crate::wire::sqlstate::TOO_MANY_CONNECTIONS;

pub use away::Away;

use lost::{Lost, Missing, Place};
use targets::Targets;

/// Between attempts to reach a database that refuses.
const RETRY: Duration = Duration::from_secs(1);

/// The same to a database that does not exist.
const MISSING_RETRY: Duration = Duration::from_secs(5);

/// Between two looks at whether a lost backend is gone; nearly all are at once.
const LOST_POLL: Duration = Duration::from_millis(50);

/// The same where the newest has been there for as long as this.
const LOST_POLL_SLOW: Duration = Duration::from_secs(1);

/// A question that takes longer means the connection is dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

struct Settings {
    targets: Targets,
    times: Times,
}

/// What of the settings is for us.
#[derive(Clone, Copy)]
pub struct Times {
    /// Within it a connection is there, or another host is tried.
    connect: Duration,
    catalog_poll: Duration,
    /// After it no entry of before is served.
    max_age: Duration,
    serve_while_down: Duration,
}

impl Times {
    pub fn of(settings: &Config) -> Self {
        let Config { cache, server, .. } = settings;
        let connect = Some(server.server_connect_timeout).filter(|limit| !limit.is_zero());
        Self {
            connect: connect.map_or(ANSWER_TIMEOUT, |limit| limit.min(ANSWER_TIMEOUT)),
            catalog_poll: cache.catalog_poll,
            max_age: cache.max_age,
            serve_while_down: cache.serve_while_down,
        }
    }
}

/// What the last round found, to tell whether it has changed.
#[derive(Default)]
struct Seen {
    fingerprint: Option<String>,
    defaults: Option<String>,
    /// When a round last came to its end.
    answered_at: Option<Instant>,
    /// One did on the connection of now.
    answered: bool,
    /// PostgreSQL may have lost what was committed without waiting for the disk. Told by nothing
    /// but a lost connection: it recovers by itself, and its start time stays.
    may_have_crashed: bool,
}

/// The side task of one database.
pub struct Service {
    database: Arc<Database>,
    /// While it is off nobody needs the catalogue, and no connection is kept for it.
    cache: Arc<Cache>,
    ended: AtomicBool,
    /// Guards what a reload replaces; nothing else is locked inside.
    settings: Mutex<Settings>,
    wake: Arc<Notify>,
    missing: Missing,
    /// How many want it to be connected no longer.
    away: watch::Sender<usize>,
    /// It is connected, or tries to be.
    connected: watch::Sender<bool>,
    /// Counts attempts to read the catalogue, whatever came of them.
    tried: watch::Sender<u64>,
    /// One of those who want that is the operator.
    paused: AtomicBool,
}

impl Service {
    /// Starts the task; it ends with the runtime, or with `end`.
    pub fn start(
        database: Arc<Database>,
        cache: Arc<Cache>,
        target: Arc<Target>,
        times: Times,
    ) -> Arc<Self> {
        let wake = Arc::new(Notify::new());
        let waker = Arc::clone(&wake);
        database.wanted.on_raise(Box::new(move || waker.notify_one()));
        let service = Arc::new(Self {
            database,
            cache,
            ended: AtomicBool::new(false),
            settings: Mutex::new(Settings { targets: Targets::new(target), times }),
            wake,
            missing: Missing::default(),
            away: watch::Sender::new(0),
            connected: watch::Sender::new(false),
            tried: watch::Sender::new(0),
            paused: AtomicBool::new(false),
        });
        tokio::spawn(Arc::clone(&service).run());
        service
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn target(&self) -> Arc<Target> {
        self.settings().targets.now()
    }

    /// Somebody else as whom to ask, if those known so far are refused.
    pub fn offer(&self, target: &Target) {
        self.settings().targets.offer(Arc::new(target.clone()));
    }

    /// As whom to ask, from the next connection on.
    pub fn set_targets(&self, targets: Vec<Arc<Target>>) {
        self.settings().targets.set(targets);
    }

    pub fn set_times(&self, times: Times) {
        self.settings().times = times;
    }

    /// Has it look at once whether there is anything to do.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Nobody needs it any more.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    fn is_idle(&self) -> bool {
        // In a group others have to know what is written, though nothing is kept here.
        let unused = self.cache.mode() == Mode::Off && self.target().group.is_none();
        unused || *self.away.borrow() > 0
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// What was read there is nobody's answer any more.
    fn forget(&self) {
        let home = self.database.home();
        self.database.catalog_changed(&home);
        home.invalidate(&Scope::Database);
    }

    /// A server was closed while commits may have been on the wire: their tables stay in flight
    /// until its backend is known to be gone.
    pub fn lost(&self, lost: Lost) {
        if lost.guards.is_empty() {
            return;
        }
        tracing::warn!(
            database = %self.database.name,
            server_pid = lost.pid,
            "server lost with a commit on the wire"
        );
        self.missing.add(lost, Instant::now());
        self.wake.notify_one();
    }

    /// Resolves when the catalogue has been read for the first time, or could not be. The first
    /// client of a database waits for it, so that its first statement is judged as its last.
    pub async fn tried(&self) {
        // The sender is ours, so it is there as long as we are.
        let mut tried = self.tried.subscribe();
        let _tried = tried.wait_for(|tried| *tried > 0).await;
    }

    /// Resolves when the catalogue is there, or `limit` has passed.
    pub async fn catalog_read(&self, limit: Duration) {
        let mut tried = self.tried.subscribe();
        let read = tried.wait_for(|_| self.database.snapshot().catalog.is_some());
        // Whoever waited in vain goes on without it.
        let _in_vain = tokio::time::timeout(limit, read).await;
    }

    /// How many lost servers are not known to be gone.
    pub fn lost_count(&self) -> usize {
        self.missing.count()
    }

    async fn run(self: Arc<Self>) {
        // The fingerprint is forgotten with each connection: what happened while we could not look
        // is not known.
        let mut seen = Seen::default();
        let mut is_missing = false;
        let mut away = self.away.subscribe();
        while !self.has_ended() {
            // In this order: who sends it away looks whether it is connected afterwards.
            self.connected.send_replace(true);
            if self.is_idle() {
                self.connected.send_replace(false);
                self.rest().await;
                continue;
            }
            seen.answered = false;
            let primary = self.database.primary();
            let failed = tokio::select! {
                failed = self.connect_and_serve(&mut seen) => Some(failed),
                _is_sent_away = async { away.wait_for(|count| *count > 0).await.is_ok() } => None,
            };
            self.connected.send_replace(false);
            self.tried.send_modify(|count| *count += 1);
            self.settle_old(None);
            seen.fingerprint = None;
            let Some(failed) = failed.filter(|_| !self.has_ended() && !self.is_idle()) else {
                continue;
            };
            if is_missing && targets::is_of_missing_database(&failed) {
                tokio::time::sleep(MISSING_RETRY).await;
                continue;
            }
            is_missing = targets::is_of_missing_database(&failed);
            tracing::warn!(
                database = %self.database.name,
                error = %failed,
                "service connection failed"
            );
            if is_missing {
                self.forget();
            }
            if seen.answered {
                // Perhaps only this connection was ended.
                continue;
            }
            if targets::is_refused(&failed) {
                self.settings().targets.turn();
            }
            self.note_silence(&failed, seen.answered_at);
            self.wait_for_retry(primary).await;
        }
    }

    /// Shorter where a server was connected to another PostgreSQL since `primary` was the one: in a group
    /// others are to hear of that before what is written there is seen.
    async fn wait_for_retry(&self, primary: Option<u64>) {
        let until = tokio::time::Instant::now() + RETRY;
        while self.database.primary() == primary && !self.has_ended() {
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// Ends the hits once PostgreSQL has been silent for as long as they may go on. One that has
    /// no connection left is there.
    fn note_silence(&self, failed: &ServerError, answered_at: Option<Instant>) {
        let is_full = matches!(
            failed,
            ServerError::Login(LoginError::Refused { sqlstate, .. })
                if sqlstate == TOO_MANY_CONNECTIONS
        );
        let may_go_on = self.settings().times.serve_while_down;
        let silent = answered_at.is_none_or(|answered_at| answered_at.elapsed() >= may_go_on);
        self.database.set_down(silent && !is_full);
    }

    /// Waits for something to do while there is no cache, or it is sent away; what was lost is
    /// settled by its age.
    async fn rest(&self) {
        self.tried.send_modify(|count| *count += 1);
        self.settle_old(None);
        let wait = if self.lost_count() > 0 { RETRY } else { Duration::MAX };
        tokio::select! {
            () = self.wake.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    async fn connect_and_serve(self: &Arc<Self>, seen: &mut Seen) -> ServerError {
        let (target, limit) = (self.target(), self.settings().times.connect);
        let opening = Connection::open_uncounted(&target);
        let opened = target.hosts.within(limit, opening).await;
        match opened.unwrap_or(Err(ServerError::Closed)) {
            Ok(mut connection) => {
                // Catalogues are large, and the first client waits. If it fails, it waits.
                let _slow = connection.stream.widen();
                if std::mem::take(&mut seen.may_have_crashed) {
                    self.forget();
                }
                let service = Arc::clone(self);
                let targets = move |turn| service.settings().targets.at(turn);
                let _driving = membership::start(&connection.server.home, targets);
                let ended = self.serve(&mut connection, seen).await;
                seen.may_have_crashed =
                    !targets::is_on_purpose(&ended) && !self.has_ended() && !self.is_idle();
                if seen.may_have_crashed && self.settings().times.serve_while_down.is_zero() {
                    self.forget();
                }
                ended
            }
            Err(error) => error,
        }
    }

    /// Serves until the connection fails, or there is nobody to serve.
    async fn serve(&self, connection: &mut Connection, seen: &mut Seen) -> ServerError {
        if let Err(error) = ask(connection, &[OWN_SETTINGS]).await {
            return error;
        }
        let mut answers = match ask(connection, SETUP_QUERIES).await {
            Ok(answers) => answers,
            Err(error) => return error,
        };
        self.database.move_to(&connection.server.home);
        let mut primary = self.database.primary();
        let user = self.target().user.clone();
        let mut analyst = match Analyst::begin(connection, user, &self.database, &self.cache).await
        {
            Ok(analyst) => analyst,
            Err(error) => return error,
        };
        loop {
            if self.is_passed(&connection.server, &mut primary) {
                return ServerError::Closed;
            }
            let round = self.round(connection, &mut answers, seen).await;
            self.tried.send_modify(|count| *count += 1);
            if let Err(error) = round {
                return error;
            }
            (seen.answered_at, seen.answered) = (Some(Instant::now()), true);
            self.database.set_down(false);
            if self.has_ended() || self.is_idle() {
                return ServerError::Closed;
            }
            let pause = self.pause(place(&connection.server), Instant::now());
            let until = tokio::time::Instant::now() + pause;
            loop {
                tokio::select! {
                    () = self.wake.notified() => break,
                    () = tokio::time::sleep_until(until) => break,
                    // Nobody has asked, so it is the connection's end or a message on the way to it.
                    readable = connection.stream.wait_readable() => match readable {
                        Ok(()) => break,
                        Err(error) => return error.into(),
                    },
                    () = analyst.due() => {
                        if let Err(error) = analyst.answer(connection).await {
                            return error;
                        }
                    }
                }
            }
        }
    }

    /// Whether another has become the primary since this was last asked, which the one that is asked
    /// here may not know.
    fn is_passed(&self, server: &Server, primary: &mut Option<u64>) -> bool {
        let now = self.database.primary();
        let before = std::mem::replace(primary, now);
        // A standby that is asked first never was the one.
        let is_first = before.is_none() && server.base.is_standby();
        now != before && now != Some(server.place) && !is_first
    }

    /// Until there is something to ask for again.
    fn pause(&self, place: Place<'_>, now: Instant) -> Duration {
        let poll = self.settings().times.catalog_poll;
        match self.missing.newest_of(place) {
            None => poll,
            Some(since) if now.saturating_duration_since(since) < LOST_POLL_SLOW => LOST_POLL,
            Some(_) => poll.min(LOST_POLL_SLOW),
        }
    }

    /// Settles those that cannot be looked at, and are old or too many.
    fn settle_old(&self, place: Option<Place<'_>>) {
        let max_age = self.settings().times.max_age;
        self.settle(self.missing.take_old(place, max_age, Instant::now()));
    }

    fn settle(&self, over: Vec<Lost>) {
        for lost in over {
            let moved = lost.generation.is_some_and(|then| then != self.database.generation());
            if let Some(home) = &lost.home {
                if moved {
                    home.invalidate(&Scope::Database);
                }
                if lost.catalog {
                    self.database.catalog_changed(home);
                }
            }
            changed(lost.beyond);
            for guard in lost.guards {
                guard.committed();
            }
        }
    }
}

fn place(server: &Server) -> Place<'_> {
    Place { home: &server.home, place: server.place }
}

/// Whatever sessions here begin with (ALTER ROLE … SET, `connect_query`), our questions have the time
/// they need and all of the planner's means: with `enable_seqscan` off the catalogue takes a
/// hundred times as long. None of these changes what an answer means.
const OWN_SETTINGS: &str = "SELECT pg_catalog.set_config(name, boot_val, false) \
     FROM pg_catalog.pg_settings WHERE context = 'user' AND (name LIKE 'enable\\_%' \
     OR name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout', \
     'idle_in_transaction_session_timeout', 'idle_session_timeout'))";

/// Statements in one message, the rows of each; bounded in time.
async fn ask(connection: &mut Connection, sql: &[&str]) -> Result<Vec<Rows>, ServerError> {
    tokio::time::timeout(ANSWER_TIMEOUT, connection.query(&sql.join("; ")))
        .await
        .unwrap_or(Err(ServerError::Closed))
}
