//! What one of a group tells the others of a cancel request whose client it does not have: a word
//! that is understood by whoever has the client. Pure.
//!
//! ```text
//! word   = version u8 · the process id's last byte · nonce 16 bytes · digest 32 bytes
//! digest = HMAC-SHA256 of nonce · process id u32 · key, under the group's secret
//! ```
//!
//! Nobody learns the key from it, or makes one who does not know the key. Without a secret the key
//! of the digest is known to all: keys of four bytes can then be found by trying.
//!
//! The last byte is there so that not every client has to be tried.
//!
//! Invariant: a word stops something once, however often it is said.

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use lru::LruCache;
use sha2::Sha256;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
pub const WORD_BYTES: usize = 2 + NONCE_BYTES + DIGEST_BYTES;

/// Words that were meant for a client here are remembered, so many of the last. Others are not, so
/// whoever knows no key cannot have them forgotten.
const HEARD_MAX: NonZero<usize> = NonZero::new(4096).unwrap();

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub pid_byte: u8,
    nonce: [u8; NONCE_BYTES],
    digest: [u8; DIGEST_BYTES],
}

impl Word {
    /// `None`: it is none of this version.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (&[version, pid_byte], rest) = bytes.split_first_chunk()?;
        let (&nonce, rest) = rest.split_first_chunk()?;
        let digest = rest.try_into().ok()?;
        (version == VERSION).then_some(Self { pid_byte, nonce, digest })
    }

    pub fn bytes(&self) -> Vec<u8> {
        [&[VERSION, self.pid_byte][..], &self.nonce, &self.digest].concat()
    }
}

/// Makes words and tells what they mean.
#[derive(Debug)]
pub struct Words {
    under: Hmac<Sha256>,
    /// Nothing else is locked inside.
    heard: Mutex<LruCache<[u8; NONCE_BYTES], ()>>,
}

impl Words {
    /// `secret` is the group's; empty if it has none.
    pub fn new(secret: &[u8]) -> Self {
        let key = hmac(secret).chain_update(b"forebay group cancel 1").finalize().into_bytes();
        Self { under: hmac(&key), heard: Mutex::new(LruCache::new(HEARD_MAX)) }
    }

    /// `nonce` must be random.
    pub fn of(&self, pid: u32, key: &[u8], nonce: [u8; NONCE_BYTES]) -> Word {
        let digest = self.digest(pid, key, &nonce).finalize().into_bytes().into();
        Word { pid_byte: last_byte(pid), nonce, digest }
    }

    pub fn means(&self, word: &Word, pid: u32, key: &[u8]) -> bool {
        let digest = self.digest(pid, key, &word.nonce);
        word.pid_byte == last_byte(pid) && digest.verify_slice(&word.digest).is_ok()
    }

    /// Whether it is heard for the first time. To be asked for words that mean somebody here.
    pub fn is_new(&self, word: &Word) -> bool {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.put(word.nonce, ()).is_none()
    }

    fn digest(&self, pid: u32, key: &[u8], nonce: &[u8; NONCE_BYTES]) -> Hmac<Sha256> {
        self.under.clone().chain_update(nonce).chain_update(pid.to_be_bytes()).chain_update(key)
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn hmac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length")
}

pub fn last_byte(pid: u32) -> u8 {
    let [_, _, _, last] = pid.to_be_bytes();
    last
}

/// How many may pass in a second.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    passed: u32,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { since: now, passed: 0 }
    }

    pub fn may_pass(&mut self, now: Instant, max: u32) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.passed = self.passed.saturating_add(1);
        self.passed <= max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 0x7f01_0203;
    const KEY: &[u8] = &[4, 5, 6, 7];
    const NONCE: [u8; 16] = [9; 16];

    #[test]
    fn a_word_means_one_client_to_those_of_the_same_secret() {
        let words = Words::new(b"secret");
        let word = Word::read(&words.of(PID, KEY, NONCE).bytes()).unwrap();
        assert_eq!(word, words.of(PID, KEY, NONCE));
        assert!(Words::new(b"secret").means(&word, PID, KEY));
        let check = |words: &Words, pid, key: &[u8]| {
            assert!(!words.means(&word, pid, key), "{pid} {key:?}");
        };
        check(&Words::new(b"other"), PID, KEY);
        check(&Words::new(b""), PID, KEY);
        check(&words, PID ^ 0x100, KEY);
        check(&words, PID ^ 1, KEY);
        check(&words, PID, &[4, 5, 6, 6]);
        check(&words, PID, &[4, 5, 6]);
        check(&words, PID, &[4, 5, 6, 7, 0]);
        check(&words, PID, &[]);
    }

    #[test]
    fn whatever_is_changed_of_a_word_it_means_nobody() {
        let words = Words::new(b"secret");
        let bytes = words.of(PID, KEY, NONCE).bytes();
        assert_eq!(bytes.len(), WORD_BYTES);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let read = Word::read(&changed);
            assert!(read.is_none_or(|word| !words.means(&word, PID, KEY)), "byte {at}");
            assert_eq!(Word::read(&bytes[..at]), None);
        }
        assert_eq!(Word::read(&[bytes.as_slice(), &[0]].concat()), None);
    }

    #[test]
    fn the_same_client_is_never_meant_by_the_same_word() {
        let words = Words::new(b"secret");
        let (one, two) = (words.of(PID, KEY, NONCE), words.of(PID, KEY, [8; 16]));
        assert_ne!(one.digest, two.digest);
        assert!(words.is_new(&one) && words.is_new(&two));
        assert!(!words.is_new(&one) && !words.is_new(&two));
    }

    #[test]
    fn past_the_bound_the_word_heard_longest_ago_is_forgotten() {
        let words = Words::new(b"");
        let word = |number: usize| words.of(PID, KEY, (number as u128).to_be_bytes());
        for number in 0..=HEARD_MAX.get() {
            assert!(words.is_new(&word(number)));
        }
        assert!(!words.is_new(&word(1)));
        assert!(words.is_new(&word(0)));
    }

    #[test]
    fn so_many_pass_in_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let later = |millis| start + Duration::from_millis(millis);
        let passed: Vec<bool> =
            [0, 0, 999, 1000, 1000, 1000].map(|millis| pace.may_pass(later(millis), 2)).into();
        assert_eq!(passed, [true, true, false, true, true, false]);
    }
}
