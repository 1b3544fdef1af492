//! Answering a group without a server: from the cache, or because nothing needs one.
//!
//! What a client sees on a hit is made up here: envelope messages fresh, rows as PostgreSQL sent
//! them.

use std::sync::Arc;
use std::time::Instant;

use crate::cache::Mode;
use crate::cache::entry::Entry;
use crate::cache::key::StatementKey;
use crate::pool::statements::{Known, Statement};
use crate::pool::{PinPolicy, PoolMode, database};
use crate::server::Server;
use crate::sql::classify::{Context, classify};
use crate::sql::lex::{contains_time_word, lex};
use crate::sql::verdict::{BypassReason, Control, Read, Verdict, Write};
use crate::twin::{self, Twin};
use crate::wire::backend::{self, Status};
use crate::wire::frontend::{self, Bind, Parse, Target};

use super::facts::Facts;
use super::pins::{Pin, Pins};
use super::session::{FillPlan, Found, Outcome, Running, Session, Shape};
use super::statements::Prepared;

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
    /// The answer may be in Redis: look there, then `Session::answer_again`. Until then no other
    /// message of this client may be taken.
    AskRedis,
    /// It would tie the client to a server, and the policy forbids that.
    Refuse(Pin),
}

/// The one read of an extended group, and the messages round it.
struct Single<'a> {
    parse: Option<Parse<'a>>,
    bind: Bind<'a>,
    /// Describe of the portal was asked for.
    describe: bool,
}

impl Session {
    /// Answers the group if that needs no server. `now` is when its last byte was read.
    pub fn answer(&mut self, server: Option<&Server>, now: Instant, out: &mut Vec<u8>) -> Answer {
        let owed_nothing = self.is_owed_nothing(server);
        self.plan = None;
        for scope in std::mem::take(&mut self.unsettled) {
            self.common.database.home().coherence.invalidate(&scope);
        }
        if !owed_nothing && twin::is(Twin::PipelineLookupOnArrival) {
            let mut hit = Vec::new();
            if self.answer_group(true, now, &mut hit) == Answer::Done {
                self.early_hit = Some(hit);
            }
            self.plan = None;
            return Answer::Send;
        }
        let answer = self.answer_group(owed_nothing, now, out);
        if answer == Answer::Done {
            self.group.clear();
        }
        answer
    }

    /// Answers the group after Redis was asked for `self.key`. Everything is judged anew, since
    /// the world may have moved meanwhile: the entry is served only if it is true now.
    pub fn answer_again(
        &mut self,
        found: Option<Arc<Entry>>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Answer {
        self.found = found.map_or(Found::Nothing, Found::Entry);
        // It was owed nothing when Redis was asked, and was sent nothing since.
        let answer = self.answer_group(true, now, out);
        self.found = Found::NotAsked;
        if answer == Answer::Done {
            self.group.clear();
        }
        answer
    }

    fn answer_group(&mut self, owed_nothing: bool, now: Instant, out: &mut Vec<u8>) -> Answer {
        let group = std::mem::take(&mut self.group);
        let answer = match group.parts.as_slice() {
            [query] if query.tag == frontend::QUERY => {
                let sql = frontend::query(group.body(query)).unwrap_or_default();
                self.answer_query(sql, owed_nothing, now, out)
            }
            parts
                if owed_nothing && parts.last().is_some_and(|part| part.tag == frontend::SYNC) =>
            {
                match single(&group) {
                    Some(single) => self.answer_single(&single, now, out),
                    None => self.answer_without_rows(&group, out),
                }
            }
            parts => {
                if parts.iter().any(|part| part.tag == frontend::EXECUTE) {
                    self.note(Outcome::Bypass(pipelined(owed_nothing)), Shape::Unknown, now, false);
                }
                Answer::Send
            }
        };
        self.group = group;
        answer
    }

    fn answer_query(
        &mut self,
        sql: &[u8],
        owed_nothing: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Answer {
        let (known, generation) = self.verdict_of_text(sql);
        let verdict = Arc::clone(&known.verdict);
        self.query_verdict = Some(Arc::clone(&verdict));
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
        let shape = Shape::Text(known);
        let writes = verdict.write != Write::None;
        let reason = self
            .bypass(&verdict, owed_nothing)
            .or_else(|| self.lexed.time_word.then_some(BypassReason::TimeWord));
        if let Some(reason) = reason {
            self.note(Outcome::Bypass(reason), shape, now, writes);
            return Answer::Send;
        }
        let lexed = std::mem::take(&mut self.lexed);
        let key = StatementKey {
            text: &lexed.text,
            types: &[],
            formats: &[],
            values: &[],
            result_formats: &[],
        };
        let fits = self.set_key(&key);
        self.lexed = lexed;
        if !fits {
            self.note(Outcome::Bypass(BypassReason::KeyTooLong), shape, now, false);
            return Answer::Send;
        }
        let Some(entry) = self.hit(true, now) else {
            if self.should_ask_redis() {
                return Answer::AskRedis;
            }
            self.note(Outcome::Miss, shape, now, false);
            self.plan = Some(FillPlan { tables: verdict, generation });
            return Answer::Send;
        };
        if let Some(row_description) = &entry.row_description {
            out.extend_from_slice(row_description);
        }
        out.extend_from_slice(&entry.rows);
        backend::write_ready(out, self.status());
        self.note_hit(shape, now, &entry);
        Answer::Done
    }

    /// Whether a catalogue would make a difference that is worth a short wait, once a group.
    fn awaits_catalog(&mut self, verdict: &Verdict) -> bool {
        let worth = self.common.cache.mode() != Mode::Off
            && matches!(verdict.write, Write::Opaque { .. })
            && self.common.database.snapshot().catalog.is_none();
        let first = !std::mem::replace(&mut self.awaited_catalog, worth);
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
                self.names.prepared.remove(name.as_bytes()).is_some()
            }
            _ => false,
        }
    }

    fn answer_single(&mut self, single: &Single<'_>, now: Instant, out: &mut Vec<u8>) -> Answer {
        let Some(prepared) = self.prepared_for(single) else { return Answer::Send };
        let statement = Arc::clone(&prepared.statement);
        let (verdict, generation) = self.verdict_of(&statement);
        if self.awaits_catalog(&verdict) {
            return Answer::AwaitCatalog;
        }
        if let Some(pin) = self.refused(&verdict) {
            return Answer::Refuse(pin);
        }
        let shape = Shape::Prepared(Arc::clone(&statement));
        let writes = verdict.write != Write::None;
        let stale = single.parse.is_none() && prepared.generation != generation;
        let reason = self
            .bypass(&verdict, true)
            .or_else(|| stale.then_some(BypassReason::StaleStatement))
            .or_else(|| has_time_word(&statement, &single.bind).then_some(BypassReason::TimeWord));
        if let Some(reason) = reason {
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
        let Some(entry) = self.hit(single.describe, now) else {
            if self.should_ask_redis() {
                return Answer::AskRedis;
            }
            self.note(Outcome::Miss, shape, now, false);
            self.plan = Some(FillPlan { tables: verdict, generation });
            return Answer::Send;
        };
        if let Some(parse) = &single.parse {
            out.extend_from_slice(backend::PARSE_COMPLETE_MESSAGE);
            self.names.insert(parse.name, Prepared { statement, generation });
        }
        out.extend_from_slice(backend::BIND_COMPLETE_MESSAGE);
        if single.describe
            && let Some(row_description) = &entry.row_description
        {
            out.extend_from_slice(row_description);
        }
        out.extend_from_slice(&entry.rows);
        backend::write_ready(out, self.status());
        self.note_hit(shape, now, &entry);
        Answer::Done
    }

    /// The statement a single read runs, as the client named it or as it parses it just now.
    fn prepared_for(&mut self, single: &Single<'_>) -> Option<Prepared> {
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

    /// Groups of Parse, Close and Sync that need no answer from PostgreSQL.
    fn answer_without_rows(&mut self, group: &super::group::Group, out: &mut Vec<u8>) -> Answer {
        if self.status() == Status::Failed {
            return Answer::Send;
        }
        let mut parses = false;
        let mut named = Vec::new();
        for part in &group.parts {
            match part.tag {
                frontend::SYNC => {}
                frontend::PARSE => match Parse::read(group.body(part)) {
                    Ok(parse)
                        if !parse.name.is_empty()
                            && self.names.find(parse.name).is_none()
                            && !named.contains(&parse.name) =>
                    {
                        named.push(parse.name);
                        let statement = self.statement(parse.name, parse.sql, parse.types);
                        parses |= !statement.accepted.load(std::sync::atomic::Ordering::Relaxed);
                    }
                    Ok(_) | Err(_) => return Answer::Send,
                },
                frontend::CLOSE => match frontend::target(group.body(part)) {
                    Ok((Target::Statement, _)) => {}
                    Ok((Target::Portal, _)) | Err(_) => return Answer::Send,
                },
                _ => return Answer::Send,
            }
        }
        if parses {
            return Answer::SendIfFree;
        }
        self.accept_without_server(group, out);
        Answer::Done
    }

    /// Answers a group of Parse, Close and Sync here. A statement that PostgreSQL would refuse is
    /// refused at its first Bind instead; that is the price for a Parse that never waits for a
    /// server while other clients of the same program hold them all.
    pub fn accept_parse(&mut self, out: &mut Vec<u8>) {
        let group = std::mem::take(&mut self.group);
        self.accept_without_server(&group, out);
        self.group = group;
        self.group.clear();
    }

    fn accept_without_server(&mut self, group: &super::group::Group, out: &mut Vec<u8>) {
        let generation = self.common.database.generation();
        for part in &group.parts {
            let body = group.body(part);
            match part.tag {
                frontend::PARSE => {
                    if let Ok(parse) = Parse::read(body) {
                        let statement = self.statement(parse.name, parse.sql, parse.types);
                        self.names.insert(parse.name, Prepared { statement, generation });
                        self.common.counters.client_parse.one();
                        out.extend_from_slice(backend::PARSE_COMPLETE_MESSAGE);
                    }
                }
                frontend::CLOSE => {
                    if let Ok((_, name)) = frontend::target(body) {
                        self.names.prepared.remove(name);
                        out.extend_from_slice(backend::CLOSE_COMPLETE_MESSAGE);
                    }
                }
                _ => backend::write_ready(out, self.status()),
            }
        }
    }

    /// Why this statement is not looked up, if it is not.
    fn bypass(&self, verdict: &Verdict, owed_nothing: bool) -> Option<BypassReason> {
        if self.common.cache.mode() == Mode::Off {
            return Some(BypassReason::CacheOff);
        }
        if let Read::Bypass(reason) = verdict.read {
            return Some(reason);
        }
        if !owed_nothing {
            return Some(BypassReason::Pipelined);
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
        if facts.standby {
            return Some(BypassReason::Standby);
        }
        self.transaction.bypass(facts.isolation)
    }

    fn set_key(&mut self, statement: &StatementKey<'_>) -> bool {
        let Some(facts) = &self.facts else { return false };
        self.key.set(facts.key, statement)
    }

    /// A true entry for the key that has been set.
    fn hit(&self, needs_description: bool, now: Instant) -> Option<Arc<Entry>> {
        let cache = &self.common.cache;
        let entry = match (cache.look_up(&self.key, now), &self.found) {
            (Some(entry), _) => entry,
            (None, Found::Entry(entry))
                if *entry.key == *self.key.bytes()
                    && cache.is_true(entry, now)
                    && (!needs_description || entry.row_description.is_some()) =>
            {
                cache.promote(entry);
                self.common.cache_counters.hits_redis.one();
                Arc::clone(entry)
            }
            (None, Found::Entry(_) | Found::Nothing | Found::NotAsked) => return None,
        };
        if needs_description && entry.row_description.is_none() {
            return None;
        }
        match cache.mode() {
            Mode::On => Some(entry),
            Mode::DryRun | Mode::Off => {
                self.common.cache_counters.would_hit.one();
                None
            }
        }
    }

    fn should_ask_redis(&self) -> bool {
        matches!(self.found, Found::NotAsked) && self.common.cache.may_be_in_redis(&self.key)
    }

    /// Remembers what is under way and counts what the cache had to do with it.
    fn note(&mut self, outcome: Outcome, shape: Shape, now: Instant, writes: bool) {
        let counters = &self.common.cache_counters;
        match outcome {
            Outcome::Hit => counters.hits.one(),
            Outcome::Miss => counters.misses.one(),
            Outcome::Bypass(reason) => counters.bypass(reason),
        }
        self.running = Some(Running { arrived_at: now, sent_at: None, shape, outcome, writes });
    }

    fn note_hit(&mut self, shape: Shape, now: Instant, entry: &Entry) {
        self.note(Outcome::Hit, shape, now, false);
        let len = entry.rows.len() as u64;
        self.common.cache_counters.hit_bytes.add(len);
        self.common.counters.query.one();
        if self.status() == Status::Idle {
            self.common.counters.xact.one();
        }
        self.finish_running(now, 0, false, None);
    }

    /// The verdict on a text under the client's settings, from memory if it is known. Leaves the
    /// lexed text in `self.lexed`.
    pub fn verdict_of_text(&mut self, sql: &[u8]) -> (Arc<database::Known>, u64) {
        let mut lexed = std::mem::take(&mut self.lexed);
        let plain = lex(sql, &mut lexed).is_ok();
        if !plain {
            lexed.shape.clear();
            lexed.text.clear();
        }
        let known = self.classified(sql, &[], plain.then_some(lexed.shape.as_slice()));
        self.lexed = lexed;
        known
    }

    /// The verdict on a prepared statement and the catalogue generation it holds under.
    pub fn verdict_of(&mut self, statement: &Statement) -> (Arc<Verdict>, u64) {
        let (key, generation) = {
            let facts = self.refresh_facts();
            (facts.key, facts.generation)
        };
        if let Some(verdict) = statement.known(generation, key.settings, key.base) {
            return (verdict, generation);
        }
        let shape = statement.lexed.as_ref().map(|lexed| lexed.shape.as_slice());
        let (known, generation) = self.classified(&statement.sql, &statement.types, shape);
        let verdict = Arc::clone(&known.verdict);
        statement.remember(Known {
            generation,
            settings_key: key.settings,
            base: key.base,
            verdict: Arc::clone(&verdict),
        });
        (verdict, generation)
    }

    fn classified(
        &mut self,
        sql: &[u8],
        types: &[u8],
        shape: Option<&[u8]>,
    ) -> (Arc<database::Known>, u64) {
        self.refresh_facts();
        let snapshot = self.common.database.snapshot();
        let unreadable = || database::Known::unshaped(unreadable());
        let Some(facts) = &self.facts else { return (unreadable(), 0) };
        let plain = facts.readable_without_backslash && !sql.contains(&b'\\');
        if !facts.readable && !plain {
            return (unreadable(), snapshot.generation);
        }
        let Ok(text) = std::str::from_utf8(sql) else {
            return (unreadable(), snapshot.generation);
        };
        let parameter_types: Vec<u32> = Parse::type_oids(types).collect();
        let context = Context {
            catalog: snapshot.catalog.as_deref(),
            search_path: &facts.search_path,
            parameter_types: &parameter_types,
        };
        let Some(shape) = shape else {
            let mut verdict = classify(text, &context);
            if matches!(verdict.read, Read::Cacheable(_)) {
                verdict.read = Read::Bypass(BypassReason::Unparsable);
            }
            return (database::Known::unshaped(verdict), snapshot.generation);
        };
        self.material.clear();
        for id in [snapshot.generation, facts.key.settings, facts.key.base] {
            self.material.extend_from_slice(&id.to_be_bytes());
        }
        self.material.extend_from_slice(&u32::try_from(types.len()).unwrap_or(0).to_be_bytes());
        self.material.extend_from_slice(types);
        let shape_at = self.material.len();
        self.material.extend_from_slice(shape);
        let database = &self.common.database;
        let known = database.verdict(&self.material, shape_at, || classify(text, &context));
        (known, snapshot.generation)
    }

    fn refresh_facts(&mut self) -> FactsNow {
        let base_id = self.base.as_ref().map_or_else(|| self.common.base_id(), |base| base.id);
        if self.facts.as_ref().is_none_or(|facts| !facts.is_of(base_id, &self.settings)) {
            let base = self.base.clone().unwrap_or_else(|| self.common.base());
            self.facts = Some(Facts::new(&self.common, &base, &self.settings));
        }
        let key = self.facts.as_ref().map_or_else(Default::default, |facts| facts.key);
        FactsNow { key, generation: self.common.database.generation() }
    }
}

struct FactsNow {
    key: crate::cache::key::SessionKey,
    generation: u64,
}

/// A text that we cannot read may do anything.
fn unreadable() -> Verdict {
    Verdict {
        controls: Vec::new(),
        write: Write::Opaque { commits_inside: true, taints: true },
        read: Read::Bypass(BypassReason::Unparsable),
        statements: 2,
        tag: "UNKNOWN",
        exact_text: true,
    }
}

fn pipelined(owed_nothing: bool) -> BypassReason {
    if owed_nothing { BypassReason::Group } else { BypassReason::Pipelined }
}

/// The group as one read: `[Parse] Bind [Describe portal] Execute Sync`, unnamed portal, all rows.
fn single(group: &super::group::Group) -> Option<Single<'_>> {
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
    if frontend::execute(group.body(execute)).ok()? != (&b""[..], 0) {
        return None;
    }
    let sync = parts.next().filter(|part| part.tag == frontend::SYNC);
    (sync.is_some() && parts.next().is_none()).then_some(Single { parse, bind, describe })
}

/// Rule R29: a literal or a text parameter that may be read as a moment.
fn has_time_word(statement: &Statement, bind: &Bind<'_>) -> bool {
    statement.lexed.as_ref().is_none_or(|lexed| lexed.time_word)
        || (bind.values_may_be_text() && contains_time_word(bind.values))
}
