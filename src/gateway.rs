//! Which pool a client gets: users and their secrets, databases and where they are, pools made
//! when first asked for. One for the whole process.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::admin::history::History;
use crate::auth::userlist::Password;
use crate::auth::{Method, Secret, Userlist};
use crate::cache::redis::{Redis, Settings as RedisSettings, UrlError};
use crate::cache::{Cache, Limits, Mode};
use crate::client::Shared;
use crate::client::registry::Registry;
use crate::config::{AuthType, CacheMode, Config, DatabaseEntry, Host, PinPolicy, PoolMode, SslMode};
use crate::insight::Insight;
use crate::metrics::{CacheCounters, PoolCounters};
use crate::net::{Address, TlsClientConfig, TlsConfigError, TlsServerConfig};
use crate::pool::database::Database;
use crate::pool::io::{Pool, Times};
use crate::pool::{self, ClientLimits, Common, statements};
use crate::server::io::Target;
use crate::service::Service;

/// Statements that the clients of one pool share, at most; a forgotten one is parsed again.
const SHARED_STATEMENTS_MAX: usize = 10_000;

/// Databases and pools, at most; clients choose their names.
const POOLS_MAX: usize = 10_000;

pub struct Gateway {
    pub config: Config,
    users: HashMap<String, Secret>,
    pub cache: Arc<Cache>,
    pub cache_counters: Arc<CacheCounters>,
    pub shared: Arc<Shared>,
    pub client_tls: Option<TlsServerConfig>,
    server_tls: TlsClientConfig,
    /// Authenticates users we do not know without showing that we do not.
    pub process_secret: [u8; 32],
    /// Guards what has been made so far; nothing else is locked inside.
    made: Mutex<Made>,
    next_database: AtomicU64,
    pub started_at: Instant,
    /// What was asked of the console; `SHOW STATS` shows it as a database.
    pub console_counters: PoolCounters,
    /// Guards the counters of the past; nothing else is locked inside.
    pub history: Mutex<History>,
}

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

#[derive(Debug)]
pub enum GatewayError {
    Userlist(String),
    Tls(TlsConfigError),
    Redis(UrlError),
}

impl std::fmt::Display for GatewayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Userlist(lines) => f.write_str(lines),
            Self::Tls(error) => error.fmt(f),
            Self::Redis(error) => error.fmt(f),
        }
    }
}

impl Gateway {
    pub fn new(config: Config) -> Result<Self, GatewayError> {
        let users = users(&config)?;
        let limits = Limits {
            size_bytes: config.cache.size.bytes(),
            entry_bytes_max: usize::try_from(config.cache.max_entry_size.bytes())
                .unwrap_or(usize::MAX),
            max_age: config.cache.max_age,
        };
        let mode = match config.cache.mode {
            CacheMode::Off => Mode::Off,
            CacheMode::On => Mode::On,
            CacheMode::DryRun => Mode::DryRun,
        };
        let ring = usize::try_from(config.slow.ring_size).unwrap_or(usize::MAX);
        let started = (Instant::now(), std::time::SystemTime::now());
        let redis = redis(&config, mode, limits, started.0)?;
        let insight =
            Insight::new(config.slow.threshold, ring, config.slow.rate_limit, started);
        Ok(Self {
            users,
            cache: Arc::new(Cache::new(mode, limits, rand::random()).with_redis(redis)),
            cache_counters: Arc::default(),
            shared: Arc::new(Shared {
                registry: Arc::new(Registry::default()),
                insight,
                reset_query: config.server.server_reset_query.clone(),
            }),
            client_tls: client_tls(&config).map_err(GatewayError::Tls)?,
            server_tls: server_tls(&config).map_err(GatewayError::Tls)?,
            process_secret: rand::random(),
            made: Mutex::default(),
            next_database: AtomicU64::new(1),
            started_at: started.0,
            console_counters: PoolCounters::default(),
            history: Mutex::new(History::new(started.0)),
            config,
        })
    }

    /// How this user proves who it is, and with what.
    pub fn method(&self, user: &str) -> (Method, Option<Secret>) {
        let secret = self.users.get(user).cloned();
        match self.config.auth_type() {
            AuthType::Any => {
                (Method::Trust, secret.or_else(|| Some(Secret::Plain(Password::new(String::new())))))
            }
            AuthType::Trust => (Method::Trust, secret),
            AuthType::Plain => (Method::Plain, secret),
            AuthType::Md5 => (Method::Md5, secret),
            AuthType::ScramSha256 => (Method::Scram, secret),
        }
    }

    pub fn knows_database(&self, name: &str) -> bool {
        self.config.database(name).is_some()
    }

    /// The pool of a database and user, made if this is its first client. `None`: there is no
    /// such database, or there are too many pools.
    pub fn pool(self: &Arc<Self>, database: &str, user: &str) -> Option<Opened> {
        let entry = self.config.database(database)?;
        let server_user = entry.user.clone().unwrap_or_else(|| user.to_owned());
        let key = (database.to_owned(), user.to_owned());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = made.pools.get(&key) {
            return Some(opened.clone());
        }
        if made.pools.len() >= POOLS_MAX {
            return None;
        }
        let target = self.target(entry, database, &server_user);
        let address = format!("{:?}", target.address);
        let behind = made
            .databases
            .entry((address, target.database.clone()))
            .or_insert_with(|| self.make_database(&target));
        let (behind, service) = (Arc::clone(&behind.0), Arc::clone(&behind.1));
        let pool = Arc::new(self.make_pool(entry, database, server_user, target, behind));
        let opened = Opened { pool, service, user: user.to_owned() };
        made.pools.insert(key, opened.clone());
        Some(opened)
    }

    fn make_database(&self, target: &Target) -> (Arc<Database>, Arc<Service>) {
        let id = self.next_database.fetch_add(1, Ordering::Relaxed);
        let database = Arc::new(Database::new(id, target.database.clone(), rand::random()));
        let service = Service::start(
            Arc::clone(&database),
            Target { statements_max: NonZeroUsize::MIN, ..target.clone() },
            self.config.cache.catalog_poll,
            self.config.cache.max_age,
        );
        (database, service)
    }

    fn make_pool(
        &self,
        entry: &DatabaseEntry,
        name: &str,
        server_user: String,
        target: Target,
        database: Arc<Database>,
    ) -> Pool {
        let config = &self.config;
        let size = entry.pool_size.unwrap_or(config.pool.default_pool_size);
        let mode = match entry.pool_mode.unwrap_or(config.pool.pool_mode) {
            PoolMode::Session => pool::PoolMode::Session,
            PoolMode::Transaction => pool::PoolMode::Transaction,
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
            message_bytes_max: usize::try_from(config.listen.max_packet_size)
                .unwrap_or(usize::MAX),
        };
        let common = Common::new(pool::Parts {
            user: server_user,
            database,
            cache: Arc::clone(&self.cache),
            mode,
            pin_policy,
            statements: statements::Shared::new(shared_max),
            cache_counters: Arc::clone(&self.cache_counters),
            limits,
        });
        let times = Times {
            query_wait_timeout: config.pool.query_wait_timeout,
            connect_timeout: config.server.server_connect_timeout,
            idle_timeout: config.server.server_idle_timeout,
            lifetime: config.server.server_lifetime,
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Pool::new(Arc::new(common), target, name.to_owned(), size, times)
    }

    fn target(&self, entry: &DatabaseEntry, database: &str, user: &str) -> Target {
        let secret = match &entry.password {
            Some(password) => {
                Some(Secret::Plain(Password::new(password.reveal().to_owned())))
            }
            None => self.users.get(user).cloned(),
        };
        let address = match &entry.host {
            Host::Name(name) => Address::new(name, entry.port),
            Host::SocketDirectory(path) => Address::new(&path.to_string_lossy(), entry.port),
        };
        let application = entry.application_name.iter().map(|name| ("application_name", name));
        let options = entry.options.iter().map(|options| ("options", options));
        let statements = usize::try_from(self.config.pool.max_prepared_statements).unwrap_or(1);
        Target {
            address,
            tls: self.server_tls.clone(),
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

    /// What the second tier is doing, for the console.
    pub fn redis_state(&self) -> String {
        self.cache.redis_state()
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
        let mut names: Vec<String> = self.users.keys().cloned().collect();
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

/// The second tier, if there is one; nothing is kept there while the cache is not on.
fn redis(
    config: &Config,
    mode: Mode,
    limits: Limits,
    started: Instant,
) -> Result<Option<Arc<Redis>>, GatewayError> {
    let redis = &config.redis;
    if redis.url.is_empty() || mode != Mode::On {
        return Ok(None);
    }
    let settings = RedisSettings {
        url: redis.url.reveal().to_owned(),
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

/// Everybody who may log in.
fn users(config: &Config) -> Result<HashMap<String, Secret>, GatewayError> {
    let mut users = HashMap::new();
    if let Some(text) = &config.userlist {
        let list = Userlist::parse(text.reveal()).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            GatewayError::Userlist(lines.join("\n"))
        })?;
        users.extend(list.iter().map(|(user, secret)| (user.to_owned(), secret.clone())));
    }
    if let Some(credentials) = &config.credentials {
        let password = credentials.password.as_ref().map_or("", |password| password.reveal());
        let secret = Secret::Plain(Password::new(password.to_owned()));
        users.insert(credentials.user.clone(), secret);
    }
    Ok(users)
}

fn client_tls(config: &Config) -> Result<Option<TlsServerConfig>, TlsConfigError> {
    let tls = &config.tls;
    match (tls.client_tls_sslmode, &tls.client_tls_cert_file, &tls.client_tls_key_file) {
        (SslMode::Disable, _, _) | (_, None, _) | (_, _, None) => Ok(None),
        (mode, Some(cert), Some(key)) => {
            let verifies = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
            let ca = tls.client_tls_ca_file.as_deref().filter(|_| verifies);
            TlsServerConfig::load(cert, key, ca).map(Some)
        }
    }
}

fn server_tls(config: &Config) -> Result<TlsClientConfig, TlsConfigError> {
    use crate::net::SslMode as Wanted;
    let tls = &config.tls;
    let mode = match tls.server_tls_sslmode {
        SslMode::Disable => Wanted::Disable,
        SslMode::Allow => Wanted::Allow,
        SslMode::Prefer => Wanted::Prefer,
        SslMode::Require => Wanted::Require,
        SslMode::VerifyCa => Wanted::VerifyCa,
        SslMode::VerifyFull => Wanted::VerifyFull,
    };
    let identity: Option<(&Path, &Path)> =
        tls.server_tls_cert_file.as_deref().zip(tls.server_tls_key_file.as_deref());
    TlsClientConfig::load(mode, tls.server_tls_ca_file.as_deref(), identity)
}
