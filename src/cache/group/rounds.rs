//! One round to Redis: what goes out for all who wait, and what its answers change here. Pure.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Instant;

use crate::cache::coherence::{Coherence, Scope};
use crate::twin::{self, Twin};

use super::check::Check;
use super::life::Life;
use super::member::Millis;
use super::process::Process;
use super::script::{Answer, Renew, Renewed, Reply, Request};
use super::shared::Group;
use super::slot::{Act, Mark, Slot, SlotName};
use super::state::{ALL, State};

/// What goes out in one round, and what it is about.
#[derive(Debug)]
pub struct Round {
    pub requests: Vec<Request>,
    checks: Vec<Arc<Check>>,
}

/// What the task wants of a round for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    None,
    /// Redis's clock, before a JOIN.
    Time,
    /// A lease from Redis's time `t0`, heard at `heard_at`.
    Join {
        t0: Millis,
        heard_at: Millis,
        process: Process,
        life: Life,
        act: Act,
    },
    /// The members, before a census.
    Members,
    /// The census after it: who was listed at `seq` and whom PostgreSQL shows.
    Renew {
        t0: Millis,
        heard_at: Millis,
        seq: u64,
        listed: Vec<u32>,
        seen: Vec<u32>,
    },
}

/// What the task hears of its errand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Heard {
    #[default]
    Nothing,
    Time {
        now: Millis,
    },
    Members {
        now: Millis,
        seq: u64,
        ids: Vec<u32>,
    },
    /// Joined, or lost again: to be looked at anew.
    Changed,
}

#[derive(Debug, Default)]
struct News {
    heard: Heard,
    checked: bool,
}

impl Group {
    /// All that is to be sent now, with the task's own errand behind it.
    pub fn round(&self, errand: Errand) -> Round {
        let mut state = self.state();
        let mut requests = Vec::new();
        if let Some(act) = state.member.act() {
            let (id, joined) = (self.id, state.joined_at);
            for (n, slots) in state.member.begins() {
                self.counters.begins.one();
                requests.push(Request::Begin { act, id, joined, mark: Mark { id, n }, slots });
            }
            for (n, committed, slots) in state.member.ends() {
                requests.push(Request::End { act, mark: Mark { id, n }, committed, slots });
            }
            let bumps: Vec<SlotName> = std::mem::take(&mut state.bumps).into_iter().collect();
            if !bumps.is_empty() {
                state.bumping.extend(&bumps);
                requests.push(Request::Bump { act, slots: bumps });
            }
            if state.hears > 0 {
                // What is held back now is told in the next.
                state.hears -= u8::from(!state.member.holds_back());
                self.counters.hears.one();
                requests.push(Request::Hear { act, id, applied: state.member.applied() });
            }
            for (seq, all) in state.member.lagging() {
                requests.push(Request::Lag { act, id, seq, all });
            }
            // END and BUMP show the slots that they move, and not what became of the catalogue meanwhile:
            // what is stamped by those must not be judged by a catalogue of before (hazard H32).
            let moves = |one: &Request| matches!(one, Request::End { .. } | Request::Bump { .. });
            let is_asked = !state.waiting.is_empty();
            if is_asked || requests.iter().any(moves) {
                self.counters.checks.add(u64::from(is_asked));
                let mut slots = vec![SlotName::Database, SlotName::Catalog];
                slots.extend(std::mem::take(&mut state.wanted));
                requests.push(Request::Check { slots });
            }
        }
        let checks = std::mem::take(&mut state.waiting);
        if state.member.act().is_none() {
            state.wanted.clear();
        }
        requests.extend(self.errand(&mut state, errand));
        let early = twin::is(Twin::AsynchronousInvalidation);
        let leaving = if early { std::mem::take(&mut state.leaving) } else { Vec::new() };
        drop(state);
        leaving.into_iter().for_each(Waker::wake);
        Round { requests, checks }
    }

    fn errand(&self, state: &mut State, errand: Errand) -> Option<Request> {
        let (id, lease, local) = (self.id, self.rules.lease, self.settings.local);
        match errand {
            Errand::None => None,
            Errand::Time => Some(Request::Time),
            Errand::Join { t0, heard_at, process, life, act } => {
                let marks = state.member.join(heard_at);
                let until = t0 + lease;
                Some(Request::Join { process, life, id, until, act, lease, marks })
            }
            Errand::Members => state.member.act().map(|act| Request::Members { act }),
            Errand::Renew { t0, heard_at, seq, listed, seen } => {
                let act = state.member.act()?;
                let applied = state.member.renew(heard_at);
                let gone = listed.into_iter().filter(|id| !seen.contains(id)).collect();
                let (until, gone_seq) = (t0 + lease, seq);
                let renew = Renew { act, id, until, applied, lease, local, seen, gone_seq, gone };
                Some(Request::Renew(renew))
            }
        }
    }

    /// What a round was answered. `sent_at` and `now` lie round it. `catalog_moved` is called
    /// before anything that the round has shown counts here: what is stamped once a slot is let go
    /// must not be judged as before (hazard H32).
    pub fn answered(
        &self,
        round: Round,
        replies: Vec<Reply>,
        (sent_at, now): (Instant, Instant),
        coherence: &Coherence,
        catalog_moved: &dyn Fn(),
    ) -> Heard {
        let times = (self.millis(sent_at), self.millis(now));
        let mut state = self.state();
        if !round.requests.is_empty() {
            state.shown.round = now.saturating_duration_since(sent_at);
            let micros = state.shown.round.as_micros();
            state.rounds.add(u64::try_from(micros).unwrap_or(u64::MAX));
        }
        let mut by_us = 0;
        let answers = replies.iter().map(|reply| &reply.answer);
        if round.requests.iter().zip(answers).any(|of| state.reveals(of, self.id, &mut by_us)) {
            catalog_moved();
        }
        let gives_none =
            |answer: &Answer| matches!(answer, Answer::Lost | Answer::Late | Answer::Census { .. });
        let answers = replies.iter().map(|reply| &reply.answer);
        let mut asked = round.requests.iter().zip(answers);
        // First: what is answered before it may be that all is lost.
        if asked.any(|(asked, answer)| matches!(asked, Request::Renew(_)) && gives_none(answer)) {
            state.member.on_renew_refused();
        }
        let mut news = News::default();
        for (request, reply) in round.requests.into_iter().zip(replies) {
            self.take(&mut state, (request, reply), times, coherence, &mut news);
        }
        state.hold_wide(coherence);
        let leaving = std::mem::take(&mut state.leaving);
        drop(state);
        for check in round.checks {
            check.answer(news.checked);
        }
        leaving.into_iter().for_each(Waker::wake);
        news.heard
    }

    fn take(
        &self,
        state: &mut State,
        (request, reply): (Request, Reply),
        (sent, heard): (Millis, Millis),
        coherence: &Coherence,
        news: &mut News,
    ) {
        let now = reply.now.unwrap_or_default();
        if reply.now.is_some() {
            state.clock = (now, heard);
        }
        let known = state.member.act();
        match (request, reply.answer) {
            (Request::Join { marks, .. }, answer) => {
                self.join_answered(state, (&marks, answer), heard, coherence);
                news.heard = Heard::Changed;
            }
            (Request::Renew(renew), Answer::Renewed(renewed)) => {
                self.renewed(state, (&renew, &renewed), (sent, heard), coherence);
            }
            (Request::Renew(_), Answer::Census { stranger }) => {
                state.shown.stranger = Some(stranger);
                self.counters.strangers.one();
            }
            (Request::Begin { mark, slots, .. }, Answer::Begun { open, seq, catalog, waits }) => {
                let waits: Vec<_> = waits.iter().map(|wait| (wait.id, wait.ms)).collect();
                state.member.on_begun((mark.n, slots), (open, seq), &waits, heard);
                state.apply(SlotName::Catalog, &catalog, self.id, coherence);
            }
            (Request::Lag { seq, .. }, Answer::Lag { waits }) => {
                let behind: Vec<u32> = waits.iter().map(|wait| wait.id).collect();
                state.member.on_lag(seq, &behind);
            }
            (Request::Hear { .. }, Answer::Heard { seq, slots }) => {
                self.heard(state, seq, &slots, coherence);
            }
            (Request::End { mark, .. }, Answer::Changed { slots }) => {
                self.ended(state, mark.n, &slots, coherence);
            }
            (Request::Bump { .. }, Answer::Changed { slots }) => {
                for (name, slot) in &slots {
                    state.apply(*name, slot, self.id, coherence);
                    state.bumping.remove(name);
                }
            }
            (Request::Check { slots: names }, Answer::Checked { act, open, slots }) => {
                let any = twin::is(Twin::NoIncarnationCheck) && known.is_some();
                if act.is_none() || (act != known && !any) {
                    self.drop_act(state, heard, news);
                    return;
                }
                for (name, slot) in names.iter().zip(&slots) {
                    state.apply(*name, slot, self.id, coherence);
                }
                news.checked = open == known || (any && open.is_some());
                self.checked(state, heard, coherence, news);
            }
            (Request::Members { .. }, Answer::Members { seq, ids }) => {
                state.shown.members = ids.len() as u64;
                news.heard = Heard::Members { now, seq, ids };
            }
            (Request::Time, Answer::Time) => news.heard = Heard::Time { now },
            (_, Answer::Lost) => self.drop_act(state, heard, news),
            // A lease that came too late changes nothing.
            (_, _) => {}
        }
    }

    fn join_answered(
        &self,
        state: &mut State,
        (marks, answer): (&[(Mark, Vec<SlotName>)], Answer),
        heard: Millis,
        coherence: &Coherence,
    ) {
        if let Answer::Joined { act, open, seq, outlived } = answer {
            state.joined_at = seq;
            state.member.on_outlived(outlived, heard);
            state.member.on_joined(act, open, marks);
            Self::joined(state, heard, coherence);
        } else if let Answer::OtherLease { lease: theirs } = answer {
            self.other_lease(state, theirs, heard);
        } else if answer == Answer::Passed {
            state.member.on_join_passed();
            self.pass();
        } else {
            // It came too late.
            state.member.on_join_late();
        }
    }

    fn joined(state: &mut State, heard: Millis, coherence: &Coherence) {
        state.bump_again();
        if !twin::is(Twin::NoIncarnationCheck) {
            state.mirror.clear(coherence);
        }
        state.dropped(heard, ALL, "it has joined the group".to_owned());
        state.shown.failure = None;
    }

    /// Whoever waits for a shorter time than others believe it to live would write unseen.
    fn other_lease(&self, state: &mut State, theirs: Millis, heard: Millis) {
        let ours = self.rules.lease;
        let why = format!("group.lease is {ours} ms here and {theirs} ms in the group");
        if state.shown.failure.as_ref() != Some(&why) {
            tracing::warn!(ours_ms = ours, theirs_ms = theirs, "not let into the group: its lease");
        }
        state.shown.failure = Some(why);
        state.member.on_join_refused(theirs, heard);
    }

    fn heard(
        &self,
        state: &mut State,
        seq: u64,
        slots: &[(SlotName, Slot)],
        coherence: &Coherence,
    ) {
        for (name, slot) in slots {
            state.apply(*name, slot, self.id, coherence);
        }
        state.member.on_heard(seq);
    }

    fn ended(&self, state: &mut State, n: u64, slots: &[(SlotName, Slot)], coherence: &Coherence) {
        for (name, slot) in slots {
            if state.member.moves(n, *name) {
                state.mirror.move_own(*name);
            }
            state.apply(*name, slot, self.id, coherence);
        }
        state.member.on_ended(n);
    }

    fn checked(&self, state: &mut State, heard: Millis, coherence: &Coherence, news: &News) {
        if news.checked && state.member.on_open() {
            self.opened(state, heard, coherence);
        }
    }

    /// What was read while K was shut may be of before a commit that nobody announced.
    fn opened(&self, state: &mut State, heard: Millis, coherence: &Coherence) {
        self.counters.opened.one();
        if twin::is(Twin::NoIncarnationCheck) {
            // Nobody opens a K that a living member is not in, so this alone would cover for it.
            return;
        }
        state.dropped(heard, ALL, "the group has opened".to_owned());
        coherence.invalidate(&Scope::Database);
    }

    /// A round has failed, and with it the connection. `unwritten`: Redis refused it before it had
    /// written anything, so no lease was given that was asked for.
    pub fn failed(&self, round: Round, (why, unwritten): (String, bool), now: Instant) {
        // Of several, those behind the one that was refused may have been carried out.
        if unwritten && round.requests.len() == 1 {
            self.state().member.on_unwritten();
        }
        self.lose(why, now);
        for check in round.checks {
            check.answer(false);
        }
    }

    fn renewed(
        &self,
        state: &mut State,
        (renew, renewed): (&Renew, &Renewed),
        (sent, heard): (Millis, Millis),
        coherence: &Coherence,
    ) {
        for id in &renew.gone {
            let why = "PostgreSQL does not show it".to_owned();
            state.dropped(heard, &format!("member {id}"), why);
        }
        state.mirror.complete();
        for (name, slot) in &renewed.slots {
            state.apply(*name, slot, self.id, coherence);
            if renewed.grant > 0 && slot.marks.iter().any(|mark| mark.id != self.id) {
                // Somebody may be waiting for us to have heard of this.
                state.hears = state.hears.max(1);
            }
        }
        let (open, seq, grant) = (renewed.open, renewed.seq, renewed.grant);
        if state.member.on_renewed(open, seq, grant, sent) {
            self.opened(state, heard, coherence);
        }
        self.granted_until.store(state.member.granted_until(), Ordering::Release);
        state.shown.stranger = None;
        state.shown.members = renewed.members;
    }

    fn drop_act(&self, state: &mut State, heard: Millis, news: &mut News) {
        if state.member.act().is_some() {
            self.counters.lost.one();
            state.dropped(heard, ALL, "what the group had agreed on is gone".to_owned());
        }
        state.bump_again();
        state.member.on_lost();
        self.granted_until.store(0, Ordering::Release);
        news.heard = Heard::Changed;
    }
}
