//! When requests should be sent that nobody decides on but their senders: a Poisson process.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Moments since the start, rising, without end. The same seed gives the same moments.
pub(crate) struct Arrivals {
    rng: StdRng,
    rate: f64,
    next_seconds: f64,
}

impl Arrivals {
    /// `rate` a second; what is not above nothing never comes.
    pub(crate) fn new(rate: f64, seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), rate, next_seconds: 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        // Of [0, 1), so that the logarithm is of more than nothing.
        let uniform: f64 = self.rng.random();
        self.next_seconds -= (1.0 - uniform).ln() / self.rate;
        Duration::try_from_secs_f64(self.next_seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_come_as_the_rate_says_and_as_unevenly_as_chance() {
        let moments: Vec<f64> = Arrivals::new(1000.0, 7)
            .take_while(|at| at.as_secs() < 100)
            .map(|at| at.as_secs_f64())
            .collect();
        // A hundred thousand with a deviation of 316.
        assert!(moments.len().abs_diff(100_000) < 1500, "{}", moments.len());
        let gaps: Vec<f64> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|&gap| gap >= 0.0));
        let long = gaps.iter().filter(|&&gap| gap > 0.001).count();
        // Gaps above the mean are 1/e of all; evenly spaced ones would be none or half.
        assert!(long.abs_diff(36_788) < 800, "{long}");
    }

    #[test]
    fn the_same_seed_gives_the_same_moments() {
        let few = |seed| Arrivals::new(50.0, seed).take(20).collect::<Vec<_>>();
        assert_eq!(few(1), few(1));
        assert_ne!(few(1), few(2));
    }

    #[test]
    fn at_no_rate_nothing_comes() {
        assert_eq!(Arrivals::new(0.0, 1).next(), None);
    }
}
