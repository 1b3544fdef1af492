//! How many clients, and servers, each pool, database and user has: counted once for a whole
//! picture, however many of each there are.

use std::collections::HashMap;
use std::sync::Arc;

use crate::admin::snapshot::Pool;
use crate::client::registry::{Entry, Shown};

/// Clients of one pool.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clients {
    pub(super) active: usize,
    pub(super) waiting: usize,
    /// Whose servers have a cancel under way.
    pub(super) canceled: usize,
}

/// The clients of all pools, and of the console.
#[derive(Default)]
pub(super) struct Census<'a> {
    /// By database and the user that servers log in as.
    pools: HashMap<(&'a str, &'a str), Clients>,
    pub(super) console: usize,
}

impl<'a> Census<'a> {
    pub(super) fn of(clients: &'a [(Arc<Entry>, Shown)]) -> Self {
        let mut census = Self::default();
        for (entry, shown) in clients {
            if entry.console {
                census.console += 1;
                continue;
            }
            let of_pool = census.pools.entry((&*entry.database, &*entry.server_user)).or_default();
            if shown.waiting_since.is_some() {
                of_pool.waiting += 1;
            } else {
                of_pool.active += 1;
            }
            let is_canceled = entry.current().is_some_and(|current| current.has_cancel());
            of_pool.canceled += usize::from(is_canceled);
        }
        census
    }

    pub(super) fn of_pool(&self, database: &str, server_user: &str) -> Clients {
        self.pools.get(&(database, server_user)).copied().unwrap_or_default()
    }
}

/// Sums over pools.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) clients: usize,
    pub(super) servers: usize,
}

/// By database, or by user.
pub(super) fn sums(pools: &[Pool], name: fn(&Pool) -> &str) -> HashMap<&str, Sum> {
    let mut sums: HashMap<&str, Sum> = HashMap::new();
    for pool in pools {
        let sum = sums.entry(name(pool)).or_default();
        sum.clients += pool.clients_active + pool.clients_waiting;
        sum.servers += servers(pool);
    }
    sums
}

pub(super) fn servers(pool: &Pool) -> usize {
    pool.servers_active + pool.servers_canceled + pool.servers_idle + pool.servers_login
}
