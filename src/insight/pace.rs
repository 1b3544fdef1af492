//! How many lines of one kind a second may put into the log.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::SystemTime;

#[derive(Debug, Default)]
pub(super) struct Pace {
    second: AtomicU64,
    lines: AtomicU32,
}

impl Pace {
    /// Whether one more line may be written now, of so many a second.
    pub(super) fn may(&self, at: SystemTime, lines_max: u32) -> bool {
        let second = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        self.lines.fetch_add(1, Ordering::Relaxed) < lines_max
    }
}
