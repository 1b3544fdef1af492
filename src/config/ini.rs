//! `pgbouncer.ini` as written: PgBouncer's syntax, its sections and the names it knows.
//! What has no effect in Forebay yet is remembered for a notice, not refused.

use std::io;
use std::path::Path;

use super::database::DATABASE_KEYS;
use super::limits::USER_KEYS;
use super::mistake::{closest, suggestion};
use super::peer::PEER_KEYS;
use super::settings::{Origin, WITHOUT_EFFECT, by_pgbouncer_key};
use super::value::Raw;
use super::{Place, SETTINGS, Written, WrittenEntry, WrittenKey};

/// Included files may include others; a file that includes itself must end somewhere.
const INCLUDE_DEPTH_MAX: usize = 16;
/// Depth alone would let a file that includes itself twice read 2^16 files.
const INCLUDES_MAX: usize = 256;

/// Reads the text of a file called `name`; `read_file` is for what it includes.
pub(super) fn read(
    name: &str,
    text: &str,
    read_file: &dyn Fn(&Path) -> io::Result<String>,
) -> Written {
    let mut reader =
        Reader { written: Written::default(), section: Section::None, read_file, includes: 0 };
    reader.file(name, text, 0);
    reader.written
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    /// Before the first header.
    None,
    Databases,
    PgBouncer,
    Users,
    Peers,
    /// Reported once at its header; its lines are passed over.
    Unknown,
}

struct Reader<'a> {
    written: Written,
    /// Outlives the end of an included file, as in PgBouncer.
    section: Section,
    read_file: &'a dyn Fn(&Path) -> io::Result<String>,
    includes: usize,
}

impl Reader<'_> {
    fn file(&mut self, name: &str, text: &str, depth: usize) {
        for (index, line) in text.lines().enumerate() {
            let place = Place::Line { file: name.to_owned(), line: index + 1 };
            // A byte order mark, as some editors leave it.
            let line = line.trim_start_matches('\u{feff}').trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(directive) = line.strip_prefix('%') {
                self.directive(directive, place, depth);
            } else if let Some(header) = line.strip_prefix('[') {
                self.header(header, place);
            } else {
                self.assignment(line, place);
            }
        }
    }

    fn directive(&mut self, directive: &str, place: Place, depth: usize) {
        let Some(path) = directive
            .strip_prefix("include")
            .filter(|rest| rest.starts_with(char::is_whitespace))
            .map(str::trim)
        else {
            self.written.mistake(place, "expected %include and a file name");
            return;
        };
        self.includes += 1;
        if depth >= INCLUDE_DEPTH_MAX || self.includes > INCLUDES_MAX {
            self.written.mistake(place, format!("%include {path}: too many files include others"));
            return;
        }
        match (self.read_file)(Path::new(path)) {
            Ok(text) => self.file(path, &text, depth + 1),
            Err(error) => {
                self.written.mistake(place, format!("%include {path}: cannot read: {error}"));
            }
        }
    }

    fn header(&mut self, header: &str, place: Place) {
        const SECTIONS: [&str; 4] = ["databases", "peers", "pgbouncer", "users"];
        let name = header.strip_suffix(']').unwrap_or(header).trim();
        self.section = match name {
            _ if !header.ends_with(']') => {
                self.written.mistake(place, "expected a section name in brackets: [pgbouncer]");
                Section::Unknown
            }
            "databases" => Section::Databases,
            "pgbouncer" => Section::PgBouncer,
            "users" => Section::Users,
            "peers" => Section::Peers,
            unknown => {
                let hint = suggestion(closest(unknown, SECTIONS));
                let unknown = unknown.escape_debug();
                self.written.mistake(place, format!("unknown section [{unknown}]{hint}"));
                Section::Unknown
            }
        };
    }

    fn assignment(&mut self, line: &str, place: Place) {
        let Some((key, value)) = split_key(line) else {
            self.written.mistake(place, "expected name = value");
            return;
        };
        match self.section {
            Section::None => {
                self.written.mistake(place, "expected a section such as [pgbouncer] first");
            }
            Section::PgBouncer => self.setting(&key, value, place),
            Section::Databases => {
                if let Some(keys) = self.pairs("databases", &key, value, &place, DATABASE_KEYS) {
                    self.written.databases.push(WrittenEntry { name: key, place, keys });
                }
            }
            Section::Users => {
                if let Some(keys) = self.pairs("users", &key, value, &place, USER_KEYS) {
                    self.written.users.push(WrittenEntry { name: key, place, keys });
                }
            }
            Section::Peers => {
                if let Some(keys) = self.pairs("peers", &key, value, &place, PEER_KEYS) {
                    self.written.peers.push(WrittenEntry { name: key, place, keys });
                }
            }
            Section::Unknown => {}
        }
    }

    fn setting(&mut self, key: &str, value: &str, place: Place) {
        if let Some(setting) = by_pgbouncer_key(key) {
            self.written.set(setting, place, Raw::Untyped(value.to_owned()));
        } else if WITHOUT_EFFECT.iter().any(|(known, _)| *known == key) {
            self.written.ignore(key, place);
        } else {
            let effective = SETTINGS
                .iter()
                .filter(|setting| setting.origin == Origin::PgBouncer)
                .map(|setting| setting.key);
            let known = effective.chain(WITHOUT_EFFECT.iter().map(|(known, _)| *known));
            let hint = suggestion(closest(key, known));
            self.written.mistake(place, format!("unknown setting {}{hint}", key.escape_debug()));
        }
    }

    /// The pairs of one entry; `None`, and a mistake, if it cannot be read.
    fn pairs(
        &mut self,
        section: &str,
        name: &str,
        value: &str,
        place: &Place,
        known: &[&str],
    ) -> Option<Vec<WrittenKey>> {
        let name = name.escape_debug();
        let Some(pairs) = split_pairs(value) else {
            let text = format!("{section}.{name}: expected key=value pairs, as in host=localhost");
            self.written.mistake(place.clone(), text);
            return None;
        };
        let mut keys = Vec::new();
        for (key, value) in pairs {
            if known.contains(&key.as_str()) {
                keys.push(WrittenKey { key, place: place.clone(), raw: Raw::Untyped(value) });
            } else {
                let hint = suggestion(closest(&key, known.iter().copied()));
                let text = format!("{section}.{name}: unknown key {}{hint}", key.escape_debug());
                self.written.mistake(place.clone(), text);
            }
        }
        Some(keys)
    }
}

/// `name = value`; the name may stand in double quotes, doubled inside.
fn split_key(line: &str) -> Option<(String, &str)> {
    let (name, rest) = if let Some(quoted) = line.strip_prefix('"') {
        unquote(quoted, '"')?
    } else {
        let (name, _) = line.split_once('=')?;
        (name.trim_end().to_owned(), line.strip_prefix(name)?)
    };
    let value = rest.trim_start().strip_prefix('=')?.trim();
    (!name.is_empty()).then_some((name, value))
}

/// `host=localhost password='it''s' …`, as in PgBouncer's connection strings.
fn split_pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, after_key) = rest.split_once('=')?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return None;
        }
        let after_key = after_key.trim_start();
        let (value, after_value) = if let Some(quoted) = after_key.strip_prefix('\'') {
            unquote(quoted, '\'')?
        } else {
            let end = after_key.find(char::is_whitespace).unwrap_or(after_key.len());
            let (value, after_value) = after_key.split_at_checked(end)?;
            (value.to_owned(), after_value)
        };
        pairs.push((key.to_owned(), value));
        rest = after_value.trim_start();
    }
    Some(pairs)
}

/// Text up to the closing quote, doubled quotes made single, and what follows the quote.
fn unquote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut unquoted = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once(quote)?;
        unquoted.push_str(before);
        match after.strip_prefix(quote) {
            Some(more) => {
                unquoted.push(quote);
                rest = more;
            }
            None => return Some((unquoted, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn pairs_may_be_quoted_and_spaced() {
        assert_eq!(
            split_pairs("host=a password='it''s a = b'  port = 5433 user=''"),
            Some(vec![
                pair("host", "a"),
                pair("password", "it's a = b"),
                pair("port", "5433"),
                pair("user", ""),
            ])
        );
        assert_eq!(split_pairs(""), Some(Vec::new()));
        assert_eq!(split_pairs("host"), None);
        assert_eq!(split_pairs("password='open"), None);
        assert_eq!(split_pairs("=x"), None);
    }

    #[test]
    fn names_may_be_quoted() {
        assert_eq!(split_key("a = b = c"), Some(("a".to_owned(), "b = c")));
        assert_eq!(split_key("\"my \"\"db\"\" =\" = x"), Some(("my \"db\" =".to_owned(), "x")));
        assert_eq!(split_key("a ="), Some(("a".to_owned(), "")));
        assert_eq!(split_key("= a"), None);
        assert_eq!(split_key("a"), None);
    }
}
