//! A TOML file as written: which setting is given what, on which line. Nothing is resolved here.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::mistake::{closest, suggestion};
use super::settings::by_name;
use super::value::Raw;
use super::{Mistake, Place, SECTIONS, SETTINGS, Written, WrittenEntry, WrittenKey};

/// Sections of named entries.
const ENTRIES: [&str; 4] = ["databases", "users", "peers", "rules"];

/// Reads the text of a file called `name`.
pub(super) fn read(name: &str, text: &str) -> Written {
    let lines = Lines { name, text };
    let mut written = Written::default();
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = lines.place(error.span().unwrap_or_default());
        written.mistake(place, format!("not TOML: {}", error.message()));
    }
    if written.mistakes.is_empty() {
        for (section, value) in in_order(document.get_ref()) {
            read_section(&lines, section, value, &mut written);
        }
    }
    written
}

/// A file's entries by line; TOML's own order is that of the alphabet.
fn in_order<'a, 'i>(
    table: &'a DeTable<'i>,
) -> Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn read_section(
    lines: &Lines<'_>,
    section: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    written: &mut Written,
) {
    let name = section.get_ref().as_ref();
    let place = lines.place(section.span());
    match value.get_ref() {
        DeValue::Table(table) if name == "databases" => {
            for (database, value) in in_order(table) {
                written.databases.extend(read_entry(
                    lines,
                    name,
                    database,
                    value,
                    &mut written.mistakes,
                ));
            }
        }
        DeValue::Table(table) if name == "users" => {
            for (user, value) in in_order(table) {
                written.users.extend(read_entry(lines, name, user, value, &mut written.mistakes));
            }
        }
        DeValue::Table(table) if name == "peers" => {
            for (peer, value) in in_order(table) {
                written.peers.extend(read_entry(lines, name, peer, value, &mut written.mistakes));
            }
        }
        DeValue::Table(table) if name == "rules" => {
            for (rule, value) in in_order(table) {
                written.rules.extend(read_entry(lines, name, rule, value, &mut written.mistakes));
            }
        }
        DeValue::Table(table) if SECTIONS.iter().any(|(known, _)| *known == name) => {
            for (key, value) in in_order(table) {
                read_setting(lines, name, key, value, written);
            }
        }
        DeValue::Table(_) => {
            let known = SECTIONS.iter().map(|(known, _)| *known).chain(ENTRIES.iter().copied());
            let hint = suggestion(closest(name, known));
            written.mistake(place, format!("unknown section [{}]{hint}", name.escape_debug()));
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => {
            let section =
                if ENTRIES.contains(&name) || SECTIONS.iter().any(|(known, _)| *known == name) {
                    format!("expected a section: [{name}]")
                } else {
                    let hint = suggestion(closest_setting("", name));
                    format!(
                        "unknown setting {}{hint}; settings belong to sections",
                        name.escape_debug()
                    )
                };
            written.mistake(place, section);
        }
    }
}

fn read_setting(
    lines: &Lines<'_>,
    section: &str,
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    written: &mut Written,
) {
    let name = key.get_ref().as_ref();
    let place = lines.place(key.span());
    if let Some(setting) = by_name(section, name) {
        written.set(setting, place, raw(value.get_ref()));
    } else {
        let hint = suggestion(closest_setting(section, name));
        let name = name.escape_debug();
        written.mistake(place, format!("unknown setting {section}.{name}{hint}"));
    }
}

/// One entry of `[databases]`, `[users]`, `[peers]` or `[rules]`.
fn read_entry(
    lines: &Lines<'_>,
    section: &str,
    name: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    mistakes: &mut Vec<Mistake>,
) -> Option<WrittenEntry> {
    let place = lines.place(name.span());
    let name = name.get_ref().as_ref();
    if let Some(table) = value.get_ref().as_table() {
        let keys = in_order(table)
            .into_iter()
            .map(|(key, value)| WrittenKey {
                key: key.get_ref().as_ref().to_owned(),
                place: lines.place(key.span()),
                raw: raw(value.get_ref()),
            })
            .collect();
        Some(WrittenEntry { name: name.to_owned(), place, keys })
    } else {
        let name = name.escape_debug();
        let what = if matches!(section, "databases" | "peers") { " with its host" } else { "" };
        let text = format!("{section}.{name}: expected a table{what}");
        mistakes.push(Mistake::new(place, text));
        None
    }
}

/// The full name of the setting most likely meant by `key` in `section`; one of the same section
/// before others.
fn closest_setting(section: &str, key: &str) -> Option<&'static str> {
    let here = SETTINGS.iter().filter(|setting| setting.section == section);
    let key = closest(key, here.map(|setting| setting.key))
        .or_else(|| closest(key, SETTINGS.iter().map(|setting| setting.key)))?;
    let full_name = |setting: &&super::Setting| setting.key == key && setting.section == section;
    SETTINGS
        .iter()
        .find(full_name)
        .or_else(|| SETTINGS.iter().find(|setting| setting.key == key))
        .map(|setting| setting.name)
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.as_ref().to_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("a number that is too large"), Raw::Integer),
        DeValue::Float(number) => {
            number.as_str().parse().map_or(Raw::Other("a number"), Raw::Float)
        }
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> =
                items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
            texts.map_or(Raw::Other("a list that holds more than texts"), Raw::List)
        }
    }
}

/// From positions in the text to lines for people.
struct Lines<'a> {
    name: &'a str,
    text: &'a str,
}

impl Lines<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        let before = self.text.as_bytes().iter().take(span.start);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Place::Line { file: self.name.to_owned(), line }
    }
}
