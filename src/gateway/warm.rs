//! Who can be asked for in one database.

use std::sync::PoisonError;

use crate::pool::PoolMode;
use crate::pool::database::Database;

use super::{Gateway, Opened};

impl Gateway {
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
