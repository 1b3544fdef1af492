//! Descriptions of statements: given here when PostgreSQL has given the same one before and its
//! catalogue has not changed since; kept when they pass by.
//!
//! Kept are those of statements whose description follows from the catalogue alone. That of
//! EXECUTE or FETCH depends on what the session has under that name.

use std::sync::Arc;

use crate::cache::Mode;
use crate::pool::signature::Signature;
use crate::pool::statements::Statement;
use crate::server::Server;
use crate::server::outstanding::{Owed, Reply};
use crate::sql::verdict::{Isolation, Verdict};
use crate::wire::frontend::{self, Parse, Target};

use super::group::Group;
use super::look_up::Answer;
use super::pins::Pin;
use super::revalidate::Described;
use super::session::{RequestKind, Session};

/// What a group without Execute comes to.
pub(super) enum Preparing {
    /// It can be answered with these descriptions, in order.
    Known(Vec<Arc<[u8]>>),
    Otherwise(Answer),
}

impl Session {
    /// Judges a group of Parse, Describe, Close and Sync: what of it needs PostgreSQL.
    pub(super) fn prepare(&mut self, group: &Group) -> Preparing {
        let mut parsed: Vec<(&[u8], Arc<Statement>, bool)> = Vec::new();
        let mut known = Vec::new();
        let (mut unknown, mut closes) = (false, false);
        for part in &group.parts {
            let body = group.body(part);
            match part.tag {
                frontend::SYNC => {}
                frontend::PARSE => {
                    let Ok(parse) = Parse::read(body) else { return Preparing::SEND };
                    let again = parsed.iter().any(|(name, _, _)| *name == parse.name);
                    let taken = !parse.name.is_empty() && self.names.find(parse.name).is_some();
                    if again || taken {
                        return Preparing::SEND;
                    }
                    let statement = self.statement(parse.name, parse.sql, parse.types);
                    parsed.push((parse.name, statement, false));
                }
                frontend::DESCRIBE => {
                    let Ok((Target::Statement, name)) = frontend::target(body) else {
                        return Preparing::SEND;
                    };
                    let here = parsed.iter_mut().find(|(parsed, _, _)| *parsed == name);
                    let statement = match here {
                        Some((_, statement, described)) => {
                            *described = true;
                            Arc::clone(statement)
                        }
                        None => match self.current_statement(name) {
                            Some(statement) => statement,
                            None => return Preparing::SEND,
                        },
                    };
                    match self.description(&statement) {
                        Some(description) => known.push(description),
                        None => unknown = true,
                    }
                }
                frontend::CLOSE => match frontend::target(body) {
                    Ok((Target::Statement, _)) => closes = true,
                    Ok((Target::Portal, _)) | Err(_) => return Preparing::SEND,
                },
                _ => return Preparing::SEND,
            }
        }
        if unknown || (closes && !known.is_empty()) {
            self.work.describing = unknown && !closes;
            return Preparing::SEND;
        }
        // What PostgreSQL has described it has also accepted.
        let mut undescribed = parsed.iter().filter(|(_, _, described)| !described).peekable();
        if undescribed.peek().is_some() && !known.is_empty() {
            return Preparing::SEND;
        }
        let accepted = std::sync::atomic::Ordering::Relaxed;
        let mut unaccepted = false;
        for (name, statement, _) in undescribed {
            if name.is_empty() {
                return Preparing::SEND;
            }
            unaccepted |= !statement.accepted.load(accepted);
        }
        if unaccepted { Preparing::Otherwise(Answer::SendIfFree) } else { Preparing::Known(known) }
    }

    /// What a name of the client's stands for, if it has stood for it under these settings only.
    fn current_statement(&self, name: &[u8]) -> Option<Arc<Statement>> {
        let statement = &self.names.find(name)?.statement;
        (statement.settings == self.settings.id).then(|| Arc::clone(statement))
    }

    fn description(&mut self, statement: &Statement) -> Option<Arc<[u8]>> {
        self.description_key(statement)?;
        let messages = self.common.descriptions.get(&self.work.material)?;
        statement.was_told(|| Signature::read(&messages));
        Some(messages)
    }

    /// Leaves in `self.work.material` what the description of a statement depends on; `None` if that is
    /// more.
    fn description_key(&mut self, statement: &Statement) -> Option<()> {
        let (verdict, generation) = self.verdict_of(statement);
        let text = &statement.lexed.as_ref()?.text;
        // One that is older keeps the parameters that it was parsed with.
        let current = statement.generation == generation;
        if !current || statement.folds_at_parse() || !self.may_describe(&verdict) {
            return None;
        }
        let key = self.facts.as_ref()?.key;
        self.work.material.clear();
        for id in [generation, key.settings, key.base] {
            self.work.material.extend_from_slice(&id.to_be_bytes());
        }
        let types_len = u32::try_from(statement.types.len()).ok()?;
        self.work.material.extend_from_slice(&types_len.to_be_bytes());
        self.work.material.extend_from_slice(&statement.types);
        self.work.material.extend_from_slice(text);
        Some(())
    }

    /// Whether a description follows from the catalogue that all sessions see.
    fn may_describe(&self, verdict: &Verdict) -> bool {
        let from_catalog = verdict.statements == 1
            && matches!(verdict.tag, "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "MERGE");
        let of_session = self.pins.has(Pin::TemporaryObjects)
            || self.pins.has(Pin::SessionState)
            || self.tainted
            || !self.knows_defaults();
        let snapshot = self.common.database.snapshot();
        from_catalog
            && !of_session
            && self.common.cache.mode() == Mode::On
            && !self.common.database.is_down()
            && self.facts.as_ref().is_some_and(|facts| facts.key.base != 0)
            // In a transaction of its own a client sees its own catalogue.
            && self.work.transaction.bypass(Isolation::ReadCommitted).is_none()
            && snapshot.catalog.is_some()
            // While a change of the catalogue is in flight, others may have seen it already.
            && snapshot.home.coherence.stamp(&[]).is_some()
    }

    /// Owes the description of a statement to the client, and keeps it when it comes.
    pub(super) fn owe_description(
        &mut self,
        server: &mut Server,
        name: &[u8],
        statement: Option<&Arc<Statement>>,
    ) {
        let same_home = |session: &Self| {
            Arc::ptr_eq(&session.common.database.snapshot().home, &server.home) && !server.tainted
        };
        let keep = self.work.describing
            && same_home(self)
            && statement.is_some_and(|statement| self.description_key(statement).is_some())
            && self.facts.as_ref().is_some_and(|facts| facts.key.base == server.base.id);
        let key = keep.then(|| self.work.material.as_slice().into());
        let request = match statement {
            Some(statement) => self.request_description(server, name, statement, key),
            None => 0,
        };
        server.outstanding.push(Owed::forward(Reply::Describe, request));
    }

    /// A message of a description: ParameterDescription, then RowDescription or NoData.
    pub(super) fn note_description(&mut self, server: &mut Server, message: &[u8], last: bool) {
        let Some(Owed::Expect { reply: Reply::Describe, request, .. }) = server.outstanding.front()
        else {
            return;
        };
        let request = *request;
        if request == 0 {
            // Of a portal: nothing hangs on it.
            return;
        }
        if let Some(RequestKind::Describe(described)) = self.request_of(request) {
            described.messages.extend_from_slice(message);
        }
        if last && let Some(RequestKind::Describe(described)) = self.take_request(request) {
            let Described { key, messages, .. } = &*described;
            if let Some(key) = key {
                self.common.descriptions.insert(key.clone(), messages);
            }
            self.described(request, &described, server);
        }
    }
}

impl Preparing {
    const SEND: Self = Self::Otherwise(Answer::Send);
}
