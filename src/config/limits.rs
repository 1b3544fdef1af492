//! Limits and time-outs that one database or one user may have of its own, and the entries of
//! `[users]`.

use std::time::Duration;

use super::mistake::{closest, suggestion};
use super::settings::{COUNT, TIMEOUT};
use super::value::{Raw, Value};
use super::{Mistake, PoolMode, Range, WrittenEntry, WrittenKey};

/// What an entry of `[databases]` says instead of the settings of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseLimits {
    pub min_pool_size: Option<u32>,
    pub reserve_pool_size: Option<u32>,
    pub max_db_connections: Option<u32>,
    pub max_db_client_connections: Option<u32>,
    pub query_wait_timeout: Option<Duration>,
    pub server_lifetime: Option<Duration>,
    pub slow_threshold: Option<Duration>,
}

/// What one user has instead of the settings of the same name, and of those of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserEntry {
    pub name: String,
    pub pool_mode: Option<PoolMode>,
    pub pool_size: Option<u32>,
    pub reserve_pool_size: Option<u32>,
    pub max_user_connections: Option<u32>,
    pub max_user_client_connections: Option<u32>,
    pub query_timeout: Option<Duration>,
    pub query_wait_timeout: Option<Duration>,
    pub idle_transaction_timeout: Option<Duration>,
    pub transaction_timeout: Option<Duration>,
    pub client_idle_timeout: Option<Duration>,
    pub slow_threshold: Option<Duration>,
}

/// Keys of an entry of `[users]`, in TOML and in `pgbouncer.ini`.
pub(super) const USER_KEYS: &[&str] = &[
    "client_idle_timeout",
    "idle_transaction_timeout",
    "max_user_client_connections",
    "max_user_connections",
    "pool_mode",
    "pool_size",
    "query_timeout",
    "query_wait_timeout",
    "reserve_pool_size",
    "slow_threshold",
    "transaction_timeout",
];

/// The size of a pool that an entry sets.
pub(super) const POOL_SIZE: Range = Range::Between(0, 100_000);

impl DatabaseLimits {
    /// Whether the key was one of these.
    pub(super) fn set(&mut self, key: &str, raw: &Raw) -> Result<bool, String> {
        match key {
            "min_pool_size" => self.min_pool_size = count(raw)?,
            // The older name of the same.
            "reserve_pool" | "reserve_pool_size" => self.reserve_pool_size = count(raw)?,
            "max_db_connections" => self.max_db_connections = count(raw)?,
            "max_db_client_connections" => self.max_db_client_connections = count(raw)?,
            "query_wait_timeout" => self.query_wait_timeout = timeout(raw)?,
            "server_lifetime" => self.server_lifetime = timeout(raw)?,
            // Ours: PgBouncer knows no slow statements.
            "slow_threshold" => self.slow_threshold = timeout(raw)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A later entry of the same name takes the place of an earlier one.
pub(super) fn read_users(written: &[WrittenEntry]) -> (Vec<UserEntry>, Vec<Mistake>) {
    let (mut users, mut mistakes): (Vec<UserEntry>, _) = (Vec::new(), Vec::new());
    for written in written {
        let mut user = UserEntry { name: written.name.clone(), ..UserEntry::default() };
        for key in &written.keys {
            if let Err(text) = set_user(&mut user, key) {
                let name = format!("users.{}.{}", written.name, key.key);
                let text = format!("{}: {text}", name.escape_debug());
                mistakes.push(Mistake::new(key.place.clone(), text));
            }
        }
        users.retain(|existing| existing.name != user.name);
        users.push(user);
    }
    (users, mistakes)
}

fn set_user(user: &mut UserEntry, key: &WrittenKey) -> Result<(), String> {
    let raw = &key.raw;
    match key.key.as_str() {
        "pool_mode" => user.pool_mode = Some(PoolMode::read(raw, Range::Any)?),
        "pool_size" => user.pool_size = Some(u32::read(raw, POOL_SIZE)?),
        "reserve_pool_size" => user.reserve_pool_size = count(raw)?,
        "max_user_connections" => user.max_user_connections = count(raw)?,
        "max_user_client_connections" => user.max_user_client_connections = count(raw)?,
        "query_timeout" => user.query_timeout = timeout(raw)?,
        "query_wait_timeout" => user.query_wait_timeout = timeout(raw)?,
        "idle_transaction_timeout" => user.idle_transaction_timeout = timeout(raw)?,
        "transaction_timeout" => user.transaction_timeout = timeout(raw)?,
        "client_idle_timeout" => user.client_idle_timeout = timeout(raw)?,
        "slow_threshold" => user.slow_threshold = timeout(raw)?,
        unknown => {
            let hint = suggestion(closest(unknown, USER_KEYS.iter().copied()));
            return Err(format!("unknown key{hint}"));
        }
    }
    Ok(())
}

fn count(raw: &Raw) -> Result<Option<u32>, String> {
    u32::read(raw, COUNT).map(Some)
}

fn timeout(raw: &Raw) -> Result<Option<Duration>, String> {
    Duration::read(raw, TIMEOUT).map(Some)
}
