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

pub mod shared;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
    body_bytes_max: AtomicUsize,
    compress_from: usize,
}

/// Why bytes are no entry of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsealed {
    /// Another layout, a body that is not what its length says.
    Malformed,
    /// Longer than what is kept here. Others may keep longer ones, or this one did.
    TooLong,
    /// Not sealed by this process in this life, or by one of its group; or changed since.
    Forged,
    /// Another statement's.
    WrongKey,
    /// From before a table's slot was replaced, or was changed for the group; or from a clock ahead
    /// of ours.
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
        Self {
            names: hmac(&derived(secret, b"forebay name")),
            seals: sealing(&derived(secret, b"forebay seal")),
            started,
            body_bytes_max: AtomicUsize::new(body_bytes_max(entry_bytes_max)),
            compress_from,
        }
    }

    /// From now on entries may have this length.
    pub fn set_longest(&self, entry_bytes_max: usize) {
        self.body_bytes_max.store(body_bytes_max(entry_bytes_max), Ordering::Relaxed);
    }

    fn body_bytes_max(&self) -> usize {
        self.body_bytes_max.load(Ordering::Relaxed)
    }

    /// Where the entry of this key lies: tells nobody without the secret what the key is.
    pub fn name(&self, prefix: &str, key: &[u8]) -> String {
        let digest = self.names.clone().chain_update(key).finalize().into_bytes();
        hex_behind(prefix, &digest)
    }

    /// Longest sealed entry.
    pub fn sealed_bytes_max(&self) -> usize {
        HEAD_BYTES + NONCE_LEN + self.body_bytes_max() + TAG_BYTES
    }

    /// `None` if it is over a bound, so that it would not be opened again.
    pub fn seal(&self, entry: &Entry) -> Option<Vec<u8>> {
        let (head, stored) = packed(LAYOUT, self.body(entry)?, self.compress_from)?;
        self.encipher(head, stored)
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
            return Err(Unsealed::TooLong);
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
        let body = unpacked(packing, stored, len, self.body_bytes_max())?;
        self.entry(&body, key, hash, coherence)
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
        put_answer(&mut body, entry)?;
        (body.len() <= self.body_bytes_max()).then_some(body)
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
        let (row_description, rows) = take_answer(rest)?;
        Some(Self { key, asked, versions, row_description, rows })
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

/// Longest body of an entry of this length.
fn body_bytes_max(entry_bytes_max: usize) -> usize {
    entry_bytes_max
        .saturating_add(KEY_BYTES_MAX + VERSIONS_MAX * VERSION_BYTES + FIXED_BYTES)
        // A length in the header is four bytes.
        .min(u32::MAX as usize)
}

fn hex_behind(prefix: &str, bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut name = String::with_capacity(prefix.len() + 2 * bytes.len());
    name.push_str(prefix);
    for byte in bytes {
        // Writing to a string does not fail.
        let _infallible = write!(name, "{byte:02x}");
    }
    name
}

/// The first six bytes, and what is enciphered: the body, or lz4 of it if that is shorter.
fn packed(layout: u8, body: Vec<u8>, compress_from: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let packed = (body.len() >= compress_from)
        .then(|| pack(&body))
        .flatten()
        .filter(|packed| packed.len() < body.len());
    let packing = if packed.is_some() { LZ4 } else { PLAIN };
    let mut head = vec![layout, packing];
    put_u32(&mut head, body.len())?;
    Some((head, packed.unwrap_or(body)))
}

/// The body of this length.
fn unpacked(
    packing: u8,
    stored: &[u8],
    len: usize,
    len_max: usize,
) -> Result<Cow<'_, [u8]>, Unsealed> {
    match packing {
        PLAIN | LZ4 if len > len_max => Err(Unsealed::TooLong),
        PLAIN if stored.len() == len => Ok(stored.into()),
        LZ4 => {
            let mut body = vec![0; len];
            let written = lz4_flex::block::decompress_into(stored, &mut body);
            (written.ok() == Some(len)).then(|| body.into()).ok_or(Unsealed::Malformed)
        }
        _ => Err(Unsealed::Malformed),
    }
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

/// `described u8 · RowDescription bytes32 · rows bytes32`, the end of a body.
fn put_answer(out: &mut Vec<u8>, entry: &Entry) -> Option<()> {
    out.push(u8::from(entry.row_description().is_some()));
    put_bytes(out, entry.row_description().unwrap_or_default())?;
    put_bytes(out, entry.rows())
}

fn take_answer(mut rest: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let [described] = *take(&mut rest)?;
    let description = take_bytes(&mut rest)?;
    let row_description = match (described, description) {
        (0, []) => None,
        (1, message) => Some(message),
        _ => return None,
    };
    let rows = take_bytes(&mut rest)?;
    let whole = rest.is_empty() && is_answer(row_description, rows);
    whole.then_some((row_description, rows))
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
mod tests;
