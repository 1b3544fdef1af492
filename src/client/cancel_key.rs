//! What a client is told to cancel with, and whose client it is where several Forebays share an
//! address (`[peers]`).
//!
//! Laid out as PgBouncer does, so that the two can be peers: of the process id and the secret
//! behind it, the second and third byte are the id of the process that made them, the low one
//! first; the two lowest bits of the last byte say how often the request may be passed on.

/// Invariant: a request that goes in circles between peers ends, since each of them takes one off.
const HOPS: u8 = 0b11;

/// Length of the keys we make up where they may be long; that of PostgreSQL 18's.
const LONG_KEY_BYTES: usize = 32;

/// By what a cancel request names a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub pid: u32,
    pub key: Box<[u8]>,
}

impl Identity {
    /// One that nobody can guess. `peer_id`: 0 if there are no peers. `long`: the client speaks a
    /// protocol in which keys may be longer than four bytes.
    pub fn made(peer_id: u16, long: bool) -> Self {
        let random: [u8; LONG_KEY_BYTES] = rand::random();
        let (short, _) = random.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let key: Box<[u8]> = if long { random.into() } else { short.as_slice().into() };
        Self::of(rand::random(), key, peer_id)
    }

    fn of(pid: [u8; 4], mut key: Box<[u8]>, peer_id: u16) -> Self {
        let [mut first, mut low, mut high, fourth] = pid;
        // Positive, as process ids are.
        first &= 0x7f;
        if peer_id > 0 {
            [low, high] = peer_id.to_le_bytes();
            if let Some(last) = key.last_mut() {
                *last |= HOPS;
            }
        }
        Self { pid: u32::from_be_bytes([first, low, high, fourth]), key }
    }
}

/// Where a cancel request belongs.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// Here, with the secret as it was made.
    Here(Vec<u8>),
    /// To this peer, with this secret.
    Peer(u16, Vec<u8>),
    /// It has been passed on often enough.
    Exhausted,
}

pub fn route(own_id: u16, pid: u32, secret: &[u8]) -> Route {
    let mut secret = secret.to_vec();
    let Some(last) = secret.last_mut().filter(|_| own_id > 0) else { return Route::Here(secret) };
    let [_, low, high, _] = pid.to_be_bytes();
    let peer_id = u16::from_le_bytes([low, high]);
    if peer_id == own_id {
        *last |= HOPS;
        return Route::Here(secret);
    }
    if *last & HOPS == 0 {
        return Route::Exhausted;
    }
    *last -= 1;
    Route::Peer(peer_id, secret)
}

/// A secret as all know it, however often it may still be passed on.
pub fn without_hops(secret: &[u8]) -> Vec<u8> {
    let mut secret = secret.to_vec();
    if let Some(last) = secret.last_mut() {
        *last |= HOPS;
    }
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(peer_id: u16) -> Identity {
        Identity::of([0xff, 1, 2, 3], [4, 5, 6, 0xf0].into(), peer_id)
    }

    #[test]
    fn without_peers_all_is_random_but_the_sign() {
        let key = identity(0);
        assert_eq!((key.pid, &*key.key), (0x7f01_0203, [4, 5, 6, 0xf0].as_slice()));
        assert_eq!(route(0, key.pid, &key.key), Route::Here(key.key.to_vec()));
    }

    #[test]
    fn the_id_of_the_process_is_where_pgbouncer_looks_for_it() {
        let key = identity(0x0102);
        assert_eq!((key.pid, &*key.key), (0x7f02_0103, [4, 5, 6, 0xf3].as_slice()));
        assert_eq!(route(0x0102, key.pid, &key.key), Route::Here(key.key.to_vec()));
    }

    #[test]
    fn a_request_for_a_peer_is_passed_on_three_times_and_no_more() {
        let key = identity(2);
        let mut secret = key.key.to_vec();
        for last in [0xf2, 0xf1, 0xf0] {
            let Route::Peer(2, passed) = route(1, key.pid, &secret) else {
                panic!("not passed on")
            };
            assert_eq!(passed, [4, 5, 6, last]);
            // Wherever it arrives, it is the secret that was made.
            assert_eq!(route(2, key.pid, &passed), Route::Here(key.key.to_vec()));
            secret = passed;
        }
        assert_eq!(route(1, key.pid, &secret), Route::Exhausted);
    }

    #[test]
    fn longer_secrets_count_in_their_last_byte() {
        let key = identity(2);
        assert_eq!(
            route(1, key.pid, &[1; 31]),
            Route::Peer(2, [[1; 30].as_slice(), &[0]].concat())
        );
        assert_eq!(route(1, key.pid, &[]), Route::Here(Vec::new()));
    }
}
