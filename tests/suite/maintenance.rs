//! What is done to tables every hour leaves the answers of all others where they are, and is
//! itself seen at once.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::query;
use crate::support::wait_until;

const SETUP: &str = "CREATE TABLE b (id int PRIMARY KEY, v int); INSERT INTO b VALUES (1, 1);
    CREATE TABLE p (k int, v int) PARTITION BY LIST (k);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE TABLE later (k int, v int); INSERT INTO later VALUES (3, 3);
    INSERT INTO p VALUES (1, 1);";
const READ_B: &str = "SELECT v FROM b";
const READ_P: &str = "SELECT k, v FROM p ORDER BY k";

/// The catalogue is asked for changes by Forebay's own doing alone.
const SLOW_POLL: &str = "[cache]\ncatalog_poll = \"1h\"\n";

/// After `statements` no answer but that of `p` was taken away, and that of `p` is what PostgreSQL has.
fn check(statements: &[&str]) {
    let database = Database::with(SETUP);
    let forebay = Forebay::with_config(&database, SLOW_POLL, &[]);
    let (mut reader, mut admin) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, READ_P);
    database.until_hit(&mut reader, READ_B);
    for statement in statements {
        // The catalogue has been read again.
        database.until_hit(&mut reader, READ_B);
        admin.run(statement);
    }
    let invalidated = forebay.console().column("SHOW CACHE", "invalidated_database");
    assert_eq!(invalidated, "0", "{statements:?} took the whole database away");
    database.until_hit(&mut reader, READ_B);
    assert_eq!(reader.query(READ_P), database.direct().query(READ_P), "{statements:?}");
    admin.run("INSERT INTO p VALUES (1, 9)");
    assert_eq!(reader.query(READ_P), database.direct().query(READ_P), "after {statements:?}");
}

fn until_a_write_waits(database: &Database<'_>) {
    let mut direct = database.admin();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                 AND datname = current_database()";
    wait_until("the write waits", || direct.one(waits) == "1");
}

#[test]
fn a_new_partition_takes_its_tree_away_alone() {
    check(&["CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)", "INSERT INTO p VALUES (2, 2)"]);
    check(&["CREATE TABLE IF NOT EXISTS p1 PARTITION OF p FOR VALUES IN (1)"]);
    check(&["BEGIN", "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)", "COMMIT"]);
}

#[test]
fn a_dropped_partition_takes_its_tree_away_alone() {
    check(&[
        "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)",
        "INSERT INTO p2 VALUES (2, 2)",
        "DROP TABLE p2",
    ]);
}

#[test]
fn partitions_that_come_and_go_take_their_tree_away_alone() {
    check(&["ALTER TABLE p ATTACH PARTITION later FOR VALUES IN (3)", "UPDATE later SET v = 4"]);
    check(&[
        "ALTER TABLE p ATTACH PARTITION later FOR VALUES IN (3)",
        "ALTER TABLE p DETACH PARTITION later",
    ]);
}

#[test]
fn what_changes_no_rows_takes_nothing_away() {
    check(&["CREATE INDEX CONCURRENTLY i ON b (v)", "DROP INDEX i"]);
    check(&[
        "COMMENT ON TABLE b IS 'x'",
        "GRANT SELECT ON b TO PUBLIC",
        "CREATE TABLE new (id int)",
    ]);
    check(&["ANALYZE b", "VACUUM b", "REINDEX TABLE b", "CLUSTER b USING b_pkey"]);
}

/// What is written after it in the same transaction was judged as if it had not been.
#[test]
fn a_write_behind_ddl_in_one_transaction_is_seen_whatever_it_does() {
    let setup = "CREATE TABLE log (n int);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO log VALUES (1); RETURN NULL; END';
        CREATE TRIGGER note AFTER INSERT ON later FOR EACH ROW EXECUTE FUNCTION note();";
    let database = Database::with(&format!("{SETUP}{setup}"));
    let forebay = Forebay::with_config(&database, SLOW_POLL, &[]);
    let (mut reader, mut admin) = (forebay.client(), forebay.client());
    let read = "SELECT count(*) FROM log";
    database.until_hit(&mut reader, read);
    let attach = "ALTER TABLE p ATTACH PARTITION later FOR VALUES IN (3)";
    for statement in ["BEGIN", attach, "INSERT INTO p VALUES (3, 5)", "COMMIT"] {
        admin.run(statement);
    }
    assert_eq!(reader.one(read), "1");
}

/// The write was judged before the table became a part of another, and had to wait for that.
#[test]
fn a_write_judged_before_ddl_and_committed_after_it_is_seen() {
    let database = Database::with(SETUP);
    let forebay = Forebay::with_config(&database, SLOW_POLL, &[]);
    let (mut reader, mut admin) = (forebay.client(), forebay.client());
    let mut writer = forebay.client();
    database.until_hit(&mut reader, READ_P);
    admin.run("BEGIN");
    admin.run("ALTER TABLE p ATTACH PARTITION later FOR VALUES IN (3)");
    writer.run("BEGIN");
    writer.send(&query("UPDATE later SET v = 4"));
    until_a_write_waits(&database);
    admin.run("COMMIT");
    assert_eq!(writer.replies(), "C(UPDATE 1) Z(T)");
    database.until_hit(&mut reader, READ_P);
    writer.run("COMMIT");
    assert_eq!(reader.query(READ_P), "T(k,v) D(1,1) D(3,4) C(SELECT 2) Z(I)");
}

/// Until its reply is here nobody knows whether it was.
#[test]
fn a_write_that_waits_beside_ddl_may_write_anything() {
    let database = Database::with(&format!("{SETUP} CREATE TABLE held (id int)"));
    let forebay = Forebay::with_config(&database, SLOW_POLL, &[]);
    let (mut reader, mut admin) = (forebay.client(), forebay.client());
    let (mut writer, mut holder) = (forebay.client(), database.admin());
    database.until_hit(&mut reader, READ_P);
    holder.run("BEGIN; LOCK held");
    writer.send(&query("UPDATE later SET v = 4 WHERE NOT EXISTS (SELECT FROM held)"));
    until_a_write_waits(&database);
    let catalogues = || forebay.log().matches("catalogue read").count();
    let before = catalogues();
    admin.run("CREATE TABLE other (id int)");
    wait_until("the catalogue is read again", || catalogues() > before);
    assert!((0..4).all(|_| !database.is_hit(&mut reader, READ_P)));
    holder.run("COMMIT");
    assert_eq!(writer.replies(), "C(UPDATE 1) Z(I)");
    database.until_hit(&mut reader, READ_P);
}

/// A table that hides another is no new name.
#[test]
fn a_table_that_hides_another_is_read_at_once() {
    let database = Database::with(&format!("{SETUP} CREATE SCHEMA first"));
    let forebay = Forebay::with_config(&database, SLOW_POLL, &[]);
    let mut reader = forebay.client_with(&[("search_path", "first, public")]);
    database.until_hit(&mut reader, READ_B);
    forebay.client().run("CREATE TABLE first.b (v int)");
    assert_eq!(reader.query(READ_B), "T(v) C(SELECT 0) Z(I)");
}
