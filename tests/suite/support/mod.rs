//! Real servers and clients that speak intent. Everything a test starts ends with it, also when
//! it panics or the test program is killed.

pub mod daemon;
pub mod fake;
pub mod forebay;
pub mod postgres;
pub mod psql;
pub mod raw;
pub mod redis;
pub mod scripted;

use std::net::TcpListener;
use std::time::{Duration, Instant};

/// No wait of any test is longer. Generous: a loaded machine is slow, a hang is for ever.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Asks until the answer is yes; fails with `what` after the deadline. Each question must be a
/// round trip or a system call, for nothing else slows this loop down.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "still not true: {what}");
        std::thread::yield_now();
    }
}
