//! Answering a group without a server: from the cache, or because nothing needs one.
//!
//! What a client sees on a hit is made up here: envelope messages fresh, rows as PostgreSQL sent
//! them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use xxhash_rust::xxh3::xxh3_64;

use crate::cache::entry::{Entry, low_half};
use crate::cache::key::StatementKey;
use crate::cache::turns::Turn;
use crate::cache::verify::Witness;
use crate::cache::{Age, Mode};
use crate::insight::Outcome;
use crate::metrics::StatementCounters;
use crate::pool::signature::Signature;
use crate::pool::statements::Statement;
use crate::pool::{PinPolicy, PoolMode};
use crate::server::Server;
use crate::sql::hint::Hint;
use crate::sql::verdict::{BypassReason, Control, Read, Verdict, Write};
use crate::twin::{self, Twin};
use crate::wire::backend::{self, Status};
use crate::wire::frontend::{self, Bind, Parse, Target};

use super::bracket::may_be_finer;
use super::check::Asked;
use super::group::Group;
use super::judge::{age, has_time_word};
use super::pins::{Pin, Pins};
use super::session::{FillPlan, Found, Session};
use super::statements::Prepared;
use super::transaction::Dirty;
use super::underway::Shape;
use super::verify::Looked;
use super::work::LentRows;

/// Below it a copy costs less than the two writes more that going without it takes.
const LENT_ROWS_MIN: usize = 64 * 1024;

/// Whether the group is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Answered; nothing goes to a server.
    Done,
    /// To be sent to a server.
    Send,
    /// A Parse and Sync alone: ask a server if one is free, else `Session::accept_parse`.
    SendIfFree,
    /// The catalogue is being read after DDL: wait for it a moment, then ask again. What is
    /// judged without it counts as writing the whole database.
    AwaitCatalog,
    /// The group of Forebays has to say first whether what is known here is true: ask, then
    /// `Session::answer_checked`. Until then no other message of this client may be taken.
    AskGroup,
    /// The answer may be in Redis: look there, then `Session::answer_again`. Until then no other
    /// message of this client may be taken.
    AskRedis,
    /// Another client is asking the same: wait for its fill a moment, then `answer_shared`. Until
    /// then no other message of this client may be taken.
    AwaitFill,
    /// It would tie the client to a server, and the policy forbids that.
    Refuse(Pin),
}

/// The statement at the front of an extended group, run through the unnamed portal.
pub(super) struct Single<'a> {
    pub(super) parse: Option<Parse<'a>>,
    pub(super) bind: Bind<'a>,
    /// Describe of the portal was asked for.
    pub(super) describe: bool,
    /// Of its Execute; 0 for all.
    rows_max: u32,
}

impl Session {
    /// Answers the group if that needs no server. `now` is when its last byte was read.
    pub fn answer(&mut self, server: Option<&Server>, now: Instant, out: &mut Vec<u8>) -> Answer {
        let owed_nothing = self.is_owed_nothing(server);
        (self.work.arrived_at, self.work.noted) = (Some(now), None);
        self.work.unasked = BypassReason::Group;
        self.work.plan = None;
        self.work.describing = false;
        self.work.asked = Asked::default();
        self.work.may_await_fill = server.is_none();
        for scope in std::mem::take(&mut self.work.unsettled) {
            self.common.database.home().coherence.invalidate(&scope);
        }
        if !owed_nothing && twin::is(Twin::PipelineLookupOnArrival) {
            let mut hit = Vec::new();
            if self.answer_group(true, now, &mut hit) == Answer::Done {
                self.work.early_hit = Some(hit);
            }
            self.work.plan = None;
            return Answer::Send;
        }
        let answer = self.answer_group(owed_nothing, now, out);
        if answer == Answer::Done {
            self.work.group.clear();
        }
        answer
    }

    /// Answers the group after Redis was asked for `self.work.key`. Everything is judged anew, since
    /// the world may have moved meanwhile: the entry is served only if it is true now.
    pub fn answer_again(
        &mut self,
        found: Option<Arc<Entry>>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Answer {
        self.work.found = found.map_or(Found::Nothing, Found::Entry);
        // It was owed nothing when Redis was asked, and was sent nothing since.
        let answer = self.answer_group(true, now, out);
        self.work.found = Found::NotAsked;
        if answer == Answer::Done {
            self.work.group.clear();
        }
        answer
    }

    /// Answers the group after another's fill was waited for. Whatever came of that, it is served
    /// only what is true now, and waits no more.
    pub fn answer_shared(&mut self, now: Instant, out: &mut Vec<u8>) -> Answer {
        self.work.may_await_fill = false;
        let answer = self.answer_again(None, now, out);
        if answer == Answer::Done {
            self.hit_was_shared();
        }
        answer
    }

    pub(super) fn answer_group(
        &mut self,
        owed_nothing: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Answer {
        let mut group = std::mem::take(&mut self.work.group);
        if owed_nothing && group.parts.last().is_some_and(|part| part.tag == frontend::SYNC) {
            self.transact_front(&mut group, now, out);
        }
        let answer = match group.parts.as_slice() {
            [query] if query.tag == frontend::QUERY => {
                let sql = frontend::accepted_query(group.body(query));
                self.answer_query(sql, owed_nothing, now, out)
            }
            parts
                if owed_nothing && parts.last().is_some_and(|part| part.tag == frontend::SYNC) =>
            {
                if self.explain_group(&group, now, out) {
                    self.work.group = group;
                    return Answer::Done;
                }
                match single(&group) {
                    Some(single) => self.answer_single(&single, now, out),
                    None => self.answer_without_rows(&group, now, out),
                }
            }
            _ => {
                self.work.unasked = pipelined(owed_nothing);
                Answer::Send
            }
        };
        self.work.group = group;
        answer
    }

    fn answer_query(
        &mut self,
        sql: &[u8],
        owed_nothing: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Answer {
        if owed_nothing && let Some(statement) = super::explain::asked_about(sql) {
            self.explain_query(statement, now, out);
            return Answer::Done;
        }
        let (known, generation) = self.verdict_of_text(sql);
        let verdict = Arc::clone(&known.verdict);
        (self.work.query_verdict, self.work.query_generation) =
            (Some(Arc::clone(&verdict)), generation);
        if self.awaits_catalog(&verdict) {
            return Answer::AwaitCatalog;
        }
        if let Some(pin) = self.refused(&verdict) {
            return Answer::Refuse(pin);
        }
        if owed_nothing && self.deallocates(&verdict) {
            backend::write_command_complete(out, "DEALLOCATE");
            backend::write_ready(out, self.status());
            return Answer::Done;
        }
        if owed_nothing && let Some(tag) = self.transact_query(&verdict, sql) {
            backend::write_command_complete(out, tag);
            backend::write_ready(out, self.status());
            self.note_transacted(Shape::Text(known), now);
            return Answer::Done;
        }
        let hint = Hint::of(sql, &self.work.lexed);
        let reason = self
            .bypass(&verdict, owed_nothing)
            .or_else(|| hint.no_cache.then_some(BypassReason::Hint))
            .or_else(|| self.work.lexed.time_word.then_some(BypassReason::TimeWord))
            .or_else(|| self.group_bypass(&verdict, now));
        if let Some(reason) = reason {
            if std::mem::take(&mut self.work.asked.due) {
                return Answer::AskGroup;
            }
            self.work.values = xxh3_64(&self.work.lexed.text);
            let writes = verdict.write != Write::None;
            self.note(Outcome::Bypass(reason), Shape::Text(known), now, writes);
            return Answer::Send;
        }
        let uses = Arc::clone(&known.uses);
        let shape = Shape::Text(known);
        let lexed = std::mem::take(&mut self.work.lexed);
        let key = StatementKey {
            text: &lexed.text,
            types: &[],
            formats: &[],
            values: &[],
            result_formats: &[],
        };
        let fits = self.set_key(&key);
        self.work.lexed = lexed;
        if !fits {
            self.note(Outcome::Bypass(BypassReason::KeyTooLong), shape, now, false);
            return Answer::Send;
        }
        let entry = match self.hit(&verdict, true, age(&verdict, hint, now)) {
            Looked::Hit(entry) => entry,
            Looked::Miss(witness) => {
                return self.miss(shape, verdict, (generation, uses, witness), now);
            }
        };
        uses.hits.one();
        if let Some(row_description) = entry.row_description() {
            out.extend_from_slice(row_description);
        }
        self.put_rows(&entry, out);
        backend::write_ready(out, self.status());
        self.note_hit(shape, now, &entry);
        Answer::Done
    }

    /// The rows of a hit. Many are not copied: the task writes them from the entry, at their place.
    fn put_rows(&mut self, entry: &Arc<Entry>, out: &mut Vec<u8>) {
        let is_early = twin::is(Twin::PipelineLookupOnArrival);
        if entry.rows().len() < LENT_ROWS_MIN || self.work.lent_rows.is_some() || is_early {
            out.extend_from_slice(entry.rows());
        } else {
            let entry = Arc::clone(entry);
            self.work.lent_rows = Some(LentRows { at: out.len(), entry, written: 0 });
        }
    }

    /// `transact` for the text that was lexed last.
    fn transact_query(&mut self, verdict: &Verdict, sql: &[u8]) -> Option<&'static str> {
        if verdict.controls.is_empty() {
            return None;
        }
        let lexed = std::mem::take(&mut self.work.lexed);
        let tag = self.transact(verdict, &lexed.text, sql);
        self.work.lexed = lexed;
        tag
    }

    /// Whether a catalogue would make a difference that is worth a short wait, once a group.
    fn awaits_catalog(&mut self, verdict: &Verdict) -> bool {
        let worth = self.common.cache.mode() != Mode::Off
            && may_be_finer(verdict)
            && self.work.transaction.dirty != Dirty::Database
            && self.common.database.snapshot().catalog.is_none();
        let first = !std::mem::replace(&mut self.work.awaited_catalog, worth);
        worth && first
    }

    /// The cause for which the policy refuses the statement, if it does.
    fn refused(&self, verdict: &Verdict) -> Option<Pin> {
        let refuses = self.common.pin_policy == PinPolicy::Refuse
            && self.common.mode != PoolMode::Session
            && !verdict.controls.is_empty();
        refuses.then(|| Pins::added_by(&verdict.controls)).flatten()
    }

    /// DEALLOCATE of a name given by Parse, as some drivers do it: the name is known here only.
    fn deallocates(&mut self, verdict: &Verdict) -> bool {
        match verdict.controls.as_slice() {
            [Control::Deallocate(Some(name))]
                if verdict.statements == 1 && self.status() != Status::Failed =>
            {
                self.names.close(name.as_bytes()).is_some()
            }
            _ => false,
        }
    }

    fn answer_single(&mut self, single: &Single<'_>, now: Instant, out: &mut Vec<u8>) -> Answer {
        let Some(prepared) = self.prepared_for(single) else { return Answer::Send };
        let statement = Arc::clone(&prepared.statement);
        let (known, generation) = self.known_of(&statement);
        let verdict = Arc::clone(&known.verdict);
        if self.awaits_catalog(&verdict) {
            return Answer::AwaitCatalog;
        }
        if let Some(pin) = self.refused(&verdict) {
            return Answer::Refuse(pin);
        }
        let shape = Shape::Prepared(Arc::clone(&statement));
        let writes = verdict.write != Write::None;
        let stale = single.parse.is_none()
            && (prepared.generation != generation
                || self.may_differ(single.bind.statement, &statement));
        let hint = statement.hint();
        let reason = self
            .bypass(&verdict, true)
            .or_else(|| hint.no_cache.then_some(BypassReason::Hint))
            .or_else(|| stale.then_some(BypassReason::StaleStatement))
            .or_else(|| has_time_word(&statement, &single.bind).then_some(BypassReason::TimeWord))
            .or_else(|| self.group_bypass(&verdict, now));
        if let Some(reason) = reason {
            if std::mem::take(&mut self.work.asked.due) {
                return Answer::AskGroup;
            }
            self.work.values = xxh3_64(single.bind.values);
            self.note(Outcome::Bypass(reason), shape, now, writes);
            return Answer::Send;
        }
        let text = statement.lexed.as_ref().map_or(&[][..], |lexed| &lexed.text);
        let key = StatementKey {
            text,
            types: &statement.types,
            formats: single.bind.formats,
            values: single.bind.values,
            result_formats: single.bind.result_formats,
        };
        if !self.set_key(&key) {
            self.note(Outcome::Bypass(BypassReason::KeyTooLong), shape, now, false);
            return Answer::Send;
        }
        let entry = match self.hit(&verdict, single.describe, age(&verdict, hint, now)) {
            Looked::Hit(entry) => entry,
            Looked::Miss(witness) => {
                return self.miss(
                    shape,
                    verdict,
                    (generation, Arc::clone(&known.uses), witness),
                    now,
                );
            }
        };
        known.uses.hits.one();
        if let Some(parse) = &single.parse {
            self.parse_with(parse, (single.describe, &entry), (statement, generation), out);
        }
        out.extend_from_slice(backend::BIND_COMPLETE_MESSAGE);
        if single.describe
            && let Some(row_description) = entry.row_description()
        {
            out.extend_from_slice(row_description);
        }
        self.put_rows(&entry, out);
        backend::write_ready(out, self.status());
        self.note_hit(shape, now, &entry);
        Answer::Done
    }

    /// The Parse in front of a read that was a hit.
    fn parse_with(
        &mut self,
        parse: &Parse<'_>,
        (describe, entry): (bool, &Entry),
        (statement, generation): (Arc<Statement>, u64),
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(backend::PARSE_COMPLETE_MESSAGE);
        self.count_parse(parse.name);
        // An unnamed one is parsed anew before it is bound again.
        if describe
            && !parse.name.is_empty()
            && let Some(described) = entry.row_description()
        {
            statement.was_told(|| Signature::of_portal(&statement.types, described));
        }
        self.names.insert(parse.name, Prepared { statement, generation });
    }

    /// The statement a single read runs, as the client named it or as it parses it just now.
    pub(super) fn prepared_for(&mut self, single: &Single<'_>) -> Option<Prepared> {
        match &single.parse {
            // A second Parse of a live name is an error that PostgreSQL shall raise.
            Some(parse) if !parse.name.is_empty() && self.names.find(parse.name).is_some() => None,
            Some(parse) => Some(Prepared {
                statement: self.statement(parse.name, parse.sql, parse.types),
                generation: 0,
            }),
            None => self.names.find(single.bind.statement).cloned(),
        }
    }

    /// Why this statement is not looked up, if it is not.
    pub(super) fn bypass(&self, verdict: &Verdict, owed_nothing: bool) -> Option<BypassReason> {
        if self.common.cache.mode() == Mode::Off {
            return Some(BypassReason::CacheOff);
        }
        // The catalogue is forgotten too where PostgreSQL may have crashed.
        let is_down = self.common.database.is_down();
        match verdict.read {
            Read::Bypass(BypassReason::CatalogLoading) if is_down => {
                return Some(BypassReason::DatabaseDown);
            }
            Read::Bypass(reason) => return Some(reason),
            Read::Cacheable(_) => {}
        }
        if !owed_nothing {
            return Some(BypassReason::Pipelined);
        }
        if is_down {
            return Some(BypassReason::DatabaseDown);
        }
        if self.pins.has(Pin::TemporaryObjects) {
            return Some(BypassReason::TemporaryObjects);
        }
        if self.pins.has(Pin::SessionState) || self.tainted || !self.knows_defaults() {
            return Some(BypassReason::Settings);
        }
        let facts = self.facts.as_ref()?;
        if !facts.readable {
            return Some(BypassReason::Settings);
        }
        if facts.key.base == 0 {
            return Some(BypassReason::ServerUnknown);
        }
        if facts.kept_out.is_some() {
            return facts.kept_out;
        }
        self.work.transaction.bypass(facts.isolation)
    }

    pub(super) fn set_key(&mut self, statement: &StatementKey<'_>) -> bool {
        let Some(facts) = &self.facts else { return false };
        self.work.key.set(facts.key, statement, self.common.cache.seed())
    }

    /// A true entry for the key that has been set, if there is one and it may be served.
    fn hit(&self, verdict: &Verdict, needs_description: bool, age: Age) -> Looked {
        let cache = &self.common.cache;
        let described =
            |entry: &Arc<Entry>| !needs_description || entry.row_description().is_some();
        let (entry, from_redis) = match (cache.look_up(&self.work.key, age), &self.work.found) {
            (Some(entry), _) => (entry, false),
            (None, Found::Entry(entry))
                if entry.key() == self.work.key.bytes()
                    && cache.is_true(entry, age)
                    && reads_the_same(entry, verdict)
                    && described(entry) =>
            {
                cache.promote(entry);
                (Arc::clone(entry), true)
            }
            (None, Found::Entry(_) | Found::Nothing | Found::NotAsked) => {
                return Looked::Miss(None);
            }
        };
        if !described(&entry) {
            return Looked::Miss(None);
        }
        entry.hits.one();
        self.serve_or_verify(entry, from_redis)
    }

    /// Whether the group is a read whose answer would be kept, as far as is known now.
    pub fn would_keep_answer(&self) -> bool {
        let generation = self.common.database.generation();
        self.work.plan.as_ref().is_some_and(|plan| plan.generation == generation)
    }

    fn should_ask_redis(&self) -> bool {
        matches!(self.work.found, Found::NotAsked)
            && self.common.cache.may_be_in_redis(&self.work.key)
    }

    /// The key that has been set is not in memory, or is to be verified.
    fn miss(
        &mut self,
        shape: Shape,
        verdict: Arc<Verdict>,
        (generation, uses, witness): (u64, Arc<StatementCounters>, Option<Witness>),
        now: Instant,
    ) -> Answer {
        if witness.is_none()
            && let Read::Cacheable(tables) = &verdict.read
            && !self.is_worth_keeping(tables, now)
        {
            self.note(Outcome::Bypass(BypassReason::CutOff), shape, now, false);
            return Answer::Send;
        }
        if witness.is_none() && self.should_ask_redis() {
            return Answer::AskRedis;
        }
        let turn = match witness {
            None => self.common.cache.take_turn(&self.work.key, self.work.may_await_fill),
            Some(_) => Turn::Alone,
        };
        let leader = match turn {
            Turn::Lead(leader) => Some(leader),
            Turn::Wait(gate) => {
                self.work.awaited_fill = Some(gate);
                return Answer::AwaitFill;
            }
            Turn::Alone => None,
        };
        self.work.values = low_half(self.work.key.hash());
        self.note(Outcome::Miss, shape, now, false);
        uses.misses.one();
        self.work.plan = Some(FillPlan { tables: verdict, uses, generation, leader, witness });
        Answer::Send
    }
}

/// Whether the entry was kept for the tables that the statement reads by this verdict. Who stored it
/// may have known another catalogue, or have other rules; and only of these was the group asked.
fn reads_the_same(entry: &Entry, verdict: &Verdict) -> bool {
    let Read::Cacheable(tables) = &verdict.read else { return false };
    let kept: BTreeSet<_> = entry.stamp.slots().filter_map(|slot| slot.table).collect();
    kept == tables.iter().copied().collect()
}

fn pipelined(owed_nothing: bool) -> BypassReason {
    if owed_nothing { BypassReason::Group } else { BypassReason::Pipelined }
}

/// The group as one read: `[Parse] Bind [Describe portal] Execute Sync`, unnamed portal, all rows.
fn single(group: &Group) -> Option<Single<'_>> {
    let (single, count) = front(group)?;
    let rest = group.parts.get(count..).unwrap_or_default();
    let alone = matches!(rest, [sync] if sync.tag == frontend::SYNC);
    (alone && single.rows_max == 0).then_some(single)
}

/// The statement at the front of the group and how many messages it is.
pub(super) fn front(group: &Group) -> Option<(Single<'_>, usize)> {
    let mut parts = group.parts.iter().peekable();
    let parse = match parts.peek()?.tag {
        frontend::PARSE => Some(Parse::read(group.body(parts.next()?)).ok()?),
        _ => None,
    };
    let bind = parts.next().filter(|part| part.tag == frontend::BIND)?;
    let bind = Bind::read(group.body(bind)).ok()?;
    let parsed_it = parse.as_ref().is_none_or(|parse| parse.name == bind.statement);
    if !bind.portal.is_empty() || !parsed_it {
        return None;
    }
    let mut describe = false;
    if parts.peek()?.tag == frontend::DESCRIBE {
        let target = frontend::target(group.body(parts.next()?)).ok()?;
        if target != (Target::Portal, &b""[..]) {
            return None;
        }
        describe = true;
    }
    let execute = parts.next().filter(|part| part.tag == frontend::EXECUTE)?;
    let (portal, rows_max) = frontend::execute(group.body(execute)).ok()?;
    let count = group.parts.len() - parts.len();
    portal.is_empty().then_some((Single { parse, bind, describe, rows_max }, count))
}
