//! Sending a group to a server: names rewritten (`rewrite.rs`), settings assumed, commits bracketed
//! (`bracket.rs`), a fill begun, all in the server's one buffer for one write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::cache::fill::Fill;
use crate::pool::statements::Statement;
use crate::server::Server;
use crate::server::outstanding::{Deliver, Owed, Reply};
use crate::sql::verdict::{BypassReason, Verdict, Write};
use crate::wire::backend::Status;
use crate::wire::frontend::{self, Parse, Target};

use super::bracket::{commits_inside, ends_block};
use super::group::Group;
use super::rewrite::Sent;
use super::session::{Extent, RequestKind, Session, Unit};
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

impl Statement {
    /// A server has parsed it.
    pub fn accept(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }
}
