//! What a client's task waits for, and is woken by: bytes from either side, room to write them, that it
//! has to leave, that its time is over.

use std::future::{Future as _, poll_fn};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

use crate::client::close::CloseReason;
use crate::client::deadline::Doing;
use crate::client::registry::Leave;
use crate::server::io::Connection;
use crate::server::reading::Reading;
use crate::wire::backend::Status;

use super::{BACKLOG_BYTES, Task, servers};

/// How long a group waits for its end. Far longer than it takes to send one in two packets, and
/// hardly felt by a client that waits for an error.
const GROUP_WAIT: Duration = Duration::from_millis(5);

/// What woke the task.
pub(super) enum Woken {
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
    /// Writes what there is to write and waits for something to happen.
    pub(super) async fn wait(&mut self) -> Woken {
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
}

/// With so much to be written the server is not read. What streams is read only into an empty
/// buffer, which costs no copy, and a slow reader then holds up no more than two reads.
fn backlog_bytes(reading: Reading) -> usize {
    if reading.is_streaming() { 1 } else { BACKLOG_BYTES }
}
