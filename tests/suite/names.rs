//! One database under several names, and one name that comes to lead to another: what is written
//! through one is seen through the others.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, Postgres, USER};
use crate::support::raw::{Login, RawClient};
use crate::support::wait_until;

const TABLE: &str = "CREATE TABLE t (v text); INSERT INTO t VALUES ('old')";
const READ: &str = "SELECT v FROM t";

/// An entry of `[databases]` for this database under this name and host.
fn entry(database: &Database<'_>, name: &str, host: &str, more: &str) -> String {
    let (port, dbname) = (database.postgres.port, &database.name);
    format!("{name} = {{ host = \"{host}\", port = {port}, dbname = \"{dbname}\"{more} }}\n")
}

fn two_names(database: &Database<'_>) -> String {
    let (one, two) =
        (entry(database, "one", "127.0.0.1", ""), entry(database, "two", "localhost", ""));
    format!("[databases]\n{one}{two}")
}

fn client(forebay: &Forebay, name: &str) -> RawClient {
    forebay.log_in(&Login::new(USER, PASSWORD, name)).unwrap()
}

/// Reads through `reader` are hits, and see what `writer` writes.
fn check_tied(database: &Database<'_>, writer: &mut RawClient, reader: &mut RawClient) {
    database.until_hit(reader, READ);
    let old = reader.one(READ);
    writer.run("BEGIN");
    writer.run("UPDATE t SET v = v || '+'");
    assert_eq!(reader.one(READ), old);
    writer.run("COMMIT");
    assert_eq!(reader.one(READ), format!("{old}+"));
    database.until_hit(reader, READ);
}

#[test]
fn a_write_through_one_name_is_seen_through_the_other() {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, &two_names(&database), &[]);
    let (mut one, mut two) = (client(&forebay, "one"), client(&forebay, "two"));
    check_tied(&database, &mut one, &mut two);
    check_tied(&database, &mut two, &mut one);
    // Under the name of the URL it is the same once more.
    check_tied(&database, &mut one, &mut forebay.client());
}

#[test]
fn ddl_through_one_name_changes_what_the_other_reads() {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, &two_names(&database), &[]);
    let (mut one, mut two) = (client(&forebay, "one"), client(&forebay, "two"));
    database.until_hit(&mut two, READ);
    // Another table of that name: what was known of the first says nothing about it.
    one.run("DROP TABLE t");
    one.run(TABLE);
    assert_eq!(two.one(READ), "old");
    check_tied(&database, &mut one, &mut two);
}

#[test]
fn a_name_that_a_reload_adds_is_tied_to_the_others() {
    let database = Database::with(TABLE);
    let forebay = Forebay::start(&database, &[]);
    let mut first = forebay.client();
    database.until_hit(&mut first, READ);
    forebay.write_settings(&two_names(&database));
    forebay.console().run("RELOAD");
    let mut added = client(&forebay, "two");
    check_tied(&database, &mut added, &mut first);
    check_tied(&database, &mut first, &mut added);
}

#[test]
fn a_transaction_begun_before_another_name_was_first_used_is_seen_through_it() {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, &two_names(&database), &[]);
    let mut one = client(&forebay, "one");
    database.until_hit(&mut one, READ);
    one.run("BEGIN; UPDATE t SET v = 'new'");
    let mut two = client(&forebay, "two");
    database.until_hit(&mut two, READ);
    one.run("COMMIT");
    assert_eq!(two.one(READ), "new");
}

#[test]
fn names_are_tied_where_postgresql_does_not_tell_which_cluster_it_is() {
    let database = Database::with(TABLE);
    let mut admin = database.admin();
    admin.run("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    admin.run("REVOKE EXECUTE ON FUNCTION pg_control_checkpoint() FROM PUBLIC");
    let forebay = Forebay::with_config(&database, &two_names(&database), &[]);
    let (mut one, mut two) = (client(&forebay, "one"), client(&forebay, "two"));
    check_tied(&database, &mut one, &mut two);
    check_tied(&database, &mut two, &mut one);
}

#[test]
fn names_are_tied_where_only_one_of_the_users_is_told_which_cluster_it_is() {
    let database = Database::apart(TABLE);
    let mut admin = database.admin();
    let told = format!("told_{}", database.name);
    admin.run(&format!("CREATE ROLE {told} LOGIN SUPERUSER PASSWORD '{PASSWORD}'"));
    admin.run("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    let more = format!(", user = \"{told}\", password = \"{PASSWORD}\"");
    for order in [["one", "two"], ["two", "one"]] {
        let (one, two) =
            (entry(&database, "one", "127.0.0.1", &more), entry(&database, "two", "localhost", ""));
        let forebay = Forebay::with_config(&database, &format!("[databases]\n{one}{two}"), &[]);
        let [mut first, mut second] = order.map(|name| client(&forebay, name));
        check_tied(&database, &mut first, &mut second);
        check_tied(&database, &mut second, &mut first);
    }
}

#[test]
fn different_databases_leave_each_others_answers_alone() {
    let (database, other) = (Database::with(TABLE), Database::with(TABLE));
    let toml = format!("[databases]\n{}", entry(&other, "other", "127.0.0.1", ""));
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let mut client_of_one = forebay.client();
    database.until_hit(&mut client_of_one, READ);
    let mut writer = client(&forebay, "other");
    writer.run("UPDATE t SET v = 'new'");
    writer.run("CREATE TABLE more (v int)");
    assert!(database.is_hit(&mut client_of_one, READ));
}

#[test]
fn a_database_dropped_and_made_again_is_another_one() {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, &two_names(&database), &["--max-age", "1h"]);
    database.until_hit(&mut client(&forebay, "two"), READ);
    let mut admin = database.postgres.admin("postgres");
    admin.run(&format!("DROP DATABASE {} WITH (FORCE)", database.name));
    admin.run(&format!("CREATE DATABASE {} OWNER {USER}", database.name));
    database.direct().run("CREATE TABLE t (v text); INSERT INTO t VALUES ('of the second')");
    let (mut one, mut two) = (client(&forebay, "one"), client(&forebay, "two"));
    // It was done behind Forebay's back, which looks at the catalogue now and then.
    wait_until("the second is found", || two.one(READ) == "of the second");
    check_tied(&database, &mut one, &mut two);
    check_tied(&database, &mut two, &mut one);
}

/// Whoever connects here is connected to the port that is named when it does.
struct Forwarder {
    port: u16,
    to: Arc<AtomicU16>,
}

impl Forwarder {
    fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU16::new(to)));
        let target = Arc::clone(&to);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let to = ("127.0.0.1", target.load(Ordering::SeqCst));
                let Ok(server) = TcpStream::connect(to) else { continue };
                for (mut from, mut to) in
                    [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    std::thread::spawn(move || {
                        // Whichever side ends, the other one is to hear of it.
                        let _ended = std::io::copy(&mut from, &mut to);
                        let _told = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { port, to }
    }
}

#[test]
fn the_catalogue_is_read_where_it_is_written_though_the_one_before_is_still_there() {
    let postgres = Postgres::to_copy();
    let before = postgres.database();
    before.direct().run(
        "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE u AS SELECT 2 AS v; \
         CREATE VIEW w AS SELECT v FROM t",
    );
    let copy = Postgres::taken_over_from(&postgres);
    let after = copy.database_called(&before.name);
    let forwarder = Forwarder::start(postgres.port);
    let url = format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{}", forwarder.port, before.name);
    let forebay = Forebay::launch(&url, &before.name, "", &[]);
    let mut client = forebay.client();
    before.until_hit(&mut client, "SELECT v FROM w");
    forwarder.to.store(copy.port, Ordering::SeqCst);
    forebay.console().run("RECONNECT");
    client.run("CREATE OR REPLACE VIEW w AS SELECT v FROM u");
    after.until_hit(&mut client, "SELECT v FROM w");
    for value in 3..6 {
        client.run(&format!("UPDATE u SET v = {value}"));
        assert_eq!(client.one("SELECT v FROM w"), value.to_string());
        after.until_hit(&mut client, "SELECT v FROM w");
    }
}
