//! The latest slow statements, kept and logged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::config::Config;

use super::pace::Pace;
use super::tags::Route;

/// A statement that took longer than the threshold.
#[derive(Clone, Debug)]
pub struct Slow {
    /// Counts from 1, given by `note`.
    pub id: u64,
    pub at: SystemTime,
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub application_name: Arc<str>,
    pub address: String,
    pub shape: String,
    /// Before it was sent to a server; none for what is answered here.
    pub wait: Duration,
    /// From then to its end.
    pub run: Duration,
    pub rows: u64,
    /// Sent to the client.
    pub bytes: u64,
    pub server_pid: Option<u32>,
    /// `hit`, `miss`, or the reason it was not looked up.
    pub outcome: &'static str,
    pub failed: bool,
    pub route: Option<Arc<Route>>,
    /// Never in the log.
    pub kept: Option<Kept>,
    /// Why there is no plan of it to be had; `None`: there is one.
    pub no_plan: Option<NoPlan>,
}

/// The text of a slow statement, and what it takes to have it planned once more.
#[derive(Clone, Debug)]
pub struct Kept {
    /// As it was sent, literals and all, without comments; its beginning if it is long.
    pub text: String,
    /// Declared for its parameters; 0: PostgreSQL is to find out.
    pub types: Vec<u32>,
    pub parameters: u32,
    /// What its session had set: what may follow `SET name TO`. Nothing if there is no plan of it.
    pub settings: BTreeMap<String, String>,
    /// As whom its server was logged in.
    pub server_user: Arc<str>,
}

/// Why a slow statement is not planned again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlan {
    NotARead,
    MayWrite,
    Several,
    TooLong,
    /// What its session had set is.
    SettingsTooLong,
    /// Others were sent right behind it, or it is of no text that we can read.
    NotAtHand,
}

impl NoPlan {
    pub fn text(self) -> &'static str {
        match self {
            Self::NotARead => "the statement is not a read",
            Self::MayWrite => "the statement may write",
            Self::Several => "it is one of several statements in one string",
            Self::TooLong => "the statement is too long to be kept",
            Self::SettingsTooLong => "its session had set too much to be kept",
            Self::NotAtHand => "the text of the statement was not at hand",
        }
    }
}

impl Slow {
    pub fn for_plan(&self) -> Result<&Kept, NoPlan> {
        match self.no_plan {
            Some(why) => Err(why),
            None => self.kept.as_ref().ok_or(NoPlan::NotAtHand),
        }
    }
}

pub struct SlowLog {
    /// The lowest threshold of any user and database: what is faster is slow for nobody. The
    /// highest number there is if nothing ever is slow.
    lowest_us: AtomicU64,
    /// Guards the settings, which hold the thresholds; nothing else is locked inside.
    config: Mutex<Arc<Config>>,
    ring_size: usize,
    /// Slow statements that one second may put into the log.
    rate_limit: AtomicU32,
    /// The latest, newest last; held only to add one or to clone the `Arc`s. Nothing else is locked
    /// inside.
    ring: Mutex<VecDeque<Arc<Slow>>>,
    next_id: AtomicU64,
    pace: Pace,
    pub suppressed: AtomicU64,
    /// The same moment on both clocks, so that statements need to read only one.
    started: (Instant, SystemTime),
}

impl SlowLog {
    pub fn new(config: Arc<Config>, started: (Instant, SystemTime)) -> Self {
        let log = Self {
            lowest_us: AtomicU64::new(u64::MAX),
            ring_size: usize::try_from(config.slow.ring_size).unwrap_or(usize::MAX),
            rate_limit: AtomicU32::new(config.slow.rate_limit),
            config: Mutex::new(Arc::clone(&config)),
            ring: Mutex::default(),
            next_id: AtomicU64::new(1),
            pace: Pace::default(),
            suppressed: AtomicU64::new(0),
            started,
        };
        log.set(config);
        log
    }

    /// From the next statement on.
    pub fn set(&self, config: Arc<Config>) {
        let users = config.users.iter().map(|user| user.slow_threshold);
        let databases = config.databases.iter().map(|entry| entry.limits.slow_threshold);
        let thresholds = users.chain(databases).flatten().chain([config.slow.threshold]);
        let lowest = thresholds.filter(|threshold| !threshold.is_zero()).min();
        self.lowest_us.store(lowest.map_or(u64::MAX, micros), Ordering::Relaxed);
        self.rate_limit.store(config.slow.rate_limit, Ordering::Relaxed);
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// The time of day at a moment of the monotonic clock.
    pub fn time_of_day(&self, at: Instant) -> SystemTime {
        self.started.1 + at.saturating_duration_since(self.started.0)
    }

    /// By the user's own threshold, else the database's, else that for all; one of zero is never
    /// reached.
    pub fn is_slow(&self, total_us: u64, database: &str, user: &str) -> bool {
        if total_us < self.lowest_us.load(Ordering::Relaxed) {
            return false;
        }
        let config = {
            let guard = self.config.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&guard)
        };
        let of_user = config.user(user).and_then(|user| user.slow_threshold);
        let of_database =
            || config.database(database).and_then(|entry| entry.limits.slow_threshold);
        let threshold = of_user.or_else(of_database).unwrap_or(config.slow.threshold);
        !threshold.is_zero() && total_us >= micros(threshold)
    }

    pub fn note(&self, mut slow: Slow) {
        slow.id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if self.pace.may(slow.at, self.rate_limit.load(Ordering::Relaxed)) {
            tracing::warn!(
                slow_id = slow.id,
                database = %slow.database,
                user = %slow.user,
                application_name = %slow.application_name,
                address = %slow.address,
                wait_ms = slow.wait.as_millis(),
                run_ms = slow.run.as_millis(),
                rows = slow.rows,
                bytes = slow.bytes,
                server_pid = slow.server_pid,
                cache = slow.outcome,
                failed = slow.failed,
                route = slow.route.as_ref().map(|route| route.name.as_str()),
                shape = %slow.shape,
                "slow statement"
            );
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= self.ring_size {
            ring.pop_front();
        }
        if self.ring_size > 0 {
            ring.push_back(Arc::new(slow));
        }
    }

    /// The latest slow statements, newest first.
    pub fn latest(&self) -> Vec<Arc<Slow>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().map(Arc::clone).collect()
    }

    pub fn find(&self, id: u64) -> Option<Arc<Slow>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rfind(|slow| slow.id == id).map(Arc::clone)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        AuthLookup, Base, DatabaseEntry, DatabaseLimits, Host, LoadBalance, UserEntry,
    };

    fn log(change: impl FnOnce(&mut Config)) -> SlowLog {
        let mut config = Config::defaults(Base::Forebay);
        change(&mut config);
        SlowLog::new(Arc::new(config), (Instant::now(), SystemTime::UNIX_EPOCH))
    }

    fn database(name: &str, millis: u64) -> DatabaseEntry {
        let slow_threshold = Some(Duration::from_millis(millis));
        DatabaseEntry {
            name: name.into(),
            host: Host::Name("127.0.0.1".into()),
            port: 1,
            load_balance_hosts: LoadBalance::RoundRobin,
            dbname: None,
            auth: AuthLookup::default(),
            user: None,
            password: None,
            pool_size: None,
            pool_mode: None,
            limits: DatabaseLimits { slow_threshold, ..DatabaseLimits::default() },
            connect_query: None,
            application_name: None,
            parameters: Vec::new(),
            options: None,
        }
    }

    fn slow(shape: &str) -> Slow {
        Slow {
            id: 0,
            at: SystemTime::UNIX_EPOCH,
            database: "app".into(),
            user: "ann".into(),
            application_name: "".into(),
            address: "127.0.0.1:1".into(),
            shape: shape.into(),
            wait: Duration::ZERO,
            run: Duration::from_secs(1),
            rows: 1,
            bytes: 9,
            server_pid: None,
            outcome: "miss",
            failed: false,
            route: None,
            kept: None,
            no_plan: None,
        }
    }

    #[test]
    fn the_ring_keeps_the_latest_newest_first_each_with_its_id() {
        let log = log(|config| config.slow.ring_size = 2);
        for shape in ["a", "b", "c"] {
            log.note(slow(shape));
        }
        let kept: Vec<(u64, String)> =
            log.latest().iter().map(|slow| (slow.id, slow.shape.clone())).collect();
        assert_eq!(kept, [(3, "c".to_owned()), (2, "b".to_owned())]);
    }

    #[test]
    fn a_second_logs_no_more_than_its_share() {
        let log = log(|config| config.slow.rate_limit = 2);
        for _ in 0..5 {
            log.note(slow("a"));
        }
        assert_eq!(log.suppressed.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_threshold_of_zero_finds_nothing_slow() {
        let never = log(|config| config.slow.threshold = Duration::ZERO);
        assert!(!never.is_slow(u64::MAX, "app", "ann"));
        let second = log(|config| config.slow.threshold = Duration::from_secs(1));
        assert!(second.is_slow(1_000_000, "app", "ann"));
        assert!(!second.is_slow(999_999, "app", "ann"));
    }

    #[test]
    fn the_users_own_threshold_goes_before_the_databases_and_that_before_the_one_for_all() {
        let user = |name: &str, millis| UserEntry {
            name: name.into(),
            slow_threshold: Some(Duration::from_millis(millis)),
            ..UserEntry::default()
        };
        let log = log(|config| {
            config.slow.threshold = Duration::from_millis(100);
            config.users = vec![user("ann", 50), user("bob", 0)];
            config.databases = vec![database("app", 200)];
        });
        let least =
            |database, user| (0..1000).find(|millis| log.is_slow(millis * 1000, database, user));
        assert_eq!(least("other", "cid"), Some(100));
        assert_eq!(least("app", "cid"), Some(200));
        assert_eq!(least("app", "ann"), Some(50));
        assert_eq!(least("app", "bob"), None);
    }
}
