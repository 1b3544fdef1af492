//! What the settings say of the group.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::config::SecretText;

use super::link;
use super::member::{Millis, Rules};

#[derive(Debug)]
pub struct Settings {
    pub name: String,
    pub lease: Duration,
    /// Of a round trip to Redis; one that takes longer ends the connection.
    pub timeout: Duration,
    /// So long a read waits for a check.
    pub read_timeout: Duration,
    /// Hits go without asking beside other members, too.
    pub local: bool,
    pub link: link::Settings,
    /// Of the answers in Redis; empty: they are not shared.
    pub secret: SecretText,
    /// Where the links lead.
    pub found: link::Found,
}

/// By how much two clocks may go apart in a lease: a twentieth.
const DRIFT: Millis = 20;

impl Settings {
    pub fn rules(&self) -> Rules {
        let lease = Millis::try_from(self.lease.as_millis()).unwrap_or(Millis::MAX);
        Rules { lease, margin: lease / DRIFT, without: None }
    }

    /// The first number of the advisory locks that show members of this group.
    pub fn class(&self) -> i32 {
        let digest =
            Sha256::new().chain_update(b"forebay group ").chain_update(&self.name).finalize();
        let word = digest.first_chunk().copied().unwrap_or_default();
        i32::from_be_bytes(word) & i32::MAX
    }

    /// What takes the lock of this member.
    pub fn lock(&self, id: u32) -> String {
        format!("SELECT pg_catalog.pg_advisory_lock_shared({}, {id})", self.class())
    }
}

#[cfg(test)]
impl Settings {
    /// Of a group that tests are about.
    pub fn example() -> Self {
        let timeout = Duration::from_millis(100);
        Self {
            name: "g".to_owned(),
            lease: Duration::from_secs(2),
            timeout,
            read_timeout: timeout,
            local: false,
            link: link::Settings { url: String::new(), authorities: None, timeout },
            secret: SecretText::default(),
            found: link::Found::default(),
        }
    }
}
