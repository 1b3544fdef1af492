//! What the clients of one database and the task that speaks for it share: commits that wait for
//! leave, reads that wait for a check, and what K has said. Pure: the task is in `membership.rs`.
//!
//! Invariant: a check counts for those who asked before it was sent, and what it has shown is
//! known here (`mirror.rs`) before they go on.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::cache::coherence::{Announced, Coherence, InFlight, Scope};
use crate::insight::Histogram;
use crate::metrics::MemberCounters;
use crate::sql::verdict::TableId;
use crate::twin::{self, Twin};

use super::link::Place;
use super::member::{Leave, Member, Millis, Rules};
use super::mirror::Mirror;
use super::script::{Answer, Request};
use super::settings::Settings;
use super::slot::{Act, Slot, SlotName};

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

#[derive(Debug)]
pub(super) struct State {
    pub(super) member: Member,
    pub(super) mirror: Mirror,
    /// In flight here, too, for commits that others were told of as writing the whole database.
    wide: HashMap<u64, InFlight>,
    /// Slots to be made fresh for everybody.
    pub(super) bumps: BTreeSet<SlotName>,
    /// Of those, the ones that are on their way.
    pub(super) bumping: BTreeSet<SlotName>,
    /// Redis's clock, and ours when that had been heard.
    pub(super) clock: (Millis, Millis),
    /// As K has counted our last JOIN.
    pub(super) joined_at: u64,
    /// What K is called.
    pub(super) name: Option<Arc<str>>,
    /// Where it is.
    pub(super) place: Option<Place>,
    /// Slots that the next check is about, and who waits for it.
    pub(super) wanted: BTreeSet<SlotName>,
    pub(super) waiting: Vec<Arc<Check>>,
    /// Who waits for leave to commit.
    pub(super) leaving: Vec<Waker>,
    /// The task, while it waits for something to do.
    task: Option<Waker>,
    /// So often K is to be asked at once what has changed: somebody waits for us to have heard.
    pub(super) hears: u8,
    pub(super) shown: Shown,
    /// All round trips.
    pub(super) rounds: Histogram,
}

/// What was last heard; for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub members: u64,
    /// Somebody whom PostgreSQL shows and who is no member keeps K from being renewed.
    pub stranger: Option<u32>,
    /// Why it is not joined.
    pub failure: Option<String>,
    /// The last round trip.
    pub round: Duration,
    /// The latest last.
    pub drops: VecDeque<Dropped>,
}

/// What is not believed any more, and why; for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub at: Millis,
    pub what: String,
    pub why: String,
}

/// Once to hear it, and once more for K to know that it has been heard.
pub(super) const HEARS: u8 = 2;

/// Of those, the latest are kept.
const DROPS_MAX: usize = 32;

/// A client's question whether what is known here is what K says.
#[derive(Debug, Default)]
pub struct Check(Mutex<Checking>);

#[derive(Debug, Default)]
struct Checking {
    answer: Option<bool>,
    waker: Option<Waker>,
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
    pub fn take_lock(&self, place: u64, name: &str) {
        let mut state = self.state();
        self.place.store(place, Ordering::Release);
        self.is_passed.store(false, Ordering::Release);
        state.member.take_lock(place);
        state.name = Some(name.into());
    }

    /// A link was found to lead there.
    pub fn linked(&self, place: &Place) {
        self.state().place = Some(place.clone());
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

/// All that is known here of the database.
pub(super) const ALL: &str = "all";

impl State {
    pub(super) fn dropped(&mut self, at: Millis, what: &str, why: String) {
        let (what, drops) = (what.to_owned(), &mut self.shown.drops);
        if drops.back().is_some_and(|last| last.what == what && last.why == why) {
            drops.pop_back();
        } else if drops.len() == DROPS_MAX {
            drops.pop_front();
        }
        drops.push_back(Dropped { at, what, why });
    }

    /// What was to be made fresh for everybody and may not have been.
    pub(super) fn bump_again(&mut self) {
        let bumping = std::mem::take(&mut self.bumping);
        self.bumps.extend(bumping);
    }

    fn wake_task(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    fn wait_for_leave(&mut self, cx: &Context<'_>) {
        if !self.leaving.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.leaving.push(cx.waker().clone());
        }
    }

    /// What others take for a write of the whole database is one here, too.
    pub(super) fn hold_wide(&mut self, coherence: &Coherence) {
        for n in self.member.wide() {
            self.wide.entry(n).or_insert_with(|| coherence.begin_write(&Scope::Database));
        }
    }

    fn has_work(&self) -> bool {
        !self.waiting.is_empty()
            || self.member.has_work()
            || ((!self.bumps.is_empty() || self.hears > 0) && self.member.act().is_some())
    }

    /// Whether for what this says the catalogue may be another than it was before the round.
    /// `by_us`: so often an answer of the round has shown that our own ENDs moved it.
    pub(super) fn reveals(
        &self,
        (request, answer): (&Request, &Answer),
        id: u32,
        by_us: &mut u64,
    ) -> bool {
        if let (Request::End { mark, .. }, Answer::Changed { .. }) = (request, answer) {
            *by_us += u64::from(self.member.moves(mark.n, SlotName::Catalog));
        }
        let known = (id, *by_us);
        let moved = |slot: &Slot| self.mirror.would_move(SlotName::Catalog, slot, known);
        let among = |slots: &[(SlotName, Slot)]| {
            slots.iter().any(|(name, slot)| *name == SlotName::Catalog && moved(slot))
        };
        match (request, answer) {
            (_, Answer::Joined { .. }) => !twin::is(Twin::NoIncarnationCheck),
            (_, Answer::Renewed(renewed)) => {
                among(&renewed.slots) || (renewed.open && !self.member.is_open())
            }
            (_, Answer::Begun { catalog, .. }) => moved(catalog),
            (_, Answer::Changed { slots } | Answer::Heard { slots, .. }) => among(slots),
            (Request::Check { .. }, Answer::Checked { open: Some(open), .. })
                if !self.member.is_open() && self.member.act() == Some(*open) =>
            {
                true
            }
            (Request::Check { slots: names }, Answer::Checked { slots, .. }) => {
                let at = names.iter().position(|name| *name == SlotName::Catalog);
                at.and_then(|at| slots.get(at)).is_some_and(moved)
            }
            (_, _) => false,
        }
    }

    /// A slot as it is in K.
    pub(super) fn apply(&mut self, name: SlotName, slot: &Slot, id: u32, coherence: &Coherence) {
        let moved = self.mirror.apply(name, slot, id, coherence);
        if name == SlotName::Catalog && moved.by_others {
            self.member.widen();
            self.hold_wide(coherence);
            self.hears = HEARS;
        }
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

impl Check {
    pub(super) fn answer(&self, holds: bool) {
        let mut checking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        checking.answer = Some(holds);
        if let Some(waker) = checking.waker.take() {
            waker.wake();
        }
    }

    /// Whether K is open, and all it says of what was asked about is known here now.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut checking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = checking.answer {
            return Poll::Ready(answer);
        }
        checking.waker = Some(cx.waker().clone());
        Poll::Pending
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
    use super::super::slot::Mark;
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
            state.member.take_lock(1);
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
    fn of_what_was_dropped_the_latest_is_shown() {
        let group = group();
        let last = DROPS_MAX as u64;
        for at in 0..=last {
            group.state().dropped(at, ALL, at.to_string());
        }
        let times = || group.shown().drops.iter().map(|dropped| dropped.at).collect::<Vec<_>>();
        assert_eq!(times(), (1..=last).collect::<Vec<_>>());
        // What is said again is one.
        group.state().dropped(last + 7, ALL, last.to_string());
        assert_eq!(times(), (1..last).chain([last + 7]).collect::<Vec<_>>());
    }
}
