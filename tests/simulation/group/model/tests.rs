//! What holds, and what breaks without which part of the protocol.

use forebay::cache::group::member::Safeguard;

use super::setup::Without::Member;
use super::setup::{CATALOG, FIRST, Faults, SECOND, Setup, Without, Writer};
use super::{Outcome, explore};

const NONE: Faults = Faults {
    crash: 0,
    lose_k: 0,
    cut: 0,
    postgres_cut: 0,
    control_cut: 0,
    control_dies: 0,
    reset: 0,
    promotion: 0,
    birth: 0,
    leave: 0,
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
    hears: false,
    alone: false,
    catalog: false,
    members: 2,
    census_apart: false,
    faults: NONE,
};

const CUT: Setup = Setup { faults: Faults { cut: 1, ..NONE }, ..SLOW };
const LOST: Setup = Setup { faults: Faults { lose_k: 1, ..NONE }, ..SLOW };
const CRASH: Setup = Setup { faults: Faults { crash: 1, ..NONE }, ..SLOW };
const UNKNOWN: Setup = Setup { faults: Faults { postgres_cut: 1, ..NONE }, ..SLOW };
const PROMOTED: Setup = Setup { faults: Faults { promotion: 1, ..NONE }, ..SLOW };
const EVICTED: Setup = Setup { faults: Faults { evicted_slot: 1, ..NONE }, ..SLOW };

/// The one that writes is cut off from Redis, and its server loses its lock for a moment.
const RESET: Setup = Setup { faults: Faults { reset: 1, cut: 1, ..NONE }, ..SLOW };
/// Meanwhile nothing else shows that it is there, and it believes otherwise.
const UNSHOWN: Setup = Setup { faults: Faults { control_dies: 1, ..RESET.faults }, ..SLOW };

/// C is born, and writes.
const BORN: Setup = Setup {
    writers: &[Writer { at: 2, slots: FIRST }],
    faults: Faults { birth: 1, ..NONE },
    ..SLOW
};

/// A is alone until C is born, who writes; A is cut off from Redis.
const ALONE: Setup =
    Setup { readers: &[0], members: 1, faults: Faults { birth: 1, cut: 1, ..NONE }, ..BORN };

pub(crate) const GRANTS: Setup = Setup { grants: true, ..SLOW };
/// B hears at once of what A announces.
const HEARD: Setup = Setup { lease: 1, hears: true, ..GRANTS };
const GRANTS_LOST: Setup = Setup { grants: true, ..LOST };
const GRANTS_CUT: Setup = Setup { grants: true, ..CUT };

/// A reads and is cut off from PostgreSQL, B writes.
const GRANTED: Setup =
    Setup { writers: &[Writer { at: 1, slots: FIRST }], readers: &[0], grants: true, ..UNKNOWN };

/// A reads and answers without asking, and leaves when it likes; B writes.
const LEFT: Setup = Setup {
    writers: &[Writer { at: 1, slots: FIRST }],
    readers: &[0],
    faults: Faults { leave: 1, ..NONE },
    ..GRANTS
};

/// A writes the first table, B makes such writes write the second, which is read.
const CATALOGS: Setup = Setup {
    writers: &[Writer { at: 0, slots: FIRST }, Writer { at: 1, slots: CATALOG }],
    read: SECOND,
    catalog: true,
    ..SLOW
};

/// All states of it are seen, and no hit in them is old.
fn holds(name: &str, setup: &Setup) {
    match explore(setup) {
        Outcome::Holds(size) => {
            println!("{name}: {} states, {} deep, {} hits", size.states, size.depth, size.hits);
            assert!(size.hits > 100, "too few to mean anything: {size:?}");
        }
        Outcome::Broken(story) => panic!("{name}: {story:#?}"),
    }
}

/// A row of what breaks: its shortest story has so many steps.
fn breaks(row: &str, without: impl Into<Option<Without>>, setup: &Setup, steps: usize) {
    let without = without.into();
    let outcome = explore(&Setup { without, ..setup.clone() });
    let Outcome::Broken(story) = outcome else { panic!("row {row}, {without:?}: {outcome:?}") };
    println!("row {row}, {without:?}: {} steps", story.len());
    assert_eq!(story.len(), steps, "row {row}, {without:?}: {story:#?}");
}

/// The worlds that take minutes.
fn is_long() -> bool {
    std::env::var_os("FOREBAY_GROUP_STATES").is_some()
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
fn who_is_killed_makes_no_hit_old() {
    holds("killed", &CRASH);
}

#[test]
fn who_answers_without_asking_hits_nothing_old() {
    holds("grants", &GRANTS);
}

#[test]
fn who_hears_at_once_hits_nothing_old() {
    holds("heard", &HEARD);
}

#[test]
fn who_leaves_makes_no_hit_old() {
    holds("left", &LEFT);
}

#[test]
fn a_promoted_replica_makes_no_hit_old() {
    if is_long() {
        holds("promoted", &PROMOTED);
    }
}

#[test]
fn the_larger_worlds_have_no_old_hit() {
    if !is_long() {
        return;
    }
    let killed = Faults { crash: 1, lose_k: 1, ..NONE };
    holds("killed, K lost", &Setup { faults: killed, ..SLOW });
    let clocks = Faults { slow_redis: 1, cut: 1, ..NONE };
    holds("Redis's clock is slow", &Setup { margin: 1, faults: clocks, ..SLOW });
    let clocks = Faults { slow_clock: 1, ..NONE };
    holds("a clock is slow, grants", &Setup { margin: 1, faults: clocks, ..GRANTS });
    holds("grants, K lost", &GRANTS_LOST);
    holds("heard, for longer", &Setup { lease: 2, ..HEARD });
    holds("heard, K lost", &Setup { hears: true, ..GRANTS_LOST });
    holds("heard, cut off", &Setup { hears: true, ..GRANTS_CUT });
    holds("catalogue", &Setup { lease: 1, ..CATALOGS });
    holds("catalogue, heard", &Setup { lease: 1, hears: true, ..CATALOGS });
    let control = Faults { control_cut: 1, ..NONE };
    holds("the lock's connection lost", &Setup { faults: control, ..SLOW });
    holds("one alone, then another", &ALONE);
    let faults = Faults { birth: 1, ..NONE };
    holds("one alone that does not ask", &Setup { alone: true, faults, ..ALONE });
    holds("unknown outcome", &UNKNOWN);
    holds("reset", &RESET);
    holds("reset, nothing shows it", &UNSHOWN);
}

#[test]
fn in_the_larger_worlds_too_who_leaves_makes_no_hit_old() {
    if !is_long() {
        return;
    }
    let faults = Faults { leave: 1, crash: 1, ..NONE };
    holds("left and killed", &Setup { faults, ..LEFT });
    let faults = Faults { leave: 1, birth: 1, ..NONE };
    holds("one alone that leaves, then another", &Setup { alone: true, faults, ..ALONE });
    let writers = &[Writer { at: 0, slots: FIRST }];
    holds("one that writes leaves", &Setup { writers, readers: &[1], ..LEFT });
}

#[test]
fn each_part_that_announces_a_write_is_needed() {
    breaks("1", Without::Check, &SLOW, 7);
    breaks("2", Member(Safeguard::AwaitBegin), &SLOW, 6);
    breaks("3", Member(Safeguard::Fence), &CUT, 6);
    breaks("24", Member(Safeguard::LockAge), &BORN, 6);
    breaks("24, shown", Member(Safeguard::LockShown), &UNSHOWN, 13);
    breaks("25", Without::KeptUnknown, &UNKNOWN, 14);
    breaks("own", Without::OwnUnended, &Setup { readers: &[0], ..SLOW }, 7);
}

#[test]
fn each_part_that_ends_k_in_time_is_needed() {
    breaks("4", Without::EarliestLease, &CUT, 10);
    breaks("5", Without::KeptMarks, &CUT, 10);
    breaks("9", Without::AbsoluteLease, &CUT, 24);
    breaks("12", Without::ProcessIdentity, &PROMOTED, 12);
    breaks("20", None, &EVICTED, 8);
    let clock = Faults { slow_redis: 1, ..CUT.faults };
    breaks("21", None, &Setup { faults: clock, ..CUT }, 8);
}

#[test]
fn each_part_that_opens_k_late_is_needed() {
    breaks("6", Without::Census, &LOST, 18);
    breaks("7", Member(Safeguard::MarksInJoin), &LOST, 23);
    breaks("8", Without::OpenLate, &CUT, 27);
    breaks("10", Without::StampWhileOpen, &LOST, 23);
    breaks("11", Member(Safeguard::AwaitJoin), &LOST, 23);
}

#[test]
fn each_part_that_drops_a_member_with_care_is_needed() {
    breaks("14", Without::QuietSince, &UNKNOWN, 15);
    breaks("15", Without::DropAfterGrant, &GRANTED, 11);
    breaks("22", Without::ShortJoin, &ALONE, 11);
    breaks("23", Without::DropByName, &BORN, 13);
}

#[test]
fn each_part_that_keeps_a_grant_short_is_needed() {
    breaks("13", Member(Safeguard::LeaveEndsWithAct), &GRANTS_LOST, 12);
    let clock = Faults { slow_clock: 1, ..NONE };
    breaks("16", None, &Setup { faults: clock, ..GRANTS }, 8);
    let without = Member(Safeguard::ShortGrant);
    breaks("16, short", without, &Setup { margin: 1, faults: clock, ..GRANTS }, 13);
    breaks("17", Member(Safeguard::AwaitGrants), &GRANTS, 7);
    breaks("18", Without::LocalDeadline, &GRANTS, 8);
    breaks("19", Without::GrantOfRest, &GRANTS_CUT, 10);
    breaks("left", Without::LeaveLast, &LEFT, 9);
    breaks("shut", Member(Safeguard::ShutWaits), &GRANTS_LOST, 11);
}

#[test]
fn a_write_judged_under_an_old_catalogue_is_widened() {
    breaks("catalogue", Member(Safeguard::Widen), &Setup { lease: 1, ..CATALOGS }, 17);
    let heard = Setup { lease: 1, hears: true, ..CATALOGS };
    breaks("catalogue, told", Member(Safeguard::MarkThenTell), &heard, 17);
    if is_long() {
        breaks("catalogue, known", Member(Safeguard::AwaitCatalog), &CATALOGS, 18);
    }
}
