//! What the settings make of one pool, one database, one user and one client. What a user has of
//! its own goes before what a database has, and that before what is for all, as in PgBouncer;
//! nor does a limit or time of zero hide the one it stands before.

use std::time::Duration;

use crate::client::deadline::Timeouts;
use crate::client::registry::Room;
use crate::config::{Config, DatabaseEntry, PoolMode, UserEntry};
use crate::pool::rules::Rules;
use crate::pool::state::Sizes;
use crate::pool::{self, ClientLimits};

/// `server_check_query` for a query without text.
const EMPTY_QUERY: &str = "<empty>";

pub fn mode(config: &Config, entry: &DatabaseEntry, user: &str) -> pool::PoolMode {
    let own = config.user(user).and_then(|user| user.pool_mode);
    match own.or(entry.pool_mode).unwrap_or(config.pool.pool_mode) {
        PoolMode::Session => pool::PoolMode::Session,
        PoolMode::Transaction => pool::PoolMode::Transaction,
        PoolMode::Statement => pool::PoolMode::Statement,
    }
}

/// `user`: as whom its servers log in.
pub fn rules(config: &Config, entry: &DatabaseEntry, user: &str) -> Rules {
    let (own, server) = (config.user(user), &config.server);
    let size = own.and_then(|own| own.pool_size).or(entry.pool_size);
    let check = match server.server_check_query.as_str() {
        "" => None,
        EMPTY_QUERY => Some(""),
        query => Some(query),
    };
    Rules {
        sizes: Sizes {
            size: match size.unwrap_or(config.pool.default_pool_size) {
                0 => usize::MAX,
                size => whole(size),
            },
            reserve: whole(reserve(config, entry, own)),
            round_robin: server.server_round_robin,
        },
        least: whole(min_pool_size(config, entry)),
        forced_user: entry.user.is_some(),
        reserve_timeout: config.pool.reserve_pool_timeout,
        connect_timeout: server.server_connect_timeout,
        login_retry: server.server_login_retry,
        idle_timeout: server.server_idle_timeout,
        lifetime: lifetime(config, entry),
        check: check.map(|query| (server.server_check_delay, query.into())),
        log_connections: config.log.log_connections,
        log_disconnections: config.log.log_disconnections,
    }
}

pub fn reserve(config: &Config, entry: &DatabaseEntry, own: Option<&UserEntry>) -> u32 {
    own.and_then(|own| own.reserve_pool_size)
        .or(entry.limits.reserve_pool_size)
        .unwrap_or(config.pool.reserve_pool_size)
}

pub fn client_limits(config: &Config) -> ClientLimits {
    ClientLimits {
        statements_max: whole(config.pool.max_client_prepared_statements),
        server_statements_max: whole(config.pool.max_prepared_statements),
        message_bytes_max: whole(config.listen.max_packet_size),
    }
}

pub fn min_pool_size(config: &Config, entry: &DatabaseEntry) -> u32 {
    entry.limits.min_pool_size.unwrap_or(config.pool.min_pool_size)
}

pub fn lifetime(config: &Config, entry: &DatabaseEntry) -> Duration {
    first_time([entry.limits.server_lifetime]).unwrap_or(config.server.server_lifetime)
}

/// Servers of one database; 0 is no limit.
pub fn database_servers(config: &Config, database: &str) -> usize {
    let own = config.database(database).and_then(|entry| entry.limits.max_db_connections);
    first_limit(own, config.pool.max_db_connections)
}

/// Servers that log in as one user; 0 is no limit.
pub fn user_servers(config: &Config, user: &str) -> usize {
    let own = config.user(user).and_then(|user| user.max_user_connections);
    first_limit(own, config.pool.max_user_connections)
}

/// How many clients may be connected when one of this database and user comes.
pub fn room(config: &Config, database: &str, user: &str) -> Room {
    let of_database =
        config.database(database).and_then(|entry| entry.limits.max_db_client_connections);
    let of_user = config.user(user).and_then(|user| user.max_user_client_connections);
    Room {
        clients: whole(config.listen.max_client_conn),
        database: first_limit(of_database, config.listen.max_db_client_connections),
        user: first_limit(of_user, config.listen.max_user_client_connections),
    }
}

/// The patience with a client of this user, whose servers log in as `server_user`.
pub fn timeouts(config: &Config, entry: &DatabaseEntry, user: &str, server_user: &str) -> Timeouts {
    let (own, server) = (config.user(user), config.user(server_user));
    let wait = own.and_then(|own| own.query_wait_timeout);
    let wait = wait.or(entry.limits.query_wait_timeout).unwrap_or(config.pool.query_wait_timeout);
    let of_server = |time: fn(&UserEntry) -> Option<Duration>, all: Duration| {
        first_time([server.and_then(time), Some(all)])
    };
    Timeouts {
        query: of_server(|user| user.query_timeout, config.pool.query_timeout),
        query_wait: first_time([Some(wait)]),
        idle_transaction: of_server(
            |user| user.idle_transaction_timeout,
            config.pool.idle_transaction_timeout,
        ),
        transaction: of_server(|user| user.transaction_timeout, config.pool.transaction_timeout),
        client_idle: first_time([
            own.and_then(|own| own.client_idle_timeout),
            Some(config.listen.client_idle_timeout),
        ]),
        wait_notice: first_time([Some(config.pool.query_wait_notify)]),
    }
}

/// The first that is not zero.
fn first_time<const N: usize>(times: [Option<Duration>; N]) -> Option<Duration> {
    times.into_iter().flatten().find(|time| !time.is_zero())
}

fn first_limit(own: Option<u32>, all: u32) -> usize {
    whole(own.filter(|limit| *limit > 0).unwrap_or(all))
}

fn whole(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Base, DatabaseLimits, Host, LoadBalance};

    fn entry() -> DatabaseEntry {
        DatabaseEntry {
            name: "app".into(),
            host: Host::Name("127.0.0.1".into()),
            port: 1,
            load_balance_hosts: LoadBalance::RoundRobin,
            dbname: None,
            auth: crate::config::AuthLookup::default(),
            user: None,
            password: None,
            pool_size: None,
            pool_mode: None,
            limits: DatabaseLimits::default(),
            connect_query: None,
            application_name: None,
            parameters: Vec::new(),
            options: None,
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "as the settings have it")]
    fn seconds(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    fn config(user: &UserEntry, entry: &DatabaseEntry) -> Config {
        let mut config = Config::defaults(Base::Forebay);
        config.users = vec![UserEntry { name: "ann".into(), ..user.clone() }];
        config.databases = vec![entry.clone()];
        config
    }

    #[test]
    fn the_users_own_size_goes_before_the_databases_and_that_before_the_default() {
        let mut entry = entry();
        let own = UserEntry {
            pool_size: Some(1),
            reserve_pool_size: Some(0),
            pool_mode: Some(PoolMode::Statement),
            ..UserEntry::default()
        };
        let mut config = config(&own, &entry);
        config.pool.reserve_pool_size = 9;
        let sizes = |config: &Config, entry: &DatabaseEntry, user| {
            let Sizes { size, reserve, .. } = rules(config, entry, user).sizes;
            (size, reserve, mode(config, entry, user).name())
        };
        assert_eq!(sizes(&config, &entry, "bob"), (20, 9, "transaction"));
        entry.pool_size = Some(3);
        entry.limits.reserve_pool_size = Some(2);
        entry.pool_mode = Some(PoolMode::Session);
        assert_eq!(sizes(&config, &entry, "bob"), (3, 2, "session"));
        assert_eq!(sizes(&config, &entry, "ann"), (1, 0, "statement"));
        entry.pool_size = Some(0);
        assert_eq!(sizes(&config, &entry, "bob"), (usize::MAX, 2, "session"));
    }

    #[test]
    fn a_limit_of_zero_does_not_hide_the_one_for_all() {
        let mut entry = entry();
        entry.limits.max_db_connections = Some(0);
        entry.limits.max_db_client_connections = Some(4);
        let own = UserEntry {
            max_user_connections: Some(3),
            max_user_client_connections: Some(0),
            ..UserEntry::default()
        };
        let mut config = config(&own, &entry);
        config.pool.max_db_connections = 7;
        config.pool.max_user_connections = 8;
        config.listen.max_user_client_connections = 5;
        assert_eq!(database_servers(&config, "app"), 7);
        assert_eq!((user_servers(&config, "ann"), user_servers(&config, "bob")), (3, 8));
        let expected = Room { clients: 1000, database: 4, user: 5 };
        assert_eq!(room(&config, "app", "ann"), expected);
    }

    #[test]
    fn the_users_own_time_goes_before_the_databases_and_that_before_the_one_for_all() {
        let mut entry = entry();
        entry.limits.query_wait_timeout = seconds(2);
        entry.limits.server_lifetime = seconds(9);
        let own = UserEntry {
            query_wait_timeout: seconds(1),
            query_timeout: seconds(3),
            client_idle_timeout: seconds(0),
            ..UserEntry::default()
        };
        let mut config = config(&own, &entry);
        config.listen.client_idle_timeout = Duration::from_secs(8);
        let times = |user, server| timeouts(&config, &entry, user, server);
        assert_eq!(times("ann", "bob").query_wait, seconds(1));
        assert_eq!(times("bob", "ann").query_wait, seconds(2));
        // How long a statement may take is a matter of who runs it in PostgreSQL.
        assert_eq!((times("ann", "bob").query, times("bob", "ann").query), (None, seconds(3)));
        assert_eq!(times("ann", "ann").client_idle, seconds(8));
        assert_eq!(Some(rules(&config, &entry, "ann").lifetime), seconds(9));
    }

    #[test]
    fn a_check_query_is_asked_unless_it_is_no_text_at_all() {
        let entry = entry();
        let mut config = config(&UserEntry::default(), &entry);
        let check = |config: &Config| rules(config, &entry, "ann").check;
        assert_eq!(check(&config), Some((Duration::from_secs(30), "".into())));
        config.server.server_check_query = "SELECT 2".into();
        assert_eq!(check(&config), Some((Duration::from_secs(30), "SELECT 2".into())));
        config.server.server_check_query = String::new();
        assert_eq!(check(&config), None);
    }
}
