//! What an instance does with its `Member`: rounds of requests and what is made of the replies.

use forebay::cache::group::slot::Act;

use super::k::{K, Reply, Request, Slot, mark, ones};
use super::setup::{CATALOG, DATABASE, NOW, Setup, Without};
use super::world::{DEAD, Entry, Phase, Renewal, Round, State, bits, names};
use forebay::cache::group::member::Safeguard;

/// What an instance may do on its connection, when nothing is under way on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Begins,
    Ends,
    Lag,
    Hear,
    Join,
    Members,
    Renew,
}

impl State {
    /// Rounds, each as soon as may be with nothing in it but what is alike: a later one is one
    /// that was sent later. What changes nothing while it is on its way arrives at once.
    pub(crate) fn turns(&self, setup: &Setup, at: usize) -> Vec<Turn> {
        let instance = &self.instances[at];
        let mut turns = Vec::new();
        if instance.round.is_some() || instance.dialed != self.primary {
            return turns;
        }
        if instance.act().is_none() {
            turns.extend(instance.member.wants_to_join(NOW).then_some(Turn::Join));
            return turns;
        }
        turns.extend((!instance.member.ends().is_empty()).then_some(Turn::Ends));
        turns.extend((!instance.member.lagging().is_empty()).then_some(Turn::Lag));
        turns.extend(self.may_hear(setup, at).then_some(Turn::Hear));
        if !instance.member.clone().begins().is_empty() {
            // They are in front of a RENEW.
            turns.push(Turn::Begins);
        } else if instance.renewal.is_some() && !instance.severed {
            turns.push(Turn::Renew);
        } else if self.wants_to_renew(setup, at) {
            turns.push(if setup.census_apart { Turn::Members } else { Turn::Renew });
        }
        turns
    }

    /// Where it would change nothing, there is no need to see it.
    fn wants_to_renew(&self, setup: &Setup, at: usize) -> bool {
        let instance = &self.instances[at];
        if instance.severed {
            return false;
        }
        let k = self.redis[self.primary].as_ref();
        let k = k.filter(|k| Some(k.act) == instance.act());
        let Some((k, row)) = k.and_then(|k| Some((k, k.rows[at]?))) else { return true };
        let drops = k.members() & !self.census(setup) != 0;
        let is_ignorant = setup.knows() && (row.known < k.seq || instance.copy[0].is_none());
        row.until < NOW + setup.lease || !k.open || drops || is_ignorant || setup.grants
    }

    /// At any time, wherever it would change something.
    fn may_hear(&self, setup: &Setup, at: usize) -> bool {
        let k = self.redis[self.primary].as_ref();
        let row = k.and_then(|k| Some((k, k.rows[at]?)));
        setup.hears && row.is_some_and(|(k, row)| row.known < k.seq)
    }

    pub(crate) fn take_turn(&mut self, setup: &Setup, at: usize, turn: Turn) {
        let (run, seen) = (self.primary as u8, self.census(setup));
        let act = self.instances[at].act().unwrap_or(DEAD);
        match turn {
            Turn::Begins => {
                let begins = self.at(at).member.begins();
                let requests = begins.iter().map(|(n, slots)| {
                    let slots = bits(slots);
                    Request::Begin { n: *n, slots }
                });
                let requests = requests.collect();
                self.at(at).round = Some(Round { act, sent_at: 0, requests });
            }
            Turn::Ends => {
                for (n, committed, slots) in self.instances[at].member.ends() {
                    self.ask(setup, at, act, &Request::End { n, committed, slots: bits(&slots) });
                }
            }
            Turn::Lag => {
                for (seq, all) in self.instances[at].member.lagging() {
                    self.ask(setup, at, act, &Request::Lag { seq, all });
                }
            }
            Turn::Hear => {
                let requests = vec![Request::Hear { applied: self.at(at).member.applied() }];
                self.at(at).round = Some(Round { act, sent_at: 0, requests });
            }
            Turn::Join => {
                let marks = self.at(at).member.join(NOW);
                let marks = marks.iter().map(|(of, slots)| (mark(at, of.n), bits(slots)));
                let marks = marks.collect();
                let requests = vec![Request::Join { run, until: NOW + setup.lease, marks }];
                self.at(at).round = Some(Round { act, sent_at: 0, requests });
            }
            Turn::Members => self.ask(setup, at, act, &Request::Members),
            Turn::Renew => {
                if !setup.census_apart {
                    self.ask(setup, at, act, &Request::Members);
                }
                let instance = self.at(at);
                let Some(renewal) = instance.renewal.take() else { return };
                let Renewal { until, heard_at, seq: gone_seq, listed } = renewal;
                let applied = instance.member.renew(heard_at);
                let gone = listed & !seen;
                let requests = vec![Request::Renew { until, applied, seen, gone_seq, gone }];
                instance.round = Some(Round { act, sent_at: NOW, requests });
            }
        }
    }

    /// A request that arrives, and the answer, which is read.
    pub(crate) fn ask(&mut self, setup: &Setup, at: usize, act: u8, request: &Request) {
        let sent_at = self.instances[at].round.as_ref().map_or(NOW, |round| round.sent_at);
        let reply = self.serve(setup, at, act, request);
        self.read(setup, at, request, (sent_at, reply));
    }

    /// What is first on its way to Redis arrives.
    pub(crate) fn arrive(&mut self, setup: &Setup, at: usize) {
        let Some(mut round) = self.at(at).round.take() else { return };
        let request = round.requests.remove(0);
        let reply = self.serve(setup, at, round.act, &request);
        let sent_at = round.sent_at;
        if !round.requests.is_empty() {
            self.at(at).round = Some(round);
        }
        self.read(setup, at, &request, (sent_at, reply));
    }

    fn read(
        &mut self,
        setup: &Setup,
        at: usize,
        request: &Request,
        (sent_at, reply): (u64, Reply),
    ) {
        let refused = matches!(reply, Reply::Lost | Reply::Refused);
        if refused && matches!(request, Request::Renew { .. }) {
            self.at(at).member.on_renew_refused();
        }
        self.read_reply(setup, at, sent_at, reply);
    }

    /// Redis does what it is asked.
    pub(crate) fn serve(
        &mut self,
        setup: &Setup,
        from: usize,
        act: u8,
        request: &Request,
    ) -> Reply {
        let primary = self.primary;
        if let Request::Join { run, until, marks } = request {
            if *until <= NOW && !setup.lacks(Without::AbsoluteLease) {
                return Reply::JoinLate;
            }
            let knows_run = |k: &K| k.run == *run;
            let keeps = |k: &K| setup.lacks(Without::ProcessIdentity) || knows_run(k);
            if !self.redis[primary].as_ref().is_some_and(keeps) {
                let act = self.fresh_act();
                self.redis[primary] = Some(K::new(act, *run, setup));
            }
            let k = self.redis[primary].as_mut();
            return k.map_or(Reply::Lost, |k| k.join(setup, from, *until, marks));
        }
        match self.redis[primary].as_mut().filter(|k| k.act == act) {
            Some(k) => k.serve(setup, from, request),
            None => Reply::Lost,
        }
    }

    /// A connection to Redis is gone, or given up. What was sent may still arrive.
    pub(crate) fn lose(&mut self, setup: &Setup, at: usize, arrives: bool) {
        let instance = self.at(at);
        if let Some(round) = instance.round.take()
            && arrives
        {
            let left = round.requests.into_iter();
            instance.ghosts.extend(left.map(|request| (round.act, request)));
        }
        instance.member.lose(NOW);
        instance.member.rebase(NOW, 0);
        self.forget_act(setup, at);
    }

    /// After `Member` has dropped what it had joined.
    pub(crate) fn forget_act(&mut self, setup: &Setup, at: usize) {
        let instance = self.at(at);
        instance.renewal = None;
        instance.copy = [None; 4];
        self.widen(setup, at);
    }

    /// As `Member` widens what is in flight, so is what is in flight here.
    fn widen(&mut self, setup: &Setup, at: usize) {
        if setup.lacks(Without::Member(Safeguard::Widen)) {
            return;
        }
        for write in self.writes_of(setup, at) {
            if matches!(write.phase, Phase::Begun(_) | Phase::Sent(_) | Phase::Unknown(_)) {
                write.slots |= DATABASE;
            }
        }
    }

    fn read_reply(&mut self, setup: &Setup, at: usize, sent_at: u64, reply: Reply) {
        let instance = self.at(at);
        let is_joined = instance.act().is_some();
        match reply {
            Reply::Lost => {
                instance.member.on_lost();
                self.forget_act(setup, at);
            }
            Reply::JoinLate => {
                instance.member.on_join_late();
                self.forget_act(setup, at);
            }
            Reply::Joined { act, open } => {
                instance.member.on_joined(Act([act; 16]), open, &[]);
                instance.copy = [None; 4];
            }
            Reply::Refused | Reply::Left => {}
            _ if !is_joined => {}
            Reply::Members { until, seq, listed } => {
                instance.renewal = Some(Renewal { until, heard_at: NOW, seq, listed });
            }
            Reply::Renewed { open, seq, grant, slots } => {
                self.apply(setup, at, slots);
                let instance = self.at(at);
                // What K has not is as it was at its beginning.
                for slot in instance.copy.iter_mut().filter(|_| setup.knows()) {
                    slot.get_or_insert_default();
                }
                instance.member.on_renewed(open, seq, grant, sent_at);
            }
            Reply::Begun { n, marked, open, seq, catalog, waits } => {
                instance.member.on_begun((n, names(marked)), (open, seq), &waits, NOW);
                self.apply(setup, at, [None, Some(catalog), None, None]);
            }
            Reply::Heard { seq, slots } => {
                self.apply(setup, at, slots);
                self.at(at).member.on_heard(seq);
            }
            Reply::Lag { seq, behind } => instance.member.on_lag(seq, &behind),
            Reply::Ended { n, slots } => {
                instance.member.on_ended(n);
                self.apply(setup, at, slots);
            }
        }
    }

    fn apply(&mut self, setup: &Setup, at: usize, slots: [Option<Slot>; 4]) {
        if !setup.knows() {
            return;
        }
        let instance = self.at(at);
        let before = instance.copy[CATALOG.trailing_zeros() as usize];
        for (of, slot) in slots.into_iter().enumerate() {
            if let Some(slot) = slot {
                // Neither when it changed nor who marked it matters here.
                let marks = slot.marks_by_others(at);
                instance.copy[of] = Some(Slot { seq: 0, marks, ..slot });
            }
        }
        let Some(catalog) = slots[CATALOG.trailing_zeros() as usize] else { return };
        let is_new = catalog.generation != before.map_or(0, |before| before.generation);
        if is_new || catalog.is_marked_by_others(at) {
            instance.member.widen();
            self.widen(setup, at);
        }
    }

    /// What an answer that PostgreSQL gives from now on may be stamped with, and what one has to be
    /// stamped with to be a hit.
    pub(crate) fn stamp(&self, setup: &Setup, at: usize, slots: &[Slot; 4]) -> Option<[u8; 4]> {
        let read = || ones(setup.read | DATABASE | CATALOG);
        if read().any(|of| slots[of].is_marked_by_others(at)) || self.is_in_flight(setup, at, false)
        {
            return None;
        }
        let mut generations = [0; 4];
        for of in read() {
            generations[of] = slots[of].generation;
        }
        Some(generations)
    }

    /// The slots as known here.
    pub(crate) fn copy(&self, at: usize) -> Option<[Slot; 4]> {
        let [database, catalog, first, second] = self.instances[at].copy;
        Some([database?, catalog?, first?, second?])
    }

    /// Who may be answered, at a moment when these are the slots: from memory, from Redis.
    pub(crate) fn hits(&self, setup: &Setup, at: usize, generations: [u8; 4]) -> Vec<Entry> {
        let instance = &self.instances[at];
        let held =
            |entry: &Entry| Some(entry.act) == instance.act() && entry.generations == generations;
        let unended = self.is_in_flight(setup, at, true) && !setup.lacks(Without::OwnUnended);
        let l2 = self.l2.filter(|_| !unended);
        instance.l1.into_iter().chain(l2).filter(held).collect()
    }
}
