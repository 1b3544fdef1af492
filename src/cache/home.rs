//! One database as PostgreSQL knows it, whatever names and addresses lead there: its versions, and
//! how often its catalogue has changed. All servers of one database have one home.
//!
//! Invariant: two connections to one database never have different homes. In doubt there are
//! fewer homes than databases, which costs hits, never truth. Attacked by the suite: `names`.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use lru::LruCache;

use super::asking::Asking;
use super::coherence::{Coherence, Scope};
use super::group::settings::Settings;
use super::group::shared::Group;

/// More homes than this, and those that nobody lives in are torn down.
const SWEEP_AT: usize = 256;

/// What a server says it is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `pg_control_system().system_identifier`; `None` where the role may not ask.
    pub cluster: Option<String>,
    /// `pg_database.oid`; unlike the name it is never changed.
    pub database_oid: u32,
}

#[derive(Debug)]
pub struct Home {
    pub coherence: Arc<Coherence>,
    pub asking: Asking,
    /// The others who answer for this database, if it is kept together with any.
    pub group: Option<Arc<Group>>,
    pub prepared: Prepared,
    catalog_changes: AtomicU64,
}

impl Home {
    pub fn new(seed: u64) -> Self {
        Self {
            coherence: Arc::new(Coherence::new(seed)),
            asking: Asking::default(),
            group: None,
            prepared: Prepared::default(),
            catalog_changes: AtomicU64::new(0),
        }
    }

    /// One of a group. `id` must be random.
    pub fn in_group(seed: u64, id: u32, settings: &Arc<Settings>, now: Instant) -> Self {
        let alone = Self::new(seed);
        let group = Group::new(id, Arc::clone(settings), Arc::clone(&alone.coherence), now);
        Self { group: Some(Arc::new(group)), ..alone }
    }

    /// Makes every answer over `scope` untrue: here at once, for others of the group soon.
    pub fn invalidate(&self, scope: &Scope) {
        self.coherence.invalidate(scope);
        if let Some(group) = &self.group {
            group.bump(scope);
        }
    }

    /// The catalogue has changed, or may have; to be called before what did it leaves flight.
    pub fn catalog_changed(&self) {
        // In this order: who is not in flight yet will see that it has.
        self.catalog_changes.fetch_add(1, Ordering::SeqCst);
        self.coherence.widen();
    }

    pub fn catalog_changes(&self) -> u64 {
        self.catalog_changes.load(Ordering::SeqCst)
    }
}

/// Prepared transactions that change nothing but tables, by name. Any session may commit them; what
/// is not known here, or no more, may change the catalogue.
#[derive(Debug)]
pub struct Prepared(Mutex<LruCache<String, ()>>);

/// Of one database. PostgreSQL has seldom more at once (`max_prepared_transactions`).
const PREPARED_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

impl Default for Prepared {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(PREPARED_MAX)))
    }
}

impl Prepared {
    pub fn note(&self, gid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(gid.to_owned(), ());
    }

    /// Whether it was there.
    pub fn take(&self, gid: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(gid).is_some()
    }
}

/// Neither this cluster nor another can be ruled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// The homes of this process.
#[derive(Debug, Default)]
pub struct Homes {
    by_oid: HashMap<u32, Vec<Known>>,
}

#[derive(Debug)]
struct Known {
    home: Arc<Home>,
    /// Who lives there for sure.
    clusters: Vec<String>,
    /// Somebody who could not say which cluster it is does too.
    strangers: bool,
}

impl Homes {
    /// The home of this database, made if it is the first to ask. Who cannot say its cluster
    /// shares with the one database of that OID there is, and then all others of that OID do.
    pub fn find(
        &mut self,
        identity: &Identity,
        make: impl FnOnce() -> Home,
    ) -> Result<Arc<Home>, Ambiguous> {
        if self.by_oid.values().map(Vec::len).sum::<usize>() >= SWEEP_AT {
            self.sweep();
        }
        let known = self.by_oid.entry(identity.database_oid).or_default();
        let found = match &identity.cluster {
            Some(cluster) => {
                known.iter_mut().find(|known| known.clusters.contains(cluster) || known.strangers)
            }
            None if known.len() > 1 => return Err(Ambiguous),
            None => known.first_mut(),
        };
        if let Some(found) = found {
            match &identity.cluster {
                Some(cluster) if !found.clusters.contains(cluster) => {
                    found.clusters.push(cluster.clone());
                }
                Some(_) => {}
                None => found.strangers = true,
            }
            return Ok(Arc::clone(&found.home));
        }
        let home = Arc::new(make());
        known.push(Known {
            home: Arc::clone(&home),
            clusters: identity.cluster.iter().cloned().collect(),
            strangers: identity.cluster.is_none(),
        });
        Ok(home)
    }

    pub fn all(&self) -> Vec<Arc<Home>> {
        self.by_oid.values().flatten().map(|known| Arc::clone(&known.home)).collect()
    }

    /// Nobody can move in meanwhile. What is still stamped with their versions must not hold when
    /// the database comes back to a home of other versions.
    fn sweep(&mut self) {
        self.by_oid.retain(|_, known| {
            known.retain(|known| {
                let lived_in = Arc::strong_count(&known.home) > 1;
                if !lived_in {
                    known.home.coherence.invalidate(&Scope::Database);
                }
                lived_in
            });
            !known.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: Option<&str>, database_oid: u32) -> Identity {
        Identity { cluster: cluster.map(str::to_owned), database_oid }
    }

    /// Whether the second identity gets the home of the first.
    fn check(first: (Option<&str>, u32), second: (Option<&str>, u32), same: bool) {
        let mut homes = Homes::default();
        let one = homes.find(&identity(first.0, first.1), || Home::new(1)).unwrap();
        let two = homes.find(&identity(second.0, second.1), || Home::new(2)).unwrap();
        assert_eq!(Arc::ptr_eq(&one, &two), same, "{first:?} {second:?}");
    }

    #[test]
    fn a_database_has_one_home_and_another_has_another() {
        check((Some("a"), 5), (Some("a"), 5), true);
        check((Some("a"), 5), (Some("b"), 5), false);
        check((Some("a"), 5), (Some("a"), 6), false);
        check((None, 5), (None, 5), true);
        check((None, 5), (None, 6), false);
    }

    #[test]
    fn whoever_may_be_the_same_database_shares_its_home() {
        check((None, 5), (Some("a"), 5), true);
        check((Some("a"), 5), (None, 5), true);
        // The stranger may be of either cluster, so both share with it.
        let mut homes = Homes::default();
        let stranger = homes.find(&identity(None, 5), || Home::new(1)).unwrap();
        let a = homes.find(&identity(Some("a"), 5), || Home::new(2)).unwrap();
        let b = homes.find(&identity(Some("b"), 5), || Home::new(3)).unwrap();
        assert!(Arc::ptr_eq(&stranger, &a) && Arc::ptr_eq(&stranger, &b));
    }

    #[test]
    fn a_stranger_that_may_live_in_either_of_two_homes_is_refused() {
        let mut homes = Homes::default();
        let _a = homes.find(&identity(Some("a"), 5), || Home::new(1)).unwrap();
        let _b = homes.find(&identity(Some("b"), 5), || Home::new(2)).unwrap();
        assert_eq!(homes.find(&identity(None, 5), || Home::new(3)).err(), Some(Ambiguous));
        assert!(homes.find(&identity(None, 6), || Home::new(3)).is_ok());
    }

    #[test]
    fn a_home_is_torn_down_when_nobody_lives_there_and_its_stamps_cease_to_hold() {
        let mut homes = Homes::default();
        let kept = homes.find(&identity(Some("a"), 0), || Home::new(0)).unwrap();
        let left = homes.find(&identity(Some("a"), 1), || Home::new(1)).unwrap();
        let (of_kept, of_left) =
            (kept.coherence.stamp(&[]).unwrap(), left.coherence.stamp(&[]).unwrap());
        drop(left);
        for oid in 2..=u32::try_from(SWEEP_AT).unwrap() {
            homes.find(&identity(Some("a"), oid), || Home::new(u64::from(oid))).unwrap();
        }
        assert!(!of_left.holds());
        assert!(of_kept.holds());
        assert!(Arc::ptr_eq(&kept, &homes.find(&identity(Some("a"), 0), || Home::new(0)).unwrap()));
    }
}
