//! How the servers of a pool have started, at each of its hosts: whether a new one says that older
//! ones are out of date.

use std::num::NonZero;
use std::sync::{Arc, Weak};

use lru::LruCache;

use crate::cache::home::Home;
use crate::server::base::Base;

/// Lives of PostgreSQL that are told apart; a pool seldom has as many hosts. What is forgotten is
/// learnt anew.
const PLACES_MAX: NonZero<usize> = NonZero::new(64).unwrap();

/// What is known of the servers of one pool.
pub struct Starts {
    /// The database that they are of; nowhere before the first.
    home: Weak<Home>,
    /// The life of PostgreSQL in which it was written last.
    primary: Option<u64>,
    /// What sessions start with, by the life of PostgreSQL that they are of.
    by_place: LruCache<u64, u128>,
}

impl Default for Starts {
    fn default() -> Self {
        Self { home: Weak::new(), primary: None, by_place: LruCache::new(PLACES_MAX) }
    }
}

impl Starts {
    /// Notes how the newest server has started, and says whether older ones are to go for it:
    ///
    /// - At the same place sessions started otherwise: defaults have changed.
    /// - Another one is the primary: PostgreSQL was started again, or another took over. A database
    ///   has one, but for copies, which nobody can tell apart.
    /// - It is of another database. There is one catalogue at a time by which statements are judged.
    ///
    /// Else one of several hosts says nothing of the others.
    pub fn learn(&mut self, home: &Arc<Home>, place: u64, base: &Base) -> bool {
        let is_first = self.by_place.is_empty();
        let start = base.start();
        let before = self.by_place.put(place, start);
        let moved = Weak::as_ptr(&self.home) != Arc::as_ptr(home);
        self.home = Arc::downgrade(home);
        let primary_before = if base.is_standby() { None } else { self.primary.replace(place) };
        let changed = before.is_some_and(|before| before != start);
        let taken_over = primary_before.is_some_and(|before| before != place);
        !is_first && (changed || taken_over || moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::base::STANDBY;

    fn base(values: &[(&str, &str)]) -> Base {
        let values = values.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Base { values: values.collect(), ..Base::default() }
    }

    fn primary() -> Base {
        base(&[(STANDBY, "false"), ("work_mem", "4096")])
    }

    fn standby() -> Base {
        base(&[(STANDBY, "true"), ("work_mem", "8192")])
    }

    /// Whether the last of these, each at a place, says that those before are out of date; none of
    /// them does.
    fn check(servers: &[(u64, Base)], outdated: bool) {
        let (mut starts, home) = (Starts::default(), Arc::new(Home::new(0)));
        let said = servers.iter().map(|(place, base)| starts.learn(&home, *place, base));
        let expected = (1..servers.len()).map(|_| false).chain([outdated]);
        assert!(said.eq(expected), "{servers:?}");
    }

    #[test]
    fn hosts_of_one_database_live_side_by_side() {
        check(&[(1, primary())], false);
        check(&[(1, primary()), (2, standby()), (3, standby()), (1, primary())], false);
        check(&[(2, standby()), (1, primary()), (2, standby())], false);
    }

    #[test]
    fn where_sessions_start_otherwise_than_before_older_ones_go() {
        let changed = base(&[(STANDBY, "false"), ("work_mem", "1024")]);
        check(&[(1, primary()), (2, standby()), (1, changed)], true);
        // It has been promoted.
        check(&[(2, standby()), (3, standby()), (2, primary())], true);
    }

    #[test]
    fn where_another_is_the_primary_older_ones_go() {
        check(&[(1, primary()), (2, standby()), (3, primary())], true);
    }

    #[test]
    fn where_it_is_another_database_older_ones_go() {
        let (mut starts, homes) = (Starts::default(), [0, 1].map(|seed| Arc::new(Home::new(seed))));
        assert!(!starts.learn(&homes[0], 1, &primary()));
        assert!(starts.learn(&homes[1], 2, &standby()));
        assert!(!starts.learn(&homes[1], 2, &standby()));
    }
}
