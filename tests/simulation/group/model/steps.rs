//! Everything that may happen next.

use std::fmt;

use super::driver::Turn;
use super::k::{Request, Slot};
use super::setup::{CATALOG, DATABASE, FIRST, INSTANCES, NAMES, NOW, SECOND, Setup, Without};
use super::world::{Catalog, Entry, Life, PLACE, Phase, State, names};

use forebay::cache::group::member::{Leave, Safeguard};

pub(crate) struct Step {
    pub(crate) what: What,
    pub(crate) state: State,
}

/// What happened, and to whom.
#[derive(Clone, Copy)]
pub(crate) struct What(pub(crate) &'static str, pub(crate) &'static str);

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.1, self.0)
    }
}

/// The steps from one state, and the hits in it.
pub(crate) struct Steps<'a> {
    setup: &'a Setup,
    from: &'a State,
    pub(crate) next: Vec<Step>,
    pub(crate) hits: u64,
    /// A hit that is older than what PostgreSQL has.
    pub(crate) broken: Option<What>,
}

/// In an order that is always the same.
pub(crate) fn steps<'a>(setup: &'a Setup, from: &'a State) -> Steps<'a> {
    let mut steps = Steps { setup, from, next: Vec::new(), hits: 0, broken: None };
    steps.time();
    steps.redis_faults();
    steps.postgres();
    for at in 0..INSTANCES {
        match from.instances[at].life {
            Life::Unborn => steps.birth(at),
            Life::Alive => {
                steps.messages(at);
                steps.faults(at);
                steps.turns(at);
                steps.reader(at);
            }
            Life::Dead => steps.messages(at),
        }
    }
    steps.writers();
    steps
}

impl Steps<'_> {
    fn step(&mut self, what: &'static str, who: &'static str, change: impl FnOnce(&mut State)) {
        let mut state = self.from.clone();
        change(&mut state);
        state.prune(self.setup);
        self.next.push(Step { what: What(what, who), state });
    }

    fn time(&mut self) {
        let setup = self.setup;
        self.step("time passes", "", |state| state.tick(setup, None, false));
        if self.from.faults.slow_redis > 0 {
            self.step("time passes, not for Redis", "", |state| {
                state.faults.slow_redis -= 1;
                state.tick(setup, None, true);
            });
        }
        for (at, who) in NAMES.into_iter().enumerate() {
            if self.from.faults.slow_clock > 0 && self.from.instances[at].is_alive() {
                self.step("time passes, not for", who, |state| {
                    state.faults.slow_clock -= 1;
                    state.tick(setup, Some(at), false);
                });
            }
        }
    }

    fn redis_faults(&mut self) {
        let (faults, primary) = (self.from.faults, self.from.primary);
        let Some(k) = self.from.redis[primary].as_ref() else { return };
        if faults.lose_k > 0 {
            self.step("K is lost", "", |state| {
                state.faults.lose_k -= 1;
                state.redis[primary] = None;
            });
        }
        for of in 0..4 {
            if faults.evicted_slot > 0 && k.slots[of].marks != 0 {
                self.step("a slot of K is lost", "", |state| {
                    state.faults.evicted_slot -= 1;
                    state.redis[primary].iter_mut().for_each(|k| k.slots[of] = Slot::default());
                });
            }
        }
        if faults.promotion > 0 {
            if self.from.redis[1] != self.from.redis[0] {
                self.step("the replica catches up", "", |state| {
                    let (primary, replica) = state.redis.split_at_mut(1);
                    replica[0].clone_from(&primary[0]);
                });
            }
            self.step("the primary dies, the replica is promoted", "", |state| {
                state.faults.promotion -= 1;
                state.redis[0] = None;
                state.primary = 1;
                for at in 0..INSTANCES {
                    if state.instances[at].life != Life::Unborn {
                        state.at(at).ghosts.clear();
                    }
                }
            });
        }
    }

    fn postgres(&mut self) {
        let setup = self.setup;
        for (of, writer) in setup.writers.iter().enumerate() {
            if !self.from.writes[of].pending {
                continue;
            }
            let who = NAMES[writer.at];
            let is_known = matches!(self.from.writes[of].phase, Phase::Sent(_))
                && self.from.instances[writer.at].is_alive()
                && self.from.instances[writer.at].reaches_postgres();
            self.step("PostgreSQL commits what was sent by", who, |state| {
                state.land(writer.slots);
                state.writes[of].pending = false;
                if is_known {
                    state.settle(setup, of, true);
                }
            });
            if !is_known || self.from.faults.abort > 0 {
                self.step("PostgreSQL aborts what was sent by", who, |state| {
                    state.writes[of].pending = false;
                    if is_known {
                        state.faults.abort -= 1;
                        state.settle(setup, of, false);
                    }
                });
            }
        }
        for (at, instance) in self.from.instances.iter().enumerate() {
            if instance.shown && !(instance.is_alive() && instance.reaches_postgres()) {
                self.step("idle servers are gone of", NAMES[at], |state| {
                    state.at(at).shown = false;
                });
            }
        }
    }

    fn birth(&mut self, at: usize) {
        let primary = self.from.primary;
        if self.from.faults.birth > 0 {
            self.step("is born, with its lock", NAMES[at], |state| {
                state.faults.birth -= 1;
                let instance = state.at(at);
                instance.life = Life::Alive;
                instance.dialed = primary;
                instance.connect();
            });
        }
    }

    /// What arrives at Redis.
    fn messages(&mut self, at: usize) {
        let (setup, instance) = (self.setup, &self.from.instances[at]);
        if let Some(round) = &instance.round
            && instance.dialed == self.from.primary
            && let Some(request) = round.requests.first()
        {
            self.step(request.name(), NAMES[at], |state| state.arrive(setup, at));
        }
        if let Some((act, request)) = instance.ghosts.first() {
            self.step(request.late_name(), NAMES[at], |state| {
                state.serve(setup, at, *act, request);
                state.at(at).ghosts.remove(0);
            });
        }
    }

    fn faults(&mut self, at: usize) {
        let (setup, faults, who) = (self.setup, self.from.faults, NAMES[at]);
        let instance = &self.from.instances[at];
        if faults.crash > 0 {
            self.step("is killed", who, |state| state.kill(setup, at));
        }
        let is_stray = instance.dialed != self.from.primary;
        if is_stray || (faults.cut > 0 && (instance.round.is_some() || instance.act().is_some())) {
            self.step("gives up its connection to Redis", who, |state| {
                state.faults.cut -= u8::from(!is_stray);
                state.lose(setup, at, !is_stray);
                let primary = state.primary;
                state.at(at).dialed = primary;
            });
        }
        if instance.reaches_postgres() && faults.postgres_cut > 0 {
            self.step("loses its connections to PostgreSQL", who, |state| {
                state.faults.postgres_cut -= 1;
                state.at(at).severed = true;
            });
        }
        if instance.severed {
            self.step("notices that PostgreSQL is lost", who, |state| {
                state.lose_postgres(setup, at);
            });
        }
        let notices = faults.control_cut > 0 || instance.control_dead;
        if instance.control && !instance.severed && notices {
            self.step("loses the connection that shows its lock", who, |state| {
                state.faults.control_cut -= u8::from(!instance.control_dead);
                state.lose_control(setup, at);
            });
        }
        self.locks(at);
        if faults.leave > 0 && instance.act().is_some() && instance.round.is_none() && !is_stray {
            self.step("stops, and sends LEAVE", who, |state| state.leave(setup, at));
        }
        if !instance.connected {
            self.step("connects to PostgreSQL anew", who, |state| state.at(at).connect());
        } else if !instance.control && !instance.leaves {
            self.step("shows its lock anew", who, |state| {
                state.at(at).control = true;
                state.at(at).shown = true;
                state.at(at).member.take_lock(PLACE, NOW);
            });
        }
    }

    /// The locks of a server and of the connection that is kept for it are two.
    fn locks(&mut self, at: usize) {
        let (faults, who) = (self.from.faults, NAMES[at]);
        let instance = &self.from.instances[at];
        let lives = instance.control && !instance.control_dead && instance.reaches_postgres();
        if lives && faults.control_dies > 0 {
            self.step("has lost the connection that shows its lock", who, |state| {
                state.faults.control_dies -= 1;
                state.at(at).control_dead = true;
                state.at(at).shown &= !state.instances[at].unlocked;
            });
        }
        if lives && instance.member.is_to_be_shown(NOW) {
            self.step("is shown its lock", who, |state| state.at(at).member.on_shown(NOW));
        }
        if instance.unlocked && instance.reaches_postgres() {
            self.step("takes the lock of a server again", who, |state| {
                state.take_server_lock(self.setup, at);
            });
        } else if faults.reset > 0
            && instance.reaches_postgres()
            && !self.from.is_sent(self.setup, at)
        {
            self.step("lets go of the lock of a server", who, |state| {
                state.faults.reset -= 1;
                state.at(at).unlocked = true;
                state.at(at).shown &= !state.instances[at].shows_only_servers();
            });
        }
    }

    fn turns(&mut self, at: usize) {
        let (setup, who) = (self.setup, NAMES[at]);
        for turn in self.from.turns(setup, at) {
            let what = match turn {
                Turn::Begins => "sends BEGIN",
                Turn::Ends => "ends its commits in K",
                Turn::Lag => "asks who lags",
                Turn::Hear => "sends HEAR",
                Turn::Join => "sends JOIN",
                Turn::Members => "asks for the members",
                Turn::Renew => "takes a census, and sends RENEW",
            };
            self.step(what, who, |state| state.take_turn(setup, at, turn));
        }
    }

    /// Looks up, and on a miss fills: all at once, for an answer that comes later is newer, and one
    /// that is stored later could have been stored before.
    fn reader(&mut self, at: usize) {
        let (setup, instance) = (self.setup, &self.from.instances[at]);
        if !setup.readers.contains(&at) {
            return;
        }
        if setup.lacks(Without::Check)
            && let Some(entry) = instance.l1
        {
            self.hit(at, &[entry]);
        }
        if setup.catalog && instance.reaches_postgres() {
            self.catalog(at);
        }
        let Some(act) = instance.act() else { return };
        let forever = setup.lacks(Without::LocalDeadline) && instance.member.is_open();
        let unasked = instance.member.is_granted(NOW) || forever;
        let slots = if unasked { self.from.copy(at) } else { self.check(at) };
        let Some(slots) = slots else { return };
        let Some(generations) = self.from.stamp(setup, at, &slots) else { return };
        let is_open = unasked || self.is_open(act);
        let hits = self.from.hits(setup, at, generations);
        if is_open && !hits.is_empty() {
            self.hit(at, &hits);
        }
        let entry = Entry { act, generations, values: self.from.values };
        let is_new = instance.l1 != Some(entry) || self.from.l2 != Some(entry);
        let stamps = is_open || setup.lacks(Without::StampWhileOpen);
        if stamps && instance.reaches_postgres() && is_new {
            let what = if unasked { "fills, unasked" } else { "fills" };
            self.step(what, NAMES[at], |state| {
                state.l2 = Some(entry);
                state.at(at).l1 = Some(entry);
            });
        }
    }

    /// What K says, to one who asks and has joined it.
    fn check(&self, at: usize) -> Option<[Slot; 4]> {
        let instance = &self.from.instances[at];
        let asks =
            !self.setup.grants && instance.round.is_none() && instance.dialed == self.from.primary;
        let k = self.from.redis[self.from.primary].as_ref();
        k.filter(|k| asks && Some(k.act) == instance.act()).map(|k| k.slots)
    }

    fn is_open(&self, act: u8) -> bool {
        let k = self.from.redis[self.from.primary].as_ref();
        k.is_some_and(|k| k.act == act && k.open)
    }

    /// No state of its own: it changes nothing.
    fn hit(&mut self, at: usize, hits: &[Entry]) {
        let (read, now) = (self.setup.read, self.from.values);
        let is_old = |entry: &Entry| {
            let [first, second] = [0, 1].map(|of| entry.values[of] < now[of]);
            (read & FIRST != 0 && first) || (read & SECOND != 0 && second)
        };
        self.hits += 1;
        if hits.iter().any(is_old) {
            self.broken = Some(What("hits what is old", NAMES[at]));
        }
    }

    /// The catalogue is read anew.
    fn catalog(&mut self, at: usize) {
        let instance = &self.from.instances[at];
        let Some(act) = instance.act() else { return };
        let Some(slot) = instance.copy[1].filter(|slot| !slot.is_marked_by_others(at)) else {
            return;
        };
        let trigger = self.from.trigger;
        let catalog = Catalog { act, generation: slot.generation, trigger };
        if instance.catalog != Some(catalog) {
            self.step("reads the catalogue", NAMES[at], |state| {
                state.at(at).catalog = Some(catalog);
            });
        }
    }

    fn writers(&mut self) {
        let setup = self.setup;
        for (of, writer) in setup.writers.iter().enumerate() {
            let instance = &self.from.instances[writer.at];
            if !instance.is_alive() {
                continue;
            }
            let (who, write) = (NAMES[writer.at], &self.from.writes[of]);
            match write.phase {
                Phase::Idle if instance.reaches_postgres() => {
                    self.step("puts a commit in flight", who, |state| state.begin(setup, of));
                }
                Phase::Begun(n) if instance.reaches_postgres() => {
                    let mut member = instance.member.clone();
                    if member.leave(n, NOW) == Leave::Granted {
                        self.step("sends its commit", who, |state| {
                            state.at(writer.at).member = member;
                            state.writes[of].phase = Phase::Sent(n);
                            state.writes[of].pending = true;
                        });
                    }
                }
                Phase::Unknown(_) if !write.pending || setup.lacks(Without::KeptUnknown) => {
                    self.step("takes what was lost for committed", who, |state| {
                        state.settle(setup, of, true);
                    });
                }
                Phase::Idle
                | Phase::Begun(_)
                | Phase::Sent(_)
                | Phase::Unknown(_)
                | Phase::Over(_) => {}
            }
        }
    }
}

impl State {
    fn land(&mut self, slots: u8) {
        let triggered = self.trigger && slots & FIRST != 0;
        self.values[0] += u8::from(slots & FIRST != 0);
        self.values[1] += u8::from(slots & SECOND != 0 || triggered);
        self.trigger |= slots & CATALOG != 0;
    }

    /// A commit is put in flight, judged by the catalogue as it is known there.
    fn begin(&mut self, setup: &Setup, of: usize) {
        let writer = setup.writers[of];
        let mut slots = writer.slots;
        let instance = self.at(writer.at);
        if setup.catalog && slots & FIRST != 0 {
            let copy = instance.copy[1].filter(|slot| !slot.is_marked_by_others(writer.at));
            let is_known = |catalog: &Catalog| {
                Some(catalog.act) == instance.act()
                    && copy.is_some_and(|slot| slot.generation == catalog.generation)
            };
            slots |= match instance.catalog.filter(is_known) {
                Some(Catalog { trigger: true, .. }) => SECOND,
                Some(_) => 0,
                None if setup.lacks(Without::Member(Safeguard::Widen)) => 0,
                None => DATABASE,
            };
        }
        let locked_at = if instance.unlocked { u64::MAX } else { instance.locked_at };
        let n = instance.member.begin(names(slots), locked_at, PLACE);
        if instance.member.act().is_none() && !setup.lacks(Without::Member(Safeguard::Widen)) {
            slots |= DATABASE;
        }
        self.writes[of].phase = Phase::Begun(n);
        self.writes[of].slots = slots;
    }

    /// Whether its server has a commit that it was told of, or may be: that one has its lock.
    fn is_sent(&self, setup: &Setup, at: usize) -> bool {
        let mut writes = setup.writers.iter().zip(&self.writes);
        writes.any(|(writer, write)| {
            let begun = matches!(write.phase, Phase::Begun(_) | Phase::Sent(_));
            writer.at == at && (begun || write.pending)
        })
    }

    fn take_server_lock(&mut self, setup: &Setup, at: usize) {
        let begun = |write: &mut super::world::Write| match write.phase {
            Phase::Begun(n) => Some(n),
            Phase::Idle | Phase::Sent(_) | Phase::Unknown(_) | Phase::Over(_) => None,
        };
        let held: Vec<u64> = self.writes_of(setup, at).filter_map(begun).collect();
        let instance = self.at(at);
        (instance.unlocked, instance.shown, instance.locked_at) = (false, true, NOW);
        for n in held {
            instance.member.lock_taken(n, NOW);
        }
    }

    /// The outcome is known: nothing read or stored here before holds.
    fn settle(&mut self, setup: &Setup, of: usize, committed: bool) {
        let writer = setup.writers[of];
        let (Phase::Begun(n) | Phase::Sent(n) | Phase::Unknown(n)) = self.writes[of].phase else {
            return;
        };
        self.writes[of].phase = Phase::Over(n);
        let concerns = self.writes[of].slots & (setup.read | DATABASE) != 0;
        let instance = self.at(writer.at);
        instance.member.settle(n, committed);
        if committed && concerns {
            instance.l1 = None;
        }
    }

    fn kill(&mut self, setup: &Setup, at: usize) {
        self.faults.crash -= 1;
        self.lose(setup, at, true);
        let ghosts = std::mem::take(&mut self.at(at).ghosts);
        let shown = self.instances[at].shown;
        let dead = super::world::Instance::dead(at, setup, ghosts, shown);
        *self.at(at) = dead;
        for write in self.writes_of(setup, at) {
            (write.phase, write.slots) = (Phase::Over(0), 0);
        }
    }

    /// What was sent goes on without it; what was not is over.
    fn lose_postgres(&mut self, setup: &Setup, at: usize) {
        for (of, writer) in setup.writers.iter().enumerate() {
            if writer.at != at {
                continue;
            }
            match self.writes[of].phase {
                Phase::Begun(n) => {
                    self.at(at).member.settle(n, false);
                    self.writes[of].phase = Phase::Idle;
                    self.writes[of].slots = 0;
                }
                Phase::Sent(n) => self.writes[of].phase = Phase::Unknown(n),
                Phase::Idle | Phase::Unknown(_) | Phase::Over(_) => {}
            }
        }
        (self.at(at).connected, self.at(at).severed) = (false, false);
        if self.instances[at].control {
            self.lose_control(setup, at);
        }
    }

    fn leave(&mut self, setup: &Setup, at: usize) {
        self.faults.leave -= 1;
        let act = self.instances[at].act();
        if !setup.lacks(Without::LeaveLast) {
            self.at(at).leaves = true;
            self.lose_control(setup, at);
        }
        self.at(at).ghosts.extend(act.map(|act| (act, Request::Leave)));
    }

    fn lose_control(&mut self, setup: &Setup, at: usize) {
        (self.at(at).control, self.at(at).control_dead) = (false, false);
        if self.instances[at].unlocked {
            self.at(at).shown = false;
        }
        self.lose(setup, at, true);
        self.at(at).member.lose_lock(NOW);
    }
}

#[test]
fn slots_are_the_same_as_bits_and_as_names() {
    for slots in 0..16 {
        assert_eq!(super::world::bits(&names(slots)), slots);
    }
}
