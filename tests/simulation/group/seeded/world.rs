//! Three Forebays, a Redis and a PostgreSQL, and what happens next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay::cache::coherence::Scope;
use forebay::cache::group::link;
use forebay::cache::group::member::Safeguard;
use forebay::cache::group::script::Request;
use forebay::cache::group::settings::Settings;
use forebay::config::SecretText;

use crate::random::Random;

use super::instance::{Client, Instance};
use super::postgres::{Postgres, Read, TABLES, Work, Write};
use super::reader::Reading;
use super::redis::Redis;
use super::task::K;
use super::writer::Writing;

pub(super) const MEMBERS: usize = 3;

/// In milliseconds.
pub(super) const LEASE: usize = 1000;

/// What is left out on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twin {
    None,
    Without(Safeguard),
    /// Nobody asks before it hits.
    NoCheck,
    /// Answers are stamped when they are stored.
    UncheckedStore,
    /// What was lost on its way to PostgreSQL is taken for committed at once.
    LossSettledAtOnce,
    /// Whoever forms K opens it, whomever PostgreSQL shows.
    EmptyCensus,
    /// A grant lasts for as long as what was joined.
    AlwaysGranted,
    /// Verdicts do not move with what others do to the catalogue.
    CatalogUntold,
    /// Who is dead is not seen, though its backends are.
    DeadUnseen,
    /// Commits wait for no leave.
    Unannounced,
}

/// What may befall them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    Restart,
    LoseK,
    Promotion,
    /// A link fails, and what was sent may arrive late.
    Link,
    /// The same, when some of it was answered.
    Replies,
    /// Redis cannot be reached for a while.
    Cut,
    Kill,
    Pause,
    /// All connections to PostgreSQL are lost.
    Postgres,
    /// One is.
    Server,
    /// The one that shows the lock is.
    Control,
    Leave,
    Birth,
    /// Nothing happens for a while, to anybody.
    Silence,
}

impl Fault {
    /// Those that cost the group what it agreed on.
    const OF_K: &[Self] = &[
        Self::Restart,
        Self::LoseK,
        Self::Promotion,
        Self::Link,
        Self::Replies,
        Self::Cut,
        Self::Control,
    ];

    pub(super) const ALL: [Self; 14] = [
        Self::Restart,
        Self::LoseK,
        Self::Promotion,
        Self::Link,
        Self::Replies,
        Self::Cut,
        Self::Kill,
        Self::Pause,
        Self::Postgres,
        Self::Server,
        Self::Control,
        Self::Leave,
        Self::Birth,
        Self::Silence,
    ];
}

/// What a world is like.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) twin: Twin,
    /// Hits go unasked beside others, too.
    local: bool,
    /// Answers are in Redis, too.
    pub(super) shares: bool,
    /// How many there are at first.
    members: usize,
    faults: Vec<Fault>,
    /// A fault comes in one of so many steps.
    fault_every: usize,
    /// Milliseconds that pass at once, at most.
    tick: usize,
    /// Of a hundred requests these write, and of a hundred of those these change the catalogue.
    writes: usize,
    changes: usize,
    reads: Vec<Read>,
}

impl Plan {
    fn draw(twin: Twin, random: &mut Random) -> Self {
        let any = |faults: &[Fault], random: &mut Random| -> Vec<Fault> {
            faults.iter().copied().filter(|_| random.below(3) > 0).collect()
        };
        let (faults, every, writes, changes) = match random.below(8) {
            // Nothing but servers is lost, often.
            0 => (vec![Fault::Server], 100, 4, 0),
            // The catalogue changes all the time.
            1 => (vec![Fault::Pause], 4000, 5, 15),
            // K does.
            2 => (any(Fault::OF_K, random), 1000, 4, 0),
            _ => {
                let every = [150, 500, 1500, 5000][random.below(4)];
                let changes = [0, 10, 40][random.below(3)];
                (any(&Fault::ALL, random), every, [1, 4, 12][random.below(3)], changes)
            }
        };
        Self {
            twin,
            local: random.below(2) == 0,
            shares: random.below(2) == 0,
            members: [1, 2, 2, 3, 3][random.below(5)],
            faults,
            fault_every: every,
            tick: LEASE / [30, 60, 120][random.below(3)],
            writes,
            changes,
            reads: (0..2).map(|_| Read::ALL[random.below(4)]).collect(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) hits: u64,
    pub(super) shared_hits: u64,
    pub(super) opened_answers: u64,
    pub(super) kept: u64,
    pub(super) commits: u64,
    pub(super) opened: u64,
    /// PostgreSQL showed the lock of one that a commit waited for.
    pub(super) shown: u64,
    pub(super) faults: BTreeMap<Fault, u64>,
}

/// All but the instances.
pub(super) struct Outside {
    pub(super) plan: Plan,
    pub(super) settings: Arc<Settings>,
    pub(super) random: Random,
    /// True milliseconds.
    pub(super) now: u64,
    pub(super) postgres: Postgres,
    pub(super) redis: Redis,
    /// The latest moment that somebody was told of.
    pub(super) told: usize,
    pub(super) seen: Seen,
    /// Who waits for others to hear, told over the channel.
    notices: Vec<u32>,
    pub(super) dead: Vec<u32>,
    last_id: u32,
    /// `None` while nobody wants to know.
    pub(super) trace: Option<Vec<String>>,
}

impl Outside {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    pub(super) fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    pub(super) fn say(&mut self, who: u32, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now:6} {who}: {}", what()));
        }
    }

    pub(super) fn strike(&mut self, fault: Fault) {
        self.say(0, || format!("fault: {fault:?}"));
        *self.seen.faults.entry(fault).or_default() += 1;
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
    }

    /// What is sent to be committed may wait for long.
    pub(super) fn commit(&mut self, pid: u32, write: Write) {
        self.postgres.send(pid, Work::Commit(write));
        if self.below(4) == 0 {
            let ms = self.below(2 * LEASE);
            self.postgres.hold_up(pid, self.now + ms as u64);
        }
    }

    fn backend_step(&mut self, fails: bool) -> bool {
        let busy = self.postgres.busy(self.now);
        if busy.is_empty() {
            return false;
        }
        let pid = busy[self.below(busy.len())];
        let done = self.postgres.land(pid, fails);
        self.say(0, || format!("backend {pid} does {done:?}"));
        if let Some(Work::Commit(_)) = done {
            self.say(0, || "it is PostgreSQL's commit".to_owned());
        }
        true
    }

    fn late_step(&mut self) -> bool {
        let late = &mut self.redis.late;
        late.retain(|requests| !requests.is_empty());
        if late.is_empty() {
            return false;
        }
        let at = self.random.below(late.len());
        if let Some(request) = self.redis.late[at].pop_front() {
            let reply = self.redis.serve(&request, self.now);
            self.say(0, || format!("arrives late: {request:?}, {reply:?}"));
        }
        true
    }
}

pub(super) struct World {
    pub(super) outside: Outside,
    pub(super) instances: Vec<Option<Instance>>,
}

/// A stale hit, or what did not heal.
type Step = Result<(), String>;

impl World {
    pub(super) fn new(seed: u64, twin: Twin, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(twin, &mut random);
        let settings = Arc::new(settings(&plan));
        let outside = Outside {
            settings,
            random,
            now: 0,
            postgres: Postgres::new(),
            redis: Redis::new(),
            told: 0,
            seen: Seen::default(),
            notices: Vec::new(),
            dead: Vec::new(),
            last_id: 0,
            trace: traced.then(Vec::new),
            plan,
        };
        let mut world = Self { outside, instances: (0..MEMBERS).map(|_| None).collect() };
        if traced {
            let plan = format!("{:?}", world.outside.plan);
            world.outside.say(0, || plan);
        }
        for at in 0..world.outside.plan.members {
            world.bear(at);
        }
        world
    }

    pub(super) fn bear(&mut self, at: usize) {
        self.outside.last_id += 1;
        let instance = Instance::new(self.outside.last_id, &mut self.outside);
        self.outside.say(instance.id, || "is born".to_owned());
        self.instances[at] = Some(instance);
    }

    pub(super) fn living(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().flatten()
    }

    /// One thing that happens.
    pub(super) fn step(&mut self) -> Step {
        if self.outside.below(self.outside.plan.fault_every) == 0 {
            self.fault();
            return Ok(());
        }
        if self.outside.below(100) == 0 {
            return self.calm();
        }
        let (what, at) = (self.outside.below(100), self.outside.below(MEMBERS));
        match what {
            0..=36 => return self.client_step(at),
            37..=58 => self.task_step(at),
            59..=76 => self.redis_step(at),
            77..=88 => self.postgres_step(at),
            89..=93 => {
                if let Some((instance, outside)) = self.awake(at) {
                    instance.serve(outside);
                }
            }
            94 => self.outside.redis.copy(),
            _ => {
                let ms = self.outside.below(self.outside.plan.tick) + 1;
                self.outside.pass(ms as u64);
            }
        }
        Ok(())
    }

    pub(super) fn awake(&mut self, at: usize) -> Option<(&mut Instance, &mut Outside)> {
        let outside = &mut self.outside;
        let instance = self.instances[at].as_mut()?;
        (outside.now >= instance.paused_until).then_some((instance, outside))
    }

    pub(super) fn task_step(&mut self, at: usize) {
        if let Some((instance, outside)) = self.awake(at) {
            instance.drive(outside);
        }
    }

    pub(super) fn redis_step(&mut self, at: usize) {
        if self.outside.below(8) == 0 {
            self.outside.late_step();
        }
        if let Some(by) = self.outside.notices.pop()
            && self.outside.below(3) > 0
            && let Some((instance, _)) = self.awake(at)
        {
            instance.group.hurry(by, K);
        }
        let Some(instance) = &mut self.instances[at] else { return };
        let request = instance.arrive(&mut self.outside);
        if let Some(Request::Begin { id, .. }) = request {
            self.outside.notices.extend([id; MEMBERS]);
        }
    }

    fn postgres_step(&mut self, at: usize) {
        if self.outside.below(3) == 0 {
            if let Some(instance) = &mut self.instances[at] {
                instance.count(&mut self.outside);
            }
        } else {
            let fails = self.outside.below(8) == 0;
            self.outside.backend_step(fails);
        }
    }

    fn client_step(&mut self, at: usize) -> Step {
        let Some((instance, outside)) = self.awake(at) else { return Ok(()) };
        let who = outside.below(instance.clients.len());
        if outside.now < instance.slow_until[who] {
            return Ok(());
        }
        if outside.below(30) == 0 {
            // It waits for a processor, or for the network.
            instance.slow_until[who] = outside.now + outside.below(LEASE) as u64;
        }
        let next = match std::mem::replace(&mut instance.clients[who], Client::Idle) {
            Client::Idle => begin(instance, outside),
            Client::Reading(reading) => reading.step(instance, outside)?,
            Client::Writing(writing) => writing.step(instance, outside),
        };
        instance.clients[who] = next;
        Ok(())
    }

    fn fault(&mut self) {
        if self.outside.plan.faults.is_empty() {
            return;
        }
        let which = self.outside.below(self.outside.plan.faults.len());
        let fault = self.outside.plan.faults[which];
        let at = self.outside.below(MEMBERS);
        let long = 2 * LEASE;
        let Self { outside, instances } = self;
        match (fault, &mut instances[at]) {
            (Fault::Restart, _) => outside.redis.follow(super::redis::Kept::default()),
            (Fault::LoseK, _) => outside.redis.lose_k(),
            (Fault::Promotion, _) => {
                let has = outside.redis.replica.clone();
                outside.redis.follow(has);
            }
            (Fault::Silence, _) => {
                let ms = outside.below(long);
                outside.pass(ms as u64);
            }
            (Fault::Birth, None) => self.bear(at),
            (Fault::Birth, Some(_)) | (_, None) => return,
            (Fault::Link | Fault::Replies, Some(instance)) => {
                instance.cut_link(outside);
                return;
            }
            (Fault::Cut, Some(instance)) => {
                instance.cut_until = outside.now + outside.below(long) as u64;
            }
            (Fault::Pause, Some(instance)) => {
                let ms = outside.below(2 * long);
                instance.paused_until = outside.now + ms as u64;
            }
            (Fault::Postgres, Some(instance)) => outside.postgres.sever_all(instance.id),
            (Fault::Server, Some(instance)) => {
                let slot = outside.below(instance.slots.len());
                let pid = instance.pid(slot);
                outside.postgres.sever(pid);
            }
            (Fault::Control, Some(instance)) => {
                instance.control.into_iter().for_each(|pid| outside.postgres.sever(pid));
            }
            (Fault::Leave, Some(instance)) => instance.group.leave(),
            (Fault::Kill, Some(_)) => self.kill(at),
        }
        self.outside.strike(fault);
    }

    pub(super) fn kill(&mut self, at: usize) {
        let Some(mut instance) = self.instances[at].take() else { return };
        instance.leave_requests(&mut self.outside);
        self.outside.postgres.sever_all(instance.id);
        self.outside.dead.push(instance.id);
        self.outside.say(instance.id, || "is dead".to_owned());
    }

    /// Everybody does what there is to do, and then a little time passes.
    pub(super) fn calm(&mut self) -> Step {
        for _ in 0..6 {
            for at in 0..MEMBERS {
                self.task_step(at);
                for _ in 0..3 {
                    self.redis_step(at);
                }
                if let Some(instance) = &mut self.instances[at] {
                    instance.count(&mut self.outside);
                }
                if let Some((instance, outside)) = self.awake(at) {
                    instance.look_for_lost(outside);
                    instance.read_catalog(outside);
                    instance.connect(outside);
                    for who in 0..instance.clients.len() {
                        if outside.now < instance.slow_until[who] {
                            continue;
                        }
                        let client = std::mem::replace(&mut instance.clients[who], Client::Idle);
                        instance.clients[who] = match client {
                            Client::Idle => Client::Idle,
                            Client::Reading(reading) => reading.step(instance, outside)?,
                            Client::Writing(writing) => writing.step(instance, outside),
                        };
                    }
                }
            }
            while self.outside.backend_step(false) {}
            while self.outside.late_step() {}
        }
        let ms = LEASE as u64 / 40;
        self.outside.pass(ms);
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        let mut acts = self.living().map(|instance| instance.group.act());
        let first = acts.next().flatten();
        first.is_some()
            && acts.all(|act| act == first)
            && self.living().all(|instance| instance.group.is_open())
    }
}

/// A client of it asks for something.
fn begin(instance: &mut Instance, outside: &mut Outside) -> Client {
    if outside.below(100) >= outside.plan.writes {
        let which = outside.below(2);
        let read = outside.plan.reads[which];
        return Client::Reading(Box::new(Reading::new(read, instance, outside)));
    }
    if outside.below(100) == 0 {
        let table = TABLES[outside.below(2)];
        outside.say(instance.id, || format!("forgets {table:?}"));
        instance.home.invalidate(&Scope::Tables([table].into()));
        return Client::Idle;
    }
    let Some(slot) = instance.acquire() else { return Client::Idle };
    let write = if outside.below(100) < outside.plan.changes {
        [Write::Trigger, Write::View][outside.below(2)]
    } else {
        Write::Rows([[true, false], [false, true], [true, true]][outside.below(3)])
    };
    let discards = outside.below(20) == 0 && outside.plan.twin != Twin::Unannounced;
    if discards {
        outside.postgres.send(instance.pid(slot), Work::Discard);
    }
    Client::Writing(Box::new(Writing::new(write, slot, discards)))
}

fn settings(plan: &Plan) -> Settings {
    let timeout = Duration::from_millis(LEASE as u64 / 4);
    Settings {
        name: "g".to_owned(),
        lease: Duration::from_millis(LEASE as u64),
        timeout,
        read_timeout: timeout,
        local: plan.local,
        link: link::Settings { url: String::new(), authorities: None, timeout },
        secret: SecretText::default(),
        found: link::Found::default(),
    }
}
