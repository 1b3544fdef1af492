//! Statements that a server has to parse anew after a change of the catalogue: what PostgreSQL
//! would say to a session of its own, in whatever group they come.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{
    RawClient, bind, close_statement, describe_portal, describe_statement, execute, flush, parse,
    query, sync,
};
use crate::support::wait_until;

const TABLES: &str = "CREATE TABLE t (v int); INSERT INTO t VALUES (1); \
     CREATE TABLE u (v int); INSERT INTO u VALUES (7)";

/// One application, in front of Forebay and beside it.
struct Both<'a> {
    database: Database<'a>,
    forebay: Forebay,
    through: RawClient,
    direct: RawClient,
    /// Has the server that has seen the client's statements.
    holder: Option<RawClient>,
}

impl Both<'_> {
    fn start() -> Self {
        let database = Database::apart(TABLES);
        let forebay = Forebay::start(&database, &[]);
        database.until_hit(&mut forebay.client(), "SELECT FROM t");
        let (through, direct) = (forebay.client(), database.direct());
        Self { database, forebay, through, direct, holder: None }
    }

    /// Gives what both are told, which is the same.
    fn ask(&mut self, parts: &[Vec<u8>]) -> String {
        let request = parts.concat();
        self.through.send(&request);
        self.direct.send(&request);
        let expected = self.direct.replies();
        assert_eq!(self.through.replies(), expected);
        expected
    }

    /// Through Forebay, while another client has the server that was used so far.
    fn change(&mut self, sql: &str) {
        self.forebay.client().run(sql);
        let mut holder = self.forebay.client();
        holder.hold_server();
        self.holder = Some(holder);
    }
}

fn run(name: &str) -> Vec<u8> {
    [bind("", name, &[]), execute("", 0)].concat()
}

#[test]
fn each_statement_of_a_pipeline_is_answered_in_its_turn() {
    let mut both = Both::start();
    both.ask(&[parse("t", "SELECT * FROM t", &[]), parse("u", "SELECT * FROM u", &[]), sync()]);
    both.ask(&[run("t"), run("u"), sync()]);
    both.change("ALTER TABLE t ADD w int DEFAULT 2");
    let answer = both.ask(&[run("u"), run("u"), run("t"), run("u"), sync()]);
    assert_eq!(answer, "2 D(7) C(SELECT 1) 2 D(7) C(SELECT 1) E(0A000) Z(I)");
    both.ask(&[run("u"), describe_statement("t"), run("u"), sync()]);
    both.ask(&[run("u"), sync()]);
    both.ask(&[query("BEGIN")]);
    both.ask(&[run("u"), run("t"), sync()]);
    both.ask(&[run("u"), sync()]);
    both.ask(&[query("ROLLBACK")]);
}

#[test]
fn an_error_in_front_of_it_is_not_the_answer_to_the_question() {
    let mut both = Both::start();
    both.ask(&[parse("t", "SELECT * FROM t", &[]), sync()]);
    both.ask(&[run("t"), sync()]);
    both.change("ALTER TABLE t ADD w int DEFAULT 2");
    let fails = "SELECT 1 / (count(*) - count(*)) FROM generate_series(1, 100000)";
    for client in [&mut both.through, &mut both.direct] {
        client.send(&[query(fails), run("t"), sync()].concat());
        client.expect("T(?column?) E(22012) Z(I)");
        client.expect("E(0A000) Z(I)");
    }
    both.ask(&[run("t"), sync()]);
}

#[test]
fn what_was_parsed_stays_though_the_defaults_of_sessions_have_just_changed() {
    let mut both = Both::start();
    both.ask(&[query("BEGIN")]);
    both.ask(&[query("SELECT 1")]);
    both.forebay.client().run("ALTER ROLE current_user SET lock_timeout = '1min'");
    both.ask(&[parse("s", "SELECT count(*) FROM t WHERE v = $1", &[]), sync()]);
    let one = || [bind("", "s", &[Some("1")]), execute("", 0), sync()].concat();
    both.ask(&[one()]);
    both.ask(&[parse("all", "SELECT * FROM t", &[]), sync()]);
    both.ask(&[run("all"), sync()]);
    both.ask(&[query("COMMIT")]);
    both.change("ALTER TABLE t ADD w int DEFAULT 2");
    for _ in 0..2 {
        assert_eq!(both.ask(&[run("all"), sync()]), "E(0A000) Z(I)");
    }
    both.forebay.client().run("ALTER TABLE t DROP w");
    for _ in 0..2 {
        assert_eq!(both.ask(&[run("all"), sync()]), "2 D(1) C(SELECT 1) Z(I)");
    }
    both.change("ALTER TABLE t ALTER v TYPE text");
    assert_eq!(both.ask(&[one()]), "E(42883) Z(I)");
    both.forebay.client().run("ALTER ROLE current_user RESET lock_timeout");
}

#[test]
fn what_is_refused_is_refused_before_sync_too() {
    let mut both = Both::start();
    both.ask(&[parse("t", "SELECT * FROM t", &[]), sync()]);
    both.ask(&[run("t"), sync()]);
    both.change("ALTER TABLE t ADD w int DEFAULT 2");
    for client in [&mut both.through, &mut both.direct] {
        client.send(&[run("t"), flush()].concat());
        client.expect("E(0A000)");
        client.send(&[run("t"), sync()].concat());
        client.expect("Z(I)");
    }
    both.ask(&[run("t"), sync()]);
}

#[test]
fn the_unnamed_statement_is_what_it_was_described_as() {
    let mut both = Both::start();
    let prepare = |sql| [parse("", sql, &[]), describe_statement(""), sync()];
    both.ask(&prepare("SELECT * FROM t"));
    both.change("ALTER TABLE t ADD w int DEFAULT 2");
    assert_eq!(both.ask(&[run(""), sync()]), "E(0A000) Z(I)");
    assert_eq!(both.ask(&[run(""), sync()]), "E(0A000) Z(I)");
    both.ask(&prepare("SELECT * FROM t"));
    assert_eq!(both.ask(&[run(""), sync()]), "2 D(1,2) C(SELECT 1) Z(I)");
    both.change("ALTER TABLE u ADD w int");
    assert_eq!(both.ask(&[run(""), sync()]), "2 D(1,2) C(SELECT 1) Z(I)");
}

/// Nobody has parsed it on any server under this name and text.
#[test]
fn what_was_told_without_a_server_is_kept_to() {
    let mut both = Both::start();
    let sql = |tag: &str| format!("SELECT v FROM t ORDER BY v /* {tag} */");
    let prepare = |name, tag| [parse(name, &sql(tag), &[]), describe_statement(name), sync()];
    both.ask(&prepare("one", "one"));
    both.ask(&prepare("two", "two"));
    let hit = |name, tag| {
        let (parse, bind) = (parse(name, &sql(tag), &[]), bind("", name, &[]));
        [parse, bind, describe_portal(""), execute("", 0), sync()]
    };
    wait_until("a named read is answered from the cache", || {
        both.through.ask(&[close_statement("hit"), sync()]);
        let before = both.database.seen(&sql("fill"));
        both.through.ask(&hit("hit", "fill"));
        both.database.seen(&sql("fill")) == before
    });
    both.ask(&hit("three", "three"));
    assert_eq!(both.database.seen(&sql("three")), 1, "asked of PostgreSQL beside Forebay alone");
    both.change("ALTER TABLE t ALTER v TYPE bigint");
    for name in ["one", "two", "three"] {
        assert_eq!(both.ask(&[run(name), sync()]), "E(0A000) Z(I)", "{name}");
    }
}

#[test]
fn a_begin_that_is_kept_back_fails_with_its_first_statement() {
    let mut both = Both::start();
    both.ask(&[parse("t", "SELECT * FROM t", &[]), parse("b", "BEGIN", &[]), sync()]);
    both.ask(&[run("t"), sync()]);
    both.change("ALTER TABLE t ADD w int DEFAULT 2");
    both.ask(&[run("b"), sync()]);
    assert_eq!(both.ask(&[run("t"), sync()]), "E(0A000) Z(E)");
    both.ask(&[query("COMMIT")]);
}

/// A statement that is refused would have been given its moment to be asked about.
#[test]
fn an_opaque_statement_is_refused_as_any_other() {
    let mut both = Both::start();
    both.database.direct().run(
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS \
         'BEGIN INSERT INTO u VALUES (8); RETURN 1; END'",
    );
    let opaque = "WITH w AS (SELECT f()) SELECT t.* FROM t, w";
    both.ask(&[parse("o", opaque, &[]), parse("s", "SELECT f() FROM t", &[]), sync()]);
    both.ask(&[run("o"), sync()]);
    both.ask(&[run("s"), sync()]);
    both.change("ALTER TABLE t ADD w int DEFAULT 2");
    assert_eq!(both.ask(&[run("o"), sync()]), "E(0A000) Z(I)");
    both.ask(&[bind("", "s", &[]), describe_portal(""), execute("", 0), sync()]);
    both.change("DROP TABLE t");
    assert_eq!(both.ask(&[run("s"), sync()]), "E(42P01) Z(I)");
    both.ask(&[query("SELECT count(*) FROM u")]);
}

/// Drivers know it by the routine.
#[test]
fn the_refusal_is_worded_as_postgresqls_own() {
    let mut both = Both::start();
    both.ask(&[parse("t", "SELECT * FROM t", &[]), sync()]);
    both.ask(&[run("t"), sync()]);
    both.change("ALTER TABLE t ADD w int DEFAULT 2");
    let mut errors = [&mut both.through, &mut both.direct].map(|client| {
        client.send(&[run("t"), sync()].concat());
        client.until(b'Z').remove(0)
    });
    let [ours, theirs] = &mut errors;
    for field in *b"SVCMFR" {
        assert_eq!(ours.field(field), theirs.field(field), "{}", char::from(field));
    }
}

#[test]
fn what_has_not_changed_goes_on() {
    let mut both = Both::start();
    both.ask(&[parse("u", "SELECT * FROM u", &[]), sync()]);
    both.ask(&[run("u"), sync()]);
    both.change("ALTER TABLE t ADD w int DEFAULT 2");
    for _ in 0..3 {
        assert_eq!(both.ask(&[run("u"), sync()]), "2 D(7) C(SELECT 1) Z(I)");
    }
    both.database.until_hit(&mut both.forebay.client(), "SELECT FROM t");
    both.change("CREATE TABLE more (v int)");
    for _ in 0..3 {
        both.ask(&[run("u"), sync()]);
    }
}
