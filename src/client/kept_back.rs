//! Transactions of which PostgreSQL has not heard: a plain BEGIN is answered here and kept back
//! until a statement needs a server, in front of which it then travels in the same write. If it
//! ends before, it never takes one (hazard D19).
//!
//! Under READ COMMITTED nothing is fixed at BEGIN but the transaction's own time, which no answer
//! from the cache shows; `now()` and `xact_start` are those of the first statement sent.
//!
//! Invariant: what is kept back leaves before anything else of its transaction, and after the
//! client's settings. Attacked by the suite's transactions.

use std::sync::Arc;
use std::time::Instant;

use crate::insight::Outcome;
use crate::pool::PoolMode;
use crate::server::Server;
use crate::sql::verdict::{BypassReason, Control, Isolation, Verdict};
use crate::wire::Reader;
use crate::wire::backend::{self, Status};
use crate::wire::frontend;

use super::group::Group;
use super::session::Session;
use super::single::front;
use super::statements::Prepared;
use super::transaction::KeptBack;
use super::underway::Shape;

/// A longer text, most of it a comment, is sent on.
const SQL_BYTES_MAX: usize = 1000;

impl Session {
    /// Begins a transaction here, or marks or ends one that is kept back: gives the command tag, or `None`
    /// if it is for PostgreSQL. `text` is without comments, `sql` as the client sent it.
    pub fn transact(&mut self, verdict: &Verdict, text: &[u8], sql: &[u8]) -> Option<&'static str> {
        if verdict.statements != 1 {
            return None;
        }
        let kept_back = self.work.transaction.kept_back.is_some();
        match verdict.controls.as_slice() {
            [Control::Begin { isolation }] if is_harmless(text) && sql.len() <= SQL_BYTES_MAX => {
                self.keep_back(*isolation, sql)?;
            }
            [Control::Commit { chain: false } | Control::Rollback { chain: false }]
                if kept_back =>
            {
                let settings = Arc::clone(&self.settings);
                self.work.transaction.status = Status::Idle;
                self.work.transaction.end(false, false, &settings);
                self.names.clear_portals();
                self.transaction_over();
                self.common.cache_counters.transactions.one();
            }
            [Control::Savepoint(name)] if kept_back => self.mark(name)?,
            [Control::ReleaseSavepoint(name)] if self.is_mark(name) => {
                self.work.transaction.release_savepoint(name);
            }
            [Control::RollbackToSavepoint(name)] if self.is_mark(name) => {
                // A setting would have sent the transaction on, so they are what they were.
                let _unchanged = self.work.transaction.roll_back_to(name);
            }
            _ => return None,
        }
        self.common.counters.query.one();
        Some(verdict.tag)
    }

    fn keep_back(&mut self, isolation: Option<Isolation>, sql: &[u8]) -> Option<()> {
        let facts = self.facts.as_ref()?;
        let fits = self.common.mode == PoolMode::Transaction
            && self.common.cache.mode().is_on()
            && self.status() == Status::Idle
            // A client that has a server anyway spares nothing.
            && self.base.is_none()
            && !self.common.database.is_down()
            && !self.tainted
            && facts.key.base != 0
            && isolation.unwrap_or(facts.isolation) == Isolation::ReadCommitted;
        let kept_back = KeptBack {
            sql: std::str::from_utf8(sql).ok()?.to_owned(),
            isolation,
            patience: facts.patience?,
        };
        fits.then(|| self.work.transaction.begin_here(kept_back, &self.settings))
    }

    /// Puts what is kept back in front of all else; its replies are swallowed. Gives whether
    /// there was anything.
    pub fn send_kept_back(&mut self, server: &mut Server) -> bool {
        let Some(kept_back) = self.work.transaction.kept_back.take() else { return false };
        server.swallow_query(&kept_back.sql);
        self.send_marks(server);
        if kept_back.isolation.is_none() {
            // The server that came may have started with another default.
            self.refresh_facts();
            let isolation = self.default_isolation();
            self.work.transaction.set_isolation(Some(isolation));
        }
        true
    }

    /// PostgreSQL takes SET TRANSACTION before the first query of a transaction only, and knows
    /// nothing of queries that were answered here: so it is asked one.
    pub fn count_hits_as_queries(&mut self, server: &mut Server) {
        if self.work.in_block && self.work.transaction.served && self.may_set_transaction() {
            server.swallow_query("SELECT");
            self.work.transaction.served = false;
        }
    }

    fn may_set_transaction(&self) -> bool {
        self.work.group.parts.iter().any(|part| {
            let body = self.work.group.body(part);
            let mut fields = body.split(|&byte| byte == 0);
            let sql = match part.tag {
                frontend::QUERY => fields.next(),
                frontend::PARSE => fields.nth(1),
                frontend::BIND => fields
                    .nth(1)
                    .and_then(|name| self.names.find(name))
                    .map(|known| &*known.statement.sql),
                _ => None,
            };
            sql.is_some_and(may_set_transaction)
        })
    }

    /// Answers the statements at the front of an extended group that begin, mark or end a transaction
    /// here, and takes them out of it: what is left is looked up, or sent, by itself.
    pub fn transact_front(&mut self, group: &mut Group, now: Instant, out: &mut Vec<u8>) {
        while let Some(count) = self.transact_one(group, now, out) {
            group.parts.drain(..count);
        }
    }

    fn transact_one(&mut self, group: &Group, now: Instant, out: &mut Vec<u8>) -> Option<usize> {
        if !self.may_transact(group) {
            return None;
        }
        let (front, count) = front(group)?;
        let prepared = self.prepared_for(&front)?;
        let statement = Arc::clone(&prepared.statement);
        let (verdict, generation) = self.verdict_of(&statement);
        let text = &statement.lexed.as_ref()?.text;
        if !statement.types.is_empty()
            || !front.bind.formats.is_empty()
            || front.bind.values_count > 0
        {
            return None;
        }
        let tag = self.transact(&verdict, text, &statement.sql)?;
        if let Some(parse) = &front.parse {
            out.extend_from_slice(backend::PARSE_COMPLETE_MESSAGE);
            self.count_parse(parse.name);
            self.names
                .insert(parse.name, Prepared { statement: Arc::clone(&statement), generation });
        }
        out.extend_from_slice(backend::BIND_COMPLETE_MESSAGE);
        if front.describe {
            out.extend_from_slice(backend::NO_DATA_MESSAGE);
        }
        backend::write_command_complete(out, tag);
        self.note_transacted(Shape::Prepared(statement), now);
        Some(count)
    }

    /// Cheaply, whether the front of the group may be for `transact`.
    fn may_transact(&self, group: &Group) -> bool {
        self.first_text(group).is_some_and(begins_with_word)
    }

    /// Where the text begins of the statement that the first message of the group parses or binds;
    /// what it ends with is not looked for.
    pub(super) fn first_text<'a>(&'a self, group: &'a Group) -> Option<&'a [u8]> {
        let first = group.parts.first()?;
        // Parse begins with the statement's name, Bind with the portal's; what follows is the
        // text or the statement's name.
        let mut reader = Reader::new(group.body(first));
        match first.tag {
            frontend::PARSE => reader.cstr().ok().map(|_name| reader.rest()),
            frontend::BIND => {
                let _portal = reader.cstr().ok()?;
                let named = self.names.find(reader.cstr().ok()?)?;
                Some(&named.statement.sql)
            }
            _ => None,
        }
    }

    /// Counts it as the statement that it would have been on a server.
    pub fn note_transacted(&mut self, shape: Shape, now: Instant) {
        self.note(Outcome::Bypass(BypassReason::NotARead), shape, now, false);
        self.finish_noted(now, 0, 0);
    }
}

const WORDS: [&[u8]; 8] =
    [b"begin", b"start", b"commit", b"end", b"rollback", b"abort", b"savepoint", b"release"];

/// One of the words that begin, mark or end a transaction stands at the front, or a comment.
fn begins_with_word(sql: &[u8]) -> bool {
    let sql = sql.trim_ascii_start();
    let first = sql.first().map(u8::to_ascii_lowercase);
    let begins = |word: &&[u8]| {
        word.first().copied() == first
            && sql.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    matches!(first, Some(b'/' | b'-')) || WORDS.iter().any(begins)
}

/// SET TRANSACTION, or SET of what it sets, may stand there.
fn may_set_transaction(sql: &[u8]) -> bool {
    const NAME: &[u8] = b"transaction";
    let sql = sql.trim_ascii_start();
    let sets = sql.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"set"))
        || matches!(sql.first(), Some(b'/' | b'-'));
    sets && sql.windows(NAME.len()).any(|window| window.eq_ignore_ascii_case(NAME))
}

/// A BEGIN that PostgreSQL cannot refuse, wherever it is sent: READ WRITE is refused by a standby.
fn is_harmless(text: &[u8]) -> bool {
    let text = text.to_ascii_lowercase();
    let Some(mut rest) = [&b"begin transaction"[..], b"begin work", b"begin", b"start transaction"]
        .iter()
        .find_map(|form| text.strip_prefix(*form))
    else {
        return false;
    };
    while let Some(mode) = rest.strip_prefix(b" ").or_else(|| rest.strip_prefix(b", ")) {
        let known = [&b"isolation level read committed"[..], b"read only"];
        match known.iter().find_map(|known| mode.strip_prefix(*known)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_forms_of_begin_are_harmless() {
        for text in [
            "BEGIN",
            "begin",
            "BEGIN WORK",
            "Begin Transaction",
            "START TRANSACTION",
            "BEGIN ISOLATION LEVEL READ COMMITTED",
            "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "START TRANSACTION READ ONLY",
            "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY",
            "BEGIN READ ONLY ISOLATION LEVEL READ COMMITTED",
        ] {
            assert!(is_harmless(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "BEGIN READ WRITE",
            "BEGIN DEFERRABLE",
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE",
            "BEGIN,",
            "BEGIN , READ ONLY,",
            "BEGINREAD ONLY",
            "BEGIN READ ONLYX",
            "BEGIN WORK WORK",
            "START",
            "START WORK",
            "COMMIT",
        ] {
            assert!(!is_harmless(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn setting_a_transaction_is_found_whatever_stands_before_it() {
        for (sql, expected) in [
            ("SET TRANSACTION READ ONLY", true),
            (" set transaction_isolation = 'serializable'", true),
            ("/* tag */ SET LOCAL transaction_read_only = on", true),
            ("SELECT 'transaction'", false),
            ("SET work_mem = '1MB'", false),
            ("", false),
        ] {
            assert_eq!(may_set_transaction(sql.as_bytes()), expected, "{sql}");
        }
    }

    #[test]
    fn words_are_found_at_the_front_alone() {
        for (sql, expected) in [
            ("begin", true),
            (" \n COMMIT;", true),
            ("rollback to a", true),
            ("Savepoint a", true),
            ("release a", true),
            ("/* tag */ begin", true),
            ("-- tag\nbegin", true),
            ("SELECT 'begin'", false),
            ("beg", false),
            ("", false),
        ] {
            assert_eq!(begins_with_word(sql.as_bytes()), expected, "{sql}");
        }
    }
}
