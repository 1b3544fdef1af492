//! One application connection, from its first byte to its last.
//!
//! `session.rs` and its chapters decide; `io.rs` moves bytes and performs what was decided.

pub mod close;
pub mod pins;
pub mod statements;
pub mod transaction;
pub mod facts;
pub mod session;
pub mod group;
pub mod look_up;
pub mod dispatch;
pub mod replies;
pub mod controls;
pub mod startup;
pub mod cancel_key;
pub mod registry;
pub mod statistics;
pub mod spare;
pub mod io;

/// What all clients of this process share.
pub struct Shared {
    pub registry: std::sync::Arc<registry::Registry>,
    pub insight: crate::insight::Insight,
    /// Sent to a server that holds a client's state when the client leaves it.
    /// Nothing else is locked inside.
    pub reset_query: std::sync::Mutex<String>,
    /// SUSPEND: nothing is read from clients and servers.
    pub suspended: std::sync::atomic::AtomicBool,
}
