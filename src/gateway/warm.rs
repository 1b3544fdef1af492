//! Who can be asked for in one database, also without a client.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use crate::auth::Secret;
use crate::config::DatabaseEntry;
use crate::pool::PoolMode;
use crate::pool::database::Database;
use crate::running::Running;

use super::{Gateway, Opened};

/// As so many users a database is tried that no client has come to; as whom else is not tried either.
const USERS_MAX: usize = 15;

impl Gateway {
    /// Makes the pools that can be made without a client: those of users whom the settings name with
    /// their secrets.
    pub fn open_known(self: &Arc<Self>) {
        let config = self.config();
        for entry in config.databases.iter().filter(|entry| entry.name != "*") {
            if let Some(user) = &entry.user {
                self.pool(&entry.name, user);
            }
        }
        if let (Some(database), Some(credentials)) = (&config.default_database, &config.credentials)
            && credentials.password.is_some()
        {
            self.pool(database, &credentials.user);
        }
    }

    /// What clients, or PostgreSQL, call by this name, each once.
    pub fn databases_called(&self, name: &str) -> Vec<Arc<Database>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let named = made.pools.values().map(|opened| &opened.pool);
        let named = named.filter(|pool| pool.name == name).map(|pool| &pool.common.database);
        let of_postgres = made.databases.values().map(|(database, _)| database);
        let of_postgres = of_postgres.filter(|database| database.name == name);
        let mut called: Vec<_> = named.chain(of_postgres).cloned().collect();
        drop(made);
        called.sort_by_key(|database| database.id);
        called.dedup_by_key(|database| database.id);
        called
    }

    /// Opens, as its first client would, each database that the settings name and that is not open, or
    /// the one that is called so. Gives those that cannot be opened: nobody is known who may log in.
    pub fn open_named(self: &Arc<Self>, name: Option<&str>) -> Vec<String> {
        let running = self.running();
        let mut closed = self.closed(&running, name);
        closed.retain(|name| !self.open(&running, name));
        closed
    }

    /// Databases that the settings name, or this one, as far as they are not open.
    pub fn closed(&self, running: &Running, name: Option<&str>) -> Vec<String> {
        let config = &running.config;
        let is_meant = |entry: &&DatabaseEntry| {
            let called = [Some(entry.name.as_str()), entry.dbname.as_deref()];
            entry.name != "*" && name.is_none_or(|name| called.contains(&Some(name)))
        };
        let mut names: Vec<&str> =
            config.databases.iter().filter(is_meant).map(|entry| entry.name.as_str()).collect();
        let default = config.default_database.as_deref();
        names.extend(default.filter(|default| name.is_none_or(|name| name == *default)));
        if let Some(name) = name.filter(|_| names.is_empty())
            && self.databases_called(name).is_empty()
        {
            names.push(name);
        }
        names.sort_unstable();
        names.dedup();
        let open: HashSet<String> =
            self.pools().iter().map(|opened| opened.pool.name.clone()).collect();
        names.into_iter().filter(|name| !open.contains(*name)).map(str::to_owned).collect()
    }

    /// Whether it could be tried to.
    fn open(self: &Arc<Self>, running: &Running, name: &str) -> bool {
        let Some(entry) = running.config.database(name) else { return false };
        let users = users(running, entry);
        let Some((first, others)) = users.split_first() else { return false };
        let Some(opened) = self.pool(name, first) else { return false };
        for user in others.iter().take(USERS_MAX) {
            opened.service.offer(&self.target(running, entry, name, user));
        }
        true
    }

    /// Pools over this database whose servers go from client to client, in the order of their names.
    pub fn pools_over(&self, database: &Database) -> Vec<Opened> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = |opened: &&Opened| {
            let common = &opened.pool.common;
            common.database.id == database.id && common.mode != PoolMode::Session
        };
        let mut pools: Vec<Opened> = made.pools.values().filter(of_it).cloned().collect();
        drop(made);
        pools.sort_by(|left, right| left.pool.name.cmp(&right.pool.name));
        pools
    }
}

/// As whom servers of this database can log in without a client: first who is likely to be let in.
fn users<'a>(running: &'a Running, entry: &'a DatabaseEntry) -> Vec<&'a str> {
    if let Some(user) = &entry.user {
        return vec![user];
    }
    let config = &running.config;
    let of_url = config.credentials.as_ref().map(|credentials| credentials.user.as_str());
    let mut listed: Vec<&str> = running.users.keys().map(String::as_str).collect();
    listed.sort_unstable();
    // Whose secret is a verifier shows by logging in here how that is done there.
    let is_known =
        |user: &&str| matches!(running.users.get(*user), Some(Secret::Plain(_) | Secret::Md5(_)));
    let mut users = Vec::new();
    let global = Some(config.auth.auth_user.as_str());
    let preferred = of_url.into_iter().chain(entry.auth.auth_user.as_deref()).chain(global);
    for user in preferred.chain(listed).filter(is_known) {
        if !users.contains(&user) {
            users.push(user);
        }
    }
    users
}
