//! Answering a group without a server: from the cache, or because nothing needs one.
//!
//! What a client sees on a hit is made up here: envelope messages fresh, rows as PostgreSQL sent
//! them.

use std::sync::Arc;
use std::time::Instant;

use xxhash_rust::xxh3::xxh3_64;

use crate::cache::Mode;
use crate::cache::entry::Entry;
use crate::cache::key::StatementKey;
use crate::insight::Outcome;
use crate::pool::signature::Signature;
use crate::pool::statements::Statement;
use crate::pool::{PinPolicy, PoolMode};
use crate::server::Server;
use crate::sql::hint::Hint;
use crate::sql::verdict::{BypassReason, Control, Read, Verdict, Write};
use crate::twin::{self, Twin};
use crate::wire::backend::{self, Status};
use crate::wire::frontend::{self, Parse};

use super::bracket::may_be_finer;
use super::check::Asked;
use super::judge::{age, has_time_word};
use super::pins::{Pin, Pins};
use super::session::{Found, Session};
use super::single::{Single, single};
use super::statements::Prepared;
use super::transaction::Dirty;
use super::underway::Shape;
use super::verify::Looked;

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
}

fn pipelined(owed_nothing: bool) -> BypassReason {
    if owed_nothing { BypassReason::Group } else { BypassReason::Pipelined }
}
