//! An answer being recorded on its way to a client. It counts only when finished: dropping it
//! forgets it, so an error, a cancel or a lost client never leaves half an answer.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::metrics::{SmallCounter, StatementCounters};
use crate::sql::verdict::TableId;

use super::coherence::Stamp;
use super::entry::Entry;
use super::key::KeyBuffer;
use super::turns::Leader;
use super::verify::Witness;

/// Answers up to it are recorded in a buffer that each thread keeps, and copied once when they are
/// whole, into memory of their size.
const SPARE_BYTES_MAX: usize = 16 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = Cell::default();
}

/// Recording of one answer; begun before Bind or Query is sent, since that is when PostgreSQL
/// takes the snapshot (hazard H2).
#[derive(Debug)]
pub struct Fill {
    hash: u128,
    key: Box<[u8]>,
    stamp: Stamp,
    asked_at: Instant,
    bytes_max: usize,
    row_description: Option<Bytes>,
    rows: Vec<u8>,
    state: State,
    finished_at: Instant,
    /// Also of an answer that is too large to be kept.
    completed: bool,
    /// Those who wait for it are let go when it ends.
    leader: Option<Leader>,
    /// There is an entry to compare it with.
    witness: Option<Witness>,
    statement: Option<Arc<StatementCounters>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Recording,
    Complete,
    /// Something came that an entry may not hold: an error, a notice, too many bytes.
    Spoiled,
}

impl Fill {
    pub fn begin(key: &KeyBuffer, stamp: Stamp, now: Instant, bytes_max: usize) -> Self {
        Self {
            hash: key.hash(),
            key: key.bytes().into(),
            stamp,
            asked_at: now,
            bytes_max,
            row_description: None,
            rows: Vec::new(),
            state: State::Recording,
            finished_at: now,
            completed: false,
            leader: None,
            witness: None,
            statement: None,
        }
    }

    #[must_use]
    pub fn counted_by(self, statement: Arc<StatementCounters>) -> Self {
        Self { statement: Some(statement), ..self }
    }

    #[must_use]
    pub fn led_by(self, leader: Option<Leader>) -> Self {
        Self { leader, ..self }
    }

    #[must_use]
    pub fn watched_by(self, witness: Option<Witness>) -> Self {
        Self { witness, ..self }
    }

    pub fn take_witness(&mut self) -> Option<Witness> {
        self.witness.take()
    }

    pub fn is_complete(&self) -> bool {
        self.completed
    }

    /// Rows and completion so far; nothing once it is spoiled.
    pub fn recorded(&self) -> &[u8] {
        &self.rows
    }

    pub(super) fn take_leader(&mut self) -> Option<Leader> {
        self.leader.take()
    }

    pub(super) fn take_statement(&mut self) -> Option<Arc<StatementCounters>> {
        self.statement.take()
    }

    /// A RowDescription message, whole.
    pub fn describe(&mut self, message: &[u8]) {
        if let Some(witness) = &mut self.witness {
            witness.describe(message);
        }
        self.row_description = Some(Bytes::copy_from_slice(message));
    }

    /// DataRow messages, or pieces of them, in order.
    pub fn rows(&mut self, bytes: &[u8]) {
        if let Some(witness) = &mut self.witness {
            witness.rows(bytes);
        }
        match self.state {
            State::Recording if self.rows.len() + bytes.len() <= self.bytes_max => {
                if self.rows.capacity() == 0 {
                    // Only now: a buffer that waited for PostgreSQL would be no other's.
                    self.rows = SPARE.take();
                }
                self.rows.extend_from_slice(bytes);
            }
            State::Recording | State::Complete => self.discard(),
            State::Spoiled => {}
        }
    }

    /// The CommandComplete message, whole.
    pub fn complete(&mut self, message: &[u8], now: Instant) {
        self.rows(message);
        self.finished_at = now;
        self.completed = true;
        if self.state == State::Recording {
            self.state = State::Complete;
        }
    }

    /// For broken twins: forgets when the answer was asked.
    pub fn restamp(&mut self, stamp: Stamp) {
        self.stamp = stamp;
    }

    /// The tables it depends on.
    pub fn tables(&self) -> Vec<TableId> {
        self.stamp.slots().filter_map(|version| version.table).collect()
    }

    /// Never to be stored: something came that an entry may not hold.
    pub fn spoil(&mut self) {
        if let Some(witness) = &mut self.witness {
            witness.doubt();
        }
        self.discard();
    }

    /// Never to be stored: PostgreSQL refused the statement. `code` if that says something about
    /// it and what it reads.
    pub fn refuse(&mut self, code: Option<[u8; 5]>) {
        match (&mut self.witness, code) {
            (Some(witness), Some(code)) => witness.refuse(code),
            (Some(witness), None) => witness.doubt(),
            (None, _) => {}
        }
        self.discard();
    }

    fn discard(&mut self) {
        self.state = State::Spoiled;
        give_back(std::mem::take(&mut self.rows));
        self.leader = None;
    }

    /// Only a complete answer becomes an entry.
    pub(super) fn into_entry(self) -> Option<Entry> {
        (self.state == State::Complete).then(|| Entry {
            hash: self.hash,
            key: self.key,
            stamp: self.stamp,
            row_description: self.row_description,
            rows: kept(self.rows),
            asked_at: self.asked_at,
            cost: self.finished_at.saturating_duration_since(self.asked_at),
            hits: SmallCounter::default(),
            statement: None,
        })
    }
}

/// In memory of its size.
fn kept(rows: Vec<u8>) -> Bytes {
    if rows.capacity() > SPARE_BYTES_MAX {
        return Bytes::from(rows.into_boxed_slice());
    }
    let kept = Bytes::copy_from_slice(&rows);
    give_back(rows);
    kept
}

fn give_back(mut rows: Vec<u8>) {
    if (1..=SPARE_BYTES_MAX).contains(&rows.capacity()) {
        rows.clear();
        SPARE.set(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::super::coherence::Coherence;
    use super::super::key::{SessionKey, StatementKey};
    use super::*;

    fn fill(coherence: &Coherence) -> Fill {
        let statement =
            StatementKey { text: b"", types: b"", formats: b"", values: b"", result_formats: b"" };
        let mut key = KeyBuffer::default();
        assert!(key.set(SessionKey::default(), &statement, 0));
        let stamp = coherence.stamp(&[]).unwrap();
        Fill::begin(&key, stamp, Instant::now(), 10 * SPARE_BYTES_MAX)
    }

    #[test]
    fn answers_of_every_size_are_kept_as_they_came_and_no_other_changes_them() {
        let coherence = Coherence::new(1);
        let mut kept = Vec::new();
        for (len, byte) in [(10, 1), (20, 2), (3 * SPARE_BYTES_MAX, 3), (10, 4)] {
            let mut fill = fill(&coherence);
            fill.rows(&vec![byte; len]);
            fill.complete(b"C", Instant::now());
            kept.push((vec![byte; len], fill.into_entry().unwrap()));
        }
        for (mut sent, entry) in kept {
            sent.push(b'C');
            assert!(entry.rows == sent, "{}", sent.len());
        }
    }

    #[test]
    fn a_buffer_is_used_again_unless_it_is_large() {
        let coherence = Coherence::new(1);
        SPARE.set(Vec::with_capacity(100));
        let place = SPARE.with(|spare| {
            let rows = spare.take();
            let place = rows.as_ptr();
            spare.set(rows);
            place
        });
        let mut small = fill(&coherence);
        small.rows(b"row");
        assert_eq!(small.recorded().as_ptr(), place);
        small.spoil();
        let mut large = fill(&coherence);
        large.rows(&vec![7; SPARE_BYTES_MAX + 1]);
        large.complete(b"C", Instant::now());
        large.into_entry().unwrap();
        assert_eq!(SPARE.take().capacity(), 0);
    }
}
