//! `EXPLAIN CACHE <statement>`, sent as any other statement: whether its answer would be kept for
//! this very session, until what changes, and if not, why. Nothing is run.

use std::sync::Arc;
use std::time::Instant;

use crate::admin::cache_show::{cut_off_words, describe, seconds};
use crate::admin::table::percent;
use crate::cache::Age;
use crate::cache::key::StatementKey;
use crate::cache::worth::CutOff;
use crate::pool::statements::Statement;
use crate::sql::catalog::Catalog;
use crate::sql::lex::highest_parameter;
use crate::sql::verdict::{BypassReason, Read, TableId, Verdict};
use crate::wire::backend::{self, Column};
use crate::wire::frontend::{self, Bind, Parse, Target};

use super::group::Group;
use super::judge::{age, has_time_word};
use super::session::Session;
use super::statements::Prepared;

/// `text`.
const TEXT_OID: u32 = 25;

const COLUMNS: [Column<'static>; 2] = [
    Column { name: "property", type_oid: TEXT_OID, type_len: -1 },
    Column { name: "value", type_oid: TEXT_OID, type_len: -1 },
];

type Row = (&'static str, String);

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
    pub(super) fn explain_query(&mut self, sql: &[u8], now: Instant, out: &mut Vec<u8>) {
        let rows = self.explain(sql, &[], None, now);
        backend::write_row_description(out, &COLUMNS);
        write_rows(out, &rows);
        backend::write_ready(out, self.status());
    }

    /// The same by the extended protocol; whether the group was about that and nothing else.
    pub(super) fn explain_group(&mut self, group: &Group, now: Instant, out: &mut Vec<u8>) -> bool {
        let begins = |text: &[u8]| matches!(text.trim_ascii_start().first(), Some(b'e' | b'E'));
        let may_explain = self.first_text(group).is_none_or(begins);
        if !may_explain || !self.only_explains(group) {
            return false;
        }
        let generation = self.common.database.generation();
        let mut rows = Vec::new();
        for part in &group.parts {
            let body = group.body(part);
            match part.tag {
                frontend::PARSE => {
                    if let Ok(parse) = Parse::read(body) {
                        let statement = self.statement(parse.name, parse.sql, parse.types);
                        self.count_parse(parse.name);
                        self.names.insert(parse.name, Prepared { statement, generation });
                        out.extend_from_slice(backend::PARSE_COMPLETE_MESSAGE);
                    }
                }
                frontend::BIND => {
                    if let Ok(bind) = Bind::read(body)
                        && let Some(prepared) = self.names.find(bind.statement).cloned()
                    {
                        let statement = prepared.statement;
                        let sql = asked_about(&statement.sql).unwrap_or_default();
                        rows = self.explain(sql, &statement.types, Some(&bind), now);
                        out.extend_from_slice(backend::BIND_COMPLETE_MESSAGE);
                    }
                }
                frontend::DESCRIBE => {
                    if let Ok((Target::Statement, name)) = frontend::target(body)
                        && let Some(prepared) = self.names.find(name)
                    {
                        write_parameters(out, &prepared.statement);
                    }
                    backend::write_row_description(out, &COLUMNS);
                }
                frontend::EXECUTE => write_rows(out, &rows),
                frontend::CLOSE => {
                    if let Ok((Target::Statement, name)) = frontend::target(body) {
                        self.names.close(name);
                    }
                    out.extend_from_slice(backend::CLOSE_COMPLETE_MESSAGE);
                }
                _ => backend::write_ready(out, self.status()),
            }
        }
        true
    }

    /// Every statement that the group names is one of these, and it uses the unnamed portal alone,
    /// once. What a driver does beyond that goes to PostgreSQL, whose error tells that it is none
    /// of its statements.
    fn only_explains(&self, group: &Group) -> bool {
        let mut parsed: Option<&[u8]> = None;
        let mut bound = false;
        let explains = |parsed: Option<&[u8]>, name: &[u8]| {
            let here = parsed == Some(name);
            let known = |known: &Prepared| asked_about(&known.statement.sql).is_some();
            here || self.names.find(name).is_some_and(known)
        };
        let fits = |part: &super::group::Part| {
            let body = group.body(part);
            match part.tag {
                frontend::PARSE => Parse::read(body).is_ok_and(|parse| {
                    let free = parse.name.is_empty() || self.names.find(parse.name).is_none();
                    let first = parsed.replace(parse.name).is_none();
                    first && free && asked_about(parse.sql).is_some()
                }),
                frontend::BIND => Bind::read(body).is_ok_and(|bind| {
                    let first = !std::mem::replace(&mut bound, true);
                    first && bind.portal.is_empty() && explains(parsed, bind.statement)
                }),
                frontend::DESCRIBE => match frontend::target(body) {
                    Ok((Target::Statement, name)) => explains(parsed, name),
                    Ok((Target::Portal, name)) => bound && name.is_empty(),
                    Err(_) => false,
                },
                frontend::EXECUTE => bound && frontend::execute(body) == Ok((&b""[..], 0)),
                frontend::CLOSE => match frontend::target(body) {
                    Ok((Target::Statement, name)) => !name.is_empty() && explains(parsed, name),
                    Ok((Target::Portal, name)) => bound && name.is_empty(),
                    Err(_) => false,
                },
                frontend::SYNC => true,
                _ => false,
            }
        };
        group.parts.len() > 1 && group.parts.iter().all(fits)
    }

    /// What there is to say of a statement that declares these types of parameters.
    fn explain(
        &mut self,
        sql: &[u8],
        types: &[u8],
        bind: Option<&Bind<'_>>,
        now: Instant,
    ) -> Vec<Row> {
        let statement =
            Statement::new(sql, types, &self.settings, self.common.database.generation());
        let (known, _) = self.known_of(&statement);
        let verdict = &known.verdict;
        let hint = statement.hint();
        let time_word = match bind {
            Some(bind) => has_time_word(&statement, bind),
            None => statement.lexed.as_ref().is_some_and(|lexed| lexed.time_word),
        };
        let cut_off = self.cut_off(verdict);
        let reason = self
            .bypass(verdict, true)
            .or(hint.no_cache.then_some(BypassReason::Hint))
            .or(time_word.then_some(BypassReason::TimeWord))
            .or(cut_off.map(|_| BypassReason::CutOff));
        let mut rows = vec![("cacheable", if reason.is_none() { "yes" } else { "no" }.to_owned())];
        if let Some(reason) = reason {
            rows.push(("reason", reason.name().to_owned()));
            rows.push(("because", describe(reason).to_owned()));
        }
        rows.extend(cut_off.map(|cut_off| ("cut off", cut_off_words(cut_off))));
        let rule = verdict.restriction.denied_by.as_ref();
        rows.extend(rule.map(|rule| ("rule", rule.to_string())));
        if let Read::Cacheable(tables) = &verdict.read {
            let snapshot = self.common.database.snapshot();
            rows.push(("tables", names(tables, snapshot.catalog.as_deref())));
        }
        if reason.is_none() {
            let age = age(verdict, hint, now);
            rows.extend(age.max.map(|max| ("max age", seconds(max))));
            rows.push(("settings", self.key_settings(true)));
            let kept = self.is_kept(&statement, bind, age);
            rows.push(("kept now", if kept { "yes" } else { "no" }.to_owned()));
            let (hits, misses) = (known.uses.hits.value(), known.uses.misses.value());
            // Of all that differ in their values alone.
            rows.push(("entries of its shape", known.uses.entries().to_string()));
            rows.push(("hits", hits.to_string()));
            rows.push(("hit rate", percent(hits, hits.saturating_add(misses))));
        }
        rows
    }

    fn cut_off(&self, verdict: &Verdict) -> Option<CutOff> {
        let Read::Cacheable(tables) = &verdict.read else { return None };
        self.common.database.home().coherence.cut_off(tables)
    }

    /// What of its settings the client shares entries by, beside its user. `in_full`: also the
    /// values of settings that are an application's own, which may be secrets.
    pub(super) fn key_settings(&self, in_full: bool) -> String {
        let shown = |(name, value): (&str, &str)| {
            // Only those of PostgreSQL itself have no point in their names.
            let value = if in_full || !name.contains('.') { value } else { "\u{2026}" };
            format!("{name} = {value}")
        };
        self.settings.key_values().map(shown).collect::<Vec<_>>().join(", ")
    }

    /// There is an answer to the statement with these values, in text, and it is true.
    fn is_kept(&mut self, statement: &Statement, bind: Option<&Bind<'_>>, age: Age) -> bool {
        let key = StatementKey {
            text: statement.lexed.as_ref().map_or(&[][..], |lexed| &lexed.text),
            types: &statement.types,
            formats: bind.map_or(&[], |bind| bind.formats),
            values: bind.map_or(&[], |bind| bind.values),
            result_formats: &[],
        };
        self.set_key(&key) && self.common.cache.look_up(&self.work.key, age).is_some()
    }
}

fn write_rows(out: &mut Vec<u8>, rows: &[Row]) {
    for (property, value) in rows {
        backend::write_data_row(out, [Some(*property), Some(value.as_str())].into_iter());
    }
    backend::write_command_complete(out, &format!("SELECT {}", rows.len()));
}

/// ParameterDescription: as declared, else text.
fn write_parameters(out: &mut Vec<u8>, statement: &Arc<Statement>) {
    let shape = statement.lexed.as_ref().map_or(&[][..], |lexed| &lexed.shape);
    let declared: Vec<u32> = Parse::type_oids(&statement.types).collect();
    let highest = usize::try_from(highest_parameter(shape)).unwrap_or(usize::MAX);
    let count = u16::try_from(highest.max(declared.len())).unwrap_or(u16::MAX);
    frontend::write(out, backend::PARAMETER_DESCRIPTION, |out| {
        out.extend_from_slice(&count.to_be_bytes());
        for at in 0..usize::from(count) {
            let oid = declared.get(at).copied().filter(|oid| *oid != 0).unwrap_or(TEXT_OID);
            out.extend_from_slice(&oid.to_be_bytes());
        }
    });
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
