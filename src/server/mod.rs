//! One connection to PostgreSQL: who it is, what it is set to, what replies it still owes.
//!
//! The socket is in `io.rs`, and `hosts.rs` connects it; everything else here is pure.

pub mod settings;
pub mod base;
pub mod start;
pub mod outstanding;
pub mod reading;
pub mod login;
pub mod hosts;
pub mod io;
pub mod link;
pub mod sending;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use lru::LruCache;

use crate::cache::coherence::{InFlight, Scope};
use crate::cache::group::shared::Commit;
use crate::cache::home::Home;
use crate::wire::backend::Status;
use crate::wire::frontend::{self, Target};
use base::Base;
use outstanding::{Deliver, Outstanding, Owed, Reply};
use reading::Reading;
use settings::Settings;

/// What is known of one server connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Server {
    pub id: u64,
    pub pid: u32,
    pub cancel_key: Vec<u8>,
    /// Settings as they were before any client: the role's and database's defaults.
    pub base: Arc<Base>,
    /// `base::defaults_changes` before it was connected.
    pub defaults: u64,
    /// The database it is connected to; what it commits is put in flight there.
    pub home: Arc<Home>,
    /// Run once it was connected; settings taken back fall behind it, so it is run again then.
    pub connect_query: Option<Arc<str>>,
    /// What its StartupMessage set on top of them on behalf of a client; RESET returns there.
    pub initial: Arc<Settings>,
    /// Settings replayed on top of them, as the server has them now.
    pub applied: Arc<Settings>,
    /// Code we do not know ran here and may have changed the session out of sight (hazard R6).
    pub tainted: bool,
    /// A client left a setting that changes no answer; taken back before the next client.
    pub untidy: bool,
    pub status: Status,
    pub outstanding: Outstanding,
    /// Ids of the shared statements prepared here, most recently used last to go.
    pub statements: LruCache<u64, ()>,
    /// Which shared statement the unnamed one is, if it is one of ours.
    pub unnamed: Option<u64>,
    pub connected_at: Instant,
    pub idle_since: Instant,
    /// Not to be handed on once its client is done with it.
    pub close_needed: bool,
    /// Bytes for the socket: one write per request group.
    pub to_server: Vec<u8>,
    /// Commits among them that others have to know of first.
    pub holds: VecDeque<Hold>,
    /// Which life of PostgreSQL it is of.
    pub place: u64,
    /// Since when it shows the lock of our group's member; `None`: it is being taken, or there is
    /// no group.
    pub locked_at: Option<Instant>,
    taking_lock: bool,
    /// Bytes of a row or copy message that are still to come, and whether the client sees them.
    pub partial: usize,
    pub partial_forward: bool,
    pub reading: Reading,
}

/// What the replies to the taking of a lock are owed under; no request of a client gets so far.
const LOCK: u64 = u64::MAX - 1;

/// A commit that is not to be sent yet.
#[derive(Debug)]
pub struct Hold {
    /// So many bytes go before it.
    pub from: usize,
    pub commit: Arc<Commit>,
}

/// The name a shared statement has on every server.
pub fn shared_name(id: u64) -> Vec<u8> {
    format!("forebay_{id}").into_bytes()
}

impl Server {
    pub fn new(
        id: u64,
        login: login::LoggedIn,
        defaults: u64,
        home: Arc<Home>,
        initial: &Arc<Settings>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            pid: login.pid,
            cancel_key: login.cancel_key,
            base: Arc::new(Base::default()),
            defaults,
            home,
            connect_query: None,
            initial: Arc::clone(initial),
            applied: Arc::clone(initial),
            tainted: false,
            untidy: false,
            status: Status::Idle,
            outstanding: Outstanding::default(),
            statements: LruCache::unbounded(),
            unnamed: None,
            connected_at: now,
            idle_since: now,
            close_needed: false,
            to_server: Vec::new(),
            holds: VecDeque::new(),
            place: 0,
            locked_at: None,
            taking_lock: false,
            partial: 0,
            partial_forward: false,
            reading: Reading::default(),
        }
    }

    /// Puts what may be committed next in flight, here and for the group: it is sent once they know.
    pub fn begin_write(&mut self, scope: &Scope, catalog: bool) -> InFlight {
        let mut guard = self.home.coherence.begin_write(scope);
        if let Some(group) = &self.home.group {
            // Where it is gone and cannot be taken before the end of the group, nothing is waited for.
            let before = (!self.taking_lock).then_some(self.connected_at);
            let commit = group.begin(scope, catalog, (self.locked_at.or(before), self.place));
            guard.announce(Box::new(Arc::clone(&commit)));
            self.holds.push_back(Hold { from: self.to_server.len(), commit });
        }
        guard
    }

    /// The session has let go of all its locks: that of the group is taken again, and until it is
    /// nothing is committed.
    pub fn take_lock_again(&mut self) {
        if let Some(group) = &self.home.group {
            let lock = group.settings.lock(group.id);
            (self.locked_at, self.taking_lock) = (None, true);
            frontend::write_query(&mut self.to_server, &lock);
            self.unnamed = None;
            self.outstanding.push(Owed::Expect {
                reply: Reply::Query,
                deliver: Deliver::Swallow,
                statement: None,
                request: LOCK,
            });
        }
    }

    /// The reply to a query of ours is there.
    pub fn swallowed(&mut self, request: u64, now: Instant) {
        if request == LOCK {
            (self.locked_at, self.taking_lock) = (Some(now), false);
            for hold in &self.holds {
                hold.commit.lock_taken(now);
            }
        }
    }

    /// Whether it may have been left otherwise than `applied` says.
    pub(super) fn is_unknown(&self) -> bool {
        self.tainted || self.untidy
    }

    /// Brings a server that another client ran unknown code on back to its login state.
    pub fn clean(&mut self) {
        if self.is_unknown() {
            self.swallow_query(settings::CLEAN);
            self.take_lock_again();
            self.begin_again();
            self.applied = Arc::clone(&self.initial);
            self.tainted = false;
            self.untidy = false;
        }
    }

    /// Makes the server's settings those of a client; the replies are swallowed. Appends to the
    /// client's own request, so that it costs no round trip.
    pub fn assume(&mut self, wanted: &Arc<Settings>) {
        let Some(replay) = settings::replay(&self.applied, wanted) else { return };
        if self.connect_query.is_some() {
            if let Some(back) = settings::replay(&self.applied, &self.initial) {
                self.swallow_query(&back);
                self.begin_again();
            }
            if let Some(wanted) = settings::replay(&self.initial, wanted) {
                self.swallow_query(&wanted);
            }
        } else {
            self.swallow_query(&replay);
        }
        self.applied = Arc::clone(wanted);
    }

    fn begin_again(&mut self) {
        if let Some(query) = self.beginning() {
            self.swallow_query(&query);
        }
    }

    /// What is run once it is connected, and again when its settings have been taken back. What a
    /// client has asked for at its start counts after it.
    pub fn beginning(&self) -> Option<String> {
        let query = self.connect_query.as_deref()?;
        let initial = settings::replay(&Settings::none(), &self.initial);
        Some(initial.map_or_else(|| query.to_owned(), |initial| format!("{query};{initial}")))
    }

    /// A query of our own whose replies nobody sees; its failure closes the server.
    pub fn swallow_query(&mut self, sql: &str) {
        let mut swallow = |sql: &str| {
            frontend::write_query(&mut self.to_server, sql);
            self.outstanding.push(Owed::expect(Reply::Query, Deliver::Swallow));
        };
        match settings::beyond_ascii(sql) {
            None => swallow(sql),
            Some((before, sql)) => {
                swallow(before);
                swallow(&sql);
            }
        }
        // A Query ends the unnamed statement.
        self.unnamed = None;
    }

    /// Makes sure that a shared statement is prepared here; at most one more message or two in
    /// front of the client's own. `max`: how many it may hold.
    /// Whether it was not there yet.
    pub fn ensure_prepared(&mut self, id: u64, sql: &[u8], types: &[u8], max: usize) -> bool {
        if self.statements.get(&id).is_some() {
            return false;
        }
        self.make_room(max);
        frontend::write_parse(&mut self.to_server, &shared_name(id), sql, types);
        self.outstanding.push(Owed::prepare(id, Deliver::Swallow));
        self.statements.put(id, ());
        true
    }

    /// Parses an unnamed statement in front of the client's own message.
    pub fn prepare_unnamed(&mut self, id: u64, sql: &[u8], types: &[u8]) {
        self.outstanding.push(Owed::expect(Reply::Parse, Deliver::Swallow));
        frontend::write_parse(&mut self.to_server, b"", sql, types);
        self.unnamed = Some(id);
    }

    /// Closes the statements least recently used until the server may hold one more.
    pub fn make_room(&mut self, max: usize) {
        while self.statements.len() >= max {
            let Some((evicted, ())) = self.statements.pop_lru() else { return };
            let name = shared_name(evicted);
            frontend::write_target(&mut self.to_server, frontend::CLOSE, Target::Statement, &name);
            self.outstanding.push(Owed::expect(Reply::Close, Deliver::Swallow));
        }
    }

    /// DISCARD ALL has been run: it is as it was after login.
    pub fn forget_client(&mut self) {
        self.applied = Arc::clone(&self.initial);
        self.tainted = false;
        self.untidy = false;
        self.statements.clear();
        self.unnamed = None;
    }

    /// Whether the next client may have it: idle, owing nothing.
    pub fn is_clean(&self) -> bool {
        self.status == Status::Idle && self.outstanding.is_empty() && self.to_server.is_empty()
    }
}
