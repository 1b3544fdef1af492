//! Which keys may be in the second tier, so that what was never stored is not asked for. Pure.
//!
//! Invariant: a key that was noted less than a life ago is found. The reverse is not promised:
//! some keys are found that were never noted, all of them if far too many were.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One mebibyte a half: a million keys a life leave 6 % of the others found by mistake.
const BITS: usize = 1 << 23;
const WORD_BITS: usize = u64::BITS as usize;
/// Bits set for a key; at a million keys the best is near six, but each is a cache line.
const PROBES: usize = 3;

/// Two Bloom filters. Keys are noted in one for a life, then in the other, which holds nothing
/// that lives still and is emptied first.
pub struct Stored {
    halves: [Box<[AtomicU64]>; 2],
    /// Guards which half is written; nothing else is locked inside.
    turn: Mutex<Turn>,
}

struct Turn {
    half: usize,
    since: Instant,
    life: Duration,
}

impl Stored {
    /// What is noted lives so long.
    pub fn new(life: Duration, now: Instant) -> Self {
        let half = || (0..BITS / WORD_BITS).map(|_| AtomicU64::new(0)).collect();
        let turn = Mutex::new(Turn { half: 0, since: now, life });
        Self { halves: [half(), half()], turn }
    }

    /// What is noted from now on lives so long.
    pub fn set_life(&self, life: Duration) {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner).life = life;
    }

    /// Notes the key of this hash.
    pub fn note(&self, hash: u128, now: Instant) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(turn.since) >= turn.life {
            (turn.half, turn.since) = (1 - turn.half, now);
            self.half(turn.half).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        let half = self.half(turn.half);
        for (index, bit) in places(hash) {
            if let Some(word) = half.get(index) {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// Whether it may have been noted.
    pub fn may_have(&self, hash: u128) -> bool {
        self.halves.iter().any(|half| {
            places(hash).all(|(index, bit)| {
                half.get(index).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
            })
        })
    }

    fn half(&self, half: usize) -> &[AtomicU64] {
        self.halves.get(half).map_or(&[], AsRef::as_ref)
    }
}

/// The words and bits of a hash, from parts of it that do not overlap.
fn places(hash: u128) -> impl Iterator<Item = (usize, u64)> {
    (0..PROBES).map(move |probe| {
        let part = (hash >> (probe * u64::BITS as usize / 2)) as usize % BITS;
        (part / WORD_BITS, 1 << (part % WORD_BITS))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_mins(1);

    /// As the hashes of keys are: all bits in use.
    fn hash(number: u64) -> u128 {
        xxhash_rust::xxh3::xxh3_128(&number.to_be_bytes())
    }

    #[test]
    fn what_was_noted_is_found_and_hardly_anything_else() {
        let now = Instant::now();
        let stored = Stored::new(LIFE, now);
        (0..100_000).for_each(|number| stored.note(hash(number), now));
        assert!((0..100_000).all(|number| stored.may_have(hash(number))));
        let mistaken = (100_000..200_000).filter(|&number| stored.may_have(hash(number))).count();
        assert!(mistaken < 50, "{mistaken}");
    }

    #[test]
    fn what_was_noted_is_found_for_a_life_and_forgotten_after_two() {
        let start = Instant::now();
        let stored = Stored::new(LIFE, start);
        let step = LIFE / 4;
        for number in 0..40 {
            let now = start + step * number;
            stored.note(hash(number.into()), now);
            let noted_ago = |steps| stored.may_have(hash(u64::from(number).wrapping_sub(steps)));
            assert!((0..=4.min(number.into())).all(noted_ago), "{number}");
            assert!(!(8..16).any(noted_ago), "{number}");
        }
    }

    #[test]
    fn what_is_noted_after_a_change_is_found_for_the_life_of_then() {
        let start = Instant::now();
        let stored = Stored::new(LIFE, start);
        stored.set_life(10 * LIFE);
        stored.note(hash(0), start);
        stored.note(hash(1), start + 9 * LIFE);
        stored.note(hash(2), start + 10 * LIFE);
        assert!((0..3).all(|number| stored.may_have(hash(number))));
        stored.note(hash(3), start + 20 * LIFE);
        assert!(!stored.may_have(hash(0)));
    }

    #[test]
    fn a_flood_of_keys_loses_none() {
        let now = Instant::now();
        let stored = Stored::new(LIFE, now);
        let flood = || (0..BITS as u64).step_by(4).map(hash);
        flood().for_each(|hash| stored.note(hash, now));
        assert!(flood().all(|hash| stored.may_have(hash)));
    }
}
