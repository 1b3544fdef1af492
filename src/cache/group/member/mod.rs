//! One instance's part in a group: when it may hit, when its commits may be sent, what it asks of
//! K (`script.rs`). Pure: it is told the time and what was answered. `ARCHITECTURE.md` has the idea.
//!
//! Invariant: while K is open for anybody, every commit that may still land is marked in it.
//! (`tests/simulation/group`: explored over all interleavings; each `Safeguard` left out has a
//! broken story.)
//!
//! Requests go out in rounds on one connection, their replies come in order, and a round that fails
//! ends the connection and with it what was joined there.

use std::collections::BTreeMap;

use crate::twin;

use super::slot::{Act, Mark, SlotName};

mod commit;
mod explored;
mod leave;
mod rules;

use commit::{Commit, State};
pub use leave::Leave;
pub use rules::{Rules, Safeguard};

/// Of some clock; which one, the name says.
pub type Millis = u64;

/// Slots of one commit; what writes more is said to write the whole database.
const SLOTS_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Membership {
    act: Act,
    open: bool,
    /// Up to which changes have been applied here, and up to which K was told so.
    applied: u64,
    told: u64,
    /// Until when nobody has to be asked; our clock.
    granted_until: Millis,
}

/// Our lock on the connection kept for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Locked {
    /// The PostgreSQL that shows it.
    place: u64,
    since: Millis,
    /// It was still there after this moment.
    known: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    pub id: u32,
    rules: Rules,
    /// Where our lock is shown by the connection kept for it.
    locked: Option<Locked>,
    joined: Option<Membership>,
    /// A JOIN is under way.
    joining: bool,
    /// When the last lease asked for under acts of before is surely over; our clock.
    fence: Millis,
    /// The same under the act of now.
    lease_until: Millis,
    /// The same of the lease that is asked for just now; 0: none is.
    asked_until: Millis,
    /// The last JOIN was refused, and what was open then has been waited for.
    is_refused: bool,
    /// No JOIN before then.
    join_at: Millis,
    commits: BTreeMap<u64, Commit>,
    last: u64,
}

impl Member {
    /// `id` must be random: two lives of one id would be taken for one.
    pub fn new(id: u32, rules: Rules) -> Self {
        Self {
            id,
            rules,
            locked: None,
            joined: None,
            joining: false,
            fence: 0,
            lease_until: 0,
            asked_until: 0,
            is_refused: false,
            join_at: 0,
            commits: BTreeMap::new(),
            last: 0,
        }
    }

    fn has(&self, safeguard: Safeguard) -> bool {
        self.rules.without != Some(safeguard) && !safeguard.twin().is_some_and(twin::is)
    }

    /// When a lease asked for at this moment is surely over.
    fn over_at(&self, now: Millis) -> Millis {
        now.saturating_add(self.rules.lease + self.rules.margin)
    }

    /// Whether its server is of the PostgreSQL that shows our lock.
    fn is_here(&self, commit: &Commit) -> bool {
        self.locked.is_some_and(|locked| locked.place == commit.place)
    }

    pub fn act(&self) -> Option<Act> {
        self.joined.as_ref().map(|joined| joined.act)
    }

    pub fn is_open(&self) -> bool {
        self.joined.as_ref().is_some_and(|joined| joined.open)
    }

    /// How many commits have not come to their END.
    pub fn under_way(&self) -> usize {
        self.commits.len()
    }

    // What it asks.

    pub fn wants_to_join(&self, now: Millis) -> bool {
        self.locked.is_some() && self.joined.is_none() && !self.joining && now >= self.join_at
    }

    /// A JOIN is about to be sent, with a lease of Redis's time of `now` and `Rules::lease`. Gives
    /// the marks to send along.
    pub fn join(&mut self, now: Millis) -> Vec<(Mark, Vec<SlotName>)> {
        self.joining = true;
        self.asked_until = self.over_at(now);
        if !self.has(Safeguard::MarksInJoin) {
            return Vec::new();
        }
        let here = |commit: &Commit| self.is_here(commit) && commit.is_seen();
        let under_way = self.commits.iter().filter(|(_, commit)| here(commit) && !commit.is_over());
        under_way.map(|(&n, commit)| (self.mark(n), commit.slots.clone())).collect()
    }

    /// A RENEW is about to be sent; as with JOIN. Gives what `applied` does.
    pub fn renew(&mut self, now: Millis) -> u64 {
        self.asked_until = self.over_at(now);
        self.applied()
    }

    /// Up to which change K may be told that it has been applied here: not before K has what the
    /// change made of commits that are sent already, as whoever waits for us goes on then.
    pub fn applied(&mut self) -> u64 {
        let holds_back = self.holds_back();
        let Some(joined) = &mut self.joined else { return 0 };
        if !holds_back {
            joined.told = joined.applied;
        }
        joined.told
    }

    /// Whether K may be told less than has been applied here.
    pub fn holds_back(&self) -> bool {
        let is_lacking = |commit: &Commit| {
            let is_sent = commit.state == State::Sent && self.is_here(commit);
            commit.widened && is_sent
        };
        self.commits.values().any(is_lacking) && self.has(Safeguard::MarkThenTell)
    }

    /// Every BEGIN that is to be sent now, in the round to come and before any RENEW in it.
    pub fn begins(&mut self) -> Vec<(u64, Vec<SlotName>)> {
        let mut begins = Vec::new();
        if self.joined.is_none() {
            return begins;
        }
        let place = self.locked.map(|locked| locked.place);
        for (&n, commit) in &mut self.commits {
            if place != Some(commit.place) || !commit.is_to_be_announced() {
                continue;
            }
            if commit.state != State::Sent {
                commit.state = State::Asked;
            }
            commit.marked = true;
            begins.push((n, commit.slots.clone()));
        }
        begins
    }

    /// Whether a round is due for the sake of commits.
    pub fn has_work(&self) -> bool {
        let mut commits = self.commits.values();
        self.joined.is_some()
            && commits.any(|commit| {
                commit.is_over() || (self.is_here(commit) && commit.is_to_be_announced())
            })
    }

    /// Those that wait for other members: their change as K counts them, and whether for all.
    pub fn lagging(&self) -> Vec<(u64, bool)> {
        let lagging = self.commits.values().filter_map(|commit| {
            let State::Announced { seq, waits, .. } = &commit.state else { return None };
            let all = commit.slots.contains(&SlotName::Catalog);
            (!waits.is_empty()).then_some((*seq, all))
        });
        if self.joined.is_some() { lagging.collect() } else { Vec::new() }
    }

    /// Every END that is to be sent now.
    pub fn ends(&self) -> Vec<(u64, bool, Vec<SlotName>)> {
        let ends = self.commits.iter().filter_map(|(&n, commit)| {
            let State::Over { committed } = commit.state else { return None };
            Some((n, committed, commit.slots.clone()))
        });
        if self.joined.is_some() { ends.collect() } else { Vec::new() }
    }

    pub fn mark(&self, n: u64) -> Mark {
        Mark { id: self.id, n }
    }

    // What it is told.

    /// The connection is gone, a round failed, or K is not the one that was joined.
    pub fn lose(&mut self, now: Millis) {
        if self.joining {
            // It may arrive late, and is a lease asked for.
            self.join_at = now + 10 * self.rules.lease;
        }
        self.drop_act();
    }

    fn drop_act(&mut self) {
        self.joining = false;
        self.joined = None;
        self.fence = self.fence.max(self.lease_until).max(self.asked_until);
        (self.lease_until, self.asked_until) = (0, 0);
        // Nobody waits any more for us to have heard of a change of the catalogue.
        self.widen();
        let ends = self.has(Safeguard::LeaveEndsWithAct);
        for commit in self.commits.values_mut() {
            if ends && matches!(commit.state, State::Asked | State::Announced { .. }) {
                commit.state = State::Listed;
            }
            commit.widened = false;
            commit.held.clear();
        }
    }

    /// The connection to PostgreSQL that is kept for it holds our lock, in this PostgreSQL.
    pub fn take_lock(&mut self, place: u64, now: Millis) {
        self.locked = Some(Locked { place, since: now, known: 0 });
    }

    /// It did still when it was asked, which was then or later.
    pub fn on_shown(&mut self, asked_at: Millis) {
        self.locked.iter_mut().for_each(|locked| locked.known = locked.known.max(asked_at));
    }

    /// That connection is gone, or the lock.
    pub fn lose_lock(&mut self, now: Millis) {
        self.locked = None;
        self.is_refused = false;
        self.lose(now);
    }

    /// What was asked last was refused before anything was written: there is no lease of it.
    pub fn on_unwritten(&mut self) {
        (self.joining, self.asked_until) = (false, 0);
    }

    /// What was asked for last is had.
    fn on_leased(&mut self) {
        self.lease_until = self.lease_until.max(std::mem::take(&mut self.asked_until));
    }

    /// `marks`: as they were sent.
    pub fn on_joined(&mut self, act: Act, open: bool, marks: &[(Mark, Vec<SlotName>)]) {
        self.joining = false;
        self.on_leased();
        self.is_refused = false;
        for (mark, slots) in marks {
            if let Some(commit) = self.commits.get_mut(&mark.n) {
                commit.held.clone_from(slots);
            }
        }
        self.joined = Some(Membership { act, open, applied: 0, told: 0, granted_until: 0 });
        for commit in self.commits.values_mut() {
            // What is over has its mark in this K or in none; END does no harm.
            commit.marked = true;
        }
    }

    /// The lease that JOIN asked for was over before it came. It still counts, as do others.
    pub fn on_join_late(&mut self) {
        self.drop_act();
    }

    /// K is of members that live for so long: there is no lease of that JOIN, and none is asked for
    /// so soon again. They see our lock from their next census on, so K is over and done with when
    /// the leases of now are, and no other is opened.
    pub fn on_join_refused(&mut self, theirs: Millis, now: Millis) {
        self.asked_until = 0;
        self.drop_act();
        if !std::mem::replace(&mut self.is_refused, true) {
            self.fence = self.fence.max(now + theirs + theirs / 10);
        }
        self.join_at = now + self.rules.lease;
    }

    /// K is of a PostgreSQL that has taken over from ours: there is no lease of that JOIN.
    pub fn on_join_passed(&mut self) {
        self.asked_until = 0;
        self.drop_act();
    }

    /// Our JOIN ended a K of a PostgreSQL of before, whose members, whom no census of ours shows, may
    /// still hit unasked for so long.
    pub fn on_outlived(&mut self, ms: Millis, now: Millis) {
        if ms > 0 {
            self.fence = self.fence.max(now + ms + self.rules.margin);
        }
    }

    /// K is gone, or another; or we are no member of it.
    pub fn on_lost(&mut self) {
        self.drop_act();
    }

    /// RENEW gave no lease. K may end again and again for as long as PostgreSQL shows somebody who is not
    /// there, and no commit waits for what nobody was given.
    pub fn on_renew_refused(&mut self) {
        self.asked_until = 0;
    }

    /// A RENEW sent at `asked_at` was granted, and all changes up to `seq` have been applied here.
    /// Gives whether K has become open. What RENEW refuses changes nothing: K lapses unless a
    /// census is good before.
    pub fn on_renewed(&mut self, open: bool, seq: u64, grant: Millis, asked_at: Millis) -> bool {
        let margin = if self.has(Safeguard::ShortGrant) { self.rules.margin } else { 0 };
        self.on_leased();
        self.on_heard(seq);
        let Some(joined) = &mut self.joined else { return false };
        let opened = open && !joined.open;
        joined.open = open;
        // Nobody waits for it any longer once K's clock says that it is over.
        let grant = grant.min(self.rules.lease).saturating_sub(margin);
        joined.granted_until = if grant == 0 { 0 } else { asked_at + grant };
        opened
    }

    /// All changes up to `seq` have been applied here.
    pub fn on_heard(&mut self, seq: u64) {
        self.joined.iter_mut().for_each(|joined| joined.applied = joined.applied.max(seq));
    }

    /// K was seen to be open. Gives whether that is news.
    pub fn on_open(&mut self) -> bool {
        let news = self.joined.as_mut().is_some_and(|joined| !joined.open);
        self.joined.iter_mut().for_each(|joined| joined.open = true);
        news
    }

    /// BEGIN has marked these slots. `waits`: who has to hear of it before it is sent, and how long
    /// they may take at most. `now`: not before it was heard.
    pub fn on_begun(
        &mut self,
        (n, slots): (u64, Vec<SlotName>),
        (open, seq): (bool, u64),
        waits: &[(u32, Millis)],
        now: Millis,
    ) {
        let Some(commit) = self.commits.get_mut(&n) else { return };
        commit.widened &= slots.len() < commit.slots.len();
        commit.held = slots;
        if commit.state != State::Asked {
            return;
        }
        let waits = waits.iter().map(|(id, at_most)| (*id, now + at_most + self.rules.margin));
        commit.state = State::Announced { open, seq, waits: waits.collect() };
    }

    /// Of those whom the commit of this change waits for these are behind, as K says now.
    pub fn on_lag(&mut self, change: u64, behind: &[u32]) {
        for commit in self.commits.values_mut() {
            if let State::Announced { seq, waits, .. } = &mut commit.state
                && *seq == change
            {
                waits.retain(|(id, _)| behind.contains(id));
            }
        }
    }

    /// Whether END takes the mark of a commit from this slot, and so moves its generation by one.
    pub fn moves(&self, n: u64, slot: SlotName) -> bool {
        let committed = |commit: &Commit| commit.state == State::Over { committed: true };
        self.commits.get(&n).is_some_and(|commit| committed(commit) && commit.held.contains(&slot))
    }

    /// Whether a commit of ours over the slot has not come to its END: K is behind of what is known
    /// here.
    pub fn is_ahead(&self, slot: SlotName) -> bool {
        self.commits.values().any(|commit| commit.slots.contains(&slot))
    }

    pub fn on_ended(&mut self, n: u64) {
        if self.commits.get(&n).is_some_and(Commit::is_over) {
            self.commits.remove(&n);
        }
    }

    /// Somebody changes the catalogue, here or elsewhere, or has: what is under way may write more
    /// than was thought.
    pub fn widen(&mut self) {
        if !self.has(Safeguard::Widen) {
            return;
        }
        for commit in self.commits.values_mut() {
            if !commit.is_over() && !commit.slots.contains(&SlotName::Database) {
                commit.slots.push(SlotName::Database);
                commit.widened = true;
            }
        }
    }

    /// The commits under way that are announced as writing the whole database.
    pub fn wide(&self) -> impl Iterator<Item = u64> {
        let wide = self
            .commits
            .iter()
            .filter(|(_, commit)| !commit.is_over() && commit.slots.contains(&SlotName::Database));
        wide.map(|(&n, _)| n)
    }

    // Hits.

    /// Whether it may answer without asking.
    pub fn is_granted(&self, now: Millis) -> bool {
        self.joined.as_ref().is_some_and(|joined| joined.open && now < joined.granted_until)
    }

    /// Until when; 0: it may not.
    pub fn granted_until(&self) -> Millis {
        self.joined.as_ref().filter(|joined| joined.open).map_or(0, |joined| joined.granted_until)
    }

    // Commits.

    /// A commit is put in flight. `locked_at`: since when its server, of this PostgreSQL, has the
    /// lock; the largest number: it is about to take it.
    pub fn begin(&mut self, mut slots: Vec<SlotName>, locked_at: Millis, place: u64) -> u64 {
        let beside_change = self.commits.values().any(Commit::changes_catalog);
        if (self.joined.is_none() || beside_change) && self.has(Safeguard::Widen) {
            slots.push(SlotName::Database);
        }
        if slots.contains(&SlotName::Catalog) {
            self.widen();
        }
        slots.sort_unstable();
        slots.dedup();
        if slots.len() > SLOTS_MAX {
            let catalog = slots.contains(&SlotName::Catalog);
            slots = vec![SlotName::Database];
            slots.extend(catalog.then_some(SlotName::Catalog));
        }
        self.last += 1;
        let commit = Commit {
            slots,
            locked_at,
            place,
            state: State::Listed,
            marked: false,
            held: Vec::new(),
            widened: false,
        };
        self.commits.insert(self.last, commit);
        self.last
    }

    /// The server of a commit has the lock now.
    pub fn lock_taken(&mut self, n: u64, now: Millis) {
        if let Some(commit) = self.commits.get_mut(&n) {
            commit.locked_at = commit.locked_at.min(now);
        }
    }

    /// The outcome is known, or, after its backend is gone, taken for a commit.
    pub fn settle(&mut self, n: u64, committed: bool) {
        let joining = self.joining;
        let Some(commit) = self.commits.get_mut(&n) else { return };
        if commit.marked || joining {
            commit.state = State::Over { committed };
        } else {
            // Nobody has heard of it.
            self.commits.remove(&n);
        }
    }
}

#[cfg(test)]
mod tests;
