//! K's slots as this instance last saw them, and what that means for the versions it keeps itself:
//! an answer is true while the local stamp holds, and here local slots are made to move with K's.
//!
//! Invariant: where a slot of K is another than before, or somebody else has marked it, no stamp
//! over it holds that was taken before. Attacked by the simulation of the group and the checker.

use std::collections::HashMap;

use crate::cache::coherence::{Coherence, InFlight, Scope};

use super::slot::{Slot, SlotName};

#[derive(Debug, Default)]
pub struct Mirror {
    slots: HashMap<SlotName, Seen>,
    /// What it does not have K did not have either when all of it was last heard of.
    complete: bool,
}

#[derive(Debug)]
struct Seen {
    generation: u64,
    /// Somebody else has a commit in flight there.
    marked: bool,
    /// It is in flight here as well.
    guard: Option<InFlight>,
}

/// What a look at a slot has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Others have changed it, or have begun to.
    pub by_others: bool,
}

impl Mirror {
    /// Another K: nothing that was stamped before holds.
    pub fn clear(&mut self, coherence: &Coherence) {
        coherence.invalidate(&Scope::Database);
        self.complete = false;
        for seen in std::mem::take(&mut self.slots).into_values() {
            if let Some(guard) = seen.guard {
                guard.committed();
            }
        }
    }

    /// A slot as it is in K now; `id` is our own, whose marks count for nothing: what we have in
    /// flight is in flight here.
    pub fn apply(&mut self, name: SlotName, value: &Slot, id: u32, coherence: &Coherence) -> Moved {
        let marked = value.marks.iter().any(|mark| mark.id != id);
        let scope = scope(name);
        let generation = value.generation;
        // At first sight: whatever is stamped was stamped before anybody looked.
        let is_new = !self.slots.contains_key(&name);
        let seen = self.slots.entry(name).or_insert(Seen { generation, marked, guard: None });
        let moved = seen.generation != generation;
        let news = marked && (is_new || !seen.marked);
        (seen.generation, seen.marked) = (generation, marked);
        if let Some(scope) = &scope {
            if moved || is_new {
                coherence.invalidate(scope);
            }
            if marked {
                seen.guard.get_or_insert_with(|| coherence.begin_write(scope));
            }
        }
        if !marked && let Some(guard) = seen.guard.take() {
            guard.rolled_back();
        }
        Moved { by_others: news || moved || (is_new && generation > 0) }
    }

    /// Whether applying this would show something that others did; `by_us`: we have moved it by one.
    pub fn would_move(&self, name: SlotName, value: &Slot, (id, by_us): (u32, bool)) -> bool {
        let marked = value.marks.iter().any(|mark| mark.id != id);
        match self.slots.get(&name) {
            Some(seen) => {
                let expected = seen.generation + u64::from(by_us);
                (marked && !seen.marked) || value.generation != expected
            }
            None => marked || value.generation > 0,
        }
    }

    /// An END of our own has moved the slot by one; its tables were made fresh when the outcome was
    /// known.
    pub fn move_own(&mut self, name: SlotName) {
        if let Some(seen) = self.slots.get_mut(&name) {
            seen.generation += 1;
        }
    }

    /// Whether somebody else had a commit in flight there when it was last seen.
    pub fn is_marked(&self, name: SlotName) -> bool {
        self.slots.get(&name).is_some_and(|seen| seen.marked)
    }

    /// All that K has was heard of.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// The generation an answer may be said to be of, or be told to be of: as `generation`, but
    /// what was never changed in this K counts as well.
    pub fn version(&self, name: SlotName) -> Option<u64> {
        let untouched = self.complete && !self.slots.contains_key(&name);
        if untouched { Some(0) } else { self.generation(name) }
    }

    /// The generation last seen, if nobody else has the slot in flight.
    pub fn generation(&self, name: SlotName) -> Option<u64> {
        self.slots.get(&name).filter(|seen| !seen.marked).map(|seen| seen.generation)
    }
}

/// What the slot is about here. The catalogue's is about no answer, but about what they depend on.
fn scope(name: SlotName) -> Option<Scope> {
    match name {
        SlotName::Database => Some(Scope::Database),
        SlotName::Catalog => None,
        SlotName::Table(table) => Some(Scope::Tables([table].into())),
    }
}
