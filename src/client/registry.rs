//! The clients of this process: for cancel requests, the console and the limit on their number.
//!
//! Invariant: a server with a cancel under way is not handed on, so a cancel never reaches the
//! next client's query. Kept by `Link`; attacked by the suite's cancel race.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use crate::client::close::CloseReason;
use crate::metrics::GroupCounters;
use crate::server::io::{Cancelling, Link};

use super::cancel_key::CancelKey;

/// One client as others see it.
pub struct Entry {
    pub id: u64,
    /// What we told it in BackendKeyData.
    pub pid: u32,
    key: [u8; 4],
    pub user: String,
    pub database: String,
    pub application_name: String,
    pub address: String,
    /// Our own end of its connection.
    pub local: String,
    pub connected_at: Instant,
    /// It talks to the console, not to a database.
    pub console: bool,
    pub tls: Option<String>,
    /// The descriptor of its socket.
    pub fd: i32,
    pub group: Arc<GroupCounters>,
    /// Guards which server it has; nothing else is locked inside.
    current: Mutex<Option<Arc<Link>>>,
    /// What the console shows of it.
    pub shown: Mutex<Shown>,
    /// Guards whether it is to leave, and who waits to hear of it; nothing else is locked inside.
    leaving: Mutex<Leaving>,
    /// While all is suspended: nothing of it waits to be written.
    pub at_rest: AtomicBool,
    /// A cancel came while it had no server; only a client that waits for one listens.
    pub cancelled: Notify,
}

/// What its task has not heard yet. A `Notify` would do, but cost a waiter made and dropped at
/// each turn of the task, which looks here several times a query.
#[derive(Debug, Default)]
struct Leaving {
    asked: Option<Leave>,
    waker: Option<Waker>,
}

/// Why a client that did nothing has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The operator says so: at once.
    Killed,
    /// At the end of its transaction.
    ShuttingDown,
    /// What its database is has changed. At the end of its transaction.
    Reconfigured,
    /// It has not taken what it was sent, and all is to be suspended: at once.
    SuspendTimeout,
}

impl Leave {
    pub fn at_once(self) -> bool {
        matches!(self, Self::Killed | Self::SuspendTimeout)
    }

    pub fn reason(self) -> CloseReason {
        match self {
            Self::Killed => CloseReason::AdminKill,
            Self::ShuttingDown => CloseReason::Stopping,
            Self::SuspendTimeout => CloseReason::SuspendTimeout,
            Self::Reconfigured => CloseReason::Reconfigured,
        }
    }
}

/// State for `SHOW CLIENTS` and `SHOW PINS`.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub waiting_since: Option<Instant>,
    pub request_at: Option<Instant>,
    pub pins: crate::client::pins::Pins,
    pub prepared_statements: usize,
    pub queries: u64,
    pub hits: u64,
    /// Since when it keeps its server.
    pub pinned_since: Option<Instant>,
}

impl Entry {
    pub fn set_current(&self, current: Option<Arc<Link>>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }

    /// The server, which from now on nobody can cancel for this client.
    pub fn take_current(&self) -> Option<Arc<Link>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn current(&self) -> Option<Arc<Link>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a cancel while the server is still this client's.
    fn begin_cancel(&self) -> Option<Cancelling> {
        let guard = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(current) = guard.as_ref() else {
            // Perhaps it waits for a server; if it does not, nobody hears this.
            self.cancelled.notify_waiters();
            return None;
        };
        Some(current.begin_cancel())
    }

    pub fn ask_to_leave(&self, leave: Leave) {
        let waker = {
            let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            leaving.asked = Some(leave);
            leaving.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// It waits for a server.
    pub fn waits(&self) -> bool {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.waiting_since.is_some()
    }

    /// Has its task look round.
    pub fn wake(&self) {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = leaving.waker.take() {
            drop(leaving);
            waker.wake();
        }
    }

    /// Ready each time it has been asked. Only one task may wait.
    pub fn poll_asked_to_leave(&self, cx: &mut Context<'_>) -> Poll<Leave> {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leave) = leaving.asked.take() {
            return Poll::Ready(leave);
        }
        if !leaving.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            leaving.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// See `poll_asked_to_leave`. Cancel-safe.
    pub async fn asked_to_leave(&self) -> Leave {
        poll_fn(|cx| self.poll_asked_to_leave(cx)).await
    }

    pub fn key(&self) -> [u8; 4] {
        self.key
    }
}

/// What a new client says of itself.
pub struct Hello {
    /// Given when it was accepted.
    pub id: u64,
    pub user: String,
    pub database: String,
    pub application_name: String,
    pub address: String,
    pub local: String,
    pub tls: Option<String>,
    pub console: bool,
    /// Of this process among its peers; 0 if there are none.
    pub peer_id: u16,
    pub fd: i32,
}

/// Who did what, summed over clients that look alike.
type GroupKey = (String, String, String, String);

/// Groups remembered; the rest are summed in one.
const GROUPS_MAX: usize = 1000;

/// By pid. With peers only half of its bits are ours, so several may have one.
#[derive(Default)]
struct Clients {
    by_pid: HashMap<u32, Vec<Arc<Entry>>>,
    count: usize,
}

impl Clients {
    fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_pid.values().flatten()
    }

    fn add(&mut self, entry: Arc<Entry>) {
        self.by_pid.entry(entry.pid).or_default().push(entry);
        self.count += 1;
    }

    fn remove(&mut self, entry: &Entry) {
        let Some(of_pid) = self.by_pid.get_mut(&entry.pid) else { return };
        of_pid.retain(|other| other.id != entry.id);
        if of_pid.is_empty() {
            self.by_pid.remove(&entry.pid);
        }
        self.count -= 1;
    }
}

#[derive(Default)]
pub struct Registry {
    /// Guards who is connected; nothing else is locked inside.
    clients: Mutex<Clients>,
    groups: Mutex<HashMap<GroupKey, Arc<GroupCounters>>>,
    /// Somebody has left; for who waits until all have.
    pub left: Notify,
}

impl Registry {
    /// Enters a client, or gives `None` when `clients_max` are connected.
    pub fn enter(self: &Arc<Self>, hello: Hello, clients_max: usize) -> Option<Registered> {
        // Who looks at the counters is not counted.
        let group = if hello.console { Arc::default() } else { self.group(&hello) };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.count >= clients_max {
            return None;
        }
        let cancel_key = CancelKey::new(rand::random(), hello.peer_id);
        let entry = Arc::new(Entry {
            id: hello.id,
            pid: cancel_key.pid,
            key: cancel_key.secret,
            user: hello.user,
            database: hello.database,
            application_name: hello.application_name,
            address: hello.address,
            local: hello.local,
            console: hello.console,
            connected_at: Instant::now(),
            tls: hello.tls,
            fd: hello.fd,
            group,
            current: Mutex::new(None),
            shown: Mutex::default(),
            leaving: Mutex::default(),
            at_rest: AtomicBool::new(false),
            cancelled: Notify::new(),
        });
        entry.group.clients.one();
        clients.add(Arc::clone(&entry));
        Some(Registered { entry, registry: Arc::clone(self) })
    }

    fn group(&self, hello: &Hello) -> Arc<GroupCounters> {
        let host = hello.address.rsplit_once(':').map_or(hello.address.as_str(), |(host, _)| host);
        let mut key = (
            hello.user.clone(),
            hello.database.clone(),
            hello.application_name.clone(),
            host.to_owned(),
        );
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.len() >= GROUPS_MAX && !groups.contains_key(&key) {
            let rest = || "(others)".to_owned();
            key = (rest(), rest(), rest(), rest());
        }
        Arc::clone(groups.entry(key).or_default())
    }

    /// Starts a cancel for the client with this key, if it has a server now. A cancel for a
    /// statement that the cache answered has nothing to reach and is dropped (hazard G24).
    pub fn begin_cancel(&self, pid: u32, key: &[u8]) -> Option<Cancelling> {
        let entry = {
            let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            let mut of_pid = clients.by_pid.get(&pid)?.iter();
            Arc::clone(of_pid.find(|entry| bool::from(entry.key.as_slice().ct_eq(key)))?)
        };
        entry.begin_cancel()
    }

    pub fn clients(&self) -> Vec<Arc<Entry>> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let mut clients: Vec<_> = clients.iter().cloned().collect();
        clients.sort_by_key(|entry| entry.id);
        clients
    }

    /// Clients of databases; the console's do not count.
    pub fn count(&self) -> usize {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.iter().filter(|entry| !entry.console).count()
    }

    /// Every group with its counters, in the order of the names.
    pub fn groups(&self) -> Vec<(GroupKey, Arc<GroupCounters>)> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut groups: Vec<_> =
            groups.iter().map(|(key, group)| (key.clone(), Arc::clone(group))).collect();
        groups.sort_by(|left, right| left.0.cmp(&right.0));
        groups
    }
}

/// A client's entry, removed when it goes.
pub struct Registered {
    pub entry: Arc<Entry>,
    registry: Arc<Registry>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.entry);
        self.registry.left.notify_one();
    }
}
