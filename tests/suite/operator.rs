//! What clients and operators say about single sessions and statements.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{
    RawClient, bind, close_statement, describe_portal, describe_statement, execute, parse, sync,
};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                      INSERT INTO t VALUES (1, 'one');
                      CREATE VIEW w AS SELECT v FROM t";
const READ: &str = "SELECT v FROM t";

fn start() -> (Database<'static>, Forebay, RawClient) {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::start(&database, &[]);
    let client = forebay.client();
    (database, forebay, client)
}

#[test]
fn a_client_that_declines_the_cache_is_not_served_until_it_takes_that_back() {
    let (database, forebay, mut client) = start();
    database.until_hit(&mut client, READ);
    let mut other = forebay.client();
    for off in ["SET forebay.cache = off", "SET forebay.cache TO 'False'"] {
        client.run(off);
        assert!(!database.is_hit(&mut client, READ));
        assert!(database.is_hit(&mut other, READ));
        client.run("RESET forebay.cache");
        assert!(database.is_hit(&mut client, READ));
    }
    client.run("SET forebay.cache = on");
    database.until_hit(&mut client, READ);
    // From the beginning of its session.
    let mut declining = forebay.client_with(&[("options", "-c forebay.cache=off")]);
    assert!(!database.is_hit(&mut declining, READ));
}

#[test]
fn a_client_is_told_whether_a_statement_is_kept_and_with_what() {
    let (database, _forebay, mut client) = start();
    let sql = "SELECT v FROM w";
    database.until_hit(&mut client, sql);
    let explain = |client: &mut RawClient, sql: &str| client.query(&format!("EXPLAIN CACHE {sql}"));
    let kept = explain(&mut client, sql);
    assert!(
        kept.starts_with(
            "T(property,value) D(cacheable,yes) D(tables,public.t) D(settings,) D(kept now,yes) \
             D(entries of its shape,1) D(hits,1) D(hit rate,"
        ),
        "{kept}"
    );
    client.run("SET timezone = 'Asia/Tokyo'");
    assert_eq!(
        explain(&mut client, sql),
        "T(property,value) D(cacheable,yes) D(tables,public.t) D(settings,timezone = 'Asia/Tokyo') \
         D(kept now,no) D(entries of its shape,0) D(hits,0) D(hit rate,0.0) C(SELECT 7) Z(I)"
    );
    // In a transaction that has written, for the reason of the moment.
    client.run("BEGIN; INSERT INTO t VALUES (2, 'two')");
    assert!(
        explain(&mut client, sql)
            .starts_with("T(property,value) D(cacheable,no) D(reason,own_writes)")
    );
    client.run("ROLLBACK");
    for (sql, reason) in [
        ("SELECT now(), v FROM t", "function"),
        ("SELECT v FROM t WHERE v = 'today'", "time_word"),
        ("INSERT INTO t VALUES (3)", "not_a_read"),
        ("nonsense", "unparsable"),
    ] {
        let expected = format!("T(property,value) D(cacheable,no) D(reason,{reason}) D(because,");
        assert!(explain(&mut client, sql).starts_with(&expected), "{sql}");
    }
    // Nothing of it was run.
    assert_eq!(client.one("SELECT count(*) FROM t"), "1");
}

#[test]
fn a_table_or_a_database_is_flushed_without_the_rest() {
    let (database, forebay, mut client) = start();
    client.run("CREATE TABLE other (id int); CREATE SCHEMA s; CREATE TABLE s.t (id int)");
    let (other, same_name) = ("SELECT id FROM other", "SELECT id FROM s.t");
    let all = [READ, other, same_name, "SELECT v FROM w"];
    let fill = |client: &mut RawClient| all.map(|sql| database.until_hit(client, sql));
    fill(&mut client);
    let mut console = forebay.console();
    assert_eq!(console.query("FLUSH CACHE TABLE public.t"), "C(FLUSH) Z(I)");
    // A view goes with its tables.
    assert_eq!(all.map(|sql| database.is_hit(&mut client, sql)), [false, true, true, false]);
    fill(&mut client);
    assert_eq!(console.query("FLUSH CACHE TABLE t"), "C(FLUSH) Z(I)");
    assert_eq!(all.map(|sql| database.is_hit(&mut client, sql)), [false, true, false, false]);
    fill(&mut client);
    console.run(&format!("FLUSH CACHE DATABASE {}", database.name));
    assert_eq!(all.map(|sql| database.is_hit(&mut client, sql)), [false; 4]);
    assert_eq!(console.query("FLUSH CACHE TABLE nowhere"), "E(08P01) Z(I)");
}

#[test]
fn a_database_that_is_not_open_is_not_flushed() {
    let database = Database::with("");
    // Not one of a group, where others may have it open.
    let forebay = Forebay::with_config(&database, "[redis]\ntimeout = \"5s\"\n", &[]);
    let mut console = forebay.console();
    assert_eq!(console.query("FLUSH CACHE DATABASE nowhere"), "E(08P01) Z(I)");
    assert_eq!(console.query("FLUSH CACHE"), "C(FLUSH) Z(I)");
}

#[test]
fn a_view_is_flushed_with_what_it_shows_and_a_tree_as_a_whole() {
    let (database, forebay, mut client) = start();
    client.run(
        "CREATE VIEW above AS SELECT v FROM w; CREATE MATERIALIZED VIEW copy AS SELECT v FROM t; \
         CREATE TABLE parts (id int) PARTITION BY LIST (id); \
         CREATE TABLE part PARTITION OF parts DEFAULT; \
         CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent)",
    );
    let names = ["t", "w", "above", "copy", "parts", "part", "parent", "child"];
    let all = names.map(|name| format!("SELECT * FROM {name}"));
    let mut console = forebay.console();
    for (flushed, gone) in [
        ("w", &["t", "w", "above"][..]),
        ("public.above", &["t", "w", "above"]),
        ("copy", &["copy"]),
        ("parts", &["parts", "part"]),
        ("part", &["parts", "part"]),
        ("parent", &["parent", "child"]),
        ("child", &["parent", "child"]),
    ] {
        for sql in &all {
            database.until_hit(&mut client, sql);
        }
        assert_eq!(console.query(&format!("FLUSH CACHE TABLE {flushed}")), "C(FLUSH) Z(I)");
        for (name, sql) in names.iter().zip(&all) {
            let is_hit = database.is_hit(&mut client, sql);
            assert_eq!(is_hit, !gone.contains(name), "{name} after {flushed}");
        }
    }
}

#[test]
fn drivers_ask_by_the_extended_protocol() {
    let (database, forebay, mut client) = start();
    database.until_hit(&mut client, READ);
    let explain = format!("EXPLAIN CACHE {READ}");
    let simple = client.query(&explain);
    let rows = simple.strip_prefix("T(property,value) ").unwrap();
    let all = [parse("", &explain, &[]), bind("", "", &[]), describe_portal(""), execute("", 0)];
    assert_eq!(client.ask(&[all.concat(), sync()]), format!("1 2 {simple}"));
    // Prepared and described first, then run, then closed.
    let prepared = client.ask(&[parse("e", &explain, &[]), describe_statement("e"), sync()]);
    assert_eq!(prepared, "1 t T(property,value) Z(I)");
    for _ in 0..2 {
        let run = client.ask(&[bind("", "e", &[]), execute("", 0), sync()]);
        assert_eq!(run, format!("2 {rows}"));
    }
    assert_eq!(client.ask(&[close_statement("e"), sync()]), "3 Z(I)");
    // With a parameter that nobody declared.
    let by_id = "SELECT v FROM t WHERE id = $1";
    client.ask(&[parse("r", by_id, &[]), sync()]);
    let run = [bind("", "r", &[Some("1")]), execute("", 0), sync()];
    client.ask(&run);
    client.ask(&run);
    let explain = format!("EXPLAIN CACHE {by_id}");
    client.send(&[parse("p", &explain, &[]), describe_statement("p"), sync()].concat());
    let described = client.until(b'Z');
    assert_eq!((described[1].tag, &described[1].body[..]), (b't', &[0, 1, 0, 0, 0, 25][..]));
    let mut asked = |id: &str| client.ask(&[bind("", "p", &[Some(id)]), execute("", 0), sync()]);
    assert!(asked("1").contains("D(kept now,yes) D(entries of its shape,1) D(hits,1)"));
    assert!(asked("2").contains("D(kept now,no) D(entries of its shape,1) D(hits,1)"));
    assert!(asked("now").contains("D(reason,time_word)"));
    // Together with another statement it is PostgreSQL's to refuse.
    let mixed = [parse("", READ, &[]), parse("q", &explain, &[]), sync()];
    assert_eq!(client.ask(&mixed), "1 E(42601) Z(I)");
    // The cache is declined by this protocol too.
    let set =
        [parse("", "SET forebay.cache = off", &[]), bind("", "", &[]), execute("", 0), sync()];
    assert_eq!(client.ask(&set), "1 2 C(SET) Z(I)");
    assert!(!database.is_hit(&mut client, READ));
    assert!(database.is_hit(&mut forebay.client(), READ));
}

#[test]
fn the_answers_of_a_role_are_flushed_without_those_of_others() {
    let database = Database::apart(SCHEMA);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    let name = format!("flushed_{}", database.name);
    database.admin().run(&format!("CREATE ROLE \"{name}\"; GRANT \"{name}\" TO app"));
    client.run(&format!("GRANT SELECT ON t TO \"{name}\""));
    let mut other = forebay.client();
    other.run(&format!("SET ROLE \"{name}\""));
    database.until_hit(&mut client, READ);
    database.until_hit(&mut other, READ);
    let mut console = forebay.console();
    assert_eq!(console.query(&format!("FLUSH CACHE ROLE \"{name}\"")), "C(FLUSH) Z(I)");
    assert!(database.is_hit(&mut client, READ));
    assert!(!database.is_hit(&mut other, READ) && database.is_hit(&mut other, READ));
    // Whoever has logged in as it, whatever role was taken since.
    assert_eq!(console.query("FLUSH CACHE ROLE app"), "C(FLUSH) Z(I)");
    assert!(!database.is_hit(&mut client, READ) && !database.is_hit(&mut other, READ));
}
