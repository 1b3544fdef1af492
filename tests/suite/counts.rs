//! What is counted of every statement and every byte, however they end: the console against what
//! the clients did.

use crate::console::{Row, count, find, table};
use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, Postgres, USER};
use crate::support::raw::{
    Login, RawClient, bind, describe_portal, execute, flush, parse, query, sync,
};
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
    // Its new server has to be there by then, too.
    console.run("SET query_timeout = '3'");
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
    let sent = std::time::Instant::now();
    client.send(&[one("SELECT v FROM t"), flush()].concat());
    client.until(b'C');
    let took = sent.elapsed();
    let asked = std::time::Instant::now();
    wait_until("some time has passed", || asked.elapsed().as_millis() > 300);
    drop(client);
    wait_until("it is counted", || statement(&mut console, "SELECT v FROM t").is_some());
    let row = statement(&mut console, "SELECT v FROM t").unwrap();
    assert_eq!((count(&row, "calls"), count(&row, "errors")), (1, 0), "{row:?}");
    assert!(u128::from(count(&row, "total_time")) < took.as_micros() + 300_000, "{row:?}");
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
    // Looked at as a whole for each, they would not be answered in time.
    assert_eq!(client.rows(&"select 1;".repeat(8000)).len(), 8000);
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

#[test]
fn what_comes_while_a_server_is_waited_for_is_counted_as_received() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &["--pool-size", "1"]);
    let mut console = forebay.console();
    let mut holder = forebay.client();
    holder.hold_server();
    let before = total(&mut console, &database.name, "total_received");
    let mut client = forebay.client();
    client.send(&query("SELECT 1"));
    wait_until("it waits", || {
        find(&mut console, "SHOW POOLS", "database", &database.name)["cl_waiting"] == "1"
    });
    let more = query(&format!("SELECT '{}'", "a".repeat(20_000)));
    client.send(&more);
    let expected = before + query("SELECT 1").len() as u64 + more.len() as u64;
    wait_until("what came meanwhile is counted", || {
        total(&mut console, &database.name, "total_received") == expected
    });
    holder.run("COMMIT");
    client.replies();
    client.replies();
}

#[test]
fn what_a_console_sends_while_its_command_waits_is_counted_as_received() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    let mut console = forebay.console();
    let mut holder = forebay.client();
    holder.hold_server();
    let mut other = forebay.console();
    other.send(&query(&format!("PAUSE {}", database.name)));
    wait_until("it waits", || {
        find(&mut console, "SHOW DATABASES", "name", &database.name)["paused"] == "1"
    });
    let mut received = total(&mut console, "pgbouncer", "total_received");
    let more = query(&format!("SHOW VERSION {}", " ".repeat(30_000)));
    other.send(&more);
    received += more.len() as u64;
    wait_until("what came meanwhile is counted", || {
        received += query("SHOW STATS").len() as u64;
        total(&mut console, "pgbouncer", "total_received") == received
    });
    holder.run("COMMIT");
}

#[test]
fn bytes_of_replication_are_counted() {
    let hba = "host all,replication postgres 127.0.0.1/32 trust\n\
               host all,replication all 127.0.0.1/32 scram-sha-256\n";
    let postgres = Postgres::private_with_hba("wal_level = logical", hba);
    postgres.admin("postgres").run(&format!("ALTER ROLE {USER} REPLICATION"));
    let database = postgres.database();
    let forebay = Forebay::start(&database, &[]);
    let login = Login::new(USER, PASSWORD, &database.name).with(&[("replication", "database")]);
    let mut client = forebay.log_in(&login).unwrap();
    let mut console = forebay.console();
    let totals = |console: &mut RawClient| {
        ["total_received", "total_sent"].map(|column| total(console, &database.name, column))
    };
    let before = totals(&mut console);
    let question = query("SELECT repeat('a', 1000) AS a");
    client.send(&question);
    client.replies();
    let after = totals(&mut console);
    assert_eq!(after[0] - before[0], question.len() as u64);
    // RowDescription, DataRow, CommandComplete, ReadyForQuery.
    assert_eq!(after[1] - before[1], 27 + 1011 + 14 + 6);
    let group = find(&mut console, "SHOW CLIENT_STATS", "database", &database.name);
    assert_eq!(count(&group, "received"), after[0]);
}

#[test]
fn a_statement_prepared_in_front_of_what_is_answered_here_is_counted_as_prepared() {
    let database = Database::with("CREATE TABLE t (id int, v text)");
    let forebay = Forebay::start(&database, &[]);
    let (mut client, mut console) = (forebay.client(), forebay.console());
    database.until_hit(&mut client, "SELECT v FROM t");
    let prepare = |name: &str| {
        let sql = parse(name, "SELECT v FROM t", &[]);
        [sql, bind("", name, &[]), describe_portal(""), execute("", 0), sync()].concat()
    };
    let prepared =
        |console: &mut RawClient| total(console, &database.name, "total_client_parse_count");
    let hits = console.column("SHOW CACHE", "hits");
    client.ask(&[prepare("one")]);
    assert_ne!(console.column("SHOW CACHE", "hits"), hits);
    assert_eq!(prepared(&mut console), 1);
    // Answered here as well.
    client.ask(&[parse("begin", "BEGIN", &[]), bind("", "begin", &[]), execute("", 0), sync()]);
    assert_eq!(prepared(&mut console), 2);
}

#[test]
fn who_has_not_logged_in_yet_is_shown_to_log_in() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    let mut console = forebay.console();
    let items = |console: &mut RawClient| {
        count(&find(console, "SHOW LISTS", "list", "login_clients"), "items")
    };
    wait_until("who looked whether Forebay accepts is gone", || items(&mut console) == 0);
    let silent = RawClient::connect(forebay.port);
    wait_until("it is seen", || items(&mut console) == 1);
    drop(silent);
    wait_until("it is gone", || items(&mut console) == 0);
    // Who has logged in does so no more.
    let _client = forebay.client();
    assert_eq!(items(&mut console), 0);
}
