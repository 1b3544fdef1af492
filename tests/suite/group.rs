//! Several Forebays that answer as one: what one of them writes no other answers from before, and
//! whatever is lost meanwhile costs hits.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, query};
use crate::support::redis::Redis;
use crate::support::wait_until;

const TABLES: &str = "CREATE TABLE t (v int); INSERT INTO t VALUES (1); \
     CREATE TABLE u (v int); INSERT INTO u VALUES (1)";
const READ: &str = "SELECT v FROM t";

/// Some members in front of one database.
struct Together {
    database: Database<'static>,
    redis: Redis,
    mode: &'static str,
    members: Vec<Forebay>,
    clients: Vec<RawClient>,
}

impl Together {
    fn start(count: usize) -> Self {
        Self::with(count, "strict")
    }

    fn with(count: usize, mode: &'static str) -> Self {
        let (database, redis) = (Database::with(TABLES), Redis::start());
        let (members, clients) = (Vec::new(), Vec::new());
        let mut members = Self { database, redis, mode, members, clients };
        for _ in 0..count {
            members.add();
        }
        members
    }

    fn add(&mut self) {
        let toml = format!(
            "[redis]\ntimeout = \"5s\"\n[group]\nname = \"g\"\nmode = \"{}\"\n\
             lease = \"600ms\"\ntimeout = \"2s\"\n",
            self.mode
        );
        let url = self.redis.url();
        let forebay = Forebay::with_config(&self.database, &toml, &["--redis", &url]);
        self.clients.push(forebay.client());
        self.members.push(forebay);
    }

    /// What SHOW GROUP says at one of them.
    fn shown(&self, member: usize, column: &str) -> String {
        self.members[member].console().column("SHOW GROUP", column)
    }

    fn until_hits(&mut self, sql: &str) {
        for client in &mut self.clients {
            self.database.until_hit(client, sql);
        }
    }

    /// All members say the same, which is this.
    fn all_read(&mut self, sql: &str, expected: &str) {
        for client in &mut self.clients {
            assert_eq!(client.one(sql), expected);
        }
    }
}

#[test]
fn one_alone_hits() {
    let mut one = Together::start(1);
    one.until_hits(READ);
    one.clients[0].run("UPDATE t SET v = 2");
    one.all_read(READ, "2");
    one.until_hits(READ);
}

#[test]
fn what_one_writes_every_other_sees() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    for value in 2..100 {
        two.clients[value % 2].run(&format!("UPDATE t SET v = {value}"));
        two.all_read(READ, &value.to_string());
    }
    two.until_hits(READ);
}

#[test]
fn a_write_to_one_table_leaves_the_answers_of_another() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    two.clients[1].run("UPDATE u SET v = 2");
    assert!(two.database.is_hit(&mut two.clients[0], READ));
}

#[test]
fn a_change_of_the_catalogue_is_known_to_all() {
    let mut two = Together::start(2);
    two.clients[0].run("CREATE VIEW w AS SELECT v FROM t");
    two.until_hits("SELECT v FROM w");
    two.clients[0].run("CREATE OR REPLACE VIEW w AS SELECT v FROM u");
    two.clients[0].run("UPDATE u SET v = 7");
    two.all_read("SELECT v FROM w", "7");
    two.until_hits("SELECT v FROM w");
    two.clients[0].run("UPDATE u SET v = 8");
    two.all_read("SELECT v FROM w", "8");
    // What a statement writes is judged under the new catalogue, too.
    two.until_hits(READ);
    two.clients[0].run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN UPDATE t SET v = 9; RETURN NEW; END'",
    );
    two.clients[0].run("CREATE TRIGGER x AFTER UPDATE ON u FOR EACH ROW EXECUTE FUNCTION f()");
    two.clients[1].run("UPDATE u SET v = 10");
    two.all_read(READ, "9");
}

#[test]
fn one_that_is_killed_leaves_the_others_to_hit() {
    let mut three = Together::start(3);
    three.until_hits(READ);
    three.clients.pop();
    drop(three.members.pop());
    three.until_hits(READ);
    three.clients[0].run("UPDATE t SET v = 2");
    three.all_read(READ, "2");
    three.until_hits(READ);
    three.add();
    three.until_hits(READ);
}

#[test]
fn a_redis_that_forgets_or_goes_costs_hits_alone() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    two.redis.flush();
    two.clients[0].run("UPDATE t SET v = 2");
    two.all_read(READ, "2");
    two.until_hits(READ);
    two.redis.stop();
    two.clients[1].run("UPDATE t SET v = 3");
    two.all_read(READ, "3");
    two.redis.resume_from_stop();
    wait_until("the group is back", || two.database.is_hit(&mut two.clients[0], READ));
    two.clients[0].run("UPDATE t SET v = 4");
    two.all_read(READ, "4");
}

#[test]
fn without_asking_before_each_hit_nothing_old_is_seen_either() {
    let mut two = Together::with(2, "strict-local");
    two.until_hits(READ);
    for value in 2..8 {
        two.clients[value % 2].run(&format!("UPDATE t SET v = {value}"));
        two.all_read(READ, &value.to_string());
    }
    two.until_hits(READ);
    assert_eq!(two.shown(0, "asks"), "nobody");
}

#[test]
fn the_console_tells_how_the_group_stands() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    two.clients[0].run("UPDATE t SET v = 2");
    assert_eq!(two.shown(0, "state"), "open");
    wait_until("both are known", || two.shown(1, "members") == "2");
    assert_eq!(two.shown(0, "act"), two.shown(1, "act"));
    assert_ne!(two.shown(0, "member"), two.shown(1, "member"));
    assert_ne!(two.shown(0, "begins"), "0");
    assert_ne!(two.shown(1, "checks"), "0");
    two.redis.stop();
    wait_until("it is out", || two.shown(0, "state") == "out");
    assert_ne!(two.shown(0, "failure"), "");
    two.clients[0].one(READ);
    let reasons = two.members[0].console().rows("SHOW CACHE_REASONS");
    assert!(reasons.iter().any(|row| row[0].as_deref() == Some("group_shut")), "{reasons:?}");
}

#[test]
fn a_client_that_discards_all_is_no_danger_to_others() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    for value in 2..6 {
        two.clients[0].run("DISCARD ALL");
        two.clients[0].run(&format!("UPDATE t SET v = {value}"));
        two.all_read(READ, &value.to_string());
    }
    let locks =
        "SELECT count(*) > 1 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'";
    assert_eq!(two.database.direct().one(locks), "t");
}

#[test]
fn a_client_that_goes_while_its_commit_waits_for_the_group_holds_up_nobody() {
    let (database, redis) = (Database::with(TABLES), Redis::start());
    let toml = "[listen]\nworkers = 1\n\
         [group]\nname = \"g\"\nlease = \"600ms\"\ntimeout = \"2s\"\n";
    let forebay = Forebay::with_config(&database, toml, &["--redis", &redis.url()]);
    let (mut writer, mut other) = (forebay.client(), forebay.client());
    database.until_hit(&mut other, READ);
    redis.pause();
    writer.send(&query("UPDATE t SET v = 2"));
    drop(writer);
    assert_eq!(other.one("SELECT v FROM u"), "1");
    redis.resume();
    wait_until("it is committed", || database.direct().one(READ) == "2");
}
