//! What a member grants, announces and ends, one rule at a time; all of them together the model explores.

use super::*;
use crate::sql::verdict::TableId;

const HERE: u64 = 1;
const LEASE: Millis = 1000;
const MARGIN: Millis = 50;
const TABLE: SlotName = SlotName::Table(TableId(7));

/// One that has joined, at 0.
fn joined(open: bool) -> Member {
    let rules = Rules { lease: LEASE, margin: MARGIN, without: None };
    let mut member = Member::new(1, rules);
    member.take_lock(HERE, 0);
    let marks = member.join(0);
    member.on_joined(Act([1; 16]), open, &marks);
    member
}

fn announced(member: &mut Member, n: u64, open: bool) {
    let slots = member.begins().into_iter().find(|begun| begun.0 == n).unwrap().1;
    member.on_begun((n, slots), (open, 1), &[], 0);
}

#[test]
fn what_was_widened_and_is_over_is_not_announced_again() {
    let mut member = joined(true);
    let n = member.begin(vec![TABLE], 0, HERE);
    announced(&mut member, n, true);
    assert_eq!(member.leave(n, 0), Leave::Granted);
    member.widen();
    member.settle(n, true);
    assert_eq!(member.begins(), []);
    assert_eq!(member.ends().len(), 1);
    member.on_ended(n);
    assert!(!member.has_work());
}

#[test]
fn our_own_change_of_the_catalogue_widens_what_is_under_way_beside_it() {
    let mut member = joined(true);
    let before = member.begin(vec![TABLE], 0, HERE);
    announced(&mut member, before, true);
    assert_eq!(member.leave(before, 0), Leave::Granted);
    let change = member.begin(vec![TABLE, SlotName::Catalog], 0, HERE);
    let beside = member.begin(vec![TABLE], 0, HERE);
    // In the order of the round: who waits for the change knows of the wider one before.
    let begins = member.begins();
    let numbers: Vec<u64> = begins.iter().map(|begun| begun.0).collect();
    assert_eq!(numbers, [before, change, beside]);
    let is_wide: Vec<bool> =
        begins.iter().map(|begun| begun.1.contains(&SlotName::Database)).collect();
    assert_eq!(is_wide, [true, false, true]);
    member.settle(change, true);
    member.on_ended(change);
    let after = member.begin(vec![TABLE], 0, HERE);
    assert!(!member.wide().any(|wide| wide == after));
}

#[test]
fn k_is_told_that_a_change_is_known_only_when_it_has_what_follows_from_it() {
    let mut member = joined(true);
    let [sent, held_back] =
        [TABLE, SlotName::Table(TableId(8))].map(|slot| member.begin(vec![slot], 0, HERE));
    announced(&mut member, sent, true);
    assert_eq!(member.leave(sent, 0), Leave::Granted);
    member.on_heard(7);
    assert_eq!(member.applied(), 7);
    // The catalogue is about to change.
    member.widen();
    member.on_heard(8);
    assert_eq!(member.applied(), 7);
    let begins = member.begins();
    // On its way, and perhaps refused.
    assert_eq!(member.applied(), 7);
    for begun in begins {
        member.on_begun(begun, (true, 9), &[], 0);
    }
    assert_eq!(member.applied(), 8);
    // What is not sent yet waits for its own BEGIN.
    member.widen();
    let _ = member.begin(vec![TABLE], 0, HERE);
    member.widen();
    member.on_heard(10);
    assert_eq!(member.applied(), 10);
    assert_eq!(member.leave(held_back, 0), Leave::Granted);
}

#[test]
fn in_a_k_that_is_shut_a_new_server_waits_until_nobody_can_have_missed_it() {
    for (open, locked_at, leave) in [
        (true, 5000, Leave::Granted),
        (false, 5000, Leave::At(5000 + LEASE + MARGIN)),
        (false, 3000, Leave::Granted),
    ] {
        let mut member = joined(open);
        let n = member.begin(vec![TABLE], locked_at, HERE);
        announced(&mut member, n, open);
        assert_eq!(member.leave(n, 5000), leave, "open {open}, locked at {locked_at}");
    }
}

#[test]
fn a_new_server_waits_for_nobody_once_our_lock_is_known_to_have_been_there_all_the_time() {
    let mut member = joined(true);
    member.lose(100);
    let n = member.begin(vec![TABLE], 5000, HERE);
    let waits = Leave::At(5000 + LEASE + MARGIN);
    assert_eq!(member.leave(n, 5001), waits);
    assert!(member.is_to_be_shown(5001));
    // Asked in the moment in which the server took its own, or before it.
    member.on_shown(5000);
    assert_eq!(member.leave(n, 5001), waits);
    assert!(member.is_to_be_shown(5001));
    member.on_shown(5001);
    assert!(!member.is_to_be_shown(5001));
    assert_eq!(member.leave(n, 5001), Leave::Granted);
    // Of another PostgreSQL it says nothing, nor does a lock that is lost, or not old itself.
    let elsewhere = member.begin(vec![TABLE], 5000, HERE + 1);
    assert_eq!(member.leave(elsewhere, 5002), waits);
    let again = member.begin(vec![TABLE], 5500, HERE);
    member.lose_lock(5501);
    assert!(!member.is_to_be_shown(5501));
    assert_eq!(member.leave(again, 5501), Leave::At(5500 + LEASE + MARGIN));
    member.take_lock(HERE, 5600);
    member.on_shown(5700);
    assert_eq!(member.leave(again, 5701), Leave::At(5500 + LEASE + MARGIN));
}

#[test]
fn a_join_that_redis_had_no_room_for_holds_nothing_back() {
    let mut member = joined(true);
    member.on_lost();
    let n = member.begin(vec![TABLE], 0, HERE);
    let then = LEASE + MARGIN;
    let _ = member.join(then);
    assert_eq!(member.leave(n, then), Leave::Later);
    member.on_unwritten();
    member.lose(then);
    assert_eq!(member.leave(n, then), Leave::Granted);
    assert!(member.wants_to_join(then));
    // One that may have arrived is a lease asked for.
    let late = member.begin(vec![TABLE], 0, HERE);
    let _ = member.join(then);
    member.lose(then);
    assert_eq!(member.leave(late, then), Leave::At(then + LEASE + MARGIN));
    assert!(!member.wants_to_join(then + LEASE));
}

#[test]
fn what_no_census_can_see_yet_is_not_announced() {
    let mut member = joined(true);
    let n = member.begin(vec![TABLE], Millis::MAX, HERE);
    assert_eq!(member.begins(), []);
    assert!(!member.has_work());
    member.on_lost();
    assert_eq!(member.join(0), []);
    member.on_joined(Act([2; 16]), true, &[]);
    assert_eq!(member.leave(n, 0), Leave::Later);
    member.lock_taken(n, 0);
    assert_eq!(member.leave(n, 0), Leave::Later);
    announced(&mut member, n, true);
    assert_eq!(member.leave(n, 0), Leave::Granted);
}

#[test]
fn who_was_refused_waits_for_no_lease_that_it_was_not_given() {
    let mut member = joined(true);
    member.on_lost();
    let n = member.begin(vec![TABLE], 0, HERE);
    assert_eq!(member.leave(n, 100), Leave::At(LEASE + MARGIN));
    let theirs = 5 * LEASE;
    for now in [200, 1300, 2400] {
        assert!(member.wants_to_join(now));
        let _ = member.join(now);
        member.on_join_refused(theirs, now);
        assert!(!member.wants_to_join(now + LEASE - 1));
    }
    // By then those who had one have seen its lock, and lost theirs.
    assert_eq!(member.leave(n, 2400), Leave::At(200 + theirs + theirs / 10));
    assert_eq!(member.leave(n, 200 + theirs + theirs / 10), Leave::Granted);
}

#[test]
fn no_grant_is_believed_for_longer_than_a_lease() {
    let mut member = joined(true);
    member.on_renewed(true, 0, 60 * LEASE, 0);
    assert_eq!(member.granted_until(), LEASE - MARGIN);
}

#[test]
fn no_commit_waits_for_a_lease_that_was_refused() {
    // Somebody is seen who is not there: K ends with each first lease, and is formed anew.
    let mut member = joined(true);
    member.on_renewed(true, 0, 0, 0);
    member.on_lost();
    for round in 1..4 {
        let began = round * (LEASE + 10);
        let marks = member.join(began);
        member.on_joined(Act([1; 16]), false, &marks);
        member.renew(began + LEASE - 5);
        member.on_renew_refused();
        member.on_lost();
        let over = began + LEASE + MARGIN;
        let n = member.begin(vec![TABLE], 0, HERE);
        let marks = member.join(began + LEASE + 5);
        member.on_joined(Act([2; 16]), false, &marks);
        announced(&mut member, n, false);
        assert_eq!(member.leave(n, over - 1), Leave::At(over));
        assert_eq!(member.leave(n, over), Leave::Granted);
        member.settle(n, true);
        member.on_ended(n);
        member.on_lost();
    }
}

#[test]
fn a_commit_waits_for_those_of_a_postgresql_that_was_taken_over_from() {
    let mut member = joined(false);
    member.on_outlived(70, 5000);
    let n = member.begin(vec![TABLE], 0, HERE);
    announced(&mut member, n, false);
    assert_eq!(member.leave(n, 5000), Leave::At(5070 + MARGIN));
    assert_eq!(member.leave(n, 5070 + MARGIN), Leave::Granted);
}

#[test]
fn who_is_sent_away_has_no_lease_to_wait_for() {
    let mut member = joined(false);
    member.on_lost();
    let _ = member.join(5000);
    member.on_join_passed();
    let n = member.begin(vec![TABLE], 0, HERE);
    assert_eq!(member.leave(n, 5000), Leave::Granted);
}
