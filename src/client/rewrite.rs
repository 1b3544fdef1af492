//! Parse, Bind, Describe and Close on their way to a server: the client's names of statements become
//! those that servers know them by, and what a server lacks is put in front.

use std::sync::Arc;

use crate::pool::statements::Statement;
use crate::server::outstanding::{Deliver, Owed, Reply};
use crate::server::{Server, shared_name};
use crate::wire::backend;
use crate::wire::frontend::{self, Bind, Parse, Target};

use super::revalidate::Standing;
use super::session::{RequestKind, Session};
use super::statements::{Portal, Prepared};

/// Whether a message has been sent, or waits to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    Not,
}

impl Session {
    /// `described`: the client asks itself what the statement is.
    pub(super) fn send_parse(
        &mut self,
        server: &mut Server,
        message: &[u8],
        body: &[u8],
        described: bool,
    ) {
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

    pub(super) fn send_bind(&mut self, server: &mut Server, message: &[u8], body: &[u8]) -> Sent {
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

    pub(super) fn send_describe(
        &mut self,
        server: &mut Server,
        message: &[u8],
        body: &[u8],
    ) -> Sent {
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

    pub(super) fn send_close(&mut self, server: &mut Server, message: &[u8], body: &[u8]) {
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

/// A name the client never prepared, such that no server has it either: PostgreSQL answers that
/// it does not exist.
fn unknown_name(name: &[u8]) -> Vec<u8> {
    if name.starts_with(b"forebay_") { [b"unknown ", name].concat() } else { name.to_vec() }
}
