//! The hosts of one database: which of them is connected to, and what is known of them all.

use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

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
    /// Held while hosts are tried whose order counts, so that one that is down is met once.
    trying: tokio::sync::Mutex<()>,
    /// The newest minor version of the protocol that they have not refused.
    minor: AtomicU16,
}

impl Hosts {
    pub fn new(addresses: Box<[Address]>, round_robin: bool) -> Self {
        Self {
            addresses,
            round_robin,
            next: AtomicUsize::new(0),
            trying: tokio::sync::Mutex::default(),
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

    /// The first that answers, from the one whose turn it is.
    pub(super) async fn connect(
        &self,
        tls: &TlsClientConfig,
    ) -> Result<(Stream, usize), ServerError> {
        let count = self.addresses.len().max(1);
        let ordered = !self.round_robin && count > 1;
        let _trying = if ordered { Some(self.trying.lock().await) } else { None };
        let mut at = if self.round_robin {
            self.next.fetch_add(1, Ordering::Relaxed)
        } else {
            self.next.load(Ordering::Relaxed)
        };
        let mut failure = ServerError::Closed;
        for _ in 0..count {
            let host = at % count;
            let Some(address) = self.addresses.get(host) else { break };
            match connect(address, tls).await {
                Ok(stream) => return Ok((stream, host)),
                Err(error) => {
                    tracing::info!(%address, %error, "closing because: {}", why(&error));
                    failure = ServerError::Connect(error);
                }
            }
            at += 1;
            if !self.round_robin {
                self.next.store(at, Ordering::Relaxed);
            }
        }
        Err(failure)
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
