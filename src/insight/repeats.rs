//! The same statement again and again: what one client repeats within a burst, and what bursts of
//! all clients come to.
//!
//! A burst lasts as long as no pause is longer than `insight.burst_pause`, and to the end of a
//! transaction. The sums are moved to the table when it ends, when somebody looks, and when the
//! client goes.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;

use super::routes::Request;
use super::seats::{Place, Shape};
use super::tags::{Route, Tag};

/// Shapes watched in one burst. Beyond it the one repeated least is watched no more.
const SHAPES_MAX: usize = 16;

/// Values told apart, among as many first calls.
const VALUES_MAX: usize = 16;

/// Rows of the table; the one seen longest ago goes.
const ROWS_MAX: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

/// A burst that goes on is logged after this time.
const LOG_AFTER: Duration = Duration::from_secs(10);

/// What of a burst is worth telling.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Calls of one shape; 0: none ever is.
    pub least: u32,
    pub pause: Duration,
}

/// What one client does just now. Small, and there for active clients alone.
#[derive(Debug)]
pub struct Burst {
    began_at: Instant,
    last_at: Instant,
    in_transaction: bool,
    /// Its client has gone, or what it does is for another request.
    ended: bool,
    repeats: Vec<Repeat>,
    /// What it is for, if its statements tell.
    pub request: Option<Request>,
}

#[derive(Debug)]
struct Repeat {
    place: Place,
    count: u32,
    /// Microseconds.
    time: u64,
    values: [u32; VALUES_MAX],
    values_count: usize,
    /// What the table has been told.
    told: Option<(u32, u64)>,
    logged: bool,
    /// Which route ran it last.
    route: Option<Arc<Route>>,
    example: Option<Box<str>>,
}

/// Whose burst it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub application_name: Arc<str>,
}

/// One row of `SHOW REPEATS`.
#[derive(Clone, Debug)]
pub struct Repeated {
    pub shape: Arc<Shape>,
    pub owner: Owner,
    pub route: Option<Arc<Route>>,
    pub count: u64,
    /// Microseconds.
    pub time: u64,
    pub bursts: u64,
    /// Most calls in one burst.
    pub most: u32,
    /// Different values among the first calls of a burst, at most; 0: not known.
    pub values: usize,
    /// One of them, from the latest burst: a text with its literals, or what was bound.
    pub example: Option<Box<str>>,
    pub last_seen: SystemTime,
}

/// What a row is of: shape, owner and route.
type Key = (u64, Owner, Option<Arc<Route>>);

#[derive(Debug)]
pub struct Repeats {
    least: AtomicU32,
    pause_us: AtomicU64,
    /// Nothing else is locked inside.
    rows: Mutex<LruCache<Key, Repeated>>,
}

impl Burst {
    pub fn new(now: Instant, in_transaction: bool) -> Self {
        Self {
            began_at: now,
            last_at: now,
            in_transaction,
            ended: false,
            repeats: Vec::new(),
            request: None,
        }
    }

    /// Counts a statement, and gives how often it has been called. `values`: a hash of its values;
    /// 0: not known.
    pub fn add(&mut self, place: Place, route: Option<&Arc<Route>>, time: u64, values: u64) -> u32 {
        let known = self.repeats.iter().position(|repeat| repeat.place == place);
        let index = known.unwrap_or_else(|| self.watch(place));
        let Some(repeat) = self.repeats.get_mut(index) else { return 0 };
        repeat.count = repeat.count.saturating_add(1);
        repeat.time += time;
        if let Some(route) = route
            && !repeat.route.as_ref().is_some_and(|known| Arc::ptr_eq(known, route))
        {
            repeat.route = Some(Arc::clone(route));
        }
        if repeat.count as usize <= VALUES_MAX && values != 0 {
            repeat.note_value(values);
        }
        repeat.count
    }

    /// What was added last, as it was sent.
    pub fn exemplify(&mut self, place: Place, example: Box<str>) {
        if let Some(repeat) = self.repeats.iter_mut().find(|repeat| repeat.place == place) {
            repeat.example = Some(example);
        }
    }

    /// A statement of it has ended.
    pub fn goes_on(&mut self, now: Instant) {
        self.last_at = now;
    }

    /// What is known at the end of what was added.
    pub fn set_in_transaction(&mut self, in_transaction: bool) {
        self.in_transaction = in_transaction;
        if let Some(request) = self.request.as_mut().filter(|_| !in_transaction) {
            request.transaction_ended();
        }
    }

    pub fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Whether a statement with this tag may be for the same request: what has none may be.
    pub fn is_for(&self, tag: &Tag) -> bool {
        self.request.as_ref().is_none_or(|request| request.is_of(tag))
    }

    /// What a statement with this tag is for.
    pub fn request_of(&mut self, tag: &Tag) -> &mut Request {
        let in_transaction = self.in_transaction;
        self.request.get_or_insert_with(|| Request::new(tag, in_transaction))
    }

    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether a statement that arrives, or nothing, at `now` is no longer part of it.
    pub fn is_over(&self, now: Instant, pause: Duration) -> bool {
        !self.in_transaction && now.saturating_duration_since(self.last_at) > pause
    }

    fn watch(&mut self, place: Place) -> usize {
        if self.repeats.len() == SHAPES_MAX {
            self.forget_one();
        }
        self.repeats.push(Repeat {
            place,
            count: 0,
            time: 0,
            values: [0; VALUES_MAX],
            values_count: 0,
            told: None,
            logged: false,
            route: None,
            example: None,
        });
        self.repeats.len() - 1
    }

    /// The one called least, of several the one that came first.
    fn forget_one(&mut self) {
        let least = self.repeats.iter().enumerate().min_by_key(|(_, repeat)| repeat.count);
        if let Some((index, _)) = least {
            self.repeats.remove(index);
        }
    }
}

impl Repeat {
    fn note_value(&mut self, values: u64) {
        #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
        let value = values as u32;
        let known = self.values.get(..self.values_count).unwrap_or_default();
        if !known.contains(&value)
            && let Some(free) = self.values.get_mut(self.values_count)
        {
            *free = value;
            self.values_count += 1;
        }
    }
}

impl Repeats {
    pub fn new(rules: Rules) -> Self {
        let repeats = Self {
            least: AtomicU32::new(0),
            pause_us: AtomicU64::new(0),
            rows: Mutex::new(LruCache::new(ROWS_MAX)),
        };
        repeats.set(rules);
        repeats
    }

    pub fn set(&self, rules: Rules) {
        let pause = u64::try_from(rules.pause.as_micros()).unwrap_or(u64::MAX);
        self.pause_us.store(pause, Ordering::Relaxed);
        self.least.store(rules.least, Ordering::Relaxed);
    }

    pub fn rules(&self) -> Rules {
        let pause = Duration::from_micros(self.pause_us.load(Ordering::Relaxed));
        Rules { least: self.least.load(Ordering::Relaxed), pause }
    }

    /// Moves what a burst has come to into the table, and logs it once if it is over or lasts.
    pub fn take(
        &self,
        burst: &mut Burst,
        owner: impl FnOnce() -> Owner,
        shape: impl Fn(Place) -> Option<Arc<Shape>>,
        (now, time_of_day): (Instant, SystemTime),
    ) {
        let rules = self.rules();
        if rules.least == 0 || burst.repeats.iter().all(|repeat| repeat.count < rules.least) {
            return;
        }
        let owner = owner();
        let over = burst.ended || burst.is_over(now, rules.pause);
        let logs = over || now.saturating_duration_since(burst.began_at) >= LOG_AFTER;
        for repeat in &mut burst.repeats {
            if repeat.count < rules.least {
                continue;
            }
            let Some(shape) = shape(repeat.place).filter(|shape| is_query(&shape.text)) else {
                continue;
            };
            self.tell(repeat, &shape, &owner, time_of_day);
            if logs && !std::mem::replace(&mut repeat.logged, true) {
                tracing::warn!(
                    database = %owner.database,
                    user = %owner.user,
                    application_name = %owner.application_name,
                    count = repeat.count,
                    time_ms = repeat.time / 1000,
                    route = repeat.route.as_ref().map(|route| route.name.as_str()),
                    statement_id = shape.id,
                    shape = %shape.text,
                    "repeated statement"
                );
            }
        }
    }

    fn tell(&self, repeat: &mut Repeat, shape: &Arc<Shape>, owner: &Owner, at: SystemTime) {
        let (count, time) = repeat.told.unwrap_or_default();
        if repeat.told.is_some() && count == repeat.count {
            return;
        }
        let is_new = repeat.told.replace((repeat.count, repeat.time)).is_none();
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (shape.id, owner.clone(), repeat.route.clone());
        let row = rows.get_or_insert_mut(key, || Repeated {
            shape: Arc::clone(shape),
            owner: owner.clone(),
            route: repeat.route.clone(),
            count: 0,
            time: 0,
            bursts: 0,
            most: 0,
            values: 0,
            example: None,
            last_seen: at,
        });
        row.count += u64::from(repeat.count - count);
        row.time += repeat.time - time;
        row.bursts += u64::from(is_new);
        row.most = row.most.max(repeat.count);
        row.values = row.values.max(repeat.values_count);
        if let Some(example) = repeat.example.take() {
            row.example = Some(example);
        }
        row.last_seen = at;
    }

    /// Those seen last first.
    pub fn rows(&self) -> Vec<Repeated> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter().map(|(_, row)| row.clone()).collect()
    }
}

/// BEGIN, SET and their kin are repeated by every application.
fn is_query(text: &str) -> bool {
    let word = text.split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or_default();
    let words =
        ["select", "insert", "update", "delete", "merge", "with", "values", "table", "call"];
    text.starts_with('(') || words.iter().any(|known| word.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(100);

    fn place(number: u16) -> Place {
        Place { number, ticket: u64::from(number) + 1 }
    }

    #[expect(clippy::unnecessary_wraps, reason = "as who asks has it")]
    fn shape(place: Place) -> Option<Arc<Shape>> {
        let text =
            if place.number == 9 { "BEGIN".into() } else { format!("select {}", place.number) };
        Some(Arc::new(Shape { id: place.ticket, database: "app".into(), text }))
    }

    fn owner() -> Owner {
        Owner { database: "app".into(), user: "ann".into(), application_name: "web".into() }
    }

    fn told(repeats: &Repeats) -> Vec<(String, u64, u64, usize)> {
        let rows = repeats.rows().into_iter();
        rows.map(|row| (row.shape.text.clone(), row.count, row.bursts, row.values)).collect()
    }

    #[test]
    fn what_is_called_often_enough_in_a_burst_is_told_once_with_all_its_calls() {
        let repeats = Repeats::new(Rules { least: 3, pause: PAUSE });
        let now = Instant::now();
        let take = |burst: &mut Burst| {
            repeats.take(burst, owner, shape, (now, SystemTime::UNIX_EPOCH));
        };
        let mut burst = Burst::new(now, false);
        for value in 1..=2 {
            burst.add(place(1), None, 5, value);
        }
        take(&mut burst);
        assert_eq!(told(&repeats), []);
        for number in [1, 2, 9, 9, 9, 1] {
            burst.add(place(number), None, 5, 2);
        }
        take(&mut burst);
        take(&mut burst);
        // Two different values among four calls; BEGIN says nothing.
        assert_eq!(told(&repeats), [("select 1".to_owned(), 4, 1, 2)]);
        burst.add(place(1), None, 5, 3);
        take(&mut burst);
        assert_eq!(told(&repeats), [("select 1".to_owned(), 5, 1, 3)]);
        assert_eq!(repeats.rows()[0].time, 25);
        let mut next = Burst::new(now, false);
        for _ in 0..7 {
            next.add(place(1), None, 5, 0);
        }
        take(&mut next);
        assert_eq!(told(&repeats), [("select 1".to_owned(), 12, 2, 3)]);
        assert_eq!(repeats.rows()[0].most, 7);
        repeats.set(Rules { least: 0, pause: PAUSE });
        next.add(place(1), None, 5, 0);
        take(&mut next);
        assert_eq!(told(&repeats)[0].1, 12);
    }

    #[test]
    fn what_two_routes_repeat_is_told_for_each() {
        let repeats = Repeats::new(Rules { least: 2, pause: PAUSE });
        let now = Instant::now();
        for (name, calls) in [("/a", 2), ("/b", 3), ("/a", 4)] {
            let mut burst = Burst::new(now, false);
            let route = Arc::new(Route { name: name.into(), application: String::new() });
            for _ in 0..calls {
                burst.add(place(1), Some(&route), 5, 0);
            }
            repeats.take(&mut burst, owner, shape, (now, SystemTime::UNIX_EPOCH));
        }
        let row = |row: Repeated| (row.route.unwrap().name.clone(), row.count, row.bursts);
        let rows: Vec<_> = repeats.rows().into_iter().map(row).collect();
        assert_eq!(rows, [("/a".to_owned(), 6, 2), ("/b".to_owned(), 3, 1)]);
    }

    #[test]
    fn a_pause_ends_a_burst_but_not_within_a_transaction() {
        let now = Instant::now();
        let mut burst = Burst::new(now, false);
        assert!(!burst.is_over(now + PAUSE, PAUSE));
        assert!(burst.is_over(now + PAUSE * 2, PAUSE));
        burst.set_in_transaction(true);
        assert!(!burst.is_over(now + PAUSE * 2, PAUSE));
    }

    #[test]
    fn in_a_crowd_of_shapes_the_most_repeated_stay_watched() {
        let now = Instant::now();
        let mut burst = Burst::new(now, false);
        for number in 0..100 {
            burst.add(place(0), None, 1, 0);
            burst.add(place(number), None, 1, u64::from(number) + 1);
        }
        assert_eq!(burst.repeats.len(), SHAPES_MAX);
        assert_eq!(burst.repeats[0].count, 101);
    }

    #[test]
    fn the_table_has_a_bound_and_keeps_what_was_seen_last() {
        let repeats = Repeats::new(Rules { least: 1, pause: PAUSE });
        let now = Instant::now();
        for number in 10..1_020 {
            let mut burst = Burst::new(now, false);
            burst.add(place(number), None, 1, 0);
            repeats.take(&mut burst, owner, shape, (now, SystemTime::UNIX_EPOCH));
        }
        assert_eq!(repeats.rows().len(), ROWS_MAX.get());
        assert_eq!(repeats.rows()[0].shape.text, "select 1019");
    }
}
