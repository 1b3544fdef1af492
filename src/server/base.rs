//! How a session starts before any client touches it, whose it is and where: read at login (hazard
//! R5), and part of the key of every answer.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::cache::coherence::Scope;
use crate::cache::group;
use crate::cache::home::{Ambiguous, Home, Homes, Identity};
use crate::sql::verdict::Beyond;

/// What a session starts with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// Never reused in this process; part of every key. 0: not read yet.
    pub id: u64,
    /// Settings that can change an answer, by name, with the identity of the session among them.
    pub values: BTreeMap<String, String>,
    /// As ParameterStatus has told them, in order.
    pub reported: Vec<(String, String)>,
}

/// The name, beside those of settings, of whether the server is in recovery.
pub const STANDBY: &str = "forebay standby";

impl Base {
    /// From the rows of `QUERY`. Settings of an application that it started with are among
    /// `parameters` alone: PostgreSQL does not list them.
    pub fn read(
        rows: Vec<Vec<Option<String>>>,
        reported: Vec<(String, String)>,
        parameters: &[(String, String)],
    ) -> Self {
        let own = parameters.iter().filter(|(name, _)| name.contains('.') || name == "options");
        let own = own.map(|(name, value)| (format!("forebay start {name}"), value.clone()));
        let mut values: BTreeMap<_, _> = own.collect();
        for row in rows {
            let mut row = row.into_iter();
            if let (Some(Some(name)), Some(value)) = (row.next(), row.next()) {
                values.insert(name.to_ascii_lowercase(), value.unwrap_or_default());
            }
        }
        Self { id: 0, values, reported }
    }

    /// Whether more may be asked, which says nothing of the session itself.
    pub fn may_ask(&mut self, what: &More) -> bool {
        self.values.remove(what.permission).as_deref() == Some("true")
    }

    pub fn add(&mut self, what: &More, value: String) {
        self.values.insert(what.name.to_owned(), value);
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// As ParameterStatus has told it.
    pub fn reported_value(&self, name: &str) -> Option<&str> {
        let mut reported = self.reported.iter().filter(|(known, _)| known == name);
        reported.next().map(|(_, value)| value.as_str())
    }

    /// What makes its id.
    pub fn key_values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Of memory, about.
    fn bytes(&self) -> usize {
        /// Of a text, beside its letters.
        const TEXT_BYTES: usize = 40;
        let reported = self.reported.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let texts = self.key_values().chain(reported);
        texts.map(|(name, value)| name.len() + value.len() + 2 * TEXT_BYTES).sum()
    }

    /// A digest of all that sessions start with.
    pub fn start(&self) -> u128 {
        let mut hash = Xxh3::new();
        for (name, value) in self.key_values() {
            for text in [name, value] {
                hash.update(&text.len().to_be_bytes());
                hash.update(text.as_bytes());
            }
        }
        hash.digest128()
    }

    pub fn is_standby(&self) -> bool {
        self.value(STANDBY) == Some("true")
    }

    /// Whether every role may ask what a transaction wrote: a refusal would fail the very
    /// transaction.
    pub fn may_see_writes(&self) -> bool {
        self.value("forebay may see writes") == Some("true")
    }
}

/// Changes of what sessions start with, anywhere: they are rare, and a server too many that is
/// connected anew costs little.
static DEFAULTS_CHANGES: AtomicU64 = AtomicU64::new(1);

/// This may have been committed.
pub fn changed(beyond: Beyond) {
    if beyond == Beyond::Starts {
        defaults_changed();
    }
    if beyond != Beyond::Nothing {
        for home in homes() {
            home.invalidate(&Scope::Database);
        }
    }
}

/// Sessions that start from now on may start otherwise; called when the change is committed.
pub fn defaults_changed() {
    DEFAULTS_CHANGES.fetch_add(1, Ordering::SeqCst);
}

pub fn defaults_changes() -> u64 {
    DEFAULTS_CHANGES.load(Ordering::SeqCst)
}

/// Names, beside those of settings, of what a server says it is.
const IDENTITY: &str = "forebay identity";
const STARTED: &str = "forebay started";
const CLUSTER: &str = "forebay cluster";

/// A question of its own, of one value: PostgreSQL refuses the whole of one that names what is
/// forbidden.
pub struct More {
    name: &'static str,
    permission: &'static str,
    pub query: &'static str,
}

/// Which cluster it is.
pub const WHICH_CLUSTER: More = More {
    name: CLUSTER,
    permission: "forebay may ask",
    query: "SELECT system_identifier::text FROM pg_catalog.pg_control_system()",
};

/// The settings with which its role and database make sessions start, those of an application among
/// them, which `pg_settings` does not list.
pub const WHICH_DEFAULTS: More = More {
    name: "forebay defaults",
    permission: "forebay may ask for defaults",
    query: "\
SELECT pg_catalog.string_agg(s.setconfig::text, ' ' ORDER BY s.setdatabase, s.setrole) \
FROM pg_catalog.pg_db_role_setting s WHERE s.setdatabase IN (0, (SELECT d.oid \
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())) \
AND s.setrole IN (0, (SELECT u.oid FROM pg_catalog.pg_roles u WHERE u.rolname = SESSION_USER))",
};

/// In front of a question at login, in one Query with it: the time-outs that a session starts with are
/// its client's. They are off at the end of these statements until that of the Query. The first may
/// be short, so it goes without a look at the catalogue; the last is not in every version.
pub const UNTIMED: [&str; 3] = [
    "SET LOCAL statement_timeout TO 0",
    "SET LOCAL lock_timeout TO 0",
    "SELECT pg_catalog.set_config(name, '0', true) \
     FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'",
];

/// Everything a session may set, as it is before anybody did, and the identity that decides what
/// it may see. `role` is hidden from `pg_settings`. The time-outs are off while this is asked;
/// what RESET returns to is what they are, but for a `connect_query`, behind which nothing is kept.
pub const QUERY: &str = "\
SELECT name, CASE WHEN name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout') \
THEN reset_val ELSE setting END FROM pg_catalog.pg_settings WHERE context IN ('user', 'superuser') \
AND name NOT IN ('application_name', 'transaction_isolation', 'transaction_read_only', \
'transaction_deferrable') \
UNION ALL SELECT 'role', pg_catalog.current_setting('role') \
UNION ALL SELECT 'forebay may ask', \
pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')::text \
UNION ALL SELECT 'forebay may ask for defaults', \
pg_catalog.has_table_privilege('pg_catalog.pg_db_role_setting', 'SELECT')::text \
UNION ALL SELECT 'forebay may see writes', (pg_catalog.bool_and( \
pg_catalog.has_function_privilege('public', p.oid, 'EXECUTE')) \
AND pg_catalog.has_table_privilege('public', 'pg_catalog.pg_class', 'SELECT') \
AND pg_catalog.has_table_privilege('public', 'pg_catalog.pg_trigger', 'SELECT'))::text \
FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace \
AND p.proname IN ('txid_current_if_assigned', 'pg_cursor', 'pg_lock_status', \
'pg_stat_get_xact_tuples_inserted', 'pg_stat_get_xact_tuples_updated', \
'pg_stat_get_xact_tuples_deleted') \
UNION ALL SELECT 'forebay standby', pg_catalog.pg_is_in_recovery()::text \
UNION ALL SELECT 'forebay started', \
(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint::text \
UNION ALL SELECT 'forebay identity', pg_catalog.concat_ws(' ', d.oid, r.oid, r.rolsuper, \
pg_catalog.pg_postmaster_start_time(), SESSION_USER) \
FROM pg_catalog.pg_database d, pg_catalog.pg_roles r \
WHERE d.datname = pg_catalog.current_database() AND r.rolname = CURRENT_USER";

/// Guards the homes of this process; a slot's lock may be taken inside.
static HOMES: Mutex<Option<Homes>> = Mutex::new(None);

/// All databases that this process has been connected to.
pub fn homes() -> Vec<Arc<Home>> {
    let guard = HOMES.lock().unwrap_or_else(PoisonError::into_inner);
    guard.as_ref().map(Homes::all).unwrap_or_default()
}

/// The home of a session that starts like this.
pub fn find_home(
    base: &Base,
    group: Option<&Arc<group::settings::Settings>>,
    now: Instant,
) -> Result<Arc<Home>, Ambiguous> {
    let first_word = |value: &str| value.split(' ').next()?.parse().ok();
    let identity = Identity {
        cluster: base.value(CLUSTER).map(str::to_owned),
        database_oid: base.value(IDENTITY).and_then(first_word).unwrap_or_default(),
    };
    let mut guard = HOMES.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || match group {
        // 31 bits, as a lock's number and a member's.
        Some(group) => Home::in_group(rand::random(), rand::random::<u32>() >> 1, group, now),
        None => Home::new(rand::random()),
    };
    guard.get_or_insert_with(Homes::default).find(&identity, make)
}

/// One life of one PostgreSQL, by the microsecond in which it began: not every role may ask for the
/// cluster, and all have to agree.
pub fn place(base: &Base) -> u64 {
    xxh3_64(base.value(STARTED).unwrap_or_default().as_bytes())
}

/// Equal bases share one id, so that a pool's servers do.
pub fn intern(base: Base) -> Arc<Base> {
    /// Guards the bases seen in this process; nothing else is locked inside.
    static BASES: Mutex<Option<Bases>> = Mutex::new(None);
    let mut guard = BASES.lock().unwrap_or_else(PoisonError::into_inner);
    guard.get_or_insert_with(Bases::default).intern(base)
}

/// Beyond it those are forgotten that no session and no pool starts with any more.
const BASES_BYTES_MAX: usize = 32 << 20;

#[derive(Default)]
struct Bases {
    known: HashSet<Known>,
    bytes: usize,
    /// Ids are never reused, so forgetting only loses hits.
    newest_id: u64,
}

impl Bases {
    fn intern(&mut self, base: Base) -> Arc<Base> {
        if let Some(known) = self.known.get(&base.values) {
            return Arc::clone(&known.base);
        }
        if self.bytes > BASES_BYTES_MAX {
            self.known.retain(|known| Arc::strong_count(&known.base) > 1);
            self.bytes = self.known.iter().map(|known| known.bytes).sum();
        }
        self.newest_id += 1;
        let known =
            Known { bytes: base.bytes(), base: Arc::new(Base { id: self.newest_id, ..base }) };
        self.bytes += known.bytes;
        let base = Arc::clone(&known.base);
        self.known.insert(known);
        base
    }
}

/// Found by its values.
struct Known {
    base: Arc<Base>,
    bytes: usize,
}

impl Borrow<BTreeMap<String, String>> for Known {
    fn borrow(&self) -> &BTreeMap<String, String> {
        &self.base.values
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.base.values == other.base.values
    }
}

impl Eq for Known {}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.base.values.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(number: u32) -> Base {
        let value = format!("{number} {}", "x".repeat(100_000));
        Base { values: BTreeMap::from([("work_mem".to_owned(), value)]), ..Base::default() }
    }

    #[test]
    fn bases_of_no_session_take_bounded_memory_and_their_ids_are_not_given_again() {
        let kept = intern(base(0));
        let others: Vec<_> = (1..=1000)
            .map(|number| {
                let other = intern(base(number));
                (other.id, Arc::downgrade(&other))
            })
            .collect();
        let known = others.iter().filter(|(_, other)| other.strong_count() > 0).count();
        assert!(known <= 400, "{known} of 100 kB each");
        assert_eq!(intern(base(0)).id, kept.id);
        let again = intern(base(1)).id;
        assert!(others.iter().all(|(id, _)| *id != again && *id != kept.id));
    }
}
