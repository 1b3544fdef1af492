//! Answers of single roles that were flushed: since when keys of theirs are others. What was
//! kept under the old ones, in memory, in Redis or on its way there, is never looked up again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// One role more, and the answers of all count as flushed.
const ROLES_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub struct Roles {
    /// Moves with every flush; who remembers a key of an earlier one has to ask again.
    flushes: AtomicU64,
    /// Guards the number of each role's last flush; nothing else is locked inside.
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    of_all: u64,
    of_role: HashMap<Box<str>, u64>,
}

impl Roles {
    pub fn flush(&self, role: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.flushes.load(Ordering::SeqCst) + 1;
        if last.of_role.len() >= ROLES_MAX && !last.of_role.contains_key(role) {
            *last = Last { of_all: number, of_role: HashMap::new() };
        } else {
            last.of_role.insert(role.into(), number);
        }
        self.flushes.store(number, Ordering::SeqCst);
    }

    /// Has everybody work out keys anew, which are the same.
    pub fn look_again(&self) {
        let _last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.flushes.fetch_add(1, Ordering::SeqCst);
    }

    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    /// Part of the keys of a session that has these roles: another number after each flush of
    /// either.
    pub fn number(&self, roles: [&str; 2]) -> u64 {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let of_role = |role: &str| last.of_role.get(role).copied().unwrap_or_default();
        roles.into_iter().map(of_role).fold(last.of_all, u64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_makes_other_keys_for_its_role_alone() {
        let roles = Roles::default();
        let numbers = |roles: &Roles| {
            [["ann", "ann"], ["ann", "bob"], ["bob", "ann"], ["bob", "bob"]]
                .map(|of| roles.number(of))
        };
        assert_eq!(numbers(&roles), [0, 0, 0, 0]);
        roles.flush("ann");
        assert_eq!(numbers(&roles), [1, 1, 1, 0]);
        roles.flush("bob");
        assert_eq!(numbers(&roles), [1, 2, 2, 2]);
        roles.flush("ann");
        assert_eq!((numbers(&roles), roles.flushes()), ([3, 3, 3, 2], 3));
    }

    #[test]
    fn past_the_bound_all_are_flushed() {
        let roles = Roles::default();
        for number in 0..=ROLES_MAX {
            roles.flush(&number.to_string());
        }
        assert_eq!(roles.number(["0", "nobody"]), roles.flushes());
        assert_eq!(roles.last.lock().unwrap().of_role.len(), 0);
    }
}
