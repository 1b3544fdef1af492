//! What is counted of every statement and every byte, however they end: the console against what
//! the clients did.

use crate::console::{Row, count, find, table};
use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, bind, execute, flush, parse, query, sync};
use crate::support::wait_until;

/// Long enough that nobody waits for its end.
const LONG: &str = "SELECT pg_sleep(60) AS";

/// Sessions in this database but the one that asks.
const OTHERS: &str = "FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";

const SLOW: &str = "[slow]\nthreshold = \"1ms\"\n";

/// Of SHOW STATEMENTS, by its text.
fn statement(console: &mut RawClient, text: &str) -> Option<Row> {
    table(console, "SHOW STATEMENTS").into_iter().find(|row| row["statement"] == text)
}

fn is_running(database: &Database<'_>, text: &str) -> bool {
    let running = format!("SELECT count(*) {OTHERS} AND state = 'active' AND query LIKE '{text}%'");
    database.admin().one(&running) != "0"
}

fn end(database: &Database<'_>, text: &str) {
    let ended = format!("SELECT pg_terminate_backend(pid) {OTHERS} AND query LIKE '{text}%'");
    database.admin().run(&ended);
}

/// Of SHOW STATS.
fn total(console: &mut RawClient, database: &str, column: &str) -> u64 {
    count(&find(console, "SHOW STATS", "database", database), column)
}

/// Waits until the statement has been counted, and looks that it was counted once.
fn is_counted(console: &mut RawClient, shape: &str, cache: &str) {
    wait_until(&format!("{shape} is counted"), || statement(console, shape).is_some());
    let row = statement(console, shape).unwrap();
    assert_eq!((count(&row, "calls"), count(&row, "errors")), (1, 1), "{row:?}");
    assert_eq!(count(&row, cache), 1, "{row:?}");
    let slow = table(console, "SHOW SLOW");
    let slow: Vec<&Row> = slow.iter().filter(|row| row["statement"] == shape).collect();
    assert_eq!(slow.len(), 1, "{slow:?}");
    assert_eq!(slow[0]["failed"], "yes");
}

/// That nothing was counted here and not there.
fn agrees(console: &mut RawClient, database: &str) {
    let groups = table(console, "SHOW CLIENT_STATS");
    let of_groups = |name: &str| -> u64 {
        let ours = groups.iter().filter(|row| row["database"] == database);
        ours.map(|row| count(row, name)).sum()
    };
    assert_eq!(of_groups("queries"), total(console, database, "total_query_count"));
    assert_eq!(of_groups("query_time"), total(console, database, "total_query_time"));
    let cache = table(console, "SHOW CACHE");
    assert_eq!(of_groups("misses"), count(&cache[0], "misses"));
}

#[test]
fn a_statement_that_ends_with_its_connection_is_counted_once_and_has_failed() {
    let database = Database::with("");
    let forebay = Forebay::with_config(&database, SLOW, &[]);
    let mut console = forebay.console();
    let start = |alias: &str, name: &str| {
        let mut client = forebay.client_with(&[("application_name", name)]);
        client.send(&query(&format!("{LONG} {alias}")));
        wait_until("it runs", || is_running(&database, &format!("{LONG} {alias}")));
        client
    };
    drop(start("gone", ""));
    is_counted(&mut console, "SELECT pg_sleep($1) AS gone", "bypasses");
    end(&database, &format!("{LONG} gone"));
    let mut client = start("ended", "");
    end(&database, &format!("{LONG} ended"));
    assert_eq!(client.until_closed(), "T(ended) E(57P01)");
    is_counted(&mut console, "SELECT pg_sleep($1) AS ended", "bypasses");
    let killed = start("killed", "killed");
    let id = find(&mut console, "SHOW CLIENTS", "application_name", "killed")["id"].clone();
    console.run(&format!("KILL_CLIENT {id}"));
    is_counted(&mut console, "SELECT pg_sleep($1) AS killed", "bypasses");
    end(&database, &format!("{LONG} killed"));
    drop(killed);
    console.run("SET query_timeout = '0.2'");
    let mut client = start("late", "");
    client.until_closed();
    is_counted(&mut console, "SELECT pg_sleep($1) AS late", "bypasses");
    let groups = table(&mut console, "SHOW CLIENT_STATS");
    let classes: Vec<&str> = groups.iter().map(|row| row["error_classes"].as_str()).collect();
    assert!(classes.contains(&"08=1,57=2") && classes.contains(&"57=1"), "{classes:?}");
    agrees(&mut console, &database.name);
}

#[test]
fn a_statement_that_no_server_is_found_for_is_counted_once_and_has_failed() {
    let database = Database::with("CREATE TABLE t (id int, v text)");
    let forebay = Forebay::with_config(&database, SLOW, &["--pool-size", "1"]);
    let mut console = forebay.console();
    let mut holder = forebay.client();
    database.until_hit(&mut holder, "SELECT count(*) FROM t");
    holder.hold_server();
    console.run("SET query_wait_timeout = 1");
    let mut client = forebay.client();
    client.send(&query("SELECT v FROM t WHERE id = 1"));
    assert_eq!(client.until_closed(), "E(08P01)");
    is_counted(&mut console, "SELECT v FROM t WHERE id = $1", "misses");
    let slow = find(&mut console, "SHOW SLOW", "statement", "SELECT v FROM t WHERE id = $1");
    assert!(count(&slow, "wait_ms") >= 900 && count(&slow, "run_ms") == 0, "{slow:?}");
    // Of several in one group, the one in front.
    let mut client = forebay.client();
    let one = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
    client.send(&[one("SELECT id FROM t"), one("SELECT v FROM t"), sync()].concat());
    client.until_closed();
    is_counted(&mut console, "SELECT id FROM t", "bypasses");
    holder.run("COMMIT");
    agrees(&mut console, &database.name);
}

#[test]
fn what_a_lost_client_had_been_answered_keeps_its_time() {
    let database = Database::with("CREATE TABLE t (id int, v text)");
    let forebay = Forebay::with_config(&database, SLOW, &[]);
    let mut console = forebay.console();
    let mut client = forebay.client();
    // With its answer, but without the end of its unit.
    let one = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
    client.send(&[one("SELECT v FROM t"), flush()].concat());
    client.until(b'C');
    let asked = std::time::Instant::now();
    wait_until("some time has passed", || asked.elapsed().as_millis() > 300);
    drop(client);
    wait_until("it is counted", || statement(&mut console, "SELECT v FROM t").is_some());
    let row = statement(&mut console, "SELECT v FROM t").unwrap();
    assert_eq!((count(&row, "calls"), count(&row, "errors")), (1, 0), "{row:?}");
    assert!(count(&row, "total_time") < 300_000, "{row:?}");
    // What was sent behind one that never ended takes no time of its own.
    let mut client = forebay.client();
    let ask = |sql: &str| [one(sql), sync()].concat();
    client.send(&[ask(&format!("{LONG} first")), ask("SELECT 1 AS second")].concat());
    wait_until("it runs", || is_running(&database, &format!("{LONG} first")));
    drop(client);
    is_counted(&mut console, "SELECT pg_sleep($1) AS first", "bypasses");
    let row = statement(&mut console, "SELECT $1 AS second").unwrap();
    let counted = ["calls", "errors", "total_time"].map(|column| count(&row, column));
    assert_eq!(counted, [1, 1, 0], "{row:?}");
    end(&database, &format!("{LONG} first"));
    agrees(&mut console, &database.name);
}

#[test]
fn a_string_of_thousands_of_statements_costs_what_thousands_of_statements_do() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    client.run("SELECT 1");
    let before = forebay.daemon.processor_time();
    let answers = client.rows(&"select 1;".repeat(8000)).len();
    let took = forebay.daemon.processor_time().saturating_sub(before);
    assert_eq!(answers, 8000);
    // Far more than it takes, and far less than to look at the whole string for each.
    assert!(took.as_secs() < 5, "{took:?}");
    let row = statement(&mut forebay.console(), "select $1").unwrap();
    assert!(count(&row, "calls") > 10, "{row:?}");
}

#[test]
fn a_hit_waits_for_nothing() {
    let database = Database::with("CREATE TABLE t (id int, v text)");
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT id FROM t");
    let mut console = forebay.console();
    client.run("SELECT v FROM t");
    for _ in 0..20 {
        client.run("SELECT v FROM t");
    }
    // Answered here as well.
    client.run("BEGIN");
    client.run("COMMIT");
    let row = statement(&mut console, "SELECT v FROM t").unwrap();
    assert_eq!(count(&row, "hits"), 20, "{row:?}");
    assert_eq!(count(&row, "wait_time"), 0, "{row:?}");
    assert!(count(&row, "total_time") > 0, "{row:?}");
    assert_eq!(count(&statement(&mut console, "BEGIN").unwrap(), "wait_time"), 0);
}

#[test]
fn a_request_is_as_old_as_its_first_byte() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    let mut console = forebay.console();
    let mut client = forebay.client_with(&[("application_name", "report")]);
    let shown = |console: &mut RawClient, command: &str| {
        find(console, command, "application_name", "report")["request_time"].clone()
    };
    // Until a second later by the console's own clock.
    let next_second = |console: &mut RawClient, after: &str| {
        wait_until("a second has passed", || {
            let probe = forebay.client_with(&[("application_name", "probe")]);
            let now =
                find(console, "SHOW CLIENTS", "application_name", "probe")["connect_time"].clone();
            probe.close();
            now.as_str() > after
        });
    };
    let mut last = shown(&mut console, "SHOW CLIENTS");
    // With a server just acquired, then with the one that it has.
    for alias in ["first", "second"] {
        if alias == "second" {
            client.hold_server();
            last = shown(&mut console, "SHOW CLIENTS");
        }
        next_second(&mut console, &last);
        client.send(&query(&format!("{LONG} {alias}")));
        wait_until("it runs", || is_running(&database, &format!("{LONG} {alias}")));
        for command in ["SHOW CLIENTS", "SHOW SERVERS"] {
            let request = shown(&mut console, command);
            assert!(request > last, "{command}: {request} is not after {last}");
        }
        last = shown(&mut console, "SHOW CLIENTS");
        let cancelled = format!("SELECT pg_cancel_backend(pid) {OTHERS} AND query LIKE '{LONG}%'");
        database.admin().run(&cancelled);
        client.until(b'Z');
    }
    client.run("ROLLBACK");
    // What is answered here is a request as well.
    last = shown(&mut console, "SHOW CLIENTS");
    next_second(&mut console, &last);
    client.run("BEGIN");
    assert!(shown(&mut console, "SHOW CLIENTS") > last);
}
