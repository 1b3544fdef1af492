//! One Forebay of the world: the real parts of it that decide, with what is around them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use forebay::cache::group::shared::{Group, Seat};
use forebay::cache::home::Home;
use forebay::cache::sealed::shared::SharedSeal;
use forebay::cache::{Cache, Limits, Mode};
use forebay::config::OpaqueWrites;
use forebay::server::Server;
use forebay::server::login::LoggedIn;
use forebay::server::settings::Settings as ServerSettings;
use forebay::service::lost::{Backend, Lost, Missing, Place};

use super::postgres::{Catalog, PLACE};
use super::reader::Reading;
use super::task::Task;
use super::world::{LEASE, Outside, Twin};
use super::writer::Writing;

/// When the world began, on every clock.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

const CLIENTS: usize = 3;
const SERVERS: usize = 3;
const HOUR: Duration = Duration::from_hours(1);
const SECRET: &[u8] = b"a secret of the group";

/// Set when whoever waits is woken.
#[derive(Debug, Default)]
pub(super) struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Woken {
    pub(super) fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks as a task does, which is woken from now on, and not for what was before.
    pub(super) fn poll<T>(self: &Arc<Self>, ask: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(self));
        ask(&mut Context::from_waker(&waker))
    }
}

pub(super) enum Client {
    Idle,
    Reading(Box<Reading>),
    Writing(Box<Writing>),
}

pub(super) struct Slot {
    pub(super) server: Option<Server>,
    pub(super) is_taken: bool,
}

pub(super) struct Instance {
    pub(super) id: u32,
    pub(super) home: Arc<Home>,
    pub(super) group: Arc<Group>,
    pub(super) cache: Cache,
    pub(super) seal: SharedSeal,
    /// Microseconds of its clock in a true millisecond.
    rate: u64,
    pub(super) paused_until: u64,
    /// It cannot reach Redis before.
    pub(super) cut_until: u64,
    /// What is known of the catalogue, as of so many changes of it.
    pub(super) catalog: Option<(u64, Catalog)>,
    reading: Option<(u64, Catalog)>,
    /// Of the catalogue read last.
    pub(super) fingerprint: u32,
    pub(super) slots: Vec<Slot>,
    pub(super) control: Option<u32>,
    /// When that was asked for the lock.
    pub(super) asked_to_show: Option<Instant>,
    pub(super) task: Task,
    pub(super) seat: Option<Seat>,
    pub(super) clients: Vec<Client>,
    /// Nothing becomes of each client before.
    pub(super) slow_until: [u64; CLIENTS],
    pub(super) missing: Missing,
    /// Who was there when it was asked, and when the answer comes.
    looking: Option<(u64, Instant, Vec<Backend>)>,
}

impl Instance {
    /// Its servers have the lock before anybody is served.
    pub(super) fn new(id: u32, outside: &mut Outside) -> Self {
        let seed = u64::from(id);
        // Two clocks go apart by less than a twentieth.
        let rate = 976 + outside.below(48) as u64;
        let started = clock(outside.now, rate);
        let settings = Arc::clone(&outside.settings);
        let mut home = Home::in_group(seed, id, &settings, started);
        let mut group = Group::new(id, settings, Arc::clone(&home.coherence), started);
        if let Twin::Without(safeguard) = outside.plan.twin {
            group = group.without(safeguard);
        }
        let group = Arc::new(group);
        home.group = Some(Arc::clone(&group));
        let limits = Limits {
            size_bytes: 1 << 16,
            entry_bytes_max: 1000,
            max_age: HOUR,
            opaque_writes: OpaqueWrites::Ask,
            ask_median_max: Duration::ZERO,
            cut_off: 0,
        };
        let [first, second, third, fourth] = id.to_be_bytes();
        let mut salt = [0; 16];
        salt[..4].copy_from_slice(&[first, second, third, fourth]);
        Self {
            id,
            home: Arc::new(home),
            group,
            cache: Cache::new(Mode::On, limits, seed).in_group(true),
            seal: SharedSeal::new(SECRET, salt, 1000, usize::MAX),
            rate,
            paused_until: 0,
            cut_until: 0,
            catalog: None,
            reading: None,
            fingerprint: 0,
            slots: (0..SERVERS).map(|_| Slot { server: None, is_taken: false }).collect(),
            control: None,
            asked_to_show: None,
            task: Task::Out { until: started },
            seat: None,
            clients: (0..CLIENTS).map(|_| Client::Idle).collect(),
            slow_until: [0; CLIENTS],
            missing: Missing::default(),
            looking: None,
        }
    }

    pub(super) fn clock(&self, outside: &Outside) -> Instant {
        clock(outside.now, self.rate)
    }

    pub(super) fn reaches_redis(&self, outside: &Outside) -> bool {
        outside.now >= self.cut_until
    }

    /// The catalogue as it is known now.
    pub(super) fn known(&self) -> Option<Catalog> {
        let (changes, catalog) = self.catalog?;
        (changes == self.home.catalog_changes()).then_some(catalog)
    }

    /// The process's own questions to PostgreSQL, of which one is asked, or its answer heard.
    pub(super) fn serve(&mut self, outside: &mut Outside) {
        match outside.below(4) {
            0 => self.connect(outside),
            1 => self.look_for_lost(outside),
            _ => self.read_catalog(outside),
        }
    }

    /// Idle servers that are gone make room, and one more is connected.
    pub(super) fn connect(&mut self, outside: &mut Outside) {
        let now = self.clock(outside);
        for slot in self.slots.iter_mut().filter(|slot| !slot.is_taken) {
            slot.server.take_if(|server| !outside.postgres.is_alive(server.pid));
        }
        let Some(at) = self.slots.iter().position(|slot| slot.server.is_none() && !slot.is_taken)
        else {
            return;
        };
        let pid = outside.postgres.connect(self.id);
        let login = LoggedIn { pid, ..LoggedIn::default() };
        let (home, initial) = (Arc::clone(&self.home), ServerSettings::none());
        let mut server = Server::new(u64::from(pid), login, 0, home, &initial, now);
        (server.place, server.locked_at) = (PLACE, Some(now));
        self.slots[at].server = Some(server);
        outside.say(self.id, || format!("connects to PostgreSQL, backend {pid}"));
    }

    /// A server that nobody uses and that works, for all that is known.
    pub(super) fn acquire(&mut self) -> Option<usize> {
        let at = self.slots.iter().position(|slot| slot.server.is_some() && !slot.is_taken)?;
        self.slots[at].is_taken = true;
        Some(at)
    }

    pub(super) fn server(&mut self, at: usize) -> Option<&mut Server> {
        self.slots[at].server.as_mut()
    }

    pub(super) fn pid(&self, at: usize) -> u32 {
        self.slots[at].server.as_ref().map_or(0, |server| server.pid)
    }

    pub(super) fn read_catalog(&mut self, outside: &mut Outside) {
        let changes = self.home.catalog_changes();
        if let Some((then, catalog)) = self.reading.take() {
            if then == changes {
                outside.say(self.id, || format!("knows the catalogue: {catalog:?}"));
                self.catalog = Some((changes, catalog));
                self.fingerprint = catalog.version;
            }
        } else if self.known().is_none() {
            let now = outside.postgres.now();
            self.reading = Some((changes, outside.postgres.at(now).catalog));
        }
    }

    pub(super) fn look_for_lost(&mut self, outside: &mut Outside) {
        if let Some((_, asked_at, there)) =
            self.looking.take_if(|(comes, _, _)| outside.now >= *comes)
        {
            let place = Place { home: &self.home, place: PLACE };
            for lost in self.missing.take_gone(place, &there, asked_at) {
                outside.say(self.id, || format!("takes backend {} for gone", lost.pid));
                self.settle_lost(lost);
            }
        } else if self.missing.count() > 0 && self.looking.is_none() {
            let backend = |pid: &u32| Backend { pid: *pid, age: None };
            let there = outside.postgres.backends.keys().map(backend).collect();
            let comes = outside.now + outside.below(LEASE) as u64;
            self.looking = Some((comes, self.clock(outside), there));
        }
    }

    /// As `Service` does it.
    pub(super) fn settle_lost(&self, lost: Lost) {
        if lost.generation.is_some_and(|then| then != self.home.catalog_changes()) {
            self.home.invalidate(&forebay::cache::coherence::Scope::Database);
        }
        if lost.catalog {
            self.home.catalog_changed();
        }
        for guard in lost.guards {
            guard.committed();
        }
    }

    /// Whether nothing of it waits for anything.
    pub(super) fn is_quiet(&self) -> bool {
        let is_idle = |client: &Client| matches!(client, Client::Idle);
        self.clients.iter().all(is_idle) && self.missing.count() == 0 && self.group.commits() == 0
    }
}

fn clock(now: u64, rate: u64) -> Instant {
    *BEGINNING + Duration::from_micros(now * rate)
}
