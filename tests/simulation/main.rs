//! Simulation: the real decisions of Forebay under every order of events that a small world has
//! (`model`), under seeded random ones in a larger world (`world`), and under real threads
//! (`stress`). No sockets, no clock, no sleep. A failure prints its seed;
//! `FOREBAY_SEED=<seed> cargo test --test simulation` replays that seed alone. The long form is
//! `FOREBAY_SCHEDULES=1000000 cargo test --test simulation -- --nocapture`; `explore` tells how
//! many orders of events its worlds have, all of which it covers in the short form, too. `group` has
//! larger worlds, which take minutes: `FOREBAY_GROUP_STATES=1`; `group::seeded` has the real groups
//! under seeded faults, more of them with `FOREBAY_GROUP_SCHEDULES=20000`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a simulation that breaks its own rules should stop at once"
)]

#[path = "../checker/oracle.rs"]
#[expect(dead_code, reason = "only what the checker judges by is tested here")]
mod checker_oracle;
mod explore;
mod group;
mod model;
mod random;
mod real;
mod stress;
mod world;
