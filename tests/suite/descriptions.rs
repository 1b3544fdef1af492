//! A description that PostgreSQL has given once is given again without it, and never an old or a
//! wrong one.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{
    Message, RawClient, bind, close_statement, describe_statement, execute, parse, sync,
};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')";
const ONE: &str = "[pool]\ndefault_pool_size = 1\nquery_wait_timeout = \"5s\"\n";

const BY_ID: &str = "SELECT id, v FROM t WHERE id = $1";

fn start(sql: &str) -> (Database<'static>, Forebay) {
    let database = Database::with(sql);
    let forebay = Forebay::with_config(&database, ONE, &[]);
    database.until_hit(&mut forebay.client(), "SELECT FROM t");
    (database, forebay)
}

fn prepare(name: &str, sql: &str) -> Vec<u8> {
    [parse(name, sql, &[]), describe_statement(name), sync()].concat()
}

fn described(client: &mut RawClient, name: &str, sql: &str) -> Vec<Message> {
    client.send(&prepare(name, sql));
    client.until(b'Z')
}

/// How many descriptions have been given without PostgreSQL.
fn count(forebay: &Forebay) -> u64 {
    forebay.console().column("SHOW CACHE", "descriptions").parse().unwrap()
}

#[test]
fn a_description_asked_for_again_needs_no_server() {
    let (database, forebay) = start(TABLE);
    let mut direct = database.direct();
    let statements = [
        BY_ID,
        "SELECT v FROM t WHERE id = $1::bigint /* tag */",
        "INSERT INTO t VALUES ($1, $2) ON CONFLICT DO NOTHING",
        "UPDATE t SET v = $1 RETURNING v, id",
        "WITH w AS (SELECT 1 AS one) SELECT one FROM w",
    ];
    let mut first = forebay.client();
    for (number, sql) in statements.into_iter().enumerate() {
        described(&mut first, &format!("first{number}"), sql);
    }
    assert_eq!(count(&forebay), 0);
    let (mut holder, mut other) = (forebay.client(), forebay.client());
    holder.hold_server();
    for (number, sql) in statements.into_iter().enumerate() {
        for name in [format!("other{number}"), String::new()] {
            let expected = described(&mut direct, &name, sql);
            assert_eq!(described(&mut other, &name, sql), expected, "{sql}");
        }
    }
    // A tag makes no difference, nor does a name that has been given before.
    let tagged = format!("{BY_ID} /* other tag */");
    let expected = described(&mut direct, "", BY_ID);
    assert_eq!(described(&mut other, "", &tagged), expected);
    other.send(&[describe_statement("other0"), sync()].concat());
    assert_eq!(other.until(b'Z'), expected[1..]);
}

#[test]
fn what_was_described_here_runs_there() {
    let (database, forebay) = start(TABLE);
    described(&mut forebay.client(), "s", BY_ID);
    let (mut client, mut direct) = (forebay.client(), database.direct());
    for name in ["named", ""] {
        let before = count(&forebay);
        let script = [
            prepare(name, BY_ID),
            [bind("", name, &[Some("1")]), execute("", 0), sync()].concat(),
            [describe_statement(name), sync()].concat(),
            [close_statement(name), sync()].concat(),
            [describe_statement(name), sync()].concat(),
        ];
        for request in script {
            client.send(&request);
            direct.send(&request);
            assert_eq!(client.until(b'Z'), direct.until(b'Z'));
        }
        assert_eq!(count(&forebay), before + 2, "{name}");
    }
}

#[test]
fn a_description_of_before_a_change_is_not_given_after_it() {
    let (database, forebay) = start(TABLE);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    let mut direct = database.direct();
    for (number, change) in [
        "ALTER TABLE t ADD more int",
        "ALTER TABLE t ALTER id TYPE bigint",
        "ALTER TABLE t RENAME v TO w; ALTER TABLE t ADD v numeric",
        "DROP TABLE t; CREATE TABLE t (v date, id text)",
    ]
    .into_iter()
    .enumerate()
    {
        database.until_hit(&mut one, "SELECT FROM t");
        let before = count(&forebay);
        for client in [&mut one, &mut two] {
            assert_eq!(described(client, "", BY_ID), described(&mut direct, "", BY_ID));
        }
        assert_eq!(count(&forebay), before + 1);
        one.ask(&[parse(&format!("old{number}"), BY_ID, &[]), sync()]);
        one.run(change);
        assert_eq!(described(&mut two, "", BY_ID), described(&mut direct, "", BY_ID), "{change}");
    }
}

#[test]
fn parameters_of_a_statement_prepared_before_a_change_stay_its_own() {
    let (database, forebay) = start(TABLE);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    let sql = "SELECT v FROM t WHERE id = $1";
    let old = described(&mut one, "s", sql);
    two.run("ALTER TABLE t ALTER id TYPE bigint");
    database.until_hit(&mut two, "SELECT FROM t");
    // PostgreSQL plans it anew, and it is current again, with the types it had.
    let run = [bind("", "s", &[Some("1")]), execute("", 0), sync()];
    assert_eq!(one.ask(&run), "2 D(one) C(SELECT 1) Z(I)");
    for _ in 0..3 {
        one.send(&[describe_statement("s"), sync()].concat());
        assert_eq!(one.until(b'Z'), old[1..]);
    }
    for _ in 0..3 {
        assert_eq!(described(&mut two, "", sql), described(&mut database.direct(), "", sql));
    }
}

#[test]
fn what_only_one_session_sees_is_described_to_it_alone() {
    let setup = format!("{TABLE}; CREATE SCHEMA b; CREATE TABLE b.t (id text, v int, w int)");
    let (database, forebay) = start(&setup);
    let sql = "SELECT * FROM t";
    for (begin, end) in [
        (&["CREATE TEMP TABLE t (mine int)"][..], "SELECT 1"),
        (&["SET search_path = b"], "RESET ALL"),
        (&["BEGIN", "SET LOCAL search_path = b"], "COMMIT"),
        (&["BEGIN", "ALTER TABLE t ADD mine int"], "ROLLBACK"),
        (&["BEGIN", "CREATE TEMP TABLE t (mine int) ON COMMIT DROP"], "COMMIT"),
    ] {
        let (mut client, mut other) = (forebay.client(), forebay.client());
        let mut direct = database.direct();
        let usual = described(&mut direct, "", sql);
        assert_eq!(described(&mut client, "", sql), usual);
        for client in [&mut client, &mut direct] {
            for sql in begin {
                client.run(sql);
            }
            let special = described(client, "", sql);
            assert_ne!(special, usual, "{begin:?}");
            assert_eq!(described(client, "", sql), special, "{begin:?}");
            client.run(end);
            // A temporary table ties its client to the only server.
            client.run("DISCARD ALL");
        }
        assert_eq!(described(&mut other, "", sql), usual, "{begin:?}");
        assert_eq!(described(&mut client, "", sql), usual, "{begin:?}");
    }
}

#[test]
fn what_depends_on_the_sessions_own_names_is_asked_each_time() {
    let (database, forebay) = start(TABLE);
    let mut clients = [forebay.client(), forebay.client(), database.direct()];
    for (client, other) in clients.iter_mut().zip(["1 AS a", "2 AS b, 3 AS c", "4"]) {
        client.run(&format!("PREPARE p AS SELECT {other}"));
        client.run(&format!("BEGIN; DECLARE c CURSOR FOR SELECT {other}"));
        let expected = client.query("EXECUTE p");
        let columns = expected.split(' ').next().unwrap();
        for sql in ["EXECUTE p", "FETCH c"] {
            assert_eq!(client.ask(&[prepare("", sql)]), format!("1 t {columns} Z(T)"));
        }
        client.run("COMMIT; DEALLOCATE ALL");
    }
}

#[test]
fn what_postgresql_refuses_it_refuses_again() {
    let (database, forebay) = start(TABLE);
    let (mut client, mut direct) = (forebay.client(), database.direct());
    described(&mut client, "taken", BY_ID);
    described(&mut direct, "taken", BY_ID);
    for group in [
        prepare("taken", BY_ID),
        prepare("", "SELECT nothing FROM t"),
        prepare("", "SELECT FROM"),
        [parse("", BY_ID, &[]), describe_statement("missing"), sync()].concat(),
        [parse("twice", BY_ID, &[]), parse("twice", BY_ID, &[]), sync()].concat(),
        [parse("", BY_ID, &[16]), describe_statement(""), sync()].concat(),
    ] {
        for _ in 0..2 {
            client.send(&group);
            direct.send(&group);
            assert_eq!(client.until(b'Z'), direct.until(b'Z'));
        }
    }
}
