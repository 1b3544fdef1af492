//! What the clients of one database and the task that speaks for it share: commits that wait for
//! leave, reads that wait for a check, and what K has said. Pure: the task is in `membership.rs`.
//!
//! Invariant: a check counts for those who asked before it was sent, and what it has shown is
//! known here (`mirror.rs`) before they go on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::cache::coherence::{Announced, Coherence, Scope};
use crate::metrics::MemberCounters;
use crate::sql::verdict::TableId;

use super::member::{Leave, Member, Millis, Rules};
use super::mirror::Mirror;
use super::process::Process;
use super::script::{Answer, Renew, Renewed, Reply, Request};
use super::settings::Settings;
use super::slot::{Act, Mark, Slot, SlotName};

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
    /// Until when nobody has to be asked; 0: somebody has.
    granted_until: AtomicU64,
    /// Guards all that follows; locks of `Coherence` may be taken inside.
    state: Mutex<State>,
    pub counters: MemberCounters,
}

#[derive(Debug)]
struct State {
    member: Member,
    mirror: Mirror,
    /// Slots to be made fresh for everybody.
    bumps: BTreeSet<SlotName>,
    /// Slots that the next check is about, and who waits for it.
    wanted: BTreeSet<SlotName>,
    waiting: Vec<Arc<Check>>,
    /// Who waits for leave to commit.
    leaving: Vec<Waker>,
    /// The task, while it waits for something to do.
    task: Option<Waker>,
    /// Somebody waits for us to have heard of a change of the catalogue.
    hurried: bool,
    shown: Shown,
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
}

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
    /// The catalogue may be another.
    moved: bool,
}

impl Group {
    /// `id` must be random.
    pub fn new(id: u32, settings: Arc<Settings>, started: Instant) -> Self {
        let rules = settings.rules();
        Self {
            id,
            seated: AtomicBool::new(false),
            started,
            granted_until: AtomicU64::new(0),
            state: Mutex::new(State {
                member: Member::new(id, rules.clone()),
                mirror: Mirror::default(),
                bumps: BTreeSet::new(),
                wanted: BTreeSet::new(),
                waiting: Vec::new(),
                leaving: Vec::new(),
                task: None,
                hurried: false,
                shown: Shown::default(),
            }),
            rules,
            settings,
            counters: MemberCounters::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
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

    /// Asks K about these tables, the database and its catalogue.
    pub fn check(&self, tables: &[TableId]) -> Arc<Check> {
        let check = Arc::new(Check::default());
        let mut state = self.state();
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
        if state.mirror.generation(SlotName::Catalog).is_none() {
            // Somebody changes it just now.
            state.member.widen();
        }
        state.wake_task();
        Arc::new(Commit { n, group: Arc::clone(self) })
    }

    /// Makes the scope fresh for everybody, soon.
    pub fn bump(&self, scope: &Scope) {
        let mut state = self.state();
        state.bumps.extend(slots(scope));
        state.wake_task();
    }

    /// The generations of these tables and of the database in K, if what is kept here is of it.
    pub fn versions(&self, tables: &[TableId]) -> Option<(Act, Vec<u64>)> {
        let state = self.state();
        let act = state.member.act().filter(|_| state.member.is_open())?;
        let tables = tables.iter().map(|table| SlotName::Table(*table));
        let slots = [SlotName::Database].into_iter().chain(tables);
        let versions = slots.map(|slot| state.mirror.generation(slot)).collect::<Option<_>>()?;
        Some((act, versions))
    }

    // For people.

    pub fn shown(&self) -> Shown {
        self.state().shown.clone()
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

    /// To speak for this member, if nobody does.
    pub fn sit(self: &Arc<Self>) -> Option<Seat> {
        let taken = self.seated.swap(true, Ordering::AcqRel);
        (!taken).then(|| Seat(Arc::clone(self)))
    }

    /// Ready when there is something to send.
    pub fn poll_work(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.has_work() {
            return Poll::Ready(());
        }
        state.task = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether it would join.
    pub fn wants_to_join(&self, now: Instant) -> bool {
        self.state().member.wants_to_join(self.millis(now))
    }

    /// Whether a renewal is due at once; asked once.
    pub fn is_hurried(&self) -> bool {
        std::mem::take(&mut self.state().hurried)
    }

    /// Whether commits wait for other members, who may be asked how far they are.
    pub fn is_lagging(&self) -> bool {
        !self.state().member.lagging().is_empty()
    }

    /// Our lock has been taken on the connection kept for it, in this PostgreSQL.
    pub fn take_lock(&self, place: u64) {
        self.state().member.take_lock(place);
    }

    /// That connection is gone.
    pub fn lose_lock(&self, why: String, now: Instant) {
        let now = self.millis(now);
        self.give_up(|member| member.lose_lock(now), why);
    }

    /// The connection to Redis is gone, or answers no more.
    pub fn lose(&self, why: String, now: Instant) {
        let now = self.millis(now);
        self.give_up(|member| member.lose(now), why);
    }

    fn give_up(&self, lose: impl FnOnce(&mut Member), why: String) {
        let mut state = self.state();
        if state.member.act().is_some() {
            self.counters.lost.one();
        }
        lose(&mut state.member);
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

    /// All that is to be sent now, with the task's own errand behind it.
    pub fn round(&self, errand: Errand) -> Round {
        let mut state = self.state();
        let mut requests = Vec::new();
        if let Some(act) = state.member.act() {
            let id = self.id;
            for (n, slots) in state.member.begins() {
                self.counters.begins.one();
                requests.push(Request::Begin { act, id, mark: Mark { id, n }, slots });
            }
            for (n, committed, slots) in state.member.ends() {
                requests.push(Request::End { act, mark: Mark { id, n }, committed, slots });
            }
            let bumps: Vec<SlotName> = std::mem::take(&mut state.bumps).into_iter().collect();
            if !bumps.is_empty() {
                requests.push(Request::Bump { act, slots: bumps });
            }
            for (seq, all) in state.member.lagging() {
                requests.push(Request::Lag { act, id, seq, all });
            }
            if !state.waiting.is_empty() {
                self.counters.checks.one();
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
        drop(state);
        Round { requests, checks }
    }

    fn errand(&self, state: &mut State, errand: Errand) -> Option<Request> {
        let (id, lease, local) = (self.id, self.rules.lease, self.settings.local);
        match errand {
            Errand::None => None,
            Errand::Time => Some(Request::Time),
            Errand::Join { t0, heard_at, process, act } => {
                let marks = state.member.join(heard_at);
                Some(Request::Join { process, id, until: t0 + lease, act, marks })
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
    /// before anybody learns of it who waits.
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
        state.shown.round = now.saturating_duration_since(sent_at);
        let mut news = News::default();
        for (request, reply) in round.requests.into_iter().zip(replies) {
            self.take(&mut state, (request, reply), times, coherence, &mut news);
        }
        if news.moved {
            catalog_moved();
        }
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
        let known = state.member.act();
        match (request, reply.answer) {
            (Request::Join { .. }, Answer::Joined { act, open }) => {
                state.member.on_joined(act, open);
                state.mirror.clear(coherence);
                state.shown.failure = None;
                (news.moved, news.heard) = (true, Heard::Changed);
            }
            (Request::Join { .. }, Answer::Late) => {
                state.member.on_join_late();
                news.heard = Heard::Changed;
            }
            (Request::Renew(_), Answer::Renewed(renewed)) => {
                news.moved |= self.renewed(state, &renewed, sent, coherence);
            }
            (Request::Renew(_), Answer::Census { stranger }) => {
                state.shown.stranger = Some(stranger);
                self.counters.strangers.one();
            }
            (Request::Begin { mark, .. }, Answer::Begun { open, seq, catalog, waits }) => {
                let waits: Vec<_> = waits.iter().map(|wait| (wait.id, wait.ms)).collect();
                state.member.on_begun(mark.n, open, seq, &waits, heard);
                news.moved |= state.apply(SlotName::Catalog, &catalog, self.id, coherence);
            }
            (Request::Lag { seq, .. }, Answer::Lag { waits }) => {
                let behind: Vec<u32> = waits.iter().map(|wait| wait.id).collect();
                state.member.on_lag(seq, &behind);
            }
            (Request::End { mark, .. }, Answer::Changed { slots }) => {
                for (name, slot) in &slots {
                    let seen = state.mirror.apply_own_end(*name, slot, self.id, coherence);
                    news.moved |= *name == SlotName::Catalog && seen.by_others;
                }
                state.member.on_ended(mark.n);
            }
            (Request::Bump { .. }, Answer::Changed { slots }) => {
                for (name, slot) in &slots {
                    news.moved |= state.apply(*name, slot, self.id, coherence);
                }
            }
            (Request::Check { slots: names }, Answer::Checked { act, open, slots }) => {
                if act.is_none() || act != known {
                    self.drop_act(state, news);
                    return;
                }
                for (name, slot) in names.iter().zip(&slots) {
                    news.moved |= state.apply(*name, slot, self.id, coherence);
                }
                news.checked = open == known;
            }
            (Request::Members { .. }, Answer::Members { seq, ids }) => {
                state.shown.members = ids.len() as u64;
                news.heard = Heard::Members { now, seq, ids };
            }
            (Request::Time, Answer::Time) => news.heard = Heard::Time { now },
            (_, Answer::Lost) => self.drop_act(state, news),
            // A lease that came too late changes nothing.
            (_, _) => {}
        }
    }

    /// A round has failed, and with it the connection.
    pub fn failed(&self, round: Round, why: String, now: Instant) {
        self.lose(why, now);
        for check in round.checks {
            check.answer(false);
        }
    }

    fn renewed(
        &self,
        state: &mut State,
        renewed: &Renewed,
        sent: Millis,
        coherence: &Coherence,
    ) -> bool {
        let mut moved = false;
        for (name, slot) in &renewed.slots {
            moved |= state.apply(*name, slot, self.id, coherence);
        }
        let (open, seq, grant) = (renewed.open, renewed.seq, renewed.grant);
        // What was read while it was shut may be of before a commit that nobody announced.
        moved |= state.member.on_renewed(open, seq, grant, sent);
        let until = if grant > 0 && open { sent + grant } else { 0 };
        self.granted_until.store(until, Ordering::Release);
        state.shown.stranger = None;
        state.shown.members = renewed.members;
        moved
    }

    fn drop_act(&self, state: &mut State, news: &mut News) {
        if state.member.act().is_some() {
            self.counters.lost.one();
        }
        state.member.on_lost();
        self.granted_until.store(0, Ordering::Release);
        news.heard = Heard::Changed;
    }
}

impl State {
    fn wake_task(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    fn has_work(&self) -> bool {
        !self.waiting.is_empty()
            || self.member.has_work()
            || (!self.bumps.is_empty() && self.member.act().is_some())
    }

    /// A slot as it is in K; whether that says that the catalogue has been changed, or is being.
    fn apply(&mut self, name: SlotName, slot: &Slot, id: u32, coherence: &Coherence) -> bool {
        let moved = self.mirror.apply(name, slot, id, coherence);
        let catalog = name == SlotName::Catalog && moved.by_others;
        if catalog {
            self.member.widen();
            self.hurried = true;
        }
        catalog
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
                state.leaving.push(cx.waker().clone());
                Err(Some(group.instant(at)))
            }
            Leave::Later => {
                state.leaving.push(cx.waker().clone());
                Err(None)
            }
        }
    }
}

impl Commit {
    /// Its server has the lock.
    pub fn lock_taken(&self, now: Instant) {
        let now = self.group.millis(now);
        self.group.state().member.lock_taken(self.n, now);
    }
}

impl Announced for Arc<Commit> {
    fn settled(&self, committed: bool) {
        let mut state = self.group.state();
        state.member.settle(self.n, committed);
        state.wake_task();
    }
}

impl Check {
    fn answer(&self, holds: bool) {
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
