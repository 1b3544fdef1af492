//! Times in buckets, four to each power of two: a quantile is at most an eighth off.

/// Up to 2^32 microseconds, more than an hour; what takes longer is in the last.
pub(super) const BUCKETS: usize = 124;

/// How often something took how long, in microseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS] }
    }
}

impl Histogram {
    pub fn add(&mut self, micros: u64) {
        if let Some(count) = self.counts.get_mut(bucket(micros)) {
            *count = count.saturating_add(1);
        }
    }

    /// Takes one back that was added.
    pub fn remove(&mut self, micros: u64) {
        if let Some(count) = self.counts.get_mut(bucket(micros)) {
            *count = count.saturating_sub(1);
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
    }

    /// What was added since it was as `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (count, before) in since.counts.iter_mut().zip(&before.counts) {
            *count = count.saturating_sub(*before);
        }
        since
    }

    /// The time that `percent` of all were not above, as the middle of its bucket; 0 of none.
    pub fn quantile(&self, percent: u64) -> u64 {
        let total: u64 = self.counts.iter().sum();
        let rank = (total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += *count;
            if seen >= rank {
                return u64::midpoint(lowest(index), lowest(index + 1) - 1);
            }
        }
        0
    }

    /// Each bucket in use: the longest time in it, and how many took so long or less, with those
    /// of the buckets below.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut sum = 0;
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(
            move |(index, count)| {
                sum += *count;
                (lowest(index + 1) - 1, sum)
            },
        )
    }
}

pub(super) fn bucket(micros: u64) -> usize {
    let micros = u32::try_from(micros).unwrap_or(u32::MAX);
    if micros < 4 {
        return micros as usize;
    }
    let power = micros.ilog2();
    (power as usize - 1) * 4 + ((micros >> (power - 2)) & 3) as usize
}

/// The shortest time of a bucket.
pub(super) fn lowest(bucket: usize) -> u64 {
    let (power, quarter) = (bucket / 4, bucket as u64 % 4);
    if power == 0 { quarter } else { (4 + quarter) << (power - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gap() {
        for index in 0..BUCKETS {
            assert_eq!(bucket(lowest(index)), index);
            assert_eq!(bucket(lowest(index + 1) - 1), index);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_an_eighth_off_at_most() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(99), 0);
        for micros in 1..=1000 {
            histogram.add(micros);
        }
        for (percent, exact) in [(50, 500), (95, 950), (99, 990), (100, 1000)] {
            let told: u64 = histogram.quantile(percent);
            assert!(told.abs_diff(exact) * 8 <= exact, "{percent}: {told}");
        }
    }

    #[test]
    fn what_is_counted_for_weeks_is_still_told_apart() {
        let mut histogram = Histogram::default();
        histogram.add(1);
        for _ in 0..40 {
            histogram.merge(&histogram.clone());
        }
        let days = histogram.clone();
        histogram.merge(&days);
        histogram.add(1000);
        assert_eq!(histogram.since(&days).cumulative().last(), Some((1023, (1 << 40) + 1)));
    }

    #[test]
    fn merged_histograms_know_what_each_did() {
        let (mut one, mut two) = (Histogram::default(), Histogram::default());
        one.add(1);
        two.add(1000);
        one.merge(&two);
        assert_eq!(one.cumulative().collect::<Vec<_>>(), [(1, 1), (1023, 2)]);
        assert_eq!(one.since(&two).cumulative().collect::<Vec<_>>(), [(1, 1)]);
        one.remove(1);
        one.remove(1);
        assert_eq!(one.cumulative().collect::<Vec<_>>(), [(1023, 1)]);
    }
}
