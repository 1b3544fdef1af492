//! What clients were told and shown, and whether a read contradicts it. Knows no SQL, no socket
//! and nothing of Forebay: a register holds a number that only grows.
//!
//! Crashes of PostgreSQL change nothing in that. With `synchronous_commit` on, a commit is in the
//! log on disk before anybody sees it and before its writer hears of it, so recovery brings back
//! all that was shown or acknowledged. What became of a write that was not answered is unknown:
//! it may be seen from any moment on, and from the first sight of it no read may be without it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Written only by transactions that roll back.
pub(crate) const POISON: i64 = 1_000_000_000_000;

/// What one register is known to hold at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floor {
    /// Highest version whose writer has heard of its commit.
    pub(crate) acked: i64,
    /// Highest version that a finished read returned.
    pub(crate) shown: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Older than a write acknowledged before the read was sent.
    StaleAfterAck,
    /// Older than what a read that had finished before was shown.
    GoingBack,
    /// From a transaction that rolled back.
    RolledBack,
    /// No row where there always is one.
    Missing,
}

/// A read that was sent when `floor` was known and returned `value`.
pub(crate) fn judge(floor: Floor, value: Option<i64>) -> Option<Broken> {
    match value {
        None => Some(Broken::Missing),
        Some(value) if value >= POISON => Some(Broken::RolledBack),
        Some(value) if value < floor.acked => Some(Broken::StaleAfterAck),
        Some(value) if value < floor.shown => Some(Broken::GoingBack),
        Some(_) => None,
    }
}

/// A register that clients share.
#[derive(Debug, Default)]
pub(crate) struct Register {
    floor: Mutex<Floor>,
    /// Reads in a row of its usual text since the last write.
    reads: AtomicU64,
    last_write: Mutex<&'static str>,
}

impl Register {
    pub(crate) fn floor(&self) -> Floor {
        *self.floor.lock().unwrap()
    }

    pub(crate) fn shown(&self, value: i64) {
        let mut floor = self.floor.lock().unwrap();
        floor.shown = floor.shown.max(value);
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Before the write is sent. True if an entry may be alive: it was read twice since the last.
    pub(crate) fn writing(&self, kind: &'static str) -> bool {
        *self.last_write.lock().unwrap() = kind;
        self.reads.swap(0, Ordering::Relaxed) >= 2
    }

    pub(crate) fn acked(&self, value: i64) {
        let mut floor = self.floor.lock().unwrap();
        floor.acked = floor.acked.max(value);
    }

    pub(crate) fn last_write(&self) -> &'static str {
        *self.last_write.lock().unwrap()
    }
}

/// A door that is opened and shut again: even states are open, odd ones shut.
#[derive(Debug, Default)]
pub(crate) struct Door {
    /// Highest state asked for, highest state acknowledged.
    state: Mutex<(u64, u64)>,
}

impl Door {
    pub(crate) fn changing(&self) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        state.0
    }

    pub(crate) fn changed(&self, to: u64) {
        self.state.lock().unwrap().1 = to;
    }

    pub(crate) fn acked(&self) -> u64 {
        self.state.lock().unwrap().1
    }

    /// Whether some state between the last one acknowledged when the read was sent and the last
    /// one asked for by now lets it end so.
    pub(crate) fn allows(&self, acked_before: u64, opened: bool) -> bool {
        let asked = self.state.lock().unwrap().0;
        (acked_before..=asked).any(|state| state.is_multiple_of(2) == opened)
    }
}

/// What happened, for the end of the run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) reads: AtomicU64,
    violations: Mutex<Vec<String>>,
    /// By kind of write: how many, and how many of them after two reads in a row.
    writes: Mutex<BTreeMap<&'static str, (u64, u64)>>,
    /// By SQLSTATE, with an example.
    errors: Mutex<BTreeMap<String, (u64, String)>>,
    faults: Mutex<BTreeMap<&'static str, Played>>,
}

/// A fault: how often it was played, how often it struck, and how long that took in all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Played {
    pub(crate) times: u64,
    pub(crate) struck: u64,
    pub(crate) took: Duration,
}

impl Report {
    pub(crate) fn read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn violation(&self, story: String) {
        self.violations.lock().unwrap().push(story);
    }

    pub(crate) fn write(&self, kind: &'static str, warm: bool) {
        let mut writes = self.writes.lock().unwrap();
        let counts = writes.entry(kind).or_default();
        counts.0 += 1;
        counts.1 += u64::from(warm);
    }

    /// Whether a write of this kind has met a register that was read twice before.
    pub(crate) fn has_met(&self, kind: &str) -> bool {
        self.writes.lock().unwrap().get(kind).is_some_and(|&(_, warm)| warm > 0)
    }

    pub(crate) fn error(&self, sqlstate: &str, example: &str) {
        let mut errors = self.errors.lock().unwrap();
        errors.entry(sqlstate.to_owned()).or_insert_with(|| (0, example.to_owned())).0 += 1;
    }

    /// A connection ended; by the SQLSTATE of PostgreSQL's last words, if there were any.
    pub(crate) fn closed(&self, error: &io::Error, whose: &str) {
        let text = error.to_string();
        let sqlstate = text.split_once(' ').map_or("", |(sqlstate, _)| sqlstate);
        let has_words = error.kind() == io::ErrorKind::ConnectionAborted;
        self.error(if has_words { sqlstate } else { "closed" }, &format!("{whose}: {text}"));
    }

    pub(crate) fn fault(&self, name: &'static str, struck: bool, took: Duration) {
        let mut faults = self.faults.lock().unwrap();
        let played = faults.entry(name).or_default();
        played.times += 1;
        played.struck += u64::from(struck);
        played.took += took;
    }

    pub(crate) fn has_struck(&self, fault: &str) -> bool {
        self.faults.lock().unwrap().get(fault).is_some_and(|played| played.struck > 0)
    }

    pub(crate) fn faults(&self) -> BTreeMap<&'static str, Played> {
        self.faults.lock().unwrap().clone()
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    pub(crate) fn writes(&self) -> BTreeMap<&'static str, (u64, u64)> {
        self.writes.lock().unwrap().clone()
    }

    pub(crate) fn errors(&self) -> BTreeMap<String, (u64, String)> {
        self.errors.lock().unwrap().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(floor: (i64, i64), value: Option<i64>, expected: Option<Broken>) {
        let (acked, shown) = floor;
        assert_eq!(judge(Floor { acked, shown }, value), expected);
    }

    #[test]
    fn a_read_may_return_what_was_known_or_more() {
        check((3, 4), Some(4), None);
        check((3, 4), Some(5), None);
    }

    #[test]
    fn a_read_older_than_an_acknowledgement_is_stale() {
        check((5, 5), Some(4), Some(Broken::StaleAfterAck));
    }

    #[test]
    fn a_read_older_than_what_was_shown_goes_back() {
        check((3, 5), Some(4), Some(Broken::GoingBack));
    }

    #[test]
    fn a_rolled_back_or_missing_value_is_seen() {
        check((0, 0), Some(POISON + 1), Some(Broken::RolledBack));
        check((0, 0), None, Some(Broken::Missing));
    }

    #[test]
    fn a_write_after_two_reads_met_a_live_entry() {
        let register = Register::default();
        register.shown(1);
        assert!(!register.writing("update"));
        register.shown(1);
        register.shown(1);
        assert!(register.writing("update"));
        assert!(!register.writing("update"));
    }

    #[test]
    fn a_shut_door_lets_nobody_in_once_acknowledged() {
        let door = Door::default();
        assert!(door.allows(door.acked(), true));
        assert!(!door.allows(door.acked(), false));
        let shut = door.changing();
        assert!(door.allows(0, true) && door.allows(0, false));
        door.changed(shut);
        let acked = door.acked();
        assert!(!door.allows(acked, true));
        door.changing();
        assert!(door.allows(acked, true));
    }
}
