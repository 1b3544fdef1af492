//! The entries of `[rules]`, and `cache.functions`: what the operator says of answers.

use std::time::Duration;

use super::mistake::{closest, suggestion};
use super::value::{Raw, Value};
use super::{Mistake, Range, WrittenEntry};
use crate::sql::rules::{Pattern, Rule, Subject};

/// Keys of an entry.
const RULE_KEYS: &[&str] = &["database", "deny", "max_age", "schema", "statement", "table"];

/// Each is looked at for every relation when a catalogue is read, or for every new statement.
const RULES_MAX: usize = 1000;

const DAY_MS: u64 = 86_400_000;

/// What an entry says, before it is known what it is about.
#[derive(Default)]
struct Draft {
    database: Option<String>,
    schema: Option<String>,
    table: Option<String>,
    statement: Option<String>,
    deny: bool,
    max_age: Option<Duration>,
}

/// A later entry of the same name takes the place of an earlier one.
pub(super) fn read(written: &[WrittenEntry]) -> (Vec<Rule>, Vec<Mistake>) {
    let (mut rules, mut mistakes): (Vec<Rule>, Vec<Mistake>) = Default::default();
    for entry in written {
        let mut draft = Draft::default();
        let before = mistakes.len();
        for key in &entry.keys {
            if let Err(text) = draft.set(&key.key, &key.raw) {
                let name = format!("rules.{}.{}", entry.name, key.key);
                let text = format!("{}: {text}", name.escape_debug());
                mistakes.push(Mistake::new(key.place.clone(), text));
            }
        }
        if mistakes.len() > before {
            continue;
        }
        match draft.rule(&entry.name) {
            Ok(rule) => {
                rules.retain(|other| other.name != rule.name);
                rules.push(rule);
            }
            Err(text) => {
                let text = format!("rules.{}: {text}", entry.name.escape_debug());
                mistakes.push(Mistake::new(entry.place.clone(), text));
            }
        }
    }
    if rules.len() > RULES_MAX
        && let Some(entry) = written.get(RULES_MAX)
    {
        let text = format!("rules: expected at most {RULES_MAX}");
        mistakes.push(Mistake::new(entry.place.clone(), text));
    }
    (rules, mistakes)
}

impl Draft {
    fn set(&mut self, key: &str, raw: &Raw) -> Result<(), String> {
        let text = || String::read(raw, Range::Any).map(Some);
        match key {
            "database" => self.database = text()?,
            "schema" => self.schema = text()?,
            "table" => self.table = text()?,
            "statement" => self.statement = text()?,
            "deny" => self.deny = bool::read(raw, Range::Any)?,
            "max_age" => {
                self.max_age = Some(Duration::read(raw, Range::Between(1, 30 * DAY_MS))?);
            }
            unknown => {
                let hint = suggestion(closest(unknown, RULE_KEYS.iter().copied()));
                return Err(format!("unknown key{hint}"));
            }
        }
        Ok(())
    }

    fn rule(self, name: &str) -> Result<Rule, &'static str> {
        if !self.deny && self.max_age.is_none() {
            return Err("expected deny = true, or a max_age");
        }
        let subject = match (self.schema, self.table, self.statement) {
            (None, None, None) if self.database.is_none() => {
                return Err("expected a table, a schema, a statement or a database");
            }
            (None, None, Some(statement)) => Subject::Statements(shape(&statement)),
            (_, _, Some(_)) => return Err("expected a table or a schema, or else a statement"),
            (schema, table, None) => {
                let table = table.unwrap_or_else(|| "*".to_owned());
                let (schema, name) = match (schema, table.split_once('.')) {
                    (Some(_), Some(_)) => return Err("expected the schema once"),
                    (None, Some((schema, name))) => (Some(schema.to_owned()), name.to_owned()),
                    (schema, None) => (schema, table),
                };
                let schema = schema.as_deref().map(Pattern::new);
                Subject::Relations { schema, name: Pattern::new(&name) }
            }
        };
        let (deny, max_age) = (self.deny, self.max_age);
        Ok(Rule { name: name.to_owned(), database: self.database, subject, deny, max_age })
    }
}

/// In lower case and with single blanks, as shapes are compared.
fn shape(statement: &str) -> Pattern {
    let words: Vec<&str> = statement.split_whitespace().collect();
    Pattern::new(&words.join(" ").to_lowercase())
}

/// `schema.name` of a function, in two; or what is wrong with it.
pub(super) fn function(text: &str) -> Result<(String, String), String> {
    let found = text.escape_debug();
    match text.split_once('.') {
        Some(("pg_catalog" | "information_schema", _)) => {
            Err(format!("expected functions of your own, found \"{found}\""))
        }
        Some((schema, name)) if !schema.is_empty() && !name.is_empty() => {
            Ok((schema.to_owned(), name.to_owned()))
        }
        Some(_) | None => Err(format!("expected schema.name, found \"{found}\"")),
    }
}
