//! What a client's settings mean for its statements: where names are looked up, which isolation
//! applies, whether texts can be read at all. Worked out once per change of settings.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use crate::cache::digests::Digest;
use crate::cache::key::SessionKey;
use crate::cache::warm::Asker;
use crate::pool::Common;
use crate::server::base::{Base, place};
use crate::server::settings::Settings;
use crate::sql::classify::parse_search_path;
use crate::sql::verdict::{BypassReason, Isolation};

use crate::twin::{self, Twin};

use super::patience::Patience;
use super::transaction::isolation;

/// Derived from one set of settings over one base.
#[derive(Clone, Debug)]
pub struct Facts {
    pub key: SessionKey,
    /// `Settings::id` this was worked out from.
    settings: u64,
    /// `Roles::flushes` when it was.
    flushes: u64,
    pub search_path: Vec<String>,
    pub isolation: Isolation,
    /// `None` if it is not understood.
    pub patience: Option<Patience>,
    /// Why this session has no use of the cache: it said so (`SET forebay.cache = off`), or its
    /// server replays what another writes (hazard I5).
    pub kept_out: Option<BypassReason>,
    /// Literals end where the lexer thinks they end, and the path is understood.
    pub readable: bool,
    /// Where only a backslash keeps a text from being read.
    pub readable_without_backslash: bool,
    /// PostgreSQL takes texts for UTF-8, as we do (hazard F7). Any other encoding may mean other
    /// names by the same bytes.
    pub reads_utf8: bool,
    /// Which life of PostgreSQL answers.
    pub place: u64,
}

thread_local! {
    /// What this thread worked out last: clients that come one after the other are mostly alike.
    static LATEST: RefCell<(Weak<Common>, Option<Arc<Facts>>)> = const { RefCell::new((Weak::new(), None)) };
}

impl Facts {
    /// Worked out anew, unless it was for the client before.
    pub fn of(common: &Arc<Common>, base: &Base, settings: &Settings) -> Arc<Self> {
        let flushes = common.cache.roles.flushes();
        LATEST.with_borrow_mut(|(owner, latest)| {
            // The reference keeps every other pool from this address, and this one not alive.
            let is_its = Weak::as_ptr(owner) == Arc::as_ptr(common);
            if let Some(facts) = latest.as_ref().filter(|_| is_its)
                && facts.is_of(base.id, settings, flushes)
            {
                return Arc::clone(facts);
            }
            let facts = Arc::new(Self::new(common, base, settings));
            (*owner, *latest) = (Arc::downgrade(common), Some(Arc::clone(&facts)));
            facts
        })
    }

    fn new(common: &Common, base: &Base, settings: &Settings) -> Self {
        let value = |name: &str| {
            settings.value(name).map(unquoted).or_else(|| base.value(name).map(str::to_owned))
        };
        let role = value("role").filter(|role| !role.eq_ignore_ascii_case("none"));
        let user = role.unwrap_or_else(|| common.user.clone());
        // Before its number is asked for: who comes between is seen at the next look.
        let flushes = common.cache.roles.flushes();
        let path = settings.value("search_path").map(identifiers);
        let path = path.or_else(|| base.value("search_path").map(str::to_owned));
        let search_path = path.and_then(|path| parse_search_path(&path, &user));
        let plain_strings = value("standard_conforming_strings")
            .is_none_or(|value| matches!(value.to_ascii_lowercase().as_str(), "on" | "true" | "1"));
        let default = value("default_transaction_isolation");
        let declined = value("forebay.cache").is_some_and(|value| {
            let no = |word: &&str| value.eq_ignore_ascii_case(word);
            ["off", "false", "no", "0"].iter().any(no)
        });
        let key = SessionKey {
            database: common.database.id,
            base: base.id,
            settings: key_id(settings),
            flushed: common.cache.roles.number([&common.user, &user]),
        };
        if let Some(redis) = &common.cache.redis {
            redis.learn(&key, || Digest::of(base.key_values(), settings.key_values()));
        }
        let warm_ups = &common.cache.warm_ups;
        warm_ups.learn(&key, || Asker::new(&common.user, settings.key_values()));
        Self {
            key,
            settings: settings.id,
            flushes,
            kept_out: if declined {
                Some(BypassReason::CacheOff)
            } else {
                base.is_standby().then_some(BypassReason::Standby)
            },
            readable: plain_strings && search_path.is_some(),
            readable_without_backslash: search_path.is_some(),
            reads_utf8: is_utf8(
                &value("client_encoding").unwrap_or_default(),
                base.reported_value("server_encoding").unwrap_or_default(),
            ),
            place: place(base),
            search_path: search_path.unwrap_or_default(),
            patience: Patience::read(value),
            isolation: default.map_or(Isolation::ReadCommitted, |value| {
                // A level we do not know bypasses as the strictest does.
                isolation(&value).unwrap_or(Isolation::Serializable)
            }),
        }
    }

    /// Whether it was worked out from these settings over that base, since the last flush.
    pub fn is_of(&self, base_id: u64, settings: &Settings, flushes: u64) -> bool {
        self.key.base == base_id && self.settings == settings.id && self.flushes == flushes
    }
}

fn key_id(settings: &Settings) -> u64 {
    if twin::is(Twin::KeyWithoutRole) {
        return settings.reset("role", &Settings::none()).key_id;
    }
    settings.key_id
}

/// A value as `SHOW` would print it, from what may follow `SET name TO`.
fn unquoted(value: &str) -> String {
    match value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inner) => inner.replace("''", "'"),
        None => value.trim_matches('"').to_owned(),
    }
}

/// What is not converted on its way in is as the database keeps it.
fn is_utf8(client: &str, server: &str) -> bool {
    // As PostgreSQL compares them: letters and digits alone.
    let is = |name: &str, other: &str| {
        let letters = name.bytes().filter(u8::is_ascii_alphanumeric);
        letters.map(|letter| letter.to_ascii_lowercase()).eq(other.bytes())
    };
    let utf8 = |name: &str| is(name, "utf8") || is(name, "unicode");
    let as_is = |name: &str| is(name, "sqlascii");
    utf8(client) || (as_is(client) && (utf8(server) || as_is(server)))
}

/// A list of string constants as the list of identifiers that it means in `search_path`.
fn identifiers(value: &str) -> String {
    value.replace('"', "\"\"").replace('\'', "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_show_prints_them() {
        assert_eq!(unquoted("'repeatable read'"), "repeatable read");
        assert_eq!(unquoted("on"), "on");
        assert_eq!(identifiers("'Tenant', public"), "\"Tenant\", public");
    }

    #[test]
    fn what_is_utf8_to_postgresql_is_known_by_any_of_its_names() {
        for name in ["UTF8", "utf-8", "Unicode", "UTF_8"] {
            assert!(is_utf8(name, "UTF8") && is_utf8(name, "LATIN1"), "{name}");
        }
        assert!(is_utf8("SQL_ASCII", "UTF8") && is_utf8("sql_ascii", "SQL_ASCII"));
        for (client, server) in [("SQL_ASCII", "LATIN1"), ("LATIN1", "UTF8"), ("", "UTF8")] {
            assert!(!is_utf8(client, server), "{client} {server}");
        }
    }
}
