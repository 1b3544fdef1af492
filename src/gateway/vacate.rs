//! Leaving a database that a statement wants to have for itself.

use std::sync::PoisonError;

use crate::server::io::Target;
use crate::service::Away;

use super::Gateway;

impl Gateway {
    /// Closes what is idle in a database on the same hosts as `beside`, and keeps its service away
    /// from it while the guards live.
    pub(super) fn vacate(&self, beside: &Target, database: &str) -> Vec<Away> {
        let address = format!("{:?}", beside.hosts.addresses);
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        for opened in made.pools.values() {
            let target = &opened.pool.target;
            if target.database == database && format!("{:?}", target.hosts.addresses) == address {
                opened.pool.close_idle();
            }
        }
        self.auth_queries.leave(&address, database);
        let behind = made.databases.get(&(address, database.to_owned()));
        behind.map(|(_, service)| service.send_away()).into_iter().collect()
    }
}
