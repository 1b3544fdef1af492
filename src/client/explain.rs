//! `EXPLAIN CACHE <statement>`, sent as any other statement: whether its answer would be kept for
//! this very session, until what changes, and if not, why. Nothing is run.

use std::time::Instant;

use crate::admin::cache_show::{cut_off_words, describe, seconds};
use crate::cache::Age;
use crate::cache::key::StatementKey;
use crate::cache::worth::CutOff;
use crate::server::settings::NEUTRAL;
use crate::sql::catalog::Catalog;
use crate::sql::hint::Hint;
use crate::sql::verdict::{BypassReason, Read, TableId, Verdict};
use crate::wire::backend::{self, Column};

use super::look_up::age;
use super::session::Session;

/// `text`.
const TEXT_OID: u32 = 25;

/// The statement behind `EXPLAIN CACHE`, which PostgreSQL would not understand.
pub(super) fn asked_about(sql: &[u8]) -> Option<&[u8]> {
    let rest = word(sql.trim_ascii_start(), b"explain")?;
    word(rest, b"cache")
}

fn word<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (first, rest) = text.split_at_checked(word.len())?;
    let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
    (ends && first.eq_ignore_ascii_case(word)).then(|| rest.trim_ascii_start())
}

impl Session {
    pub(super) fn explain(&mut self, sql: &[u8], now: Instant, out: &mut Vec<u8>) {
        let (known, _) = self.verdict_of_text(sql);
        let time_word = self.work.lexed.time_word.then_some(BypassReason::TimeWord);
        let hint = Hint::of(sql, &self.work.lexed);
        let by_hint = hint.no_cache.then_some(BypassReason::Hint);
        let cut_off = self.cut_off(&known.verdict);
        let reason = self.bypass(&known.verdict, true).or(by_hint).or(time_word);
        let reason = reason.or(cut_off.map(|_| BypassReason::CutOff));
        let mut rows = vec![("cacheable", if reason.is_none() { "yes" } else { "no" }.to_owned())];
        if let Some(reason) = reason {
            rows.push(("reason", reason.name().to_owned()));
            rows.push(("because", describe(reason).to_owned()));
        }
        if let Some(cut_off) = cut_off {
            rows.push(("cut off", cut_off_words(cut_off)));
        }
        if let Some(rule) = &known.verdict.restriction.denied_by {
            rows.push(("rule", rule.to_string()));
        }
        if let Read::Cacheable(tables) = &known.verdict.read {
            let snapshot = self.common.database.snapshot();
            rows.push(("tables", names(tables, snapshot.catalog.as_deref())));
        }
        if reason.is_none() {
            rows.push(("settings", self.key_settings()));
            let age = age(&known.verdict, hint, now);
            if let Some(max) = age.max {
                rows.push(("max age", seconds(max)));
            }
            let kept = self.is_kept(age);
            rows.push(("kept now", if kept { "yes" } else { "no" }.to_owned()));
        }
        let column = |name| Column { name, type_oid: TEXT_OID, type_len: -1 };
        backend::write_row_description(out, &[column("property"), column("value")]);
        let count = rows.len();
        for (property, value) in &rows {
            backend::write_data_row(out, [Some(*property), Some(value.as_str())].into_iter());
        }
        backend::write_command_complete(out, &format!("SELECT {count}"));
        backend::write_ready(out, self.status());
    }

    fn cut_off(&self, verdict: &Verdict) -> Option<CutOff> {
        let Read::Cacheable(tables) = &verdict.read else { return None };
        self.common.database.home().coherence.cut_off(tables)
    }

    /// What of its settings the client shares entries by, beside its user.
    pub(super) fn key_settings(&self) -> String {
        let set = self.settings.values.iter().filter(|(name, _)| !NEUTRAL.contains(&name.as_str()));
        set.map(|(name, value)| format!("{name} = {value}")).collect::<Vec<_>>().join(", ")
    }

    /// There is an answer to the text that was lexed last, and it is true.
    fn is_kept(&mut self, age: Age) -> bool {
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
        fits && self.common.cache.look_up(&self.work.key, age).is_some()
    }
}

fn names(tables: &[TableId], catalog: Option<&Catalog>) -> String {
    let name = |table: &TableId| {
        catalog.and_then(|catalog| catalog.name(*table)).unwrap_or_else(|| table.0.to_string())
    };
    let mut names: Vec<String> = tables.iter().map(name).collect();
    names.sort_unstable();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_words_in_front_ask() {
        assert_eq!(asked_about(b" Explain  CACHE\n select 1"), Some(&b"select 1"[..]));
        assert_eq!(asked_about(b"explain cache"), Some(&b""[..]));
        for sql in [&b"explain select 1"[..], b"explain caches", b"explaincache x", b"explain", b""]
        {
            assert_eq!(asked_about(sql), None);
        }
    }
}
