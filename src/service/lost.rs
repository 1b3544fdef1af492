//! Servers that were lost with a commit on the wire (rule R19): what they may commit stays in flight
//! until PostgreSQL says that their backends are gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::coherence::InFlight;
use crate::cache::group::shared::NOWHERE;
use crate::cache::home::Home;
use crate::sql::verdict::Beyond;

/// More than PostgreSQL has backends; beyond it, while nobody can look, the oldest are believed to
/// be gone after `max_age`.
const LOST_MAX: usize = 1000;

/// A server that was lost with a commit on the wire.
pub struct Lost {
    pub pid: u32,
    /// Which life of PostgreSQL it was of.
    pub place: u64,
    pub home: Option<Arc<Home>>,
    pub guards: Vec<InFlight>,
    /// It changed the catalogue.
    pub catalog: bool,
    pub beyond: Beyond,
    /// Of the catalogue by which it was judged.
    pub generation: Option<u64>,
}

impl Lost {
    /// Whether it was of the database that is looked at.
    fn is_of(&self, place: Place<'_>) -> bool {
        self.home.as_ref().is_none_or(|home| Arc::ptr_eq(home, place.home))
            && self.place == place.place
    }

    /// Others go by what can still be committed there.
    fn is_grouped_at(&self, place: Option<Place<'_>>) -> bool {
        let group = self.home.as_ref().and_then(|home| home.group.as_ref());
        // Where nobody looks, or speaks, it is not known which one that is.
        group
            .is_some_and(|group| place.is_none() || group.is_at(NOWHERE) || group.is_at(self.place))
    }
}

/// Whose backends are looked at: of a primary and its standby the database is one.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub home: &'a Arc<Home>,
    pub place: u64,
}

/// A backend that is there.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    pub pid: u32,
    /// Since when; `None`: not every role may see that.
    pub age: Option<Duration>,
}

impl Backend {
    /// What `QUERY` has answered.
    pub fn read(row: &[Option<String>]) -> Option<Self> {
        let pid = row.first()?.as_ref()?.parse().ok()?;
        let seconds = row.get(1).and_then(|age| age.as_ref()?.parse().ok());
        Some(Self { pid, age: seconds.map(Duration::from_secs) })
    }

    /// Whether it may be the one of a server lost so long ago. Ages are in whole seconds.
    fn may_be(self, lost: &Lost, ago: Duration) -> bool {
        let was_there = self.age.is_none_or(|age| age + Duration::from_secs(1) >= ago);
        self.pid == lost.pid && was_there
    }
}

/// Which backends there are.
pub const QUERY: &str = "SELECT pid, \
     extract(epoch FROM clock_timestamp() - backend_start)::bigint \
     FROM pg_catalog.pg_stat_activity";

/// Those whose end is not known yet, and since when.
#[derive(Default)]
pub struct Missing {
    /// Nothing else is locked inside.
    servers: Mutex<Vec<(Instant, Lost)>>,
}

impl Missing {
    fn lock(&self) -> MutexGuard<'_, Vec<(Instant, Lost)>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, lost: Lost, now: Instant) {
        self.lock().push((now, lost));
    }

    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Since when the newest of this place is missing.
    pub fn newest_of(&self, place: Place<'_>) -> Option<Instant> {
        self.lock().iter().filter(|(_, lost)| lost.is_of(place)).map(|(since, _)| *since).max()
    }

    /// Takes those of `place` whose backends are not among those that are there. One that is may
    /// commit at any time, however long that takes. `asked_at`: before it was asked who is there; who
    /// was lost since may have been connected since.
    pub fn take_gone(&self, place: Place<'_>, there: &[Backend], asked_at: Instant) -> Vec<Lost> {
        self.take(|since, lost| {
            let ago = asked_at.saturating_duration_since(since);
            let was_lost = since < asked_at && lost.is_of(place);
            was_lost && !there.iter().any(|backend| backend.may_be(lost, ago))
        })
    }

    /// Takes those of other places than `place` after `max_age`: nobody looks there any more.
    /// `None`: nobody can look at any of them, so only those are taken that are too many.
    pub fn take_old(&self, place: Option<Place<'_>>, max_age: Duration, now: Instant) -> Vec<Lost> {
        let mut too_many = self.count().saturating_sub(LOST_MAX);
        self.take(|since, lost| {
            let left = match place {
                Some(place) => !lost.is_of(place),
                None => too_many > 0,
            };
            let taken = left
                && !lost.is_grouped_at(place)
                && now.saturating_duration_since(since) > max_age;
            too_many -= usize::from(taken && too_many > 0);
            taken
        })
    }

    fn take(&self, mut is_over: impl FnMut(Instant, &Lost) -> bool) -> Vec<Lost> {
        let mut servers = self.lock();
        let over = servers.extract_if(.., |(since, lost)| is_over(*since, lost));
        over.map(|(_, lost)| lost).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lost(pid: u32, home: &Arc<Home>) -> Lost {
        let home = Some(Arc::clone(home));
        let (place, catalog, beyond) = (7, false, Beyond::Nothing);
        Lost { pid, place, home, guards: Vec::new(), catalog, beyond, generation: None }
    }

    fn at(home: &Arc<Home>) -> Place<'_> {
        Place { home, place: 7 }
    }

    fn pids(lost: Vec<Lost>) -> Vec<u32> {
        lost.into_iter().map(|lost| lost.pid).collect()
    }

    #[test]
    fn a_backend_that_is_there_is_waited_for_however_long_it_takes() {
        let (home, other) = (Arc::new(Home::new(1)), Arc::new(Home::new(2)));
        let (missing, start) = (Missing::default(), Instant::now());
        for pid in [1, 2, 3] {
            missing.add(lost(pid, &home), start);
        }
        missing.add(lost(4, &other), start);
        let now = start + 1000 * SECOND;
        let there = [
            Backend { pid: 1, age: Some(999 * SECOND) },
            // Somebody else has its number.
            Backend { pid: 2, age: Some(998 * SECOND) },
            Backend { pid: 3, age: None },
        ];
        assert_eq!(pids(missing.take_gone(at(&home), &there, now)), [2]);
        assert!(missing.take_old(None, SECOND, now).is_empty());
        assert_eq!(pids(missing.take_old(Some(at(&home)), SECOND, now)), [4]);
        assert_eq!(pids(missing.take_gone(at(&home), &[], now)), [1, 3]);
    }

    #[test]
    fn what_was_lost_at_one_host_is_not_looked_for_at_another() {
        let (home, start) = (Arc::new(Home::new(1)), Instant::now());
        let missing = Missing::default();
        missing.add(lost(1, &home), start);
        let elsewhere = Place { home: &home, place: 8 };
        assert!(missing.take_gone(elsewhere, &[], start).is_empty());
        assert!(missing.newest_of(elsewhere).is_none());
        // It may have been connected after that look.
        assert!(missing.take_gone(at(&home), &[], start).is_empty());
        assert_eq!(pids(missing.take_gone(at(&home), &[], start + SECOND)), [1]);
    }

    #[test]
    fn in_a_group_what_was_lost_is_waited_for_where_the_others_look() {
        let settings = Arc::new(crate::cache::group::settings::Settings::example());
        let home = Arc::new(Home::in_group(1, 2, &settings, Instant::now()));
        let group = Arc::clone(home.group.as_ref().unwrap());
        let (missing, start) = (Missing::default(), Instant::now());
        missing.add(lost(1, &home), start);
        let elsewhere = Some(Place { home: &home, place: 8 });
        let now = start + 2 * SECOND;
        assert!(missing.take_old(elsewhere, SECOND, now).is_empty());
        group.take_lock((7, "k"), Instant::now());
        assert!(missing.take_old(elsewhere, SECOND, now).is_empty());
        assert!(missing.take_old(None, SECOND, now).is_empty());
        // They have all gone to another one.
        group.take_lock((8, "l"), Instant::now());
        assert_eq!(pids(missing.take_old(elsewhere, SECOND, now)), [1]);
    }

    #[test]
    fn while_nobody_can_look_there_are_not_too_many() {
        let (home, start) = (Arc::new(Home::new(1)), Instant::now());
        let missing = Missing::default();
        for pid in 0..u32::try_from(LOST_MAX).unwrap() + 2 {
            missing.add(lost(pid, &home), start);
        }
        assert!(missing.take_old(None, SECOND, start + SECOND).is_empty());
        assert_eq!(pids(missing.take_old(None, SECOND, start + 2 * SECOND)), [0, 1]);
        assert_eq!(missing.count(), LOST_MAX);
    }

    #[test]
    fn a_row_is_a_backend() {
        let row = |age: Option<&str>| vec![Some("7".to_owned()), age.map(str::to_owned)];
        let known = Backend::read(&row(Some("12"))).unwrap();
        assert_eq!((known.pid, known.age), (7, Some(12 * SECOND)));
        assert_eq!(Backend::read(&row(None)).unwrap().age, None);
        assert!(Backend::read(&[None]).is_none());
    }
}
