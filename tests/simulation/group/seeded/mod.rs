//! Three real `Group`s, each with its real `Coherence`, cache and servers, over a model of Redis and
//! of PostgreSQL, under seeded faults: what is answered here PostgreSQL would have answered at some
//! moment since it was asked. When the faults stop everybody hits again, and no commit waits.
//!
//! What lies between the awaits of `membership.rs` and of a client's task is written once more here,
//! each piece a step; time is a number. `FOREBAY_SEED=<seed>` replays one seed with all its steps,
//! `FOREBAY_GROUP_SCHEDULES=<count>` runs more of them.

mod instance;
mod postgres;
mod reader;
mod redis;
mod task;
mod world;
mod writer;

use std::collections::HashSet;
use std::ops::Range;
use std::thread;

use forebay::cache::group::member::Safeguard;

use crate::world::number;

use instance::{Client, Instance};
use postgres::Read;
use reader::Reading;
use world::{Fault, LEASE, MEMBERS, Seen, Twin, World};

const STEPS: usize = 10_000;

/// Schedules of the short form.
const SEEDS: u64 = 600;

/// Within so many each part that is left out has a story.
const TWIN_SEEDS: u64 = 1200;

/// So many leases after the last fault all is as it was: whoever does not know whether its JOIN has
/// arrived waits for ten of them.
const HEALED_AFTER: u64 = 20;

struct Ran {
    schedule: u64,
    seen: Seen,
    /// All its steps, if they were wanted.
    trace: Vec<String>,
}

/// A story that should not be, and all its steps if they were wanted.
struct Broken {
    what: String,
    trace: Vec<String>,
}

fn run(seed: u64, twin: Twin, traced: bool) -> Result<Ran, Box<Broken>> {
    let mut world = World::new(seed, twin, traced);
    let result = play(&mut world).and_then(|()| heal(&mut world, twin));
    let outside = &mut world.outside;
    match result {
        Ok(()) => {
            let schedule = outside.random.schedule();
            let trace = outside.trace.take().unwrap_or_default();
            Ok(Ran { schedule, seen: std::mem::take(&mut outside.seen), trace })
        }
        Err(what) => {
            let trace = outside.trace.take().unwrap_or_default();
            Err(Box::new(Broken { what, trace }))
        }
    }
}

fn play(world: &mut World) -> Result<(), String> {
    let is_cold = world.outside.below(8) == 0;
    while !is_cold && !world.is_open() {
        world.calm()?;
    }
    (0..STEPS).try_for_each(|_| world.step())
}

/// Nothing befalls anybody any more: everybody hits again, and no commit waits.
fn heal(world: &mut World, twin: Twin) -> Result<(), String> {
    if twin != Twin::None {
        return Ok(());
    }
    world.outside.say(0, || "all faults stop".to_owned());
    for at in 0..MEMBERS {
        let is_leaving = |instance: &Instance| instance.group.is_leaving();
        if world.instances[at].as_ref().is_some_and(is_leaving) {
            world.kill(at);
        }
        if let Some(instance) = &mut world.instances[at] {
            (instance.paused_until, instance.cut_until) = (0, 0);
            instance.slow_until.fill(0);
        }
    }
    if world.living().next().is_none() {
        world.bear(0);
    }
    let until = world.outside.now + HEALED_AFTER * LEASE as u64;
    while world.outside.now < until {
        let is_open = |world: &World| world.is_open() && world.living().all(Instance::is_quiet);
        if is_open(world) && reads_again(world)? && is_open(world) {
            let abandoned = |instance: &Instance| instance.home.coherence.abandoned() > 0;
            let dropped = world.living().any(abandoned);
            return if dropped { Err("a guard was dropped".to_owned()) } else { Ok(()) };
        }
        world.calm()?;
    }
    Err("it did not heal".to_owned())
}

/// Everybody reads everything twice; whether what came second was all hits.
fn reads_again(world: &mut World) -> Result<bool, String> {
    // What was done last may still have to be heard of.
    let rest = |world: &mut World| (0..10).try_for_each(|_| world.calm());
    rest(world)?;
    let hits = |world: &World| world.outside.seen.hits + world.outside.seen.shared_hits;
    let before = hits(world);
    for read in Read::ALL {
        for _ in 0..2 {
            for instance in world.instances.iter_mut().flatten() {
                if matches!(instance.clients[0], Client::Idle) {
                    let reading = Reading::new(read, instance, &mut world.outside);
                    instance.clients[0] = Client::Reading(Box::new(reading));
                }
            }
            rest(world)?;
        }
    }
    Ok(hits(world) - before >= (Read::ALL.len() * world.living().count()) as u64)
}

fn seeds() -> Range<u64> {
    match number("FOREBAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FOREBAY_GROUP_SCHEDULES").unwrap_or(SEEDS),
    }
}

/// Every `of`-th seed from `first` on.
fn run_some(first: usize, of: usize) -> Vec<Ran> {
    let traced = number("FOREBAY_SEED").is_some();
    let run_one = |seed| {
        run(seed, Twin::None, traced).unwrap_or_else(|_| {
            let Err(broken) = run(seed, Twin::None, true) else { panic!("{seed} is another now") };
            let story = broken.trace.join("\n");
            panic!("{story}\nFOREBAY_SEED={seed}: {}", broken.what);
        })
    };
    seeds().skip(first).step_by(of).map(run_one).collect()
}

#[test]
fn no_schedule_of_a_group_has_an_old_hit_and_each_heals() {
    let threads = thread::available_parallelism().unwrap().get();
    let ran: Vec<Ran> = thread::scope(|scope| {
        let some = |first| scope.spawn(move || run_some(first, threads));
        let all: Vec<_> = (0..threads).map(some).collect();
        all.into_iter().flat_map(|some| some.join().unwrap()).collect()
    });
    ran.iter().flat_map(|ran| &ran.trace).for_each(|line| println!("{line}"));
    let schedules: HashSet<u64> = ran.iter().map(|ran| ran.schedule).collect();
    assert_eq!(schedules.len() as u64, seeds().end - seeds().start, "a schedule ran twice");
    let sum = |of: fn(&Seen) -> u64| ran.iter().map(|ran| of(&ran.seen)).sum::<u64>();
    let (hits, shared) = (sum(|seen| seen.hits), sum(|seen| seen.shared_hits));
    let (commits, opened) = (sum(|seen| seen.commits), sum(|seen| seen.opened));
    let shown = sum(|seen| seen.shown);
    println!("{hits} hits, {shared} by others' answers, {commits} commits");
    println!("open {opened} times, {shown} locks shown");
    if seeds().end - seeds().start < SEEDS {
        return;
    }
    assert!(hits > 20 * SEEDS && shared > SEEDS / 4 && commits > 5 * SEEDS, "too few");
    assert!(shown > SEEDS / 20, "too few");
    for fault in Fault::ALL {
        let times: u64 = ran.iter().filter_map(|ran| ran.seen.faults.get(&fault)).sum();
        println!("{fault:?} struck {times} times");
        assert!(times > SEEDS / 20, "{fault:?} struck {times} times");
    }
}

/// Some seed has an old hit. `hint`: the first that had one; others may be drawn by now.
fn is_caught(twin: Twin, hint: u64) {
    let mut seeds = (hint..TWIN_SEEDS).chain(0..hint);
    let found = seeds.find_map(|seed| Some((seed, run(seed, twin, false).err()?)));
    let Some((seed, broken)) = found else { panic!("{twin:?} was not caught") };
    println!("{twin:?}: seed {seed}, {}", broken.what);
}

#[test]
fn each_part_of_a_group_that_is_left_out_is_missed() {
    for (twin, hint) in [
        (Twin::NoCheck, 3),
        (Twin::UncheckedStore, 162),
        (Twin::LossSettledAtOnce, 49),
        (Twin::EmptyCensus, 2),
        (Twin::AlwaysGranted, 4),
        (Twin::CatalogUntold, 60),
        (Twin::DeadUnseen, 138),
        (Twin::Unannounced, 2),
        (Twin::Without(Safeguard::AwaitBegin), 65),
        (Twin::Without(Safeguard::Fence), 40),
        (Twin::Without(Safeguard::MarksInJoin), 116),
        (Twin::Without(Safeguard::AwaitGrants), 3),
    ] {
        is_caught(twin, hint);
    }
}

#[test]
fn a_seed_replays_the_same_schedule_of_a_group() {
    let schedule = |seed| run(seed, Twin::None, seed > 5).map_or(0, |ran| ran.schedule);
    for seed in 0..10 {
        assert_eq!(schedule(seed), schedule(seed));
    }
}
