//! Sending a group to a server: names rewritten, settings assumed, commits bracketed
//! (`bracket.rs`), a fill begun, all in the server's one buffer for one write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::cache::fill::Fill;
use crate::pool::statements::Statement;
use crate::server::outstanding::{Deliver, Owed, Reply};
use crate::server::{Server, shared_name};
use crate::sql::verdict::{BypassReason, Verdict, Write};
use crate::wire::backend::{self, Status};
use crate::wire::frontend::{self, Bind, Parse, Target};

use super::bracket::{commits_inside, ends_block};
use super::group::Group;
use super::revalidate::Standing;
use super::session::{Extent, RequestKind, Session, Unit};
use super::statements::{Portal, Prepared};
use super::underway::Shape;

impl Session {
    /// Makes a server that is just handed over this client's: what others left is taken back, and
    /// the client's settings are assumed, all in the same write as its first request.
    pub fn adopt(&mut self, server: &mut Server) {
        server.clean();
        server.assume(&self.settings);
        if self.facts.as_ref().is_some_and(|facts| facts.key.base != server.base.id) {
            // It was judged as if the session had started otherwise.
            self.work.query_verdict = None;
            self.work.plan = None;
        }
        self.base = Some(Arc::clone(&server.base));
        self.base_defaults = server.defaults;
    }

    /// Sends the collected group on. The server is ours and set to nobody else's state.
    pub fn dispatch(&mut self, server: &mut Server, now: Instant) {
        if self.is_answered() {
            self.take_footprint(server);
            self.work.moment = None;
        }
        self.forget_revalidation();
        if let Some(hit) = self.work.early_hit.take() {
            server.outstanding.push(Owed::Invented(hit.leak(), 0));
            self.work.group.clear();
            return;
        }
        if server.is_clean() && !self.work.unsynced {
            server.assume(&self.settings);
        }
        let begun = self.send_kept_back(server);
        if !self.work.unsynced {
            let owed_nothing = begun || server.outstanding.is_empty();
            self.work.in_block = self.status() == Status::InTransaction && owed_nothing;
        }
        self.count_hits_as_queries(server);
        self.begin_fill(server, now);
        let mut group = std::mem::take(&mut self.work.group);
        let kept_back = self.send_parts(server, &group);
        if self.work.unlocks && !self.work.unsynced {
            self.work.unlocks = false;
            // In a block DISCARD ALL is refused, and lets go of nothing.
            if self.status() == Status::Idle {
                server.take_lock_again();
            }
        }
        self.work.underway.sent(now);
        if let Some(at) = kept_back {
            group.parts.drain(..at);
            self.work.group = group;
        } else {
            self.work.group = group;
            self.work.group.clear();
            self.work.describing = false;
        }
    }

    /// Gives the first message that is kept back, with all behind it.
    fn send_parts(&mut self, server: &mut Server, group: &Group) -> Option<usize> {
        for (at, part) in group.parts.iter().enumerate() {
            let (message, body) = (group.message(part), group.body(part));
            match part.tag {
                frontend::QUERY => self.send_query(server, message, body),
                frontend::FUNCTION_CALL => self.send_function_call(server, message),
                frontend::PARSE => {
                    let described = group.parts.get(at + 1).is_some_and(|next| {
                        next.tag == frontend::DESCRIBE && describes(group.body(next), body)
                    });
                    self.send_parse(server, message, body, described);
                }
                frontend::BIND => {
                    if self.send_bind(server, message, body) == Sent::Not {
                        return Some(at);
                    }
                }
                frontend::DESCRIBE => {
                    if self.send_describe(server, message, body) == Sent::Not {
                        return Some(at);
                    }
                }
                frontend::EXECUTE => self.send_execute(server, message, body),
                frontend::CLOSE => self.send_close(server, message, body),
                frontend::SYNC => self.send_sync(server, message),
                _ => server.to_server.extend_from_slice(message),
            }
        }
        None
    }

    /// Stamps what the group reads, before its Bind or Query is in the buffer (rule R14).
    fn begin_fill(&mut self, server: &Server, now: Instant) {
        let Some(plan) = self.work.plan.take() else { return };
        let base = self.facts.as_ref().map(|facts| facts.key.base);
        if base != Some(server.base.id) || server.tainted {
            return;
        }
        let cache = &self.common.cache;
        let stamp = server.home.coherence.stamp(plan.tables());
        // A catalogue change moves the generation before it lets go of the slots: a stamp taken
        // after it must not bless a verdict from before it (hazard H32).
        let snapshot = self.common.database.snapshot();
        let current =
            snapshot.generation == plan.generation && Arc::ptr_eq(&snapshot.home, &server.home);
        if let Some(stamp) = stamp.filter(|_| current) {
            let limit = cache.limits().entry_bytes_max;
            let fill = Fill::begin(&self.work.key, stamp, now, limit);
            self.work.fill = Some(Box::new(
                fill.led_by(plan.leader).counted_by(plan.uses).watched_by(plan.witness),
            ));
        } else {
            self.common.cache_counters.refused.one();
        }
    }

    fn send_query(&mut self, server: &mut Server, message: &[u8], body: &[u8]) {
        if server.outstanding.is_skipping() {
            self.work.query_verdict = None;
            return;
        }
        self.forget_old_verdict();
        let mut judged = None;
        let mut generation = self.work.query_generation;
        let verdict = self.work.query_verdict.take().unwrap_or_else(|| {
            let (known, now) = self.verdict_of_text(frontend::query(body).unwrap_or_default());
            let verdict = Arc::clone(&known.verdict);
            (judged, generation) = (Some(known), now);
            verdict
        });
        let mut armed = std::mem::take(&mut self.work.armed);
        armed.append(self.bracket(&verdict, generation, server));
        let extent = std::mem::take(&mut self.work.extent).and(extent(&verdict));
        let unit = Unit { extent, verdict: Some(Arc::clone(&verdict)), armed, completed: 0 };
        self.work.unsynced = false;
        self.common.counters.query.one();
        self.open_block(server);
        let request = self.request(RequestKind::Unit(unit));
        let shape = || judged.map_or(Shape::Unknown, Shape::Text);
        self.begin_running(request, shape, &verdict, self.work.unasked);
        server.outstanding.push(Owed::forward(Reply::Query, request));
        server.to_server.extend_from_slice(message);
        self.ask_behind(server);
        server.unnamed = None;
        self.names.remove_portal(b"");
    }

    /// The catalogue may have changed while the Query waited for a server.
    pub(super) fn forget_old_verdict(&mut self) {
        if self.work.query_generation != self.common.database.generation() {
            self.work.query_verdict = None;
        }
    }

    /// FunctionCall runs a function by its OID: an opaque statement.
    fn send_function_call(&mut self, server: &mut Server, message: &[u8]) {
        if server.outstanding.is_skipping() {
            return;
        }
        let verdict = Arc::new(opaque("FUNCTION"));
        let generation = self.common.database.generation();
        let mut armed = std::mem::take(&mut self.work.armed);
        armed.append(self.bracket(&verdict, generation, server));
        let extent = std::mem::take(&mut self.work.extent).and(Extent::Several);
        let unit = Unit { extent, armed, verdict: Some(verdict), completed: 0 };
        self.work.unsynced = false;
        let request = self.request(RequestKind::Unit(unit));
        server.outstanding.push(Owed::forward(Reply::Query, request));
        server.to_server.extend_from_slice(message);
    }

    /// `described`: the client asks itself what the statement is.
    fn send_parse(&mut self, server: &mut Server, message: &[u8], body: &[u8], described: bool) {
        self.work.unsynced = true;
        let Ok(parse) = Parse::read(body) else { return };
        self.count_parse(parse.name);
        if !parse.name.is_empty() && self.names.find(parse.name).is_some() {
            self.send_duplicate(server, message, parse.name);
            return;
        }
        let generation = self.common.database.generation();
        let statement = self.statement(parse.name, parse.sql, parse.types);
        if server.outstanding.is_skipping() {
            return;
        }
        if parse.name.is_empty() {
            server.unnamed = Some(statement.id);
            self.owe_parse(server, parse.name, &statement);
            server.to_server.extend_from_slice(message);
        } else if server.statements.get(&statement.id).is_some() {
            // With nothing in front of it that may fail it is as good as done.
            let request = if server.outstanding.is_empty() {
                0
            } else {
                let (name, statement) = (parse.name.into(), Arc::clone(&statement));
                self.request(RequestKind::Parse { name, statement })
            };
            server.outstanding.push(Owed::Invented(backend::PARSE_COMPLETE_MESSAGE, request));
        } else {
            server.make_room(self.common.limits.server_statements_max());
            server.statements.put(statement.id, ());
            self.owe_parse(server, parse.name, &statement);
            let name = shared_name(statement.id);
            frontend::write_parse(&mut server.to_server, &name, parse.sql, parse.types);
            if !described {
                self.owe_signature(server, parse.name, &statement);
            }
        }
        self.names.insert(parse.name, Prepared { statement, generation });
    }

    /// As PgBouncer counts: statements with a name, where such are kept for clients.
    fn counts_statement(&self, name: &[u8]) -> bool {
        !name.is_empty() && self.common.limits.keeps_statements()
    }

    /// The client has prepared a statement, whoever answers that.
    pub(super) fn count_parse(&self, name: &[u8]) {
        if self.counts_statement(name) {
            self.common.counters.client_parse.one();
        }
    }

    fn owe_parse(&mut self, server: &mut Server, name: &[u8], statement: &Arc<Statement>) {
        if self.counts_statement(name) {
            self.common.counters.server_parse.one();
        }
        let kind = RequestKind::Parse { name: name.into(), statement: Arc::clone(statement) };
        let request = self.request(kind);
        server.outstanding.push(Owed::Expect {
            reply: Reply::Parse,
            deliver: Deliver::Forward,
            statement: Some(statement.id),
            request,
        });
    }

    /// A name that is taken: PostgreSQL shall say so itself, in its own words and with all that
    /// an error does to a transaction. So the name is made to exist there, for this group.
    fn send_duplicate(&mut self, server: &mut Server, message: &[u8], name: &[u8]) {
        if !server.outstanding.push(Owed::expect(Reply::Parse, Deliver::Swallow)) {
            return;
        }
        frontend::write_parse(&mut server.to_server, name, b"", &[]);
        server.outstanding.push(Owed::forward(Reply::Parse, 0));
        server.to_server.extend_from_slice(message);
        self.work.stray_names.push(name.into());
    }

    fn send_bind(&mut self, server: &mut Server, message: &[u8], body: &[u8]) -> Sent {
        self.work.unsynced = true;
        let Ok(bind) = Bind::read(body) else { return Sent::Whole };
        let generation = self.common.database.generation();
        let known = self.names.find(bind.statement);
        let stale = known.is_some_and(|known| known.generation != generation);
        let statement = known.map(|known| Arc::clone(&known.statement));
        let stale = stale.then(|| bind.statement.into());
        let portal = Portal { statement: statement.clone(), stale, begun: false };
        if server.outstanding.is_skipping() {
            return Sent::Whole;
        }
        let statement = statement.map(|statement| self.current(bind.statement, statement));
        let standing = statement
            .as_ref()
            .map_or(Standing::Fine, |statement| self.standing(server, bind.statement, statement));
        if standing == Standing::Asked {
            return Sent::Not;
        }
        if self.counts_statement(bind.statement) {
            self.common.counters.bind.one();
        }
        match statement {
            Some(statement) if standing == Standing::Changed => {
                self.send_refused(server, (bind.statement, &statement), false);
            }
            Some(statement) if bind.statement.is_empty() => {
                ensure_unnamed(server, &statement);
                server.outstanding.push(Owed::forward(Reply::Bind, 0));
                server.to_server.extend_from_slice(message);
            }
            Some(statement) => {
                self.prepare_on(server, bind.statement, &statement, &statement.types);
                server.outstanding.push(Owed::forward(Reply::Bind, 0));
                let out = &mut server.to_server;
                frontend::write_bind(out, bind.portal, &statement.name, bind.tail);
            }
            None => {
                forget_unnamed(server, bind.statement);
                server.outstanding.push(Owed::forward(Reply::Bind, 0));
                let name = unknown_name(bind.statement);
                frontend::write_bind(&mut server.to_server, bind.portal, &name, bind.tail);
            }
        }
        self.names.insert_portal(bind.portal, portal);
        Sent::Whole
    }

    /// A shared statement belongs to the settings it was parsed under; after SET the client's
    /// name stands for the statement of its new settings. The unnamed one is its own.
    fn current(&mut self, name: &[u8], statement: Arc<Statement>) -> Arc<Statement> {
        if name.is_empty() || statement.settings == self.settings.id {
            return statement;
        }
        let generation = self.common.database.generation();
        let current = self.common.statements.intern(
            &statement.sql,
            &statement.types,
            &self.settings,
            generation,
        );
        self.names.replace(name, &current);
        current
    }

    fn send_describe(&mut self, server: &mut Server, message: &[u8], body: &[u8]) -> Sent {
        self.work.unsynced = true;
        if server.outstanding.is_skipping() {
            return Sent::Whole;
        }
        let Ok((target, name)) = frontend::target(body) else { return Sent::Whole };
        let known = match target {
            Target::Statement => self.names.find(name).map(|known| Arc::clone(&known.statement)),
            Target::Portal => {
                server.outstanding.push(Owed::forward(Reply::Describe, 0));
                server.to_server.extend_from_slice(message);
                return Sent::Whole;
            }
        };
        let known = known.map(|statement| self.current(name, statement));
        if let Some(statement) = &known {
            match self.standing(server, name, statement) {
                Standing::Fine => {}
                Standing::Asked => return Sent::Not,
                Standing::Changed => {
                    self.send_refused(server, (name, statement), true);
                    return Sent::Whole;
                }
            }
        }
        let (server_name, statement) = match known {
            Some(statement) if name.is_empty() => {
                ensure_unnamed(server, &statement);
                (Vec::new(), Some(statement))
            }
            Some(statement) => {
                self.prepare_on(server, name, &statement, &statement.types);
                (shared_name(statement.id), Some(statement))
            }
            None => {
                forget_unnamed(server, name);
                (unknown_name(name), None)
            }
        };
        self.owe_description(server, name, statement.as_ref());
        let out = &mut server.to_server;
        frontend::write_target(out, frontend::DESCRIBE, Target::Statement, &server_name);
        Sent::Whole
    }

    fn send_execute(&mut self, server: &mut Server, message: &[u8], body: &[u8]) {
        self.work.unsynced = true;
        if server.outstanding.is_skipping() {
            return;
        }
        let Ok((name, rows_max)) = frontend::execute(body) else { return };
        self.common.counters.query.one();
        let continues = self.names.begin_portal(name);
        let portal = self.names.portal(name).cloned();
        let (statement, stale) =
            portal.map_or((None, None), |portal| (portal.statement, portal.stale));
        let (verdict, generation) = match &statement {
            Some(statement) => self.verdict_of(statement),
            // A portal we did not see made: DECLARE makes them too.
            None => (Arc::new(opaque("EXECUTE")), self.common.database.generation()),
        };
        let stale = stale.map(|name| (name, generation));
        let armed = self.bracket(&verdict, generation, server);
        self.work.armed.append(armed);
        self.work.extent = self.work.extent.and(extent(&verdict));
        let request = self.request(RequestKind::Execute { verdict: Arc::clone(&verdict), stale });
        let shape = || statement.map_or(Shape::Unknown, Shape::Prepared);
        let otherwise = if rows_max > 0 { BypassReason::RowLimit } else { self.work.unasked };
        self.begin_running(request, shape, &verdict, otherwise);
        if continues {
            self.continues_portal();
        }
        server.outstanding.push(Owed::forward(Reply::Execute, request));
        server.to_server.extend_from_slice(message);
    }

    fn send_close(&mut self, server: &mut Server, message: &[u8], body: &[u8]) {
        self.work.unsynced = true;
        if server.outstanding.is_skipping() {
            return;
        }
        match frontend::target(body) {
            Ok((Target::Statement, name)) if !name.is_empty() => {
                let closed = self.names.close(name).filter(|_| !server.outstanding.is_empty());
                let request = closed.map_or(0, |closed| {
                    let (name, closed) = (name.into(), Box::new(closed));
                    self.request(RequestKind::Close { name, closed })
                });
                server.outstanding.push(Owed::Invented(backend::CLOSE_COMPLETE_MESSAGE, request));
            }
            Ok((target, name)) => {
                if target == Target::Portal {
                    self.names.remove_portal(name);
                } else {
                    self.names.unnamed = None;
                    server.unnamed = None;
                }
                server.outstanding.push(Owed::forward(Reply::Close, 0));
                server.to_server.extend_from_slice(message);
            }
            Err(_) => {}
        }
    }

    fn send_sync(&mut self, server: &mut Server, message: &[u8]) {
        if server.outstanding.is_copying() {
            server.to_server.extend_from_slice(message);
            return;
        }
        if self.ask_before_sync(server) {
            return;
        }
        let unit = Unit {
            armed: std::mem::take(&mut self.work.armed),
            extent: std::mem::take(&mut self.work.extent),
            ..Unit::default()
        };
        self.work.unsynced = false;
        let request = self.request(RequestKind::Unit(unit));
        server.outstanding.push(Owed::forward(Reply::Sync, request));
        server.to_server.extend_from_slice(message);
        for name in std::mem::take(&mut self.work.stray_names) {
            let out = &mut server.to_server;
            frontend::write_target(out, frontend::CLOSE, Target::Statement, &name);
            server.outstanding.push(Owed::expect(Reply::Close, Deliver::Swallow));
            frontend::write_sync(&mut server.to_server);
            server.outstanding.push(Owed::expect(Reply::Sync, Deliver::Swallow));
        }
    }
}

/// Whether a Describe is of the statement that this Parse makes.
fn describes(describe: &[u8], parse: &[u8]) -> bool {
    let parsed = Parse::read(parse).map(|parse| parse.name);
    matches!(frontend::target(describe), Ok((Target::Statement, name)) if parsed == Ok(name))
}

/// Whether a message has been sent, or waits to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Whole,
    Not,
}

/// CREATE INDEX CONCURRENTLY and DROP INDEX CONCURRENTLY.
fn may_commit_twice(verdict: &Verdict) -> bool {
    matches!(verdict.write, Write::Schema(_))
}

fn extent(verdict: &Verdict) -> Extent {
    if verdict.statements > 1 {
        Extent::Several
    } else if commits_inside(verdict) || ends_block(verdict) || may_commit_twice(verdict) {
        Extent::Committing
    } else {
        Extent::Plain
    }
}

/// The unnamed statement lives on one server only; on another it is parsed again.
fn ensure_unnamed(server: &mut Server, statement: &Statement) {
    if server.unnamed != Some(statement.id) {
        server.prepare_unnamed(statement.id, &statement.sql, &statement.types);
    }
}

/// The client has no unnamed statement, so PostgreSQL shall not find another client's.
fn forget_unnamed(server: &mut Server, name: &[u8]) {
    if name.is_empty() && server.outstanding.push(Owed::expect(Reply::Close, Deliver::Swallow)) {
        frontend::write_target(&mut server.to_server, frontend::CLOSE, Target::Statement, b"");
        server.unnamed = None;
    }
}

fn opaque(tag: &'static str) -> Verdict {
    use crate::sql::verdict::Read;
    Verdict {
        controls: Vec::new(),
        ends: Box::default(),
        write: Write::Opaque { commits_inside: true, taints: true },
        read: Read::Bypass(BypassReason::NotARead),
        statements: 1,
        tag,
        exact_text: true,
        taints: true,
        restriction: crate::sql::verdict::Restriction::default(),
    }
}

/// A name the client never prepared, such that no server has it either: PostgreSQL answers that
/// it does not exist.
fn unknown_name(name: &[u8]) -> Vec<u8> {
    if name.starts_with(b"forebay_") { [b"unknown ", name].concat() } else { name.to_vec() }
}

impl Statement {
    /// A server has parsed it.
    pub fn accept(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }
}
