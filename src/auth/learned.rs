//! What the log-in of a client has told us and a file has not: the secret that `auth_query` found,
//! and the key that a SCRAM proof gave away. With it we log in to PostgreSQL as that client.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::scram_client::ScramKeys;
use super::userlist::Secret;

/// Pairs of database and user that are remembered; as many as there may be pools.
const LEARNED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Of one user of one database.
#[derive(Debug, Default)]
pub struct Learned(Mutex<Knowledge>);

#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    pub secret: Option<Secret>,
    pub keys: Option<ScramKeys>,
}

impl Learned {
    pub fn get(&self) -> Knowledge {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the latest log-in has told; the keys of an earlier one are kept where this one, by
    /// another method, had none to tell. Old keys are refused by whoever stores another verifier.
    pub fn set(&self, latest: Knowledge) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.secret = latest.secret;
        known.keys = latest.keys.or(known.keys.take());
    }
}

/// All that was learned. Where there is no room, the least recently used that no pool holds is
/// forgotten; where pools hold all of it, there is no room for one more pool either.
pub struct AllLearned(Mutex<LruCache<(String, String), Arc<Learned>>>);

impl Default for AllLearned {
    fn default() -> Self {
        Self::with_room_for(LEARNED_MAX)
    }
}

impl AllLearned {
    fn with_room_for(learned_max: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::new(learned_max)))
    }

    /// Of this database and user, which are the client's names for them.
    pub fn of(&self, database: &str, user: &str) -> Arc<Learned> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (database.to_owned(), user.to_owned());
        if let Some(learned) = all.get(&key) {
            return Arc::clone(learned);
        }
        let learned = Arc::default();
        if all.len() == all.cap().get() {
            // A pool goes on with what it holds, and is to be told of later log-ins.
            let is_free = |learned: &Arc<Learned>| Arc::strong_count(learned) == 1;
            let mut oldest = all.iter().rev();
            let Some((key, _)) = oldest.find(|(_, learned)| is_free(learned)) else {
                return learned;
            };
            let key = key.clone();
            all.pop(&key);
        }
        all.put(key, Arc::clone(&learned));
        learned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_and_user_has_its_own() {
        let all = AllLearned::default();
        all.of("app", "ann").set(secret());
        assert!(is_known(&all, "ann"));
        assert!(!is_known(&all, "bob"));
        assert!(all.of("other", "ann").get().secret.is_none());
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let all = all_with("ann", "bob");
        assert!(is_known(&all, "ann"));
        all.of("app", "cat").set(secret());
        assert!(is_known(&all, "cat"));
        assert!(is_known(&all, "ann"));
        assert!(!is_known(&all, "bob"));
    }

    #[test]
    fn what_a_pool_holds_is_told_of_the_next_log_in() {
        let all = all_with("ann", "bob");
        let of_pool = all.of("app", "ann");
        all.of("app", "bob");
        all.of("app", "cat").set(secret());
        assert!(Arc::ptr_eq(&of_pool, &all.of("app", "ann")));
        assert!(is_known(&all, "cat"));
    }

    #[test]
    fn where_pools_hold_all_one_too_many_is_not_remembered() {
        let all = all_with("ann", "bob");
        let _of_pools = [all.of("app", "ann"), all.of("app", "bob")];
        all.of("app", "cat").set(secret());
        assert!(!is_known(&all, "cat"));
        assert!(is_known(&all, "ann") && is_known(&all, "bob"));
    }

    /// Room for no more than these.
    fn all_with(one: &str, other: &str) -> AllLearned {
        let all = AllLearned::with_room_for(NonZeroUsize::new(2).unwrap());
        all.of("app", one).set(secret());
        all.of("app", other).set(secret());
        all
    }

    fn secret() -> Knowledge {
        Knowledge { secret: Some(Secret::parse("secret")), keys: None }
    }

    fn is_known(all: &AllLearned, user: &str) -> bool {
        all.of("app", user).get().secret.is_some()
    }
}
