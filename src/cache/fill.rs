//! An answer being recorded on its way to a client. It counts only when finished: dropping it
//! forgets it, so an error, a cancel or a lost client never leaves half an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::metrics::StatementCounters;
use crate::sql::verdict::TableId;

use super::coherence::Stamp;
use super::entry::{Entry, Recorded};
use super::key::KeyBuffer;
use super::turns::Leader;
use super::verify::Witness;

/// Recording of one answer; begun before Bind or Query is sent, since that is when PostgreSQL
/// takes the snapshot (hazard H2).
#[derive(Debug)]
pub struct Fill {
    hash: u128,
    stamp: Stamp,
    asked_at: Instant,
    bytes_max: usize,
    recorded: Recorded,
    state: State,
    /// Also of an answer that is too large to be kept.
    completed: bool,
    /// Those who wait for it are let go when it ends.
    leader: Option<Leader>,
    /// There is an entry to compare it with.
    witness: Option<Witness>,
    statement: Option<Arc<StatementCounters>>,
    took: Duration,
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
            stamp,
            asked_at: now,
            bytes_max,
            recorded: Recorded::new(key.bytes()),
            state: State::Recording,
            completed: false,
            leader: None,
            witness: None,
            statement: None,
            took: Duration::ZERO,
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

    /// All of it has come, at this moment.
    pub fn came(&mut self, now: Instant) {
        self.took = now.saturating_duration_since(self.asked_at);
    }

    pub(super) fn took(&self) -> Duration {
        self.took
    }

    pub fn take_witness(&mut self) -> Option<Witness> {
        self.witness.take()
    }

    pub fn is_complete(&self) -> bool {
        self.completed
    }

    /// Rows and completion so far; nothing once it is spoiled.
    pub fn recorded(&self) -> &[u8] {
        self.recorded.rows()
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
        if self.state != State::Spoiled {
            self.recorded.describe(message);
        }
    }

    /// DataRow messages, or pieces of them, in order.
    pub fn rows(&mut self, bytes: &[u8]) {
        if let Some(witness) = &mut self.witness {
            witness.rows(bytes);
        }
        match self.state {
            State::Recording if self.recorded().len() + bytes.len() <= self.bytes_max => {
                self.recorded.push_rows(bytes);
            }
            State::Recording | State::Complete => self.discard(),
            State::Spoiled => {}
        }
    }

    /// The CommandComplete message, whole.
    pub fn complete(&mut self, message: &[u8]) {
        self.rows(message);
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
        self.recorded.clear();
        self.leader = None;
    }

    /// Only a complete answer becomes an entry.
    pub(super) fn into_entry(self) -> Option<Entry> {
        let answer = (self.state == State::Complete).then(|| self.recorded.finish())??;
        Some(Entry::new(self.hash, answer, self.stamp, self.asked_at))
    }
}
