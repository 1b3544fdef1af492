//! What the console shows of a group, and what it does to one.

use forebay::cache::group::link::{Link, LinkError, Settings};
use forebay::cache::group::picture::Picture;

use crate::support::DEADLINE;
use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, RawClient, query};
use crate::support::redis::Redis;
use crate::support::wait_until;

const TABLES: &str = "CREATE TABLE t (v int); INSERT INTO t VALUES (1)";
const READ: &str = "SELECT v FROM t";

struct Member {
    forebay: Forebay,
    client: RawClient,
    console: RawClient,
}

fn settings(lease: &str) -> String {
    format!(
        "[redis]\ntimeout = \"5s\"\n[group]\nname = \"g\"\nlease = \"{lease}\"\n\
         timeout = \"2s\"\n"
    )
}

impl Member {
    fn start(database: &Database<'_>, url: &str, lease: &str) -> Self {
        let forebay = Forebay::with_config(database, &settings(lease), &["--redis", url]);
        let (client, console) = (forebay.client(), forebay.console());
        Self { forebay, client, console }
    }

    /// Rows with their values joined by blanks.
    fn rows(&mut self, sql: &str) -> Vec<String> {
        let row = |row: Vec<Option<String>>| {
            let values = row.iter().map(|value| value.as_deref().unwrap_or("-"));
            values.collect::<Vec<_>>().join(" ")
        };
        self.console.rows(sql).into_iter().map(row).collect()
    }

    fn shown(&mut self, column: &str) -> String {
        self.console.column("SHOW GROUP", column)
    }
}

/// Two that hit.
fn two(redis: &Redis) -> (Database<'static>, [Member; 2]) {
    let database = Database::with(TABLES);
    let mut members = [(); 2].map(|()| Member::start(&database, &redis.url(), "600ms"));
    for member in &mut members {
        database.until_hit(&mut member.client, READ);
    }
    for member in &mut members {
        wait_until("both are members", || member.shown("members") == "2");
    }
    (database, members)
}

#[test]
fn every_member_is_shown_wherever_it_is_asked_for() {
    let redis = Redis::start();
    let (database, mut members) = two(&redis);
    let ids = members.each_mut().map(|member| member.shown("member"));
    for (at, member) in members.iter_mut().enumerate() {
        // Who was alone hits unasked for a while still, and a lease may end.
        wait_until("both are shown, and ask", || {
            let rows = member.console.rows("SHOW GROUP_MEMBERS ORDER BY own DESC");
            let shown: Vec<Vec<&str>> = rows
                .iter()
                .map(|row| row.iter().map(|value| value.as_deref().unwrap_or("-")).collect())
                .collect();
            let asks = |row: &Vec<&str>| {
                let lease: u64 = row[3].parse().unwrap();
                (1..=600).contains(&lease) && (row[4], row[6]) == ("redis", "-")
            };
            shown.len() == 2
                && shown[0][..3] == [database.name.as_str(), ids[at].as_str(), "yes"]
                && shown[1][..3] == [database.name.as_str(), ids[1 - at].as_str(), "no"]
                && shown.iter().all(asks)
        });
        let [median, slow] =
            ["round_p50_us", "round_p99_us"].map(|name| member.shown(name).parse::<u64>().unwrap());
        assert!(0 < median && median <= slow, "{median} {slow}");
    }
    assert_eq!(members[0].rows("SHOW GROUP_MEMBERS LIMIT 1").len(), 1);
}

#[test]
fn the_redis_is_shown_with_what_is_wrong_with_it() {
    let redis = Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"]);
    let (_database, mut members) = two(&redis);
    let version = redis.version();
    for member in &mut members {
        assert_eq!(member.shown("redis"), format!("127.0.0.1:{}", redis.port));
        assert_eq!(member.shown("redis_version"), version);
        assert!(member.shown("warnings").starts_with("maxmemory-policy volatile-ttl may drop"));
        assert_eq!(member.shown("opened"), "1");
    }
    let healthy = Redis::start();
    let (_database, mut members) = two(&healthy);
    assert_eq!(members[0].shown("warnings"), "NULL");
}

#[test]
fn what_is_in_flight_is_shown_by_table_and_member() {
    let redis = Redis::start();
    let (database, mut members) = two(&redis);
    let mut direct = database.direct();
    direct.run("BEGIN");
    direct.run("UPDATE t SET v = 1");
    members[0].client.send(&query("UPDATE t SET v = 2"));
    let id = members[0].shown("member");
    let row = |own| format!("{} public.t {id} {own} 1 ", database.name);
    for (member, own) in members.iter_mut().zip(["yes", "no"]) {
        wait_until("it is announced", || {
            let rows = member.rows("SHOW GROUP_IN_FLIGHT");
            rows.len() == 1 && rows[0].starts_with(&row(own))
        });
    }
    direct.run("COMMIT");
    assert_eq!(members[0].client.replies(), "C(UPDATE 1) Z(I)");
    wait_until("it is over", || members[1].rows("SHOW GROUP_IN_FLIGHT").is_empty());
}

#[test]
fn what_redis_does_not_tell_is_shown_with_the_reason() {
    let mut redis = Redis::start();
    let (database, mut members) = two(&redis);
    let ask = "SHOW GROUP_MEMBERS";
    redis.pause();
    let silent = format!("{} - - - - - no answer in time", database.name);
    assert_eq!(members[0].rows(ask), [silent]);
    redis.resume();
    redis.stop();
    for ask in [ask, "SHOW GROUP_IN_FLIGHT"] {
        let rows = members[0].rows(ask);
        assert!(rows.len() == 1 && rows[0].contains("refused"), "{rows:?}");
    }
}

#[test]
fn more_than_k_can_have_is_not_read() {
    let redis = Redis::start();
    let fill = |count: u32| {
        redis.number(&format!(
            "for n = 1, {count} do redis.call('HSET', 'fb:{{x}}', n, n) end return 1"
        ));
    };
    let settings = Settings { url: redis.url(), authorities: None, timeout: DEADLINE };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let read = || {
        let link = runtime.block_on(Link::connect(&settings, "fb:{x}")).unwrap();
        runtime.block_on(link.place().picture("fb:{x}", DEADLINE))
    };
    fill(1 << 15);
    assert_eq!(read(), Ok(Picture::default()));
    fill((1 << 15) + 1);
    assert_eq!(read(), Err(LinkError::Refused("fb:{x} has 32769 fields".to_owned())));
}

#[test]
fn what_was_dropped_is_shown_with_the_reason() {
    let redis = Redis::start();
    let (database, members) = two(&redis);
    let has = |member: &mut Member, what: &str| {
        let start = format!("{} ", database.name);
        wait_until(what, || {
            let rows = member.rows("SHOW GROUP_DROPS");
            rows.iter().any(|row| row.starts_with(&start) && row.ends_with(what))
        });
    };
    let [mut stays, mut goes] = members;
    has(&mut stays, "all it has joined the group");
    has(&mut stays, "all the group has opened");
    redis.flush();
    has(&mut stays, "all what the group had agreed on is gone");
    database.until_hit(&mut goes.client, READ);
    wait_until("both are members", || stays.shown("members") == "2");
    let gone = format!("member {} PostgreSQL does not show it", goes.shown("member"));
    drop(goes);
    has(&mut stays, &gone);
}

#[test]
fn a_flush_by_one_that_is_cut_off_from_redis_is_made_up_for() {
    let redis = Redis::with(&["--user", "f", "on", ">p", "~fb:*", "&fb:*", "+@all"]);
    let mut operator = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let mut say = |words: &[&str]| {
        let _said: redis::Value =
            redis::cmd(words[0]).arg(&words[1..]).query(&mut operator).unwrap();
    };
    let database = Database::with(TABLES);
    let url = format!("redis://f:p@127.0.0.1:{}/0", redis.port);
    // What is agreed on outlives the time for which one of them is away.
    let lease = "10s";
    let mut cut_off = Member::start(&database, &url, lease);
    database.until_hit(&mut cut_off.client, READ);
    let mut other = Member::start(&database, &redis.url(), lease);
    database.until_hit(&mut other.client, READ);
    let act = other.shown("act");

    say(&["ACL", "SETUSER", "f", "off"]);
    say(&["CLIENT", "KILL", "USER", "f"]);
    // It looks only when it needs something.
    wait_until("it is out", || {
        cut_off.client.run(READ);
        cut_off.shown("state") == "out"
    });
    cut_off.console.run("FLUSH CACHE");
    database.direct().run("UPDATE t SET v = 2");
    assert!(database.is_hit(&mut other.client, READ));
    assert_eq!(other.client.one(READ), "1");
    say(&["ACL", "SETUSER", "f", "on"]);
    wait_until("the flush is known to all", || other.client.one(READ) == "2");
    assert_eq!(other.shown("act"), act);
    assert!(!cut_off.forebay.log().contains("what the group had agreed on is gone"));
}

/// What FLUSH says of databases that it cannot know of.
const UNNAMED: &str = "N(databases that only \"*\" names and no client has come to here are not \
     flushed at other members: FLUSH CACHE DATABASE <name> does that) C(FLUSH) Z(I)";

#[test]
fn a_flush_by_one_that_no_client_has_come_to_is_known_to_all() {
    let (redis, databases) = (Redis::start(), [(); 3].map(|()| Database::with(TABLES)));
    // What is agreed on outlives the start of one more.
    let lease = "3s";
    let used = Member::start(&databases[0], &redis.url(), lease);
    let name = |at: usize| databases[at].name.as_str();
    let mut clients =
        [0, 1, 2].map(|at| used.forebay.log_in(&Login::new(USER, PASSWORD, name(at))).unwrap());
    for (database, client) in databases.iter().zip(&mut clients) {
        database.until_hit(client, READ);
    }
    // One is that of the URL, one is named, and of one nobody has heard.
    let named = format!(
        "{}[databases]\nshop = {{ host = \"127.0.0.1\", port = {}, dbname = \"{}\" }}\n",
        settings(lease),
        databases[1].postgres.port,
        name(1),
    );
    let port = databases[2].postgres.port;
    let any = format!("{named}\"*\" = {{ host = \"127.0.0.1\", port = {port} }}\n");
    let start = |toml: &str| Forebay::with_config(&databases[0], toml, &["--redis", &redis.url()]);
    let by_name = |at| (format!("FLUSH CACHE DATABASE {}", name(at)), "C(FLUSH) Z(I)");
    let mut check = |toml: &str, at: usize, (flush, said): (String, &str)| {
        let (database, client) = (&databases[at], &mut clients[at]);
        let mut now = String::new();
        wait_until("what is old is a hit", || {
            database.until_hit(client, READ);
            database.direct().run("UPDATE t SET v = v + 1");
            now = database.direct().one(READ);
            client.one(READ) != now
        });
        let idle = start(toml);
        let heard = idle.console().query(&flush);
        wait_until(&format!("{flush} is known to all"), || client.one(READ) == now);
        assert_eq!(heard, said, "{flush}");
        // Again by who has it open.
        assert_eq!(idle.console().query(&flush), said, "{flush}");
    };
    check(&any, 0, ("FLUSH CACHE".to_owned(), UNNAMED));
    check(&any, 1, ("FLUSH CACHE ROLE ann".to_owned(), UNNAMED));
    check(&any, 1, ("FLUSH CACHE DATABASE shop".to_owned(), "C(FLUSH) Z(I)"));
    check(&any, 1, by_name(1));
    check(&any, 2, by_name(2));
    // By PostgreSQL's name alone.
    check(&named, 1, by_name(1));
}
