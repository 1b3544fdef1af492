//! Hits that are asked of PostgreSQL too: which ones, how far its answer is the entry's so far,
//! and the latest that differed.
//!
//! Knows no protocol: what makes two answers equal but for their order is judged elsewhere.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::VerifyCounters;

use super::entry::Entry;

/// The sample is given as so many hits of this many.
pub const SAMPLE_OF: u32 = 10_000;

/// Differences kept for the console; the oldest are forgotten.
const DIFFERENCES_MAX: usize = 100;

/// Differences that one second may put into the log; the counter has them all.
const LOGGED_A_SECOND: u32 = 10;

/// Draws the hits to be verified, and keeps what came of it.
#[derive(Debug, Default)]
pub struct Verifier {
    sample: AtomicU32,
    /// Reports may show literals and parameters.
    shows_values: AtomicBool,
    drawn: AtomicU64,
    pub counters: VerifyCounters,
    /// Guards the latest differences; nothing else is locked inside.
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Newest last.
    differences: VecDeque<Difference>,
    /// When the second began in which so many were logged.
    second: Option<Instant>,
    logged: u32,
}

/// An entry that would have been served, and what PostgreSQL answered while it was true.
#[derive(Clone, Debug)]
pub struct Difference {
    pub at: Instant,
    /// When the entry was asked of PostgreSQL.
    pub filled_at: Instant,
    pub kind: Kind,
    pub database: String,
    pub user: String,
    /// The settings in its key; of an application's own their names alone.
    pub settings: String,
    /// The same with all values, where values may be shown.
    pub settings_in_full: Option<String>,
    /// Its shape.
    pub statement: String,
    /// As it was sent, where values may be shown.
    pub text: Option<String>,
    pub parameters: Option<String>,
    /// The tables with the generation that held from the fill until now.
    pub tables: String,
    /// Where the answers part, if that is in their rows.
    pub first_byte: Option<usize>,
    pub bytes_kept: usize,
    pub bytes_now: usize,
    /// What stands there, where values may be shown.
    pub excerpts: Option<[String; 2]>,
    pub server_pid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Rows,
    /// The same rows in another order, though the statement asks for one. Ties may do that.
    Ordered,
    /// RowDescription.
    Description,
    /// PostgreSQL refuses it, with this SQLSTATE.
    Error([u8; 5]),
}

impl Kind {
    pub fn name(self) -> String {
        match self {
            Self::Rows => "rows".to_owned(),
            Self::Ordered => "ordered".to_owned(),
            Self::Description => "description".to_owned(),
            Self::Error(code) => format!("error {}", String::from_utf8_lossy(&code)),
        }
    }
}

impl Verifier {
    /// `sample`: hits of `SAMPLE_OF`.
    pub fn set(&self, sample: u32, shows_values: bool) {
        self.sample.store(sample, Ordering::Relaxed);
        self.shows_values.store(shows_values, Ordering::Relaxed);
    }

    pub fn shows_values(&self) -> bool {
        self.shows_values.load(Ordering::Relaxed)
    }

    /// Whether this hit is one of the sample.
    pub fn draws(&self) -> bool {
        let sample = self.sample.load(Ordering::Relaxed);
        sample > 0 && {
            let number = self.drawn.fetch_add(1, Ordering::Relaxed);
            scattered(number) % u64::from(SAMPLE_OF) < u64::from(sample)
        }
    }

    /// The entry is not served, but what PostgreSQL says instead will be compared with it.
    pub fn witness(self: &Arc<Self>, entry: Arc<Entry>) -> Witness {
        Witness {
            verifier: Arc::clone(self),
            entry,
            seen: 0,
            differs_at: None,
            other_description: false,
            refused: None,
            in_doubt: false,
            counted: false,
        }
    }

    /// Keeps it. Tells whether it is to be logged.
    pub fn note(&self, difference: Difference) -> bool {
        let mut ring = self.lock();
        let at = difference.at;
        if ring.second.is_none_or(|second| at.saturating_duration_since(second) >= SECOND) {
            (ring.second, ring.logged) = (Some(at), 0);
        }
        if ring.differences.len() >= DIFFERENCES_MAX {
            ring.differences.pop_front();
        }
        ring.differences.push_back(difference);
        ring.logged = ring.logged.saturating_add(1);
        ring.logged <= LOGGED_A_SECOND
    }

    /// Newest first.
    pub fn differences(&self) -> Vec<Difference> {
        self.lock().differences.iter().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Every n-th hit would be the same statement of the same page again and again.
fn scattered(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// Watches the answer to a statement that has an entry; nothing of it is kept here.
///
/// One that comes to no finding, since its client or server went or the statement was never sent,
/// counts as incomparable.
#[derive(Debug)]
pub struct Witness {
    verifier: Arc<Verifier>,
    pub entry: Arc<Entry>,
    /// Bytes of rows and completion so far.
    seen: usize,
    differs_at: Option<usize>,
    other_description: bool,
    refused: Option<[u8; 5]>,
    in_doubt: bool,
    counted: bool,
}

/// What an answer is beside the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    Same,
    /// A write passed between, or nothing can be said of the answer.
    Incomparable,
    /// From this byte on; one may be the beginning of the other.
    Rows(usize),
    Description,
    Refused([u8; 5]),
}

impl Witness {
    pub fn rows(&mut self, bytes: &[u8]) {
        let kept = self.entry.rows().get(self.seen..).unwrap_or_default();
        if self.differs_at.is_none() && !kept.starts_with(bytes) {
            let equal = kept.iter().zip(bytes).take_while(|(kept, now)| kept == now).count();
            self.differs_at = Some(self.seen + equal);
        }
        self.seen = self.seen.saturating_add(bytes.len());
    }

    /// A RowDescription message, whole.
    pub fn describe(&mut self, message: &[u8]) {
        let kept = self.entry.row_description();
        self.other_description |= kept.is_some_and(|kept| kept != message);
    }

    /// An error that says something about the statement itself.
    pub fn refuse(&mut self, code: [u8; 5]) {
        self.refused.get_or_insert(code);
    }

    /// Something came that no entry holds.
    pub fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// Bytes of the answer so far.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// To be asked when the answer is whole. Only if nothing the entry reads has moved since the
    /// look-up, PostgreSQL's snapshot saw what the entry's did.
    pub fn finding(&self, complete: bool) -> Finding {
        if self.in_doubt || !self.entry.stamp.holds() {
            return Finding::Incomparable;
        }
        if let Some(code) = self.refused {
            return Finding::Refused(code);
        }
        if !complete {
            return Finding::Incomparable;
        }
        let cut = (self.seen != self.entry.rows().len()).then_some(self.seen);
        match self.differs_at.or(cut) {
            Some(at) => Finding::Rows(at),
            None if self.other_description => Finding::Description,
            None => Finding::Same,
        }
    }

    /// Counts what was found in the end; `None` is incomparable.
    pub fn count(mut self, compared: Option<Compared>) {
        let counters = &self.verifier.counters;
        match compared {
            Some(Compared::Same) => counters.same.one(),
            Some(Compared::OtherOrder) => counters.other_order.one(),
            Some(Compared::Different) => counters.differences.one(),
            None => counters.incomparable.one(),
        }
        self.counted = true;
    }
}

/// What a comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    Same,
    /// The same rows, and the statement fixes no order.
    OtherOrder,
    Different,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if !self.counted {
            self.verifier.counters.incomparable.one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::coherence::{Coherence, Scope};
    use crate::cache::entry::Answer;
    use crate::sql::verdict::TableId;

    const TABLE: TableId = TableId(1);

    fn entry(coherence: &Coherence, rows: &'static [u8]) -> Arc<Entry> {
        let answer = Answer::new(b"", Some(b"description"), rows).unwrap();
        Arc::new(Entry::new(0, answer, coherence.stamp(&[TABLE]).unwrap(), Instant::now()))
    }

    fn witness(coherence: &Coherence) -> (Arc<Verifier>, Witness) {
        let verifier = Arc::new(Verifier::default());
        let witness = verifier.witness(entry(coherence, b"one two"));
        (verifier, witness)
    }

    fn check(pieces: &[&[u8]], expected: Finding) {
        let coherence = Coherence::new(7);
        let (_verifier, mut witness) = witness(&coherence);
        for piece in pieces {
            witness.rows(piece);
        }
        assert_eq!(witness.finding(true), expected);
    }

    #[test]
    fn the_first_byte_that_differs_is_found_across_pieces() {
        check(&[b"one two"], Finding::Same);
        check(&[b"one", b" t", b"wo"], Finding::Same);
        check(&[b"one", b" to", b"o"], Finding::Rows(5));
        check(&[b"one two", b" three"], Finding::Rows(7));
        check(&[b"one", b" t"], Finding::Rows(5));
        check(&[b"xone", b" two"], Finding::Rows(0));
        check(&[], Finding::Rows(0));
    }

    #[test]
    fn a_write_between_look_up_and_answer_makes_it_incomparable() {
        let coherence = Coherence::new(7);
        let (_verifier, mut witness) = witness(&coherence);
        witness.rows(b"other");
        coherence.invalidate(&Scope::Tables([TABLE].into()));
        assert_eq!(witness.finding(true), Finding::Incomparable);
    }

    #[test]
    fn a_commit_in_flight_makes_it_incomparable_and_its_rollback_comparable() {
        let coherence = Coherence::new(7);
        let (_verifier, mut witness) = witness(&coherence);
        witness.rows(b"one two");
        let guard = coherence.begin_write(&Scope::Database);
        assert_eq!(witness.finding(true), Finding::Incomparable);
        guard.rolled_back();
        assert_eq!(witness.finding(true), Finding::Same);
    }

    #[test]
    fn half_an_answer_is_compared_with_nothing_and_a_refusal_is_a_difference() {
        let coherence = Coherence::new(7);
        let (_verifier, mut witness) = witness(&coherence);
        witness.rows(b"one");
        assert_eq!(witness.finding(false), Finding::Incomparable);
        witness.refuse(*b"42501");
        assert_eq!(witness.finding(false), Finding::Refused(*b"42501"));
        witness.doubt();
        assert_eq!(witness.finding(false), Finding::Incomparable);
    }

    #[test]
    fn another_description_is_a_difference_and_none_is_not() {
        let coherence = Coherence::new(7);
        let (_verifier, mut witness) = witness(&coherence);
        witness.rows(b"one two");
        assert_eq!(witness.finding(true), Finding::Same);
        witness.describe(b"description");
        assert_eq!(witness.finding(true), Finding::Same);
        witness.describe(b"another");
        assert_eq!(witness.finding(true), Finding::Description);
    }

    #[test]
    fn a_witness_that_is_dropped_counts_as_incomparable() {
        let coherence = Coherence::new(7);
        let (verifier, found) = witness(&coherence);
        found.count(Some(Compared::Same));
        drop(verifier.witness(entry(&coherence, b"")));
        let counters = &verifier.counters;
        assert_eq!((counters.same.value(), counters.incomparable.value()), (1, 1));
    }

    #[test]
    fn a_sample_is_the_share_it_says_and_none_is_none() {
        let verifier = Verifier::default();
        assert!(!(0..1000).any(|_| verifier.draws()));
        verifier.set(SAMPLE_OF, false);
        assert!((0..1000).all(|_| verifier.draws()));
        verifier.set(100, false);
        let count = (0..100_000).filter(|_| verifier.draws()).count();
        assert!((900..1100).contains(&count), "{count}");
    }

    #[test]
    fn the_latest_differences_are_kept_and_few_of_a_second_logged() {
        let verifier = Verifier::default();
        let start = Instant::now();
        let difference = |number: usize, at| Difference {
            at,
            filled_at: start,
            kind: Kind::Rows,
            database: String::new(),
            user: String::new(),
            settings: String::new(),
            settings_in_full: None,
            statement: number.to_string(),
            text: None,
            parameters: None,
            tables: String::new(),
            first_byte: None,
            bytes_kept: 0,
            bytes_now: 0,
            excerpts: None,
            server_pid: 0,
        };
        let logged = (0..=DIFFERENCES_MAX)
            .filter(|number| verifier.note(difference(*number, start)))
            .count();
        assert_eq!(logged, LOGGED_A_SECOND as usize);
        assert!(verifier.note(difference(101, start + SECOND)));
        let kept = verifier.differences();
        assert_eq!(kept.len(), DIFFERENCES_MAX);
        assert_eq!((kept[0].statement.as_str(), kept[99].statement.as_str()), ("101", "2"));
    }
}
