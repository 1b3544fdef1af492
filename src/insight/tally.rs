//! Sums of what statements did: of one shape, of one group of clients. Plain numbers; who adds
//! has them for itself.

use std::collections::BTreeMap;

use crate::sql::verdict::BypassReason;

use super::histogram::Histogram;

/// What the cache had to do with a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Hit,
    /// A hit on what another client had asked for already, and this one waited for.
    SharedHit,
    Miss,
    Bypass(BypassReason),
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::SharedHit => "shared_hit",
            Self::Miss => "miss",
            Self::Bypass(reason) => reason.name(),
        }
    }

    pub fn is_hit(self) -> bool {
        matches!(self, Self::Hit | Self::SharedHit)
    }
}

/// One statement that has been answered. Times in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// It began now; otherwise it goes on with a portal that was counted when it began.
    pub is_call: bool,
    pub outcome: Outcome,
    /// Before it was sent to a server; 0 of what is answered here.
    pub wait: u64,
    /// From then to its end.
    pub run: u64,
    pub rows: u64,
    /// Sent to the client.
    pub bytes: u64,
    pub writes: bool,
    pub slow: bool,
    /// The class of the SQLSTATE with which it failed.
    pub failed: Option<[u8; 2]>,
}

impl Sample {
    pub fn total(&self) -> u64 {
        self.wait.saturating_add(self.run)
    }
}

/// What the statements of one shape did.
#[derive(Clone, Debug, Default)]
pub struct StatementTally {
    pub calls: u64,
    pub hits: u64,
    /// Of the hits.
    pub shared: u64,
    pub misses: u64,
    pub errors: u64,
    pub slow: u64,
    pub rows: u64,
    pub bytes: u64,
    pub time: u64,
    pub wait: u64,
    pub miss_time: u64,
    pub max: u64,
    /// Why it was not looked up when it was last not.
    pub reason: Option<BypassReason>,
    pub times: Histogram,
}

impl StatementTally {
    pub fn add(&mut self, sample: &Sample) {
        let total = sample.total();
        self.rows += sample.rows;
        self.bytes += sample.bytes;
        self.time += total;
        self.wait += sample.wait;
        self.max = self.max.max(total);
        self.errors += u64::from(sample.failed.is_some());
        if !sample.is_call {
            return;
        }
        self.calls += 1;
        self.slow += u64::from(sample.slow);
        self.times.add(total);
        match sample.outcome {
            Outcome::Hit => self.hits += 1,
            Outcome::SharedHit => {
                self.hits += 1;
                self.shared += 1;
            }
            Outcome::Miss => {
                self.misses += 1;
                self.miss_time += total;
            }
            Outcome::Bypass(reason) => self.reason = Some(reason),
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.hits += other.hits;
        self.shared += other.shared;
        self.misses += other.misses;
        self.errors += other.errors;
        self.slow += other.slow;
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.time += other.time;
        self.wait += other.wait;
        self.miss_time += other.miss_time;
        self.max = self.max.max(other.max);
        self.reason = self.reason.or(other.reason);
        self.times.merge(&other.times);
    }

    pub fn bypasses(&self) -> u64 {
        self.calls.saturating_sub(self.hits).saturating_sub(self.misses)
    }

    /// Microseconds a call took in the mean.
    pub fn mean(&self) -> u64 {
        self.time.checked_div(self.calls).unwrap_or(0)
    }

    /// What the hits would have taken, had each been a miss.
    pub fn saved(&self) -> u64 {
        let saved = u128::from(self.miss_time) * u128::from(self.hits);
        let saved = saved.checked_div(u128::from(self.misses)).unwrap_or(0);
        u64::try_from(saved).unwrap_or(u64::MAX)
    }

    /// Why no call was ever looked up, if none was.
    pub fn never_cached(&self) -> Option<BypassReason> {
        self.reason.filter(|_| self.hits == 0 && self.misses == 0)
    }
}

/// Classes of SQLSTATE told apart in one group; PostgreSQL has 43. The rest are one.
const CLASSES_MAX: usize = 50;

/// What is not told apart.
const OTHER_CLASS: [u8; 2] = *b"??";

/// What the statements of one group of clients did.
#[derive(Clone, Debug)]
pub struct GroupTally {
    pub transactions: u64,
    pub queries: u64,
    pub hits: u64,
    /// Of the hits.
    pub shared: u64,
    pub misses: u64,
    bypasses: [u64; BypassReason::ALL.len()],
    pub writes: u64,
    pub errors: BTreeMap<[u8; 2], u64>,
    pub slow: u64,
    pub rows: u64,
    pub wait: u64,
    pub run: u64,
    pub times: Histogram,
}

impl Default for GroupTally {
    fn default() -> Self {
        Self {
            transactions: 0,
            queries: 0,
            hits: 0,
            shared: 0,
            misses: 0,
            bypasses: [0; BypassReason::ALL.len()],
            writes: 0,
            errors: BTreeMap::new(),
            slow: 0,
            rows: 0,
            wait: 0,
            run: 0,
            times: Histogram::default(),
        }
    }
}

impl GroupTally {
    pub fn add(&mut self, sample: &Sample) {
        self.rows += sample.rows;
        self.wait += sample.wait;
        self.run += sample.run;
        if let Some(class) = sample.failed {
            self.count_errors(class, 1);
        }
        if !sample.is_call {
            return;
        }
        self.queries += 1;
        self.writes += u64::from(sample.writes);
        self.slow += u64::from(sample.slow);
        self.times.add(sample.total());
        match sample.outcome {
            Outcome::Hit => self.hits += 1,
            Outcome::SharedHit => {
                self.hits += 1;
                self.shared += 1;
            }
            Outcome::Miss => self.misses += 1,
            Outcome::Bypass(reason) => {
                if let Some(count) = self.bypasses.get_mut(reason as usize) {
                    *count += 1;
                }
            }
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.queries += other.queries;
        self.hits += other.hits;
        self.shared += other.shared;
        self.misses += other.misses;
        for (count, more) in self.bypasses.iter_mut().zip(&other.bypasses) {
            *count += more;
        }
        self.writes += other.writes;
        for (class, count) in &other.errors {
            self.count_errors(*class, *count);
        }
        self.slow += other.slow;
        self.rows += other.rows;
        self.wait += other.wait;
        self.run += other.run;
        self.times.merge(&other.times);
    }

    fn count_errors(&mut self, class: [u8; 2], count: u64) {
        let known = self.errors.contains_key(&class) || self.errors.len() < CLASSES_MAX;
        let plain = class.iter().all(u8::is_ascii_alphanumeric);
        *self.errors.entry(if known && plain { class } else { OTHER_CLASS }).or_default() += count;
    }

    /// Those that are not zero, in the order of the declaration.
    pub fn bypasses(&self) -> impl Iterator<Item = (BypassReason, u64)> {
        let counts = self.bypasses.iter().copied();
        BypassReason::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0)
    }

    pub fn errors_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(outcome: Outcome, run: u64) -> Sample {
        Sample {
            is_call: true,
            outcome,
            wait: 1,
            run,
            rows: 2,
            bytes: 30,
            writes: false,
            slow: false,
            failed: None,
        }
    }

    #[test]
    fn the_cache_saved_what_misses_take_in_the_mean_for_each_hit() {
        let mut tally = StatementTally::default();
        tally.add(&sample(Outcome::Hit, 0));
        assert_eq!(tally.saved(), 0);
        for run in [99, 199] {
            tally.add(&sample(Outcome::Miss, run));
        }
        tally.add(&sample(Outcome::SharedHit, 49));
        tally.add(&sample(Outcome::Bypass(BypassReason::OwnWrites), 9));
        // A hundred and two hundred, twice in the mean; what bypassed says nothing of it.
        assert_eq!(tally.saved(), 300);
        let counts = (tally.calls, tally.hits, tally.shared, tally.misses, tally.bypasses());
        assert_eq!(counts, (5, 2, 1, 2, 1));
        assert_eq!((tally.time, tally.max, tally.mean(), tally.rows), (361, 200, 72, 10));
    }

    #[test]
    fn only_what_was_never_looked_up_has_a_reason_for_it() {
        let mut tally = StatementTally::default();
        tally.add(&sample(Outcome::Bypass(BypassReason::Function), 1));
        assert_eq!(tally.never_cached(), Some(BypassReason::Function));
        tally.add(&sample(Outcome::Miss, 1));
        assert_eq!(tally.never_cached(), None);
    }

    #[test]
    fn what_goes_on_with_a_portal_adds_its_rows_and_time_to_the_call_that_began_it() {
        let more = Sample { is_call: false, ..sample(Outcome::Miss, 10) };
        let (mut tally, mut group) = (StatementTally::default(), GroupTally::default());
        tally.add(&more);
        group.add(&more);
        assert_eq!((tally.calls, tally.misses, tally.rows, tally.time), (0, 0, 2, 11));
        assert_eq!((group.queries, group.rows, group.run), (0, 2, 10));
    }

    #[test]
    fn errors_are_told_apart_by_class_up_to_a_bound() {
        let mut group = GroupTally::default();
        for first in b'A'..=b'Z' {
            for second in *b"012" {
                let failed = Some([first, second]);
                group.add(&Sample { failed, ..sample(Outcome::Miss, 1) });
            }
        }
        group.add(&Sample { failed: Some(*b"\n\0"), ..sample(Outcome::Miss, 1) });
        assert_eq!((group.errors.len(), group.errors_count()), (CLASSES_MAX + 1, 79));
        assert_eq!(group.errors.get(b"A0"), Some(&1));
        assert_eq!(group.errors.get(&OTHER_CLASS), Some(&29));
    }

    #[test]
    fn merged_tallies_are_what_one_would_have_been() {
        let samples = [
            sample(Outcome::Hit, 1),
            sample(Outcome::Bypass(BypassReason::Group), 4),
            Sample { failed: Some(*b"42"), writes: true, ..sample(Outcome::Miss, 9) },
        ];
        let (mut whole, mut merged) = (GroupTally::default(), GroupTally::default());
        for sample in &samples {
            whole.add(sample);
            let mut part = GroupTally::default();
            part.add(sample);
            merged.merge(&part);
        }
        assert_eq!(format!("{whole:?}"), format!("{merged:?}"));
    }
}
