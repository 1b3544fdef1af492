//! Bytes to the server: as far as they may go. What may commit waits until the group knows.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::sleep_until;

use super::io::Connection;

impl Connection {
    /// Writes what may be sent of `server.to_server`, as much as goes now, and gives how much that
    /// was; pending if it was nothing. As `Stream::poll_write_out`.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let end = self.may_go(cx);
        let Self { server, stream, written, .. } = self;
        let end = end.min(server.to_server.len());
        stream.poll_write_part(cx, &mut server.to_server, written, end)
    }

    /// How far the bytes may go.
    fn may_go(&mut self, cx: &mut Context<'_>) -> usize {
        while let Some(hold) = self.server.holds.front() {
            let at = match hold.commit.poll_leave(cx, Instant::now()) {
                Ok(()) => {
                    self.server.holds.pop_front();
                    self.hold_alarm = None;
                    continue;
                }
                Err(at) => at,
            };
            let from = hold.from;
            let Some(at) = at else { return from };
            let alarm = self.hold_alarm.insert(Box::pin(sleep_until(at.into())));
            if alarm.as_mut().poll(cx).is_pending() {
                return from;
            }
        }
        self.server.to_server.len()
    }

    /// Sends what may go, or else reads up to about `room` bytes of what has come: what may not go
    /// yet may wait for that. Gives how many were read; `None` if something was sent. Cancel-safe.
    pub async fn send_or_read(&mut self, room: usize) -> io::Result<Option<usize>> {
        poll_fn(|cx| {
            if !self.server.to_server.is_empty()
                && let Poll::Ready(sent) = self.poll_send(cx)
                && !matches!(sent, Ok(0))
            {
                return Poll::Ready(sent.map(|_count| None));
            }
            self.input.reserve(room);
            self.stream.poll_read(cx, &mut self.input).map_ok(Some)
        })
        .await
    }

    /// Sends all there is. Cancel-safe: what was written is not written again.
    pub async fn send_all(&mut self) -> io::Result<()> {
        while !self.server.to_server.is_empty() {
            // While nothing may go this is asked again by whoever gives leave, not at once.
            poll_fn(|cx| {
                let sent = self.poll_send(cx);
                if matches!(sent, Poll::Ready(Ok(0))) { Poll::Pending } else { sent }
            })
            .await?;
        }
        Ok(())
    }
}
