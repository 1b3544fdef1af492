//! An answer as the bytes PostgreSQL sent, with what it depends on and when it was asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::metrics::{SmallCounter, StatementCounters};

use super::coherence::Stamp;

/// Per entry beside its bytes: the struct, its allocations, and its place in the map.
pub const OVERHEAD_BYTES: usize = 250;

/// A complete, successful answer. Envelope messages (ParseComplete, BindComplete, ReadyForQuery)
/// are not in it: they are made fresh for each client.
#[derive(Debug)]
pub struct Entry {
    pub hash: u128,
    /// The whole key, compared on every hit.
    pub key: Box<[u8]>,
    pub stamp: Stamp,
    /// The RowDescription message, if the query that filled it was told one.
    pub row_description: Option<Bytes>,
    /// DataRow messages and the CommandComplete.
    pub rows: Bytes,
    /// When the query was sent; its snapshot is not older.
    pub asked_at: Instant,
    /// How long PostgreSQL took.
    pub cost: Duration,
    /// Times it was served, or would have been: on the line whose count of references each hit
    /// moves anyway.
    pub hits: SmallCounter,
    /// Of the statement that filled it; `None` for what came from Redis.
    pub statement: Option<Arc<StatementCounters>>,
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
    pub fn size_bytes(&self) -> usize {
        OVERHEAD_BYTES
            + self.key.len()
            + self.rows.len()
            + self.row_description.as_ref().map_or(0, Bytes::len)
    }
}
