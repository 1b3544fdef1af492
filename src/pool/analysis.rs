//! Statements of one database that wait to be asked about: a bounded queue between those who judge
//! and the one that asks PostgreSQL.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sql::analysis::Question;

use super::database::Known;
use super::database::tokio_free::Signal;

/// A second's worth is a few; what comes beyond is seen again and asked about later.
const WAITING_MAX: usize = 64;

/// One statement that names alone did not decide.
pub struct Waiting {
    pub question: Question,
    /// Who its client is to PostgreSQL.
    pub user: String,
    /// The verdict so far, with the material it belongs to.
    pub known: Arc<Known>,
    /// Of the catalogue under which it is meant.
    pub generation: u64,
}

#[derive(Default)]
pub struct Analysis {
    /// Guards the queue; nothing else is locked inside.
    waiting: Mutex<VecDeque<Waiting>>,
    /// Raised when one is added.
    pub added: Signal,
    /// Somebody asks: there is a primary, the right to temporary relations, no event trigger.
    usable: AtomicBool,
}

impl Analysis {
    pub fn set_usable(&self, usable: bool) {
        self.usable.store(usable, Ordering::Relaxed);
    }

    pub fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }

    /// False if too many wait.
    pub fn add(&self, waiting: Waiting) -> bool {
        {
            let mut queue = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.len() >= WAITING_MAX {
                return false;
            }
            queue.push_back(waiting);
        }
        self.added.raise();
        true
    }

    pub fn next(&self) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::classify::{Context, classify};
    use crate::sql::rules::Restrictions;

    #[test]
    fn more_than_can_be_asked_soon_are_turned_away() {
        let analysis = Analysis::default();
        let waiting = || Waiting {
            question: Question {
                text: String::new(),
                types: vec![],
                search_path: vec![],
                role: None,
            },
            user: String::new(),
            known: Known::unshaped(classify(
                "SELECT 1",
                &Context {
                    catalog: None,
                    search_path: &[],
                    parameter_types: &[],
                    restrictions: &Restrictions::default(),
                },
            )),
            generation: 1,
        };
        for _ in 0..WAITING_MAX {
            assert!(analysis.add(waiting()));
        }
        assert!(!analysis.add(waiting()));
        assert!(analysis.next().is_some() && analysis.add(waiting()));
    }
}
