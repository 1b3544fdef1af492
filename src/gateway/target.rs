//! Where servers of a pool are, and as whom they log in.

use std::sync::Arc;

use crate::auth::userlist::Password;
use crate::auth::{Learned, Secret};
use crate::config::{DatabaseEntry, Host, LoadBalance};
use crate::net::Address;
use crate::running::Running;
use crate::server::hosts::Hosts;
use crate::server::io::{ServerTls, Target};

use super::Gateway;

impl Gateway {
    /// Where `auth_query` is asked for users of this database, as this user. `None`: there is no
    /// such database.
    pub fn auth_target(
        &self,
        running: &Running,
        database: &str,
        user: &str,
    ) -> Option<Arc<Target>> {
        let entry = running.config.database(database)?;
        let target = self.target(running, entry, database, user);
        // The entry's user and password are for those who query.
        let secret = match entry.user.as_deref() {
            Some(forced) if forced == user => target.secret.clone(),
            Some(_) | None => running.users.get(user).cloned(),
        };
        Some(Arc::new(Target { user: user.to_owned(), secret, learned: None, ..target }))
    }

    pub(super) fn target(
        &self,
        running: &Running,
        entry: &DatabaseEntry,
        database: &str,
        client_user: &str,
    ) -> Target {
        let user = entry.user.as_deref().unwrap_or(client_user);
        // What one user's log-in has told is for that user's servers alone.
        let own = user == client_user && entry.password.is_none();
        let learned = own.then(|| self.learned.of(database, user));
        target(running, entry, database, user, learned, Arc::clone(&self.server_tls))
    }
}

fn target(
    running: &Running,
    entry: &DatabaseEntry,
    database: &str,
    user: &str,
    learned: Option<Arc<Learned>>,
    tls: Arc<ServerTls>,
) -> Target {
    let secret = match &entry.password {
        Some(password) => Some(Secret::Plain(Password::new(password.reveal().to_owned()))),
        None => running.users.get(user).cloned(),
    };
    let hosts = match &entry.host {
        Host::Several(hosts) => hosts.iter().map(|host| address(host, entry.port)).collect(),
        host @ (Host::Name(_) | Host::SocketDirectory(_) | Host::Unnamed(_)) => {
            Box::from([address(host, entry.port)])
        }
    };
    let round_robin = entry.load_balance_hosts == LoadBalance::RoundRobin;
    let application = entry.application_name.iter().map(|name| ("application_name", name));
    let options = entry.options.iter().map(|options| ("options", options));
    let more = entry.parameters.iter().map(|(name, value)| (*name, value));
    Target {
        hosts: Arc::new(Hosts::new(hosts, round_robin)),
        tls,
        database: entry.dbname.clone().unwrap_or_else(|| database.to_owned()),
        user: user.to_owned(),
        secret,
        learned,
        parameters: application
            .chain(options)
            .chain(more)
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect(),
        connect_query: entry.connect_query.as_deref().map(Arc::from),
        group: running.group.clone(),
    }
}

fn address(host: &Host, port: u16) -> Address {
    Address::new(&host.to_string(), port)
}
