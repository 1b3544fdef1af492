//! Who can be asked for in one database.

use std::sync::{Arc, PoisonError};

use crate::pool::PoolMode;
use crate::pool::database::Database;

use super::{Gateway, Opened};

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
