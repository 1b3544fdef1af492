//! Connecting a server, and what is learnt when that works and when it does not.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::pool::failure::{Failure, hinders};
use crate::server::io::{Connection, ServerError};
use crate::server::login::LoginError;
use crate::server::start::Start;
use crate::wire::sqlstate;
use crate::wire::startup::Replication;

use super::{AcquireError, Claim, Lease, Place, Pool};

impl Pool {
    pub(super) async fn connect(
        self: &Arc<Self>,
        place: Place,
        start: &Start,
    ) -> Result<Lease, AcquireError> {
        let _connecting = BeingConnected::new(self);
        let connecting = Connection::open(&self.target, start);
        let opened = match self.rules().connect_timeout {
            Duration::ZERO => connecting.await,
            limit => self.target.hosts.within(limit, connecting).await.unwrap_or_else(|_elapsed| {
                tracing::info!(
                    database = %self.name,
                    user = %self.common.user,
                    "closing because: connect timeout"
                );
                let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "connect timeout");
                Err(ServerError::Io(error))
            }),
        };
        let connection = Box::new(opened.map_err(|error| self.failed(error, start))?);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if start.replication == Replication::None {
            self.common.database.move_to(&connection.server.home);
        }
        if start.is_plain() {
            self.learn_base(&connection);
        }
        if self.rules().log_connections {
            tracing::info!(
                server_id = connection.server.id,
                database = %self.name,
                user = %self.common.user,
                address = %connection.link.ends.address,
                server_pid = connection.server.pid,
                "new connection to server (from {})",
                connection.link.ends.local
            );
        }
        Ok(Lease { connection, place })
    }

    /// Connects a server that nobody asked for.
    pub(super) async fn connect_ahead(self: Arc<Self>, claim: Claim) {
        // Why it failed is noted, and whoever needs a server hears of it.
        if let Ok(lease) = self.connect(self.place(claim), &self.plain).await {
            lease.release(Instant::now());
        }
    }

    /// Notes why no server could be had; for `login_retry` nobody tries again.
    fn failed(&self, error: ServerError, start: &Start) -> AcquireError {
        tracing::warn!(
            database = %self.name,
            user = %self.common.user,
            "{}",
            server_login_failed(&error)
        );
        if let ServerError::Login(LoginError::Refused { message, .. }) = &error {
            let (database, user) = (&self.name, &self.common.user);
            tracing::info!(%database, %user, "closing because: {message} (age=0s)");
        }
        let of_client = match &error {
            ServerError::Login(LoginError::Refused { sqlstate, .. }) => start.may_cause(sqlstate),
            // By the time-outs of the session that its client wanted.
            ServerError::Query { sqlstate, .. } => {
                !start.is_plain() && sqlstate == sqlstate::QUERY_CANCELED
            }
            ServerError::Login(_)
            | ServerError::Connect(_)
            | ServerError::Io(_)
            | ServerError::Closed
            | ServerError::Protocol
            | ServerError::Ambiguous => false,
        };
        if !of_client && !self.rules().login_retry.is_zero() {
            let failure = Failure::new(&error, Instant::now());
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
            self.state().hold(hinders(&error));
        }
        AcquireError::Server(error)
    }

    /// The newest server says how sessions start now; older ones go if that says so of them.
    fn learn_base(&self, connection: &Connection) {
        let server = &connection.server;
        let outdated = {
            let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
            starts.learn(&server.home, server.place, &server.base)
        };
        if !server.base.is_standby() {
            self.common.database.set_primary(server.place);
            server.home.group.iter().for_each(|group| group.meet(server.place));
        }
        if outdated {
            self.retired.fetch_max(server.id, Ordering::Relaxed);
        }
        if self.common.base().id != server.base.id {
            self.common.set_base(Arc::clone(&server.base), server.defaults);
        }
    }
}

/// Counts a server while it is being connected.
struct BeingConnected<'a>(&'a Pool);

impl<'a> BeingConnected<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.connecting.fetch_add(1, Ordering::Relaxed);
        Self(pool)
    }
}

impl Drop for BeingConnected<'_> {
    fn drop(&mut self) {
        self.0.connecting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// In PgBouncer's words.
pub fn server_login_failed(error: &ServerError) -> String {
    let severity = match error {
        ServerError::Login(LoginError::Refused { .. }) => "FATAL ",
        ServerError::Login(_)
        | ServerError::Connect(_)
        | ServerError::Io(_)
        | ServerError::Closed
        | ServerError::Protocol
        | ServerError::Ambiguous
        | ServerError::Query { .. } => "",
    };
    format!("server login failed: {severity}{error}")
}
