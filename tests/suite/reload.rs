//! RELOAD and SIGHUP: what was changed is in force at once, and a broken file changes nothing.

use crate::console::{count, find};
use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, bind, execute, parse, query, sync};
use crate::support::wait_until;

const TABLE: &str = "CREATE TABLE t (v text); INSERT INTO t VALUES ('one')";
const READ: &str = "SELECT v FROM t";

fn start(toml: &str) -> (Database<'static>, Forebay) {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, toml, &[]);
    (database, forebay)
}

fn reload(forebay: &Forebay, toml: &str) {
    forebay.write_settings(toml);
    assert_eq!(forebay.console().query("RELOAD"), "C(RELOAD) Z(I)");
}

#[test]
fn how_many_statements_a_server_keeps_changes_under_its_clients() {
    let database = Database::with("");
    let toml =
        |max: u32| format!("[pool]\nmax_prepared_statements = {max}\n[cache]\nmode = \"off\"\n");
    let forebay = Forebay::with_config(&database, &toml(2), &["--pool-size", "1"]);
    let mut client = forebay.client();
    let mut prepare = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let name = format!("s{number}");
            let sql = format!("SELECT {number}");
            client.send(
                &[parse(&name, &sql, &[]), bind("", &name, &[]), execute("", 0), sync()].concat(),
            );
            assert_eq!(client.replies(), format!("1 2 D({number}) C(SELECT 1) Z(I)"));
        }
        client.one("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'forebay%'")
    };
    assert_eq!(prepare(0..4), "2");
    reload(&forebay, &toml(5));
    assert_eq!(prepare(4..10), "5");
    reload(&forebay, &toml(1));
    assert_eq!(prepare(10..11), "1");
}

#[test]
fn what_was_counted_of_a_pool_that_is_made_anew_stays_counted() {
    let (database, forebay) = start("");
    let mut client = forebay.client();
    for _ in 0..3 {
        client.run(READ);
    }
    let mut console = forebay.console();
    let mut counted = || {
        let row = find(&mut console, "SHOW STATS_TOTALS", "database", &database.name);
        count(&row, "query_count")
    };
    assert_eq!(counted(), 3);
    reload(&forebay, "[pool]\npins = \"ignore\"\n");
    assert_eq!(counted(), 3);
    forebay.client().run(READ);
    assert_eq!(counted(), 4);
}

#[test]
fn a_larger_pool_serves_who_waits_at_once() {
    let (_database, forebay) = start("[pool]\ndefault_pool_size = 1\n");
    let mut one = forebay.client();
    one.hold_server();
    let mut two = forebay.client();
    two.send(&query("SELECT 2"));
    let mut console = forebay.console();
    wait_until("the second client waits", || console.query("SHOW CLIENTS").contains(",waiting,"));
    reload(&forebay, "[pool]\ndefault_pool_size = 2\n");
    assert_eq!(two.replies(), "T(?column?) D(2) C(SELECT 1) Z(I)");
    one.run("COMMIT");
}

#[test]
fn a_smaller_pool_closes_what_is_too_much_once_it_is_free() {
    let (database, forebay) = start("[pool]\ndefault_pool_size = 2\n");
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.hold_server();
    two.hold_server();
    let before = database.servers().len();
    reload(&forebay, "[pool]\ndefault_pool_size = 1\n");
    assert_eq!(one.one("SELECT 1") + &two.one("SELECT 2"), "12");
    one.run("COMMIT");
    two.run("COMMIT");
    wait_until("one server is closed", || database.servers().len() == before - 1);
    assert_eq!(one.one("SELECT 1") + &two.one("SELECT 2"), "12");
}

#[test]
fn how_long_a_client_waits_is_reloaded() {
    let (_database, forebay) = start("[pool]\ndefault_pool_size = 1\n");
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.hold_server();
    reload(&forebay, "[pool]\ndefault_pool_size = 1\nquery_wait_timeout = \"50ms\"\n");
    two.send(&query("SELECT 2"));
    let error = two.message();
    assert_eq!(
        (error.field(b'C'), error.field(b'M')),
        ("08P01".into(), "query_wait_timeout".into())
    );
}

#[test]
fn the_cache_is_switched_off_and_on_by_a_reload() {
    let (database, forebay) = start("");
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    reload(&forebay, "[cache]\nmode = \"off\"\n");
    assert!(!database.is_hit(&mut client, READ));
    assert!(!database.is_hit(&mut client, READ));
    // What is written meanwhile is forgotten all the same.
    client.run("UPDATE t SET v = 'two'");
    reload(&forebay, "[cache]\nmode = \"on\"\n");
    assert_eq!(client.one(READ), "two");
    database.until_hit(&mut client, READ);
    reload(&forebay, "[cache]\nmode = \"dry_run\"\n");
    assert!(!database.is_hit(&mut client, READ));
}

#[test]
fn a_shorter_max_age_holds_for_answers_that_are_kept_already() {
    let (database, forebay) = start("[cache]\nmax_age = \"1h\"\n");
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    database.admin().run("UPDATE t SET v = 'behind'");
    assert_eq!(client.one(READ), "one");
    reload(&forebay, "[cache]\nmax_age = \"1ms\"\n");
    assert_eq!(client.one(READ), "behind");
    assert!(forebay.console().query("SHOW CACHE").contains("0.001s"));
}

#[test]
fn databases_come_change_and_go() {
    let (one, forebay) = start("");
    let two = Database::with("CREATE TABLE t (v text); INSERT INTO t VALUES ('of two')");
    let entry = |database: &Database<'_>| {
        let (port, name) = (database.postgres.port, &database.name);
        format!(
            "[databases]\nalias = {{ host = \"127.0.0.1\", port = {port}, dbname = \"{name}\" }}\n"
        )
    };
    let login = Login::new(USER, PASSWORD, "alias");
    assert_eq!(forebay.log_in(&login).err().unwrap().sqlstate, "3D000");
    reload(&forebay, &entry(&one));
    let mut idle = forebay.log_in(&login).unwrap();
    assert_eq!(idle.one(READ), "one");
    let mut busy = forebay.log_in(&login).unwrap();
    busy.run("BEGIN; UPDATE t SET v = 'three'");
    reload(&forebay, &entry(&two));
    assert_eq!(idle.until_closed(), "E(57P01)");
    // A transaction ends where it began, and then its client has to go.
    busy.run("INSERT INTO t VALUES ('four')");
    assert_eq!(busy.query("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(busy.until_closed(), "E(57P01)");
    assert_eq!(one.direct().one("SELECT count(*) FROM t WHERE v IN ('three', 'four')"), "2");
    assert_eq!(forebay.log_in(&login).unwrap().one(READ), "of two");
    reload(&forebay, "");
    assert_eq!(forebay.log_in(&login).err().unwrap().sqlstate, "3D000");
}

#[test]
fn a_broken_file_changes_nothing_and_says_why() {
    let (database, forebay) = start("[pool]\ndefault_pool_size = 3\n");
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    let mut console = forebay.console();
    for (broken, words) in [
        ("[pool]\ndefault_pool_size = -1\n[cache]\nmode = \"off\"\n", "2: pool.default_pool_size"),
        ("[cache]\nmode = \"of\"\n", "2: cache.mode"),
        ("[cache]\nmodus = \"off\"\n", "2: "),
        ("[cache\n", "forebay.toml:1"),
        ("[auth]\nauth_file = \"/nonexistent/userlist\"\n", "/nonexistent/userlist"),
        ("[tls]\nclient_tls_sslmode = \"require\"\n", "client_tls"),
    ] {
        forebay.write_settings(broken);
        console.send(&query("RELOAD"));
        let messages = console.until(b'Z');
        assert_eq!(messages[0].field(b'C'), "F0000", "{broken}");
        let told = messages[0].field(b'M');
        assert!(told.contains(words), "{broken}: {told}");
        let log = forebay.log();
        assert!(log.contains("reload failed, settings stay as they were"), "{log}");
        assert!(database.is_hit(&mut client, READ), "{broken}");
        let shown = console.query("SHOW CONFIG");
        assert!(shown.contains("D(default_pool_size,3,20,yes)"), "{shown}");
    }
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_applied() {
    let (_database, forebay) = start("");
    forebay.write_settings("[cache]\nsize = \"64MB\"\nmax_age = \"7s\"\n");
    let mut console = forebay.console();
    let told = console.query("RELOAD");
    assert_eq!(told, "N(cache.size: changed, but needs a restart) C(RELOAD) Z(I)");
    let shown = console.query("SHOW CONFIG");
    assert!(shown.contains("D(cache.max_age,7s,60s,yes)"), "{shown}");
    assert!(shown.contains("D(cache.size,256MB,256MB,no)"), "{shown}");
}

#[test]
fn a_hangup_signal_reloads_too() {
    let (database, forebay) = start("");
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    forebay.write_settings("[cache]\nmode = \"nonsense\"\n");
    forebay.daemon.signal("HUP");
    forebay.log_contains("reload failed");
    assert!(database.is_hit(&mut client, READ));
    forebay.write_settings("[cache]\nmode = \"off\"\n");
    forebay.daemon.signal("HUP");
    forebay.log_contains("settings reloaded");
    assert!(!database.is_hit(&mut client, READ));
}

#[test]
fn what_was_written_while_the_cache_was_off_is_seen_when_it_is_on_again() {
    let database = Database::with("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let forebay = Forebay::with_config(&database, "", &[]);
    let mut client = forebay.client();
    let sum = "SELECT sum(a) FROM t";
    database.until_hit(&mut client, sum);
    forebay.reload("[cache]\nmode = \"off\"\n");
    // After it there is no catalogue to judge by.
    client.run("CREATE TABLE other (a int)");
    client.run("INSERT INTO t VALUES (10)");
    forebay.reload("");
    assert_eq!(client.one(sum), "11");
}

#[test]
fn a_write_sent_before_the_cache_was_on_is_seen_when_it_commits_after() {
    let database = Database::with("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let forebay = Forebay::with_config(&database, "[cache]\nmode = \"off\"\n", &[]);
    let (mut holder, mut writer) = (database.direct(), forebay.client());
    holder.run("BEGIN");
    holder.run("LOCK TABLE t IN SHARE MODE");
    writer.send(&query("INSERT INTO t VALUES (10)"));
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted";
    wait_until("the write waits", || database.admin().one(waits) != "0");
    forebay.reload("");
    let mut reader = forebay.client();
    let sum = "SELECT sum(a) FROM t";
    database.until_hit(&mut reader, sum);
    holder.run("COMMIT");
    writer.replies();
    assert_eq!(reader.one(sum), "11");
}
