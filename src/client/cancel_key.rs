//! What a client is told to cancel with, and whose client it is where several Forebays share an
//! address (`[peers]`).
//!
//! Laid out as PgBouncer does, so that the two can be peers: of the process id and the secret
//! behind it, the second and third byte are the id of the process that made them, the low one
//! first; the two lowest bits of the last byte say how often the request may be passed on.

/// Invariant: a request that goes in circles between peers ends, since each of them takes one off.
const HOPS: u8 = 0b11;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CancelKey {
    pub pid: u32,
    pub secret: [u8; 4],
}

impl CancelKey {
    /// `peer_id`: 0 if there are no peers.
    pub fn new(random: [u8; 8], peer_id: u16) -> Self {
        let [mut first, mut low, mut high, fourth, a, b, c, mut last] = random;
        // Positive, as process ids are.
        first &= 0x7f;
        if peer_id > 0 {
            [low, high] = peer_id.to_le_bytes();
            last |= HOPS;
        }
        Self { pid: u32::from_be_bytes([first, low, high, fourth]), secret: [a, b, c, last] }
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

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: [u8; 8] = [0xff, 1, 2, 3, 4, 5, 6, 0xf0];

    #[test]
    fn without_peers_all_is_random_but_the_sign() {
        let key = CancelKey::new(RANDOM, 0);
        assert_eq!((key.pid, key.secret), (0x7f01_0203, [4, 5, 6, 0xf0]));
        assert_eq!(route(0, key.pid, &key.secret), Route::Here(key.secret.to_vec()));
    }

    #[test]
    fn the_id_of_the_process_is_where_pgbouncer_looks_for_it() {
        let key = CancelKey::new(RANDOM, 0x0102);
        assert_eq!((key.pid, key.secret), (0x7f02_0103, [4, 5, 6, 0xf3]));
        assert_eq!(route(0x0102, key.pid, &key.secret), Route::Here(key.secret.to_vec()));
    }

    #[test]
    fn a_request_for_a_peer_is_passed_on_three_times_and_no_more() {
        let key = CancelKey::new(RANDOM, 2);
        let mut secret = key.secret.to_vec();
        for last in [0xf2, 0xf1, 0xf0] {
            let Route::Peer(2, passed) = route(1, key.pid, &secret) else {
                panic!("not passed on")
            };
            assert_eq!(passed, [4, 5, 6, last]);
            // Wherever it arrives, it is the secret that was made.
            assert_eq!(route(2, key.pid, &passed), Route::Here(key.secret.to_vec()));
            secret = passed;
        }
        assert_eq!(route(1, key.pid, &secret), Route::Exhausted);
    }

    #[test]
    fn longer_secrets_count_in_their_last_byte() {
        let key = CancelKey::new(RANDOM, 2);
        assert_eq!(
            route(1, key.pid, &[1; 31]),
            Route::Peer(2, [[1; 30].as_slice(), &[0]].concat())
        );
        assert_eq!(route(1, key.pid, &[]), Route::Here(Vec::new()));
    }
}
