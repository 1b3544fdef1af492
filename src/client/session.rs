//! The conversation with one client: what it has sent, what it is owed, what it is.
//!
//! Requests come in groups (`group.rs`), are answered from the cache (`look_up.rs`) or sent to a
//! server (`dispatch.rs`), whose replies come back through `replies.rs`. Knows no socket.
//!
//! Invariant: a look-up is made only when the client is owed nothing; otherwise a hit would go
//! back in time behind a slow miss. Attacked by the checker's pipelines and their twin.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::coherence::{InFlight, Scope};
use crate::cache::entry::Entry;
use crate::cache::fill::Fill;
use crate::cache::home::Home;
use crate::cache::key::KeyBuffer;
use crate::cache::turns::{Gate, Leader};
use crate::pool::Common;
use crate::pool::statements::Statement;
use crate::server::Server;
use crate::server::settings::{Base, Settings, defaults_changes};
use crate::sql::footprint::Doubt;
use crate::sql::lex::Lexed;
use crate::sql::verdict::{BypassReason, TableId, Verdict};
use crate::wire::backend::Status;

use super::close::CloseReason;
use super::facts::Facts;
use super::group::Group;
use super::moment::Moment;
use super::pins::Pins;
use super::statements::Names;
use super::transaction::Transaction;
use super::underway::{Finished, Running, Underway};

/// Everything one client is, between two messages.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Session {
    pub common: Arc<Common>,
    /// What it asked for at startup; RESET returns here.
    pub startup: Arc<Settings>,
    pub settings: Arc<Settings>,
    /// How the server it has started; without one, statements are judged as the newest started.
    pub base: Option<Arc<Base>>,
    /// `settings::defaults_changes` when that server was connected.
    pub base_defaults: u64,
    pub transaction: Transaction,
    pub pins: Pins,
    pub names: Names,
    /// The request group being collected.
    pub group: Group,
    /// Messages were sent on without a Sync so far; the server may not be released.
    pub unsynced: bool,
    /// Known to be inside a transaction block that nothing sent so far can end.
    pub in_block: bool,
    /// What was executed since the last Sync.
    pub extent: Extent,
    /// What is to be done when replies come, in the order they are owed.
    pub requests: VecDeque<Request>,
    pub next_request: u64,
    /// Commits that messages sent since the last Sync may make.
    pub armed: Armed,
    /// Recording of the answer under way.
    pub fill: Option<Box<Fill>>,
    /// The group asks for descriptions and for nothing else, so that they may be kept.
    pub describing: bool,
    /// The read that the group is, if it may fill the cache once sent.
    pub plan: Option<FillPlan>,
    /// A commit waits to be told what it would commit.
    pub moment: Option<Moment>,
    pub key: KeyBuffer,
    /// What Redis had for it, once it was asked.
    pub found: Found,
    /// Whose fill the group is to wait for, and whether it may.
    pub awaited_fill: Option<Arc<Gate>>,
    pub may_await_fill: bool,
    pub lexed: Lexed,
    pub material: Vec<u8>,
    /// When the group came.
    pub arrived_at: Option<Instant>,
    /// The statement that the group is, until it is sent on or answered.
    pub noted: Option<Running>,
    pub underway: Underway,
    /// Why those of its statements were not looked up that might have been.
    pub unasked: BypassReason,
    /// The verdict on the Query that the group is.
    pub query_verdict: Option<Arc<Verdict>>,
    /// Of the catalogue that verdict was made under.
    pub query_generation: u64,
    /// What the settings mean; `None` until first needed.
    pub facts: Option<Facts>,
    /// Code we do not know ran on the server we keep, so our settings are unknown.
    pub tainted: bool,
    /// It has been told the FATAL with which its server went.
    pub told_fatal: bool,
    /// Names made on the server so that it would refuse them; closed after the next Sync.
    pub stray_names: Vec<Box<[u8]>>,
    /// Of broken twins: what is invalidated when the client speaks again, and a hit that waits
    /// behind answers still owed.
    pub unsettled: Vec<Scope>,
    pub early_hit: Option<Vec<u8>>,
    /// Rows, and bytes of answers, shown to the client since the last statement ended.
    pub rows: u64,
    pub bytes: u64,
    /// Hash of the values of the statement about to be noted; 0: not known.
    pub values: u64,
    pub ending: Ending,
    /// A temporary view, or something else that can run code when read, may exist.
    pub temporary_code: bool,
    /// Settings that fell back to what the client started with, told before ReadyForQuery.
    pub returned: Vec<String>,
    /// The group has waited for the catalogue; it is judged without it if need be.
    pub awaited_catalog: bool,
    /// Databases that nobody may be connected to when what was just dispatched is run; taken by
    /// the task before it sends that.
    pub vacate: Vec<String>,
    /// Finished statements that somebody wants to hear of; taken by the task.
    pub finished: Vec<Finished>,
    /// Transactions that ended since the task looked.
    pub transactions: u32,
}

/// A read that missed: what to record, and under which key.
#[derive(Debug)]
pub struct FillPlan {
    pub tables: Arc<Verdict>,
    /// Of the catalogue the verdict was made under.
    pub generation: u64,
    /// Others wait for it.
    pub leader: Option<Leader>,
}

impl FillPlan {
    pub fn tables(&self) -> &[TableId] {
        match &self.tables.read {
            crate::sql::verdict::Read::Cacheable(tables) => tables,
            crate::sql::verdict::Read::Bypass(_) => &[],
        }
    }
}

/// What the second tier said to the group being answered.
#[derive(Debug)]
pub enum Found {
    NotAsked,
    Nothing,
    Entry(Arc<Entry>),
}

/// What hangs on one owed reply.
#[derive(Debug)]
pub struct Request {
    pub id: u64,
    pub kind: RequestKind,
}

#[derive(Debug)]
pub enum RequestKind {
    /// The client's own Parse; undone if it fails.
    Parse { name: Box<[u8]>, statement: Arc<Statement> },
    /// Describe of a statement: the key to keep it under, and what has come of it.
    Describe { key: Box<[u8]>, messages: Vec<u8> },
    /// An Execute; its controls take effect when it completes.
    Execute {
        verdict: Arc<Verdict>,
        /// The name of a statement prepared under an older catalogue, and the generation under
        /// which PostgreSQL accepts it again if this succeeds.
        stale: Option<(Box<[u8]>, u64)>,
    },
    /// Query or Sync: the end of a unit of work, where a commit becomes known.
    Unit(Unit),
}

/// A unit of work that ends with ReadyForQuery.
#[derive(Debug, Default)]
pub struct Unit {
    /// The verdict of a Query; `None` for Sync.
    pub verdict: Option<Arc<Verdict>>,
    pub armed: Armed,
    pub extent: Extent,
}

/// What a unit of work consists of, as far as its end proves something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// Nothing was executed.
    #[default]
    Empty,
    /// One statement that cannot commit by itself: if it fails, nothing was committed.
    Plain,
    /// One statement that may commit: only the tag ROLLBACK proves that it did not.
    Committing,
    /// Several; their end proves nothing of what came before it.
    Several,
}

impl Extent {
    /// With one more statement.
    #[must_use]
    pub fn and(self, next: Self) -> Self {
        match self {
            Self::Empty => next,
            Self::Plain | Self::Committing | Self::Several => Self::Several,
        }
    }

    /// Whether a unit that ended so has committed nothing.
    pub fn proves_rollback(self, ending: Ending) -> bool {
        match ending {
            Ending::Fine | Ending::Doubtful => false,
            Ending::Failed => self == Self::Plain,
            Ending::RolledBack => matches!(self, Self::Plain | Self::Committing),
        }
    }
}

/// How the unit of work under way is ending, from what the server has said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    #[default]
    Fine,
    /// The last command tag was ROLLBACK.
    RolledBack,
    /// An ErrorResponse that leaves no doubt.
    Failed,
    /// An ErrorResponse that proves nothing (hazard D8).
    Doubtful,
}

/// Commits that may happen from here on: their tables are in flight until the outcome is known.
#[derive(Debug, Default)]
pub struct Armed {
    /// Where they happen; it is not torn down while their outcome is unknown.
    pub home: Option<Arc<Home>>,
    pub guards: Vec<InFlight>,
    /// Of broken twins, which are never in flight: what to invalidate afterwards.
    pub late: Vec<Scope>,
    /// One of them changes the catalogue.
    pub catalog: bool,
    /// One of them changes what sessions start with.
    pub defaults: bool,
    /// Why the whole database is among them, if it is.
    pub database: Option<Doubt>,
    /// Some are not in flight, since there was no cache when they were sent.
    pub unbracketed: bool,
    /// Of the catalogue when they were put in flight.
    pub generation: Option<u64>,
}

impl Armed {
    pub fn is_empty(&self) -> bool {
        self.guards.is_empty() && self.late.is_empty() && !self.unbracketed
    }

    pub fn append(&mut self, mut other: Self) {
        self.home = other.home.or(self.home.take());
        self.guards.append(&mut other.guards);
        self.late.append(&mut other.late);
        self.catalog |= other.catalog;
        self.defaults |= other.defaults;
        self.database = self.database.or(other.database);
        self.unbracketed |= other.unbracketed;
        self.generation = self.generation.or(other.generation);
    }
}

impl Session {
    pub fn new(common: Arc<Common>, startup: Arc<Settings>) -> Self {
        Self {
            common,
            settings: Arc::clone(&startup),
            base: None,
            base_defaults: 0,
            startup,
            transaction: Transaction::default(),
            pins: Pins::default(),
            names: Names::default(),
            group: Group::default(),
            unsynced: false,
            in_block: false,
            extent: Extent::Empty,
            requests: VecDeque::new(),
            next_request: 1,
            armed: Armed::default(),
            fill: None,
            describing: false,
            plan: None,
            moment: None,
            key: KeyBuffer::default(),
            found: Found::NotAsked,
            awaited_fill: None,
            may_await_fill: false,
            lexed: Lexed::default(),
            material: Vec::new(),
            arrived_at: None,
            noted: None,
            underway: Underway::default(),
            unasked: BypassReason::Group,
            query_verdict: None,
            query_generation: 0,
            facts: None,
            tainted: false,
            told_fatal: false,
            stray_names: Vec::new(),
            temporary_code: false,
            returned: Vec::new(),
            awaited_catalog: false,
            unsettled: Vec::new(),
            early_hit: None,
            rows: 0,
            bytes: 0,
            values: 0,
            ending: Ending::Fine,
            vacate: Vec::new(),
            finished: Vec::new(),
            transactions: 0,
        }
    }

    /// Whether the defaults of the server it has are still those by which it is judged. After a
    /// reload of `postgresql.conf` PostgreSQL changes them under a session's feet.
    pub fn knows_defaults(&self) -> bool {
        self.base.is_none() || self.base_defaults == defaults_changes()
    }

    /// Whether the server may go back to its pool now.
    pub fn may_release(&self, server: &Server) -> bool {
        use crate::pool::PoolMode;
        server.is_clean()
            && !self.unsynced
            && self.group.is_empty()
            && self.pins.is_empty()
            && match self.common.mode {
                PoolMode::Transaction | PoolMode::Statement => true,
                PoolMode::Session => false,
            }
    }

    /// Whether the client is owed nothing, so that it may be answered from the cache.
    pub fn is_owed_nothing(&self, server: Option<&Server>) -> bool {
        !self.unsynced && server.is_none_or(|server| server.outstanding.is_empty())
    }

    /// Registers what hangs on the next reply and gives the id to owe it under.
    pub fn request(&mut self, kind: RequestKind) -> u64 {
        let id = self.next_request;
        self.next_request += 1;
        self.requests.push_back(Request { id, kind });
        id
    }

    /// Takes the request with this id; those before it can no longer be answered.
    pub fn take_request(&mut self, id: u64) -> Option<RequestKind> {
        let at = self.requests.iter().position(|request| request.id == id)?;
        self.requests.remove(at).map(|request| request.kind)
    }

    /// Status as the client sees it.
    pub fn status(&self) -> Status {
        self.transaction.status
    }

    /// The server is gone. What was on the wire may have been committed: gives the guards that
    /// must stay in flight until that backend is known to be gone (rule R19).
    pub fn server_lost(&mut self) -> Armed {
        let mut lost = std::mem::take(&mut self.armed);
        for request in self.requests.drain(..) {
            if let RequestKind::Unit(unit) = request.kind {
                lost.append(unit.armed);
            }
        }
        if lost.unbracketed
            && let Some(home) = &lost.home
        {
            lost.guards.push(home.coherence.begin_write(&Scope::Database));
        }
        self.fill = None;
        self.plan = None;
        self.moment = None;
        lost
    }

    /// Counts a transaction that has ended.
    pub fn transaction_over(&mut self) {
        self.common.counters.xact.one();
        self.transactions = self.transactions.saturating_add(1);
    }
}

/// How a message was taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Give me the next one.
    More,
    /// The group is whole: `Session::answer` it, then send it on if that was not enough.
    GroupReady,
    /// The client said goodbye.
    Close(CloseReason),
}
