//! The way from Forebay to Redis or PostgreSQL, which can be slow, swallow what is sent on it, or lead
//! elsewhere. Knows nothing of what passes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// As long as the checker lives.
pub(crate) struct Link {
    pub(crate) port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Where what is new is let through to.
    to: Mutex<String>,
    /// What arrives from either side is dropped, and both believe that it was sent.
    swallows: AtomicBool,
    swallowed: AtomicU64,
    /// By how much what goes there is late.
    delay_ms: AtomicU64,
    delayed: AtomicU64,
    /// Both ends of all that there are.
    streams: Mutex<Vec<(TcpStream, TcpStream)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Towards {
    There,
    Back,
}

impl Link {
    pub(crate) fn to(address: String) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let link = Self { port: listener.local_addr()?.port(), state: Arc::default() };
        link.lead(address);
        let state = Arc::clone(&link.state);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let to = state.to.lock().unwrap().clone();
                // It may be away; then so is this way to it.
                if let Ok(far) = TcpStream::connect(to) {
                    // A stream that cannot be doubled is closed, which its owner notices.
                    let _closed = join(&state, near, far);
                }
            }
        });
        Ok(link)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What is new goes there from now on, and what is connected stays where it is.
    pub(crate) fn lead(&self, address: String) {
        *self.state.to.lock().unwrap() = address;
    }

    pub(crate) fn leads_to(&self) -> String {
        self.state.to.lock().unwrap().clone()
    }

    /// From now on nothing comes through, and nobody is told.
    pub(crate) fn swallow(&self) {
        self.state.swallows.store(true, Ordering::SeqCst);
    }

    /// Ends what was swallowed from, and lets through what is new. Gives how many bytes were lost.
    pub(crate) fn heal(&self) -> u64 {
        for (near, far) in self.state.streams.lock().unwrap().drain(..) {
            end(&near, &far);
        }
        self.state.swallows.store(false, Ordering::SeqCst);
        self.state.swallowed.swap(0, Ordering::SeqCst)
    }

    /// How many pieces were late since it was last asked.
    pub(crate) fn delay(&self, ms: u64) -> u64 {
        self.state.delay_ms.store(ms, Ordering::SeqCst);
        self.state.delayed.swap(0, Ordering::SeqCst)
    }
}

fn join(state: &Arc<State>, near: TcpStream, far: TcpStream) -> io::Result<()> {
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
    }
    let mut streams = state.streams.lock().unwrap();
    streams.retain(|(near, _)| near.peer_addr().is_ok());
    streams.push((near.try_clone()?, far.try_clone()?));
    let ways = [(Towards::There, near.try_clone()?, far.try_clone()?), (Towards::Back, far, near)];
    for (towards, from, to) in ways {
        let state = Arc::clone(state);
        thread::spawn(move || {
            // Whichever side ended, the other hears of it; it may have ended as well.
            let _ended = pass(&state, towards, &from, &to);
            end(&from, &to);
        });
    }
    Ok(())
}

fn end(one: &TcpStream, other: &TcpStream) {
    for stream in [one, other] {
        // One that its owner has closed is not connected.
        let _gone = stream.shutdown(Shutdown::Both);
    }
}

fn pass(
    state: &State,
    towards: Towards,
    mut from: &TcpStream,
    mut to: &TcpStream,
) -> io::Result<()> {
    let mut bytes = vec![0; 65_536];
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        let delay = state.delay_ms.load(Ordering::SeqCst);
        if towards == Towards::There && delay > 0 {
            thread::park_timeout(Duration::from_millis(delay));
            state.delayed.fetch_add(1, Ordering::SeqCst);
        }
        if state.swallows.load(Ordering::SeqCst) {
            state.swallowed.fetch_add(count as u64, Ordering::SeqCst);
        } else {
            to.write_all(&bytes[..count])?;
        }
    }
}
