//! How a client gets a server: an idle one, tested if it has to be, a new one, or one that comes free
//! while it waits in line.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::pool::failure::Failure;
use crate::pool::rules::Retirement;
use crate::pool::state::{Acquire, Connecting, Handed};
use crate::server::Server;
use crate::server::io::ServerError;
use crate::server::start::Start;

use super::line::Line;
use super::{Claim, Idle, Lease, Place, Pool};

/// A server that does not answer when it is tested is closed after this time, where there is no
/// `server_connect_timeout`.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);

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

impl Pool {
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
}
