//! Who runs what, how often and how slowly: sums by statement shape, by group of clients and by
//! route of an application, and the latest slow statements.
//!
//! Each thread counts in a shard of its own, whose lock only a reader of the console contends for;
//! readers get the sum of all shards as plain values.

mod histogram;
mod latency;
mod pace;
mod repeats;
mod routes;
mod seats;
mod slow;
mod tags;
mod tally;
mod texts;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use histogram::Histogram;
pub use latency::{Latency, Times};
pub use repeats::{Burst, Owner, Repeated, Repeats, Rules};
pub use routes::{Request, RouteRow, RouteTally, Routes, Sums};
pub use seats::{Place, Seat, Shape, Wanted};
pub use slow::{Kept, NoPlan, Slow, SlowLog};
pub use tags::{Route, Tag};
pub use tally::{GroupTally, Outcome, Sample, StatementTally};
pub use texts::{Piece, Pieces, shown};

use crate::config;
use crate::metrics::shard;

use seats::Seats;

/// Statement shapes are told apart by a number of 16 bits.
pub const STATEMENTS_MAX: u16 = 50_000;

/// Those that are given count from 1.
const NO_TICKET: u64 = 0;

/// What all threads share.
pub struct Insight {
    pub slow: SlowLog,
    pub repeats: Repeats,
    pub routes: Routes,
    enabled: AtomicBool,
    /// Guards who sits where. Inside, shards may be locked, one at a time.
    seats: Mutex<Seats>,
    /// Whom each seat is given to, so that a seat can be checked without the lock; `NO_TICKET` while
    /// it is nobody's.
    tickets: Box<[AtomicU64]>,
    /// Each guards what its threads counted; nothing else is locked inside.
    shards: Box<[Mutex<Shard>]>,
}

/// What some threads have counted.
#[derive(Debug, Default)]
struct Shard {
    /// By seat, with the ticket they are of.
    statements: Vec<Option<Box<(u64, StatementTally)>>>,
    /// Of shapes that sit no more, or never did.
    others: StatementTally,
    groups: Vec<Option<Box<GroupTally>>>,
    latency: Latency,
}

/// One row of `SHOW STATEMENTS`.
#[derive(Clone, Debug)]
pub struct Statement {
    /// `None`: the sum of all that have no seat.
    pub shape: Option<Arc<Shape>>,
    pub tally: StatementTally,
}

impl Insight {
    /// `threads`: how many will count at once, about.
    pub fn new(slow: SlowLog, config: &config::Insight, threads: usize) -> Self {
        let seats = u16::try_from(config.statements_max).unwrap_or(STATEMENTS_MAX);
        let seats = seats.min(STATEMENTS_MAX);
        Self {
            slow,
            repeats: Repeats::new(rules(config)),
            routes: Routes::new(config.routes_max, config.queries_per_request),
            enabled: AtomicBool::new(config.enabled),
            seats: Mutex::new(Seats::new(seats)),
            tickets: (0..seats).map(|_| AtomicU64::new(NO_TICKET)).collect(),
            shards: (0..threads.clamp(1, 64)).map(|_| Mutex::default()).collect(),
        }
    }

    pub fn set(&self, config: &config::Insight) {
        self.enabled.store(config.enabled, Ordering::Relaxed);
        self.repeats.set(rules(config));
        self.routes.set_budget(config.queries_per_request);
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Where a shape is counted: as its seat remembers, or found anew.
    pub fn place<'a>(&self, seat: &Seat, wanted: impl FnOnce() -> Wanted<'a>) -> Option<Place> {
        match seat.load() {
            Some(place) if self.is_current(place) => Some(place),
            Some(_) | None => {
                let place = self.find(wanted())?;
                seat.store(place);
                Some(place)
            }
        }
    }

    fn find(&self, wanted: Wanted<'_>) -> Option<Place> {
        let mut seats = self.seats();
        let given = seats.find(wanted, |places| self.calls(places))?;
        for number in given.freed {
            self.set_ticket(Place { number, ticket: NO_TICKET });
        }
        if given.is_new {
            self.set_ticket(given.place);
        }
        Some(given.place)
    }

    fn set_ticket(&self, place: Place) {
        if let Some(current) = self.tickets.get(usize::from(place.number)) {
            current.store(place.ticket, Ordering::Relaxed);
        }
    }

    fn is_current(&self, place: Place) -> bool {
        self.tickets
            .get(usize::from(place.number))
            .is_some_and(|ticket| ticket.load(Ordering::Relaxed) == place.ticket)
    }

    /// Counts one statement for its shape and its group, and the transactions that ended with it.
    pub fn count(&self, place: Option<Place>, group: u16, sample: &Sample, transactions: u64) {
        let mut shard = self.shard();
        shard.latency.add(sample);
        shard.statement(place).add(sample);
        if let Some(group) = shard.group(group) {
            group.add(sample);
            group.transactions += transactions;
        }
    }

    /// Counts what is no statement of a shape, such as an error before any began.
    pub fn count_for_group(&self, group: u16, sample: &Sample, transactions: u64) {
        let mut shard = self.shard();
        shard.latency.add(sample);
        if let Some(group) = shard.group(group) {
            group.add(sample);
            group.transactions += transactions;
        }
    }

    /// What is known of every shape, those without a seat as one at the end.
    pub fn statements(&self) -> Vec<Statement> {
        let seats = self.seats();
        let places = seats.places();
        let mut sums: Vec<StatementTally> =
            places.iter().map(|_| StatementTally::default()).collect();
        let mut others = StatementTally::default();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            others.merge(&shard.others);
            for (number, counted) in shard.statements.iter().enumerate() {
                let Some((ticket, tally)) = counted.as_deref() else { continue };
                let sits = places.get(number).copied().flatten();
                match sums.get_mut(number) {
                    Some(sum) if sits.is_some_and(|place| place.ticket == *ticket) => {
                        sum.merge(tally);
                    }
                    Some(_) | None => others.merge(tally),
                }
            }
        }
        let shape = |place: &Option<Place>| seats.shape((*place)?).cloned();
        let mut rows: Vec<Statement> = places
            .iter()
            .map(shape)
            .zip(sums)
            .filter(|(shape, _)| shape.is_some())
            .map(|(shape, tally)| Statement { shape, tally })
            .collect();
        if others.calls > 0 {
            rows.push(Statement { shape: None, tally: others });
        }
        rows
    }

    /// How many shapes lost their seat to others.
    pub fn evicted(&self) -> u64 {
        self.seats().evicted()
    }

    pub fn shape(&self, place: Place) -> Option<Arc<Shape>> {
        self.seats().shape(place).cloned()
    }

    /// What every group did that did anything.
    pub fn groups(&self) -> HashMap<u16, GroupTally> {
        let mut sums: HashMap<u16, GroupTally> = HashMap::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (group, tally) in shard.groups.iter().enumerate() {
                if let (Ok(group), Some(tally)) = (u16::try_from(group), tally) {
                    sums.entry(group).or_default().merge(tally);
                }
            }
        }
        sums
    }

    /// How long all statements took.
    pub fn latency(&self) -> Latency {
        let mut sum = Latency::default();
        for shard in &self.shards {
            sum.merge(&shard.lock().unwrap_or_else(PoisonError::into_inner).latency);
        }
        sum
    }

    /// Calls by seat, for those who sit.
    fn calls(&self, places: &[Option<Place>]) -> Vec<u64> {
        let mut calls = vec![0; places.len()];
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for ((sum, place), counted) in calls.iter_mut().zip(places).zip(&shard.statements) {
                if let (Some(place), Some((ticket, tally))) = (place, counted.as_deref())
                    && *ticket == place.ticket
                {
                    *sum += tally.calls;
                }
            }
        }
        calls
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This thread's; two threads may share one.
    fn shard(&self) -> MutexGuard<'_, Shard> {
        let index = shard() % self.shards.len();
        let shard = self.shards.get(index).or(self.shards.first());
        #[expect(clippy::expect_used, reason = "`new` makes one at least")]
        let shard = shard.expect("there is a shard");
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rules(config: &config::Insight) -> Rules {
    Rules { least: config.repeats, pause: config.burst_pause }
}

impl Shard {
    fn statement(&mut self, place: Option<Place>) -> &mut StatementTally {
        let Some(Place { number, ticket }) = place else { return &mut self.others };
        let number = usize::from(number);
        if self.statements.len() <= number {
            self.statements.resize_with(number + 1, || None);
        }
        let Some(counted) = self.statements.get_mut(number) else { return &mut self.others };
        match counted {
            Some(of_another) if of_another.0 > ticket => return &mut self.others,
            Some(of_another) if of_another.0 < ticket => {
                self.others.merge(&of_another.1);
                **of_another = (ticket, StatementTally::default());
            }
            Some(_) | None => {}
        }
        &mut counted.get_or_insert_with(|| Box::new((ticket, StatementTally::default()))).1
    }

    fn group(&mut self, group: u16) -> Option<&mut GroupTally> {
        let group = usize::from(group);
        if self.groups.len() <= group {
            self.groups.resize_with(group + 1, || None);
        }
        self.groups.get_mut(group).map(|tally| &mut **tally.get_or_insert_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Base, Config};

    fn insight(statements_max: u32) -> Insight {
        let config = Arc::new(Config::defaults(Base::Forebay));
        let started = (std::time::Instant::now(), std::time::SystemTime::UNIX_EPOCH);
        let counting = config::Insight { statements_max, ..config.insight.clone() };
        Insight::new(SlowLog::new(config, started), &counting, 2)
    }

    const SAMPLE: Sample = Sample {
        is_call: true,
        outcome: Outcome::Miss,
        wait: 1,
        run: 2,
        rows: 3,
        bytes: 4,
        writes: false,
        slow: false,
        failed: None,
    };

    fn run(insight: &Insight, seat: &Seat, shape: &str) {
        let wanted = || Wanted { database_id: 1, database: "app", text: shape.to_owned() };
        insight.count(insight.place(seat, wanted), 1, &SAMPLE, 1);
    }

    fn calls(insight: &Insight) -> Vec<(String, u64)> {
        let row = |statement: Statement| {
            let text = statement.shape.map_or("(other)".into(), |shape| shape.text.clone());
            (text, statement.tally.calls)
        };
        insight.statements().into_iter().map(row).collect()
    }

    #[test]
    fn no_call_is_lost_when_shapes_come_and_go() {
        let insight = insight(3);
        let seats: Vec<(Seat, String)> =
            (0..10).map(|n| (Seat::default(), format!("select {}", "a".repeat(n + 1)))).collect();
        // The first is used more than all others, so it keeps its seat.
        for round in 0..20 {
            for (seat, shape) in &seats {
                run(&insight, &seats[0].0, &seats[0].1);
                run(&insight, seat, shape);
                let sum: u64 = calls(&insight).iter().map(|(_, calls)| calls).sum();
                assert_eq!(insight.groups()[&1].queries, sum);
            }
            assert_eq!(calls(&insight)[0], ("select a".into(), 11 * (round + 1)));
        }
        assert_eq!(calls(&insight).len(), 4);
        assert!(insight.evicted() > 100, "{}", insight.evicted());
    }

    #[test]
    fn what_two_threads_count_is_one_sum() {
        let insight = insight(3);
        let seat = Seat::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| run(&insight, &seat, "select a")));
            }
        });
        assert_eq!(calls(&insight), [("select a".to_owned(), 4000)]);
        assert_eq!(insight.groups()[&1].rows, 12_000);
        assert_eq!(insight.groups()[&1].transactions, 4000);
        assert_eq!(insight.latency().query.count(), 4000);
    }

    #[test]
    fn a_shape_whose_seat_is_free_again_is_given_one_when_it_comes_back() {
        // So many that two are made free at once, of which one is given.
        let insight = insight(40);
        let shapes: Vec<String> = (1..=41).map(|n| format!("select {}", "a".repeat(n))).collect();
        let seats: Vec<Seat> = shapes.iter().map(|_| Seat::default()).collect();
        for (seat, shape) in seats.iter().zip(&shapes) {
            run(&insight, seat, shape);
        }
        assert_eq!(insight.evicted(), 2);
        for _ in 0..5 {
            run(&insight, &seats[0], &shapes[0]);
        }
        let calls = calls(&insight);
        assert!(calls.contains(&(shapes[0].clone(), 5)), "{calls:?}");
        assert_eq!(calls.iter().map(|(_, calls)| calls).sum::<u64>(), 46);
    }

    #[test]
    fn a_seat_that_another_was_given_counts_for_neither() {
        let insight = insight(1);
        let (one, two) = (Seat::default(), Seat::default());
        run(&insight, &one, "select a");
        let old = one.load();
        run(&insight, &two, "select b");
        // As by a thread that had looked just before.
        insight.count(old, 1, &SAMPLE, 0);
        assert_eq!(calls(&insight), [("select b".to_owned(), 1), ("(other)".to_owned(), 2)]);
    }

    #[test]
    fn without_seats_all_is_one_row() {
        let insight = insight(0);
        run(&insight, &Seat::default(), "select a");
        assert_eq!(calls(&insight), [("(other)".to_owned(), 1)]);
    }
}
