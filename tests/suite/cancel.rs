//! A cancel request stops the query it was meant for and no other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use crate::pooling::until_waiting;
use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, cancel, query};
use crate::support::scripted::{Reply, ScriptedServer, complete, ready};
use crate::support::{DEADLINE, wait_until};

const SLEEP: &str = "SELECT pg_sleep(60)";

fn send_cancel(forebay: &Forebay, pid: u32, key: &[u8]) {
    let mut connection = RawClient::connect(forebay.port);
    connection.send(&cancel(pid, key));
    assert_eq!(connection.until_closed(), "");
}

/// Until PostgreSQL runs this many sleeps.
fn wait_for_sleeps(database: &Database<'_>, count: &str) {
    let mut admin = database.admin();
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
               AND state = 'active' AND wait_event = 'PgSleep'";
    wait_until("the query runs", || admin.one(sql) == count);
}

#[test]
fn a_cancel_stops_the_query_of_its_client_and_no_other() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.send(&query(SLEEP));
    two.send(&query(SLEEP));
    wait_for_sleeps(&database, "2");
    send_cancel(&forebay, one.pid, &one.key.clone());
    assert_eq!(one.replies(), "T(pg_sleep) E(57014) Z(I)");
    wait_for_sleeps(&database, "1");
    send_cancel(&forebay, two.pid, &two.key.clone());
    assert_eq!(two.replies(), "T(pg_sleep) E(57014) Z(I)");
    assert_eq!(one.one("SELECT 1"), "1");
}

#[test]
fn a_cancel_with_a_wrong_key_does_nothing() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    let mut one = forebay.client();
    one.send(&query(SLEEP));
    wait_for_sleeps(&database, "1");
    let mut wrong = one.key.clone();
    wrong[0] ^= 1;
    send_cancel(&forebay, one.pid, &wrong);
    send_cancel(&forebay, one.pid.wrapping_add(1), &one.key.clone());
    wait_for_sleeps(&database, "1");
    send_cancel(&forebay, one.pid, &one.key.clone());
    assert_eq!(one.replies(), "T(pg_sleep) E(57014) Z(I)");
}

#[test]
fn a_cancel_of_an_idle_client_does_not_reach_who_has_its_server_now() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &["--pool-size", "1", "--cache", "off"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    for _ in 0..20 {
        one.run("SELECT 1");
        two.send(&query("SELECT pg_sleep(0.02)"));
        send_cancel(&forebay, one.pid, &one.key.clone());
        assert_eq!(two.replies(), "T(pg_sleep) D C(SELECT 1) Z(I)");
    }
}

#[test]
fn a_late_cancel_hits_no_later_query() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &["--pool-size", "1", "--cache", "off"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    for _ in 0..50 {
        one.send(&query("SELECT pg_sleep(0.001)"));
        // Races with the end of the query; either outcome is right, for this client alone.
        let mut connection = RawClient::connect(forebay.port);
        connection.send(&cancel(one.pid, &one.key.clone()));
        let replies = one.replies();
        assert!(
            replies.ends_with("C(SELECT 1) Z(I)") || replies.ends_with("E(57014) Z(I)"),
            "{replies}"
        );
        assert_eq!(two.query("SELECT pg_sleep(0.002)"), "T(pg_sleep) D C(SELECT 1) Z(I)");
        assert_eq!(connection.until_closed(), "");
    }
}

#[test]
fn a_cancel_of_a_hit_is_swallowed() {
    let database = Database::with("CREATE TABLE t (v int); INSERT INTO t VALUES (7)");
    let forebay = Forebay::start(&database, &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    let sql = "SELECT v FROM t";
    database.until_hit(&mut one, sql);
    let mut admin = database.admin();
    admin.run("SELECT pg_advisory_lock(1)");
    two.send(&query("SELECT pg_advisory_xact_lock(1)"));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'
                 AND datname = current_database()";
    wait_until("the query runs", || admin.one(waits) == "1");
    assert!(database.is_hit(&mut one, sql));
    send_cancel(&forebay, one.pid, &one.key.clone());
    admin.run("SELECT pg_advisory_unlock(1)");
    assert_eq!(two.replies(), "T(pg_advisory_xact_lock) D C(SELECT 1) Z(I)");
}

#[test]
fn a_client_that_waits_for_a_server_can_be_cancelled() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.hold_server();
    two.send(&query("SELECT 1"));
    until_waiting(&forebay, 1);
    send_cancel(&forebay, two.pid, &two.key.clone());
    // PgBouncer disconnects it; whatever it is told, it must not be left waiting.
    assert_ne!(two.message().tag, b'T');
    assert_eq!(one.query("COMMIT"), "C(COMMIT) Z(I)");
}

/// A PostgreSQL that never says that it has dealt with a cancel request. Its connections tell their
/// numbers; one that is asked for `held` says so to `held` and answers when `go` says so.
fn deaf_to_cancels(held: mpsc::Sender<()>, go: mpsc::Receiver<()>) -> ScriptedServer {
    let go = Arc::new(Mutex::new(go));
    let connections = AtomicUsize::new(0);
    ScriptedServer::start_each(move || {
        let (held, go) = (held.clone(), Arc::clone(&go));
        let number = connections.fetch_add(1, Ordering::SeqCst);
        Box::new(move |tag, body| match tag {
            b'Q' => {
                if body.starts_with(b"SELECT held") {
                    held.send(()).unwrap();
                    go.lock().unwrap().recv_timeout(DEADLINE).unwrap();
                }
                Reply::Send([complete(&format!("SELECT {number}")), ready()].concat())
            }
            _ => Reply::Cut,
        })
    })
}

/// A cancel request that is given up, as these settings say, may still arrive.
fn check_given_up(toml: &str) {
    let ((held_in, held), (go, go_out)) = (mpsc::channel(), mpsc::channel());
    let server = deaf_to_cancels(held_in, go_out);
    let forebay = Forebay::launch(&server.url(), "app", toml, &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.send(&query("SELECT held"));
    held.recv_timeout(DEADLINE).unwrap();
    let mut connection = RawClient::connect(forebay.port);
    connection.send(&cancel(one.pid, &one.key.clone()));
    let _told = connection.until_closed();
    go.send(()).unwrap();
    let first = one.replies();
    assert!(first.ends_with(" Z(I)"), "{first}");
    assert_ne!(two.query("SELECT 1"), first, "the server is not handed on");
}

#[test]
fn a_server_that_a_cancel_may_still_reach_is_not_handed_on() {
    check_given_up("[server]\ncancel_wait_timeout = \"100ms\"\n");
    check_given_up("[listen]\nclient_login_timeout = \"2s\"\n");
}

#[test]
fn a_cancel_waits_while_queries_of_ours_run_in_front_of_the_statement() {
    let database = Database::with("");
    let toml = format!(
        "[databases]\n{} = {{ host = \"127.0.0.1\", port = {}, \
         connect_query = \"SELECT pg_advisory_xact_lock_shared(7)\" }}\n",
        database.name, database.postgres.port
    );
    let forebay = Forebay::with_config(&database, &toml, &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    let mut admin = database.admin();
    // What it did is taken back, and the connect_query run again, for the next client.
    one.run("DO $$ BEGIN PERFORM set_config('work_mem', '7MB', false); END $$");
    admin.run("SELECT pg_advisory_lock(7)");
    two.send(&query(SLEEP));
    wait_until("our query waits", || {
        admin.one(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        ) == "1"
    });
    let mut connection = RawClient::connect(forebay.port);
    connection.send(&cancel(two.pid, &two.key.clone()));
    // Were it sent at once, PostgreSQL would have it before these.
    for _ in 0..10 {
        database.direct().run("SELECT 1");
    }
    admin.run("SELECT pg_advisory_unlock(7)");
    assert_eq!(two.replies(), "T(pg_sleep) E(57014) Z(I)");
    assert_eq!(connection.until_closed(), "");
    assert_eq!(two.one("SELECT 1"), "1");
}
