//! One application connection, from its first byte to its last.
//!
//! `session.rs` and its chapters decide; `io.rs` moves bytes and performs what was decided.

pub mod close;
pub mod deadline;
pub mod patience;
pub mod pins;
pub mod statements;
pub mod transaction;
pub mod facts;
pub mod session;
pub mod underway;
pub mod work;
pub mod group;
pub mod judge;
mod single;
pub mod look_up;
mod hit;
mod check;
mod accept;
mod undecided;
mod explain;
mod savepoints;
pub mod kept_back;
pub mod describe;
mod revalidate;
pub mod bracket;
pub mod dispatch;
mod rewrite;
pub mod moment;
mod rows;
pub mod replies;
mod error_response;
mod ready_for_query;
mod verify;
pub mod controls;
pub mod cancel_key;
pub mod registry;
pub mod log;
pub mod startup;
mod slow_text;
pub mod statistics;
pub mod spare;
pub mod io;
pub mod parting;
pub mod relay;

/// Closes the idle servers of a database, and keeps our own questions out of it for as long as
/// the guards live.
pub type Vacate =
    Box<dyn Fn(&crate::server::io::Target, &str) -> Vec<crate::service::Away> + Send + Sync>;

/// What all clients of this process share.
pub struct Shared {
    pub registry: std::sync::Arc<registry::Registry>,
    pub insight: crate::insight::Insight,
    /// Sent to a server that holds a client's state when the client leaves it.
    /// Nothing else is locked inside.
    pub reset_query: std::sync::Mutex<String>,
    /// It is sent after each transaction too.
    pub reset_always: std::sync::atomic::AtomicBool,
    /// Clients leave servers that are to be closed between transactions, also in session pooling.
    pub fast_close: std::sync::atomic::AtomicBool,
    /// Parts from a database on the same hosts; set once there is one.
    pub vacate: std::sync::OnceLock<Vacate>,
    /// SUSPEND: nothing is read from clients and servers.
    pub suspended: std::sync::atomic::AtomicBool,
}

impl Shared {
    /// Puts what clients repeat into the table of it.
    pub fn take_bursts(&self, now: std::time::Instant) {
        for entry in self.registry.active() {
            statistics::take_burst(&self.insight, &entry, now, false);
        }
    }
}
