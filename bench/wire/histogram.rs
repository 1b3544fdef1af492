//! Times in buckets, 64 to each power of two: a quantile is at most a sixty-fourth off.

use std::time::Duration;

const BITS: u32 = 6;
const SUB_BUCKETS: u64 = 1 << BITS;

/// Up to 2^40 nanoseconds, eighteen minutes; what takes longer is in the last.
const BUCKETS: usize = (40 - BITS as usize + 1) << BITS;

pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: Duration,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, sum: Duration::ZERO, max: Duration::ZERO }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(nanos).min(BUCKETS - 1)) {
            *count += 1;
        }
        self.count += 1;
        self.sum += time;
        self.max = self.max.max(time);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn mean(&self) -> Duration {
        u32::try_from(self.count.max(1)).map_or(Duration::ZERO, |count| self.sum / count)
    }

    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    /// The time that so many of a thousand were not above, as the upper end of its bucket.
    pub(crate) fn quantile(&self, per_mille: u64) -> Duration {
        let rank = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(highest(index)).min(self.max);
            }
        }
        self.max
    }
}

/// Times below two rows are their own bucket; above, a row of 64 to each power of two.
fn bucket(nanos: u64) -> usize {
    let shift = (nanos | SUB_BUCKETS).ilog2() - BITS;
    let index = u64::from(shift) * SUB_BUCKETS + (nanos >> shift);
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The largest time of a bucket.
fn highest(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index / SUB_BUCKETS).saturating_sub(1);
    ((index - shift * SUB_BUCKETS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_ends_where_the_next_begins() {
        for index in 0..BUCKETS {
            assert_eq!(bucket(highest(index)), index);
            assert_eq!(bucket(highest(index) + 1), index + 1);
        }
        assert_eq!(highest(BUCKETS - 1), (1 << 40) - 1);
    }

    #[test]
    fn a_quantile_is_a_sixty_fourth_off_at_most() {
        let mut histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.add(Duration::from_micros(micros));
        }
        for (per_mille, micros) in [(1, 1), (500, 500), (990, 990), (999, 999)] {
            let exact = Duration::from_micros(micros);
            let seen = histogram.quantile(per_mille);
            assert!(seen >= exact && seen <= exact + exact / 64, "{per_mille}: {seen:?}");
        }
        assert_eq!(histogram.quantile(1000), Duration::from_millis(1));
        assert_eq!(histogram.mean(), Duration::from_nanos(500_500));
        assert_eq!(histogram.max(), Duration::from_millis(1));
    }

    #[test]
    fn what_takes_longer_than_all_buckets_is_in_the_last() {
        let mut histogram = Histogram::default();
        histogram.add(Duration::from_hours(1));
        assert_eq!(histogram.quantile(500), Duration::from_nanos((1 << 40) - 1));
        assert_eq!(histogram.max(), Duration::from_hours(1));
    }

    #[test]
    fn there_is_no_quantile_of_nothing() {
        assert_eq!(Histogram::default().quantile(500), Duration::ZERO);
        assert_eq!(Histogram::default().mean(), Duration::ZERO);
    }
}
