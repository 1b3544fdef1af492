//! What is done for a pool now and then: closing what is due, keeping some servers ready.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::pool::rules::Retirement;
use crate::server::io::newest_id;

use super::Pool;

impl Pool {
    /// Closes idle servers that are too many, too old, too long idle, or gone, and connects those
    /// that are to be there ahead of need. Called several times a second.
    pub fn upkeep(self: &Arc<Self>, now: Instant) {
        self.resume_if_due(now);
        let rules = self.rules();
        let mut state = self.state();
        let mut surplus = state.surplus();
        let mut spare = state.total().saturating_sub(rules.least);
        let mut reasons = Vec::new();
        let due = state.take_idle(|idle| {
            let idle_since = idle.connection.server.idle_since;
            let retirement = if surplus > 0 {
                surplus -= 1;
                Some(Retirement::Surplus)
            } else if let Some(retirement) = self.is_due(&mut idle.connection, now) {
                Some(retirement)
            } else {
                rules.is_idle_for_long(idle_since, spare, now).then_some(Retirement::IdleTimeout)
            };
            reasons.extend(retirement);
            spare -= usize::from(retirement.is_some()).min(spare);
            retirement.is_some()
        });
        drop(state);
        for (idle, retirement) in due.iter().zip(reasons) {
            self.log_end(&idle.connection, retirement);
        }
        drop(due);
        if rules.least > 0 && (self.clients() > 0 || rules.forced_user) {
            for claim in self.warm(rules.least) {
                tokio::spawn(Arc::clone(self).connect_ahead(claim));
            }
        }
        if self.clients() > 0 || self.state().total() > 0 {
            *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
    }

    /// How long it has had neither client nor server; zero while it has, and for one that is
    /// kept filled without clients.
    pub fn unused_for(&self, now: Instant) -> Duration {
        let rules = self.rules();
        let kept = rules.least > 0 && rules.forced_user;
        if kept || self.clients() > 0 || self.state().total() > 0 {
            return Duration::ZERO;
        }
        let used_at = *self.used_at.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(used_at)
    }

    /// Closes every server once it is free; new ones learn the defaults of today.
    pub fn retire_all(&self) {
        self.retired.fetch_max(newest_id() + 1, Ordering::Relaxed);
        let gone = self.state().take_idle(|_| true);
        for idle in &gone {
            self.log_end(&idle.connection, Retirement::Outdated);
        }
    }

    /// Servers are connected otherwise now: what failed may work.
    pub fn forget_failure(&self) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.resume_if_due(Instant::now());
    }

    /// Closes every idle server.
    pub fn close_idle(&self) {
        let gone = self.state().take_idle(|_| true);
        for idle in &gone {
            self.log_end(&idle.connection, Retirement::Evicted);
        }
    }

    /// Whether a server with this id is to be closed once it is free.
    pub fn is_retired(&self, server_id: u64) -> bool {
        server_id < self.retired.load(Ordering::Relaxed)
    }
}
