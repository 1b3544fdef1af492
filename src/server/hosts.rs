//! The hosts of one database: which of them is connected to, and what is known of them all.

use std::io;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::net::{Address, ConnectError, Stream, TlsClientConfig, connect};
use crate::wire::startup;

use super::io::ServerError;

/// The hosts of one database, in the order of its entry.
#[derive(Debug)]
pub struct Hosts {
    pub addresses: Box<[Address]>,
    /// Each new connection goes to the next; else to the one that answered last.
    pub round_robin: bool,
    next: AtomicUsize,
    /// How often connecting took too long. It may be for one address of a name.
    late: AtomicUsize,
    /// Held while hosts are tried whose order counts, so that one that is down is met once.
    trying: tokio::sync::Mutex<()>,
    /// One whose order counts has been left because it took too long.
    left: Notify,
    /// The newest minor version of the protocol that they have not refused.
    minor: AtomicU16,
}

impl Hosts {
    pub fn new(addresses: Box<[Address]>, round_robin: bool) -> Self {
        Self {
            addresses,
            round_robin,
            next: AtomicUsize::new(0),
            late: AtomicUsize::new(0),
            trying: tokio::sync::Mutex::default(),
            left: Notify::new(),
            minor: AtomicU16::new(startup::MINOR),
        }
    }

    /// The minor version of the protocol to try them with.
    pub(super) fn minor(&self) -> u16 {
        self.minor.load(Ordering::Relaxed)
    }

    /// They have refused it, but not the oldest.
    pub(super) fn speak_oldest(&self) {
        self.minor.store(0, Ordering::Relaxed);
    }

    /// Connects and logs in within this time. If that takes longer, wherever it hangs, the next
    /// attempt begins with the next host, or with the next address of a name.
    pub async fn within<T>(
        &self,
        limit: Duration,
        connecting: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let before = [&self.next, &self.late].map(|turn| (turn, turn.load(Ordering::Relaxed)));
        let connected = timeout(limit, connecting).await;
        if connected.is_err() {
            for (turn, value) in before {
                // Of those that hang at once one moves it.
                let _moved =
                    turn.compare_exchange(value, value + 1, Ordering::Relaxed, Ordering::Relaxed);
            }
            self.left.notify_waiters();
        }
        connected
    }

    /// The first that answers, from the one whose turn it is.
    pub(super) async fn connect(
        &self,
        tls: &TlsClientConfig,
    ) -> Result<(Stream, usize), ServerError> {
        let count = self.addresses.len().max(1);
        let ordered = !self.round_robin && count > 1;
        let _trying = if ordered { Some(self.trying.lock().await) } else { None };
        // All hosts have had their turn before another address has.
        let turn = self.late.load(Ordering::Relaxed) / count;
        let mut at = if self.round_robin {
            self.next.fetch_add(1, Ordering::Relaxed)
        } else {
            self.next.load(Ordering::Relaxed)
        };
        let mut failure = ServerError::Closed;
        for _ in 0..count {
            let host = at % count;
            let Some(address) = self.addresses.get(host) else { break };
            tokio::select! {
                connected = connect(address, turn, tls) => match connected {
                    Ok(stream) => return Ok((stream, host)),
                    Err(error) => {
                        tracing::info!(%address, %error, "closing because: {}", why(&error));
                        failure = ServerError::Connect(error);
                    }
                },
                () = self.is_left(at), if ordered => {
                    failure = ServerError::Io(io::ErrorKind::TimedOut.into());
                    at = self.next.load(Ordering::Relaxed);
                    continue;
                }
            }
            at += 1;
            if !self.round_robin {
                self.next.store(at, Ordering::Relaxed);
            }
        }
        Err(failure)
    }

    /// Resolves when others, who wait for this attempt, have found that it takes too long.
    async fn is_left(&self, at: usize) {
        loop {
            let left = self.left.notified();
            if self.next.load(Ordering::Relaxed) != at {
                return;
            }
            left.await;
        }
    }
}

/// In PgBouncer's words.
fn why(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Lookup(_) => "server DNS lookup failed",
        ConnectError::Io(_)
        | ConnectError::TlsRefused
        | ConnectError::Closed
        | ConnectError::UnexpectedAnswer(_)
        | ConnectError::BytesBeforeTls
        | ConnectError::ServerName(_)
        | ConnectError::Handshake(_) => "connect failed",
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    fn hosts(count: u16, round_robin: bool) -> Hosts {
        let addresses = (1..=count).map(|port| Address::new("127.0.0.1", port));
        Hosts::new(addresses.collect(), round_robin)
    }

    fn turns(hosts: &Hosts) -> [usize; 2] {
        [&hosts.next, &hosts.late].map(|turn| turn.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_host_that_takes_too_long_is_left_once_by_all_that_hang_there() {
        let hosts = hosts(2, false);
        let hang = || hosts.within(SOON, pending::<()>());
        let (one, other, _left) = tokio::join!(hang(), hang(), hosts.is_left(0));
        assert!(one.is_err() && other.is_err());
        assert_eq!(turns(&hosts), [1, 1]);
        assert!(hang().await.is_err());
        assert_eq!(turns(&hosts), [2, 2]);
    }

    #[tokio::test]
    async fn one_that_answers_in_time_is_kept_and_a_client_that_goes_leaves_none() {
        let hosts = hosts(2, false);
        assert!(hosts.within(SOON, async {}).await.is_ok());
        let abandoned = hosts.within(Duration::MAX, pending::<()>());
        assert!(timeout(SOON, abandoned).await.is_err());
        assert_eq!(turns(&hosts), [0, 0]);
    }
}
