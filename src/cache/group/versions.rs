//! What an answer is of, as all members say it: an act of K, and the generations of what it depends
//! on. Pure.
//!
//! Invariant: where two members say the same of an answer and neither its stamp has ceased to hold,
//! no commit lies between. So what is still to be heard of K counts as not known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::coherence::{Coherence, Stamp};
use crate::sql::verdict::TableId;

use super::link::Place;
use super::member::Millis;
use super::shared::Group;
use super::slot::{Act, SlotName};
use super::state::State;

/// What an answer is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    pub act: Act,
    /// The database's first, then of each table in its order.
    pub generations: Vec<u64>,
}

/// Redis's clock as it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    said: Millis,
    heard_at: Instant,
}

impl Clock {
    pub fn new(said: Millis, heard_at: Instant) -> Self {
        Self { said, heard_at }
    }

    /// What it showed at this moment, or a little less: it had been said before it was heard. So
    /// an answer may seem older than it is, not younger.
    pub fn at(&self, moment: Instant) -> Option<Millis> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).ok();
        let at = match self.heard_at.checked_duration_since(moment) {
            Some(before) => self.said.checked_sub(millis(before)?)?,
            None => self.said.checked_add(millis(moment.duration_since(self.heard_at))?)?,
        };
        // What was cut above, and where `heard_at` comes from.
        at.checked_sub(2)
    }
}

impl Group {
    /// What an answer over these tables is of, if its stamp holds after this; with the name of K
    /// and the clock beside it. `None` where that is not known, or about to change.
    pub fn versions(&self, tables: &[TableId]) -> Option<(Arc<str>, Versions, Clock)> {
        let state = self.state();
        let versions = state.versions(tables)?;
        let (said, heard_at) = state.clock;
        let clock = Clock { said, heard_at: self.instant(heard_at) };
        Some((state.name.clone()?, versions, clock))
    }

    /// A stamp of these tables, if what an answer over them is of is what it would be now. To be
    /// asked for what the group has been asked about, or need not be: see `client/check.rs`.
    pub fn restore(
        &self,
        versions: &Versions,
        tables: &[TableId],
        coherence: &Coherence,
    ) -> Option<Stamp> {
        // First: what moves after the comparison ends it.
        let stamp = coherence.stamp(tables)?;
        let now = self.state().versions(tables)?;
        (now == *versions).then_some(stamp)
    }

    /// Where K is.
    pub fn place(&self) -> Option<Place> {
        self.state().place.clone()
    }

    /// What K is called.
    pub fn name(&self) -> Option<Arc<str>> {
        self.state().name.clone()
    }
}

impl State {
    fn versions(&self, tables: &[TableId]) -> Option<Versions> {
        let act = self.member.act().filter(|_| self.member.is_open())?;
        let tables = tables.iter().map(|table| SlotName::Table(*table));
        let slots: Vec<SlotName> = [SlotName::Database].into_iter().chain(tables).collect();
        // K has not heard yet of what counts here.
        let is_ahead = |slot: &SlotName| {
            self.member.is_ahead(*slot) || self.bumps.contains(slot) || self.bumping.contains(slot)
        };
        if slots.iter().any(is_ahead) {
            return None;
        }
        let generations = slots.iter().map(|slot| self.mirror.version(*slot));
        Some(Versions { act, generations: generations.collect::<Option<_>>()? })
    }
}
