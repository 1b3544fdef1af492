//! Who runs what: counts that the console shows against workloads whose counts are known, and
//! against what PostgreSQL itself has counted.

use std::collections::BTreeMap;

use crate::console::{Row, count, fields, find, table};
use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, Postgres, USER};
use crate::support::raw::{
    RawClient, bind, copy_data, copy_done, describe_portal, execute, parse, query, sync,
};
use crate::support::wait_until;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                      INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i";
const READ: &str = "SELECT v FROM t WHERE id = $1";

/// What the clients ran, by the text that statistics show it under.
#[derive(Default)]
struct Ran(BTreeMap<String, u64>);

impl Ran {
    fn add(&mut self, text: &str, calls: u64) {
        *self.0.entry(text.to_owned()).or_default() += calls;
    }
}

/// Rows of SHOW STATEMENTS by their text.
fn statements(console: &mut RawClient) -> BTreeMap<String, Row> {
    let rows = table(console, "SHOW STATEMENTS");
    rows.into_iter().map(|row| (row["statement"].clone(), row)).collect()
}

/// By the unnamed statement, as most drivers send what they do not prepare.
fn extended(sql: &str, id: &str) -> Vec<u8> {
    [parse("", sql, &[23]), bind("", "", &[Some(id)]), describe_portal(""), execute("", 0), sync()]
        .concat()
}

fn run_simple(client: &mut RawClient, ran: &mut Ran) {
    for id in [1, 2, 3, 1, 1, 2] {
        client.run(&format!("SELECT v FROM t WHERE id = {id}"));
    }
    ran.add(READ, 6);
    for round in 0..3 {
        client.run(&format!("UPDATE t SET v = 'x{round}' WHERE id = 19"));
        client.run("SELECT count(*) FROM t");
    }
    ran.add("UPDATE t SET v = $1 WHERE id = $2", 3);
    ran.add("SELECT count(*) FROM t", 3);
    client.run("SELECT count(*) FROM t; DELETE FROM t WHERE id > 100; SELECT 7, 'a;b'");
    ran.add("SELECT count(*) FROM t", 1);
    ran.add("DELETE FROM t WHERE id > $1", 1);
    ran.add("SELECT $1, $2", 1);
    // What stands behind the error is not run.
    client.query("SELECT 7, 'c'; SELECT 1 / (id - 1) FROM t; SELECT 7, 'd'");
    ran.add("SELECT $1, $2", 1);
    ran.add("SELECT $1 / (id - $2) FROM t", 1);
    client.query("SELECT nothing FROM t");
    ran.add("SELECT nothing FROM t", 1);
    client.query("");
    client.send(&query("COPY t FROM STDIN"));
    client.expect("G");
    client.send(&[copy_data("30\tthirty\n31\tone more\n"), copy_done()].concat());
    client.replies();
    ran.add("COPY t FROM STDIN", 1);
}

fn run_extended(client: &mut RawClient, ran: &mut Ran) {
    for id in ["1", "2", "4", "4"] {
        client.ask(&[extended(READ, id)]);
    }
    client.ask(&[parse("p", READ, &[23]), sync()]);
    for id in ["5", "5", "6"] {
        client.ask(&[bind("", "p", &[Some(id)]), execute("", 0), sync()]);
    }
    ran.add(READ, 7);
    // Several in one group, and groups that wait for nothing.
    let insert = "INSERT INTO t VALUES ($1, $2)";
    let one = |id: &str| [bind("", "i", &[Some(id), Some("n")]), execute("", 0)].concat();
    client.ask(&[parse("i", insert, &[23, 25]), one("40"), one("41"), one("42"), sync()]);
    ran.add(insert, 3);
    client.send(&[extended(READ, "7"), one("43"), sync(), extended(READ, "8")].concat());
    for _ in 0..3 {
        client.replies();
    }
    ran.add(READ, 2);
    ran.add(insert, 1);
    // The second fails, the third is skipped; what follows the Sync is not.
    client.send(&[one("44"), one("44"), one("45"), sync(), one("46"), sync()].concat());
    client.replies();
    client.replies();
    ran.add(insert, 3);
    // One call, however often it is asked for more.
    let read = "SELECT id FROM t ORDER BY id";
    client.run("BEGIN");
    let piece = |client: &mut RawClient| client.ask(&[execute("c", 5), sync()]);
    client.ask(&[parse("", read, &[]), bind("c", "", &[]), execute("c", 5), sync()]);
    piece(client);
    piece(client);
    client.run("COMMIT");
    ran.add(read, 1);
}

/// The same key at once by many, of whom one asks PostgreSQL and one at least waits for that.
fn run_together(forebay: &Forebay, ran: &mut Ran) {
    let mut clients: Vec<RawClient> = (0..8).map(|_| forebay.client()).collect();
    let mut console = forebay.console();
    let mut round = 0;
    wait_until("a client waits for another's fill", || {
        round += 1;
        let sql = format!("SELECT id, v FROM t WHERE id <> {round}");
        for client in &mut clients {
            client.send(&query(&sql));
        }
        for client in &mut clients {
            client.replies();
        }
        console.column("SHOW CACHE", "shared_fills") != "0"
    });
    ran.add("SELECT id, v FROM t WHERE id <> $1", 8 * round);
    clients[0].run("SELECT v FROM t WHERE id = 9 AND pg_sleep(0.02) IS NOT NULL");
    ran.add("SELECT v FROM t WHERE id = $1 AND pg_sleep($2) IS NOT NULL", 1);
}

#[test]
fn calls_are_those_postgresql_counted_and_those_it_was_not_asked() {
    let settings = "shared_preload_libraries = 'pg_stat_statements'\n\
                    pg_stat_statements.max = 5000";
    let postgres = Postgres::private(settings);
    let database = postgres.database();
    database.direct().run(SCHEMA);
    database.admin().run("CREATE EXTENSION pg_stat_statements");
    let forebay = Forebay::start(&database, &[]);
    let (mut client, mut console, mut ran) = (forebay.client(), forebay.console(), Ran::default());
    database.until_hit(&mut client, "SELECT id FROM t");
    database.admin().run("SELECT pg_stat_statements_reset()");
    let before = count(&statements(&mut console)["SELECT id FROM t"], "calls");
    client.run("SELECT id FROM t");
    run_simple(&mut client, &mut ran);
    run_extended(&mut client, &mut ran);
    run_together(&forebay, &mut ran);
    let counted: BTreeMap<String, (u64, u64)> = database
        .admin()
        .rows(&format!(
            "SELECT query, sum(calls), sum(rows) FROM pg_stat_statements s
             JOIN pg_roles r ON r.oid = userid WHERE rolname = '{USER}' GROUP BY query"
        ))
        .into_iter()
        .map(|row| {
            let number = |index: usize| row[index].as_deref().unwrap().parse().unwrap();
            (row[0].clone().unwrap(), (number(1), number(2)))
        })
        .collect();
    let shown = statements(&mut console);
    assert_eq!(count(&shown["SELECT id FROM t"], "calls"), before + 1);
    let (mut hits, mut shared) = (0, 0);
    for (text, calls) in &ran.0 {
        let row = shown.get(text).unwrap_or_else(|| panic!("no {text} in {:?}", shown.keys()));
        assert_eq!(count(row, "calls"), *calls, "{row:?}");
        let (asked, rows) = counted.get(text).copied().unwrap_or_default();
        assert_eq!(asked + count(row, "hits") + count(row, "errors"), *calls, "{row:?}");
        // Of a portal PostgreSQL 15 counts the rows of the last Execute alone.
        if count(row, "hits") == 0 && !text.ends_with("ORDER BY id") {
            assert_eq!(count(row, "rows"), rows, "{row:?}");
        }
        let looked_up = count(row, "hits") + count(row, "misses");
        assert_eq!(looked_up + count(row, "bypasses"), *calls, "{row:?}");
        hits += count(row, "hits");
        shared += count(row, "shared_fills");
    }
    // Otherwise nothing was proven of hits and shared fills.
    assert!(hits - shared >= 5 && shared > 0, "{hits} hits, {shared} of them shared");
    let known = ["SELECT id FROM t", "BEGIN", "COMMIT"];
    for text in shown.keys().filter(|text| !known.contains(&text.as_str())) {
        assert!(ran.0.contains_key(text), "nobody ran {text}");
    }
    let sum = |name: &str| shown.values().map(|row| count(row, name)).sum::<u64>();
    let groups = table(&mut console, "SHOW CLIENT_STATS");
    let of_groups = |name: &str| groups.iter().map(|row| count(row, name)).sum::<u64>();
    // The empty text has no shape.
    assert_eq!(of_groups("queries"), sum("calls") + 1);
    for (of_group, of_shape) in [("hits", "hits"), ("shared_fills", "shared_fills")] {
        assert_eq!(of_groups(of_group), sum(of_shape));
    }
}

#[test]
fn a_statement_repeated_in_a_burst_is_told_with_its_application_and_logged_once() {
    let database = Database::with(SCHEMA);
    // One burst, however slow the machine is.
    let toml = "[insight]\nburst_pause = \"60s\"\n";
    let forebay = Forebay::with_config(&database, toml, &[]);
    let mut console = forebay.console();
    let mut shop = forebay.client_with(&[("application_name", "shop")]);
    let mut other = forebay.client_with(&[("application_name", "other")]);
    // Until the catalogue is known, values are told apart by other means.
    database.until_hit(&mut other, "SELECT count(*) FROM t");
    for id in 1..=12 {
        shop.run("BEGIN");
        shop.run(&format!("SELECT v FROM t WHERE id = {}", id / 2));
        shop.run("COMMIT");
        if id < 10 {
            other.ask(&[extended(READ, "1")]);
        }
    }
    let columns = ["database", "user", "application_name", "count", "bursts", "distinct_values"];
    let shown = |console: &mut RawClient| {
        let rows = table(console, "SHOW REPEATS");
        let row = |row: &Row| fields(row, &columns).join("|") + "|" + &row["statement"];
        rows.iter().map(row).collect::<Vec<_>>()
    };
    let expected = format!("{}|{USER}|shop|12|1|7|{READ}", database.name);
    assert_eq!(shown(&mut console), [expected]);
    other.ask(&[extended(READ, "1")]);
    assert_eq!(shown(&mut console).len(), 2);
    assert!(!forebay.log().contains("repeated statement"));
    shop.close();
    forebay.log_contains("repeated statement");
    // Once the burst is over it is not told again.
    assert_eq!(shown(&mut console).len(), 2);
    let line = |log: &str| log.lines().filter(|line| line.contains("repeated statement")).count();
    assert_eq!(line(&forebay.log()), 1);
    console.run("SET insight.repeats = 0");
    let mut third = forebay.client();
    for _ in 0..20 {
        third.run("SELECT v FROM t WHERE id = 3");
    }
    assert_eq!(shown(&mut console).len(), 2);
}

#[test]
fn an_example_of_what_is_repeated_is_shown_to_admins_who_want_literals_and_to_nobody_else() {
    let database = Database::with(SCHEMA);
    let toml = "[insight]\nburst_pause = \"60s\"\nrepeats = 3\n[admin]\nadmin_users = [\"app\"]\n";
    let forebay = Forebay::with_config(&database, toml, &[]);
    let mut console = forebay.console();
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT count(*) FROM t");
    for id in 1..=5 {
        client.run(&format!("SELECT 'secret', v FROM t WHERE id = {id}"));
        client.ask(&[extended(READ, &id.to_string())]);
    }
    let examples = |console: &mut RawClient| {
        let mut rows: Vec<String> =
            table(console, "SHOW REPEATS").iter().map(|row| row["example"].clone()).collect();
        rows.sort();
        rows
    };
    assert_eq!(examples(&mut console), ["NULL", "NULL"]);
    console.run("SET insight.literals = on");
    let shown = examples(&mut console);
    assert_eq!(shown, ["'3'", "SELECT 'secret', v FROM t WHERE id = 3"]);
    forebay.reload(
        "[insight]\nburst_pause = \"60s\"\nrepeats = 3\nliterals = true\n\
         [admin]\nadmin_users = [\"root\"]\nstats_users = [\"app\"]\n",
    );
    assert_eq!(examples(&mut forebay.console()), ["NULL", "NULL"]);
    assert!(!forebay.log().contains("secret"));
}

#[test]
fn what_is_switched_off_counts_nothing_until_it_is_switched_on() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::with_config(&database, "[insight]\nenabled = false\n", &[]);
    let mut console = forebay.console();
    let mut client = forebay.client_with(&[("application_name", "shop")]);
    client.run("SELECT v FROM t WHERE id = 1");
    assert_eq!(table(&mut console, "SHOW STATEMENTS").len(), 0);
    let columns = ["queries", "transactions", "clients"];
    let group = |console: &mut RawClient| {
        let row = find(console, "SHOW CLIENT_STATS", "application_name", "shop");
        fields(&row, &columns).join(" ")
    };
    assert_eq!(group(&mut console), "0 0 1");
    console.run("SET insight.enabled = true");
    client.run("SELECT v FROM t WHERE id = 2");
    assert_eq!(count(&statements(&mut console)[READ], "calls"), 1);
    assert_eq!(group(&mut console), "1 1 1");
}

#[test]
fn the_log_tells_at_an_interval_what_a_group_did_and_at_its_end_what_a_client_did() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::with_config(&database, "[insight]\nlog_interval = \"50ms\"\n", &[]);
    let mut client = forebay.client_with(&[("application_name", "shop")]);
    for statement in ["BEGIN", "SELECT 1", "SELECT pg_sleep(0.02)", "COMMIT", "SELECT 2"] {
        client.run(statement);
    }
    client.close();
    let closing = "queries=5 hits=0 transactions=2 time_ms=";
    forebay.log_contains(closing);
    let line = |log: &str| {
        let of_shop = |line: &&str| line.contains("application_name=shop");
        log.lines().filter(of_shop).find(|line| line.contains(closing)).map(str::to_owned)
    };
    let line = line(&forebay.log()).unwrap();
    let time = line.split("time_ms=").nth(1).unwrap().split(' ').next().unwrap();
    assert!(time.parse::<u64>().unwrap() >= 20, "{line}");
    // In as many lines as intervals it took, none of which tells anything twice.
    let told = |name: &str| -> u64 {
        let log = forebay.log();
        let lines = log.lines().filter(|line| line.contains("p95_us="));
        let queries = |line: &str| -> u64 {
            line.split("queries=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
        };
        let name = format!("application_name={name} ");
        lines.filter(|line| line.contains(&name)).map(queries).sum()
    };
    wait_until("all queries are told", || told("shop") == 5);
    let mut other = forebay.client_with(&[("application_name", "other")]);
    other.run("SELECT 1");
    wait_until("an interval later", || told("other") == 1);
    assert_eq!(told("shop"), 5);
}
