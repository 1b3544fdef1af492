//! What the log-in of a client has told us and a file has not: the secret that `auth_query` found,
//! and the key that a SCRAM proof gave away. With it we log in to PostgreSQL as that client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::scram_client::ScramKeys;
use super::userlist::Secret;

/// Pairs of database and user that are remembered; as many as there may be pools.
const LEARNED_MAX: usize = 10_000;

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

/// All that was learned.
#[derive(Default)]
pub struct AllLearned(Mutex<HashMap<(String, String), Arc<Learned>>>);

impl AllLearned {
    /// Of this database and user, which are the client's names for them.
    pub fn of(&self, database: &str, user: &str) -> Arc<Learned> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (database.to_owned(), user.to_owned());
        if all.len() >= LEARNED_MAX && !all.contains_key(&key) {
            return Arc::default();
        }
        Arc::clone(all.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_and_user_has_its_own() {
        let all = AllLearned::default();
        let secret = Some(Secret::parse("secret"));
        all.of("app", "ann").set(Knowledge { secret, keys: None });
        assert!(all.of("app", "ann").get().secret.is_some());
        assert!(all.of("app", "bob").get().secret.is_none());
        assert!(all.of("other", "ann").get().secret.is_none());
    }

    #[test]
    fn a_user_too_many_is_forgotten_at_once() {
        let all = AllLearned::default();
        for number in 0..LEARNED_MAX {
            all.of("app", &number.to_string());
        }
        let secret = Some(Secret::parse("secret"));
        all.of("app", "ann").set(Knowledge { secret, keys: None });
        assert!(all.of("app", "ann").get().secret.is_none());
        assert!(Arc::ptr_eq(&all.of("app", "7"), &all.of("app", "7")));
    }
}
