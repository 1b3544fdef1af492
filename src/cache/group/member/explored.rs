//! What an explorer does to a member so that its states are finitely many (`tests/simulation/group`).

use super::commit::State;
use super::{Member, Millis};

impl Member {
    /// The same one `by` later, counted from a `now` that stays where it is: all times lie so much
    /// earlier, and what is over is as if it had always been. The wait between two JOINs, which
    /// keeps nothing right, is left out. For an explorer, whose states have to be finitely many
    /// (`tests/simulation/group`).
    pub fn rebase(&mut self, now: Millis, by: Millis) {
        let lease = self.rules.lease + self.rules.margin;
        let earlier = |time: &mut Millis| *time = if *time <= now + by { 0 } else { *time - by };
        for time in [&mut self.fence, &mut self.lease_until, &mut self.asked_until] {
            earlier(time);
        }
        self.join_at = 0;
        if let Some(joined) = &mut self.joined {
            earlier(&mut joined.granted_until);
        }
        let aged = |time: &mut Millis| {
            let then = time.saturating_sub(by);
            *time = if then.saturating_add(lease) <= now { 0 } else { then };
        };
        self.locked.iter_mut().for_each(|locked| {
            aged(&mut locked.since);
            aged(&mut locked.known);
        });
        for commit in self.commits.values_mut() {
            if commit.is_seen() {
                aged(&mut commit.locked_at);
            }
            if let State::Announced { waits, .. } = &mut commit.state {
                for (_, until) in waits {
                    earlier(until);
                }
            }
        }
    }

    /// What it remembers of K's count of changes, which an explorer has to keep small, too.
    pub fn changes(&mut self) -> Vec<&mut u64> {
        let mut changes: Vec<_> =
            self.joined.iter_mut().flat_map(|of| [&mut of.applied, &mut of.told]).collect();
        for commit in self.commits.values_mut() {
            if let State::Announced { seq, .. } = &mut commit.state {
                changes.push(seq);
            }
        }
        changes
    }
}
