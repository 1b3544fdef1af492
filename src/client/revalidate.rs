//! Statements prepared before the catalogue changed, on a server that does not have them.
//!
//! PostgreSQL refuses a prepared statement whose result would no longer be what it was when it was
//! parsed (hazard G22). A server that has to parse it anew knows nothing of that: so it is asked
//! what it makes of the statement while the rest of the group is kept back, and is made to refuse
//! what the client was not told.
//!
//! Invariant: a statement that is parsed anew in front of its client's message gives the result
//! that the client was told of. Attacked by the suite: hazards (`g22_…`), revalidate.

use std::sync::Arc;

use crate::pool::signature::Signature;
use crate::pool::statements::Statement;
use crate::server::outstanding::{Deliver, Owed, Reply};
use crate::server::{Server, shared_name};
use crate::wire::backend;
use crate::wire::frontend::{self, Target};
use crate::wire::sqlstate::UNDEFINED_PSTATEMENT;

use super::pins::Pin;
use super::session::{RequestKind, Session};

/// A name that neither a client nor we give: those of shared statements end in a number.
const NO_STATEMENT: &[u8] = b"forebay_";

/// Describe of a statement under way.
#[derive(Debug)]
pub struct Described {
    statement: Arc<Statement>,
    /// The catalogue when it was asked; `None` if it may have been changing, or is not what every
    /// session sees.
    seen: Option<Seen>,
    /// What the client calls it; empty for the unnamed one.
    name: Box<[u8]>,
    /// What to keep the answer under for clients that ask the same.
    pub key: Option<Box<[u8]>>,
    pub messages: Vec<u8>,
}

/// The catalogue as every session sees it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// It moves, too, when the catalogue has been read.
    generation: u64,
    /// `Home::catalog_changes`.
    changes: u64,
}

/// A statement that the group waits for: its next message is about it.
#[derive(Debug)]
pub struct Revalidation {
    /// The Describe that asks.
    request: u64,
    /// Of what the client was told.
    told: Signature,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asked,
    Same,
    Changed,
    /// PostgreSQL has refused something, and skips to the next Sync.
    Failed,
}

/// How a statement stands on a server that is about to be sent a message about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The message may be sent, behind a Parse where the server lacks it.
    Fine,
    /// The message and all behind it wait for an answer.
    Asked,
    /// PostgreSQL would refuse it.
    Changed,
}

impl Session {
    /// Whether the group that was kept back, for whatever reason, is to be sent on now.
    pub fn goes_on(&self) -> bool {
        let revalidated = self.work.revalidation.as_ref();
        self.is_answered() || revalidated.is_some_and(|known| known.phase != Phase::Asked)
    }

    /// What was asked about has been told: only a refusal is still to come of it.
    pub(super) fn forget_revalidation(&mut self) {
        self.work.revalidation.take_if(|known| known.phase != Phase::Changed);
    }

    /// Whether names may mean to this client what they mean to no other.
    pub(super) fn sees_own_catalog(&self) -> bool {
        self.pins.has(Pin::TemporaryObjects) || self.work.transaction.catalog
    }

    /// The catalogue, if what this server says of a statement now is what it would say to any
    /// session with these settings.
    fn seen(&self, server: &Server) -> Option<Seen> {
        let snapshot = self.common.database.snapshot();
        let of_session = self.sees_own_catalog()
            || self.pins.has(Pin::SessionState)
            || self.tainted
            || server.tainted
            || !self.knows_defaults();
        let here = Arc::ptr_eq(&snapshot.home, &server.home);
        // While a change of the catalogue is in flight, the server may have seen it already.
        let settled = here && !of_session && snapshot.home.coherence.stamp(&[]).is_some();
        // Counted last: one that ended before then is either counted or was seen in flight.
        settled.then(|| Seen {
            generation: snapshot.generation,
            changes: server.home.catalog_changes(),
        })
    }

    /// Before a message about a statement is sent. Asks the server if only it can tell.
    pub(super) fn standing(
        &mut self,
        server: &mut Server,
        name: &[u8],
        statement: &Arc<Statement>,
    ) -> Standing {
        if self.work.revalidation.take().is_some_and(|known| known.phase == Phase::Changed) {
            return Standing::Changed;
        }
        let there = if name.is_empty() {
            server.unnamed == Some(statement.id)
        } else {
            server.statements.contains(&statement.id)
        };
        let told = self.names.told(name);
        if there {
            // The server sees to it that it stays what it was.
            let both = told.and_then(|told| told.signature.get()).zip(statement.signature.get());
            let same = both.is_none_or(|(told, now)| told.same_result(now));
            return if same { Standing::Fine } else { Standing::Changed };
        }
        // What nobody has described cannot be compared; then PostgreSQL never parsed it for the
        // client, or the client gave it no name.
        let told = Arc::clone(told.unwrap_or(statement));
        let Some(signature) = told.signature.get() else { return Standing::Fine };
        let current = self.seen(server);
        let is_known = |known: &Statement| {
            known.settings_key == statement.settings_key
                && known.signature.get().is_some_and(|known| known.same_result(signature))
                && current.is_some_and(|now| known.is_vouched_for(now.generation))
        };
        if is_known(statement) || is_known(&told) {
            return Standing::Fine;
        }
        let request = self.ask_signature(server, name, statement, &signature.parameters);
        let (told, phase) = (signature.clone(), Phase::Asked);
        self.work.revalidation = Some(Revalidation { request, told, phase });
        Standing::Asked
    }

    /// Whether the statement may give another result than its client was told of, for its settings
    /// are others than when it was parsed.
    pub(super) fn may_differ(&self, name: &[u8], statement: &Arc<Statement>) -> bool {
        let told = self.names.told(name).unwrap_or(statement);
        let Some(signature) = told.signature.get() else { return false };
        if told.settings_key == self.settings.key_id {
            return false;
        }
        let generation = self.common.database.generation();
        let now = if statement.settings == self.settings.id {
            Some(Arc::clone(statement))
        } else {
            let (sql, types) = (&statement.sql, &statement.types);
            self.common.statements.find(sql, types, self.settings.id, generation)
        };
        !now.is_some_and(|now| {
            now.signature.get().is_some_and(|known| known.same_result(signature))
        })
    }

    /// Has the statement parsed and described. Its parameters keep the types that they were given
    /// first, as in PostgreSQL: values are on their way in the form of those.
    fn ask_signature(
        &mut self,
        server: &mut Server,
        name: &[u8],
        statement: &Arc<Statement>,
        types: &[u8],
    ) -> u64 {
        self.work.unsynced = true;
        let request = if name.is_empty() {
            server.prepare_unnamed(statement.id, &statement.sql, types);
            self.owe_signature(server, name, statement)
        } else {
            self.prepare_on(server, name, statement, types)
        };
        frontend::write(&mut server.to_server, frontend::FLUSH, |_| {});
        request
    }

    /// Makes sure that a shared statement is on the server. What it is there is always looked at:
    /// a change of the catalogue that is not known of yet must not pass for the statement.
    pub(super) fn prepare_on(
        &mut self,
        server: &mut Server,
        name: &[u8],
        statement: &Arc<Statement>,
        types: &[u8],
    ) -> u64 {
        let max = self.common.limits.server_statements_max();
        if !server.ensure_prepared(statement.id, &statement.sql, types, max) {
            return 0;
        }
        self.common.counters.server_parse.one();
        self.owe_signature(server, name, statement)
    }

    /// Describe of a statement that the server has just been sent; the client, which calls it so,
    /// hears nothing of it.
    pub(super) fn owe_signature(
        &mut self,
        server: &mut Server,
        name: &[u8],
        statement: &Arc<Statement>,
    ) -> u64 {
        let request = self.request_description(server, name, statement, None);
        let (reply, deliver) = (Reply::Describe, Deliver::Swallow);
        server.outstanding.push(Owed::Expect { reply, deliver, statement: None, request });
        let shared = if name.is_empty() { Vec::new() } else { shared_name(statement.id) };
        let out = &mut server.to_server;
        frontend::write_target(out, frontend::DESCRIBE, Target::Statement, &shared);
        request
    }

    pub(super) fn request_description(
        &mut self,
        server: &Server,
        name: &[u8],
        statement: &Arc<Statement>,
        key: Option<Box<[u8]>>,
    ) -> u64 {
        let seen = self.seen(server);
        let (statement, name) = (Arc::clone(statement), name.into());
        let described = Described { statement, seen, name, key, messages: Vec::new() };
        self.request(RequestKind::Describe(Box::new(described)))
    }

    /// PostgreSQL has said what a statement is.
    pub(super) fn described(&mut self, request: u64, described: &Described, server: &mut Server) {
        let Described { statement, seen, name, messages, .. } = described;
        let now = self.seen(server);
        let settled = now.filter(|now| seen.is_some_and(|then| then.changes == now.changes));
        let signature = Signature::read(messages).ok();
        let mut changed = false;
        if let Some(asked) = &mut self.work.revalidation
            && asked.request == request
        {
            changed = !signature.as_ref().is_some_and(|now| now.same_result(&asked.told));
            asked.phase = if changed { Phase::Changed } else { Phase::Same };
        }
        let Some(signature) = signature else { return };
        if changed && self.names.told(name).is_some_and(|told| told.is_of_session()) {
            // It is what others would be told now; the statement is of before.
            return;
        }
        if statement.is_of_session() || settled.is_some() {
            let known = statement.signature.get_or_init(|| signature.clone());
            if let Some(now) = settled.filter(|_| known.same_result(&signature)) {
                statement.vouch(now.generation);
            }
        } else if !name.is_empty() && statement.signature.get().is_none() {
            // PostgreSQL made this of it for this client, whatever it would for others.
            let (sql, types) = (&statement.sql, &statement.types);
            let own = Statement::of_session(sql, types, &self.settings);
            own.was_told(|| Ok(signature.clone()));
            self.names.tell(name, own);
        }
        let other = statement.signature.get().is_some_and(|known| !known.same_result(&signature));
        if other && !changed {
            self.not_as_elsewhere(server, settled.is_some());
        }
    }

    /// On this server a shared statement is something else than on others: a change of the
    /// catalogue came in between, unknown to us or only just known.
    fn not_as_elsewhere(&mut self, server: &mut Server, unknown: bool) {
        tracing::debug!(server_id = server.id, unknown, "a statement is not what it was elsewhere");
        server.close_needed = true;
        if unknown {
            self.common.database.catalog_changed(&server.home);
        }
    }

    /// In the place of a message about a statement that has changed: the server fails as it would
    /// have by itself, with all that it does to a transaction.
    pub(super) fn send_refused(
        &mut self,
        server: &mut Server,
        (name, statement): (&[u8], &Statement),
        is_describe: bool,
    ) {
        let told = self.names.told(name).map_or(statement, |told| told);
        let parameters = told.signature.get().filter(|_| is_describe);
        let parameters = parameters.map(|told| told.parameters.clone());
        let out = &mut server.to_server;
        if name.is_empty() {
            server.unnamed = None;
        } else if server.statements.pop(&statement.id).is_some() {
            let name = shared_name(statement.id);
            frontend::write_target(out, frontend::CLOSE, Target::Statement, &name);
            server.outstanding.push(Owed::expect(Reply::Close, Deliver::Swallow));
        }
        // No parameters, all results as text.
        frontend::write_bind(out, b"", NO_STATEMENT, &[0; 6]);
        let request = self.request(RequestKind::Changed { parameters });
        server.outstanding.push(Owed::forward(Reply::Bind, request));
    }

    /// Whether the error is the one that `send_refused` asked for; then the client is told what
    /// PostgreSQL would have said.
    pub(super) fn refused_for_us(&self, server: &Server, body: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(Owed::Expect { request, .. }) = server.outstanding.front() else { return false };
        let known = self.work.requests.iter().find(|known| known.id == *request);
        let Some(RequestKind::Changed { parameters }) = known.map(|known| &known.kind) else {
            return false;
        };
        let ours = backend::error_field(body, b'C') == Some(UNDEFINED_PSTATEMENT.as_bytes());
        if ours {
            if let Some(types) = parameters {
                backend::write_parameter_description(out, types);
            }
            backend::write_result_changed(out);
        }
        ours
    }

    /// An error has come by which these are not answered; whether a group waits for one of them.
    pub(super) fn revalidation_failed(&mut self, skipped: &[u64]) -> bool {
        let asked = self.work.revalidation.as_mut();
        let Some(asked) = asked.filter(|asked| skipped.contains(&asked.request)) else {
            return false;
        };
        asked.phase = Phase::Failed;
        true
    }
}
