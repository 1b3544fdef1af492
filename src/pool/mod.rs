//! Which client gets which server, and what the clients of one database and user share.

pub mod database;
pub mod analysis;
pub mod signature;
pub mod statements;
pub mod descriptions;
pub mod state;
pub mod quota;
pub mod rules;
pub mod failure;
pub mod starts;
pub mod io;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::cache::Cache;
use crate::metrics::{CacheCounters, PoolCounters};
use crate::server::base::{Base, defaults_changes};
use crate::server::io::Reported;
use database::Database;

/// When a server goes back to its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    Session,
    Transaction,
    /// As `Transaction`, without transaction blocks.
    Statement,
}

impl PoolMode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Transaction => "transaction",
            Self::Statement => "statement",
        }
    }
}

/// What to do with session state that cannot be replayed on another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinPolicy {
    Pin,
    /// PgBouncer's way: the state stays behind on some server.
    Ignore,
    Refuse,
}

/// What the clients of one database and user share, sockets aside.
pub struct Common {
    pub user: String,
    pub database: Arc<Database>,
    pub cache: Arc<Cache>,
    /// The one of the process: what is written here may be remembered there, under another name
    /// of the same database.
    pub main_cache: Arc<Cache>,
    pub mode: PoolMode,
    pub pin_policy: PinPolicy,
    /// Guards how servers of this pool start, and since which change of defaults; held only to
    /// clone or replace the `Arc`.
    base: RwLock<(Arc<Base>, u64)>,
    pub statements: statements::Shared,
    pub descriptions: descriptions::Descriptions,
    /// Of the pool that a reload put this one in place of, too.
    pub counters: Arc<PoolCounters>,
    pub cache_counters: Arc<CacheCounters>,
    pub limits: SharedLimits,
    /// Guards what clients with certain settings are told at login, by base and settings.
    reported: Mutex<HashMap<(u64, u64), Reported>>,
}

/// Sets of startup settings whose reports are remembered.
const REPORTED_MAX: usize = 1000;

/// Bounds that every client of a pool obeys.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// Named statements of one client; one more is an error.
    pub statements_max: usize,
    /// Shared statements on one server; the least recently used is closed.
    pub server_statements_max: usize,
    /// Longest message a client may send once logged in.
    pub message_bytes_max: usize,
}

/// The same, which a reload may change under way.
#[derive(Debug)]
pub struct SharedLimits {
    statements: AtomicUsize,
    server_statements: AtomicUsize,
    message_bytes: AtomicUsize,
}

impl SharedLimits {
    pub fn new(limits: ClientLimits) -> Self {
        Self {
            statements: limits.statements_max.into(),
            server_statements: limits.server_statements_max.into(),
            message_bytes: limits.message_bytes_max.into(),
        }
    }

    pub fn set(&self, limits: ClientLimits) {
        self.statements.store(limits.statements_max, Ordering::Relaxed);
        self.server_statements.store(limits.server_statements_max, Ordering::Relaxed);
        self.message_bytes.store(limits.message_bytes_max, Ordering::Relaxed);
    }

    pub fn statements_max(&self) -> usize {
        self.statements.load(Ordering::Relaxed)
    }

    pub fn server_statements_max(&self) -> usize {
        self.server_statements.load(Ordering::Relaxed).max(1)
    }

    /// Not so where `max_prepared_statements` is 0.
    pub fn keeps_statements(&self) -> bool {
        self.server_statements.load(Ordering::Relaxed) > 0
    }

    pub fn message_bytes_max(&self) -> usize {
        self.message_bytes.load(Ordering::Relaxed)
    }
}

/// What a pool is made of.
pub struct Parts {
    pub user: String,
    pub database: Arc<Database>,
    pub cache: Arc<Cache>,
    pub main_cache: Arc<Cache>,
    pub mode: PoolMode,
    pub pin_policy: PinPolicy,
    pub statements: statements::Shared,
    pub counters: Arc<PoolCounters>,
    pub cache_counters: Arc<CacheCounters>,
    pub limits: ClientLimits,
}

impl Common {
    pub fn new(parts: Parts) -> Self {
        Self {
            user: parts.user,
            database: parts.database,
            cache: parts.cache,
            main_cache: parts.main_cache,
            mode: parts.mode,
            pin_policy: parts.pin_policy,
            base: RwLock::default(),
            statements: parts.statements,
            descriptions: descriptions::Descriptions::default(),
            counters: parts.counters,
            cache_counters: parts.cache_counters,
            limits: SharedLimits::new(parts.limits),
            reported: Mutex::default(),
        }
    }

    /// What PostgreSQL reports to a session with these settings, if that was asked before.
    pub fn reported(&self, base: u64, settings: u64) -> Option<Reported> {
        let reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        reported.get(&(base, settings)).cloned()
    }

    pub fn set_reported(&self, base: u64, settings: u64, values: Reported) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() >= REPORTED_MAX {
            reported.clear();
        }
        reported.insert((base, settings), values);
    }

    /// Unknown, with id 0, before the first server and after each change of defaults.
    pub fn base(&self) -> Arc<Base> {
        let guard = self.base.read().unwrap_or_else(PoisonError::into_inner);
        if guard.1 == defaults_changes() { Arc::clone(&guard.0) } else { Arc::default() }
    }

    /// Of `base()`, without a clone.
    pub fn base_id(&self) -> u64 {
        let guard = self.base.read().unwrap_or_else(PoisonError::into_inner);
        if guard.1 == defaults_changes() { guard.0.id } else { 0 }
    }

    /// `defaults`: the changes of defaults when the server was connected that told it.
    pub fn set_base(&self, base: Arc<Base>, defaults: u64) {
        *self.base.write().unwrap_or_else(PoisonError::into_inner) = (base, defaults);
    }
}
