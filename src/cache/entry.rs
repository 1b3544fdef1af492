//! An answer as the bytes PostgreSQL sent, with what it depends on and when it was asked.

use std::sync::Arc;
use std::time::Instant;

use crate::metrics::{SmallCounter, StatementCounters};

use super::coherence::Stamp;

/// Per entry beside its bytes: the struct, what the allocator adds to it and to them, and its place
/// in the map. `bench/memory` measures it.
pub const OVERHEAD_BYTES: usize = 200;

/// A complete, successful answer. Envelope messages (ParseComplete, BindComplete, ReadyForQuery)
/// are not in it: they are made fresh for each client.
#[derive(Debug)]
pub struct Entry {
    /// In halves, which need no padding.
    hash: [u64; 2],
    bytes: Answer,
    pub stamp: Stamp,
    /// When the query was sent; its snapshot is not older.
    pub asked_at: Instant,
    /// Times it was served, or would have been: on the line whose count of references each hit
    /// moves anyway.
    pub hits: SmallCounter,
    /// Of the statement that filled it; `None` for what came from Redis.
    pub statement: Option<Arc<StatementCounters>>,
}

/// Key, RowDescription and rows in one piece of memory: entries are many and mostly small.
#[derive(Debug)]
pub struct Answer {
    bytes: Box<[u8]>,
    key_len: u32,
    /// 0 if there is none, since a message has at least its header.
    description_len: u32,
}

/// An answer while it comes in.
#[derive(Debug)]
pub struct Recorded {
    bytes: Vec<u8>,
    key_len: usize,
    description_len: usize,
}

/// Room for a description and a row: most answers are no longer.
const FIRST_BYTES: usize = 256;

/// What is cut off a small piece of memory would be of use to nobody: 40 bytes an entry were lost so.
const COPIED_BYTES_MAX: usize = 4096;

impl Recorded {
    pub fn new(key: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(key.len() + FIRST_BYTES);
        bytes.extend_from_slice(key);
        Self { bytes, key_len: key.len(), description_len: 0 }
    }

    /// The RowDescription, whole; another takes its place.
    pub fn describe(&mut self, message: &[u8]) {
        let end = self.key_len + self.description_len;
        // Nearly always nothing lies behind it yet.
        self.bytes.splice(self.key_len..end, message.iter().copied());
        self.description_len = message.len();
    }

    pub fn push_rows(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn rows(&self) -> &[u8] {
        self.bytes.get(self.key_len + self.description_len..).unwrap_or_default()
    }

    /// Gives up what has come.
    pub fn clear(&mut self) {
        *self = Self { bytes: Vec::new(), key_len: 0, description_len: 0 };
    }

    /// In memory of its size. `None` if key or description have no length that fits: they are
    /// bounded far below.
    pub fn finish(self) -> Option<Answer> {
        Some(Answer {
            key_len: u32::try_from(self.key_len).ok()?,
            description_len: u32::try_from(self.description_len).ok()?,
            bytes: if self.bytes.len() <= COPIED_BYTES_MAX {
                self.bytes.as_slice().into()
            } else {
                self.bytes.into_boxed_slice()
            },
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.stamp.served(self.hits.value());
        if let Some(statement) = &self.statement {
            statement.left.one();
        }
    }
}

impl Entry {
    pub fn new(hash: u128, bytes: Answer, stamp: Stamp, asked_at: Instant) -> Self {
        let hash = [low_half(hash), low_half(hash >> u64::BITS)];
        Self { hash, bytes, stamp, asked_at, hits: SmallCounter::default(), statement: None }
    }

    /// Of the whole key.
    pub fn hash(&self) -> u128 {
        let [low, high] = self.hash;
        u128::from(high) << u64::BITS | u128::from(low)
    }

    /// The whole key, compared on every hit.
    pub fn key(&self) -> &[u8] {
        self.bytes.split().0
    }

    /// The RowDescription message, if the query that filled it was told one.
    pub fn row_description(&self) -> Option<&[u8]> {
        let description = self.bytes.split().1;
        (!description.is_empty()).then_some(description)
    }

    /// DataRow messages and the CommandComplete.
    pub fn rows(&self) -> &[u8] {
        self.bytes.split().2
    }

    /// What it takes of memory, in which `cache.size` is counted.
    pub fn size_bytes(&self) -> usize {
        OVERHEAD_BYTES + self.bytes.bytes.len() + self.stamp.heap_bytes()
    }
}

impl Answer {
    /// `None` as of [`Recorded::finish`].
    pub fn new(key: &[u8], row_description: Option<&[u8]>, rows: &[u8]) -> Option<Self> {
        let description = row_description.unwrap_or_default();
        let bytes = [key, description, rows].concat();
        Recorded { bytes, key_len: key.len(), description_len: description.len() }.finish()
    }

    fn split(&self) -> (&[u8], &[u8], &[u8]) {
        let (key, rest) = split_at(&self.bytes, self.key_len);
        let (description, rows) = split_at(rest, self.description_len);
        (key, description, rows)
    }
}

fn split_at(bytes: &[u8], len: u32) -> (&[u8], &[u8]) {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    bytes.split_at_checked(len).unwrap_or((bytes, &[]))
}

/// Of the hash of a key: enough where the whole key is compared, or where a mistake costs nothing.
#[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
pub fn low_half(hash: u128) -> u64 {
    hash as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_in_parts_however_it_came() {
        let check = |order: &[(&str, &[u8])], description: &[u8]| {
            let mut recorded = Recorded::new(b"key");
            for (what, bytes) in order {
                match *what {
                    "describe" => recorded.describe(bytes),
                    _ => recorded.push_rows(bytes),
                }
            }
            assert_eq!(recorded.rows(), b"rows");
            let answer = recorded.finish().unwrap();
            assert_eq!(answer.split(), (&b"key"[..], description, &b"rows"[..]));
        };
        check(&[("rows", b"ro"), ("rows", b"ws")], b"");
        check(&[("describe", b"first"), ("describe", b"T"), ("rows", b"rows")], b"T");
        check(&[("rows", b"rows"), ("describe", b"late")], b"late");
    }

    #[test]
    fn the_halves_of_a_hash_are_the_hash() {
        let coherence = super::super::coherence::Coherence::new(1);
        let answer = Recorded::new(b"key").finish().unwrap();
        let hash = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210;
        let entry = Entry::new(hash, answer, coherence.stamp(&[]).unwrap(), Instant::now());
        assert_eq!(entry.hash(), hash);
    }

    /// What `OVERHEAD_BYTES` says of the struct; glibc's malloc adds eight bytes and rounds to 16.
    #[test]
    fn an_entry_fits_the_chunk_that_is_counted_for_it() {
        let counts = 2 * size_of::<usize>();
        assert!(size_of::<Entry>() + counts <= 120, "{}", size_of::<Entry>());
    }
}
