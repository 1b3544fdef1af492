//! What comes in from the client: a buffer is there only while there is something to read into it.

use std::task::{Context, Poll};

use crate::client::spare::{self, READ_BYTES};
use crate::pool::io::Lease;

use super::Task;
use super::wait::Woken;

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
                self.count_received(count);
                self.take_output();
                Poll::Ready(Woken::Client)
            }
            Poll::Pending => {
                self.rest_if_idle();
                Poll::Pending
            }
        }
    }

    pub(super) fn count_received(&self, count: usize) {
        self.session.common.counters.received.add(count as u64);
        self.group.received.add(count as u64);
    }

    /// No room is held while nothing is under way.
    fn rest_if_idle(&mut self) {
        self.give_buffers();
        if self.input.is_empty() && self.out.is_empty() && self.lease.is_none() {
            self.session.work.rest();
        }
    }

    /// No buffer is held while there is nothing in it: whoever has something next takes it, and
    /// finds it in the processor's cache.
    pub(super) fn give_buffers(&mut self) {
        if self.input.is_empty() && self.input.capacity() > 0 {
            spare::give(std::mem::take(&mut self.input));
        }
        // A long answer goes on with the large buffer that it has.
        let streams = |lease: &Lease| lease.connection.server.reading.is_streaming();
        if self.out.is_empty()
            && self.out.capacity() > 0
            && !self.lease.as_ref().is_some_and(streams)
        {
            spare::give_output(std::mem::take(&mut self.out));
        }
    }

    /// Before something is written for the client.
    pub(super) fn take_output(&mut self) {
        if self.out.capacity() == 0 {
            self.out = spare::take_output();
        }
    }
}
