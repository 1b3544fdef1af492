//! Other settings for the running program: RELOAD, and SET on the console.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::cache::Mode;
use crate::cache::coherence::Scope;
use crate::client::registry::Leave;
use crate::config::{Analysis, AuthLookup, Config, DatabaseEntry, DatabaseLimits};
use crate::net::set_socket_options;
use crate::plan;
use crate::pool::io::{Pool, limit};
use crate::running::{GatewayError, Running, socket_options};
use crate::server::base::homes;
use crate::service::Times;

use super::{
    Databases, Gateway, Made, Opened, PoolKey, limits, mode, pool_key, read_file, timeouts,
};

impl Gateway {
    /// Makes the running program that of these settings, and gives what the operator should hear.
    pub fn apply(&self, config: Config) -> Result<Vec<String>, GatewayError> {
        Ok(self.run(Running::load(config, &read_file)?))
    }

    /// The same for settings that come one by one, between two of which files may not fit each
    /// other: TLS that cannot be made stays as it was.
    pub fn apply_one(&self, config: Config) -> Result<Vec<String>, GatewayError> {
        let before = self.running();
        Ok(self.run(Running::load_after(&before, config, &read_file)?))
    }

    /// Makes the running program that of these settings. Pools whose servers would be others, or
    /// whose clients would be treated otherwise, are made anew; their clients leave at the end of
    /// their transactions, so that no session changes its database under way.
    fn run(&self, new: Running) -> Vec<String> {
        let new = Arc::new(new);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let old = {
            let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *running, Arc::clone(&new))
        };
        let is_emptied = self.set_shared(&made, &new);
        set_socket_options(socket_options(&new.config));
        let other_tls = !old.tls.server.is_same(&new.tls.server);
        if other_tls {
            self.server_tls.set(new.tls.server.clone());
        }
        self.auth_queries.clear();
        let replaced = self.replace(&mut made, &old, &new, other_tls);
        for (_, service) in made.databases.values() {
            // The cache may have been switched on.
            service.wake();
            service.set_times(Times::of(&new.config));
        }
        drop(made);
        if let Some(call) = self.on_reload.get() {
            call(&new.config);
        }
        for entry in self.shared.registry.clients() {
            if entry.console {
                continue;
            }
            if replaced.contains(&(entry.database.to_string(), entry.server_user.to_string())) {
                entry.ask_to_leave(Leave::Reconfigured);
            }
            let times = timeouts(&new.config, &entry.database, &entry.user, &entry.server_user);
            entry.set_timeouts(self.shared.registry.share(times));
        }
        if is_emptied {
            // May take long, and neither who waits for a pool nor another RELOAD should meanwhile.
            self.cache.clear();
        }
        new.notices.clone()
    }

    /// Gives the names of the pools that are others now, or gone. Whoever is the next of the same
    /// name goes on counting where it left off: what is summed over pools does not fall, unless it
    /// makes one of several.
    fn replace(
        &self,
        made: &mut Made,
        old: &Running,
        new: &Running,
        other_tls: bool,
    ) -> HashSet<PoolKey> {
        for (name, quota) in &made.database_quotas {
            limit(quota, plan::database_servers(&new.config, name));
        }
        for (name, quota) in &made.user_quotas {
            limit(quota, plan::user_servers(&new.config, name));
        }
        let mut replaced = Vec::new();
        made.pools.retain(|name, opened| {
            let entry = new.config.database(&name.0);
            if let Some(entry) = entry.filter(|_| is_same_pool(old, new, name, &opened.pool)) {
                opened.pool.set(plan::rules(&new.config, entry, &name.1));
                opened.pool.common.limits.set(plan::client_limits(&new.config));
                if other_tls {
                    opened.pool.retire_all();
                    opened.pool.forget_failure();
                }
                return true;
            }
            opened.pool.retire_all();
            replaced.push((name.clone(), Arc::clone(&opened.pool.common.counters)));
            false
        });
        let mut is_held = false;
        for (name, counters) in &replaced {
            let entry = new.config.database(&name.0);
            let key = entry.map(|entry| pool_key(entry, &name.0, &name.1));
            if key.is_some_and(|key| !made.pools.contains_key(&key))
                && let Some(opened) = self.make(made, new, (&name.0, &name.1), Arc::clone(counters))
            {
                match self.hold(&name.0) {
                    Some(_) => is_held = true,
                    None => opened.service.set_paused(false),
                }
            }
        }
        if is_held {
            self.settle(made);
        }
        if !replaced.is_empty() {
            ask_as(&made.databases, &made.pools);
        }
        replaced.into_iter().map(|(name, _)| name).collect()
    }

    /// What all pools and clients share. Tells whether the memory is to be emptied: nothing in it
    /// is served that should not be.
    fn set_shared(&self, made: &Made, new: &Running) -> bool {
        let was_off = self.cache.mode() == Mode::Off;
        if was_off {
            // What was written meanwhile has not been noted, whoever lives there now.
            for home in homes() {
                home.coherence.invalidate(&Scope::Database);
            }
        }
        let rules = new.config.rules();
        // All of them, one after the other.
        let changed = made.databases.values().filter(|(database, _)| database.set_rules(&rules));
        // What may no longer be kept shall not lie about either.
        let is_emptied = changed.count() > 0 || was_off;
        let before = self.cache.limits().entry_bytes_max;
        self.cache.set(mode(&new.config), limits(&new.config));
        if self.cache.limits().entry_bytes_max > before && !self.cache.has_room() {
            tracing::warn!("cache.max_entry_size: memory has room for the longest after a restart");
        }
        let cache = &new.config.cache;
        self.cache.verifier.set(cache.verify_sample, cache.verify_values);
        if self.cache.warm_ups.set(cache.warm_up > 0, cache.warm_up_entries) {
            // Who is there already has not been heard of.
            self.cache.roles.look_again();
        }
        self.cache.analysis.set_auto(new.config.cache.analysis == Analysis::Auto);
        let reset_query = new.config.server.server_reset_query.clone();
        *self.shared.reset_query.lock().unwrap_or_else(PoisonError::into_inner) = reset_query;
        let server = &new.config.server;
        self.shared.reset_always.store(server.server_reset_query_always, Ordering::Relaxed);
        self.shared.fast_close.store(server.server_fast_close, Ordering::Relaxed);
        self.shared.insight.slow.set(Arc::clone(&new.config));
        self.shared.insight.set(&new.config.insight);
        is_emptied
    }
}

/// Has databases asked as users that there are.
fn ask_as(databases: &Databases, pools: &HashMap<PoolKey, Opened>) {
    for (_, service) in databases.values() {
        let of_it = |opened: &&Opened| Arc::ptr_eq(&opened.service, service);
        let targets = pools.values().filter(of_it).map(|opened| Arc::clone(&opened.pool.target));
        service.set_targets(targets.collect());
    }
}

/// Whether a pool of the old settings is what the new ones would make, but for its size, times and
/// TLS, which can change under way, and who may use it.
fn is_same_pool(old: &Running, new: &Running, (name, user): &PoolKey, pool: &Pool) -> bool {
    let without_limits = |running: &Running| {
        running.config.database(name).map(|entry| {
            let mode = plan::mode(&running.config, entry, user);
            let limits = DatabaseLimits::default();
            let auth = AuthLookup::default();
            (
                mode,
                DatabaseEntry { pool_size: None, pool_mode: None, limits, auth, ..entry.clone() },
            )
        })
    };
    let user = &pool.target.user;
    let own = new.config.database(name).is_some_and(|entry| entry.password.is_some());
    let has_own_secret_or_same = || {
        own || match (old.users.get(user), new.users.get(user)) {
            (Some(old), Some(new)) => old.is_same(new),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    };
    without_limits(old) == without_limits(new)
        && has_own_secret_or_same()
        && old.config.pool.pins == new.config.pool.pins
}
