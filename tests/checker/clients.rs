//! Clients that read and write the registers in every way applications do.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{io, thread};

use crate::oracle::{Floor, Report, judge};
use crate::schema::{Cell, PLACES, Place, Shows};
use crate::wire::{self, Answer, Connection, Url};
use crate::writes::{KINDS, Kind, Outcome, Write};

/// What all clients share.
pub(crate) struct World {
    /// Of one Forebay, or of all members of a group.
    pub(crate) urls: Vec<Url>,
    /// Whose turn it is to get a new client.
    pub(crate) turn: AtomicUsize,
    pub(crate) direct: Url,
    pub(crate) seed: u64,
    /// Registers by writer, then by place.
    pub(crate) cells: Vec<Vec<Cell>>,
    pub(crate) kinds: Vec<&'static Kind>,
    pub(crate) report: Report,
    pub(crate) stop: AtomicBool,
    pub(crate) stops_at_violation: bool,
    pub(crate) began: Instant,
    /// The fault that is being played.
    pub(crate) playing: Mutex<&'static str>,
    /// Whether connections are refused now and then, because of faults that are played.
    pub(crate) is_rough: bool,
    /// By client: where a cancel request for its connection goes, and what it carries.
    pub(crate) keys: Mutex<BTreeMap<usize, (usize, Vec<u8>)>>,
    /// Statements that were cancelled.
    pub(crate) cancelled: Arc<AtomicU64>,
}

/// How long PostgreSQL may be away until nobody believes that it comes back.
const PATIENCE: Duration = Duration::from_mins(1);
const BACK_OFF: Duration = Duration::from_millis(20);

/// Numbers of writers' connections, and of those they read by, beyond those of readers.
const WRITERS: usize = 2000;
const WRITERS_READERS: usize = 1000;

impl World {
    pub(crate) fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn violation(&self, story: &str) {
        // What the logs of the time say is found by the clock.
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (second, ms) = (at.as_secs() % 86_400, at.subsec_millis());
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let (seed, after) = (self.seed, self.began.elapsed().as_secs());
        let playing = *self.playing.lock().unwrap();
        self.report.violation(format!(
            "seed {seed}, after {after} s, {hour:02}:{minute:02}:{second:02}.{ms:03} UTC, \
             {playing}: {story}"
        ));
        if self.stops_at_violation {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn open(&self) -> io::Result<Connection> {
        // Of a group, whoever is there.
        self.patiently(|| self.enter(self.turn.fetch_add(1, Ordering::Relaxed) % self.urls.len()))
    }

    /// Through this member of the group.
    pub(crate) fn open_at(&self, member: usize) -> io::Result<Connection> {
        self.patiently(|| self.enter(member))
    }

    fn enter(&self, member: usize) -> io::Result<Connection> {
        let mut connection = Connection::open(&self.urls[member])?;
        connection.simple("SET search_path TO checker")?;
        connection.member = member;
        Ok(connection)
    }

    /// The same for a client whose statements may be cancelled.
    fn open_client(&self, who: usize) -> io::Result<Connection> {
        self.keys.lock().unwrap().remove(&who);
        let mut connection = self.open()?;
        connection.cancelled = Some(Arc::clone(&self.cancelled));
        self.keys.lock().unwrap().insert(who, (connection.member, connection.key.clone()));
        Ok(connection)
    }

    /// Behind Forebay's back.
    pub(crate) fn open_direct(&self) -> io::Result<Connection> {
        self.patiently(|| Connection::open(&self.direct))
    }

    /// As applications do while their database restarts.
    fn patiently(&self, open: impl Fn() -> io::Result<Connection>) -> io::Result<Connection> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match open() {
                Err(error) if self.is_rough && is_closed(&error) && Instant::now() < deadline => {
                    self.report.closed(&error, "a new connection");
                    thread::park_timeout(BACK_OFF);
                }
                done => return done,
            }
        }
    }

    /// Judges what a read of `cell`, sent when `floor` was known, was answered with.
    pub(crate) fn judge(
        &self,
        cell: &Cell,
        floor: Floor,
        answer: &Answer,
        way: &str,
    ) -> Option<i64> {
        if let Some((sqlstate, message)) = &answer.error {
            self.report.error(sqlstate, message);
            return None;
        }
        self.report.read();
        let value = match cell.shows {
            Shows::Value => answer.first(),
            Shows::Columns => i64::try_from(answer.columns.len()).ok().map(|count| count - 1),
        };
        if let Some(broken) = judge(floor, value) {
            let last = cell.register.last_write();
            self.violation(&format!(
                "{broken:?}: {} read by {way} at {} is {value:?}, known before: {floor:?}, \
                 last write: {last}",
                cell.name, answer.member
            ));
        }
        value
    }
}

/// Clients of a server that `kill` or a fault hit are closed; an application reconnects.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof,
    };
    [BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof]
        .contains(&error.kind())
}

/// `SplitMix64`.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, who: usize) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ who as u64)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}

/// Reads random registers in random ways until the run ends.
pub(crate) struct Reader<'a> {
    world: &'a World,
    who: usize,
    random: Random,
    connection: Connection,
    /// Statements this connection has prepared.
    prepared: HashMap<String, String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(world: &'a World, who: usize) -> io::Result<Self> {
        let (connection, random) = (world.open_client(who)?, Random::new(world.seed, who));
        Ok(Self { world, who, random, connection, prepared: HashMap::new() })
    }

    pub(crate) fn run(mut self) -> io::Result<()> {
        while self.world.running() {
            self.read_any()?;
        }
        Ok(())
    }

    /// One read of one register, or a transaction of a few.
    pub(crate) fn read_any(&mut self) -> io::Result<()> {
        let world = self.world;
        let set = &world.cells[self.random.below(world.cells.len())];
        let cell = &set[self.place()];
        let text = &cell.texts[self.random.below(cell.texts.len())];
        let done = match self.random.below(100) {
            0..40 => self.one(cell, "simple Query", |connection| connection.simple(text)),
            40..70 => self.one(cell, "extended", |connection| connection.extended(text, &[])),
            70..76 => {
                self.one(cell, "uncached text", |connection| connection.simple(&cell.uncached))
            }
            76..77 => self.one(cell, "slow text", |connection| connection.simple(&cell.slow)),
            77..86 => self.prepared(cell, text),
            86..92 => self.transaction(cell, text),
            92..96 => self.repeatable(cell, text),
            96..99 => self.cursor(cell, text),
            _ => self.pipelined(cell, text),
        };
        match done {
            Err(error) if is_closed(&error) => {
                self.world.report.closed(&error, "a reader");
                self.reconnect()
            }
            done => done,
        }
    }

    /// Half of all reads go to the register that most kinds of write touch. A function of the
    /// user's may write, so that reading one invalidates everything: it is seldom read.
    fn place(&mut self) -> usize {
        let place = self.random.below(2 * PLACES.len());
        let is_function = PLACES.get(place) == Some(&Place::FunctionText);
        let chosen = place < PLACES.len() && (!is_function || self.random.below(20) == 0);
        if chosen { place } else { 0 }
    }

    /// A read for its writer, which goes on whatever happens to the connection.
    fn read_for_writer(&mut self, cell: &Cell, way: &str) -> io::Result<()> {
        match self.one(cell, way, |connection| connection.simple(&cell.texts[0])) {
            Err(error) if is_closed(&error) => self.reconnect(),
            done => done,
        }
    }

    fn one(
        &mut self,
        cell: &Cell,
        way: &str,
        read: impl FnOnce(&mut Connection) -> io::Result<Answer>,
    ) -> io::Result<()> {
        let floor = cell.register.floor();
        let answer = read(&mut self.connection)?;
        if let Some(value) = self.world.judge(cell, floor, &answer, way) {
            cell.register.shown(value);
        }
        Ok(())
    }

    fn prepared(&mut self, cell: &Cell, text: &str) -> io::Result<()> {
        let mut bytes = Vec::new();
        let next = format!("read_{}", self.prepared.len());
        let name = self.prepared.entry(text.to_owned()).or_insert_with(|| {
            bytes = wire::parse(&next, text);
            next
        });
        bytes.extend([wire::bind(name, &[]), wire::execute(), wire::sync()].concat());
        let floor = cell.register.floor();
        self.connection.send(&bytes)?;
        let answer = self.connection.answer()?;
        if let Some(value) = self.world.judge(cell, floor, &answer, "prepared statement") {
            cell.register.shown(value);
            return Ok(());
        }
        // The result type changed under it, or what it names is gone: an application reconnects.
        self.reconnect()
    }

    fn transaction(&mut self, cell: &Cell, text: &str) -> io::Result<()> {
        let begin = ["BEGIN", "BEGIN READ ONLY", "START TRANSACTION"][self.random.below(3)];
        self.connection.simple(begin)?;
        for _ in 0..3 {
            self.one(cell, "read committed transaction", |connection| connection.simple(text))?;
        }
        self.connection.simple(["COMMIT", "ROLLBACK"][self.random.below(2)])?;
        Ok(())
    }

    /// The second read must equal the first. Tables that were emptied or rewritten since the
    /// snapshot are empty to it, as PostgreSQL documents, so nothing is asked of no row.
    fn repeatable(&mut self, cell: &Cell, text: &str) -> io::Result<()> {
        let world = self.world;
        self.connection.simple("BEGIN ISOLATION LEVEL REPEATABLE READ")?;
        let floor = cell.register.floor();
        let first = self.connection.simple(text)?;
        if first.first().is_some() {
            world.judge(cell, floor, &first, "first read of a repeatable read transaction");
        }
        let others = world.cells[self.random.below(world.cells.len())][0].texts[0].clone();
        self.connection.simple(&others)?;
        let second = self.connection.simple(text)?;
        let both = first.first().zip(second.first());
        // What DDL changes is not bound to a snapshot: a partition attached since shows its rows.
        let rows_only = cell.name.starts_with(['r', 'c']);
        if let Some((first, second)) = both.filter(|(first, second)| first != second && rows_only) {
            let name = &cell.name;
            world.violation(&format!("{name} was {first}, then {second} in one snapshot"));
        }
        self.connection.simple("COMMIT")?;
        Ok(())
    }

    fn cursor(&mut self, cell: &Cell, text: &str) -> io::Result<()> {
        self.connection.simple("BEGIN")?;
        let floor = cell.register.floor();
        self.connection.simple(&format!("DECLARE reading CURSOR FOR {text}"))?;
        let answer = self.connection.simple("FETCH reading")?;
        // DECLARE may take its snapshot before it waits for a lock (seen on 15), and what was
        // emptied meanwhile is empty to it.
        let emptied = answer.error.is_none() && answer.first().is_none();
        if emptied && cell.shows == Shows::Value {
            self.connection.simple("COMMIT")?;
            return Ok(());
        }
        if let Some(value) = self.world.judge(cell, floor, &answer, "cursor") {
            cell.register.shown(value);
        }
        self.connection.simple("COMMIT")?;
        Ok(())
    }

    /// A slow read and a fast one behind it in one burst: the second may not be older.
    fn pipelined(&mut self, cell: &Cell, text: &str) -> io::Result<()> {
        let group = |sql| [wire::extended(sql, &[]), wire::sync()].concat();
        let mut floor = cell.register.floor();
        self.connection.send(&[group(&cell.slow), group(text)].concat())?;
        for way in ["slow text in a pipeline", "read behind it in the pipeline"] {
            let answer = self.connection.answer()?;
            if let Some(value) = self.world.judge(cell, floor, &answer, way) {
                cell.register.shown(value);
                floor.shown = floor.shown.max(value);
            }
        }
        Ok(())
    }

    fn reconnect(&mut self) -> io::Result<()> {
        self.connection = self.world.open_client(self.who)?;
        self.prepared.clear();
        Ok(())
    }
}

/// Owns one set of registers; every write is preceded by reads that warm its register and
/// followed, once acknowledged, by a read on another connection.
pub(crate) struct Writer<'a> {
    world: &'a World,
    who: usize,
    random: Random,
    connection: Connection,
    prepared: bool,
    reader: Reader<'a>,
    next: i64,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(world: &'a World, who: usize) -> io::Result<Self> {
        Ok(Self {
            world,
            who,
            random: Random::new(world.seed, who),
            connection: world.open_client(WRITERS + who)?,
            prepared: false,
            reader: Reader::new(world, WRITERS_READERS + who)?,
            next: 0,
        })
    }

    /// Each kind until it has met a warm register, then kinds by weight.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let weights: usize = self.world.kinds.iter().map(|kind| kind.weight as usize).sum();
        let mut first = self.world.kinds.iter().skip(self.who).step_by(self.world.cells.len());
        let mut next = first.next();
        while self.world.running() {
            next = next.and_then(|kind| {
                if self.world.report.has_met(kind.name) { first.next() } else { Some(kind) }
            });
            let kind = next.copied().unwrap_or_else(|| self.pick(weights));
            self.write(kind)?;
            for _ in 0..self.random.below(40) {
                self.reader.read_any()?;
            }
        }
        Ok(())
    }

    fn pick(&mut self, weights: usize) -> &'static Kind {
        let mut left = self.random.below(weights);
        let chosen = self.world.kinds.iter().find(|kind| {
            let weight = kind.weight as usize;
            let found = left < weight;
            left = left.saturating_sub(weight);
            found
        });
        chosen.copied().unwrap_or(&KINDS[0])
    }

    fn write(&mut self, kind: &'static Kind) -> io::Result<()> {
        let world = self.world;
        let cell = &world.cells[self.who][kind.place as usize];
        for _ in 0..3 {
            self.reader.read_for_writer(cell, "read before its writer writes")?;
        }
        self.next += 2;
        let n = self.version(kind);
        let warm = cell.register.writing(kind.name);
        let (who, direct) = (self.who, &world.direct);
        let (connection, prepared) = (&mut self.connection, &mut self.prepared);
        match (kind.run)(&mut Write { who, n, connection, direct, prepared }) {
            Ok(Outcome::Acked(n)) => {
                cell.register.acked(n);
                world.report.write(kind.name, warm);
                if kind.name == "kill" {
                    self.reconnect()?;
                }
            }
            Ok(Outcome::RolledBack) => world.report.write(kind.name, warm),
            Ok(Outcome::Unknown) => {
                world.report.write(kind.name, warm);
                self.reconnect()?;
            }
            Ok(Outcome::Refused(sqlstate, message)) => {
                world.report.error(&sqlstate, &format!("{}: {message}", kind.name));
                self.reconnect()?;
            }
            Err(error) => self.failed(kind, &error)?,
        }
        self.reader.read_for_writer(cell, "read right after the acknowledgement")
    }

    /// Columns are counted, so no number may be left out.
    fn version(&self, kind: &Kind) -> i64 {
        if kind.place != Place::Columns {
            return self.next;
        }
        let floor = self.world.cells[self.who][kind.place as usize].register.floor();
        floor.acked.max(floor.shown) + 1
    }

    fn failed(&mut self, kind: &Kind, error: &io::Error) -> io::Result<()> {
        let name = kind.name;
        if error.kind() == io::ErrorKind::InvalidInput {
            // A client that did not see its own writes.
            self.world.violation(&format!("{name}: {error}"));
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            let text = error.to_string();
            let (sqlstate, message) = text.split_once(' ').unwrap_or(("", &text));
            self.world.report.error(sqlstate, &format!("{name}: {message}"));
        } else if is_closed(error) {
            self.world.report.closed(error, name);
            if name == "kill" {
                self.world.report.write(name, true);
            }
        } else {
            self.world.violation(&format!("{name} was not answered: {error}"));
        }
        self.reconnect()
    }

    fn reconnect(&mut self) -> io::Result<()> {
        self.connection = self.world.open_client(WRITERS + self.who)?;
        self.prepared = false;
        Ok(())
    }
}
