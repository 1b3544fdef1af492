//! What is remembered, and what of it comes first.

use std::time::Duration;

use super::super::coherence::Coherence;
use super::super::entry::Answer;
use super::super::key::{KeyBuffer, StatementKey};
use super::*;
use crate::metrics::StatementCounters;

const SESSION: SessionKey = SessionKey { database: 1, base: 2, settings: 3, flushed: 0 };

struct World {
    coherence: Coherence,
    start: Instant,
    warm_ups: WarmUps,
}

impl World {
    fn new(recipes_max: u32) -> Self {
        let warm_ups = WarmUps::default();
        assert!(warm_ups.set(true, recipes_max));
        warm_ups.learn(&SESSION, || Asker::new("ann", [("role", "bob")].into_iter()));
        Self { coherence: Coherence::new(1), start: Instant::now(), warm_ups }
    }

    /// An answer that PostgreSQL took so many microseconds for, and that was served so often.
    fn entry(&self, session: SessionKey, text: &str, took: u64, hits: u64) -> Entry {
        let mut key = KeyBuffer::default();
        let statement = StatementKey {
            text: text.as_bytes(),
            types: b"",
            formats: b"",
            values: b"",
            result_formats: b"",
        };
        assert!(key.set(session, &statement, 0));
        let answer = Answer::new(key.bytes(), None, b"rows").unwrap();
        let stamp = self.coherence.stamp(&[]).unwrap();
        let mut entry = Entry::new(key.hash(), answer, stamp, self.start);
        let counters = Arc::new(StatementCounters::default());
        counters.kept.one();
        counters.took.add(took);
        entry.statement = Some(counters);
        for _ in 0..hits {
            entry.hits.one();
        }
        entry
    }

    fn walk(&self, entries: &[&Entry]) {
        let mut walk = self.warm_ups.walk();
        for entry in entries {
            walk.note(entry);
        }
    }

    /// Texts with what they have saved.
    fn hottest(&self) -> Vec<(String, u64)> {
        let text = |recipe: &Recipe| {
            String::from_utf8(key::statement(&recipe.statement).unwrap().text.to_vec()).unwrap()
        };
        self.warm_ups.hottest(1).iter().map(|recipe| (text(recipe), recipe.saved)).collect()
    }
}

fn named(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(text, saved)| ((*text).to_owned(), *saved)).collect()
}

#[test]
fn what_has_saved_most_comes_first_and_what_was_never_hit_not_at_all() {
    let world = World::new(10);
    let often = world.entry(SESSION, "often", 10, 100);
    let slow = world.entry(SESSION, "slow", 5000, 1);
    let never = world.entry(SESSION, "never", 5000, 0);
    let stranger = world.entry(SessionKey { base: 9, ..SESSION }, "stranger", 10, 10);
    world.walk(&[&often, &slow, &never, &stranger]);
    assert_eq!(world.hottest(), named(&[("slow", 5000), ("often", 1000)]));
    let asker = &world.warm_ups.hottest(1)[0].asker;
    let settings = BTreeMap::from([("role".to_owned(), "bob".to_owned())]);
    assert_eq!(**asker, Asker { user: "ann".to_owned(), settings });
    assert!(world.warm_ups.hottest(2).is_empty());
}

#[test]
fn a_hit_counts_once_however_often_it_is_looked_at() {
    let world = World::new(10);
    let first = world.entry(SESSION, "q", 10, 2);
    world.walk(&[&first]);
    world.walk(&[&first]);
    assert_eq!(world.hottest(), named(&[("q", 20)]));
    first.hits.one();
    world.walk(&[&first]);
    assert_eq!(world.hottest(), named(&[("q", 30)]));
    let mut next = world.entry(SESSION, "q", 10, 2);
    next.asked_at += Duration::from_secs(1);
    world.walk(&[&next]);
    assert_eq!(world.hottest(), named(&[("q", 50)]));
}

#[test]
fn past_the_bound_the_best_stay() {
    let world = World::new(2);
    let entries: Vec<Entry> =
        (1..=9).map(|hits| world.entry(SESSION, &format!("q{hits}"), 1, hits)).collect();
    world.walk(&entries.iter().collect::<Vec<_>>());
    assert_eq!(world.hottest(), named(&[("q9", 9), ("q8", 8)]));
}

#[test]
fn what_is_past_fades_until_it_is_forgotten() {
    let world = World::new(10);
    world.walk(&[&world.entry(SESSION, "q", 16, 10)]);
    let databases = HashSet::from([1]);
    world.warm_ups.fade(&databases, None);
    assert_eq!(world.hottest(), named(&[("q", 150)]));
    for _ in 0..100 {
        world.warm_ups.fade(&databases, None);
    }
    assert_eq!(world.hottest(), named(&[]));
    world.walk(&[&world.entry(SESSION, "r", 16, 10)]);
    world.warm_ups.fade(&HashSet::new(), None);
    assert_eq!(world.hottest(), named(&[]));
}

#[test]
fn what_is_forgotten_comes_back_only_with_new_hits() {
    let world = World::new(10);
    let entry = world.entry(SESSION, "q", 10, 5);
    world.walk(&[&entry]);
    world.warm_ups.forget(1, &world.warm_ups.hottest(1)[0]);
    world.warm_ups.fade(&HashSet::from([1]), Some(world.start));
    world.walk(&[&entry]);
    assert_eq!(world.hottest(), named(&[]));
    entry.hits.one();
    world.walk(&[&entry]);
    assert_eq!(world.hottest(), named(&[("q", 10)]));
    world.warm_ups.fade(&HashSet::from([1]), Some(world.start + Duration::from_secs(1)));
    world.warm_ups.forget(1, &world.warm_ups.hottest(1)[0]);
    world.warm_ups.fade(&HashSet::from([1]), Some(world.start + Duration::from_secs(1)));
    assert!(world.warm_ups.recipes()[&1].is_empty());
}

#[test]
fn what_is_known_from_elsewhere_counts_as_much_as_there_or_here() {
    let (here, there) = (World::new(10), World::new(10));
    here.walk(&[&here.entry(SESSION, "both", 10, 1)]);
    there.walk(&[&there.entry(SESSION, "both", 10, 3), &there.entry(SESSION, "one", 10, 2)]);
    here.warm_ups.merge(1, there.warm_ups.hottest(1));
    assert_eq!(here.hottest(), named(&[("both", 30), ("one", 20)]));
    here.warm_ups.forget(1, &here.warm_ups.hottest(1)[0]);
    assert_eq!(here.hottest(), named(&[("one", 20)]));
}

#[test]
fn what_stands_in_the_list_as_before_takes_back_no_fading_and_no_forgetting() {
    let (here, there) = (World::new(10), World::new(10));
    there.walk(&[&there.entry(SESSION, "faded", 16, 10), &there.entry(SESSION, "gone", 10, 1)]);
    let list = there.warm_ups.hottest(1);
    here.warm_ups.merge(1, list.clone());
    here.warm_ups.forget(1, &list[1]);
    here.warm_ups.fade(&HashSet::from([1]), None);
    here.warm_ups.merge(1, list);
    assert_eq!(here.hottest(), named(&[("faded", 150)]));
}

#[test]
fn what_nobody_asks_for_any_more_fades_from_a_list_of_several() {
    let (one, other) = (World::new(10), World::new(10));
    one.walk(&[&one.entry(SESSION, "q", 1000, 1)]);
    let mut list = Vec::new();
    let databases = HashSet::from([1]);
    for _ in 0..100 {
        for world in [&one, &other] {
            world.warm_ups.fade(&databases, None);
            world.warm_ups.merge(1, list);
            list = world.warm_ups.hottest(1);
            world.warm_ups.note_list(1, &list);
        }
    }
    assert_eq!(list, []);
}

#[test]
fn what_another_member_has_saved_since_counts_and_one_that_knows_nothing_takes_nothing_away() {
    let (one, other) = (World::new(10), World::new(10));
    let mut list = Vec::new();
    let mut minute = |world: &World| {
        world.warm_ups.merge(1, std::mem::take(&mut list));
        list = world.warm_ups.hottest(1);
        world.warm_ups.note_list(1, &list);
    };
    let entry = one.entry(SESSION, "q", 10, 2);
    one.walk(&[&entry]);
    minute(&one);
    minute(&other);
    assert_eq!(other.hottest(), named(&[("q", 20)]));
    other.warm_ups.forget(1, &other.warm_ups.hottest(1)[0]);
    minute(&other);
    minute(&one);
    assert_eq!(one.hottest(), named(&[("q", 20)]));
    entry.hits.one();
    one.walk(&[&entry]);
    minute(&one);
    minute(&other);
    assert_eq!(other.hottest(), named(&[("q", 30)]));
}

#[test]
fn turned_off_it_remembers_nothing() {
    let world = World::new(10);
    world.walk(&[&world.entry(SESSION, "q", 10, 1)]);
    assert!(!world.warm_ups.set(true, 10));
    assert!(!world.warm_ups.set(false, 10));
    assert_eq!(world.hottest(), named(&[]));
    world.warm_ups.learn(&SESSION, || panic!("off"));
}

#[test]
fn an_asker_over_the_bound_is_not_remembered() {
    let long = "x".repeat(ASKER_BYTES_MAX);
    assert!(Asker::new("", [("", &*long)].into_iter()).is_some());
    assert!(Asker::new("a", [("", &*long)].into_iter()).is_none());
}
