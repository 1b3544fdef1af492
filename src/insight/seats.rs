//! Which statement shapes are told apart: a bounded number of seats, from which the least used
//! are sent when others come.
//!
//! Who counts for a shape keeps its `Seat`. One that was taken back since is noticed by its ticket,
//! so nothing has to be told to those who keep seats.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What share of the seats is made free at once, so that a stream of new shapes does not look at
/// all of them each time.
const FREED_SHARE: usize = 20;

/// A seat as its user remembers it: number and ticket in one; 0 is none yet.
#[derive(Debug, Default)]
pub struct Seat(AtomicU64);

/// A place among the tallies. The ticket tells whom it was given to: of two with one number the
/// later has the higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub number: u16,
    pub ticket: u64,
}

impl Seat {
    pub fn load(&self) -> Option<Place> {
        let packed = self.0.load(Ordering::Relaxed);
        let number = u16::try_from(packed & 0xFFFF).ok()?;
        (packed != 0).then_some(Place { number, ticket: packed >> 16 })
    }

    pub fn store(&self, place: Place) {
        self.0.store(place.ticket << 16 | u64::from(place.number), Ordering::Relaxed);
    }
}

/// What sits there.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// The same for the same shape of the same database, for as long as this process lives.
    pub id: u64,
    pub database: Arc<str>,
    /// As `pg_stat_statements` shows it.
    pub text: String,
}

/// A shape to find a seat for.
pub struct Wanted<'a> {
    /// Of the database, never reused.
    pub database_id: u64,
    pub database: &'a str,
    /// As it is shown.
    pub text: String,
}

/// Guarded by the lock of its owner.
#[derive(Debug)]
pub(super) struct Seats {
    by_id: HashMap<u64, u16>,
    /// By number.
    rows: Vec<Option<Taken>>,
    free: Vec<u16>,
    next_ticket: u64,
    evicted: u64,
}

#[derive(Debug)]
struct Taken {
    shape: Arc<Shape>,
    ticket: u64,
    /// Calls when seats were last made free, and how much it was used before.
    calls: u64,
    usage: u64,
}

/// A seat that was given.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) place: Place,
    /// It had another ticket before, or none.
    pub(super) is_new: bool,
    /// Seats that were taken back for it, its own among them.
    pub(super) freed: Vec<u16>,
}

impl Seats {
    pub(super) fn new(count: u16) -> Self {
        Self {
            by_id: HashMap::new(),
            rows: (0..count).map(|_| None).collect(),
            free: (0..count).rev().collect(),
            next_ticket: 1,
            evicted: 0,
        }
    }

    /// The seat of a shape. `calls` tells how often each was called, by number; it is asked when
    /// there is no seat left. `None`: there are no seats at all.
    pub(super) fn find(
        &mut self,
        wanted: Wanted<'_>,
        calls: impl FnOnce(&[Option<Place>]) -> Vec<u64>,
    ) -> Option<Given> {
        let Wanted { database_id, database, text } = wanted;
        let id = xxh3_64_with_seed(text.as_bytes(), database_id) >> 1;
        if let Some(&number) = self.by_id.get(&id) {
            let ticket = self.rows.get(usize::from(number))?.as_ref()?.ticket;
            let place = Place { number, ticket };
            return Some(Given { place, is_new: false, freed: Vec::new() });
        }
        let freed = if self.free.is_empty() {
            let calls = calls(&self.places());
            self.make_free(&calls)
        } else {
            Vec::new()
        };
        let number = self.free.pop()?;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let shape = Arc::new(Shape { id, database: database.into(), text });
        *self.rows.get_mut(usize::from(number))? =
            Some(Taken { shape, ticket, calls: 0, usage: 0 });
        self.by_id.insert(id, number);
        Some(Given { place: Place { number, ticket }, is_new: true, freed })
    }

    /// Those who sit, by number.
    pub(super) fn places(&self) -> Vec<Option<Place>> {
        let place = |(number, taken): (usize, &Option<Taken>)| {
            let number = u16::try_from(number).ok()?;
            taken.as_ref().map(|taken| Place { number, ticket: taken.ticket })
        };
        self.rows.iter().enumerate().map(place).collect()
    }

    pub(super) fn shape(&self, place: Place) -> Option<&Arc<Shape>> {
        let taken = self.rows.get(usize::from(place.number))?.as_ref()?;
        (taken.ticket == place.ticket).then_some(&taken.shape)
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Those called least go: since the last time, and half as much before that. Gives their seats.
    fn make_free(&mut self, calls: &[u64]) -> Vec<u16> {
        let mut by_usage = Vec::with_capacity(self.rows.len());
        for (number, taken) in self.rows.iter_mut().enumerate() {
            let Some(taken) = taken else { continue };
            let calls = calls.get(number).copied().unwrap_or(0);
            taken.usage = taken.usage / 2 + calls.saturating_sub(taken.calls);
            taken.calls = calls;
            by_usage.push((taken.usage, taken.ticket, number));
        }
        by_usage.sort_unstable();
        by_usage.truncate((self.rows.len() / FREED_SHARE).max(1));
        let mut freed = Vec::with_capacity(by_usage.len());
        for (_, _, number) in by_usage {
            if let Some(taken) = self.rows.get_mut(number).and_then(Option::take)
                && let Ok(number) = u16::try_from(number)
            {
                self.by_id.remove(&taken.shape.id);
                self.free.push(number);
                self.evicted += 1;
                freed.push(number);
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(shape: &str) -> Wanted<'_> {
        Wanted { database_id: 1, database: "app", text: shape.to_owned() }
    }

    fn sit(seats: &mut Seats, shape: &str, calls: &[u64]) -> Place {
        seats.find(wanted(shape), |_| calls.to_vec()).unwrap().place
    }

    #[test]
    fn a_shape_keeps_its_seat_and_its_id() {
        let mut seats = Seats::new(2);
        let one = sit(&mut seats, "select a", &[]);
        assert_eq!(sit(&mut seats, "select a", &[]), one);
        let other = Wanted { database_id: 2, ..wanted("select a") };
        let two = seats.find(other, |_| Vec::new()).unwrap().place;
        assert_ne!(seats.shape(one).unwrap().id, seats.shape(two).unwrap().id);
        assert_eq!(seats.shape(one).unwrap().text, "select a");
    }

    #[test]
    fn the_least_used_makes_room_for_a_new_shape() {
        let mut seats = Seats::new(3);
        for shape in ["select a", "select b", "select c"] {
            sit(&mut seats, shape, &[]);
        }
        let fourth = sit(&mut seats, "select d", &[5, 2, 3]);
        // It sits where b sat, and whoever remembers that is told apart by the ticket.
        assert_eq!((fourth.number, fourth.ticket, seats.evicted()), (1, 4, 1));
        assert_eq!(seats.shape(Place { ticket: 2, ..fourth }), None);
        // What was called long ago counts less than what is called now.
        let fifth = sit(&mut seats, "select e", &[5, 3, 8]);
        assert_eq!(fifth.number, 0);
    }

    #[test]
    fn without_seats_nobody_sits() {
        assert!(Seats::new(0).find(wanted("select a"), |_| Vec::new()).is_none());
    }

    #[test]
    fn a_seat_is_remembered_with_its_ticket() {
        let seat = Seat::default();
        assert_eq!(seat.load(), None);
        let place = Place { number: 0, ticket: 1 };
        seat.store(place);
        assert_eq!(seat.load(), Some(place));
    }
}
