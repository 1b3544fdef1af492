//! K's slots as this instance last saw them, and what that means for the versions it keeps itself:
//! an answer is true while the local stamp holds, and here local slots are made to move with K's.
//!
//! Invariant: where a slot of K is another than before, or somebody else has marked it, no stamp
//! over it holds that was taken before. (`tests/simulation/group/seeded`: real groups under seeded
//! faults; the checker.)

use std::collections::HashMap;

use crate::cache::coherence::{Coherence, InFlight, Scope};

use super::slot::{Mark, Slot, SlotName};

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
    /// Each such commit is in flight here as well, from when it was first seen: one guard for all
    /// of them would stay as long as there is any.
    guards: Vec<(Mark, InFlight)>,
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
            seen.guards.into_iter().for_each(|(_, guard)| guard.committed());
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
        let seen =
            self.slots.entry(name).or_insert(Seen { generation, marked, guards: Vec::new() });
        let moved = seen.generation != generation;
        let news = marked && (is_new || !seen.marked);
        (seen.generation, seen.marked) = (generation, marked);
        if let Some(scope) = &scope {
            if moved || is_new {
                coherence.invalidate(scope);
            }
            for mark in value.marks.iter().filter(|mark| mark.id != id) {
                if !seen.guards.iter().any(|(held, _)| held == mark) {
                    seen.guards.push((*mark, coherence.begin_write(scope)));
                }
            }
        }
        for (_, guard) in seen.guards.extract_if(.., |(mark, _)| !value.marks.contains(mark)) {
            guard.rolled_back();
        }
        Moved { by_others: news || moved || (is_new && generation > 0) }
    }

    /// Whether applying this would show something that others did; we have moved it by `by_us`.
    pub fn would_move(&self, name: SlotName, value: &Slot, (id, by_us): (u32, u64)) -> bool {
        let marked = value.marks.iter().any(|mark| mark.id != id);
        match self.slots.get(&name) {
            Some(seen) => (marked && !seen.marked) || value.generation != seen.generation + by_us,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::verdict::TableId;

    #[test]
    fn each_commit_of_others_is_in_flight_from_when_it_was_seen() {
        let (coherence, mut mirror) = (Coherence::new(1), Mirror::default());
        let [table, other] = [TableId(1), TableId(2)];
        let mut see = |marks: &[u64]| {
            let marks = marks.iter().map(|n| Mark { id: 2, n: *n }).collect();
            let slot = Slot { generation: 0, seq: 1, marks };
            mirror.apply(SlotName::Table(table), &slot, 1, &coherence);
        };
        let is_free = |table| coherence.stamp(&[table]).is_some();
        see(&[1]);
        assert!(!is_free(table) && is_free(other));
        coherence.widen();
        see(&[1, 2]);
        assert!(!is_free(other));
        // There was never none of them, and the second began after the change.
        see(&[2]);
        assert!(!is_free(table) && is_free(other));
        see(&[]);
        assert!(is_free(table));
        assert_eq!(coherence.abandoned(), 0);
    }
}
