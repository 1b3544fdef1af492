//! A write is seen by the next read of every client, whatever way it takes; what writes nothing
//! leaves the cache as it is.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, USER};
use crate::support::raw::{bind, copy_data, copy_done, execute, parse, query, sync};
use crate::support::wait_until;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                     INSERT INTO t VALUES (1, 'one'), (2, 'two')";
const READ: &str = "SELECT v FROM t ORDER BY id";

/// Once `read` is answered from the cache, one client runs `writes`, one string after the other;
/// then another reads what PostgreSQL has, which is not what was kept.
fn check_seen(setup: &str, read: &str, writes: &[&str]) {
    let database = Database::with(setup);
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut other) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, read);
    let before = reader.query(read);
    for write in writes {
        other.run(write);
    }
    let after = reader.query(read);
    assert_eq!(after, database.direct().query(read), "{writes:?} was not seen");
    assert_ne!(after, before, "{writes:?} changed nothing");
    // And it can be kept again.
    database.until_hit(&mut reader, read);
    assert_eq!(reader.query(read), after);
}

/// After `statements` the read is still answered from the cache.
fn check_kept(setup: &str, read: &str, statements: &[&str]) {
    let database = Database::with(setup);
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut other) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, read);
    for statement in statements {
        other.query(statement);
    }
    assert!(database.is_hit(&mut reader, read), "{statements:?} emptied the cache");
}

#[test]
fn an_insert_is_seen() {
    check_seen(TABLE, READ, &["INSERT INTO t VALUES (3, 'three')"]);
}

#[test]
fn an_update_is_seen() {
    check_seen(TABLE, READ, &["UPDATE t SET v = 'new' WHERE id = 1"]);
}

#[test]
fn a_delete_is_seen() {
    check_seen(TABLE, READ, &["DELETE FROM t WHERE id = 1"]);
}

#[test]
fn a_truncate_is_seen() {
    check_seen(TABLE, READ, &["TRUNCATE t"]);
}

#[test]
fn a_merge_is_seen() {
    let merge = "MERGE INTO t USING (VALUES (1)) s(id) ON t.id = s.id
                 WHEN MATCHED THEN UPDATE SET v = 'merged'";
    check_seen(TABLE, READ, &[merge]);
}

#[test]
fn a_writing_cte_is_seen() {
    check_seen(TABLE, READ, &["WITH w AS (DELETE FROM t RETURNING id) SELECT 1 FROM w"]);
}

#[test]
fn an_explained_write_is_seen() {
    check_seen(TABLE, READ, &["EXPLAIN ANALYZE DELETE FROM t"]);
}

/// A second table, `shown`, and a function that writes to the first.
const WRITER: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                      INSERT INTO t VALUES (1, 'one'), (2, 'two');
                      CREATE TABLE shown (n bigint);
                      CREATE FUNCTION wr() RETURNS bigint LANGUAGE sql AS
                      'UPDATE public.t SET v = v || v; SELECT 1::bigint'";

#[test]
fn a_read_of_a_temporary_view_in_the_place_of_a_table_is_seen() {
    let view = "CREATE TEMP TABLE a (x int); CREATE TEMP VIEW shown AS SELECT wr() AS n";
    check_seen(WRITER, READ, &[view, "SELECT n FROM shown"]);
}

#[test]
fn a_read_of_a_temporary_table_that_got_a_policy_is_seen() {
    let statements = [
        "CREATE TEMP TABLE shown (n int)",
        "INSERT INTO shown VALUES (1)",
        "ALTER TABLE pg_temp.shown ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE pg_temp.shown FORCE ROW LEVEL SECURITY",
        "CREATE POLICY p ON pg_temp.shown USING (wr() > 0)",
        "SELECT n FROM shown",
    ];
    let database = Database::with(WRITER);
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut other) = (forebay.client(), forebay.client());
    for statement in &statements[..5] {
        other.run(statement);
    }
    // Only now: what came before changed the catalogue.
    database.until_hit(&mut reader, READ);
    let before = reader.query(READ);
    other.run(statements[5]);
    assert_ne!(reader.query(READ), before, "the policy wrote and nobody saw it");
}

#[test]
fn a_read_of_a_temporary_table_keeps_the_cache() {
    let table = "CREATE TEMP TABLE shown AS SELECT 1 AS n";
    check_kept(WRITER, READ, &[table, "SELECT n FROM shown"]);
}

#[test]
fn a_copy_is_seen() {
    let database = Database::with(TABLE);
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut other) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, READ);
    other.send(&query("COPY t FROM STDIN"));
    other.expect("G");
    assert_eq!(other.ask(&[copy_data("3\tthree\n"), copy_done()]), "C(COPY 1) Z(I)");
    assert_eq!(reader.query(READ), "T(v) D(one) D(two) D(three) C(SELECT 3) Z(I)");
}

#[test]
fn a_copy_of_a_writing_query_is_seen() {
    check_seen(TABLE, READ, &["COPY (DELETE FROM t RETURNING id) TO STDOUT"]);
}

#[test]
fn a_transaction_is_seen_at_its_commit_and_kept_until_then() {
    let database = Database::with(TABLE);
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut other) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, READ);
    other.run("BEGIN");
    other.run("UPDATE t SET v = 'new'");
    assert!(database.is_hit(&mut reader, READ), "an uncommitted write took the cache away");
    other.run("COMMIT");
    assert_eq!(reader.one(READ), "new");
}

#[test]
fn a_commit_and_chain_is_a_commit() {
    check_seen(TABLE, READ, &["BEGIN", "DELETE FROM t", "COMMIT AND CHAIN"]);
}

#[test]
fn a_write_in_the_transaction_that_commit_and_chain_began_is_seen() {
    check_seen(TABLE, READ, &["BEGIN", "COMMIT AND CHAIN", "DELETE FROM t", "END"]);
}

#[test]
fn a_write_in_a_transaction_that_began_read_only_is_seen() {
    let write = "UPDATE t SET v = 'new'";
    check_seen(TABLE, READ, &["BEGIN READ ONLY", "SET TRANSACTION READ WRITE", write, "COMMIT"]);
    let default = "SET default_transaction_read_only = on";
    check_seen(TABLE, READ, &[default, "BEGIN READ WRITE", write, "COMMIT"]);
}

#[test]
fn a_foreign_key_action_is_seen_in_the_referencing_table() {
    let setup = "CREATE TABLE parent (id int PRIMARY KEY);
                 CREATE TABLE child (p int REFERENCES parent ON DELETE CASCADE);
                 CREATE TABLE grandchild (p int REFERENCES parent ON DELETE SET NULL);
                 INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1);
                 INSERT INTO grandchild VALUES (1)";
    check_seen(setup, "SELECT p FROM child", &["DELETE FROM parent"]);
    check_seen(setup, "SELECT p FROM grandchild", &["DELETE FROM parent"]);
    check_seen(setup, "SELECT p FROM child", &["TRUNCATE parent CASCADE"]);
}

#[test]
fn what_a_trigger_writes_is_seen() {
    let setup = format!(
        "{TABLE}; CREATE TABLE log (v int);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO log VALUES (1); RETURN NULL; END';
         CREATE TRIGGER note AFTER UPDATE ON t EXECUTE FUNCTION note()"
    );
    check_seen(&setup, "SELECT count(*) FROM log", &["UPDATE t SET v = 'new'"]);
}

#[test]
fn what_the_function_of_a_column_default_writes_is_seen() {
    let setup = "CREATE TABLE log (v int);
         CREATE FUNCTION note() RETURNS int LANGUAGE sql AS
             'INSERT INTO log VALUES (1); SELECT 1';
         CREATE TABLE d (v int DEFAULT note())";
    check_seen(setup, "SELECT count(*) FROM log", &["INSERT INTO d DEFAULT VALUES"]);
}

#[test]
fn what_a_rule_writes_is_seen() {
    let setup = format!(
        "{TABLE}; CREATE TABLE log (v int);
         CREATE RULE note AS ON UPDATE TO t DO ALSO INSERT INTO log VALUES (1)"
    );
    check_seen(&setup, "SELECT count(*) FROM log", &["UPDATE t SET v = 'new'"]);
}

#[test]
fn a_write_through_a_view_is_seen() {
    let setup = format!("{TABLE}; CREATE VIEW w AS SELECT id, v FROM t");
    check_seen(&setup, READ, &["UPDATE w SET v = 'new'"]);
}

#[test]
fn what_a_called_function_writes_is_seen() {
    let setup = format!(
        "{TABLE}; CREATE FUNCTION wr() RETURNS int LANGUAGE sql AS
             'UPDATE t SET v = ''new''; SELECT 1'"
    );
    check_seen(&setup, READ, &["SELECT wr()"]);
    check_seen(&setup, READ, &["VALUES (wr())"]);
    check_seen(&setup, READ, &["SELECT query_to_xml('SELECT wr()', true, false, '')"]);
    check_seen(
        &setup,
        READ,
        &["BEGIN", "DECLARE c CURSOR FOR SELECT wr()", "FETCH 1 FROM c", "COMMIT"],
    );
    check_seen(&setup, READ, &["PREPARE p AS SELECT wr()", "EXECUTE p"]);
}

#[test]
fn what_a_function_labelled_stable_writes_is_seen() {
    let setup = format!(
        "{TABLE}; CREATE FUNCTION wr() RETURNS int LANGUAGE sql VOLATILE AS
             'UPDATE t SET v = ''new''; SELECT 1';
         CREATE FUNCTION quiet() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN wr(); END'"
    );
    check_seen(&setup, READ, &["SELECT quiet()"]);
}

#[test]
fn what_an_operator_writes_is_seen() {
    let setup = format!(
        "{TABLE}; CREATE FUNCTION wr(int, int) RETURNS int LANGUAGE sql AS
             'UPDATE t SET v = ''new''; SELECT 1';
         CREATE OPERATOR ### (FUNCTION = wr, LEFTARG = int, RIGHTARG = int)"
    );
    check_seen(&setup, READ, &["SELECT 1 ### 2"]);
}

#[test]
fn what_do_and_call_write_is_seen() {
    check_seen(TABLE, READ, &["DO $$ BEGIN UPDATE t SET v = 'new'; END $$"]);
    check_seen(TABLE, READ, &["DO $$ BEGIN UPDATE t SET v = 'new'; COMMIT; END $$"]);
    let setup = format!(
        "{TABLE}; CREATE PROCEDURE wr() LANGUAGE plpgsql AS
             'BEGIN UPDATE t SET v = ''new''; COMMIT; END'"
    );
    check_seen(&setup, READ, &["CALL wr()"]);
}

#[test]
fn what_a_string_of_statements_writes_is_seen() {
    check_seen(TABLE, READ, &["SELECT 1; UPDATE t SET v = 'new'; SELECT 2"]);
    check_seen(TABLE, READ, &["BEGIN; UPDATE t SET v = 'new'; COMMIT"]);
}

#[test]
fn what_was_committed_before_an_error_in_the_same_string_is_seen() {
    let database = Database::with(TABLE);
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut other) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, READ);
    let replies = other.query("BEGIN; UPDATE t SET v = 'new'; COMMIT; SELECT 1/0");
    assert!(replies.contains("E(22012)"), "{replies}");
    assert_eq!(reader.one(READ), "new");
}

#[test]
fn ddl_is_seen() {
    let star = "SELECT * FROM t ORDER BY 1";
    check_seen(TABLE, star, &["ALTER TABLE t ADD COLUMN w int DEFAULT 5"]);
    check_seen(TABLE, star, &["ALTER TABLE t RENAME COLUMN v TO x"]);
    check_seen(
        TABLE,
        star,
        &["BEGIN", "ALTER TABLE t RENAME TO t2", "CREATE TABLE t (z int)", "COMMIT"],
    );
    check_seen(TABLE, star, &["DROP TABLE t; CREATE TABLE t (v text)"]);
}

#[test]
fn a_dropped_table_is_gone() {
    let database = Database::with(TABLE);
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut other) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, READ);
    other.run("DROP TABLE t");
    assert_eq!(reader.query(READ), "E(42P01) Z(I)");
}

#[test]
fn a_renamed_enum_value_is_seen() {
    let setup =
        "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (m mood); INSERT INTO t VALUES ('ok')";
    check_seen(setup, "SELECT m FROM t", &["ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'"]);
}

#[test]
fn a_new_table_that_hides_the_old_one_is_read() {
    let setup = "CREATE SCHEMA a; CREATE TABLE t (v int); INSERT INTO t VALUES (1);";
    let database = Database::with(setup);
    let forebay = Forebay::start(&database, &[]);
    let mut reader = forebay.client_with(&[("search_path", "a, public")]);
    let mut other = forebay.client();
    let read = "SELECT v FROM t";
    database.until_hit(&mut reader, read);
    other.run("CREATE TABLE a.t (v int); INSERT INTO a.t VALUES (2)");
    assert_eq!(reader.one(read), "2");
}

#[test]
fn a_revoked_privilege_counts_at_once() {
    let database = Database::apart(TABLE);
    let role = format!("reader_{}", database.name);
    database.admin().run(&format!("CREATE ROLE {role}; GRANT {role} TO {USER}"));
    database.direct().run(&format!("GRANT SELECT ON t TO {role}"));
    let forebay = Forebay::start(&database, &[]);
    let mut reader = forebay.client();
    reader.run(&format!("SET ROLE {role}"));
    database.until_hit(&mut reader, READ);
    forebay.client().run(&format!("REVOKE SELECT ON t FROM {role}"));
    assert_eq!(reader.query(READ), "E(42501) Z(I)");
}

#[test]
fn a_write_to_a_partition_is_seen_in_the_whole_tree() {
    let setup = "CREATE TABLE p (k int) PARTITION BY LIST (k);
                 CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
                 CREATE TABLE p2 (k int); INSERT INTO p2 VALUES (2); INSERT INTO p VALUES (1)";
    let read = "SELECT k FROM p ORDER BY k";
    check_seen(setup, read, &["DELETE FROM p1"]);
    check_seen(setup, "SELECT k FROM p1", &["DELETE FROM p"]);
    check_seen(setup, read, &["ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2)"]);
    check_seen(setup, read, &["ALTER TABLE p DETACH PARTITION p1"]);
}

#[test]
fn a_write_to_a_child_is_seen_through_its_parent() {
    let setup = "CREATE TABLE p (v int); CREATE TABLE c () INHERITS (p); INSERT INTO c VALUES (1)";
    check_seen(setup, "SELECT v FROM p", &["UPDATE c SET v = 2"]);
    check_seen(setup, "SELECT v FROM c", &["UPDATE p SET v = 2"]);
}

#[test]
fn a_prepared_transaction_is_seen_when_it_is_committed() {
    let database = Database::with(TABLE);
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut other) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, READ);
    let name = &database.name;
    other.run("BEGIN; UPDATE t SET v = 'new'");
    other.run(&format!("PREPARE TRANSACTION '{name}'"));
    assert_eq!(reader.one(READ), "one");
    database.until_hit(&mut reader, READ);
    forebay.client().run(&format!("COMMIT PREPARED '{name}'"));
    assert_eq!(reader.one(READ), "new");
}

const UPDATE: &str = "UPDATE t SET v = v + 1";
const LOCAL: &str = "SET LOCAL search_path = b";
const BACK: &str = "SET LOCAL search_path = public";
const SESSION: &str = "SET search_path = b";
const RESET: &str = "RESET search_path";

/// Ways to write `b.t` once, in pieces that are sent at once.
const OF_SCHEMA: &[&[&[&str]]] = &[
    &[&["BEGIN"], &[LOCAL], &[UPDATE], &["COMMIT"]],
    &[&["BEGIN", LOCAL, UPDATE, "COMMIT"]],
    &[&["BEGIN", LOCAL, "SAVEPOINT a", BACK], &["ROLLBACK TO a"], &[UPDATE], &["COMMIT"]],
    &[
        &["BEGIN", LOCAL, "SAVEPOINT a", BACK],
        &["ROLLBACK TO a"],
        &["SET LOCAL lock_timeout = 0"],
        &[UPDATE],
        &["COMMIT"],
    ],
    &[&["BEGIN"], &[LOCAL], &["SET lock_timeout = 0"], &[UPDATE], &["COMMIT"]],
    &[&["BEGIN"], &["SET LOCAL lock_timeout = 0"], &[LOCAL], &[UPDATE], &["COMMIT"]],
    &[&[SESSION, UPDATE, RESET]],
    &[&[SESSION], &[UPDATE], &["DISCARD ALL"]],
    // What is in force ends with what is sent in front of it.
    &[&[SESSION], &["BEGIN"], &[BACK], &["COMMIT", UPDATE], &[RESET]],
    &[&[SESSION], &["BEGIN"], &[BACK], &["COMMIT; UPDATE t SET v = v + 1"], &[RESET]],
    &[&[SESSION], &["BEGIN"], &["SET search_path = public"], &["ROLLBACK", UPDATE], &[RESET]],
    &[
        &[SESSION],
        &["BEGIN", "SAVEPOINT a"],
        &["SET search_path = public"],
        &["ROLLBACK TO a", UPDATE, "COMMIT"],
        &[RESET],
    ],
];

/// Two tables of one name: which one is written depends on what was said just before.
#[test]
fn a_write_is_of_the_schema_that_is_in_force_when_it_runs() {
    let setup = "CREATE TABLE t (v int); INSERT INTO t VALUES (0);
                 CREATE SCHEMA b; CREATE TABLE b.t (v int); INSERT INTO b.t VALUES (0)";
    let database = Database::with(setup);
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut writer) = (forebay.client(), forebay.client());
    let read = "SELECT v FROM b.t";
    let run = |sql: &&str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
    let together = |piece: &[&str]| {
        vec![[piece.iter().map(run).collect::<Vec<_>>().concat(), sync()].concat()]
    };
    let apart = |piece: &[&str]| piece.iter().map(|sql| query(sql)).collect::<Vec<_>>();
    for way in OF_SCHEMA {
        for manner in [&apart as &dyn Fn(&[&str]) -> Vec<Vec<u8>>, &together] {
            database.until_hit(&mut reader, read);
            let before: u32 = reader.one(read).parse().unwrap();
            let simple_only = |piece: &[&str]| piece.iter().any(|sql| sql.contains(';'));
            for piece in *way {
                let requests = if simple_only(piece) { apart(piece) } else { manner(piece) };
                writer.send(&requests.concat());
                for _ in requests {
                    writer.replies();
                }
            }
            assert_eq!(reader.one(read), (before + 1).to_string(), "{way:?}");
        }
    }
    // And by the one of the session again.
    database.until_hit(&mut reader, "SELECT v FROM t");
    writer.run(UPDATE);
    assert_eq!(reader.one("SELECT v FROM t"), "1");
}

#[test]
fn a_write_under_another_role_is_seen() {
    let database = Database::apart(TABLE);
    let role = format!("writer_{}", database.name);
    database.admin().run(&format!("CREATE ROLE {role}; GRANT {role} TO {USER}"));
    database.direct().run(&format!("GRANT ALL ON t TO {role}"));
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut other) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, READ);
    other.run(&format!("SET ROLE {role}"));
    other.run("UPDATE t SET v = 'new'");
    assert_eq!(reader.one(READ), "new");
}

#[test]
fn a_refreshed_materialised_view_is_seen() {
    let setup = format!("{TABLE}; CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM t");
    let database = Database::with(&setup);
    let forebay = Forebay::start(&database, &[]);
    let (mut reader, mut other) = (forebay.client(), forebay.client());
    reader.run("SELECT n FROM m");
    database.until_hit(&mut reader, READ);
    reader.run("SELECT n FROM m");
    other.run("DELETE FROM t");
    other.run("REFRESH MATERIALIZED VIEW m");
    assert_eq!(reader.one("SELECT n FROM m"), "0");
}

#[test]
fn a_rolled_back_write_leaves_the_cache_as_it_was() {
    check_kept(TABLE, READ, &["BEGIN", "UPDATE t SET v = 'new'", "ROLLBACK"]);
    check_kept(TABLE, READ, &["UPDATE t SET id = 1"]);
    check_kept(TABLE, READ, &["BEGIN", "UPDATE t SET v = 'new'", "SELECT 1/0", "COMMIT"]);
}

#[test]
fn a_write_leaves_other_tables_as_they_were() {
    let setup = format!("{TABLE}; CREATE TABLE other (v int)");
    check_kept(&setup, READ, &["INSERT INTO other VALUES (1)"]);
}

#[test]
fn statements_that_write_no_table_leave_the_cache_as_it_was() {
    for statement in [
        "SELECT now()",
        "SELECT random(), clock_timestamp()",
        "SELECT v FROM t FOR SHARE",
        "SELECT count(*) FROM pg_class",
        "SELECT pg_advisory_xact_lock(7)",
        "SHOW work_mem",
        "SET work_mem = '5MB'",
        "LISTEN news",
        "NOTIFY news",
        "ANALYZE t",
        "VACUUM t",
        "EXPLAIN SELECT v FROM t",
        "COPY t TO STDOUT",
        "CREATE TEMP TABLE mine (v int)",
    ] {
        check_kept(TABLE, READ, &[statement]);
    }
}

/// As extensions for incremental views make them.
#[test]
fn a_trigger_of_users_code_that_is_marked_internal_is_seen() {
    let database = Database::with(
        "CREATE TABLE t (v int); CREATE TABLE log (v int);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO log VALUES (1); RETURN NEW; END';
         CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()",
    );
    database.admin().run("UPDATE pg_trigger SET tgisinternal = true WHERE tgname = 'note'");
    let forebay = Forebay::start(&database, &[]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    let count = "SELECT count(*) FROM log";
    database.until_hit(&mut one, count);
    two.run("INSERT INTO t VALUES (1)");
    assert_eq!(one.one(count), "1");
}

#[test]
fn a_role_that_is_changed_through_one_database_is_another_in_all() {
    let database = Database::apart("CREATE TABLE t AS SELECT 1 AS v");
    let other = database.postgres.database();
    let (reader, readers) = (format!("reader_{}", database.name), format!("of_{}", database.name));
    let user = USER;
    database.admin().run(&format!(
        "CREATE ROLE {reader}; GRANT {reader} TO {user}; CREATE ROLE {readers};
         GRANT {readers} TO {user} WITH ADMIN OPTION; GRANT {readers} TO {reader};
         GRANT SELECT ON t TO {readers}"
    ));
    let config = "[cache]\ncatalog_poll = \"1h\"\n";
    let forebay = Forebay::with_config(&database, config, &[]);
    let mut client = forebay.client();
    client.run(&format!("SET ROLE {reader}"));
    database.until_hit(&mut client, "SELECT v FROM t");
    let login =
        crate::support::raw::Login::new(user, crate::support::postgres::PASSWORD, &other.name);
    forebay.log_in(&login).unwrap().run(&format!("REVOKE {readers} FROM {reader}"));
    assert_eq!(client.query("SELECT v FROM t"), "E(42501) Z(I)");
}

#[test]
fn what_is_revoked_on_a_built_in_elsewhere_is_noticed() {
    let database = Database::with(TABLE);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    let sql = "SELECT upper(v) FROM t";
    database.until_hit(&mut client, sql);
    database.admin().run("REVOKE EXECUTE ON FUNCTION upper(text) FROM PUBLIC");
    wait_until("the REVOKE is noticed", || client.query(sql) == "E(42501) Z(I)");
}
