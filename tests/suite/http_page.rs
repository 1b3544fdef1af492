//! The tables behind the page: those of the console, without what is not for everybody.

use serde_json::Value as Json;

use crate::console::{count, table};
use crate::http::start;
use crate::support::http::get;
use crate::support::postgres::Database;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                      INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i";

/// The values of one column, by its name.
fn column<'a>(table: &'a Json, name: &str) -> Vec<&'a Json> {
    let fields = table["fields"].as_array().unwrap();
    let at = fields.iter().position(|field| field["name"] == name).unwrap();
    table["rows"].as_array().unwrap().iter().map(|row| &row[at]).collect()
}

#[test]
fn tables_of_the_page_are_those_of_the_console() {
    let database = Database::with(SCHEMA);
    let (forebay, port) = start(&database, "");
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT v FROM t WHERE id = 1");
    client.run("SELECT count(*) FROM t");
    let mut console = forebay.console();
    let overview = get(port, "/api/overview").json();
    for (name, show) in [
        ("statements", "SHOW STATEMENTS ORDER BY total_time"),
        ("repeats", "SHOW REPEATS"),
        ("slow", "SHOW SLOW"),
        ("tables", "SHOW CACHE_TABLES"),
        ("reasons", "SHOW CACHE_REASONS ORDER BY count"),
        ("clients", "SHOW CLIENT_STATS ORDER BY queries"),
        ("pools", "SHOW POOLS"),
        ("databases", "SHOW STATS_TOTALS"),
    ] {
        // The console's own row counts what it is asked.
        let own =
            |row: &&crate::console::Row| row.get("database").is_none_or(|of| of != "pgbouncer");
        let rows = table(&mut console, show);
        let shown = get(port, &format!("/api/tables/{name}?limit=1000&filter=")).json();
        assert_eq!(shown["total"], rows.len(), "{name}");
        for field in shown["fields"].as_array().unwrap() {
            let field = field["name"].as_str().unwrap();
            let values = column(&shown, field).into_iter();
            let of_page = values.zip(&rows).filter(|(_, row)| own(row));
            for (value, row) in of_page {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let text = if value.is_null() { "NULL".to_owned() } else { text };
                assert_eq!(text, row[field], "{name} {field}");
            }
        }
        let titles = overview["tables"].as_array().unwrap();
        assert!(titles.iter().any(|title| title["name"] == name), "{name}");
    }
    let cache = table(&mut console, "SHOW CACHE").remove(0);
    for name in ["hits", "misses", "bypasses", "entries", "bytes", "bytes_max", "evictions"] {
        assert_eq!(overview["cache"][name], count(&cache, name), "{name}");
    }
    let statements = table(&mut console, "SHOW STATEMENTS");
    let calls: u64 = statements.iter().map(|row| count(row, "calls")).sum();
    assert_eq!(overview["latency"]["query"]["count"], calls);
    assert_eq!((&overview["state"], &overview["clients"]), (&"ready".into(), &1.into()));
}

#[test]
fn literals_and_secrets_are_on_no_page() {
    let database = Database::with(SCHEMA);
    let settings = "[admin]\nhttp_token = \"0123456789abcdef\"\n[slow]\nthreshold = \"1ms\"\n";
    let (forebay, port) = start(&database, settings);
    let mut client = forebay.client();
    client.run("SELECT pg_sleep(0.01), 'needle one'");
    for id in 0..12 {
        client.run(&format!("SELECT v FROM t WHERE v = 'needle {id}'"));
    }
    let ask = |path: &str| {
        let authorization = "authorization: Bearer 0123456789abcdef";
        let answer = crate::support::http::get_with(port, path, authorization);
        assert_eq!(answer.status, 200, "{path}");
        answer.body
    };
    let slow = ask("/api/tables/slow");
    assert!(slow.contains("pg_sleep($1)"), "{slow}");
    let mut all = slow + &ask("/") + &ask("/metrics") + &ask("/api/overview");
    for name in ["statements", "repeats", "tables", "reasons", "clients", "pools", "databases"] {
        all += &ask(&format!("/api/tables/{name}"));
    }
    assert!(all.contains("WHERE v = $1"));
    for secret in ["needle", "0123456789abcdef", crate::support::postgres::PASSWORD] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
}

#[test]
fn of_many_rows_those_asked_for_are_given() {
    let database = Database::with(SCHEMA);
    let (forebay, port) = start(&database, "");
    let mut client = forebay.client();
    for number in 0..150 {
        client.run(&format!("SELECT v AS column_{number} FROM t WHERE id = 1"));
    }
    client.run("SELECT v AS column_149 FROM t WHERE id = 2");
    let ask = |query: &str| get(port, &format!("/api/tables/statements?{query}")).json();
    let all = ask("");
    assert_eq!((&all["total"], all["rows"].as_array().unwrap().len()), (&150.into(), 100));
    let some = ask("filter=COLUMN_14&order=calls&limit=3");
    assert_eq!((&some["matched"], &some["total"]), (&11.into(), &150.into()));
    assert_eq!(column(&some, "calls"), [2, 1, 1]);
    let first = column(&some, "statement")[0].as_str().unwrap();
    assert!(first.contains("column_149"), "{first}");
}
