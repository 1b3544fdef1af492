//! The task of one client: moves bytes between its socket, its session and the server it has.
//! Decides nothing about statements; holds no buffer while nothing is under way.

mod answer;
mod begin;
mod finished;
mod input;
mod output;
mod reported;
mod servers;
mod wait;

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::time::{Sleep, timeout};

use crate::metrics::GroupCounters;
use crate::net::Stream;
use crate::pool::io::{Lease, Pool};
use crate::server::io::Connection;
use crate::service::{Away, Service};
use crate::wire::frame;
use crate::wire::frontend;

pub use begin::Beginning;
pub use reported::{login_patience, reported};
pub use servers::{WAIT_NOTICE, at, client_gone, close_reason};

use super::close::CloseReason;
use super::registry::{Entry, Leave};
use super::replies::ServerFault;
use super::session::{Session, Taken};
use super::{Shared, statistics};
use wait::Woken;

/// Above it the other side is not read until this one has taken some.
const BACKLOG_BYTES: usize = 256 * 1024;

/// A client that does not take what it is told at the end by then does not hear it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// One client and all it has.
pub struct Task {
    pub stream: Stream,
    pub input: BytesMut,
    /// Bytes for the client, and how many of them it has taken.
    pub out: Vec<u8>,
    pub written: usize,
    pub session: Box<Session>,
    pub pool: Arc<Pool>,
    pub entry: Arc<Entry>,
    /// As the entry has it: counted in at each turn, so found without its lock.
    pub group: Arc<GroupCounters>,
    pub service: Arc<Service>,
    pub shared: Arc<Shared>,
    pub lease: Option<Lease>,
    /// It has to go as soon as it has no server.
    pub leaving: Option<Leave>,
    /// When what is being handled arrived: the clock is read once for each time the task wakes.
    pub now: Instant,
    /// When the first statement of the transaction under way arrived.
    pub transaction_began: Option<Instant>,
    /// Since when the server owes an answer, as far as anybody wants to know.
    pub answer_owed: Option<Instant>,
    /// Wakes the task at its deadline or before; `None` while there is none.
    pub alarm: Option<Pin<Box<Sleep>>>,
    /// Until when messages wait for the Sync or Flush that they belong to.
    pub group_wait: Option<Pin<Box<Sleep>>>,
    /// Keeps our own questions out of databases until a statement about those is over.
    pub away: Vec<Away>,
}

impl Task {
    /// Serves the client until it leaves or must. Then `part` tells it why, once that is logged:
    /// who has heard it looks there.
    pub async fn run(&mut self) -> CloseReason {
        // What it sent behind the messages of its login.
        self.count_received(self.input.len());
        match self.serve().await {
            Ok(reason) | Err(reason) => reason,
        }
    }

    pub async fn part(&mut self, reason: &CloseReason) {
        // In the middle of a row nothing can be said any more.
        let in_row = self.lease.as_ref().is_some_and(|lease| {
            lease.connection.server.partial > 0 && lease.connection.server.partial_forward
        });
        self.leave_server(reason).await;
        self.now = Instant::now();
        self.report();
        statistics::take_burst(&self.shared.insight, &self.entry, self.now, true);
        if !in_row && (*reason != CloseReason::ServerLost || !self.session.told_fatal) {
            reason.tell(&mut self.out);
        }
        // The client is leaving: what it does not take is lost, and that is all.
        let _told = timeout(FAREWELL_TIMEOUT, self.flush()).await;
    }

    async fn serve(&mut self) -> Result<CloseReason, CloseReason> {
        loop {
            if let Some(leave) = self.leaving
                && (self.lease.is_none() || self.may_leave_fast(leave))
            {
                return Ok(leave.reason());
            }
            if let Some(reason) = self.take_messages().await? {
                return Ok(reason);
            }
            self.report();
            self.release_if_done();
            let woken = self.wait().await;
            self.now = Instant::now();
            self.group_wait = None;
            match woken {
                Woken::Client | Woken::Wrote => {}
                Woken::ClientGone => {
                    let owed = self
                        .lease
                        .as_ref()
                        .is_some_and(|lease| !lease.connection.server.outstanding.is_empty());
                    return Ok(if owed || !self.session.work.group.is_empty() {
                        CloseReason::ClientLost
                    } else {
                        CloseReason::ClientClosed
                    });
                }
                Woken::GroupWaited => self.answer_or_send().await?,
                Woken::Server => {
                    self.take_replies()?;
                    if self.session.goes_on() {
                        self.send_group().await?;
                    }
                }
                Woken::ServerGone => return Err(CloseReason::ServerLost),
                Woken::Leave(leave) if leave.at_once() => return Ok(leave.reason()),
                Woken::Leave(leave) => self.leaving = Some(leave),
                Woken::Expired(reason) => {
                    self.cancel_statement();
                    return Err(reason);
                }
            }
        }
    }

    /// Takes every whole message there is, answering or sending on as it goes.
    async fn take_messages(&mut self) -> Result<Option<CloseReason>, CloseReason> {
        let message_max = self.session.common.limits.message_bytes_max();
        let mut collects = false;
        loop {
            // What is only collected is to be written nowhere yet.
            if !collects && self.is_full() {
                return Ok(None);
            }
            collects = false;
            let header = match frame::header(&self.input, message_max) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(None),
                Err(frame::FrameError::LengthTooLarge { tag, .. }) => {
                    return Err(CloseReason::MessageTooLarge { tag });
                }
                Err(frame::FrameError::LengthTooSmall { tag }) => {
                    return Err(CloseReason::MalformedMessage { tag });
                }
            };
            let Some(message) = self.input.get(..header.total) else {
                // The buffer grows with what arrives, not with what was announced.
                return Ok(None);
            };
            if matches!(header.tag, frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL)
            {
                if !self.session.work.group.is_empty() {
                    // What began the copy was not followed by Sync or Flush; it goes first.
                    self.send_group().await?;
                }
                let message = self.input.get(..header.total).unwrap_or_default();
                // Outside a copy PostgreSQL ignores them, so without a server we do.
                if let Some(lease) = &mut self.lease {
                    let server = &mut lease.connection.server;
                    if header.tag != frontend::COPY_DATA {
                        server.outstanding.copy_ends();
                    }
                    server.to_server.extend_from_slice(message);
                }
                self.input.advance(header.total);
                continue;
            }
            let taken = self.session.take(header.tag, message);
            self.input.advance(header.total);
            match taken {
                Taken::More => collects = true,
                Taken::Close(reason) => return Ok(Some(reason)),
                Taken::GroupReady => self.answer_or_send().await?,
            }
        }
    }

    fn take_replies(&mut self) -> Result<(), CloseReason> {
        self.take_output();
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let Connection { server, input, link, .. } = &mut *lease.connection;
        let replies = self.session.replies(server, input, self.now, &mut self.out);
        link.set_runs_ours(server.outstanding.runs_ours());
        replies.map_err(|fault| {
            if fault == ServerFault::TransactionBlock {
                return CloseReason::TransactionBlock;
            }
            tracing::warn!(server_id = server.id, ?fault, "server broke the protocol");
            CloseReason::ServerLost
        })?;
        if server.outstanding.is_empty() {
            server.reading.rest(input);
            self.away.clear();
        }
        if let Some(name) = self.session.work.renamed.take() {
            statistics::end_burst(&self.shared.insight, &self.entry, self.now);
            self.group = self.shared.registry.rename(&self.entry, &name);
        }
        self.report();
        self.release_if_done();
        Ok(())
    }

    /// A server that is to be closed is not kept for its client between transactions, if that is
    /// wanted.
    fn may_leave_fast(&self, leave: Leave) -> bool {
        let idle =
            |lease: &Lease| lease.connection.server.is_clean() && !self.session.work.unsynced;
        leave == Leave::Reconfigured
            && self.shared.fast_close.load(Ordering::Relaxed)
            && self.session.work.group.is_empty()
            && self.lease.as_ref().is_some_and(idle)
    }

    /// So much waits to be written that nothing more is taken from the client.
    fn is_full(&self) -> bool {
        self.to_server_len() > BACKLOG_BYTES
            || self.out.len() > BACKLOG_BYTES
            || self.session.work.lent_rows.is_some()
            || !self.session.takes_messages()
    }

    fn may_release(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| self.session.may_release(&lease.connection.server))
    }

    fn to_server_len(&self) -> usize {
        self.lease.as_ref().map_or(0, |lease| lease.connection.server.to_server.len())
    }

    fn show(&self, change: impl FnOnce(&mut super::registry::Shown)) {
        change(&mut self.entry.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
