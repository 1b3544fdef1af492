//! The moment before a commit in which PostgreSQL is asked what would be committed, where the
//! text did not tell. The client sees nothing of it.
//!
//! COMMIT is kept back until the answer is there. A statement on its own is given a commit of its
//! own to keep back: the Sync behind it, or a block round a Query.
//!
//! Invariant: until the answer is there nothing is sent that can commit, and no further message
//! of the client is taken. Attacked by the suite: `writes`; by the checker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Mode;
use crate::config::OpaqueWrites;
use crate::server::outstanding::{Deliver, Owed, Reply};
use crate::server::{Server, shared_name};
use crate::sql::footprint::{self, Doubt, Footprint};
use crate::sql::verdict::{BypassReason, Control, Read, Verdict, Write};
use crate::wire::backend::{self, Status};
use crate::wire::frontend::{self, Bind, Parse};

use super::session::{Armed, Extent, RequestKind, Session, Unit};
use super::transaction::Dirty;

/// The question among the shared statements of a server; those count from 1.
const STATEMENT: u64 = 0;

/// What the replies to the question are owed under; no request of a client gets so far.
const QUESTION: u64 = u64::MAX;

/// A longer answer is not looked into: it names more tables than are told apart.
pub(super) const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// A commit that waits for what it would commit.
#[derive(Debug)]
pub struct Moment {
    way: Way,
    phase: Phase,
    footprint: Option<Footprint>,
    /// Of the client's Query, until its end is known.
    unit: Option<Unit>,
    /// The CommandComplete that the client sees when it is committed.
    held: Vec<u8>,
}

/// What is kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The client's own COMMIT, which is the group.
    Block,
    /// The end of the block that was put round its Query.
    Query,
    /// Its Sync.
    Sync,
}

/// ```text
/// Statement ── completed ─→ Asked ── answered ─→ Answered (Block: the group is sent on)
///     └─ failed ─────────────┴─────────────────→ Ending ── ReadyForQuery ─→ over
/// ```
/// COMMIT of a block begins at Asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client's statement is under way, the question behind it.
    Statement,
    Asked,
    Answered,
    /// The end of the transaction is on the wire.
    Ending,
}

impl Moment {
    fn new(way: Way) -> Self {
        let phase = if way == Way::Block { Phase::Asked } else { Phase::Statement };
        Self { way, phase, footprint: None, unit: None, held: Vec::new() }
    }
}

/// Whether the next reply is to the question.
pub(super) fn is_question(server: &Server) -> bool {
    matches!(server.outstanding.front(), Some(Owed::Expect { request: QUESTION, .. }))
}

impl Session {
    /// Whether the client is read, and messages of it are taken: not while a commit waits, nor
    /// while all names are taken from it, as those that it gives meanwhile are new.
    pub fn takes_messages(&self) -> bool {
        let discards = self.work.discards && !self.work.unsynced && !self.work.requests.is_empty();
        self.work.moment.is_none() && self.work.revalidation.is_none() && !discards
    }

    /// Whether its end may be noticed. Who has sent COMMIT and goes has it committed.
    pub fn hears_client(&self) -> bool {
        self.work.moment.as_ref().is_none_or(|moment| moment.phase == Phase::Statement)
    }

    /// Whether a commit waits for what it would commit, or is on its way after that.
    pub fn has_moment(&self) -> bool {
        self.work.moment.is_some()
    }

    /// Whether the group that was kept back is to be sent on now.
    pub fn is_answered(&self) -> bool {
        self.work.moment.as_ref().is_some_and(|moment| moment.phase == Phase::Answered)
    }

    /// Before a group is sent on: whether it has to wait for an answer that is asked for now.
    /// Otherwise it may be given its moment while it is sent.
    pub fn asks(&mut self, server: &mut Server, now: Instant) -> bool {
        if self.work.moment.is_some() {
            return false;
        }
        let Some(way) = self.way(server) else { return false };
        if let Some(doubt) = self.cannot_ask(server, now) {
            self.work.transaction.doubt = Some(doubt);
            return false;
        }
        self.work.moment = Some(Moment::new(way));
        if way == Way::Block {
            self.ask(server);
            frontend::write_sync(&mut server.to_server);
            server.outstanding.push(question(Reply::Sync));
        }
        way == Way::Block
    }

    /// How the group that is whole now can be given a moment, if it needs one.
    fn way(&mut self, server: &Server) -> Option<Way> {
        if self.work.unsynced || self.common.main_cache.mode() == Mode::Off {
            return None;
        }
        let audits = self.common.main_cache.opaque_writes() == OpaqueWrites::Audit;
        match self.status() {
            Status::InTransaction if server.outstanding.is_empty() => {
                let needed = match self.work.transaction.dirty {
                    Dirty::Unknown(_) => true,
                    // While BEGIN is kept back there is no transaction to ask about.
                    Dirty::Nothing => audits && self.work.transaction.kept_back.is_none(),
                    Dirty::Tables(_) => audits,
                    Dirty::Database => false,
                };
                let commits = needed && self.group_verdict().is_some_and(|(_, v)| is_commit(&v));
                commits.then_some(Way::Block)
            }
            Status::Idle if self.is_plain_read() => None,
            Status::Idle if server.outstanding.owes_nobody() => {
                let (way, verdict) = self.group_verdict()?;
                if !may_be_in_a_block(&verdict) {
                    return None;
                }
                let needed = match self.effect(&verdict) {
                    Write::Opaque { commits_inside, .. } => !commits_inside,
                    Write::Plain(_) => audits,
                    Write::None | Write::Schema(_) | Write::Catalog => false,
                };
                needed.then_some(way)
            }
            Status::InTransaction | Status::Idle | Status::Failed => None,
        }
    }

    /// The group is a read that is to be kept, and what it names is what it was judged to name
    /// still: nothing to ask about.
    fn is_plain_read(&self) -> bool {
        self.work.plan.as_ref().is_some_and(|plan| plan.tables.write == Write::None)
            && !self.temporary_code
            && !self.tainted
            && self.knows_defaults()
    }

    fn cannot_ask(&self, server: &Server, now: Instant) -> Option<Doubt> {
        let limits = self.common.main_cache.limits();
        let snapshot = self.common.database.snapshot();
        if limits.opaque_writes == OpaqueWrites::Database || !server.base.may_see_writes() {
            return Some(Doubt::Off);
        }
        let catalog = snapshot.catalog.as_ref();
        let Some(catalog) = catalog.filter(|_| Arc::ptr_eq(&snapshot.home, &server.home)) else {
            return Some(Doubt::Catalogue);
        };
        if catalog.reaches_out() {
            return Some(Doubt::Unknown);
        }
        let worth = server.home.asking.is_worth_it(limits.ask_median_max, now);
        (!worth).then_some(Doubt::Slow)
    }

    /// The one statement that the group runs, if it is a group of one.
    fn group_verdict(&mut self) -> Option<(Way, Arc<Verdict>)> {
        let group = std::mem::take(&mut self.work.group);
        let found = match group.parts.as_slice() {
            [query] if query.tag == frontend::QUERY => {
                self.forget_old_verdict();
                self.work.query_verdict.clone().map(|verdict| (Way::Query, verdict))
            }
            _ => self.extended_verdict(&group).map(|verdict| (Way::Sync, verdict)),
        };
        self.work.group = group;
        found
    }

    fn extended_verdict(&mut self, group: &super::group::Group) -> Option<Arc<Verdict>> {
        let (sync, parts) = group.parts.split_last()?;
        let one = |tag| {
            let mut of_tag = parts.iter().filter(move |part| part.tag == tag);
            let first = of_tag.next();
            (of_tag.next().is_none(), first)
        };
        let ((one_parse, parse), (one_bind, bind)) = (one(frontend::PARSE), one(frontend::BIND));
        let (one_execute, execute) = one(frontend::EXECUTE);
        if sync.tag != frontend::SYNC || !(one_parse && one_bind && one_execute) {
            return None;
        }
        let bind = Bind::read(group.body(bind?)).ok()?;
        let (portal, _) = frontend::execute(group.body(execute?)).ok()?;
        let known = self.names.find(bind.statement).map(|known| Arc::clone(&known.statement));
        let statement = match parse.map(|parse| Parse::read(group.body(parse))) {
            None => known?,
            Some(Ok(parse)) if parse.name == bind.statement => {
                if known.is_some() && !parse.name.is_empty() {
                    return None;
                }
                self.statement(parse.name, parse.sql, parse.types)
            }
            Some(_) => return None,
        };
        (portal == bind.portal).then(|| self.verdict_of(&statement).0)
    }

    /// Before the client's Query is sent, where it is to have a block of its own.
    pub(super) fn open_block(&mut self, server: &mut Server) {
        if self.is_given(Way::Query) {
            server.swallow_query("BEGIN");
        }
    }

    /// After it is sent: the question follows in the same write. It fails if the statement does.
    pub(super) fn ask_behind(&mut self, server: &mut Server) {
        if self.is_given(Way::Query) {
            self.ask(server);
            frontend::write_sync(&mut server.to_server);
            server.outstanding.push(question(Reply::Sync));
        }
    }

    /// In the place of the client's Sync; false if that is to be sent.
    pub(super) fn ask_before_sync(&mut self, server: &mut Server) -> bool {
        let given = self.is_given(Way::Sync);
        if given {
            self.ask(server);
            frontend::write(&mut server.to_server, frontend::FLUSH, |_| {});
        }
        given
    }

    fn is_given(&self, way: Way) -> bool {
        self.work
            .moment
            .as_ref()
            .is_some_and(|moment| moment.way == way && moment.phase == Phase::Statement)
    }

    /// Whether what is being sent is put in flight later, before its commit is sent.
    pub(super) fn is_bracketed_later(&self) -> bool {
        self.is_given(Way::Query) || self.is_given(Way::Sync)
    }

    fn ask(&mut self, server: &mut Server) {
        self.common.cache_counters.asked.one();
        let name = shared_name(STATEMENT);
        if server.statements.get(&STATEMENT).is_none() {
            server.make_room(self.common.limits.server_statements_max());
            server.statements.put(STATEMENT, ());
            server.outstanding.push(Owed::Expect {
                reply: Reply::Parse,
                deliver: Deliver::Swallow,
                statement: Some(STATEMENT),
                request: QUESTION,
            });
            let text = footprint::QUESTION.as_bytes();
            frontend::write_parse(&mut server.to_server, &name, text, &[]);
        }
        server.outstanding.push(question(Reply::Bind));
        // No parameters, all of it as text.
        frontend::write_bind(&mut server.to_server, b"", &name, &[0; 6]);
        server.outstanding.push(question(Reply::Execute));
        frontend::write(&mut server.to_server, frontend::EXECUTE, |body| {
            frontend::put_cstr(body, b"");
            body.extend_from_slice(&[0; 4]);
        });
    }

    /// The whole row that is the answer.
    pub(super) fn answered(&mut self, server: &Server, body: &[u8]) {
        let snapshot = self.common.database.snapshot();
        let here = Arc::ptr_eq(&snapshot.home, &server.home);
        let row = backend::data_row(body).unwrap_or_default();
        let answer = snapshot
            .catalog
            .as_deref()
            .filter(|_| here)
            .and_then(|catalog| footprint::read(&row, catalog).ok());
        if let (Some((footprint, seconds)), Some(moment)) = (answer, &mut self.work.moment) {
            moment.footprint = Some(footprint);
            let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            server.home.asking.answered(took);
        }
    }

    /// The question has been answered in full. Only a Sync kept back need not wait for more.
    pub(super) fn question_completed(&mut self, server: &mut Server) {
        server.outstanding.pop();
        if self.work.moment.as_ref().is_some_and(|moment| moment.way == Way::Sync) {
            self.take_footprint(server);
            self.end_sync(server, true);
        }
    }

    /// `ReadyForQuery` to the question.
    pub(super) fn question_ready(&mut self, request: u64, server: &mut Server) {
        if request == QUESTION {
            self.question_over(server);
        }
    }

    fn question_over(&mut self, server: &mut Server) {
        let Some(moment) = &mut self.work.moment else { return };
        match (moment.way, server.status) {
            (Way::Sync, _) => {}
            (Way::Block, Status::InTransaction) => moment.phase = Phase::Answered,
            (Way::Block, Status::Idle | Status::Failed) => {
                self.work.group.clear();
                let unit = Unit { verdict: Some(Arc::new(rollback())), ..Unit::default() };
                self.end_block(server, "ROLLBACK", unit);
            }
            (Way::Query, Status::InTransaction) => {
                let mut unit = moment.unit.take().unwrap_or_default();
                self.take_footprint(server);
                unit.extent = Extent::Committing;
                unit.armed = self.arm(server, false, "COMMIT");
                self.end_block(server, "COMMIT", unit);
            }
            (Way::Query, Status::Idle | Status::Failed) => {
                // What the client was told is that it failed.
                moment.held.clear();
                let unit = moment.unit.take().unwrap_or_default();
                self.end_block(server, "ROLLBACK", unit);
            }
        }
    }

    fn end_block(&mut self, server: &mut Server, sql: &str, unit: Unit) {
        let request = self.request(RequestKind::Unit(unit));
        server.outstanding.push(Owed::forward(Reply::Query, request));
        frontend::write_query(&mut server.to_server, sql);
        server.unnamed = None;
        if let Some(moment) = &mut self.work.moment {
            moment.phase = Phase::Ending;
        }
    }

    /// Sends the Sync that was kept back, for the better or, after an error, for the worse.
    fn end_sync(&mut self, server: &mut Server, commits: bool) {
        if let Some(moment) = &mut self.work.moment {
            moment.phase = Phase::Ending;
        }
        let armed = if commits { self.arm(server, false, "SYNC") } else { Armed::default() };
        let unit = Unit { armed, extent: std::mem::take(&mut self.work.extent), ..Unit::default() };
        self.work.unsynced = false;
        let request = self.request(RequestKind::Unit(unit));
        server.outstanding.push(Owed::forward(Reply::Sync, request));
        frontend::write_sync(&mut server.to_server);
    }

    /// An error has come, to the client's statement or to the question.
    pub(super) fn moment_failed(&mut self, server: &mut Server) {
        let waits = |moment: &Moment| moment.way == Way::Sync && moment.phase != Phase::Ending;
        if self.work.moment.as_ref().is_some_and(waits) {
            self.end_sync(server, false);
        }
    }

    /// At the client's `ReadyForQuery`: whether its unit is over. Not while the block round it is
    /// still open; then it is kept here.
    pub(super) fn completes(&mut self, unit: &mut Unit, server: &mut Server) -> bool {
        if !self.is_given(Way::Query) {
            if self.work.moment.as_ref().is_some_and(|moment| moment.phase == Phase::Ending) {
                self.work.moment = None;
            }
            return true;
        }
        if server.status == Status::Idle {
            // It has ended our block by means we know nothing of.
            self.work.moment = None;
            unit.armed = self.arm(server, false, "UNKNOWN");
            // It may have been committed before others could be told.
            if let Some((group, scope)) =
                server.home.group.as_ref().zip(self.work.transaction.dirty.scope())
            {
                group.bump(&scope);
            }
            return true;
        }
        if let Some(moment) = &mut self.work.moment {
            moment.phase = Phase::Asked;
            moment.unit = Some(std::mem::take(unit));
        }
        false
    }

    /// What the client sees of a CommandComplete in a block of ours; `None`: it is none.
    pub(super) fn completion(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let moment = self.work.moment.as_mut()?;
        match (moment.way, moment.phase) {
            (Way::Query, Phase::Statement) => {
                moment.held = message.to_vec();
                Some(Vec::new())
            }
            (Way::Query | Way::Block, Phase::Ending) => Some(std::mem::take(&mut moment.held)),
            _ => None,
        }
    }

    /// What the transaction wrote is as PostgreSQL has told.
    pub(super) fn take_footprint(&mut self, server: &Server) {
        let footprint = self.work.moment.as_mut().and_then(|moment| moment.footprint.take());
        match footprint {
            Some(Footprint::Tables(tables)) => {
                self.common.cache_counters.asked_known.one();
                let told = self.work.transaction.dirty.add_told(tables);
                let counters = &self.common.cache_counters;
                counters.asked_tables.add(told.tables as u64);
                counters.surplus.add(told.surplus as u64);
                // After a change of the catalogue nothing counts as foreseen, and all is made fresh.
                let unforeseen =
                    if self.has_outlived_catalog() { Vec::new() } else { told.unforeseen };
                for table in unforeseen {
                    self.common.cache_counters.unforeseen.one();
                    tracing::error!(
                        server_id = server.id,
                        table = table.0,
                        "a table was written that was not going to be made fresh"
                    );
                }
            }
            Some(Footprint::Doubt { .. })
                if !matches!(self.work.transaction.dirty, Dirty::Unknown(_)) => {}
            Some(Footprint::Doubt { why, catalogue }) => {
                self.work.transaction.dirty = Dirty::Database;
                self.work.transaction.doubt = Some(why);
                self.work.transaction.catalog |= catalogue;
            }
            None => {
                self.work.transaction.dirty = Dirty::Database;
                self.work.transaction.doubt = Some(Doubt::Unknown);
            }
        }
    }
}

fn question(reply: Reply) -> Owed {
    Owed::Expect { reply, deliver: Deliver::Swallow, statement: None, request: QUESTION }
}

fn is_commit(verdict: &Verdict) -> bool {
    verdict.statements == 1 && matches!(verdict.controls.as_slice(), [Control::Commit { .. }])
}

/// It does in a block just what it does on its own.
fn may_be_in_a_block(verdict: &Verdict) -> bool {
    let tags = ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "EXECUTE", "EXPLAIN"];
    verdict.statements == 1 && verdict.controls.is_empty() && tags.contains(&verdict.tag)
}

/// The end that a transaction comes to whose commit could not be asked about.
fn rollback() -> Verdict {
    Verdict {
        controls: vec![Control::Rollback { chain: false }],
        ends: Box::default(),
        write: Write::None,
        read: Read::Bypass(BypassReason::NotARead),
        statements: 1,
        tag: "ROLLBACK",
        exact_text: true,
        taints: false,
        restriction: crate::sql::verdict::Restriction::default(),
    }
}
