//! What the benches of relaying are made of: a server that answers at once, so that PostgreSQL is
//! not the limit, and a load that need not wait for answers before it asks again.
//!
//! ```text
//! cargo run --release --example wire -- serve --port 5432 [--rows 1]
//! cargo run --release --example wire -- load --url postgres://u:p@127.0.0.1:6432/db
//!     [--connections 16] [--seconds 5] [--warm 1] [--rate 10000] [--seed 1]
//!     [--protocol simple|extended|prepared] [--query SQL] [--distinct 100] [--cpu-of NAME=PID …]
//! ```
//!
//! Knows nothing of Forebay's code: it asks PostgreSQL and PgBouncer the same.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that prints what it measured"
)]

mod arrivals;
mod connection;
mod cpu;
mod histogram;
mod load;
mod message;
mod serve;
mod statement;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Answers every statement at once with the same rows.
    Serve(serve::Options),
    /// Asks, and prints one line of what it saw, times in microseconds.
    Load(load::Options),
}

fn main() -> ExitCode {
    let done = match Options::parse().part {
        Part::Serve(options) => serve::run(&options),
        Part::Load(options) => load::run(options).map(|line| println!("{line}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wire: {error}");
            ExitCode::FAILURE
        }
    }
}
