//! Who asks what another is asking already waits for that answer, and gets nothing that is not
//! true for itself; and nobody is held up by whom it waits for.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, cancel, query};
use crate::support::wait_until;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1, 1000) i";

/// Takes a while, and is cached; also on a machine that is loaded far less than the 100 ms that
/// others wait for it.
const SLOW: &str = "SELECT sum(hashint4(a.id + b.id)) > 0 AS sum FROM t a, t b WHERE a.id < 50";

const CLIENTS: usize = 8;

fn start(toml: &str) -> (Database<'static>, Forebay, RawClient) {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, toml, &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT count(*) FROM t");
    (database, forebay, client)
}

fn shared(forebay: &Forebay) -> u64 {
    forebay.console().column("SHOW CACHE", "shared_fills").parse().unwrap()
}

/// What these clients are told who all ask it at once.
fn ask_at_once(clients: &mut [RawClient], sql: &str) -> Vec<String> {
    for client in &mut *clients {
        client.send(&query(sql));
    }
    clients.iter_mut().map(RawClient::replies).collect()
}

#[test]
fn what_many_ask_at_once_postgresql_is_asked_once() {
    let (database, forebay, _client) = start("");
    let expected = database.direct().query(SLOW);
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| forebay.client()).collect();
    // In transactions that have no server it is the same.
    for client in clients.iter_mut().skip(CLIENTS / 2) {
        client.run("BEGIN");
    }
    let in_block = expected.replace("Z(I)", "Z(T)");
    wait_until("all but one share one answer", || {
        let before = database.seen(SLOW);
        let answers = ask_at_once(&mut clients, SLOW);
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!(answer, if number < CLIENTS / 2 { &expected } else { &in_block });
        }
        let asked = database.seen(SLOW) - before;
        forebay.console().run("FLUSH CACHE");
        asked == 1 && shared(&forebay) > 0
    });
}

#[test]
fn who_waits_sees_what_was_written_meanwhile() {
    let (database, forebay, mut writer) = start("");
    let sql = "SELECT v FROM t WHERE id = 1";
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| forebay.client()).collect();
    for round in 0..30 {
        for client in &mut clients {
            client.send(&query(sql));
        }
        writer.run(&format!("UPDATE t SET v = 'round {round}' WHERE id = 1"));
        // Asked after the write was acknowledged.
        let mut late = forebay.client();
        assert_eq!(late.one(sql), format!("round {round}"));
        for client in &mut clients {
            client.replies();
            assert_eq!(client.one(sql), format!("round {round}"));
        }
    }
    assert_eq!(database.direct().one(sql), "round 29");
}

#[test]
fn who_waits_for_one_that_is_blocked_asks_for_itself() {
    let (database, forebay, _client) = start("");
    let (mut blocker, mut leader, mut other) =
        (database.direct(), forebay.client(), forebay.client());
    let sql = "SELECT count(*) FROM t WHERE id > 7";
    blocker.run("BEGIN; LOCK TABLE t");
    leader.send(&query(sql));
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = '{sql}'"
    );
    let mut admin = database.admin();
    wait_until("the first waits", || admin.one(&waits) == "1");
    other.run("SET statement_timeout = '1s'");
    assert_eq!(other.query(sql), "E(57014) Z(I)");
    other.run("SET statement_timeout = 0");
    other.send(&query(sql));
    wait_until("both wait", || admin.one(&waits) == "2");
    blocker.run("COMMIT");
    assert_eq!(leader.replies(), "T(count) D(993) C(SELECT 1) Z(I)");
    assert_eq!(other.replies(), "T(count) D(993) C(SELECT 1) Z(I)");
}

#[test]
fn a_leader_that_is_gone_cancelled_or_failing_holds_nobody() {
    let (database, forebay, _client) = start("");
    let mut admin = database.admin();
    for (number, end) in ["gone", "cancelled", "killed"].into_iter().enumerate() {
        let sql = format!("SELECT count(*) FROM t WHERE id > {number}");
        let mut blocker = database.direct();
        blocker.run("BEGIN; LOCK TABLE t");
        let (mut leader, mut other) = (forebay.client(), forebay.client());
        leader.send(&query(&sql));
        let waits = format!(
            "SELECT coalesce(max(pid), 0) FROM pg_stat_activity
             WHERE wait_event_type = 'Lock' AND query = '{sql}'"
        );
        wait_until("the first waits", || admin.one(&waits) != "0");
        let pid = admin.one(&waits);
        other.send(&query(&sql));
        match end {
            "gone" => drop(leader),
            "cancelled" => {
                RawClient::connect(forebay.port).send(&cancel(leader.pid, &leader.key));
                assert_eq!(leader.replies(), "E(57014) Z(I)");
            }
            _ => {
                admin.run(&format!("SELECT pg_terminate_backend({pid})"));
                leader.until_closed();
            }
        }
        blocker.run("COMMIT");
        assert_eq!(other.replies(), format!("T(count) D({}) C(SELECT 1) Z(I)", 1000 - number));
    }
}

#[test]
fn an_answer_that_is_too_large_is_asked_for_by_each() {
    let (database, forebay, _client) = start("[cache]\nmax_entry_size = \"1kB\"\n");
    let sql = "SELECT v FROM t";
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| forebay.client()).collect();
    for round in 1..=5 {
        for answer in ask_at_once(&mut clients, sql) {
            assert!(answer.ends_with("C(SELECT 1000) Z(I)"));
        }
        assert_eq!(database.seen(sql), round * CLIENTS);
    }
    assert_eq!(shared(&forebay), 0);
}

#[test]
fn who_waits_for_a_fill_can_be_cancelled() {
    let (database, forebay, _client) = start("");
    let (mut blocker, mut leader, mut other) =
        (database.direct(), forebay.client(), forebay.client());
    let sql = "SELECT count(*) FROM t WHERE id > 9";
    blocker.run("BEGIN; LOCK TABLE t");
    leader.send(&query(sql));
    other.send(&query(sql));
    // While it waits, or already on a server: it ends either way.
    let (pid, key, told) =
        (other.pid, other.key.clone(), "canceling statement due to user request");
    let on_server = format!("[{}] ERROR:  {told}", database.name);
    wait_until("it is cancelled", || {
        RawClient::connect(forebay.port).send(&cancel(pid, &key));
        forebay.log().contains(told) || database.postgres.log().contains(&on_server)
    });
    assert_eq!(other.message().field(b'C'), "57014");
    blocker.run("COMMIT");
    leader.replies();
}
