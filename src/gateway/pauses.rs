//! Who may work: what PAUSE and its kin, and a stop, say of every pool.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};

use crate::admin::pause::{Activity, Pauses};
use crate::auth_query::{AskError, Turn};
use crate::pool::state::Hold;
use crate::server::io::Target;

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

    /// A turn to look users up in a database, once its operator lets anybody be connected to it.
    pub async fn turn_to_look_up(
        &self,
        database: &str,
        target: &Arc<Target>,
    ) -> Result<Turn<'_>, AskError> {
        loop {
            let changed = self.pauses_changed.notified();
            // Taken before it is looked: who pauses waits for those that have one.
            let turn = self.auth_queries.turn(target).await?;
            if self.pauses().hold(database) != Some(Hold::Paused) {
                return Ok(turn);
            }
            drop(turn);
            changed.await;
        }
    }

    /// Whether users are being looked up in this database, or in any.
    pub fn is_looking_up(&self, database: Option<&str>) -> bool {
        match database {
            None => self.auth_queries.is_asking(None),
            Some(name) => self
                .auth_target(&self.running(), name, "")
                .is_some_and(|target| self.auth_queries.is_asking(Some(&target.place()))),
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
