//! Who may work: what PAUSE and its kin, and a stop, say of every pool.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};

use crate::admin::pause::{Activity, Pauses};
use crate::pool::state::Hold;

use super::{Gateway, Made, Stage};

impl Gateway {
    /// Reads or changes who may work; what has changed is in force when this returns.
    pub fn with_pauses<T>(&self, change: impl FnOnce(&mut Pauses) -> T) -> T {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut self.pauses.lock().unwrap_or_else(PoisonError::into_inner));
        self.settle(&made);
        self.pauses_changed.notify_waiters();
        result
    }

    /// Resolves when a database may be connected to, as far as its operator is concerned.
    pub async fn resumed(&self, database: &str) {
        loop {
            let changed = self.pauses_changed.notified();
            if self.pauses().hold(database) != Some(Hold::Paused) {
                return;
            }
            changed.await;
        }
    }

    /// Closes the connections by which users of a database are looked up there.
    pub fn leave_auth_database(&self, database: &str) {
        if let Some(target) = self.auth_target(&self.running(), database, "") {
            let hosts = format!("{:?}", target.hosts.addresses);
            self.auth_queries.leave(&hosts, &target.database);
        }
    }

    /// Makes the pools obey a new stage.
    pub fn settle_stage(&self) {
        self.settle(&self.made.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn settle(&self, made: &Made) {
        let mut at_work = HashSet::new();
        for opened in made.pools.values() {
            let hold = self.hold(&opened.pool.name);
            opened.pool.set_hold(hold);
            if hold != Some(Hold::Paused) {
                at_work.insert(Arc::as_ptr(&opened.service));
            }
        }
        let all = self.pauses().activity() == Activity::Paused;
        for (_, service) in made.databases.values() {
            service.set_paused(all || !at_work.contains(&Arc::as_ptr(service)));
        }
    }

    pub(super) fn hold(&self, database: &str) -> Option<Hold> {
        let stopping = *self.stage.borrow() >= Stage::WaitForServers;
        if stopping { Some(Hold::Stopping) } else { self.pauses().hold(database) }
    }

    pub fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
