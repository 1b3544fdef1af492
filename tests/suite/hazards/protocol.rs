//! Groups of messages in every shape a driver may send, over a read that is kept: byte for byte
//! what PostgreSQL answers, table and column numbers included.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{
    RawClient, bind, bind_formats, close_portal, close_statement, describe_portal,
    describe_statement, execute, flush, parse, query, sync,
};

const READ: &str = "SELECT id, v FROM t ORDER BY id";

/// Each of these groups four times, so that it is answered by PostgreSQL, kept and served.
fn check(groups: &[&[Vec<u8>]]) {
    let database = Database::with(
        "CREATE TABLE t (id int, v text); INSERT INTO t VALUES (1, 'one'), (2, NULL), (3, '')",
    );
    let forebay = Forebay::start(&database, &[]);
    database.until_hit(&mut forebay.client(), READ);
    let (mut through, mut direct) = (forebay.client(), database.direct());
    let ask = |client: &mut RawClient, group: &[Vec<u8>]| {
        client.send(&group.concat());
        client.until(b'Z')
    };
    for (number, group) in groups.iter().enumerate() {
        let expected = ask(&mut direct, group);
        for turn in 0..4 {
            assert_eq!(ask(&mut through, group), expected, "group {number}, turn {turn}");
        }
    }
}

#[test]
fn results_of_every_format_are_described_and_sent_as_asked_for() {
    for formats in [&[][..], &[0], &[1], &[0, 0], &[1, 0], &[0, 1], &[1, 1], &[1, 1, 1]] {
        let bound = bind_formats("", "", &[], formats);
        let start = [parse("", READ, &[]), bound.clone()];
        let described = [&start[..], &[describe_portal(""), execute("", 0), sync()]].concat();
        let silent = [&start[..], &[execute("", 0), sync()]].concat();
        let of_statement = [parse("", READ, &[]), describe_statement(""), bound];
        let of_statement = [&of_statement[..], &[execute("", 0), sync()]].concat();
        check(&[&silent, &described, &silent, &of_statement]);
    }
}

#[test]
fn a_portal_is_run_to_its_end_once() {
    let start = [parse("", READ, &[]), bind("", "", &[])];
    let twice = [&start[..], &[execute("", 0), execute("", 0), sync()]].concat();
    let pieces = [2, 2, 2].map(|rows| execute("", rows)).concat();
    let limited = [&start[..], &[pieces, execute("", 0), sync()]].concat();
    let exact = [&start[..], &[execute("", 3), execute("", 0), sync()]].concat();
    let named = [parse("", READ, &[]), bind("p", "", &[]), execute("p", 0), close_portal("p")];
    let named = [&named[..], &[execute("p", 0), sync()]].concat();
    check(&[&twice, &limited, &exact, &named]);
}

#[test]
fn a_portal_of_a_kept_read_ends_with_its_transaction() {
    let bound = [parse("", READ, &[]), bind("", "", &[]), sync()];
    let later = [execute("", 0), sync()];
    let unknown = [execute("nowhere", 0), sync()];
    check(&[&bound, &later, &unknown]);
}

#[test]
fn statements_are_known_by_their_latest_name() {
    let run = [bind("", "", &[]), execute("", 0), sync()];
    let again = [parse("", "SELECT 1 AS x FROM t", &[]), parse("", READ, &[])];
    let again = [&again[..], &run].concat();
    let forgotten = [close_statement("s"), parse("s", READ, &[]), close_statement("s")];
    let forgotten = [&forgotten[..], &[bind("", "s", &[]), execute("", 0), sync()]].concat();
    let discarded = [query("DEALLOCATE ALL")];
    check(&[&again, &run, &forgotten, &discarded, &again]);
}

#[test]
fn what_follows_an_error_is_skipped_and_what_follows_its_sync_is_not() {
    let run = |sql| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
    check(&[
        &[run("SELECT 1 / 0"), run(READ), sync()],
        &[run(READ), run("SELECT 1 / 0"), run(READ), sync()],
        &[parse("", "SELEC", &[]), bind("", "", &[]), execute("", 0), sync()],
        &[parse("", READ, &[]), bind("", "", &[Some("1")]), execute("", 0), sync()],
        &[run(READ), sync()],
    ]);
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let database = Database::with("CREATE TABLE t (v int); INSERT INTO t VALUES (1)");
    let forebay = Forebay::start(&database, &[]);
    let (mut through, mut direct) = (forebay.client(), database.direct());
    database.until_hit(&mut through, "SELECT v FROM t");
    let run = |sql| [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    let (hit, miss) = ("SELECT v FROM t", "SELECT pg_sleep(0.01), v FROM t");
    let requests = [query(miss), query(hit), run(miss), run(hit), query(hit), run("SELECT 2")];
    for _ in 0..3 {
        for client in [&mut through, &mut direct] {
            client.send(&requests.concat());
        }
        for number in 0..requests.len() {
            assert_eq!(through.replies(), direct.replies(), "request {number}");
        }
    }
}

/// As JDBC does: what the statement is, before its values are bound.
#[test]
fn a_flush_before_the_rest_of_a_group_is_answered() {
    let database = Database::with("CREATE TABLE t (v int); INSERT INTO t VALUES (1)");
    let forebay = Forebay::start(&database, &[]);
    let sql = "SELECT v FROM t WHERE v = $1";
    let mut client = forebay.client();
    for _ in 0..4 {
        client.send(&[parse("", sql, &[]), describe_statement(""), flush()].concat());
        client.expect("1 t T(v)");
        client.send(&[bind("", "", &[Some("1")]), execute("", 0), sync()].concat());
        assert_eq!(client.replies(), "2 D(1) C(SELECT 1) Z(I)");
    }
    client.run("UPDATE t SET v = 2");
    assert_eq!(client.one_extended(sql, &[Some("2")]), "2");
}
