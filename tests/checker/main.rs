//! The consistency checker: many clients read and write through Forebay in every way that
//! applications do, and only what they were answered is judged, against the promise: nothing
//! stale after an acknowledgement, nothing older than what was shown, own writes, nothing rolled
//! back, nobody's rows but one's own.
//!
//! ```text
//! cargo run --example checker -- --url postgres://u:p@127.0.0.1:6432/db \
//!     --direct postgres://u:p@127.0.0.1:5432/db [--admin postgres://u:p@127.0.0.1:6433/forebay]
//!     [--seconds 60] [--seed N] [--clients 16] [--require-hits 30]
//!     [--kinds update_simple,trigger] [--races tenants,temporary_tables | none]
//!     [--faults all | cancel,crash] [--fault-pause-ms 2000] [--stop-at-violation]
//!     [--pg-ctl "pg_ctl -D data -l log"] [--redis-server "redis-server --port 6379"]
//!     [--member "forebay --config group.toml" --lease-ms 600]
//! ```
//!
//! `--url` is Forebay, `--direct` PostgreSQL, as a superuser in both: the schema `checker`, the
//! schemas `tenant_*` and the roles `checker_*` are made anew. `--admin` is asked `SHOW CACHE`
//! before and after; `--require-hits` fails a run with fewer per cent of hits among
//! all reads.
//! `--kinds` and `--races` choose what runs, for debugging. `--faults` names what goes wrong around
//! it (`faults`); one that never struck fails the run. `--redis-server` is started, stopped and
//! started again by the checker, `--pg-ctl` restarts PostgreSQL. `tests/checker.sh` has it all.
//! `--member` is one of a group: three are started, each with a way of its own to that Redis and all
//! with the same way to PostgreSQL, and clients go to any of them; what one was shown by the one binds the others. Of `--url` only user
//! and database count then, and the faults are those of `scenes`. With `--url` equal to `--direct` it
//! checks itself: PostgreSQL must be clean.
//!
//! Exit code 0: clean. 1: a violation, a client that got no answer, too few hits, a fault that did
//! not happen, or a kind of write that never met a register read twice in a row before, so that
//! nothing was at stake.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program: it prints its findings, and breaking its own rules should stop it"
)]

mod clients;
mod cluster;
mod faults;
mod link;
mod members;
mod oracle;
mod races;
mod scenes;
mod schema;
mod wire;
mod writes;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{io, thread};

use clap::Parser;

use clients::{Reader, World, Writer, is_closed};
use cluster::Cluster;
use faults::{Redis, Stage, words};
use link::Link;
use members::Members;
use oracle::Report;
use races::RACES;
use scenes::Group;
use wire::{Connection, Url};
use writes::KINDS;

#[derive(Parser)]
struct Options {
    /// Of Forebay; in a group only who comes, and to which database.
    #[arg(long)]
    url: String,
    #[arg(long)]
    direct: String,
    #[arg(long)]
    admin: Option<String>,
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 16)]
    clients: usize,
    #[arg(long, default_value_t = 0)]
    require_hits: u64,
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    races: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    #[arg(long, default_value_t = 2000)]
    fault_pause_ms: u64,
    #[arg(long)]
    pg_ctl: Option<String>,
    #[arg(long)]
    redis_server: Option<String>,
    #[arg(long)]
    stop_at_violation: bool,
    #[arg(long)]
    member: Option<String>,
    #[arg(long, default_value = "member.log")]
    member_log: String,
    #[arg(long, default_value_t = 600)]
    lease_ms: usize,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("checker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<bool> {
    let url =
        |text: &str| Url::parse(text).ok_or_else(|| io::Error::other(format!("no URL: {text}")));
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let writers = (options.clients / 4).max(1);
    let chosen =
        |name: &str, among: &[String]| among.is_empty() || among.iter().any(|one| one == name);
    let redis = options.redis_server.as_ref().map(|command| Redis::start(words(Some(command))));
    let redis = redis.transpose()?;
    let mut direct = url(&options.direct)?;
    // Where clients of a group go to PostgreSQL past it, they find the same one.
    let way = options.member.as_ref().map(|_| Link::to(direct.address.clone())).transpose()?;
    direct.address = way.as_ref().map_or(direct.address, Link::address);
    let group = options.member.as_ref().zip(redis.as_ref()).map(|(command, redis)| {
        let command = words(Some(command));
        let urls = (&url(&options.url)?, &direct);
        Members::start(&command, &options.member_log, urls, &redis.address)
    });
    let group = group.transpose()?;
    let urls = match &group {
        Some(members) => members.urls(),
        None => vec![url(&options.url)?],
    };
    let pg_ctl = options.pg_ctl.as_ref().map(|command| words(Some(command)));
    let cluster = pg_ctl.map(|pg_ctl| Cluster::new(pg_ctl, direct.clone(), way));
    let world = World {
        urls,
        turn: AtomicUsize::new(0),
        direct,
        seed: options.seed.unwrap_or(clock),
        cells: (0..writers).map(schema::cells).collect(),
        kinds: KINDS.iter().filter(|kind| chosen(kind.name, &options.kinds)).collect(),
        report: Report::default(),
        stop: AtomicBool::new(false),
        stops_at_violation: options.stop_at_violation,
        began: Instant::now(),
        playing: Mutex::new("no fault"),
        still: Arc::default(),
        is_rough: !options.faults.is_empty(),
        keys: Mutex::default(),
        cancelled: Arc::default(),
    };
    let admin = options.admin.as_deref().map(url).transpose()?;
    let mut stage = Stage::new(&world, options, redis, cluster, group.map(Group::new))?;
    println!("seed {}, {writers} writers, {} clients", world.seed, options.clients);
    schema::create(&world.direct, writers)?;
    let before = counters(admin.as_ref());
    let ended = play(&world, options, &mut stage, |name| chosen(name, &options.races));
    let after = stage.counters().unwrap_or_else(|| counters(admin.as_ref()));
    // Eviction and the second tier can be seen from these.
    for name in ["fills", "entries", "bytes", "bytes_max", "hits_redis", "redis_stores"] {
        if let Some(count) = after.get(name) {
            println!("  cache {name:<18} {count:>9}");
        }
    }
    Ok(print(&world, &ended, hits(&before, &after), options.require_hits))
}

/// What PostgreSQL does, and who waits for whom; a line each.
fn under_way(direct: &Url) -> io::Result<String> {
    let answer = Connection::open(direct)?.simple(
        "SELECT pid, pg_blocking_pids(pid), state, wait_event, now() - state_change, left(query, 80)
         FROM pg_stat_activity WHERE backend_type = 'client backend'",
    )?;
    let line = |row: &Vec<Option<String>>| {
        let words: Vec<_> = row.iter().map(|word| word.as_deref().unwrap_or("-")).collect();
        format!("    {}", words.join(" | "))
    };
    Ok(answer.rows.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// Runs all clients for the time given; returns what ended early, and why.
fn play(
    world: &World,
    options: &Options,
    stage: &mut Stage<'_>,
    race: impl Fn(&str) -> bool,
) -> Vec<String> {
    let ended = Mutex::new(Vec::new());
    let end = |who: String, result: io::Result<()>| {
        if let Err(error) = result {
            let (at, fault) = (world.began.elapsed().as_secs(), *world.playing.lock().unwrap());
            let mut story = format!("{who} after {at} s, in {fault}: {error}");
            if error.kind() == io::ErrorKind::TimedOut {
                let picture = under_way(&world.direct).unwrap_or_else(|error| error.to_string());
                story = format!("{story}\n{picture}");
            }
            ended.lock().unwrap().push(story);
        }
    };
    let time = Duration::from_secs(options.seconds);
    let deadline = Instant::now() + time;
    let faults = stage.faults();
    thread::scope(|threads| {
        for who in 0..options.clients {
            let end = &end;
            threads.spawn(move || {
                if who < world.cells.len() && !world.kinds.is_empty() {
                    end(format!("writer {who}"), Writer::new(world, who).and_then(Writer::run));
                } else {
                    end(format!("reader {who}"), Reader::new(world, who).and_then(Reader::run));
                }
            });
        }
        for &(name, run) in RACES.iter().filter(|(name, _)| race(name)) {
            let end = &end;
            threads.spawn(move || {
                loop {
                    match run(world) {
                        Err(error) if is_closed(&error) => {
                            world.report.closed(&error, name);
                            if !world.running() {
                                return;
                            }
                        }
                        done => return end(name.to_owned(), done),
                    }
                }
            });
        }
        threads.spawn(|| {
            // A slow machine is given the time that it takes for every fault to strike, but a violation
            // that is waited for has to be seen in the time given.
            let patience = if world.stops_at_violation { Duration::ZERO } else { 4 * time };
            let is_over = |now: Instant| {
                now >= deadline + patience
                    || (now >= deadline && faults.iter().all(|name| world.report.has_struck(name)))
            };
            while !is_over(Instant::now()) && world.running() {
                thread::park_timeout(Duration::from_millis(100));
            }
            world.stop.store(true, Ordering::Relaxed);
        });
        // What it starts ends with the thread that started it.
        let played = stage.run();
        // A fault that cannot be played is the end of a run that asks for it.
        if played.is_err() {
            world.stop.store(true, Ordering::Relaxed);
        }
        end("faults".to_owned(), played);
    });
    ended.into_inner().unwrap()
}

/// The numbers of `SHOW CACHE` by name, whether it lists them as columns or as rows.
fn counters(admin: Option<&Url>) -> BTreeMap<String, u64> {
    let answer = admin.map(|admin| Connection::open(admin)?.simple("SHOW CACHE"));
    let answer = match answer {
        Some(Ok(answer)) => answer,
        Some(Err(error)) => {
            eprintln!("checker: the console did not answer: {error}");
            return BTreeMap::new();
        }
        None => return BTreeMap::new(),
    };
    let mut counters = BTreeMap::new();
    for row in &answer.rows {
        let mut add = |name: &str, value: &Option<String>| {
            if let Some(value) = value.as_ref().and_then(|value| value.parse::<u64>().ok()) {
                *counters.entry(name.to_owned()).or_default() += value;
            }
        };
        for (column, value) in answer.columns.iter().zip(row) {
            add(column, value);
        }
        if let [Some(name), value, ..] = row.as_slice() {
            add(name, value);
        }
    }
    counters
}

/// How many hits there were, if the console told.
fn hits(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Option<u64> {
    let before = before.get("hits").copied().unwrap_or_default();
    Some(after.get("hits")?.saturating_sub(before))
}

fn print(world: &World, ended: &[String], hits: Option<u64>, hits_wanted: u64) -> bool {
    let violations = world.report.violations();
    let writes = world.report.writes();
    let reads = world.report.reads.load(Ordering::Relaxed);
    println!("{reads} reads judged");
    let hits = hits.and_then(|hits| (hits * 100).checked_div(reads));
    match hits {
        Some(hits) => println!("{hits} % of reads were hits"),
        None => println!("hits unknown: the console was not asked, or did not say"),
    }
    let mut idle = Vec::new();
    for kind in &world.kinds {
        let (count, warm) = writes.get(kind.name).copied().unwrap_or_default();
        println!(
            "  {:<18} {count:>6} writes, {warm:>6} met a register read twice before",
            kind.name
        );
        if warm == 0 {
            idle.push(kind.name);
        }
    }
    let mut missed = Vec::new();
    for (name, played) in world.report.faults() {
        let (times, struck, took) = (played.times, played.struck, played.took.as_secs_f32());
        println!(
            "  fault {name:<20} {times:>4} times played, {struck:>4} times it struck, {took:>6.1} s"
        );
        if struck == 0 {
            missed.push(name);
        }
    }
    for (sqlstate, (count, example)) in world.report.errors() {
        println!("  error {sqlstate:<6} {count:>6} times: {example}");
    }
    for story in violations.iter().take(20) {
        println!("VIOLATION {story}");
    }
    for story in ended {
        println!("ENDED EARLY {story}");
    }
    if !idle.is_empty() {
        println!("NOTHING AT STAKE for {idle:?}");
    }
    if !missed.is_empty() {
        println!("NEVER STRUCK {missed:?}");
    }
    let enough = hits_wanted == 0 || hits.is_some_and(|hits| hits >= hits_wanted);
    if !enough {
        println!("TOO FEW HITS: {hits_wanted} % wanted");
    }
    println!("{} violations", violations.len());
    let all_happened = idle.is_empty() && missed.is_empty() && enough;
    violations.is_empty() && ended.is_empty() && all_happened
}
