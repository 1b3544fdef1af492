//! What the clients of one database and the task that speaks for it share: commits that wait for
//! leave, reads that wait for a check, and what K has said. Pure: the task is in `membership.rs`.
//!
//! Invariant: a check counts for those who asked before it was sent, and what it has shown is
//! known here (`mirror.rs`) before they go on.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::cache::coherence::{Announced, Coherence, Scope};
use crate::insight::Histogram;
use crate::metrics::MemberCounters;
use crate::sql::verdict::TableId;

use super::check::Check;
use super::link::Place;
use super::member::{Leave, Member, Millis, Rules};
use super::mirror::Mirror;
use super::process::Info;
use super::script::Request;
use super::settings::Settings;
use super::slot::{Act, SlotName};
use super::state::{ALL, HEARS, Shown, State};

/// The place of which nobody speaks.
pub const NOWHERE: u64 = 0;

/// The part in the group of one database.
#[derive(Debug)]
pub struct Group {
    /// The number of this member; PostgreSQL shows it in its locks.
    pub id: u32,
    pub rules: Rules,
    pub settings: Arc<Settings>,
    /// Somebody speaks for this member.
    seated: AtomicBool,
    started: Instant,
    /// Of the same database.
    pub(super) coherence: Arc<Coherence>,
    /// Until when nobody has to be asked; 0: somebody has.
    pub(super) granted_until: AtomicU64,
    /// The PostgreSQL that it speaks of.
    place: AtomicU64,
    /// Another has been written in since.
    is_passed: AtomicBool,
    /// The process stops.
    is_leaving: AtomicBool,
    /// Guards all that follows; locks of `Coherence` may be taken inside.
    state: Mutex<State>,
    pub counters: MemberCounters,
}

/// Who has it speaks for the member.
pub struct Seat(Arc<Group>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.seated.store(false, Ordering::Release);
    }
}

impl Group {
    /// `id` must be random.
    pub fn new(
        id: u32,
        settings: Arc<Settings>,
        coherence: Arc<Coherence>,
        started: Instant,
    ) -> Self {
        let rules = settings.rules();
        Self {
            id,
            coherence,
            seated: AtomicBool::new(false),
            started,
            granted_until: AtomicU64::new(0),
            place: AtomicU64::new(NOWHERE),
            is_passed: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            state: Mutex::new(State {
                member: Member::new(id, rules.clone()),
                mirror: Mirror::default(),
                wide: HashMap::new(),
                bumps: BTreeSet::new(),
                bumping: BTreeSet::new(),
                clock: (0, 0),
                joined_at: 0,
                name: None,
                place: None,
                wanted: BTreeSet::new(),
                waiting: Vec::new(),
                leaving: Vec::new(),
                task: None,
                hears: 0,
                shown: Shown::default(),
                rounds: Histogram::default(),
            }),
            rules,
            settings,
            counters: MemberCounters::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This moment on the member's clock.
    pub fn millis(&self, now: Instant) -> Millis {
        let since = now.saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    pub fn instant(&self, at: Millis) -> Instant {
        self.started + Duration::from_millis(at)
    }

    // Clients.

    /// Whether what is known here is what K says, without asking.
    pub fn is_granted(&self, now: Instant) -> bool {
        self.millis(now) < self.granted_until.load(Ordering::Acquire)
    }

    /// Whether what it says is of this PostgreSQL. Of another one nobody knows what is committed
    /// there, though it be the same database.
    pub fn is_at(&self, place: u64) -> bool {
        self.place.load(Ordering::Acquire) == place
    }

    /// The PostgreSQL that it speaks of.
    pub fn spoken_of(&self) -> u64 {
        self.place.load(Ordering::Acquire)
    }

    /// A server was connected to this PostgreSQL, and can write there. Who speaks of another one is to
    /// leave that to somebody else.
    pub fn meet(&self, place: u64) {
        let spoken_of = self.spoken_of();
        if spoken_of != NOWHERE && spoken_of != place {
            self.pass();
            self.state().wake_task();
        }
    }

    pub(super) fn pass(&self) {
        self.is_passed.store(true, Ordering::Release);
    }

    pub fn is_passed(&self) -> bool {
        self.is_passed.load(Ordering::Acquire)
    }

    /// Asks K about these tables, the database and its catalogue.
    pub fn check(&self, tables: &[TableId]) -> Arc<Check> {
        let check = Arc::new(Check::default());
        let mut state = self.state();
        if state.member.act().is_none() {
            // There is nobody to ask; a client would wait for nothing.
            drop(state);
            check.answer(false);
            return check;
        }
        state.wanted.extend(tables.iter().map(|table| SlotName::Table(*table)));
        state.waiting.push(Arc::clone(&check));
        state.wake_task();
        check
    }

    /// Puts a commit in flight for everybody. Its server has had our lock in this PostgreSQL since
    /// then, or will take it. It may be sent when `poll_leave` says so.
    pub fn begin(
        self: &Arc<Self>,
        scope: &Scope,
        catalog: bool,
        (locked_at, place): (Option<Instant>, u64),
    ) -> Arc<Commit> {
        let mut slots = slots(scope);
        slots.extend(catalog.then_some(SlotName::Catalog));
        let mut state = self.state();
        let locked_at = locked_at.map_or(Millis::MAX, |at| self.millis(at));
        let n = state.member.begin(slots, locked_at, place);
        if state.mirror.is_marked(SlotName::Catalog) {
            // Somebody changes it just now.
            state.member.widen();
        }
        state.hold_wide(&self.coherence);
        state.wake_task();
        Arc::new(Commit { n, group: Arc::clone(self) })
    }

    /// Makes the scope fresh for everybody, soon.
    pub fn bump(&self, scope: &Scope) {
        let mut state = self.state();
        state.bumps.extend(slots(scope));
        state.wake_task();
    }

    /// Somebody waits for us in the K of that name.
    pub fn hurry(&self, by: u32, name: &str) {
        let mut state = self.state();
        if by != self.id && state.name.as_deref() == Some(name) {
            state.hears = HEARS;
            state.wake_task();
        }
    }

    // For people.

    pub fn shown(&self) -> Shown {
        self.state().shown.clone()
    }

    /// So many percent of all round trips took no longer, in microseconds.
    pub fn round_quantiles(&self, percents: [u64; 2]) -> [u64; 2] {
        let state = self.state();
        percents.map(|percent| state.rounds.quantile(percent))
    }

    pub fn is_open(&self) -> bool {
        self.state().member.is_open()
    }

    pub fn act(&self) -> Option<Act> {
        self.state().member.act()
    }

    pub fn commits(&self) -> usize {
        self.state().member.under_way()
    }

    // The task.

    /// To speak for this member, if nobody does, and somebody is to.
    pub fn sit(self: &Arc<Self>) -> Option<Seat> {
        let is_free = !self.is_leaving() && !self.seated.swap(true, Ordering::AcqRel);
        is_free.then(|| Seat(Arc::clone(self)))
    }

    /// Whether somebody does.
    pub fn is_spoken_for(&self) -> bool {
        self.seated.load(Ordering::Acquire)
    }

    /// Whoever speaks for it is to say that it stops, and nobody after that.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
        self.state().wake_task();
    }

    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// The last that K is asked: what was joined is given up before it is said. Not where something
    /// was to be made fresh still: K must not outlive us then.
    pub fn part(&self, why: &str, now: Instant) -> Option<Request> {
        let act = self.act()?;
        self.lose_lock(why.to_owned(), now);
        let owes = !self.state().bumps.is_empty();
        (!owes).then_some(Request::Leave { act, id: self.id })
    }

    /// Ready when there is something to send.
    pub fn poll_work(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.has_work() || self.is_passed() || self.is_leaving() {
            return Poll::Ready(());
        }
        state.task = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether it would join.
    pub fn wants_to_join(&self, now: Instant) -> bool {
        self.state().member.wants_to_join(self.millis(now))
    }

    /// Whether commits wait for other members, who may be asked how far they are.
    pub fn is_lagging(&self) -> bool {
        !self.state().member.lagging().is_empty()
    }

    /// Our lock has been taken on the connection kept for it, in this PostgreSQL.
    /// `name` is K's there.
    pub fn take_lock(&self, (place, name): (u64, &str), now: Instant) {
        let now = self.millis(now);
        let mut state = self.state();
        self.place.store(place, Ordering::Release);
        self.is_passed.store(false, Ordering::Release);
        state.member.take_lock(place, now);
        state.name = Some(name.into());
    }

    /// Ready when a commit waits that could be sent earlier if PostgreSQL said that it shows our lock
    /// still, on the connection kept for it.
    pub fn poll_to_be_shown(&self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let now = self.millis(now);
        let mut state = self.state();
        if state.member.is_to_be_shown(now) {
            return Poll::Ready(());
        }
        state.task = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn is_to_be_shown(&self, now: Instant) -> bool {
        self.state().member.is_to_be_shown(self.millis(now))
    }

    /// PostgreSQL showed it, asked then.
    pub fn lock_shown(&self, asked_at: Instant) {
        let asked_at = self.millis(asked_at);
        let mut state = self.state();
        state.member.on_shown(asked_at);
        let leaving = std::mem::take(&mut state.leaving);
        drop(state);
        leaving.into_iter().for_each(Waker::wake);
    }

    /// A link was found to lead there.
    pub fn linked(&self, place: &Place, info: &Info) {
        {
            let mut state = self.state();
            state.place = Some(place.clone());
            state.shown.redis = Some(info.clone());
        }
        self.settings.found.set(place.clone());
    }

    /// That connection is gone.
    pub fn lose_lock(&self, why: String, now: Instant) {
        let now = self.millis(now);
        self.place.store(NOWHERE, Ordering::Release);
        self.give_up(|member| member.lose_lock(now), why, now);
    }

    /// The connection to Redis is gone, or answers no more.
    pub fn lose(&self, why: String, now: Instant) {
        let now = self.millis(now);
        self.give_up(|member| member.lose(now), why, now);
    }

    fn give_up(&self, lose: impl FnOnce(&mut Member), why: String, now: Millis) {
        let mut state = self.state();
        if state.member.act().is_some() {
            self.counters.lost.one();
            state.dropped(now, ALL, why.clone());
        }
        state.bump_again();
        lose(&mut state.member);
        state.hold_wide(&self.coherence);
        self.granted_until.store(0, Ordering::Release);
        state.shown.failure = Some(why);
        state.wanted.clear();
        let waiting = std::mem::take(&mut state.waiting);
        let leaving = std::mem::take(&mut state.leaving);
        drop(state);
        for check in waiting {
            check.answer(false);
        }
        leaving.into_iter().for_each(Waker::wake);
    }
}

/// A commit that others have to know of.
#[derive(Debug)]
pub struct Commit {
    n: u64,
    group: Arc<Group>,
}

impl Commit {
    /// Ready when it may be sent. Else it may be at that moment, or when woken.
    pub fn poll_leave(&self, cx: &mut Context<'_>, now: Instant) -> Result<(), Option<Instant>> {
        let group = &self.group;
        let mut state = group.state();
        match state.member.leave(self.n, group.millis(now)) {
            Leave::Granted => Ok(()),
            Leave::At(at) => {
                state.wait_for_leave(cx);
                Err(Some(group.instant(at)))
            }
            Leave::Later => {
                state.wait_for_leave(cx);
                Err(None)
            }
        }
    }
}

impl Commit {
    /// Its server has the lock.
    pub fn lock_taken(&self, now: Instant) {
        let now = self.group.millis(now);
        let mut state = self.group.state();
        state.member.lock_taken(self.n, now);
        state.wake_task();
    }
}

impl Announced for Arc<Commit> {
    fn settled(&self, committed: bool) {
        let mut state = self.group.state();
        state.member.settle(self.n, committed);
        if let Some(guard) = state.wide.remove(&self.n) {
            if committed { guard.committed() } else { guard.rolled_back() }
        }
        state.wake_task();
    }
}

fn slots(scope: &Scope) -> Vec<SlotName> {
    match scope {
        Scope::Tables(tables) => tables.iter().map(|table| SlotName::Table(*table)).collect(),
        Scope::Database => vec![SlotName::Database],
    }
}

#[cfg(test)]
mod tests {
    use super::super::rounds::Errand;
    use super::super::script::{Answer, Reply};
    use super::super::slot::{Mark, Slot};
    use super::*;

    fn group() -> Arc<Group> {
        let coherence = Arc::new(Coherence::new(1));
        Arc::new(Group::new(1, Arc::new(Settings::example()), coherence, Instant::now()))
    }

    #[test]
    fn a_catalogue_that_we_changed_is_not_taken_for_changed_by_others() {
        let group = group();
        let (act, id, at) = (Act([1; 16]), group.id, SlotName::Catalog);
        let slot = |generation| Slot { generation, seq: 1, marks: Vec::new() };
        {
            let mut state = group.state();
            state.member.take_lock(1, 0);
            state.member.on_joined(act, true, &[]);
            state.mirror.apply(at, &slot(3), id, &group.coherence);
        }
        let commit = group.begin(&Scope::Database, true, (Some(group.started), 1));
        let mut state = group.state();
        let mark = Mark { id, n: commit.n };
        for (n, slots) in state.member.begins() {
            state.member.on_begun((n, slots), (true, 1), &[], 0);
        }
        state.member.settle(commit.n, true);
        let end = Request::End { act, mark, committed: true, slots: vec![at] };
        let ended = Answer::Changed { slots: vec![(at, slot(4))] };
        let hear = Request::Hear { act, id, applied: 0 };
        for (generation, by_others) in [(4, false), (5, true)] {
            let heard = Answer::Heard { seq: 1, slots: vec![(at, slot(generation))] };
            let mut by_us = 0;
            assert!(!state.reveals((&end, &ended), id, &mut by_us));
            assert_eq!(state.reveals((&hear, &heard), id, &mut by_us), by_others);
            // Without the END it would be somebody else's.
            assert!(state.reveals((&hear, &heard), id, &mut 0));
        }
    }

    #[test]
    fn whoever_hears_that_a_write_is_over_hears_of_the_catalogue_too() {
        let group = group();
        let (act, id, wide) = (Act([1; 16]), group.id, SlotName::Database);
        let slot = |generation| Slot { generation, seq: 1, marks: Vec::new() };
        {
            let mut state = group.state();
            state.member.take_lock(1, 0);
            state.member.on_joined(act, true, &[]);
            for name in [wide, SlotName::Catalog] {
                state.mirror.apply(name, &slot(3), id, &group.coherence);
            }
        }
        let commit = group.begin(&Scope::Database, false, (Some(group.started), 1));
        {
            let mut state = group.state();
            for (n, slots) in state.member.begins() {
                state.member.on_begun((n, slots), (true, 1), &[], 0);
            }
            state.member.settle(commit.n, true);
        }
        let round = group.round(Errand::None);
        let answer = |request: &Request| {
            if matches!(request, Request::End { .. }) {
                return Answer::Changed { slots: vec![(wide, slot(5))] };
            }
            // Of somebody else, who has come to an end in the meantime.
            Answer::Checked { act: Some(act), open: Some(act), slots: vec![slot(5), slot(4)] }
        };
        let reply = |request| Reply { now: None, answer: answer(request) };
        let replies: Vec<Reply> = round.requests.iter().map(reply).collect();
        let (now, moved) = (group.started, std::cell::Cell::new(false));
        group.answered(round, replies, (now, now), &group.coherence, &|| moved.set(true));
        assert!(moved.get());
        assert_eq!((group.counters.checks.value(), group.commits()), (0, 0));
    }

    #[test]
    fn what_was_refused_with_others_may_have_brought_a_lease() {
        for (beside_a_begin, leave) in [(false, true), (true, false)] {
            let group = group();
            let now = group.started + Duration::from_mins(1);
            {
                let mut state = group.state();
                state.member.take_lock(1, 0);
                state.member.on_joined(Act([1; 16]), true, &[]);
            }
            // The locks are old: nothing but a lease that was asked for holds a commit back.
            let begin = || group.begin(&Scope::Database, false, (Some(group.started), 1));
            let _beside = beside_a_begin.then(begin);
            let (heard_at, listed, seen) = (group.millis(now), Vec::new(), vec![group.id]);
            let round = group.round(Errand::Renew { t0: 0, heard_at, seq: 0, listed, seen });
            group.failed(round, ("OOM".to_owned(), true), now);
            let n = begin().n;
            assert_eq!(group.state().member.leave(n, heard_at) == Leave::Granted, leave);
        }
    }
}
