//! What an opaque statement wrote is asked of PostgreSQL: the tables it wrote are fresh, all
//! others are still answered from the cache.

use crate::support::forebay::{Forebay, UNFORESEEN};
use crate::support::postgres::Database;
use crate::support::raw::{
    RawClient, bind, describe_portal, execute, message, parse, query, show, sync,
};
use crate::support::wait_until;

/// Two tables, and a function that writes to the first.
const TABLES: &str = "CREATE TABLE a (id int PRIMARY KEY, v int);
    CREATE TABLE b (id int PRIMARY KEY, v int);
    INSERT INTO a VALUES (1, 1), (2, 1); INSERT INTO b VALUES (1, 1);
    CREATE FUNCTION wr() RETURNS int LANGUAGE sql AS 'UPDATE a SET v = v + 1; SELECT 7';";
const READ_A: &str = "SELECT id, v FROM a ORDER BY id";
const READ_B: &str = "SELECT id, v FROM b ORDER BY id";

/// A database behind Forebay, and a reader whose answers of both tables come from the cache.
struct Stage<'a> {
    database: Database<'a>,
    forebay: Forebay,
    reader: RawClient,
}

impl Stage<'static> {
    fn new(setup: &str) -> Self {
        Self::with_config(setup, "")
    }

    fn with_config(setup: &str, toml: &str) -> Self {
        let database = Database::with(&format!("{TABLES}{setup}"));
        let forebay = Forebay::with_config(&database, toml, &[]);
        let mut reader = forebay.client();
        database.until_hit(&mut reader, READ_A);
        database.until_hit(&mut reader, READ_B);
        Self { database, forebay, reader }
    }

    fn b_is_kept(&mut self) -> bool {
        self.database.is_hit(&mut self.reader, READ_B)
    }

    /// The read of `a` is what PostgreSQL has, and not what was kept.
    fn a_is_fresh(&mut self) -> bool {
        let kept = self.database.is_hit(&mut self.reader, READ_A);
        !kept && self.reader.query(READ_A) == self.database.direct().query(READ_A)
    }

    fn counter(&self, name: &str) -> u64 {
        self.forebay.console().column("SHOW CACHE", name).parse().unwrap()
    }
}

const AUDIT: &str = "[cache]\nopaque_writes = \"audit\"\ncatalog_poll = \"1h\"\n";

/// These statements write `a` in ways that their text does not tell, and `b` stays cached.
fn check(setup: &str, statements: &[&str]) {
    let mut stage = Stage::new(setup);
    let mut writer = stage.forebay.client();
    for statement in statements {
        writer.run(statement);
    }
    assert!(stage.b_is_kept(), "{statements:?} took b away");
    assert!(stage.a_is_fresh(), "{statements:?} was not seen");
}

#[test]
fn a_function_in_a_block_takes_away_what_it_wrote_alone() {
    check("", &["BEGIN", "SELECT wr()", "COMMIT"]);
    check("", &["BEGIN", "SELECT wr()", "SAVEPOINT s", "SELECT wr()", "RELEASE s", "END"]);
}

#[test]
fn a_do_block_in_a_block_takes_away_what_it_wrote_alone() {
    check("", &["BEGIN", "DO $$ BEGIN UPDATE a SET v = v + 1; END $$", "COMMIT"]);
}

#[test]
fn a_procedure_called_in_a_block_takes_away_what_it_wrote_alone() {
    let procedure = "CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN PERFORM wr(); END'";
    check(procedure, &["BEGIN", "CALL p()", "COMMIT AND CHAIN", "ROLLBACK"]);
}

const TRIGGER: &str = "CREATE TABLE c (id int);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN UPDATE a SET v = v + 1; RETURN NULL; END';
    CREATE TRIGGER note AFTER INSERT ON c EXECUTE FUNCTION note()";

#[test]
fn a_trigger_takes_away_what_it_wrote_alone() {
    check(TRIGGER, &["BEGIN", "INSERT INTO c VALUES (1)", "COMMIT"]);
    check(TRIGGER, &["INSERT INTO c VALUES (1)"]);
}

#[test]
fn a_rule_takes_away_what_it_wrote_alone() {
    let rule = "CREATE TABLE c (id int);
        CREATE RULE note AS ON INSERT TO c DO ALSO UPDATE a SET v = v + 1";
    check(rule, &["BEGIN", "INSERT INTO c VALUES (1)", "COMMIT"]);
    check(rule, &["INSERT INTO c VALUES (1)"]);
}

#[test]
fn a_cascade_to_a_table_with_a_trigger_takes_away_what_that_wrote_alone() {
    let cascade = format!(
        "{TRIGGER}; CREATE TABLE parent (id int PRIMARY KEY);
         CREATE TABLE child (p int REFERENCES parent ON DELETE CASCADE);
         CREATE TRIGGER note AFTER DELETE ON child EXECUTE FUNCTION note();
         INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1)"
    );
    check(&cascade, &["BEGIN", "DELETE FROM parent", "COMMIT"]);
    check(&cascade, &["DELETE FROM parent"]);
}

#[test]
fn a_function_on_its_own_takes_away_what_it_wrote_alone() {
    check("", &["SELECT wr()"]);
    check("", &["PREPARE p AS SELECT wr()", "EXECUTE p"]);
    check("", &["EXPLAIN ANALYZE SELECT wr()"]);
}

#[test]
fn a_function_in_the_extended_protocol_takes_away_what_it_wrote_alone() {
    let mut stage = Stage::new("");
    let mut writer = stage.forebay.client();
    let messages = [parse("", "SELECT wr()", &[]), bind("", "", &[]), describe_portal("")];
    let messages = [&messages[..], &[execute("", 0), sync()]].concat();
    assert_eq!(writer.ask(&messages), "1 2 T(wr) D(7) C(SELECT 1) Z(I)");
    assert!(stage.b_is_kept());
    assert!(stage.a_is_fresh());
    // And once it is prepared, with its name.
    stage.database.until_hit(&mut stage.reader, READ_A);
    assert_eq!(writer.ask(&[parse("s", "SELECT wr()", &[]), sync()]), "1 Z(I)");
    for _ in 0..2 {
        assert_eq!(writer.ask(&[bind("", "s", &[]), execute("", 1), sync()]), "2 D(7) s Z(I)");
    }
    assert!(stage.b_is_kept());
    assert!(stage.a_is_fresh());
}

#[test]
fn a_commit_in_the_extended_protocol_is_asked_about_too() {
    let mut stage = Stage::new("");
    let mut writer = stage.forebay.client();
    writer.run("BEGIN");
    writer.run("SELECT wr()");
    let commit = [parse("", "COMMIT", &[]), bind("", "", &[]), execute("", 1), sync()];
    assert_eq!(writer.ask(&commit), "1 2 C(COMMIT) Z(I)");
    assert!(stage.b_is_kept());
    assert!(stage.a_is_fresh());
}

#[test]
fn what_a_function_writes_without_a_commit_changes_nothing() {
    let mut stage = Stage::new("");
    let mut writer = stage.forebay.client();
    for statement in ["BEGIN", "SELECT wr()", "ROLLBACK"] {
        writer.run(statement);
    }
    assert!(stage.b_is_kept());
    assert!(stage.database.is_hit(&mut stage.reader, READ_A));
}

#[test]
fn a_function_that_writes_nothing_takes_nothing_away() {
    let quiet = "CREATE FUNCTION quiet() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    let mut stage = Stage::new(quiet);
    let mut writer = stage.forebay.client();
    for statement in ["SELECT quiet()", "BEGIN", "SELECT quiet()", "COMMIT"] {
        writer.run(statement);
    }
    assert!(stage.database.is_hit(&mut stage.reader, READ_A));
    assert!(stage.b_is_kept());
}

#[test]
fn a_write_of_a_partition_by_a_function_is_seen_in_its_tree() {
    let setup = "CREATE TABLE p (k int) PARTITION BY LIST (k);
        CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
        CREATE FUNCTION part() RETURNS int LANGUAGE sql AS 'INSERT INTO p1 VALUES (1); SELECT 1'";
    let mut stage = Stage::new(setup);
    let mut writer = stage.forebay.client();
    let read = "SELECT count(*) FROM p";
    stage.database.until_hit(&mut stage.reader, read);
    for statement in ["BEGIN", "SELECT part()", "COMMIT"] {
        writer.run(statement);
    }
    assert!(stage.b_is_kept());
    assert_eq!(stage.reader.one(read), "1");
}

/// What runs within the commit comes after the question.
#[test]
fn a_deferred_trigger_takes_the_whole_database_away() {
    let deferred = "CREATE TABLE c (id int);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN UPDATE a SET v = v + 1; RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER note AFTER INSERT ON c DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION note()";
    for statements in
        [&["BEGIN", "INSERT INTO c VALUES (1)", "COMMIT"][..], &["INSERT INTO c VALUES (1)"]]
    {
        let mut stage = Stage::new(deferred);
        let mut writer = stage.forebay.client();
        for statement in statements {
            writer.run(statement);
        }
        assert!(!stage.b_is_kept());
        assert!(stage.a_is_fresh());
        assert_eq!(stage.counter("database_deferred"), 1);
    }
}

#[test]
fn a_cursor_that_a_function_left_to_the_commit_takes_the_whole_database_away() {
    let setup = "CREATE FUNCTION hold() RETURNS int LANGUAGE plpgsql AS $$
        BEGIN EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT wr()'; RETURN 1; END $$";
    let mut stage = Stage::new(setup);
    let mut writer = stage.forebay.client();
    for statement in ["BEGIN", "SELECT hold()", "COMMIT"] {
        writer.run(statement);
    }
    assert!(stage.a_is_fresh());
    assert_eq!(stage.counter("database_deferred"), 1);
}

#[test]
fn ddl_within_a_function_takes_the_whole_database_away_and_is_known_at_once() {
    let setup = "CREATE TABLE log (n int);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO log VALUES (1); RETURN NULL; END';
        CREATE FUNCTION ddl() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
            CREATE TRIGGER note AFTER UPDATE ON b EXECUTE FUNCTION note(); RETURN 1; END $$";
    let mut stage = Stage::with_config(setup, "[cache]\ncatalog_poll = \"1h\"\n");
    let mut writer = stage.forebay.client();
    writer.run("SELECT ddl()");
    let read = "SELECT count(*) FROM log";
    stage.database.until_hit(&mut stage.reader, read);
    writer.run("UPDATE b SET v = 2");
    assert_eq!(stage.reader.one(read), "1");
}

#[test]
fn a_grant_within_a_function_takes_the_whole_database_away() {
    let setup = "CREATE FUNCTION deny() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        REVOKE ALL ON b FROM PUBLIC; RETURN 1; END $$";
    let mut stage = Stage::new(setup);
    stage.forebay.client().run("SELECT deny()");
    assert!(!stage.b_is_kept());
    assert_eq!(stage.counter("database_catalogue"), 1);
}

#[test]
fn a_client_sees_nothing_of_the_question() {
    let setup = "CREATE FUNCTION loud() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        RAISE NOTICE 'hello'; RETURN wr(); END $$;
        CREATE FUNCTION fail() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        PERFORM wr(); RAISE EXCEPTION 'no'; END $$";
    let stage = Stage::new(setup);
    let mut writer = stage.forebay.client();
    assert_eq!(writer.query("SELECT loud()"), "T(loud) N(hello) D(7) C(SELECT 1) Z(I)");
    assert_eq!(writer.query("SELECT fail()"), "T(fail) E(P0001) Z(I)");
    assert_eq!(writer.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(writer.query("SELECT loud()"), "T(loud) N(hello) D(7) C(SELECT 1) Z(T)");
    assert_eq!(writer.query("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(writer.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(writer.query("SELECT fail()").split(' ').next_back(), Some("Z(E)"));
    assert_eq!(writer.query("COMMIT"), "C(ROLLBACK) Z(I)");
    let fails = [parse("", "SELECT fail()", &[]), bind("", "", &[]), execute("", 0), sync()];
    assert_eq!(writer.ask(&fails), "1 2 E(P0001) Z(I)");
    assert_eq!(writer.one("SELECT 1"), "1");
}

/// A deferred constraint fails in the commit: the client hears of no success before.
#[test]
fn a_commit_of_ours_that_fails_is_the_statements_failure() {
    let setup = "CREATE TABLE child (a int REFERENCES a DEFERRABLE INITIALLY DEFERRED);
        CREATE FUNCTION orphan() RETURNS int LANGUAGE sql AS
            'INSERT INTO child VALUES (99); SELECT 1'";
    let mut stage = Stage::new(setup);
    let mut writer = stage.forebay.client();
    let direct = stage.database.direct().query("SELECT orphan()");
    assert_eq!(writer.query("SELECT orphan()"), direct);
    let messages = [parse("", "SELECT orphan()", &[]), bind("", "", &[]), execute("", 0), sync()];
    assert_eq!(writer.ask(&messages), stage.database.direct().ask(&messages));
    assert_eq!(writer.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(writer.query("SELECT orphan()"), "T(orphan) D(1) C(SELECT 1) Z(T)");
    assert_eq!(writer.query("COMMIT"), "E(23503) Z(I)");
    assert!(stage.b_is_kept());
}

#[test]
fn requests_behind_an_opaque_statement_are_answered_in_their_turn() {
    let mut stage = Stage::new("");
    let mut writer = stage.forebay.client();
    writer.send(&[query("SELECT wr()"), query(READ_B), query("SELECT wr()")].concat());
    let replies: Vec<String> = (0..3).map(|_| show(&writer.until(b'Z'))).collect();
    let one = "T(wr) D(7) C(SELECT 1) Z(I)";
    assert_eq!(replies, [one, "T(id,v) D(1,1) C(SELECT 1) Z(I)", one]);
    let call = [parse("", "SELECT wr()", &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    writer.send(&[call.clone(), call].concat());
    let replies: Vec<String> = (0..2).map(|_| show(&writer.until(b'Z'))).collect();
    assert_eq!(replies, ["1 2 D(7) C(SELECT 1) Z(I)"; 2]);
    assert!(stage.a_is_fresh());
}

#[test]
fn a_commit_in_one_string_with_what_it_commits_takes_the_whole_database_away() {
    let mut stage = Stage::new("");
    stage.forebay.client().run("BEGIN; SELECT wr(); COMMIT");
    assert!(!stage.b_is_kept());
    assert!(stage.a_is_fresh());
    assert_eq!((stage.counter("asked"), stage.counter("database_no_moment")), (0, 1));
}

#[test]
fn where_postgresql_is_not_to_be_asked_the_whole_database_is_taken_away() {
    let mut stage = Stage::with_config("", "[cache]\nopaque_writes = \"database\"\n");
    stage.forebay.client().run("SELECT wr()");
    assert!(!stage.b_is_kept());
    assert!(stage.a_is_fresh());
    assert_eq!((stage.counter("asked"), stage.counter("database_off")), (0, 1));
}

/// Names of PostgreSQL's own may mean others to the session that is asked.
#[test]
fn the_question_means_postgresqls_own_names() {
    let setup = "CREATE SCHEMA evil;
        CREATE FUNCTION evil.no(oid, oid) RETURNS boolean LANGUAGE sql AS 'SELECT false';
        CREATE OPERATOR evil.= (FUNCTION = evil.no, LEFTARG = oid, RIGHTARG = oid);
        CREATE TABLE evil.pg_class (oid oid, relkind \"char\");
        CREATE FUNCTION evil.bool_or(boolean) RETURNS boolean LANGUAGE sql AS 'SELECT false'";
    let mut stage = Stage::new(setup);
    let mut writer = stage.forebay.client();
    writer.run("SET search_path = evil, pg_catalog, public");
    for statement in ["BEGIN", "SELECT wr()", "COMMIT"] {
        writer.run(statement);
    }
    assert!(stage.b_is_kept());
    assert!(stage.a_is_fresh());
}

/// An audit sees what the catalogue as it was known did not foretell, and makes that fresh too.
#[test]
fn an_audit_reports_tables_that_nobody_foresaw() {
    for statements in
        [&["BEGIN", "INSERT INTO c VALUES (1)", "COMMIT"][..], &["INSERT INTO c VALUES (1)"]]
    {
        let mut stage = Stage::with_config("CREATE TABLE c (id int);", AUDIT);
        stage.forebay.overlooks = true;
        stage.database.direct().run(TRIGGER.split_once(';').unwrap().1);
        let mut writer = stage.forebay.client();
        for statement in statements {
            writer.run(statement);
        }
        assert_eq!(stage.counter("unforeseen"), 1);
        assert!(stage.forebay.log().contains(UNFORESEEN));
        assert!(stage.a_is_fresh());
        assert!(stage.b_is_kept());
    }
}

#[test]
fn an_audit_finds_nothing_where_all_was_foreseen() {
    let setup = format!(
        "{TRIGGER}; CREATE TABLE p (k int) PARTITION BY LIST (k);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
         CREATE TABLE parent (id int PRIMARY KEY);
         CREATE TABLE child (p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
         CREATE VIEW v AS SELECT id, v FROM a"
    );
    let stage = Stage::with_config(&setup, AUDIT);
    let mut writer = stage.forebay.client();
    let statements = [
        "INSERT INTO p VALUES (1)",
        "DELETE FROM p1",
        "INSERT INTO parent VALUES (1) ON CONFLICT DO NOTHING",
        "INSERT INTO child SELECT id FROM parent",
        "UPDATE parent SET id = id + 1",
        "DELETE FROM parent",
        "UPDATE v SET v = 3",
        "INSERT INTO c VALUES (1)",
        "WITH w AS (DELETE FROM c RETURNING id) INSERT INTO child SELECT NULL FROM w",
        "SELECT wr()",
    ];
    for write in statements {
        writer.run(write);
        for statement in ["BEGIN", write, "COMMIT"] {
            writer.run(statement);
        }
    }
    assert_eq!(stage.counter("unforeseen"), 0);
    assert!(stage.counter("asked") >= 20);
}

#[test]
fn an_audit_counts_what_was_made_fresh_and_not_written() {
    let stage = Stage::with_config("", AUDIT);
    let mut writer = stage.forebay.client();
    let counts = || ["asked_tables", "surplus"].map(|name| stage.counter(name));
    writer.run("UPDATE a SET v = v + 1");
    assert_eq!(counts(), [1, 0]);
    writer.run("UPDATE a SET v = v + 1 WHERE id = 9");
    assert_eq!(counts(), [2, 1]);
}

/// There is no transaction to ask about.
#[test]
fn an_audit_leaves_a_begin_that_is_kept_back_alone() {
    let stage = Stage::with_config("", AUDIT);
    let mut client = stage.forebay.client();
    for (statement, status) in
        [("BEGIN", 'T'), (READ_B, 'T'), ("COMMIT AND CHAIN", 'T'), ("COMMIT", 'I')]
    {
        let answer = client.query(statement);
        assert!(answer.ends_with(&format!("Z({status})")), "{statement}: {answer}");
    }
}

/// Who sends a statement and goes has it committed, as by PostgreSQL.
#[test]
fn a_statement_whose_client_goes_at_once_is_committed() {
    let mut stage = Stage::new("");
    let mut direct = stage.database.direct();
    let mut writer = stage.forebay.client();
    writer.send(&[query("UPDATE b SET v = 2"), message(b'X', &[])].concat());
    drop(writer);
    wait_until("the plain write is there", || direct.one("SELECT v FROM b") == "2");
    let mut writer = stage.forebay.client();
    writer.send(&[query("SELECT wr() FROM pg_sleep(0.2)"), message(b'X', &[])].concat());
    drop(writer);
    let read = "SELECT v FROM a WHERE id = 1";
    wait_until("the write is there", || direct.one(read) == "2");
    wait_until("the write is seen", || stage.reader.one(read) == "2");
    let mut writer = stage.forebay.client();
    let slow = parse("", "SELECT wr() FROM pg_sleep(0.2)", &[]);
    let group = [slow, bind("", "", &[]), execute("", 0), sync(), message(b'X', &[])];
    writer.send(&group.concat());
    drop(writer);
    wait_until("the write of a group is there", || direct.one(read) == "3");
    wait_until("the write of a group is seen", || stage.reader.one(read) == "3");
    let mut writer = stage.forebay.client();
    writer.run("BEGIN; SELECT wr()");
    writer.send(&[query("COMMIT"), message(b'X', &[])].concat());
    drop(writer);
    wait_until("the commit is there", || direct.one(read) == "4");
}
