//! A cancel request stops the query it was meant for, whichever of a group it reaches, and nobody
//! else stops any.

use crate::group_link::cluster;
use crate::support::DEADLINE;
use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, RawClient, cancel, query};
use crate::support::redis::{RIGHTS_OF_GROUP, Redis};
use crate::support::wait_until;

const SLEEP: &str = "SELECT pg_sleep(60)";
const CANCELLED: &str = "T(pg_sleep) E(57014) Z(I)";
const CHANNEL: &str = "fb:{g}:talk";
const GROUP: &str = "[group]\nname = \"g\"\nlease = \"600ms\"\ntimeout = \"2s\"\n";
const SECRET: &str = "secret = \"0123456789abcdef0123456789abcdef\"\n";
const OTHER_SECRET: &str = "secret = \"fedcba9876543210fedcba9876543210\"\n";

struct Two {
    database: Database<'static>,
    members: [Forebay; 2],
}

impl Two {
    /// In a group over the Redis of each, with these further settings of each.
    fn start(urls: [&str; 2], toml: [&str; 2]) -> Self {
        let database = Database::with("");
        let member = |at: usize| {
            let toml = format!("{GROUP}{}", toml[at]);
            Forebay::with_config(&database, &toml, &["--redis", urls[at]])
        };
        let members = [member(0), member(1)];
        Self { database, members }
    }

    fn over(redis: &Redis, toml: &str) -> Self {
        let two = Self::start([&redis.url(), &redis.url()], [toml; 2]);
        until_heard_by(redis, 2);
        two
    }

    /// A client of that member that is to be cancelled, or not.
    fn sleeper(&self, at: usize) -> RawClient {
        let mut client = self.members[at].client();
        client.send(&query(SLEEP));
        client
    }

    fn until_sleeping(&self, count: usize) {
        let mut admin = self.database.admin();
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                   AND state = 'active' AND wait_event = 'PgSleep'";
        wait_until("so many sleep", || admin.one(sql) == count.to_string());
    }

    fn cancel_at(&self, at: usize, client: &RawClient) {
        let mut connection = RawClient::connect(self.members[at].port);
        connection.send(&cancel(client.pid, &client.key));
        assert_eq!(connection.until_closed(), "");
    }

    /// Sent, heard and dropped; of a member that has opened a database.
    fn counted(&self, at: usize) -> [usize; 3] {
        let mut console = self.members[at].console();
        let mut count = |column: &str| {
            console.column("SHOW GROUP", &format!("cancels_{column}")).parse().unwrap()
        };
        [count("sent"), count("heard"), count("dropped")]
    }
}

fn until_heard_by(redis: &Redis, count: usize) {
    let ask = format!("return redis.call('PUBSUB', 'NUMSUB', '{CHANNEL}')[2]");
    wait_until("all listen", || redis.number(&ask) == count);
}

fn check(urls: [&str; 2], toml: [&str; 2], listening: impl Fn()) {
    let two = Two::start(urls, toml);
    listening();
    let (mut one, mut other) = (two.sleeper(0), two.sleeper(0));
    two.until_sleeping(2);
    // Nobody has come to the second one yet.
    two.cancel_at(1, &one);
    assert_eq!(one.replies(), CANCELLED);
    two.until_sleeping(1);
    one.send(&query(SLEEP));
    two.until_sleeping(2);
    two.cancel_at(1, &other);
    assert_eq!(other.replies(), CANCELLED);
    two.cancel_at(1, &one);
    assert_eq!(one.replies(), CANCELLED);
    assert_eq!(two.counted(0), [0, 3, 0]);
    // In the other direction, too.
    let mut third = two.sleeper(1);
    two.until_sleeping(1);
    two.cancel_at(0, &third);
    assert_eq!(third.replies(), CANCELLED);
    assert_eq!((two.counted(0), two.counted(1)), ([1, 3, 0], [3, 1, 0]));
}

#[test]
fn whichever_it_reaches_it_stops_the_query_of_its_client_and_no_other() {
    let redis = Redis::start();
    let url = redis.url();
    let both = |toml| check([&url, &url], toml, || until_heard_by(&redis, 2));
    both([""; 2]);
    both([SECRET; 2]);
    both(["[pool]\npool_mode = \"session\"\n"; 2]);
    // Keys that say whose client it is, and nobody is told where that one is.
    both(["[listen]\npeer_id = 1\n", "[listen]\npeer_id = 2\n"]);
    both(["[listen]\npeer_id = 1\n", ""]);
}

#[test]
fn so_it_does_through_any_two_nodes_of_a_cluster() {
    let nodes = cluster();
    check([&nodes[0].url(), &nodes[1].url()], [""; 2], || {
        for node in &nodes {
            until_heard_by(node, 1);
        }
    });
}

#[test]
fn long_keys_are_told_alike() {
    let redis = Redis::start();
    let two = Two::over(&redis, "");
    let login = Login::new(USER, PASSWORD, &two.database.name).minor(2);
    let mut one = two.members[0].log_in(&login).unwrap();
    assert_eq!(one.key.len(), 32);
    one.send(&query(SLEEP));
    two.until_sleeping(1);
    two.cancel_at(1, &one);
    assert_eq!(one.replies(), CANCELLED);
}

#[test]
fn whoever_has_another_secret_stops_nothing() {
    let redis = Redis::start();
    let mut two = Two::start([&redis.url(), &redis.url()], [SECRET, OTHER_SECRET]);
    until_heard_by(&redis, 2);
    let (mut one, mut other) = (two.sleeper(0), two.sleeper(0));
    two.until_sleeping(2);
    two.cancel_at(1, &one);
    let toml = format!("{GROUP}{SECRET}");
    two.members[1] = Forebay::with_config(&two.database, &toml, &["--redis", &redis.url()]);
    // What this one says comes after that.
    two.cancel_at(1, &other);
    assert_eq!(other.replies(), CANCELLED);
    assert_eq!(two.counted(0), [0, 1, 0]);
    two.until_sleeping(1);
    two.cancel_at(1, &one);
    assert_eq!(one.replies(), CANCELLED);
}

#[test]
fn without_redis_a_cancel_request_for_another_is_closed_and_counted() {
    let mut redis = Redis::start();
    let two = Two::over(&redis, "");
    assert_eq!(two.members[1].client().one("SELECT 1"), "1");
    let mut one = two.sleeper(0);
    two.until_sleeping(1);
    redis.stop();
    two.cancel_at(1, &one);
    assert_eq!(two.counted(1), [0, 0, 1]);
    two.until_sleeping(1);
    two.cancel_at(0, &one);
    assert_eq!(one.replies(), CANCELLED);
    redis.resume_from_stop();
    until_heard_by(&redis, 2);
    one.send(&query(SLEEP));
    two.until_sleeping(1);
    two.cancel_at(1, &one);
    assert_eq!(one.replies(), CANCELLED);
    assert_eq!((two.counted(0), two.counted(1)), ([0, 1, 0], [1, 0, 1]));
}

#[test]
fn while_redis_does_not_answer_so_many_wait_for_it_and_no_more() {
    let redis = Redis::start();
    let two = Two::over(&redis, "");
    assert_eq!(two.members[1].client().one("SELECT 1"), "1");
    redis.pause();
    let mut waiting: Vec<RawClient> = (0..80_u32)
        .map(|pid| {
            let mut connection = RawClient::connect(two.members[1].port);
            connection.send(&cancel(pid, &[1, 2, 3, 4]));
            connection
        })
        .collect();
    two.members[1].log_contains("too many cancel requests to tell the group of this one");
    for connection in &mut waiting {
        assert_eq!(connection.until_closed(), "");
    }
    assert_eq!(two.counted(1), [0, 0, 80]);
    redis.resume();
}

#[test]
fn what_others_put_into_the_channel_does_nothing() {
    let redis = Redis::start();
    let two = Two::over(&redis, SECRET);
    let client = redis::Client::open(redis.url()).unwrap();
    let mut watching = client.get_connection().unwrap();
    watching.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut watching = watching.as_pubsub();
    watching.subscribe(CHANNEL).unwrap();
    let mut publishing = client.get_connection().unwrap();
    let mut publish = |word: &[u8]| {
        let heard: usize =
            redis::cmd("PUBLISH").arg(CHANNEL).arg(word).query(&mut publishing).unwrap();
        assert_eq!(heard, 3);
    };

    let (mut one, mut other) = (two.sleeper(0), two.sleeper(0));
    two.until_sleeping(2);
    two.cancel_at(1, &one);
    assert_eq!(one.replies(), CANCELLED);
    let word = watching.get_message().unwrap().get_payload_bytes().to_vec();
    one.send(&query(SLEEP));
    two.until_sleeping(2);
    // What was said once, and whatever is like it.
    publish(&word);
    for at in 0..word.len() {
        let mut changed = word.clone();
        changed[at] ^= 1;
        publish(&changed);
        publish(&word[..at]);
    }
    publish(&[word.as_slice(), &[0]].concat());
    publish(&vec![1; 1 << 20]);
    let [first, .., last] = one.pid.to_be_bytes();
    publish(&[&[1, last, first][..], &one.key].concat());
    // It comes after all these.
    two.cancel_at(1, &other);
    assert_eq!(other.replies(), CANCELLED);
    assert_eq!(two.counted(0), [0, 2, 0]);
    two.until_sleeping(1);
    two.cancel_at(1, &one);
    assert_eq!(one.replies(), CANCELLED);
}

#[test]
fn a_user_without_the_channel_is_told_of() {
    let redis = Redis::with(&["--user", "f", "on", ">p", "~fb:*", "resetchannels", "+@all"]);
    let url = format!("redis://f:p@127.0.0.1:{}/0", redis.port);
    let two = Two::start([&url, &url], [""; 2]);
    for member in &two.members {
        member.log_contains("the group is not heard");
        assert!(member.log().contains("NOPERM"));
    }
    assert_eq!(two.members[1].client().one("SELECT 1"), "1");
    let mut one = two.sleeper(0);
    two.until_sleeping(1);
    two.cancel_at(1, &one);
    assert_eq!(two.counted(1), [0, 0, 1]);
    two.cancel_at(0, &one);
    assert_eq!(one.replies(), CANCELLED);
}

#[test]
fn so_much_of_redis_is_enough() {
    let redis = Redis::with_rights(RIGHTS_OF_GROUP);
    let url = redis.url_of_user();
    check([&url, &url], [""; 2], || until_heard_by(&redis, 2));
}
