//! One fill per key: who misses first asks, and others may wait for what comes of that.
//!
//! Knows no entries: whoever has waited looks up anew, and is served only what is true then
//! (hazards G28, G29). How long is the waiter's business.
//!
//! Invariant: whoever waits is woken when its leader is done, however that ends: a leader that is
//! dropped is done. Attacked by the unit tests and the suite's shared fills.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use lru::LruCache;

/// Keys being filled at once; misses beyond it go alone.
const LEADERS_MAX: usize = 10_000;

/// Keys whose last fill came to nothing, and for which nobody waits: their answers are too large,
/// or written too often. The oldest are forgotten.
const FUTILE_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

#[derive(Debug)]
pub struct Turns {
    /// Guards who fills what; a gate's lock may be taken inside.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By the key's hash: should two keys have one, somebody waits in vain.
    leaders: HashMap<u128, Arc<Gate>, AsItIs>,
    futile: LruCache<u128, (), AsItIs>,
}

/// Keys of these maps are hashes already, by a seed that nobody outside knows.
type AsItIs = BuildHasherDefault<Hashed>;

#[derive(Clone, Copy, Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        let half = bytes.first_chunk().copied().unwrap_or_default();
        self.0 = u64::from_ne_bytes(half);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Default for Turns {
    fn default() -> Self {
        let leaders = HashMap::default();
        let futile = LruCache::with_hasher(FUTILE_MAX, AsItIs::default());
        Self { state: Mutex::new(State { leaders, futile }) }
    }
}

/// What a miss has to do.
#[derive(Debug)]
pub enum Turn {
    /// Ask, and fill; others wait.
    Lead(Leader),
    /// Wait for another's fill.
    Wait(Arc<Gate>),
    /// Ask; nobody waits.
    Alone,
}

/// Where those wait who want what a leader fills.
#[derive(Debug, Default)]
pub struct Gate {
    /// Guards whether the leader is done, and who is to be woken then; nothing is locked inside.
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    done: bool,
    /// No more than there are clients.
    wakers: Vec<Waker>,
}

/// Goes with a fill from the miss to its end.
#[derive(Debug)]
pub struct Leader {
    turns: Arc<Turns>,
    hash: u128,
    gate: Arc<Gate>,
    stored: bool,
}

impl Turns {
    /// Whose turn it is to fill this key. `waits`: whether the caller would wait.
    pub fn take(self: &Arc<Self>, hash: u128, waits: bool) -> Turn {
        let mut state = self.lock();
        if let Some(gate) = state.leaders.get(&hash) {
            let worth = waits && !state.futile.contains(&hash);
            return if worth { Turn::Wait(Arc::clone(gate)) } else { Turn::Alone };
        }
        if state.leaders.len() >= LEADERS_MAX {
            return Turn::Alone;
        }
        let gate = Arc::new(Gate::default());
        state.leaders.insert(hash, Arc::clone(&gate));
        Turn::Lead(Leader { turns: Arc::clone(self), hash, gate, stored: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leader {
    /// The entry is there.
    pub fn stored(mut self) {
        self.stored = true;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.leaders.remove(&self.hash);
        if self.stored {
            state.futile.pop(&self.hash);
        } else {
            state.futile.put(self.hash, ());
        }
        drop(state);
        self.gate.open();
    }
}

impl Gate {
    /// Ready when the leader is done.
    pub fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.done {
            return Poll::Ready(());
        }
        if !waiting.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn open(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.done = true;
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        for waker in wakers {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lead(turns: &Arc<Turns>, hash: u128) -> Leader {
        let Turn::Lead(leader) = turns.take(hash, true) else { panic!("another leads") };
        leader
    }

    #[test]
    fn the_first_leads_and_who_waits_is_woken_once_when_it_is_done() {
        let turns = Arc::new(Turns::default());
        let leader = lead(&turns, 7);
        let Turn::Wait(gate) = turns.take(7, true) else { panic!("another leads") };
        assert!(matches!(turns.take(7, false), Turn::Alone));
        lead(&turns, 8).stored();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        assert!(gate.poll_open(&mut cx).is_pending());
        assert!(gate.poll_open(&mut cx).is_pending());
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        leader.stored();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(gate.poll_open(&mut cx).is_ready());
        // The next one leads again.
        lead(&turns, 7).stored();
    }

    #[test]
    fn nobody_waits_for_a_key_whose_last_fill_came_to_nothing() {
        let turns = Arc::new(Turns::default());
        let leader = lead(&turns, 7);
        let Turn::Wait(gate) = turns.take(7, true) else { panic!("another leads") };
        drop(leader);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(gate.poll_open(&mut cx).is_ready());
        let leader = lead(&turns, 7);
        assert!(matches!(turns.take(7, true), Turn::Alone));
        leader.stored();
        let leader = lead(&turns, 7);
        assert!(matches!(turns.take(7, true), Turn::Wait(_)));
        drop(leader);
    }

    #[test]
    fn leaders_are_bounded() {
        let turns = Arc::new(Turns::default());
        let leaders: Vec<Leader> =
            (0..LEADERS_MAX as u128).map(|hash| lead(&turns, hash)).collect();
        assert!(matches!(turns.take(u128::MAX, true), Turn::Alone));
        drop(leaders);
        drop(lead(&turns, u128::MAX));
        assert!(turns.lock().leaders.is_empty());
        assert_eq!(turns.lock().futile.len(), FUTILE_MAX.get());
    }
}
