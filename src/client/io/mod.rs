//! The task of one client: moves bytes between its socket, its session and the server it has.
//! Decides nothing about statements; holds no buffer while nothing is under way.

mod begin;
mod finished;
mod input;
mod output;
mod reported;
mod servers;

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::time::{Sleep, sleep, timeout};

use crate::metrics::GroupCounters;
use crate::net::Stream;
use crate::pool::io::{Lease, Pool};
use crate::server::io::Connection;
use crate::server::reading::Reading;
use crate::service::{Away, Service};
use crate::wire::backend::Status;
use crate::wire::frame;
use crate::wire::frontend;

pub use begin::Beginning;
pub use reported::{login_patience, reported};
pub use servers::{WAIT_NOTICE, at, client_gone, close_reason};

use super::close::CloseReason;
use super::deadline::Doing;
use super::look_up::Answer;
use super::registry::{Entry, Leave};
use super::replies::ServerFault;
use super::session::{Session, Taken};
use super::{Shared, statistics};

/// Above it the other side is not read until this one has taken some.
const BACKLOG_BYTES: usize = 256 * 1024;

/// How often a group of messages waits for something before it is sent on, whatever it would wait for
/// next: the catalogue may go on changing.
const WAITS_MAX: usize = 8;

/// How long a statement waits for the catalogue to be read after DDL.
const CATALOG_WAIT: Duration = Duration::from_millis(250);

/// Leaving a database takes no round trip, so this is long.
const VACATE_TIMEOUT: Duration = Duration::from_secs(1);

/// A client that does not take what it is told at the end by then does not hear it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a group waits for its end. Far longer than it takes to send one in two packets, and
/// hardly felt by a client that waits for an error.
const GROUP_WAIT: Duration = Duration::from_millis(5);

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

/// What woke the task.
enum Woken {
    Client,
    ClientGone,
    Server,
    ServerGone,
    /// Something was written.
    Wrote,
    /// Messages have waited long enough for the end of their group.
    GroupWaited,
    Leave(Leave),
    /// It has taken too long.
    Expired(CloseReason),
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

    async fn answer_or_send(&mut self) -> Result<(), CloseReason> {
        let mut answer = self.answer();
        for _ in 0..WAITS_MAX {
            // What waits seldom is boxed: every idle client has room for what is not.
            answer = match answer {
                // Once a group of messages.
                Answer::AwaitCatalog => {
                    Box::pin(self.service.catalog_read(CATALOG_WAIT)).await;
                    self.answer()
                }
                // A few times.
                Answer::AskGroup => Box::pin(self.ask_group()).await?,
                // Once.
                Answer::AskRedis => Box::pin(self.ask_redis()).await?,
                Answer::AwaitFill => Box::pin(self.await_fill()).await?,
                Answer::Done | Answer::Refuse(_) | Answer::Send | Answer::SendIfFree => break,
            };
        }
        match answer {
            Answer::Done => return Ok(()),
            Answer::Refuse(pin) => return Err(CloseReason::PinRefused(pin)),
            Answer::Send
            | Answer::AwaitCatalog
            | Answer::AskGroup
            | Answer::AskRedis
            | Answer::AwaitFill => {
                return self.send_group().await;
            }
            Answer::SendIfFree => {
                // PgBouncer counts whatever has an answer of its own.
                self.session.common.counters.query.one();
                if self.lease.is_none() {
                    let Some(lease) = self.pool.try_acquire(self.now) else {
                        self.session.accept_parse(&mut self.out);
                        return Ok(());
                    };
                    self.take_lease(lease);
                }
            }
        }
        self.send_group().await
    }

    fn answer(&mut self) -> Answer {
        self.entry.note_request(self.now);
        let server = self.lease.as_ref().map(|lease| &lease.connection.server);
        self.session.answer(server, self.now, &mut self.out)
    }

    /// Asks the group, no longer than a look into Redis may take; the client is read no further
    /// meanwhile, and what it is owed already is sent.
    async fn ask_group(&mut self) -> Result<Answer, CloseReason> {
        let holds = match self.session.check() {
            Some((check, limit)) => {
                let answered = self.sending(poll_fn(|cx| check.poll(cx)));
                timeout(limit, answered).await.unwrap_or(Ok(false))?
            }
            None => false,
        };
        self.take_output();
        self.now = Instant::now();
        Ok(self.session.answer_checked(holds, self.now, &mut self.out))
    }

    /// Looks in Redis, no longer than `redis.timeout`; the client is read no further meanwhile, and
    /// what it is owed already is sent.
    async fn ask_redis(&mut self) -> Result<Answer, CloseReason> {
        let common = Arc::clone(&self.session.common);
        let found = match &common.cache.redis {
            Some(redis) => {
                let home = common.database.home();
                let key = std::mem::take(&mut self.session.work.key);
                let found = self.sending(redis.look_up(&key, &home)).await;
                self.session.work.key = key;
                found?
            }
            None => None,
        };
        self.take_output();
        self.now = Instant::now();
        Ok(self.session.answer_again(found, self.now, &mut self.out))
    }

    /// Sends the group on, after waiting for a server if there is none yet.
    async fn send_group(&mut self) -> Result<(), CloseReason> {
        if self.lease.is_none()
            && let Err(reason) = self.acquire().await
        {
            self.session.unsent(reason.class(), Instant::now());
            return Err(reason);
        }
        if self.entry.own && !self.session.would_keep_answer() {
            // It is not asked, which is nobody's failure.
            self.session.work.noted = None;
            return Err(CloseReason::NotKept);
        }
        if let Some(lease) = &mut self.lease {
            let server = &mut lease.connection.server;
            if self.session.asks(server, self.now) {
                return Ok(());
            }
            self.session.dispatch(server, self.now);
            lease.connection.link.set_runs_ours(server.outstanding.runs_ours());
        }
        if !self.session.work.vacate.is_empty() {
            Box::pin(self.vacate()).await;
        }
        Ok(())
    }

    /// Leaves the databases that what was dispatched wants to have for itself. Should that take
    /// too long, PostgreSQL says who is still there.
    async fn vacate(&mut self) {
        for name in std::mem::take(&mut self.session.work.vacate) {
            if let Some(vacate) = self.shared.vacate.get() {
                self.away.extend(vacate(&self.pool.target, &name));
            }
        }
        for away in &self.away {
            let _late = timeout(VACATE_TIMEOUT, away.is_gone()).await;
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

    /// Writes what there is to write and waits for something to happen.
    async fn wait(&mut self) -> Woken {
        poll_fn(|cx| {
            // Only who has nothing to do sleeps, and has to listen.
            let listens = self.entry.is_asked_to_leave() || self.is_suspended();
            if !listens && let Poll::Ready(event) = self.poll_event(cx) {
                return Poll::Ready(event);
            }
            if let Poll::Ready(leave) = self.entry.poll_asked_to_leave(cx) {
                return Poll::Ready(Woken::Leave(leave));
            }
            // Looked at once it listens, so that no change goes unheard.
            if self.is_suspended() {
                return self.poll_suspended(cx);
            }
            if listens && let Poll::Ready(event) = self.poll_event(cx) {
                return Poll::Ready(event);
            }
            self.poll_deadline(cx).map(Woken::Expired)
        })
        .await
    }

    fn is_suspended(&self) -> bool {
        self.shared.suspended.load(Ordering::Relaxed)
    }

    /// Writes what there is and reads nothing. `Entry::wake` ends it.
    fn poll_suspended(&mut self, cx: &mut Context<'_>) -> Poll<Woken> {
        let mut at_rest = true;
        if let Some(lease) = &mut self.lease {
            let connection = &mut *lease.connection;
            match connection.poll_send(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Woken::ServerGone),
                Poll::Ready(Ok(_)) | Poll::Pending => {
                    at_rest &= connection.server.to_server.is_empty();
                }
            }
        }
        match self.poll_output(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(Woken::ClientGone),
            Poll::Ready(Ok(count)) => self.count_sent(count),
            Poll::Pending => {}
        }
        self.entry.at_rest.store(at_rest && self.out.is_empty(), Ordering::Relaxed);
        Poll::Pending
    }

    /// Ready when the client has to go for the time it has taken. The clock is not read, and no
    /// timer moved, while no time-out is set, or while one only moves further away.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let timeouts = self.entry.timeouts.get_any();
        let kept_back = self.session.work.transaction.kept_back.as_ref();
        if timeouts.is_none() && kept_back.is_none() {
            return Poll::Pending;
        }
        let began = self.transaction_began.unwrap_or(self.now);
        let of_postgres = kept_back.and_then(|kept| kept.patience.deadline(began, self.now));
        let ours = timeouts.and_then(|timeouts| timeouts.deadline(&self.doing(), self.now));
        let Some((at, reason)) = ours.into_iter().chain(of_postgres).min_by_key(|(at, _)| *at)
        else {
            self.alarm = None;
            return Poll::Pending;
        };
        servers::poll_alarm(&mut self.alarm, at, cx).map(|()| reason)
    }

    fn doing(&mut self) -> Doing {
        let server = self.lease.as_ref().map(|lease| &lease.connection.server);
        let owed = server.is_some_and(|server| !server.outstanding.is_empty());
        self.answer_owed = owed.then(|| self.answer_owed.unwrap_or(self.now));
        let kept_back = self.session.work.transaction.kept_back.is_some();
        let in_transaction = server.is_some_and(|server| server.status != Status::Idle)
            || self.session.work.unsynced
            || kept_back;
        Doing {
            has_server: server.is_some() || kept_back,
            answer_owed: self.answer_owed,
            transaction: in_transaction.then(|| self.transaction_began.unwrap_or(self.now)),
        }
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

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Woken> {
        let mut wrote = false;
        let was_full = self.is_full();
        if let Some(lease) = &mut self.lease {
            let connection = &mut *lease.connection;
            let to_server = &connection.server.to_server;
            if connection.stream.may_have_to_write(to_server) {
                match connection.poll_send(cx) {
                    Poll::Ready(Err(_)) => return Poll::Ready(Woken::ServerGone),
                    Poll::Ready(Ok(count)) => wrote |= count > 0,
                    Poll::Pending => {}
                }
            }
        }
        if self.stream.may_have_to_write(&self.out) || self.session.work.lent_rows.is_some() {
            match self.poll_output(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Woken::ClientGone),
                Poll::Ready(Ok(0)) | Poll::Pending => {}
                Poll::Ready(Ok(count)) => {
                    wrote = true;
                    self.count_sent(count);
                }
            }
        }
        if let Some(lease) = &mut self.lease
            && self.out.len() < backlog_bytes(lease.connection.server.reading)
            // What has been sent just now is not answered yet, most likely.
            && !(wrote && lease.connection.stream.poll_read_ready(cx).is_pending())
        {
            let Connection { server, stream, input, .. } = &mut *lease.connection;
            let room = server.reading.make_room(input);
            match stream.poll_read(cx, input) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Woken::ServerGone),
                Poll::Ready(Ok(count)) => {
                    server.reading.read(count, room);
                    return Poll::Ready(Woken::Server);
                }
                Poll::Pending => {}
            }
        }
        let room = self.to_server_len() < BACKLOG_BYTES
            && self.out.len() < BACKLOG_BYTES
            && self.session.work.lent_rows.is_none()
            && (self.session.takes_messages() || self.input.len() < BACKLOG_BYTES);
        if room && self.session.hears_client() {
            let waits = wrote || self.lease.is_some();
            match self.poll_client(cx, waits) {
                Poll::Ready(event) => return Poll::Ready(event),
                Poll::Pending => {}
            }
        }
        if self.poll_group_wait(cx).is_ready() {
            return Poll::Ready(Woken::GroupWaited);
        }
        // With room again, messages that wait in the buffer can be taken; with all of them sent,
        // the server may be done with. Else a write changes nothing.
        if wrote && (was_full && !self.is_full() || self.may_release()) {
            Poll::Ready(Woken::Wrote)
        } else {
            Poll::Pending
        }
    }

    /// PostgreSQL answers a message when it comes, an error above all, and some clients wait for
    /// that before they send Sync. So messages without their Sync or Flush are sent when no more
    /// have come for a moment; at once if no look-up is possible any more.
    fn poll_group_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.session.work.group.is_empty() || self.is_full() {
            return Poll::Pending;
        }
        let server = self.lease.as_ref().map(|lease| &lease.connection.server);
        if !self.session.is_owed_nothing(server) {
            return Poll::Ready(());
        }
        let wait = self.group_wait.get_or_insert_with(|| Box::pin(sleep(GROUP_WAIT)));
        wait.as_mut().poll(cx)
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

/// With so much to be written the server is not read. What streams is read only into an empty
/// buffer, which costs no copy, and a slow reader then holds up no more than two reads.
fn backlog_bytes(reading: Reading) -> usize {
    if reading.is_streaming() { 1 } else { BACKLOG_BYTES }
}
