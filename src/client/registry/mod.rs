//! The clients of this process: for cancel requests, the console and the limit on their number.
//!
//! Invariant: a server with a cancel under way is not handed on, nor one with a cancel that was given
//! up, so a cancel never reaches the next client's query. Kept by `Link`; attacked by the suite's
//! cancel race.

mod called;
mod leave;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use crate::cache::group::cancel_word::last_byte;
use crate::client::close::CloseReason;
use crate::client::deadline::{SharedTimeouts, Timeouts};
use crate::client::statistics::micros;
use crate::insight::Burst;
use crate::metrics::GroupCounters;
use crate::server::link::{Cancelling, Link};
use crate::wire::startup::Replication;

pub use super::cancel_key::Identity;
pub use called::Called;
pub use leave::Leave;

use called::GroupKey;
use leave::Leaving;

/// One client as others see it.
pub struct Entry {
    pub id: u64,
    /// Of this process among its peers when it came; 0 if there were none.
    peer_id: u16,
    /// Guards what we tell it in BackendKeyData; nothing else is locked inside.
    identity: Mutex<Identity>,
    /// The names are shared by all clients that have them.
    pub user: Arc<str>,
    /// As whom its servers log in; with the database it names its pool.
    pub server_user: Arc<str>,
    pub database: Arc<str>,
    /// Guards what it is called now; nothing else is locked inside.
    called: Mutex<Called>,
    /// What it was called when it came, and called itself.
    began_as: (Arc<str>, Arc<str>),
    /// Guards the numbers of the groups that it was counted in as a client; innermost.
    counted: Mutex<Vec<u16>>,
    pub address: String,
    /// Our own end of its connection.
    pub local: String,
    pub connected_at: Instant,
    /// When its latest request came, in microseconds since then.
    requested_us: AtomicU64,
    /// It talks to the console, not to a database.
    pub console: bool,
    /// It is this process itself, and in nobody's place.
    pub own: bool,
    pub tls: Option<String>,
    pub replication: Replication,
    /// The descriptor of its socket.
    pub fd: i32,
    /// Guards which server it has; nothing else is locked inside.
    current: Mutex<Option<Arc<Link>>>,
    /// What the console shows of it.
    pub shown: Mutex<Shown>,
    /// What it does just now; `None` while it is idle. Inside, the statistics may be locked.
    pub burst: Mutex<Option<Box<Burst>>>,
    /// Guards whether it is to leave, and who waits to hear of it; nothing else is locked inside.
    leaving: Mutex<Leaving>,
    /// It has been asked to, so that who does something need not take that lock to know.
    asked_to_leave: AtomicBool,
    /// How long it may take for what.
    pub timeouts: SharedTimeouts,
    /// While all is suspended: nothing of it waits to be written.
    pub at_rest: AtomicBool,
    /// While it waits for a server: something of it waits to be written.
    pub owed: AtomicBool,
    /// A cancel came while it had no server; only a client that waits for one listens.
    pub cancelled: Notify,
}

/// State for `SHOW CLIENTS` and `SHOW PINS`.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub waiting_since: Option<Instant>,
    pub pins: crate::client::pins::Pins,
    pub prepared_statements: usize,
    pub queries: u64,
    pub hits: u64,
    pub transactions: u64,
    /// Of its statements, waiting and running, in microseconds.
    pub time: u64,
    /// Since when it keeps its server.
    pub pinned_since: Option<Instant>,
}

impl Entry {
    pub fn set_current(&self, current: Option<Arc<Link>>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }

    /// The server, which from now on nobody can cancel for this client.
    pub fn take_current(&self) -> Option<Arc<Link>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        // Nobody says so any more.
        current.set_runs_ours(false);
        Some(current)
    }

    pub fn note_request(&self, at: Instant) {
        let since = at.saturating_duration_since(self.connected_at);
        self.requested_us.store(micros(since), Ordering::Relaxed);
    }

    /// When its latest request came; while there was none, when it connected.
    pub fn requested_at(&self) -> Instant {
        let since = Duration::from_micros(self.requested_us.load(Ordering::Relaxed));
        self.connected_at.checked_add(since).unwrap_or(self.connected_at)
    }

    pub fn current(&self) -> Option<Arc<Link>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a cancel while the server is still this client's. One for a statement that the cache
    /// answered has nothing to reach (hazard G24).
    pub fn begin_cancel(&self) -> Option<Cancelling> {
        let guard = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(current) = guard.as_ref() else {
            // Perhaps it waits for a server; if it does not, nobody hears this.
            self.cancelled.notify_waiters();
            return None;
        };
        Some(current.begin_cancel())
    }

    /// Other time-outs; its task looks at them when it wakes.
    pub fn set_timeouts(&self, timeouts: Arc<Timeouts>) {
        self.timeouts.set(timeouts);
        self.wake();
    }

    /// It waits for a server, and nothing of it waits to be written.
    pub fn only_waits(&self) -> bool {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.waiting_since.is_some() && !self.owed.load(Ordering::Relaxed)
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
    /// Given when it was accepted.
    pub id: u64,
    pub user: String,
    pub server_user: String,
    pub database: String,
    pub application_name: String,
    pub plain_name: String,
    pub address: String,
    pub local: String,
    pub tls: Option<String>,
    pub console: bool,
    pub own: bool,
    pub replication: Replication,
    /// It speaks a protocol in which cancel keys may be longer than four bytes.
    pub long_keys: bool,
    /// Of this process among its peers; 0 if there are none.
    pub peer_id: u16,
    pub fd: i32,
}

/// How many clients may be connected, one more included; 0 is no limit for the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub clients: usize,
    /// Of the same database.
    pub database: usize,
    /// Of the same user.
    pub user: usize,
}

impl Room {
    pub const UNLIMITED: Self = Self { clients: usize::MAX, database: 0, user: 0 };
}

#[derive(Default)]
struct Connected {
    /// By pid and id: servers on several hosts may share a pid, and so may our own, of which half the
    /// bits are the same where there are peers.
    entries: BTreeMap<(u32, u64), Arc<Entry>>,
    /// How many there are of each database and user, the console's among them.
    databases: HashMap<Arc<str>, usize>,
    users: HashMap<Arc<str>, usize>,
    /// What else they are called.
    names: HashMap<Arc<str>, usize>,
    /// Of the entries, those that are this process itself. Their names are all in `names`.
    own: usize,
}

fn count_of(counts: &HashMap<Arc<str>, usize>, name: &str) -> usize {
    counts.get(name).copied().unwrap_or_default()
}

/// Counts one more of a name, and gives it as all others of it have it.
fn one_more(counts: &mut HashMap<Arc<str>, usize>, name: String) -> Arc<str> {
    let known = counts.get_key_value(name.as_str()).map(|(known, _)| Arc::clone(known));
    let name = known.unwrap_or_else(|| name.into());
    *counts.entry(Arc::clone(&name)).or_default() += 1;
    name
}

fn one_less(counts: &mut HashMap<Arc<str>, usize>, name: &str) {
    let Some(count) = counts.get_mut(name) else { return };
    *count = count.saturating_sub(1);
    if *count == 0 {
        counts.remove(name);
    }
}

impl Connected {
    /// Which limit keeps one more client out, if any does.
    fn full(&self, hello: &Hello, room: Room) -> Option<CloseReason> {
        let reached = |limit: usize, count: usize| limit > 0 && count >= limit;
        if self.entries.len().saturating_sub(self.own) >= room.clients {
            Some(CloseReason::TooManyClients)
        } else if reached(room.database, count_of(&self.databases, &hello.database)) {
            Some(CloseReason::TooManyDatabaseClients)
        } else if reached(room.user, count_of(&self.users, &hello.user)) {
            Some(CloseReason::TooManyUserClients)
        } else {
            None
        }
    }

    fn add(&mut self, entry: &Arc<Entry>) {
        self.entries.insert((entry.identity().pid, entry.id), Arc::clone(entry));
    }

    fn remove(&mut self, entry: &Entry) {
        if self.entries.remove(&(entry.identity().pid, entry.id)).is_some() {
            if entry.own {
                self.own -= 1;
                one_less(&mut self.names, &entry.database);
                one_less(&mut self.names, &entry.user);
            } else {
                one_less(&mut self.databases, &entry.database);
                one_less(&mut self.users, &entry.user);
            }
            one_less(&mut self.names, &entry.server_user);
            self.forget(&entry.called());
        }
    }

    /// Nobody is called so any more, or one less.
    fn forget(&mut self, called: &Called) {
        one_less(&mut self.names, &called.application_name);
        one_less(&mut self.names, &called.plain_name);
    }

    fn of_pid(&self, pid: u32) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.range((pid, 0)..=(pid, u64::MAX)).map(|(_, entry)| entry)
    }
}

#[derive(Default)]
pub struct Registry {
    /// Guards who is connected. Inside, the lock of an identity, a name or a burst may be taken.
    connected: Mutex<Connected>,
    groups: Mutex<HashMap<GroupKey, Arc<GroupCounters>>>,
    /// Those of the client that came last, which the next one mostly shares.
    timeouts: Mutex<Arc<Timeouts>>,
    /// Somebody has left; for who waits until all have.
    pub left: Notify,
}

impl Registry {
    /// Enters a client if there is room for it.
    pub fn enter(self: &Arc<Self>, hello: Hello, room: Room) -> Result<Registered, CloseReason> {
        // Who looks at the counters is not counted.
        let group = if hello.console { Arc::default() } else { self.group(&hello) };
        let mut connected = self.connected();
        if let Some(reason) = connected.full(&hello, room) {
            return Err(reason);
        }
        let Connected { databases, users, names, own, .. } = &mut *connected;
        let (database, user) = if hello.own {
            *own += 1;
            (one_more(names, hello.database), one_more(names, hello.user))
        } else {
            (one_more(databases, hello.database), one_more(users, hello.user))
        };
        let called = Called {
            application_name: one_more(names, hello.application_name),
            plain_name: one_more(names, hello.plain_name),
            group: Arc::clone(&group),
        };
        let entry = Arc::new(Entry {
            id: hello.id,
            peer_id: hello.peer_id,
            identity: Mutex::new(Identity::made(hello.peer_id, hello.long_keys)),
            user,
            server_user: one_more(&mut connected.names, hello.server_user),
            database,
            began_as: (Arc::clone(&called.application_name), Arc::clone(&called.plain_name)),
            called: Mutex::new(called),
            counted: Mutex::default(),
            address: hello.address,
            local: hello.local,
            console: hello.console,
            own: hello.own,
            connected_at: Instant::now(),
            requested_us: AtomicU64::new(0),
            tls: hello.tls,
            replication: hello.replication,
            fd: hello.fd,
            current: Mutex::new(None),
            shown: Mutex::default(),
            burst: Mutex::default(),
            leaving: Mutex::default(),
            asked_to_leave: AtomicBool::new(false),
            timeouts: SharedTimeouts::default(),
            at_rest: AtomicBool::new(false),
            owed: AtomicBool::new(false),
            cancelled: Notify::new(),
        });
        entry.count_in(&group);
        connected.add(&entry);
        Ok(Registered { entry, registry: Arc::clone(self) })
    }

    /// These, shared with other clients that have the same.
    pub fn share(&self, timeouts: Timeouts) -> Arc<Timeouts> {
        let mut last = self.timeouts.lock().unwrap_or_else(PoisonError::into_inner);
        if **last != timeouts {
            *last = Arc::new(timeouts);
        }
        Arc::clone(&last)
    }

    /// The client with this key, for a cancel.
    pub fn find(&self, pid: u32, key: &[u8]) -> Option<Arc<Entry>> {
        self.connected().of_pid(pid).find(|entry| entry.has_key(key)).cloned()
    }

    /// Those whose process id ends with this byte.
    pub fn of_pid_byte(&self, byte: u8) -> Vec<Arc<Entry>> {
        let connected = self.connected();
        let of_byte = connected.entries.iter().filter(|((pid, _), _)| last_byte(*pid) == byte);
        of_byte.map(|(_, entry)| Arc::clone(entry)).collect()
    }

    pub fn clients(&self) -> Vec<Arc<Entry>> {
        let mut clients: Vec<_> = self.connected().entries.values().cloned().collect();
        clients.sort_by_key(|entry| entry.id);
        clients
    }

    /// Those who do something just now, or did a moment ago.
    pub fn active(&self) -> Vec<Arc<Entry>> {
        let active = |entry: &&Arc<Entry>| {
            entry.burst.lock().unwrap_or_else(PoisonError::into_inner).is_some()
        };
        self.connected().entries.values().filter(active).cloned().collect()
    }

    /// Clients of databases; the console's do not count, nor we ourselves.
    pub fn count(&self) -> usize {
        let counts = |entry: &&Arc<Entry>| !entry.console && !entry.own;
        self.connected().entries.values().filter(counts).count()
    }

    fn connected(&self) -> MutexGuard<'_, Connected> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's entry, removed when it goes.
pub struct Registered {
    pub entry: Arc<Entry>,
    registry: Arc<Registry>,
}

impl Registered {
    /// From now on the client has its server's process id. Its key stays its own: the server's
    /// next client has the same process id, and a late cancel request must not reach it.
    ///
    /// Where there are peers it keeps its own process id too, which says whose client it is.
    pub fn take_pid(&self, pid: u32) {
        if self.entry.peer_id > 0 {
            return;
        }
        let mut connected = self.registry.connected();
        let entry = &self.entry;
        let mut identity = entry.identity.lock().unwrap_or_else(PoisonError::into_inner);
        connected.entries.remove(&(identity.pid, entry.id));
        identity.pid = pid;
        connected.entries.insert((pid, entry.id), Arc::clone(entry));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.connected().remove(&self.entry);
        self.registry.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn hello(database: &str, user: &str) -> Hello {
        Hello {
            id: crate::server::io::next_id(),
            peer_id: 0,
            fd: 0,
            user: user.into(),
            server_user: user.into(),
            database: database.into(),
            application_name: String::new(),
            plain_name: String::new(),
            address: String::new(),
            local: String::new(),
            tls: None,
            console: false,
            own: false,
            replication: Replication::None,
            long_keys: false,
        }
    }

    #[test]
    fn each_limit_keeps_out_those_it_is_about_until_one_of_them_leaves() {
        let registry = Arc::new(Registry::default());
        let room = Room { clients: 4, database: 2, user: 3 };
        let enter = |database, user| registry.enter(hello(database, user), room);
        let _one = enter("app", "ann").unwrap();
        let two = enter("app", "bob").unwrap();
        assert_eq!(enter("app", "cid").err(), Some(CloseReason::TooManyDatabaseClients));
        let _three = enter("shop", "ann").unwrap();
        let _four = enter("shop", "ann").unwrap();
        assert_eq!(enter("third", "bob").err(), Some(CloseReason::TooManyClients));
        drop(two);
        assert_eq!(enter("app", "ann").err(), Some(CloseReason::TooManyUserClients));
        assert!(enter("app", "cid").is_ok());
        assert!(registry.enter(hello("shop", "ann"), Room::UNLIMITED).is_ok());
    }

    #[test]
    fn this_process_itself_takes_nobodys_place() {
        let registry = Arc::new(Registry::default());
        let room = Room { clients: 1, database: 1, user: 1 };
        let own = Hello { own: true, ..hello("app", "ann") };
        let own = registry.enter(own, Room::UNLIMITED).unwrap();
        let one = registry.enter(hello("app", "ann"), room).unwrap();
        assert_eq!((registry.count(), registry.clients().len()), (1, 2));
        drop(own);
        assert_eq!(
            registry.enter(hello("app", "bob"), room).err(),
            Some(CloseReason::TooManyClients)
        );
        drop(one);
        assert!(registry.enter(hello("app", "ann"), room).is_ok());
    }

    #[test]
    fn clients_that_have_had_one_server_are_told_apart_by_their_keys() {
        let registry = Arc::new(Registry::default());
        let enter = || {
            let entered = registry.enter(hello("app", "ann"), Room::UNLIMITED).unwrap();
            entered.take_pid(7);
            entered
        };
        let found = |key: &[u8]| registry.find(7, key).map(|entry| entry.id);
        let (one, two) = (enter(), enter());
        let (of_one, of_two) = (one.entry.identity().key, two.entry.identity().key);
        assert_ne!(of_one, of_two);
        assert_eq!([found(&of_one), found(&of_two)], [Some(one.entry.id), Some(two.entry.id)]);
        drop(one);
        assert_eq!([found(&of_one), found(&of_two)], [None, Some(two.entry.id)]);
    }
}
