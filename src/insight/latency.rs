//! How long statements took, all together, for metrics: counts that last as long as the process.

use super::histogram::{BUCKETS, bucket, lowest};
use super::tally::{Outcome, Sample};

/// As `Histogram`, but of numbers that never end and with their sum: a counter that stopped at
/// 2^32 would be a busy day's.
#[derive(Clone, Debug)]
pub struct Times {
    counts: [u64; BUCKETS],
    /// Microseconds.
    sum: u64,
}

/// Of all statements.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// From their arrival to the end of their answer.
    pub query: Times,
    /// Of these, hits.
    pub hit: Times,
    /// Of those that were no hits, the time before they were sent to a server.
    pub wait: Times,
}

impl Default for Times {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], sum: 0 }
    }
}

impl Times {
    fn add(&mut self, micros: u64) {
        self.sum = self.sum.saturating_add(micros);
        if let Some(count) = self.counts.get_mut(bucket(micros)) {
            *count += 1;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.sum = self.sum.saturating_add(other.sum);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each bucket in use: the longest time in it, and how many took so long.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let counts = self.counts.iter().copied().enumerate();
        counts.filter(|(_, count)| *count > 0).map(|(index, count)| (lowest(index + 1) - 1, count))
    }

    /// How many took less than a power of two.
    pub fn below(&self, micros: u64) -> u64 {
        let counts = self.counts.iter().enumerate();
        counts.take_while(|(index, _)| lowest(*index) < micros).map(|(_, count)| count).sum()
    }
}

impl Latency {
    /// Microseconds up to which metrics count: powers of two, which are bounds of buckets.
    pub const BOUNDS: [u64; 22] = {
        let mut bounds = [16; 22];
        let mut at = 1;
        #[expect(clippy::indexing_slicing, reason = "checked when compiled")]
        while at < 22 {
            bounds[at] = bounds[at - 1] * 2;
            at += 1;
        }
        bounds
    };

    pub fn add(&mut self, sample: &Sample) {
        if !sample.is_call {
            return;
        }
        self.query.add(sample.total());
        match sample.outcome {
            Outcome::Hit | Outcome::SharedHit => self.hit.add(sample.total()),
            Outcome::Miss | Outcome::Bypass(_) => self.wait.add(sample.wait),
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.query.merge(&other.query);
        self.hit.merge(&other.hit);
        self.wait.merge(&other.wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(outcome: Outcome, wait: u64, run: u64) -> Sample {
        Sample {
            is_call: true,
            outcome,
            wait,
            run,
            rows: 0,
            bytes: 0,
            writes: false,
            slow: false,
            failed: None,
        }
    }

    #[test]
    fn bounds_are_bounds_of_buckets() {
        assert_eq!(Latency::BOUNDS.first(), Some(&16));
        assert!(Latency::BOUNDS.is_sorted_by(|less, more| less * 2 == *more));
        for bound in Latency::BOUNDS {
            let mut times = Times::default();
            times.add(bound - 1);
            times.add(bound);
            assert_eq!(times.below(bound), 1, "{bound}");
        }
    }

    #[test]
    fn hits_and_waiting_are_told_apart() {
        let mut latency = Latency::default();
        latency.add(&sample(Outcome::Hit, 0, 10));
        latency.add(&sample(Outcome::SharedHit, 0, 20));
        latency.add(&sample(Outcome::Miss, 300, 1000));
        latency.add(&Sample { is_call: false, ..sample(Outcome::Miss, 1, 1) });
        let mut sum = latency.clone();
        sum.merge(&latency);
        let shown = |times: &Times| (times.count(), times.sum());
        assert_eq!(shown(&sum.query), (6, 2660));
        assert_eq!(shown(&sum.hit), (4, 60));
        assert_eq!(shown(&sum.wait), (2, 600));
        assert_eq!(sum.query.buckets().collect::<Vec<_>>(), [(11, 2), (23, 2), (1535, 2)]);
    }
}
