//! A PostgreSQL as small as it can be: two tables, a trigger, a view, and backends that commit what
//! they were sent when they like, or never, and show whose they are by the lock they hold.

use std::collections::{BTreeMap, BTreeSet};

use forebay::sql::verdict::TableId;

pub(super) const TABLES: [TableId; 2] = [TableId(1), TableId(2)];

/// The one life of it that there is.
pub(super) const PLACE: u64 = 1;

/// What is to be known before a statement can be judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Catalog {
    pub(super) version: u32,
    /// A write of the first table writes the second.
    pub(super) triggers: bool,
    /// The table that the view shows.
    view: usize,
}

/// All there is after one commit and before the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moment {
    /// Commits that touched each table.
    values: [u32; 2],
    pub(super) catalog: Catalog,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    First,
    Second,
    Both,
    View,
}

/// An answer: no two moments that differ in it have the same.
pub(super) type Rows = [u32; 3];

impl Read {
    pub(super) const ALL: [Self; 4] = [Self::First, Self::Second, Self::Both, Self::View];

    pub(super) fn text(self) -> &'static [u8] {
        match self {
            Self::First => b"TABLE first",
            Self::Second => b"TABLE second",
            Self::Both => b"TABLE both",
            Self::View => b"TABLE view",
        }
    }

    /// What it reads by this catalogue.
    pub(super) fn tables(self, catalog: Catalog) -> Vec<TableId> {
        match self {
            Self::First => vec![TABLES[0]],
            Self::Second => vec![TABLES[1]],
            Self::Both => TABLES.to_vec(),
            Self::View => vec![TABLES[catalog.view]],
        }
    }
}

impl Moment {
    pub(super) fn answer(&self, read: Read) -> Rows {
        let [first, second] = self.values;
        let view = self.catalog.view;
        match read {
            Read::First => [first, 0, 0],
            Read::Second => [0, second, 0],
            Read::Both => [first, second, 0],
            Read::View => [self.values[view], 0, u32::from(view == 0)],
        }
    }

    fn after(mut self, write: Write) -> Self {
        match write {
            Write::Rows(tables) => {
                let triggered = self.catalog.triggers && tables[0];
                self.values[0] += u32::from(tables[0]);
                self.values[1] += u32::from(tables[1] || triggered);
            }
            Write::Trigger => self.catalog.triggers = !self.catalog.triggers,
            Write::View => self.catalog.view = 1 - self.catalog.view,
        }
        self.catalog.version += u32::from(write.is_ddl());
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// Of either table.
    Rows([bool; 2]),
    Trigger,
    View,
}

impl Write {
    pub(super) fn is_ddl(self) -> bool {
        match self {
            Self::Rows(_) => false,
            Self::Trigger | Self::View => true,
        }
    }
}

/// What a backend was sent, and has not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Commit(Write),
    Query(Read),
    /// All locks are let go of.
    Discard,
    TakeLock,
}

/// What it has answered, and nobody has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The moment that it made.
    Committed(usize),
    RolledBack,
    /// As of this moment.
    Rows(usize),
    Discarded,
    Locked,
}

#[derive(Debug)]
pub(super) struct Backend {
    pub(super) owner: u32,
    shows: bool,
    /// Nobody is at its other end any more.
    pub(super) severed: bool,
    pub(super) work: Option<Work>,
    pub(super) outcome: Option<Outcome>,
    /// It does nothing before.
    until: u64,
}

pub(super) struct Postgres {
    /// What it was after each commit; the last is now.
    moments: Vec<Moment>,
    pub(super) backends: BTreeMap<u32, Backend>,
    last_pid: u32,
}

impl Postgres {
    pub(super) fn new() -> Self {
        Self { moments: vec![Moment::default()], backends: BTreeMap::new(), last_pid: 0 }
    }

    /// The number of the moment of now.
    pub(super) fn now(&self) -> usize {
        self.moments.len() - 1
    }

    pub(super) fn at(&self, moment: usize) -> &Moment {
        &self.moments[moment]
    }

    /// Whether it would have answered so at some moment since.
    pub(super) fn has_answered(&self, read: Read, rows: Rows, since: usize) -> bool {
        self.moments[since..].iter().any(|moment| moment.answer(read) == rows)
    }

    /// A backend that shows whose it is.
    pub(super) fn connect(&mut self, owner: u32) -> u32 {
        self.last_pid += 1;
        let (work, outcome) = (None, None);
        let backend = Backend { owner, shows: true, severed: false, work, outcome, until: 0 };
        self.backends.insert(self.last_pid, backend);
        self.last_pid
    }

    pub(super) fn is_alive(&self, pid: u32) -> bool {
        self.backends.get(&pid).is_some_and(|backend| !backend.severed)
    }

    /// Bytes for a backend, which come to nothing if it is not there any more.
    pub(super) fn send(&mut self, pid: u32, work: Work) {
        if let Some(backend) = self.backends.get_mut(&pid).filter(|backend| !backend.severed) {
            assert!(backend.work.is_none(), "one after the other");
            backend.work = Some(work);
        }
    }

    pub(super) fn hear(&mut self, pid: u32) -> Option<Outcome> {
        self.backends.get_mut(&pid).filter(|backend| !backend.severed)?.outcome.take()
    }

    /// Its connection is lost. What it was sent it does, or not.
    pub(super) fn sever(&mut self, pid: u32) {
        if let Some(backend) = self.backends.get_mut(&pid) {
            backend.severed = true;
        }
    }

    pub(super) fn sever_all(&mut self, owner: u32) {
        for backend in self.backends.values_mut().filter(|backend| backend.owner == owner) {
            backend.severed = true;
        }
    }

    /// It waits, for a lock perhaps.
    pub(super) fn hold_up(&mut self, pid: u32, until: u64) {
        if let Some(backend) = self.backends.get_mut(&pid) {
            backend.until = until;
        }
    }

    /// Those that have something to do now.
    pub(super) fn busy(&self, now: u64) -> Vec<u32> {
        let busy = |(&pid, backend): (&u32, &Backend)| {
            let is_busy = backend.work.is_some() || backend.severed;
            (is_busy && now >= backend.until).then_some(pid)
        };
        self.backends.iter().filter_map(busy).collect()
    }

    /// What a backend was sent is done, or, if `fails`, a commit rolled back. One without work whose
    /// client is gone goes.
    pub(super) fn land(&mut self, pid: u32, fails: bool) -> Option<Work> {
        let now = self.now();
        let backend = self.backends.get_mut(&pid)?;
        let Some(work) = backend.work.take() else {
            if backend.severed {
                self.backends.remove(&pid);
            }
            return None;
        };
        backend.outcome = Some(match work {
            Work::Commit(_) if fails => Outcome::RolledBack,
            Work::Commit(write) => {
                self.moments.push(self.moments[now].after(write));
                Outcome::Committed(now + 1)
            }
            Work::Query(_) => Outcome::Rows(now),
            Work::Discard => {
                backend.shows = false;
                Outcome::Discarded
            }
            Work::TakeLock => {
                backend.shows = true;
                Outcome::Locked
            }
        });
        Some(work)
    }

    /// Whose locks it shows.
    pub(super) fn census(&self) -> Vec<u32> {
        let shown = self.backends.values().filter(|backend| backend.shows);
        let owners: BTreeSet<u32> = shown.map(|backend| backend.owner).collect();
        owners.into_iter().collect()
    }
}
