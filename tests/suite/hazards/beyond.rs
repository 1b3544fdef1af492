//! Hazards that take more than one script: several login roles, a superuser, time-outs, portals
//! held open, servers that are copies of others.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, Postgres, USER, scratch};
use crate::support::raw::{Login, RawClient, bind, execute, flush, parse, query, sync};
use crate::support::wait_until;

const TABLE: &str = "CREATE TABLE t (v text); INSERT INTO t VALUES ('old')";
const READ: &str = "SELECT v FROM t";

/// An entry of `[databases]` under this name, whose clients are on the server who they are here.
fn entry(name: &str, port: u16, database: &str) -> String {
    format!("{name} = {{ host = \"127.0.0.1\", port = {port}, dbname = \"{database}\" }}\n")
}

#[test]
fn each_login_role_has_answers_of_its_own() {
    let database = Database::apart("CREATE TABLE t (v int); INSERT INTO t VALUES (7)");
    let mut admin = database.admin();
    let [ann, bob] = ["ann", "bob"].map(|name| format!("{name}_{}", database.name));
    admin.run(&format!(
        "CREATE ROLE {ann} LOGIN PASSWORD 'x'; CREATE ROLE {bob} LOGIN PASSWORD 'x'"
    ));
    database.direct().run(&format!("GRANT SELECT ON t TO {ann}"));
    let directory = scratch();
    let users = directory.join("users");
    std::fs::write(
        &users,
        format!("\"{ann}\" \"x\"\n\"{bob}\" \"x\"\n\"{USER}\" \"{PASSWORD}\"\n"),
    )
    .unwrap();
    let entry = entry("own", database.postgres.port, &database.name);
    let toml = format!("[auth]\nauth_file = \"{}\"\n[databases]\n{entry}", users.display());
    let forebay = Forebay::with_config(&database, &toml, &[]);
    std::fs::remove_dir_all(directory).unwrap();
    let log_in = |user: &str, password| forebay.log_in(&Login::new(user, password, "own")).unwrap();
    let (mut of_ann, mut of_bob) = (log_in(&ann, "x"), log_in(&bob, "x"));
    assert_eq!(of_ann.one("SELECT session_user"), ann);
    database.until_hit(&mut of_ann, READ);
    assert_eq!(of_bob.query(READ), "E(42501) Z(I)");
    // What one of them may is changed by a third, at once.
    log_in(USER, PASSWORD)
        .run(&format!("REVOKE SELECT ON t FROM {ann}; GRANT SELECT ON t TO {bob}"));
    assert_eq!(of_ann.query(READ), "E(42501) Z(I)");
    database.until_hit(&mut of_bob, READ);
    log_in(USER, PASSWORD).run("UPDATE t SET v = 8");
    assert_eq!(of_bob.one(READ), "8");
}

#[test]
fn a_session_authorization_is_followed() {
    let database = Database::apart("CREATE TABLE t (v int); INSERT INTO t VALUES (7)");
    let role = format!("other_{}", database.name);
    database.admin().run(&format!("CREATE ROLE {role}"));
    let toml = "[auth]\nauth_type = \"trust\"\n";
    let url = database.url().replace(&format!("{USER}:{PASSWORD}@"), "postgres@");
    let forebay = Forebay::launch(&url, &database.name, toml, &["--pool-size", "1"]);
    let login = Login::new("postgres", "", &database.name);
    let (mut one, mut two) = (forebay.log_in(&login).unwrap(), forebay.log_in(&login).unwrap());
    database.until_hit(&mut one, READ);
    one.run("BEGIN");
    one.run(&format!("SET LOCAL SESSION AUTHORIZATION {role}"));
    assert!(one.query(READ).starts_with("E(42501)"));
    one.run("ROLLBACK");
    assert_eq!(one.one(READ), "7");
    one.run(&format!("SET SESSION AUTHORIZATION {role}"));
    for _ in 0..3 {
        assert_eq!(one.query(READ), "E(42501) Z(I)");
    }
    one.run("RESET SESSION AUTHORIZATION");
    assert_eq!(one.one(READ), "7");
    one.run("DISCARD ALL");
    assert_eq!(two.one("SELECT session_user"), "postgres");
    assert_eq!(two.one(READ), "7");
}

#[test]
fn a_transaction_that_only_hit_and_then_idles_is_ended_as_postgres_would() {
    let database = Database::with(TABLE);
    let forebay = Forebay::start(&database, &[]);
    let mut reader = forebay.client();
    database.until_hit(&mut reader, READ);
    let told = |mut client: RawClient| {
        client.run("SET idle_in_transaction_session_timeout = '1s'");
        client.run("BEGIN");
        client.run(READ);
        client.until_closed()
    };
    assert_eq!(told(forebay.client()), told(database.direct()));
}

/// The snapshot of a portal is taken at Bind: what comes at Execute is as old as that.
#[test]
fn a_portal_bound_before_a_commit_and_executed_after_it_is_not_kept() {
    let database = Database::with(TABLE);
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut writer) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, "SELECT count(*) FROM t");
    reader.send(&[parse("", READ, &[]), bind("", "", &[]), flush()].concat());
    reader.expect("1 2");
    writer.run("UPDATE t SET v = 'new'");
    assert_eq!(reader.ask(&[execute("", 0), sync()]), "D(old) C(SELECT 1) Z(I)");
    for _ in 0..3 {
        assert_eq!(reader.one_extended(READ, &[]), "new");
        assert_eq!(writer.one_extended(READ, &[]), "new");
    }
}

const HBA: &str = "\
host all,replication postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
";

/// What a stand-by answers is as old as what it has replayed: no write of ours says when it is
/// out of date, so it is not kept.
#[test]
fn what_a_standby_answers_is_not_kept() {
    let primary = Postgres::private_with_hba("wal_level = replica", HBA);
    let database = primary.database();
    database.direct().run(TABLE);
    let standby = Postgres::standby_of(&primary);
    let entries =
        entry("one", primary.port, &database.name) + &entry("two", standby.port, &database.name);
    let toml = format!("[databases]\n{entries}");
    let forebay = Forebay::with_config(&database, &toml, &["--max-age", "1h"]);
    let log_in = |name| forebay.log_in(&Login::new(USER, PASSWORD, name)).unwrap();
    let (mut one, mut two) = (log_in("one"), log_in("two"));
    database.until_hit(&mut one, READ);
    let mut admin = standby.admin(&database.name);
    wait_until("the stand-by has the table", || admin.query(READ).contains("old"));
    admin.run("SELECT pg_wal_replay_pause()");
    wait_until("nothing is replayed", || {
        admin.one("SELECT pg_get_wal_replay_pause_state()") == "paused"
    });
    for _ in 0..3 {
        assert_eq!(two.one(READ), "old");
    }
    one.run("UPDATE t SET v = 'new'");
    assert_eq!(one.one(READ), "new");
    for _ in 0..3 {
        assert_eq!(two.one(READ), "old");
    }
    admin.run("SELECT pg_wal_replay_resume()");
    wait_until("the write is replayed", || admin.one(READ) == "new");
    assert_eq!(two.one(READ), "new");
    // After a fail-over it is a server of its own.
    one.run("UPDATE t SET v = 'lost'");
    database.until_hit(&mut one, READ);
    wait_until("that is replayed, too", || admin.one(READ) == "lost");
    admin.run("SELECT pg_promote()");
    wait_until("it takes writes", || two.query("UPDATE t SET v = 'promoted'").starts_with("C("));
    assert_eq!(two.one(READ), "promoted");
    assert_eq!(one.one(READ), "lost");
}

/// The commit is on disk and waits for a stand-by that never comes: nobody sees it. Then its
/// backend is killed: everybody does, and nobody was told.
#[test]
fn a_commit_whose_backend_is_killed_while_it_waits_is_seen() {
    let postgres =
        Postgres::private("synchronous_standby_names = 'nobody'\nsynchronous_commit = local");
    let database = postgres.database();
    database.direct().run(TABLE);
    let forebay = Forebay::start(&database, &["--max-age", "1h"]);
    let (mut reader, mut writer) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, READ);
    let mut admin = database.admin();
    writer.run("SET synchronous_commit = on");
    writer.send(&query("UPDATE t SET v = 'new'"));
    let waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_until("the commit waits", || !admin.rows(waits).is_empty());
    for _ in 0..3 {
        assert_eq!(reader.one(READ), "old");
    }
    let pid = admin.one(waits);
    admin.run(&format!("SELECT pg_terminate_backend({pid})"));
    writer.until_closed();
    wait_until("the write is there", || admin.one(READ) == "new");
    assert_eq!(reader.one(READ), "new");
    database.until_hit(&mut reader, READ);
}
