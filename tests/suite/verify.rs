//! Hits compared with what PostgreSQL answers instead: what counts as a difference, what does not,
//! and what is told of one. Entries are made wrong by writes that do not pass through Forebay.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, bind, describe_portal, execute, parse, sync};
use crate::support::redis::Redis;
use crate::support::wait_until;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                     INSERT INTO t VALUES (1, 'one'), (2, 'two')";
const READ: &str = "SELECT v FROM t WHERE v <> 'hidden' ORDER BY id";
const VERIFY: &str = "[cache]\nmode = \"verify\"\ncatalog_poll = \"1h\"\n";

/// Of `SHOW CACHE`: the same, other order, incomparable, differences.
fn compared(console: &mut RawClient) -> [u64; 4] {
    ["verified", "other_order", "incomparable", "differences"]
        .map(|name| console.column("SHOW CACHE", name).parse().unwrap())
}

struct Stage {
    database: Database<'static>,
    forebay: Forebay,
    client: RawClient,
    console: RawClient,
}

impl Stage {
    fn new(sql: &str, toml: &str) -> Self {
        let database = Database::with(sql);
        let forebay = Forebay::with_config(&database, toml, &[]);
        let (client, console) = (forebay.client(), forebay.console());
        Self { database, forebay, client, console }
    }

    /// Repeats it until there is an entry that it is compared with.
    fn until_verified(&mut self, sql: &str) {
        let [before, ..] = compared(&mut self.console);
        wait_until(&format!("{sql} is compared"), || {
            self.client.run(sql);
            compared(&mut self.console)[0] > before
        });
    }

    /// The count of this kind moves by one when `sql` is run, and no other.
    fn moves(&mut self, place: usize, sql: &str) {
        let mut expected = compared(&mut self.console);
        expected[place] += 1;
        self.client.run(sql);
        assert_eq!(compared(&mut self.console), expected, "{sql}");
    }

    fn reported(&mut self, column: &str) -> String {
        self.console.column("SHOW CACHE_DIFFERENCES", column)
    }
}

const SAME: usize = 0;
const OTHER_ORDER: usize = 1;
const INCOMPARABLE: usize = 2;
const DIFFERENT: usize = 3;

#[test]
fn in_verify_mode_postgres_answers_and_is_compared_in_every_way_of_asking() {
    let mut stage = Stage::new(TABLE, VERIFY);
    stage.until_verified(READ);
    let before = stage.database.seen(READ);
    stage.moves(SAME, READ);
    let extended = |client: &mut RawClient| {
        client.ask(&[
            parse("", READ, &[]),
            bind("", "", &[]),
            describe_portal(""),
            execute("", 0),
            sync(),
        ])
    };
    assert_eq!(extended(&mut stage.client), "1 2 T(v) D(one) D(two) C(SELECT 2) Z(I)");
    assert_eq!(compared(&mut stage.console)[SAME], 3);
    stage.client.run("BEGIN");
    stage.moves(SAME, READ);
    stage.client.run("UPDATE t SET v = 'three' WHERE id = 2");
    stage.client.run(READ);
    stage.client.run("COMMIT");
    stage.client.run(READ);
    stage.moves(SAME, READ);
    assert_eq!(compared(&mut stage.console), [5, 0, 0, 0]);
    assert_eq!(stage.database.seen(READ), before + 6);
    assert_eq!(stage.console.column("SHOW CACHE", "hits"), "0");
}

#[test]
fn an_entry_made_wrong_behind_our_back_is_reported_with_what_reproduces_it() {
    let mut stage = Stage::new(TABLE, &format!("{VERIFY}verify_values = true\n"));
    let sql = "SELECT v FROM t WHERE id = $1";
    let ask = |client: &mut RawClient| client.one_extended(sql, &[Some("2")]);
    wait_until("it is compared", || {
        ask(&mut stage.client);
        compared(&mut stage.console)[SAME] > 0
    });
    stage.client.run("SET timezone = 'Asia/Tokyo'");
    for _ in 0..2 {
        ask(&mut stage.client);
    }
    let before = compared(&mut stage.console);
    stage.database.admin().run("UPDATE t SET v = 'twice' WHERE id = 2");
    assert_eq!(ask(&mut stage.client), "twice");
    assert_eq!(compared(&mut stage.console)[DIFFERENT], before[DIFFERENT] + 1);
    let columns =
        ["kind", "database", "user", "first_byte", "bytes_kept", "bytes_now", "statement"];
    let shown = columns.map(|column| stage.reported(column));
    let name = stage.database.name.as_str();
    // A row of one column is 11 bytes and its value, its length at the fourth; the tag follows.
    assert_eq!(shown, ["rows", name, "app", "4", "28", "30", sql]);
    assert_eq!(stage.reported("parameters"), "'2'; types ; formats []; result formats []");
    assert_eq!(stage.reported("settings"), "timezone = 'Asia/Tokyo'");
    let tables = stage.reported("tables");
    assert!(tables.contains("(database)@") && tables.contains("t@"), "{tables}");
    assert!(stage.reported("kept").contains("two"));
    assert!(stage.reported("now").contains("twice"));
    assert!(stage.reported("age_ms").parse::<u64>().is_ok());
    stage.forebay.log_contains("a hit would have differed from what PostgreSQL answered");
    // What was kept of the table is forgotten: no more is said of it.
    for _ in 0..3 {
        assert_eq!(ask(&mut stage.client), "twice");
    }
    assert_eq!(compared(&mut stage.console)[DIFFERENT], before[DIFFERENT] + 1);
    assert_eq!(stage.console.rows("SHOW CACHE_DIFFERENCES").len(), 1);
}

#[test]
fn a_report_hides_values_unless_they_are_asked_for() {
    let mut stage = Stage::new(TABLE, VERIFY);
    stage.until_verified(READ);
    stage.database.admin().run("UPDATE t SET v = 'secret' WHERE id = 2");
    stage.moves(DIFFERENT, READ);
    assert_eq!(stage.reported("statement"), "SELECT v FROM t WHERE v <> $1 ORDER BY id");
    let rows = stage.console.rows("SHOW CACHE_DIFFERENCES");
    assert_eq!(rows[0][12..], [None, None, None]);
    let log = stage.forebay.log();
    let line = log.lines().find(|line| line.contains("would have differed")).unwrap();
    assert!(!line.contains("hidden") && !line.contains("secret"), "{line}");
}

#[test]
fn who_may_only_look_is_not_shown_the_values_of_a_report() {
    let verify = format!("{VERIFY}verify_values = true\n");
    let mut stage = Stage::new(TABLE, &verify);
    stage.until_verified(READ);
    stage.database.admin().run("UPDATE t SET v = 'secret' WHERE id = 2");
    stage.moves(DIFFERENT, READ);
    assert_eq!(stage.reported("statement"), READ);
    assert!(stage.reported("now").contains("secret"));
    let look = "[admin]\nadmin_users = [\"root\"]\nstats_users = [\"app\"]\n";
    stage.forebay.reload(&format!("{verify}{look}"));
    stage.console = stage.forebay.console();
    assert_eq!(stage.reported("statement"), "SELECT v FROM t WHERE v <> $1 ORDER BY id");
    assert_eq!(stage.console.rows("SHOW CACHE_DIFFERENCES")[0][12..], [None, None, None]);
}

#[test]
fn what_applications_keep_in_settings_is_a_value_like_any_other() {
    let mut stage = Stage::new(TABLE, VERIFY);
    stage.client.run("SET app.encryption_key = 'hunter2'");
    stage.client.run("SET timezone = 'Asia/Tokyo'");
    stage.until_verified(READ);
    stage.database.admin().run("UPDATE t SET v = 'x' WHERE id = 2");
    stage.moves(DIFFERENT, READ);
    let hidden = "app.encryption_key = \u{2026}, timezone = 'Asia/Tokyo'";
    assert_eq!(stage.reported("settings"), hidden);
    let log = stage.forebay.log();
    let line = log.lines().find(|line| line.contains("would have differed")).unwrap();
    assert!(line.contains(hidden) && !log.contains("hunter2"), "{line}");
    // Where they may be shown, not to who may only look.
    let verify = format!("{VERIFY}verify_values = true\n");
    stage.forebay.reload(&verify);
    stage.until_verified(READ);
    stage.database.admin().run("UPDATE t SET v = 'y' WHERE id = 2");
    stage.moves(DIFFERENT, READ);
    let shown = "app.encryption_key = 'hunter2', timezone = 'Asia/Tokyo'";
    assert_eq!(stage.reported("settings"), shown);
    let look = "[admin]\nadmin_users = [\"root\"]\nstats_users = [\"app\"]\n";
    stage.forebay.reload(&format!("{verify}{look}"));
    stage.console = stage.forebay.console();
    assert_eq!(stage.reported("settings"), hidden);
}

#[test]
fn rows_in_another_order_differ_only_where_the_statement_fixes_one() {
    let mut stage = Stage::new(TABLE, VERIFY);
    let (free, fixed) = ("SELECT v FROM t", "SELECT v FROM t ORDER BY length(v)");
    stage.until_verified(free);
    stage.until_verified(fixed);
    // The row moves to the end of the table.
    stage.database.admin().run("UPDATE t SET v = v WHERE id = 1");
    stage.moves(OTHER_ORDER, free);
    // Ties may move, but nothing here can tell them from others.
    stage.moves(DIFFERENT, fixed);
    assert_eq!(stage.reported("kind"), "ordered");
}

#[test]
fn another_description_is_a_difference_though_the_rows_are_equal() {
    let mut stage = Stage::new(TABLE, VERIFY);
    stage.until_verified(READ);
    stage.database.admin().run("ALTER TABLE t ALTER v TYPE varchar(10)");
    stage.moves(DIFFERENT, READ);
    assert_eq!(stage.reported("kind"), "description");
}

#[test]
fn an_entry_from_redis_is_compared_like_one_from_memory() {
    let redis = Redis::start();
    // Memory holds no answer as long as this one, so every entry comes from Redis.
    let toml =
        format!("{VERIFY}size = \"1MB\"\n[redis]\ntimeout = \"5s\"\nurl = \"{}\"\n", redis.url());
    let mut stage = Stage::new(TABLE, &toml);
    let long = "SELECT repeat(v, 345000) FROM t WHERE id = 2";
    stage.until_verified(long);
    stage.database.admin().run("UPDATE t SET v = 'six' WHERE id = 2");
    stage.moves(DIFFERENT, long);
    assert_eq!(stage.console.column("SHOW CACHE", "hits_redis"), "0");
    assert_ne!(stage.console.column("SHOW CACHE", "redis_look_ups"), "0");
}

#[test]
fn what_postgres_refuses_is_a_difference_and_what_ran_out_of_time_is_none() {
    let mut stage = Stage::new(TABLE, VERIFY);
    let sql = "SELECT 10 / id FROM t ORDER BY id";
    stage.until_verified(sql);
    stage.until_verified(READ);
    stage.client.run("SET statement_timeout = '300ms'");
    let mut admin = stage.database.admin();
    admin.run("BEGIN; LOCK TABLE t");
    let [.., incomparable, _] = compared(&mut stage.console);
    assert!(stage.client.query(READ).contains("57014"));
    assert_eq!(compared(&mut stage.console)[INCOMPARABLE], incomparable + 1);
    admin.run("UPDATE t SET id = 0 WHERE id = 1; COMMIT");
    stage.client.run("RESET statement_timeout");
    assert!(stage.client.query(sql).contains("22012"));
    assert_eq!(compared(&mut stage.console)[DIFFERENT], 1);
    assert_eq!(stage.reported("kind"), "error 22012");
    assert_eq!(stage.reported("first_byte"), "NULL");
}

#[test]
fn an_answer_that_a_write_overtook_is_compared_with_nothing() {
    let mut stage = Stage::new(TABLE, VERIFY);
    stage.until_verified(READ);
    let before = compared(&mut stage.console);
    let mut admin = stage.database.admin();
    admin.run("BEGIN; LOCK TABLE t; UPDATE t SET v = 'later'");
    stage.client.send(&crate::support::raw::query(READ));
    wait_until("the read waits for its lock", || {
        stage
            .database
            .admin()
            .one("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass")
            == "1"
    });
    stage.console.run("FLUSH CACHE TABLE t");
    admin.run("COMMIT");
    assert_eq!(stage.client.replies(), "T(v) D(later) D(later) C(SELECT 2) Z(I)");
    let expected = [before[0], before[1], before[2] + 1, before[3]];
    assert_eq!(compared(&mut stage.console), expected);
}

#[test]
fn a_sample_of_hits_is_compared_while_the_others_are_served() {
    let toml = |sample| format!("[cache]\nverify_sample = {sample}\ncatalog_poll = \"1h\"\n");
    let mut stage = Stage::new(TABLE, &toml(0));
    stage.database.until_hit(&mut stage.client, READ);
    assert_eq!(compared(&mut stage.console), [0; 4]);
    stage.database.admin().run("UPDATE t SET v = 'behind' WHERE id = 1");
    assert_eq!(stage.client.one(READ), "one");
    stage.forebay.reload(&toml(10_000));
    assert_eq!(stage.client.one(READ), "behind");
    assert_eq!(compared(&mut stage.console), [0, 0, 0, 1]);
    stage.forebay.reload(&toml(5000));
    stage.client.run(READ);
    let hits =
        |console: &mut RawClient| -> u64 { console.column("SHOW CACHE", "hits").parse().unwrap() };
    let before = hits(&mut stage.console);
    for _ in 0..100 {
        assert_eq!(stage.client.one(READ), "behind");
    }
    let (served, [same, ..]) = (hits(&mut stage.console) - before, compared(&mut stage.console));
    assert_eq!(served + same, 100);
    assert!(served.min(same) > 20, "{served} served, {same} compared");
}
