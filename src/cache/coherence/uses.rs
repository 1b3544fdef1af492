//! What the answers over each table were of use for: counted beside its slot, never on a hit.

use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Instant;

use super::{Coherence, Seen, Slot, Stamp, in_flight};
use crate::cache::worth::{CutOff, Worth};
use crate::metrics::TableCounters;
use crate::sql::verdict::TableId;

/// Of one table, or the database. Made when the first answer over it is filled, so that tables that are only
/// written cost nothing, and apart from the slot, whose line every hit reads.
#[derive(Debug, Default)]
pub(super) struct Uses(OnceLock<Box<Used>>);

#[derive(Debug, Default)]
struct Used {
    counters: TableCounters,
    worth: Worth,
}

impl Uses {
    fn get(&self) -> &Used {
        self.0.get_or_init(Box::default)
    }
}

impl Slot {
    /// Answers kept over the table.
    pub fn fills(&self) -> u64 {
        self.uses.0.get().map_or(0, |used| used.counters.fills.value())
    }

    /// Hits of answers that are no longer in memory.
    pub fn hits_of_the_past(&self) -> u64 {
        self.uses.0.get().map_or(0, |used| used.counters.hits.value())
    }

    pub fn cut_off(&self) -> Option<CutOff> {
        self.uses.0.get()?.worth.cut_off()
    }
}

impl Stamp {
    /// An answer with this stamp is kept.
    pub fn filled(&self) {
        self.seen().iter().for_each(|seen| seen.slot.uses.get().counters.fills.one());
    }

    /// One has left the memory that was served this often.
    pub fn served(&self, hits: u64) {
        if hits > 0 {
            self.seen().iter().for_each(|seen| seen.slot.uses.get().counters.hits.add(hits));
        }
    }

    /// Somebody asks again what a write has ended, or kept from being stored; blames the tables
    /// that were written.
    pub fn ended(&self, hits: u64) {
        self.seen()
            .iter()
            .filter(|seen| seen.slot.table.is_some() && !seen.holds())
            .for_each(|seen| seen.slot.uses.get().worth.ended(hits));
    }
}

/// Of what could not be stamped: a commit is in flight on these tables.
pub(super) fn overtaken(seen: &[Seen]) {
    let written = |seen: &&Seen| seen.slot.table.is_some() && in_flight(seen.word) > 0;
    seen.iter().filter(written).for_each(|seen| seen.slot.uses.get().worth.ended(0));
}

impl Coherence {
    /// Whether keeping an answer over these tables is worth it now; see [`Worth::is_kept`].
    pub fn is_worth_keeping(&self, tables: &[TableId], hits_min: u32, now: Instant) -> bool {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let used = |table| slots.tables.get(table).and_then(|slot: &Arc<Slot>| slot.uses.0.get());
        tables.iter().filter_map(used).all(|used| used.worth.is_kept(hits_min, now))
    }

    /// The first of these tables that is cut off.
    pub fn cut_off(&self, tables: &[TableId]) -> Option<CutOff> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        tables.iter().find_map(|table| slots.tables.get(table)?.cut_off())
    }

    /// Every slot, the database's first; for the console.
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(&slots.database).chain(slots.tables.values()).map(Arc::clone).collect()
    }
}
