//! A group is replaced member by member, all on one port, while applications work: none of their
//! queries fails, none sees what it has written undone, and the new members answer from what lies in
//! Redis.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Scope, scope};

use crate::support::DEADLINE;
use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, RawClient};
use crate::support::redis::Redis;
use crate::support::wait_until;

const TABLES: &str = "CREATE TABLE read AS SELECT n, n * 7 AS v FROM generate_series(1, 20) n; \
     CREATE TABLE own AS SELECT n, 0 AS v FROM generate_series(0, 5) n";
const APPLICATIONS: usize = 6;

/// Transactions until a pool closes a connection and opens another.
const LIFE: usize = 4;

/// Of each application before its reads are counted: so many lives of connections that which member
/// has how many of them is near the mean.
const TRANSACTIONS: usize = 40;
const READS: usize = 5;

fn read(n: usize) -> String {
    format!("SELECT v FROM read WHERE n = {n}")
}

/// What one application has, with its pool of one connection.
struct Application {
    number: usize,
    port: u16,
    database: String,
    client: Option<RawClient>,
    done: usize,
    written: usize,
}

impl Application {
    fn transaction(&mut self) {
        if self.done.is_multiple_of(LIFE)
            && let Some(old) = self.client.take()
        {
            old.close();
        }
        let client = self.client.get_or_insert_with(|| connect(self.port, &self.database));
        for read_of in 0..READS {
            let n = 1 + (self.done * READS + read_of + self.number) % 20;
            assert_eq!(client.one(&read(n)), (n * 7).to_string());
        }
        let number = self.number;
        if self.done % 10 == number {
            self.written += 1;
            let written = self.written;
            client.run(&format!("UPDATE own SET v = {written} WHERE n = {number}"));
        }
        // Whoever answers.
        let own = client.one(&format!("SELECT v FROM own WHERE n = {number}"));
        assert_eq!(own, self.written.to_string());
        self.done += 1;
    }
}

/// As a pool does. Linux resets who comes in the very moment in which a listener is closed, and who
/// was told nothing comes again.
fn connect(port: u16, database: &str) -> RawClient {
    let login = Login::new(USER, PASSWORD, database);
    RawClient::log_in(port, &login).unwrap_or_else(|refused| {
        assert!(refused.message.contains("reset by peer"), "{refused:?}");
        RawClient::log_in(port, &login).unwrap()
    })
}

/// The applications, each in its thread, which work when they are told to.
struct Load {
    orders: Vec<Sender<usize>>,
    reports: Receiver<usize>,
}

impl Load {
    fn start<'scope>(scope: &'scope Scope<'scope, '_>, port: u16, database: &Database<'_>) -> Self {
        let (reporter, reports) = channel();
        let work = |number| {
            let (order, orders) = channel::<usize>();
            let reporter = reporter.clone();
            let database = database.name.clone();
            let mut application =
                Application { number, port, database, client: None, done: 0, written: 0 };
            scope.spawn(move || {
                for count in orders {
                    (0..count).for_each(|_| application.transaction());
                    reporter.send(number).unwrap();
                }
            });
            order
        };
        Self { orders: (0..APPLICATIONS).map(work).collect(), reports }
    }

    /// Each application works off so many transactions while something else is done.
    fn work(&self, transactions: usize, meanwhile: impl FnOnce()) {
        for order in &self.orders {
            order.send(transactions).unwrap();
        }
        meanwhile();
        for _ in &self.orders {
            // One that has failed says why itself.
            self.reports.recv_timeout(DEADLINE).expect("an application reports");
        }
    }

    /// What part of the reads of the table that nobody writes did not reach PostgreSQL.
    fn hit_rate(&self, database: &Database<'_>, meanwhile: impl FnOnce()) -> f64 {
        let before = asked(database);
        self.work(TRANSACTIONS, meanwhile);
        let reads = TRANSACTIONS * READS * self.orders.len();
        1.0 - ratio(asked(database) - before, reads)
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    f64::from(u32::try_from(part).unwrap()) / f64::from(u32::try_from(whole).unwrap())
}

fn asked(database: &Database<'_>) -> usize {
    let line = format!("[{}] LOG:  statement: SELECT v FROM read WHERE", database.name);
    database.postgres.log().lines().filter(|have| have.starts_with(&line)).count()
}

fn member(database: &Database<'_>, redis: &Redis, beside: Option<&Forebay>) -> Forebay {
    let toml = format!(
        "[listen]\nso_reuseport = true\n[cache]\ncut_off = 0\n\
         [redis]\nurl = \"{}\"\ntimeout = \"5s\"\n[group]\nname = \"g\"\n\
         secret = \"0123456789abcdef0123456789abcdef\"\nlease = \"1500ms\"\ntimeout = \"2s\"\n",
        redis.url()
    );
    match beside {
        Some(other) => Forebay::beside(other, database, &toml),
        None => Forebay::with_config(database, &toml, &[]),
    }
}

fn shown(member: &Forebay, command: &str, column: &str) -> String {
    member.console().column(command, column)
}

#[test]
fn members_replaced_one_after_another_fail_no_query_and_go_on_hitting() {
    let (database, redis) = (Database::with(TABLES), Redis::start());
    let one = member(&database, &redis, None);
    let others = [member(&database, &redis, Some(&one)), member(&database, &redis, Some(&one))];
    let mut members: VecDeque<Forebay> = std::iter::once(one).chain(others).collect();
    scope(|scope| {
        let load = Load::start(scope, members[0].port, &database);
        let hit_rate = || load.hit_rate(&database, || {});
        let new_connections = || load.work(LIFE, || {});
        wait_until("all of them hit", || hit_rate() > 0.99);
        // Of the whole replacement: each may cost a little, and all together no more than that.
        let before = hit_rate();
        for _ in 0..members.len() {
            let holds = |rate: f64| {
                assert!(rate > before / 2.0, "{rate} of the reads hit, and {before} before");
            };
            let fresh = member(&database, &redis, Some(&members[0]));
            holds(hit_rate());
            wait_until("the new one is in the group", || {
                new_connections();
                shown(&fresh, "SHOW GROUP", "state") == "open"
            });
            let old = members.pop_front().unwrap();
            holds(load.hit_rate(&database, || old.daemon.signal("TERM")));
            wait_until("the old one has ended", || {
                new_connections();
                !old.daemon.runs()
            });
            assert!(old.log().contains("shut down"));
            holds(hit_rate());
            assert_ne!(shown(&fresh, "SHOW CACHE", "hits_redis"), "0", "nothing from Redis");
            members.push_back(fresh);
        }
    });
}
