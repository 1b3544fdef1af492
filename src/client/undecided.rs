//! Statements that names alone do not decide: seen a second time, they are put to PostgreSQL.

use std::sync::Arc;

use crate::pool::analysis::Waiting;
use crate::pool::database::Known;
use crate::sql::analysis::Question;
use crate::sql::lex::{Lexed, lex};

use super::pins::Pin;
use super::session::Session;

impl Session {
    /// More will be found out about it, if it is seen again.
    pub(super) fn will_be_decided(&self, known: &Known) -> bool {
        !known.is_final()
            && self.common.cache.analysis.is_auto()
            && self.common.database.analysis.is_usable()
    }

    pub(super) fn ask_postgresql(
        &self,
        known: &Arc<Known>,
        sql: &[u8],
        types: Vec<u32>,
        generation: u64,
    ) {
        let counters = &self.common.cache.analysis.counters;
        // What such a client's names mean, no other session knows.
        let is_apart = self.pins.has(Pin::TemporaryObjects)
            || self.pins.has(Pin::SessionState)
            || self.tainted
            || !self.transaction_is_plain();
        let question = (!is_apart).then(|| self.question(sql, types)).flatten();
        let added = question.is_some_and(|question| {
            self.common.database.analysis.add(Waiting {
                question,
                user: self.common.user.clone(),
                known: Arc::clone(known),
                generation,
            })
        });
        if !added {
            counters.skipped.one();
            known.sight_again();
        }
    }

    /// No settings are in force that end with the transaction.
    fn transaction_is_plain(&self) -> bool {
        self.work.transaction.bypass(crate::sql::verdict::Isolation::ReadCommitted).is_none()
    }

    fn question(&self, sql: &[u8], types: Vec<u32>) -> Option<Question> {
        let facts = self.facts.as_ref().filter(|facts| facts.readable)?;
        let mut lexed = Lexed::default();
        lex(sql, &mut lexed).ok()?;
        if lexed.multiple {
            return None;
        }
        Some(Question {
            text: String::from_utf8(lexed.text).ok()?,
            types,
            search_path: facts.search_path.clone(),
            role: self.settings.value("role").map(str::to_owned),
        })
    }
}
