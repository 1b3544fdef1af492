//! Servers that die: clients hear of it, the next ones work, and nothing untrue is answered.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, Postgres};
use crate::support::raw::{Login, RawClient, message, query};
use crate::support::scripted::{Reply, ScriptedServer, complete, ready};
use crate::support::wait_until;

const TABLE: &str = "CREATE TABLE t (v text); INSERT INTO t VALUES ('old')";
const READ: &str = "SELECT v FROM t";

fn signal(name: &str, pid: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), pid]).status().unwrap();
    assert!(sent.success(), "{name} to {pid}");
}

#[test]
fn a_server_killed_in_a_query_costs_that_client_its_connection_and_no_other() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &["--pool-size", "1"]);
    let mut one = forebay.client();
    let mut two = forebay.client();
    let pid = one.one("SELECT pg_backend_pid()");
    one.send(&query("SELECT pg_sleep(60)"));
    let mut admin = database.admin();
    wait_until("the query runs", || {
        admin.one(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'
                   AND datname = current_database()",
        ) == "1"
    });
    admin.run(&format!("SELECT pg_terminate_backend({pid})"));
    let told = one.until_closed();
    assert!(told.contains("E("), "{told}");
    assert_ne!(two.one("SELECT pg_backend_pid()"), pid);
}

#[test]
fn an_idle_server_that_died_is_not_given_to_a_client() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &["--pool-size", "1"]);
    let mut client = forebay.client();
    for _ in 0..5 {
        let pid = client.one("SELECT pg_backend_pid()");
        let mut admin = database.admin();
        admin.run(&format!("SELECT pg_terminate_backend({pid})"));
        let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
        wait_until("the backend is gone", || admin.one(&gone) == "0");
        assert_ne!(client.one("SELECT pg_backend_pid()"), pid);
    }
}

#[test]
fn after_a_restart_of_postgres_clients_work_and_nothing_old_is_served() {
    // A crash may forget what was committed asynchronously.
    let mut postgres = Postgres::private("synchronous_commit = on");
    let name = {
        let database = postgres.database();
        database.direct().run(TABLE);
        database.name
    };
    let retry = "[server]\nserver_login_retry = \"100ms\"\n";
    let forebay = {
        let database = postgres.database_called(&name);
        let forebay = Forebay::with_config(&database, retry, &["--max-age", "1h"]);
        let mut client = forebay.client();
        database.until_hit(&mut client, READ);
        client.hold_server();
        drop(database);
        (forebay, client)
    };
    let (forebay, mut client) = forebay;
    postgres.stop();
    let told = client.until_closed();
    assert!(told.is_empty() || told.contains("E("), "{told}");
    postgres.start();
    let database = postgres.database_called(&name);
    database.direct().run("UPDATE t SET v = 'behind'");
    wait_until("clients work again", || {
        let login = Login::new("app", "secret", &database.name);
        forebay.log_in(&login).is_ok_and(|client| client.ask_last(READ).contains("behind"))
    });
}

/// PostgreSQL recovers from a crash of one of its processes without being started anew, and has
/// forgotten what the WAL writer had not yet written.
#[test]
fn a_commit_that_a_crash_has_lost_is_not_served() {
    let postgres = Postgres::private("");
    let database = postgres.database();
    database.direct().run(TABLE);
    let config = "[cache]\ncatalog_poll = \"1h\"\nmax_age = \"1h\"\n[server]\nserver_login_retry = \"100ms\"\n";
    let forebay = Forebay::with_config(&database, config, &[]);
    let mut client = forebay.client();
    let mut admin = database.admin();
    admin.run("CHECKPOINT");
    let walwriter = admin.one("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");
    signal("STOP", &walwriter);
    client.run("UPDATE t SET v = 'lost'");
    database.until_hit(&mut client, READ);
    assert_eq!(client.one(READ), "lost");
    signal("KILL", &walwriter);
    let login = Login::new("postgres", "", &database.name);
    wait_until("PostgreSQL has recovered", || {
        let direct = RawClient::log_in(postgres.port, &login);
        direct.is_ok_and(|direct| direct.ask_last(READ).contains("old"))
    });
    wait_until("what is lost is served no more", || client.one(READ) == "old");
}

#[test]
fn a_commit_whose_server_is_cut_off_is_reported_lost() {
    let server = ScriptedServer::start(|tag, body| match tag {
        b'Q' if body.starts_with(b"COMMIT") => Reply::Cut,
        b'Q' if body.starts_with(b"BEGIN") => {
            Reply::Send([complete("BEGIN"), message(b'Z', b"T")].concat())
        }
        b'Q' if body.starts_with(b"UPDATE") => {
            Reply::Send([complete("UPDATE 1"), message(b'Z', b"T")].concat())
        }
        b'Q' => Reply::Send([complete("SET"), ready()].concat()),
        _ => Reply::Cut,
    });
    let forebay = Forebay::launch(&server.url(), "app", "", &[]);
    let mut client = forebay.client();
    client.run("BEGIN");
    client.run("UPDATE t SET v = 1");
    client.send(&query("COMMIT"));
    let told = client.until_closed();
    assert!(told.starts_with("E("), "{told}");
    forebay.log_contains("server lost with a commit on the wire");
}

#[test]
fn a_server_that_refuses_a_newer_protocol_is_spoken_to_in_the_old_one() {
    let server = ScriptedServer::start_old(|tag, _| match tag {
        b'Q' => Reply::Send([complete("SELECT 0"), ready()].concat()),
        _ => Reply::Cut,
    });
    let forebay = Forebay::launch(&server.url(), "app", "", &[]);
    assert_eq!(forebay.client().query("SELECT 1"), "C(SELECT 0) Z(I)");
}

#[test]
fn a_server_that_breaks_the_protocol_is_not_used_again() {
    let broken = Arc::new(AtomicBool::new(true));
    let breaks = Arc::clone(&broken);
    let server = ScriptedServer::start(move |tag, body| match tag {
        b'Q' if body.starts_with(b"SELECT odd") && breaks.swap(false, Ordering::SeqCst) => {
            Reply::Send([complete("SELECT 0"), ready(), complete("SELECT 0"), ready()].concat())
        }
        b'Q' => Reply::Send([complete("SELECT 0"), ready()].concat()),
        _ => Reply::Cut,
    });
    let forebay = Forebay::launch(&server.url(), "app", "", &["--pool-size", "1"]);
    let mut one = forebay.client();
    one.send(&query("SELECT odd"));
    // It may hear the first reply or the end; the second reply belongs to nobody.
    let mut two = forebay.client();
    assert_eq!(two.query("SELECT 1"), "C(SELECT 0) Z(I)");
    assert_eq!(two.query("SELECT 2"), "C(SELECT 0) Z(I)");
    assert!(!broken.load(Ordering::SeqCst));
}

#[test]
fn a_write_whose_client_has_gone_is_waited_for_longer_than_answers_live() {
    let database = Database::with(&format!("{TABLE}; CREATE TABLE clock AS SELECT 1 AS v"));
    let forebay = Forebay::with_config(&database, "[cache]\nmax_age = \"1s\"\n", &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    let mut locker = database.admin();
    locker.run("BEGIN; SELECT * FROM t FOR UPDATE");
    let mut writer = forebay.client();
    writer.send(&query("UPDATE t SET v = 'new'"));
    let mut admin = database.admin();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
        AND datname = current_database()";
    wait_until("the write waits", || admin.one(waits) == "1");
    drop(writer);
    forebay.log_contains("server lost with a commit on the wire");
    // An answer lives and dies twice.
    for _ in 0..2 {
        database.until_hit(&mut client, "SELECT v FROM clock");
        wait_until("it is too old", || !database.is_hit(&mut client, "SELECT v FROM clock"));
    }
    assert_eq!(client.one(READ), "old");
    assert!(!database.is_hit(&mut client, READ));
    locker.run("COMMIT");
    wait_until("the write is done", || admin.one("SELECT v FROM t") == "new");
    assert_eq!(client.one(READ), "new");
    database.until_hit(&mut client, READ);
}
