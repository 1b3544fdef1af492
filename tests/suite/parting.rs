//! Clients that go without a word: what they left undone is undone, and their server is kept where
//! that is cheap.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, USER};
use crate::support::raw::{bind, execute, flush, parse, query};
use crate::support::wait_until;

#[test]
fn an_abandoned_transaction_is_rolled_back_and_its_server_kept() {
    let database = Database::with("CREATE TABLE t (v int)");
    let forebay = Forebay::start(&database, &["--pool-size", "1", "--cache", "off"]);
    let mut one = forebay.client();
    one.run("BEGIN");
    one.run("SET work_mem = '9MB'");
    one.run("INSERT INTO t VALUES (1)");
    let pid = one.one("SELECT pg_backend_pid()");
    drop(one);
    let mut two = forebay.client();
    assert_eq!(two.one("SELECT pg_backend_pid()"), pid);
    assert_eq!(two.one("SELECT count(*) FROM t"), "0");
    assert_eq!(two.one("SHOW work_mem"), "4MB");
    let told = forebay.console().query("SHOW ABANDONED");
    let row = format!("D({},{USER},0,1,0)", database.name);
    assert!(told.contains(&row), "{told}");
}

#[test]
fn a_failed_transaction_is_no_different() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &["--pool-size", "1", "--cache", "off"]);
    let mut one = forebay.client();
    let pid = one.one("SELECT pg_backend_pid()");
    one.run("BEGIN");
    assert_eq!(one.query("SELECT 1/0"), "E(22012) Z(E)");
    drop(one);
    assert_eq!(forebay.client().one("SELECT pg_backend_pid()"), pid);
}

#[test]
fn what_was_sent_is_run_without_its_client_as_postgres_does() {
    let database = Database::with("CREATE TABLE t (v int)");
    let mut runs = 0;
    // It is, if the machine is not too slow.
    wait_until("the server is kept", || {
        let forebay = Forebay::start(&database, &["--pool-size", "1", "--cache", "off"]);
        let mut one = forebay.client();
        let pid = one.one("SELECT pg_backend_pid()");
        one.send(&query("INSERT INTO t SELECT 1 FROM pg_sleep(0.01)"));
        drop(one);
        runs += 1;
        let (mut two, runs) = (forebay.client(), runs.to_string());
        wait_until("it is run", || two.one("SELECT count(*) FROM t") == runs);
        two.one("SELECT pg_backend_pid()") == pid
    });
}

#[test]
fn a_long_statement_or_one_without_its_sync_costs_the_server() {
    let database = Database::with("CREATE TABLE t (v int)");
    let forebay = Forebay::start(&database, &["--pool-size", "1", "--cache", "off"]);
    let mut one = forebay.client();
    let pid = one.one("SELECT pg_backend_pid()");
    one.send(&query("SELECT pg_sleep(60)"));
    let mut admin = database.admin();
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'
                  AND datname = current_database()";
    wait_until("the query runs", || admin.one(asleep) == "1");
    drop(one);
    let mut two = forebay.client();
    let second = two.one("SELECT pg_backend_pid()");
    assert_ne!(second, pid);
    let insert = parse("", "INSERT INTO t VALUES (1)", &[]);
    two.send(&[insert, bind("", "", &[]), execute("", 0), flush()].concat());
    two.expect("1 2 C(INSERT 0 1)");
    drop(two);
    let mut three = forebay.client();
    assert_ne!(three.one("SELECT pg_backend_pid()"), second);
    // Never committed, since its client never said so.
    assert_eq!(three.one("SELECT count(*) FROM t"), "0");
    forebay.log_contains("closing because: client disconnect while server was not ready");
}
