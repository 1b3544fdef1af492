//! Cancel requests: to the server of one of our clients, on to the peer whose client it is, or to
//! all of the group, where whoever has the client knows it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::cache::group::cancel_word::{Word, Words};
use crate::cache::group::talk::{Hurry, Permit};
use crate::client::cancel_key::{Route, route, without_hops};
use crate::client::registry::Entry;
use crate::gateway::Gateway;
use crate::net::{Address, connect};
use crate::server::io::ServerError;
use crate::server::link::cancel;

/// Performs one, and returns when whoever it was for has dealt with it, or the group was told.
pub async fn request(gateway: &Arc<Gateway>, pid: u32, key: &[u8]) {
    match route(gateway.config().listen.peer_id, pid, key) {
        Route::Here(key) => here(gateway, pid, &key).await,
        Route::Peer(peer, key) => at_peer(gateway, peer, pid, &key).await,
        Route::Exhausted => {
            tracing::info!("failed to forward cancel request because its TTL was exhausted");
            in_group(gateway, pid, key).await;
        }
    }
}

async fn here(gateway: &Gateway, pid: u32, key: &[u8]) {
    match gateway.shared.registry.find(pid, key) {
        Some(entry) => perform(gateway, &entry).await,
        None => in_group(gateway, pid, key).await,
    }
}

async fn perform(gateway: &Gateway, entry: &Entry) {
    let Some(cancelling) = entry.begin_cancel() else { return };
    let server_pid = cancelling.pid();
    if tokio::time::timeout(cancel_wait(gateway), cancelling.send()).await.is_err() {
        tracing::info!(server_pid, "closing because: cancel_wait_timeout");
    }
}

/// The client is not here, and no peer's that is known.
async fn in_group(gateway: &Gateway, pid: u32, key: &[u8]) {
    if let Some(talk) = &gateway.group_talk {
        talk.tell(pid, &without_hops(key)).await;
    }
}

/// Hears what others of the group tell, for ever; ends at once if there is none.
pub async fn listen(gateway: Arc<Gateway>) {
    let Some(talk) = gateway.group_talk.clone() else { return };
    let heard = |word: &Word, permit| heard(&gateway, &talk.words, word, permit);
    let hurried = |hurry: Hurry<'_>| {
        for (database, _) in gateway.databases() {
            database.home().group.iter().for_each(|group| group.hurry(hurry.by, hurry.key));
        }
    };
    talk.listen(heard, hurried).await;
}

fn heard(gateway: &Arc<Gateway>, words: &Words, word: &Word, permit: Permit) {
    let is_meant = |entry: &Arc<Entry>| {
        let identity = entry.identity();
        words.means(word, identity.pid, &without_hops(&identity.key))
    };
    let tried = gateway.shared.registry.of_pid_byte(word.pid_byte);
    let Some(entry) = tried.into_iter().find(is_meant).filter(|_| words.is_new(word)) else {
        return;
    };
    if let Some(talk) = &gateway.group_talk {
        talk.counters.heard.one();
    }
    tracing::debug!(client_id = entry.id, "cancel request heard from the group");
    let gateway = Arc::clone(gateway);
    tokio::spawn(async move {
        perform(&gateway, &entry).await;
        drop(permit);
    });
}

async fn at_peer(gateway: &Arc<Gateway>, id: u16, pid: u32, key: &[u8]) {
    let running = gateway.running();
    let Some(peer) = running.config.peers.iter().find(|peer| peer.id == id) else {
        tracing::info!(peer_id = id, "could not find peer to forward request to");
        in_group(gateway, pid, key).await;
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
    let sent = async {
        let stream = connect(&address, 0, &tls).await.map_err(ServerError::Connect)?;
        cancel(stream, pid, key).await
    };
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
        let at_most = usize::try_from(pool_size).unwrap_or(usize::MAX).saturating_mul(2);
        // 0 is no limit.
        if pool_size > 0 && *count >= at_most {
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
