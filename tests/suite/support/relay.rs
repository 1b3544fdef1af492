//! The way to a server, which can be slow.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Until the test program ends.
pub struct Relay {
    pub port: u16,
    delay_ms: Arc<AtomicU64>,
}

impl Relay {
    /// Leads to this port.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self { port: listener.local_addr().unwrap().port(), delay_ms: Arc::default() };
        let delay_ms = Arc::clone(&relay.delay_ms);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // What is behind it may be away; then so is this way.
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let ways = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
                for (at, (from, to)) in ways.into_iter().enumerate() {
                    // What goes there is late, what comes back is not.
                    let delay_ms = if at == 0 { Arc::clone(&delay_ms) } else { Arc::default() };
                    std::thread::spawn(move || pass(&delay_ms, from, to));
                }
            }
        });
        relay
    }

    /// By how much each piece that goes there is late from now on.
    pub fn delay(&self, time: Duration) {
        self.delay_ms.store(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

fn pass(delay_ms: &AtomicU64, mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let due = Instant::now() + Duration::from_millis(delay_ms.load(Ordering::SeqCst));
        while let Some(left) =
            due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            std::thread::park_timeout(left);
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        // One whose owner has closed it is not connected.
        let _gone = stream.shutdown(Shutdown::Both);
    }
}
