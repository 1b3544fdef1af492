//! What one database's part in the group knows and owes at a moment, all under one lock
//! (`shared.rs`), and what news of K's slots make of it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use crate::cache::coherence::{Coherence, InFlight, Scope};
use crate::insight::Histogram;
use crate::twin::{self, Twin};

use super::check::Check;
use super::link::Place;
use super::member::{Member, Millis};
use super::mirror::Mirror;
use super::process::Info;
use super::script::{Answer, Request};
use super::slot::{Slot, SlotName};

#[derive(Debug)]
pub(super) struct State {
    pub(super) member: Member,
    pub(super) mirror: Mirror,
    /// In flight here, too, for commits that others were told of as writing the whole database.
    pub(super) wide: HashMap<u64, InFlight>,
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
    pub(super) task: Option<Waker>,
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
    /// The Redis that was last asked.
    pub redis: Option<Info>,
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

    pub(super) fn wake_task(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    pub(super) fn wait_for_leave(&mut self, cx: &Context<'_>) {
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

    pub(super) fn has_work(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::settings::Settings;
    use super::super::shared::Group;
    use super::*;

    fn group() -> Arc<Group> {
        let coherence = Arc::new(Coherence::new(1));
        Arc::new(Group::new(1, Arc::new(Settings::example()), coherence, Instant::now()))
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
