//! What a reload may change about a pool, and when a server that is free has to go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::state::Sizes;

/// Sizes, times and habits of one pool. Of a time, zero is never, where nothing else is said.
#[derive(Clone, Debug)]
pub struct Rules {
    pub sizes: Sizes,
    /// Servers kept open ahead of need.
    pub least: usize,
    /// Its servers log in as a user that its clients do not choose, so it is kept filled without
    /// any client.
    pub forced_user: bool,
    pub reserve_timeout: Duration,
    pub connect_timeout: Duration,
    /// Zero: at once.
    pub login_retry: Duration,
    pub idle_timeout: Duration,
    /// Zero: a server is used once.
    pub lifetime: Duration,
    /// Asked of a server that was idle for this long.
    pub check: Option<(Duration, Arc<str>)>,
    /// Whether connections to servers and their ends are logged.
    pub log_connections: bool,
    pub log_disconnections: bool,
}

/// Why a server is closed that did nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retirement {
    Surplus,
    IdleTimeout,
    Lifetime,
    /// It would be connected otherwise now.
    Outdated,
    /// PostgreSQL has closed it, or said something that nobody asked for.
    Gone,
    /// It did not answer the check query.
    TestFailed,
    /// It gave way to a server of another pool.
    Evicted,
    /// The operator wants no connection to the database.
    Paused,
    /// A cancel request may still arrive that was meant for its last client.
    StrayCancel,
}

impl Retirement {
    /// As PgBouncer's log says it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Surplus => "too many servers in the pool",
            Self::IdleTimeout => "server idle timeout",
            Self::Lifetime => "server lifetime over",
            Self::Outdated => "database configuration changed",
            Self::Gone => "server conn crashed?",
            Self::TestFailed => "test query failed",
            Self::Evicted => "evicted",
            Self::Paused => "pause mode",
            Self::StrayCancel => "a cancel request may still arrive",
        }
    }
}

impl Rules {
    /// Whether a server that nobody uses is to be closed for that. `spare`: how many there are
    /// beyond those kept ahead of need.
    pub fn is_idle_for_long(&self, idle_since: Instant, spare: usize, now: Instant) -> bool {
        !self.idle_timeout.is_zero()
            && spare > 0
            && now.saturating_duration_since(idle_since) > self.idle_timeout
    }

    /// When a client that waits since `began` may have a server of the reserve.
    pub fn reserve_at(&self, began: Instant) -> Option<Instant> {
        let has = self.sizes.reserve > 0 && !self.reserve_timeout.is_zero();
        has.then(|| began + self.reserve_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            sizes: Sizes { size: 2, reserve: 1, round_robin: false },
            least: 0,
            forced_user: false,
            reserve_timeout: Duration::from_secs(5),
            connect_timeout: Duration::ZERO,
            login_retry: Duration::ZERO,
            idle_timeout: Duration::from_secs(10),
            lifetime: Duration::ZERO,
            check: None,
            log_connections: true,
            log_disconnections: true,
        }
    }

    #[test]
    fn a_server_is_idle_for_long_after_the_time_but_for_those_kept() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        assert!(!rules().is_idle_for_long(began, 1, after(10)));
        assert!(rules().is_idle_for_long(began, 1, after(11)));
        assert!(!rules().is_idle_for_long(began, 0, after(11)));
        let never = Rules { idle_timeout: Duration::ZERO, ..rules() };
        assert!(!never.is_idle_for_long(began, 1, after(11)));
    }

    #[test]
    fn the_reserve_is_for_who_has_waited_and_none_without_size_or_time() {
        let began = Instant::now();
        assert_eq!(rules().reserve_at(began), Some(began + Duration::from_secs(5)));
        let mut none = rules();
        none.reserve_timeout = Duration::ZERO;
        assert_eq!(none.reserve_at(began), None);
        let mut none = rules();
        none.sizes.reserve = 0;
        assert_eq!(none.reserve_at(began), None);
    }
}
