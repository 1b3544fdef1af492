//! The conversation with one client: what it has sent, what it is owed, what it is.
//!
//! Requests come in groups (`group.rs`), are answered from the cache (`look_up.rs`) or sent to a
//! server (`dispatch.rs`), whose replies come back through `replies.rs`. Knows no socket.
//!
//! Invariant: a look-up is made only when the client is owed nothing; otherwise a hit would go
//! back in time behind a slow miss. Attacked by the checker's pipelines and their twin.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cache::coherence::{InFlight, Scope};
use crate::cache::entry::Entry;
use crate::cache::home::Home;
use crate::cache::turns::Leader;
use crate::cache::verify::Witness;
use crate::metrics::StatementCounters;
use crate::pool::Common;
use crate::pool::statements::Statement;
use crate::server::Server;
use crate::server::base::{Base, defaults_changes};
use crate::server::settings::Settings;
use crate::sql::footprint::Doubt;
use crate::sql::verdict::{Beyond, TableId, Verdict};
use crate::wire::backend::Status;

use super::close::CloseReason;
use super::facts::Facts;
use super::pins::Pins;
use super::revalidate::Described;
use super::statements::{Closed, Names};
use super::work::Lent;

/// Everything one client is, between two messages.
pub struct Session {
    pub common: Arc<Common>,
    /// What it asked for at startup; RESET returns here.
    pub startup: Arc<Settings>,
    pub settings: Arc<Settings>,
    /// How the server it has started; without one, statements are judged as the newest started.
    pub base: Option<Arc<Base>>,
    /// `base::defaults_changes` when that server was connected.
    pub base_defaults: u64,
    pub pins: Pins,
    pub names: Names,
    /// What the settings mean; `None` until first needed.
    pub facts: Option<Arc<Facts>>,
    /// Code we do not know ran on the server we keep, so our settings are unknown.
    pub tainted: bool,
    /// It has been told the FATAL with which its server went.
    pub told_fatal: bool,
    /// A temporary view, or something else that can run code when read, may exist.
    pub temporary_code: bool,
    /// What it has under way.
    pub work: Lent,
}

/// A read that missed: what to record, and under which key.
#[derive(Debug)]
pub struct FillPlan {
    pub tables: Arc<Verdict>,
    pub uses: Arc<StatementCounters>,
    /// Of the catalogue the verdict was made under.
    pub generation: u64,
    /// Others wait for it.
    pub leader: Option<Leader>,
    /// Of the entry that would have been served.
    pub witness: Option<Witness>,
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
#[derive(Debug, Default)]
pub enum Found {
    #[default]
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
    /// The client's own Close, of a name that there was; undone if it is not done.
    Close { name: Box<[u8]>, closed: Box<Closed> },
    /// Describe of a statement.
    Describe(Box<Described>),
    /// What PostgreSQL is made to refuse, for it would not by itself; to Describe it tells the types
    /// of the parameters first.
    Changed { parameters: Option<Box<[u8]>> },
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
    /// How many statements of the Query have completed.
    pub completed: usize,
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
    pub beyond: Beyond,
    /// Why the whole database is among them, if it is.
    pub database: Option<Doubt>,
    /// Some are not in flight, since there was no cache when they were sent.
    pub unbracketed: bool,
    /// Of the catalogue when they were put in flight.
    pub generation: Option<u64>,
    /// They are not only the end of a transaction that wrote before.
    pub writes: bool,
}

impl Armed {
    pub fn is_empty(&self) -> bool {
        self.guards.is_empty() && self.late.is_empty() && !self.unbracketed
    }

    pub fn append(&mut self, mut other: Self) {
        if other.is_empty() {
            return;
        }
        if self.is_empty() {
            *self = other;
            return;
        }
        self.home = other.home.or(self.home.take());
        self.guards.append(&mut other.guards);
        self.late.append(&mut other.late);
        self.catalog |= other.catalog;
        self.beyond = self.beyond.max(other.beyond);
        self.database = self.database.or(other.database);
        self.unbracketed |= other.unbracketed;
        self.generation = self.generation.or(other.generation);
        self.writes |= other.writes;
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
            pins: Pins::default(),
            names: Names::default(),
            facts: None,
            tainted: false,
            told_fatal: false,
            temporary_code: false,
            work: Lent::default(),
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
            && !self.work.unsynced
            && self.work.group.is_empty()
            && self.pins.is_empty()
            && match self.common.mode {
                PoolMode::Transaction | PoolMode::Statement => true,
                PoolMode::Session => false,
            }
    }

    /// Whether the client is owed nothing, so that it may be answered from the cache.
    pub fn is_owed_nothing(&self, server: Option<&Server>) -> bool {
        !self.work.unsynced && server.is_none_or(|server| server.outstanding.is_empty())
    }

    /// Registers what hangs on the next reply and gives the id to owe it under.
    pub fn request(&mut self, kind: RequestKind) -> u64 {
        self.work.last_request += 1;
        let id = self.work.last_request;
        self.work.requests.push_back(Request { id, kind });
        id
    }

    /// The request with this id, which stays.
    pub fn request_of(&mut self, id: u64) -> Option<&mut RequestKind> {
        let requests = &mut self.work.requests;
        let at = position(requests, id)?;
        requests.get_mut(at).map(|request| &mut request.kind)
    }

    /// Takes the request with this id; those before it can no longer be answered.
    pub fn take_request(&mut self, id: u64) -> Option<RequestKind> {
        let requests = &mut self.work.requests;
        let request = match position(requests, id)? {
            0 => requests.pop_front(),
            at => requests.remove(at),
        };
        request.map(|request| request.kind)
    }

    /// Status as the client sees it.
    pub fn status(&self) -> Status {
        self.work.transaction.status
    }

    /// The server is gone. What was on the wire may have been committed: gives the guards that
    /// must stay in flight until that backend is known to be gone (rule R19).
    pub fn server_lost(&mut self) -> Armed {
        let mut lost = std::mem::take(&mut self.work.armed);
        for request in self.work.requests.drain(..) {
            if let RequestKind::Unit(unit) = request.kind {
                lost.append(unit.armed);
            }
        }
        if lost.unbracketed
            && let Some(home) = &lost.home
        {
            lost.guards.push(home.coherence.begin_write(&Scope::Database));
        }
        self.work.fill = None;
        self.work.plan = None;
        self.work.moment = None;
        self.work.revalidation = None;
        lost
    }

    /// Counts a transaction that has ended.
    pub fn transaction_over(&mut self) {
        self.common.counters.xact.one();
        self.work.transactions = self.work.transactions.saturating_add(1);
    }
}

/// Nearly always it is the first.
fn position(requests: &VecDeque<Request>, id: u64) -> Option<usize> {
    if requests.front().is_some_and(|first| first.id == id) {
        return Some(0);
    }
    requests.iter().position(|request| request.id == id)
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
