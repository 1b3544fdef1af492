//! What is served while PostgreSQL cannot be reached: nothing, unless that is asked for.

use std::net::TcpListener;

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, Postgres, USER};
use crate::support::raw::{Login, RawClient, query};
use crate::support::wait_until;

const TABLE: &str = "CREATE TABLE t (v text); INSERT INTO t VALUES ('old')";
const READ: &str = "SELECT v FROM t";
const HIT: &str = "T(v) D(old) C(SELECT 1) Z(I)";

/// Nobody waits long for a server, nor for one that is back.
const QUICK: &str = "[pool]\nquery_wait_timeout = \"3s\"\n[server]\nserver_login_retry = \"100ms\"\n[cache]\nmax_age = \"1h\"\n";

struct World {
    postgres: Postgres,
    name: String,
    forebay: Forebay,
    client: RawClient,
}

/// A client for which `READ` is a hit.
fn start(cache: &str) -> World {
    // A crash may forget what was committed asynchronously.
    let postgres = Postgres::private("synchronous_commit = on");
    let database = postgres.database();
    database.direct().run(TABLE);
    let forebay = Forebay::with_config(&database, &format!("{QUICK}{cache}"), &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    let name = database.name.clone();
    drop(database);
    World { postgres, name, forebay, client }
}

impl World {
    /// What `EXPLAIN CACHE` says that `READ` would be.
    fn explained(&mut self) -> String {
        let rows = self.client.rows(&format!("EXPLAIN CACHE {READ}"));
        let value = |name: &str| {
            let row = rows.iter().find(|row| row[0].as_deref() == Some(name));
            row.and_then(|row| row[1].clone())
        };
        value("reason").or_else(|| value("kept now")).unwrap()
    }

    fn until_down(&mut self) {
        wait_until("the database is known to be down", || self.explained() == "database_down");
    }

    /// Until the catalogue's connection has failed so often.
    fn until_failed(&self, times: usize) {
        wait_until("the catalogue's connection failed", || {
            self.forebay.log().matches("service connection failed").count() >= times
        });
    }
}

fn end_backends(postgres: &Postgres, name: &str) {
    postgres.admin("postgres").run(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    ));
}

#[test]
fn hits_end_when_postgresql_is_gone_and_come_back_with_it() {
    let mut world = start("catalog_poll = \"1h\"\n");
    let mut other = world.forebay.client();
    world.postgres.stop();
    world.until_down();
    // What needs no server otherwise does now.
    for (client, sql) in [(&mut world.client, READ), (&mut other, "BEGIN")] {
        client.send(&query(sql));
        assert_eq!(client.message().tag, b'E');
        assert_eq!(client.until_closed(), "");
    }
    world.postgres.start();
    let database = world.postgres.database_called(&world.name);
    let login = Login::new(USER, PASSWORD, &world.name);
    wait_until("clients are answered again", || {
        world.forebay.log_in(&login).is_ok_and(|client| client.ask_last(READ).contains("old"))
    });
    database.until_hit(&mut world.forebay.client(), READ);
}

#[test]
fn hits_go_on_without_postgresql_for_as_long_as_is_wanted() {
    let mut world = start("catalog_poll = \"1h\"\nserve_while_down = \"1h\"\n");
    world.postgres.stop();
    // The connection that is lost, and one that cannot be made.
    world.until_failed(2);
    assert_eq!(world.client.query(READ), HIT);
    assert_eq!(world.client.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(world.client.query("COMMIT"), "C(COMMIT) Z(I)");
    world.forebay.reload(&format!("{QUICK}serve_while_down = \"1ms\"\n"));
    world.until_down();
    world.client.send(&query(READ));
    assert_eq!(world.client.message().tag, b'E');
}

#[test]
fn a_postgresql_that_is_full_is_not_down_and_one_that_is_closed_is() {
    let mut world = start("catalog_poll = \"1h\"\n");
    let mut admin = world.postgres.admin("postgres");
    admin.run(&format!("ALTER ROLE {USER} CONNECTION LIMIT 0"));
    end_backends(&world.postgres, &world.name);
    world.until_failed(2);
    assert!(world.forebay.log().contains("too many connections"));
    assert_eq!(world.explained(), "yes");
    assert_eq!(world.client.query(READ), HIT);
    admin.run(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", world.name));
    admin.run(&format!("ALTER ROLE {USER} CONNECTION LIMIT -1"));
    world.until_down();
}

/// Something listens there and says nothing.
fn check_left(silent: &str, tls: &str) {
    let database = Database::with("");
    let (port, name) = (database.postgres.port, &database.name);
    let _silent = TcpListener::bind((silent, port)).unwrap();
    let toml = format!(
        "[server]\nserver_connect_timeout = \"300ms\"\nserver_login_retry = \"50ms\"\n\
         [tls]\nserver_tls_sslmode = \"{tls}\"\n[databases]\n\
         {name} = {{ host = \"{silent},127.0.0.1\", port = {port}, user = \"{USER}\", \
         password = \"{PASSWORD}\", load_balance_hosts = \"disable\" }}\n"
    );
    let forebay = Forebay::with_config(&database, &toml, &[]);
    assert_eq!(forebay.client().one("SELECT 1"), "1");
}

#[test]
fn users_are_looked_up_at_the_next_host_when_one_is_silent() {
    let database = Database::apart("");
    let (port, name, silent) = (database.postgres.port, &database.name, "127.0.0.5");
    let ann = format!("{name}_ann");
    database.admin().run(&format!("CREATE ROLE {ann} LOGIN PASSWORD 'pencil'"));
    let _silent = TcpListener::bind((silent, port)).unwrap();
    let toml = format!(
        "[server]\nserver_connect_timeout = \"300ms\"\n[auth]\nauth_user = \"postgres\"\n[databases]\n\
         two = {{ host = \"{silent},127.0.0.1\", port = {port}, dbname = \"{name}\", \
         load_balance_hosts = \"disable\" }}\n"
    );
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let login = Login::new(&ann, "pencil", "two");
    wait_until("she is found", || forebay.log_in(&login).is_ok());
}

#[test]
fn a_host_that_is_silent_is_left_for_the_next() {
    check_left("127.0.0.3", "prefer");
    check_left("127.0.0.4", "disable");
}

#[test]
fn a_connection_that_is_ended_does_not_end_the_hits() {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, QUICK, &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    end_backends(&database.postgres, &database.name);
    forebay.log_contains("service connection failed");
    // What hits meanwhile and after it is back, says so.
    for _ in 0..3 {
        assert_eq!(client.query(READ), HIT);
    }
    let reasons = forebay.console().rows("SHOW CACHE_REASONS");
    let down = reasons.iter().find(|row| row[0].as_deref() == Some("database_down")).unwrap();
    assert_eq!(down[1].as_deref(), Some("0"));
}
