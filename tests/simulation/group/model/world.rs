//! One moment of the world: the instances, their Redis, their PostgreSQL.

use std::rc::Rc;

use forebay::cache::group::member::Member;
use forebay::cache::group::slot::{Act, SlotName};
use forebay::sql::verdict::TableId;

use super::k::{K, Reply, Request, Slot};
use super::setup::{CATALOG, DATABASE, FIRST, Faults, INSTANCES, NOW, SECOND, Setup, Without};

/// An act that nobody can hit by any more.
pub(crate) const DEAD: u8 = 255;

/// The PostgreSQL there is.
pub(crate) const PLACE: u64 = 1;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// Commits that touched each table.
    pub(crate) values: [u8; 2],
    /// Whether a write of the first table writes the second.
    pub(crate) trigger: bool,
    /// What the primary and its replica have.
    pub(crate) redis: [Option<K>; 2],
    /// Which of them is the primary.
    pub(crate) primary: usize,
    pub(crate) instances: [Rc<Instance>; INSTANCES],
    pub(crate) writes: Vec<Write>,
    pub(crate) l2: Option<Entry>,
    pub(crate) faults: Faults,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    Unborn,
    Alive,
    Dead,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    pub(crate) life: Life,
    pub(crate) member: Member,
    /// Which Redis its connection goes to.
    pub(crate) dialed: usize,
    pub(crate) round: Option<Round>,
    pub(crate) renewal: Option<Renewal>,
    /// Requests of connections given up that may still arrive, each with its act.
    pub(crate) ghosts: Vec<(u8, Request)>,
    /// It has connections to PostgreSQL.
    pub(crate) connected: bool,
    /// They are dead, and it has not noticed.
    pub(crate) severed: bool,
    /// It has the one that shows the lock.
    pub(crate) control: bool,
    /// That one is dead, and it has not noticed.
    pub(crate) control_dead: bool,
    /// Its servers have let go of the lock, and are about to take it.
    pub(crate) unlocked: bool,
    /// It stops: that one is not made anew.
    pub(crate) leaves: bool,
    /// PostgreSQL shows its lock, whatever is under way.
    pub(crate) shown: bool,
    /// When its servers took the lock.
    pub(crate) locked_at: u64,
    /// K's slots as last seen.
    pub(crate) copy: [Option<Slot>; 4],
    pub(crate) l1: Option<Entry>,
    pub(crate) catalog: Option<Catalog>,
}

/// Requests on their way. Each is answered, and the answer read, when it arrives.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Round {
    pub(crate) act: u8,
    /// What a grant in the answer is counted from.
    pub(crate) sent_at: u64,
    pub(crate) requests: Vec<Request>,
}

/// Between the list of members and the RENEW with the census.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Renewal {
    pub(crate) until: u64,
    /// Here; `until` is on Redis's clock.
    pub(crate) heard_at: u64,
    pub(crate) seq: u64,
    pub(crate) listed: u8,
}

/// What an answer was stamped with, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) act: u8,
    pub(crate) generations: [u8; 4],
    pub(crate) values: [u8; 2],
}

/// What was read of it, under which version.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Catalog {
    pub(crate) act: u8,
    pub(crate) generation: u8,
    pub(crate) trigger: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Idle,
    Begun(u64),
    Sent(u64),
    /// The server was lost with the commit on its way.
    Unknown(u64),
    Over(u64),
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Write {
    pub(crate) phase: Phase,
    /// What it is taken to write.
    pub(crate) slots: u8,
    /// A backend has it and has not decided.
    pub(crate) pending: bool,
}

pub(crate) fn bits(slots: &[SlotName]) -> u8 {
    slots.iter().fold(0, |bits, slot| {
        bits | match slot {
            SlotName::Database => DATABASE,
            SlotName::Catalog => CATALOG,
            SlotName::Table(TableId(1)) => FIRST,
            SlotName::Table(_) => SECOND,
        }
    })
}

pub(crate) fn names(bits: u8) -> Vec<SlotName> {
    let all = [
        (DATABASE, SlotName::Database),
        (CATALOG, SlotName::Catalog),
        (FIRST, SlotName::Table(TableId(1))),
        (SECOND, SlotName::Table(TableId(2))),
    ];
    all.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

impl Instance {
    fn new(at: usize, setup: &Setup) -> Self {
        Self {
            life: Life::Unborn,
            member: Member::new(at as u32, setup.rules()),
            dialed: 0,
            round: None,
            renewal: None,
            ghosts: Vec::new(),
            connected: false,
            severed: false,
            control: false,
            control_dead: false,
            unlocked: false,
            leaves: false,
            shown: false,
            locked_at: 0,
            copy: [None; 4],
            l1: None,
            catalog: None,
        }
    }

    /// What is left of one that was killed.
    pub(crate) fn dead(at: usize, setup: &Setup, ghosts: Vec<(u8, Request)>, shown: bool) -> Self {
        Self { life: Life::Dead, ghosts, shown, ..Self::new(at, setup) }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.life == Life::Alive
    }

    pub(crate) fn act(&self) -> Option<u8> {
        self.member.act().map(|act| act.0[0])
    }

    /// PostgreSQL shows nothing of it but what is under way.
    pub(crate) fn shows_only_servers(&self) -> bool {
        !self.control || self.control_dead
    }

    pub(crate) fn reaches_postgres(&self) -> bool {
        self.connected && !self.severed
    }

    /// All its connections to PostgreSQL are there, and as new as can be.
    pub(crate) fn connect(&mut self) {
        (self.connected, self.shown) = (true, true);
        (self.unlocked, self.control_dead) = (false, false);
        self.locked_at = NOW;
        if !self.leaves {
            self.control = true;
            self.member.take_lock(PLACE, NOW);
        }
    }

    /// Its own clock moves on by a tick.
    fn tick(&mut self, setup: &Setup) {
        self.member.rebase(NOW, 1);
        let over = NOW.saturating_sub(setup.lease + setup.margin);
        self.locked_at = if self.locked_at <= over + 1 { 0 } else { self.locked_at - 1 };
        // Nothing runs for longer than a lease from then.
        let earliest = NOW - setup.lease - setup.margin;
        if let Some(round) = &mut self.round {
            round.sent_at = round.sent_at.saturating_sub(1).max(earliest);
        }
        if let Some(renewal) = &mut self.renewal {
            renewal.heard_at = (renewal.heard_at - 1).max(earliest);
        }
    }

    /// Redis's clock does.
    fn redis_tick(&mut self) {
        let sooner = |until: &mut u64| *until = if *until <= NOW + 1 { 0 } else { *until - 1 };
        for request in self.requests() {
            if let Request::Join { until, .. } | Request::Renew { until, .. } = request {
                sooner(until);
            }
        }
        self.renewal.iter_mut().for_each(|renewal| sooner(&mut renewal.until));
    }

    fn requests(&mut self) -> impl Iterator<Item = &mut Request> {
        let sent = self.round.iter_mut().flat_map(|round| &mut round.requests);
        sent.chain(self.ghosts.iter_mut().map(|(_, request)| request))
    }

    fn prune(&mut self, is_dead: impl Fn(u8) -> bool) {
        self.l1 = self.l1.filter(|entry| !is_dead(entry.act));
        self.catalog = self.catalog.filter(|catalog| !is_dead(catalog.act));
        if let Some(round) = &mut self.round
            && round.act != DEAD
            && is_dead(round.act)
        {
            round.act = DEAD;
        }
        self.ghosts.retain(|(act, request)| match request {
            Request::Join { until, .. } => *until > NOW,
            Request::Renew { until, .. } => *until > NOW && !is_dead(*act),
            Request::Members
            | Request::Begin { .. }
            | Request::Lag { .. }
            | Request::Hear { .. }
            | Request::End { .. }
            | Request::Leave => !is_dead(*act),
        });
        self.renewal.take_if(|renewal| renewal.until <= NOW);
    }
}

impl State {
    /// A group that is open and has nothing cached.
    pub(crate) fn start(setup: &Setup) -> Self {
        let mut k = K::new(0, 0, setup);
        k.open = true;
        k.since = Some(NOW - setup.lease);
        let new = |at| Instance::new(at, setup);
        let mut instances: [Instance; INSTANCES] = std::array::from_fn(new);
        for (at, instance) in instances.iter_mut().enumerate().take(setup.members) {
            instance.life = Life::Alive;
            instance.connect();
            instance.locked_at = 0;
            instance.member.take_lock(PLACE, 0);
            instance.member.join(NOW);
            k.join(setup, at, NOW + setup.lease, &[]);
        }
        for (at, instance) in instances.iter_mut().enumerate().take(setup.members) {
            let applied = k.seq;
            let (until, seen) = (NOW + setup.lease, k.members());
            let request = Request::Renew { until, applied, seen, gone_seq: 0, gone: 0 };
            let Reply::Renewed { open, seq, grant, slots: _ } = k.serve(setup, at, &request) else {
                unreachable!("a member renews");
            };
            instance.member.on_joined(Act([0; 16]), open, &[]);
            instance.member.renew(NOW);
            instance.member.on_renewed(open, seq, grant, NOW);
            instance.copy = [Some(Slot::default()); 4];
            instance.catalog = Some(Catalog { act: 0, generation: 0, trigger: false });
        }
        let write = Write { phase: Phase::Idle, slots: 0, pending: false };
        Self {
            values: [0; 2],
            trigger: false,
            redis: [Some(k), None],
            primary: 0,
            instances: instances.map(Rc::new),
            writes: vec![write; setup.writers.len()],
            l2: None,
            faults: setup.faults,
        }
    }

    pub(crate) fn at(&mut self, at: usize) -> &mut Instance {
        Rc::make_mut(&mut self.instances[at])
    }

    /// Time passes, but not on the clock of `slow`, nor, if it says so, on Redis's.
    pub(crate) fn tick(&mut self, setup: &Setup, slow: Option<usize>, is_redis_slow: bool) {
        if !is_redis_slow {
            for k in &mut self.redis {
                k.take_if(|k| !k.tick(setup));
            }
        }
        for at in 0..INSTANCES {
            let instance = self.at(at);
            if instance.life == Life::Unborn {
                continue;
            }
            if !is_redis_slow {
                instance.redis_tick();
            }
            if slow != Some(at) {
                instance.tick(setup);
            }
        }
    }

    /// K's count of changes is about what came before what, and no more.
    fn recount(&mut self) {
        let mut changes: Vec<&mut u64> = Vec::new();
        for k in self.redis.iter_mut().flatten() {
            changes.extend(k.changes());
        }
        for instance in &mut self.instances {
            if instance.life == Life::Unborn {
                continue;
            }
            let instance = Rc::make_mut(instance);
            let sent = instance.round.iter_mut().flat_map(|round| &mut round.requests);
            let late = instance.ghosts.iter_mut().map(|(_, request)| request);
            changes.extend(sent.chain(late).flat_map(Request::changes));
            changes.extend(instance.renewal.iter_mut().map(|renewal| &mut renewal.seq));
            changes.extend(instance.member.changes());
        }
        let mut known: Vec<u64> = changes.iter().map(|change| **change).collect();
        known.push(0);
        known.sort_unstable();
        known.dedup();
        for change in changes {
            *change = known.iter().position(|of| of == change).map_or(0, |at| at as u64);
        }
    }

    /// What nothing can come of is forgotten, so that there are finitely many states.
    pub(crate) fn prune(&mut self, setup: &Setup) {
        if setup.lacks(Without::Check) {
            return;
        }
        let mut alive = Vec::new();
        for act in 0..DEAD {
            if self.redis.iter().flatten().any(|k| k.act == act)
                || self.instances.iter().any(|instance| instance.act() == Some(act))
            {
                alive.push(act);
            }
            if act > 8 {
                break;
            }
        }
        let is_dead = |act| !alive.contains(&act);
        self.l2 = self.l2.filter(|entry| !is_dead(entry.act));
        for instance in &mut self.instances {
            if instance.life != Life::Unborn {
                Rc::make_mut(instance).prune(is_dead);
            }
        }
        if setup.counts() {
            self.recount();
        }
    }

    /// An act that nobody has heard of.
    pub(crate) fn fresh_act(&self) -> u8 {
        let is_used = |act: u8| {
            let requested = |instance: &Instance| {
                instance.round.as_ref().is_some_and(|round| round.act == act)
                    || instance.ghosts.iter().any(|(of, _)| *of == act)
                    || instance.catalog.is_some_and(|catalog| catalog.act == act)
                    || instance.l1.is_some_and(|entry| entry.act == act)
                    || instance.act() == Some(act)
            };
            self.redis.iter().flatten().any(|k| k.act == act)
                || self.l2.is_some_and(|entry| entry.act == act)
                || self.instances.iter().any(|instance| requested(instance))
        };
        let act = (0..8).find(|&act| !is_used(act));
        act.unwrap_or_else(|| unreachable!("so many lives of K are not under way at once"))
    }

    /// Whom PostgreSQL shows.
    pub(crate) fn census(&self, setup: &Setup) -> u8 {
        let shows = |at: usize| {
            let mut writes = setup.writers.iter().zip(&self.writes);
            self.instances[at].shown
                || writes.any(|(writer, write)| writer.at == at && write.pending)
        };
        (0..INSTANCES).filter(|&at| shows(at)).map(|at| 1 << at).sum()
    }

    /// The writes of an instance.
    pub(crate) fn writes_of<'a>(
        &'a mut self,
        setup: &'a Setup,
        at: usize,
    ) -> impl Iterator<Item = &'a mut Write> {
        let writes = setup.writers.iter().zip(&mut self.writes);
        writes.filter(move |(writer, _)| writer.at == at).map(|(_, write)| write)
    }

    /// Whether an instance has in flight what concerns its readers. `unended`: also what it knows
    /// the outcome of, and K may not.
    pub(crate) fn is_in_flight(&self, setup: &Setup, at: usize, unended: bool) -> bool {
        setup.writers.iter().zip(&self.writes).any(|(writer, write)| {
            let counts = match write.phase {
                Phase::Idle => false,
                Phase::Begun(_) | Phase::Sent(_) | Phase::Unknown(_) => true,
                Phase::Over(_) => unended && self.instances[at].member.under_way() > 0,
            };
            writer.at == at && counts && write.slots & (setup.read | DATABASE) & !CATALOG != 0
        })
    }
}
