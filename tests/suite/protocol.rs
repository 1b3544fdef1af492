//! What clients and Forebay say to each other, message by message. Written in the notation of
//! `support/raw.rs`, and true of PostgreSQL itself unless a test says otherwise.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{
    GSSENC_REQUEST, Login, RawClient, SSL_REQUEST, bind, bind_formats, cancel, close_portal,
    close_statement, copy_data, copy_done, copy_fail, describe_portal, describe_statement, execute,
    flush, message, parse, query, sync,
};
use crate::support::wait_until;

/// A client in a fresh database where `sql` has been run.
fn client_after(sql: &str) -> (RawClient, Forebay) {
    let database = Database::with(sql);
    let forebay = Forebay::start(&database, &[]);
    (forebay.client(), forebay)
}

/// Forebay and PostgreSQL both answer these messages so.
fn check(sql: &str, messages: &[Vec<u8>], expected: &str) {
    let database = Database::with(sql);
    let forebay = Forebay::start(&database, &[]);
    assert_eq!(forebay.client().ask(messages), expected, "Forebay");
    let database = Database::with(sql);
    assert_eq!(database.direct().ask(messages), expected, "PostgreSQL");
}

#[test]
fn an_ssl_request_without_certificate_is_answered_n_and_the_login_goes_on() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    let login = Login::new(USER, PASSWORD, &database.name);
    let mut client = RawClient::connect(forebay.port);
    client.send(&SSL_REQUEST);
    assert_eq!(client.byte(), b'N');
    client.send(&GSSENC_REQUEST);
    assert_eq!(client.byte(), b'N');
    client.send(&login.startup());
    client.authenticate(&login).unwrap();
    assert_eq!(client.query("SELECT 1 AS one"), "T(one) D(1) C(SELECT 1) Z(I)");
}

#[test]
fn a_newer_minor_protocol_and_unknown_options_are_negotiated_down() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    // The older of the two, never a newer one than was asked for.
    for (minor, spoken) in [(9, 2), (0, 0)] {
        let login = Login::new(USER, PASSWORD, &database.name).with(&[("_pq_.wonder", "1")]);
        let mut client = forebay.log_in(&login.minor(minor)).unwrap();
        let negotiate = client.greeting.iter().find(|message| message.tag == b'v').unwrap();
        let body = [&[0, 3, 0, spoken, 0, 0, 0, 1], &b"_pq_.wonder\0"[..]].concat();
        assert_eq!(negotiate.body, body);
        assert_eq!(client.one("SELECT 1"), "1");
    }
}

#[test]
fn from_protocol_3_2_on_cancel_keys_are_long() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    let login = Login::new(USER, PASSWORD, &database.name);
    for (minor, len) in [(0, 4), (2, 32)] {
        let mut client = forebay.log_in(&login.clone().minor(minor)).unwrap();
        assert!(!client.greeting.iter().any(|message| message.tag == b'v'));
        assert_eq!(client.key.len(), len);
        client.send(&query("SELECT pg_sleep(60)"));
        let mut admin = database.admin();
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'
                      AND datname = current_database()";
        wait_until("the query runs", || admin.one(asleep) == "1");
        RawClient::connect(forebay.port).send(&cancel(client.pid, &client.key));
        assert_eq!(client.replies(), "T(pg_sleep) E(57014) Z(I)");
    }
}

#[test]
fn an_error_is_told_before_the_sync_that_a_client_holds_back() {
    let (mut client, _forebay) = client_after("");
    let begin = [parse("", "SELECT 1/0", &[]), bind("", "", &[]), execute("", 0)].concat();
    client.send(&begin);
    client.expect("1 E(22012)");
    // What follows is skipped, and so it is in a transaction, where nothing can be looked up.
    client.send(&[parse("", "SELECT 2", &[]), sync()].concat());
    assert_eq!(client.replies(), "Z(I)");
    client.run("BEGIN");
    client.send(&begin);
    client.expect("1 E(22012)");
    client.send(&sync());
    assert_eq!(client.replies(), "Z(E)");
}

#[test]
fn every_statement_of_a_string_is_answered_in_order() {
    check(
        "",
        &[query("SELECT 1 AS a; SELECT 2 AS b; SET work_mem = '5MB'; SELECT 3 AS c")],
        "T(a) D(1) C(SELECT 1) T(b) D(2) C(SELECT 1) C(SET) T(c) D(3) C(SELECT 1) Z(I)",
    );
}

#[test]
fn an_error_ends_the_string_and_undoes_it() {
    let (mut client, _forebay) = client_after("CREATE TABLE t (v int)");
    assert_eq!(
        client.query("INSERT INTO t VALUES (1); SELECT 1/0; INSERT INTO t VALUES (2)"),
        "C(INSERT 0 1) E(22012) Z(I)"
    );
    assert_eq!(client.one("SELECT count(*) FROM t"), "0");
}

#[test]
fn an_empty_query_has_its_own_reply() {
    check("", &[query("")], "I Z(I)");
    check("", &[query(" ; -- nothing")], "I Z(I)");
    check("", &[parse("", "", &[]), bind("", "", &[]), execute("", 0), sync()], "1 2 I Z(I)");
}

#[test]
fn rows_may_have_no_columns_and_results_no_rows() {
    check(
        "CREATE TABLE t (v int); INSERT INTO t VALUES (1), (2)",
        &[query("SELECT FROM t")],
        "T D D C(SELECT 2) Z(I)",
    );
    check("CREATE TABLE t (v int)", &[query("SELECT v FROM t")], "T(v) C(SELECT 0) Z(I)");
}

#[test]
fn pipelined_groups_are_answered_in_order_with_one_ready_for_query_each() {
    let (mut client, _forebay) = client_after("");
    let group = |value: &str| {
        [
            parse("", "SELECT $1::int AS v", &[]),
            bind("", "", &[Some(value)]),
            execute("", 0),
            sync(),
        ]
        .concat()
    };
    client.send(&[group("1"), group("2"), group("3")].concat());
    for value in ["1", "2", "3"] {
        assert_eq!(client.replies(), format!("1 2 D({value}) C(SELECT 1) Z(I)"));
    }
}

#[test]
fn an_error_in_a_pipeline_skips_to_its_sync_and_no_further() {
    let (mut client, _forebay) = client_after("CREATE TABLE t (v int)");
    let insert = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
    client.send(
        &[
            insert("INSERT INTO t VALUES (1)"),
            insert("SELECT 1/0"),
            insert("INSERT INTO t VALUES (2)"),
            sync(),
            insert("INSERT INTO t VALUES (3)"),
            sync(),
        ]
        .concat(),
    );
    assert_eq!(client.replies(), "1 2 C(INSERT 0 1) 1 E(22012) Z(I)");
    assert_eq!(client.replies(), "1 2 C(INSERT 0 1) Z(I)");
    assert_eq!(client.one("SELECT string_agg(v::text, ' ') FROM t"), "3");
}

/// Of one client at each of both; the steps are pieces that are sent at once.
fn check_steps(steps: &[&[Vec<u8>]]) {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    // The servers know the texts already.
    forebay.client().ask(&[parse("x", "SELECT 1", &[]), parse("y", "SELECT 2", &[]), sync()]);
    let (mut through, mut direct) = (forebay.client(), database.direct());
    for (number, step) in steps.iter().enumerate() {
        let syncs = step.iter().filter(|message| [b'S', b'Q'].contains(&message[0])).count();
        for client in [&mut through, &mut direct] {
            client.send(&step.concat());
        }
        for _ in 0..syncs {
            assert_eq!(through.replies(), direct.replies(), "step {number}");
        }
    }
}

#[test]
fn a_name_that_was_not_given_or_not_closed_because_of_an_error_is_as_it_was() {
    let run = |name: &str| [bind("", name, &[]), execute("", 0)].concat();
    let bad = || parse("bad", "SELECT FROM nowhere", &[]);
    let (one, two) = (|name| parse(name, "SELECT 1", &[]), |name| parse(name, "SELECT 2", &[]));
    check_steps(&[
        &[bad(), one("s"), sync()],
        &[run("s"), sync()],
        &[one("s"), run("s"), sync()],
        &[bad(), close_statement("s"), sync()],
        &[run("s"), sync()],
        &[bad(), close_statement("s"), two("s"), run("s"), sync()],
        &[run("s"), sync()],
        &[run("s"), close_statement("s"), bad(), sync()],
        &[run("s"), sync()],
        &[two("s"), bad(), one("t"), sync()],
        &[run("s"), sync()],
        &[run("t"), sync()],
    ]);
}

#[test]
fn a_query_behind_an_error_is_ignored_up_to_sync() {
    let database = Database::with("CREATE TABLE t (v int); INSERT INTO t VALUES (1)");
    let config = "[pool]\ndefault_pool_size = 1\n";
    let forebay = Forebay::with_config(&database, config, &[]);
    let (mut through, mut direct) = (forebay.client(), database.direct());
    let bad = || parse("", "SELECT FROM nowhere", &[]);
    let call = || message(b'F', &[&1598_u32.to_be_bytes()[..], &[0; 6]].concat());
    let add = "INSERT INTO t VALUES (2)";
    for (step, ends) in [
        (vec![bad(), query(add), sync()], 1),
        (vec![bad(), query(add), query(add), sync(), query("SELECT 1"), sync()], 3),
        (vec![bad(), call(), sync(), query("SELECT 2")], 2),
        (vec![query("BEGIN"), bad(), query(add), sync(), query("ROLLBACK")], 3),
    ] {
        for client in [&mut through, &mut direct] {
            client.send(&step.concat());
        }
        for _ in 0..ends {
            assert_eq!(through.replies(), direct.replies());
        }
    }
    for client in [&mut through, &mut direct] {
        client.send(&[bad(), flush()].concat());
        client.expect("E(42P01)");
        client.send(&[query(add), sync()].concat());
        client.expect("Z(I)");
    }
    // The only server is there for others, and nothing is in flight.
    let mut other = forebay.client();
    database.until_hit(&mut other, "SELECT count(*) FROM t");
    assert_eq!(other.one("SELECT count(*) FROM t"), "1");
}

#[test]
fn what_is_prepared_behind_discard_all_stays() {
    let run = |name: &str| [bind("", name, &[]), execute("", 0)].concat();
    let (one, new) = (|name| parse(name, "SELECT 1", &[]), |name| parse(name, "SELECT 3", &[]));
    for all in ["DISCARD ALL", "DEALLOCATE ALL"] {
        check_steps(&[
            &[query(all), one("s"), sync(), run("s"), sync()],
            &[run("s"), sync()],
            &[query(all), new("n"), describe_statement("n"), sync()],
            &[run("n"), sync(), run("s"), sync()],
            &[query(all), run("n"), sync(), new("n"), sync()],
            &[run("n"), sync()],
        ]);
    }
}

#[test]
fn rows_are_taken_behind_deallocate_all_in_one_string() {
    let (mut client, _forebay) = client_after("CREATE TABLE t (v int)");
    for sql in ["DEALLOCATE ALL; COPY t FROM STDIN", "COPY t FROM STDIN; DEALLOCATE ALL"] {
        client.send(&query(sql));
        client.until(b'G');
        client.send(&[copy_data("1\n"), copy_done()].concat());
        assert!(client.replies().ends_with("Z(I)"));
    }
    assert_eq!(client.one("SELECT count(*) FROM t"), "2");
}

#[test]
fn flush_gives_the_replies_so_far_without_ready_for_query() {
    let (mut client, _forebay) = client_after("");
    client.send(&[parse("", "SELECT 7 AS v", &[]), describe_statement(""), flush()].concat());
    client.expect("1 t T(v)");
    client.send(&[bind("", "", &[]), execute("", 0), flush()].concat());
    client.expect("2 D(7) C(SELECT 1)");
    client.send(&sync());
    assert_eq!(client.replies(), "Z(I)");
}

#[test]
fn a_row_limit_suspends_the_portal_until_it_is_executed_again() {
    check(
        "",
        &[
            parse("", "SELECT generate_series(1, 3) AS v", &[]),
            bind("", "", &[]),
            execute("", 2),
            execute("", 2),
            execute("", 2),
            sync(),
        ],
        "1 2 D(1) D(2) s D(3) C(SELECT 1) C(SELECT 0) Z(I)",
    );
}

#[test]
fn a_statement_is_described_with_parameters_and_a_portal_without() {
    check(
        "CREATE TABLE t (id int, v text)",
        &[
            parse("s", "SELECT id, v FROM t WHERE id = $1", &[]),
            describe_statement("s"),
            bind("p", "s", &[Some("1")]),
            describe_portal("p"),
            sync(),
        ],
        "1 t T(id,v) 2 T(id,v) Z(I)",
    );
    check(
        "CREATE TABLE t (id int)",
        &[parse("", "DELETE FROM t", &[]), describe_statement(""), sync()],
        "1 t n Z(I)",
    );
}

#[test]
fn preparing_a_name_twice_is_refused_under_the_clients_own_name() {
    let (mut client, _forebay) = client_after("");
    client.run("BEGIN");
    assert_eq!(client.ask(&[parse("mine", "SELECT 1", &[]), sync()]), "1 Z(T)");
    client.send(&[parse("mine", "SELECT 2", &[]), sync()].concat());
    let replies = client.until(b'Z');
    assert_eq!(replies[0].field(b'C'), "42P05");
    assert_eq!(replies[0].field(b'M'), "prepared statement \"mine\" already exists");
    assert_eq!(replies[1].to_string(), "Z(E)");
}

#[test]
fn an_unknown_statement_is_refused_under_the_clients_own_name() {
    let (mut client, _forebay) = client_after("");
    client.send(&[bind("", "nobody", &[]), execute("", 0), sync()].concat());
    let replies = client.until(b'Z');
    assert_eq!(replies[0].field(b'C'), "26000");
    assert_eq!(replies[0].field(b'M'), "prepared statement \"nobody\" does not exist");
    assert_eq!(replies.len(), 2);
}

#[test]
fn the_unnamed_statement_of_another_client_and_one_that_is_closed_are_not_there() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &["--pool-size", "1"]);
    let (mut client, mut other) = (forebay.client(), forebay.client());
    assert_eq!(client.ask(&[parse("", "SELECT 7", &[]), sync()]), "1 Z(I)");
    let run = [bind("", "", &[]), execute("", 0), sync()];
    let describe = [describe_statement(""), sync()];
    assert_eq!(other.ask(&run), "E(26000) Z(I)");
    assert_eq!(other.ask(&describe), "E(26000) Z(I)");
    assert_eq!(client.ask(&run), "2 D(7) C(SELECT 1) Z(I)");
    assert_eq!(client.ask(&[close_statement(""), sync()]), "3 Z(I)");
    assert_eq!(client.ask(&describe), "E(26000) Z(I)");
    assert_eq!(client.ask(&run), "E(26000) Z(I)");
}

#[test]
fn a_statement_whose_result_changed_is_refused_by_a_server_that_has_it() {
    let database = Database::with("CREATE TABLE t (v int); INSERT INTO t VALUES (1)");
    let forebay = Forebay::start(&database, &["--pool-size", "1"]);
    let (mut client, mut other) = (forebay.client(), forebay.client());
    let run = [bind("", "s", &[]), execute("", 0), sync()];
    client.ask(&[parse("s", "SELECT * FROM t", &[]), describe_statement("s"), sync()]);
    assert_eq!(client.ask(&run), "2 D(1) C(SELECT 1) Z(I)");
    other.run("ALTER TABLE t ADD COLUMN more int");
    assert_eq!(client.ask(&run), "E(0A000) Z(I)");
    // Not because another has made it a hit either.
    database.until_hit(&mut other, "SELECT * FROM t");
    assert_eq!(client.ask(&run), "E(0A000) Z(I)");
    let again = [close_statement("s"), parse("s", "SELECT * FROM t", &[]), sync()];
    assert_eq!(client.ask(&again), "3 1 Z(I)");
    assert_eq!(client.ask(&run), "2 D(1,NULL) C(SELECT 1) Z(I)");
}

#[test]
fn a_portal_ends_with_its_transaction() {
    let (mut client, _forebay) = client_after("");
    assert_eq!(
        client.ask(&[parse("s", "SELECT 1 AS v", &[]), bind("p", "s", &[]), sync()]),
        "1 2 Z(I)"
    );
    assert_eq!(client.ask(&[execute("p", 0), sync()]), "E(34000) Z(I)");
}

#[test]
fn closing_a_statement_forgets_it_and_closing_what_is_not_there_is_no_error() {
    check(
        "",
        &[
            parse("s", "SELECT 1 AS v", &[]),
            close_statement("s"),
            close_statement("s"),
            close_portal("p"),
            bind("", "s", &[]),
            sync(),
        ],
        "1 3 3 3 E(26000) Z(I)",
    );
}

#[test]
fn a_notice_comes_where_it_was_raised() {
    let (mut client, _forebay) = client_after("");
    assert_eq!(
        client.query("SELECT 1 AS a; DO $$ BEGIN RAISE NOTICE 'look'; END $$; SELECT 2 AS b"),
        "T(a) D(1) C(SELECT 1) N(look) C(DO) T(b) D(2) C(SELECT 1) Z(I)"
    );
}

#[test]
fn a_changed_setting_is_reported() {
    check("", &[query("SET TimeZone = 'Asia/Tokyo'")], "C(SET) S(TimeZone=Asia/Tokyo) Z(I)");
}

#[test]
fn results_come_in_the_formats_asked_for() {
    let (mut client, _forebay) = client_after("");
    let bound = bind_formats("", "", &[], &[1, 0]);
    client.send(&[parse("", "SELECT 258, 258", &[]), bound, execute("", 0), sync()].concat());
    let replies = client.until(b'Z');
    assert_eq!(replies[2].body, b"\0\x02\0\0\0\x04\0\0\x01\x02\0\0\0\x03258");
}

#[test]
fn copy_in_takes_rows_until_copy_done() {
    let (mut client, _forebay) = client_after("CREATE TABLE t (v int)");
    client.send(&query("COPY t FROM STDIN"));
    client.expect("G");
    let rest = client.ask(&[copy_data("1\n2\n"), copy_data("3\n"), copy_done()]);
    assert_eq!(rest, "C(COPY 3) Z(I)");
    assert_eq!(client.one("SELECT sum(v) FROM t"), "6");
}

#[test]
fn copy_in_by_the_extended_protocol_ends_at_its_sync() {
    let (mut client, _forebay) = client_after("CREATE TABLE t (v int)");
    let copy = [parse("", "COPY t FROM STDIN", &[]), bind("", "", &[]), execute("", 0)].concat();
    let rows = [copy_data("1\n"), copy_done(), sync()].concat();
    client.send(&[copy.clone(), flush()].concat());
    client.expect("1 2 G");
    assert_eq!(client.ask(std::slice::from_ref(&rows)), "C(COPY 1) Z(I)");
    // The Sync that libpq sends with the statement is ignored while PostgreSQL copies.
    client.send(&[copy, sync()].concat());
    client.expect("1 2 G");
    assert_eq!(client.ask(&[rows]), "C(COPY 1) Z(I)");
    assert_eq!(client.one("SELECT sum(v) FROM t"), "2");
}

#[test]
fn copy_data_may_be_sent_before_the_server_asks_for_it() {
    let copy = [parse("", "COPY t FROM STDIN", &[]), bind("", "", &[]), execute("", 0)].concat();
    let rows = [copy_data("1\n"), copy_done(), sync()].concat();
    let table = "CREATE TABLE t (v int)";
    check(table, &[query("COPY t FROM STDIN"), copy_data("1\n"), copy_done()], "G C(COPY 1) Z(I)");
    check(table, &[copy.clone(), rows.clone()], "1 2 G C(COPY 1) Z(I)");
    check(table, &[copy, sync(), rows], "1 2 G C(COPY 1) Z(I)");
}

#[test]
fn a_failed_copy_leaves_nothing_behind_and_the_connection_usable() {
    let (mut client, _forebay) = client_after("CREATE TABLE t (v int)");
    client.send(&query("COPY t FROM STDIN"));
    client.expect("G");
    assert_eq!(client.ask(&[copy_data("1\n"), copy_fail("no more")]), "E(57014) Z(I)");
    client.send(&query("COPY t FROM STDIN"));
    client.expect("G");
    assert_eq!(client.ask(&[copy_data("1\n"), copy_data("x\n"), copy_done()]), "E(22P02) Z(I)");
    assert_eq!(client.one("SELECT count(*) FROM t"), "0");
}

#[test]
fn copy_out_sends_rows_and_ends() {
    check(
        "CREATE TABLE t (v int); INSERT INTO t VALUES (1), (2)",
        &[query("COPY t TO STDOUT")],
        "H d(1) d(2) c C(COPY 2) Z(I)",
    );
    check(
        "CREATE TABLE t (v int); INSERT INTO t VALUES (1)",
        &[parse("", "COPY t TO STDOUT", &[]), bind("", "", &[]), execute("", 0), sync()],
        "1 2 H d(1) c C(COPY 1) Z(I)",
    );
}

#[test]
fn a_function_call_message_is_relayed() {
    // int4abs has the oid 1397.
    let body =
        [&1397_u32.to_be_bytes()[..], &[0, 1, 0, 0, 0, 1], &2_u32.to_be_bytes(), b"-7", &[0, 0]]
            .concat();
    let (mut client, _forebay) = client_after("");
    client.send(&message(b'F', &body));
    let replies = client.until(b'Z');
    assert_eq!((replies[0].tag, replies[0].body.as_slice()), (b'V', &b"\0\0\0\x017"[..]));
    assert_eq!(replies[1].to_string(), "Z(I)");
}

#[test]
fn a_large_result_streams_in_bounded_memory() {
    let (mut client, forebay) = client_after("");
    client.run("SELECT 1");
    let before = forebay.daemon.resident_kb();
    client.send(&query("SELECT repeat('x', 10000) FROM generate_series(1, 5000)"));
    let mut bytes = 0;
    let mut most = 0;
    let mut rows = 0_u32;
    loop {
        let message = client.message();
        bytes += message.body.len();
        if message.tag == b'D' {
            rows += 1;
            if rows.is_multiple_of(500) {
                most = most.max(forebay.daemon.resident_kb());
            }
        }
        if message.tag == b'Z' {
            break;
        }
    }
    assert!(bytes > 50_000_000);
    assert!(most < before + 8_000, "{before} kB before, {most} kB at most");
}

#[test]
fn a_client_that_does_not_read_holds_postgresql_back_and_no_memory() {
    let (mut client, forebay) = client_after("");
    let mut other = forebay.client();
    client.run("SELECT 1");
    let before = forebay.daemon.resident_kb();
    client.send(&query("SELECT repeat('x', 10000) FROM generate_series(1, 10000)"));
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                   AND wait_event = 'ClientWrite'";
    wait_until("PostgreSQL cannot send more", || other.one(blocked) == "1");
    let after = forebay.daemon.resident_kb();
    assert!(after < before + 8_000, "{before} kB before, {after} kB while nobody reads");
    let rows = client.until(b'Z').iter().filter(|message| message.tag == b'D').count();
    assert_eq!(rows, 10_000);
    assert_eq!(client.one("SELECT 1"), "1");
}

#[test]
fn a_client_that_does_not_read_hits_holds_no_memory() {
    let database = Database::with(
        "CREATE TABLE t (v text); INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 500)",
    );
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    let read = "SELECT v FROM t";
    database.until_hit(&mut client, read);
    let mut other = forebay.client();
    let before = forebay.daemon.resident_kb();
    // A hundred times half a megabyte, asked for in a few kilobytes.
    client.send(&query(read).repeat(100));
    // What it is answered is bounded, so that it is served no further.
    let mut console = forebay.console();
    let mut hits = 0;
    wait_until("it is answered no more", || {
        assert_eq!(other.one("SELECT 1"), "1");
        let row = console.rows("SHOW CACHE").remove(0);
        let now: u64 = row[4].clone().unwrap().parse().unwrap();
        now == std::mem::replace(&mut hits, now) && now >= 2
    });
    let after = forebay.daemon.resident_kb();
    assert!(after < before + 8_000, "{before} kB before, {after} kB while nobody reads");
    for _ in 0..100 {
        assert_eq!(client.until(b'Z').len(), 503);
    }
}
