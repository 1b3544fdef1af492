//! What the console shows, as plain values: collected by `console/collect.rs`, printed by the
//! `*_show.rs` files.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::cache::group::picture::Picture;
use crate::cache::worth::CutOff;
use crate::insight::GroupTally;
use crate::pool::PoolMode;
use crate::sql::footprint::Doubt;
use crate::sql::verdict::TableId;

use super::stats_show::Span;

/// One database and user.
#[derive(Clone, Debug)]
pub struct Pool {
    pub database: String,
    pub user: String,
    pub mode: &'static str,
    /// Where there are several.
    pub load_balance_hosts: Option<&'static str>,
    pub clients_active: usize,
    pub clients_waiting: usize,
    /// Of clients that have no server and want none.
    pub cancels: usize,
    pub servers_active: usize,
    pub servers_canceled: usize,
    pub servers_idle: usize,
    /// Being connected.
    pub servers_login: usize,
    pub max_wait: Duration,
    pub span: Span,
    pub abandoned: Abandoned,
}

/// What became of servers whose client went in the middle of something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Abandoned {
    /// Replies were taken until the server was free.
    pub drained: u64,
    pub rolled_back: u64,
    pub closed: u64,
}

/// The other end of a client's or server's connection, and ours.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    pub address: String,
    pub local: String,
}

/// A client or a server, for `SHOW CLIENTS`, `SERVERS` and `SOCKETS`.
#[derive(Clone, Debug)]
pub struct Socket {
    pub side: Side,
    pub id: u64,
    pub user: String,
    pub database: String,
    pub state: &'static str,
    pub ends: Ends,
    pub connected_at: SystemTime,
    pub request_at: SystemTime,
    pub wait: Duration,
    pub close_needed: bool,
    /// Id of the connection it is joined to.
    pub link: Option<u64>,
    /// Process id at the other end; 0 for clients, of whom none is known.
    pub remote_pid: u32,
    pub tls: Option<String>,
    pub application_name: String,
    /// Without its address.
    pub plain_name: String,
    pub replication: &'static str,
    pub prepared_statements: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

#[derive(Clone, Debug)]
pub struct Database {
    pub name: String,
    pub host: Option<String>,
    pub port: u16,
    pub database: String,
    pub force_user: Option<String>,
    pub pool_size: u32,
    pub min_pool_size: u32,
    pub reserve_pool_size: u32,
    pub server_lifetime: Duration,
    /// `None`: there is one host.
    pub load_balance_hosts: Option<&'static str>,
    /// `None`: as `pool_mode` says for all.
    pub mode: Option<PoolMode>,
    /// 0: no limit.
    pub servers_max: usize,
    pub servers: usize,
    /// 0: no limit.
    pub clients_max: usize,
    pub clients: usize,
    pub paused: bool,
    pub disabled: bool,
}

#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    /// Of its own, as are the next two.
    pub pool_size: Option<u32>,
    pub reserve_pool_size: Option<u32>,
    pub mode: Option<&'static str>,
    /// 0: no limit.
    pub servers_max: usize,
    pub servers: usize,
    /// 0: no limit.
    pub clients_max: usize,
    pub clients: usize,
}

/// For `SHOW LISTS`.
#[derive(Clone, Copy, Debug)]
pub struct Lists {
    pub databases: usize,
    pub users: usize,
    pub pools: usize,
    pub clients_max: usize,
    pub clients: usize,
    pub clients_logging_in: usize,
    pub servers_idle: usize,
    pub servers_active: usize,
    pub peers: usize,
    pub peer_pools: usize,
}

/// For `SHOW MEM`: how many there are of something, and what they take together.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub name: &'static str,
    pub count: u64,
    pub bytes: u64,
}

/// For `SHOW PEERS`.
#[derive(Clone, Debug)]
pub struct Peer {
    pub id: u16,
    pub host: String,
    pub port: u16,
    pub pool_size: u32,
}

/// For `SHOW FDS`: a socket without TLS.
#[derive(Clone, Debug)]
pub struct Descriptor {
    pub fd: i32,
    pub task: &'static str,
    pub user: String,
    pub database: String,
    pub address: String,
    /// Process id and secret, as one number.
    pub cancel: u64,
    /// Descriptor of the connection it is joined to; 0 for none.
    pub link: i32,
}

/// Of `SHOW CACHE`: what was asked of our own accord.
#[derive(Clone, Copy, Debug)]
pub struct WarmUps {
    pub begun: u64,
    pub warmed: u64,
    pub failed: u64,
}

/// For `SHOW CACHE`.
#[derive(Clone, Debug)]
pub struct Cache {
    pub mode: &'static str,
    pub entries: usize,
    pub bytes: u64,
    pub bytes_max: u64,
    /// Entries dropped for space.
    pub evictions: u64,
    pub warm_ups: WarmUps,
    pub hits: u64,
    pub hits_redis: u64,
    pub misses: u64,
    pub would_hit: u64,
    pub verified: Verified,
    pub bypasses: u64,
    pub fills: u64,
    pub refused: u64,
    pub hit_bytes: u64,
    pub shared_fills: u64,
    pub transactions: u64,
    pub descriptions: u64,
    pub invalidated_tables: u64,
    pub invalidated_database: u64,
    pub asked: u64,
    pub asked_known: u64,
    pub asked_tables: u64,
    pub surplus: u64,
    pub unforeseen: u64,
    /// In the order of `Doubt::ALL`.
    pub doubts: [u64; Doubt::ALL.len()],
    pub max_age: Duration,
    pub analysis: Analysis,
    pub redis: Redis,
}

/// Hits that were asked of PostgreSQL, by what its answer was beside the entry.
#[derive(Clone, Copy, Debug)]
pub struct Verified {
    pub same: u64,
    pub other_order: u64,
    pub incomparable: u64,
    pub differences: u64,
}

/// For `SHOW CACHE_TABLES`.
#[derive(Clone, Debug, Default)]
pub struct CacheTable {
    pub database: String,
    /// With its schema; `None`: the database as a whole.
    pub name: Option<(String, String)>,
    pub entries: u64,
    pub bytes: u64,
    pub hits: u64,
    pub fills: u64,
    pub invalidations: u64,
    /// Commits on their way.
    pub in_flight: u64,
    pub cut_off: Option<(SystemTime, CutOff)>,
    pub denied_by: Option<String>,
    pub max_age: Option<Duration>,
}

/// For `SHOW GROUP`.
#[derive(Clone, Debug)]
pub struct GroupMember {
    pub database: String,
    /// Of the group.
    pub name: String,
    pub mode: &'static str,
    pub id: u32,
    pub state: &'static str,
    /// Hits ask nobody just now.
    pub granted: bool,
    /// The name of what was agreed on.
    pub act: Option<String>,
    pub members: u64,
    /// Commits of this member that others are told of.
    pub in_flight: u64,
    pub lease: Duration,
    /// The last round trip to Redis.
    pub round: Duration,
    /// The median and the 99th percentile of all, in microseconds.
    pub rounds: [u64; 2],
    pub checks: u64,
    pub begins: u64,
    pub hears: u64,
    pub lost: u64,
    pub strangers: u64,
    pub stranger: Option<u32>,
    pub failure: Option<String>,
    /// Of the whole process.
    pub cancels: Cancels,
    pub opened: u64,
    /// Where the Redis is that was last asked, and its version.
    pub redis: Option<[String; 2]>,
    /// What an operator should know of it.
    pub warnings: Vec<String>,
}

/// For `SHOW GROUP_MEMBERS` and `SHOW GROUP_IN_FLIGHT`: a database, and what of it is in Redis.
#[derive(Clone, Debug)]
pub struct Agreed {
    pub database: String,
    /// The member that is this process.
    pub own: u32,
    pub read: Result<Picture, String>,
    /// Of the tables that are in flight, as far as they are known.
    pub names: HashMap<TableId, String>,
}

/// For `SHOW GROUP_DROPS`.
#[derive(Clone, Debug)]
pub struct GroupDrop {
    pub database: String,
    pub at: SystemTime,
    pub what: String,
    pub why: String,
}

/// Cancel requests of clients that others have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cancels {
    pub sent: u64,
    pub heard: u64,
    pub dropped: u64,
}

/// Statements that PostgreSQL was asked about.
#[derive(Clone, Copy, Debug)]
pub struct Analysis {
    pub mode: &'static str,
    pub asked: u64,
    pub decided: u64,
    pub failed: u64,
    pub skipped: u64,
}

/// The second tier; all zero without one.
#[derive(Clone, Debug)]
pub struct Redis {
    pub state: &'static str,
    pub last_error: Option<String>,
    /// What keeps its entries secret and is missing.
    pub exposure: Option<&'static str>,
    pub look_ups: u64,
    pub misses: u64,
    pub stores: u64,
    pub errors: u64,
    pub timeouts: u64,
    pub dropped: u64,
    pub forged: u64,
    pub skipped: u64,
}

/// For `SHOW CLIENT_STATS`: the clients of one user, database, application name and address.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Counts from 1 in the order in which groups came; none ever goes.
    pub number: u16,
    pub user: String,
    pub database: String,
    pub application_name: String,
    pub address: String,
    pub clients: u64,
    pub received: u64,
    pub sent: u64,
    /// In line for a server, in microseconds.
    pub wait_time: u64,
    pub tally: GroupTally,
}

/// For `SHOW PINS`: a client that keeps its server.
#[derive(Clone, Debug)]
pub struct Pinned {
    pub id: u64,
    pub user: String,
    pub database: String,
    pub pins: Vec<&'static str>,
    pub since: Option<SystemTime>,
    pub server_pid: Option<u32>,
}
