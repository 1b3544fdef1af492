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
                if self.locked == Some(commit.place) && (self.joined.is_some() || joining) {
                    return Leave::Later;
                }
                let fence = if self.has(Safeguard::Fence) { self.fence } else { 0 };
                at(fence.max(self.aged(commit)))
            }
        }
    }

    /// When every census that did not see its server's lock is over.
    fn aged(&self, commit: &Commit) -> Millis {
        if self.has(Safeguard::LockAge) { self.over_at(commit.locked_at) } else { 0 }
    }
}
