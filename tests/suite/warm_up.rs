//! What was of most use is asked again after all was forgotten, so that the clients that come next
//! are answered from the cache: at the rate that was set, and as those who had asked.

use std::time::{Duration, Instant};

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, Postgres, USER};
use crate::support::raw::{Login, RawClient};
use crate::support::redis::Redis;
use crate::support::wait_until;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v int); \
     INSERT INTO t SELECT i, i * 10 FROM generate_series(1, 100) i; \
     CREATE TABLE w (v int); INSERT INTO w VALUES (1); CREATE TABLE u (v int)";
const READ: &str = "SELECT v FROM t WHERE id = 1";
const PREPARED: &str = "SELECT v FROM t WHERE id = $1";
/// Ends the answers of the whole database.
const DDL: &str = "ALTER TABLE u ALTER COLUMN v SET DEFAULT 1";

struct World {
    database: Database<'static>,
    forebay: Forebay,
    console: RawClient,
    client: RawClient,
}

impl World {
    fn new(toml: &str) -> Self {
        let database = Database::with(TABLES);
        let forebay = Forebay::with_config(&database, toml, &[]);
        let (console, client) = (forebay.console(), forebay.client());
        Self { database, forebay, console, client }
    }

    fn at_rate(rate: u32) -> Self {
        Self::new(&format!("[cache]\nwarm_up = {rate}\n"))
    }

    fn count(&mut self, column: &str) -> usize {
        self.console.column("SHOW CACHE", column).parse().unwrap()
    }

    fn until(&mut self, column: &str, count: usize) {
        wait_until(&format!("{column} is {count}"), || self.count(column) == count);
    }

    fn until_hit(&mut self, sql: &str) {
        self.database.until_hit(&mut self.client, sql);
    }

    fn until_hit_with(&mut self, sql: &str, value: &str) {
        wait_until("it is answered from the cache", || {
            let before = self.database.seen(sql);
            self.client.one_extended(sql, &[Some(value)]);
            self.database.seen(sql) == before
        });
    }
}

#[test]
fn what_was_hit_is_a_hit_again_after_ddl_without_any_client_asking() {
    let mut world = World::at_rate(1000);
    world.until_hit(READ);
    world.until_hit_with(PREPARED, "7");
    // Never hit.
    world.client.run("SELECT v FROM w");
    let seen =
        |world: &World| [READ, PREPARED, "SELECT v FROM w"].map(|sql| world.database.seen(sql));
    let before = seen(&world);
    assert_eq!(world.count("warm_ups"), 0);
    world.client.run(DDL);
    world.until("warmed", 2);
    assert_eq!((world.count("warm_ups"), world.count("warm_failed")), (1, 0));
    assert_eq!(seen(&world), [before[0] + 1, before[1] + 1, before[2]]);
    assert!(world.database.is_hit(&mut world.client, READ));
    assert_eq!(world.client.one(READ), "10");
    assert_eq!(world.client.one_extended(PREPARED, &[Some("7")]), "70");
    assert_eq!(seen(&world), [before[0] + 1, before[1] + 1, before[2]]);
    // And what is written counts.
    world.client.run("UPDATE t SET v = 2 WHERE id = 1");
    assert_eq!(world.client.one(READ), "2");
}

#[test]
fn a_flush_of_the_cache_is_followed_by_a_warm_up() {
    let mut world = World::at_rate(1000);
    world.until_hit(READ);
    let before = world.database.seen(READ);
    world.console.run("FLUSH CACHE");
    world.until("warmed", 1);
    assert_eq!(world.database.seen(READ), before + 1);
    assert!(world.database.is_hit(&mut world.client, READ));
}

#[test]
fn no_more_is_asked_in_a_second_than_was_set() {
    let mut world = World::at_rate(10);
    for id in 1..=5 {
        world.until_hit(&format!("SELECT v FROM t WHERE id = {id}"));
    }
    let began = Instant::now();
    world.client.run(DDL);
    world.until("warmed", 5);
    // Half a second of quiet, then the first at once.
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(world.count("warm_ups"), 1);
}

#[test]
fn by_default_nothing_is_asked() {
    let mut off = World::new("");
    let mut on = World::at_rate(1000);
    for world in [&mut off, &mut on] {
        world.until_hit(READ);
    }
    let before = off.database.seen(READ);
    off.client.run(DDL);
    for warm_ups in 1..=2 {
        on.client.run(DDL);
        on.until("warm_ups", warm_ups);
        on.until("warmed", warm_ups);
    }
    assert_eq!((off.count("warm_ups"), off.database.seen(READ)), (0, before));
    // It begins with a reload, of those who are there.
    off.forebay.reload("[cache]\nwarm_up = 1000\n");
    off.until_hit(READ);
    off.client.run(DDL);
    off.until("warmed", 1);
}

#[test]
fn what_fails_now_is_forgotten() {
    let mut world = World::at_rate(1000);
    world.until_hit(READ);
    world.until_hit("SELECT 10 / v FROM w");
    // So often that it is asked first.
    for _ in 0..100 {
        world.client.run("SELECT 10 / v FROM w");
    }
    world.client.run("UPDATE w SET v = 0");
    world.client.run(DDL);
    world.until("warmed", 1);
    world.until("warm_failed", 1);
    world.client.run(READ);
    world.client.run(DDL);
    world.until("warmed", 2);
    assert_eq!(world.count("warm_failed"), 1);
    wait_until("who asked has gone", || !world.console.query("SHOW CLIENTS").contains("warm-up"));
}

/// What it now is may do anything.
#[test]
fn what_ddl_has_made_more_than_a_read_is_not_asked() {
    let mut world = World::at_rate(1000);
    world.client.run("CREATE SEQUENCE s; CREATE VIEW x AS SELECT v::bigint FROM w");
    let read = "SELECT v FROM x";
    world.until_hit(READ);
    world.until_hit(read);
    let before = world.database.seen(read);
    world.client.run("CREATE OR REPLACE VIEW x AS SELECT nextval('s') AS v");
    world.until("warmed", 1);
    world.client.run(READ);
    world.client.run(DDL);
    world.until("warmed", 2);
    assert_eq!(world.database.seen(read), before);
    assert_eq!(world.client.one("SELECT is_called FROM s"), "f");
}

#[test]
fn what_one_asked_is_asked_as_that_one_and_no_hit_for_another() {
    let postgres = Postgres::private("");
    let database = postgres.database();
    database.direct().run(
        "CREATE TABLE doc (id int PRIMARY KEY, owner text); GRANT SELECT ON doc TO PUBLIC; \
         ALTER TABLE doc ENABLE ROW LEVEL SECURITY; CREATE TABLE u (v int)",
    );
    let mut admin = database.admin();
    let roles = ["ann", "bob"];
    for role in roles {
        admin.run(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'; GRANT {role} TO {USER}"
        ));
        admin
            .run(&format!("INSERT INTO doc VALUES (length('{role}') + ascii('{role}'), '{role}')"));
    }
    admin.run("CREATE POLICY own ON doc USING (owner = current_user)");
    let toml = format!(
        "[cache]\nwarm_up = 1000\n[auth]\nauth_user = \"postgres\"\n\
         [databases.direct]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"{}\"\n",
        postgres.port, database.name
    );
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let read = "SELECT owner FROM doc";
    let [mut ann, mut bob] =
        roles.map(|role| forebay.log_in(&Login::new(role, PASSWORD, "direct")).unwrap());
    let (mut owner, mut console) = (forebay.client(), forebay.console());
    // By its user, and by the role that another has taken.
    database.until_hit(&mut ann, read);
    owner.run("SET ROLE bob");
    database.until_hit(&mut owner, read);
    bob.run("SELECT 1");
    let before = database.seen(read);
    forebay.client().run(DDL);
    wait_until("both are warm", || console.column("SHOW CACHE", "warmed") == "2");
    assert_eq!(database.seen(read), before + 2);
    for (client, role, is_hit) in
        [(&mut ann, "ann", true), (&mut owner, "bob", true), (&mut bob, "bob", false)]
    {
        let before = database.seen(read);
        assert_eq!(client.one(read), role);
        assert_eq!(database.seen(read) == before, is_hit, "{role}");
    }
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A member of a group that is alone.
fn member(database: &Database<'_>, redis: &Redis, secret: &str) -> (Forebay, RawClient) {
    let toml = format!(
        "[cache]\nwarm_up = 1000\n[redis]\ntimeout = \"5s\"\nbreaker_reset = \"50ms\"\n\
         [group]\nname = \"g\"\nsecret = \"{secret}\"\nlease = \"600ms\"\ntimeout = \"2s\"\n"
    );
    let forebay = Forebay::with_config(database, &toml, &["--redis", &redis.url()]);
    let console = forebay.console();
    (forebay, console)
}

/// One has answered what is read, and was stopped.
fn after_one(secret: &str) -> (Database<'static>, Redis) {
    let (database, redis) = (Database::with(TABLES), Redis::start());
    let (forebay, mut console) = member(&database, &redis, secret);
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    wait_until("its Redis is up", || console.column("SHOW CACHE", "redis") == "up");
    stop(&forebay, &redis);
    (database, redis)
}

/// And all that it had agreed on: who comes sooner has its answers still.
fn stop(forebay: &Forebay, redis: &Redis) {
    forebay.daemon.signal("INT");
    wait_until("it has stopped", || !forebay.daemon.runs());
    let k = "return #redis.call('KEYS', 'fb:{g:*}')";
    wait_until("what it agreed on has ended", || redis.number(k) == 0);
}

#[test]
fn one_that_is_started_again_is_warm_before_it_has_a_client() {
    let (database, redis) = after_one(SECRET);
    assert_eq!(redis.keys("fb:*:w"), 1);
    let before = database.seen(READ);
    let (forebay, mut console) = member(&database, &redis, SECRET);
    wait_until("it is warm", || console.column("SHOW CACHE", "warmed") == "1");
    assert_eq!(console.column("SHOW CACHE", "warm_ups"), "1");
    assert_eq!(database.seen(READ), before + 1);
    let mut client = forebay.client();
    assert!(database.is_hit(&mut client, READ));
    assert_eq!(client.one(READ), "10");
}

#[test]
fn what_fails_at_one_that_is_started_again_is_not_asked_by_the_next() {
    let (database, redis) = (Database::with(TABLES), Redis::start());
    let (forebay, mut console) = member(&database, &redis, SECRET);
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    database.until_hit(&mut client, "SELECT 10 / v FROM w");
    wait_until("its Redis is up", || console.column("SHOW CACHE", "redis") == "up");
    stop(&forebay, &redis);
    database.admin().run("UPDATE w SET v = 0");
    for failed in ["1", "0"] {
        let (forebay, mut console) = member(&database, &redis, SECRET);
        wait_until("it is warm", || console.column("SHOW CACHE", "warmed") == "1");
        forebay.log_contains("warm-up over");
        assert_eq!(console.column("SHOW CACHE", "warm_failed"), failed);
        stop(&forebay, &redis);
    }
}

#[test]
fn a_list_that_no_member_stored_is_ignored_and_counted() {
    let (database, redis) = after_one(SECRET);
    let changed = redis.number(
        "local keys = redis.call('KEYS', 'fb:*:w') for _, k in ipairs(keys) do \
         local v = redis.call('GET', k) redis.call('SET', k, string.sub(v, 1, -2) .. \
         string.char((string.byte(v, -1) + 1) % 256)) end return #keys",
    );
    assert_eq!(changed, 1);
    let (forebay, mut console) = member(&database, &redis, SECRET);
    wait_until("it was read", || console.column("SHOW CACHE", "redis_forged") == "1");
    let mut client = forebay.client();
    assert!(!database.is_hit(&mut client, READ));
    assert_eq!(console.column("SHOW CACHE", "warm_ups"), "0");
}

#[test]
fn without_a_secret_nothing_is_written_down() {
    let (_database, redis) = after_one("");
    assert_eq!(redis.keys("fb:*:w"), 0);
}
