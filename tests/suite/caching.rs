//! What is answered from the cache, to whom, and what never is. Whether PostgreSQL was asked is
//! read in its log; what an answer must be is asked of PostgreSQL directly.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, USER};
use crate::support::raw::{
    RawClient, bind, bind_formats, describe_portal, execute, parse, query, sync,
};
use crate::support::wait_until;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                     INSERT INTO t VALUES (1, 'one'), (2, 'two')";
const READ: &str = "SELECT v FROM t ORDER BY id";

fn start(sql: &str, options: &[&str]) -> (Database<'static>, Forebay, RawClient) {
    let database = Database::with(sql);
    let forebay = Forebay::start(&database, options);
    let client = forebay.client();
    (database, forebay, client)
}

#[test]
fn a_repeated_read_is_answered_without_postgres() {
    let (database, _forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    assert_eq!(client.query(READ), database.direct().query(READ));
}

#[test]
fn a_hit_serves_other_clients_and_both_protocols() {
    let (database, forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    let mut other = forebay.client();
    assert!(database.is_hit(&mut other, READ));
    let group =
        [parse("", READ, &[]), bind("", "", &[]), describe_portal(""), execute("", 0), sync()];
    let expected = "1 2 T(v) D(one) D(two) C(SELECT 2) Z(I)";
    wait_until("the extended protocol hits", || {
        let before = database.seen(READ);
        assert_eq!(other.ask(&group), expected);
        database.seen(READ) == before
    });
    assert_eq!(database.direct().ask(&group), expected);
}

#[test]
fn a_prepared_statement_hits_by_its_values() {
    let (database, _forebay, mut client) = start(TABLE, &[]);
    let sql = "SELECT v FROM t WHERE id = $1";
    client.ask(&[parse("s", sql, &[]), sync()]);
    let run = |value| [bind("", "s", &[value]), execute("", 0), sync()];
    for (value, row) in [
        (Some("1"), "D(one) C(SELECT 1)"),
        (Some("2"), "D(two) C(SELECT 1)"),
        (None, "C(SELECT 0)"),
    ] {
        wait_until("the prepared statement hits", || {
            let before = database.seen(sql);
            assert_eq!(client.ask(&run(value)), format!("2 {row} Z(I)"));
            database.seen(sql) == before
        });
    }
}

#[test]
fn with_the_cache_off_or_in_a_dry_run_postgres_answers_everything() {
    for option in ["off", "dry_run"] {
        let (database, forebay, mut client) = start(TABLE, &["--cache", option]);
        client.run(READ);
        if option != "off" {
            forebay.log_contains("catalogue read");
        }
        for count in 2..8 {
            client.run(READ);
            assert_eq!(database.seen(READ), count, "{option}");
        }
    }
}

#[test]
fn what_depends_on_more_than_tables_is_never_kept() {
    let setup = format!(
        "{TABLE}; CREATE SEQUENCE s; CREATE UNLOGGED TABLE u (v int); CREATE TABLE times (v text);
         CREATE FUNCTION f() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT count(*)::int FROM t';
         CREATE FUNCTION fullname(t) RETURNS text LANGUAGE sql AS 'SELECT clock_timestamp()::text';
         CREATE VIEW clock AS SELECT id, now() FROM t;
         CREATE TABLE secured (v int); ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
         CREATE POLICY clock ON secured USING (now() > '2000-01-01')"
    );
    let (database, _forebay, mut client) = start(&setup, &[]);
    database.until_hit(&mut client, READ);
    for sql in [
        "SELECT id, random() FROM t",
        "SELECT id, now() FROM t",
        "SELECT id, CURRENT_DATE FROM t",
        "SELECT id, CURRENT_SCHEMA FROM t",
        "SELECT id, txid_current() FROM t",
        "SELECT id, pg_backend_pid() FROM t",
        "SELECT id FROM t WHERE now() > 'yesterday'",
        "SELECT id, timestamptz 'now' FROM t",
        "SELECT v::timestamp FROM times",
        "SELECT id FROM t FOR UPDATE",
        "SELECT id FROM (SELECT id FROM t FOR SHARE) q",
        "SELECT ctid FROM t",
        "SELECT xmin FROM t",
        "SELECT tableoid FROM t",
        "SELECT id FROM t TABLESAMPLE BERNOULLI (100)",
        "SELECT last_value FROM s",
        "SELECT v FROM u",
        "SELECT count(*) FROM pg_class",
        "SELECT count(*) FROM information_schema.tables",
        "SELECT id, f() FROM t",
        "SELECT t.fullname FROM t",
        "SELECT * FROM clock",
        "SELECT id, 't'::regclass FROM t",
        "SELECT v FROM secured",
        "SELECT id, has_table_privilege('t', 'select') FROM t",
        "SELECT 1",
        "WITH w AS (INSERT INTO times VALUES ('x') RETURNING v) SELECT id FROM t",
        "SELECT id, table_to_xml('t', true, false, '') FROM t",
    ] {
        for count in 1..=3 {
            client.run(sql);
            assert_eq!(database.seen(sql), count, "{sql}");
        }
    }
}

#[test]
fn a_time_word_in_a_parameter_is_never_kept() {
    let (database, _forebay, mut client) =
        start("CREATE TABLE t (at timestamptz); INSERT INTO t VALUES ('2000-01-01')", &[]);
    let sql = "SELECT count(*) FROM t WHERE at < $1";
    wait_until("a plain time hits", || {
        let before = database.seen(sql);
        client.one_extended(sql, &[Some("2020-01-01")]);
        database.seen(sql) == before
    });
    let before = database.seen(sql);
    for _ in 0..3 {
        client.one_extended(sql, &[Some(" Now ")]);
    }
    assert_eq!(database.seen(sql), before + 3);
}

#[test]
fn a_role_without_the_privilege_is_refused_what_others_have_cached() {
    let database = Database::apart("CREATE TABLE t (v int); INSERT INTO t VALUES (7)");
    let role = format!("reader_{}", database.name);
    database.admin().run(&format!("CREATE ROLE {role}; GRANT {role} TO {USER}"));
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    let sql = "SELECT v FROM t";
    database.until_hit(&mut client, sql);
    let mut other = forebay.client();
    other.run(&format!("SET ROLE {role}"));
    assert_eq!(other.query(sql), "E(42501) Z(I)");
    other.run("RESET ROLE");
    assert_eq!(other.one(sql), "7");
    // As a startup parameter too.
    let mut third = forebay.client_with(&[("options", &format!("-c role={role}"))]);
    assert_eq!(third.query(sql), "E(42501) Z(I)");
}

#[test]
fn the_same_text_under_another_search_path_reads_other_tables() {
    let (database, forebay, mut client) = start(
        "CREATE TABLE t (v text); INSERT INTO t VALUES ('public');
         CREATE SCHEMA b; CREATE TABLE b.t (v text); INSERT INTO b.t VALUES ('b')",
        &[],
    );
    let sql = "SELECT v FROM t";
    database.until_hit(&mut client, sql);
    let mut other = forebay.client_with(&[("search_path", "b")]);
    assert_eq!(other.one(sql), "b");
    client.run("SET search_path = b");
    assert_eq!(client.one(sql), "b");
    client.run("BEGIN; SET search_path = public; ROLLBACK");
    assert_eq!(client.one(sql), "b");
    client.run("RESET search_path");
    assert_eq!(client.one(sql), "public");
    client.run("SELECT set_config('search_path', 'b', false)");
    assert_eq!(client.one(sql), "b");
}

#[test]
fn settings_that_change_the_output_have_entries_of_their_own() {
    let (database, forebay, _client) = start(
        r"CREATE TABLE t (at timestamptz, f float8, b bytea, i interval);
          INSERT INTO t VALUES ('2020-02-03 04:05+00', 0.1::float4, '\x01ff', '1 day 2 hours')",
        &[],
    );
    let sql = "SELECT at, f, b, i FROM t";
    for setting in [
        "TimeZone = 'UTC'",
        "TimeZone = 'Asia/Tokyo'",
        "DateStyle = 'German'",
        "IntervalStyle = 'iso_8601'",
        "bytea_output = 'escape'",
        "extra_float_digits = 0",
        "TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE",
    ] {
        let (mut client, mut direct) = (forebay.client(), database.direct());
        let set = format!("SET {setting}");
        client.run(&set);
        direct.run(&set);
        let expected = direct.query(sql);
        for _ in 0..3 {
            assert_eq!(client.query(sql), expected, "{setting}");
        }
    }
}

#[test]
fn binary_and_text_results_are_kept_apart() {
    let (_database, forebay, _client) =
        start("CREATE TABLE t (v int); INSERT INTO t VALUES (258)", &[]);
    forebay.log_contains("catalogue read");
    let mut client = forebay.client();
    let mut fetch = |format: u16| {
        let bound = bind_formats("", "", &[], &[format]);
        client.send(&[parse("", "SELECT v FROM t", &[]), bound, execute("", 0), sync()].concat());
        client.until(b'Z')[2].body.clone()
    };
    for _ in 0..4 {
        assert_eq!(fetch(0), b"\0\x01\0\0\0\x03258");
        assert_eq!(fetch(1), b"\0\x01\0\0\0\x04\0\0\x01\x02");
    }
}

#[test]
fn declared_parameter_types_are_part_of_the_question() {
    let (_database, forebay, _client) =
        start("CREATE TABLE t (v int); INSERT INTO t VALUES (7)", &[]);
    forebay.log_contains("catalogue read");
    let mut client = forebay.client();
    for _ in 0..4 {
        for (oid, result) in [(23, "3"), (1700, "3.5000000000000000"), (25, "E")] {
            let sql = "SELECT v / $1 FROM t";
            client.send(
                &[parse("", sql, &[oid]), bind("", "", &[Some("2")]), execute("", 0), sync()]
                    .concat(),
            );
            let replies = client.until(b'Z');
            match replies.iter().find(|message| message.tag == b'D') {
                Some(row) => assert_eq!(row.columns()[0].as_deref(), Some(result)),
                None => assert_eq!(result, "E"),
            }
        }
    }
}

#[test]
fn an_empty_parameter_is_not_null() {
    let (database, forebay, _client) =
        start("CREATE TABLE t (v int); INSERT INTO t VALUES (7)", &[]);
    forebay.log_contains("catalogue read");
    let mut client = forebay.client();
    let sql = "SELECT coalesce($1::text, 'null') || v FROM t";
    for _ in 0..4 {
        assert_eq!(client.one_extended(sql, &[Some("")]), "7");
        assert_eq!(client.one_extended(sql, &[None]), "null7");
    }
    assert!(database.seen(sql) < 8, "nothing was cached");
}

#[test]
fn a_transaction_before_its_first_write_is_served_and_stays_in_its_transaction() {
    let (database, _forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    client.run("BEGIN");
    assert!(database.is_hit(&mut client, READ));
    assert_eq!(client.query(READ), "T(v) D(one) D(two) C(SELECT 2) Z(T)");
    client.run("COMMIT");
}

#[test]
fn no_hit_inside_repeatable_read_and_serializable() {
    let (database, _forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    for (begin, end) in [
        ("BEGIN ISOLATION LEVEL REPEATABLE READ", "COMMIT"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "COMMIT"),
        ("BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "COMMIT"),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "RESET default_transaction_isolation",
        ),
        ("SET default_transaction_isolation = 'serializable'", "RESET ALL"),
    ] {
        client.run(begin);
        assert!(!database.is_hit(&mut client, READ), "{begin}");
        client.run(end);
        database.until_hit(&mut client, READ);
    }
}

#[test]
fn an_old_snapshot_fills_nothing() {
    let (database, forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    let mut old = forebay.client();
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    old.run("SELECT 1 FROM t");
    client.run("UPDATE t SET v = 'new' WHERE id = 1");
    assert_eq!(old.query(READ), "T(v) D(one) D(two) C(SELECT 2) Z(T)");
    assert_eq!(client.query(READ), "T(v) D(new) D(two) C(SELECT 2) Z(I)");
    old.run("COMMIT");
    assert_eq!(old.one(READ), "new");
}

#[test]
fn a_client_sees_its_own_uncommitted_write_and_no_other_does() {
    let (database, forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    let mut other = forebay.client();
    client.run("BEGIN; UPDATE t SET v = 'mine' WHERE id = 1");
    for _ in 0..3 {
        assert_eq!(client.one(READ), "mine");
        assert_eq!(other.one(READ), "one");
    }
    client.run("ROLLBACK");
    assert_eq!(client.one(READ), "one");
    assert_eq!(other.one(READ), "one");
}

#[test]
fn a_savepoint_rolled_back_does_not_bring_the_cache_back() {
    let (database, _forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    client.run("BEGIN; UPDATE t SET v = 'kept' WHERE id = 1; SAVEPOINT a");
    client.run("UPDATE t SET v = 'lost' WHERE id = 1");
    client.run("ROLLBACK TO a");
    assert_eq!(client.one(READ), "kept");
    client.run("COMMIT");
    assert_eq!(client.one(READ), "kept");
}

#[test]
fn a_failed_transaction_gets_its_error_instead_of_a_hit() {
    let (database, _forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.query("SELECT 1/0"), "E(22012) Z(E)");
    assert_eq!(client.query(READ), "E(25P02) Z(E)");
    assert_eq!(client.query("COMMIT"), "C(ROLLBACK) Z(I)");
    assert!(database.is_hit(&mut client, READ));
}

#[test]
fn a_write_that_bypasses_forebay_is_seen_after_max_age() {
    let (database, _forebay, mut client) = start(TABLE, &["--max-age", "2s"]);
    database.until_hit(&mut client, READ);
    let mut direct = database.direct();
    wait_until("it is kept", || {
        // Filled afresh, so that the entry is young when the write comes.
        client.run("UPDATE t SET v = 'first' WHERE id = 1");
        client.run(READ);
        direct.run("UPDATE t SET v = 'behind' WHERE id = 1");
        client.one(READ) == "first"
    });
    wait_until("the write is seen", || client.one(READ) == "behind");
}

#[test]
fn an_answer_over_the_limit_is_relayed_and_not_kept() {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, "[cache]\nmax_entry_size = \"1kB\"\n", &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    let sql = "SELECT repeat(v, 1000) FROM t ORDER BY id";
    for count in 1..5 {
        assert_eq!(client.one(sql).len(), 3000);
        assert_eq!(database.seen(sql), count);
    }
}

#[test]
fn a_row_limited_execute_goes_to_postgres() {
    let (database, _forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    let group = [parse("", READ, &[]), bind("", "", &[]), execute("", 1), execute("", 0), sync()];
    for _ in 0..3 {
        assert_eq!(client.ask(&group), "1 2 D(one) s D(two) C(SELECT 1) Z(I)");
    }
}

#[test]
fn a_hit_pipelined_behind_a_write_sees_it() {
    let (database, _forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    client.send(&[query("UPDATE t SET v = 'new' WHERE id = 1"), query(READ)].concat());
    assert_eq!(client.replies(), "C(UPDATE 1) Z(I)");
    assert_eq!(client.replies(), "T(v) D(new) D(two) C(SELECT 2) Z(I)");
    // In one group with the write, before its commit.
    let run = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
    database.until_hit(&mut client, READ);
    let replies = client.ask(&[run("UPDATE t SET v = 'newer' WHERE id = 1"), run(READ), sync()]);
    assert_eq!(replies, "1 2 C(UPDATE 1) 1 2 D(newer) D(two) C(SELECT 2) Z(I)");
}

#[test]
fn errors_are_not_kept() {
    let (database, _forebay, mut client) =
        start("CREATE TABLE t (v int); INSERT INTO t VALUES (0)", &[]);
    database.until_hit(&mut client, "SELECT v FROM t");
    let sql = "SELECT 1 / v FROM t";
    for _ in 0..3 {
        assert_eq!(client.query(sql), "T(?column?) E(22012) Z(I)");
    }
    assert_eq!(database.seen(sql), 3);
}

#[test]
fn an_answer_with_a_notice_in_it_is_not_kept() {
    let (database, _forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    // PostgreSQL says so each time: a name of seventy letters is cut off.
    let sql = format!("SELECT v AS {} FROM t WHERE id = 1", "n".repeat(70));
    let expected = database.direct().query(&sql);
    assert!(expected.starts_with("N(identifier"), "{expected}");
    for count in 2..5 {
        assert_eq!(client.query(&sql), expected);
        assert_eq!(database.seen(&sql), count);
    }
}

#[test]
fn a_notification_that_comes_with_an_answer_is_not_part_of_what_is_kept() {
    let (database, forebay, mut client) = start(TABLE, &[]);
    database.until_hit(&mut client, READ);
    let sql = "SELECT count(*) FROM t";
    client.run("LISTEN news");
    let pid = client.one("SELECT pg_backend_pid()");
    let mut blocker = database.direct();
    blocker.run("BEGIN; LOCK TABLE t");
    client.send(&query(sql));
    let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
    let mut admin = database.admin();
    wait_until("the read waits", || admin.one(&waits) == "1");
    admin.run("NOTIFY news, 'hello'");
    blocker.run("COMMIT");
    let answered = client.replies();
    assert_eq!(answered, "T(count) D(2) C(SELECT 1) A(news=hello) Z(I)");
    let mut other = forebay.client();
    assert!(database.is_hit(&mut other, sql));
    assert_eq!(other.query(sql), "T(count) D(2) C(SELECT 1) Z(I)");
}

#[test]
fn an_answer_that_memory_has_room_for_is_kept_however_small_that_is() {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, "[cache]\nsize = \"1MB\"\n", &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT repeat(v, 330000) FROM t WHERE id = 1");
}

#[test]
fn an_answer_that_memory_has_no_room_for_is_no_fill_and_evicts_nothing() {
    let database = Database::with(TABLE);
    let toml = |longest: &str| format!("[cache]\nsize = \"2MB\"\nmax_entry_size = \"{longest}\"\n");
    let forebay = Forebay::with_config(&database, &toml("100kB"), &[]);
    let (mut client, mut console) = (forebay.client(), forebay.console());
    database.until_hit(&mut client, READ);
    let mut shown =
        || ["fills", "evictions", "entries"].map(|column| console.column("SHOW CACHE", column));
    let before = shown();
    // Longer than a shard on any machine.
    let long = "SELECT repeat(v, 300000) FROM t WHERE id = 1";
    for longest in ["100kB", "1MB"] {
        forebay.reload(&toml(longest));
        for _ in 0..3 {
            assert_eq!(client.one(long).len(), 900_000);
        }
    }
    assert_eq!((shown(), database.seen(long)), (before, 6));
    forebay.log_contains("cache.max_entry_size: memory has room for the longest after a restart");
}

#[test]
fn a_postgresql_that_has_no_md5_is_cached_all_the_same() {
    let database = Database::with(TABLE);
    database.admin().run("REVOKE EXECUTE ON FUNCTION pg_catalog.md5(text) FROM PUBLIC");
    let forebay = Forebay::start(&database, &[]);
    database.until_hit(&mut forebay.client(), "SELECT v FROM t");
}
