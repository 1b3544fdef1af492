//! A replication connection: bytes both ways between a client and the WAL sender it has for
//! itself, looked at by nobody. Not for anything that is pooled or cached.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};

use crate::metrics::PoolCounters;
use crate::net::Stream;
use crate::pool::io::Lease;

use super::close::CloseReason;
use super::registry::Entry;
use super::spare::READ_BYTES;

/// Which end of a way is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    From,
    To,
}

/// Until one of them hangs up or the operator says so; the server is closed then. `input` is what
/// the client has sent already, `out` what it is owed.
pub async fn run(
    mut stream: Stream,
    mut input: BytesMut,
    out: &[u8],
    mut lease: Lease,
    (entry, counters): (&Entry, &PoolCounters),
) -> CloseReason {
    let group = entry.called().group;
    let received = |count: usize| {
        counters.received.add(count as u64);
        group.received.add(count as u64);
    };
    let sent = |count: usize| {
        counters.sent.add(count as u64);
        group.sent.add(count as u64);
    };
    // Nobody counts what goes to servers and comes from them.
    let uncounted = |_count: usize| {};
    received(input.len());
    let connection = &mut *lease.connection;
    let mut output = BytesMut::from(out);
    output.extend_from_slice(&connection.input);
    poll_fn(|cx| {
        // It has no end of a transaction to wait for: whatever the reason, it goes at once.
        if let Poll::Ready(leave) = entry.poll_asked_to_leave(cx) {
            return Poll::Ready(leave.reason());
        }
        let down = (&uncounted, &sent);
        match poll_way(cx, &mut connection.stream, &mut output, &mut stream, down) {
            Poll::Ready(End::From) => return Poll::Ready(CloseReason::ServerLost),
            Poll::Ready(End::To) => return Poll::Ready(CloseReason::ClientLost),
            Poll::Pending => {}
        }
        let up = (&received, &uncounted);
        match poll_way(cx, &mut stream, &mut input, &mut connection.stream, up) {
            Poll::Ready(End::From) => Poll::Ready(CloseReason::ClientClosed),
            Poll::Ready(End::To) => Poll::Ready(CloseReason::ServerLost),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Moves all that can be moved, and tells how much was read and how much written. Nothing more is
/// read while something waits to be written.
fn poll_way(
    cx: &mut Context<'_>,
    from: &mut Stream,
    buffer: &mut BytesMut,
    to: &mut Stream,
    (read, wrote): (&impl Fn(usize), &impl Fn(usize)),
) -> Poll<End> {
    loop {
        while !buffer.is_empty() {
            match ready!(to.poll_write(cx, buffer)) {
                Ok(0) | Err(_) => return Poll::Ready(End::To),
                Ok(count) => {
                    wrote(count);
                    buffer.advance(count);
                }
            }
        }
        if ready!(to.poll_flush(cx)).is_err() {
            return Poll::Ready(End::To);
        }
        buffer.reserve(READ_BYTES);
        match ready!(from.poll_read(cx, buffer)) {
            Ok(0) | Err(_) => return Poll::Ready(End::From),
            Ok(count) => read(count),
        }
    }
}
