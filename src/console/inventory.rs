//! The part of the picture that is about the process rather than its pools: sockets, memory,
//! peers.

use std::sync::PoisonError;

use crate::admin::snapshot::{Descriptor, Memory, Peer};
use crate::client::io::Task;
use crate::client::registry::Entry;
use crate::client::session::Session;
use crate::process;
use crate::server::io::Connection;

use super::collect::Collector;

impl Collector<'_> {
    /// Sockets without TLS, clients' first; the console's are not PgBouncer's to hand over.
    pub fn descriptors(&self) -> Vec<Descriptor> {
        let mut descriptors = Vec::new();
        let entries = || self.clients.iter().map(|(entry, _)| entry).filter(|entry| !entry.console);
        for entry in entries().filter(|entry| entry.tls.is_none()) {
            let identity = entry.identity();
            let secret = identity.key.first_chunk().copied().unwrap_or_default();
            let link = entry.current().map_or(0, |link| link.ends.fd);
            descriptors.push(Descriptor {
                fd: entry.fd,
                task: "client",
                user: entry.user.to_string(),
                database: entry.database.to_string(),
                address: entry.address.clone(),
                cancel: u64::from(identity.pid) << 32 | u64::from(u32::from_be_bytes(secret)),
                link,
            });
        }
        for entry in entries() {
            let Some(link) = entry.current().filter(|link| link.ends.tls.is_none()) else {
                continue;
            };
            descriptors.push(Descriptor {
                fd: link.ends.fd,
                task: "server",
                user: link.target.user.clone(),
                database: entry.database.to_string(),
                address: link.ends.address.clone(),
                cancel: server_key(link.pid, &link.key),
                link: entry.fd,
            });
        }
        for opened in self.gateway.pools() {
            let idle = opened.pool.idle_servers(|connection| {
                let link = &connection.link;
                link.ends.tls.is_none().then(|| Descriptor {
                    fd: link.ends.fd,
                    task: "server",
                    user: link.target.user.clone(),
                    database: opened.pool.name.clone(),
                    address: link.ends.address.clone(),
                    cancel: server_key(link.pid, &link.key),
                    link: 0,
                })
            });
            descriptors.extend(idle.into_iter().flatten());
        }
        descriptors
    }

    pub fn memory(&self) -> Vec<Memory> {
        let each = |name, count: usize, size: usize| Memory {
            name,
            count: count as u64,
            bytes: count as u64 * size as u64,
        };
        let lists = self.lists();
        let client = size_of::<Task>() + size_of::<Session>() + size_of::<Entry>();
        let servers = lists.servers_idle + lists.servers_active;
        let cache = &self.gateway.cache;
        vec![
            each("client", lists.clients, client),
            each("server", servers, size_of::<Connection>()),
            Memory { name: "cache_entry", count: cache.entries() as u64, bytes: cache.bytes() },
            Memory { name: "process_resident", count: 1, bytes: process::resident_bytes() },
        ]
    }

    pub fn peers(&self) -> Vec<Peer> {
        let default = self.config.pool.default_pool_size;
        let peer = |peer: &crate::config::Peer| Peer {
            id: peer.id,
            host: peer.host.to_string(),
            port: peer.port,
            pool_size: peer.pool_size.unwrap_or(default),
        };
        self.config.peers.iter().map(peer).collect()
    }

    pub fn peer_pools(&self) -> Vec<(u16, usize)> {
        let pools = self.gateway.peer_cancels.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().map(|(id, cancels)| (*id, *cancels)).collect()
    }
}

/// Longer secrets are PostgreSQL 18's, and do not fit.
fn server_key(pid: u32, secret: &[u8]) -> u64 {
    let secret = secret.first_chunk().map_or(0, |secret| u32::from_be_bytes(*secret));
    u64::from(pid) << 32 | u64::from(secret)
}
