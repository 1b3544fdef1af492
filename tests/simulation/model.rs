//! A small world around the real `Coherence`, one step at a time: two writers of one transaction
//! each, two readers of two reads each, one entry. What a step does is decided by the protocol
//! under test; `Protocol::Forebay` is the one that ships, the others are the simpler ones it is
//! measured against. A state is plain data; `real` puts its questions to the real code.

use std::fmt;
use std::ops::Range;

use crate::real::{DATABASE, SLOTS, Seen, Slots, TABLES, mask};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Forebay,
    /// An answer is kept whatever happened since it was asked for.
    UncheckedStore,
    /// Tables move when the outcome is known and are served until then.
    NoInFlight,
    /// Tables move before the commit is sent and not again.
    BumpBefore,
    /// The stamp is taken after the server took its snapshot.
    StampAtExecute,
    /// The writer hears of its commit first, then its tables move; nothing is kept in flight.
    AckBeforeInvalidation,
    /// As `Forebay`, but settled after the writer has heard.
    AckWhileInFlight,
    /// One counter a slot, odd while a commit is in flight.
    Parity,
    /// A commit lost on the wire is taken for done at the loss.
    LossSettledAtOnce,
}

impl Protocol {
    fn keeps_in_flight(self) -> bool {
        match self {
            Self::Forebay
            | Self::UncheckedStore
            | Self::StampAtExecute
            | Self::AckWhileInFlight
            | Self::LossSettledAtOnce => true,
            Self::NoInFlight | Self::BumpBefore | Self::AckBeforeInvalidation | Self::Parity => {
                false
            }
        }
    }

    fn acknowledges_first(self) -> bool {
        matches!(self, Self::AckBeforeInvalidation | Self::AckWhileInFlight)
    }
}

/// What the world holds at the start, and what may happen in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub protocol: Protocol,
    pub writes: [Targets; 2],
    /// Tables that every read covers, from the first.
    pub read_tables: usize,
    pub warm: bool,
    /// The first writer's server may be lost after its commit was sent.
    pub loss: bool,
    /// A look-up sees its slots one by one instead of at once.
    pub torn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Targets {
    First,
    Second,
    Both,
    Database,
}

impl Targets {
    fn slots(self) -> &'static [usize] {
        match self {
            Self::First => &[0],
            Self::Second => &[1],
            Self::Both => &[0, 1],
            Self::Database => &[DATABASE],
        }
    }

    fn tables(self) -> &'static [usize] {
        match self {
            Self::First => &[0],
            Self::Second => &[1],
            Self::Both | Self::Database => &[0, 1],
        }
    }
}

/// A property that a client, or an onlooker when all is quiet, saw broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Broken {
    /// A hit was not what the database held at any moment of the request.
    NotNow,
    /// Older than a write acknowledged before the read began.
    StaleAfterAck,
    /// Older than something shown before the read began.
    GoingBack,
    /// All quiet, and an old entry would be served.
    OldWhenQuiet,
}

type Rows = [u8; TABLES];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    visible: Rows,
    acked: Rows,
    shown: Rows,
    generations: Seen,
    writers: [Writer; 2],
    readers: [Reader; 2],
    entry: Option<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry {
    seen: Seen,
    rows: Rows,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Writer {
    phase: Writing,
    server: Server,
    lost: bool,
    /// Slots begun and not settled, as bits.
    guards: u8,
    wrote: Rows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Writing {
    Idle,
    Sent,
    Told,
    Settled,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Server {
    Pending,
    Committed,
    Aborted,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Reader {
    reads_left: u8,
    phase: Reading,
    /// `visible`, `acked` and `shown` as the request arrived.
    now: Rows,
    acked: Rows,
    shown: Rows,
    seen: Option<Seen>,
    rows: Rows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Reading {
    Idle,
    /// Torn look-up: all but the last slot have been looked at.
    HalfLooked,
    Asked,
    Snapped,
    Executed,
    /// The answer is here; replying and storing come in either order.
    Answered {
        replied: bool,
        stored: bool,
    },
}

pub(crate) struct Step {
    pub label: Label,
    pub state: State,
    pub broken: Vec<Broken>,
}

/// Who did what; a reader's rows as they are after the step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    role: &'static str,
    who: usize,
    what: &'static str,
    rows: Rows,
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} {:?}", self.role, self.who, self.what, self.rows)
    }
}

impl State {
    pub(crate) fn start(setup: &Setup) -> Self {
        let writer = Writer {
            phase: Writing::Idle,
            server: Server::Pending,
            lost: false,
            guards: 0,
            wrote: [0; TABLES],
        };
        let generations = [0; SLOTS];
        Self {
            visible: [0; TABLES],
            acked: [0; TABLES],
            shown: [0; TABLES],
            generations,
            writers: [writer.clone(), writer],
            readers: [Reader::idle(), Reader::idle()],
            entry: setup.warm.then_some(Entry { seen: generations, rows: [0; TABLES] }),
        }
    }

    /// Every step that may come next.
    pub(crate) fn steps(&self, setup: &Setup) -> Vec<Step> {
        let mut steps = Vec::new();
        for who in 0..2 {
            self.writer_steps(setup, who, &mut steps);
            self.reader_steps(setup, who, &mut steps);
        }
        steps
    }

    /// Nothing will happen any more: an entry that would be served must be current.
    pub(crate) fn broken_when_quiet(&self, setup: &Setup) -> Option<Broken> {
        let entry = self.entry.as_ref()?;
        let old = (0..setup.read_tables).any(|table| entry.rows[table] != self.visible[table]);
        (old && self.holds(setup, entry.seen, 0..setup.read_tables)).then_some(Broken::OldWhenQuiet)
    }

    fn writer_steps(&self, setup: &Setup, who: usize, steps: &mut Vec<Step>) {
        let writer = &self.writers[who];
        let mut add = |what, change: &dyn Fn(&mut Self)| {
            let mut state = self.clone();
            change(&mut state);
            let label = Label { role: "writer", who, what, rows: state.visible };
            steps.push(Step { label, state, broken: Vec::new() });
        };
        if writer.phase == Writing::Idle {
            add("begins a slot, sends its commit after the last", &|state| {
                state.begin(setup, who);
            });
            return;
        }
        if writer.server == Server::Pending {
            add("its server commits", &|state| state.commit(setup, who));
            add("its server rolls back", &|state| {
                state.writers[who].server = Server::Aborted;
            });
        }
        if setup.loss && who == 0 && !writer.lost && writer.phase == Writing::Sent {
            add("its server connection is lost", &|state| {
                state.lose(setup, who);
            });
        }
        if writer.server == Server::Pending {
            return;
        }
        let ack_first = setup.protocol.acknowledges_first();
        match writer.phase {
            Writing::Sent if ack_first && !writer.lost => add("is told", &|state| {
                state.tell(setup, who);
                state.writers[who].phase = Writing::Told;
            }),
            Writing::Sent | Writing::Told => add("a slot is settled", &|state| {
                state.settle(setup, who);
            }),
            Writing::Settled => add("is told", &|state| {
                state.tell(setup, who);
                state.writers[who].phase = Writing::Done;
            }),
            Writing::Idle | Writing::Done => {}
        }
    }

    /// One slot a step where slots are put in flight, for nothing makes that one moment.
    fn begin(&mut self, setup: &Setup, who: usize) {
        let slots = setup.writes[who].slots();
        let all = mask(slots.iter().copied());
        let next = slots[self.writers[who].guards.count_ones() as usize];
        match setup.protocol {
            Protocol::NoInFlight | Protocol::AckBeforeInvalidation => {
                self.writers[who].guards = all;
            }
            Protocol::BumpBefore => {
                self.settle_real(setup.protocol, next, true);
                self.writers[who].guards |= 1 << next;
            }
            Protocol::Parity => {
                self.generations[next] += 1;
                self.writers[who].guards |= 1 << next;
            }
            Protocol::Forebay
            | Protocol::UncheckedStore
            | Protocol::StampAtExecute
            | Protocol::AckWhileInFlight
            | Protocol::LossSettledAtOnce => self.writers[who].guards |= 1 << next,
        }
        if self.writers[who].guards == all {
            self.writers[who].phase = Writing::Sent;
        }
    }

    fn commit(&mut self, setup: &Setup, who: usize) {
        for &table in setup.writes[who].tables() {
            self.visible[table] += 1;
            self.writers[who].wrote[table] = self.visible[table];
        }
        self.writers[who].server = Server::Committed;
    }

    fn lose(&mut self, setup: &Setup, who: usize) {
        self.writers[who].lost = true;
        if setup.protocol == Protocol::LossSettledAtOnce {
            while self.writers[who].phase == Writing::Sent {
                self.settle(setup, who);
            }
        }
    }

    /// Settles one of the writer's slots; of a lost server's, as committed.
    fn settle(&mut self, setup: &Setup, who: usize) {
        let writer = &self.writers[who];
        let slot = writer.guards.trailing_zeros() as usize;
        let proven_rollback = writer.server == Server::Aborted && !writer.lost;
        match setup.protocol {
            Protocol::BumpBefore => {}
            Protocol::Parity => self.generations[slot] += 1,
            Protocol::NoInFlight
            | Protocol::AckBeforeInvalidation
            | Protocol::Forebay
            | Protocol::UncheckedStore
            | Protocol::StampAtExecute
            | Protocol::AckWhileInFlight
            | Protocol::LossSettledAtOnce => {
                self.settle_real(setup.protocol, slot, !proven_rollback);
            }
        }
        let writer = &mut self.writers[who];
        writer.guards &= !(1 << slot);
        if writer.guards == 0 {
            let told = writer.phase == Writing::Told || writer.lost;
            writer.phase = if told { Writing::Done } else { Writing::Settled };
        }
    }

    fn tell(&mut self, setup: &Setup, who: usize) {
        if self.writers[who].server != Server::Committed {
            return;
        }
        for &table in setup.writes[who].tables() {
            self.acked[table] = self.acked[table].max(self.writers[who].wrote[table]);
        }
    }

    fn reader_steps(&self, setup: &Setup, who: usize, steps: &mut Vec<Step>) {
        let mut add = |what, change: &dyn Fn(&mut Self) -> Vec<Broken>| {
            let mut state = self.clone();
            let broken = change(&mut state);
            let rows = state.readers[who].rows;
            state.forget();
            steps.push(Step { label: Label { role: "reader", who, what, rows }, state, broken });
        };
        match self.readers[who].phase {
            Reading::Idle if self.readers[who].reads_left == 0 => {}
            Reading::Idle => add("asks", &|state| state.look_up(setup, who)),
            Reading::HalfLooked => add("looks at the last slot", &|state| {
                let seen = state.readers[who].seen.unwrap();
                if state.holds(setup, seen, setup.read_tables - 1..setup.read_tables) {
                    return state.reply(setup, who, true);
                }
                state.ask(setup, who);
                Vec::new()
            }),
            Reading::Asked => add("the server takes its snapshot", &|state| {
                state.readers[who].rows = state.visible;
                let late = setup.protocol == Protocol::StampAtExecute;
                let answered = Reading::Answered { replied: false, stored: false };
                state.readers[who].phase = if late { Reading::Snapped } else { answered };
                Vec::new()
            }),
            Reading::Snapped => add("sends Execute", &|state| {
                state.readers[who].seen = state.stamp(setup);
                state.readers[who].phase = Reading::Executed;
                Vec::new()
            }),
            Reading::Executed => add("has the answer", &|state| {
                state.readers[who].phase = Reading::Answered { replied: false, stored: false };
                Vec::new()
            }),
            Reading::Answered { replied, stored } => {
                if !stored {
                    add("stores", &|state| {
                        state.store(setup, who);
                        state.finish(who, replied, true);
                        Vec::new()
                    });
                }
                if !replied {
                    add("is answered", &|state| {
                        let broken = state.reply(setup, who, false);
                        state.finish(who, true, stored);
                        broken
                    });
                }
            }
        }
    }

    fn look_up(&mut self, setup: &Setup, who: usize) -> Vec<Broken> {
        let reader = &mut self.readers[who];
        reader.reads_left -= 1;
        (reader.now, reader.acked, reader.shown) = (self.visible, self.acked, self.shown);
        let Some(entry) = self.entry.clone() else {
            self.ask(setup, who);
            return Vec::new();
        };
        let looked_at = if setup.torn { setup.read_tables - 1 } else { setup.read_tables };
        if !self.holds(setup, entry.seen, 0..looked_at) {
            self.ask(setup, who);
            return Vec::new();
        }
        self.readers[who].rows = entry.rows;
        if setup.torn {
            self.readers[who].seen = Some(entry.seen);
            self.readers[who].phase = Reading::HalfLooked;
            return Vec::new();
        }
        self.reply(setup, who, true)
    }

    fn ask(&mut self, setup: &Setup, who: usize) {
        let late = setup.protocol == Protocol::StampAtExecute;
        self.readers[who].seen = if late { None } else { self.stamp(setup) };
        self.readers[who].phase = Reading::Asked;
    }

    fn store(&mut self, setup: &Setup, who: usize) {
        let Reader { seen, rows, .. } = self.readers[who];
        let kept = match seen {
            _ if setup.protocol == Protocol::UncheckedStore => Some(self.generations),
            Some(seen) => Some(seen).filter(|&seen| self.holds(setup, seen, 0..setup.read_tables)),
            None => None,
        };
        if let Some(seen) = kept {
            self.entry = Some(Entry { seen, rows });
        }
    }

    fn reply(&mut self, setup: &Setup, who: usize, hit: bool) -> Vec<Broken> {
        let mut broken = Vec::new();
        let reader = self.readers[who].clone();
        for table in 0..setup.read_tables {
            let row = reader.rows[table];
            broken.extend((hit && row != reader.now[table]).then_some(Broken::NotNow));
            broken.extend((row < reader.acked[table]).then_some(Broken::StaleAfterAck));
            broken.extend((row < reader.shown[table]).then_some(Broken::GoingBack));
            self.shown[table] = self.shown[table].max(row);
        }
        self.finish(who, true, hit);
        broken
    }

    fn finish(&mut self, who: usize, replied: bool, stored: bool) {
        let reader = &mut self.readers[who];
        reader.phase = Reading::Answered { replied, stored };
        if replied && stored {
            reader.phase = Reading::Idle;
        }
    }

    /// Drops what no later step looks at, so that states that differ only in it are one.
    fn forget(&mut self) {
        for reader in &mut self.readers {
            match reader.phase {
                Reading::Idle => {
                    *reader = Reader { reads_left: reader.reads_left, ..Reader::idle() };
                }
                Reading::Answered { replied: true, .. } => {
                    (reader.acked, reader.shown) = ([0; TABLES], [0; TABLES]);
                }
                Reading::Answered { stored: true, .. } => reader.seen = None,
                Reading::HalfLooked
                | Reading::Asked
                | Reading::Snapped
                | Reading::Executed
                | Reading::Answered { .. } => {}
            }
        }
        if self.readers.iter().all(|reader| reader.reads_left == 0) {
            (self.acked, self.shown) = ([0; TABLES], [0; TABLES]);
        }
    }

    /// Equal for states that differ only in which of two like peers is which.
    pub(crate) fn canonical(&self, setup: &Setup) -> Self {
        let mut state = self.clone();
        // A stamp that has ceased to match never matches again: generations only grow, which
        // `real` asserts of the real ones. So all such stamps are like none.
        let moved = |seen: &Seen| *seen != self.generations;
        state.entry = state.entry.filter(|entry| !moved(&entry.seen));
        for reader in &mut state.readers {
            let half_looked = reader.phase == Reading::HalfLooked;
            reader.seen = reader.seen.filter(|seen| half_looked || !moved(seen));
        }
        state.readers.sort();
        if setup.writes[0] == setup.writes[1] && !setup.loss {
            state.writers.sort();
        }
        state
    }
}

impl Reader {
    fn idle() -> Self {
        Self {
            reads_left: 2,
            phase: Reading::Idle,
            now: [0; TABLES],
            acked: [0; TABLES],
            shown: [0; TABLES],
            seen: None,
            rows: [0; TABLES],
        }
    }
}

/// The slots, as the protocol under test keeps them.
impl State {
    fn slots(&self, protocol: Protocol) -> Slots {
        let mut in_flight = [0; SLOTS];
        if protocol.keeps_in_flight() {
            for writer in &self.writers {
                for (slot, count) in in_flight.iter_mut().enumerate() {
                    *count += writer.guards >> slot & 1;
                }
            }
        }
        Slots { generations: self.generations, in_flight }
    }

    fn stamp(&self, setup: &Setup) -> Option<Seen> {
        if setup.protocol == Protocol::Parity {
            let quiet = self.generations.iter().all(|generation| generation.is_multiple_of(2));
            return quiet.then_some(self.generations);
        }
        self.slots(setup.protocol).stamp(setup.read_tables)
    }

    fn holds(&self, setup: &Setup, seen: Seen, tables: Range<usize>) -> bool {
        let mut slots = [DATABASE].into_iter().chain(tables);
        if setup.protocol == Protocol::Parity {
            return slots
                .all(|slot| seen[slot] == self.generations[slot] && seen[slot].is_multiple_of(2));
        }
        self.slots(setup.protocol).holds(seen, slots)
    }

    /// A commit to `slot` is settled by the real code, its writer's guard still standing.
    fn settle_real(&mut self, protocol: Protocol, slot: usize, committed: bool) {
        let mut slots = self.slots(protocol);
        if !protocol.keeps_in_flight() {
            slots.in_flight[slot] += 1;
        }
        self.generations = slots.settle(slot, committed);
    }
}
