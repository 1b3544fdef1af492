//! What a world of the group is made of: who reads, who writes, what may fail, and what is left out
//! of the protocol on purpose.

use forebay::cache::group::member::{Rules, Safeguard};

/// Slots as bits, in this order: the database, its catalogue, two tables.
pub(crate) const DATABASE: u8 = 1;
pub(crate) const CATALOG: u8 = 2;
pub(crate) const FIRST: u8 = 4;
pub(crate) const SECOND: u8 = 8;

/// A, B and C; C has to be born.
pub(crate) const INSTANCES: usize = 3;
pub(crate) const NAMES: [&str; INSTANCES] = ["A", "B", "C"];

/// The moment that it always is: a tick moves all times there are, not this one.
pub(crate) const NOW: u64 = 8;

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) lease: u64,
    pub(crate) margin: u64,
    pub(crate) without: Option<Without>,
    pub(crate) writers: &'static [Writer],
    /// Instances with a reader that never ends.
    pub(crate) readers: &'static [usize],
    /// The slots of what is read.
    pub(crate) read: u8,
    /// Readers hit without asking, and never ask.
    pub(crate) grants: bool,
    /// So does who is the only member.
    pub(crate) alone: bool,
    /// Members hear of changes also when they do not renew.
    pub(crate) hears: bool,
    /// A commit of `Writer::changes_catalog` makes every write of the first table write the second.
    pub(crate) catalog: bool,
    /// How many there are at the start.
    pub(crate) members: usize,
    /// The list of members and the census are two steps.
    pub(crate) census_apart: bool,
    pub(crate) faults: Faults,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    pub(crate) at: usize,
    pub(crate) slots: u8,
}

/// How often each may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    pub(crate) crash: u8,
    pub(crate) lose_k: u8,
    /// A connection to Redis is given up; what was sent may still arrive.
    pub(crate) cut: u8,
    /// All connections of an instance to PostgreSQL are lost, and made anew.
    pub(crate) postgres_cut: u8,
    /// The one that shows the lock alone.
    pub(crate) control_cut: u8,
    /// The same, unnoticed.
    pub(crate) control_dies: u8,
    /// A server lets go of its lock, as a reset of its session does, and takes it again.
    pub(crate) reset: u8,
    pub(crate) promotion: u8,
    pub(crate) birth: u8,
    /// An instance says that it answers nobody any more, and joins no more.
    pub(crate) leave: u8,
    /// An instance's clock stands still for a tick.
    pub(crate) slow_clock: u8,
    /// Redis's does.
    pub(crate) slow_redis: u8,
    pub(crate) evicted_slot: u8,
    pub(crate) abort: u8,
}

/// Rows of `group.md`, section 6, that are not `Member`'s; those are `Safeguard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    Member(Safeguard),
    /// An L1 hit is checked.
    Check,
    /// K ends with the earliest lease.
    EarliestLease,
    /// Nobody clears a mark because a lease is over.
    KeptMarks,
    Census,
    /// K is opened a lease after its first good census.
    OpenLate,
    AbsoluteLease,
    StampWhileOpen,
    ProcessIdentity,
    /// Only who was quiet since the list is dropped.
    QuietSince,
    /// Nobody is dropped whose grant runs.
    DropAfterGrant,
    LocalDeadline,
    /// A grant is what is left of K's life.
    GrantOfRest,
    /// A JOIN never lengthens a lease.
    ShortJoin,
    /// Only who was listed before the census is dropped.
    DropByName,
    /// The mark of an unknown outcome stays until the backend is gone.
    KeptUnknown,
    /// What is known here and not ended in K is no L2 hit.
    OwnUnended,
    /// Who leaves has given up what it had joined before it says so.
    LeaveLast,
}

impl Setup {
    pub(crate) fn lacks(&self, part: Without) -> bool {
        self.without == Some(part)
    }

    /// Whether somebody may be dropped.
    fn drops(&self) -> bool {
        let Faults { crash, postgres_cut, control_cut, control_dies, birth, leave, .. } =
            self.faults;
        crash + postgres_cut + control_cut + control_dies + birth + leave > 0
    }

    /// Whether it matters who knows what of K's slots.
    pub(crate) fn knows(&self) -> bool {
        self.grants || self.catalog || self.alone
    }

    /// Whether K's count of changes matters.
    pub(crate) fn counts(&self) -> bool {
        self.drops() || self.knows()
    }

    pub(crate) fn rules(&self) -> Rules {
        let without = match self.without {
            Some(Without::Member(safeguard)) => Some(safeguard),
            _ => None,
        };
        Rules { lease: self.lease, margin: self.margin, without }
    }
}
