//! The console: what is typed there to a command, a picture of the program to rows.
//!
//! Pure: knows neither sockets nor the gateway. `console/` collects the picture, performs the
//! commands and moves the bytes.
//!
//! Invariant: columns of PgBouncer's commands, their order and their types never change; what is
//! new comes in new commands. Dashboards bind them by position. Attacked by the literal tests in
//! `show.rs` and `stats_show.rs`.

pub mod table;
pub mod pause;
pub mod part;
mod words;
pub mod command;
pub mod snapshot;
pub mod stats_show;
pub mod history;
pub mod show;
pub mod fds_show;
pub mod cache_show;
pub mod tables_show;
pub mod group_show;
pub mod clients_show;
pub mod statements_show;
pub mod routes_show;
pub mod plan_show;
pub mod differences_show;
pub mod conversation;
