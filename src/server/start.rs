//! How a server connection starts, as far as its client has a say: what its StartupMessage holds
//! beside the user and the database.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::wire::startup::Replication;

use super::Server;
use super::settings::Settings;

/// Servers with equal starts are alike to a client. In transaction and statement pooling all of
/// them start plain, and the client's settings follow it.
#[derive(Clone, Debug)]
pub struct Start {
    pub replication: Replication,
    /// The session's defaults, which RESET returns to.
    pub settings: Arc<Settings>,
    /// The same as startup parameters, by name.
    pub parameters: Arc<BTreeMap<String, String>>,
}

impl Start {
    pub fn plain() -> Self {
        let parameters = Arc::default();
        Self { replication: Replication::None, settings: Settings::none(), parameters }
    }

    pub fn is_plain(&self) -> bool {
        self.replication == Replication::None && self.parameters.is_empty()
    }

    /// Whether the server may be this client's. One that replicates is always its client's own.
    pub fn fits(&self, server: &Server) -> bool {
        self.replication == Replication::None && server.initial.id == self.settings.id
    }

    /// Whether an error with this code at login may be the doing of the client's parameters and
    /// says nothing about other logins.
    pub fn may_cause(&self, sqlstate: &str) -> bool {
        let class = sqlstate.get(..2).unwrap_or_default();
        self.replication != Replication::None
            || (!self.is_plain() && matches!(class, "22" | "42" | "55" | "0A"))
    }

    /// What a StartupMessage says: `entry` is what the database's entry asks for on behalf of
    /// clients that do not.
    pub fn message<'a>(
        &'a self,
        entry: &'a [(String, String)],
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let replication = self.replication.parameter().map(|value| ("replication", value));
        let entry = entry.iter().filter(|(name, _)| !self.parameters.contains_key(name));
        let entry = entry.map(|(name, value)| (name.as_str(), value.as_str()));
        let own = self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        replication.into_iter().chain(entry).chain(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_asks_for_wins_over_its_entry() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let parameters = pairs(&[("application_name", "mine"), ("timezone", "UTC")]);
        let start = Start {
            replication: Replication::Logical,
            parameters: Arc::new(parameters.into_iter().collect()),
            ..Start::plain()
        };
        let entry = pairs(&[("application_name", "entry"), ("options", "-c x.y=1")]);
        assert_eq!(
            start.message(&entry).collect::<Vec<_>>(),
            [
                ("replication", "database"),
                ("options", "-c x.y=1"),
                ("application_name", "mine"),
                ("timezone", "UTC"),
            ]
        );
    }

    #[test]
    fn a_bad_parameter_of_one_client_says_nothing_about_others() {
        let parameters = BTreeMap::from([("timezone".to_owned(), "Nowhere".to_owned())]);
        let start = Start { parameters: Arc::new(parameters), ..Start::plain() };
        assert!(start.may_cause("22023"));
        assert!(!start.may_cause("28P01"));
        assert!(!Start::plain().may_cause("22023"));
    }
}
