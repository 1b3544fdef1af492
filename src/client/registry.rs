//! The clients of this process: for cancel requests, the console and the limit on their number.
//!
//! Invariant: a server with a cancel under way is not handed on, so a cancel never reaches the
//! next client's query. Kept by `Link`; attacked by the suite's cancel race.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use crate::client::close::CloseReason;
use crate::metrics::GroupCounters;
use crate::server::io::{Cancelling, Link};
use crate::wire::startup::Replication;

/// One client as others see it.
pub struct Entry {
    pub id: u64,
    /// Guards what we tell it in BackendKeyData; nothing else is locked inside.
    identity: Mutex<Identity>,
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
    pub replication: Replication,
    pub group: Arc<GroupCounters>,
    /// Guards which server it has; nothing else is locked inside.
    current: Mutex<Option<Arc<Link>>>,
    /// What the console shows of it.
    pub shown: Mutex<Shown>,
    /// Guards whether it is to leave, and who waits to hear of it; nothing else is locked inside.
    leaving: Mutex<Leaving>,
    /// A cancel came while it had no server; only a client that waits for one listens.
    pub cancelled: Notify,
}

/// By what a cancel request names a client.
#[derive(Clone, Debug)]
pub struct Identity {
    pub pid: u32,
    pub key: Box<[u8]>,
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
}

impl Leave {
    pub fn at_once(self) -> bool {
        self == Self::Killed
    }

    pub fn reason(self) -> CloseReason {
        match self {
            Self::Killed => CloseReason::AdminKill,
            Self::ShuttingDown => CloseReason::ShuttingDown,
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

    pub fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has_key(&self, key: &[u8]) -> bool {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).key.ct_eq(key).into()
    }
}

/// What a new client says of itself.
pub struct Hello {
    pub user: String,
    pub database: String,
    pub application_name: String,
    pub address: String,
    pub local: String,
    pub tls: Option<String>,
    pub console: bool,
    pub replication: Replication,
    /// It speaks a protocol in which cancel keys may be longer than four bytes.
    pub long_keys: bool,
}

/// Length of the keys we make up where they may be long; that of PostgreSQL 18's.
const LONG_KEY_BYTES: usize = 32;

/// Who did what, summed over clients that look alike.
type GroupKey = (String, String, String, String);

/// Groups remembered; the rest are summed in one.
const GROUPS_MAX: usize = 1000;

#[derive(Default)]
pub struct Registry {
    /// Guards who is connected, by pid and id, as servers on several hosts may share a pid. Inside,
    /// the lock of an identity may be taken.
    clients: Mutex<BTreeMap<(u32, u64), Arc<Entry>>>,
    groups: Mutex<HashMap<GroupKey, Arc<GroupCounters>>>,
    next_id: AtomicU64,
    /// Somebody has left; for who waits until all have.
    pub left: Notify,
}

impl Registry {
    /// Enters a client, or gives `None` when `clients_max` are connected.
    pub fn enter(self: &Arc<Self>, hello: Hello, clients_max: usize) -> Option<Registered> {
        // Who looks at the counters is not counted.
        let group = if hello.console { Arc::default() } else { self.group(&hello) };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= clients_max {
            return None;
        }
        let pid = loop {
            // Positive, as process ids are.
            let pid = rand::random::<u32>() & 0x7fff_ffff;
            if pid != 0 && of_pid(&clients, pid).next().is_none() {
                break pid;
            }
        };
        let random: [u8; LONG_KEY_BYTES] = rand::random();
        let (short, _) = random.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let key: Box<[u8]> = if hello.long_keys { random.into() } else { short.as_slice().into() };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Arc::new(Entry {
            id,
            identity: Mutex::new(Identity { pid, key }),
            user: hello.user,
            database: hello.database,
            application_name: hello.application_name,
            address: hello.address,
            local: hello.local,
            console: hello.console,
            connected_at: Instant::now(),
            tls: hello.tls,
            replication: hello.replication,
            group,
            current: Mutex::new(None),
            shown: Mutex::default(),
            leaving: Mutex::default(),
            cancelled: Notify::new(),
        });
        entry.group.clients.one();
        clients.insert((pid, id), Arc::clone(&entry));
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
            Arc::clone(of_pid(&clients, pid).find(|entry| entry.has_key(key))?)
        };
        entry.begin_cancel()
    }

    pub fn clients(&self) -> Vec<Arc<Entry>> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let mut clients: Vec<_> = clients.values().cloned().collect();
        clients.sort_by_key(|entry| entry.id);
        clients
    }

    /// Clients of databases; the console's do not count.
    pub fn count(&self) -> usize {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.values().filter(|entry| !entry.console).count()
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

fn of_pid(
    clients: &BTreeMap<(u32, u64), Arc<Entry>>,
    pid: u32,
) -> impl Iterator<Item = &Arc<Entry>> {
    clients.range((pid, 0)..=(pid, u64::MAX)).map(|(_, entry)| entry)
}

/// A client's entry, removed when it goes.
pub struct Registered {
    pub entry: Arc<Entry>,
    registry: Arc<Registry>,
}

impl Registered {
    /// From now on the client is who its server is. A key too long for the client's protocol
    /// leaves it the one it has.
    pub fn become_server(&self, pid: u32, key: &[u8]) {
        let mut clients = self.registry.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = &self.entry;
        let mut identity = entry.identity.lock().unwrap_or_else(PoisonError::into_inner);
        clients.remove(&(identity.pid, entry.id));
        identity.pid = pid;
        if key.len() <= identity.key.len() && !key.is_empty() {
            identity.key = key.into();
        }
        clients.insert((pid, entry.id), Arc::clone(entry));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let pid = self.entry.identity().pid;
        self.registry
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(pid, self.entry.id));
        self.registry.left.notify_one();
    }
}
