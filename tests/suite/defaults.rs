//! Defaults of sessions that change: ALTER ROLE and ALTER DATABASE … SET, and the settings file
//! of PostgreSQL. New clients see them, and answers given under the old ones are not theirs.

use std::collections::BTreeSet;

use forebay::sql::catalog::FINGERPRINT_QUERY;

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, Postgres, USER};
use crate::support::raw::{Login, RawClient};
use crate::support::wait_until;

const TABLE: &str = "CREATE TABLE t (at timestamptz); INSERT INTO t VALUES ('2020-02-03 04:05+00')";
const READ: &str = "SELECT at FROM t";

fn start(sql: &str) -> (Database<'static>, Forebay, RawClient) {
    let database = Database::apart(sql);
    let forebay = Forebay::with_config(&database, "[cache]\ncatalog_poll = \"100ms\"\n", &[]);
    let client = forebay.client();
    (database, forebay, client)
}

#[test]
fn a_default_set_through_forebay_counts_for_the_next_client() {
    let (database, forebay, mut client) = start(TABLE);
    for (target, zone, shown) in [
        (format!("DATABASE {}", database.name), "Asia/Tokyo", "2020-02-03 13:05:00+09"),
        (format!("ROLE {USER} IN DATABASE {}", database.name), "UTC", "2020-02-03 04:05:00+00"),
    ] {
        database.until_hit(&mut client, READ);
        client.run(&format!("ALTER {target} SET timezone = '{zone}'"));
        let mut next = forebay.client();
        assert_eq!(next.one("SHOW timezone"), zone);
        assert_eq!(next.one(READ), shown);
        database.until_hit(&mut next, READ);
        assert_eq!(next.one(READ), shown);
    }
}

#[test]
fn a_path_set_as_a_default_decides_what_is_read() {
    let (database, forebay, mut client) = start(
        "CREATE TABLE t (v text); INSERT INTO t VALUES ('public');
         CREATE SCHEMA b; CREATE TABLE b.t (v text); INSERT INTO b.t VALUES ('b')",
    );
    let read = "SELECT v FROM t";
    database.until_hit(&mut client, read);
    client.run(&format!("ALTER ROLE {USER} IN DATABASE {} SET search_path = b", database.name));
    let mut next = forebay.client();
    assert_eq!(next.one(read), "b");
    database.until_hit(&mut next, read);
    next.run("UPDATE b.t SET v = 'written'");
    assert_eq!(next.one(read), "written");
}

#[test]
fn a_default_isolation_of_the_role_is_obeyed() {
    let (database, forebay, mut client) = start(TABLE);
    database.until_hit(&mut client, READ);
    client.run(&format!(
        "ALTER ROLE {USER} IN DATABASE {} SET default_transaction_isolation = 'serializable'",
        database.name
    ));
    let mut next = forebay.client();
    assert_eq!(next.one("SHOW transaction_isolation"), "serializable");
    for _ in 0..3 {
        assert!(!database.is_hit(&mut next, READ));
    }
}

#[test]
fn a_default_set_behind_forebays_back_is_found() {
    let (database, forebay, mut client) = start(TABLE);
    database.until_hit(&mut client, READ);
    database.admin().run(&format!("ALTER DATABASE {} SET timezone = 'Asia/Tokyo'", database.name));
    wait_until("new clients have the new default", || {
        forebay.client().one("SHOW timezone") == "Asia/Tokyo"
    });
    let mut next = forebay.client();
    assert_eq!(next.one(READ), "2020-02-03 13:05:00+09");
    database.until_hit(&mut next, READ);
    assert_eq!(next.one(READ), "2020-02-03 13:05:00+09");
}

#[test]
fn a_reloaded_settings_file_of_postgresql_is_found() {
    let postgres = Postgres::private("");
    let database = postgres.database();
    database.direct().run(
        "CREATE TABLE t (v text); INSERT INTO t VALUES ('public');
         CREATE SCHEMA b; CREATE TABLE b.t (v text); INSERT INTO b.t VALUES ('b')",
    );
    let forebay = Forebay::with_config(&database, "[cache]\ncatalog_poll = \"100ms\"\n", &[]);
    let read = "SELECT v FROM t";
    let mut client = forebay.client();
    database.until_hit(&mut client, read);
    let mut admin = database.admin();
    admin.run("ALTER SYSTEM SET search_path = b");
    admin.run("SELECT pg_reload_conf()");
    // Sessions that are there already follow the file, so this client does too.
    wait_until("the new path is used", || client.one(read) == "b");
    database.until_hit(&mut client, read);
    client.run("UPDATE b.t SET v = 'written'");
    assert_eq!(client.one(read), "written");
}

#[test]
fn a_session_that_keeps_its_server_follows_the_settings_file_too() {
    let postgres = Postgres::private("");
    let database = postgres.database();
    database.direct().run(
        "CREATE TABLE t (v text); INSERT INTO t VALUES ('public');
         CREATE SCHEMA b; CREATE TABLE b.t (v text); INSERT INTO b.t VALUES ('b')",
    );
    let config = "[cache]\ncatalog_poll = \"100ms\"\n[pool]\npool_mode = \"session\"\n";
    let forebay = Forebay::with_config(&database, config, &[]);
    let read = "SELECT v FROM t";
    let mut client = forebay.client();
    database.until_hit(&mut client, read);
    let mut admin = database.admin();
    admin.run("ALTER SYSTEM SET search_path = b");
    admin.run("SELECT pg_reload_conf()");
    wait_until("the new path is used", || client.one(read) == "b");
    let mut next = forebay.client();
    database.until_hit(&mut next, read);
    client.run("UPDATE t SET v = 'written'");
    assert_eq!(next.one(read), "written");
}

#[test]
fn a_transaction_begun_under_the_old_default_is_judged_by_it() {
    let (database, forebay, mut client) = start(
        "CREATE TABLE t (v text); INSERT INTO t VALUES ('public');
         CREATE SCHEMA b; CREATE TABLE b.t (v text); INSERT INTO b.t VALUES ('b')",
    );
    client.hold_server();
    let mut other = forebay.client();
    other.run(&format!("ALTER ROLE {USER} IN DATABASE {} SET search_path = b", database.name));
    let mut next = forebay.client();
    database.until_hit(&mut next, "SELECT v FROM t");
    database.until_hit(&mut next, "SELECT v FROM public.t");
    // What others have cached under this text is not what this session would read.
    assert_eq!(client.one("SELECT v FROM t"), "public");
    client.run("UPDATE t SET v = 'written'");
    client.run("COMMIT");
    assert_eq!(next.one("SELECT v FROM public.t"), "written");
}

#[test]
fn time_outs_of_sessions_are_not_those_of_the_catalogue() {
    let database = Database::with(TABLE);
    let mut admin = database.admin();
    admin.run(&format!("ALTER DATABASE {} SET lock_timeout = '10ms'", database.name));
    let mut holder = database.admin();
    holder.run("BEGIN; LOCK TABLE pg_foreign_server");
    let forebay = Forebay::start(&database, &[]);
    let mut client = RawClient::connect(forebay.port);
    let login = Login::new(USER, PASSWORD, &database.name);
    client.send(&login.startup());
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
        AND datname = current_database() AND clock_timestamp() - query_start > '100ms'";
    std::thread::scope(|threads| {
        let logging_in = threads.spawn(|| client.authenticate(&login).unwrap());
        wait_until("the catalogue is waited for", || admin.one(waits) == "1");
        holder.run("COMMIT");
        logging_in.join().unwrap();
    });
    database.until_hit(&mut client, READ);
}

#[test]
fn who_may_not_read_the_defaults_is_served_all_the_same() {
    let database = Database::with(TABLE);
    database.admin().run("REVOKE SELECT ON pg_db_role_setting FROM PUBLIC");
    let forebay = Forebay::start(&database, &[]);
    assert_eq!(forebay.client().one("SELECT count(*) FROM t"), "1");
}

#[test]
fn servers_at_several_addresses_of_one_database_are_used_side_by_side() {
    let postgres = Postgres::private("listen_addresses = '127.0.0.1,127.0.0.2'");
    let database = postgres.database();
    let toml = format!(
        "[databases]\n{} = {{ host = \"127.0.0.1,127.0.0.2\", port = {} }}\n",
        database.name, postgres.port
    );
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let mut clients = [forebay.client(), forebay.client(), forebay.client()];
    let mut servers = BTreeSet::new();
    for _ in 0..5 {
        for client in &mut clients {
            client.run("BEGIN");
        }
        for client in &mut clients {
            let rows = client.rows("SELECT pg_backend_pid(), inet_server_addr()");
            servers.insert(rows[0].clone());
        }
        for client in &mut clients {
            client.run("COMMIT");
        }
    }
    assert_eq!(servers.len(), 3, "{servers:?}");
    let addresses: BTreeSet<_> = servers.iter().map(|row| &row[1]).collect();
    assert_eq!(addresses.len(), 2, "{servers:?}");
}

/// The settings of all databases lie in one catalogue.
#[test]
fn what_sessions_of_another_database_begin_with_is_no_change_of_this_one() {
    let database = Database::apart("");
    let other = database.postgres.database();
    let mut admin = database.admin();
    admin.run("SET search_path = pg_catalog");
    let mut changes = |of: &str| {
        let before = admin.one(FINGERPRINT_QUERY);
        admin.run(&format!("ALTER DATABASE {of} SET lock_timeout = '10ms'"));
        admin.one(FINGERPRINT_QUERY) != before
    };
    assert!(!changes(&other.name));
    assert!(changes(&database.name));
}

#[test]
fn what_sessions_of_another_database_begin_with_leaves_the_servers_of_this_one() {
    let (database, forebay, _client) = start("");
    let other = database.postgres.database();
    let mut admin = database.admin();
    let changed = "defaults of sessions changed";
    // Each look has asked for these before.
    let mut until_looked_at = |name: &str| {
        let before = database.seen(FINGERPRINT_QUERY);
        admin.run(&format!("ALTER DATABASE {name} SET lock_timeout = '10s'"));
        wait_until("it was looked at twice", || database.seen(FINGERPRINT_QUERY) > before + 2);
        forebay.log().contains(changed)
    };
    assert!(!until_looked_at(&other.name));
    assert!(until_looked_at(&database.name));
}
