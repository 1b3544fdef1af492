//! Settings that follow a client from server to server: what it set, interned so that equal sets
//! share one id, and the SQL that turns one set into another.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A set of settings: lower-case name to SQL that may follow `SET name TO`. Interned.
#[derive(Debug)]
pub struct Settings {
    /// Equal for equal sets only, never reused in this process.
    pub id: u64,
    /// The same over the settings that can change an answer; part of every key.
    pub key_id: u64,
    pub values: BTreeMap<String, String>,
}

/// Settings known not to change an answer; all others are in the key (R5).
pub const NEUTRAL: &[&str] = &[
    "application_name",
    "client_min_messages",
    "deadlock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "log_min_duration_statement",
    "log_statement",
    "statement_timeout",
    "synchronous_commit",
    "tcp_keepalives_count",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_user_timeout",
    "transaction_timeout",
    "work_mem",
];

/// Brings a server that unknown code ran on back to its login state. DISCARD ALL would also drop
/// the prepared statements, which are ours and harmless.
pub const CLEAN: &str = "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; \
     SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

struct Interner {
    next: u64,
    sets: HashMap<BTreeMap<String, String>, Weak<Settings>>,
    key_ids: HashMap<BTreeMap<String, String>, u64>,
    key_bytes: usize,
}

/// Guards the sets alive in this process; nothing else is locked inside.
static INTERNER: Mutex<Option<Interner>> = Mutex::new(None);

/// Above it, sets nobody holds any more are swept out.
const SWEEP_AT: usize = 4096;

/// Settings that follow one client. PostgreSQL has about as many, and no driver sets a tenth of
/// them; what is set beyond ties the client to its server.
const SETTINGS_MAX: usize = 300;

/// Names and values of all sets whose ids are remembered.
const KEY_BYTES_MAX: usize = 32 << 20;

impl Settings {
    /// The empty set.
    pub fn none() -> Arc<Self> {
        Self::intern(BTreeMap::new())
    }

    pub fn intern(values: BTreeMap<String, String>) -> Arc<Self> {
        let mut guard = INTERNER.lock().unwrap_or_else(PoisonError::into_inner);
        let interner = guard.get_or_insert_with(|| Interner {
            next: 1,
            sets: HashMap::new(),
            key_ids: HashMap::new(),
            key_bytes: 0,
        });
        if let Some(known) = interner.sets.get(&values).and_then(Weak::upgrade) {
            return known;
        }
        if interner.sets.len() >= SWEEP_AT {
            interner.sets.retain(|_, set| set.strong_count() > 0);
        }
        let key: BTreeMap<String, String> = values
            .iter()
            .filter(|(name, _)| !NEUTRAL.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let bytes: usize = key.iter().map(|(name, value)| name.len() + value.len()).sum();
        if interner.key_ids.len() >= SWEEP_AT * 16 || interner.key_bytes > KEY_BYTES_MAX {
            // Ids are never reused, so forgetting them only loses hits.
            interner.key_ids.clear();
            interner.key_bytes = 0;
        }
        interner.next += 1;
        let id = interner.next;
        let key_id = *interner.key_ids.entry(key).or_insert(id);
        interner.key_bytes += if key_id == id { bytes } else { 0 };
        let settings = Arc::new(Self { id, key_id, values: values.clone() });
        interner.sets.insert(values, Arc::downgrade(&settings));
        settings
    }

    /// What makes its `key_id`.
    pub fn key_values(&self) -> impl Iterator<Item = (&str, &str)> {
        let values = self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        values.filter(|(name, _)| !NEUTRAL.contains(name))
    }

    /// Whether a setting of this name may be added, or is there already.
    pub fn has_room_for(&self, name: &str) -> bool {
        self.values.len() < SETTINGS_MAX || self.values.contains_key(name)
    }

    pub fn with(&self, name: &str, value: &str) -> Arc<Self> {
        if self.values.get(name).is_some_and(|known| known == value) {
            return Self::intern(self.values.clone());
        }
        let mut values = self.values.clone();
        values.insert(name.to_owned(), value.to_owned());
        Self::intern(values)
    }

    /// Back to what the client started with, if it started with something.
    pub fn reset(&self, name: &str, startup: &Self) -> Arc<Self> {
        let mut values = self.values.clone();
        match startup.values.get(name) {
            Some(value) => values.insert(name.to_owned(), value.clone()),
            None => values.remove(name),
        };
        Self::intern(values)
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

/// The SQL that takes a server from one set to another, or `None` if nothing differs.
///
/// The role is left first and taken last, since the other settings are set with the rights of
/// the session user.
pub fn replay(from: &Arc<Settings>, to: &Arc<Settings>) -> Option<String> {
    if from.id == to.id {
        return None;
    }
    let mut sql = String::new();
    if from.value("role") != to.value("role") && from.value("role").is_some() {
        sql.push_str("RESET ROLE;");
    }
    for name in from.values.keys().filter(|name| *name != "role") {
        if !to.values.contains_key(name) {
            // Writing to a String cannot fail.
            let _infallible = write!(sql, "RESET {};", quoted(name));
        }
    }
    for (name, value) in to.values.iter().filter(|(name, _)| *name != "role") {
        if from.values.get(name) != Some(value) {
            let _infallible = write!(sql, "SET {} TO {value};", quoted(name));
        }
    }
    if from.value("role") != to.value("role")
        && let Some(role) = to.value("role")
    {
        let _infallible = write!(sql, "SET ROLE {role};");
    }
    (!sql.is_empty()).then_some(sql)
}

/// A text of ours is UTF-8, and PostgreSQL reads each Query in the encoding that is set when it
/// arrives: what goes in front of one beyond ASCII, as a Query of its own, and that Query with the
/// encoding put back first. `None`: it is the same in any encoding.
pub fn beyond_ascii(sql: &str) -> Option<(&'static str, String)> {
    const READ_UTF8: &str = "SELECT pg_catalog.set_config('forebay.encoding', \
         pg_catalog.current_setting('client_encoding'), false); SET client_encoding TO 'UTF8'";
    const BACK: &str = "SELECT pg_catalog.set_config('client_encoding', \
         pg_catalog.current_setting('forebay.encoding'), false);";
    (!sql.is_ascii()).then(|| (READ_UTF8, format!("{BACK}{sql}")))
}

/// A setting's name as SQL; `app.tenant` is two names with a dot between them.
fn quoted(name: &str) -> String {
    name.split('.')
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
        .collect::<Vec<_>>()
        .join(".")
}

/// A value as a SQL string constant, right under any `standard_conforming_strings`.
pub fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Arc<Settings> {
        Settings::intern(
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    }

    #[test]
    fn equal_sets_are_one() {
        assert!(Arc::ptr_eq(&set(&[("a", "1"), ("b", "2")]), &set(&[("b", "2"), ("a", "1")])));
        assert_ne!(set(&[("a", "1")]).id, set(&[("a", "2")]).id);
    }

    #[test]
    fn neutral_settings_share_a_key_and_others_do_not() {
        assert_eq!(set(&[("application_name", "'x'")]).key_id, set(&[]).key_id);
        assert_ne!(set(&[("timezone", "'UTC'")]).key_id, set(&[]).key_id);
    }

    #[test]
    fn a_replay_resets_sets_and_takes_the_role_last() {
        let from = set(&[("role", "ann"), ("timezone", "'UTC'"), ("search_path", "a")]);
        let to = set(&[("role", "bob"), ("app.tenant", "'7'"), ("search_path", "a")]);
        assert_eq!(
            replay(&from, &to).as_deref(),
            Some("RESET ROLE;RESET \"timezone\";SET \"app\".\"tenant\" TO '7';SET ROLE bob;")
        );
        assert_eq!(replay(&to, &to), None);
    }

    #[test]
    fn a_reset_goes_back_to_what_the_client_started_with() {
        let startup = set(&[("timezone", "'UTC'")]);
        let changed = startup.with("timezone", "'Asia/Tokyo'").with("datestyle", "'German'");
        let reset = changed.reset("timezone", &startup).reset("datestyle", &startup);
        assert_eq!(reset.id, startup.id);
    }

    #[test]
    fn literals_are_safe_whatever_they_hold() {
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }
}
