//! What becomes of the server when its client goes, whatever it left undone.
//!
//! Invariant: a server goes back only idle and owing nothing, and nothing is committed that
//! PostgreSQL itself would not have committed had the client been its own.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::pool::PoolMode;
use crate::pool::io::Lease;
use crate::server::Server;
use crate::server::io::{Connection, ServerError};
use crate::server::link::Link;
use crate::service::lost::Lost;
use crate::wire::backend::Status;

use super::close::CloseReason;
use super::io::Task;
use super::session::{Armed, Session};
use super::spare::READ_BYTES;

/// A server that does not answer its reset query by then is closed.
const RESET_TIMEOUT: Duration = Duration::from_secs(10);

/// Replies nobody reads any more are taken for this long and up to this many bytes; a new server
/// costs about as much.
const DRAIN_TIME: Duration = Duration::from_millis(50);
const DRAIN_BYTES: usize = 1 << 20;

/// How long a commit whose client is gone waits for the leave of its group, and for the question
/// what it commits.
const HOLD_TIME: Duration = Duration::from_secs(10);

impl Task {
    /// Parts from the server at the end. Replies that come soon are taken, a transaction is
    /// rolled back, and then a clean server goes back, after the reset query if it holds the
    /// client's state. Any other is closed, which rolls back what was not committed; what may
    /// have been stays in flight until that backend is gone.
    pub(super) async fn leave_server(&mut self, reason: &CloseReason) {
        // After a fault of the server's, or in it, nobody knows what is still to come.
        let fault = matches!(reason, CloseReason::ServerLost | CloseReason::TransactionBlock);
        // Its cancel is on the way, and may come too late for this statement.
        let given_up =
            matches!(reason, CloseReason::QueryTimeout | CloseReason::TransactionTimeout);
        let drained = match (fault, given_up) {
            (true, _) => Drained::InVain,
            (false, true) => Drained::Nothing,
            (false, false) => self.drain(reason).await,
        };
        let pid = self.lease.as_ref().map(|lease| lease.connection.server.pid);
        self.session.connection_ended(reason.class(), Instant::now(), pid);
        let lost = self.session.server_lost();
        let Some(mut lease) = self.lease.take() else { return };
        let current = self.entry.take_current();
        let server = &mut lease.connection.server;
        let open = server.status != Status::Idle;
        let whole = drained != Drained::InVain
            && !self.session.work.unsynced
            && owes_nothing(server)
            && lost.is_empty();
        let counters = &self.session.common.counters;
        if !whole {
            let pid = server.pid;
            if !fault {
                counters.abandoned_closed.one();
                tracing::info!(
                    server_id = server.id,
                    database = %self.pool.name,
                    user = %self.session.common.user,
                    "closing because: client disconnect while server was not ready"
                );
            }
            let place = server.place;
            drop(lease);
            let Armed { home, guards, catalog, beyond, generation, .. } = lost;
            self.service.lost(Lost { pid, place, home, guards, catalog, beyond, generation });
            return;
        }
        if drained == Drained::All {
            counters.abandoned_drained.one();
        }
        if open {
            counters.abandoned_rolled_back.one();
            tracing::info!(
                server_id = server.id,
                database = %self.pool.name,
                user = %self.session.common.user,
                "client left a transaction open: rolling it back"
            );
            // Settings fall back to what they were before, which is not always known.
            server.tainted = true;
        }
        let keeps_state =
            !self.session.pins.is_empty() || self.session.common.mode == PoolMode::Session;
        if open || keeps_state {
            let reset = keeps_state.then(|| self.reset_query());
            tokio::spawn(tidy_and_release(lease, current, open, reset));
        } else {
            release(lease, current, self.now);
        }
    }

    pub(super) fn reset_query(&self) -> String {
        self.shared.reset_query.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the replies still owed to requests that are complete, if they come soon: those
    /// would have been run without their client, too.
    async fn drain(&mut self, reason: &CloseReason) -> Drained {
        // One that was told to leave is not waited for until it has committed.
        let leaves = matches!(reason, CloseReason::ClientClosed | CloseReason::ClientLost);
        let has_moment = |session: &Session| leaves && session.has_moment();
        let Some(lease) = &mut self.lease else { return Drained::Nothing };
        let server = &lease.connection.server;
        // A Sync that is kept back until we know what it commits was sent, too.
        let unsynced = self.session.work.unsynced && !has_moment(&self.session);
        if unsynced || server.outstanding.is_empty() {
            return Drained::Nothing;
        }
        let connection = &mut *lease.connection;
        let session = &mut self.session;
        let mut out = Vec::new();
        let mut taken = 0;
        // It was sent; that others have to hear of it first is no affair of the client's, nor that
        // its commit is ours.
        let waits =
            |server: &Server, session: &Session| !server.holds.is_empty() || has_moment(session);
        let mut held = waits(&connection.server, session);
        let in_time =
            |held| tokio::time::Instant::now() + if held { HOLD_TIME } else { DRAIN_TIME };
        let mut deadline = in_time(held);
        while !connection.server.outstanding.is_empty() {
            // What came with its goodbye, and the end of a block that was put round its statement.
            let done = tokio::time::timeout_at(deadline, connection.send_or_read(READ_BYTES)).await;
            if held && !waits(&connection.server, session) {
                held = false;
                deadline = in_time(held);
            }
            let count = match done {
                Ok(Ok(None)) => continue,
                Ok(Ok(Some(count))) if count > 0 => count,
                Ok(Ok(Some(_)) | Err(_)) | Err(_) => return Drained::InVain,
            };
            let Connection { server, input, .. } = connection;
            taken += count;
            out.clear();
            let replies = session.replies(server, input, Instant::now(), &mut out);
            if replies.is_err() || taken > DRAIN_BYTES {
                return Drained::InVain;
            }
        }
        Drained::All
    }
}

/// What came of waiting for replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    /// None were owed, or none can be waited for.
    Nothing,
    All,
    InVain,
}

fn owes_nothing(server: &Server) -> bool {
    server.outstanding.is_empty() && server.to_server.is_empty() && server.partial == 0
}

/// Back to the pool, once no cancel is on its way to it.
pub(super) fn release(lease: Lease, current: Option<Arc<Link>>, now: Instant) {
    match current {
        Some(current) if current.has_cancel() => {
            tokio::spawn(async move {
                current.no_cancel().await;
                lease.release(Instant::now());
            });
        }
        Some(_) | None => lease.release(now),
    }
}

/// Ends an open transaction, sends the reset query if there is one, and gives the server back; on
/// any failure it is closed.
pub(super) async fn tidy_and_release(
    mut lease: Lease,
    current: Option<Arc<Link>>,
    open: bool,
    reset_query: Option<String>,
) {
    if let Some(current) = current {
        current.no_cancel().await;
    }
    let connection = &mut lease.connection;
    match tokio::time::timeout(RESET_TIMEOUT, tidy(connection, open, reset_query)).await {
        Ok(Ok(())) => lease.release(Instant::now()),
        Ok(Err(error)) => tracing::warn!(%error, "reset query failed, closing server"),
        Err(_elapsed) => tracing::warn!("reset query timed out, closing server"),
    }
}

async fn tidy(
    connection: &mut Connection,
    open: bool,
    reset_query: Option<String>,
) -> Result<(), ServerError> {
    if open {
        connection.query("ROLLBACK").await?;
    }
    let Some(reset_query) = reset_query else { return Ok(()) };
    if !reset_query.is_empty() && !reset_query.trim().eq_ignore_ascii_case(DISCARD_ALL) {
        connection.query(&reset_query).await?;
    }
    // Whatever the operator's own query does, the next client must not meet the last one's state.
    connection.query(DISCARD_ALL).await?;
    if let Some(beginning) = connection.server.beginning() {
        connection.query(&beginning).await?;
    }
    connection.server.forget_client();
    if let Some(group) = connection.server.home.group.clone() {
        // That let go of all locks.
        connection.take_lock(&group).await?;
    }
    Ok(())
}

const DISCARD_ALL: &str = "DISCARD ALL";
