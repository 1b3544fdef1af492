//! The console's side of the program: who gets in, the picture `admin` prints, the commands it
//! names (what operators do in `operate.rs`), the totals in the log, and (`io.rs`) the bytes.

mod census;
pub mod collect;
mod inventory;
mod tables;
mod group;
mod agreed;
pub mod operate;
mod flush;
mod plan_slow;
pub mod act;
pub mod report;
pub mod group_log;
pub mod io;

use crate::admin::conversation::Access;
use crate::config::{AuthType, Config};

/// What its clients are shown to be connected to.
pub const DATABASE: &str = "pgbouncer";

/// Names under which it is reached on the main port, and by which rules mean it.
pub const NAMES: [&str; 2] = [DATABASE, "forebay"];

/// Whether this name means the console. A database of that name in the configuration wins;
/// the entry for all other names does not.
pub fn is_named(config: &Config, database: &str) -> bool {
    NAMES.contains(&database) && !config.databases.iter().any(|entry| entry.name == database)
}

/// What this user may do there; `None`: not even look.
pub fn access(config: &Config, user: &str) -> Option<Access> {
    let has = |users: &[String]| users.iter().any(|name| name == user);
    let admin = &config.admin;
    let url_user = config.credentials.as_ref().is_some_and(|credentials| credentials.user == user);
    if config.auth_type() == AuthType::Any
        || has(&admin.admin_users)
        || (admin.admin_users.is_empty() && url_user)
    {
        Some(Access::All)
    } else if has(&admin.stats_users) {
        Some(Access::Look)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::client::registry::Hello;
    use crate::config::{AuthLookup, Base, Credentials, DatabaseEntry, Host};
    use crate::gateway::Gateway;
    use crate::server::io::next_id;
    use crate::wire::startup::Replication;

    pub(super) fn config() -> Config {
        let mut config = Config::defaults(Base::Forebay);
        config.admin.admin_users = vec!["root".into()];
        config.admin.stats_users = vec!["eye".into()];
        config
    }

    pub(super) fn entry(name: &str) -> DatabaseEntry {
        DatabaseEntry {
            name: name.into(),
            host: Host::Name("127.0.0.1".into()),
            port: 5432,
            load_balance_hosts: crate::config::LoadBalance::RoundRobin,
            dbname: None,
            user: None,
            password: None,
            pool_size: None,
            pool_mode: None,
            limits: crate::config::DatabaseLimits::default(),
            connect_query: None,
            application_name: None,
            parameters: Vec::new(),
            options: None,
            auth: AuthLookup::default(),
        }
    }

    /// In front of all databases, none of which is there.
    pub(super) fn gateway() -> Arc<Gateway> {
        Arc::new(Gateway::new(Config { databases: vec![entry("*")], ..config() }).unwrap())
    }

    pub(super) fn hello(database: &str, user: &str, console: bool) -> Hello {
        Hello {
            id: next_id(),
            user: user.to_owned(),
            server_user: user.to_owned(),
            database: database.to_owned(),
            application_name: String::new(),
            plain_name: String::new(),
            address: String::new(),
            local: String::new(),
            tls: None,
            console,
            own: false,
            replication: Replication::None,
            long_keys: false,
            peer_id: 0,
            fd: -1,
        }
    }

    #[test]
    fn only_listed_users_get_in() {
        assert_eq!(access(&config(), "root"), Some(Access::All));
        assert_eq!(access(&config(), "eye"), Some(Access::Look));
        assert_eq!(access(&config(), "ann"), None);
    }

    #[test]
    fn the_user_of_the_url_is_admin_unless_others_are_named() {
        let mut config = config();
        config.credentials = Some(Credentials { user: "ann".into(), password: None });
        assert_eq!(access(&config, "ann"), None);
        config.admin.admin_users.clear();
        assert_eq!(access(&config, "ann"), Some(Access::All));
    }

    #[test]
    fn a_database_of_its_own_name_wins_and_the_one_for_all_names_does_not() {
        let mut config = config();
        config.databases = vec![entry("*")];
        assert!(is_named(&config, "forebay") && is_named(&config, "pgbouncer"));
        assert!(!is_named(&config, "app"));
        config.databases.push(entry("forebay"));
        assert!(!is_named(&config, "forebay") && is_named(&config, "pgbouncer"));
    }
}
