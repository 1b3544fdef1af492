//! Speaks for one database in its group: keeps the lock in PostgreSQL that shows this member, takes
//! the census there, and carries requests to the Redis process that has K, a round at a time.
//! What is asked and what follows from the answers is decided in `cache/group`.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until, timeout};

use crate::cache::group::life::Life;
use crate::cache::group::link::Link;
use crate::cache::group::member::Millis;
use crate::cache::group::rounds::{Errand, Heard};
use crate::cache::group::script::{Answer, Request};
use crate::cache::group::shared::{Group, NOWHERE, Seat};
use crate::cache::group::slot::Act;
use crate::cache::home::Home;
use crate::server::base::defaults_changed;
use crate::server::io::{Connection, ServerError, Target};
use crate::twin::{self, Twin};

/// Between attempts to reach a PostgreSQL or a Redis that cannot be reached; of a lease half at most: no
/// commit waits for longer than one.
const RETRY: Duration = Duration::from_secs(1);

/// Between looks at whether others have seen a commit that waits for them: at first, as they were
/// told at once; and later, as one that was not told finds out at its next renewal.
const LAG_POLL: Duration = Duration::from_millis(1);
const LAG_POLL_MAX: Duration = Duration::from_millis(50);

/// Between looks at whether it may join again.
const JOIN_POLL: Duration = Duration::from_millis(50);

/// A question to PostgreSQL that takes longer means the connection is dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const PASSED: &str = "another PostgreSQL is written in";
const LEFT: &str = "it stops";
const UNSHOWN: &str = "PostgreSQL does not show our lock";
const UNTOLD: &str = "it stops, and told nobody";

/// Why a member is out of its group is said once of each of so many reasons.
const REASONS_MAX: usize = 16;

/// Ends with its owner.
pub struct Driving(tokio::task::JoinHandle<()>);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whoever has spoken leaves the group as somebody else may find it: not joined.
struct Speaking {
    group: Arc<Group>,
    _seat: Seat,
}

impl Drop for Speaking {
    fn drop(&mut self) {
        // Nothing is left to lose, and why has been told, where it has been lost before.
        if !self.group.is_at(NOWHERE) {
            self.group.lose_lock("nobody speaks for it".to_owned(), Instant::now());
        }
    }
}

/// Speaks for the home, if it is part of a group, while what is given lives; or waits until whoever
/// does it now is gone. `targets` has as whom to ask PostgreSQL, one after the other: not every role
/// may ask what this takes.
pub fn start(
    home: &Arc<Home>,
    targets: impl Fn(usize) -> Arc<Target> + Send + 'static,
) -> Option<Driving> {
    let group = Arc::clone(home.group.as_ref()?);
    let home = Arc::clone(home);
    Some(Driving(tokio::spawn(async move {
        let (mut turn, mut said) = (0_usize, Vec::new());
        let (mut left, mut hurried): (u64, Option<Instant>) = (NOWHERE, None);
        loop {
            if let Some(seat) = group.sit() {
                let _speaking = Speaking { group: Arc::clone(&group), _seat: seat };
                let target = targets(turn);
                let membership = Membership { home: &home, group: &group, target: &target, left };
                let spoken = membership.speak().await;
                let why = spoken.unwrap_or_else(|error| {
                    turn = turn.wrapping_add(1);
                    error.to_string()
                });
                if group.is_leaving() {
                    tracing::info!(database = %target.database, reason = %why, "out of the group");
                    return;
                }
                left = if group.is_passed() { group.spoken_of() } else { NOWHERE };
                group.lose_lock(why.clone(), Instant::now());
                // Each user may be refused for a reason of its own, again and again.
                if !said.contains(&why) {
                    tracing::warn!(database = %target.database, reason = %why, "out of the group");
                    said.truncate(REASONS_MAX - 1);
                    said.insert(0, why);
                }
            }
            let pause = retry(&group);
            if group.is_passed() {
                // Until we are back there, others go on as if it were written where they are.
                if left != NOWHERE && hurried.is_none_or(|then| then.elapsed() > 2 * pause) {
                    hurried = Some(Instant::now());
                    continue;
                }
                // Somebody else asks for the seat as often as we do, and is to have it first.
                sleep(pause).await;
            }
            sleep(pause).await;
        }
    })))
}

fn retry(group: &Group) -> Duration {
    RETRY.min(Duration::from_millis(group.rules.lease / 2))
}

struct Membership<'a> {
    home: &'a Arc<Home>,
    group: &'a Arc<Group>,
    target: &'a Arc<Target>,
    /// Where it was, if another has taken over from that.
    left: u64,
}

/// A census that is being taken: the connection comes back with what it showed.
type Census = Pin<Box<dyn Future<Output = Result<(Connection, Vec<u32>), ServerError>> + Send>>;

/// Where a renewal stands.
enum Renewal {
    Due(Instant),
    /// The members were listed; PostgreSQL is asked who is there.
    Counting {
        t0: Millis,
        heard_at: Millis,
        seq: u64,
        listed: Vec<u32>,
        asked_at: Instant,
        census: Census,
    },
}

impl Membership<'_> {
    /// Until PostgreSQL is lost; says why. Fails where the lock was not had at all.
    async fn speak(&self) -> Result<String, ServerError> {
        let (mut connection, key, life) = self.take_lock().await?;
        let settings = &self.group.settings;
        let mut unsaid = None;
        loop {
            let connecting = Link::connect(&settings.link, &key);
            let linked = match self.showing(&mut connection, connecting).await {
                Ok(linked) => linked,
                Err(why) => return Ok(why),
            };
            let error = match linked {
                Ok(link) => {
                    self.group.linked(link.place(), link.info());
                    for warning in &link.info().warnings {
                        tracing::warn!(%warning, "redis of the group");
                    }
                    let Gone { why, kept } = self.serve(link, life, connection).await;
                    let Some(kept) = kept else { return Ok(why) };
                    connection = kept;
                    why
                }
                Err(error) => error.to_string(),
            };
            self.group.lose(error.clone(), Instant::now());
            if unsaid.as_ref() != Some(&error) {
                tracing::warn!(database = %self.target.database, reason = %error, "the group's redis is lost");
            }
            unsaid = Some(error);
            let pause = sleep(retry(self.group));
            if let Err(why) = self.showing(&mut connection, pause).await {
                return Ok(why);
            }
        }
    }

    /// What comes of the work. Meanwhile PostgreSQL is asked for our lock whenever a commit waits for
    /// that; fails when PostgreSQL is lost.
    async fn showing<T>(
        &self,
        connection: &mut Connection,
        work: impl Future<Output = T>,
    ) -> Result<T, String> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = poll_fn(|cx| self.group.poll_to_be_shown(cx, Instant::now())) => {}
                end = connection.stream.wait_readable() => {
                    let ended = || "PostgreSQL ended the connection".to_owned();
                    return Err(end.map_or_else(|error| error.to_string(), |()| ended()));
                }
            }
            self.show(connection).await?;
        }
    }

    /// Has PostgreSQL show our lock. Fails where it does not.
    async fn show(&self, connection: &mut Connection) -> Result<(), String> {
        let asked_at = Instant::now();
        let question = format!(
            "SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND classid = {} \
             AND objid = {} AND objsubid = 2 AND granted AND pid = pg_catalog.pg_backend_pid()",
            self.group.settings.class(),
            self.group.id
        );
        let rows = ask(connection, &question).await.map_err(|error| error.to_string())?;
        if rows.is_empty() {
            return Err(UNSHOWN.to_owned());
        }
        self.group.lock_shown(asked_at);
        Ok(())
    }

    /// Connects and takes the lock. Gives the name of K, too, and which PostgreSQL it is.
    async fn take_lock(&self) -> Result<(Connection, String, Life), ServerError> {
        let opening = Connection::open_uncounted(self.target);
        let opened = self.target.hosts.within(ANSWER_TIMEOUT, opening).await;
        // Opening has taken the lock, as for every server.
        let mut connection = opened.unwrap_or(Err(ServerError::Closed))?;
        if !Arc::ptr_eq(&connection.server.home, self.home) {
            return Err(ServerError::Closed);
        }
        if connection.server.place == self.left {
            // Somebody else may be led elsewhere.
            return Err(ServerError::Query { sqlstate: String::new(), message: PASSED.to_owned() });
        }
        let rows = ask(&mut connection, IDENTITY).await?;
        let identity: Vec<String> =
            rows.into_iter().flatten().map(Option::unwrap_or_default).collect();
        let [pid, cluster, timeline, started, database] = identity.as_slice() else {
            return Err(ServerError::Protocol);
        };
        let life = Life::parse(timeline, started).ok_or(ServerError::Protocol)?;
        if *pid != connection.server.pid.to_string() {
            // A pooler is in between: backends hide behind each other's locks.
            return Err(ServerError::Query {
                sqlstate: String::new(),
                message: format!(
                    "asked backend {}, answered by {pid}: no group through another pooler",
                    connection.server.pid
                ),
            });
        }
        let name = &self.group.settings.name;
        // Not of one life: those of two have to hear of each other.
        let key = format!("fb:{{{name}:{cluster}:{database}}}");
        self.group.take_lock((connection.server.place, &key), Instant::now());
        Ok((connection, key, life))
    }

    /// Logs what a round has changed.
    fn tell(&self, (act, open): (Option<Act>, bool)) {
        let (now, is_open) = (self.group.act(), self.group.is_open());
        let database = &self.target.database;
        if act.is_some() && now != act {
            tracing::warn!(%database, "what the group had agreed on is gone");
        }
        if let Some(now) = now.filter(|now| act != Some(*now)) {
            tracing::info!(%database, act = %now, member = self.group.id, "joined the group");
        }
        if is_open && !open {
            tracing::info!(%database, "the group is open");
        }
    }

    /// Until the link or PostgreSQL is lost.
    async fn serve(&self, link: Link, life: Life, connection: Connection) -> Gone {
        let renewal = Renewal::Due(Instant::now());
        let mut rounds = Rounds {
            of: self,
            link,
            life,
            connection: Some(connection),
            renewal,
            errand: Errand::None,
            lag_poll: LAG_POLL,
        };
        loop {
            if let Err(why) = rounds.find_errand().await {
                return Gone { why, kept: None };
            }
            if self.group.is_leaving() {
                return Gone { why: rounds.leave().await, kept: None };
            }
            if let Err(why) = rounds.go().await {
                return Gone { why, kept: recover(rounds.connection, rounds.renewal).await };
            }
        }
    }
}

/// Rounds over one link.
struct Rounds<'a> {
    of: &'a Membership<'a>,
    link: Link,
    life: Life,
    /// While no census is taken.
    connection: Option<Connection>,
    renewal: Renewal,
    /// What the next round is to do beside what clients want.
    errand: Errand,
    lag_poll: Duration,
}

impl Rounds<'_> {
    /// Waits until there is something to send. Fails when PostgreSQL is lost.
    async fn find_errand(&mut self) -> Result<(), String> {
        let group = self.of.group;
        if group.is_passed() {
            return Err(PASSED.to_owned());
        }
        if self.errand != Errand::None || group.is_leaving() {
            return Ok(());
        }
        let now = Instant::now();
        if group.wants_to_join(now) {
            self.errand = Errand::Time;
            return Ok(());
        }
        if let Renewal::Due(at) = self.renewal
            && group.act().is_some()
            && at <= now
        {
            self.errand = Errand::Members;
            return Ok(());
        }
        if group.is_to_be_shown(now)
            && let Some(connection) = &mut self.connection
        {
            self.of.show(connection).await?;
        }
        let Woken::Counted(counted) = self.wait().await else { return Ok(()) };
        let due = Instant::now() + Duration::from_millis(group.rules.lease / 4);
        let counted_for = std::mem::replace(&mut self.renewal, Renewal::Due(due));
        let Renewal::Counting { t0, heard_at, seq, listed, asked_at, .. } = counted_for else {
            return Ok(());
        };
        let (connection, seen) = counted.map_err(|error| error.to_string())?;
        if !seen.contains(&group.id) {
            return Err(UNSHOWN.to_owned());
        }
        group.lock_shown(asked_at);
        self.connection = Some(connection);
        self.errand = Errand::Renew { t0, heard_at, seq, listed, seen };
        Ok(())
    }

    async fn wait(&mut self) -> Woken {
        let group = self.of.group;
        // While a census is taken, that shows it.
        let shows = self.connection.is_some();
        let mut work = pin!(poll_fn(|cx| {
            let to_be_shown = shows && group.poll_to_be_shown(cx, Instant::now()).is_ready();
            if to_be_shown { Poll::Ready(()) } else { group.poll_work(cx) }
        }));
        let lag_poll = &mut self.lag_poll;
        let lag = async {
            if group.is_lagging() {
                sleep(*lag_poll).await;
                *lag_poll = (*lag_poll * 2).min(LAG_POLL_MAX);
            } else {
                std::future::pending::<()>().await;
            }
        };
        match &mut self.renewal {
            Renewal::Due(at) => {
                // Out of the group nothing is renewed, and a JOIN may have to wait.
                let at = if group.act().is_some() { *at } else { Instant::now() + JOIN_POLL };
                tokio::select! {
                    () = &mut work => {}
                    () = lag => {}
                    () = sleep_until(at.into()) => {}
                }
                Woken::Work
            }
            Renewal::Counting { census, .. } => tokio::select! {
                () = &mut work => Woken::Work,
                () = lag => Woken::Work,
                counted = census => Woken::Counted(counted),
            },
        }
    }

    /// What is to be told still, and that we hit no more: who comes in our place need not wait until
    /// our lease is over.
    async fn leave(&mut self) -> String {
        let group = self.of.group;
        self.errand = Errand::None;
        if let Err(why) = self.go().await {
            return why;
        }
        let Some(last) = group.part(LEFT, Instant::now()) else { return UNTOLD.to_owned() };
        match self.link.round(&[last], group.settings.timeout).await {
            Ok(replies) if replies.iter().any(|reply| reply.answer == Answer::Left) => {
                LEFT.to_owned()
            }
            Ok(_) => UNTOLD.to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// One round. Fails when Redis is lost.
    async fn go(&mut self) -> Result<(), String> {
        let Membership { group, home, .. } = self.of;
        if self.errand == Errand::Time {
            let looked = self.link.look_again(group.settings.link.timeout).await;
            looked.map_err(|error| error.to_string())?;
            group.linked(self.link.place(), self.link.info());
        }
        let round = group.round(std::mem::replace(&mut self.errand, Errand::None));
        if round.requests.iter().any(|request| matches!(request, Request::Begin { .. })) {
            self.lag_poll = LAG_POLL;
        }
        let sent_at = Instant::now();
        let replies = match self.link.round(&round.requests, group.settings.timeout).await {
            Ok(replies) => replies,
            Err(error) => {
                let unwritten = error.is_before_any_write();
                group.failed(round, (error.to_string(), unwritten), Instant::now());
                return Err(error.to_string());
            }
        };
        let now = Instant::now();
        let moved = || {
            home.catalog_changed();
            defaults_changed();
        };
        let heard_at = group.millis(now);
        let before = (group.act(), group.is_open());
        let heard = group.answered(round, replies, (sent_at, now), &home.coherence, &moved);
        self.of.tell(before);
        match heard {
            Heard::Nothing => {}
            Heard::Time { now: t0 } => {
                let act = Act(rand::random());
                let (process, life) = (self.link.process(), self.life);
                self.errand = Errand::Join { t0, heard_at, process, life, act };
            }
            Heard::Members { now: t0, seq, ids: listed } => {
                if let Some(connection) = self.connection.take() {
                    let census = Box::pin(count(connection, group.settings.class()));
                    self.renewal =
                        Renewal::Counting { t0, heard_at, seq, listed, asked_at: now, census };
                }
            }
            Heard::Changed => {
                if let Renewal::Due(at) = &mut self.renewal {
                    *at = now;
                }
            }
        }
        Ok(())
    }
}

#[expect(clippy::large_enum_variant, reason = "one at a time, for a moment")]
enum Woken {
    Work,
    Counted(Result<(Connection, Vec<u32>), ServerError>),
}

/// Why it is over, and the connection to PostgreSQL if that is still there.
struct Gone {
    why: String,
    kept: Option<Connection>,
}

async fn recover(connection: Option<Connection>, renewal: Renewal) -> Option<Connection> {
    match (connection, renewal) {
        (Some(connection), _) => Some(connection),
        (None, Renewal::Counting { census, .. }) => Some(census.await.ok()?.0),
        (None, Renewal::Due(_)) => None,
    }
}

/// Who shows a lock of this class in the database.
async fn count(
    mut connection: Connection,
    class: i32,
) -> Result<(Connection, Vec<u32>), ServerError> {
    let mut question = String::new();
    // Writing to a string does not fail.
    let _infallible = write!(
        question,
        "SELECT DISTINCT l.objid::bigint FROM pg_catalog.pg_locks l, pg_catalog.pg_database d \
         WHERE l.locktype = 'advisory' AND l.classid = {class} AND l.objsubid = 2 AND l.granted \
         AND l.database = d.oid AND d.datname = pg_catalog.current_database()"
    );
    if twin::is(Twin::MarksClearedAfterCrash) {
        // The last commit of a process that is gone waits for somebody.
        question.push_str(
            " AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = l.pid \
             AND a.wait_event_type = 'Lock')",
        );
    }
    let rows = ask(&mut connection, &question).await?;
    let ids = rows.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok()).collect();
    Ok((connection, ids))
}

/// Who answers, and what it is: cluster, timeline, start and database.
const IDENTITY: &str = "SELECT pg_catalog.pg_backend_pid(), c.system_identifier, \
     pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8), \
     (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint, d.oid \
     FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d \
     WHERE d.datname = pg_catalog.current_database()";

async fn ask(
    connection: &mut Connection,
    sql: &str,
) -> Result<Vec<Vec<Option<String>>>, ServerError> {
    let answer = timeout(ANSWER_TIMEOUT, connection.query(sql)).await;
    Ok(answer.unwrap_or(Err(ServerError::Closed))?.pop().unwrap_or_default())
}
