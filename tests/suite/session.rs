//! Session pooling: a client cannot tell Forebay from PostgreSQL.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, RawClient, cancel, query};
use crate::support::wait_until;

const SESSION: &str = "[pool]\npool_mode = \"session\"\n";

fn start(database: &Database<'_>, options: &[&str]) -> Forebay {
    Forebay::with_config(database, SESSION, options)
}

#[test]
fn a_client_has_the_process_id_of_its_server_and_a_cancel_key_of_its_own() {
    let database = Database::with("");
    let forebay = start(&database, &[]);
    let mut clients = [forebay.client(), forebay.client()];
    for client in &mut clients {
        assert_eq!(client.one("SELECT pg_backend_pid()"), client.pid.to_string());
    }
    let [mut one, mut two] = clients;
    let mut admin = database.admin();
    for client in [&mut one, &mut two] {
        client.send(&query("SELECT pg_sleep(60)"));
        let asleep = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = {}",
            client.pid
        );
        wait_until("the query runs", || admin.one(&asleep) == "1");
        RawClient::connect(forebay.port).send(&cancel(client.pid, &client.key));
        assert_eq!(client.replies(), "T(pg_sleep) E(57014) Z(I)");
    }
    // Whoever knows a process id can do with it what PostgreSQL does.
    admin.run(&format!("SELECT pg_terminate_backend({})", one.pid));
    assert_eq!(one.until_closed(), "E(57P01)");
}

#[test]
fn what_a_client_starts_with_is_what_it_falls_back_to() {
    let database = Database::with("");
    let forebay = start(&database, &[]);
    let parameters = [("TimeZone", "Asia/Tokyo"), ("options", "-c work_mem=7MB --search_path=a,b")];
    let login = Login::new(USER, PASSWORD, &database.name).with(&parameters);
    let through = forebay.log_in(&login).unwrap();
    let direct = RawClient::log_in(database.postgres.port, &login).unwrap();
    let told = |client: &RawClient| {
        let mut told: Vec<String> = client
            .greeting
            .iter()
            .filter(|message| message.tag == b'S')
            .map(ToString::to_string)
            .collect();
        told.sort();
        told
    };
    assert_eq!(told(&through), told(&direct));
    for mut client in [through, direct] {
        client.run("SET work_mem = '9MB'; SET TimeZone = 'UTC'; SET search_path = c");
        client.run("BEGIN");
        client.run("RESET work_mem");
        assert_eq!(client.one("SHOW work_mem"), "7MB");
        client.run("COMMIT");
        assert_eq!(client.query("RESET ALL"), "C(RESET) S(TimeZone=Asia/Tokyo) Z(I)");
        assert_eq!(client.one("SHOW search_path"), "a,b");
        assert_eq!(client.one("SELECT reset_val FROM pg_settings WHERE name = 'work_mem'"), "7168");
    }
}

#[test]
fn a_new_client_finds_nothing_that_the_last_one_left() {
    let database = Database::with("CREATE SEQUENCE s");
    let forebay = start(&database, &["--pool-size", "1"]);
    let mut one = forebay.client();
    for sql in [
        "SET work_mem = '9MB'",
        "CREATE TEMP TABLE mine (v int)",
        "PREPARE mine AS SELECT 1",
        "LISTEN mine",
        "SELECT pg_advisory_lock(1)",
        "SELECT nextval('s')",
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
        "SELECT set_config('app.tenant', '7', false)",
    ] {
        one.run(sql);
    }
    let pid = one.pid;
    one.close();
    let mut two = forebay.client();
    assert_eq!(two.pid, pid, "the server is used again");
    for (sql, nothing) in [
        ("SHOW work_mem", "4MB"),
        ("SELECT to_regclass('pg_temp.mine')", "NULL"),
        ("SELECT count(*) FROM pg_prepared_statements", "0"),
        ("SELECT count(*) FROM pg_listening_channels()", "0"),
        (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            "0",
        ),
        ("SELECT count(*) FROM pg_cursors WHERE name = 'mine'", "0"),
        ("SELECT current_setting('app.tenant', true)", ""),
    ] {
        assert_eq!(two.one(sql), nothing, "{sql}");
    }
    assert!(two.query("SELECT currval('s')").contains("E(55000)"));
}

#[test]
fn a_cancel_of_who_has_gone_does_not_reach_who_has_its_server_now() {
    let database = Database::with("");
    let forebay = start(&database, &["--pool-size", "1"]);
    let one = forebay.client();
    let (pid, key) = (one.pid, one.key.clone());
    one.close();
    let mut two = forebay.client();
    assert_eq!(two.pid, pid, "the server is used again");
    let mut locker = database.admin();
    locker.run("SELECT pg_advisory_lock(1)");
    two.send(&query("SELECT pg_advisory_lock(1)"));
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND pid = {pid}"
    );
    wait_until("the query waits", || locker.one(&waits) == "1");
    let mut late = RawClient::connect(forebay.port);
    late.send(&cancel(pid, &key));
    assert_eq!(late.until_closed(), "");
    locker.run("SELECT pg_advisory_unlock(1)");
    assert_eq!(two.replies(), "T(pg_advisory_lock) D C(SELECT 1) Z(I)");
    assert_ne!(two.key, key);
}

#[test]
fn a_client_waits_for_its_server_when_it_logs_in() {
    let database = Database::with("");
    let forebay = start(&database, &["--pool-size", "1"]);
    let one = forebay.client();
    let login = Login::new(USER, PASSWORD, &database.name);
    let mut console = forebay.console();
    console.run("SET query_wait_timeout = '0.3'");
    let refused = forebay.log_in(&login).err().unwrap();
    assert_eq!(
        (refused.sqlstate.as_str(), refused.message.as_str()),
        ("08P01", "query_wait_timeout")
    );
    console.run("SET query_wait_timeout = 120");
    one.close();
    let mut two = forebay.client();
    assert_eq!(two.one("SELECT 1"), "1");
}

#[test]
fn a_parameter_that_postgres_refuses_is_refused_to_that_client_alone() {
    let database = Database::with("");
    let forebay = start(&database, &[]);
    let login = Login::new(USER, PASSWORD, &database.name);
    let refused = forebay.log_in(&login.with(&[("TimeZone", "Nowhere")])).err().unwrap();
    assert_eq!(refused.sqlstate, "22023");
    assert_eq!(refused.message, "invalid value for parameter \"TimeZone\": \"Nowhere\"");
    assert_eq!(forebay.client().one("SELECT 1"), "1");
}

#[test]
fn a_server_that_started_otherwise_makes_room() {
    let database = Database::with("");
    let forebay = start(&database, &["--pool-size", "1"]);
    forebay.client().close();
    let mut other = forebay.client_with(&[("options", "-c work_mem=7MB")]);
    assert_eq!(other.one("SELECT reset_val FROM pg_settings WHERE name = 'work_mem'"), "7168");
    forebay.log_contains("closing because: evicted");
    // What PostgreSQL has of the first one takes a while to end.
    wait_until("one is for the client, one for the catalogue", || database.servers().len() == 2);
}

#[test]
fn the_time_outs_that_a_client_starts_with_are_not_those_of_our_questions() {
    let database = Database::with("");
    let toml = format!("[cache]\nmode = \"off\"\n{SESSION}");
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let mut holder = database.admin();
    holder.run("BEGIN; LOCK TABLE pg_proc");
    let mut client = RawClient::connect(forebay.port);
    let login = Login::new(USER, PASSWORD, &database.name)
        .with(&[("statement_timeout", "1s"), ("lock_timeout", "1s")]);
    client.send(&login.startup());
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
         AND datname = '{}' AND clock_timestamp() - query_start > '1.2s'",
        database.name
    );
    std::thread::scope(|threads| {
        let logging_in = threads.spawn(|| client.authenticate(&login).unwrap());
        let mut admin = database.postgres.admin("postgres");
        wait_until("the question waits", || logging_in.is_finished() || admin.one(&waits) == "1");
        holder.run("COMMIT");
        logging_in.join().unwrap();
    });
    assert_eq!(client.one("SHOW statement_timeout"), "1s");
    client.run("SET lock_timeout = 0");
    client.run("RESET lock_timeout");
    assert_eq!(client.one("SHOW lock_timeout"), "1s");
}

#[test]
fn a_time_out_of_one_clients_start_refuses_nobody_else() {
    let database = Database::with("");
    let toml = format!(
        "{SESSION}[databases]\n{name} = {{ host = \"127.0.0.1\", port = {port}, \
         connect_query = \"SELECT pg_sleep(0.1)\" }}\n",
        name = database.name,
        port = database.postgres.port
    );
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let login = Login::new(USER, PASSWORD, &database.name);
    let hasty = login.with(&[("statement_timeout", "10ms")]);
    let refused = forebay.log_in(&hasty).err().unwrap();
    assert!(refused.message.contains("statement timeout"), "{}", refused.message);
    assert_eq!(forebay.client().one("SELECT 1"), "1");
}

#[test]
fn ddl_that_runs_no_code_leaves_a_session_its_hits() {
    let database = Database::apart("CREATE TABLE t AS SELECT 1 AS v");
    let user = format!("of_{}", database.name);
    database.admin().run(&format!("CREATE ROLE {user}; GRANT {user} TO {USER} WITH ADMIN OPTION"));
    let forebay = start(&database, &[]);
    let (mut client, mut other) = (forebay.client(), forebay.client());
    for (make, undo) in [
        ("CREATE SCHEMA s".to_owned(), "DROP SCHEMA s".to_owned()),
        ("CREATE VIEW w AS SELECT 1 AS v".to_owned(), "DROP VIEW w".to_owned()),
        (format!("GRANT {user} TO pg_monitor"), format!("REVOKE {user} FROM pg_monitor")),
    ] {
        other.run(&make);
        // Until the catalogue is read again, events might have triggers.
        database.until_hit(&mut other, "SELECT v FROM t");
        client.run(&undo);
        database.until_hit(&mut client, "SELECT v FROM t");
        database.until_hit(&mut other, "SELECT v FROM t");
    }
}
