//! The model's questions, answered by the real `Coherence`: rebuilt in the state asked about,
//! once for each question, for its answers depend on nothing else.

use std::cell::RefCell;
use std::collections::HashMap;

use forebay::cache::coherence::{Coherence, InFlight, Scope, Version};
use forebay::sql::verdict::TableId;

/// Two tables, then the database.
pub(crate) const TABLES: usize = 2;
pub(crate) const SLOTS: usize = TABLES + 1;
pub(crate) const DATABASE: usize = TABLES;

/// By slot: how often it was committed to.
pub(crate) type Seen = [u8; SLOTS];

/// The slots at some moment: generations, and commits in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slots {
    pub generations: Seen,
    pub in_flight: Seen,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Question {
    Stamp {
        read_tables: usize,
    },
    Holds {
        seen: Seen,
        mask: u8,
    },
    /// What the slots are after one more commit, or one rollback, of a slot that is in flight.
    Settle {
        slot: usize,
        committed: bool,
    },
}

thread_local! {
    static ANSWERS: RefCell<HashMap<(Slots, Question), Option<Seen>>> = RefCell::default();
}

impl Slots {
    pub(crate) fn stamp(self, read_tables: usize) -> Option<Seen> {
        self.ask(Question::Stamp { read_tables })
    }

    /// Whether a stamp of `slots` as they were in `seen` holds.
    pub(crate) fn holds(self, seen: Seen, slots: impl Iterator<Item = usize>) -> bool {
        self.ask(Question::Holds { seen, mask: mask(slots) }).is_some()
    }

    /// The generations after one commit in flight on `slot` is settled.
    pub(crate) fn settle(self, slot: usize, committed: bool) -> Seen {
        self.ask(Question::Settle { slot, committed }).unwrap()
    }

    fn ask(self, question: Question) -> Option<Seen> {
        ANSWERS.with_borrow_mut(|answers| {
            *answers.entry((self, question)).or_insert_with(|| self.answer(question))
        })
    }

    fn answer(self, question: Question) -> Option<Seen> {
        let (coherence, mut guards) = self.rebuilt();
        let answer = match question {
            Question::Stamp { read_tables } => {
                let tables: Vec<_> = (0..read_tables).map(table_id).collect();
                coherence.stamp(&tables).map(|stamp| {
                    assert!(stamp.holds());
                    let mut seen = self.generations;
                    for version in stamp.slots() {
                        let slot = version.table.map_or(DATABASE, |table| table.0 as usize - 1);
                        seen[slot] = u8::try_from(version.generation - 1).unwrap();
                    }
                    seen
                })
            }
            Question::Holds { seen, mask } => {
                // The database's slot comes first in a stamp, whatever else it covers.
                let slots = (0..SLOTS).rev().filter(|slot| mask & 1 << slot != 0);
                let versions: Vec<_> = slots.map(|slot| version(&coherence, slot, seen)).collect();
                coherence.restore(&versions).unwrap().holds().then_some(seen)
            }
            Question::Settle { slot, committed } => {
                let (_, guard) = guards.remove(guards.iter().position(|held| held.0 == slot)?);
                if committed {
                    guard.committed();
                } else {
                    guard.rolled_back();
                }
                let after = generations(&coherence);
                assert!((0..SLOTS).all(|slot| after[slot] >= self.generations[slot]));
                Some(after)
            }
        };
        for (_, guard) in guards {
            guard.rolled_back();
        }
        assert_eq!(coherence.abandoned(), 0);
        answer
    }

    fn rebuilt(self) -> (Coherence, Vec<(usize, InFlight)>) {
        let coherence = Coherence::new(7);
        coherence.stamp(&[table_id(0), table_id(1)]).unwrap();
        let mut guards = Vec::new();
        for slot in 0..SLOTS {
            for _ in 0..self.generations[slot] {
                coherence.invalidate(&scope(slot));
            }
            for _ in 0..self.in_flight[slot] {
                guards.push((slot, coherence.begin_write(&scope(slot))));
            }
        }
        (coherence, guards)
    }
}

pub(crate) fn mask(slots: impl Iterator<Item = usize>) -> u8 {
    slots.fold(0, |mask, slot| mask | 1 << slot)
}

fn version(coherence: &Coherence, slot: usize, seen: Seen) -> Version {
    let real = match slot {
        DATABASE => coherence.database_slot(),
        table => coherence.table_slot(table_id(table)).unwrap(),
    };
    let generation = u64::from(seen[slot]) + 1;
    Version { table: real.table(), epoch: real.epoch(), generation }
}

fn generations(coherence: &Coherence) -> Seen {
    std::array::from_fn(|slot| {
        let real = match slot {
            DATABASE => coherence.database_slot(),
            table => coherence.table_slot(table_id(table)).unwrap(),
        };
        u8::try_from(real.generation() - 1).unwrap()
    })
}

fn table_id(table: usize) -> TableId {
    TableId(u32::try_from(table).unwrap() + 1)
}

fn scope(slot: usize) -> Scope {
    match slot {
        DATABASE => Scope::Database,
        table => Scope::Tables([table_id(table)].into()),
    }
}
