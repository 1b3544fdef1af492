//! Every order of the steps of `model`, breadth first, so that the first story that breaks a
//! property is a shortest one.

use std::collections::{BTreeMap, HashMap};

use crate::model::Broken::{GoingBack, NotNow, OldWhenQuiet, StaleAfterAck};
use crate::model::{Broken, Label, Protocol, Setup, State, Step, Targets};

/// What is broken, with a shortest story of each.
type Stories = BTreeMap<Broken, Vec<Label>>;

/// A state that was reached: from which, by what.
struct Reached {
    state: State,
    from: Option<(usize, Label)>,
}

/// How large a world is.
struct Size {
    states: usize,
    /// Orders of events from the start to where nothing can happen any more, each of which the
    /// states and steps stand for.
    interleavings: u128,
}

/// How many states there are, and what is broken in them; ends early once `enough` is.
fn explore(setup: &Setup, enough: usize) -> (Size, Stories) {
    let mut stories = Stories::new();
    let start = State::start(setup);
    let mut known = HashMap::from([(start.canonical(setup), 0)]);
    let mut reached = vec![Reached { state: start, from: None }];
    let mut next = Vec::new();
    while next.len() < reached.len() && stories.len() < enough {
        let at = next.len();
        let steps = reached[at].state.steps(setup);
        if steps.is_empty()
            && let Some(broken) = reached[at].state.broken_when_quiet(setup)
        {
            stories.entry(broken).or_insert_with(|| story(&reached, at, None));
        }
        let mut followers = Vec::new();
        for Step { label, state, broken } in steps {
            for broken in broken {
                stories.entry(broken).or_insert_with(|| story(&reached, at, Some(label)));
            }
            let follower = *known.entry(state.canonical(setup)).or_insert(reached.len());
            if follower == reached.len() {
                reached.push(Reached { state, from: Some((at, label)) });
            }
            followers.push(follower);
        }
        next.push(followers);
    }
    (Size { states: reached.len(), interleavings: interleavings(&next, reached.len()) }, stories)
}

/// Ways through the graph of what may come next, which has no cycle.
fn interleavings(next: &[Vec<usize>], states: usize) -> u128 {
    let mut steps_to = vec![0_usize; states];
    for &follower in next.iter().flatten() {
        steps_to[follower] += 1;
    }
    let (mut ways, mut ends, mut ready) = (vec![0_u128; states], 0_u128, vec![0]);
    ways[0] = 1;
    while let Some(at) = ready.pop() {
        let followers = next.get(at).map(Vec::as_slice).unwrap_or_default();
        if followers.is_empty() {
            ends = ends.saturating_add(ways[at]);
        }
        for &follower in followers {
            ways[follower] = ways[follower].saturating_add(ways[at]);
            steps_to[follower] -= 1;
            if steps_to[follower] == 0 {
                ready.push(follower);
            }
        }
    }
    ends
}

fn story(reached: &[Reached], mut at: usize, last: Option<Label>) -> Vec<Label> {
    let mut labels: Vec<_> = last.into_iter().collect();
    while let Some((before, label)) = reached[at].from {
        labels.push(label);
        at = before;
    }
    labels.reverse();
    labels
}

const PLAIN: Setup = Setup {
    protocol: Protocol::Forebay,
    writes: [Targets::First, Targets::First],
    read_tables: 1,
    warm: false,
    loss: false,
    torn: false,
};

fn is_sound(setup: Setup) {
    for warm in [false, true] {
        let (size, stories) = explore(&Setup { warm, ..setup }, usize::MAX);
        let Size { states, interleavings } = size;
        println!("{states} states, {interleavings} interleavings");
        assert!(interleavings > 1_000_000, "too small to mean anything: {interleavings}");
        assert!(stories.is_empty(), "{stories:#?}");
    }
}

/// `expected` names what breaks and the length of its shortest story, from a warm cache.
fn breaks(setup: Setup, expected: &[(Broken, usize)]) {
    let (_, found) = explore(&Setup { warm: true, ..setup }, expected.len());
    let lengths: Vec<_> = found.iter().map(|(&broken, story)| (broken, story.len())).collect();
    assert_eq!(lengths, expected, "{found:#?}");
}

#[test]
fn every_way_through_is_counted_once() {
    // Two steps in either order, then one that is the end, or a short cut past it.
    let next = [vec![1, 2], vec![3], vec![3], vec![4, 5], vec![5], vec![]];
    assert_eq!(interleavings(&next, 6), 4);
}

#[test]
fn two_writers_of_one_table_break_nothing() {
    is_sound(PLAIN);
}

#[test]
fn a_server_lost_with_its_commit_on_the_wire_breaks_nothing() {
    is_sound(Setup { loss: true, ..PLAIN });
}

#[test]
fn writers_of_several_tables_break_nothing() {
    is_sound(Setup { writes: [Targets::Both, Targets::Second], read_tables: 2, ..PLAIN });
}

#[test]
fn a_writer_of_the_database_breaks_nothing() {
    is_sound(Setup { writes: [Targets::Database, Targets::Second], read_tables: 2, ..PLAIN });
}

#[test]
fn slots_looked_at_one_by_one_break_nothing() {
    let writes = [Targets::Both, Targets::Second];
    is_sound(Setup { writes, read_tables: 2, torn: true, ..PLAIN });
}

#[test]
fn settling_after_the_acknowledgement_breaks_nothing_while_still_in_flight() {
    is_sound(Setup { protocol: Protocol::AckWhileInFlight, ..PLAIN });
}

#[test]
fn an_unchecked_store_is_found_broken() {
    let expected = &[(NotNow, 7), (StaleAfterAck, 8), (GoingBack, 11), (OldWhenQuiet, 15)];
    breaks(Setup { protocol: Protocol::UncheckedStore, ..PLAIN }, expected);
}

#[test]
fn serving_while_a_commit_is_in_flight_is_found_broken() {
    let expected = &[(NotNow, 3), (GoingBack, 13)];
    breaks(Setup { protocol: Protocol::NoInFlight, ..PLAIN }, expected);
}

#[test]
fn invalidating_before_the_commit_is_found_broken() {
    let expected = &[(NotNow, 6), (StaleAfterAck, 8), (GoingBack, 10), (OldWhenQuiet, 15)];
    breaks(Setup { protocol: Protocol::BumpBefore, ..PLAIN }, expected);
}

#[test]
fn a_stamp_taken_at_execute_is_found_broken() {
    let expected = &[(NotNow, 9), (StaleAfterAck, 10), (GoingBack, 15), (OldWhenQuiet, 17)];
    breaks(Setup { protocol: Protocol::StampAtExecute, ..PLAIN }, expected);
}

#[test]
fn an_acknowledgement_before_the_invalidation_is_found_broken() {
    let expected = &[(NotNow, 3), (StaleAfterAck, 4), (GoingBack, 14)];
    breaks(Setup { protocol: Protocol::AckBeforeInvalidation, ..PLAIN }, expected);
}

#[test]
fn a_parity_counter_with_two_writers_is_found_broken() {
    let expected = &[(NotNow, 7), (GoingBack, 11)];
    breaks(Setup { protocol: Protocol::Parity, ..PLAIN }, expected);
}

#[test]
fn a_loss_settled_at_once_is_found_broken() {
    let expected = &[(NotNow, 7), (GoingBack, 11), (OldWhenQuiet, 14)];
    breaks(Setup { protocol: Protocol::LossSettledAtOnce, loss: true, ..PLAIN }, expected);
}
