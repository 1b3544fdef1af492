//! What one of a group has been answered all of it answer, from the Redis that they have in common,
//! and nobody whom it is not for.

use crate::group_link::cluster;
use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::RawClient;
use crate::support::redis::{RIGHTS_OF_GROUP, Redis};
use crate::support::sentinel::Sentinel;
use crate::support::wait_until;

const TABLES: &str = "CREATE TABLE t (v int); INSERT INTO t VALUES (1); \
     CREATE TABLE u (v int); INSERT INTO u VALUES (1)";
const READ: &str = "SELECT v FROM t";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

struct Member {
    forebay: Forebay,
    client: RawClient,
    console: RawClient,
}

struct World {
    database: Database<'static>,
    redis: Redis,
    /// How that is reached.
    url: String,
    members: Vec<Member>,
    lease: &'static str,
}

impl World {
    /// Members with these secrets, who answer.
    fn new(sql: &str, secrets: &[&str]) -> Self {
        Self::in_front_of(Database::with(sql), secrets)
    }

    fn in_front_of(database: Database<'static>, secrets: &[&str]) -> Self {
        let redis = Redis::start();
        let url = redis.url();
        Self::over(database, redis, url, secrets)
    }

    fn over(database: Database<'static>, redis: Redis, url: String, secrets: &[&str]) -> Self {
        let mut world = Self { database, redis, url, members: Vec::new(), lease: "1500ms" };
        for secret in secrets {
            world.add(secret);
        }
        world
    }

    fn add(&mut self, secret: &str) {
        self.add_with(secret, "");
    }

    /// One with these settings of its cache.
    fn add_with(&mut self, secret: &str, cache: &str) {
        let lease = self.lease;
        let toml = format!(
            "[cache]\n{cache}\n[redis]\ntimeout = \"5s\"\nbreaker_reset = \"50ms\"\n[group]\nname = \"g\"\n\
             secret = \"{secret}\"\nlease = \"{lease}\"\ntimeout = \"2s\"\n"
        );
        let forebay = Forebay::with_config(&self.database, &toml, &["--redis", &self.url]);
        let (client, console) = (forebay.client(), forebay.console());
        self.members.push(Member { forebay, client, console });
        let at = self.members.len() - 1;
        // Of a statement that nobody else has.
        let own = format!("SELECT v, {at} FROM u");
        self.database.until_hit(&mut self.members[at].client, &own);
        wait_until("its Redis is up", || self.shown(at, "redis") == "up");
    }

    fn stop(&mut self, at: usize) {
        let Member { forebay, .. } = self.members.remove(at);
        forebay.daemon.signal("INT");
        wait_until("it has stopped", || !forebay.daemon.runs());
        assert!(forebay.log().contains("reason=it stops\n"), "{}", forebay.log());
    }

    fn shown(&mut self, at: usize, column: &str) -> String {
        self.members[at].console.column("SHOW CACHE", column)
    }

    fn count(&mut self, at: usize, column: &str) -> usize {
        self.shown(at, column).parse().unwrap()
    }

    fn client(&mut self, at: usize) -> &mut RawClient {
        &mut self.members[at].client
    }

    /// One reads until it is answered here, and the answer lies in Redis.
    fn fill(&mut self, at: usize, sql: &str) {
        self.database.until_hit(&mut self.members[at].client, sql);
        wait_until("every answer kept was stored or dropped", || {
            let settled = self.count(at, "redis_stores") + self.count(at, "redis_dropped");
            settled == self.count(at, "fills")
        });
    }

    /// Reads; whether that was answered from Redis.
    fn is_from_redis(&mut self, at: usize, sql: &str, expected: &str) -> bool {
        let before = (self.count(at, "hits_redis"), self.database.seen(sql));
        assert_eq!(self.client(at).one(sql), expected, "{sql}");
        let (from_redis, asked) = (self.count(at, "hits_redis"), self.database.seen(sql));
        let is = from_redis > before.0;
        assert_eq!(asked > before.1, !is, "{sql}: neither from Redis nor from PostgreSQL");
        is
    }

    /// Runs Lua for the key `k` and value `v` of every answer in Redis.
    fn for_every_answer(&self, lua: &str) -> usize {
        self.redis.number(&format!(
            "local keys = redis.call('KEYS', 'fb:*:v:*') \
             for _, k in ipairs(keys) do local v = redis.call('GET', k) {lua} end return #keys"
        ))
    }
}

#[test]
fn what_one_has_been_answered_another_answers_from_redis() {
    let mut two = World::new(TABLES, &[SECRET, SECRET]);
    two.fill(0, READ);
    assert!(two.is_from_redis(1, READ, "1"));
    assert_eq!((two.count(0, "redis_forged"), two.count(1, "redis_forged")), (0, 0));
    assert!(!two.members[0].forebay.log().contains("not shared"));
    assert!(!two.members[0].forebay.log().contains(SECRET), "the secret is in the log");
}

#[test]
fn answers_lie_where_sentinels_say() {
    let redis = Redis::start();
    let sentinel = Sentinel::start(&redis, "main", "");
    let url = format!("redis+sentinel://127.0.0.1:{}/0?master=main", sentinel.port);
    let mut two = World::over(Database::with(TABLES), redis, url, &[SECRET, SECRET]);
    two.fill(0, READ);
    assert!(two.is_from_redis(1, READ, "1"));
    assert!(two.redis.keys("fb:*:v:") > 0);
}

#[test]
fn in_a_cluster_answers_lie_where_k_lies() {
    // One of the two has to name the other.
    for node in &cluster() {
        let (database, none) = (Database::with(TABLES), Redis::missing());
        let mut two = World::over(database, none, node.url(), &[SECRET, SECRET]);
        two.fill(0, READ);
        assert!(two.is_from_redis(1, READ, "1"));
        assert_eq!((two.count(0, "redis_errors"), two.count(1, "redis_errors")), (0, 0));
    }
}

#[test]
fn in_a_cluster_those_without_a_secret_keep_their_own_where_k_lies() {
    for node in &cluster() {
        let (database, none) = (Database::with(TABLES), Redis::missing());
        let mut one = World::over(database, none, node.url(), &[]);
        one.add_with("", "size = \"1MB\"");
        // Longer than memory has room for, and enough of them to be spread over all nodes.
        for number in 0..8 {
            let sql = format!("SELECT repeat(v::text, 1035000), {number} FROM t");
            wait_until("Redis answers", || {
                let before = (one.count(0, "hits_redis"), one.database.seen(&sql));
                one.client(0).run(&sql);
                (one.count(0, "hits_redis"), one.database.seen(&sql)) == (before.0 + 1, before.1)
            });
        }
        assert_eq!((one.count(0, "redis_errors"), one.shown(0, "redis")), (0, "up".to_owned()));
    }
}

#[test]
fn an_answer_too_long_for_another_member_is_a_miss_there_and_no_forgery() {
    let mut two = World::new(
        "CREATE TABLE t (v text); \
         INSERT INTO t SELECT string_agg(md5(i::text), '') FROM generate_series(1, 9000) i; \
         CREATE TABLE u (v int); INSERT INTO u VALUES (1)",
        &[SECRET],
    );
    two.add_with(SECRET, "max_entry_size = \"1kB\"");
    let (random, alike) = (READ, "SELECT repeat(left(v, 1), 300000) FROM t");
    for sql in [random, alike] {
        two.fill(0, sql);
        let expected = two.client(0).one(sql);
        let misses = two.count(1, "redis_misses");
        assert!(!two.is_from_redis(1, sql, &expected));
        let counted = (two.count(1, "redis_misses"), two.count(1, "redis_forged"));
        assert_eq!(counted, (misses + 1, 0), "{}", expected.len());
    }
}

#[test]
fn after_a_write_by_either_it_is_not() {
    let mut two = World::new(TABLES, &[SECRET, SECRET]);
    for value in 2..20 {
        let (writer, reader) = (value % 2, 1 - value % 2);
        let old = (value - 1).to_string();
        two.fill(reader, READ);
        assert_eq!(two.client(writer).one(READ), old);
        two.client(writer).run(&format!("UPDATE t SET v = {value}"));
        for at in [writer, reader] {
            assert_eq!(two.client(at).one(READ), value.to_string());
        }
    }
    assert_eq!((two.count(0, "redis_forged"), two.count(1, "redis_forged")), (0, 0));
}

#[test]
fn what_one_fills_after_a_write_the_other_answers_though_it_has_the_old_answer() {
    let mut two = World::new(TABLES, &[SECRET, SECRET]);
    two.fill(0, READ);
    assert!(two.is_from_redis(1, READ, "1"));
    two.client(0).run("UPDATE t SET v = 2");
    two.fill(0, READ);
    assert!(two.is_from_redis(1, READ, "2"));
}

#[test]
fn one_of_two_that_is_started_again_answers_from_redis_at_once() {
    let mut two = World::new(TABLES, &[SECRET, SECRET]);
    two.fill(0, READ);
    two.stop(0);
    two.add(SECRET);
    assert!(two.is_from_redis(1, READ, "1"));
}

/// One alone, who need not ask, and is started again in time on any machine.
fn one_alone(sql: &str) -> World {
    let mut world = World::new(sql, &[]);
    world.lease = "5s";
    world.add(SECRET);
    world.fill(0, READ);
    wait_until("it need not ask", || {
        world.redis.number(&of_k("return redis.call('HEXISTS', k, 'g:' .. ids)")) == 1
    });
    world
}

/// Who is alone may hit for a lease without asking, and nobody takes its place before that is over,
/// unless it has said that it stops.
#[test]
fn what_one_alone_agreed_on_outlives_it_if_another_is_there_in_time() {
    let mut world = one_alone(TABLES);
    let act = world.redis.number(&of_k("return tonumber(string.sub(act, 1, 8), 16)"));
    world.stop(0);
    assert_eq!(world.redis.number(&of_k("return redis.call('HEXISTS', k, 'g:' .. ids)")), 0);
    world.add(SECRET);
    assert!(world.is_from_redis(0, READ, "1"));
    let count = of_k("return select(2, string.gsub(ids, '%d+', ''))");
    wait_until("the one before is dropped", || world.redis.number(&count) == 1);
    assert_eq!(world.redis.number(&of_k("return tonumber(string.sub(act, 1, 8), 16)")), act);
}

/// Nobody was there to find out, or to be told.
#[test]
fn what_ddl_has_changed_between_two_members_is_not_answered_as_it_was() {
    let view = "CREATE TABLE u (v int); INSERT INTO u VALUES (1); CREATE VIEW t AS SELECT v FROM u";
    let mut world = one_alone(view);
    world.stop(0);
    world.database.direct().run("CREATE OR REPLACE VIEW t AS SELECT v + 1 AS v FROM u");
    world.add(SECRET);
    assert!(!world.is_from_redis(0, READ, "2"));
}

/// Lua that looks at what the group has agreed on.
fn of_k(lua: &str) -> String {
    format!(
        "local k = redis.call('KEYS', 'fb:{{g:*}}')[1] local act = redis.call('HGET', k, 'act') \
         local ids = redis.call('HGET', k, 'ids') {lua}"
    )
}

#[test]
fn with_another_secret_or_none_nothing_is_shared_and_nothing_is_wrong() {
    let mut three = World::new(TABLES, &[SECRET, "fedcba9876543210fedcba9876543210", ""]);
    assert!(three.members[2].forebay.log().contains("group.secret is empty"));
    for value in 2..8 {
        for at in 0..3 {
            three.fill(at, READ);
        }
        three.client(value % 3).run(&format!("UPDATE t SET v = {value}"));
        for at in 0..3 {
            assert_eq!(three.client(at).one(READ), value.to_string());
        }
    }
    for at in 0..3 {
        assert_eq!((three.count(at, "hits_redis"), three.count(at, "redis_forged")), (0, 0));
    }
}

#[test]
fn sessions_that_are_not_alike_share_nothing_and_those_that_are_do() {
    let mut two = World::new(
        "CREATE SCHEMA a; CREATE TABLE a.t (v int); INSERT INTO a.t VALUES (1); \
         CREATE SCHEMA b; CREATE TABLE b.t (v int); INSERT INTO b.t VALUES (2); \
         CREATE TABLE u (v int); INSERT INTO u VALUES (1)",
        &[SECRET, SECRET],
    );
    two.client(0).run("SET search_path = a");
    two.fill(0, READ);
    two.client(1).run("SET search_path = b");
    assert!(!two.is_from_redis(1, READ, "2"));
    two.client(1).run("SET search_path = a");
    assert!(two.is_from_redis(1, READ, "1"));
    // What changes no answer makes no difference.
    two.client(0).run("SET application_name = 'x'");
    two.fill(0, "SELECT v, 7 FROM t");
    assert!(two.is_from_redis(1, "SELECT v, 7 FROM t", "1"));
    // What may change one does.
    two.client(0).run("SET datestyle = 'German'");
    two.fill(0, "SELECT v, 8 FROM t");
    assert!(!two.is_from_redis(1, "SELECT v, 8 FROM t", "1"));
}

#[test]
fn roles_share_nothing() {
    let database = Database::apart(TABLES);
    let role = |number: u8| format!("{}_{number}", database.name);
    let (ann, bob) = (role(1), role(2));
    let mut admin = database.admin();
    for name in [&ann, &bob] {
        admin.run(&format!("CREATE ROLE {name}"));
        admin.run(&format!("GRANT {name} TO {}", crate::support::postgres::USER));
        admin.run(&format!("GRANT SELECT ON t TO {name}"));
    }
    admin.run("ALTER TABLE t ADD COLUMN owner name");
    admin.run(&format!("UPDATE t SET owner = '{ann}'; INSERT INTO t VALUES (2, '{bob}')"));
    admin.run("ALTER TABLE t ENABLE ROW LEVEL SECURITY");
    admin.run("CREATE POLICY p ON t USING (owner = current_user)");
    let mut two = World::in_front_of(database, &[SECRET, SECRET]);
    two.client(0).run(&format!("SET ROLE {ann}"));
    two.fill(0, READ);
    two.client(1).run(&format!("SET ROLE {bob}"));
    assert!(!two.is_from_redis(1, READ, "2"));
    two.client(1).run(&format!("SET ROLE {ann}"));
    assert!(two.is_from_redis(1, READ, "1"));
}

#[test]
fn a_value_that_is_not_what_was_stored_is_ignored_and_counted() {
    let mut two = World::new(TABLES, &[SECRET, SECRET]);
    let flip = |place: &str| {
        format!(
            "local i = {place} local c = string.char(bit.bxor(v:byte(i), 1)) \
             redis.call('SET', k, v:sub(1, i - 1) .. c .. v:sub(i + 1))"
        )
    };
    for (number, change) in [
        flip("1"),
        flip("7"),
        flip("25"),
        flip("#v"),
        "redis.call('SET', k, v:sub(1, #v - 1))".to_owned(),
        "redis.call('SET', k, v .. 'x')".to_owned(),
        "redis.call('SET', k, 'x')".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let sql = format!("SELECT v, 'spoilt', {number} FROM t");
        two.fill(0, &sql);
        let forged = two.count(1, "redis_forged");
        assert!(two.for_every_answer(change) > 0);
        assert!(!two.is_from_redis(1, &sql, "1"), "{change}");
        assert_eq!(two.count(1, "redis_forged"), forged + 1, "{change}");
        // It has taken its place.
        two.for_every_answer("redis.call('DEL', k)");
    }
}

#[test]
fn a_value_in_the_place_of_another_is_ignored_and_counted() {
    let mut two = World::new(TABLES, &[SECRET, SECRET]);
    let (one, other) = ("SELECT v, 1 FROM t", "SELECT v + 1, 2 FROM t");
    two.for_every_answer("redis.call('DEL', k)");
    two.fill(0, one);
    two.fill(0, other);
    let swap = "local o = keys[3 - _] local w = redis.call('GET', o) \
         if _ == 1 then redis.call('SET', o, v) redis.call('SET', k, w) end";
    assert_eq!(two.for_every_answer(swap), 2);
    assert!(!two.is_from_redis(1, one, "1"));
    assert!(!two.is_from_redis(1, other, "2"));
    assert_eq!(two.count(1, "redis_forged"), 2);
}

#[test]
fn a_value_of_before_a_write_that_is_put_back_is_ignored_and_counted() {
    let mut two = World::new(TABLES, &[SECRET, SECRET]);
    two.fill(0, READ);
    two.for_every_answer("redis.call('SET', 'kept:' .. k, v)");
    two.client(0).run("UPDATE t SET v = 2");
    two.fill(0, READ);
    assert!(two.for_every_answer("redis.call('SET', k, redis.call('GET', 'kept:' .. k) or v)") > 0);
    let misses = two.count(1, "redis_misses");
    assert!(!two.is_from_redis(1, READ, "2"));
    assert_eq!((two.count(1, "redis_misses"), two.count(1, "redis_forged")), (misses + 1, 0));
}

#[test]
fn an_answer_of_another_is_as_old_as_it_was_there() {
    let mut two = World::new(TABLES, &[SECRET, SECRET]);
    two.fill(0, READ);
    two.fill(0, "SELECT v, 2 FROM t");
    let young = "/* forebay:max_age=1ms */ SELECT v FROM t";
    assert!(!two.is_from_redis(1, young, "1"));
    assert!(two.is_from_redis(1, "/* forebay:max_age=50s */ SELECT v, 2 FROM t", "1"));
}

#[test]
fn a_flush_by_one_is_a_flush_of_all_and_of_what_lies_in_redis() {
    let mut two = World::new(TABLES, &[SECRET, SECRET]);
    for (flush, other) in [
        ("FLUSH CACHE", 1),
        ("FLUSH CACHE ROLE nobody", 1),
        ("FLUSH CACHE TABLE t", 1),
        ("FLUSH CACHE", 0),
    ] {
        two.fill(0, READ);
        two.database.until_hit(&mut two.members[1].client, READ);
        two.members[0].console.run(flush);
        two.database.direct().run("UPDATE t SET v = v + 1");
        let now = two.database.direct().one(READ);
        wait_until(&format!("{flush} is known to all"), || two.client(other).one(READ) == now);
        assert_eq!(two.client(0).one(READ), now);
        // Roles go on to share.
        two.fill(0, READ);
        two.client(1).run("UPDATE u SET v = v + 1");
    }
    let fresh = "SELECT v, 'fresh' FROM u";
    two.fill(0, fresh);
    let value = two.database.direct().one("SELECT v FROM u");
    assert!(two.is_from_redis(1, fresh, &value));
}

#[test]
fn what_the_readme_says_of_rights_in_redis_is_enough() {
    assert!(include_str!("../../README.md").contains(RIGHTS_OF_GROUP));
    for secret in [SECRET, ""] {
        let redis = Redis::with_rights(RIGHTS_OF_GROUP);
        let url = redis.url_of_user();
        let mut two = World::over(Database::with(TABLES), redis, url, &[secret, secret]);
        two.fill(0, READ);
        assert_eq!(two.is_from_redis(1, READ, "1"), !secret.is_empty());
        two.client(1).run("UPDATE t SET v = 2");
        assert_eq!(two.client(0).one(READ), "2");
        two.fill(0, READ);
        // Out of memory, and read where it lies.
        two.client(1).run("CREATE TABLE w (v int)");
        two.fill(1, READ);
        for Member { forebay, .. } in &two.members {
            let log = forebay.log();
            for complaint in ["NOPERM", "may not", "takes no", "left alone", "not heard"] {
                assert!(!log.contains(complaint), "{log}");
            }
        }
    }
}
