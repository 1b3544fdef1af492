//! Whether the second tier is asked: after failures in a row it is left alone, then tried again
//! in the background, ever more rarely while it stays down. Knows no socket and no clock.

use std::time::{Duration, Instant};

/// The pause between two tries grows to this multiple of the first.
const PAUSE_GROWTH_MAX: u32 = 16;

/// ```text
/// Probing ─ it works ──────────────→ Closed
///    ↑   └─ it does not, pause × 2 ─→ Open ←─ failures in a row, or connection lost ─ Closed
///    └──────── pause is over ──────────┘
/// ```
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    failures_max: u32,
    reset: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In use; so many failures since the last success.
    Closed { failures: u32 },
    /// Left alone.
    Open { until: Instant, pause: Duration },
    /// Tried by one task, still left alone by everybody else.
    Probing { pause: Duration },
}

impl Breaker {
    /// Nothing is known of the tier yet, so it begins by being tried.
    pub fn new(failures_max: u32, reset: Duration) -> Self {
        Self { state: State::Probing { pause: reset }, failures_max, reset }
    }

    /// An operation succeeded.
    pub fn succeeded(&mut self) {
        match self.state {
            State::Closed { .. } => self.state = State::Closed { failures: 0 },
            // The late end of an operation from before says nothing about now.
            State::Open { .. } | State::Probing { .. } => {}
        }
    }

    /// An operation failed or took too long. Tells whether that opened the breaker.
    pub fn failed(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { failures } if failures + 1 >= self.failures_max => self.lost(now),
            State::Closed { failures } => {
                self.state = State::Closed { failures: failures + 1 };
                false
            }
            State::Open { .. } | State::Probing { .. } => false,
        }
    }

    /// The connection is gone: no use in trying it again. Tells whether that opened the breaker.
    pub fn lost(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => {
                self.state = State::Open { until: now + self.reset, pause: self.reset };
                true
            }
            State::Open { .. } | State::Probing { .. } => false,
        }
    }

    /// Begins a try if it is time for one.
    pub fn probe(&mut self, now: Instant) -> bool {
        match self.state {
            State::Open { until, pause } if now >= until => {
                self.state = State::Probing { pause };
                true
            }
            State::Probing { .. } => true,
            State::Open { .. } | State::Closed { .. } => false,
        }
    }

    /// The outcome of the try.
    pub fn probed(&mut self, works: bool, now: Instant) {
        match self.state {
            State::Probing { .. } if works => self.state = State::Closed { failures: 0 },
            State::Probing { pause } => {
                let longer = (pause * 2).min(self.reset * PAUSE_GROWTH_MAX);
                self.state = State::Open { until: now + pause, pause: longer };
            }
            State::Open { .. } | State::Closed { .. } => {}
        }
    }

    /// Whether operations are let through.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// When the next try is due; `None` while none is.
    pub fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { until, .. } => Some(until),
            State::Closed { .. } | State::Probing { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESET: Duration = Duration::from_secs(1);

    fn closed(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(3, RESET);
        breaker.probed(true, now);
        assert!(breaker.is_closed());
        breaker
    }

    #[test]
    fn nothing_is_let_through_before_the_first_try_succeeds() {
        let now = Instant::now();
        let mut breaker = Breaker::new(3, RESET);
        assert!(!breaker.is_closed());
        assert!(breaker.probe(now));
        breaker.probed(true, now);
        assert!(breaker.is_closed());
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_starts_the_count_anew() {
        let now = Instant::now();
        let mut breaker = closed(now);
        assert!(!breaker.failed(now));
        assert!(!breaker.failed(now));
        breaker.succeeded();
        assert!(!breaker.failed(now));
        assert!(!breaker.failed(now));
        assert!(breaker.failed(now));
        assert!(!breaker.is_closed());
    }

    #[test]
    fn a_lost_connection_opens_it_at_once_and_only_once() {
        let now = Instant::now();
        let mut breaker = closed(now);
        assert!(breaker.lost(now));
        assert!(!breaker.lost(now));
        assert!(!breaker.failed(now));
    }

    #[test]
    fn it_is_tried_again_only_when_the_pause_is_over() {
        let now = Instant::now();
        let mut breaker = closed(now);
        breaker.lost(now);
        assert_eq!(breaker.probe_at(), Some(now + RESET));
        assert!(!breaker.probe(now + RESET / 2));
        assert!(breaker.probe(now + RESET));
        assert!(!breaker.is_closed());
        breaker.probed(true, now + RESET);
        assert!(breaker.is_closed());
    }

    #[test]
    fn failed_tries_wait_longer_up_to_a_bound() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(3, RESET);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert!(breaker.probe(now));
            breaker.probed(false, now);
            let next = breaker.probe_at().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 16, 16]);
    }

    #[test]
    fn the_late_end_of_an_old_operation_changes_nothing() {
        let now = Instant::now();
        let mut breaker = closed(now);
        breaker.lost(now);
        breaker.succeeded();
        assert!(!breaker.is_closed());
    }
}
