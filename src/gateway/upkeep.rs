//! What is done for all pools now and then, and what is forgotten when nobody has used it for long.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::client::registry::Leave;
use crate::config::Config;
use crate::plan;

use super::{Gateway, Made, Opened, PoolKey};

impl Gateway {
    /// Looks after every pool: closes and connects what is due, makes those that are to be filled
    /// without clients, forgets those that nobody has used for long. Called several times a
    /// second.
    pub fn upkeep(self: &Arc<Self>, now: Instant) {
        let config = self.config();
        for entry in &config.databases {
            if let Some(user) = &entry.user
                && entry.name != "*"
                && plan::min_pool_size(&config, entry) > 0
            {
                self.pool(&entry.name, user);
            }
        }
        for opened in self.pools() {
            opened.pool.upkeep(now);
        }
        self.forget_unused(&config, now);
        if config.server.server_fast_close {
            self.close_fast();
        }
    }

    fn forget_unused(&self, config: &Config, now: Instant) {
        let idle_timeout = config.pool.pool_idle_timeout;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let Made { databases, pools, auto_databases, database_quotas, user_quotas } = &mut *made;
        pools.retain(|(database, user), opened| {
            let unused = opened.pool.unused_for(now);
            // Whoever logs in just now, or is not quite gone, has the pool: it is kept a while.
            let over = !idle_timeout.is_zero()
                && unused > idle_timeout
                && Arc::strong_count(&opened.pool) == 1;
            if over {
                tracing::info!(
                    "cleaning up idle pool for user {user} on db {database} because: \
                     pool idle timeout (age={}s)",
                    unused.as_secs()
                );
            }
            !over
        });
        forget_databases(auto_databases, pools, config.pool.autodb_idle_timeout, now);
        // Of pools, also those that were replaced and are not quite gone.
        let is_used = |quota: &Arc<_>| Arc::strong_count(quota) > 1;
        database_quotas.retain(|_, quota| is_used(quota));
        user_quotas.retain(|_, quota| is_used(quota));
        let of_pools: HashSet<_> =
            pools.values().map(|opened| Arc::as_ptr(&opened.service)).collect();
        databases.retain(|_, (_, service)| {
            // Here, and with its own task: clients of a pool that was replaced may still be there.
            let used = of_pools.contains(&Arc::as_ptr(service))
                || service.lost_count() > 0
                || Arc::strong_count(service) > 2;
            if !used {
                service.end();
            }
            used
        });
    }

    /// Asks clients that keep a server which is to be closed to leave it.
    fn close_fast(&self) {
        let pools: HashMap<PoolKey, Opened> =
            self.pools().into_iter().map(|opened| (opened.key(), opened)).collect();
        for entry in self.shared.registry.clients() {
            let key = (entry.database.to_string(), entry.server_user.to_string());
            let retired = entry.current().is_some_and(|link| {
                pools.get(&key).is_some_and(|opened| opened.pool.is_retired(link.server_id))
            });
            if retired {
                entry.ask_to_leave(Leave::Reconfigured);
            }
        }
    }
}

/// Forgets databases without an entry of their own that nobody has used for long, and their pools.
fn forget_databases(
    auto_databases: &mut HashMap<String, Instant>,
    pools: &mut HashMap<PoolKey, Opened>,
    idle_timeout: Duration,
    now: Instant,
) {
    // Names of databases: each pool is looked at once, however many databases there are.
    let (mut in_use, mut held) = (HashSet::new(), HashSet::new());
    for ((database, _), opened) in &*pools {
        if opened.pool.unused_for(now).is_zero() {
            in_use.insert(database.as_str());
        }
        if Arc::strong_count(&opened.pool) > 1 {
            held.insert(database.as_str());
        }
    }
    let mut gone = HashSet::new();
    auto_databases.retain(|name, used_at| {
        if in_use.contains(name.as_str()) {
            *used_at = now;
        }
        let over = !idle_timeout.is_zero()
            && now.saturating_duration_since(*used_at) > idle_timeout
            && !held.contains(name.as_str());
        if over {
            gone.insert(name.clone());
        }
        !over
    });
    if !gone.is_empty() {
        pools.retain(|(database, _), _| !gone.contains(database));
    }
}
