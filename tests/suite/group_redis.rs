//! Redis as it is run: it evicts, is full, comes back from a dump, fails over and loses the last
//! writes, is asked over TLS, is slow, or is Valkey. Two Forebays share it, and whatever befalls it
//! neither answers what the other has made old, and both hit again afterwards.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::RawClient;
use crate::support::redis::Redis;
use crate::support::relay::Relay;
use crate::support::sentinel::Sentinel;
use crate::support::{free_port, wait_until};

const TABLES: &str = "CREATE TABLE t (v int); INSERT INTO t VALUES (1)";
const READ: &str = "SELECT v FROM t";
/// Soon over.
const SHORT: &str = "lease = \"600ms\"\ntimeout = \"2s\"";
/// What was agreed on lives until Redis is back.
const LONG: &str = "lease = \"4s\"\ntimeout = \"2s\"";

/// What all have agreed on.
const K: &str = "local k = redis.call('KEYS', 'fb:{g:*}')[1]";

struct Member {
    forebay: Forebay,
    client: RawClient,
    console: RawClient,
}

impl Member {
    /// `redis`: settings of that section.
    fn start(database: &Database<'_>, url: &str, group: &str, redis: &str, cache: &str) -> Self {
        let toml = format!(
            "[cache]\n{cache}\n[redis]\ntimeout = \"5s\"\nbreaker_reset = \"50ms\"\n{redis}\n\
             [group]\nname = \"g\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n{group}\n"
        );
        let forebay = Forebay::with_config(database, &toml, &["--redis", url]);
        let (client, console) = (forebay.client(), forebay.console());
        Self { forebay, client, console }
    }

    fn shown(&mut self, column: &str) -> String {
        self.console.column("SHOW GROUP", column)
    }

    fn count(&mut self, show: &str, column: &str) -> u64 {
        self.console.column(show, column).parse().unwrap()
    }
}

struct Two {
    database: Database<'static>,
    members: [Member; 2],
    value: usize,
}

impl Two {
    fn over(url: &str, group: &str) -> Self {
        Self::of(|database| [(); 2].map(|()| Member::start(database, url, group, "", "")))
    }

    /// Both are members, and answer what they keep.
    fn of(start: impl FnOnce(&Database<'static>) -> [Member; 2]) -> Self {
        let database = Database::with(TABLES);
        let mut two = Self { members: start(&database), database, value: 1 };
        two.until_hits();
        for member in &mut two.members {
            wait_until("both are members", || member.shown("members") == "2");
        }
        two
    }

    fn is_hit(&mut self, at: usize) -> bool {
        let before = self.database.seen(READ);
        self.read(at);
        self.database.seen(READ) == before
    }

    fn until_hits(&mut self) {
        for at in 0..2 {
            wait_until(&format!("{at} hits"), || self.is_hit(at));
        }
    }

    fn read(&mut self, at: usize) {
        assert_eq!(self.members[at].client.one(READ), self.value.to_string());
    }

    fn write(&mut self, at: usize) {
        self.value += 1;
        self.members[at].client.run(&format!("UPDATE t SET v = {}", self.value));
    }

    /// What each of them writes both answer from then on.
    fn write_and_read(&mut self) {
        for writer in 0..2 {
            self.write(writer);
            self.read(1 - writer);
            self.read(writer);
        }
    }

    /// Hits again, and goes on as before.
    fn until_well(&mut self) {
        self.until_hits();
        for _ in 0..5 {
            self.write_and_read();
        }
        self.until_hits();
    }

    fn until_shown(&mut self, column: &str, holds: impl Fn(&str) -> bool) {
        for at in 0..2 {
            wait_until(&format!("{at} shows another {column}"), || {
                self.read(at);
                holds(&self.members[at].shown(column))
            });
        }
    }

    /// The answer kept last lies in Redis too, and nothing is on its way there.
    fn until_stored(&mut self, redis: &Redis) {
        self.until_hits();
        for member in &mut self.members {
            wait_until("every answer kept was stored or dropped", || {
                let mut count = |column| member.count("SHOW CACHE", column);
                count("redis_stores") + count("redis_dropped") == count("fills")
            });
        }
        assert!(answers(redis) > 0);
    }

    /// What is agreed on anew, after `before`, comes to count as many changes, and meanwhile one of the
    /// two does not look.
    fn count_anew(&mut self, (before, count): (usize, usize), redis: &Redis) {
        for at in 0..2 {
            let member = &mut self.members[at];
            wait_until(&format!("{at} is in another that is open"), || {
                let (now, shown) = (act(redis), member.shown("act"));
                now != before
                    && shown.starts_with(&format!("{now:08x}"))
                    && member.shown("state") == "open"
            });
        }
        while changes(redis) < count {
            self.write(0);
            let one = &mut self.members[0];
            wait_until("the commit is told of", || one.count("SHOW GROUP", "in_flight") == 0);
        }
    }

    fn signal(&self, signal: &str) {
        for member in &self.members {
            member.forebay.daemon.signal(signal);
        }
    }

    /// While both stand still.
    fn frozen<T>(&self, work: impl FnOnce() -> T) -> T {
        self.signal("STOP");
        let result = work();
        self.signal("CONT");
        result
    }
}

/// Which K it is, by a part of its name; 0 for none.
fn act(redis: &Redis) -> usize {
    let name = "tonumber(string.sub(redis.call('HGET', k, 'act'), 1, 8), 16)";
    redis.number(&format!("{K} return k and {name} or 0"))
}

/// How many changes of the table K has counted.
fn changes(redis: &Redis) -> usize {
    redis.number(&format!(
        "{K} local most, of = 0, k and redis.call('HGETALL', k) or {{}} for at = 1, #of, 2 do \
         if string.find(of[at], '^s:%d') then most = math.max(most, tonumber(string.match(of[at + 1], '^%d+'))) end \
         end return most"
    ))
}

fn answers(redis: &Redis) -> usize {
    redis.keys("fb:*:v:")
}

/// Lua for whether it says so of itself.
fn says(what: &str) -> String {
    format!("return string.find(redis.call('INFO'), '{what}', 1, true) and 1 or 0")
}

fn say(redis: &Redis, command: &str) {
    assert_eq!(redis.command(command), "+OK\r\n", "{command}");
}

/// Every K that is evicted from now on.
fn evicted(redis: &Redis) -> Receiver<String> {
    let channel_name = "__keyevent@0__:evicted";
    say(redis, "CONFIG SET notify-keyspace-events Ee");
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
    stream.write_all(format!("SUBSCRIBE {channel_name}\r\n").as_bytes()).unwrap();
    let subscribers = format!("return redis.call('PUBSUB', 'NUMSUB', '{channel_name}')[2]");
    wait_until("somebody listens", || redis.number(&subscribers) == 1);
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        for key in lines.filter(|line| line.starts_with("fb:{g:") && line.ends_with('}')) {
            // The test may be over.
            let _over = tell.send(key);
        }
    });
    told
}

#[test]
fn a_redis_that_evicts_what_was_agreed_on_makes_no_hit_old() {
    let redis = Redis::with(&["--maxmemory-policy", "allkeys-random"]);
    let mut two = Two::over(&redis.url(), SHORT);
    let evicted = evicted(&redis);
    let used = "return tonumber(string.match(redis.call('INFO', 'memory'), 'used_memory:(%d+)'))";
    redis.set_memory(&(redis.number(used) + (1 << 20)).to_string());
    two.write(1);
    two.until_hits();
    two.until_shown("state", |state| state == "open");
    let before = (act(&redis), changes(&redis));
    let mut pushed = 0;
    let mut push = || {
        pushed += 1;
        redis.command(&format!("SETRANGE pad:{pushed} 100000 x"));
    };
    wait_until("it is evicted", || {
        push();
        evicted.try_recv().is_ok()
    });
    two.count_anew(before, &redis);
    two.until_hits();
    while evicted.try_recv().is_ok() {}
    wait_until("it is evicted beside writes", || {
        push();
        two.write_and_read();
        evicted.try_recv().is_ok()
    });
    // Redis is as full as it was.
    two.until_well();
}

#[test]
fn a_redis_that_is_full_costs_hits_and_says_why() {
    let redis = Redis::start();
    let mut two = Two::over(&redis.url(), SHORT);
    redis.set_memory("1");
    for _ in 0..5 {
        two.write_and_read();
    }
    two.until_shown("failure", |failure| failure.contains("OOM"));
    two.until_shown("state", |state| state == "out");
    for at in 0..2 {
        assert!(!two.is_hit(at));
        let reasons = two.members[at].console.rows("SHOW CACHE_REASONS");
        assert!(reasons.iter().any(|row| row[0].as_deref() == Some("group_shut")), "{reasons:?}");
    }
    two.write_and_read();
    redis.set_memory("0");
    two.until_well();
}

#[test]
fn what_a_redis_started_from_an_old_dump_has_agreed_on_is_not_believed() {
    let mut redis = Redis::start();
    let mut two = Two::over(&redis.url(), LONG);
    two.write_and_read();
    two.until_stored(&redis);
    // It is in the dump however long Redis takes to start, and afterwards has its end again.
    let saved = two.frozen(|| {
        redis.number(&format!("{K} return redis.call('PERSIST', k)"));
        say(&redis, "SAVE");
        redis.number(&format!(
            "{K} return redis.call('PEXPIREAT', k, redis.call('HGET', k, 'end'))"
        ));
        act(&redis)
    });
    let answered = answers(&redis);
    // Of which the dump knows nothing, nor has the other looked.
    for _ in 0..5 {
        two.write(0);
        two.read(0);
    }
    two.frozen(|| {
        redis.stop();
        redis.resume_from_stop();
        assert_eq!((act(&redis), answers(&redis)), (saved, answered));
    });
    two.until_hits();
    assert_ne!(act(&redis), saved);
    two.until_well();
}

#[test]
fn a_replica_that_is_promoted_without_the_last_writes_is_not_believed() {
    let user = ["--user", "copy", "on", ">p", "+psync", "+replconf", "+ping"];
    let mut primary = Redis::with(&[&["--repl-diskless-sync-delay", "0"], &user[..]].concat());
    let place = format!("127.0.0.1 {}", primary.port);
    let replica =
        Redis::with(&["--replicaof", &place, "--masteruser", "copy", "--masterauth", "p"]);
    wait_until("there is a replica", || primary.number(&says("state=online")) == 1);
    // It fails over when it is told to.
    let sentinel = Sentinel::start(&primary, "main", "sentinel down-after-milliseconds main 60000");
    let tell = |command: &str| sentinel.command(command);
    wait_until("Sentinel knows it", || tell("SENTINEL REPLICAS main") == "*1\r\n");
    let url = format!("redis+sentinel://127.0.0.1:{}/0?master=main", sentinel.port);
    let mut two = Two::over(&url, LONG);
    two.write_and_read();
    two.until_stored(&primary);
    wait_until("it is copied", || {
        (act(&replica), answers(&replica)) == (act(&primary), answers(&primary))
    });
    // Whoever copies is sent away, and let in no more.
    say(&primary, "ACL SETUSER copy off");
    assert_eq!(primary.command("CLIENT KILL TYPE replica"), ":1\r\n");
    // What is copied stays however long promoting it takes.
    say(&replica, "CONFIG SET replica-read-only no");
    replica.number(&format!("{K} return redis.call('PERSIST', k)"));
    for _ in 0..5 {
        two.write(0);
        two.read(0);
    }
    assert_eq!(act(&replica), act(&primary));
    assert!(changes(&replica) < changes(&primary));
    let copied = act(&replica);
    primary.stop();
    wait_until("it is failed over", || tell("SENTINEL FAILOVER main") == "+OK\r\n");
    two.until_hits();
    assert_eq!(replica.number(&says("role:master")), 1);
    assert!(![0, copied].contains(&act(&replica)));
    two.until_well();
}

fn tls_file(name: &str) -> String {
    format!("{}/tests/suite/support/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn over_tls_members_and_sentinels_agree_as_well() {
    let (cert, key, port) = (tls_file("server.pem"), tls_file("server.key"), free_port());
    let options = [
        ("tls-port", port.to_string()),
        ("tls-cert-file", cert.clone()),
        ("tls-key-file", key.clone()),
        ("tls-auth-clients", "no".to_owned()),
    ];
    let words: Vec<String> =
        options.iter().flat_map(|(name, value)| [format!("--{name}"), value.clone()]).collect();
    let redis = Redis::with(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let (asked, ca) = (free_port(), tls_file("ca.pem"));
    let lines = format!(
        "sentinel monitor sealed 127.0.0.1 {port} 1\ntls-replication yes\ntls-port {asked}\n\
         tls-cert-file {cert}\ntls-key-file {key}\ntls-ca-cert-file {ca}\ntls-auth-clients no"
    );
    let _sentinel = Sentinel::start(&redis, "main", &lines);
    let authority = format!("tls_ca_file = \"{ca}\"");
    let mut two = Two::of(|database| {
        [
            format!("rediss://127.0.0.1:{port}"),
            format!("rediss+sentinel://127.0.0.1:{asked}/0?master=sealed"),
        ]
        .map(|url| Member::start(database, &url, SHORT, &authority, ""))
    });
    two.until_stored(&redis);
    two.until_well();
}

#[test]
fn one_that_keeps_no_answers_announces_its_writes() {
    let redis = Redis::start();
    let caches = ["mode = \"on\"", "mode = \"off\""];
    let database = Database::with(TABLES);
    let mut members = caches.map(|cache| Member::start(&database, &redis.url(), SHORT, "", cache));
    let [one, off] = &mut members;
    for value in 2..30 {
        database.until_hit(&mut one.client, READ);
        let writer = if value % 4 == 0 { &mut one.client } else { &mut off.client };
        writer.run(&format!("UPDATE t SET v = {value}"));
        assert_eq!(one.client.one(READ), value.to_string());
        assert_eq!(off.client.one(READ), value.to_string());
    }
    database.until_hit(&mut one.client, READ);
    assert!(!database.is_hit(&mut off.client, READ));
    assert_eq!(off.count("SHOW CACHE", "hits"), 0);
    assert!(off.count("SHOW GROUP", "begins") > 0);
    wait_until("they agree", || {
        one.shown("members") == "2" && one.shown("act") == off.shown("act")
    });
}

#[test]
fn a_redis_started_again_empty_costs_hits_alone() {
    let mut redis = Redis::start();
    let mut two = Two::over(&redis.url(), SHORT);
    for _ in 0..3 {
        two.write(1);
        two.until_stored(&redis);
        let before = (act(&redis), changes(&redis));
        two.frozen(|| {
            redis.stop();
            redis.resume_from_stop();
            assert_eq!(redis.keys(""), 0);
        });
        two.count_anew(before, &redis);
        two.until_hits();
    }
    two.until_well();
}

#[test]
fn a_slow_redis_is_asked_and_one_that_is_too_slow_is_not_waited_for() {
    let redis = Redis::start();
    let relay = Relay::to(redis.port);
    let group = "lease = \"1s\"\ntimeout = \"300ms\"";
    let urls = [format!("redis://127.0.0.1:{}", relay.port), redis.url()];
    let mut two = Two::of(|database| urls.map(|url| Member::start(database, &url, group, "", "")));
    relay.delay(Duration::from_millis(50));
    wait_until("it is slow to one", || {
        two.read(0);
        two.members[0].count("SHOW GROUP", "round_us") >= 50_000
    });
    two.until_well();
    relay.delay(Duration::from_secs(2));
    // It is announced too late, and the other may still hit.
    two.write(0);
    two.read(1);
    wait_until("it is given up", || {
        two.read(0);
        two.members[0].shown("failure") == "no answer in time"
    });
    // Nor may the other believe what it knows, for here is one who is not heard.
    wait_until("neither hits", || !two.is_hit(0) && !two.is_hit(1));
    for _ in 0..3 {
        two.write_and_read();
    }
    relay.delay(Duration::ZERO);
    two.until_well();
}

/// The one that is installed, or what `VALKEY_SERVER` names; `tests/run.sh` says so if there is none.
#[test]
fn a_group_has_valkey_where_it_would_have_redis() {
    let program =
        std::env::var("VALKEY_SERVER").unwrap_or_else(|_unset| "valkey-server".to_owned());
    if Command::new(&program).arg("--version").output().is_err() {
        println!("{program} is not installed: a group over Valkey was not tested");
        return;
    }
    let mut valkey = Redis::run(&program, &[]);
    assert_eq!(valkey.number(&says("valkey_version:")), 1);
    let mut two = Two::over(&valkey.url(), SHORT);
    two.until_stored(&valkey);
    two.until_well();
    valkey.flush();
    two.write_and_read();
    two.until_well();
    valkey.stop();
    two.write_and_read();
    valkey.resume_from_stop();
    two.until_well();
}
