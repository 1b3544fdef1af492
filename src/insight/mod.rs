//! Who runs what and how slowly: the latest slow statements, kept and logged.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A statement that took longer than the threshold. No literals, no parameter values.
#[derive(Clone, Debug)]
pub struct Slow {
    pub at: SystemTime,
    pub database: String,
    pub user: String,
    pub application_name: String,
    pub address: String,
    pub shape: String,
    /// Before it was sent to a server.
    pub wait: Duration,
    /// From then to its end.
    pub run: Duration,
    pub rows: u64,
    pub server_pid: Option<u32>,
    /// `hit`, `miss`, or the reason it was not looked up.
    pub outcome: &'static str,
    pub failed: bool,
}

pub struct Insight {
    /// Zero: nothing is slow.
    threshold_us: AtomicU64,
    ring_size: usize,
    /// Slow statements that one second may put into the log.
    rate_limit: AtomicU32,
    /// The latest, newest last. Nothing else is locked inside.
    ring: Mutex<VecDeque<Slow>>,
    logged_this_second: AtomicU32,
    second: AtomicU64,
    pub suppressed: AtomicU64,
    /// The same moment on both clocks, so that statements need to read only one.
    started: (Instant, SystemTime),
}

impl Insight {
    pub fn new(
        threshold: Duration,
        ring_size: usize,
        rate_limit: u32,
        started: (Instant, SystemTime),
    ) -> Self {
        Self {
            threshold_us: AtomicU64::new(micros(threshold)),
            ring_size,
            rate_limit: AtomicU32::new(rate_limit),
            ring: Mutex::default(),
            logged_this_second: AtomicU32::new(0),
            second: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
            started,
        }
    }

    /// From the next statement on.
    pub fn set(&self, threshold: Duration, rate_limit: u32) {
        self.threshold_us.store(micros(threshold), Ordering::Relaxed);
        self.rate_limit.store(rate_limit, Ordering::Relaxed);
    }

    /// The time of day at a moment of the monotonic clock.
    pub fn time_of_day(&self, at: Instant) -> SystemTime {
        self.started.1 + at.saturating_duration_since(self.started.0)
    }

    pub fn is_slow(&self, total: Duration) -> bool {
        let threshold = self.threshold_us.load(Ordering::Relaxed);
        threshold != 0 && micros(total) >= threshold
    }

    pub fn note_slow(&self, slow: Slow) {
        if self.may_log(slow.at) {
            tracing::warn!(
                database = %slow.database,
                user = %slow.user,
                application_name = %slow.application_name,
                address = %slow.address,
                wait_ms = slow.wait.as_millis(),
                run_ms = slow.run.as_millis(),
                rows = slow.rows,
                server_pid = slow.server_pid,
                cache = slow.outcome,
                failed = slow.failed,
                shape = %slow.shape,
                "slow statement"
            );
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= self.ring_size {
            ring.pop_front();
        }
        if self.ring_size > 0 {
            ring.push_back(slow);
        }
    }

    /// The latest slow statements, newest first.
    pub fn slow(&self) -> Vec<Slow> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().cloned().collect()
    }

    fn may_log(&self, at: SystemTime) -> bool {
        let second = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.logged_this_second.store(0, Ordering::Relaxed);
        }
        self.logged_this_second.fetch_add(1, Ordering::Relaxed)
            < self.rate_limit.load(Ordering::Relaxed)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insight(threshold: Duration, ring_size: usize, rate_limit: u32) -> Insight {
        Insight::new(threshold, ring_size, rate_limit, (Instant::now(), SystemTime::UNIX_EPOCH))
    }

    fn slow(shape: &str) -> Slow {
        Slow {
            at: SystemTime::UNIX_EPOCH,
            database: "app".into(),
            user: "ann".into(),
            application_name: String::new(),
            address: "127.0.0.1:1".into(),
            shape: shape.into(),
            wait: Duration::ZERO,
            run: Duration::from_secs(1),
            rows: 1,
            server_pid: None,
            outcome: "miss",
            failed: false,
        }
    }

    #[test]
    fn the_ring_keeps_the_latest_newest_first() {
        let insight = insight(Duration::from_millis(500), 2, 10);
        for shape in ["a", "b", "c"] {
            insight.note_slow(slow(shape));
        }
        let shapes: Vec<String> = insight.slow().into_iter().map(|slow| slow.shape).collect();
        assert_eq!(shapes, ["c", "b"]);
    }

    #[test]
    fn a_second_logs_no_more_than_its_share() {
        let insight = insight(Duration::from_millis(500), 10, 2);
        for _ in 0..5 {
            insight.note_slow(slow("a"));
        }
        assert_eq!(insight.suppressed.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_threshold_of_zero_finds_nothing_slow() {
        assert!(!insight(Duration::ZERO, 2, 1).is_slow(Duration::from_secs(9)));
        assert!(insight(Duration::from_secs(1), 2, 1).is_slow(Duration::from_secs(1)));
    }
}
