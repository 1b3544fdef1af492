//! Savepoints of a transaction that has only hit: they need no server, and nobody can tell.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, bind, describe_portal, execute, parse, query, sync};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                     INSERT INTO t VALUES (1, 'one'), (2, 'two')";
const READ: &str = "SELECT v FROM t WHERE id = 1";
const ALL: &str = "SELECT id FROM t ORDER BY id";

/// One server in all, and nobody waits long for it.
const ONE: &str = "[pool]\ndefault_pool_size = 1\nquery_wait_timeout = \"3s\"\n";

/// A client for which `READ` is a hit.
fn start() -> (Database<'static>, Forebay, RawClient) {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, ONE, &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    (database, forebay, client)
}

fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[]), describe_portal(""), execute("", 0)].concat()
}

/// The ways to send these statements: as queries, each as a group of its own, all as one.
fn manners(statements: &[&str]) -> [Vec<Vec<u8>>; 3] {
    let group = |sql: &&str| [extended(sql), sync()].concat();
    let together = statements.iter().map(|sql| extended(sql)).chain([sync()]).collect::<Vec<_>>();
    [
        statements.iter().map(|sql| query(sql)).collect(),
        statements.iter().map(group).collect(),
        vec![together.concat()],
    ]
}

/// All that comes until each of these has been answered.
fn ask(client: &mut RawClient, requests: &[Vec<u8>]) -> String {
    let mut heard = Vec::new();
    for request in requests {
        client.send(request);
        heard.push(client.replies());
    }
    heard.join(" ")
}

#[test]
fn savepoints_around_hits_take_no_server() {
    let (database, forebay, mut client) = start();
    let mut holder = forebay.client();
    holder.hold_server();
    let mut direct = database.direct();
    for statements in [
        &["BEGIN", "SAVEPOINT a", READ, "RELEASE SAVEPOINT a", "COMMIT"][..],
        &["BEGIN", "SAVEPOINT a", READ, "ROLLBACK TO SAVEPOINT a", READ, "RELEASE a", "COMMIT"],
        &["BEGIN", "savepoint a;", "SAVEPOINT b", "SAVEPOINT a", READ, "RELEASE b", "ROLLBACK"],
        &["BEGIN", "SAVEPOINT A", "SAVEPOINT \"A\"", "RELEASE a", "COMMIT"],
        &["BEGIN", "SAVEPOINT a", "SAVEPOINT a", "RELEASE a", "RELEASE a", "END"],
        &["BEGIN READ ONLY", "/* tag */ SAVEPOINT s1_x1 -- tag", READ, "ABORT"],
        &["BEGIN", "SAVEPOINT a", "SAVEPOINT b", "ROLLBACK WORK TO a", "RELEASE a", "COMMIT"],
    ] {
        for requests in &manners(statements)[..2] {
            assert_eq!(ask(&mut client, requests), ask(&mut direct, requests), "{statements:?}");
        }
    }
    let pipelines = [
        manners(&["BEGIN", "SAVEPOINT a", READ]),
        manners(&["ROLLBACK TO a", "RELEASE a", "SAVEPOINT b", READ]),
        manners(&["RELEASE b", "COMMIT"]),
    ];
    for [_, _, together] in &pipelines {
        assert_eq!(ask(&mut client, together), ask(&mut direct, together));
    }
    holder.run("COMMIT");
}

#[test]
fn a_savepoint_prepared_by_name_is_set_by_name() {
    let (_database, forebay, mut client) = start();
    for sql in ["SAVEPOINT a", "ROLLBACK TO a", "RELEASE a"] {
        assert_eq!(client.ask(&[parse(sql, sql, &[]), sync()]), "1 Z(I)");
    }
    let mut holder = forebay.client();
    holder.hold_server();
    client.run("BEGIN");
    for (name, tag) in
        [("SAVEPOINT a", "SAVEPOINT"), ("ROLLBACK TO a", "ROLLBACK"), ("RELEASE a", "RELEASE")]
    {
        let heard = client.ask(&[bind("", name, &[]), execute("", 0), sync()]);
        assert_eq!(heard, format!("2 C({tag}) Z(T)"));
    }
    client.run("COMMIT");
    holder.run("COMMIT");
}

#[test]
fn the_savepoints_that_are_left_are_set_in_front_of_what_is_sent() {
    let (database, _forebay, mut client) = start();
    for sql in ["BEGIN", "SAVEPOINT gone", "RELEASE gone", "SAVEPOINT \"Left 1\"", READ] {
        client.run(sql);
    }
    for sql in ["SAVEPOINT \"left\"\"2\"", "SAVEPOINT undone", "ROLLBACK TO \"left\"\"2\""] {
        client.run(sql);
    }
    assert_eq!(database.seen("SAVEPOINT \"Left 1\""), 0);
    client.run("INSERT INTO t VALUES (3, 'three')");
    for (name, times) in [("gone", 0), ("Left 1", 1), ("left\"\"2", 1), ("undone", 0)] {
        assert_eq!(database.seen(&format!("SAVEPOINT \"{name}\"")), times, "{name}");
    }
    client.run("ROLLBACK TO \"left\"\"2\"");
    client.run("INSERT INTO t VALUES (4, 'four')");
    client.run("RELEASE \"Left 1\"");
    assert_eq!(client.query("RELEASE \"left\"\"2\""), "E(3B001) Z(E)");
    client.run("ROLLBACK");
    assert_eq!(client.query(ALL), "T(id) D(1) D(2) C(SELECT 2) Z(I)");
}

#[test]
fn nobody_can_tell_that_savepoints_were_kept_back() {
    let (database, forebay, mut client) = start();
    let mut direct = database.direct();
    let insert = "INSERT INTO t VALUES (3, 'three')";
    let long = format!("SAVEPOINT {}", "n".repeat(64));
    let again = format!("RELEASE {}", "n".repeat(63));
    for statements in [
        &["BEGIN", "SAVEPOINT a", insert, "ROLLBACK TO a", ALL, "COMMIT"][..],
        &["BEGIN", "SAVEPOINT a", READ, insert, "RELEASE a", "ROLLBACK TO a", ALL, "COMMIT"],
        &["BEGIN", "SAVEPOINT a", READ, insert, "SAVEPOINT b", "ROLLBACK TO a", ALL, "COMMIT"],
        &["BEGIN", "SAVEPOINT a", "SAVEPOINT a", insert, "RELEASE a", "ROLLBACK TO a", ALL],
        &["BEGIN", "SAVEPOINT a", READ, "SELECT 1/0", READ, "ROLLBACK TO a", READ, "COMMIT"],
        &["BEGIN", "SAVEPOINT a", READ, "RELEASE b", "ROLLBACK TO a", READ, "COMMIT"],
        &["BEGIN", "SAVEPOINT a", READ, "ROLLBACK TO b", "ROLLBACK TO a", "RELEASE a", "COMMIT"],
        &["BEGIN", "RELEASE a", "COMMIT", READ],
        &["BEGIN", "SAVEPOINT a", "RELEASE a", "RELEASE a", "ROLLBACK"],
        &["BEGIN", "SAVEPOINT A", "RELEASE \"A\"", "ROLLBACK TO a", "COMMIT"],
        &["BEGIN", "SAVEPOINT \"\u{e4}\"", READ, "RELEASE \"\u{c4}\"", "COMMIT"],
        &["BEGIN", &long, READ, &again, "COMMIT"],
        &["BEGIN", "SAVEPOINT a", "SET LOCAL work_mem = '7MB'", "ROLLBACK TO a", "SHOW work_mem"],
        &["BEGIN", "SAVEPOINT a", "SET work_mem = '7MB'", "RELEASE a", "COMMIT", "SHOW work_mem"],
        &["BEGIN", "SAVEPOINT a", "SET work_mem = '8MB'", "ROLLBACK TO a", "SHOW work_mem", READ],
        &["BEGIN", "SAVEPOINT a", READ, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "COMMIT"],
        &["BEGIN", "SAVEPOINT a", "SET TRANSACTION READ ONLY", insert, "ROLLBACK TO a", "COMMIT"],
        &["BEGIN READ ONLY", "SAVEPOINT a", insert, "ROLLBACK TO a", READ, "RELEASE a", "COMMIT"],
        &["BEGIN", "SAVEPOINT a", "COMMIT AND CHAIN", READ, "RELEASE a", "ROLLBACK"],
        &["BEGIN", "SAVEPOINT a", "COMMIT", "SAVEPOINT a", "ROLLBACK TO a", "RELEASE a"],
        &["BEGIN", "SAVEPOINT a", "ROLLBACK", "BEGIN", "ROLLBACK TO a", "COMMIT"],
        &["BEGIN", "SAVEPOINT a", "BEGIN", "RELEASE a", "COMMIT"],
        &[
            "BEGIN",
            "SAVEPOINT a",
            "DECLARE c CURSOR FOR SELECT v FROM t",
            "ROLLBACK TO a",
            "FETCH c",
        ],
        &["BEGIN", "SAVEPOINT", "ROLLBACK"],
        &["BEGIN", "SAVEPOINT a; SELECT 1", "ROLLBACK TO a; SELECT 2", "COMMIT"],
        &["SAVEPOINT a", "RELEASE a", "ROLLBACK TO a", READ],
    ] {
        for requests in manners(statements) {
            let expected = ask(&mut direct, &requests);
            assert_eq!(ask(&mut client, &requests), expected, "{statements:?}");
            for client in [&mut client, &mut direct] {
                client.query("ROLLBACK");
                client.query("RESET work_mem");
                client.query("DELETE FROM t WHERE id = 3");
            }
        }
    }
    // The one server is nobody's.
    assert_eq!(forebay.client().one("SELECT 7"), "7");
}

#[test]
fn with_many_savepoints_the_transaction_is_sent_on() {
    let (database, _forebay, mut client) = start();
    client.run("BEGIN");
    for number in 1..=50 {
        client.run(&format!("SAVEPOINT s{number}"));
    }
    assert_eq!(database.seen("SAVEPOINT \"s1\""), 0);
    client.run("SAVEPOINT s51");
    for set in ["SAVEPOINT \"s1\"", "SAVEPOINT \"s50\"", "SAVEPOINT s51"] {
        assert_eq!(database.seen(set), 1, "{set}");
    }
    client.run("INSERT INTO t VALUES (3, 'three')");
    client.run("ROLLBACK TO s50");
    client.run("RELEASE s1");
    client.run("COMMIT");
    assert_eq!(client.query(ALL), "T(id) D(1) D(2) C(SELECT 2) Z(I)");
}
