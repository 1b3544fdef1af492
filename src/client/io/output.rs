//! What goes out to the client: its buffer, and in the middle of it the rows of a large hit, which
//! are written from the cache's own memory.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::{CloseReason, Task};

impl Task {
    /// Writes as much as goes now, and gives how much that was; pending if it was nothing. As
    /// `Stream::poll_write_out`.
    pub(super) fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        if self.session.work.lent_rows.is_some() {
            match self.poll_lent_rows(cx, &mut taken) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if taken > 0 => return Poll::Ready(Ok(taken)),
                Poll::Pending => return Poll::Pending,
            }
        }
        match self.stream.poll_write_out(cx, &mut self.out, &mut self.written) {
            Poll::Pending if taken > 0 => Poll::Ready(Ok(taken)),
            wrote @ (Poll::Ready(_) | Poll::Pending) => wrote.map_ok(|count| taken + count),
        }
    }

    /// Up to the end of the rows that the cache lends, counting what the socket takes.
    fn poll_lent_rows(&mut self, cx: &mut Context<'_>, taken: &mut usize) -> Poll<io::Result<()>> {
        while let Some(lent) = &mut self.session.work.lent_rows {
            let before = self.out.get(self.written..lent.at).unwrap_or_default();
            let rows = lent.entry.rows().get(lent.written..).unwrap_or_default();
            let (piece, done) = if before.is_empty() {
                (rows, &mut lent.written)
            } else {
                (before, &mut self.written)
            };
            if piece.is_empty() {
                self.session.work.lent_rows = None;
                break;
            }
            match self.stream.poll_write(cx, piece) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    *done += count;
                    *taken += count;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what goes while the task waits for something else, so that a client that takes nothing
    /// keeps nobody from ending that. Ready only when the client is lost.
    pub(super) fn poll_owed(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        while self.stream.may_have_to_write(&self.out) || self.session.work.lent_rows.is_some() {
            match self.poll_output(cx) {
                Poll::Ready(Ok(count)) if count > 0 => self.count_sent(count),
                Poll::Ready(Ok(_)) | Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(CloseReason::ClientLost),
            }
        }
        self.note_owed();
        self.give_buffers();
        Poll::Pending
    }

    /// What this comes to; what the client is owed is sent meanwhile.
    pub(super) async fn sending<T>(
        &mut self,
        wanted: impl Future<Output = T>,
    ) -> Result<T, CloseReason> {
        let mut wanted = pin!(wanted);
        poll_fn(|cx| match wanted.as_mut().poll(cx) {
            Poll::Ready(came) => Poll::Ready(Ok(came)),
            Poll::Pending => self.poll_owed(cx).map(Err),
        })
        .await
    }

    /// For who wants to know whether the client is at rest while it waits.
    pub(super) fn note_owed(&self) {
        let owed = !self.out.is_empty() || self.session.work.lent_rows.is_some();
        self.entry.owed.store(owed, Ordering::Relaxed);
    }

    /// Waits until all of it is written.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if self.session.work.lent_rows.is_some()
            && let Some(lent) = self.session.work.lent_rows.take()
        {
            let before = self.out.get(self.written..lent.at).unwrap_or_default();
            let rows = lent.entry.rows().get(lent.written..).unwrap_or_default();
            self.count_sent(before.len() + rows.len());
            self.stream.write_all(before).await?;
            self.stream.write_all(rows).await?;
            self.written = lent.at;
        }
        let pending = self.out.get(self.written..).unwrap_or_default();
        let count = pending.len();
        let result = self.stream.write_all(pending).await;
        self.count_sent(count);
        self.out.clear();
        self.written = 0;
        result
    }

    pub(super) fn count_sent(&self, count: usize) {
        self.session.common.counters.sent.add(count as u64);
        self.group.sent.add(count as u64);
    }
}
