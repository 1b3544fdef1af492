//! What several Forebays agree on through one Redis.

mod model;
mod seeded;
pub(crate) mod register;

use forebay::cache::group::life::Life;
use forebay::cache::group::process::Process;
use forebay::cache::group::script::{Answer, Renew, Renewed, Request, Wait};
use forebay::cache::group::slot::{Act, Mark, Slot, SlotName};
use forebay::sql::verdict::TableId;

use register::Register;

const PROCESS: Process = Process { run_id: [1; 20], replication_id: [2; 20] };
const LIFE: Life = Life { timeline: 2, started: 5 };
const ACT: Act = Act([7; 16]);
const TABLE: SlotName = SlotName::Table(TableId(1));
const LEASE: u64 = 10;
/// How long members are believed to live.
const LONG: u64 = 100;

fn join(id: u32, until: u64, marks: Vec<(Mark, Vec<SlotName>)>) -> Request {
    join_of(LIFE, id, until, marks)
}

fn join_of(life: Life, id: u32, until: u64, marks: Vec<(Mark, Vec<SlotName>)>) -> Request {
    Request::Join { process: PROCESS, life, id, until, act: ACT, lease: LONG, marks }
}

fn renew(id: u32, until: u64) -> Renew {
    Renew {
        act: ACT,
        id,
        until,
        applied: 0,
        lease: LEASE,
        local: true,
        seen: vec![id],
        gone_seq: 0,
        gone: Vec::new(),
    }
}

fn begin(id: u32, slot: SlotName) -> Request {
    // They have joined in the order of their numbers, and first of all.
    let joined = u64::from(id);
    Request::Begin { act: ACT, id, joined, mark: Mark { id, n: 1 }, slots: vec![slot] }
}

/// Two members whose leases end at 20, open since 10.
fn open_group() -> Register {
    let mut register = Register::default();
    register.call(&join(1, 10, Vec::new()), 0);
    register.call(&Request::Renew(renew(1, 20)), 0);
    register.call(&join(2, 20, Vec::new()), 0);
    assert!(renewed(&mut register, renew(2, 20), 10).open);
    register
}

fn renewed(register: &mut Register, renew: Renew, now: u64) -> Renewed {
    let answer = register.call(&Request::Renew(renew), now);
    let Answer::Renewed(renewed) = answer else { panic!("{answer:?}") };
    renewed
}

#[test]
fn it_ends_with_the_earliest_lease() {
    let mut register = open_group();
    register.call(&Request::Renew(renew(1, 30)), 11);
    let ids = register.call(&Request::Members { act: ACT }, 19);
    assert_eq!(ids, Answer::Members { seq: 2, ids: vec![1, 2] });
    assert_eq!(register.call(&Request::Members { act: ACT }, 20), Answer::Lost);
    let other = Act([8; 16]);
    let (process, life, marks) = (PROCESS, LIFE, Vec::new());
    let again = Request::Join { process, life, id: 1, until: 40, act: other, lease: LONG, marks };
    assert_eq!(
        register.call(&again, 20),
        Answer::Joined { act: other, open: false, seq: 1, outlived: 0 }
    );
}

#[test]
fn it_opens_a_lease_after_the_first_good_census() {
    let mut register = Register::default();
    register.call(&join(1, 50, Vec::new()), 0);
    assert!(!renewed(&mut register, renew(1, 50), 3).open);
    assert!(!renewed(&mut register, renew(1, 50), 12).open);
    assert!(renewed(&mut register, renew(1, 50), 13).open);
}

#[test]
fn a_stranger_in_the_census_keeps_the_lease_as_it_is() {
    let mut register = open_group();
    let before = register.clone();
    let census = Renew { seen: vec![1, 3], ..renew(1, 40) };
    let answer = register.call(&Request::Renew(census), 11);
    assert_eq!(answer, Answer::Census { stranger: 3 });
    assert_eq!(register, before);
}

#[test]
fn a_commit_waits_for_those_who_hit_unasked_until_they_know_it() {
    let mut register = open_group();
    let Answer::Begun { open, seq, waits, .. } = register.call(&begin(1, TABLE), 12) else {
        panic!("not a member")
    };
    assert_eq!((open, seq, waits), (true, 3, vec![Wait { id: 2, ms: 8 }]));
    let told = renewed(&mut register, renew(2, 20), 13);
    let marked = Slot { generation: 0, seq: 3, marks: vec![Mark { id: 1, n: 1 }] };
    assert_eq!((told.seq, told.slots), (3, vec![(TABLE, marked)]));
    renewed(&mut register, Renew { applied: 3, ..renew(2, 20) }, 14);
    let lag = Request::Lag { act: ACT, id: 1, seq, all: false };
    assert_eq!(register.call(&lag, 14), Answer::Lag { waits: Vec::new() });
}

#[test]
fn a_commit_of_the_catalogue_waits_for_everybody() {
    let mut register = open_group();
    let Answer::Begun { waits, .. } = register.call(&begin(2, SlotName::Catalog), 12) else {
        panic!("not a member")
    };
    assert_eq!(waits, [Wait { id: 1, ms: 8 }]);
}

#[test]
fn one_who_is_gone_is_dropped_with_its_marks_unless_it_was_heard_of_since() {
    let drop_1 = |gone_seq| Renew { gone_seq, gone: vec![1], ..renew(2, 30) };
    let mut register = open_group();
    register.call(&begin(1, TABLE), 12);
    assert_eq!(renewed(&mut register, drop_1(2), 13).members, 2);
    let told = renewed(&mut register, drop_1(3), 13);
    let bumped = Slot { generation: 1, seq: 4, marks: Vec::new() };
    assert_eq!((told.members, told.slots), (1, vec![(TABLE, bumped)]));
}

#[test]
fn one_who_hits_unasked_is_not_dropped() {
    let mut register = open_group();
    renewed(&mut register, renew(1, 20), 10);
    let drop_1 = |until| Renew { gone_seq: 2, gone: vec![1], ..renew(2, until) };
    assert_eq!(renewed(&mut register, drop_1(30), 19).members, 2);
}

#[test]
fn a_grant_that_was_given_stays_when_a_shorter_one_follows() {
    let mut register = Register::default();
    register.call(&join(1, 30, Vec::new()), 0);
    renewed(&mut register, renew(1, 30), 0);
    assert_eq!(renewed(&mut register, renew(1, 30), 10).grant, 20);
    register.call(&join(2, 15, Vec::new()), 11);
    assert_eq!(renewed(&mut register, renew(1, 30), 12).grant, 3);
    renewed(&mut register, renew(2, 40), 13);
    let Answer::Begun { waits, .. } = register.call(&begin(2, TABLE), 16) else {
        panic!("not a member")
    };
    assert_eq!(waits, [Wait { id: 1, ms: 14 }]);
}

#[test]
fn a_commit_announced_late_over_a_link_of_before_leaves_no_mark() {
    let mut register = open_group();
    let late = begin(1, TABLE);
    register.call(&join(1, 20, vec![(Mark { id: 1, n: 1 }, vec![TABLE])]), 12);
    let (mark, slots) = (Mark { id: 1, n: 1 }, vec![TABLE]);
    register.call(&Request::End { act: ACT, mark, committed: true, slots }, 12);
    assert_eq!(register.call(&late, 13), Answer::Lost);
    let Answer::Checked { slots, .. } = register.call(&Request::Check { slots: vec![TABLE] }, 13)
    else {
        panic!("no check")
    };
    assert_eq!((slots[0].generation, slots[0].marks.len()), (1, 0));
}

#[test]
fn where_the_clock_was_set_back_by_more_than_leases_may_last_it_ends() {
    let mut register = Register::default();
    register.call(&join(1, 1000 + LONG, Vec::new()), 1000);
    renewed(&mut register, renew(1, 1000 + LONG), 1000);
    assert_eq!(register.call(&Request::Renew(renew(1, 999 + LONG)), 999), Answer::Lost);
    assert_eq!(register, Register::default());
}

#[test]
fn who_has_another_lease_is_not_let_in() {
    let mut register = open_group();
    let before = register.clone();
    let (process, life, marks) = (PROCESS, LIFE, Vec::new());
    let other = Request::Join { process, life, id: 3, until: 20, act: ACT, lease: LONG + 1, marks };
    assert_eq!(register.call(&other, 12), Answer::OtherLease { lease: LONG });
    assert_eq!(register, before);
    // Where nobody is left it is another K's.
    assert_eq!(register.call(&other, 30), Answer::Late);
    let (process, life, marks) = (PROCESS, LIFE, Vec::new());
    let later = Request::Join { process, life, id: 3, until: 40, act: ACT, lease: LONG + 1, marks };
    assert!(matches!(register.call(&later, 30), Answer::Joined { .. }));
}

#[test]
fn who_speaks_of_a_postgresql_that_another_has_taken_over_from_is_sent_away() {
    let promoted = Life { timeline: LIFE.timeline + 1, started: 0 };
    let restarted = Life { started: LIFE.started + 1, ..LIFE };
    for later in [promoted, restarted] {
        let mut register = open_group();
        let joined = register.call(&join_of(later, 3, 40, Vec::new()), 14);
        // Those of before may hit for as long as their leases run.
        assert_eq!(joined, Answer::Joined { act: ACT, open: false, seq: 1, outlived: 6 });
        assert_eq!(register.call(&join(1, 40, Vec::new()), 15), Answer::Passed);
        // One more of the later finds it as it is.
        let joined = register.call(&join_of(later, 4, 40, Vec::new()), 16);
        assert_eq!(joined, Answer::Joined { act: ACT, open: false, seq: 2, outlived: 4 });
        // Who has a shorter lease believes it no sooner.
        let short = |now| Renew { lease: 1, seen: vec![3, 4], ..renew(3, now + 20) };
        let mut open = |now| renewed(&mut register, short(now), now).open;
        assert_eq!([17, 19, 20].map(&mut open), [false, false, true]);
        // Where nobody of the later is left it is as if there had been none.
        let joined = register.call(&join(1, 60, Vec::new()), 50);
        assert_eq!(joined, Answer::Joined { act: ACT, open: false, seq: 1, outlived: 0 });
    }
}
