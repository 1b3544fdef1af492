//! `SHOW STATS` and its kin: totals of PgBouncer's counters, and their averages over a period.

use std::time::Duration;

use crate::metrics::PoolCounters;

use super::snapshot::Pool;
use super::table::{Columns, Table, Value, numeric, text, value};

/// PgBouncer's counters at one moment, in its order; times in microseconds. As averages: a
/// second, times per query, transaction or wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub server_assignment: u64,
    pub xact: u64,
    pub query: u64,
    pub received: u64,
    pub sent: u64,
    pub xact_time: u64,
    pub query_time: u64,
    pub wait_time: u64,
    pub client_parse: u64,
    pub server_parse: u64,
    pub bind: u64,
    pub login: u64,
}

impl Totals {
    pub fn read(counters: &PoolCounters) -> Self {
        Self {
            server_assignment: counters.server_assignment.value(),
            xact: counters.xact.value(),
            query: counters.query.value(),
            received: counters.received.value(),
            sent: counters.sent.value(),
            xact_time: counters.xact_time.value(),
            query_time: counters.query_time.value(),
            wait_time: counters.wait_time.value(),
            client_parse: counters.client_parse.value(),
            server_parse: counters.server_parse.value(),
            bind: counters.bind.value(),
            login: counters.login.value(),
        }
    }

    fn by_field(self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            server_assignment: join(self.server_assignment, other.server_assignment),
            xact: join(self.xact, other.xact),
            query: join(self.query, other.query),
            received: join(self.received, other.received),
            sent: join(self.sent, other.sent),
            xact_time: join(self.xact_time, other.xact_time),
            query_time: join(self.query_time, other.query_time),
            wait_time: join(self.wait_time, other.wait_time),
            client_parse: join(self.client_parse, other.client_parse),
            server_parse: join(self.server_parse, other.server_parse),
            bind: join(self.bind, other.bind),
            login: join(self.login, other.login),
        }
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.by_field(other, u64::saturating_add)
    }

    /// What happened between `old` and `self`.
    #[must_use]
    pub fn since(self, old: Self) -> Self {
        self.by_field(old, u64::saturating_sub)
    }

    /// What happened within a period, averaged as PgBouncer does it: counts and bytes a second;
    /// the time of a transaction or query by how many there were, that of waiting by how many servers
    /// were given to clients.
    fn average(self, period: Duration) -> Self {
        let micros = period.as_micros().max(1);
        let second = |count: u64| u64::try_from(u128::from(count) * 1_000_000 / micros);
        let each = self.by_field(Self::default(), |count, _| second(count).unwrap_or(u64::MAX));
        Self {
            xact_time: self.xact_time.checked_div(self.xact).unwrap_or(0),
            query_time: self.query_time.checked_div(self.query).unwrap_or(0),
            wait_time: self.wait_time.checked_div(self.server_assignment).unwrap_or(0),
            ..each
        }
    }

    fn values(self) -> [u64; 12] {
        [
            self.server_assignment,
            self.xact,
            self.query,
            self.received,
            self.sent,
            self.xact_time,
            self.query_time,
            self.wait_time,
            self.client_parse,
            self.server_parse,
            self.bind,
            self.login,
        ]
    }
}

/// What was counted, and how much of it since a period began. Pools are added up before anything
/// is divided: each of many small ones would round to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    pub totals: Totals,
    pub change: Totals,
    pub period: Duration,
}

impl Span {
    /// With one more pool, over the same period.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            totals: self.totals.plus(other.totals),
            change: self.change.plus(other.change),
            period: self.period.max(other.period),
        }
    }

    pub fn average(self) -> Totals {
        self.change.average(self.period)
    }
}

pub const STATS: Columns = &[
    text("database"),
    numeric("total_server_assignment_count"),
    numeric("total_xact_count"),
    numeric("total_query_count"),
    numeric("total_received"),
    numeric("total_sent"),
    numeric("total_xact_time"),
    numeric("total_query_time"),
    numeric("total_wait_time"),
    numeric("total_client_parse_count"),
    numeric("total_server_parse_count"),
    numeric("total_bind_count"),
    numeric("total_client_login_count"),
    numeric("avg_server_assignment_count"),
    numeric("avg_xact_count"),
    numeric("avg_query_count"),
    numeric("avg_recv"),
    numeric("avg_sent"),
    numeric("avg_xact_time"),
    numeric("avg_query_time"),
    numeric("avg_wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

pub const STATS_TOTALS: Columns = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("client_parse_count"),
    numeric("server_parse_count"),
    numeric("bind_count"),
    numeric("client_login_count"),
];

/// The change of names in the middle is PgBouncer's.
pub const STATS_AVERAGES: Columns = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

pub const TOTALS: Columns = &[text("name"), numeric("value")];

/// Names of `SHOW TOTALS` behind `total_` and `avg_`.
const NAMES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

/// Pools summed by database, in the order of the names.
fn by_database(pools: &[Pool]) -> Vec<(&str, Span)> {
    let mut sums: Vec<(&str, Span)> = Vec::new();
    let mut sorted: Vec<&Pool> = pools.iter().collect();
    sorted.sort_by(|left, right| left.database.cmp(&right.database));
    for pool in sorted {
        match sums.last_mut() {
            Some((name, span)) if *name == pool.database => *span = span.plus(pool.span),
            Some(_) | None => sums.push((&pool.database, pool.span)),
        }
    }
    sums
}

pub fn stats(pools: &[Pool]) -> Table {
    rows(STATS, pools, |span| [span.totals.values(), span.average().values()].concat())
}

pub fn stats_totals(pools: &[Pool]) -> Table {
    rows(STATS_TOTALS, pools, |span| span.totals.values().to_vec())
}

pub fn stats_averages(pools: &[Pool]) -> Table {
    rows(STATS_AVERAGES, pools, |span| span.average().values().to_vec())
}

fn rows(columns: Columns, pools: &[Pool], values: impl Fn(Span) -> Vec<u64>) -> Table {
    let mut table = Table::new(columns);
    for (database, span) in by_database(pools) {
        let numbers = values(span).into_iter().map(value);
        table.push(std::iter::once(value(database)).chain(numbers).collect());
    }
    table
}

/// Everything, whatever the database.
pub fn sum(pools: &[Pool]) -> Span {
    pools.iter().fold(Span::default(), |sum, pool| sum.plus(pool.span))
}

pub fn totals(pools: &[Pool]) -> Table {
    let span = sum(pools);
    let mut table = Table::new(TOTALS);
    for (prefix, values) in [("total_", span.totals.values()), ("avg_", span.average().values())] {
        for (name, number) in NAMES.iter().zip(values) {
            let row: Vec<Value> = vec![value(format!("{prefix}{name}")), value(number)];
            table.push(row);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over ten seconds.
    fn pool(database: &str, old: Totals, now: Totals) -> Pool {
        Pool {
            database: database.into(),
            user: "ann".into(),
            mode: "transaction",
            clients_active: 0,
            clients_waiting: 0,
            cancels: 0,
            servers_active: 0,
            servers_canceled: 0,
            servers_idle: 0,
            servers_login: 0,
            load_balance_hosts: None,
            max_wait: Duration::ZERO,
            span: Span { totals: now, change: now.since(old), period: Duration::from_secs(10) },
            abandoned: crate::admin::snapshot::Abandoned::default(),
        }
    }

    fn shown(table: &Table, row: usize, name: &str) -> String {
        let at = table.columns.iter().position(|column| column.name == name).unwrap();
        table.rows[row][at].clone().unwrap()
    }

    fn names(columns: Columns) -> String {
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        names.join(",")
    }

    fn all_numeric_but_the_first(columns: Columns) {
        let kinds: Vec<u32> = columns.iter().map(|column| column.kind.oid()).collect();
        assert_eq!(kinds[0], 25);
        assert!(kinds[1..].iter().all(|oid| *oid == 1700));
    }

    #[test]
    fn columns_are_those_of_pgbouncer() {
        assert_eq!(
            names(STATS),
            "database,total_server_assignment_count,total_xact_count,total_query_count,\
             total_received,total_sent,total_xact_time,total_query_time,total_wait_time,\
             total_client_parse_count,total_server_parse_count,total_bind_count,total_client_login_count,\
             avg_server_assignment_count,avg_xact_count,avg_query_count,avg_recv,avg_sent,\
             avg_xact_time,avg_query_time,avg_wait_time,avg_client_parse_count,\
             avg_server_parse_count,avg_bind_count,avg_client_login_count"
        );
        assert_eq!(
            names(STATS_TOTALS),
            "database,server_assignment_count,xact_count,query_count,bytes_received,bytes_sent,\
             xact_time,query_time,wait_time,client_parse_count,server_parse_count,bind_count,\
             client_login_count"
        );
        assert_eq!(
            names(STATS_AVERAGES),
            "database,server_assignment_count,xact_count,query_count,bytes_received,bytes_sent,\
             xact_time,query_time,wait_time,avg_client_parse_count,avg_server_parse_count,\
             avg_bind_count,avg_client_login_count"
        );
        assert_eq!(names(TOTALS), "name,value");
        for columns in [STATS, STATS_TOTALS, STATS_AVERAGES, TOTALS] {
            all_numeric_but_the_first(columns);
        }
    }

    #[test]
    fn averages_are_a_second_for_counts_and_each_for_times() {
        let old = Totals { query: 10, query_time: 1000, received: 0, ..Totals::default() };
        let new = Totals { query: 30, query_time: 5000, received: 600, ..Totals::default() };
        let average = new.since(old).average(Duration::from_secs(10));
        assert_eq!((average.query, average.query_time, average.received), (2, 200, 60));
        // Nothing happened: no division by it.
        assert_eq!(Totals::default().average(Duration::from_secs(10)), Totals::default());
    }

    #[test]
    fn the_wait_is_that_for_one_server() {
        let change = Totals { wait_time: 900, server_assignment: 3, ..Totals::default() };
        assert_eq!(change.average(Duration::from_mins(1)).wait_time, 300);
        let none = Totals { server_assignment: 0, ..change };
        assert_eq!(none.average(Duration::from_mins(1)).wait_time, 0);
    }

    #[test]
    fn pools_are_summed_by_database() {
        let totals = |query, query_time| Totals { query, query_time, ..Totals::default() };
        let pools = [
            pool("b", totals(0, 0), totals(10, 100)),
            pool("a", totals(0, 0), totals(20, 200)),
            pool("b", totals(10, 1000), totals(40, 2500)),
        ];
        let table = stats(&pools);
        assert_eq!(table.rows.len(), 2);
        assert_eq!(shown(&table, 0, "database"), "a");
        assert_eq!(shown(&table, 1, "total_query_count"), "50");
        assert_eq!(shown(&table, 1, "total_query_time"), "2600");
        assert_eq!(shown(&table, 1, "avg_query_count"), "4");
        assert_eq!(shown(&table, 1, "avg_query_time"), "40");
    }

    #[test]
    fn pools_that_do_less_than_one_a_second_add_up() {
        let totals = |query, query_time| Totals { query, query_time, ..Totals::default() };
        let pool = |count: u64, time: u64| pool("a", totals(7, 70), totals(7 + count, 70 + time));
        // Nine tenths a second each, and one that is as rare and slow.
        let pools = [pool(9, 90), pool(9, 90), pool(2, 1_820)];
        let table = stats(&pools);
        assert_eq!(shown(&table, 0, "avg_query_count"), "2");
        assert_eq!(shown(&table, 0, "avg_query_time"), "100");
        let sum = sum(&pools).average();
        assert_eq!((sum.query, sum.query_time), (2, 100));
    }

    #[test]
    fn totals_come_first_then_averages() {
        let table = totals(&[]);
        let names: Vec<&str> = table.rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
        assert_eq!(names.len(), 24);
        assert_eq!(
            (names[0], names[12]),
            ("total_server_assignment_count", "avg_server_assignment_count")
        );
        assert_eq!((names[3], names[23]), ("total_client_bytes", "avg_client_login_count"));
    }
}
