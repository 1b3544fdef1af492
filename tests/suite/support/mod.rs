//! Real servers and clients that speak intent. Everything a test starts ends with it, also when
//! it panics or the test program is killed.

pub mod daemon;
pub mod fake;
pub mod forebay;
pub mod http;
pub mod postgres;
pub mod psql;
pub mod raw;
pub mod redis;
pub mod relay;
pub mod scripted;
pub mod sentinel;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// No wait of any test is longer. Generous: a loaded machine is slow, a hang is for ever.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Where tests listen: below the ports that the kernel gives to outgoing connections, which would
/// otherwise take one between our look and its use.
const PORTS: std::ops::Range<u32> = 20_000..32_000;

/// A port that nobody listens on now, and that no other test of this process has been given.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = PORTS.end - PORTS.start;
    // Test programs at the same time begin elsewhere.
    let first = std::process::id().wrapping_mul(1009);
    loop {
        let offset = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        let port = u16::try_from(PORTS.start + offset).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(1);

/// Asks until the answer is yes; fails with `what` after the deadline. Between two questions the
/// processor is left to what is waited for: two processes that only ask and answer each other have
/// kept a third, which was ready to run, from it for seconds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "still not true: {what}");
        std::thread::park_timeout(PAUSE);
    }
}
