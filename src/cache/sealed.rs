//! An entry as bytes for a store that is not trusted, and back. Pure; knows no Redis.
//!
//! Invariant: bytes become an entry only if this process sealed them in this life, for this very
//! key (rules R20, R26). Whether the entry is still true is for its stamp to say, as ever. The
//! secret is random per process, and so are the epochs inside: another Forebay, or this one before
//! a restart, can neither read what we wrote nor write what we read. For the same reason the age
//! may be a time on our own monotonic clock.
//!
//! ```text
//! sealed  = layout u8 · packing u8 · body length u32 · nonce 12 bytes · AES-256-GCM of body or lz4
//!           of it, which vouches for the first six bytes too · its tag 16 bytes
//! body    = key bytes32 · asked µs u64 · versions u16 × (table u64 · epoch u64 ·
//!           generation u64) · described u8 · RowDescription bytes32 · rows bytes32
//! bytes32 = length u32 · bytes
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::Sha256;

use crate::sql::verdict::TableId;
use crate::wire::backend::{COMMAND_COMPLETE, DATA_ROW, ROW_DESCRIPTION};
use crate::wire::frame;

use super::coherence::{Coherence, Version};
use super::entry::{Answer, Entry};
use super::key::KEY_BYTES_MAX;

/// Of the form above. Other forms are not read.
const LAYOUT: u8 = 3;
const PLAIN: u8 = 0;
const LZ4: u8 = 1;
/// Layout, packing, body length.
const HEAD_BYTES: usize = 6;
const TAG_BYTES: usize = 16;
/// Tables an entry may depend on, the database included; one that reads more stays in memory.
const VERSIONS_MAX: usize = 1024;
const VERSION_BYTES: usize = 24;
/// The database's slot, where a table's OID stands otherwise.
const DATABASE: u64 = u64::MAX;
/// Everything in a body but the key, the versions and the messages.
const FIXED_BYTES: usize = 64;

/// Seals entries and opens them again.
pub struct Seal {
    /// Keyed already, so that a name costs no more than its bytes.
    names: Hmac<Sha256>,
    seals: LessSafeKey,
    /// Ages count from here.
    started: Instant,
    /// Longest body; bounds what a length inside can make us allocate.
    body_bytes_max: usize,
    compress_from: usize,
}

/// Why bytes are no entry of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsealed {
    /// Too long, another layout, a body that is not what its length says.
    Malformed,
    /// Not sealed by this process in this life, or changed since.
    Forged,
    /// Another statement's.
    WrongKey,
    /// From before a table's slot was replaced, or from a clock ahead of ours.
    WrongTime,
}

impl Seal {
    /// `secret` must come from the system's randomness, and nobody else may know it.
    pub fn new(
        secret: &[u8; 32],
        started: Instant,
        entry_bytes_max: usize,
        compress_from: usize,
    ) -> Self {
        let body_bytes_max = entry_bytes_max
            .saturating_add(KEY_BYTES_MAX + VERSIONS_MAX * VERSION_BYTES + FIXED_BYTES)
            // A length in the header is four bytes.
            .min(u32::MAX as usize);
        Self {
            names: hmac(&derived(secret, b"forebay name")),
            seals: sealing(&derived(secret, b"forebay seal")),
            started,
            body_bytes_max,
            compress_from,
        }
    }

    /// Where the entry of this key lies: tells nobody without the secret what the key is.
    pub fn name(&self, prefix: &str, key: &[u8]) -> String {
        use std::fmt::Write as _;
        let digest = self.names.clone().chain_update(key).finalize().into_bytes();
        let mut name = String::with_capacity(prefix.len() + 2 * digest.len());
        name.push_str(prefix);
        for byte in digest {
            // Writing to a string does not fail.
            let _infallible = write!(name, "{byte:02x}");
        }
        name
    }

    /// Longest sealed entry.
    pub fn sealed_bytes_max(&self) -> usize {
        HEAD_BYTES + NONCE_LEN + self.body_bytes_max + TAG_BYTES
    }

    /// `None` if it is over a bound, so that it would not be opened again.
    pub fn seal(&self, entry: &Entry) -> Option<Vec<u8>> {
        let body = self.body(entry)?;
        let packed = (body.len() >= self.compress_from)
            .then(|| pack(&body))
            .flatten()
            .filter(|packed| packed.len() < body.len());
        let packing = if packed.is_some() { LZ4 } else { PLAIN };
        let mut sealed = vec![LAYOUT, packing];
        put_u32(&mut sealed, body.len())?;
        self.encipher(sealed, packed.unwrap_or(body))
    }

    /// `stored` behind its head.
    fn encipher(&self, mut head: Vec<u8>, mut stored: Vec<u8>) -> Option<Vec<u8>> {
        let nonce = next_nonce();
        let unique = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(head.as_slice());
        let tag = self.seals.seal_in_place_separate_tag(unique, aad, &mut stored).ok()?;
        head.reserve_exact(NONCE_LEN + stored.len() + TAG_BYTES);
        head.extend_from_slice(&nonce);
        head.extend_from_slice(&stored);
        head.extend_from_slice(tag.as_ref());
        Some(head)
    }

    /// The entry of `key`, if these bytes are one that we sealed. `hash` is the key's in memory.
    pub fn open(
        &self,
        sealed: &[u8],
        key: &[u8],
        hash: u128,
        coherence: &Coherence,
    ) -> Result<Entry, Unsealed> {
        if sealed.len() > self.sealed_bytes_max() {
            return Err(Unsealed::Malformed);
        }
        let (head, rest) = sealed.split_at_checked(HEAD_BYTES).ok_or(Unsealed::Malformed)?;
        let (nonce, stored) = rest.split_first_chunk().ok_or(Unsealed::Malformed)?;
        let mut stored = stored.to_vec();
        // Before anything is believed, even a length.
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.seals.open_in_place(nonce, Aad::from(head), &mut stored);
        let stored: &[u8] = opened.or(Err(Unsealed::Forged))?;
        let &[LAYOUT, packing, a, b, c, d] = head else { return Err(Unsealed::Malformed) };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > self.body_bytes_max {
            return Err(Unsealed::Malformed);
        }
        match packing {
            PLAIN if stored.len() == len => self.entry(stored, key, hash, coherence),
            LZ4 => {
                let mut body = vec![0; len];
                let written = lz4_flex::block::decompress_into(stored, &mut body);
                if written.ok() != Some(len) {
                    return Err(Unsealed::Malformed);
                }
                self.entry(&body, key, hash, coherence)
            }
            _ => Err(Unsealed::Malformed),
        }
    }

    fn body(&self, entry: &Entry) -> Option<Vec<u8>> {
        let versions: Vec<Version> = entry.stamp.slots().collect();
        if versions.len() > VERSIONS_MAX || entry.key().len() > KEY_BYTES_MAX {
            return None;
        }
        let mut body =
            Vec::with_capacity(entry.size_bytes() + versions.len() * VERSION_BYTES + FIXED_BYTES);
        put_bytes(&mut body, entry.key())?;
        // Cut, never rounded up: an entry may seem older than it is, not younger.
        put_micros(&mut body, entry.asked_at.saturating_duration_since(self.started))?;
        body.extend_from_slice(&u16::try_from(versions.len()).ok()?.to_be_bytes());
        for version in versions {
            let table = version.table.map_or(DATABASE, |table| u64::from(table.0));
            for word in [table, version.epoch, version.generation] {
                body.extend_from_slice(&word.to_be_bytes());
            }
        }
        body.push(u8::from(entry.row_description().is_some()));
        put_bytes(&mut body, entry.row_description().unwrap_or_default())?;
        put_bytes(&mut body, entry.rows())?;
        (body.len() <= self.body_bytes_max).then_some(body)
    }

    fn entry(
        &self,
        body: &[u8],
        key: &[u8],
        hash: u128,
        coherence: &Coherence,
    ) -> Result<Entry, Unsealed> {
        let body = Body::read(body).ok_or(Unsealed::Malformed)?;
        if body.key != key {
            return Err(Unsealed::WrongKey);
        }
        let stamp = coherence.restore(&body.versions).ok_or(Unsealed::WrongTime)?;
        let asked_at = self.started.checked_add(body.asked).ok_or(Unsealed::WrongTime)?;
        let answer =
            Answer::new(key, body.row_description, body.rows).ok_or(Unsealed::Malformed)?;
        Ok(Entry::new(hash, answer, stamp, asked_at))
    }
}

/// A body, split and checked.
#[derive(Debug)]
struct Body<'a> {
    key: &'a [u8],
    asked: Duration,
    versions: Vec<Version>,
    row_description: Option<&'a [u8]>,
    rows: &'a [u8],
}

impl<'a> Body<'a> {
    /// `None` if it is not wholly what a body is.
    fn read(body: &'a [u8]) -> Option<Self> {
        let mut rest = body;
        let key = take_bytes(&mut rest)?;
        let asked = Duration::from_micros(take_u64(&mut rest)?);
        let count = usize::from(u16::from_be_bytes(*take(&mut rest)?));
        if count > VERSIONS_MAX {
            return None;
        }
        let versions = (0..count).map(|_| take_version(&mut rest)).collect::<Option<_>>()?;
        let [described] = *take(&mut rest)?;
        let description = take_bytes(&mut rest)?;
        let row_description = match (described, description) {
            (0, []) => None,
            (1, message) => Some(message),
            _ => return None,
        };
        let rows = take_bytes(&mut rest)?;
        let whole = rest.is_empty() && is_answer(row_description, rows);
        whole.then_some(Self { key, asked, versions, row_description, rows })
    }
}

/// Whether these messages are one answer: a RowDescription if any, DataRows of as many columns,
/// one CommandComplete. Nothing else may ever reach a client from here.
fn is_answer(row_description: Option<&[u8]>, rows: &[u8]) -> bool {
    let mut columns = None;
    if let Some(message) = row_description {
        match frame::split(message, message.len()) {
            Ok(Some((header, body)))
                if header.tag == ROW_DESCRIPTION && header.total == message.len() =>
            {
                columns = column_count(body);
                if columns.is_none() {
                    return false;
                }
            }
            Ok(_) | Err(_) => return false,
        }
    }
    let mut rest = rows;
    while let Ok(Some((header, body))) = frame::split(rest, rest.len()) {
        let Some(next) = rest.get(header.total..) else { return false };
        match header.tag {
            DATA_ROW => {
                let count = column_count(body);
                if count.is_none()
                    || *columns.get_or_insert(count.unwrap_or(0)) != count.unwrap_or(0)
                    || !is_row(body)
                {
                    return false;
                }
            }
            COMMAND_COMPLETE => {
                let end = body.iter().position(|&byte| byte == 0);
                return next.is_empty() && end.is_some_and(|end| end + 1 == body.len());
            }
            _ => return false,
        }
        rest = next;
    }
    false
}

fn column_count(mut body: &[u8]) -> Option<u16> {
    take(&mut body).map(|bytes| u16::from_be_bytes(*bytes))
}

/// Whether the columns fill the DataRow exactly.
fn is_row(mut body: &[u8]) -> bool {
    let Some(count) = take(&mut body).map(|bytes| u16::from_be_bytes(*bytes)) else { return false };
    for _ in 0..count {
        let Some(length) = take(&mut body).map(|bytes| i32::from_be_bytes(*bytes)) else {
            return false;
        };
        // -1 is NULL.
        if length == -1 {
            continue;
        }
        let Some(rest) = usize::try_from(length).ok().and_then(|len| body.get(len..)) else {
            return false;
        };
        body = rest;
    }
    body.is_empty()
}

/// Two secrets from one, so that a name tells nothing of a seal.
fn derived(secret: &[u8; 32], purpose: &[u8]) -> [u8; 32] {
    hmac(secret).chain_update(purpose).finalize().into_bytes().into()
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn hmac(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length")
}

#[expect(clippy::expect_used, reason = "the key is as long as the cipher says")]
fn sealing(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key of 32 bytes"))
}

/// Never the same twice in this process, whatever the key: with two messages under one nonce both
/// could be read, and others forged.
fn next_nonce() -> [u8; NONCE_LEN] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut nonce = [0; NONCE_LEN];
    let (_, count) = nonce.split_at_mut(NONCE_LEN - size_of::<u64>());
    count.copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    nonce
}

fn pack(body: &[u8]) -> Option<Vec<u8>> {
    let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(body.len())];
    let len = lz4_flex::block::compress_into(body, &mut packed).ok()?;
    packed.truncate(len);
    Some(packed)
}

fn put_u32(out: &mut Vec<u8>, len: usize) -> Option<()> {
    out.extend_from_slice(&u32::try_from(len).ok()?.to_be_bytes());
    Some(())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    put_u32(out, bytes.len())?;
    out.extend_from_slice(bytes);
    Some(())
}

fn put_micros(out: &mut Vec<u8>, duration: Duration) -> Option<()> {
    out.extend_from_slice(&u64::try_from(duration.as_micros()).ok()?.to_be_bytes());
    Some(())
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(first)
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(|bytes| u64::from_be_bytes(*bytes))
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::from_be_bytes(*take(rest)?) as usize;
    let (first, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(first)
}

fn take_version(rest: &mut &[u8]) -> Option<Version> {
    let table = match take_u64(rest)? {
        DATABASE => None,
        table => Some(TableId(u32::try_from(table).ok()?)),
    };
    Some(Version { table, epoch: take_u64(rest)?, generation: take_u64(rest)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::coherence::Scope;

    const A: TableId = TableId(16_384);
    const DESCRIPTION: &[u8] = b"T\0\0\0\x1b\0\x02a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    const ROWS: &[u8] = b"D\0\0\0\x0f\0\x02\0\0\0\x01x\xff\xff\xff\xffC\0\0\0\x0dSELECT 1\0";

    struct World {
        seal: Seal,
        coherence: Coherence,
        started: Instant,
    }

    fn world(compress_from: usize) -> World {
        let started = Instant::now();
        let seal = Seal::new(&[7; 32], started, 1 << 20, compress_from);
        World { seal, coherence: Coherence::new(5), started }
    }

    impl World {
        fn entry(&self, description: Option<&[u8]>, rows: &[u8]) -> Entry {
            let answer = Answer::new(b"key", description, rows).unwrap();
            let stamp = self.coherence.stamp(&[A]).unwrap();
            Entry::new(9, answer, stamp, self.started + Duration::from_millis(5))
        }

        fn sealed(&self) -> Vec<u8> {
            self.seal.seal(&self.entry(Some(DESCRIPTION), ROWS)).unwrap()
        }

        fn open(&self, sealed: &[u8]) -> Result<Entry, Unsealed> {
            self.seal.open(sealed, b"key", 9, &self.coherence)
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        for compress_from in [0, usize::MAX] {
            let world = world(compress_from);
            let entry = world.open(&world.sealed()).unwrap();
            assert_eq!((entry.key(), entry.hash()), (&b"key"[..], 9));
            assert_eq!(entry.row_description(), Some(DESCRIPTION));
            assert_eq!(entry.rows(), ROWS);
            assert_eq!(entry.asked_at, world.started + Duration::from_millis(5));
            assert!(entry.stamp.holds());
        }
    }

    #[test]
    fn an_entry_without_description_comes_back_without_one() {
        let world = world(usize::MAX);
        let sealed = world.seal.seal(&world.entry(None, ROWS)).unwrap();
        assert_eq!(world.open(&sealed).unwrap().row_description(), None);
    }

    #[test]
    fn repetitive_rows_are_stored_shorter() {
        const ROW: &[u8; 12] = b"D\0\0\0\x0b\0\x01\0\0\0\x01x";
        let mut rows = ROW.repeat(1000);
        rows.extend_from_slice(b"C\0\0\0\x10SELECT 1000\0");
        let world = world(4096);
        let sealed = world.seal.seal(&world.entry(None, &rows)).unwrap();
        assert!(sealed.len() < rows.len() / 10);
        assert_eq!(world.open(&sealed).unwrap().rows(), rows);
    }

    #[test]
    fn who_reads_what_is_stored_learns_neither_rows_nor_statement() {
        const SECRET: &[u8] = b"D\0\0\0\x19\0\x01\0\0\0\x0fmost secret rowC\0\0\0\x0dSELECT 1\0";
        let world = world(usize::MAX);
        let (one, other) = (world.entry(None, SECRET), world.entry(None, SECRET));
        let (one, other) = (world.seal.seal(&one).unwrap(), world.seal.seal(&other).unwrap());
        for sealed in [&one, &other] {
            assert_eq!(world.open(sealed).unwrap().rows(), SECRET);
            for secret in [&b"secret"[..], b"SELECT", b"key"] {
                assert!(!sealed.windows(secret.len()).any(|window| window == secret));
            }
        }
        // Nor that two are the same.
        let equal = one.iter().zip(&other).skip(HEAD_BYTES + NONCE_LEN).filter(|(a, b)| a == b);
        assert!(equal.count() < SECRET.len() / 2);
    }

    #[test]
    fn a_write_in_between_unmakes_what_was_stored() {
        let world = world(usize::MAX);
        let sealed = world.sealed();
        world.coherence.begin_write(&Scope::Tables([A].into())).committed();
        assert!(!world.open(&sealed).unwrap().stamp.holds());
    }

    #[test]
    fn another_process_can_neither_find_nor_open_it() {
        let ours = world(usize::MAX);
        let theirs = Seal::new(&[8; 32], ours.started, 1 << 20, usize::MAX);
        assert_ne!(ours.seal.name("p:", b"key"), theirs.name("p:", b"key"));
        let opened = theirs.open(&ours.sealed(), b"key", 9, &ours.coherence);
        assert_eq!(opened.unwrap_err(), Unsealed::Forged);
    }

    #[test]
    fn an_earlier_life_with_the_same_secret_would_still_be_refused() {
        let world = world(usize::MAX);
        let sealed = world.sealed();
        let reborn = Coherence::new(6);
        reborn.stamp(&[A]).unwrap();
        let opened = world.seal.open(&sealed, b"key", 9, &reborn);
        assert_eq!(opened.unwrap_err(), Unsealed::WrongTime);
    }

    #[test]
    fn an_entry_put_in_the_place_of_another_is_refused() {
        let world = world(usize::MAX);
        let opened = world.seal.open(&world.sealed(), b"kez", 9, &world.coherence);
        assert_eq!(opened.unwrap_err(), Unsealed::WrongKey);
    }

    #[test]
    fn every_changed_bit_and_every_truncation_is_refused() {
        for compress_from in [0, usize::MAX] {
            let world = world(compress_from);
            let sealed = world.sealed();
            for end in 0..sealed.len() {
                assert!(world.open(&sealed[..end]).is_err());
            }
            for bit in 0..sealed.len() * 8 {
                let mut changed = sealed.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(world.open(&changed).unwrap_err(), Unsealed::Forged);
            }
            assert!(world.open(&[&sealed[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn a_value_over_the_bound_is_not_looked_into() {
        let world = world(usize::MAX);
        let long = vec![0; world.seal.sealed_bytes_max() + 1];
        assert_eq!(world.open(&long).unwrap_err(), Unsealed::Malformed);
    }

    #[test]
    fn an_entry_over_the_bound_is_not_sealed() {
        let world = world(usize::MAX);
        let entry = world.entry(None, &vec![0; 2 << 20]);
        assert!(world.seal.seal(&entry).is_none());
    }

    /// As if somebody had the secret: the decoder must still not be led astray.
    #[test]
    fn a_body_cut_short_or_random_is_no_entry() {
        let world = world(usize::MAX);
        let body = world.seal.body(&world.entry(Some(DESCRIPTION), ROWS)).unwrap();
        assert!(Body::read(&body).is_some());
        for end in 0..body.len() {
            assert!(Body::read(&body[..end]).is_none());
        }
        assert!(Body::read(&[&body[..], &[0]].concat()).is_none());
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let mut random = body.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = usize::try_from(state >> 33).unwrap() % random.len();
                random[at] = state.to_be_bytes()[1];
            }
            if let Some(read) = Body::read(&random) {
                assert!(is_answer(read.row_description, read.rows));
            }
        }
    }

    #[test]
    fn an_lz4_body_that_is_not_as_long_as_it_says_is_refused() {
        let world = world(usize::MAX);
        let body = world.seal.body(&world.entry(None, ROWS)).unwrap();
        let packed = pack(&body).unwrap();
        for len in [0, body.len() - 1, body.len() + 1, world.seal.body_bytes_max + 1] {
            let mut head = vec![LAYOUT, LZ4];
            put_u32(&mut head, len).unwrap();
            let sealed = world.seal.encipher(head, packed.clone()).unwrap();
            assert_eq!(world.open(&sealed).unwrap_err(), Unsealed::Malformed);
        }
    }

    #[test]
    fn only_an_answer_is_an_answer() {
        let check =
            |rows: &[u8], answer: bool| assert_eq!(is_answer(None, rows), answer, "{rows:?}");
        check(ROWS, true);
        check(b"C\0\0\0\x0dSELECT 0\0", true);
        check(b"", false);
        check(b"D\0\0\0\x06\0\0", false);
        check(b"Z\0\0\0\x05I", false);
        check(b"E\0\0\0\x05\0C\0\0\0\x0dSELECT 0\0", false);
        check(b"C\0\0\0\x0dSELECT 0\0Z\0\0\0\x05I", false);
        check(b"C\0\0\0\x0dSELECT 00", false);
        check(b"C\0\0\0\x04", false);
        // One column, then none.
        check(b"D\0\0\0\x0a\0\x01\xff\xff\xff\xffD\0\0\0\x06\0\0C\0\0\0\x0dSELECT 2\0", false);
        // A column longer than its row.
        check(b"D\0\0\0\x0a\0\x01\0\0\0\x01C\0\0\0\x0dSELECT 1\0", false);
        // A description of two columns over rows of one.
        assert!(!is_answer(
            Some(DESCRIPTION),
            b"D\0\0\0\x0a\0\x01\xff\xff\xff\xffC\0\0\0\x0dSELECT 1\0"
        ));
    }
}
