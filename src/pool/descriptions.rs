//! What PostgreSQL said of statements that clients had described: ParameterDescription and what
//! follows it, for the next client that asks.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

/// Descriptions of one pool, and their bytes with those of their keys.
const COUNT_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
const BYTES_MAX: usize = 16 << 20;

/// A longer one, with its key, costs more room than it saves time.
const ONE_BYTES_MAX: usize = 64 << 10;

/// By everything that can change them; one per pool.
#[derive(Debug)]
pub struct Descriptions {
    /// Guards the map; nothing else is locked inside.
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    map: LruCache<Box<[u8]>, Arc<[u8]>>,
    bytes: usize,
}

impl Default for Descriptions {
    fn default() -> Self {
        Self { known: Mutex::new(Known { map: LruCache::new(COUNT_MAX), bytes: 0 }) }
    }
}

impl Descriptions {
    pub fn get(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.map.get(key).map(Arc::clone)
    }

    /// Keeps one; the least recently used make room.
    pub fn insert(&self, key: Box<[u8]>, messages: &[u8]) {
        let bytes = key.len() + messages.len();
        if bytes > ONE_BYTES_MAX {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.bytes += bytes;
        if let Some((key, messages)) = known.map.push(key, messages.into()) {
            known.bytes -= key.len() + messages.len();
        }
        while known.bytes > BYTES_MAX
            && let Some((key, messages)) = known.map.pop_lru()
        {
            known.bytes -= key.len() + messages.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize, len: usize) -> Box<[u8]> {
        let mut key = vec![0; len];
        key[..8].copy_from_slice(&number.to_be_bytes());
        key.into()
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let descriptions = Descriptions::default();
        let (len, count) = (ONE_BYTES_MAX - 8, BYTES_MAX / ONE_BYTES_MAX);
        for number in 0..count {
            descriptions.insert(key(number, len), b"messages");
        }
        assert_eq!(descriptions.get(&key(0, len)).as_deref(), Some(&b"messages"[..]));
        descriptions.insert(key(count, len), b"messages");
        assert!(descriptions.get(&key(0, len)).is_some());
        assert!(descriptions.get(&key(1, len)).is_none());
        // The same again takes no more room.
        for _ in 0..10 {
            descriptions.insert(key(count, len), b"messages");
        }
        assert!(descriptions.get(&key(2, len)).is_some());
        for number in 0..=COUNT_MAX.get() {
            descriptions.insert(key(number, 8), b"");
        }
        assert!(descriptions.get(&key(0, 8)).is_none());
        assert!(descriptions.get(&key(1, 8)).is_some());
    }

    #[test]
    fn one_that_is_too_long_is_not_kept() {
        let descriptions = Descriptions::default();
        descriptions.insert(key(1, 8), &vec![0; ONE_BYTES_MAX]);
        assert!(descriptions.get(&key(1, 8)).is_none());
    }
}
