//! How a client's task gets its server, and gives it back between transactions.

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::time::{Sleep, sleep_until, timeout};

use crate::client::close::CloseReason;
use crate::client::parting::{release, tidy_and_release};
use crate::client::spare::READ_BYTES;
use crate::client::statistics;
use crate::net::Stream;
use crate::pool::failure::Failure;
use crate::pool::io::{AcquireError, Lease, Next};
use crate::server::io::ServerError;
use crate::server::login::LoginError;
use crate::wire::backend;

use super::{BACKLOG_BYTES, Task};

const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// In PgBouncer's words.
pub const WAIT_NOTICE: &str =
    "No server connection available in postgres backend, client being queued";

impl Task {
    /// Waits in line for a server; what the client is owed already is sent meanwhile.
    pub(super) async fn acquire(&mut self) -> Result<(), CloseReason> {
        if let Some(lease) = self.pool.try_acquire(self.now) {
            self.take_lease(lease);
            return Ok(());
        }
        self.give_buffers();
        self.note_owed();
        let began = self.now;
        self.show(|shown| shown.waiting_since = Some(began));
        let mut next = self.pool.next(began);
        if let Next::Line(line) = &mut next
            && self.pool.rules().reserve_at(began).is_none()
        {
            next = self.wait_for(pin!(poll_fn(|cx| line.poll_next(cx))), began).await?;
        }
        // The statement is sent when its wait is over, which the slow log tells apart.
        self.now = Instant::now();
        let acquired = match self.pool.take_up(next, self.now) {
            Ok(lease) => lease,
            // What happens seldom is boxed: every idle client has room for what is not.
            Err(next) => Box::pin(self.acquire_slowly(next, began)).await?,
        };
        self.show(|shown| shown.waiting_since = None);
        let waited = statistics::micros(self.now.saturating_duration_since(began));
        self.session.common.counters.wait_time.add(waited);
        self.group.wait_time.add(waited);
        self.take_lease(acquired);
        Ok(())
    }

    async fn acquire_slowly(&mut self, next: Next, began: Instant) -> Result<Lease, CloseReason> {
        let pool = Arc::clone(&self.pool);
        let acquired = self.wait_for(pin!(pool.acquire_next(next, began)), began).await?;
        self.now = Instant::now();
        let why = || self.entry.timeouts.get().wait_deadline(began).map(|(_, reason)| reason);
        acquired.map_err(|error| close_reason(&error, why()))
    }

    /// Waits for what brings a server, as one who began to at this moment: no longer than its
    /// time-outs allow, and only while the client is there and wants it.
    async fn wait_for<T>(
        &mut self,
        mut wanted: Pin<&mut impl Future<Output = T>>,
        began: Instant,
    ) -> Result<T, CloseReason> {
        let timeouts = self.entry.timeouts.get();
        let (until, mut expired) = timeouts.wait_deadline(began).unzip();
        let mut notice_at = timeouts.wait_notice.and_then(|after| began.checked_add(after));
        loop {
            let at = until.into_iter().chain(notice_at).min();
            let happened = {
                let entry = Arc::clone(&self.entry);
                let mut cancelled = pin!(entry.cancelled.notified());
                poll_fn(|cx| {
                    if let Poll::Ready(come) = wanted.as_mut().poll(cx) {
                        return Poll::Ready(Ok(Some(come)));
                    }
                    if let Poll::Ready(lost) = self.poll_owed(cx) {
                        return Poll::Ready(Err(lost));
                    }
                    if self.poll_gone(cx).is_ready() {
                        return Poll::Ready(Err(CloseReason::ClientLost));
                    }
                    if let Poll::Ready(leave) = entry.poll_asked_to_leave(cx) {
                        return Poll::Ready(Err(leave.reason()));
                    }
                    if cancelled.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Err(CloseReason::CancelledWaiting));
                    }
                    match at {
                        Some(at) => poll_alarm(&mut self.alarm, at, cx).map(|()| Ok(None)),
                        None => Poll::Pending,
                    }
                })
                .await
            };
            if let Some(come) = happened? {
                return Ok(come);
            }
            if at == until {
                return Err(expired.take().unwrap_or(CloseReason::QueryWaitTimeout));
            }
            notice_at = None;
            self.take_output();
            backend::write_notice(&mut self.out, WAIT_NOTICE);
        }
    }

    /// Reads on meanwhile, up to a bound.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let before = self.input.len();
        let gone = poll_client_gone(&mut self.stream, &mut self.input, cx);
        let count = self.input.len().saturating_sub(before);
        if count > 0 {
            self.count_received(count);
        }
        gone
    }

    pub fn take_lease(&mut self, mut lease: Lease) {
        self.session.adopt(&mut lease.connection.server);
        let connection = &lease.connection;
        let prepared = connection.server.statements.len();
        connection.link.prepared_statements.store(prepared, Ordering::Relaxed);
        connection.link.set_runs_ours(connection.server.outstanding.runs_ours());
        self.entry.set_current(Some(Arc::clone(&connection.link)));
        self.session.common.counters.server_assignment.one();
        self.lease = Some(lease);
    }

    pub(super) fn release_if_done(&mut self) {
        if self.may_release()
            && let Some(lease) = self.lease.take()
        {
            self.session.tainted = false;
            self.session.base = None;
            let current = self.entry.take_current();
            if self.shared.reset_always.load(Ordering::Relaxed) {
                tokio::spawn(tidy_and_release(lease, current, false, Some(self.reset_query())));
            } else {
                release(lease, current, self.now);
            }
        }
    }

    /// Has PostgreSQL stop what nobody waits for any more; closing the connection would not.
    pub(super) fn cancel_statement(&self) {
        if self.answer_owed.is_none() {
            return;
        }
        // Counted, as its server may be another client's soon.
        let Some(cancelling) = self.entry.begin_cancel() else { return };
        tokio::spawn(async move {
            // Without it the statement runs to its end.
            let _sent = timeout(CANCEL_TIMEOUT, cancelling.send()).await;
        });
    }
}

/// Resolves at a moment, or never.
pub async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => pending().await,
    }
}

/// Ready at this moment. The timer is moved only to ring earlier, or when it has rung too early:
/// most moments never come.
pub(super) fn poll_alarm(
    alarm: &mut Option<Pin<Box<Sleep>>>,
    at: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let alarm = match alarm {
        Some(alarm) => {
            if alarm.deadline() > at.into() {
                alarm.as_mut().reset(at.into());
            }
            alarm
        }
        none => none.insert(Box::pin(sleep_until(at.into()))),
    };
    while alarm.as_mut().poll(cx).is_ready() {
        if alarm.deadline() >= at.into() {
            return Poll::Ready(());
        }
        alarm.as_mut().reset(at.into());
    }
    Poll::Pending
}

/// Resolves when the client is gone; reads on meanwhile, up to a bound, so that its end can be
/// seen. Cancel-safe.
pub async fn client_gone(stream: &mut Stream, input: &mut BytesMut) {
    poll_fn(|cx| poll_client_gone(stream, input, cx)).await;
}

fn poll_client_gone(stream: &mut Stream, input: &mut BytesMut, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        if input.len() > BACKLOG_BYTES || stream.poll_read_ready(cx).is_pending() {
            return Poll::Pending;
        }
        input.reserve(READ_BYTES);
        match stream.poll_read(cx, input) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(_)) => {}
        }
    }
}

/// `expired`: why, if it was for the time.
pub fn close_reason(error: &AcquireError, expired: Option<CloseReason>) -> CloseReason {
    match error {
        AcquireError::Stopping => CloseReason::Stopping,
        AcquireError::Timeout => expired.unwrap_or(CloseReason::QueryWaitTimeout),
        AcquireError::Server(ServerError::Login(LoginError::Refused { sqlstate, message }))
        | AcquireError::Failed(Some(Failure { sqlstate: Some(sqlstate), message, .. })) => {
            CloseReason::ServerLogin { sqlstate: sqlstate.clone(), message: message.clone() }
        }
        AcquireError::Server(error) => CloseReason::ServerUnreachable(error.to_string()),
        AcquireError::Failed(Some(Failure { sqlstate: None, message, .. })) => {
            CloseReason::ServerUnreachable(message.clone())
        }
        AcquireError::Failed(failure) | AcquireError::Failing(failure) => match failure {
            Some(failure) => CloseReason::ServerFailing {
                sqlstate: failure.sqlstate.clone(),
                message: failure.message.clone(),
            },
            // It has just succeeded for somebody else.
            None => CloseReason::ServerUnreachable("try again".into()),
        },
    }
}
