//! An entry as bytes for all of a group. Pure; knows no Redis.
//!
//! Invariant: bytes become an entry only if one of those who know the group's secret sealed them,
//! for this very key, and if what they are of (`group/versions.rs`) is what it would be now.
//!
//! Each process draws a salt and seals under a key of its own, so that no two ever use one nonce
//! under one key.
//!
//! ```text
//! sealed   = layout u8 · packing u8 · body length u32 · salt 16 bytes · nonce 12 bytes ·
//!            AES-256-GCM of body or lz4 of it, which vouches for the first 22 bytes and the
//!            material too · its tag 16 bytes
//! body     = asked ms u64 of Redis's clock · act 16 bytes · versions u16 × (table u64 ·
//!            generation u64) · described u8 · RowDescription bytes32 · rows bytes32
//! material = name of K bytes32 · catalogue 32 bytes · session 32 bytes · the statement's part of
//!            the key
//! ```
//!
//! The age is the difference of two moments of Redis's clock: a value that was long on its way, or
//! was put there anew, is as old as it is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use sha2::Sha256;

use crate::cache::coherence::Coherence;
use crate::cache::digests::{Digest, Session};
use crate::cache::entry::{Answer, Entry};
use crate::cache::group::shared::Group;
use crate::cache::group::slot::Act;
use crate::cache::group::versions::{Clock, Versions};
use crate::sql::verdict::TableId;

mod list;

pub use list::LIST_BYTES_MAX;

use super::{
    DATABASE, HEAD_BYTES, TAG_BYTES, Unsealed, VERSIONS_MAX, body_bytes_max, derived, hex_behind,
    hmac, next_nonce, packed, put_answer, put_bytes, sealing, take, take_answer, take_u64,
    unpacked,
};

const LAYOUT: u8 = 6;
const SALT_BYTES: usize = 16;

pub struct SharedSeal {
    names: Hmac<Sha256>,
    /// Gives the key of a salt.
    keys: Hmac<Sha256>,
    salt: [u8; SALT_BYTES],
    own: LessSafeKey,
    body_bytes_max: AtomicUsize,
    compress_from: usize,
}

/// Whose answer it is, to what: alike in all processes of the group.
#[derive(Clone, Debug)]
pub struct Material {
    bytes: Vec<u8>,
    prefix: String,
}

impl Material {
    /// `None` for a name of K that has no length that fits.
    pub fn new(k: &str, session: &Session, statement: &[u8]) -> Option<Self> {
        let Session { catalogue: Digest(catalogue), session: Digest(session) } = session;
        let digests = catalogue.len() + session.len();
        let mut bytes = Vec::with_capacity(4 + k.len() + digests + statement.len());
        put_bytes(&mut bytes, k.as_bytes())?;
        bytes.extend_from_slice(catalogue);
        bytes.extend_from_slice(session);
        bytes.extend_from_slice(statement);
        // With K's own braces, so that it lies where K does.
        Some(Self { bytes, prefix: format!("{k}:v:") })
    }
}

/// Where an answer is to be opened, and when.
pub struct Reader<'a> {
    pub group: &'a Group,
    pub coherence: &'a Coherence,
    /// Redis's clock when it gave the value, in microseconds.
    pub redis_us: u64,
    /// Ours, not after that.
    pub asked_at: Instant,
}

impl SharedSeal {
    /// `secret` is the group's, `salt` random.
    pub fn new(
        secret: &[u8],
        salt: [u8; SALT_BYTES],
        entry_bytes_max: usize,
        compress_from: usize,
    ) -> Self {
        let secret = derived(&[0; 32], secret);
        let keys = hmac(&derived(&secret, b"forebay group seal 6"));
        Self {
            names: hmac(&derived(&secret, b"forebay group name 6")),
            own: key_of(&keys, &salt),
            keys,
            salt,
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

    /// Where it lies.
    pub fn name(&self, material: &Material) -> String {
        let digest = self.names.clone().chain_update(&material.bytes).finalize().into_bytes();
        hex_behind(&material.prefix, &digest)
    }

    /// Longest sealed entry.
    pub fn sealed_bytes_max(&self) -> usize {
        HEAD_BYTES + SALT_BYTES + NONCE_LEN + self.body_bytes_max() + TAG_BYTES
    }

    /// The entry, whose stamp has to hold after `versions` was had. `None` if it is over a bound.
    pub fn seal(
        &self,
        entry: &Entry,
        material: &Material,
        (versions, clock): (&Versions, Clock),
    ) -> Option<Vec<u8>> {
        self.encipher(LAYOUT, self.body(entry, versions, clock)?, &material.bytes)
    }

    /// `of` is vouched for too: what the body belongs to.
    fn encipher(&self, layout: u8, body: Vec<u8>, of: &[u8]) -> Option<Vec<u8>> {
        let (mut sealed, mut stored) = packed(layout, body, self.compress_from)?;
        sealed.extend_from_slice(&self.salt);
        let nonce = next_nonce();
        let unique = Nonce::assume_unique_for_key(nonce);
        let vouched = Aad::from([&sealed[..], of].concat());
        let tag = self.own.seal_in_place_separate_tag(unique, vouched, &mut stored).ok()?;
        sealed.reserve_exact(NONCE_LEN + stored.len() + TAG_BYTES);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&stored);
        sealed.extend_from_slice(tag.as_ref());
        Some(sealed)
    }

    fn body(&self, entry: &Entry, versions: &Versions, clock: Clock) -> Option<Vec<u8>> {
        let tables = entry.stamp.slots().map(|slot| slot.table);
        if versions.generations.len() > VERSIONS_MAX || tables.count() != versions.generations.len()
        {
            return None;
        }
        let mut body = Vec::with_capacity(entry.size_bytes());
        body.extend_from_slice(&clock.at(entry.asked_at)?.to_be_bytes());
        body.extend_from_slice(&versions.act.0);
        body.extend_from_slice(&u16::try_from(versions.generations.len()).ok()?.to_be_bytes());
        for (slot, generation) in entry.stamp.slots().zip(&versions.generations) {
            let table = slot.table.map_or(DATABASE, |table| u64::from(table.0));
            body.extend_from_slice(&table.to_be_bytes());
            body.extend_from_slice(&generation.to_be_bytes());
        }
        put_answer(&mut body, entry)?;
        (body.len() <= self.body_bytes_max()).then_some(body)
    }

    /// The entry of this key, `hash` in memory, if these bytes are one.
    pub fn open(
        &self,
        sealed: &[u8],
        material: &Material,
        (key, hash): (&[u8], u128),
        reader: &Reader<'_>,
    ) -> Result<Entry, Unsealed> {
        if sealed.len() > self.sealed_bytes_max() {
            return Err(Unsealed::TooLong);
        }
        let body = self.decipher(LAYOUT, sealed, &material.bytes, self.body_bytes_max())?;
        let body = Body::read(&body).ok_or(Unsealed::Malformed)?;
        let asked_us = body.asked_ms.checked_mul(1000).ok_or(Unsealed::Malformed)?;
        let age = reader.redis_us.checked_sub(asked_us).ok_or(Unsealed::WrongTime)?;
        let asked_at = reader.asked_at.checked_sub(Duration::from_micros(age));
        let asked_at = asked_at.ok_or(Unsealed::WrongTime)?;
        let stamp = reader.group.restore(&body.versions, &body.tables, reader.coherence);
        let stamp = stamp.ok_or(Unsealed::WrongTime)?;
        let answer = Answer::new(key, body.row_description, body.rows);
        Ok(Entry::new(hash, answer.ok_or(Unsealed::Malformed)?, stamp, asked_at))
    }
}

impl SharedSeal {
    /// The body, no longer than this, that `encipher` was given with these.
    fn decipher(
        &self,
        layout: u8,
        sealed: &[u8],
        of: &[u8],
        bytes_max: usize,
    ) -> Result<Vec<u8>, Unsealed> {
        let (head, rest) = sealed.split_at_checked(HEAD_BYTES).ok_or(Unsealed::Malformed)?;
        let (salt, rest) = rest.split_first_chunk().ok_or(Unsealed::Malformed)?;
        let (nonce, stored) = rest.split_first_chunk().ok_or(Unsealed::Malformed)?;
        let mut stored = stored.to_vec();
        let vouched = Aad::from([head, salt, of].concat());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        // Derived each time: it is little beside the way to Redis.
        let opened = key_of(&self.keys, salt).open_in_place(nonce, vouched, &mut stored);
        let stored: &[u8] = opened.or(Err(Unsealed::Forged))?;
        let &[its_layout, packing, a, b, c, d] = head else { return Err(Unsealed::Malformed) };
        if its_layout != layout {
            return Err(Unsealed::Malformed);
        }
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        Ok(unpacked(packing, stored, len, bytes_max)?.into_owned())
    }
}

/// The key that is used under this salt.
fn key_of(keys: &Hmac<Sha256>, salt: &[u8; SALT_BYTES]) -> LessSafeKey {
    sealing(&keys.clone().chain_update(salt).finalize().into_bytes().into())
}

/// A body, split and checked.
#[derive(Debug)]
struct Body<'a> {
    asked_ms: u64,
    versions: Versions,
    tables: Vec<TableId>,
    row_description: Option<&'a [u8]>,
    rows: &'a [u8],
}

impl<'a> Body<'a> {
    /// `None` if it is not wholly what a body is.
    fn read(body: &'a [u8]) -> Option<Self> {
        let mut rest = body;
        let asked_ms = take_u64(&mut rest)?;
        let act = Act(*take(&mut rest)?);
        let count = usize::from(u16::from_be_bytes(*take(&mut rest)?));
        if !(1..=VERSIONS_MAX).contains(&count) || take_u64(&mut rest)? != DATABASE {
            return None;
        }
        let mut generations = vec![take_u64(&mut rest)?];
        let mut tables = Vec::with_capacity(count - 1);
        for _ in 1..count {
            tables.push(TableId(u32::try_from(take_u64(&mut rest)?).ok()?));
            generations.push(take_u64(&mut rest)?);
        }
        let (row_description, rows) = take_answer(rest)?;
        let versions = Versions { act, generations };
        Some(Self { asked_ms, versions, tables, row_description, rows })
    }
}

#[cfg(test)]
mod tests;
