//! The second tier: entries in a Redis that may be missing, slow, full, restarted or lying.
//! With `group/link.rs` and `group/talk.rs` the only one that knows the client library.
//!
//! Nothing here is waited for longer than `redis.timeout`, and nothing found here is believed:
//! `sealed` says whether bytes are an entry of ours, its stamp whether that is still true.
//! So FLUSH CACHE and every write leave Redis alone; what they made untrue never comes back and
//! goes when its time is over.

mod connect;
mod list;
mod settings;
mod shared;
mod store;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisError};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::metrics::RedisCounters;

use settings::Way;
pub use settings::{Settings, SettingsError};
use shared::Sharing;
use store::{Offer, QUEUE_ENTRIES_MAX};

use super::breaker::Breaker;
use super::digests::Digest;
use super::entry::Entry;
use super::group::link::Place;
use super::group::shared::Group;
use super::home::Home;
use super::key::{KeyBuffer, SessionKey};
use super::sealed::{Seal, Unsealed};
use super::stored::Stored;

pub struct Redis {
    way: Way,
    exposure: Option<&'static str>,
    prefix: String,
    timeout: Duration,
    max_age_us: AtomicU64,
    seal: Seal,
    /// With all of a group; otherwise what is stored is for this process alone.
    sharing: Option<Sharing>,
    /// What it was sent, so that it is not asked for anything else.
    stored: Stored,
    /// Guards the connection and what is known of it; nothing else is locked inside.
    link: Mutex<Link>,
    /// Raised when the breaker opens.
    opened: Notify,
    queue: mpsc::Sender<Offer>,
    queued_bytes: AtomicUsize,
    pub counters: RedisCounters,
}

struct Link {
    breaker: Breaker,
    connection: Option<MultiplexedConnection>,
    /// Where that leads, in a group.
    place: Option<Place>,
    /// It could not be reached at the last try, for this reason.
    unreached: Option<String>,
    /// It takes no entries though it gives them: it is full, or a replica.
    refuses: bool,
    /// What of storing our user may not do, as it was told.
    forbidden: Option<String>,
    /// What went wrong last, though it may be long ago.
    last_error: Option<String>,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What an operation ended with.
enum Failure {
    Timeout,
    /// The connection is of no more use.
    Lost(String),
    /// Redis answered, with an error.
    Refused(String),
}

impl Failure {
    fn into_text(self) -> String {
        match self {
            Self::Timeout => "no answer in time".to_owned(),
            Self::Lost(text) | Self::Refused(text) => text,
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        if error.is_unrecoverable_error() {
            return Self::Lost(error.to_string());
        }
        // Of a pipeline there may be many; they are alike.
        match error.clone().into_server_errors().as_deref() {
            Some([(_, first), ..]) => Self::Refused(first.to_string()),
            Some([]) | None => Self::Lost(error.to_string()),
        }
    }
}

impl Redis {
    /// Starts the tasks that connect and fill; they end with the runtime. Waits for nothing.
    pub fn start(settings: Settings, started: Instant) -> Result<Arc<Self>, SettingsError> {
        let (way, exposure) = settings.way()?;
        let sharing = Sharing::new(&settings, rand::random());
        let (queue, entries) = mpsc::channel(QUEUE_ENTRIES_MAX);
        let (bytes_max, compress_from) = (settings.entry_bytes_max, settings.compress_from);
        let redis = Arc::new(Self {
            way,
            exposure,
            sharing,
            prefix: settings.prefix,
            timeout: settings.timeout,
            max_age_us: AtomicU64::new(micros(settings.max_age)),
            seal: Seal::new(&settings.secret, started, bytes_max, compress_from),
            stored: Stored::new(settings.max_age, Instant::now()),
            link: Mutex::new(Link {
                breaker: Breaker::new(settings.breaker_failures, settings.breaker_reset),
                connection: None,
                place: None,
                unreached: None,
                refuses: false,
                forbidden: None,
                last_error: None,
            }),
            opened: Notify::new(),
            queue,
            queued_bytes: AtomicUsize::new(0),
            counters: RedisCounters::default(),
        });
        tokio::spawn(Arc::clone(&redis).keep_connected());
        tokio::spawn(Arc::clone(&redis).fill(entries));
        Ok(redis)
    }

    /// From now on entries may have this length, and live so long.
    pub fn limit(&self, entry_bytes_max: usize, max_age: Duration) {
        self.seal.set_longest(entry_bytes_max);
        if let Some(sharing) = &self.sharing {
            sharing.seal.set_longest(entry_bytes_max);
        }
        self.stored.set_life(max_age);
        self.max_age_us.store(micros(max_age), Ordering::Relaxed);
    }

    /// Whether others may have stored what is looked up.
    pub fn is_shared(&self) -> bool {
        self.sharing.is_some()
    }

    /// A session of these numbers is going to look up; `digest` says what they stand for.
    pub fn learn(&self, session: &SessionKey, digest: impl FnOnce() -> Digest) {
        if let Some(sharing) = &self.sharing {
            sharing.digests.learn(session, digest);
        }
    }

    /// What is judged in this database is so by the catalogue of this fingerprint from here on.
    pub fn judged_by(&self, database: u64, fingerprint: Option<&str>) {
        if let Some(sharing) = &self.sharing {
            sharing.digests.judged_by(database, fingerprint.map(Digest::of_catalogue));
        }
    }

    /// Whether a look-up is worth its time: it may have this key, and it is up.
    pub fn should_ask(&self, key: &KeyBuffer) -> bool {
        let may_have = match &self.sharing {
            Some(sharing) => sharing.session(key.bytes()).is_some(),
            None => self.stored.may_have(key.hash()),
        };
        if !may_have {
            return false;
        }
        let up = self.is_up();
        if !up {
            self.counters.skipped.one();
        }
        up
    }

    /// The entry of this key that this process once stored, or one of its group, unless it has
    /// become untrue. That is to be asked again when it is served.
    /// Takes no longer than the time-out. Cancel-safe.
    pub async fn look_up(&self, key: &KeyBuffer, home: &Home) -> Option<Arc<Entry>> {
        match &self.sharing {
            Some(sharing) => self.look_up_shared(sharing, key, home).await,
            None => self.look_up_own(key, home).await,
        }
    }

    async fn look_up_own(&self, key: &KeyBuffer, home: &Home) -> Option<Arc<Entry>> {
        let prefix = self.prefix_of_own(home.group.as_deref())?;
        let mut connection = self.connection()?;
        self.counters.look_ups.one();
        // Not GET: whatever somebody put there, no more than an entry's bytes are read.
        let mut command = redis::cmd("GETRANGE");
        command.arg(self.seal.name(&prefix, key.bytes())).arg(0);
        command.arg(self.seal.sealed_bytes_max());
        let sealed: Vec<u8> = match self.ask(&command, &mut connection).await {
            Ok(sealed) => sealed,
            Err(failure) => {
                self.failed(failure);
                return None;
            }
        };
        self.link().breaker.succeeded();
        if sealed.is_empty() {
            self.counters.misses.one();
            return None;
        }
        self.opened(self.seal.open(&sealed, key.bytes(), key.hash(), &home.coherence))
    }

    /// What names of this process's own begin with: in a group with K's braces, so that they lie
    /// where K does, which in a cluster is the node that this one is connected to. `None` if it is
    /// not.
    fn prefix_of_own(&self, group: Option<&Group>) -> Option<Cow<'_, str>> {
        match &self.way {
            Way::Given(_) => Some(Cow::Borrowed(&self.prefix)),
            Way::Found(_) => {
                let k = group.filter(|group| self.is_where(group))?.name()?;
                Some(Cow::Owned(format!("{k}:o:")))
            }
        }
    }

    fn opened(&self, opened: Result<Entry, Unsealed>) -> Option<Arc<Entry>> {
        match opened {
            Ok(entry) if entry.stamp.holds() => Some(Arc::new(entry)),
            Ok(_) | Err(Unsealed::WrongTime | Unsealed::TooLong) => {
                self.counters.misses.one();
                None
            }
            Err(reason @ (Unsealed::Malformed | Unsealed::Forged | Unsealed::WrongKey)) => {
                self.counters.forged.one();
                tracing::warn!(?reason, "value in redis is not what was stored, ignored");
                None
            }
        }
    }

    pub fn is_up(&self) -> bool {
        self.link().breaker.is_closed()
    }

    /// For people.
    pub fn state(&self) -> &'static str {
        let link = self.link();
        match link.breaker.is_closed() {
            true if link.refuses => "up, takes no entries",
            true => "up",
            false if link.last_error.is_none() => "connecting",
            false => "down",
        }
    }

    /// What went wrong last, for people; it may be over.
    pub fn last_error(&self) -> Option<String> {
        self.link().last_error.clone()
    }

    /// What keeps others away from Redis and the way there, and is missing.
    pub fn exposure(&self) -> Option<&'static str> {
        self.exposure
    }

    fn link(&self) -> std::sync::MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> Option<MultiplexedConnection> {
        let link = self.link();
        if link.breaker.is_closed() { link.connection.clone() } else { None }
    }

    fn failed(&self, failure: Failure) {
        let now = Instant::now();
        let mut link = self.link();
        let opened = match failure {
            Failure::Timeout => {
                self.counters.timeouts.one();
                link.breaker.failed(now)
            }
            Failure::Lost(_) => {
                self.counters.errors.one();
                link.breaker.lost(now)
            }
            Failure::Refused(_) => {
                self.counters.errors.one();
                link.breaker.failed(now)
            }
        };
        let reason = failure.into_text();
        if opened {
            tracing::warn!(%reason, "redis left alone for now");
        }
        link.last_error = Some(reason);
        if opened {
            // What waits on the old connection ends with its last handle.
            link.connection = None;
            drop(link);
            self.opened.notify_one();
        }
    }

    /// One operation, in its time.
    async fn ask<T: FromRedisValue>(
        &self,
        command: &Cmd,
        connection: &mut MultiplexedConnection,
    ) -> Result<T, Failure> {
        match timeout(self.timeout, command.query_async(connection)).await {
            Ok(reply) => reply.map_err(Failure::from),
            Err(_elapsed) => Err(Failure::Timeout),
        }
    }
}
