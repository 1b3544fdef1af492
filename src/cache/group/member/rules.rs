//! What the protocol goes by, and what of it a model or a broken twin leaves out.

use crate::twin::Twin;

use super::Millis;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// How long a member is believed to live; also the longest delay of a write.
    pub lease: Millis,
    /// By how much two clocks may disagree on a lease.
    pub margin: Millis,
    /// Left out on purpose, to see what it is good for.
    pub without: Option<Safeguard>,
}

/// What a model or a broken twin leaves out. In the order of `group.md`, section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Safeguard {
    /// A commit waits for the reply to BEGIN.
    AwaitBegin,
    /// What is not announced waits until every lease asked for is over.
    Fence,
    /// JOIN carries the marks of all commits under way.
    MarksInJoin,
    /// What is not announced waits for a JOIN that is under way.
    AwaitJoin,
    /// Leave to commit ends with what was joined.
    LeaveEndsWithAct,
    /// What is not announced waits a lease from when its server took the lock.
    LockAge,
    /// A server's lock counts as old as the one on the lock's own connection only if that was there
    /// still when the server took its own.
    LockShown,
    /// What is not announced in a K that is shut waits for the fence.
    ShutWaits,
    /// Who answers without asking is waited for.
    AwaitGrants,
    /// What was judged under an old catalogue is marked on the whole database.
    Widen,
    /// A change of the catalogue waits until the others know, whatever the time.
    AwaitCatalog,
    /// K is told of a change only when it has what that made of commits already sent.
    MarkThenTell,
    /// A grant is used for a margin less than it is given for.
    ShortGrant,
}

impl Safeguard {
    /// The program without it, and perhaps without others.
    pub(super) fn twin(self) -> Option<Twin> {
        match self {
            Self::AwaitBegin => Some(Twin::AsynchronousInvalidation),
            Self::Fence | Self::LockAge => Some(Twin::NoLeaseCheck),
            Self::MarksInJoin
            | Self::AwaitJoin
            | Self::LeaveEndsWithAct
            | Self::LockShown
            | Self::ShutWaits
            | Self::AwaitGrants
            | Self::Widen
            | Self::AwaitCatalog
            | Self::MarkThenTell
            | Self::ShortGrant => None,
        }
    }
}
