//! From the running program to the picture that `admin` prints. Reads counters and short locks;
//! nothing here waits, and nothing on the data path waits for it long.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::admin::history::{Picture, PoolName};
use crate::admin::snapshot::{
    Abandoned, Analysis, Cache, Database, Ends, Group, Lists, Pinned, Pool, Redis, Side, Socket,
    User, Verified, WarmUps,
};
use crate::admin::stats_show::Totals;
use crate::cache::verify::Difference;
use crate::client::pins::Pin;
use crate::client::registry::{Entry, Shown};
use crate::config::{Config, DatabaseEntry, Host, PoolMode};
use crate::gateway::{Gateway, Opened};
use crate::metrics::{Counter, GroupCounters, RedisCounters, VerifyCounters};
use crate::server::link::Link;
use crate::{cache, plan, pool};

use super::DATABASE;
use super::census::{self, Census, Clients, Sum, sums};

/// One moment, and what it is called on the wall clock.
pub struct Collector<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) config: Arc<Config>,
    pub(super) now: Instant,
    pub(super) clients: Vec<(Arc<Entry>, Shown)>,
}

/// Where there are several.
fn load_balance_hosts(entry: &DatabaseEntry) -> Option<&'static str> {
    matches!(entry.host, Host::Several(_)).then(|| entry.load_balance_hosts.name())
}

/// What a client is doing, in PgBouncer's words.
fn client_state(entry: &Entry, shown: &Shown) -> &'static str {
    if shown.waiting_since.is_some() {
        "waiting"
    } else if entry.console || entry.current().is_some() {
        "active"
    } else {
        "idle"
    }
}

impl<'a> Collector<'a> {
    pub fn new(gateway: &'a Gateway, now: Instant) -> Self {
        let shown = |entry: Arc<Entry>| {
            let shown = entry.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
            (entry, shown)
        };
        let clients = gateway.shared.registry.clients().into_iter().map(shown).collect();
        Self { gateway, config: gateway.config(), now, clients }
    }

    pub(super) fn time_of_day(&self, at: Instant) -> SystemTime {
        self.gateway.shared.insight.slow.time_of_day(at)
    }

    /// Every pool, the console's among them, by database and user.
    pub fn pools(&self) -> Vec<Pool> {
        let census = Census::of(&self.clients);
        let older = {
            let history = self.gateway.history.lock().unwrap_or_else(PoisonError::into_inner);
            history.older()
        };
        let opened = self.gateway.pools();
        let pool = |opened: &Opened| self.pool(opened, &census, &older);
        let mut pools: Vec<Pool> = opened.iter().map(pool).collect();
        pools.push(self.console(census.console, &older));
        pools.sort_by(|left, right| {
            (&left.database, &left.user).cmp(&(&right.database, &right.user))
        });
        pools
    }

    fn pool(&self, opened: &Opened, census: &Census<'_>, older: &Picture) -> Pool {
        let pool = &opened.pool;
        let counts = pool.counts(self.now);
        let name = (pool.name.clone(), pool.common.user.clone());
        let Clients { active, waiting, canceled } = census.of_pool(&name.0, &name.1);
        let totals = Totals::read(&pool.common.counters);
        let span = older.span(&name, totals, self.now);
        Pool {
            database: name.0,
            user: name.1,
            mode: pool.common.mode.name(),
            load_balance_hosts: self.config.database(&pool.name).and_then(load_balance_hosts),
            clients_active: active,
            clients_waiting: waiting,
            cancels: canceled,
            servers_active: counts.active.saturating_sub(canceled),
            servers_canceled: canceled,
            servers_idle: counts.idle,
            servers_login: counts.connecting,
            max_wait: counts.max_wait,
            span,
            abandoned: Abandoned {
                drained: pool.common.counters.abandoned_drained.value(),
                rolled_back: pool.common.counters.abandoned_rolled_back.value(),
                closed: pool.common.counters.abandoned_closed.value(),
            },
        }
    }

    /// PgBouncer shows its console as a database of its own.
    fn console(&self, clients: usize, older: &Picture) -> Pool {
        let totals = Totals::read(&self.gateway.console_counters);
        let name = (DATABASE.to_owned(), DATABASE.to_owned());
        let span = older.span(&name, totals, self.now);
        Pool {
            database: name.0,
            user: name.1,
            mode: "statement",
            load_balance_hosts: None,
            clients_active: clients,
            clients_waiting: 0,
            cancels: 0,
            servers_active: 0,
            servers_canceled: 0,
            servers_idle: 0,
            servers_login: 0,
            max_wait: Duration::ZERO,
            span,
            abandoned: Abandoned::default(),
        }
    }

    /// The counters of every pool as they are, for the history.
    pub fn totals(&self) -> HashMap<PoolName, Totals> {
        self.pools()
            .into_iter()
            .map(|pool| ((pool.database, pool.user), pool.span.totals))
            .collect()
    }

    pub fn clients(&self) -> Vec<Socket> {
        self.clients.iter().map(|(entry, shown)| self.client(entry, shown)).collect()
    }

    fn client(&self, entry: &Entry, shown: &Shown) -> Socket {
        let wait = shown.waiting_since.map(|since| self.now.saturating_duration_since(since));
        Socket {
            side: Side::Client,
            id: entry.id,
            user: entry.user.to_string(),
            database: entry.database.to_string(),
            state: client_state(entry, shown),
            ends: Ends { address: entry.address.clone(), local: entry.local.clone() },
            connected_at: self.time_of_day(entry.connected_at),
            request_at: self.time_of_day(entry.requested_at()),
            wait: wait.unwrap_or_default(),
            close_needed: false,
            link: entry.current().map(|current| current.server_id),
            remote_pid: 0,
            tls: entry.tls.clone(),
            application_name: entry.called().application_name.to_string(),
            plain_name: entry.called().plain_name.to_string(),
            replication: entry.replication.name(),
            prepared_statements: shown.prepared_statements,
        }
    }

    pub fn servers(&self) -> Vec<Socket> {
        let opened = self.gateway.pools();
        let pools: HashMap<_, &Opened> =
            opened.iter().map(|opened| (Arc::as_ptr(&opened.pool.target), opened)).collect();
        let closes = |link: &Link| {
            // One of no pool is of a pool that has been replaced.
            let of_pool = pools.get(&Arc::as_ptr(&link.target));
            of_pool.is_none_or(|opened| opened.pool.is_retired(link.server_id))
        };
        let active = |(entry, _): &(Arc<Entry>, Shown)| self.active(entry, closes);
        let mut servers: Vec<Socket> = self.clients.iter().filter_map(active).collect();
        for opened in &opened {
            servers.extend(self.idle(opened));
        }
        servers.sort_by_key(|server| server.id);
        servers
    }

    /// The server that a client has; `closes`: once it is free.
    fn active(&self, entry: &Entry, closes: impl Fn(&Link) -> bool) -> Option<Socket> {
        let current = entry.current()?;
        let state = if current.has_cancel() { "being_canceled" } else { "active" };
        Some(Socket {
            side: Side::Server,
            id: current.server_id,
            user: current.target.user.clone(),
            database: entry.database.to_string(),
            state,
            ends: Ends { address: current.ends.address.clone(), local: current.ends.local.clone() },
            connected_at: self.time_of_day(current.connected_at),
            request_at: self.time_of_day(entry.requested_at().max(current.connected_at)),
            wait: Duration::ZERO,
            close_needed: closes(&current),
            link: Some(entry.id),
            remote_pid: current.pid,
            tls: current.ends.tls.clone(),
            application_name: entry.called().application_name.to_string(),
            plain_name: entry.called().plain_name.to_string(),
            replication: current.replication.name(),
            prepared_statements: current.prepared_statements.load(Ordering::Relaxed),
        })
    }

    fn idle(&self, opened: &Opened) -> Vec<Socket> {
        opened.pool.idle_servers(|connection| {
            let server = &connection.server;
            Socket {
                side: Side::Server,
                id: server.id,
                user: opened.pool.target.user.clone(),
                database: opened.pool.name.clone(),
                state: "idle",
                ends: Ends {
                    address: connection.link.ends.address.clone(),
                    local: connection.link.ends.local.clone(),
                },
                connected_at: self.time_of_day(server.connected_at),
                request_at: self.time_of_day(server.idle_since),
                wait: Duration::ZERO,
                close_needed: server.close_needed,
                link: None,
                remote_pid: server.pid,
                tls: connection.link.ends.tls.clone(),
                application_name: String::new(),
                plain_name: String::new(),
                replication: connection.link.replication.name(),
                prepared_statements: server.statements.len(),
            }
        })
    }

    /// The configured databases and those that clients have named, by name.
    pub fn databases(&self) -> Vec<Database> {
        self.databases_of(&self.pools())
    }

    fn databases_of(&self, pools: &[Pool]) -> Vec<Database> {
        let config = &self.config;
        let sums = sums(pools, |pool| &pool.database);
        let sum = |name: &str| sums.get(name).copied().unwrap_or_default();
        let mut names: Vec<&str> = config
            .databases
            .iter()
            .map(|entry| entry.name.as_str())
            .filter(|name| *name != "*")
            .chain(pools.iter().map(|pool| pool.database.as_str()))
            .collect();
        names.sort_unstable();
        names.dedup();
        let found = names.into_iter().filter_map(|name| {
            if super::is_named(config, name) {
                return Some(self.console_database(sum(DATABASE).clients));
            }
            Some(self.database(name, config.database(name)?, sum(name)))
        });
        found.collect()
    }

    fn database(&self, name: &str, entry: &DatabaseEntry, sum: Sum) -> Database {
        let (paused, disabled) = {
            let pauses = self.gateway.pauses();
            (pauses.is_paused(name), pauses.is_disabled(name))
        };
        let config = &self.config;
        let host = match &entry.host {
            Host::Unnamed(_) => None,
            host @ (Host::Name(_) | Host::SocketDirectory(_) | Host::Several(_)) => {
                Some(host.to_string())
            }
        };
        Database {
            name: name.to_owned(),
            host,
            port: entry.port,
            database: entry.dbname.clone().unwrap_or_else(|| name.to_owned()),
            force_user: entry.user.clone(),
            pool_size: entry.pool_size.unwrap_or(config.pool.default_pool_size),
            min_pool_size: plan::min_pool_size(config, entry),
            reserve_pool_size: plan::reserve(config, entry, None),
            server_lifetime: plan::lifetime(config, entry),
            load_balance_hosts: load_balance_hosts(entry),
            mode: entry.pool_mode.map(|mode| match mode {
                PoolMode::Session => pool::PoolMode::Session,
                PoolMode::Transaction => pool::PoolMode::Transaction,
                PoolMode::Statement => pool::PoolMode::Statement,
            }),
            servers_max: plan::database_servers(config, name),
            servers: sum.servers,
            clients_max: plan::room(config, name, "").database,
            clients: sum.clients,
            paused,
            disabled,
        }
    }

    fn console_database(&self, clients: usize) -> Database {
        Database {
            name: DATABASE.to_owned(),
            host: None,
            port: self.config.listen.listen_port,
            database: DATABASE.to_owned(),
            force_user: Some(DATABASE.to_owned()),
            pool_size: 2,
            min_pool_size: 0,
            reserve_pool_size: 0,
            server_lifetime: Duration::ZERO,
            load_balance_hosts: None,
            mode: None,
            servers_max: 0,
            servers: 0,
            clients_max: plan::room(&self.config, DATABASE, "").database,
            clients,
            paused: false,
            disabled: false,
        }
    }

    pub fn users(&self) -> Vec<User> {
        self.users_of(&self.pools())
    }

    fn users_of(&self, pools: &[Pool]) -> Vec<User> {
        let sums = sums(pools, |pool| &pool.user);
        let mut clients: HashMap<&str, usize> = HashMap::new();
        for (entry, _) in &self.clients {
            *clients.entry(&*entry.user).or_default() += 1;
        }
        let mut names = self.gateway.user_names();
        names.extend(pools.iter().map(|pool| pool.user.clone()));
        names.extend(self.clients.iter().map(|(entry, _)| entry.user.to_string()));
        names.sort();
        names.dedup();
        let user = |name: String| {
            let own = self.config.user(&name);
            User {
                pool_size: own.and_then(|own| own.pool_size),
                reserve_pool_size: own.and_then(|own| own.reserve_pool_size),
                mode: own.and_then(|own| own.pool_mode).map(PoolMode::name),
                servers_max: plan::user_servers(&self.config, &name),
                servers: sums.get(&*name).map_or(0, |sum| sum.servers),
                clients_max: plan::room(&self.config, DATABASE, &name).user,
                clients: clients.get(&*name).copied().unwrap_or_default(),
                name,
            }
        };
        names.into_iter().map(user).collect()
    }

    pub fn lists(&self) -> Lists {
        let pools = self.pools();
        let idle = pools.iter().map(|pool| pool.servers_idle).sum();
        let servers: usize = pools.iter().map(census::servers).sum();
        Lists {
            databases: self.databases_of(&pools).len(),
            users: self.users_of(&pools).len(),
            pools: pools.len(),
            clients_max: usize::try_from(self.config.listen.max_client_conn).unwrap_or(usize::MAX),
            clients: self.clients.len(),
            clients_logging_in: Arc::strong_count(&self.gateway.logging_in) - 1,
            servers_idle: idle,
            servers_active: servers.saturating_sub(idle),
            peers: self.config.peers.len(),
            peer_pools: self.peer_pools().len(),
        }
    }

    pub fn cache(&self) -> Cache {
        let (cache, counters) = (&self.gateway.cache, &self.gateway.cache_counters);
        Cache {
            mode: match cache.mode() {
                cache::Mode::Off => "off",
                cache::Mode::On => "on",
                cache::Mode::DryRun => "dry_run",
                cache::Mode::Verify => "verify",
            },
            entries: cache.entries(),
            bytes: cache.bytes(),
            bytes_max: cache.limits().size_bytes,
            evictions: cache.evictions(),
            warm_ups: WarmUps {
                begun: cache.warm_ups.counters.begun.value(),
                warmed: cache.warm_ups.counters.warmed.value(),
                failed: cache.warm_ups.counters.failed.value(),
            },
            hits: counters.hits.value(),
            hits_redis: counters.hits_redis.value(),
            misses: counters.misses.value(),
            would_hit: counters.would_hit.value(),
            verified: verified(&cache.verifier.counters),
            bypasses: counters.bypasses().map(|(_, count)| count).sum(),
            fills: counters.fills.value(),
            refused: counters.refused.value(),
            hit_bytes: counters.hit_bytes.value(),
            shared_fills: counters.shared_fills.value(),
            transactions: counters.transactions.value(),
            descriptions: counters.descriptions.value(),
            invalidated_tables: counters.invalidated_tables.value(),
            invalidated_database: counters.invalidated_database.value(),
            asked: counters.asked.value(),
            asked_known: counters.asked_known.value(),
            asked_tables: counters.asked_tables.value(),
            surplus: counters.surplus.value(),
            unforeseen: counters.unforeseen.value(),
            doubts: counters.doubts(),
            max_age: cache.limits().max_age,
            analysis: analysis(&cache.analysis),
            redis: redis(cache.redis_state(), cache.redis.as_deref()),
        }
    }

    /// Newest first, each with the time of day.
    pub fn differences(&self) -> Vec<(SystemTime, Difference)> {
        let found = self.gateway.cache.verifier.differences().into_iter();
        found.map(|difference| (self.time_of_day(difference.at), difference)).collect()
    }

    pub fn groups(&self) -> Vec<Group> {
        let mut tallies = self.gateway.shared.insight.groups();
        let groups = self.gateway.shared.registry.groups().into_iter();
        let group =
            |((user, database, application_name, address), counters): (_, Arc<GroupCounters>)| {
                Group {
                    number: counters.number,
                    user,
                    database,
                    application_name,
                    address,
                    clients: counters.clients.value(),
                    received: counters.received.value(),
                    sent: counters.sent.value(),
                    wait_time: counters.wait_time.value(),
                    tally: tallies.remove(&counters.number).unwrap_or_default(),
                }
            };
        groups.map(group).collect()
    }

    pub fn pins(&self) -> Vec<Pinned> {
        let pinned = self.clients.iter().filter(|(_, shown)| !shown.pins.is_empty());
        let row = |(entry, shown): &(Arc<Entry>, Shown)| Pinned {
            id: entry.id,
            user: entry.user.to_string(),
            database: entry.database.to_string(),
            pins: shown.pins.iter().map(Pin::name).collect(),
            since: shown.pinned_since.map(|since| self.time_of_day(since)),
            server_pid: entry.current().map(|current| current.pid),
        };
        pinned.map(row).collect()
    }
}

fn verified(counters: &VerifyCounters) -> Verified {
    Verified {
        same: counters.same.value(),
        other_order: counters.other_order.value(),
        incomparable: counters.incomparable.value(),
        differences: counters.differences.value(),
    }
}

fn analysis(analyses: &cache::Analyses) -> Analysis {
    let counters = &analyses.counters;
    Analysis {
        mode: if analyses.is_auto() { "auto" } else { "local" },
        asked: counters.asked.value(),
        decided: counters.decided.value(),
        failed: counters.failed.value(),
        skipped: counters.skipped.value(),
    }
}

fn redis(state: &'static str, redis: Option<&cache::redis::Redis>) -> Redis {
    let count = |counter: fn(&RedisCounters) -> &Counter| {
        redis.map_or(0, |redis| counter(&redis.counters).value())
    };
    Redis {
        state,
        last_error: redis.and_then(cache::redis::Redis::last_error),
        exposure: redis.and_then(cache::redis::Redis::exposure),
        look_ups: count(|counters| &counters.look_ups),
        misses: count(|counters| &counters.misses),
        stores: count(|counters| &counters.stores),
        errors: count(|counters| &counters.errors),
        timeouts: count(|counters| &counters.timeouts),
        dropped: count(|counters| &counters.dropped),
        forged: count(|counters| &counters.forged),
        skipped: count(|counters| &counters.skipped),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{self, gateway, hello};
    use super::*;
    use crate::client::registry::{Registered, Room};

    /// A client of this pool, which is made if need be.
    fn enter(gateway: &Arc<Gateway>, database: &str, user: &str) -> Registered {
        gateway.pool(database, user).unwrap();
        gateway.shared.registry.enter(hello(database, user, false), Room::UNLIMITED).unwrap()
    }

    #[tokio::test]
    async fn a_client_counts_in_its_pool_in_its_database_and_as_its_user() {
        let gateway = gateway();
        let of = [("app", "ann"), ("app", "bob"), ("app", "bob"), ("web", "ann")];
        let mut clients = Vec::from(of.map(|(database, user)| enter(&gateway, database, user)));
        let console = hello(DATABASE, "root", true);
        clients.push(gateway.shared.registry.enter(console, Room::UNLIMITED).unwrap());
        let now = Instant::now();
        clients[1].entry.shown.lock().unwrap().waiting_since = Some(now);
        let picture = Collector::new(&gateway, now);
        let pools = picture.pools().into_iter().map(|pool| {
            format!(
                "{}/{} {} {}",
                pool.database, pool.user, pool.clients_active, pool.clients_waiting
            )
        });
        let expected = ["app/ann 1 0", "app/bob 1 1", "pgbouncer/pgbouncer 1 0", "web/ann 1 0"];
        assert_eq!(pools.collect::<Vec<_>>(), expected);
        let databases = picture.databases().into_iter();
        let databases = databases.map(|database| (database.name, database.clients));
        let expected = [("app".to_owned(), 3), (DATABASE.to_owned(), 1), ("web".to_owned(), 1)];
        assert_eq!(databases.collect::<Vec<_>>(), expected);
        let users = picture.users().into_iter().map(|user| (user.name, user.clients));
        let users: HashMap<String, usize> = users.collect();
        assert_eq!([users["ann"], users["bob"], users["root"]], [2, 2, 1]);
    }

    #[test]
    fn a_directory_is_a_host_where_somebody_named_it() {
        let at = |name: &str, host| DatabaseEntry { host, ..tests::entry(name) };
        let named = at("named", Host::SocketDirectory("/run/pg".into()));
        let unnamed = at("unnamed", Host::Unnamed("/run/pg".into()));
        let config = Config { databases: vec![named, unnamed], ..tests::config() };
        let gateway = Gateway::new(config).unwrap();
        let databases = Collector::new(&gateway, Instant::now()).databases().into_iter();
        let hosts: Vec<_> = databases.map(|database| (database.name, database.host)).collect();
        let console = (DATABASE.to_owned(), None);
        let named = ("named".to_owned(), Some("/run/pg".to_owned()));
        assert_eq!(hosts, [named, console, ("unnamed".to_owned(), None)]);
    }

    #[tokio::test]
    async fn thousands_of_pools_and_clients_are_counted_once_each() {
        const COUNT: usize = 5000;
        let gateway = gateway();
        let names = (0..COUNT).map(|number| format!("user of the number {number:05}"));
        let clients: Vec<_> = names.map(|name| enter(&gateway, "app", &name)).collect();
        let lists = Collector::new(&gateway, Instant::now()).lists();
        assert_eq!((lists.pools, lists.clients), (COUNT + 1, clients.len()));
    }
}
