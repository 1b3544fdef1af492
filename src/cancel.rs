//! Cancel requests: to the server of one of our clients, or on to the peer whose client it is.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::client::cancel_key::{Route, route};
use crate::gateway::Gateway;
use crate::net::Address;
use crate::server::link::cancel;

/// Performs one, and returns when whoever it was for has dealt with it.
pub async fn request(gateway: &Arc<Gateway>, pid: u32, key: &[u8]) {
    match route(gateway.config().listen.peer_id, pid, key) {
        Route::Here(key) => here(gateway, pid, &key).await,
        Route::Peer(peer, key) => at_peer(gateway, peer, pid, &key).await,
        Route::Exhausted => {
            tracing::info!("failed to forward cancel request because its TTL was exhausted");
        }
    }
}

async fn here(gateway: &Gateway, pid: u32, key: &[u8]) {
    if let Some(cancelling) = gateway.shared.registry.begin_cancel(pid, key) {
        let link = &cancelling.link;
        let sent = link.cancel();
        if tokio::time::timeout(cancel_wait(gateway), sent).await.is_err() {
            tracing::info!(server_pid = link.pid, "closing because: cancel_wait_timeout");
        }
    }
}

async fn at_peer(gateway: &Arc<Gateway>, id: u16, pid: u32, key: &[u8]) {
    let running = gateway.running();
    let Some(peer) = running.config.peers.iter().find(|peer| peer.id == id) else {
        tracing::info!(peer_id = id, "could not find peer to forward request to");
        return;
    };
    let address = Address::new(&peer.host.to_string(), peer.port);
    let limit = peer.pool_size.unwrap_or(running.config.pool.default_pool_size);
    let Some(_counted) = PeerCancel::begin(gateway, id, limit) else {
        tracing::warn!(peer_id = id, "too many cancel requests for this peer");
        return;
    };
    tracing::debug!(peer_id = id, "forwarding cancellation request");
    let tls = running.tls.server.first_try();
    let sent = cancel(&address, &tls, pid, key);
    match tokio::time::timeout(cancel_wait(gateway), sent).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(peer_id = id, %error, "peer cannot be reached"),
        Err(_elapsed) => tracing::warn!(peer_id = id, "cancel request timed out"),
    }
}

/// PostgreSQL or a peer that takes longer over a cancel request is not waited for.
fn cancel_wait(gateway: &Gateway) -> Duration {
    match gateway.config().server.cancel_wait_timeout {
        Duration::ZERO => Duration::MAX,
        limit => limit,
    }
}

/// A cancel request on its way to a peer; counted until dropped.
struct PeerCancel {
    gateway: Arc<Gateway>,
    id: u16,
}

impl PeerCancel {
    /// As in PgBouncer, twice as many as servers may be under way; `None` beyond that.
    fn begin(gateway: &Arc<Gateway>, id: u16, pool_size: u32) -> Option<Self> {
        let mut cancels = gateway.peer_cancels.lock().unwrap_or_else(PoisonError::into_inner);
        let count = cancels.entry(id).or_default();
        if *count >= usize::try_from(pool_size).unwrap_or(usize::MAX).saturating_mul(2) {
            return None;
        }
        *count += 1;
        Some(Self { gateway: Arc::clone(gateway), id })
    }
}

impl Drop for PeerCancel {
    fn drop(&mut self) {
        let mut cancels = self.gateway.peer_cancels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = cancels.get_mut(&self.id) {
            *count -= 1;
        }
    }
}
