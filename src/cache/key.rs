//! Everything that can change an answer, length-prefixed, so that two statements never share an
//! entry by accident or by design (hazards section 4).

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A longer key costs more than it saves; the query bypasses the cache.
pub const KEY_BYTES_MAX: usize = 64 * 1024;

/// What the session contributes stands first.
const SESSION_BYTES: usize = 4 * size_of::<u64>();

/// Key material under construction; kept by a client and reused, so a look-up allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct KeyBuffer {
    bytes: Vec<u8>,
    /// Of the bytes. A miss asks for it four times.
    hash: u128,
}

/// What the session contributes: each id is never reused within this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionKey {
    /// Cluster, database and its identity (hazard rule R22).
    pub database: u64,
    /// User and the defaults its servers start with (R5, R25).
    pub base: u64,
    /// The settings the client changed that can change an answer, role and `search_path` among them.
    pub settings: u64,
    /// The last flush of its roles.
    pub flushed: u64,
}

/// What the statement contributes.
#[derive(Clone, Copy, Debug)]
pub struct StatementKey<'a> {
    /// Without comments, literals in place.
    pub text: &'a [u8],
    /// Declared parameter types, four bytes each.
    pub types: &'a [u8],
    /// Parameter format codes and length-prefixed values as in Bind.
    pub formats: &'a [u8],
    pub values: &'a [u8],
    /// Result format codes as in Bind.
    pub result_formats: &'a [u8],
}

impl KeyBuffer {
    /// Takes its content away, and its room if that is larger than this many bytes.
    pub fn empty(&mut self, bytes_max: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(bytes_max);
    }

    /// Replaces the content; false if the key would be over `KEY_BYTES_MAX`. `seed`: of hashes in
    /// this process.
    #[must_use]
    pub fn set(&mut self, session: SessionKey, statement: &StatementKey<'_>, seed: u64) -> bool {
        let result_formats = all_text_is_none(statement.result_formats);
        let formats = all_text_is_none(statement.formats);
        let fields = [statement.types, formats, statement.values, result_formats, statement.text];
        let len: usize = fields.iter().map(|field| field.len() + 4).sum::<usize>() + SESSION_BYTES;
        if len > KEY_BYTES_MAX {
            return false;
        }
        self.bytes.clear();
        for id in [session.database, session.base, session.settings, session.flushed] {
            self.bytes.extend_from_slice(&id.to_be_bytes());
        }
        for field in fields {
            // Fits: the sum above is below 2^16.
            self.bytes.extend_from_slice(&u32::try_from(field.len()).unwrap_or(0).to_be_bytes());
            self.bytes.extend_from_slice(field);
        }
        self.hash = xxh3_128_with_seed(&self.bytes, seed);
        true
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A fast hash that finds the place; the whole key is compared there.
    pub fn hash(&self) -> u128 {
        self.hash
    }
}

/// What `KeyBuffer::set` was given of the session, and all that it made of the statement.
pub fn split(key: &[u8]) -> Option<(SessionKey, &[u8])> {
    let (session, statement) = key.split_at_checked(SESSION_BYTES)?;
    let (ids, _) = session.as_chunks();
    let [database, base, settings, flushed] = ids else { return None };
    let [database, base, settings, flushed] =
        [database, base, settings, flushed].map(|id| u64::from_be_bytes(*id));
    Some((SessionKey { database, base, settings, flushed }, statement))
}

/// What `KeyBuffer::set` was given of the statement; `None` of anything else.
pub fn statement_of(key: &[u8]) -> Option<StatementKey<'_>> {
    statement(split(key)?.1)
}

/// The same of what `split` gives of the statement.
pub fn statement(mut rest: &[u8]) -> Option<StatementKey<'_>> {
    let mut field = || {
        let (len, after) = rest.split_first_chunk()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
        let (field, after) = after.split_at_checked(len)?;
        rest = after;
        Some(field)
    };
    let (types, formats, values) = (field()?, field()?, field()?);
    let (result_formats, text) = (field()?, field()?);
    Some(StatementKey { text, types, formats, values, result_formats })
}

/// No code, one code 0 and all codes 0 all mean text (hazard G2).
fn all_text_is_none(codes: &[u8]) -> &[u8] {
    if codes.iter().all(|&byte| byte == 0) { &[] } else { codes }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionKey = SessionKey { database: 1, base: 2, settings: 3, flushed: 4 };
    const STATEMENT: StatementKey<'static> = StatementKey {
        text: b"select 1",
        types: b"",
        formats: b"",
        values: b"",
        result_formats: b"",
    };

    fn key(session: SessionKey, statement: StatementKey<'_>) -> Vec<u8> {
        let mut key = KeyBuffer::default();
        assert!(key.set(session, &statement, 0));
        key.bytes().to_vec()
    }

    #[test]
    fn every_field_makes_another_key() {
        let keys = [
            key(SESSION, STATEMENT),
            key(SessionKey { database: 9, ..SESSION }, STATEMENT),
            key(SessionKey { base: 9, ..SESSION }, STATEMENT),
            key(SessionKey { settings: 9, ..SESSION }, STATEMENT),
            key(SessionKey { flushed: 9, ..SESSION }, STATEMENT),
            key(SESSION, StatementKey { text: b"select 2", ..STATEMENT }),
            key(SESSION, StatementKey { types: &[0, 0, 0, 23], ..STATEMENT }),
            key(SESSION, StatementKey { formats: &[0, 1], ..STATEMENT }),
            key(SESSION, StatementKey { values: &[255, 255, 255, 255], ..STATEMENT }),
            key(SESSION, StatementKey { values: &[0, 0, 0, 0], ..STATEMENT }),
            key(SESSION, StatementKey { result_formats: &[0, 1], ..STATEMENT }),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn bytes_do_not_slide_from_one_field_into_the_next() {
        let left = key(SESSION, StatementKey { types: b"abcd", values: b"", ..STATEMENT });
        let right = key(SESSION, StatementKey { types: b"", values: b"abcd", ..STATEMENT });
        assert_ne!(left, right);
    }

    #[test]
    fn the_ways_to_say_all_text_are_one_key() {
        let none = key(SESSION, STATEMENT);
        assert_eq!(none, key(SESSION, StatementKey { result_formats: &[0, 0], ..STATEMENT }));
        assert_eq!(none, key(SESSION, StatementKey { result_formats: &[0, 0, 0, 0], ..STATEMENT }));
    }

    #[test]
    fn a_key_tells_its_statement() {
        let (types, values) = (&[0, 0, 0, 23][..], &[0, 0, 0, 1, 49][..]);
        let key = key(SESSION, StatementKey { types, values, ..STATEMENT });
        let read = statement_of(&key).unwrap();
        assert_eq!((read.text, read.types, read.values), (STATEMENT.text, types, values));
        assert_eq!(split(&key), Some((SESSION, &key[SESSION_BYTES..])));
        for len in 0..key.len() {
            assert!(statement_of(&key[..len]).is_none(), "{len}");
        }
    }

    #[test]
    fn a_key_over_the_bound_is_refused() {
        let long = vec![b'x'; KEY_BYTES_MAX];
        let statement = StatementKey { text: &long, ..STATEMENT };
        assert!(!KeyBuffer::default().set(SESSION, &statement, 0));
    }
}
