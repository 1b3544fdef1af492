//! What comes in from the client: a buffer is there only while there is something to read into it.

use std::task::{Context, Poll};

use crate::client::spare::{self, READ_BYTES};

use super::{Task, Woken};

/// With less room left in the buffer, reading would cost more calls than it saves.
const READ_BYTES_MIN: usize = 1024;

impl Task {
    /// `waits`: it is the client's turn to wait, or to think, so that nothing has come most likely,
    /// and no buffer is wanted.
    pub(super) fn poll_client(&mut self, cx: &mut Context<'_>, waits: bool) -> Poll<Woken> {
        if waits && self.stream.poll_read_ready(cx).is_pending() {
            self.rest_if_idle();
            return Poll::Pending;
        }
        if self.input.capacity() == 0 {
            self.input = spare::take();
        } else if self.input.capacity() - self.input.len() < READ_BYTES_MIN {
            self.input.reserve(READ_BYTES);
        }
        match self.stream.poll_read(cx, &mut self.input) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Woken::ClientGone),
            Poll::Ready(Ok(count)) => {
                self.session.common.counters.received.add(count as u64);
                self.entry.group.received.add(count as u64);
                if self.out.capacity() == 0 {
                    self.out = spare::take_output();
                }
                Poll::Ready(Woken::Client)
            }
            Poll::Pending => {
                self.rest_if_idle();
                Poll::Pending
            }
        }
    }

    /// No buffer is held while there is nothing to read into it, and no room while nothing is
    /// under way.
    fn rest_if_idle(&mut self) {
        if !self.input.is_empty() {
            return;
        }
        if self.input.capacity() > 0 {
            spare::give(std::mem::take(&mut self.input));
        }
        if self.out.is_empty() && self.lease.is_none() {
            spare::give_output(std::mem::take(&mut self.out));
            self.session.work.rest();
        }
    }
}
