//! Commits that fail, that are done in two phases, and that are cancelled: what was kept is true
//! afterwards, and what was committed is seen.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, bind, cancel, execute, parse, query, sync};
use crate::support::wait_until;

const TABLES: &str = "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1);
     CREATE TABLE t (v int REFERENCES p DEFERRABLE INITIALLY DEFERRED); INSERT INTO t VALUES (1)";
const READ: &str = "SELECT count(*) FROM t";

fn start(sql: &str) -> (Database<'static>, Forebay, RawClient, RawClient) {
    let database = Database::with(sql);
    let forebay = Forebay::start(&database, &[]);
    let (reader, writer) = (forebay.client(), forebay.client());
    (database, forebay, reader, writer)
}

/// The reader has what PostgreSQL has, can keep it, and sees the next write.
fn check_true(database: &Database<'_>, reader: &mut RawClient, writer: &mut RawClient) {
    assert_eq!(reader.one(READ), database.direct().one(READ));
    database.until_hit(reader, READ);
    assert_eq!(reader.one(READ), database.direct().one(READ));
    writer.run("INSERT INTO t VALUES (1)");
    assert_eq!(reader.one(READ), database.direct().one(READ));
}

#[test]
fn a_commit_that_a_deferred_constraint_refuses_leaves_answers_true() {
    let by_query = |client: &mut RawClient| client.query("COMMIT");
    let by_execute = |client: &mut RawClient| {
        client.ask(&[parse("", "COMMIT", &[]), bind("", "", &[]), execute("", 0), sync()])
    };
    for (commit, told) in [
        (&by_query as &dyn Fn(&mut RawClient) -> String, "E(23503) Z(I)"),
        (&by_execute, "1 2 E(23503) Z(I)"),
    ] {
        let (database, _forebay, mut reader, mut writer) = start(TABLES);
        database.until_hit(&mut reader, READ);
        writer.run("BEGIN");
        writer.run("INSERT INTO t VALUES (2)");
        assert_eq!(commit(&mut writer), told);
        check_true(&database, &mut reader, &mut writer);
    }
}

#[test]
fn an_autocommitted_write_that_a_deferred_constraint_refuses_leaves_answers_true() {
    let (database, _forebay, mut reader, mut writer) = start(TABLES);
    let sql = "INSERT INTO t VALUES (2)";
    database.until_hit(&mut reader, READ);
    assert_eq!(writer.query(sql), "E(23503) Z(I)");
    check_true(&database, &mut reader, &mut writer);
    // Here PostgreSQL has said that it is done before it finds that it is not.
    let group = [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()];
    assert_eq!(writer.ask(&group), "1 2 C(INSERT 0 1) E(23503) Z(I)");
    check_true(&database, &mut reader, &mut writer);
}

#[test]
fn a_commit_that_cannot_be_serialised_leaves_answers_true() {
    let (database, forebay, mut reader, mut one) = start(TABLES);
    let mut two = forebay.client();
    database.until_hit(&mut reader, READ);
    for writer in [&mut one, &mut two] {
        writer.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
        writer.run(READ);
        writer.run("INSERT INTO t VALUES (1)");
    }
    assert_eq!(one.query("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(reader.one(READ), "2");
    assert_eq!(two.query("COMMIT"), "E(40001) Z(I)");
    check_true(&database, &mut reader, &mut two);
}

#[test]
fn a_transaction_prepared_is_seen_at_commit_prepared_whoever_says_it() {
    let (database, forebay, mut reader, mut writer) = start(TABLES);
    let name = &database.name;
    for (number, end) in ["COMMIT", "ROLLBACK"].into_iter().enumerate() {
        database.until_hit(&mut reader, READ);
        let before = reader.one(READ);
        writer.run("BEGIN");
        writer.run("INSERT INTO t VALUES (1)");
        writer.run(&format!("PREPARE TRANSACTION '{name}{number}'"));
        assert_eq!(reader.one(READ), before);
        // The client that prepared it is gone, and with it all that was known of its writes.
        let left = std::mem::replace(&mut writer, forebay.client());
        left.close();
        database.until_hit(&mut reader, READ);
        writer.run(&format!("{end} PREPARED '{name}{number}'"));
        check_true(&database, &mut reader, &mut writer);
    }
}

#[test]
fn the_catalogue_that_a_prepared_transaction_changes_is_known_when_it_is_committed() {
    let database = Database::with(
        "CREATE TABLE t (v int); CREATE TABLE seen (v int); INSERT INTO seen VALUES (1);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN INSERT INTO seen VALUES (new.v); RETURN NULL; END$$",
    );
    let config = "[cache]\ncatalog_poll = \"1h\"\n";
    let forebay = Forebay::with_config(&database, config, &[]);
    let (mut reader, mut writer) = (forebay.client(), forebay.client());
    let (read, name) = ("SELECT count(*) FROM seen", &database.name);
    let changes = || forebay.console().column("SHOW CACHE", "database_ddl");
    database.until_hit(&mut reader, read);
    // What it is that a session before has prepared is known, or that it is not.
    for (sql, is_change) in [
        ("INSERT INTO t VALUES (2)", false),
        ("CREATE TRIGGER notes AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()", true),
    ] {
        writer.run(&format!("BEGIN; {sql}"));
        writer.run(&format!("PREPARE TRANSACTION '{name}'"));
        // So that it is not read only after the commit.
        database.until_hit(&mut reader, read);
        let before = changes();
        writer.run(&format!("COMMIT PREPARED '{name}'"));
        assert_eq!(changes() != before, is_change, "{sql}");
    }
    database.until_hit(&mut reader, read);
    writer.run("INSERT INTO t VALUES (3)");
    assert_eq!(reader.one(read), "2");
}

#[test]
fn a_commit_that_is_cancelled_while_it_runs_leaves_answers_true() {
    let (database, forebay, mut reader, mut writer) = start(
        "CREATE TABLE t (v int); INSERT INTO t VALUES (1);
         CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN PERFORM pg_sleep(60); RETURN NULL; END$$;
         CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW WHEN (new.v = 7) EXECUTE FUNCTION wait()",
    );
    database.until_hit(&mut reader, READ);
    writer.run("BEGIN");
    writer.run("INSERT INTO t VALUES (7)");
    writer.send(&query("COMMIT"));
    let mut admin = database.admin();
    wait_until("the commit waits", || {
        admin.one(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'
             AND datname = current_database()",
        ) == "1"
    });
    // Not known either way now: nothing is served, PostgreSQL answers.
    assert!(!database.is_hit(&mut reader, READ));
    RawClient::connect(forebay.port).send(&cancel(writer.pid, &writer.key));
    assert_eq!(writer.replies(), "E(57014) Z(I)");
    check_true(&database, &mut reader, &mut writer);
}

/// What is sent of a transaction before the end of the one before it was answered: each piece is a
/// request of its own, and all of them go out at once.
#[test]
fn a_transaction_begun_in_a_pipeline_is_seen_at_its_commit() {
    let (insert, begin) = ("INSERT INTO t VALUES (1)", "BEGIN");
    let together = |statements: &[&str]| {
        let each = |sql: &&str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
        [statements.iter().map(each).collect::<Vec<_>>().concat(), sync()].concat()
    };
    let queries = |statements: &[&str]| statements.iter().map(|sql| query(sql)).collect::<Vec<_>>();
    let extended = |statements: &[&str]| statements.iter().map(|sql| together(&[sql])).collect();
    let each = ["SELECT 1", begin, insert];
    let after_block = ["COMMIT", begin, insert];
    let ways: [(&[&str], Vec<Vec<u8>>); 9] = [
        (&[], queries(&each)),
        (&[], extended(&each)),
        (&[], queries(&["DISCARD ALL", begin, insert])),
        (&[], vec![query("SELECT 1; BEGIN"), query(insert)]),
        (&[begin], queries(&after_block)),
        (&[begin], queries(&["ROLLBACK", begin, insert])),
        (&[begin], vec![query("COMMIT; BEGIN; INSERT INTO t VALUES (1)")]),
        (&[begin], vec![together(&after_block)]),
        (&[begin, insert], queries(&["COMMIT AND CHAIN", insert])),
    ];
    let (database, _forebay, mut reader, mut writer) = start(TABLES);
    for (number, (before, pipeline)) in ways.iter().enumerate() {
        before.iter().for_each(|sql| writer.run(sql));
        writer.send(&pipeline.concat());
        for _ in pipeline {
            writer.replies();
        }
        // Others are shown what was committed before, however often they ask.
        database.until_hit(&mut reader, READ);
        let committed: u32 = reader.one(READ).parse().unwrap();
        assert_eq!(writer.one(READ), (committed + 1).to_string(), "{number}: its own writes");
        assert_eq!(writer.query("COMMIT"), "C(COMMIT) Z(I)", "{number}");
        assert_eq!(reader.one(READ), (committed + 1).to_string(), "{number}: after its commit");
    }
}

#[test]
fn a_statement_is_not_told_to_have_completed_when_its_commit_could_not_be_asked_for() {
    let database = Database::with(
        "CREATE TABLE t (v int); INSERT INTO t VALUES (1);
         CREATE FUNCTION adds() RETURNS int LANGUAGE plpgsql AS
         $$BEGIN INSERT INTO t VALUES (1); RETURN 7; END$$",
    );
    // Nothing else reads the catalogue that is locked.
    let forebay = Forebay::with_config(&database, "[cache]\ncatalog_poll = \"1h\"\n", &[]);
    let (mut reader, mut writer) = (forebay.client(), forebay.client());
    let adds = "SELECT adds()";
    database.until_hit(&mut reader, READ);
    // Everything that it needs is known to the server, and to the one that is asked.
    writer.run(adds);
    writer.run(adds);
    database.until_hit(&mut reader, READ);
    let (mut holder, mut admin) = (database.admin(), database.admin());
    let waits =
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pg_trigger'::regclass";
    assert_eq!(admin.one(waits), "0");
    holder.run("BEGIN");
    holder.run("LOCK TABLE pg_catalog.pg_trigger IN ACCESS EXCLUSIVE MODE");
    writer.send(&query(adds));
    wait_until("the question waits", || admin.one(waits) == "1");
    RawClient::connect(forebay.port).send(&cancel(writer.pid, &writer.key));
    assert_eq!(writer.replies(), "T(adds) D(7) E(57014) Z(I)");
    holder.run("ROLLBACK");
    check_true(&database, &mut reader, &mut writer);
}
