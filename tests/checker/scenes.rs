//! What goes wrong in a group of Forebays: members that die, sleep or hear nothing of Redis, a
//! Redis that forgets. Each is played as a scene in which somebody writes through one member while
//! others read through the rest, so that whoever goes on believing something is caught.

use std::io;
use std::iter::repeat_n;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::clients::{World, is_closed};
use crate::cluster::Old;
use crate::faults::{self, Fault, Needs, Stage, fault, signal};
use crate::members::{MEMBERS, Members};
use crate::races::{self, finish, version};
use crate::schema::{Cell, Shows};
use crate::wire::{self, Connection};

/// In the order in which each is played once, before chance decides.
pub(crate) const FAULTS: &[Fault] = &[
    fault("cut_off_0", 2, Needs::Members, cut_off::<0>),
    fault("cut_off_2_in_silence", 2, Needs::Members, cut_off_in_silence::<2>),
    fault("member_killed", 6, Needs::Members, member_killed),
    fault("all_restarted", 3, Needs::Members, all_restarted),
    fault("slow_link", 4, Needs::Members, slow_link),
    fault("redis_flushed", 3, Needs::Members, redis_flushed),
    fault("member_frozen", 4, Needs::Members, member_frozen),
    fault("cancel", 4, Needs::Nothing, faults::cancel),
    fault("terminate", 4, Needs::Nothing, faults::terminate),
    fault("forgotten_asleep", 2, Needs::Members, forgotten_asleep),
    fault("taken_over", 2, Needs::PgCtl, taken_over),
    fault("cut_off_1", 2, Needs::Members, cut_off::<1>),
    fault("redis_hangs", 2, Needs::Redis, faults::redis_hangs),
    fault("crash", 1, Needs::PgCtl, faults::crash),
    fault("redis_clients_killed", 3, Needs::Members, redis_clients_killed),
    fault("redis_stops", 2, Needs::Redis, faults::redis_stops),
    fault("restart_fast", 1, Needs::PgCtl, faults::restart_fast),
];

/// After anything that ends what the group agreed on, it agrees again in this time, or the scene
/// has shown less than it might.
const HEALED_MS: usize = 2000;

/// Later than an answer of PostgreSQL, earlier than anybody thinks Redis gone.
const SLOW_MS: u64 = 50;

/// Of one register: reads of it in a row, enough that the last ones are hits.
const WARM: usize = 4;

/// So long one that is to stop may take that matters, and one that does not.
const STOPS_MAX: Duration = Duration::from_secs(5);
const STOPS_SOON: Duration = Duration::from_millis(500);

/// How long is looked whether there are hits.
const LOOK_MS: usize = 100;

/// So long a commit may take from here to there.
const LANDS_MAX: Duration = Duration::from_secs(5);

/// What scenes are played with.
pub(crate) struct Group {
    pub(crate) members: Members,
    /// Written through members that are cut off, and by nobody else.
    apart: Cell,
    /// Written through all.
    bustle: Cell,
    /// Written by commits that outlive their member.
    landing: Cell,
}

impl Group {
    pub(crate) fn new(members: Members) -> Self {
        let cell = |name| Cell::new(name, Shows::Value);
        Self { members, apart: cell("apart"), bustle: cell("bustle"), landing: cell("landing") }
    }
}

/// The clients of a scene, one at each member, and what they are about.
struct Cast<'a> {
    world: &'a World,
    cell: &'a Cell,
    clients: Vec<Option<Connection>>,
}

impl<'a> Cast<'a> {
    fn new(world: &'a World, cell: &'a Cell) -> Self {
        Self { world, cell, clients: (0..MEMBERS).map(|_| None).collect() }
    }

    /// Who was closed comes again.
    fn with(
        &mut self,
        member: usize,
        act: impl FnOnce(&mut Connection) -> io::Result<()>,
    ) -> io::Result<()> {
        let client = match &mut self.clients[member] {
            Some(client) => client,
            gone @ None => {
                let mut client = self.world.open_at(member)?;
                client.still = None;
                gone.insert(client)
            }
        };
        match act(client) {
            Err(error) if is_closed(&error) => {
                self.world.report.closed(&error, "a scene");
                self.clients[member] = None;
                Ok(())
            }
            acted => acted,
        }
    }

    fn read(&mut self, member: usize, way: &str) -> io::Result<()> {
        let (world, cell) = (self.world, self.cell);
        self.with(member, |client| races::read(world, cell, client, &cell.texts[0], way))
    }

    fn write(&mut self, member: usize, kind: &'static str) -> io::Result<()> {
        let cell = self.cell;
        self.with(member, |client| races::write(cell, kind, client, version()))
    }

    fn warm(&mut self) -> io::Result<()> {
        let mut members = repeat_n(ALL, WARM).flatten();
        members.try_for_each(|member| self.read(member, "read before a scene"))
    }

    /// For so long, or until the run ends: writes through the ones, each of them read at once
    /// through the others.
    fn bustle(&mut self, ms: usize, writers: &[usize], readers: &[usize]) -> io::Result<()> {
        let until = Instant::now() + Duration::from_millis(u64::try_from(ms).unwrap());
        let mut writers = writers.iter().cycle();
        let goes_on = || self.world.running() && Instant::now() < until;
        while goes_on() {
            if let Some(&writer) = writers.next() {
                self.write(writer, "of a scene")?;
            }
            for &reader in repeat_n(readers, WARM).flatten() {
                if goes_on() {
                    self.read(reader, "read in a scene")?;
                }
            }
        }
        Ok(())
    }
}

/// Reads through those until they have hits again, one way or another, and once more; for so long at
/// most, for beside a backend of one that is gone nobody may have any.
fn bustle_until_hits(
    cast: &mut Cast<'_>,
    members: &mut Members,
    (of, ms_max): (&[usize], usize),
) -> io::Result<()> {
    let longest = Duration::from_millis(u64::try_from(ms_max).unwrap());
    let mut hits = || of.iter().map(|&member| members.of(member).hits()).sum::<u64>();
    let (began, mut before) = (Instant::now(), hits());
    loop {
        cast.bustle(LOOK_MS, &[], of)?;
        let now = hits();
        if now > before || began.elapsed() > longest || !cast.world.running() {
            return cast.bustle(LOOK_MS, &[], of);
        }
        before = now;
    }
}

const ALL: [usize; MEMBERS] = [0, 1, 2];

fn others(member: usize) -> Vec<usize> {
    ALL.into_iter().filter(|&other| other != member).collect()
}

/// A member hears nothing of Redis and is not heard there, while clients write through it: at first
/// the others may still answer by themselves, then nobody may, then it is back as if nothing had
/// happened.
fn cut_off<const MEMBER: usize>(stage: &mut Stage<'_>) -> io::Result<bool> {
    // Now and then for many leases, each of which begins and ends as the one before.
    let ms = stage.away_ms_min * if stage.random.below(6) == 0 { 8 } else { 1 };
    let ms = ms + stage.random.below(stage.away_ms_min);
    let Some(Group { members, apart, .. }) = &mut stage.group else { return Ok(false) };
    let mut cast = Cast::new(stage.world, apart);
    cast.warm()?;
    members.of(MEMBER).link.swallow();
    let played = cast.bustle(ms, &[MEMBER], &others(MEMBER));
    let lost = members.of(MEMBER).link.heal();
    played?;
    cast.bustle(HEALED_MS, &[], &ALL)?;
    Ok(lost > 0)
}

/// The same while nobody else does anything, in a K that was formed in silence, too: what is agreed
/// on afterwards looks as it did before, though a table has been written meanwhile.
fn cut_off_in_silence<const MEMBER: usize>(stage: &mut Stage<'_>) -> io::Result<bool> {
    stage.world.still.store(true, Ordering::Relaxed);
    let played = forget_in_silence(stage).and_then(|()| cut_off::<MEMBER>(stage));
    stage.world.still.store(false, Ordering::Relaxed);
    played
}

fn forget_in_silence(stage: &Stage<'_>) -> io::Result<()> {
    let (Some(redis), Some(group)) = (&stage.redis, &stage.group) else { return Ok(()) };
    let mut cast = Cast::new(stage.world, &group.apart);
    // What is under way comes to its end.
    cast.bustle(stage.away_ms_min, &[], &ALL)?;
    redis.ask("FLUSHALL")?;
    cast.bustle(HEALED_MS, &[], &ALL)
}

/// A member sleeps while nobody else does anything, and PostgreSQL forgets it. The others write while
/// nothing is agreed on; what they agree on then, without it, looks as what it knows when it wakes up.
fn forgotten_asleep(stage: &mut Stage<'_>) -> io::Result<bool> {
    stage.world.still.store(true, Ordering::Relaxed);
    let played = forget_in_silence(stage).and_then(|()| forget_asleep(stage));
    stage.world.still.store(false, Ordering::Relaxed);
    played
}

fn forget_asleep(stage: &mut Stage<'_>) -> io::Result<bool> {
    let Some(Group { members, apart, .. }) = &mut stage.group else { return Ok(false) };
    let ([asleep, writer, reader], mut cast) = (ALL, Cast::new(stage.world, apart));
    cast.warm()?;
    let (pid, awake) = (members.of(asleep).pid(), [writer, reader]);
    let frozen = signal(pid, "-STOP")?;
    for member in awake {
        members.of(member).link.swallow();
    }
    let written = cast.bustle(stage.away_ms_min, &[writer], &awake);
    let lost: u64 = awake.iter().map(|&member| members.of(member).link.heal()).sum();
    let played = written.and_then(|()| {
        let end =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory'";
        let ended = stage.world.open_direct()?.simple(end)?;
        cast.bustle(HEALED_MS, &[], &awake)?;
        Ok(ended.error.is_none())
    });
    let woken = signal(pid, "-CONT")?;
    let forgotten = played?;
    cast.bustle(HEALED_MS, &[], &ALL)?;
    Ok(frozen && woken && forgotten && lost > 0)
}

/// Another PostgreSQL takes over while the one before lives, which some of Forebay's own go on asking.
/// The others are held still until it has all that was committed.
fn taken_over(stage: &mut Stage<'_>) -> io::Result<bool> {
    stage.world.still.store(true, Ordering::Relaxed);
    let old = hand_over(stage);
    stage.world.still.store(false, Ordering::Relaxed);
    let Some((old, asked_by)) = old? else { return Ok(false) };
    let Some(Group { apart, .. }) = &stage.group else { return Ok(false) };
    Cast::new(stage.world, apart).bustle(HEALED_MS, &[], &ALL)?;
    drop(old);
    Ok(asked_by > 0)
}

fn hand_over(stage: &mut Stage<'_>) -> io::Result<Option<(Old, u64)>> {
    let (writer, ms) = (stage.random.below(MEMBERS), stage.away_ms_min);
    let (Some(Group { apart, .. }), Some(cluster)) = (&stage.group, &mut stage.cluster) else {
        return Ok(None);
    };
    let mut cast = Cast::new(stage.world, apart);
    // What is under way comes to its end.
    cast.bustle(ms, &[], &ALL)?;
    let Some(old) = cluster.hand_over()? else { return Ok(None) };
    let asked_by = old.asked_by()?;
    cast.bustle(ms, &[writer], &others(writer))?;
    Ok(Some((old, asked_by)))
}

/// What a member says reaches Redis later than its commits reach PostgreSQL.
fn slow_link(stage: &mut Stage<'_>) -> io::Result<bool> {
    let member = stage.random.below(MEMBERS);
    let Some(Group { members, bustle, .. }) = &mut stage.group else { return Ok(false) };
    let mut cast = Cast::new(stage.world, bustle);
    cast.warm()?;
    members.of(member).link.delay(SLOW_MS);
    let played = cast.bustle(1500, &[member], &others(member));
    let late = members.of(member).link.delay(0);
    played?;
    Ok(late > 0)
}

/// A member dies while one of its commits is with PostgreSQL, where it lands much later.
fn member_killed(stage: &mut Stage<'_>) -> io::Result<bool> {
    let (member, ms) = (stage.random.below(MEMBERS), stage.away_ms_min);
    let dead_ms = ms + stage.random.below(ms);
    let Some(Group { members, landing, .. }) = &mut stage.group else { return Ok(false) };
    let (mut gate, mut watcher) = (stage.world.open_direct()?, stage.world.open_direct()?);
    let mut cast = Cast::new(stage.world, landing);
    cast.warm()?;
    gate.simple("BEGIN; LOCK TABLE checker.runway IN ACCESS EXCLUSIVE MODE")?;
    let n = version();
    landing.register.writing("of a member that dies");
    let update = format!("UPDATE landing SET v = {n} WHERE v < {n}; SELECT count(*) FROM runway");
    cast.with(member, |client| client.send(&wire::query(&update)))?;
    let waits =
        "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'checker.runway'::regclass";
    let sent = Instant::now();
    while watcher.simple(waits)?.rows.is_empty() && sent.elapsed() < LANDS_MAX {}
    members.of(member).kill()?;
    cast.clients[member] = None;
    let others = others(member);
    let played = cast.bustle(dead_ms, &[], &others).and_then(|()| {
        // They have agreed without it.
        bustle_until_hits(&mut cast, members, (&others, 2 * ms))?;
        gate.simple("COMMIT")?;
        // Seen by somebody, so by everybody from then on.
        let let_go = Instant::now();
        while landing.register.floor().shown < n && let_go.elapsed() < LANDS_MAX {
            let floor = landing.register.floor();
            let answer = watcher.simple("SELECT max(v) FROM checker.landing")?;
            finish(stage.world, landing, floor, &answer, "read past all members");
        }
        cast.bustle(ms / 2, &[], &others)
    });
    members.of(member).start()?;
    played?;
    cast.bustle(ms / 2, &[member], &ALL)?;
    Ok(landing.register.floor().shown >= n)
}

/// All are stopped, and started again at once: what was agreed on may outlive them, and what the last
/// of them knew, who was alone and asked nobody, may not.
fn all_restarted(stage: &mut Stage<'_>) -> io::Result<bool> {
    let (last, ms) = (stage.random.below(MEMBERS), stage.away_ms_min);
    let Some(Group { members, bustle, .. }) = &mut stage.group else { return Ok(false) };
    let mut cast = Cast::new(stage.world, bustle);
    cast.warm()?;
    for member in others(last) {
        members.of(member).stop(STOPS_SOON)?;
        cast.clients[member] = None;
    }
    bustle_until_hits(&mut cast, members, (&[last], 4 * ms))?;
    cast.bustle(ms, &[last], &[last])?;
    let ended = members.of(last).stop(STOPS_MAX)?;
    cast.clients[last] = None;
    let first = stage.random.below(MEMBERS);
    members.of(first).start()?;
    cast.bustle(ms / 2, &[first], &[first])?;
    for member in others(first) {
        members.of(member).start()?;
    }
    cast.bustle(ms, &ALL, &ALL)?;
    Ok(ended)
}

/// A member stops in the middle of a write, sleeps longer than anybody waits for it, and wakes up
/// with what it knew.
fn member_frozen(stage: &mut Stage<'_>) -> io::Result<bool> {
    let (member, ms) = (stage.random.below(MEMBERS), stage.away_ms_min);
    let ms = ms + stage.random.below(ms);
    let Some(Group { members, bustle, .. }) = &mut stage.group else { return Ok(false) };
    let mut cast = Cast::new(stage.world, bustle);
    cast.warm()?;
    let mut writer = stage.world.open_at(member)?;
    let n = version();
    writer.send(&wire::query(&format!("UPDATE bustle SET v = {n} WHERE v < {n}")))?;
    let pid = members.of(member).pid();
    let asleep = Duration::from_millis(u64::try_from(ms).unwrap());
    let frozen = signal(pid, "-STOP")?;
    let slept = Instant::now();
    // In time, whatever the others wait for: what was begun through it may have locks that all their
    // servers stand in line for.
    let is_played = AtomicBool::new(false);
    let (played, woken) = thread::scope(|threads| {
        let waking = threads.spawn(|| {
            while slept.elapsed() < 2 * asleep && !is_played.load(Ordering::Relaxed) {
                thread::park_timeout((2 * asleep).saturating_sub(slept.elapsed()));
            }
            signal(pid, "-CONT")
        });
        let played = cast.bustle(ms, &others(member), &others(member));
        is_played.store(true, Ordering::Relaxed);
        waking.thread().unpark();
        (played, waking.join())
    });
    let woken = woken.map_err(|_panicked| io::Error::other("nobody woke it"))??;
    played?;
    cast.read(member, "read as soon as it wakes up")?;
    match writer.answer() {
        Ok(answer) if answer.error.is_none() => bustle.register.acked(n),
        Ok(_) => {}
        Err(error) if is_closed(&error) => stage.world.report.closed(&error, "a scene"),
        Err(error) => return Err(error),
    }
    cast.bustle(HEALED_MS, &[member], &ALL)?;
    Ok(frozen && woken)
}

/// All that the group has agreed on is gone at once.
fn redis_flushed(stage: &mut Stage<'_>) -> io::Result<bool> {
    forgets(stage, "FLUSHALL", |answer, before| answer == "+OK" && before > 0)
}

/// Everybody has to come again.
fn redis_clients_killed(stage: &mut Stage<'_>) -> io::Result<bool> {
    let killed = |answer: &str, _| answer.strip_prefix(':').is_some_and(|count| count != "0");
    forgets(stage, "CLIENT KILL TYPE normal SKIPME yes", killed)
}

/// Members write through what one command does to Redis. `struck` is told what it answered, and
/// how many keys there were before.
fn forgets(
    stage: &mut Stage<'_>,
    command: &str,
    struck: impl FnOnce(&str, u64) -> bool,
) -> io::Result<bool> {
    let member = stage.random.below(MEMBERS);
    let (Some(redis), Some(group)) = (&stage.redis, &stage.group) else { return Ok(false) };
    let mut cast = Cast::new(stage.world, &group.bustle);
    cast.warm()?;
    let keys = redis.ask("DBSIZE")?;
    let keys = keys.strip_prefix(':').and_then(|count| count.parse().ok()).unwrap_or(0);
    let struck = struck(&redis.ask(command)?, keys);
    cast.bustle(HEALED_MS, &[member], &ALL)?;
    Ok(struck)
}
