//! When a commit may be sent: once nobody may hit still who has not heard of it.

use crate::cache::group::slot::SlotName;

use super::commit::{Commit, State};
use super::{Member, Millis, Safeguard};

/// Whether a commit may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Granted,
    /// Not before then, if nothing else happens.
    At(Millis),
    /// Not before something has been answered.
    Later,
}

impl Member {
    /// Whether it may be sent now; once granted, it may.
    pub fn leave(&mut self, n: u64, now: Millis) -> Leave {
        let leave = self.judge(n, now);
        if leave == Leave::Granted
            && let Some(commit) = self.commits.get_mut(&n)
            && !commit.is_over()
        {
            commit.state = State::Sent;
        }
        leave
    }

    fn judge(&self, n: u64, now: Millis) -> Leave {
        let Some(commit) = self.commits.get(&n) else { return Leave::Granted };
        let at = |until: Millis| if now >= until { Leave::Granted } else { Leave::At(until) };
        match &commit.state {
            State::Sent | State::Over { .. } => Leave::Granted,
            State::Asked if !self.has(Safeguard::AwaitBegin) => Leave::Granted,
            // Until others can see its backend they may think that there is none.
            _ if !commit.is_seen() => Leave::Later,
            State::Announced { .. } if commit.widened => Leave::Later,
            // Who has renewed its lease since may still not know: only K can tell (LAG).
            State::Announced { waits, .. }
                if commit.slots.contains(&SlotName::Catalog)
                    && !waits.is_empty()
                    && self.has(Safeguard::AwaitCatalog) =>
            {
                Leave::Later
            }
            State::Announced { open, waits, .. } => {
                // Others may answer by a K that has been left behind, where nobody marked this.
                let shut = !open && self.has(Safeguard::ShutWaits);
                let fence = if shut { self.fence } else { 0 };
                let aged = if shut { self.aged(commit) } else { 0 };
                let fence = fence.max(aged);
                let waits = waits.iter().map(|(_, until)| *until).max();
                at(fence.max(waits.filter(|_| self.has(Safeguard::AwaitGrants)).unwrap_or(0)))
            }
            State::Listed | State::Asked => {
                let joining = self.joining && self.has(Safeguard::AwaitJoin);
                if self.is_here(commit) && (self.joined.is_some() || joining) {
                    return Leave::Later;
                }
                let fence = if self.has(Safeguard::Fence) { self.fence } else { 0 };
                at(fence.max(self.aged(commit)))
            }
        }
    }

    /// When what a census without us has opened is surely over. Every census since its server took
    /// the lock shows us, and so does every one while the lock's own connection had it, which is longer:
    /// if it has it still after the server took its own, there was no moment without.
    fn aged(&self, commit: &Commit) -> Millis {
        if !self.has(Safeguard::LockAge) {
            return 0;
        }
        let since = match self.locked.filter(|_| self.is_here(commit)) {
            Some(locked) if commit.locked_at < locked.known || !self.has(Safeguard::LockShown) => {
                locked.since.min(commit.locked_at)
            }
            Some(_) | None => commit.locked_at,
        };
        self.over_at(since)
    }

    /// Whether a commit could be sent earlier if it were known that our lock is shown still.
    pub fn is_to_be_shown(&self, now: Millis) -> bool {
        let Some(locked) = self.locked else { return false };
        self.commits.values().any(|commit| {
            let waits = match &commit.state {
                State::Announced { open, .. } => !open,
                // Otherwise it waits for what K says.
                State::Listed | State::Asked => self.joined.is_none() && !self.joining,
                State::Sent | State::Over { .. } => false,
            };
            let is_younger = locked.since < commit.locked_at && locked.known <= commit.locked_at;
            let counts = commit.is_seen() && now < self.over_at(commit.locked_at);
            waits && is_younger && counts && self.is_here(commit)
        })
    }
}
