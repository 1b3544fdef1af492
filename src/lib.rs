//! Forebay: a PostgreSQL pooler that answers repeated reads from its cache.
//!
//! The order of the modules below is the architecture: a query goes down the list, its answer
//! comes back up through one queue, and a module uses only those declared above it
//! (`tests/architecture.rs` checks). Files named for I/O touch sockets; all others are pure.

pub mod twin;
pub mod wire;
pub mod sql;
pub mod config;
pub mod metrics;
pub mod insight;
pub mod auth;
pub mod cache;
pub mod net;
pub mod server;
pub mod pool;
pub mod analyst;
pub mod membership;
pub mod service;
pub mod auth_query;
pub mod admin;
pub mod client;
pub mod process;
pub mod running;
pub mod plan;
pub mod gateway;
pub mod stop;
pub mod cancel;
pub mod reload;
pub mod console;
pub mod authenticate;
pub mod opening;
pub mod listener;
pub mod warm_up;
pub mod http;
pub mod log;
