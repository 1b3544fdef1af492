//! Whether PostgreSQL is worth asking what a transaction wrote: not while answers take long, as
//! they do where hundreds of sessions hold many locks.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The median of so many answers counts, once there are enough of them: the first on each server
/// are slow.
const ANSWERS_MAX: usize = 31;
const ANSWERS_MIN: usize = 9;

/// While it is not worth asking, one is asked all the same this often.
const TRIAL: Duration = Duration::from_millis(500);

/// Of one database.
#[derive(Debug, Default)]
pub struct Asking {
    /// Guards the latest answers; nothing else is locked inside.
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    took: VecDeque<Duration>,
    tried_at: Option<Instant>,
}

impl Asking {
    /// Whether to ask now, if answers may take `median_max`.
    pub fn is_worth_it(&self, median_max: Duration, now: Instant) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.median().is_none_or(|median| median <= median_max) {
            return true;
        }
        let due =
            recent.tried_at.is_none_or(|tried_at| now.saturating_duration_since(tried_at) >= TRIAL);
        if due {
            recent.tried_at = Some(now);
        }
        due
    }

    pub fn answered(&self, took: Duration) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.took.len() == ANSWERS_MAX {
            recent.took.pop_front();
        }
        recent.took.push_back(took);
    }
}

impl Recent {
    fn median(&self) -> Option<Duration> {
        let mut took: Vec<Duration> = self.took.iter().copied().collect();
        if took.len() < ANSWERS_MIN {
            return None;
        }
        took.sort_unstable();
        took.get(took.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(1);

    fn after(answers: &[(usize, u64)]) -> Asking {
        let asking = Asking::default();
        for &(count, micros) in answers {
            (0..count).for_each(|_| asking.answered(Duration::from_micros(micros)));
        }
        asking
    }

    #[test]
    fn few_slow_answers_say_nothing() {
        let now = Instant::now();
        assert!(after(&[(8, 5000)]).is_worth_it(LIMIT, now));
        assert!(after(&[(10, 5000), (11, 1000)]).is_worth_it(LIMIT, now));
    }

    #[test]
    fn while_the_median_is_above_the_limit_one_is_asked_now_and_then() {
        let asking = after(&[(9, 1001)]);
        let now = Instant::now();
        let answers = [0, 1, 499, 500, 501]
            .map(|ms| asking.is_worth_it(LIMIT, now + Duration::from_millis(ms)));
        assert_eq!(answers, [true, false, false, true, false]);
    }

    #[test]
    fn old_answers_are_forgotten() {
        let asking = after(&[(100, 9000), (16, 100)]);
        let now = Instant::now();
        assert!(asking.is_worth_it(LIMIT, now) && asking.is_worth_it(LIMIT, now));
    }
}
