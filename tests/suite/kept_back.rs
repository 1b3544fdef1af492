//! Transactions that only hit never take a server, and nobody can tell.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, bind, describe_portal, execute, parse, query, show, sync};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                     INSERT INTO t VALUES (1, 'one'), (2, 'two')";
const READ: &str = "SELECT v FROM t ORDER BY id";
const ROWS: &str = "T(v) D(one) D(two) C(SELECT 2)";

/// One server in all, and nobody waits for it until the test's end.
const ONE: &str = "[pool]\ndefault_pool_size = 1\nquery_wait_timeout = \"5s\"\n";

/// A client for which `READ` is a hit.
fn start(toml: &str) -> (Database<'static>, Forebay, RawClient) {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, toml, &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    (database, forebay, client)
}

fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[]), describe_portal(""), execute("", 0)].concat()
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
fn a_transaction_that_only_hits_takes_no_server() {
    let (database, forebay, mut client) = start(ONE);
    let mut holder = forebay.client();
    holder.hold_server();
    let mut direct = database.direct();
    let queries = |begin: &str, end: &str| vec![query(begin), query(READ), query(READ), query(end)];
    let groups = |begin: &str, end: &str| {
        let alone = |sql| [extended(sql), sync()].concat();
        vec![alone(begin), alone(READ), alone(end)]
    };
    let together = |begin: &str, end: &str| {
        // As JDBC has it: no Describe, and one row at most of what has none.
        let word = |sql| [parse("", sql, &[]), bind("", "", &[]), execute("", 1)].concat();
        vec![[word(begin), extended(READ), sync()].concat(), [word(end), sync()].concat()]
    };
    let forms = [
        ("BEGIN", "COMMIT"),
        ("begin;", "rollback;"),
        ("START TRANSACTION", "END"),
        ("/* tag */ BEGIN WORK -- tag", "ABORT"),
        ("BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED", "COMMIT WORK"),
        ("BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY", "COMMIT AND NO CHAIN"),
    ];
    let mut scripts = Vec::new();
    for (begin, end) in forms {
        scripts.extend([queries(begin, end), groups(begin, end), together(begin, end)]);
    }
    scripts.push(vec![[extended("BEGIN"), extended("COMMIT"), sync()].concat()]);
    let before = forebay.console().column("SHOW CACHE", "transactions");
    assert_eq!(before, "0");
    for script in &scripts {
        assert_eq!(ask(&mut client, script), ask(&mut direct, script));
    }
    let after = forebay.console().column("SHOW CACHE", "transactions");
    assert_eq!(after, scripts.len().to_string());
    holder.run("COMMIT");
}

#[test]
fn a_begin_prepared_by_name_is_answered_by_name() {
    let (_database, forebay, mut client) = start(ONE);
    for word in ["BEGIN", "COMMIT"] {
        assert_eq!(client.ask(&[parse(word, word, &[]), sync()]), "1 Z(I)");
    }
    let mut holder = forebay.client();
    holder.hold_server();
    for _ in 0..2 {
        let begin = [bind("", "BEGIN", &[]), execute("", 0), extended(READ), sync()];
        assert_eq!(client.ask(&begin), format!("2 C(BEGIN) 1 2 {ROWS} Z(T)"));
        let commit = [bind("", "COMMIT", &[]), execute("", 1), sync()];
        assert_eq!(client.ask(&commit), "2 C(COMMIT) Z(I)");
    }
    holder.run("COMMIT");
}

#[test]
fn what_is_kept_back_arrives_before_the_first_statement_and_behind_the_settings() {
    let (database, forebay, mut client) = start(ONE);
    let begin = "BEGIN /* mine */";
    client.run("SET work_mem = '5MB'");
    // The server is left with other settings.
    forebay.client_with(&[("options", "-c work_mem=6MB")]).run("SELECT 1");
    client.run(begin);
    assert!(database.is_hit(&mut client, READ));
    assert_eq!(database.seen(begin), 0);
    assert_eq!(client.query("INSERT INTO t VALUES (3, 'three')"), "C(INSERT 0 1) Z(T)");
    assert_eq!(database.seen(begin), 1);
    assert_eq!(client.one("SHOW work_mem"), "5MB");
    assert_eq!(client.one("SELECT now() = statement_timestamp()"), "f");
    assert_eq!(client.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(client.one("SHOW work_mem"), "5MB");
    assert_eq!(database.direct().query(READ), format!("{ROWS} Z(I)"));
    assert_eq!(client.query(READ), format!("{ROWS} Z(I)"));
}

#[test]
fn a_client_cannot_tell_that_its_begin_was_kept_back() {
    let (database, forebay, mut client) = start(ONE);
    let mut direct = database.direct();
    let hit = |begin: &str, rest: &[&str]| {
        let script = [&[begin, READ][..], rest].concat();
        script.into_iter().map(query).collect::<Vec<_>>()
    };
    let scripts = [
        hit("BEGIN", &["SELECT 1/0", READ, "COMMIT"]),
        hit("BEGIN", &["BEGIN", READ, "COMMIT", "COMMIT", "ROLLBACK"]),
        hit("BEGIN", &["SAVEPOINT a", READ, "SELECT 1/0", "ROLLBACK TO a", READ, "COMMIT"]),
        hit("BEGIN", &["COMMIT AND CHAIN", READ, "ROLLBACK AND CHAIN", READ, "COMMIT"]),
        hit("BEGIN", &["SET LOCAL work_mem = '7MB'", "SHOW work_mem", "COMMIT", "SHOW work_mem"]),
        hit("BEGIN", &["SET work_mem = '7MB'", READ, "ROLLBACK", "SHOW work_mem"]),
        hit("BEGIN READ ONLY", &["INSERT INTO t VALUES (9, 'x')", "COMMIT"]),
        hit("BEGIN", &["SET TRANSACTION READ ONLY", "DELETE FROM t", "COMMIT"]),
        hit("BEGIN", &["INSERT INTO t VALUES (9, 'x')", READ, "ROLLBACK", READ]),
        hit("BEGIN", &["", "COMMIT"]),
        hit("BEGIN", &["nonsense", "ROLLBACK"]),
        hit("BEGIN", &["DECLARE c CURSOR FOR SELECT v FROM t", "FETCH c", "CLOSE c", "COMMIT"]),
        vec![[extended("BEGIN"), extended("SELECT 1/0"), extended(READ), sync()].concat()],
        hit("BEGIN", &["SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", READ, "COMMIT"]),
        hit(
            "BEGIN",
            &["SAVEPOINT a", READ, "set transaction_isolation = 'serializable'", "COMMIT"],
        ),
        vec![
            [extended("BEGIN"), extended(READ), sync()].concat(),
            [extended("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"), sync()].concat(),
            query("COMMIT"),
        ],
        vec![query("ROLLBACK")],
        ["BEGIN", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", READ, "COMMIT"].map(query).into(),
        vec![[extended("BEGIN"), extended(READ), extended("COMMIT"), sync()].concat()],
        vec![[extended("BEGIN"), extended("BEGIN"), sync()].concat(), query("COMMIT")],
        vec![[parse("", "BEGIN", &[23]), bind("", "", &[]), execute("", 0), sync()].concat()],
        vec![[parse("", "BEGIN", &[]), bind("", "", &[None]), execute("", 0), sync()].concat()],
        vec![query("COMMIT"), query("BEGIN; SELECT 1"), query("COMMIT")],
    ];
    for script in scripts {
        let expected = ask(&mut direct, &script);
        assert_eq!(ask(&mut client, &script), expected);
    }
    // The one server is nobody's.
    assert_eq!(forebay.client().one("SELECT 7"), "7");
}

#[test]
fn a_begin_that_asks_for_more_is_sent_at_once() {
    let (database, _forebay, mut client) = start(ONE);
    for begin in [
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "BEGIN READ WRITE",
        "BEGIN DEFERRABLE",
    ] {
        client.run(begin);
        assert_eq!(database.seen(begin), 1);
        client.run("COMMIT");
    }
    client.run("SET default_transaction_isolation = 'repeatable read'");
    let begin = "BEGIN /* by default */";
    client.run(begin);
    assert_eq!(database.seen(begin), 1);
    client.run("COMMIT");
    // It says so itself, and so it may be kept back.
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
    client.run(begin);
    assert_eq!(database.seen(begin), 0);
    client.run("COMMIT");
}

#[test]
fn a_transaction_that_cannot_get_a_server_ends_its_client() {
    let (_database, forebay, mut client) = start(ONE);
    let mut holder = forebay.client();
    holder.hold_server();
    forebay.console().run("SET query_wait_timeout = '0.3'");
    client.run("BEGIN");
    assert_eq!(client.query(READ), format!("{ROWS} Z(T)"));
    client.send(&query("INSERT INTO t VALUES (3, 'three')"));
    let error = client.message();
    assert_eq!(error.field(b'M'), "query_wait_timeout");
    assert_eq!(client.until_closed(), "");
    holder.run("COMMIT");
}

#[test]
fn postgresqls_own_patience_with_an_idle_transaction_is_kept() {
    let (database, _forebay, mut client) = start(ONE);
    let mut direct = database.direct();
    let mut ends = Vec::new();
    for client in [&mut client, &mut direct] {
        client.run("SET idle_in_transaction_session_timeout = '200ms'");
        assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
        let error = client.until(b'E').pop().unwrap();
        ends.push([error.field(b'S'), error.field(b'C'), error.field(b'M')]);
        assert_eq!(client.until_closed(), "");
    }
    assert_eq!(ends[0], ends[1]);
}

#[test]
fn a_transaction_that_is_kept_back_has_no_server_for_a_shutdown_to_wait_for() {
    let (_database, forebay, mut client) = start(ONE);
    client.run("BEGIN");
    forebay.console().run("SHUTDOWN WAIT_FOR_SERVERS");
    assert_eq!(client.until_closed(), "E(57P01)");
}

#[test]
fn a_write_of_another_client_is_seen_in_the_middle_of_a_transaction() {
    let (_database, forebay, mut client) = start("");
    client.run("BEGIN");
    assert_eq!(client.one(READ), "one");
    forebay.client().run("UPDATE t SET v = 'new' WHERE id = 1");
    assert_eq!(client.one(READ), "new");
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
}

#[test]
fn what_is_swallowed_in_front_of_a_read_is_no_part_of_its_answer() {
    let (database, forebay, mut client) = start(ONE);
    let (sql, mut other) = ("SELECT id FROM t WHERE id = 2", forebay.client());
    client.run("SET work_mem = '5MB'");
    other.run("SET work_mem = '6MB'");
    client.run("BEGIN");
    assert_eq!(client.query(sql), "T(id) D(2) C(SELECT 1) Z(T)");
    client.run("COMMIT");
    assert!(database.is_hit(&mut other, sql), "the answer was not kept");
    assert_eq!(show(&other.run_for_messages(sql)), "T(id) D(2) C(SELECT 1) Z(I)");
}
