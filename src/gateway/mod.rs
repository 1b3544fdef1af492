//! Which pool a client gets: users and their secrets, databases and where they are, pools made
//! when first asked for. One for the whole process.

mod apply;
mod pauses;
mod target;
mod upkeep;
mod vacate;
mod warm;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use crate::admin::history::History;
use crate::admin::pause::Pauses;
use crate::auth::AllLearned;
use crate::auth_query::AuthQueries;
use crate::cache::group::talk::Talk;
use crate::cache::redis::{Redis, Settings as RedisSettings};
use crate::cache::{Cache, Limits, Mode};
use crate::client::Shared;
use crate::client::deadline::Timeouts;
use crate::client::registry::Registry;
use crate::config::{Analysis, CacheMode, Config, DatabaseEntry, Host, PinPolicy};
use crate::insight::{Insight, SlowLog};
use crate::metrics::{CacheCounters, PoolCounters};
use crate::net::{TlsConfigError, set_socket_options};
use crate::plan;
use crate::pool::database::Database;
use crate::pool::io::{Pool, Quotas};
use crate::pool::quota::Quota;
use crate::pool::{self, Common, statements};
use crate::running::{GatewayError, Read, Running, socket_options};
use crate::server::io::{ServerTls, Target};
use crate::service::{Service, Times};

use tokio::sync::{Notify, watch};

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
    /// Sockets that accept and connections that log in, as far as a stop waits for them.
    pub arriving: watch::Sender<usize>,
    /// Held by each connection that logs in: so many there are, and one more.
    pub logging_in: Arc<()>,
    /// Consoles that are yet to be told that it is stopping, as they asked.
    pub untold: watch::Sender<usize>,
    pub auth_queries: AuthQueries,
    /// What clients' log-ins have told.
    pub learned: AllLearned,
    /// Towards every server.
    server_tls: Arc<ServerTls>,
    /// Guards who may work; nothing else is locked inside.
    pauses: Mutex<Pauses>,
    /// Told when that has changed.
    pauses_changed: Notify,
    /// Whether newcomers have to wait.
    pub suspended: watch::Sender<bool>,
    /// Cancel requests on their way to peers. Guards a map by peer; nothing else is locked inside.
    pub peer_cancels: Mutex<BTreeMap<u16, usize>>,
    /// What the group that this process is part of is told of others.
    pub group_talk: Option<Arc<Talk>>,
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
    databases: Databases,
    /// By the client's name of the database, and the user that servers log in as.
    pools: HashMap<PoolKey, Opened>,
    /// Servers counted over pools, by the client's name of the database and by servers' user.
    database_quotas: HashMap<String, Arc<Quota<Pool>>>,
    user_quotas: HashMap<String, Arc<Quota<Pool>>>,
    /// Databases without an entry of their own, and when each was last in use.
    auto_databases: HashMap<String, Instant>,
}

type Databases = HashMap<(String, String), (Arc<Database>, Arc<Service>)>;

/// The client's name of the database, and the user that servers log in as.
type PoolKey = (String, String);

fn pool_key(entry: &DatabaseEntry, database: &str, user: &str) -> PoolKey {
    (database.to_owned(), entry.user.as_deref().unwrap_or(user).to_owned())
}

/// The quota of this name, made if nothing has counted on it before.
fn quota(
    quotas: &mut HashMap<String, Arc<Quota<Pool>>>,
    name: &str,
    max: usize,
) -> Arc<Quota<Pool>> {
    Arc::clone(quotas.entry(name.to_owned()).or_insert_with(|| Arc::new(Quota::new(max))))
}

/// A pool with its side task.
#[derive(Clone)]
pub struct Opened {
    pub pool: Arc<Pool>,
    pub service: Arc<Service>,
}

impl Opened {
    fn key(&self) -> PoolKey {
        (self.pool.name.clone(), self.pool.common.user.clone())
    }
}

/// Whether this process could begin with these settings, and what it would say then. Nothing is
/// connected or listened to.
pub fn check(config: Config, read: Read<'_>) -> Result<Vec<String>, GatewayError> {
    let running = Running::load(config, read)?;
    if let Some(redis) = redis_settings(&running, limits(&running.config))? {
        redis.check().map_err(GatewayError::Redis)?;
    }
    Ok(running.notices)
}

impl Gateway {
    pub fn new(config: Config) -> Result<Self, GatewayError> {
        let running = Running::load(config, &read_file)?;
        tell(&running.notices);
        let config = &running.config;
        let started = (Instant::now(), std::time::SystemTime::now());
        let redis = redis_settings(&running, limits(config))?;
        let redis = redis.map(|redis| Redis::start(redis, started.0)).transpose();
        let redis = redis.map_err(GatewayError::Redis)?;
        set_socket_options(socket_options(config));
        let cache = Cache::new(mode(config), limits(config), rand::random())
            .in_group(running.group.is_some())
            .with_redis(redis);
        cache.verifier.set(config.cache.verify_sample, config.cache.verify_values);
        cache.analysis.set_auto(config.cache.analysis == Analysis::Auto);
        cache.warm_ups.set(config.cache.warm_up > 0, config.cache.warm_up_entries);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let slow = SlowLog::new(Arc::clone(config), started);
        let insight = Insight::new(slow, &config.insight, threads);
        Ok(Self {
            cache: Arc::new(cache),
            no_cache: Arc::new(Cache::new(Mode::Off, limits(config), rand::random())),
            cache_counters: Arc::default(),
            shared: Arc::new(Shared {
                registry: Arc::new(Registry::default()),
                insight,
                reset_query: Mutex::new(config.server.server_reset_query.clone()),
                reset_always: AtomicBool::new(config.server.server_reset_query_always),
                fast_close: AtomicBool::new(config.server.server_fast_close),
                vacate: OnceLock::new(),
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
            arriving: watch::Sender::new(0),
            logging_in: Arc::new(()),
            untold: watch::Sender::new(0),
            auth_queries: AuthQueries::default(),
            learned: AllLearned::default(),
            server_tls: Arc::new(ServerTls::new(running.tls.server.clone())),
            pauses: Mutex::default(),
            pauses_changed: Notify::new(),
            suspended: watch::Sender::new(false),
            peer_cancels: Mutex::default(),
            group_talk: running.group.as_ref().map(|group| Arc::new(Talk::new(group))),
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
        if let Some(opened) = made.pools.get(&pool_key(entry, database, user)) {
            return Some(opened.clone());
        }
        let opened = self.make(&mut made, &running, (database, user), Arc::default())?;
        self.shared.vacate.get_or_init(|| {
            let gateway = Arc::downgrade(self);
            Box::new(move |target, name| {
                gateway.upgrade().map_or_else(Vec::new, |gateway| gateway.vacate(target, name))
            })
        });
        match self.hold(database) {
            Some(_) => self.settle(&made),
            None => opened.service.set_paused(false),
        }
        Some(opened)
    }

    /// Makes the pool of this database and client's user, which there is not yet. Whether it may
    /// work is for the caller to settle.
    fn make(
        &self,
        made: &mut Made,
        running: &Running,
        (database, user): (&str, &str),
        counters: Arc<PoolCounters>,
    ) -> Option<Opened> {
        let entry = running.config.database(database)?;
        if made.pools.len() >= POOLS_MAX || made.databases.len() >= POOLS_MAX {
            return None;
        }
        if entry.name == "*" && !made.auto_databases.contains_key(database) {
            made.auto_databases.insert(database.to_owned(), Instant::now());
            tracing::info!(%database, "registered new auto-database: {database}");
        }
        let key = pool_key(entry, database, user);
        let server_user = key.1.clone();
        let target = self.target(running, entry, database, user);
        let Made { databases, database_quotas, user_quotas, .. } = made;
        let behind = databases
            .entry(target.place())
            .or_insert_with(|| self.make_database(&running.config, &target));
        behind.1.offer(&target);
        let (behind, service) = (Arc::clone(&behind.0), Arc::clone(&behind.1));
        let config = &running.config;
        let (of_database, of_user) =
            (plan::database_servers(config, database), plan::user_servers(config, &server_user));
        let quotas = Quotas {
            database: quota(database_quotas, database, of_database),
            user: quota(user_quotas, &server_user, of_user),
        };
        let common = self.make_common(config, entry, server_user, behind, counters);
        let rules = plan::rules(config, entry, &common.user);
        let pool = Pool::new(Arc::new(common), target, database.to_owned(), rules, quotas);
        let opened = Opened { pool, service };
        made.pools.insert(key, opened.clone());
        Some(opened)
    }

    /// Whether a new client of this database and user would still get this pool.
    pub fn is_current(&self, opened: &Opened) -> bool {
        let key = opened.key();
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.pools.get(&key).is_some_and(|current| Arc::ptr_eq(&current.pool, &opened.pool))
    }

    /// The cache for answers of a database.
    fn cache_of(&self, entry: &DatabaseEntry) -> &Arc<Cache> {
        // Which of several servers has seen a write, and which has not, cannot be known; nor what
        // a RESET of the client's returns to where sessions begin with a query.
        let unclear = matches!(entry.host, Host::Several(_)) || entry.connect_query.is_some();
        if unclear { &self.no_cache } else { &self.cache }
    }

    fn make_database(&self, config: &Config, target: &Target) -> (Arc<Database>, Arc<Service>) {
        let id = self.next_database.fetch_add(1, Ordering::Relaxed);
        let database = Database::new(id, target.database.clone(), rand::random());
        database.set_rules(&config.rules());
        let database = Arc::new(database);
        let service = Service::start(
            Arc::clone(&database),
            Arc::clone(&self.cache),
            Arc::new(target.clone()),
            Times::of(config),
        );
        (database, service)
    }

    fn make_common(
        &self,
        config: &Config,
        entry: &DatabaseEntry,
        server_user: String,
        database: Arc<Database>,
        counters: Arc<PoolCounters>,
    ) -> Common {
        let mode = plan::mode(config, entry, &server_user);
        let pin_policy = match config.pool.pins {
            PinPolicy::Pin => pool::PinPolicy::Pin,
            PinPolicy::Ignore => pool::PinPolicy::Ignore,
            PinPolicy::Refuse => pool::PinPolicy::Refuse,
        };
        let shared_max = NonZeroUsize::new(SHARED_STATEMENTS_MAX).unwrap_or(NonZeroUsize::MIN);
        let limits = plan::client_limits(config);
        Common::new(pool::Parts {
            user: server_user,
            database,
            cache: Arc::clone(self.cache_of(entry)),
            main_cache: Arc::clone(&self.cache),
            mode,
            pin_policy,
            statements: statements::Shared::new(shared_max),
            counters,
            cache_counters: Arc::clone(&self.cache_counters),
            limits,
        })
    }

    /// The patience with a client of this user in this pool.
    pub fn timeouts(&self, opened: &Opened, user: &str) -> Timeouts {
        timeouts(&self.config(), &opened.pool.name, user, &opened.pool.common.user)
    }

    /// Every pool made so far, by database and user.
    pub fn pools(&self) -> Vec<Opened> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pools: Vec<_> = made.pools.iter().collect();
        pools.sort_by(|left, right| left.0.cmp(right.0));
        pools.into_iter().map(|(_, opened)| opened.clone()).collect()
    }

    /// Everybody who may log in or has settings of their own, by name.
    pub fn user_names(&self) -> Vec<String> {
        let running = self.running();
        let listed = running.config.users.iter().map(|user| user.name.clone());
        let mut names: Vec<String> = running.users.keys().cloned().chain(listed).collect();
        names.sort();
        names
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
fn redis_settings(
    running: &Running,
    limits: Limits,
) -> Result<Option<RedisSettings>, GatewayError> {
    let redis = &running.config.redis;
    if redis.url.is_empty() {
        return Ok(None);
    }
    let read = |path: &PathBuf| {
        let failed = |cause: std::io::Error| {
            GatewayError::Tls(TlsConfigError::File { path: path.clone(), cause: cause.to_string() })
        };
        std::fs::read(path).map_err(failed)
    };
    Ok(Some(RedisSettings {
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
        group: running.group.clone(),
    }))
}

fn read_file(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}

fn tell(notices: &[String]) {
    for notice in notices {
        tracing::warn!("{notice}");
    }
}

fn mode(config: &Config) -> Mode {
    match config.cache.mode {
        CacheMode::Off => Mode::Off,
        CacheMode::On => Mode::On,
        CacheMode::DryRun => Mode::DryRun,
        CacheMode::Verify => Mode::Verify,
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        size_bytes: config.cache.size.bytes(),
        entry_bytes_max: usize::try_from(config.cache.max_entry_size.bytes()).unwrap_or(usize::MAX),
        max_age: config.cache.max_age,
        opaque_writes: config.cache.opaque_writes,
        ask_median_max: config.cache.ask_median_max,
        cut_off: config.cache.cut_off,
    }
}

/// The patience with a client; without end where there is no such database any more.
fn timeouts(config: &Config, database: &str, user: &str, server_user: &str) -> Timeouts {
    config
        .database(database)
        .map(|entry| plan::timeouts(config, entry, user, server_user))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::registry::Leave;
    use crate::client::registry::Room;
    use crate::config::{AuthLookup, DatabaseLimits, LoadBalance, SecretText};
    use crate::config::{Base, PoolMode};
    use crate::wire::startup::Replication;

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
            limits: DatabaseLimits::default(),
            connect_query: None,
            application_name: None,
            parameters: Vec::new(),
            options: None,
            auth: AuthLookup::default(),
        }];
        config
    }

    fn gateway() -> Arc<Gateway> {
        Arc::new(Gateway::new(config()).unwrap())
    }

    #[test]
    fn what_the_redis_client_would_refuse_is_refused_before_a_start() {
        let told = |ca_file: Option<&str>| {
            let mut config = config();
            config.redis.url = SecretText::new("rediss://127.0.0.1");
            config.redis.tls_ca_file = ca_file.map(Into::into);
            check(config, &read_file).map_err(|error| error.to_string())
        };
        assert!(told(None).is_ok());
        let nothing = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert_eq!(told(Some(nothing)).unwrap_err(), "redis.tls_ca_file: no certificate");
    }

    #[tokio::test]
    async fn a_reload_of_sizes_and_times_keeps_the_pools() {
        let gateway = gateway();
        let before = gateway.pool("app", "ann").unwrap().pool;
        let mut new = config();
        new.pool.default_pool_size = 3;
        new.server.server_lifetime = Duration::from_secs(5);
        new.cache.mode = CacheMode::DryRun;
        gateway.apply(new).unwrap();
        assert!(Arc::ptr_eq(&before, &gateway.pool("app", "ann").unwrap().pool));
        assert_eq!(gateway.config().pool.default_pool_size, 3);
        assert_eq!(gateway.cache.mode(), Mode::DryRun);
    }

    #[tokio::test]
    async fn nothing_is_asked_again_unless_that_is_asked_for() {
        let gateway = gateway();
        assert!(!gateway.cache.warm_ups.is_on());
        let mut new = config();
        new.cache.warm_up = 1;
        gateway.apply(new).unwrap();
        assert!(gateway.cache.warm_ups.is_on());
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
    async fn a_pool_that_a_reload_makes_anew_counts_on() {
        let gateway = gateway();
        gateway.pool("app", "ann").unwrap().pool.common.counters.query.add(5);
        let mut new = config();
        new.pool.pool_mode = PoolMode::Session;
        gateway.apply(new).unwrap();
        gateway.pool("app", "ann").unwrap().pool.common.counters.query.one();
        assert_eq!(gateway.pool("app", "ann").unwrap().pool.common.counters.query.value(), 6);
        assert_eq!(gateway.pool("app", "bob").unwrap().pool.common.counters.query.value(), 0);
    }

    #[tokio::test]
    async fn limits_of_pools_that_are_gone_are_forgotten() {
        let gateway = gateway();
        let mut new = config();
        new.pool.pool_idle_timeout = Duration::from_secs(1);
        gateway.apply(new).unwrap();
        gateway.pool("app", "ann").unwrap();
        let used = gateway.pool("app", "bob").unwrap();
        let names = |gateway: &Gateway| {
            let made = gateway.made.lock().unwrap();
            let names = |quotas: &HashMap<String, _>| {
                let mut names: Vec<String> = quotas.keys().cloned().collect();
                names.sort();
                names.join(" ")
            };
            (names(&made.database_quotas), names(&made.user_quotas))
        };
        assert_eq!(names(&gateway), ("app".to_owned(), "ann bob".to_owned()));
        gateway.upkeep(Instant::now() + Duration::from_secs(2));
        assert_eq!(names(&gateway), ("app".to_owned(), "bob".to_owned()));
        drop(used);
        gateway.upkeep(Instant::now() + Duration::from_secs(2));
        assert_eq!(names(&gateway), (String::new(), String::new()));
    }

    #[tokio::test]
    async fn thousands_of_databases_are_kept_as_long_as_they_may_be_idle() {
        let gateway = gateway();
        let mut new = config();
        // One database of PostgreSQL under many names.
        new.databases[0].dbname = Some("app".into());
        new.pool.autodb_idle_timeout = Duration::from_hours(1);
        gateway.apply(new).unwrap();
        for number in 0..4000 {
            gateway.pool(&format!("database of the number {number:05}"), "ann").unwrap();
        }
        let began = Instant::now();
        gateway.upkeep(began);
        assert_eq!(gateway.pools().len(), 4000);
        gateway.upkeep(began + Duration::from_hours(2));
        assert_eq!(gateway.pools().len(), 0);
    }

    #[tokio::test]
    async fn clients_of_a_database_that_is_gone_are_told_to_leave() {
        let gateway = gateway();
        gateway.pool("app", "ann").unwrap();
        let hello = crate::client::registry::Hello {
            id: crate::server::io::next_id(),
            user: "ann".into(),
            server_user: "ann".into(),
            database: "app".into(),
            application_name: String::new(),
            plain_name: String::new(),
            address: String::new(),
            local: String::new(),
            tls: None,
            console: false,
            own: false,
            replication: Replication::None,
            long_keys: false,
            peer_id: 0,
            fd: 0,
        };
        let client = gateway.shared.registry.enter(hello, Room::UNLIMITED).unwrap();
        gateway.apply(Config { databases: Vec::new(), ..config() }).unwrap();
        assert_eq!(client.entry.asked_to_leave().await, Leave::Reconfigured);
        assert!(gateway.pool("app", "ann").is_none());
    }
}
