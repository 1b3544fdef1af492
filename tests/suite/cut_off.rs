//! Of what use the cache is to each table, as the console shows it, and tables that are cut off.

use crate::console::find;
use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, bind, describe_portal, execute, parse, sync};
use crate::support::wait_until;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one');
                      CREATE TABLE other (id int); CREATE TABLE unused (id int)";
const READ: &str = "SELECT v FROM t";
const OTHER: &str = "SELECT id FROM other";

fn start(toml: &str) -> (Database<'static>, Forebay, RawClient) {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::with_config(&database, toml, &[]);
    let client = forebay.client();
    (database, forebay, client)
}

/// A row of `SHOW CACHE_TABLES` without `bytes`, joined by blanks.
fn row(rows: &[Vec<Option<String>>], table: Option<&str>) -> String {
    let row = rows.iter().find(|row| row[2].as_deref() == table).unwrap();
    let shown = row.iter().enumerate().filter(|(at, _)| !matches!(at, 0 | 4));
    shown.map(|(_, value)| value.as_deref().unwrap_or("-")).collect::<Vec<_>>().join(" ")
}

fn shown(forebay: &Forebay, table: &str) -> String {
    row(&forebay.console().rows("SHOW CACHE_TABLES"), Some(table))
}

#[test]
fn each_table_shows_of_what_use_the_cache_is_to_it() {
    let (database, forebay, mut client) =
        start("[rules]\nsecret = { table = \"unused\", deny = true }\n");
    database.until_hit(&mut client, OTHER);
    client.run(READ);
    for _ in 0..3 {
        assert!(database.is_hit(&mut client, READ));
    }
    let both = "SELECT v FROM t, other";
    client.run(both);
    // Entries, hits, fills, invalidations, in flight.
    assert_eq!(shown(&forebay, "t"), "public t 2 3 2 0 0 - - - -");
    client.run("UPDATE t SET v = 'two'");
    client.run(READ);
    client.run(READ);
    // The hits of the answer that was replaced stay.
    assert_eq!(shown(&forebay, "t"), "public t 2 4 3 1 0 - - - -");
    assert_eq!(shown(&forebay, "unused"), "public unused 0 0 0 0 0 - - secret -");
    let rows = forebay.console().rows("SHOW CACHE_TABLES");
    assert_eq!(rows[0][0].as_deref(), Some(database.name.as_str()));
    assert!(row(&rows, None).starts_with("- - 3 5 4 "), "{}", row(&rows, None));
    // By the extended protocol too.
    let group = [
        parse("", "SHOW CACHE_TABLES", &[]),
        bind("", "", &[]),
        describe_portal(""),
        execute("", 0),
        sync(),
    ];
    let extended = forebay.console().ask(&group);
    assert!(extended.starts_with("1 2 T(database,schema,table,entries,bytes,hits,"), "{extended}");
    assert!(extended.contains("D(") && extended.ends_with("C(SHOW) Z(I)"), "{extended}");
}

#[test]
fn a_table_written_before_each_read_is_cut_off_and_comes_back() {
    let (database, forebay, mut client) = start("");
    database.until_hit(&mut client, OTHER);
    let reasons = |client: &mut RawClient| client.query(&format!("EXPLAIN CACHE {READ}"));
    let mut write_and_read = |times: usize| {
        for _ in 0..times {
            client.run("UPDATE t SET v = v || 'x'");
            client.run(READ);
        }
        reasons(&mut client)
    };
    let kept = write_and_read(100);
    assert!(kept.contains("D(cacheable,yes)"), "{kept}");
    let cut_off = write_and_read(2);
    assert!(cut_off.contains("D(reason,cut_off)"), "{cut_off}");
    assert!(cut_off.contains("D(cut off,0 hits of 100 answers that writes ended)"), "{cut_off}");
    let reason = find(&mut forebay.console(), "SHOW CACHE_REASONS", "reason", "cut_off");
    assert_ne!(reason["count"], "0");
    let shown = shown(&forebay, "t");
    assert!(shown.contains("UTC 0 hits of 100 answers that writes ended"), "{shown}");
    // Other tables are not, and what PostgreSQL answers is true.
    assert!(!database.is_hit(&mut client, READ) && database.is_hit(&mut client, OTHER));
    assert_eq!(client.one(READ), database.direct().one(READ));
    wait_until("it is tried again", || database.is_hit(&mut client, READ));
}

#[test]
fn a_table_of_which_each_answer_is_served_once_is_not_cut_off() {
    let (database, _forebay, mut client) = start("");
    database.until_hit(&mut client, OTHER);
    for _ in 0..150 {
        client.run("UPDATE t SET v = v || 'x'");
        client.run(READ);
        client.run(READ);
    }
    assert!(database.is_hit(&mut client, READ));
}

#[test]
fn cutting_off_may_be_switched_off_and_by_a_reload_too() {
    let (database, forebay, mut client) = start("");
    database.until_hit(&mut client, OTHER);
    let wear_out = |client: &mut RawClient| {
        for _ in 0..110 {
            client.run("UPDATE t SET v = v || 'x'");
            client.run(READ);
        }
    };
    wear_out(&mut client);
    assert!(!database.is_hit(&mut client, READ) && !database.is_hit(&mut client, READ));
    forebay.reload("[cache]\ncut_off = 0\n");
    database.until_hit(&mut client, READ);
    wear_out(&mut client);
    client.run(READ);
    assert!(database.is_hit(&mut client, READ));
}
