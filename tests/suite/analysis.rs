//! Statements whose names alone do not tell what they call: PostgreSQL is asked what they mean,
//! where it may be, and nothing is left of the question.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, Postgres};
use crate::support::raw::{bind, execute, parse, sync};
use crate::support::wait_until;

/// An overload of `lower` that any literal might be meant for.
const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text, at timestamp);
    INSERT INTO t VALUES (1, 'one', '2024-01-01 10:00'), (2, 'two', '2024-01-02 10:00');
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE FUNCTION lower(mood) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
    CREATE FUNCTION mine(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
    CREATE VIEW plain AS SELECT id FROM t";
const READ: &str = "SELECT id FROM t WHERE v = lower('ONE')";

fn count(forebay: &Forebay, column: &str) -> u64 {
    forebay.console().column("SHOW CACHE", column).parse().unwrap()
}

#[test]
fn what_postgresql_finds_harmless_is_kept_and_forgotten_like_any_other() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    assert_eq!(client.query(READ), "T(id) D(1) C(SELECT 1) Z(I)");
    client.run("UPDATE t SET v = 'ones' WHERE id = 1");
    assert_eq!(client.query(READ), "T(id) C(SELECT 0) Z(I)");
    // Other literals of the same kind are the same question.
    database.until_hit(&mut client, "SELECT id FROM t WHERE v = lower('TWO')");
    assert_eq!((count(&forebay, "analyses"), count(&forebay, "analyses_decided")), (1, 1));
    database.until_hit(&mut client, "SELECT (at + interval '1 day')::date FROM t ORDER BY 1");
    let left = "SELECT count(*) FROM pg_class WHERE relname = 'forebay_analysis'";
    assert_eq!(database.admin().one(left), "0");
}

#[test]
fn a_prepared_statement_is_asked_about_with_its_parameters() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    for (name, types) in [("inferred", &[][..]), ("declared", &[25][..])] {
        let sql = format!("SELECT id FROM t WHERE v = lower($1) /* {name} */");
        client.ask(&[parse(name, &sql, types), sync()]);
        let run = [bind("", name, &[Some("TWO")]), execute("", 0), sync()];
        wait_until("the prepared statement hits", || {
            let before = database.seen(&sql);
            assert_eq!(client.ask(&run), "2 D(2) C(SELECT 1) Z(I)");
            database.seen(&sql) == before
        });
    }
}

#[test]
fn names_are_looked_up_as_the_clients_session_does() {
    let database = Database::with(&format!(
        "{SCHEMA}; CREATE SCHEMA tenant; CREATE TABLE tenant.t (id int, v text);
         INSERT INTO tenant.t VALUES (7, 'one')"
    ));
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    client.run("SET search_path = tenant, public");
    database.until_hit(&mut client, READ);
    client.run("INSERT INTO tenant.t VALUES (8, 'one')");
    assert_eq!(client.query(READ), "T(id) D(7) D(8) C(SELECT 2) Z(I)");
    client.run("SET search_path = public");
    assert_eq!(client.one(READ), "1");
}

#[test]
fn what_calls_code_of_users_is_asked_about_once_and_not_kept() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    let sql = "SELECT mine(v) FROM t";
    wait_until("it is asked about", || {
        client.run(sql);
        count(&forebay, "analyses") == 1
    });
    database.until_hit(&mut client, READ);
    assert!(!database.is_hit(&mut client, sql));
    assert_eq!((count(&forebay, "analyses"), count(&forebay, "analyses_decided")), (2, 1));
}

#[test]
fn a_statement_that_postgresql_refuses_is_counted_and_does_no_harm() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    wait_until("it is asked about", || {
        assert!(client.query("SELECT id, lower('x') FROM t GROUP BY v").starts_with("E(42803)"));
        count(&forebay, "analyses_failed") == 1
    });
    database.until_hit(&mut client, READ);
}

/// Never asked, though the catalogue is known, and reads that need no asking are kept.
fn is_not_asked(database: &Database<'_>, toml: &str) {
    let forebay = Forebay::with_config(database, toml, &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT id FROM plain");
    for _ in 0..5 {
        assert!(!database.is_hit(&mut client, READ));
    }
    assert_eq!(count(&forebay, "analyses"), 0);
}

#[test]
fn nothing_is_asked_where_it_is_not_wanted() {
    let database = Database::with(SCHEMA);
    is_not_asked(&database, "[cache]\nanalysis = \"local\"\n");
    is_not_asked(&database, "[cache]\nanalysis = \"off\"\n");
}

#[test]
fn nothing_is_asked_where_temporary_relations_are_forbidden() {
    let database = Database::with(SCHEMA);
    let mut admin = database.admin();
    let name = &database.name;
    admin.run(&format!("ALTER DATABASE {name} OWNER TO postgres"));
    admin.run(&format!("REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC"));
    is_not_asked(&database, "");
}

#[test]
fn nothing_is_asked_where_event_triggers_would_hear_of_it() {
    let database = Database::with(SCHEMA);
    database.admin().run(
        "CREATE FUNCTION heard() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         CREATE EVENT TRIGGER hearing ON ddl_command_start EXECUTE FUNCTION heard()",
    );
    is_not_asked(&database, "");
}

#[test]
fn nothing_is_asked_of_a_standby() {
    let primary = Postgres::to_copy();
    let database = primary.database();
    database.direct().run(SCHEMA);
    let standby = Postgres::standby_of(&primary);
    let mut admin = standby.admin("postgres");
    let there = format!("SELECT count(*) FROM pg_database WHERE datname = '{}'", database.name);
    wait_until("the stand-by has the database", || admin.one(&there) == "1");
    let mut admin = standby.admin(&database.name);
    wait_until("the stand-by has the table", || admin.query(READ).contains("D(1)"));
    let url = database.url().replace(&primary.port.to_string(), &standby.port.to_string());
    let forebay = Forebay::launch(&url, &database.name, "", &[]);
    let mut client = forebay.client();
    // Until the catalogue is there and says that it is a stand-by.
    wait_until("the catalogue has been read", || {
        client.rows("EXPLAIN CACHE SELECT id FROM plain")[1][1].as_deref() == Some("standby")
    });
    for _ in 0..5 {
        assert_eq!(client.query(READ), "T(id) D(1) C(SELECT 1) Z(I)");
    }
    assert_eq!(count(&forebay, "analyses"), 0);
}

#[test]
fn reload_changes_whether_postgresql_is_asked() {
    let postgres = Postgres::private("");
    let database = postgres.database();
    database.direct().run(SCHEMA);
    let forebay = Forebay::with_config(&database, "[cache]\nanalysis = \"local\"\n", &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT id FROM plain");
    assert!(!database.is_hit(&mut client, READ));
    forebay.reload("[cache]\nanalysis = \"auto\"\n");
    database.until_hit(&mut client, READ);
}
