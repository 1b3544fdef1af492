//! What clients and operators say about single sessions and statements.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::RawClient;

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
    assert_eq!(
        explain(&mut client, sql),
        "T(property,value) D(cacheable,yes) D(tables,public.t) D(settings,) D(kept now,yes) \
         C(SELECT 4) Z(I)"
    );
    client.run("SET timezone = 'Asia/Tokyo'");
    assert_eq!(
        explain(&mut client, sql),
        "T(property,value) D(cacheable,yes) D(tables,public.t) D(settings,timezone = 'Asia/Tokyo') \
         D(kept now,no) C(SELECT 4) Z(I)"
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
    assert_eq!(console.query("FLUSH CACHE DATABASE nowhere"), "E(08P01) Z(I)");
}
