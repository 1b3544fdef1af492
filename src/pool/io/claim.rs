//! What a pool shares with others: how many servers its database and its user may have, and who
//! gives way to whom.

use std::sync::{Arc, Weak};

use crate::pool::quota::Quota;
use crate::pool::rules::Retirement;

use super::{Idle, Pool};

/// What the pool shares with others: servers of its database, and of its user.
pub struct Quotas {
    pub database: Arc<Quota<Pool>>,
    pub user: Arc<Quota<Pool>>,
}

/// One server counted in both quotas. When dropped, pools that wait are told; so it is never
/// dropped while a pool is locked.
pub struct Claim(Option<Arc<Quotas>>);

impl Claim {
    /// Gives it back; the caller tells pools that wait.
    fn give_back(mut self) -> Option<Arc<Quotas>> {
        let quotas = self.0.take()?;
        quotas.give_back();
        Some(quotas)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(quotas) = self.0.take() {
            quotas.give_back();
            quotas.feed();
        }
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
        Some(Claim(Some(Arc::clone(self))))
    }

    fn give_back(&self) {
        self.database.give_back();
        self.user.give_back();
    }

    fn both(&self) -> [Arc<Quota<Pool>>; 2] {
        [Arc::clone(&self.database), Arc::clone(&self.user)]
    }

    /// Tells pools that wait for what has become free.
    pub(super) fn feed(&self) {
        feed(self.both().into());
    }

    /// Closes an idle server of another pool for each limit that is reached; pools that wait are
    /// told.
    pub(super) fn make_room(&self) {
        feed(self.evict());
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

    /// Closes an idle server of another pool for each limit that is reached, and gives what has
    /// become free.
    fn evict(&self) -> Vec<Arc<Quota<Pool>>> {
        let mut free = Vec::new();
        for quota in self.both() {
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
                if let Some(Idle { connection, claim }) = evicted {
                    pool.log_end(&connection, Retirement::Evicted);
                    // The place is free only when the server is gone.
                    drop(connection);
                    free.extend(claim.give_back().iter().flat_map(|quotas| quotas.both()));
                }
            }
        }
        free
    }
}

/// Another limit; pools that wait are told.
pub fn limit(quota: &Arc<Quota<Pool>>, max: usize) {
    quota.set_max(max);
    feed(vec![Arc::clone(quota)]);
}

/// Tells pools that wait for one of these, in which something has become free. Who still finds no
/// room, in another of its limits or for others of its line, is made some. A loop, for that frees
/// something again, as often as there are idle servers.
fn feed(mut free: Vec<Arc<Quota<Pool>>>) {
    while let Some(quota) = free.pop() {
        while let Some(pool) = quota.next() {
            if pool.feed() {
                free.extend(pool.quotas.evict());
            }
        }
    }
}
