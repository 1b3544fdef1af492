//! A server as others than its client see it, and the cancels that are on their way to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use tokio::sync::Notify;

use crate::net::{Peer, Stream, connect_beside};
use crate::wire::startup::{self, Replication};

use super::Server;
use super::io::{ServerError, Target};

/// A server as others see it while a client has it, and the cancels that are on their way to it.
/// One a connection, so that handing it to a client costs nothing but a count.
pub struct Link {
    pub target: Arc<Target>,
    pub server_id: u64,
    /// Which of the target's hosts it is on.
    pub host: usize,
    pub pid: u32,
    pub key: Vec<u8>,
    pub replication: Replication,
    pub ends: Ends,
    pub connected_at: Instant,
    /// When its client got it.
    pub prepared_statements: AtomicUsize,
    cancels: AtomicUsize,
    /// Its backend runs queries of ours, in front of the client's statement.
    runs_ours: AtomicBool,
    /// One of the two has changed.
    changed: Notify,
    /// A cancel was given up that may still arrive.
    stray_cancel: AtomicBool,
}

/// A cancel on its way; counted until dropped.
pub struct Cancelling {
    link: Arc<Link>,
    /// It is not sent yet, has arrived, or never will.
    settled: bool,
}

/// Both ends of the connection, for people.
#[derive(Debug)]
pub struct Ends {
    peer: Option<Peer>,
    pub address: String,
    pub local: String,
    pub tls: Option<String>,
    /// Its descriptor in this process.
    pub fd: i32,
}

impl Link {
    /// Asks PostgreSQL, by a connection of its own, to cancel what this backend does.
    async fn cancel(&self) -> Result<(), ServerError> {
        let address = self.target.hosts.addresses.get(self.host).ok_or(ServerError::Closed)?;
        // Which nobody is refused for.
        let tls = self.target.tls.get().first_try();
        let peer = self.ends.peer.ok_or(ServerError::Closed)?;
        let stream = connect_beside(address, peer, &tls).await.map_err(ServerError::Connect)?;
        cancel(stream, self.pid, &self.key).await
    }

    pub(super) fn new(
        target: &Arc<Target>,
        host: usize,
        server: &Server,
        replication: Replication,
        ends: Ends,
    ) -> Self {
        Self {
            target: Arc::clone(target),
            host,
            replication,
            server_id: server.id,
            pid: server.pid,
            key: server.cancel_key.clone(),
            ends,
            connected_at: server.connected_at,
            prepared_statements: AtomicUsize::new(0),
            cancels: AtomicUsize::new(0),
            runs_ours: AtomicBool::new(false),
            changed: Notify::new(),
            stray_cancel: AtomicBool::new(false),
        }
    }

    /// Counts a cancel; the caller sees to it that the server is still the client's.
    pub fn begin_cancel(self: &Arc<Self>) -> Cancelling {
        self.cancels.fetch_add(1, Ordering::SeqCst);
        Cancelling { link: Arc::clone(self), settled: true }
    }

    /// Resolves when no cancel is on its way any more. Cancel-safe.
    pub async fn no_cancel(&self) {
        self.until(|| self.cancels.load(Ordering::SeqCst) == 0).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if holds() {
                return;
            }
            changed.await;
        }
    }

    /// Said by whoever has it, at each change: a cancel that stopped a query of ours would cost the
    /// client its server, so it waits for the client's own.
    pub fn set_runs_ours(&self, ours: bool) {
        if self.runs_ours.load(Ordering::Relaxed) != ours {
            self.runs_ours.store(ours, Ordering::SeqCst);
            self.changed.notify_waiters();
        }
    }

    pub fn has_cancel(&self) -> bool {
        self.cancels.load(Ordering::SeqCst) > 0
    }

    /// Whether a cancel that nobody waits for any more may still arrive.
    pub fn has_stray_cancel(&self) -> bool {
        self.stray_cancel.load(Ordering::SeqCst)
    }
}

impl Cancelling {
    /// The process id of the backend.
    pub fn pid(&self) -> u32 {
        self.link.pid
    }

    /// Returns when PostgreSQL has dealt with it. If it is not waited for until then it may arrive
    /// whenever it likes, so the server is not handed on.
    pub async fn send(mut self) -> Result<(), ServerError> {
        let link = &self.link;
        link.until(|| !link.runs_ours.load(Ordering::SeqCst)).await;
        self.settled = false;
        let sent = self.link.cancel().await;
        // Where there was no connection nothing was sent.
        self.settled = matches!(sent, Ok(()) | Err(ServerError::Connect(_)));
        sent
    }
}

impl Drop for Cancelling {
    fn drop(&mut self) {
        if !self.settled {
            self.link.stray_cancel.store(true, Ordering::SeqCst);
        }
        self.link.cancels.fetch_sub(1, Ordering::SeqCst);
        self.link.changed.notify_waiters();
    }
}

impl Ends {
    pub(super) fn of(stream: &Stream) -> Self {
        let text = |peer: std::io::Result<Peer>| {
            peer.map_or_else(|_| String::new(), |peer| peer.to_string())
        };
        Self {
            peer: stream.peer().ok(),
            address: text(stream.peer()),
            local: text(stream.local()),
            tls: stream.tls_description(),
            fd: stream.fd(),
        }
    }
}

/// Sends a cancel request by a connection of its own. Returns when PostgreSQL has closed it, that is
/// when the signal has been sent.
pub async fn cancel(mut stream: Stream, pid: u32, key: &[u8]) -> Result<(), ServerError> {
    stream.write_all(&startup::cancel_request(pid, key)).await?;
    let mut nothing = BytesMut::with_capacity(64);
    while stream.read(&mut nothing).await? > 0 {
        nothing.clear();
    }
    Ok(())
}
