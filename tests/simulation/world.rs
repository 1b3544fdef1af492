//! Many virtual clients in a larger world than `model`'s: several tables, answers that overlap in
//! any order, aborts, lost servers, writes of the whole database. The real `Coherence` judges;
//! what is around it is as small as it can be and has a switch for each step left out. Every
//! seed is one schedule; the oracle sees only what clients were told and shown.

use std::collections::HashSet;
use std::ops::Range;
use std::thread;

use forebay::cache::coherence::{Coherence, InFlight, Scope, Stamp};
use forebay::sql::verdict::TableId;

use crate::random::Random;

const TABLES: usize = 3;
const CLIENTS: usize = 6;
const STEPS: usize = 300;

/// Schedules of the short form; `FOREBAY_SCHEDULES=1000000` is the long one.
const SEEDS: u64 = 2500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twin {
    None,
    UncheckedStore,
    NoInFlight,
    LossSettledAtOnce,
}

type Rows = [u64; TABLES];

/// What a client is waiting for.
enum Client {
    Idle,
    /// Reads these tables; the floor is what was known when it asked.
    Reading {
        tables: Vec<usize>,
        floor: Rows,
        stamp: Option<Stamp>,
        rows: Option<Rows>,
    },
    /// Its commit is on the wire; `wrote` once the server has applied it.
    Writing {
        tables: Vec<usize>,
        guard: Option<InFlight>,
        database: bool,
        wrote: Option<Rows>,
    },
    /// Its server was lost; the commit may still happen, until the backend is gone.
    Lost {
        tables: Vec<usize>,
        guard: Option<InFlight>,
    },
}

struct World {
    twin: Twin,
    random: Random,
    coherence: Coherence,
    visible: Rows,
    /// Highest version of each table told to a writer or shown to a reader.
    known: Rows,
    /// Entries by the tables they cover, as bits.
    entries: Vec<Option<(Stamp, Rows)>>,
    clients: Vec<Client>,
    hits: u64,
}

impl World {
    fn new(seed: u64, twin: Twin) -> Self {
        Self {
            twin,
            random: Random::new(seed),
            coherence: Coherence::new(seed),
            visible: [0; TABLES],
            known: [0; TABLES],
            entries: vec![None; 1 << TABLES],
            clients: (0..CLIENTS).map(|_| Client::Idle).collect(),
            hits: 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    /// Tables drawn at random, at least one.
    fn tables(&mut self) -> Vec<usize> {
        let bits = 1 + self.below((1 << TABLES) - 1);
        (0..TABLES).filter(|table| bits & 1 << table != 0).collect()
    }

    /// One step of one client; `Err` tells what it saw that it should not have.
    fn step(&mut self) -> Result<(), String> {
        let who = self.below(CLIENTS);
        let next = match std::mem::replace(&mut self.clients[who], Client::Idle) {
            Client::Idle if self.below(3) == 0 => self.begin(),
            Client::Idle => self.ask()?,
            Client::Reading { tables, floor, stamp, rows: None } => {
                self.snapshot(tables, floor, stamp)
            }
            Client::Reading { tables, floor, stamp, rows: Some(rows) } => {
                self.store(&tables, stamp, rows);
                self.show(&tables, floor, rows)?
            }
            Client::Writing { tables, guard, database, wrote: None } => {
                self.server_step(tables, guard, database)
            }
            Client::Writing { tables, guard, database, wrote: Some(wrote) } => {
                self.settle(guard, &tables, database);
                for table in tables {
                    self.known[table] = self.known[table].max(wrote[table]);
                }
                Client::Idle
            }
            Client::Lost { tables, guard } => self.backend_gone(&tables, guard),
        };
        self.clients[who] = next;
        Ok(())
    }

    fn begin(&mut self) -> Client {
        let database = self.below(8) == 0;
        let tables = if database { (0..TABLES).collect() } else { self.tables() };
        let begins = self.twin != Twin::NoInFlight;
        let guard = begins.then(|| self.coherence.begin_write(&scope(&tables, database)));
        Client::Writing { tables, guard, database, wrote: None }
    }

    /// The server commits, rolls back, or is lost before either is known.
    fn server_step(
        &mut self,
        tables: Vec<usize>,
        guard: Option<InFlight>,
        database: bool,
    ) -> Client {
        match self.below(8) {
            0 => {
                if let Some(guard) = guard {
                    guard.rolled_back();
                }
                Client::Idle
            }
            1 if self.twin == Twin::LossSettledAtOnce => {
                self.settle(guard, &tables, database);
                Client::Lost { tables, guard: None }
            }
            1 if guard.is_some() => Client::Lost { tables, guard },
            _ => {
                self.apply(&tables);
                Client::Writing { tables, guard, database, wrote: Some(self.visible) }
            }
        }
    }

    /// A lost backend commits after all or not, and is then gone; nobody is told.
    fn backend_gone(&mut self, tables: &[usize], guard: Option<InFlight>) -> Client {
        if self.below(2) == 0 {
            self.apply(tables);
        }
        if let Some(guard) = guard {
            guard.committed();
        }
        Client::Idle
    }

    fn apply(&mut self, tables: &[usize]) {
        for &table in tables {
            self.visible[table] += 1;
        }
    }

    fn settle(&self, guard: Option<InFlight>, tables: &[usize], database: bool) {
        match guard {
            Some(guard) => guard.committed(),
            None => self.coherence.invalidate(&scope(tables, database)),
        }
    }

    fn ask(&mut self) -> Result<Client, String> {
        let (tables, floor) = (self.tables(), self.known);
        let entry = self.entries[bits(&tables)].clone();
        if let Some((_, rows)) = entry.filter(|(stamp, _)| stamp.holds()) {
            self.hits += 1;
            return self.show(&tables, floor, rows);
        }
        let stamp = self.stamp(&tables);
        Ok(Client::Reading { tables, floor, stamp, rows: None })
    }

    fn snapshot(&mut self, tables: Vec<usize>, floor: Rows, stamp: Option<Stamp>) -> Client {
        Client::Reading { tables, floor, stamp, rows: Some(self.visible) }
    }

    fn store(&mut self, tables: &[usize], stamp: Option<Stamp>, rows: Rows) {
        let stamp = if self.twin == Twin::UncheckedStore {
            self.stamp(tables)
        } else {
            stamp.filter(Stamp::holds)
        };
        if let Some(stamp) = stamp {
            self.entries[bits(tables)] = Some((stamp, rows));
        }
    }

    fn show(&mut self, tables: &[usize], floor: Rows, rows: Rows) -> Result<Client, String> {
        for &table in tables {
            if rows[table] < floor[table] {
                return Err(format!("table {table} was {}, known {}", rows[table], floor[table]));
            }
            self.known[table] = self.known[table].max(rows[table]);
        }
        Ok(Client::Idle)
    }

    fn stamp(&self, tables: &[usize]) -> Option<Stamp> {
        self.coherence.stamp(&tables.iter().map(|&table| id(table)).collect::<Vec<_>>())
    }

    /// Ends what is under way, so that no guard is dropped unsettled.
    fn end(&mut self) {
        for client in self.clients.drain(..) {
            match client {
                Client::Writing { guard: Some(guard), .. }
                | Client::Lost { guard: Some(guard), .. } => {
                    guard.committed();
                }
                Client::Idle
                | Client::Reading { .. }
                | Client::Writing { .. }
                | Client::Lost { .. } => {}
            }
        }
        assert_eq!(self.coherence.abandoned(), 0);
    }
}

fn id(table: usize) -> TableId {
    TableId(u32::try_from(table).unwrap())
}

fn scope(tables: &[usize], database: bool) -> Scope {
    if database {
        Scope::Database
    } else {
        Scope::Tables(tables.iter().map(|&table| id(table)).collect())
    }
}

fn bits(tables: &[usize]) -> usize {
    tables.iter().fold(0, |bits, table| bits | 1 << table)
}

/// What a schedule showed that it should not have, if anything did not hold.
type Outcome = Result<Ran, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ran {
    schedule: u64,
    hits: u64,
}

fn run(seed: u64, twin: Twin) -> Outcome {
    let mut world = World::new(seed, twin);
    let result = (0..STEPS).try_for_each(|_| world.step());
    world.end();
    result.map(|()| Ran { schedule: world.random.schedule(), hits: world.hits })
}

pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap())
}

fn seeds() -> Range<u64> {
    match number("FOREBAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FOREBAY_SCHEDULES").unwrap_or(SEEDS),
    }
}

/// Every `of`-th seed from `first` on.
fn run_some(first: usize, of: usize) -> Vec<Ran> {
    let run_one = |seed| match run(seed, Twin::None) {
        Ok(ran) => ran,
        Err(story) => panic!("FOREBAY_SEED={seed}: {story}"),
    };
    seeds().skip(first).step_by(of).map(run_one).collect()
}

#[test]
fn no_schedule_shows_less_than_was_known() {
    let threads = thread::available_parallelism().unwrap().get();
    let ran: Vec<Ran> = thread::scope(|scope| {
        let some = |first| scope.spawn(move || run_some(first, threads));
        let all: Vec<_> = (0..threads).map(some).collect();
        all.into_iter().flat_map(|some| some.join().unwrap()).collect()
    });
    let schedules: HashSet<u64> = ran.iter().map(|ran| ran.schedule).collect();
    let hits: u64 = ran.iter().map(|ran| ran.hits).sum();
    println!("{} distinct schedules of {STEPS} steps, {hits} hits", schedules.len());
    assert_eq!(schedules.len() as u64, seeds().end - seeds().start, "a schedule ran twice");
    assert!(hits > 0, "no hit, so nothing was at stake");
}

#[test]
fn each_twin_is_caught() {
    for twin in [Twin::UncheckedStore, Twin::NoInFlight, Twin::LossSettledAtOnce] {
        assert!((0..SEEDS).any(|seed| run(seed, twin).is_err()), "{twin:?} was not caught");
    }
}

#[test]
fn a_seed_replays_the_same_schedule() {
    for seed in 0..20 {
        assert_eq!(run(seed, Twin::NoInFlight), run(seed, Twin::NoInFlight));
    }
}
