//! What a pool shares with others: how many servers its database and its user may have, and who
//! gives way to whom.

use std::sync::{Arc, Weak};

use crate::pool::quota::Quota;
use crate::pool::rules::Retirement;

use super::Pool;

/// What the pool shares with others: servers of its database, and of its user.
pub struct Quotas {
    pub database: Arc<Quota<Pool>>,
    pub user: Arc<Quota<Pool>>,
}

/// One server counted in both quotas. When dropped, pools that wait are told; so it is never
/// dropped while a pool is locked.
pub struct Claim(Arc<Quotas>);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.database.give_back();
        self.0.user.give_back();
        self.0.feed();
    }
}

impl Quotas {
    /// Both or none. `returned`: the first was given back, and who waits for it is to be told.
    pub(super) fn claim(
        self: &Arc<Self>,
        member: Option<&Weak<Pool>>,
        returned: &mut bool,
    ) -> Option<Claim> {
        let take = |quota: &Quota<Pool>| match member {
            Some(member) => quota.take_or_wait(member),
            None => quota.take(),
        };
        if !take(&self.database) {
            return None;
        }
        if !take(&self.user) {
            self.database.give_back();
            *returned = true;
            return None;
        }
        Some(Claim(Arc::clone(self)))
    }

    /// Tells pools that wait for what has become free.
    pub(super) fn feed(&self) {
        feed(&self.database);
        feed(&self.user);
    }

    /// Whether a pool that found no room still has somebody waiting; it may have served them by
    /// servers of its own since.
    pub(super) fn is_wanted(&self) -> bool {
        [&self.database, &self.user].into_iter().any(|quota| {
            quota.is_wanted() && quota.waiting().iter().any(|pool| pool.state().waiting_count() > 0)
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.database.is_full() || self.user.is_full()
    }

    /// Closes an idle server of another pool for each limit that is reached.
    pub(super) fn evict(&self) {
        for quota in [&self.database, &self.user] {
            if !quota.is_full() {
                continue;
            }
            let oldest = |pool: &Arc<Pool>| {
                pool.state().idle().map(|idle| idle.connection.server.idle_since).min()
            };
            let pools = quota.members();
            let found = pools.iter().filter_map(|pool| Some((oldest(pool)?, pool)));
            if let Some((_, pool)) = found.min_by_key(|(since, _)| *since) {
                let evicted = pool.state().take_oldest(|idle| idle.connection.server.idle_since);
                if let Some(idle) = evicted {
                    pool.log_end(&idle.connection, Retirement::Evicted);
                }
            }
        }
    }
}

/// Another limit; pools that wait are told.
pub fn limit(quota: &Quota<Pool>, max: usize) {
    quota.set_max(max);
    feed(quota);
}

fn feed(quota: &Quota<Pool>) {
    while let Some(pool) = quota.next() {
        pool.feed();
    }
}
