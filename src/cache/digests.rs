//! What the numbers of a session in a key stand for, as digests that are alike in all processes.
//!
//! Invariant: sessions of one digest have equal numbers wherever both are known.

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use sha2::{Digest as _, Sha256};

use super::key::SessionKey;

/// One more, and the one not used for longest is forgotten: its answers are not shared then.
const DIGESTS_MAX: NonZero<usize> = NonZero::new(1 << 16).unwrap();

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

/// Whose answer it is. One that was judged by another catalogue is found by nobody: that it has
/// changed may have been told to nobody who lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub catalogue: Digest,
    pub session: Digest,
}

impl Digest {
    /// Of what a session begins with, and of what was set in it.
    pub fn of<'a>(
        base: impl Iterator<Item = (&'a str, &'a str)>,
        settings: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut hash = Sha256::new();
        for (kind, (name, value)) in
            base.map(|pair| (b"base", pair)).chain(settings.map(|pair| (b"sett", pair)))
        {
            hash.update(kind);
            for text in [name, value] {
                hash.update((text.len() as u64).to_be_bytes());
                hash.update(text);
            }
        }
        Self(hash.finalize().into())
    }

    pub fn of_catalogue(fingerprint: &str) -> Self {
        Self(Sha256::digest(fingerprint).into())
    }
}

/// By the numbers of base and settings. The database's is of this process alone: which database it
/// is the name of K says.
#[derive(Debug)]
pub struct Digests {
    /// Nothing else is locked inside.
    known: Mutex<LruCache<(u64, u64), Digest>>,
    /// By the number of the database. Nothing else is locked inside.
    catalogues: Mutex<LruCache<u64, Digest>>,
}

impl Default for Digests {
    fn default() -> Self {
        Self {
            known: Mutex::new(LruCache::new(DIGESTS_MAX)),
            catalogues: Mutex::new(LruCache::new(DIGESTS_MAX)),
        }
    }
}

impl Digests {
    pub fn learn(&self, session: &SessionKey, digest: impl FnOnce() -> Digest) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let _known = known.get_or_insert((session.base, session.settings), digest);
    }

    /// What is judged in this database is so by this catalogue from here on; `None`: by none that
    /// others could have.
    pub fn judged_by(&self, database: u64, catalogue: Option<Digest>) {
        let mut catalogues = self.catalogues.lock().unwrap_or_else(PoisonError::into_inner);
        match catalogue {
            Some(catalogue) => _ = catalogues.put(database, catalogue),
            None => _ = catalogues.pop(&database),
        }
    }

    /// `None` too for a session whose role was flushed: of that others know nothing.
    pub fn find(&self, session: &SessionKey) -> Option<Session> {
        if session.flushed != 0 {
            return None;
        }
        let mut catalogues = self.catalogues.lock().unwrap_or_else(PoisonError::into_inner);
        let catalogue = *catalogues.get(&session.database)?;
        drop(catalogues);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let session = *known.get(&(session.base, session.settings))?;
        Some(Session { catalogue, session })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionKey = SessionKey { database: 1, base: 2, settings: 3, flushed: 0 };

    fn digest(
        base: &[(&'static str, &'static str)],
        set: &[(&'static str, &'static str)],
    ) -> Digest {
        Digest::of(base.iter().copied(), set.iter().copied())
    }

    #[test]
    fn every_name_and_value_makes_another_digest() {
        let digests = [
            digest(&[], &[]),
            digest(&[("a", "b")], &[]),
            digest(&[], &[("a", "b")]),
            digest(&[("a", "c")], &[]),
            digest(&[("ab", "")], &[]),
            digest(&[("", "ab")], &[]),
            digest(&[("a", "b"), ("c", "d")], &[]),
            digest(&[("a", "b")], &[("c", "d")]),
            digest(&[("a", "bc"), ("", "d")], &[]),
        ];
        let distinct: std::collections::HashSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
        assert_eq!(digest(&[("a", "b")], &[]), digests[1]);
    }

    #[test]
    fn a_session_is_found_by_what_it_began_with_and_set() {
        let (digests, one) = (Digests::default(), digest(&[("a", "b")], &[]));
        digests.learn(&SESSION, || one);
        assert_eq!(digests.find(&SESSION), None, "nothing was judged there");
        let [catalogue, other] = ["1", "2"].map(Digest::of_catalogue);
        digests.judged_by(1, Some(catalogue));
        digests.judged_by(9, Some(other));
        let found = |catalogue| Some(Session { catalogue, session: one });
        let check = |session, found| assert_eq!(digests.find(&session), found, "{session:?}");
        check(SESSION, found(catalogue));
        check(SessionKey { database: 9, ..SESSION }, found(other));
        check(SessionKey { database: 8, ..SESSION }, None);
        check(SessionKey { base: 9, ..SESSION }, None);
        check(SessionKey { settings: 9, ..SESSION }, None);
        check(SessionKey { flushed: 9, ..SESSION }, None);
        digests.judged_by(9, None);
        check(SessionKey { database: 9, ..SESSION }, None);
    }

    #[test]
    fn past_the_bound_the_one_not_used_for_longest_is_forgotten() {
        let digests = Digests::default();
        digests.judged_by(1, Some(Digest::of_catalogue("")));
        let session = |base| SessionKey { base, ..SESSION };
        let count = DIGESTS_MAX.get() as u64;
        (0..=count).for_each(|base| digests.learn(&session(base), || digest(&[], &[])));
        assert_eq!(digests.find(&session(0)), None);
        assert!(digests.find(&session(1)).is_some() && digests.find(&session(count)).is_some());
    }
}
