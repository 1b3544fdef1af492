//! The hazards of `tests/HAZARDS.md` as plays: scripts that run at once through Forebay and on a
//! database without it. Whatever a client is told must be the same on both sides, message by
//! message, so no play has to say what PostgreSQL answers; it says where an answer must have
//! changed, so that it cannot pass by doing nothing.
//!
//! `HAZARD=b13 cargo test --test suite hazards` plays those whose names begin so.

mod beyond;
mod play;
mod protocol;
mod script;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use play::Manner;
use script::Script;

/// Plays at the same time: as many as keep a machine of two processors busy.
const PLAYERS: usize = 3;

fn play_all(file: &str) {
    let path = format!("{}/tests/suite/hazards/{file}.play", env!("CARGO_MANIFEST_DIR"));
    let scripts = Script::read(&std::fs::read_to_string(path).unwrap());
    let wanted = std::env::var("HAZARD").unwrap_or_default();
    let turns: Vec<(&Script, Manner)> = scripts
        .iter()
        .filter(|script| script.name.starts_with(&wanted))
        .flat_map(|script| script.manners().map(move |manner| (script, manner)))
        .collect();
    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..PLAYERS {
            scope.spawn(|| {
                while let Some((script, manner)) = turns.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let played = catch_unwind(AssertUnwindSafe(|| play::play(script, *manner)));
                    if played.is_ok() == script.open {
                        let fault = if script.open { "NO LONGER OPEN" } else { "FAILED" };
                        let why = played.err().and_then(|why| why.downcast::<String>().ok());
                        let why = why.map(|why| *why).unwrap_or_default();
                        // At once and past the harness, which shows it at its end or not at all.
                        let told = format!("--- {fault}: {} ({manner:?}) {why}\n", script.name);
                        std::io::stderr().write_all(told.as_bytes()).unwrap();
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner(), 0, "plays of {file} failed; each is named above");
}

#[test]
fn reads_that_must_not_be_kept() {
    play_all("reads");
}

#[test]
fn objects_that_a_read_depends_on() {
    play_all("objects");
}

#[test]
fn writes_that_hide() {
    play_all("writes");
}

#[test]
fn statements_that_hide_a_write() {
    play_all("statements");
}

#[test]
fn transactions_and_isolation() {
    play_all("transactions");
}

#[test]
fn identities_and_privileges() {
    play_all("identities");
}

#[test]
fn settings_of_sessions() {
    play_all("settings");
}

#[test]
fn messages_and_concurrency() {
    play_all("protocol");
}
