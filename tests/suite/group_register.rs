//! The scripts of a group on a real Redis, beside the same rules in Rust: every answer and all of
//! K must be the same after each of thousands of calls drawn at random. Leases are milliseconds,
//! so K also ends by itself, at whatever moment Redis removes it.

#[path = "../simulation/group/register.rs"]
mod register;

use std::collections::BTreeMap;
use std::time::Instant;

use forebay::cache::group::life::Life;
use forebay::cache::group::link::{Link, Settings};
use forebay::cache::group::process::Process;
use forebay::cache::group::script::{Answer, Renew, Request};
use forebay::cache::group::slot::{Act, Mark, Slot, SlotName};
use forebay::sql::verdict::TableId;

use crate::support::DEADLINE;
use crate::support::redis::Redis;
use register::{K, Member, Register};

const KEY: &str = "fb:{test:1:2}";
const CALLS: usize = 6000;
/// Of answers.
const KINDS: usize = 25;

/// So often somebody comes who speaks of a PostgreSQL of before, or of a later one, which ends K: of
/// some length it has to come to between two of these.
const EARLIER: usize = 100;
const LATER: usize = 600;

/// How many changes Redis has a list of.
const LISTED: u64 = 64;

/// Of most, in milliseconds; few calls are drawn out over as much.
const LEASE: u64 = 2000;

/// Draws what is asked.
struct Dice(u64);

impl Dice {
    /// Below that number.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn once_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn some<T>(&mut self, max: u64, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.roll(max + 1)).map(|_| one(self)).collect()
    }

    fn id(&mut self) -> u32 {
        // One is a prefix of another in decimal.
        [1, 11, 2, 111][usize::try_from(self.roll(4)).unwrap()]
    }

    fn mark(&mut self) -> Mark {
        Mark { id: self.id(), n: [1, 11, 2][usize::try_from(self.roll(3)).unwrap()] }
    }

    fn slot(&mut self) -> SlotName {
        // One that is changed once in a while only.
        if self.once_in(3) {
            return SlotName::Table(TableId(100 + u32::try_from(self.roll(200)).unwrap()));
        }
        let tables = [1, 10, u32::MAX].map(|table| SlotName::Table(TableId(table)));
        let slots = [SlotName::Database, SlotName::Catalog, tables[0], tables[1], tables[2]];
        slots[usize::try_from(self.roll(5)).unwrap()]
    }

    fn act(&mut self) -> Act {
        let nonce = self.roll(u64::MAX).to_be_bytes();
        Act(std::array::from_fn(|at| nonce[at % 8]))
    }
}

/// The real one and the other, and what is known of both.
struct Pair {
    runtime: tokio::runtime::Runtime,
    link: Link,
    watch: redis::Connection,
    register: Register,
    now: u64,
    /// Most leases: as long as some hundred calls take.
    long: u64,
    dice: Dice,
    seen: BTreeMap<&'static str, usize>,
}

impl Pair {
    fn new(redis: &Redis, seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let settings = Settings { url: redis.url(), authorities: None, timeout: DEADLINE };
        let link = runtime.block_on(Link::connect(&settings, KEY)).unwrap();
        let watch = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
        let (register, dice) = (Register::default(), Dice(seed));
        Self { runtime, link, watch, register, now: 0, long: 80, dice, seen: BTreeMap::new() }
    }

    fn draw(&mut self, at: usize) -> Request {
        let (dice, k) = (&mut self.dice, self.register.k.as_ref());
        let act = k.filter(|_| !dice.once_in(30)).map_or_else(|| dice.act(), |k| k.act);
        let seq = k.map_or(0, |k| k.seq);
        let ids: Vec<u32> = k.into_iter().flat_map(|k| k.members.keys().copied()).collect();
        let id = match dice.roll(4) {
            0 => dice.id(),
            side => ids.get(usize::try_from(side).unwrap() - 1).copied().unwrap_or(dice.id()),
        };
        let soon = |dice: &mut Dice| self.now + [self.long, 4][usize::from(dice.once_in(12))];
        let until = (soon(dice) + dice.roll(8)).saturating_sub(6);
        match if at.is_multiple_of(EARLIER) { 0 } else { dice.roll(21) } {
            0..=2 => {
                let mut process = self.link.process();
                process.run_id[0] ^= u8::from(dice.once_in(20));
                let marks = dice.some(2, |dice| (dice.mark(), dice.some(3, Dice::slot)));
                let lease = LEASE + u64::from(dice.once_in(20));
                let until = if dice.once_in(50) { self.now + 2 * LEASE } else { until };
                let now = k.map_or(Life { timeline: 1000, started: 1000 }, |k| k.life);
                let life = match (at % LATER, at % EARLIER) {
                    (0, _) if dice.once_in(2) => Life { timeline: now.timeline + 1, ..now },
                    (0, _) => Life { started: now.started + 1, ..now },
                    (_, 0) if dice.once_in(2) => Life { timeline: now.timeline - 1, started: 9999 },
                    (_, 0) => Life { started: now.started - 1, ..now },
                    (_, _) => now,
                };
                Request::Join { process, life, id, until, act: dice.act(), lease, marks }
            }
            3..=11 => {
                let mut seen = ids;
                seen.retain(|_| dice.once_in(2));
                seen.extend(dice.once_in(10).then(|| dice.id()));
                // A little behind, or about as far as Redis has a list of, or further.
                let behind = [0, 0, 0, LISTED - 2, seq][usize::try_from(dice.roll(5)).unwrap()];
                let applied = (seq + 2).saturating_sub(behind + dice.roll(6));
                Request::Renew(Renew {
                    act,
                    id,
                    until,
                    applied,
                    lease: dice.roll(4),
                    local: dice.once_in(3),
                    seen,
                    gone_seq: seq.saturating_sub(dice.roll(3)),
                    gone: dice.some(3, Dice::id),
                })
            }
            12 | 13 => {
                let joined = k.and_then(|k| k.members.get(&id)).map_or(0, |member| member.joined);
                let joined = joined + u64::from(dice.once_in(10));
                let (mark, slots) = (dice.mark(), dice.some(3, Dice::slot));
                Request::Begin { act, id, joined, mark, slots }
            }
            14 => {
                let seq = (seq + 1).saturating_sub(dice.roll(4));
                Request::Lag { act, id, seq, all: dice.once_in(2) }
            }
            15 | 16 => {
                let committed = dice.once_in(2);
                Request::End { act, mark: dice.mark(), committed, slots: dice.some(4, Dice::slot) }
            }
            19 => {
                let behind = [0, LISTED - 2, seq][usize::try_from(dice.roll(3)).unwrap()];
                let applied = (seq + 2).saturating_sub(behind + dice.roll(6));
                Request::Hear { act, id, applied }
            }
            17 => Request::Bump { act, slots: dice.some(2, Dice::slot) },
            18 if dice.once_in(2) => Request::Leave { act, id: dice.id() },
            18 => Request::Members { act },
            _ => Request::Check { slots: dice.some(4, Dice::slot) },
        }
    }

    /// Asks both.
    fn call(&mut self, request: &Request) {
        let round = [Request::Time, request.clone(), Request::Time];
        let replies = self.runtime.block_on(self.link.round(&round, DEADLINE)).unwrap();
        let [before, reply, after] = replies.try_into().unwrap();
        let (before, after) = (before.now.unwrap(), after.now.unwrap());
        let now = reply.now.unwrap_or(before);
        assert!(before <= now && now <= after, "{before} {now} {after}");
        let members = |register: &Register| register.k.as_ref().map_or(0, |k| k.members.len());
        let count = members(&self.register);
        let mut expected = self.register.call(request, now);
        let answer = ordered(reply.answer);
        // Only a check does not tell its moment, and in the millisecond of its end K may be there
        // or not.
        if reply.now.is_none() && answer != expected {
            expected = self.register.call(request, after + 1);
        }
        assert_eq!(answer, expected);
        self.now = after;
        let kind = match (request, &answer) {
            (_, Answer::Renewed(_)) if members(&self.register) < count => "dropped",
            (Request::Renew(renew), Answer::Renewed(now)) if now.seq > renew.applied + LISTED => {
                "told of all slots"
            }
            (Request::Hear { applied, .. }, Answer::Heard { seq, .. })
                if *seq > applied + LISTED =>
            {
                "heard of all slots"
            }
            _ => kind(&answer),
        };
        *self.seen.entry(kind).or_default() += 1;
    }

    /// All of K, or nothing if Redis has removed it.
    fn compare(&mut self) {
        let mut look = redis::pipe();
        look.atomic().cmd("TIME").hgetall(KEY).cmd("PTTL").arg(KEY).cmd("TIME");
        let found: (Time, BTreeMap<String, String>, i64, Time) =
            look.query(&mut self.watch).unwrap();
        let (before, mut fields, left, after) = found;
        let millis = |(seconds, micros): Time| seconds * 1000 + micros / 1000;
        let now = millis(after);
        if fields.is_empty() {
            let ended = self.register.k.as_ref().is_none_or(|k| k.end() <= now);
            assert!(ended, "removed at {now}: {:?}", self.register.k);
            return;
        }
        let k = read(&mut fields);
        assert_eq!(Some(&k), self.register.k.as_ref());
        let [first, last] = [millis(before), now].map(|at| at + u64::try_from(left).unwrap());
        assert!(
            (first - 1..=last + 1).contains(&k.end()),
            "{first} to {last}: not the end of {k:?}"
        );
    }
}

/// Seconds and the microseconds of Redis's clock.
type Time = (u64, u64);

/// K from its fields, none of which may be left.
fn read(fields: &mut BTreeMap<String, String>) -> K {
    let mut take = |name: &str| fields.remove(name);
    let number = |word: Option<String>| word.map_or(0, |word| word.parse::<u64>().unwrap());
    let act = take("act").unwrap();
    let open = take("open").inspect(|open| assert_eq!(open, &act)).is_some();
    let (run, end) = (take("run").unwrap(), number(take("end")));
    let mut members = BTreeMap::new();
    for id in take("ids").unwrap().split(' ') {
        let mut of = |letter: char| number(take(&format!("{letter}:{id}")));
        let (until, active, joined) = (of('m'), of('a'), of('j'));
        let member = Member { until, active, joined, applied: of('k'), grant: of('g') };
        members.insert(id.parse().unwrap(), member);
    }
    let lease = number(take("lease"));
    let past = number(take("past"));
    let timeline = u32::try_from(number(take("timeline"))).unwrap();
    let life = Life { timeline, started: number(take("started")) };
    let (since, seq) = (take("since").map(|word| word.parse().unwrap()), number(take("seq")));
    let mut slots = BTreeMap::new();
    // What the last changes were follows from the slots.
    fields.retain(|name, _| !name.starts_with("l:"));
    for (name, value) in std::mem::take(fields) {
        let name = name.strip_prefix("s:").unwrap_or_else(|| panic!("{name} is left"));
        let slot = in_order(Slot::parse(value.as_bytes()).unwrap());
        slots.insert(SlotName::parse(name.as_bytes()).unwrap(), slot);
    }
    let process = process(&run);
    let act = Act::parse(act.as_bytes()).unwrap();
    let k = K { act, process, life, past, lease, open, since, seq, members, slots };
    assert_eq!(k.end(), end);
    k
}

fn process(run: &str) -> Process {
    let bytes = |hex: &[u8]| {
        let digit = |at: usize| u8::try_from((hex[at] as char).to_digit(16).unwrap()).unwrap();
        std::array::from_fn(|at| 16 * digit(2 * at) + digit(2 * at + 1))
    };
    let (run_id, replication_id) = run.split_once(':').unwrap();
    Process { run_id: bytes(run_id.as_bytes()), replication_id: bytes(replication_id.as_bytes()) }
}

fn in_order(mut slot: Slot) -> Slot {
    slot.marks.sort_unstable();
    slot
}

/// What has no order of its own in Redis, in one.
fn ordered(mut answer: Answer) -> Answer {
    let sort = |slots: &mut Vec<(SlotName, Slot)>| {
        for (_, slot) in slots {
            slot.marks.sort_unstable();
        }
    };
    match &mut answer {
        Answer::Renewed(renewed) => {
            sort(&mut renewed.slots);
            renewed.slots.sort_unstable();
        }
        Answer::Begun { catalog, waits, .. } => {
            catalog.marks.sort_unstable();
            waits.sort_unstable();
        }
        Answer::Lag { waits } => waits.sort_unstable(),
        Answer::Heard { slots, .. } => {
            sort(slots);
            slots.sort_unstable();
        }
        Answer::Changed { slots } => sort(slots),
        Answer::Members { ids, .. } => ids.sort_unstable(),
        Answer::Checked { slots, .. } => {
            for slot in slots {
                slot.marks.sort_unstable();
            }
        }
        Answer::Lost
        | Answer::Late
        | Answer::Census { .. }
        | Answer::Joined { .. }
        | Answer::OtherLease { .. }
        | Answer::Passed
        | Answer::Left
        | Answer::Time => {}
    }
    answer
}

/// What has to be met for the calls to have tried something.
fn kind(answer: &Answer) -> &'static str {
    match answer {
        Answer::Lost => "lost",
        Answer::Late => "late",
        Answer::Census { .. } => "census",
        Answer::OtherLease { .. } => "another lease",
        Answer::Passed => "passed",
        Answer::Joined { outlived: 1.., .. } => "outlives another",
        Answer::Joined { open: true, .. } => "joined an open one",
        Answer::Joined { open: false, .. } => "joined",
        Answer::Renewed(renewed) if renewed.grant > 0 && renewed.members > 1 => "granted",
        Answer::Renewed(renewed) if renewed.slots.is_empty() => "renewed",
        Answer::Renewed(_) => "told of slots",
        Answer::Begun { waits, .. } if waits.is_empty() => "begun",
        Answer::Begun { .. } => "begun and waits",
        Answer::Lag { waits } if waits.is_empty() => "no lag",
        Answer::Lag { .. } => "lag",
        Answer::Heard { slots, .. } if slots.is_empty() => "heard nothing",
        Answer::Heard { .. } => "heard of slots",
        Answer::Changed { .. } => "changed",
        Answer::Left => "left",
        Answer::Members { .. } => "members",
        Answer::Checked { open: Some(_), .. } => "checked an open one",
        Answer::Checked { open: None, .. } => "checked",
        Answer::Time => "time",
    }
}

fn check(seed: u64) {
    let redis = Redis::start();
    let mut pair = Pair::new(&redis, seed);
    let started = Instant::now();
    for call in 0..10 * CALLS {
        // On a loaded machine leases are over after fewer calls, and some of it is met late.
        if call >= CALLS && pair.seen.len() == KINDS {
            break;
        }
        let hundreds = started.elapsed().as_millis() * 300 / (call as u128 + 1);
        pair.long = pair.long.max(u64::try_from(hundreds).unwrap());
        if pair.dice.once_in(500) {
            redis.flush();
            pair.register.k = None;
        }
        let request = pair.draw(call);
        println!("seed {seed}, call {call}: {request:?}");
        pair.call(&request);
        pair.compare();
    }
    assert_eq!(pair.seen.len(), KINDS, "{:?}", pair.seen);
    println!("{:?}", pair.seen);
}

#[test]
fn scripts_and_rules_agree_call_by_call() {
    check(0x9e37_79b9_7f4a_7c15);
    check(0x2545_f491_4f6c_dd1d);
}
