//! Several Forebays that answer as one: what one of them writes no other answers from before, and
//! whatever is lost meanwhile costs hits.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::RawClient;
use crate::support::redis::Redis;
use crate::support::wait_until;

const TABLES: &str = "CREATE TABLE t (v int); INSERT INTO t VALUES (1); \
     CREATE TABLE u (v int); INSERT INTO u VALUES (1)";
const READ: &str = "SELECT v FROM t";

/// Some members in front of one database.
struct Together {
    database: Database<'static>,
    redis: Redis,
    members: Vec<Forebay>,
    clients: Vec<RawClient>,
}

impl Together {
    fn start(count: usize) -> Self {
        let (database, redis) = (Database::with(TABLES), Redis::start());
        let mut members = Self { database, redis, members: Vec::new(), clients: Vec::new() };
        for _ in 0..count {
            members.add();
        }
        members
    }

    fn add(&mut self) {
        let toml = "[redis]\ntimeout = \"5s\"\n\
             [group]\nname = \"g\"\nlease = \"600ms\"\ntimeout = \"2s\"\n";
        let url = self.redis.url();
        let forebay = Forebay::with_config(&self.database, toml, &["--redis", &url]);
        self.clients.push(forebay.client());
        self.members.push(forebay);
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
