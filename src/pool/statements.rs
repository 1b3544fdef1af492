//! Statements that the clients of a pool share: one text, one name on every server.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lru::LruCache;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::insight::{Seat, Tag};
use crate::server::settings::Settings;
use crate::server::shared_name;
use crate::sql::hint::Hint;
use crate::sql::lex::{Lexed, lex};
use crate::wire::Malformed;

use super::database;
use super::signature::Signature;

/// A statement as parsed. Named ones are shared by the clients of a pool whose settings agree,
/// since PostgreSQL folds literals and resolves names when it parses.
#[derive(Debug)]
pub struct Statement {
    /// Never reused in this process; part of its name on servers.
    pub id: u64,
    /// What it is called on servers.
    pub name: Box<[u8]>,
    pub sql: Box<[u8]>,
    /// Declared parameter types, four bytes each.
    pub types: Box<[u8]>,
    /// Settings (`Settings::id`) it was parsed under.
    pub settings: u64,
    /// The same over those that can change an answer (`Settings::key_id`).
    pub settings_key: u64,
    /// Catalogue generation under which it was first parsed; its parameters have the types of then.
    pub generation: u64,
    /// `None` if the lexer cannot vouch for the text.
    pub lexed: Option<Lexed>,
    /// What its comments say of where it comes from.
    pub tag: Option<Tag>,
    /// Some server has accepted it.
    pub accepted: AtomicBool,
    /// What PostgreSQL parsed it to, once that has been told.
    pub signature: OnceLock<Signature>,
    /// The newest catalogue generation under which it is still parsed to that.
    vouched: AtomicU64,
    /// Where its executions are counted.
    pub seat: Seat,
    /// The verdict under the newest catalogue and settings it was asked for.
    known: Mutex<Option<Known>>,
}

/// A verdict and what it was made under.
#[derive(Clone, Debug)]
pub struct Known {
    pub generation: u64,
    pub settings_key: u64,
    pub base: u64,
    pub known: Arc<database::Known>,
}

/// Those of the catalogue count from 1.
const NO_GENERATION: u64 = 0;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Statement {
    pub fn new(sql: &[u8], types: &[u8], settings: &Settings, generation: u64) -> Self {
        let mut lexed = Lexed::default();
        let lexed = lex(sql, &mut lexed).is_ok().then(|| lexed.trimmed());
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            name: shared_name(id).into(),
            sql: sql.into(),
            types: types.into(),
            settings: settings.id,
            settings_key: settings.key_id,
            generation,
            tag: lexed.as_ref().and_then(|lexed| Tag::of(sql, lexed)),
            lexed,
            accepted: AtomicBool::new(false),
            signature: OnceLock::new(),
            vouched: AtomicU64::new(generation),
            seat: Seat::default(),
            known: Mutex::new(None),
        }
    }

    /// Of a client that sees another catalogue than others do, if only for now.
    pub fn of_session(sql: &[u8], types: &[u8], settings: &Settings) -> Self {
        Self::new(sql, types, settings, NO_GENERATION)
    }

    pub fn is_of_session(&self) -> bool {
        self.generation == NO_GENERATION
    }

    /// What a client has been told of it without a server, under the catalogue of its generation.
    pub fn was_told(&self, signature: impl FnOnce() -> Result<Signature, Malformed>) {
        if self.signature.get().is_none()
            && let Ok(signature) = signature()
        {
            self.signature.get_or_init(|| signature);
        }
    }

    /// Parsed anew under this generation it has the signature that it had.
    pub fn vouch(&self, generation: u64) {
        self.vouched.fetch_max(generation, Ordering::Relaxed);
    }

    pub fn is_vouched_for(&self, generation: u64) -> bool {
        self.vouched.load(Ordering::Relaxed) == generation
    }

    /// Whether it is what parsing this makes.
    pub fn is_of(&self, sql: &[u8], types: &[u8], settings: u64) -> bool {
        *self.sql == *sql && *self.types == *types && self.settings == settings
    }

    /// The same under this catalogue: after a change it may have another result type.
    fn is_of_generation(&self, sql: &[u8], types: &[u8], settings: u64, generation: u64) -> bool {
        self.is_of(sql, types, settings) && self.generation == generation
    }

    /// What it says of itself.
    pub fn hint(&self) -> Hint {
        self.lexed.as_ref().map_or_else(Hint::default, |lexed| Hint::of(&self.sql, lexed))
    }

    /// Whether parsing may fix a value that another client, or a later moment, would read otherwise.
    pub fn folds_at_parse(&self) -> bool {
        self.lexed.as_ref().is_none_or(|lexed| {
            lexed.time_word
                || lexed.text.windows(3).any(|window| window.eq_ignore_ascii_case(b"reg"))
        })
    }

    pub fn known(
        &self,
        generation: u64,
        settings_key: u64,
        base: u64,
    ) -> Option<Arc<database::Known>> {
        let guard = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        guard
            .as_ref()
            .filter(|known| {
                (known.generation, known.settings_key, known.base)
                    == (generation, settings_key, base)
            })
            .map(|known| Arc::clone(&known.known))
    }

    pub fn remember(&self, known: Known) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }
}

/// Finds the shared statement for a text; one per pool. Bounded: a forgotten one lives on while
/// clients hold it and merely gets a second name for the next client.
#[derive(Debug)]
pub struct Shared {
    /// By a hash of what makes them, which a statement is compared with. Guards the map; nothing
    /// else is locked inside.
    statements: Mutex<LruCache<u64, Arc<Statement>>>,
}

fn hash(sql: &[u8], types: &[u8], settings: u64, generation: u64) -> u64 {
    xxh3_64_with_seed(types, xxh3_64_with_seed(sql, settings ^ generation.rotate_left(32)))
}

impl Shared {
    pub fn new(statements_max: NonZeroUsize) -> Self {
        Self { statements: Mutex::new(LruCache::new(statements_max)) }
    }

    pub fn find(
        &self,
        sql: &[u8],
        types: &[u8],
        settings: u64,
        generation: u64,
    ) -> Option<Arc<Statement>> {
        let hash = hash(sql, types, settings, generation);
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        let known = statements.get(&hash)?;
        known.is_of_generation(sql, types, settings, generation).then(|| Arc::clone(known))
    }

    pub fn intern(
        &self,
        sql: &[u8],
        types: &[u8],
        settings: &Settings,
        generation: u64,
    ) -> Arc<Statement> {
        let hash = hash(sql, types, settings.id, generation);
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = statements.get(&hash)
            && known.is_of_generation(sql, types, settings.id, generation)
        {
            return Arc::clone(known);
        }
        let statement = Arc::new(Statement::new(sql, types, settings, generation));
        // 'today' and reg* literals are folded at Parse and would be another client's moment.
        if !statement.folds_at_parse() {
            statements.put(hash, Arc::clone(&statement));
        }
        statement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_shared_by_who_parses_the_same_under_the_same() {
        let shared = Shared::new(NonZeroUsize::new(10).unwrap());
        let (none, zoned) = (Settings::none(), Settings::none().with("timezone", "'UTC'"));
        let of = |sql: &[u8], types: &[u8], settings: &Settings, generation| {
            shared.intern(sql, types, settings, generation).id
        };
        let first = of(b"select $1", b"", &none, 1);
        assert_eq!(of(b"select $1", b"", &none, 1), first);
        let found = shared.find(b"select $1", b"", none.id, 1).map(|statement| statement.id);
        assert_eq!(found, Some(first));
        let others = [
            of(b"select $2", b"", &none, 1),
            of(b"select $1", &[0, 0, 0, 23], &none, 1),
            of(b"select $1", b"", &zoned, 1),
            of(b"select $1", b"", &none, 2),
        ];
        assert!(!others.contains(&first), "{others:?}");
    }

    #[test]
    fn two_texts_of_one_hash_are_two_statements() {
        let shared = Shared::new(NonZeroUsize::new(10).unwrap());
        let settings = Settings::none();
        let other = Arc::new(Statement::new(b"select 2", b"", &settings, 1));
        let place = hash(b"select 1", b"", settings.id, 1);
        shared.statements.lock().unwrap().put(place, Arc::clone(&other));
        assert!(shared.find(b"select 1", b"", settings.id, 1).is_none());
        let own = shared.intern(b"select 1", b"", &settings, 1);
        assert_eq!((&*own.sql, own.id == other.id), (&b"select 1"[..], false));
    }
}
