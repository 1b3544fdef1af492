//! Who uses which server and when, and that nobody meets what another client left behind.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, bind, execute, message, parse, query, sync};
use crate::support::wait_until;

const PID: &str = "SELECT pg_backend_pid()";

fn start(sql: &str, options: &[&str]) -> (Database<'static>, Forebay) {
    let database = Database::with(sql);
    let forebay = Forebay::start(&database, options);
    (database, forebay)
}

/// Until so many clients wait for a server.
pub fn until_waiting(forebay: &Forebay, count: usize) {
    let mut console = forebay.console();
    wait_until("clients wait", || {
        console.query("SHOW CLIENTS").matches(",waiting,").count() == count
    });
}

/// What PostgreSQL answers this script's client is what Forebay's client hears, although another
/// client with other settings uses the same server whenever it is free.
fn check_follows(parameters: &[(&str, &str)], script: &[&str]) {
    let (database, forebay) = start("", &["--pool-size", "1", "--cache", "off"]);
    let login = crate::support::raw::Login::new(
        crate::support::postgres::USER,
        crate::support::postgres::PASSWORD,
        &database.name,
    );
    let mut direct = RawClient::log_in(database.postgres.port, &login.with(parameters)).unwrap();
    let mut client = forebay.client_with(parameters);
    let mut other = forebay.client_with(&[("options", "-c work_mem=99MB -c lock_timeout=9s")]);
    for statement in script {
        let expected = direct.query(statement);
        assert_eq!(client.query(statement), expected, "{statement}");
        if expected.ends_with("Z(I)") {
            assert_eq!(other.one("SHOW work_mem"), "99MB", "after {statement}");
        }
    }
}

#[test]
fn clients_share_a_server_in_transaction_pooling() {
    let (_database, forebay) = start("", &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    let pid = one.one(PID);
    assert_eq!(two.one(PID), pid);
    assert_eq!(one.one(PID), pid);
}

#[test]
fn a_transaction_keeps_its_server_and_others_wait() {
    let (_database, forebay) = start("CREATE TABLE t (v int)", &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.hold_server();
    two.send(&query("SELECT count(*) FROM t"));
    until_waiting(&forebay, 1);
    one.run("INSERT INTO t VALUES (1)");
    one.run("COMMIT");
    assert_eq!(two.replies(), "T(count) D(1) C(SELECT 1) Z(I)");
}

#[test]
fn clients_get_a_server_in_the_order_in_which_they_asked() {
    let (_database, forebay) = start("CREATE TABLE t (n serial, v int)", &["--pool-size", "1"]);
    let mut holder = forebay.client();
    let mut clients: Vec<RawClient> = (0..5).map(|_| forebay.client()).collect();
    holder.hold_server();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&query(&format!("INSERT INTO t (v) VALUES ({number})")));
        until_waiting(&forebay, number + 1);
    }
    holder.run("COMMIT");
    for client in &mut clients {
        assert_eq!(client.replies(), "C(INSERT 0 1) Z(I)");
    }
    let order = holder.one("SELECT string_agg(v::text, ' ' ORDER BY n) FROM t");
    assert_eq!(order, "0 1 2 3 4");
}

#[test]
fn who_waits_too_long_for_a_server_is_told_so_and_disconnected() {
    let (_database, forebay) = start("", &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.hold_server();
    forebay.console().run("SET query_wait_timeout = '0.3'");
    two.send(&query("SELECT 1"));
    let error = two.message();
    assert_eq!(
        (error.field(b'S'), error.field(b'M')),
        ("FATAL".into(), "query_wait_timeout".into())
    );
    assert_eq!(two.until_closed(), "");
    assert_eq!(one.query("COMMIT"), "C(COMMIT) Z(I)");
}

#[test]
fn a_server_goes_back_only_after_the_last_sync_sent_on_it() {
    let (_database, forebay) = start("", &["--pool-size", "1", "--cache", "off"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    let group = |value: &str| {
        [parse("", "SELECT $1::text", &[]), bind("", "", &[Some(value)]), execute("", 0), sync()]
            .concat()
    };
    for _ in 0..100 {
        one.send(&[group("a"), group("b"), query("SELECT 'c'"), group("d")].concat());
        two.send(&[group("x"), query("SELECT 'y'"), group("z")].concat());
        for (client, values) in
            [(&mut one, ["a", "b", "c", "d"].as_slice()), (&mut two, &["x", "y", "z"])]
        {
            for value in values {
                let replies = client.replies();
                assert!(replies.contains(&format!("D({value}) C(SELECT 1) Z(I)")), "{replies}");
            }
        }
    }
}

#[test]
fn a_client_that_leaves_in_a_transaction_leaves_nothing_behind() {
    let (_database, forebay) = start("CREATE TABLE t (v int)", &["--pool-size", "1"]);
    let mut one = forebay.client();
    one.run("BEGIN; INSERT INTO t VALUES (1)");
    drop(one);
    let mut two = forebay.client();
    assert_eq!(two.query("SELECT count(*) FROM t"), "T(count) D(0) C(SELECT 1) Z(I)");
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_result_leaves_nothing_behind() {
    let (_database, forebay) = start("", &["--pool-size", "1"]);
    for _ in 0..5 {
        let mut one = forebay.client();
        one.send(&query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"));
        one.message();
        drop(one);
        assert_eq!(forebay.client().query("SELECT 7 AS v"), "T(v) D(7) C(SELECT 1) Z(I)");
    }
}

#[test]
fn session_state_that_cannot_follow_keeps_the_client_on_its_server() {
    for state in [
        "LISTEN news",
        "CREATE TEMP TABLE mine (v int)",
        "SELECT 1 AS v INTO TEMP mine",
        "SELECT pg_advisory_lock(7)",
        "SELECT pg_try_advisory_lock(7)",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "PREPARE mine AS SELECT 1",
    ] {
        let (_database, forebay) = start("", &["--pool-size", "2"]);
        let (mut one, mut two) = (forebay.client(), forebay.client());
        one.run(state);
        let pid = one.one(PID);
        for _ in 0..5 {
            assert_ne!(two.one(PID), pid, "{state}");
            assert_eq!(one.one(PID), pid, "{state}");
        }
    }
}

#[test]
fn a_pinned_client_without_its_state_shares_its_server_again() {
    for state in [
        "LISTEN news",
        "CREATE TEMP TABLE mine (v int)",
        "SELECT pg_advisory_lock(7)",
        "PREPARE p AS SELECT 1",
    ] {
        let (_database, forebay) = start("", &["--pool-size", "1"]);
        let (mut one, mut two) = (forebay.client(), forebay.client());
        one.run(state);
        one.run("DISCARD ALL");
        assert_eq!(two.one("SELECT 1"), "1", "{state}");
    }
}

#[test]
fn what_a_pinned_client_had_is_gone_with_it() {
    let (_database, forebay) = start("", &["--pool-size", "1"]);
    let mut one = forebay.client();
    one.run("LISTEN news; CREATE TEMP TABLE mine (v int); SELECT pg_advisory_lock(7)");
    one.run("PREPARE p AS SELECT 1");
    one.close();
    let mut two = forebay.client();
    assert_eq!(two.query("SELECT v FROM mine"), "E(42P01) Z(I)");
    assert_eq!(two.one("SELECT count(*) FROM pg_listening_channels()"), "0");
    assert_eq!(
        two.one(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        ),
        "0"
    );
    assert_eq!(two.one("SELECT count(*) FROM pg_prepared_statements WHERE from_sql"), "0");
}

#[test]
fn a_notification_reaches_the_client_that_listens() {
    let (_database, forebay) = start("", &["--pool-size", "2"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.run("LISTEN news");
    two.run("NOTIFY news, 'hello'");
    one.expect("A(news=hello)");
}

#[test]
fn settings_follow_their_client_and_no_other() {
    let (_database, forebay) = start("CREATE SCHEMA s", &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    let shown =
        ["work_mem", "search_path", "TimeZone", "DateStyle", "statement_timeout", "app.mine"];
    let mut defaults = Vec::new();
    two.run("SET app.mine = 'two'");
    for name in shown {
        defaults.push(two.one(&format!("SHOW {name}")));
    }
    one.run("SET work_mem = '5MB'; SET search_path = s; SET TimeZone = 'Asia/Tokyo'");
    one.run("SET DateStyle = 'German'; SET statement_timeout = '5s'; SET app.mine = 'one'");
    let mine = ["5MB", "s", "Asia/Tokyo", "German, DMY", "5s", "one"];
    for _ in 0..2 {
        for (index, name) in shown.iter().enumerate() {
            assert_eq!(two.one(&format!("SHOW {name}")), defaults[index]);
            assert_eq!(one.one(&format!("SHOW {name}")), mine[index]);
        }
    }
}

#[test]
fn a_role_does_not_outlive_its_clients_turn() {
    let database = Database::apart("");
    let role = format!("role_{}", database.name);
    let user = crate::support::postgres::USER;
    database.admin().run(&format!("CREATE ROLE {role}; GRANT {role} TO {user}"));
    let forebay = Forebay::start(&database, &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.run(&format!("SET ROLE {role}"));
    assert_eq!(two.one("SELECT current_user"), user);
    assert_eq!(one.one("SELECT current_user"), role);
    one.run("RESET ROLE");
    assert_eq!(one.one("SELECT current_user"), user);
}

#[test]
fn settings_made_in_code_do_not_reach_the_next_client() {
    let (_database, forebay) = start("", &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    let default = two.one("SHOW work_mem");
    one.run("DO $$ BEGIN PERFORM set_config('work_mem', '5MB', false); END $$");
    assert_eq!(two.one("SHOW work_mem"), default);
    one.run("SELECT set_config('work_mem', '6MB', false)");
    drop(one);
    assert_eq!(two.one("SHOW work_mem"), default);
}

#[test]
fn set_and_reset_follow_transactions_and_savepoints() {
    check_follows(
        &[],
        &[
            "SET work_mem = '5MB'",
            "SHOW work_mem",
            "BEGIN",
            "SET work_mem = '6MB'",
            "SHOW work_mem",
            "ROLLBACK",
            "SHOW work_mem",
            "BEGIN",
            "SET LOCAL work_mem = '7MB'",
            "SHOW work_mem",
            "COMMIT",
            "SHOW work_mem",
            "BEGIN; SAVEPOINT a; SET work_mem = '8MB'",
            "ROLLBACK TO a",
            "SHOW work_mem",
            "SET work_mem = '9MB'",
            "SAVEPOINT b",
            "SET work_mem = '10MB'",
            "RELEASE b",
            "COMMIT",
            "SHOW work_mem",
            "BEGIN; SET work_mem = '11MB'; SELECT 1/0",
            "COMMIT",
            "SHOW work_mem",
            "BEGIN; SET work_mem = '12MB'; COMMIT AND CHAIN",
            "SET work_mem = '13MB'",
            "ROLLBACK",
            "SHOW work_mem",
            "RESET work_mem",
            "SHOW work_mem",
            "SET work_mem TO DEFAULT",
            "SELECT set_config('work_mem', '14MB', false)",
            "SHOW work_mem",
            "SELECT set_config('work_mem', '15MB', true)",
            "SHOW work_mem",
            "SET nonsense.setting = 'a''b\\c'",
            "SHOW nonsense.setting",
            "SET work_mem = 'nonsense'",
            "SHOW work_mem",
            "RESET ALL",
            "SHOW work_mem",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SHOW transaction_read_only",
            "DISCARD ALL",
            "SHOW transaction_read_only",
            "SHOW work_mem",
        ],
    );
}

#[test]
fn startup_options_are_the_defaults_that_reset_returns_to() {
    check_follows(
        &[("options", "-c work_mem=7MB"), ("TimeZone", "Asia/Tokyo")],
        &[
            "SHOW work_mem",
            "SHOW TimeZone",
            "SET work_mem = '8MB'",
            "SHOW work_mem",
            "RESET work_mem",
            "SHOW work_mem",
            "SET TimeZone = 'UTC'",
            "RESET ALL",
            "SHOW TimeZone",
            "SHOW work_mem",
            "SET work_mem = '9MB'",
            "DISCARD ALL",
            "SHOW work_mem",
            "SHOW TimeZone",
        ],
    );
}

#[test]
fn a_bad_startup_setting_is_refused_in_postgres_words() {
    let (database, forebay) = start("", &[]);
    let login = crate::support::raw::Login::new(
        crate::support::postgres::USER,
        crate::support::postgres::PASSWORD,
        &database.name,
    );
    let refused = forebay.log_in(&login.with(&[("TimeZone", "Nowhere/Land")])).err().unwrap();
    assert_eq!(refused.sqlstate, "22023");
    assert_eq!(refused.message, "invalid value for parameter \"TimeZone\": \"Nowhere/Land\"");
}

#[test]
fn a_prepared_statement_follows_its_client_to_another_server() {
    let (_database, forebay) = start("", &["--pool-size", "2", "--cache", "off"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.ask(&[parse("s", "SELECT pg_backend_pid() + $1::int * 0", &[]), sync()]);
    let run = |client: &mut RawClient| {
        client.send(&[bind("", "s", &[Some("1")]), execute("", 0), sync()].concat());
        client.until(b'Z')[1].columns()[0].clone().unwrap()
    };
    let first = run(&mut one);
    // The other client takes the server that the statement was prepared on.
    let mut third = forebay.client();
    two.run("BEGIN");
    if two.one(PID) != first {
        third.run("BEGIN");
        assert_eq!(third.one(PID), first);
        two.run("COMMIT");
    }
    assert_ne!(run(&mut one), first);
}

#[test]
fn a_parse_that_was_skipped_does_not_undo_a_later_one_of_the_same_text() {
    let (_database, forebay) = start("", &["--pool-size", "1", "--cache", "off"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    let again = || parse("", "SELECT 7 AS v", &[]);
    assert_eq!(one.ask(&[again(), sync()]), "1 Z(I)");
    one.send(&[bind("", "missing", &[]), again(), sync(), again(), sync()].concat());
    assert_eq!(one.replies(), "E(26000) Z(I)");
    assert_eq!(one.replies(), "1 Z(I)");
    // A Query of another client drops the unnamed statement of the server.
    two.run("SELECT 1");
    assert_eq!(one.ask(&[bind("", "", &[]), execute("", 0), sync()]), "2 D(7) C(SELECT 1) Z(I)");
}

#[test]
fn two_clients_may_use_one_name_for_different_statements() {
    let (_database, forebay) = start("", &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    assert_eq!(one.ask(&[parse("s", "SELECT 1 AS a", &[]), sync()]), "1 Z(I)");
    assert_eq!(two.ask(&[parse("s", "SELECT 2 AS b", &[]), sync()]), "1 Z(I)");
    let run = [bind("", "s", &[]), execute("", 0), sync()];
    for _ in 0..3 {
        assert_eq!(one.ask(&run), "2 D(1) C(SELECT 1) Z(I)");
        assert_eq!(two.ask(&run), "2 D(2) C(SELECT 1) Z(I)");
    }
    one.run("DEALLOCATE ALL");
    assert_eq!(one.ask(&run), "E(26000) Z(I)");
    assert_eq!(two.ask(&run), "2 D(2) C(SELECT 1) Z(I)");
}

#[test]
fn more_clients_than_servers_run_prepared_transactions_to_their_end() {
    let (database, forebay) =
        start("CREATE TABLE t (v int); INSERT INTO t VALUES (0)", &["--pool-size", "2"]);
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let mut client = forebay.client();
                for sql in ["BEGIN", "UPDATE t SET v = v + 1", "COMMIT"] {
                    let replies = client.ask(&[parse(sql, sql, &[]), sync()]);
                    assert_eq!(replies, "1 Z(I)");
                }
                for _ in 0..20 {
                    for (sql, status) in
                        [("BEGIN", 'T'), ("UPDATE t SET v = v + 1", 'T'), ("COMMIT", 'I')]
                    {
                        let replies = client.ask(&[bind("", sql, &[]), execute("", 0), sync()]);
                        assert!(replies.ends_with(&format!("Z({status})")), "{replies}");
                    }
                }
            });
        }
    });
    assert_eq!(database.direct().one("SELECT v FROM t"), "200");
}

#[test]
fn session_pooling_keeps_the_server_until_the_client_leaves_and_cleans_it_then() {
    let (_database, forebay) = start("", &["--pool-size", "1", "--pool-mode", "session"]);
    let mut one = forebay.client();
    let pid = one.one(PID);
    one.run("SET work_mem = '5MB'; CREATE TEMP TABLE mine (v int)");
    assert_eq!(one.one(PID), pid);
    one.send(&[]);
    one.close();
    let mut two = forebay.client();
    assert_ne!(two.one("SHOW work_mem"), "5MB");
    assert_eq!(two.query("SELECT v FROM mine"), "E(42P01) Z(I)");
}

#[test]
fn no_more_servers_than_the_pool_may_have_are_opened() {
    let (database, forebay) = start("", &["--pool-size", "3"]);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut client = forebay.client();
                for _ in 0..10 {
                    client.run("SELECT 1");
                }
            });
        }
    });
    // One more asks about the catalogue.
    assert!(database.servers().len() <= 4, "{:?}", database.servers());
}

#[test]
fn a_transaction_that_fails_in_the_string_that_began_it_leaves_the_next_client_its_settings() {
    check_follows(
        &[],
        &["SET work_mem = '5MB'", "BEGIN; SET work_mem = '6MB'; SELECT 1/0", "COMMIT"],
    );
}

#[test]
fn settings_follow_a_client_whose_strings_have_escapes() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &["--pool-size", "1"]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.run("SET standard_conforming_strings = off");
    one.run("SET TimeZone = 'Europe/Rome'");
    assert_eq!(two.one("SHOW TimeZone"), "UTC");
    assert_eq!(one.one("SHOW TimeZone"), "Europe/Rome");
}

/// A Query whose text is not UTF-8.
fn latin1(text: &str) -> Vec<u8> {
    let one_byte = |letter: char| u8::try_from(u32::from(letter)).unwrap();
    let body: Vec<u8> = text.chars().map(one_byte).chain([0]).collect();
    message(b'Q', &body)
}

#[test]
fn a_setting_beyond_ascii_follows_its_client_whatever_the_encoding_before() {
    let (_database, forebay) = start("", &["--pool-size", "1"]);
    let options = [("options", "-c app.city=Düren")];
    let (mut one, mut two) = (forebay.client(), forebay.client_with(&options));
    one.run("SET client_encoding = 'LATIN1'");
    two.run("SET app.tenant = 'Zürich'");
    for _ in 0..2 {
        assert_eq!(one.one("SHOW client_encoding"), "LATIN1");
        assert_eq!(one.one("SELECT coalesce(current_setting('app.tenant', true), '')"), "");
        assert_eq!(two.one("SHOW app.tenant"), "Zürich");
        assert_eq!(two.one("SHOW app.city"), "Düren");
        assert_eq!(two.one("SHOW client_encoding"), "UTF8");
    }
}

#[test]
fn what_is_set_in_another_encoding_is_not_lost() {
    // In UTF-8 the second is one letter.
    for (tenant, length) in [("Zürich", "6"), ("Ã¼", "2")] {
        for setting in [
            format!("SET app.tenant = '{tenant}'"),
            format!("SELECT set_config('app.tenant', '{tenant}', false)"),
        ] {
            let (_database, forebay) = start("", &["--pool-size", "2"]);
            let (mut one, mut two) = (forebay.client(), forebay.client());
            one.run("SET client_encoding = 'LATIN1'");
            one.send(&latin1(&setting));
            one.until(b'Z');
            // It gets the server that was used last, if it can.
            two.hold_server();
            assert_eq!(
                one.one("SELECT length(current_setting('app.tenant'))"),
                length,
                "{setting}"
            );
        }
    }
}

#[test]
fn a_table_is_known_by_its_name_in_the_clients_encoding() {
    let tables = "CREATE TABLE \"é\" (v int); CREATE TABLE \"Ã©\" (v int)";
    let (_database, forebay) = start(tables, &[]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.run("SET client_encoding = 'LATIN1'");
    let count = "SELECT count(*) FROM \"Ã©\"";
    for expected in ["0", "1", "2"] {
        for _ in 0..3 {
            assert_eq!(two.one(count), expected);
        }
        one.send(&latin1("INSERT INTO \"Ã©\" VALUES (1)"));
        assert_eq!(one.replies(), "C(INSERT 0 1) Z(I)");
    }
}

/// Statements that change the catalogue, or are taken for that, and run code that changes the
/// session.
#[test]
fn what_code_behind_ddl_has_set_does_not_reach_the_next_client() {
    let setit = "CREATE FUNCTION setit() RETURNS int LANGUAGE sql AS
        'SELECT set_config(''work_mem'', ''5MB'', false); SELECT 1'";
    for sql in [
        "UPDATE pg_settings SET setting = '5MB' WHERE name = 'work_mem'",
        "CREATE TABLE x AS SELECT setit() AS v",
        "SELECT setit() AS v INTO x",
        "ALTER TABLE t ADD w int DEFAULT setit()",
        "ALTER TABLE t ALTER v TYPE bigint USING setit()",
        "SELECT setit(); ALTER TABLE t ADD w int",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT setit(); COMMIT; CLOSE ALL",
    ] {
        let (_database, forebay) =
            start(&format!("{setit}; CREATE TABLE t (v int)"), &["--pool-size", "1"]);
        let (mut one, mut two) = (forebay.client(), forebay.client());
        let default = two.one("SHOW work_mem");
        one.run("INSERT INTO t VALUES (1)");
        one.run(sql);
        assert_eq!(two.one("SHOW work_mem"), default, "{sql}");
    }
}

#[test]
fn a_table_made_where_the_path_is_temporary_stays_with_its_client() {
    for path in ["pg_temp, public", "nosuch, pg_temp"] {
        let (_database, forebay) = start("CREATE TABLE users AS SELECT 1 AS v", &[]);
        let (mut one, mut two) = (forebay.client(), forebay.client());
        one.run(&format!("SET search_path = {path}"));
        one.run("CREATE TABLE users AS SELECT 2 AS v");
        for _ in 0..3 {
            assert_eq!(two.one("SELECT v FROM users"), "1", "{path}");
        }
        assert_eq!(one.one("SELECT v FROM users"), "2", "{path}");
    }
}

#[test]
fn without_a_cache_ddl_takes_nothing_from_the_session_behind_it() {
    let database = Database::with("");
    let toml = "[pool]\npins = \"ignore\"\n";
    let options = ["--pool-size", "1", "--cache", "off"];
    let forebay = Forebay::with_config(&database, toml, &options);
    let mut client = forebay.client();
    client.run("SELECT pg_advisory_lock(1)");
    client.run("CREATE TABLE x AS SELECT 1 AS v");
    assert_eq!(client.one("SELECT pg_advisory_unlock(1)"), "t");
}
