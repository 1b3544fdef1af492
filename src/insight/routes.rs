//! What a page costs: the statements of each request, summed by the route that their comments
//! name.
//!
//! A request is what has the same trace id; without one, what a client runs for one route within
//! one transaction, or without a longer pause than `insight.burst_pause`. Its client counts it
//! for itself; the table is told when it ends, when somebody looks, and when it breaks the budget.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use lru::LruCache;

use super::histogram::Histogram;
use super::pace::Pace;
use super::repeats::Owner;
use super::tags::{Route, Tag};

/// Traced requests remembered, so that what several clients run for one of them is summed. What
/// comes to one that was forgotten counts as another.
const TRACED_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Requests over the budget that one second may put into the log.
const LOGGED_A_SECOND: u32 = 10;

/// Sums over statements. Time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub queries: u64,
    /// Of them, those that reached PostgreSQL.
    pub sent: u64,
    pub hits: u64,
    pub misses: u64,
    pub slow: u64,
    pub time: u64,
}

impl Sums {
    pub fn add(&mut self, more: &Self) {
        self.queries += more.queries;
        self.sent += more.sent;
        self.hits += more.hits;
        self.misses += more.misses;
        self.slow += more.slow;
        self.time += more.time;
    }
}

/// What one client does for one request just now.
#[derive(Debug)]
pub struct Request {
    route: Arc<Route>,
    /// As its tags tell it; 0: they do not.
    id: u64,
    began_in_transaction: bool,
    is_over: bool,
    /// Since the table was told.
    untold: Sums,
    queries: u64,
    /// What the table knows of it, unless it has an id by which the table finds that.
    told: Option<Told>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    /// Of the row that was told.
    ticket: u64,
    sums: Sums,
    over_budget: bool,
}

/// The request that took longest.
#[derive(Clone, Copy, Debug)]
pub struct Worst {
    pub queries: u64,
    pub time: u64,
    pub at: SystemTime,
}

/// What the requests of one route came to.
#[derive(Clone, Debug, Default)]
pub struct RouteTally {
    pub requests: u64,
    pub sums: Sums,
    /// Of requests.
    pub times: Histogram,
    pub over_budget: u64,
    pub worst: Option<Worst>,
}

/// One row of `SHOW ROUTES`.
#[derive(Clone, Debug)]
pub struct RouteRow {
    /// `None`: the sum of all that have no row of their own.
    pub of: Option<(Arc<Route>, Owner)>,
    pub tally: RouteTally,
}

pub struct Routes {
    /// Statements of one request; 0: there is no budget.
    budget: AtomicU32,
    pace: Pace,
    pub suppressed: AtomicU64,
    /// Nothing else is locked inside.
    table: Mutex<Table>,
}

struct Table {
    rows_max: usize,
    rows: LruCache<(Arc<Route>, Owner), Row>,
    others: RouteTally,
    /// By request and row.
    traced: LruCache<(u64, u64), Told>,
    next_ticket: u64,
}

struct Row {
    /// Never given again, so that a request is not told to a later row of the same route.
    ticket: u64,
    tally: RouteTally,
}

impl Request {
    pub fn new(tag: &Tag, in_transaction: bool) -> Self {
        Self {
            route: Arc::clone(&tag.route),
            id: tag.request,
            began_in_transaction: in_transaction,
            is_over: false,
            untold: Sums::default(),
            queries: 0,
            told: None,
        }
    }

    /// Whether a statement with this tag is for this request too. One without an id may have been
    /// prepared for an earlier request.
    pub fn is_of(&self, tag: &Tag) -> bool {
        !self.is_over
            && (tag.request == 0 || tag.request == self.id)
            && (Arc::ptr_eq(&self.route, &tag.route) || self.route == tag.route)
    }

    /// Gives how many queries it has made.
    pub fn add(&mut self, sums: &Sums) -> u64 {
        self.untold.add(sums);
        self.queries += sums.queries;
        self.queries
    }

    /// What began in a transaction ends with it, unless it has an id that says when.
    pub fn transaction_ended(&mut self) {
        self.is_over |= self.began_in_transaction && self.id == 0;
    }
}

impl RouteTally {
    /// A request has come to this, of which something may have been counted before.
    fn count(&mut self, before: Option<&Sums>, new: &Sums, whole: &Sums, at: SystemTime) {
        self.requests += u64::from(before.is_none());
        self.sums.add(new);
        if let Some(before) = before {
            self.times.remove(before.time);
        }
        self.times.add(whole.time);
        let is_worse = |worst: Worst| (whole.time, whole.queries) > (worst.time, worst.queries);
        if self.worst.is_none_or(is_worse) {
            self.worst = Some(Worst { queries: whole.queries, time: whole.time, at });
        }
    }

    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.sums.add(&other.sums);
        self.times.merge(&other.times);
        self.over_budget += other.over_budget;
        let worst = self.worst.into_iter().chain(other.worst);
        self.worst = worst.max_by_key(|worst| (worst.time, worst.queries));
    }
}

impl Routes {
    pub fn new(rows_max: u32, budget: u32) -> Self {
        let table = Table {
            rows_max: usize::try_from(rows_max).unwrap_or(usize::MAX),
            rows: LruCache::unbounded(),
            others: RouteTally::default(),
            traced: LruCache::new(TRACED_MAX),
            next_ticket: 1,
        };
        Self {
            budget: AtomicU32::new(budget),
            pace: Pace::default(),
            suppressed: AtomicU64::new(0),
            table: Mutex::new(table),
        }
    }

    /// For statements from now on.
    pub fn set_budget(&self, budget: u32) {
        self.budget.store(budget, Ordering::Relaxed);
    }

    /// A request that has made so many queries has just broken the budget.
    pub fn breaks_budget(&self, queries: u64) -> bool {
        let budget = self.budget.load(Ordering::Relaxed);
        budget > 0 && queries == u64::from(budget) + 1
    }

    /// Moves what a request has come to into the table, and logs it once if it is over the budget.
    pub fn tell(&self, request: &mut Request, owner: impl FnOnce() -> Owner, at: SystemTime) {
        let new = std::mem::take(&mut request.untold);
        if new == Sums::default() {
            return;
        }
        let owner = owner();
        let budget = u64::from(self.budget.load(Ordering::Relaxed));
        let broken = {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            table.add(request, &owner, &new, budget, at)
        };
        let Some(whole) = broken else { return };
        if !self.pace.may(at, LOGGED_A_SECOND) {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        tracing::warn!(
            route = %request.route.name,
            database = %owner.database,
            user = %owner.user,
            application_name = %owner.application_name,
            queries = whole.queries,
            sent = whole.sent,
            time_ms = whole.time / 1000,
            queries_per_request = budget,
            "request over its budget of queries"
        );
    }

    /// Those told last first, the rest as one at the end.
    pub fn rows(&self) -> Vec<RouteRow> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |(of, row): (&(Arc<Route>, Owner), &Row)| RouteRow {
            of: Some(of.clone()),
            tally: row.tally.clone(),
        };
        let others = RouteRow { of: None, tally: table.others.clone() };
        let others = (others.tally.requests > 0).then_some(others);
        table.rows.iter().map(row).chain(others).collect()
    }
}

impl Table {
    /// Gives what the request came to, if it is over the budget for the first time.
    fn add(
        &mut self,
        request: &mut Request,
        owner: &Owner,
        new: &Sums,
        budget: u64,
        at: SystemTime,
    ) -> Option<Sums> {
        let key = (Arc::clone(&request.route), owner.clone());
        let ticket = request.told.map_or_else(|| self.seat(&key), |told| told.ticket);
        let before = match request.id {
            0 => request.told,
            id => self.traced.get(&(id, ticket)).copied(),
        };
        let mut sums = before.map_or_else(Sums::default, |told| told.sums);
        sums.add(new);
        let was_over = before.is_some_and(|told| told.over_budget);
        let over_budget = was_over || budget > 0 && sums.queries > budget;
        let told = Told { ticket, sums, over_budget };
        match request.id {
            0 => request.told = Some(told),
            id => {
                self.traced.put((id, ticket), told);
            }
        }
        let tally = match self.rows.get_mut(&key) {
            Some(row) if row.ticket == ticket => &mut row.tally,
            // The row that was told of it has gone to the others.
            Some(_) | None => &mut self.others,
        };
        tally.count(before.map(|told| told.sums).as_ref(), new, &sums, at);
        let is_new = over_budget && !was_over;
        tally.over_budget += u64::from(is_new);
        is_new.then_some(sums)
    }

    /// The ticket of a route's row, which is made if there is none; that told longest ago makes
    /// room. 0: there are no rows.
    fn seat(&mut self, key: &(Arc<Route>, Owner)) -> u64 {
        if let Some(row) = self.rows.get(key) {
            return row.ticket;
        }
        if self.rows_max == 0 {
            return 0;
        }
        if self.rows.len() >= self.rows_max
            && let Some((_, old)) = self.rows.pop_lru()
        {
            self.others.merge(&old.tally);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.rows.put(key.clone(), Row { ticket, tally: RouteTally::default() });
        ticket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(route: &str, request: u64) -> Tag {
        let route = Route { name: route.to_owned(), application: String::new() };
        Tag { route: Arc::new(route), request }
    }

    fn owner() -> Owner {
        Owner { database: "app".into(), user: "ann".into(), application_name: "web".into() }
    }

    fn tell(routes: &Routes, request: &mut Request) {
        routes.tell(request, owner, SystemTime::UNIX_EPOCH);
    }

    fn queries(queries: u64, time: u64) -> Sums {
        Sums { queries, sent: queries, time, ..Sums::default() }
    }

    /// Route, requests, queries, time, and queries and time of the worst.
    type Shown = (String, u64, u64, u64, (u64, u64));

    fn rows(routes: &Routes) -> Vec<Shown> {
        let row = |row: RouteRow| {
            let name = row.of.map_or("(other)".to_owned(), |(route, _)| route.name.clone());
            let RouteTally { requests, sums, worst, .. } = row.tally;
            let worst = worst.map_or((0, 0), |worst| (worst.queries, worst.time));
            (name, requests, sums.queries, sums.time, worst)
        };
        routes.rows().into_iter().map(row).collect()
    }

    #[test]
    fn a_request_counts_once_however_often_it_is_told() {
        let routes = Routes::new(10, 0);
        let mut request = Request::new(&tag("/a", 0), false);
        for _ in 0..3 {
            request.add(&queries(2, 10));
            tell(&routes, &mut request);
            tell(&routes, &mut request);
        }
        let mut small = Request::new(&tag("/a", 0), false);
        small.add(&queries(9, 4));
        tell(&routes, &mut small);
        assert_eq!(rows(&routes), [("/a".to_owned(), 2, 15, 34, (6, 30))]);
        let times = routes.rows().remove(0).tally.times;
        assert_eq!(times.cumulative().map(|(_, count)| count).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_two_clients_run_for_one_traced_request_is_one_request() {
        let routes = Routes::new(10, 0);
        for (route, trace) in [("/a", 7), ("/a", 7), ("/b", 7), ("/a", 8)] {
            let mut request = Request::new(&tag(route, trace), false);
            request.add(&queries(2, 10));
            tell(&routes, &mut request);
        }
        let expected = [("/a".to_owned(), 2, 6, 30, (4, 20)), ("/b".to_owned(), 1, 2, 10, (2, 10))];
        assert_eq!(rows(&routes), expected);
    }

    #[test]
    fn a_request_ends_with_the_transaction_it_began_in_unless_it_is_traced() {
        let untraced = tag("/a", 0);
        let ends = |tag: &Tag, in_transaction| {
            let mut request = Request::new(tag, in_transaction);
            request.transaction_ended();
            !request.is_of(tag)
        };
        assert!(ends(&untraced, true));
        assert!(!ends(&untraced, false));
        assert!(!ends(&tag("/a", 7), true));
    }

    #[test]
    fn another_route_or_trace_is_another_request_and_no_trace_is_none() {
        let request = Request::new(&tag("/a", 7), false);
        assert!(request.is_of(&tag("/a", 7)) && request.is_of(&tag("/a", 0)));
        assert!(!request.is_of(&tag("/a", 8)) && !request.is_of(&tag("/b", 7)));
        assert!(!Request::new(&tag("/a", 0), false).is_of(&tag("/a", 7)));
    }

    #[test]
    fn the_routes_told_longest_ago_are_summed_as_one_and_no_request_is_counted_twice() {
        let routes = Routes::new(2, 0);
        let mut first = Request::new(&tag("/0", 0), false);
        for number in 0..4 {
            let mut request = Request::new(&tag(&format!("/{number}"), 0), false);
            let request = if number == 0 { &mut first } else { &mut request };
            request.add(&queries(1, 5));
            tell(&routes, request);
        }
        // Its row is gone: what it goes on with belongs there too.
        first.add(&queries(1, 5));
        tell(&routes, &mut first);
        let expected = [
            ("/3".to_owned(), 1, 1, 5, (1, 5)),
            ("/2".to_owned(), 1, 1, 5, (1, 5)),
            ("(other)".to_owned(), 2, 3, 15, (2, 10)),
        ];
        assert_eq!(rows(&routes), expected);
        let without = Routes::new(0, 0);
        first.add(&queries(1, 5));
        tell(&without, &mut Request { told: None, ..first });
        assert_eq!(rows(&without), [("(other)".to_owned(), 1, 1, 5, (1, 5))]);
    }

    #[test]
    fn a_request_is_over_its_budget_once() {
        let routes = Routes::new(10, 3);
        let mut request = Request::new(&tag("/a", 0), false);
        for count in 1..=6 {
            let made = request.add(&queries(1, 1));
            assert_eq!(routes.breaks_budget(made), count == 4);
            tell(&routes, &mut request);
        }
        let over = |routes: &Routes| routes.rows()[0].tally.over_budget;
        assert_eq!(over(&routes), 1);
        // Two clients break it together.
        for _ in 0..2 {
            let mut half = Request::new(&tag("/a", 7), false);
            half.add(&queries(2, 1));
            tell(&routes, &mut half);
        }
        assert_eq!(over(&routes), 2);
        routes.set_budget(0);
        let mut free = Request::new(&tag("/a", 9), false);
        assert!(!routes.breaks_budget(free.add(&queries(100, 1))));
        tell(&routes, &mut free);
        assert_eq!(over(&routes), 2);
    }

    #[test]
    fn the_log_of_broken_budgets_has_a_bound() {
        let routes = Routes::new(10, 1);
        for id in 0..25 {
            let mut request = Request::new(&tag("/a", id + 1), false);
            request.add(&queries(2, 1));
            tell(&routes, &mut request);
        }
        assert_eq!(routes.suppressed.load(Ordering::Relaxed), 15);
    }
}
