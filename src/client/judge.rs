//! What a client's statements are: verdicts under its settings and the catalogue of now, from
//! memory where they are known. Decides nothing by them.

use std::sync::Arc;
use std::time::Instant;

use crate::cache::Age;
use crate::cache::key::SessionKey;
use crate::insight::Tag;
use crate::pool::database;
use crate::pool::statements::{Known, Statement};
use crate::sql::classify::{Context, classify};
use crate::sql::hint::Hint;
use crate::sql::lex::{contains_time_word, lex};
use crate::sql::verdict::{BypassReason, Control, Read, Restriction, TableId, Verdict, Write};
use crate::wire::frontend::{Bind, Parse};

use super::facts::Facts;
use super::session::Session;

impl Session {
    /// The verdict on a text under the client's settings, from memory if it is known. Leaves the
    /// lexed text in `self.work.lexed`.
    pub fn verdict_of_text(&mut self, sql: &[u8]) -> (Arc<database::Known>, u64) {
        let mut lexed = std::mem::take(&mut self.work.lexed);
        let plain = lex(sql, &mut lexed).is_ok();
        self.work.texts = self.work.texts.wrapping_add(1);
        if !plain {
            lexed.shape.clear();
            lexed.text.clear();
        }
        self.work.tag = if plain { Tag::of(sql, &lexed) } else { None };
        let known = self.classified(sql, &[], plain.then_some(lexed.shape.as_slice()));
        self.work.lexed = lexed;
        known
    }

    /// The verdict on a prepared statement and the catalogue generation it holds under.
    pub fn verdict_of(&mut self, statement: &Statement) -> (Arc<Verdict>, u64) {
        let (known, generation) = self.known_of(statement);
        (Arc::clone(&known.verdict), generation)
    }

    /// The same with what is counted of its shape.
    pub fn known_of(&mut self, statement: &Statement) -> (Arc<database::Known>, u64) {
        let (key, generation) = {
            let facts = self.refresh_facts();
            (facts.key, facts.generation)
        };
        if let Some(known) = statement.known(generation, key.settings, key.base) {
            return (known, generation);
        }
        let shape = statement.lexed.as_ref().map(|lexed| lexed.shape.as_slice());
        let (known, generation) = self.classified(&statement.sql, &statement.types, shape);
        if self.will_be_decided(&known) {
            return (known, generation);
        }
        statement.remember(Known {
            generation,
            settings_key: key.settings,
            base: key.base,
            known: Arc::clone(&known),
        });
        (known, generation)
    }

    fn classified(
        &mut self,
        sql: &[u8],
        types: &[u8],
        shape: Option<&[u8]>,
    ) -> (Arc<database::Known>, u64) {
        self.refresh_facts();
        let snapshot = self.common.database.snapshot();
        let unreadable = || database::Known::unshaped(unreadable(sql));
        let Some(facts) = &self.facts else { return (unreadable(), 0) };
        let plain = || facts.readable_without_backslash && !sql.contains(&b'\\');
        if !facts.readable && !plain() {
            return (unreadable(), snapshot.generation);
        }
        // Nearly all are, and that is seen sooner than that they are UTF-8.
        let is_text = sql.is_ascii() || (facts.reads_utf8 && std::str::from_utf8(sql).is_ok());
        if !is_text {
            return (unreadable(), snapshot.generation);
        }
        let text = || std::str::from_utf8(sql).unwrap_or_default();
        let parameter_types: Vec<u32> = Parse::type_oids(types).collect();
        let context = Context {
            catalog: snapshot.catalog.as_deref(),
            search_path: &facts.search_path,
            parameter_types: &parameter_types,
            restrictions: &snapshot.restrictions,
        };
        let Some(shape) = shape else {
            let mut verdict = classify(text(), &context);
            if matches!(verdict.read, Read::Cacheable(_)) {
                verdict.read = Read::Bypass(BypassReason::Unparsable);
            }
            return (database::Known::unshaped(verdict), snapshot.generation);
        };
        let material = &mut self.work.material;
        material.clear();
        let ids = [snapshot.generation, facts.key.settings, facts.key.base];
        material.extend_from_slice(ids.map(u64::to_be_bytes).as_flattened());
        material.extend_from_slice(&u32::try_from(types.len()).unwrap_or(0).to_be_bytes());
        material.extend_from_slice(types);
        let shape_at = material.len();
        material.extend_from_slice(shape);
        let known = self.common.database.verdict(material, shape_at, || {
            let mut verdict = classify(text(), &context);
            verdict.restrict(&snapshot.restrictions.of_shape(shape));
            verdict
        });
        if self.will_be_decided(&known) && known.is_second_sighting() {
            self.ask_postgresql(&known, sql, parameter_types.clone(), snapshot.generation);
        }
        (known, snapshot.generation)
    }

    /// Keeping an answer over these tables is worth it now.
    pub(super) fn is_worth_keeping(&self, tables: &[TableId], now: Instant) -> bool {
        let home = self.common.database.home();
        home.coherence.is_worth_keeping(tables, self.common.cache.cut_off(), now)
    }

    pub fn refresh_facts(&mut self) -> FactsNow {
        let base_id = self.base.as_ref().map_or_else(|| self.common.base_id(), |base| base.id);
        let flushes = self.common.cache.roles.flushes();
        let is_now = |facts: &Facts| facts.is_of(base_id, self.in_force(), flushes);
        if !self.facts.as_deref().is_some_and(is_now) {
            let base = self.base.clone().unwrap_or_else(|| self.common.base());
            self.facts = Some(Facts::of(&self.common, &base, self.in_force()));
        }
        let key = self.facts.as_ref().map_or_else(Default::default, |facts| facts.key);
        FactsNow { key, generation: self.common.database.generation() }
    }
}

/// How old an answer to such a statement may be.
pub(super) fn age(verdict: &Verdict, hint: Hint, now: Instant) -> Age {
    let of_rules = verdict.restriction.max_age;
    let max = match (of_rules, hint.max_age) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    Age { now, max }
}

/// Rule R29: a literal or a text parameter that may be read as a moment.
pub(super) fn has_time_word(statement: &Statement, bind: &Bind<'_>) -> bool {
    // What is declared to be text is its letters in binary, too.
    let declared = || Parse::type_oids(&statement.types).any(|oid| !NO_LETTERS.contains(&oid));
    let may_be_text = bind.values_may_be_text() || declared();
    statement.lexed.as_ref().is_none_or(|lexed| lexed.time_word)
        || (may_be_text && contains_time_word(bind.values))
}

/// Types that are no text in binary: bool, bytea, numbers, dates and times, uuid; 0: not declared.
const NO_LETTERS: [u32; 18] =
    [0, 16, 17, 20, 21, 23, 26, 700, 701, 1082, 1083, 1114, 1184, 1186, 1266, 1700, 2950, 2278];

/// Whether a text that we cannot read has the words by which state is left in a session.
fn leaves_state(sql: &[u8]) -> bool {
    let is = |letters: &[u8], word: &str| letters.eq_ignore_ascii_case(word.as_bytes());
    let has = |word: &str| sql.windows(word.len()).any(|letters| is(letters, word));
    has("set_config")
        || has("advisory_lock")
        || (has("create") && has("temp"))
        || (has("declare") && has("hold"))
        || first_words(sql, !has("update")).any(|word| {
            ["set", "reset", "listen", "prepare", "load"].iter().any(|first| is(word, first))
        })
}

/// The words with which statements may begin; `lines`: behind the end of a line, too, where the SET
/// of an UPDATE may stand otherwise. Looks at each byte a few times, however many lines there are.
fn first_words(sql: &[u8], lines: bool) -> impl Iterator<Item = &[u8]> {
    let mut begins = true;
    (0..sql.len()).filter_map(move |at| {
        let (before, rest) = sql.split_at_checked(at)?;
        let letter = *rest.first()?;
        let is_first = begins && !letter.is_ascii_whitespace();
        begins = match letter {
            b';' => true,
            b'/' => before.ends_with(b"*"),
            b'\n' => begins || lines,
            _ => begins && !is_first,
        };
        is_first.then(|| rest.split(|letter| !letter.is_ascii_alphabetic()).next())?
    })
}

pub struct FactsNow {
    pub key: SessionKey,
    pub generation: u64,
}

/// A text that we cannot read may do anything. What it leaves in its session would be lost to the
/// client with its server, so the client stays where it may have left something.
pub(super) fn unreadable(sql: &[u8]) -> Verdict {
    let controls: Vec<_> = leaves_state(sql).then_some(Control::Unreplayable).into_iter().collect();
    Verdict {
        // Of its first statement, as of all that follow nothing is known.
        ends: Box::new([controls.len()]),
        controls,
        write: Write::Opaque { commits_inside: true, taints: true },
        read: Read::Bypass(BypassReason::Unparsable),
        statements: 2,
        tag: "UNKNOWN",
        exact_text: true,
        taints: true,
        restriction: Restriction::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::leaves_state;

    #[test]
    fn what_may_leave_state_is_told_by_its_words() {
        for sql in [
            "SET app.x = '\u{fffd}'",
            "select 1; /* a */set a = 1",
            "-- why\n  Set a = 1",
            "SELECT pg_catalog.Set_Config('a', 'b', false)",
            "SELECT pg_try_advisory_lock(1)",
            "CREATE LOCAL TEMP TABLE t (v int)",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        ] {
            assert!(leaves_state(sql.as_bytes()), "{sql}");
        }
        for sql in [
            "UPDATE t\nSET a = 1",
            "INSERT INTO templates VALUES (1)",
            "SELECT 'household'",
            "INSERT INTO t VALUES ('http://a.example/set/reset-password\nSettings')",
            &"\n".repeat(1 << 20),
        ] {
            assert!(!leaves_state(sql.as_bytes()), "{sql}");
        }
    }
}
