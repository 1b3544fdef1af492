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
pub mod registry;
pub mod io;
