//! The second tier: answers come from it where memory has lost them, and whatever becomes of it,
//! clients get PostgreSQL's answer and the console says what is wrong.
//!
//! Most tests read an answer larger than the smallest memory there may be has room for, so that
//! every hit comes from Redis; the console's counters and PostgreSQL's log prove it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::forebay::Forebay;
use crate::support::http::get;
use crate::support::postgres::{Database, Postgres};
use crate::support::raw::{RawClient, query};
use crate::support::redis::{RIGHTS_OF_CACHE, Redis};
use crate::support::{free_port, wait_until};

const TABLE: &str = "CREATE TABLE t (v text); INSERT INTO t VALUES ('old')";
/// 1035 kB of answer, which may be kept; in 1 MB of memory there is room for 1017.
const READ: &str = "SELECT repeat(v, 345000) FROM t";
/// Redis gets all the time a loaded machine may need, and is tried again soon.
const PATIENT: &str = "timeout = \"5s\"\nbreaker_reset = \"50ms\"";

struct World {
    database: Database<'static>,
    forebay: Forebay,
    client: RawClient,
    console: RawClient,
}

impl World {
    /// Forebay with hardly any memory, in front of a database of its own.
    fn new(url: &str, settings: &str) -> Self {
        Self::in_front_of(Database::with(TABLE), url, settings)
    }

    fn in_front_of(database: Database<'static>, url: &str, settings: &str) -> Self {
        let toml = format!("[cache]\nsize = \"1MB\"\n[redis]\n{settings}\n");
        let forebay = Forebay::with_config(&database, &toml, &["--redis", url]);
        let (client, console) = (forebay.client(), forebay.console());
        Self { database, forebay, client, console }
    }

    /// What `SHOW CACHE` says.
    fn shown(&mut self, column: &str) -> String {
        self.console.column("SHOW CACHE", column)
    }

    fn count(&mut self, column: &str) -> u64 {
        self.shown(column).parse().unwrap()
    }

    fn until_shown(&mut self, column: &str, holds: impl Fn(&str) -> bool) {
        let mut last = String::new();
        wait_until(&format!("the console shows another {column}"), || {
            last = self.shown(column);
            holds(&last)
        });
    }

    fn until_state(&mut self, state: &str) {
        wait_until(&format!("redis is {state}"), || self.shown("redis") == state);
    }

    /// Reads; the answer must be whole.
    fn read(&mut self) -> String {
        let answer = self.client.one(READ);
        let (value, _) = answer.split_at(3);
        assert!(answer == value.repeat(345_000), "{} bytes", answer.len());
        value.to_owned()
    }

    fn write(&mut self, value: &str) {
        self.client.run(&format!("UPDATE t SET v = '{value}'"));
    }

    /// Reads, and tells whether that was answered from Redis.
    fn hits_redis(&mut self) -> bool {
        let before = (self.count("hits_redis"), self.database.seen(READ));
        self.read();
        (self.count("hits_redis"), self.database.seen(READ)) == (before.0 + 1, before.1)
    }

    /// Then nothing is on its way to Redis any more either.
    fn until_redis_hit(&mut self) {
        wait_until("Redis answers", || self.hits_redis());
        wait_until("every answer kept was stored or dropped", || {
            let settled = self.count("redis_stores") + self.count("redis_dropped");
            settled == self.count("fills")
        });
    }

    /// Writes and reads as often as matters; every answer must be PostgreSQL's.
    fn check(&mut self, value: &str) {
        self.write(value);
        for _ in 0..3 {
            assert_eq!(self.read(), value);
        }
    }
}

#[test]
fn what_memory_cannot_hold_is_answered_from_redis() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url(), &format!("{PATIENT}\nprefix = \"mine:\""));
    world.until_redis_hit();
    let before = ["hits", "hits_redis", "redis_look_ups"].map(|column| world.count(column));
    for _ in 0..5 {
        assert!(world.hits_redis());
        assert_eq!(world.read(), "old");
    }
    let after = ["hits", "hits_redis", "redis_look_ups"].map(|column| world.count(column));
    assert_eq!(after, before.map(|count| count + 10));
    assert_eq!(world.shown("redis"), "up");
    assert_eq!(world.shown("redis_error"), "NULL");
    assert_eq!(world.count("entries"), 0);
    assert_eq!((redis.keys("mine:"), redis.keys("")), (1, 1));
    // Redis forgets it no later than it may not be served any more.
    let left = redis.number("return redis.call('PTTL', redis.call('KEYS', '*')[1])");
    assert!((1..=60_000).contains(&left), "{left}");
}

#[test]
fn what_memory_has_evicted_is_answered_from_redis_and_kept_again() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url(), PATIENT);
    world.until_redis_hit();
    let sql = |number| format!("SELECT repeat(v, 5000 + {number}) FROM t");
    let stored = world.count("redis_stores");
    for number in 0..100 {
        world.client.run(&sql(number));
    }
    world.until_shown("redis_stores", |count| count.parse::<u64>().unwrap() >= stored + 100);
    assert!((1..100).contains(&world.count("entries")));
    let (mut from_redis, mut kept) = (0, 0);
    for number in 0..100 {
        let before = world.count("hits_redis");
        assert_eq!(world.client.one(&sql(number)).len(), 3 * (5000 + number));
        let after = world.count("hits_redis");
        world.client.run(&sql(number));
        from_redis += after - before;
        kept += u64::from(after > before && world.count("hits_redis") == after);
        assert_eq!(world.database.seen(&sql(number)), 1, "{number}");
    }
    // Memory may prefer what it has to some of them, as it resists scans, but not to most.
    assert!(from_redis > 0 && kept > from_redis / 2, "{kept} of {from_redis}");
}

#[test]
fn a_key_never_stored_is_not_asked_of_redis() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url(), PATIENT);
    world.until_redis_hit();
    let before = (world.count("redis_look_ups"), world.count("misses"));
    for number in 0..50 {
        world.client.run(&format!("SELECT v, {number} FROM t"));
    }
    assert_eq!((world.count("redis_look_ups"), world.count("misses")), (before.0, before.1 + 50));
}

#[test]
fn a_write_makes_the_copy_in_redis_unusable() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url(), PATIENT);
    world.until_redis_hit();
    for value in ["one", "two", "six"] {
        let before = world.count("redis_misses");
        world.write(value);
        assert_eq!(redis.keys(""), 1);
        assert_eq!(world.read(), value);
        // It was asked, and what it had was refused.
        assert_eq!(world.count("redis_misses"), before + 1);
        world.until_redis_hit();
        assert_eq!(world.read(), value);
    }
    let mut other = world.forebay.client();
    other.run("BEGIN; UPDATE t SET v = 'not'");
    assert_eq!(world.read(), "six");
    other.run("ROLLBACK");
    assert_eq!(world.read(), "six");
}

#[test]
fn an_entry_in_redis_is_not_served_when_older_than_max_age() {
    let redis = Redis::start();
    let database = Database::with(TABLE);
    let toml = format!("[cache]\nsize = \"1MB\"\nmax_age = \"2s\"\n[redis]\n{PATIENT}\n");
    let forebay = Forebay::with_config(&database, &toml, &["--redis", &redis.url()]);
    let (client, console) = (forebay.client(), forebay.console());
    let mut world = World { database, forebay, client, console };
    wait_until("from now on Redis would keep it for ever", || {
        world.until_redis_hit();
        redis.for_every_key("redis.call('PERSIST', k)") == 1
    });
    world.database.direct().run("UPDATE t SET v = 'new'");
    wait_until("the write behind Forebay's back is seen", || world.read() == "new");
}

#[test]
fn after_a_crash_nothing_of_the_earlier_life_is_answered() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url(), PATIENT);
    world.until_redis_hit();
    let World { database, forebay, .. } = world;
    drop(forebay);
    database.direct().run("UPDATE t SET v = 'new'");
    assert_eq!(redis.keys(""), 1);
    let mut world = World::in_front_of(database, &redis.url(), PATIENT);
    assert_eq!(world.read(), "new");
    world.until_redis_hit();
    assert_eq!(world.read(), "new");
    // The old one lies there still; nobody finds it.
    assert_eq!((redis.keys(""), world.count("redis_forged")), (2, 0));
}

#[test]
fn a_redis_missing_at_the_start_is_used_once_it_is_there() {
    let mut redis = Redis::missing();
    let mut world = World::new(&redis.url(), PATIENT);
    world.check("one");
    world.until_state("down");
    let error = world.shown("redis_error");
    assert!(error.contains("Connection refused"), "{error}");
    // Nor is it kept anywhere else.
    assert_eq!((world.count("fills"), world.count("hits")), (0, 0));
    redis.resume_from_stop();
    world.until_state("up");
    world.until_redis_hit();
    world.check("two");
}

#[test]
fn a_redis_that_is_stopped_and_started_again_costs_no_answer() {
    let mut redis = Redis::start();
    let mut world = World::new(&redis.url(), PATIENT);
    world.until_redis_hit();
    redis.stop();
    world.check("one");
    assert_eq!(world.shown("redis"), "down");
    // What it was sent before is not asked for while it is down.
    let before = (world.count("redis_look_ups"), world.count("redis_skipped"));
    world.check("two");
    let after = (world.count("redis_look_ups"), world.count("redis_skipped"));
    assert_eq!(after, (before.0, before.1 + 3));
    redis.resume_from_stop();
    world.until_state("up");
    assert_eq!(world.read(), "two");
    world.until_redis_hit();
    world.check("six");
    // At once, so that Forebay may not even have seen it go.
    redis.stop();
    redis.resume_from_stop();
    world.check("ten");
    world.until_redis_hit();
}

#[test]
fn the_end_of_a_redis_that_nobody_asks_is_seen() {
    let mut redis = Redis::start();
    let mut world = World::new(&redis.url(), PATIENT);
    world.until_state("up");
    redis.stop();
    world.until_state("down");
    redis.resume_from_stop();
    world.until_state("up");
}

#[test]
fn a_flush_of_redis_costs_one_query() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url(), PATIENT);
    world.until_redis_hit();
    for _ in 0..3 {
        let before = (world.count("redis_misses"), world.database.seen(READ));
        redis.flush();
        assert_eq!(world.read(), "old");
        assert_eq!(
            (world.count("redis_misses"), world.database.seen(READ)),
            (before.0 + 1, before.1 + 1)
        );
        world.until_redis_hit();
    }
    assert_eq!(world.shown("redis"), "up");
}

#[test]
fn a_hanging_redis_is_left_alone_after_some_operations() {
    let redis = Redis::start();
    let settings = "timeout = \"100ms\"\nbreaker_failures = 3\nbreaker_reset = \"50ms\"";
    let mut world = World::new(&redis.url(), settings);
    world.until_redis_hit();
    let before = world.count("redis_look_ups");
    redis.pause();
    wait_until("it is left alone", || {
        assert_eq!(world.read(), "old");
        world.shown("redis") == "down"
    });
    assert_eq!(world.shown("redis_error"), "no answer in time");
    // Each of them waited for; heartbeats and entries to store count as well.
    let asked = world.count("redis_look_ups") - before;
    assert!((1..=3).contains(&asked), "{asked}");
    assert!(world.count("redis_timeouts") >= 3);
    let before = world.count("redis_look_ups");
    world.check("new");
    assert_eq!(world.count("redis_look_ups"), before);
    redis.resume();
    world.until_state("up");
    // It may have stored the old answer only now.
    assert_eq!(world.read(), "new");
    world.until_redis_hit();
    assert_eq!(world.read(), "new");
}

#[test]
fn what_redis_is_too_slow_to_take_is_dropped() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url(), "timeout = \"10s\"");
    world.until_redis_hit();
    redis.pause();
    // More than one round trip and the queue may hold, each 1035 kB.
    for number in 0..80 {
        let sql = format!("SELECT repeat(v, 345000 - {number}) FROM t");
        assert_eq!(world.client.one(&sql).len(), 1_035_000 - 3 * number);
    }
    assert!(world.count("redis_dropped") > 0);
    redis.resume();
    assert_eq!(world.read(), "old");
    world.until_redis_hit();
}

#[test]
fn a_cache_switched_on_by_a_reload_has_its_redis() {
    let redis = Redis::start();
    let toml = |mode: &str, url: &str| {
        format!("[cache]\nmode = \"{mode}\"\nsize = \"1MB\"\n[redis]\n{PATIENT}\nurl = \"{url}\"\n")
    };
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, &toml("dry_run", &redis.url()), &[]);
    let (client, console) = (forebay.client(), forebay.console());
    let mut world = World { database, forebay, client, console };
    wait_until("an answer is kept, in memory alone", || {
        assert_eq!(world.client.one("SELECT v FROM t"), world.read());
        world.count("fills") > 0
    });
    world.until_state("up");
    assert_eq!((redis.keys(""), world.count("redis_look_ups")), (0, 0));
    world.forebay.reload(&toml("on", &redis.url()));
    wait_until("Redis answers", || world.hits_redis());
    world.forebay.reload(&toml("off", &redis.url()));
    assert!(!world.hits_redis());
}

#[test]
fn limits_that_a_reload_changes_are_those_of_redis_too() {
    let redis = Redis::start();
    let toml = |longest: &str, max_age: &str| {
        format!(
            "[cache]\nsize = \"1MB\"\nmax_entry_size = \"{longest}\"\nmax_age = \"{max_age}\"\n\
             [redis]\n{PATIENT}\nurl = \"{}\"\n",
            redis.url()
        )
    };
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, &toml("100kB", "60s"), &[]);
    let (client, console) = (forebay.client(), forebay.console());
    let mut world = World { database, forebay, client, console };
    world.until_state("up");
    world.check("one");
    assert_eq!(redis.keys(""), 0);
    world.forebay.reload(&toml("1MB", "1h"));
    world.until_redis_hit();
    let left = redis.number("return redis.call('PTTL', redis.call('KEYS', '*')[1])");
    assert!((60_001..=3_600_000).contains(&left), "{left}");
    // What is too long by now is no forgery.
    world.forebay.reload(&toml("100kB", "1h"));
    let misses = world.count("redis_misses");
    assert!(!world.hits_redis());
    assert_eq!((world.count("redis_misses"), world.count("redis_forged")), (misses + 1, 0));
}

#[test]
fn a_client_has_what_it_is_owed_while_redis_is_asked_for_what_comes_next() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url(), "timeout = \"10s\"");
    world.until_redis_hit();
    let small = "SELECT v FROM t";
    world.database.until_hit(&mut world.client, small);
    let before = world.count("hits_redis");
    redis.pause();
    world.client.send(&[query(small), query(READ)].concat());
    world.client.expect("T(v) D(old) C(SELECT 1) Z(I)");
    redis.resume();
    assert_eq!(world.client.until(b'Z').len(), 4);
    assert_eq!(world.count("hits_redis"), before + 1);
}

#[test]
fn a_full_redis_gives_what_it_has_and_takes_nothing() {
    let mut redis = Redis::with(&["--maxmemory-policy", "noeviction"]);
    let port = free_port();
    let settings = format!("{PATIENT}\n[admin]\nhttp_listen = \"127.0.0.1:{port}\"\n");
    let mut world = World::new(&redis.url(), &settings);
    world.until_redis_hit();
    redis.set_memory("1");
    // A read that Redis has not.
    world.client.run("SELECT repeat(v, 345001) FROM t");
    world.until_state("up, takes no entries");
    let error = world.shown("redis_error");
    assert!(error.contains("OOM"), "{error}");
    let is_up = || get(port, "/metrics").body.contains("\nforebay_redis_up 1\n");
    assert!(is_up(), "it answers");
    assert!(world.hits_redis(), "what it has is given");
    let before = world.count("redis_stores");
    world.check("new");
    world.until_shown("redis_dropped", |count| count.parse::<u64>().unwrap() >= 4);
    assert_eq!(world.count("redis_stores"), before);
    redis.set_memory("0");
    world.until_redis_hit();
    assert_eq!(world.read(), "new");
    assert_eq!(world.shown("redis"), "up");
    assert!(is_up());
    redis.stop();
    world.until_state("down");
    assert!(!is_up());
}

#[test]
fn a_value_changed_in_redis_is_never_served() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url(), PATIENT);
    let other = "SELECT repeat(v, 345001) FROM t";
    let flip = |place: &str| {
        format!(
            "local i = {place} local c = string.char(bit.bxor(v:byte(i), 1)) \
             redis.call('SET', k, v:sub(1, i - 1) .. c .. v:sub(i + 1))"
        )
    };
    for change in [
        flip("1"),
        flip("7"),
        flip("39"),
        flip("#v"),
        flip("math.floor(#v / 2)"),
        "redis.call('SET', k, v:sub(1, #v - 1))".to_owned(),
        "redis.call('SET', k, v .. 'x')".to_owned(),
        "redis.call('SET', k, 'x')".to_owned(),
        // Each in the place of the other.
        "local o = keys[3 - _] local w = redis.call('GET', o) \
         if _ == 1 then redis.call('SET', o, v) redis.call('SET', k, w) end"
            .to_owned(),
    ] {
        world.until_redis_hit();
        world.client.run(other);
        wait_until("both are in Redis", || redis.keys("") == 2);
        let before = (world.count("redis_forged"), world.database.seen(READ));
        assert_eq!(redis.for_every_key(&change), 2);
        assert_eq!(world.read(), "old", "{change}");
        let after = (world.count("redis_forged"), world.database.seen(READ));
        assert_eq!(after, (before.0 + 1, before.1 + 1), "{change}");
        assert_eq!(world.client.one(other).len(), 1_035_003, "{change}");
    }
    // Longer than anything it would read: as likely stored by somebody with other limits.
    let before = (world.count("redis_misses"), world.count("redis_forged"));
    world.until_redis_hit();
    redis.for_every_key("redis.call('SET', k, string.rep('x', 4000000))");
    assert_eq!(world.read(), "old");
    assert_eq!(
        (world.count("redis_misses"), world.count("redis_forged")),
        (before.0 + 1, before.1)
    );
    // Not even a text.
    world.until_redis_hit();
    let before = world.count("redis_errors");
    redis.for_every_key("redis.call('DEL', k) redis.call('RPUSH', k, 'x')");
    assert_eq!(world.read(), "old");
    assert_eq!(world.count("redis_errors"), before + 1);
    let error = world.shown("redis_error");
    assert!(error.contains("WRONGTYPE"), "{error}");
}

#[test]
fn an_old_value_put_back_into_redis_is_not_served() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url(), PATIENT);
    world.until_redis_hit();
    assert_eq!(redis.for_every_key("redis.call('SET', 'kept', v)"), 1);
    world.write("new");
    world.until_redis_hit();
    let before = (world.count("redis_misses"), world.count("redis_forged"));
    let put_back = "if k ~= 'kept' then redis.call('SET', k, redis.call('GET', 'kept')) end";
    assert_eq!(redis.for_every_key(put_back), 2);
    assert_eq!(world.read(), "new");
    // It was what this process stored, and is not true any more.
    let after = (world.count("redis_misses"), world.count("redis_forged"));
    assert_eq!(after, (before.0 + 1, before.1));
}

#[test]
fn redis_may_ask_for_a_password() {
    let redis = Redis::with(&["--requirepass", "hunter2"]);
    let url = |login: &str| format!("redis://{login}127.0.0.1:{}/0", redis.port);
    let mut world = World::new(&url(":hunter2@"), PATIENT);
    world.until_redis_hit();
    assert_eq!(world.shown("redis"), "up");
    for (login, expected) in [
        (":hunter3@", "authentication failed"),
        ("", "NOAUTH"),
        ("bob:hunter2@", "authentication failed"),
    ] {
        let mut world = World::new(&url(login), PATIENT);
        world.check("new");
        world.until_state("down");
        let error = world.shown("redis_error");
        assert!(error.contains(expected), "{login}: {error}");
        assert!(!world.forebay.log().contains("hunter"), "a password is in the log");
    }
}

#[test]
fn a_user_of_redis_needs_what_the_readme_says_and_what_is_missing_is_told_once() {
    assert!(include_str!("../../README.md").contains(RIGHTS_OF_CACHE));
    let start = |rights: &str| {
        let redis = Redis::with_rights(rights);
        let world = World::new(&redis.url_of_user(), PATIENT);
        (redis, world)
    };
    let (_redis, mut world) = start(RIGHTS_OF_CACHE);
    world.until_redis_hit();
    assert_eq!(world.shown("redis"), "up");
    assert!(!world.forebay.log().contains("the user may not"));

    let (redis, mut world) = start("~forebay:* +ping +set");
    let tried = "return tonumber(string.match(redis.call('INFO', 'commandstats'), \
         'cmdstat_getrange:[^%c]-rejected_calls=(%d+)') or 0)";
    world.check("new");
    wait_until("it is tried again and again", || redis.number(tried) > 3);
    assert_eq!(world.shown("redis"), "down");
    let reason = "the user may not run GETRANGE on the keys of answers";
    assert_eq!(world.shown("redis_error"), reason);
    let log = world.forebay.log();
    assert_eq!((log.matches(reason).count(), log.contains("left alone")), (1, false), "{log}");

    let (_redis, mut world) = start("~forebay:* +ping +getrange");
    world.until_state("up, takes no entries");
    world.check("new");
    let reason = "reason=the user may not run SET on the keys of answers";
    assert_eq!(world.forebay.log().matches(reason).count(), 1);
}

#[test]
fn a_redis_elsewhere_in_the_clear_is_warned_of() {
    // 192.0.2.0/24 is nobody's.
    let warning = "redis is on another machine";
    for (url, missing) in [
        ("redis://192.0.2.1", "no verified TLS and no password"),
        ("redis://:hunter2@192.0.2.1", "no verified TLS"),
        ("rediss://192.0.2.1", "no password"),
    ] {
        let mut world = World::new(url, PATIENT);
        assert_eq!(world.shown("redis_exposed"), missing, "{url}");
        let log = world.forebay.log();
        assert!(log.contains(warning) && log.contains(missing), "{url}");
    }
    let here = Redis::start();
    let socket = format!("unix://{}", here.socket());
    for url in [&here.url(), &socket, "rediss://:hunter2@192.0.2.1"] {
        let mut world = World::new(url, PATIENT);
        assert_eq!(world.shown("redis_exposed"), "NULL", "{url}");
        assert!(!world.forebay.log().contains(warning), "{url}");
    }
}

#[test]
fn redis_may_be_reached_by_its_unix_socket() {
    let redis = Redis::start();
    let mut world = World::new(&format!("unix://{}", redis.socket()), PATIENT);
    world.until_redis_hit();
    std::fs::remove_file(redis.socket()).unwrap();
    let mut world = World::new(&format!("unix://{}", redis.socket()), PATIENT);
    world.check("new");
    world.until_state("down");
}

#[test]
fn redis_may_ask_for_tls() {
    let file =
        |name: &str| format!("{}/tests/suite/support/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (cert, key) = (file("server.pem"), file("server.key"));
    let port = free_port();
    let tls_port = port.to_string();
    let _redis = Redis::with(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ]);
    let settings = |ca: &str| format!("{PATIENT}\ntls_ca_file = \"{}\"", file(ca));
    let url = format!("rediss://127.0.0.1:{port}");
    let mut world = World::new(&url, &settings("ca.pem"));
    world.until_redis_hit();
    assert_eq!(world.shown("redis"), "up");
    // Another authority, the system's authorities, and no TLS at all.
    let plain = format!("redis://127.0.0.1:{port}");
    for (url, settings, expected) in [
        (&url, settings("self_signed.pem"), "UnknownIssuer"),
        (&url, PATIENT.to_owned(), "certificate"),
        (&plain, PATIENT.to_owned(), ""),
    ] {
        let mut world = World::new(url, &settings);
        world.check("new");
        world.until_state("down");
        let error = world.shown("redis_error");
        assert!(error != "NULL" && error.contains(expected), "{error}");
    }
}

#[test]
fn two_forebays_on_one_redis_share_nothing() {
    let redis = Redis::start();
    let mut one = World::new(&redis.url(), PATIENT);
    one.until_redis_hit();
    let database = Postgres::shared().database_called(&one.database.name);
    let mut two = World::in_front_of(database, &redis.url(), PATIENT);
    // The table gets another value behind the back of both: what the first has of it is old.
    one.database.direct().run("UPDATE t SET v = 'new'");
    assert_eq!(two.read(), "new");
    two.until_redis_hit();
    assert_eq!((two.read(), one.read()), ("new".to_owned(), "old".to_owned()));
    assert_eq!(redis.keys(""), 2);
    // A flush of one is none of the other, and the old answer is gone with it.
    one.console.run("FLUSH CACHE");
    assert!(two.hits_redis());
    assert_eq!(one.read(), "new");
    assert_eq!((one.count("redis_forged"), two.count("redis_forged")), (0, 0));
}

/// Reads until `done`; no answer may be from before what was acknowledged when it was asked.
fn read_on(mut client: RawClient, sql: &str, acknowledged: &AtomicU64, done: &AtomicBool) {
    while !done.load(Ordering::SeqCst) {
        let known = acknowledged.load(Ordering::SeqCst);
        let answer = client.one(sql);
        let value: u64 = answer.trim_start_matches('0').parse().unwrap();
        assert!(value >= known, "{value} was answered after {known} was acknowledged");
    }
}

#[test]
fn whatever_happens_to_redis_no_client_reads_what_is_no_longer_true() {
    let mut redis = Redis::start();
    let settings = "timeout = \"50ms\"\nbreaker_failures = 2\nbreaker_reset = \"20ms\"";
    let mut world = World::new(&redis.url(), settings);
    world.client.run("CREATE TABLE counter (v int); INSERT INTO counter VALUES (1)");
    let sql = "SELECT lpad(v::text, 1035000, '0') FROM counter";
    let (acknowledged, done) = (AtomicU64::new(1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Ends the readers also when an assertion fails here.
        let _end = EndOnDrop(&done);
        for _ in 0..3 {
            let client = world.forebay.client();
            scope.spawn(|| read_on(client, sql, &acknowledged, &done));
        }
        let mut writer = world.forebay.client();
        let mut write = || {
            for _ in 0..10 {
                let next = acknowledged.load(Ordering::SeqCst) + 1;
                writer.run(&format!("UPDATE counter SET v = {next}"));
                acknowledged.store(next, Ordering::SeqCst);
            }
        };
        let mut until_used = || {
            let before = world.count("hits_redis");
            wait_until("Redis answers", || world.count("hits_redis") > before);
        };
        for _ in 0..3 {
            until_used();
            redis.pause();
            write();
            redis.resume();
            write();
            until_used();
            redis.stop();
            write();
            redis.resume_from_stop();
            write();
            until_used();
            redis.flush();
            redis.set_memory("1");
            write();
            redis.set_memory("0");
            until_used();
            redis.for_every_key("redis.call('SET', k, v .. 'x')");
            write();
        }
    });
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
