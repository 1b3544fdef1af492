//! What goes wrong around the clients while they work: cancels, backends that are ended or killed,
//! restarts of PostgreSQL, a Redis that stops or hangs, reloads, flushes, a full cache. Each tells
//! whether it struck, so that a run in which nothing went wrong is no proof.
//!
//! Judges no reads: what a client may be shown is the same whatever happens here (`oracle`).

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::clients::{Random, World, is_closed};
use crate::cluster::Cluster;
use crate::members::MEMBERS;
use crate::scenes::{self, Group};
use crate::wire::{self, Connection, Url};
use crate::{Options, counters};

pub(crate) type Play = fn(&mut Stage<'_>) -> io::Result<bool>;

pub(crate) struct Fault {
    pub(crate) name: &'static str,
    weight: usize,
    needs: Needs,
    /// True if it struck; an error ends the run.
    play: Play,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    Console,
    PgCtl,
    Redis,
    Members,
}

pub(crate) const fn fault(name: &'static str, weight: usize, needs: Needs, play: Play) -> Fault {
    Fault { name, weight, needs, play }
}

/// In the order in which each is played once, before chance decides. Those of a group are in
/// `scenes`.
const FAULTS: &[Fault] = &[
    fault("cancel", 10, Needs::Nothing, cancel),
    fault("terminate", 6, Needs::Nothing, terminate),
    fault("redis_hangs", 2, Needs::Redis, redis_hangs),
    fault("crash", 1, Needs::PgCtl, crash),
    fault("reload", 3, Needs::Console, reload),
    fault("redis_stops", 2, Needs::Redis, redis_stops),
    fault("restart_fast", 1, Needs::PgCtl, restart_fast),
    fault("pause", 2, Needs::Console, pause),
    fault("full_cache", 2, Needs::Console, full_cache),
    fault("flush", 1, Needs::Console, flush),
    fault("restart_immediate", 1, Needs::PgCtl, restart_immediate),
];

/// Longest time that Redis is away.
const AWAY_MAX_MS: usize = 2500;

/// What the faults are played with.
pub(crate) struct Stage<'a> {
    pub(crate) world: &'a World,
    /// In a group of another member each time.
    admin: Option<Url>,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) redis: Option<Redis>,
    /// It is away for as long at least: nothing of a group outlasts that.
    pub(crate) away_ms_min: usize,
    pub(crate) group: Option<Group>,
    chosen: Vec<&'static Fault>,
    pause_ms: u64,
    pub(crate) random: Random,
    fills: u64,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(
        world: &'a World,
        options: &Options,
        redis: Option<Redis>,
        cluster: Option<Cluster>,
        group: Option<Group>,
    ) -> io::Result<Self> {
        let faults = if group.is_some() { scenes::FAULTS } else { FAULTS };
        let is_chosen = |name: &str| options.faults.iter().any(|one| one == name || one == "all");
        if let Some(unknown) = options.faults.iter().find(|name| {
            name.as_str() != "all" && faults.iter().all(|fault| fault.name != name.as_str())
        }) {
            return Err(io::Error::other(format!("no fault {unknown}")));
        }
        let mut stage = Self {
            world,
            admin: options.admin.as_deref().and_then(Url::parse),
            cluster,
            redis,
            away_ms_min: if group.is_some() { options.lease_ms * 5 / 4 } else { 0 },
            group,
            chosen: faults.iter().filter(|fault| is_chosen(fault.name)).collect(),
            pause_ms: options.fault_pause_ms,
            random: Random::new(world.seed, 3000),
            fills: 0,
        };
        stage.check()?;
        Ok(stage)
    }

    /// Whether everything is at hand, and the oracle's one assumption holds.
    fn check(&mut self) -> io::Result<()> {
        for fault in &self.chosen {
            let is_there = match fault.needs {
                Needs::Nothing => true,
                Needs::Console => self.admin.is_some() || self.group.is_some(),
                Needs::PgCtl => self.cluster.is_some(),
                Needs::Redis => self.redis.is_some(),
                Needs::Members => self.redis.is_some() && self.group.is_some(),
            };
            if !is_there {
                return Err(io::Error::other(format!("nothing to play {} with", fault.name)));
            }
        }
        let durable = self.direct("SHOW synchronous_commit")?;
        if self.chosen.iter().any(|fault| fault.needs == Needs::PgCtl) && durable != "on" {
            return Err(io::Error::other("crashes may lose commits: synchronous_commit is not on"));
        }
        Ok(())
    }

    /// Each fault once, then by weight, until the run ends.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut first = self.chosen.clone().into_iter();
        while !self.chosen.is_empty() && self.world.running() {
            let longest = usize::try_from(self.pause_ms * 2).unwrap();
            self.wait(longest);
            let fault = first.next().unwrap_or_else(|| self.pick());
            if let Some(group) = &mut self.group {
                self.admin = Some(group.members.of(self.random.below(MEMBERS)).admin.clone());
            }
            let began = Instant::now();
            *self.world.playing.lock().unwrap() = fault.name;
            let struck = match (fault.play)(self) {
                // Another fault's end may close a connection of this one's.
                Err(error) if is_closed(&error) => {
                    self.world.report.closed(&error, fault.name);
                    false
                }
                played => played.map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", fault.name))
                })?,
            };
            *self.world.playing.lock().unwrap() = "no fault";
            self.world.report.fault(fault.name, struck, began.elapsed());
        }
        // One that there was no time for did not happen.
        first.for_each(|fault| self.world.report.fault(fault.name, false, Duration::ZERO));
        Ok(())
    }

    /// The names of those that are played.
    pub(crate) fn faults(&self) -> Vec<&'static str> {
        self.chosen.iter().map(|fault| fault.name).collect()
    }

    /// By weight, but now and then one that has not struck yet.
    fn pick(&mut self) -> &'static Fault {
        let missing = |fault: &&&'static Fault| !self.world.report.has_struck(fault.name);
        if let Some(&fault) = self.chosen.iter().find(missing)
            && self.random.below(2) == 0
        {
            return fault;
        }
        let mut left = self.random.below(self.chosen.iter().map(|fault| fault.weight).sum());
        let chosen = self.chosen.iter().find(|fault| {
            let found = left < fault.weight;
            left = left.saturating_sub(fault.weight);
            found
        });
        chosen.unwrap()
    }

    /// What the consoles of all members count, in a group.
    pub(crate) fn counters(&self) -> Option<BTreeMap<String, u64>> {
        self.group.as_ref().map(|group| group.members.counters())
    }

    /// Something that clients need is away for a while.
    fn wait_away(&mut self) {
        let ms = self.away_ms_min + self.random.below(AWAY_MAX_MS - self.away_ms_min);
        self.wait_ms(ms);
    }

    /// Lets the clients work for a while, at most this long.
    fn wait(&mut self, ms_max: usize) {
        let ms = self.random.below(ms_max.max(1));
        self.wait_ms(ms);
    }

    fn wait_ms(&self, ms: usize) {
        let until = Instant::now() + Duration::from_millis(u64::try_from(ms).unwrap());
        while let Some(left) = until.checked_duration_since(Instant::now())
            && self.world.running()
        {
            thread::park_timeout(left.min(Duration::from_millis(100)));
        }
    }

    /// The first value of what PostgreSQL itself answers.
    pub(crate) fn direct(&self, sql: &str) -> io::Result<String> {
        first_text(self.world.open_direct()?.simple(sql)?)
    }

    fn console(&self, sql: &str) -> io::Result<()> {
        let admin = self.admin.as_ref().ok_or(io::ErrorKind::NotFound)?;
        match Connection::open(admin)?.simple(sql)?.error {
            Some(error) => Err(io::Error::other(format!("{sql}: {error:?}"))),
            None => Ok(()),
        }
    }

    /// A setting of Forebay's, as the console shows it.
    fn shown(&self, name: &str) -> io::Result<Option<String>> {
        let admin = self.admin.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let answer = Connection::open(admin)?.simple("SHOW CONFIG")?;
        let is_it = |row: &&Vec<Option<String>>| row.first() == Some(&Some(name.to_owned()));
        Ok(answer.rows.iter().find(is_it).and_then(|row| row.get(1)?.clone()))
    }

    fn restart(&self, mode: &str) -> io::Result<bool> {
        let began = "SELECT pg_postmaster_start_time()";
        let before = self.direct(began)?;
        self.cluster.as_ref().ok_or(io::ErrorKind::NotFound)?.restart(mode)?;
        Ok(self.direct(began)? != before)
    }
}

/// Cancels at random until one has met a statement that was running.
pub(crate) fn cancel(stage: &mut Stage<'_>) -> io::Result<bool> {
    let cancelled = || stage.world.cancelled.load(Ordering::Relaxed);
    let before = cancelled();
    for _ in 0..100 {
        let keys: Vec<_> = stage.world.keys.lock().unwrap().values().cloned().collect();
        if !keys.is_empty() {
            let (member, key) = &keys[stage.random.below(keys.len())];
            wire::cancel(&stage.world.urls[*member], key)?;
        }
        if cancelled() > before {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Two backends are told to end, one of them at work if there is one.
pub(crate) fn terminate(stage: &mut Stage<'_>) -> io::Result<bool> {
    let ended = stage.direct(
        "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM ( \
             (SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' \
                  AND pid <> pg_backend_pid() AND state = 'active' ORDER BY random() LIMIT 1) \
             UNION (SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' \
                  AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1)) chosen",
    )?;
    Ok(ended != "0")
}

/// A backend dies without a word, whereupon PostgreSQL ends all others and recovers.
pub(crate) fn crash(stage: &mut Stage<'_>) -> io::Result<bool> {
    let mut witness = stage.world.open_direct()?;
    let pid = first_text(witness.simple(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' \
         AND pid <> pg_backend_pid() ORDER BY state = 'active' DESC, random() LIMIT 1",
    )?)?;
    if !run(&["kill", "-KILL", &pid].map(str::to_owned))? {
        return Ok(false);
    }
    match witness.simple("SELECT pg_sleep(20)") {
        Err(error) if is_closed(&error) => stage.direct("SELECT 1").map(|answer| answer == "1"),
        _ => Ok(false),
    }
}

/// Everybody is ended and told so.
pub(crate) fn restart_fast(stage: &mut Stage<'_>) -> io::Result<bool> {
    stage.restart("fast")
}

/// Nobody is waited for; what was committed comes back by recovery.
pub(crate) fn restart_immediate(stage: &mut Stage<'_>) -> io::Result<bool> {
    stage.restart("immediate")
}

/// Fewer servers for a moment, until the settings are read again.
pub(crate) fn reload(stage: &mut Stage<'_>) -> io::Result<bool> {
    const SETTING: &str = "default_pool_size";
    let usual = stage.shown(SETTING)?;
    stage.console(&format!("SET {SETTING} = 3"))?;
    let narrow = stage.shown(SETTING)?;
    stage.wait(500);
    stage.console("RELOAD")?;
    Ok(narrow.as_deref() == Some("3") && stage.shown(SETTING)? == usual)
}

/// Forebay leaves the database and comes back, knowing nothing of it; or not quite, where a client
/// of two connections keeps one busy until the other one is answered.
pub(crate) fn pause(stage: &mut Stage<'_>) -> io::Result<bool> {
    let admin = stage.admin.clone().ok_or(io::ErrorKind::NotFound)?;
    let database = stage.world.urls[0].database.clone();
    let mut pausing = Connection::open(&admin)?;
    pausing.send(&wire::query(&format!("PAUSE {database}")))?;
    stage.wait(1000);
    let answer = Connection::open(&admin)?.simple("SHOW DATABASES")?;
    let column = answer.columns.iter().position(|name| name == "paused");
    let is_paused = |row: &Vec<Option<String>>| {
        row.first() == Some(&Some(database.clone()))
            && column.and_then(|column| row.get(column)) == Some(&Some("1".to_owned()))
    };
    stage.console(&format!("RESUME {database}"))?;
    Ok(answer.rows.iter().any(is_paused))
}

pub(crate) fn flush(stage: &mut Stage<'_>) -> io::Result<bool> {
    stage.console("FLUSH CACHE").map(|()| true)
}

/// Not played but looked at: the memory is in use, more is stored all the time, and all the texts
/// of `many_texts` are longer than what there is in `tests/checker.sh`.
fn full_cache(stage: &mut Stage<'_>) -> io::Result<bool> {
    let admin = stage.admin.as_ref().ok_or(io::ErrorKind::NotFound)?;
    let now = counters(Some(admin));
    let of = |name: &str| now.get(name).copied().unwrap_or_default();
    let filled = of("fills").saturating_sub(std::mem::replace(&mut stage.fills, of("fills")));
    Ok(filled > 0 && of("bytes") * 2 > of("bytes_max"))
}

pub(crate) fn redis_stops(stage: &mut Stage<'_>) -> io::Result<bool> {
    let Some(mut redis) = stage.redis.take() else { return Ok(false) };
    redis.child.kill()?;
    redis.child.wait()?;
    stage.wait_away();
    let gone = !redis.answers();
    stage.redis = Some(Redis::start(std::mem::take(&mut redis.command))?);
    Ok(gone)
}

/// It takes connections and bytes and says nothing, then answers what is long forgotten.
pub(crate) fn redis_hangs(stage: &mut Stage<'_>) -> io::Result<bool> {
    let Some(redis) = stage.redis.as_ref() else { return Ok(false) };
    let hung = redis.signal("-STOP")? && !redis.answers();
    stage.wait_away();
    let Some(redis) = stage.redis.as_ref() else { return Ok(false) };
    Ok(redis.signal("-CONT")? && hung && redis.answers())
}

/// A Redis of the checker's own.
pub(crate) struct Redis {
    child: Child,
    command: Vec<String>,
    pub(crate) address: String,
}

impl Redis {
    /// Returns when it answers.
    pub(crate) fn start(command: Vec<String>) -> io::Result<Self> {
        let port = command.iter().skip_while(|word| *word != "--port").nth(1);
        let port = port.ok_or_else(|| io::Error::other("--redis-server has no --port"))?;
        let address = format!("127.0.0.1:{port}");
        let (program, arguments) = command.split_first().unwrap();
        let mut starting = Command::new(program);
        starting.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let mut redis = Self { child: starting.spawn()?, command, address };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !redis.answers() {
            if redis.child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(io::Error::other("Redis does not start"));
            }
        }
        Ok(redis)
    }

    fn answers(&self) -> bool {
        let ping = || -> io::Result<bool> {
            let mut stream = TcpStream::connect(&self.address)?;
            stream.set_read_timeout(Some(Duration::from_millis(300)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"+PONG")
        };
        ping().unwrap_or(false)
    }

    /// What it says to a command, to the end of the first line.
    pub(crate) fn ask(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn signal(&self, name: &str) -> io::Result<bool> {
        signal(self.child.id(), name)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Gone already, if it was stopped.
        let _killed = self.child.kill().and_then(|()| self.child.wait());
    }
}

pub(crate) fn signal(pid: u32, name: &str) -> io::Result<bool> {
    run(&["kill".to_owned(), name.to_owned(), pid.to_string()])
}

pub(crate) fn words(text: Option<&String>) -> Vec<String> {
    text.into_iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect()
}

/// Whether the command succeeded.
pub(crate) fn run(command: &[String]) -> io::Result<bool> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command.status()?.success())
}

pub(crate) fn first_text(answer: wire::Answer) -> io::Result<String> {
    match (answer.error, answer.rows.into_iter().flatten().next().flatten()) {
        (None, Some(text)) => Ok(text),
        (error, _) => Err(io::Error::other(format!("no value: {error:?}"))),
    }
}
