//! The program as its users meet it: real clients on one side, a real PostgreSQL and Redis,
//! started from what is installed, on the other. Each test has a database and a Forebay of its
//! own, so all run at once.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a check fails by panicking, and then prints the log"
)]
#![expect(unreachable_pub, reason = "a program exports nothing; `pub` marks what tests may use")]

mod support;

mod analysis;
mod asking;
mod auth;
mod caching;
mod cancel;
mod commit;
mod console;
mod counts;
mod cut_off;
mod databases;
mod defaults;
mod down;
mod exporter;
mod extensions;
mod descriptions;
mod group;
mod group_answers;
mod group_cancel;
mod group_console;
mod group_link;
mod group_redis;
mod group_register;
mod group_rolling;
mod hazards;
mod http;
mod http_metrics;
mod http_page;
mod insight;
mod invalidation;
mod kept_back;
mod limits;
mod loss;
mod maintenance;
mod names;
mod operator;
mod parting;
mod operations;
mod pooling;
mod protocol;
mod redis;
mod reload;
mod replication;
mod reported;
mod retry;
mod revalidate;
mod routes;
mod row_security;
mod rules;
mod savepoints;
mod scripts;
mod session;
mod shared_fills;
mod shares;
mod statements;
mod slow_plans;
mod stop;
mod streams;
mod timeouts;
mod verify;
mod views;
mod warm_up;
mod writes;
