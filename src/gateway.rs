//! Which pool a client gets: users and their secrets, databases and where they are, pools made
//! when first asked for. One for the whole process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use crate::admin::history::History;
use crate::admin::pause::{Activity, Pauses};
use crate::auth::Secret;
use crate::auth::userlist::Password;
use crate::cache::redis::{Redis, Settings as RedisSettings};
use crate::cache::{Cache, Limits, Mode};
use crate::client::Shared;
use crate::client::registry::{Leave, Registry};
use crate::config::{CacheMode, Config, DatabaseEntry, Host, LoadBalance, PinPolicy, PoolMode};
use crate::insight::Insight;
use crate::metrics::{CacheCounters, PoolCounters};
use crate::net::{Address, TlsConfigError, set_socket_options};
use crate::pool::database::Database;
use crate::pool::io::{Pool, Times};
use crate::pool::state::Hold;
use crate::pool::{self, ClientLimits, Common, statements};
use crate::running::{GatewayError, Running, socket_options};
use crate::server::io::{Hosts, Target};
use crate::service::Service;

use tokio::sync::watch;

/// Statements that the clients of one pool share, at most; a forgotten one is parsed again.
const SHARED_STATEMENTS_MAX: usize = 10_000;

/// Databases and pools, at most; clients choose their names.
const POOLS_MAX: usize = 10_000;

pub struct Gateway {
    /// Guards what RELOAD replaces; held only to clone or replace the `Arc`.
    running: RwLock<Arc<Running>>,
    pub cache: Arc<Cache>,
    /// For databases whose answers may not be kept.
    no_cache: Arc<Cache>,
    pub cache_counters: Arc<CacheCounters>,
    pub shared: Arc<Shared>,
    /// Authenticates users we do not know without showing that we do not.
    pub process_secret: [u8; 32],
    /// Guards what has been made so far. `running`, and the locks of one pool or service, may be
    /// taken inside.
    made: Mutex<Made>,
    next_database: AtomicU64,
    pub started_at: Instant,
    /// What was asked of the console; `SHOW STATS` shows it as a database.
    pub console_counters: PoolCounters,
    /// Guards the counters of the past; nothing else is locked inside.
    pub history: Mutex<History>,
    /// Told of the settings that a reload has applied.
    on_reload: OnceLock<OnReload>,
    /// How far the program has got in stopping.
    pub stage: watch::Sender<Stage>,
    /// Guards who may work; nothing else is locked inside.
    pauses: Mutex<Pauses>,
    /// Whether newcomers have to wait.
    pub suspended: watch::Sender<bool>,
    /// Cancel requests on their way to peers. Guards a map by peer; nothing else is locked inside.
    pub peer_cancels: Mutex<BTreeMap<u16, usize>>,
}

/// How far the program has got in stopping; never back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Running,
    /// No new clients; over when the last has left.
    WaitForClients,
    /// Clients leave as soon as they have no server; over when none has.
    WaitForServers,
    Now,
}

type OnReload = Box<dyn Fn(&Config) + Send + Sync>;

#[derive(Default)]
struct Made {
    /// By address and PostgreSQL's name of the database.
    databases: HashMap<(String, String), (Arc<Database>, Arc<Service>)>,
    /// By the client's name of the database, and user.
    pools: HashMap<(String, String), Opened>,
}

/// A pool with its side task.
#[derive(Clone)]
pub struct Opened {
    pub pool: Arc<Pool>,
    pub service: Arc<Service>,
    /// The user its clients log in as; servers may have another.
    pub user: String,
}

impl Gateway {
    pub fn new(config: Config) -> Result<Self, GatewayError> {
        let running = Running::load(config)?;
        let config = &running.config;
        let ring = usize::try_from(config.slow.ring_size).unwrap_or(usize::MAX);
        let started = (Instant::now(), std::time::SystemTime::now());
        let redis = redis(config, limits(config), started.0)?;
        set_socket_options(socket_options(config));
        let insight = Insight::new(config.slow.threshold, ring, config.slow.rate_limit, started);
        Ok(Self {
            cache: Arc::new(
                Cache::new(mode(config), limits(config), rand::random()).with_redis(redis),
            ),
            no_cache: Arc::new(Cache::new(Mode::Off, limits(config), rand::random())),
            cache_counters: Arc::default(),
            shared: Arc::new(Shared {
                registry: Arc::new(Registry::default()),
                insight,
                reset_query: Mutex::new(config.server.server_reset_query.clone()),
                suspended: AtomicBool::new(false),
            }),
            process_secret: rand::random(),
            made: Mutex::default(),
            next_database: AtomicU64::new(1),
            started_at: started.0,
            console_counters: PoolCounters::default(),
            history: Mutex::new(History::new(started.0)),
            on_reload: OnceLock::new(),
            stage: watch::Sender::new(Stage::Running),
            pauses: Mutex::default(),
            suspended: watch::Sender::new(false),
            peer_cancels: Mutex::default(),
            running: RwLock::new(Arc::new(running)),
        })
    }

    /// The settings of now. What one connection needs of them it takes from one `Running`.
    pub fn running(&self) -> Arc<Running> {
        Arc::clone(&self.running.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.running().config)
    }

    /// Calls this after each reload, with the settings then in force. Counts once.
    pub fn on_reload(&self, call: OnReload) {
        self.on_reload.get_or_init(|| call);
    }

    pub fn knows_database(&self, name: &str) -> bool {
        self.config().database(name).is_some()
    }

    /// The pool of a database and user, made if this is its first client. `None`: there is no
    /// such database, or there are too many pools.
    pub fn pool(self: &Arc<Self>, database: &str, user: &str) -> Option<Opened> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        // Inside the lock, or a reload between the two would leave a pool of the old settings.
        let running = self.running();
        let entry = running.config.database(database)?;
        let server_user = entry.user.clone().unwrap_or_else(|| user.to_owned());
        let key = (database.to_owned(), user.to_owned());
        if let Some(opened) = made.pools.get(&key) {
            return Some(opened.clone());
        }
        if made.pools.len() >= POOLS_MAX {
            return None;
        }
        let target = target(&running, entry, database, &server_user);
        let address = format!("{:?}", target.hosts.addresses);
        let behind = made
            .databases
            .entry((address, target.database.clone()))
            .or_insert_with(|| self.make_database(&running.config, &target));
        let (behind, service) = (Arc::clone(&behind.0), Arc::clone(&behind.1));
        let pool =
            Arc::new(self.make_pool(&running.config, entry, database, server_user, target, behind));
        let opened = Opened { pool, service, user: user.to_owned() };
        made.pools.insert(key, opened.clone());
        match self.hold(database) {
            Some(_) => self.settle(&made),
            None => opened.service.set_paused(false),
        }
        Some(opened)
    }

    /// Reads or changes who may work; what has changed is in force when this returns.
    pub fn with_pauses<T>(&self, change: impl FnOnce(&mut Pauses) -> T) -> T {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut self.pauses.lock().unwrap_or_else(PoisonError::into_inner));
        self.settle(&made);
        result
    }

    /// Makes the pools obey a new stage.
    pub fn settle_stage(&self) {
        self.settle(&self.made.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn settle(&self, made: &Made) {
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

    fn hold(&self, database: &str) -> Option<Hold> {
        let stopping = *self.stage.borrow() >= Stage::WaitForServers;
        if stopping { Some(Hold::Stopping) } else { self.pauses().hold(database) }
    }

    pub fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a new client of this database and user would still get this pool.
    pub fn is_current(&self, opened: &Opened) -> bool {
        let key = (opened.pool.name.clone(), opened.user.clone());
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.pools.get(&key).is_some_and(|current| Arc::ptr_eq(&current.pool, &opened.pool))
    }

    fn make_database(&self, config: &Config, target: &Target) -> (Arc<Database>, Arc<Service>) {
        let id = self.next_database.fetch_add(1, Ordering::Relaxed);
        let database = Arc::new(Database::new(id, target.database.clone(), rand::random()));
        let service = Service::start(
            Arc::clone(&database),
            service_target(target),
            config.cache.catalog_poll,
            config.cache.max_age,
        );
        (database, service)
    }

    fn make_pool(
        &self,
        config: &Config,
        entry: &DatabaseEntry,
        name: &str,
        server_user: String,
        target: Target,
        database: Arc<Database>,
    ) -> Pool {
        let mode = match entry.pool_mode.unwrap_or(config.pool.pool_mode) {
            PoolMode::Session => pool::PoolMode::Session,
            PoolMode::Transaction => pool::PoolMode::Transaction,
            PoolMode::Statement => pool::PoolMode::Statement,
        };
        let pin_policy = match config.pool.pins {
            PinPolicy::Pin => pool::PinPolicy::Pin,
            PinPolicy::Ignore => pool::PinPolicy::Ignore,
            PinPolicy::Refuse => pool::PinPolicy::Refuse,
        };
        let shared_max = NonZeroUsize::new(SHARED_STATEMENTS_MAX).unwrap_or(NonZeroUsize::MIN);
        let limits = ClientLimits {
            statements_max: usize::try_from(config.pool.max_client_prepared_statements)
                .unwrap_or(usize::MAX),
            server_statements_max: target.statements_max,
            message_bytes_max: usize::try_from(config.listen.max_packet_size).unwrap_or(usize::MAX),
        };
        // Which of several servers has seen a write, and which has not, cannot be known.
        let several = matches!(entry.host, Host::Several(_));
        let common = Common::new(pool::Parts {
            user: server_user,
            database,
            cache: if several { Arc::clone(&self.no_cache) } else { Arc::clone(&self.cache) },
            mode,
            pin_policy,
            statements: statements::Shared::new(shared_max),
            cache_counters: Arc::clone(&self.cache_counters),
            limits,
        });
        let size = pool_size(config, entry);
        Pool::new(Arc::new(common), target, name.to_owned(), size, times(config))
    }

    /// Every pool made so far, by database and user.
    pub fn pools(&self) -> Vec<Opened> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pools: Vec<_> = made.pools.iter().collect();
        pools.sort_by(|left, right| left.0.cmp(right.0));
        pools.into_iter().map(|(_, opened)| opened.clone()).collect()
    }

    /// Everybody who may log in, by name.
    pub fn user_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.running().users.keys().cloned().collect();
        names.sort();
        names
    }

    /// Makes the running program that of these settings. Pools whose servers would be others, or
    /// whose clients would be treated otherwise, are made anew; their clients leave at the end of
    /// their transactions, so that no session changes its database under way.
    pub fn apply(&self, config: Config) -> Result<(), GatewayError> {
        let new = Arc::new(Running::load(config)?);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let old = {
            let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *running, Arc::clone(&new))
        };
        self.cache.set(mode(&new.config), limits(&new.config));
        set_socket_options(socket_options(&new.config));
        let reset_query = new.config.server.server_reset_query.clone();
        *self.shared.reset_query.lock().unwrap_or_else(PoisonError::into_inner) = reset_query;
        let slow = &new.config.slow;
        self.shared.insight.set(slow.threshold, slow.rate_limit);
        let mut replaced = Vec::new();
        let Made { databases, pools } = &mut *made;
        pools.retain(|name, opened| {
            let entry = new.config.database(&name.0);
            if let Some(entry) = entry.filter(|_| is_same_pool(&old, &new, &name.0, &opened.pool)) {
                opened.pool.set(pool_size(&new.config, entry), times(&new.config));
                return true;
            }
            if let Some(entry) = entry {
                let user = entry.user.as_deref().unwrap_or(&name.1);
                let target = target(&new, entry, &name.0, user);
                let key = (format!("{:?}", target.hosts.addresses), target.database.clone());
                if let Some((_, service)) = databases.get(&key) {
                    service.set_target(service_target(&target));
                }
            }
            opened.pool.retire_all();
            replaced.push(name.clone());
            false
        });
        for (_, service) in databases.values() {
            service.set_times(new.config.cache.catalog_poll, new.config.cache.max_age);
        }
        drop(made);
        if let Some(call) = self.on_reload.get() {
            call(&new.config);
        }
        for entry in self.shared.registry.clients() {
            if !entry.console && replaced.contains(&(entry.database.clone(), entry.user.clone())) {
                entry.ask_to_leave(Leave::Reconfigured);
            }
        }
        Ok(())
    }

    pub fn databases(&self) -> Vec<(Arc<Database>, Arc<Service>)> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut databases: Vec<_> = made.databases.values().cloned().collect();
        databases.sort_by_key(|(database, _)| database.id);
        databases
    }
}

/// The second tier, if there is one; nothing is kept there while the cache is not on, which a
/// reload may change.
fn redis(
    config: &Config,
    limits: Limits,
    started: Instant,
) -> Result<Option<Arc<Redis>>, GatewayError> {
    let redis = &config.redis;
    if redis.url.is_empty() {
        return Ok(None);
    }
    let read = |path: &PathBuf| {
        let failed = |cause: std::io::Error| {
            GatewayError::Tls(TlsConfigError::File { path: path.clone(), cause: cause.to_string() })
        };
        std::fs::read(path).map_err(failed)
    };
    let settings = RedisSettings {
        url: redis.url.reveal().to_owned(),
        authorities: redis.tls_ca_file.as_ref().map(read).transpose()?,
        prefix: redis.prefix.clone(),
        timeout: redis.timeout,
        breaker_failures: redis.breaker_failures,
        breaker_reset: redis.breaker_reset,
        compress_from: usize::try_from(redis.compress_from.bytes()).unwrap_or(usize::MAX),
        entry_bytes_max: limits.entry_bytes_max,
        max_age: limits.max_age,
        secret: rand::random(),
    };
    Redis::start(settings, started).map(Some).map_err(GatewayError::Redis)
}

fn target(running: &Running, entry: &DatabaseEntry, database: &str, user: &str) -> Target {
    let secret = match &entry.password {
        Some(password) => Some(Secret::Plain(Password::new(password.reveal().to_owned()))),
        None => running.users.get(user).cloned(),
    };
    let hosts = match &entry.host {
        Host::Several(hosts) => hosts.iter().map(|host| address(host, entry.port)).collect(),
        host @ (Host::Name(_) | Host::SocketDirectory(_)) => Box::from([address(host, entry.port)]),
    };
    let round_robin = entry.load_balance_hosts == LoadBalance::RoundRobin;
    let application = entry.application_name.iter().map(|name| ("application_name", name));
    let options = entry.options.iter().map(|options| ("options", options));
    let statements = usize::try_from(running.config.pool.max_prepared_statements).unwrap_or(1);
    Target {
        hosts: Arc::new(Hosts::new(hosts, round_robin)),
        tls: running.server_tls.clone(),
        database: entry.dbname.clone().unwrap_or_else(|| database.to_owned()),
        user: user.to_owned(),
        secret,
        parameters: application
            .chain(options)
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect(),
        statements_max: NonZeroUsize::new(statements).unwrap_or(NonZeroUsize::MIN),
    }
}

fn address(host: &Host, port: u16) -> Address {
    Address::new(&host.to_string(), port)
}

/// Whether a pool of the old settings is what the new ones would make, but for its size and
/// times, which can change under way.
fn is_same_pool(old: &Running, new: &Running, name: &str, pool: &Pool) -> bool {
    let without_size = |running: &Running| {
        running
            .config
            .database(name)
            .map(|entry| DatabaseEntry { pool_size: None, ..entry.clone() })
    };
    let user = &pool.target.user;
    let own = new.config.database(name).is_some_and(|entry| entry.password.is_some());
    let has_own_secret_or_same = || {
        own || match (old.users.get(user), new.users.get(user)) {
            (Some(old), Some(new)) => old.is_same(new),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    };
    let made_of = |running: &Running| {
        let pool = &running.config.pool;
        let statements = (pool.max_prepared_statements, pool.max_client_prepared_statements);
        (pool.pool_mode, pool.pins, statements, running.config.listen.max_packet_size)
    };
    without_size(old) == without_size(new)
        && has_own_secret_or_same()
        && old.config.tls == new.config.tls
        && made_of(old) == made_of(new)
}

/// The same for the questions of our own.
fn service_target(target: &Target) -> Arc<Target> {
    Arc::new(Target { statements_max: NonZeroUsize::MIN, ..target.clone() })
}

fn mode(config: &Config) -> Mode {
    match config.cache.mode {
        CacheMode::Off => Mode::Off,
        CacheMode::On => Mode::On,
        CacheMode::DryRun => Mode::DryRun,
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        size_bytes: config.cache.size.bytes(),
        entry_bytes_max: usize::try_from(config.cache.max_entry_size.bytes()).unwrap_or(usize::MAX),
        max_age: config.cache.max_age,
    }
}

fn pool_size(config: &Config, entry: &DatabaseEntry) -> usize {
    let size = entry.pool_size.unwrap_or(config.pool.default_pool_size);
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn times(config: &Config) -> Times {
    Times {
        query_wait_timeout: config.pool.query_wait_timeout,
        connect_timeout: config.server.server_connect_timeout,
        login_retry: config.server.server_login_retry,
        idle_timeout: config.server.server_idle_timeout,
        lifetime: config.server.server_lifetime,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Base;

    fn config() -> Config {
        let mut config = Config::defaults(Base::Forebay);
        config.databases = vec![DatabaseEntry {
            name: "*".into(),
            // Nobody answers there, and nobody is asked: the tests end before the tasks begin.
            host: Host::Name("127.0.0.1".into()),
            port: 1,
            load_balance_hosts: LoadBalance::RoundRobin,
            dbname: None,
            user: None,
            password: None,
            pool_size: None,
            pool_mode: None,
            application_name: None,
            options: None,
        }];
        config
    }

    fn gateway() -> Arc<Gateway> {
        Arc::new(Gateway::new(config()).unwrap())
    }

    #[tokio::test]
    async fn a_reload_of_sizes_and_times_keeps_the_pools() {
        let gateway = gateway();
        let before = gateway.pool("app", "ann").unwrap().pool;
        let mut new = config();
        new.pool.default_pool_size = 3;
        new.server.server_lifetime = std::time::Duration::from_secs(5);
        new.cache.mode = CacheMode::DryRun;
        gateway.apply(new).unwrap();
        assert!(Arc::ptr_eq(&before, &gateway.pool("app", "ann").unwrap().pool));
        assert_eq!(gateway.config().pool.default_pool_size, 3);
        assert_eq!(gateway.cache.mode(), Mode::DryRun);
    }

    #[tokio::test]
    async fn a_reload_of_the_pool_mode_makes_pools_anew_over_the_same_database() {
        let gateway = gateway();
        let before = gateway.pool("app", "ann").unwrap();
        assert!(gateway.is_current(&before));
        let mut new = config();
        new.pool.pool_mode = PoolMode::Session;
        gateway.apply(new).unwrap();
        let after = gateway.pool("app", "ann").unwrap().pool;
        assert!(!gateway.is_current(&before));
        let before = before.pool;
        assert_eq!(after.common.mode, pool::PoolMode::Session);
        // What old clients write must be seen by what new ones read.
        assert!(Arc::ptr_eq(&before.common.database, &after.common.database));
    }

    #[tokio::test]
    async fn clients_of_a_database_that_is_gone_are_told_to_leave() {
        let gateway = gateway();
        gateway.pool("app", "ann").unwrap();
        let hello = crate::client::registry::Hello {
            id: crate::server::io::next_id(),
            user: "ann".into(),
            database: "app".into(),
            application_name: String::new(),
            address: String::new(),
            local: String::new(),
            tls: None,
            console: false,
            peer_id: 0,
            fd: 0,
        };
        let client = gateway.shared.registry.enter(hello, 10).unwrap();
        gateway.apply(Config { databases: Vec::new(), ..config() }).unwrap();
        assert_eq!(client.entry.asked_to_leave().await, Leave::Reconfigured);
        assert!(gateway.pool("app", "ann").is_none());
    }
}
