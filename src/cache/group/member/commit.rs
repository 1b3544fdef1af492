//! A commit that the group has to know of: how far that has come.

use crate::cache::group::slot::SlotName;

use super::Millis;

/// A commit between being put in flight and its END.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Commit {
    pub(super) slots: Vec<SlotName>,
    /// When its server took the lock; our clock.
    pub(super) locked_at: Millis,
    /// Which PostgreSQL its server is of.
    pub(super) place: u64,
    pub(super) state: State,
    /// K may have a mark of it.
    pub(super) marked: bool,
    /// Slots of the K of now that have its mark for sure.
    pub(super) held: Vec<SlotName>,
    /// `slots` has grown, and K has not said that it has all of them.
    pub(super) widened: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// To be announced.
    Listed,
    /// BEGIN is under way.
    Asked,
    Announced {
        open: bool,
        seq: u64,
        /// Whom to wait for, and until when at most.
        waits: Vec<(u32, Millis)>,
    },
    /// It may have been sent.
    Sent,
    Over {
        committed: bool,
    },
}

impl Commit {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over { .. })
    }

    /// What has come to its end since it was widened is not announced any more: nobody would take
    /// that mark away.
    pub(super) fn is_to_be_announced(&self) -> bool {
        self.is_seen() && (self.state == State::Listed || (self.widened && !self.is_over()))
    }

    /// A census sees its backend. One that does not would end what has been announced of it.
    pub(super) fn is_seen(&self) -> bool {
        self.locked_at != Millis::MAX
    }

    pub(super) fn changes_catalog(&self) -> bool {
        !self.is_over() && self.slots.contains(&SlotName::Catalog)
    }
}
