//! Stamps and guards by themselves; their interleavings are in `tests/simulation`.

use super::*;

const A: TableId = TableId(1);
const B: TableId = TableId(2);

fn scope(tables: &[TableId]) -> Scope {
    Scope::Tables(tables.into())
}

fn worn(coherence: &Coherence, table: Option<TableId>, state: u64) {
    let slots = coherence.slots.read().unwrap();
    let slot = table.map_or(&slots.database, |table| &slots.tables[&table]);
    slot.word.store(state, Ordering::SeqCst);
}

#[test]
fn a_stamp_holds_while_nothing_is_written() {
    let coherence = Coherence::new(1);
    let stamp = coherence.stamp(&[A, B]).unwrap();
    assert!(stamp.holds());
    coherence.begin_write(&scope(&[TableId(3)])).committed();
    assert!(stamp.holds());
}

#[test]
fn a_commit_in_flight_suspends_and_its_rollback_restores() {
    let coherence = Coherence::new(1);
    let stamp = coherence.stamp(&[A, B]).unwrap();
    let write = coherence.begin_write(&scope(&[B]));
    assert!(!stamp.holds());
    write.rolled_back();
    assert!(stamp.holds());
}

#[test]
fn a_commit_ends_a_stamp_for_good() {
    let coherence = Coherence::new(1);
    let stamp = coherence.stamp(&[A, B]).unwrap();
    coherence.begin_write(&scope(&[B])).committed();
    assert!(!stamp.holds());
    assert!(coherence.stamp(&[A, B]).unwrap().holds());
    assert!(!stamp.holds());
}

#[test]
fn nothing_is_stamped_while_one_of_two_commits_is_in_flight() {
    let coherence = Coherence::new(1);
    let first = coherence.begin_write(&scope(&[A]));
    let second = coherence.begin_write(&scope(&[A]));
    first.committed();
    assert!(coherence.stamp(&[A]).is_none());
    assert!(coherence.stamp(&[B]).is_some());
    second.committed();
    assert!(coherence.stamp(&[A]).is_some());
}

#[test]
fn a_write_to_the_database_covers_every_stamp() {
    let coherence = Coherence::new(1);
    let table = coherence.stamp(&[A]).unwrap();
    let snapshot = coherence.stamp(&[]).unwrap();
    let write = coherence.begin_write(&Scope::Database);
    assert!(!table.holds() && !snapshot.holds());
    assert!(coherence.stamp(&[B]).is_none());
    write.committed();
    assert!(!table.holds() && !snapshot.holds());
}

#[test]
fn a_merged_guard_settles_both() {
    let coherence = Coherence::new(1);
    let mut write = coherence.begin_write(&scope(&[A]));
    write.merge(coherence.begin_write(&scope(&[A, B])));
    assert_eq!(coherence.table_slot(A).unwrap().in_flight(), 2);
    write.committed();
    assert_eq!(coherence.table_slot(A).unwrap().in_flight(), 0);
    assert_eq!(coherence.table_slot(B).unwrap().in_flight(), 0);
    assert_eq!(coherence.abandoned(), 0);
}

#[test]
fn a_guard_dropped_unsettled_stays_in_flight_and_is_counted() {
    let coherence = Coherence::new(1);
    let stamp = coherence.stamp(&[A]).unwrap();
    drop(coherence.begin_write(&scope(&[A])));
    assert!(!stamp.holds());
    assert!(coherence.stamp(&[A]).is_none());
    assert_eq!(coherence.abandoned(), 1);
}

#[test]
fn a_flush_ends_every_stamp() {
    let coherence = Coherence::new(1);
    let stamp = coherence.stamp(&[A]).unwrap();
    coherence.invalidate(&Scope::Database);
    assert!(!stamp.holds());
}

#[test]
fn a_spent_generation_never_matches_again_and_the_slot_is_renewed() {
    for table in [Some(A), None] {
        let coherence = Coherence::new(1);
        coherence.stamp(&[A]).unwrap();
        worn(&coherence, table, word(GENERATION_MAX - 1, 0));
        let last = coherence.stamp(&[A]).unwrap();
        let written = if table.is_some() { scope(&[A]) } else { Scope::Database };
        let overlapping = coherence.begin_write(&written);
        coherence.begin_write(&written).committed();
        assert!(!last.holds());
        assert!(coherence.stamp(&[A]).is_none());
        overlapping.committed();
        let fresh = coherence.stamp(&[A]).unwrap();
        assert!(fresh.holds());
        assert!(!last.holds());
        coherence.begin_write(&written).committed();
        assert!(!fresh.holds());
    }
}

#[test]
fn a_full_count_stays_in_flight_for_ever() {
    let coherence = Coherence::new(1);
    let stamp = coherence.stamp(&[A]).unwrap();
    worn(&coherence, Some(A), word(1, IN_FLIGHT_MAX - 1));
    coherence.begin_write(&scope(&[A])).rolled_back();
    coherence.begin_write(&scope(&[A])).rolled_back();
    assert_eq!(coherence.table_slot(A).unwrap().in_flight(), IN_FLIGHT_MAX);
    assert!(!stamp.holds());
}

#[test]
fn past_the_bound_of_tables_writes_cover_the_database_and_reads_are_not_stamped() {
    let mut coherence = Coherence::new(1);
    coherence.tables_max = 1;
    let stamp = coherence.stamp(&[A]).unwrap();
    assert!(coherence.stamp(&[A, B]).is_none());
    let write = coherence.begin_write(&scope(&[B]));
    assert!(!stamp.holds());
    write.committed();
    assert!(!stamp.holds());
    assert!(coherence.stamp(&[A]).is_some());
}

#[test]
fn a_restored_stamp_holds_as_the_original_does() {
    let coherence = Coherence::new(1);
    let versions: Vec<_> = coherence.stamp(&[A, B]).unwrap().slots().collect();
    assert!(coherence.restore(&versions).unwrap().holds());
    let write = coherence.begin_write(&scope(&[B]));
    assert!(!coherence.restore(&versions).unwrap().holds());
    write.committed();
    assert!(!coherence.restore(&versions).unwrap().holds());
}

#[test]
fn a_stamp_of_another_life_or_without_the_database_is_not_restored() {
    let coherence = Coherence::new(1);
    let versions: Vec<_> = coherence.stamp(&[A]).unwrap().slots().collect();
    let other = Coherence::new(2);
    other.stamp(&[A]).unwrap();
    assert!(other.restore(&versions).is_none());
    assert!(coherence.restore(&versions[1..]).is_none());
    assert!(coherence.restore(&[]).is_none());
}

#[test]
fn versions_of_other_processes_may_be_anything() {
    let coherence = Coherence::new(1);
    let mut versions: Vec<_> = coherence.stamp(&[]).unwrap().slots().collect();
    for generation in [0, GENERATION_MAX, u64::MAX] {
        versions[0].generation = generation;
        assert!(coherence.restore(&versions).is_none_or(|stamp| !stamp.holds()));
    }
}

#[test]
fn what_is_in_flight_is_widened_until_all_of_it_is_settled() {
    let coherence = Coherence::new(1);
    let [written, other] = [TableId(1), TableId(2)];
    let stamp = coherence.stamp(&[other]).unwrap();
    let begin = |table: TableId| coherence.begin_write(&Scope::Tables([table].into()));
    let (first, second) = (begin(written), begin(written));
    assert!(stamp.holds());
    coherence.widen();
    assert!(!stamp.holds() && coherence.stamp(&[other]).is_none());
    // What begins after it knows better.
    let later = begin(written);
    first.committed();
    assert!(!stamp.holds());
    second.rolled_back();
    assert!(stamp.holds());
    coherence.widen();
    assert!(!stamp.holds());
    let mut merged = begin(other);
    merged.merge(later);
    assert!(!stamp.holds());
    merged.rolled_back();
    assert!(stamp.holds());
    assert_eq!(coherence.abandoned(), 0);
}

#[test]
fn where_nothing_is_in_flight_there_is_nothing_to_widen() {
    let coherence = Coherence::new(1);
    let stamp = coherence.stamp(&[TableId(1)]).unwrap();
    for _ in 0..3 {
        coherence.widen();
        assert!(stamp.holds());
    }
    // Nor is what is of the whole database.
    let guard = coherence.begin_write(&Scope::Database);
    coherence.widen();
    guard.rolled_back();
    assert!(stamp.holds());
}

#[test]
fn one_that_settles_while_it_is_widened_leaves_nothing_in_flight() {
    let coherence = Coherence::new(1);
    let tables = [TableId(1)];
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..10_000 {
                coherence.begin_write(&Scope::Tables(tables.into())).rolled_back();
            }
            stop.store(true, Ordering::Relaxed);
        });
        while !stop.load(Ordering::Relaxed) {
            coherence.widen();
        }
        writer.join().unwrap();
    });
    assert!(coherence.stamp(&tables).is_some());
    assert_eq!(coherence.abandoned(), 0);
}
