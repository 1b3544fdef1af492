//! The connection of a group to its Redis: found wherever the URL says, refused with the reason
//! where it would not do, and over after the first error.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use forebay::cache::group::life::Life;
use forebay::cache::group::link::{Link, LinkError, Settings};
use forebay::cache::group::process::{Unfit, Warning};
use forebay::cache::group::script::{Answer, Renew, Request};
use forebay::cache::group::slot::Act;

use crate::support::redis::Redis;
use crate::support::sentinel::Sentinel;
use crate::support::{DEADLINE, free_port, wait_until};

const KEY: &str = "fb:{test:1:2}";
const ACT: Act = Act([7; 16]);
const LIFE: Life = Life { timeline: 1, started: 1 };
/// What is not going to answer is not waited for longer.
const SHORT: Duration = Duration::from_millis(50);

/// A link, and what drives it.
struct World {
    runtime: tokio::runtime::Runtime,
    link: Link,
}

impl World {
    fn new(url: &str) -> Self {
        connect(url, None, DEADLINE).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn round(&mut self, requests: &[Request], time: Duration) -> Result<Vec<Answer>, LinkError> {
        let replies = self.runtime.block_on(self.link.round(requests, time))?;
        Ok(replies.into_iter().map(|reply| reply.answer).collect())
    }

    /// Forms K.
    fn join(&mut self) -> Result<Answer, LinkError> {
        let (process, marks) = (self.link.process(), Vec::new());
        let join = Request::Join {
            process,
            life: LIFE,
            id: 1,
            until: 1 << 50,
            act: ACT,
            lease: 1 << 50,
            marks,
        };
        Ok(self.round(&[join], DEADLINE)?.remove(0))
    }

    fn members(&mut self) -> Result<Answer, LinkError> {
        Ok(self.round(&[Request::Members { act: ACT }], DEADLINE)?.remove(0))
    }
}

fn connect(url: &str, ca: Option<&str>, timeout: Duration) -> Result<World, LinkError> {
    let authorities = ca.map(|name| std::fs::read(tls_file(name)).unwrap());
    let settings = Settings { url: url.to_owned(), authorities, timeout };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let link = runtime.block_on(Link::connect(&settings, KEY))?;
    Ok(World { runtime, link })
}

fn refusal(url: &str) -> LinkError {
    match connect(url, None, DEADLINE) {
        Ok(_world) => panic!("{url} is not refused"),
        Err(error) => error,
    }
}

fn tls_file(name: &str) -> String {
    format!("{}/tests/suite/support/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What Redis says to this command.
fn say(redis: &Redis, command: &str) -> String {
    try_say(redis.port, command).unwrap_or_else(|error| panic!("{command}: {error}"))
}

fn try_say(port: u16, command: &str) -> redis::RedisResult<String> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let mut words = command.split(' ');
    let mut sent = redis::cmd(words.next().unwrap());
    let value: redis::Value =
        sent.arg(words.collect::<Vec<_>>()).query(&mut client.get_connection()?)?;
    redis::from_redis_value(value).or_else(|_not_text| Ok(String::new()))
}

/// That the link asks and answers.
fn check(world: &mut World) {
    assert_eq!(
        world.join().unwrap(),
        Answer::Joined { act: ACT, open: false, seq: 1, outlived: 0 }
    );
    assert_eq!(world.members().unwrap(), Answer::Members { seq: 1, ids: vec![1] });
}

#[test]
fn every_kind_of_address_leads_to_the_same_process() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url());
    check(&mut world);
    let (plain, socket) = (redis.url(), format!("unix://{}", redis.socket()));
    for url in
        [format!("{plain}?protocol=resp3"), socket.clone(), format!("{socket}?protocol=resp3")]
    {
        let mut other = World::new(&url);
        assert_eq!(other.members().unwrap(), world.members().unwrap(), "{url}");
        assert_eq!(other.link.process(), world.link.process(), "{url}");
    }
}

#[test]
fn answers_come_in_the_order_of_the_questions() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url());
    world.join().unwrap();
    let requests = [
        Request::Time,
        Request::Members { act: Act([8; 16]) },
        Request::Check { slots: Vec::new() },
        Request::Leave { act: ACT, id: 1 },
        Request::Leave { act: ACT, id: 2 },
    ];
    let checked = Answer::Checked { act: Some(ACT), open: None, slots: Vec::new() };
    let expected = [Answer::Time, Answer::Lost, checked, Answer::Left, Answer::Lost];
    assert_eq!(world.round(&requests, DEADLINE).unwrap(), expected);
    assert_eq!(world.round(&[], SHORT).unwrap(), []);
}

#[test]
fn a_redis_that_was_started_again_is_another_process() {
    let mut redis = Redis::start();
    let mut world = World::new(&redis.url());
    let before = world.link.process();
    redis.stop();
    assert!(matches!(world.members(), Err(LinkError::Lost(_))));
    assert_eq!(world.members(), Err(LinkError::Over));
    assert!(matches!(refusal(&redis.url()), LinkError::Lost(_)));
    redis.resume_from_stop();
    assert_ne!(World::new(&redis.url()).link.process(), before);
}

#[test]
fn a_link_may_be_over_tls() {
    let port = free_port().to_string();
    let (cert, key) = (tls_file("server.pem"), tls_file("server.key"));
    let _redis = Redis::with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://127.0.0.1:{port}");
    check(&mut connect(&url, Some("ca.pem"), DEADLINE).unwrap());
    let other = connect(&url, Some("self_signed.pem"), DEADLINE).err();
    assert!(
        matches!(&other, Some(LinkError::Lost(text)) if text.contains("UnknownIssuer")),
        "{other:?}"
    );
}

#[test]
fn a_password_is_needed_where_one_is_asked_for() {
    let redis = Redis::with(&["--requirepass", "hunter2"]);
    let port = redis.port;
    check(&mut World::new(&format!("redis://:hunter2@127.0.0.1:{port}")));
    assert!(
        matches!(refusal(&redis.url()), LinkError::Refused(text) if text.starts_with("NOAUTH"))
    );
    let wrong = refusal(&format!("redis://:wrong@127.0.0.1:{port}"));
    assert!(
        matches!(&wrong, LinkError::Lost(text) if text.contains("authentication")),
        "{wrong:?}"
    );
}

#[test]
fn a_user_is_told_which_commands_are_missing() {
    let redis = Redis::start();
    let all =
        "+hmget +info +script|load +evalsha +time +hget +hset +hdel +hgetall +hlen +del +pexpireat";
    let url = format!("redis://bob:p@127.0.0.1:{}", redis.port);
    let user = |rights: &str| say(&redis, &format!("ACL SETUSER bob reset on >p {rights}"));
    user(&format!("~fb:* {all}"));
    check(&mut World::new(&url));
    let without = |missing: &str, commands: &str| {
        user(&format!("~fb:* {all} {missing}"));
        assert_eq!(refusal(&url), LinkError::Forbidden { commands: commands.to_owned() });
    };
    without("-evalsha", "EVALSHA");
    without("-info", "INFO");
    without("-script|load", "SCRIPT");
    without("-hmget", "HMGET");
    without("-pexpireat -hset", "HSET, PEXPIREAT");
    user(&format!("~other:* {all}"));
    assert_eq!(refusal(&url), LinkError::Forbidden { commands: "HMGET".to_owned() });
}

#[test]
fn a_replica_is_refused() {
    let primary = Redis::start();
    let port = primary.port.to_string();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]);
    let role = "slave".to_owned();
    assert_eq!(refusal(&replica.url()), LinkError::Unfit(Unfit::NotPrimary { role }));
    // Promoted, it is a process that formed no K.
    say(&replica, "REPLICAOF NO ONE");
    let promoted = World::new(&replica.url()).link.process();
    assert_ne!(promoted.replication_id, World::new(&primary.url()).link.process().replication_id);
}

#[test]
fn a_primary_that_becomes_a_replica_ends_the_link() {
    let (redis, other) = (Redis::start(), Redis::start());
    let mut world = World::new(&redis.url());
    say(&redis, &format!("REPLICAOF 127.0.0.1 {}", other.port));
    let refused = world.join();
    assert!(
        matches!(&refused, Err(LinkError::Refused(text)) if text.contains("READONLY")),
        "{refused:?}"
    );
    assert_eq!(world.join(), Err(LinkError::Over));
}

#[test]
fn an_operator_is_warned_of_a_redis_that_evicts() {
    let redis = Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"]);
    let world = World::new(&redis.url());
    assert_eq!(world.link.info().warnings, [Warning::Evicts { policy: "volatile-ttl".to_owned() }]);
    assert!(World::new(&Redis::start().url()).link.info().warnings.is_empty());
}

#[test]
fn a_full_redis_refuses_and_changes_nothing() {
    let redis = Redis::start();
    redis.set_memory("1");
    let refused = World::new(&redis.url()).join();
    assert!(
        matches!(&refused, Err(LinkError::Refused(text)) if text.contains("OOM")),
        "{refused:?}"
    );
    // So no lease was given.
    assert!(refused.is_err_and(|error| error.is_before_any_write()));
    assert_eq!(redis.keys(""), 0);
}

#[test]
fn a_group_that_has_grown_too_large_begins_anew() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url());
    world.join().unwrap();
    let fill = format!(
        "local count = redis.call('HLEN', '{KEY}') \
         for i = count + 1, 16384 do redis.call('HSET', '{KEY}', 's:' .. i, '0 0') end \
         return redis.call('HLEN', '{KEY}')"
    );
    assert_eq!(redis.number(&fill), 16_384);
    let renew = Request::Renew(Renew {
        act: ACT,
        id: 1,
        until: 1 << 50,
        applied: 1,
        lease: 0,
        local: false,
        seen: vec![1],
        gone_seq: 0,
        gone: Vec::new(),
    });
    let renewed = world.round(std::slice::from_ref(&renew), DEADLINE).unwrap().remove(0);
    assert!(matches!(renewed, Answer::Renewed(_)), "{renewed:?}");
    // Which left more about the member.
    assert_eq!(world.round(&[renew], DEADLINE).unwrap(), [Answer::Lost]);
    assert_eq!(redis.keys(""), 0);
}

#[test]
fn who_never_answers_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://127.0.0.1:{}", silent.local_addr().unwrap().port());
    assert_eq!(connect(&url, None, SHORT).err(), Some(LinkError::Timeout));
}

#[test]
fn a_redis_that_stands_still_ends_the_link() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url());
    redis.pause();
    assert_eq!(world.round(&[Request::Time], SHORT), Err(LinkError::Timeout));
    redis.resume();
    assert_eq!(world.round(&[Request::Time], DEADLINE), Err(LinkError::Over));
}

#[test]
fn a_round_given_up_ends_the_link() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url());
    redis.pause();
    let given_up = world.runtime.block_on(async {
        tokio::time::timeout(SHORT, world.link.round(&[Request::Time], DEADLINE)).await.is_err()
    });
    assert!(given_up);
    redis.resume();
    assert_eq!(world.round(&[Request::Time], DEADLINE), Err(LinkError::Over));
}

#[test]
fn scripts_that_were_flushed_end_the_link() {
    let redis = Redis::start();
    let mut world = World::new(&redis.url());
    world.join().unwrap();
    say(&redis, "SCRIPT FLUSH");
    let refused = world.members();
    assert!(
        matches!(&refused, Err(LinkError::Refused(text)) if text.starts_with("NOSCRIPT")),
        "{refused:?}"
    );
    assert_eq!(world.members(), Err(LinkError::Over));
    let members = Answer::Members { seq: 1, ids: vec![1] };
    assert_eq!(World::new(&redis.url()).members().unwrap(), members);
}

#[test]
fn sentinels_are_asked_until_one_knows() {
    let redis = Redis::with(&["--requirepass", "hunter2"]);
    let dead = format!("127.0.0.1:{}", free_port());
    let sentinel = Sentinel::start(&redis, "main", "");
    let locked = Sentinel::start(&redis, "main", "requirepass hunter2");
    let url =
        |hosts: &str, master: &str| format!("redis+sentinel://:hunter2@{hosts}/0?master={master}");
    let (open, locked) =
        (format!("127.0.0.1:{}", sentinel.port), format!("127.0.0.1:{}", locked.port));
    let direct = World::new(&format!("redis://:hunter2@127.0.0.1:{}", redis.port)).link.process();
    for host in [&open, &locked] {
        for protocol in ["", "&protocol=resp3"] {
            let world = World::new(&format!("{}{protocol}", url(host, "main")));
            assert_eq!(world.link.process(), direct, "{host}{protocol}");
        }
    }
    check(&mut World::new(&url(&format!("{dead},{open}"), "main")));
    let (master, reason) = ("other".to_owned(), "it is not watched".to_owned());
    assert_eq!(refusal(&url(&open, "other")), LinkError::NoMaster { master, reason });
    assert!(matches!(refusal(&url(&dead, "main")), LinkError::NoMaster { .. }));
}

#[test]
fn a_sentinel_that_never_answers_is_passed_over() {
    let redis = Redis::start();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let sentinel = Sentinel::start(&redis, "main", "");
    let (first, second) = (silent.local_addr().unwrap().port(), sentinel.port);
    let url = format!("redis+sentinel://127.0.0.1:{first},127.0.0.1:{second}?master=main");
    // Long enough for who answers, and waited for once.
    check(&mut connect(&url, None, Duration::from_secs(5)).unwrap());
}

/// Two nodes, each with half of all keys.
pub fn cluster() -> [Redis; 2] {
    let buses = [free_port(), free_port()];
    let nodes = buses
        .map(|bus| Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()]));
    for (node, slots) in nodes.iter().zip(["0 8191", "8192 16383"]) {
        say(node, &format!("CLUSTER ADDSLOTSRANGE {slots}"));
    }
    say(&nodes[0], &format!("CLUSTER MEET 127.0.0.1 {} {}", nodes[1].port, buses[1]));
    for node in &nodes {
        wait_until("the cluster is up", || {
            let info = say(node, "CLUSTER INFO");
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
        });
    }
    nodes
}

#[test]
fn any_node_of_a_cluster_leads_to_the_one_that_has_the_key() {
    let nodes = cluster();
    let processes = nodes.each_ref().map(|node| World::new(&node.url()).link.process());
    assert_eq!(processes[0], processes[1]);
    let mut world = World::new(&nodes[0].url());
    check(&mut world);
    assert_eq!(World::new(&nodes[1].url()).members().unwrap(), world.members().unwrap());
    // Nodes that do not know their own addresses name none.
    for node in &nodes {
        say(node, "CONFIG SET cluster-preferred-endpoint-type unknown-endpoint");
    }
    for node in &nodes {
        assert_eq!(World::new(&node.url()).link.process(), processes[0]);
    }
}

#[test]
fn a_cluster_without_the_key_is_refused() {
    let bus = free_port().to_string();
    let node = Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
    assert!(
        matches!(refusal(&node.url()), LinkError::Refused(text) if text.starts_with("CLUSTERDOWN"))
    );
}

/// A node that so many find at first, and whose answer to every question about a key is this error.
fn node_that_says(visits: usize, error: impl FnOnce(u16) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = error(port);
    std::thread::spawn(move || {
        for stream in listener.incoming().take(visits).map_while(Result::ok) {
            // What introduces a client comes in front of what it asks.
            for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                let said = match line.as_str() {
                    "SETINFO" => "+OK",
                    "HMGET" => answer.as_str(),
                    _ => continue,
                };
                (&stream).write_all(format!("{said}\r\n").as_bytes()).unwrap();
            }
        }
    });
    format!("redis://127.0.0.1:{port}")
}

#[test]
fn nodes_that_send_us_around_are_left() {
    let url = node_that_says(3, |port| format!("-MOVED 1 127.0.0.1:{port}"));
    assert_eq!(refusal(&url), LinkError::TooManyHops);
    for nowhere in ["", " 1", " 1 here", " 1 here:65536", " x 127.0.0.1:1"] {
        let refused = refusal(&node_that_says(1, |_| format!("-MOVED{nowhere}")));
        assert!(matches!(&refused, LinkError::Refused(_)), "{nowhere}: {refused:?}");
    }
}

#[test]
fn a_url_that_says_nothing_is_a_mistake() {
    assert!(matches!(refusal("junk"), LinkError::Settings(_)));
    assert!(matches!(refusal("redis+sentinel://host"), LinkError::Address(_)));
    let settings = |pem: &str| Settings {
        url: "rediss://127.0.0.1".to_owned(),
        authorities: Some(pem.as_bytes().to_vec()),
        timeout: DEADLINE,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(Link::connect(&settings("junk"), KEY)).err();
    assert_eq!(error, Some(LinkError::Settings("redis.tls_ca_file: no certificate".to_owned())));
}
