//! A hit that was asked of PostgreSQL instead, compared with what it answered; and what is told
//! of a difference, so that it can be played again.

use std::sync::Arc;
use std::time::Instant;

use crate::cache::Mode;
use crate::cache::coherence::Scope;
use crate::cache::entry::Entry;
use crate::cache::fill::Fill;
use crate::cache::key::{StatementKey, statement_of};
use crate::cache::verify::{Compared, Difference, Finding, Kind, Witness};
use crate::server::Server;
use crate::sql::parse::fixes_order;
use crate::sql::verdict::TableId;
use crate::wire::{backend, frame};

use super::error_response::is_doubtful;
use super::session::Session;
use super::statistics::shape_text;

/// Longest text, parameters, settings or list of tables in a report.
const SHOWN_BYTES_MAX: usize = 2000;

/// Bytes of an answer shown from some way before the first that differs.
const EXCERPT_BYTES: usize = 64;
const EXCERPT_BEFORE: usize = 16;

/// What came of a look-up.
pub(super) enum Looked {
    Hit(Arc<Entry>),
    /// With a witness there is an entry, to be compared with what PostgreSQL answers.
    Miss(Option<Witness>),
}

impl Session {
    /// The entry is true. Whether the client is served it is for the mode and the sample to say.
    pub(super) fn serve_or_verify(&self, entry: Arc<Entry>, from_redis: bool) -> Looked {
        let (cache, counters) = (&self.common.cache, &self.common.cache_counters);
        match cache.mode() {
            Mode::On if !cache.verifier.draws() => {
                if from_redis {
                    counters.hits_redis.one();
                }
                Looked::Hit(entry)
            }
            Mode::On | Mode::Verify => {
                counters.would_hit.one();
                Looked::Miss(Some(cache.verifier.witness(entry)))
            }
            Mode::DryRun | Mode::Off => {
                counters.would_hit.one();
                Looked::Miss(None)
            }
        }
    }

    /// The whole answer has come; gives the fill if it is to replace what there is.
    ///
    /// After a difference everything that was kept of these tables is in doubt, this entry or
    /// another: all of it is forgotten.
    pub(super) fn verified(
        &mut self,
        mut fill: Box<Fill>,
        server: &Server,
        now: Instant,
    ) -> Option<Box<Fill>> {
        let Some(witness) = fill.take_witness() else { return Some(fill) };
        match judge(&witness, &fill) {
            Judgement::Incomparable => {
                witness.count(None);
                Some(fill)
            }
            Judgement::Same => {
                witness.count(Some(Compared::Same));
                None
            }
            Judgement::OtherOrder => {
                witness.count(Some(Compared::OtherOrder));
                None
            }
            Judgement::Different(kind, first_byte) => {
                self.report(&witness, &fill, (kind, first_byte), server, now);
                let tables = witness.entry.stamp.slots().filter_map(|version| version.table);
                server.home.invalidate(&Scope::Tables(tables.collect()));
                witness.count(Some(Compared::Different));
                None
            }
        }
    }

    fn report(
        &self,
        witness: &Witness,
        fill: &Fill,
        (kind, first_byte): (Kind, Option<usize>),
        server: &Server,
        now: Instant,
    ) {
        let verifier = &self.common.cache.verifier;
        let shows_values = verifier.shows_values();
        let entry = &witness.entry;
        let asked = statement_of(entry.key());
        let excerpts = first_byte
            .filter(|_| shows_values)
            .map(|at| [excerpt(entry.rows(), at), excerpt(fill.recorded(), at)]);
        let shape = self.work.underway.first().map(shape_text);
        let text = asked.as_ref().filter(|_| shows_values).map(|asked| printable(asked.text));
        let difference = Difference {
            at: now,
            filled_at: entry.asked_at,
            kind,
            database: self.common.database.name.clone(),
            user: self.common.user.clone(),
            settings: cut(self.key_settings(false)),
            settings_in_full: shows_values.then(|| cut(self.key_settings(true))),
            statement: cut(shape.unwrap_or_default()),
            text: text.map(cut),
            parameters: asked.filter(|_| shows_values).map(|asked| cut(parameters(&asked))),
            tables: cut(self.versions(witness)),
            first_byte,
            bytes_kept: entry.rows().len(),
            bytes_now: witness.seen(),
            excerpts,
            server_pid: server.pid,
        };
        if verifier.note(difference.clone()) {
            log(&difference);
        }
    }

    /// The tables by name, each with the generation that has held since the entry was filled.
    fn versions(&self, witness: &Witness) -> String {
        let snapshot = self.common.database.snapshot();
        let name = |table: Option<TableId>| match table {
            None => "(database)".to_owned(),
            Some(table) => {
                let known = snapshot.catalog.as_ref().and_then(|catalog| catalog.name(table));
                known.unwrap_or_else(|| table.0.to_string())
            }
        };
        let versions = witness.entry.stamp.slots();
        let shown = versions.map(|slot| format!("{}@{}", name(slot.table), slot.generation));
        shown.collect::<Vec<_>>().join(", ")
    }
}

fn log(difference: &Difference) {
    tracing::error!(
        database = %difference.database,
        user = %difference.user,
        kind = %difference.kind.name(),
        settings = %difference.settings_in_full.as_ref().unwrap_or(&difference.settings),
        tables = %difference.tables,
        age_ms = difference.at.saturating_duration_since(difference.filled_at).as_millis(),
        first_byte = difference.first_byte,
        bytes_kept = difference.bytes_kept,
        bytes_now = difference.bytes_now,
        server_pid = difference.server_pid,
        parameters = difference.parameters.as_deref(),
        kept = difference.excerpts.as_ref().map(|[kept, _]| kept.as_str()),
        now = difference.excerpts.as_ref().map(|[_, now]| now.as_str()),
        statement = %difference.text.as_ref().unwrap_or(&difference.statement),
        "a hit would have differed from what PostgreSQL answered"
    );
}

/// The SQLSTATE of an error that is the statement's own, so that a hit would have hidden it; not of
/// one that tells of locks, time, room or the system, none of which a hit needs.
pub(super) fn blame(body: &[u8]) -> Option<[u8; 5]> {
    let code: [u8; 5] = backend::error_field(body, b'C')?.try_into().ok()?;
    let outside = [b"40", b"53", b"55"].iter().any(|class| code.starts_with(*class));
    (!outside && !is_doubtful(body)).then_some(code)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Incomparable,
    Same,
    OtherOrder,
    /// And from which byte of the rows on.
    Different(Kind, Option<usize>),
}

fn judge(witness: &Witness, fill: &Fill) -> Judgement {
    match witness.finding(fill.is_complete()) {
        Finding::Incomparable => Judgement::Incomparable,
        Finding::Same => Judgement::Same,
        Finding::Refused(code) => Judgement::Different(Kind::Error(code), None),
        Finding::Description => Judgement::Different(Kind::Description, None),
        Finding::Rows(at) if !is_permuted(witness.entry.rows(), fill.recorded()) => {
            Judgement::Different(Kind::Rows, Some(at))
        }
        Finding::Rows(at) => {
            let text = statement_of(witness.entry.key())
                .and_then(|asked| std::str::from_utf8(asked.text).ok());
            if text.is_none_or(fixes_order) {
                Judgement::Different(Kind::Ordered, Some(at))
            } else {
                Judgement::OtherOrder
            }
        }
    }
}

/// Whether these are the same messages, some of them in another place.
fn is_permuted(kept: &[u8], now: &[u8]) -> bool {
    kept.len() == now.len() && {
        let (mut kept, mut now) = (messages(kept), messages(now));
        kept.sort_unstable();
        now.sort_unstable();
        kept == now
    }
}

/// What is no whole message comes last, as it is.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Ok(Some((header, _))) = frame::split(bytes, usize::MAX)
        && let Some((message, rest)) = bytes.split_at_checked(header.total)
    {
        messages.push(message);
        bytes = rest;
    }
    messages.push(bytes);
    messages
}

/// Values as in Bind, each as text or, if it is none, in hex.
pub(super) fn bound(asked: &StatementKey<'_>) -> Vec<String> {
    let mut shown = Vec::new();
    let mut rest = asked.values;
    while let Some((len, after)) = rest.split_first_chunk() {
        let len = i32::from_be_bytes(*len);
        let value = usize::try_from(len).ok().and_then(|len| after.split_at_checked(len));
        let (value, after) = value.map_or((None, after), |(value, after)| (Some(value), after));
        shown.push(
            value.map_or_else(|| "NULL".to_owned(), |value| format!("'{}'", printable(value))),
        );
        rest = after;
    }
    shown
}

/// Values, declared types and formats.
fn parameters(asked: &StatementKey<'_>) -> String {
    let types: Vec<String> = asked.types.chunks_exact(4).map(oid).collect();
    format!(
        "{}; types {}; formats {:?}; result formats {:?}",
        bound(asked).join(", "),
        types.join(" "),
        asked.formats,
        asked.result_formats
    )
}

fn oid(bytes: &[u8]) -> String {
    bytes.try_into().map(u32::from_be_bytes).unwrap_or_default().to_string()
}

/// As text where it is, in hex otherwise.
fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text.to_owned(),
        Ok(_) | Err(_) => {
            let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("\\x{}", digits.concat())
        }
    }
}

fn excerpt(answer: &[u8], at: usize) -> String {
    let from = at.saturating_sub(EXCERPT_BEFORE).min(answer.len());
    let shown = answer.get(from..).unwrap_or_default();
    shown.get(..EXCERPT_BYTES).unwrap_or(shown).escape_ascii().to_string()
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(SHOWN_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for value in values {
            backend::write_data_row(&mut bytes, [Some(*value)].into_iter());
        }
        backend::write_command_complete(&mut bytes, "SELECT 2");
        bytes
    }

    #[test]
    fn the_same_rows_elsewhere_are_permuted_and_others_are_not() {
        let kept = rows(&["a", "b"]);
        assert!(is_permuted(&kept, &rows(&["b", "a"])));
        for other in
            [&rows(&["b", "b"])[..], &rows(&["a"]), &rows(&["a", "b", "b"]), &kept[1..], b""]
        {
            assert!(!is_permuted(&kept, other));
        }
        // What is left of a message at the end counts as well.
        let (cut, other) = (&kept[..kept.len() - 1], [&kept[..kept.len() - 2], b"x"].concat());
        assert!(!is_permuted(cut, &other));
    }

    #[test]
    fn parameters_are_shown_as_they_were_bound() {
        let values = [&[0, 0, 0, 1, b'7', 255, 255, 255, 255, 0, 0, 0, 2, 0, 9][..]].concat();
        let asked = StatementKey {
            text: b"",
            types: &[0, 0, 0, 23],
            formats: &[0, 1],
            values: &values,
            result_formats: &[],
        };
        let expected = "'7', NULL, '\\x0009'; types 23; formats [0, 1]; result formats []";
        assert_eq!(parameters(&asked), expected);
    }

    #[test]
    fn an_error_is_the_statements_own_unless_it_tells_of_locks_time_or_the_system() {
        let error = |severity: &str, code: &str| format!("V{severity}\0C{code}\0Mwords\0\0");
        for code in ["22012", "42501", "42P01", "0A000"] {
            let expected: [u8; 5] = code.as_bytes().try_into().unwrap();
            assert_eq!(blame(error("ERROR", code).as_bytes()), Some(expected));
        }
        for code in ["40001", "53200", "55P03", "57014", "58030", "XX000", "08006"] {
            assert_eq!(blame(error("ERROR", code).as_bytes()), None, "{code}");
        }
        assert_eq!(blame(error("FATAL", "42501").as_bytes()), None);
        assert_eq!(blame(b""), None);
    }

    #[test]
    fn an_excerpt_stays_within_its_bounds() {
        let answer: Vec<u8> = (0..200).map(|_| b'a').collect();
        assert_eq!(excerpt(&answer, 100).len(), EXCERPT_BYTES);
        assert_eq!(excerpt(&answer, 190).len(), 26);
        assert_eq!(excerpt(&answer, 1000), "");
        assert_eq!(excerpt(b"a\0b", 2), "a\\x00b");
    }
}
