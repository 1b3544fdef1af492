//! K and what is done to it, as `/src/cache/group/lua` does it.

use super::setup::{CATALOG, INSTANCES, NOW, Setup, Without};

/// A member's commit, as a bit: five a member.
pub(crate) fn mark(member: usize, n: u64) -> u16 {
    assert!((1..=5).contains(&n), "more commits than there are bits for");
    1 << (member as u64 * 5 + n - 1)
}

fn own(member: usize) -> u16 {
    0b1_1111 << (member * 5)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub(crate) generation: u8,
    pub(crate) seq: u64,
    pub(crate) marks: u16,
}

impl Slot {
    pub(crate) fn marks_by_others(&self, member: usize) -> u16 {
        self.marks & !own(member)
    }

    pub(crate) fn is_marked_by_others(&self, member: usize) -> bool {
        self.marks_by_others(member) != 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) until: u64,
    pub(crate) announced: u64,
    pub(crate) known: u64,
    pub(crate) granted: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct K {
    pub(crate) act: u8,
    pub(crate) run: u8,
    pub(crate) open: bool,
    pub(crate) since: Option<u64>,
    pub(crate) seq: u64,
    /// `Setup::counts` and `Setup::knows`.
    pub(crate) counts: bool,
    pub(crate) knows: bool,
    pub(crate) rows: [Option<Row>; INSTANCES],
    pub(crate) slots: [Slot; 4],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    Join { run: u8, until: u64, marks: Vec<(u16, u8)> },
    Members,
    Renew { until: u64, applied: u64, seen: u8, gone_seq: u64, gone: u8 },
    Begin { n: u64, slots: u8 },
    Lag { seq: u64, all: bool },
    Hear { applied: u64 },
    End { n: u64, committed: bool, slots: u8 },
    Leave,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    Lost,
    Left,
    JoinLate,
    /// To a RENEW that changed nothing.
    Refused,
    Joined {
        act: u8,
        open: bool,
    },
    Members {
        until: u64,
        seq: u64,
        listed: u8,
    },
    Renewed {
        open: bool,
        seq: u64,
        grant: u64,
        slots: [Option<Slot>; 4],
    },
    Begun {
        n: u64,
        marked: u8,
        open: bool,
        seq: u64,
        catalog: Slot,
        waits: Vec<(u32, u64)>,
    },
    Lag {
        seq: u64,
        behind: Vec<u32>,
    },
    Heard {
        seq: u64,
        slots: [Option<Slot>; 4],
    },
    Ended {
        n: u64,
        slots: [Option<Slot>; 4],
    },
}

impl Request {
    /// What a story says of it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Join { .. } => "JOIN arrives, of",
            Self::Members => "MEMBERS arrives, of",
            Self::Renew { .. } => "RENEW arrives, of",
            Self::Begin { .. } => "BEGIN arrives, of",
            Self::Lag { .. } => "LAG arrives, of",
            Self::Hear { .. } => "HEAR arrives, of",
            Self::End { .. } => "END arrives, of",
            Self::Leave => "LEAVE arrives, of",
        }
    }

    pub(crate) fn late_name(&self) -> &'static str {
        match self {
            Self::Join { .. } => "JOIN arrives though given up, of",
            Self::Renew { .. } => "RENEW arrives though given up, of",
            Self::Begin { .. } => "BEGIN arrives though given up, of",
            Self::Hear { .. } => "HEAR arrives though given up, of",
            Self::End { .. } => "END arrives though given up, of",
            Self::Leave => "LEAVE arrives, of",
            Self::Members | Self::Lag { .. } => "nothing of note arrives, of",
        }
    }
}

impl Request {
    pub(crate) fn changes(&mut self) -> Vec<&mut u64> {
        match self {
            Self::Renew { applied, gone_seq, .. } => vec![applied, gone_seq],
            Self::Lag { seq, .. } => vec![seq],
            Self::Hear { applied } => vec![applied],
            Self::Join { .. }
            | Self::Members
            | Self::Begin { .. }
            | Self::End { .. }
            | Self::Leave => vec![],
        }
    }
}

/// The places of the bits that are set.
pub(crate) fn ones(bits: u8) -> impl Iterator<Item = usize> {
    (0..8).filter(move |at| bits >> at & 1 == 1)
}

impl K {
    pub(crate) fn new(act: u8, run: u8, setup: &Setup) -> Self {
        let (counts, knows) = (setup.counts(), setup.knows());
        let (rows, slots) = ([None; INSTANCES], [Slot::default(); 4]);
        Self { act, run, open: false, since: None, seq: 0, counts, knows, rows, slots }
    }

    pub(crate) fn changes(&mut self) -> impl Iterator<Item = &mut u64> {
        let rows = self.rows.iter_mut().flatten();
        let rows = rows.flat_map(|row| [&mut row.announced, &mut row.known]);
        rows.chain(self.slots.iter_mut().map(|slot| &mut slot.seq)).chain([&mut self.seq])
    }

    pub(crate) fn members(&self) -> u8 {
        (0..INSTANCES).filter(|&at| self.rows[at].is_some()).map(|at| 1 << at).sum()
    }

    /// When the earliest lease ends.
    pub(crate) fn ends(&self) -> u64 {
        self.rows.iter().flatten().map(|row| row.until).min().unwrap_or(0)
    }

    fn is_over(&self, setup: &Setup) -> bool {
        if setup.lacks(Without::EarliestLease) || setup.lacks(Without::KeptMarks) {
            return self.rows.iter().flatten().all(|row| row.until <= NOW);
        }
        self.ends() <= NOW
    }

    /// A tick passes; gives whether it is still there.
    pub(crate) fn tick(&mut self, setup: &Setup) -> bool {
        for row in self.rows.iter_mut().flatten() {
            row.until = row.until.saturating_sub(1);
            row.granted = if row.granted <= NOW + 1 { 0 } else { row.granted - 1 };
        }
        self.since = self.since.map(|since| (since - 1).max(NOW - setup.lease));
        if setup.lacks(Without::KeptMarks) {
            for at in 0..INSTANCES {
                if self.rows[at].is_some_and(|row| row.until <= NOW) {
                    self.drop(at);
                }
            }
        }
        !self.is_over(setup)
    }

    fn drop(&mut self, member: usize) {
        self.rows[member] = None;
        self.seq += u64::from(self.counts);
        for slot in &mut self.slots {
            if slot.marks & own(member) != 0 {
                slot.marks &= !own(member);
                slot.generation += 1;
                slot.seq = if self.knows { self.seq } else { 0 };
            }
        }
    }

    fn add_mark(&mut self, mark: u16, slots: u8) {
        for at in ones(slots) {
            let slot = &mut self.slots[at];
            if slot.marks & mark == 0 {
                slot.marks |= mark;
                slot.seq = if self.knows { self.seq } else { 0 };
            }
        }
    }

    pub(crate) fn join(
        &mut self,
        setup: &Setup,
        from: usize,
        until: u64,
        marks: &[(u16, u8)],
    ) -> Reply {
        let until = Self::lease(setup, until);
        self.seq += u64::from(self.counts);
        let (announced, lengthens) = (self.seq, setup.lacks(Without::ShortJoin));
        let new = Row { until, announced, known: 0, granted: 0 };
        let row = self.rows[from].get_or_insert(new);
        row.announced = announced;
        if lengthens {
            row.until = row.until.max(until);
        }
        for &(mark, slots) in marks {
            self.add_mark(mark, slots);
        }
        Reply::Joined { act: self.act, open: self.open }
    }

    fn lease(setup: &Setup, until: u64) -> u64 {
        if setup.lacks(Without::AbsoluteLease) { NOW + setup.lease } else { until }
    }

    /// What a member asks whose act this is.
    pub(crate) fn serve(&mut self, setup: &Setup, from: usize, request: &Request) -> Reply {
        let Some(row) = &mut self.rows[from] else {
            return match request {
                Request::End { n, committed, slots } => self.end(from, *n, *committed, *slots),
                Request::Members => self.list(setup),
                Request::Join { .. }
                | Request::Renew { .. }
                | Request::Begin { .. }
                | Request::Lag { .. }
                | Request::Hear { .. }
                | Request::Leave => Reply::Lost,
            };
        };
        match request {
            Request::Join { .. } => unreachable!("asked of no act"),
            Request::Members => self.list(setup),
            &Request::Renew { until, applied, seen, gone_seq, gone } => {
                if until <= NOW && !setup.lacks(Without::AbsoluteLease) {
                    return Reply::Refused;
                }
                self.renew(setup, from, (until, applied), seen, (gone_seq, gone))
            }
            &Request::Begin { n, slots } => {
                self.seq += u64::from(self.counts);
                row.announced = self.seq;
                let catalog = self.slots[1];
                self.add_mark(mark(from, n), slots);
                let waits = self.waits(from, self.seq, slots & CATALOG != 0);
                Reply::Begun { n, marked: slots, open: self.open, seq: self.seq, catalog, waits }
            }
            &Request::Lag { seq, all } => {
                let behind = self.waits(from, seq, all).iter().map(|(id, _)| *id).collect();
                Reply::Lag { seq, behind }
            }
            &Request::Hear { applied } => {
                row.known = row.known.max(applied);
                Reply::Heard { seq: self.seq, slots: self.news(applied) }
            }
            &Request::End { n, committed, slots } => self.end(from, n, committed, slots),
            Request::Leave => {
                row.granted = 0;
                Reply::Left
            }
        }
    }

    /// What changed after that.
    fn news(&self, applied: u64) -> [Option<Slot>; 4] {
        self.slots.map(|slot| Some(slot).filter(|slot| slot.seq > applied))
    }

    fn list(&self, setup: &Setup) -> Reply {
        Reply::Members { until: NOW + setup.lease, seq: self.seq, listed: self.members() }
    }

    fn waits(&self, from: usize, seq: u64, all: bool) -> Vec<(u32, u64)> {
        let mut waits = Vec::new();
        for (at, row) in self.rows.iter().enumerate() {
            let Some(row) = row.filter(|row| at != from && row.known < seq) else { continue };
            let until = row.granted.max(if all { row.until } else { 0 });
            if until > NOW {
                waits.push((at as u32, until - NOW));
            }
        }
        waits
    }

    fn renew(
        &mut self,
        setup: &Setup,
        from: usize,
        (until, applied): (u64, u64),
        seen: u8,
        (gone_seq, gone): (u64, u8),
    ) -> Reply {
        if seen & !self.members() != 0 && !setup.lacks(Without::Census) {
            return Reply::Refused;
        }
        let until = Self::lease(setup, until);
        if let Some(row) = &mut self.rows[from] {
            row.until = row.until.max(until);
            row.known = row.known.max(applied);
        }
        let by_name = !setup.lacks(Without::DropByName);
        let gone = if by_name { gone } else { self.members() & !seen };
        for at in ones(gone & !(1 << from)) {
            let Some(row) = self.rows[at] else { continue };
            let is_quiet = row.announced <= gone_seq || setup.lacks(Without::QuietSince);
            let hits = row.granted > NOW && !setup.lacks(Without::DropAfterGrant);
            if (is_quiet || !by_name) && !hits {
                self.drop(at);
            }
        }
        let since = *self.since.get_or_insert(NOW);
        self.open |= NOW >= since + setup.lease || setup.lacks(Without::OpenLate);
        let grant = self.grant(setup, from);
        let slots = self.news(applied);
        let seq = if setup.knows() { self.seq } else { 0 };
        Reply::Renewed { open: self.open, seq, grant, slots }
    }

    fn grant(&mut self, setup: &Setup, from: usize) -> u64 {
        let is_alone = setup.alone && self.members().is_power_of_two();
        if !self.open || !(setup.grants || is_alone) {
            return 0;
        }
        let full = setup.lacks(Without::GrantOfRest);
        let ends = if full { NOW + setup.lease } else { self.ends() };
        if let Some(row) = &mut self.rows[from] {
            row.granted = row.granted.max(ends);
        }
        ends.saturating_sub(NOW)
    }

    fn end(&mut self, from: usize, n: u64, committed: bool, slots: u8) -> Reply {
        let mark = mark(from, n);
        let mut values = [None; 4];
        if ones(slots).any(|at| self.slots[at].marks & mark != 0) {
            self.seq += u64::from(self.counts);
        }
        for at in ones(slots) {
            let slot = &mut self.slots[at];
            if slot.marks & mark != 0 {
                slot.marks &= !mark;
                slot.generation += u8::from(committed);
                slot.seq = if self.knows { self.seq } else { 0 };
            }
            values[at] = Some(*slot);
        }
        Reply::Ended { n, slots: values }
    }
}
