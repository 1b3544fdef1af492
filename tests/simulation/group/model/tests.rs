//! What holds, and what breaks without which part of the protocol.

use forebay::cache::group::member::Safeguard;

use super::setup::{FIRST, Faults, Setup, Without, Writer};
use super::{Outcome, explore};

const NONE: Faults = Faults {
    crash: 0,
    lose_k: 0,
    cut: 0,
    postgres_cut: 0,
    control_cut: 0,
    promotion: 0,
    birth: 0,
    slow_clock: 0,
    slow_redis: 0,
    evicted_slot: 0,
    abort: 0,
};

/// A writes one table once, B reads it for ever; time passes as it likes.
const SLOW: Setup = Setup {
    lease: 2,
    margin: 0,
    without: None,
    writers: &[Writer { at: 0, slots: FIRST }],
    readers: &[1],
    read: FIRST,
    grants: false,
    catalog: false,
    members: 2,
    census_apart: false,
    faults: NONE,
};

const CUT: Setup = Setup { faults: Faults { cut: 1, ..NONE }, ..SLOW };
const LOST: Setup = Setup { faults: Faults { lose_k: 1, ..NONE }, ..SLOW };
const CRASH: Setup = Setup { faults: Faults { crash: 1, ..NONE }, ..SLOW };

/// All states of it are seen, and no hit in them is old.
fn holds(name: &str, setup: &Setup) {
    match explore(setup, usize::MAX) {
        Outcome::Holds(size) => {
            println!("{name}: {size:?}");
            assert!(size.hits > 100, "too few hits to mean anything: {size:?}");
        }
        other => panic!("{name}: {other:#?}"),
    }
}

/// Without that part, a shortest story has so many steps.
fn breaks(row: u8, without: Without, setup: &Setup, steps: usize) {
    let outcome = explore(&Setup { without: Some(without), ..setup.clone() }, usize::MAX);
    let Outcome::Broken(story) = outcome else { panic!("row {row}, {without:?}: {outcome:?}") };
    assert_eq!(story.len(), steps, "row {row}, {without:?}: {story:#?}");
}

#[test]
fn whoever_is_slow_hits_nothing_old() {
    holds("slow", &SLOW);
}

#[test]
fn a_lost_k_makes_no_hit_old() {
    holds("K lost", &LOST);
}

#[test]
fn who_is_cut_off_from_redis_makes_no_hit_old() {
    holds("cut off", &CUT);
}

#[test]
fn what_the_clients_would_miss_first_is_there() {
    breaks(1, Without::Check, &SLOW, 7);
    breaks(2, Without::Member(Safeguard::AwaitBegin), &SLOW, 6);
    breaks(3, Without::Member(Safeguard::Fence), &CUT, 6);
    breaks(4, Without::EarliestLease, &CUT, 10);
    breaks(5, Without::KeptMarks, &CUT, 10);
    breaks(6, Without::Census, &LOST, 18);
    breaks(7, Without::Member(Safeguard::MarksInJoin), &LOST, 23);
}
