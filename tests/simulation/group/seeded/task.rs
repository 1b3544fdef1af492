//! What `src/membership.rs` does for a `Group`, one await after the other: the lock, the link, rounds,
//! the census, LEAVE. What is decided there is decided by the real `Group`; here is only when.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::cache::group::life::Life;
use forebay::cache::group::process::Process;
use forebay::cache::group::rounds::{Errand, Heard, Round};
use forebay::cache::group::script::{Reply, Request};
use forebay::cache::group::slot::Act;

use super::instance::{Instance, Woken};
use super::postgres::PLACE;
use super::world::{Fault, Outside, Twin};

/// What K is called.
pub(super) const K: &str = "fb:{g:1:1}";

const LIFE: Life = Life { timeline: 1, started: 1 };
const JOIN_POLL: Duration = Duration::from_millis(50);
const LAG_POLL: Duration = Duration::from_millis(1);
const LAG_POLL_MAX: Duration = Duration::from_millis(50);

pub(super) enum Task {
    /// Without the lock, and for how long at least.
    Out {
        until: Instant,
    },
    /// With the lock, without a link.
    Unlinked {
        until: Instant,
    },
    Linked(Box<Linked>),
    Left,
}

pub(super) struct Linked {
    /// Which Redis the link leads to.
    number: u8,
    process: Process,
    errand: Errand,
    renewal: Renewal,
    lag_poll: Duration,
    doing: Doing,
}

enum Renewal {
    Due(Instant),
    Counting {
        t0: u64,
        heard_at: u64,
        seq: u64,
        listed: Vec<u32>,
        asked_at: Instant,
        census: Option<Vec<u32>>,
    },
}

enum Doing {
    Looking,
    Waiting { woken: Arc<Woken>, until: Option<Instant> },
    Asking(Asking),
}

/// Requests on their way, and what was answered.
struct Asking {
    /// None: LEAVE.
    round: Option<Round>,
    left: VecDeque<Request>,
    replies: Vec<Reply>,
    sent_at: Instant,
    /// The answers are lost.
    is_cut: bool,
}

impl Instance {
    pub(super) fn drive(&mut self, outside: &mut Outside) {
        let now = self.clock(outside);
        self.show(now, outside);
        match std::mem::replace(&mut self.task, Task::Left) {
            Task::Out { until } if now >= until && !self.group.is_leaving() => {
                self.take_lock(outside);
            }
            Task::Out { .. } if self.group.is_leaving() => {}
            out @ Task::Out { .. } => self.task = out,
            Task::Unlinked { .. } if !self.has_control(outside) => {
                self.lose_lock("PostgreSQL ended the connection", outside);
            }
            Task::Unlinked { until } if now >= until && self.reaches_redis(outside) => {
                let (number, process) = (outside.redis.number, outside.redis.process());
                self.task = Task::Linked(Box::new(Linked {
                    number,
                    process,
                    errand: Errand::None,
                    renewal: Renewal::Due(now),
                    lag_poll: LAG_POLL,
                    doing: Doing::Looking,
                }));
                outside.say(self.id, || format!("connects to Redis {number}"));
            }
            unlinked @ Task::Unlinked { .. } => self.task = unlinked,
            Task::Linked(linked) => self.task = self.drive_linked(linked, outside),
            Task::Left => {}
        }
    }

    fn has_control(&self, outside: &Outside) -> bool {
        self.control.is_some_and(|pid| outside.postgres.is_alive(pid))
    }

    /// PostgreSQL is asked for our lock, or has shown it, wherever a commit waits for that.
    fn show(&mut self, now: Instant, outside: &mut Outside) {
        let asked_at = self.asked_to_show.take().filter(|_| self.has_control(outside));
        if let Some(asked_at) = asked_at {
            self.group.lock_shown(asked_at);
            outside.seen.shown += 1;
            outside.say(self.id, || "is shown its lock".to_owned());
        } else if self.has_control(outside) && self.group.is_to_be_shown(now) {
            self.asked_to_show = Some(now);
        }
    }

    fn retry(&self) -> Duration {
        Duration::from_secs(1).min(Duration::from_millis(self.group.rules.lease / 2))
    }

    fn take_lock(&mut self, outside: &mut Outside) {
        self.seat = self.group.sit();
        let pid = outside.postgres.connect(self.id);
        self.control = Some(pid);
        self.group.take_lock((PLACE, K), self.clock(outside));
        self.task = Task::Unlinked { until: self.clock(outside) };
        outside.say(self.id, || format!("shows its lock, backend {pid}"));
    }

    /// Whoever spoke for the group leaves it, and the connection that was kept.
    fn lose_lock(&mut self, why: &str, outside: &mut Outside) {
        let now = self.clock(outside);
        if let Some(pid) = self.control.take() {
            outside.postgres.sever(pid);
        }
        self.group.lose_lock(why.to_owned(), now);
        self.seat = None;
        let until = now + self.retry();
        self.task = if self.group.is_leaving() { Task::Left } else { Task::Out { until } };
        outside.say(self.id, || format!("out of the group: {why}"));
    }

    fn drive_linked(&mut self, mut linked: Box<Linked>, outside: &mut Outside) -> Task {
        let now = self.clock(outside);
        match std::mem::replace(&mut linked.doing, Doing::Looking) {
            Doing::Looking => self.find_errand(linked, outside),
            Doing::Waiting { woken, until } => {
                if let Renewal::Counting { census: Some(_), .. } = &linked.renewal {
                    return self.counted(linked, outside);
                }
                if woken.is() || until.is_some_and(|until| now >= until) {
                    return self.go(linked, outside);
                }
                linked.doing = Doing::Waiting { woken, until };
                Task::Linked(linked)
            }
            Doing::Asking(asking) => {
                let is_dead = linked.number != outside.redis.number || asking.is_cut;
                let is_over = asking.sent_at + self.group.settings.timeout <= now;
                if is_dead || !self.reaches_redis(outside) || (is_over && !asking.left.is_empty()) {
                    return self.fail(asking, outside);
                }
                if asking.left.is_empty() {
                    return self.answered(linked, asking, outside);
                }
                linked.doing = Doing::Asking(asking);
                Task::Linked(linked)
            }
        }
    }

    fn find_errand(&mut self, mut linked: Box<Linked>, outside: &mut Outside) -> Task {
        let now = self.clock(outside);
        let group = &self.group;
        if linked.errand != Errand::None || group.is_leaving() {
            return self.go(linked, outside);
        }
        if group.wants_to_join(now) {
            linked.errand = Errand::Time;
            return self.go(linked, outside);
        }
        let due = match linked.renewal {
            Renewal::Due(_) if group.act().is_none() => Some(now + JOIN_POLL),
            Renewal::Due(at) if at <= now => {
                linked.errand = Errand::Members;
                return self.go(linked, outside);
            }
            Renewal::Due(at) => Some(at),
            Renewal::Counting { .. } => None,
        };
        let woken = Arc::new(Woken::default());
        if woken.poll(|cx| group.poll_work(cx)).is_ready() {
            return self.go(linked, outside);
        }
        let lag = group.is_lagging().then(|| now + linked.lag_poll);
        if lag.is_some() {
            linked.lag_poll = (linked.lag_poll * 2).min(LAG_POLL_MAX);
        }
        let until = due.into_iter().chain(lag).min();
        linked.doing = Doing::Waiting { woken, until };
        Task::Linked(linked)
    }

    /// The census was heard.
    fn counted(&mut self, mut linked: Box<Linked>, outside: &mut Outside) -> Task {
        let due = self.clock(outside) + Duration::from_millis(self.group.rules.lease / 4);
        let counting = std::mem::replace(&mut linked.renewal, Renewal::Due(due));
        let Renewal::Counting { t0, heard_at, seq, listed, asked_at, census: Some(seen) } =
            counting
        else {
            return Task::Linked(linked);
        };
        if !self.has_control(outside) {
            self.lose_lock("PostgreSQL closed the connection", outside);
            return std::mem::replace(&mut self.task, Task::Left);
        }
        if !seen.contains(&self.id) {
            self.lose_lock("PostgreSQL does not show our lock", outside);
            return std::mem::replace(&mut self.task, Task::Left);
        }
        self.group.lock_shown(asked_at);
        outside.say(self.id, || format!("has counted {seen:?}"));
        linked.errand = Errand::Renew { t0, heard_at, seq, listed, seen };
        self.go(linked, outside)
    }

    fn go(&mut self, mut linked: Box<Linked>, outside: &mut Outside) -> Task {
        let now = self.clock(outside);
        if linked.errand == Errand::Time {
            linked.process = outside.redis.process();
        }
        let is_leaving = self.group.is_leaving();
        let errand = std::mem::replace(&mut linked.errand, Errand::None);
        let round = self.group.round(if is_leaving { Errand::None } else { errand });
        if round.requests.iter().any(|request| matches!(request, Request::Begin { .. })) {
            linked.lag_poll = LAG_POLL;
        }
        if !round.requests.is_empty() {
            outside.say(self.id, || format!("sends {:?}", round.requests));
        }
        let left = round.requests.iter().cloned().collect();
        let round = Some(round);
        let asking = Asking { round, left, replies: Vec::new(), sent_at: now, is_cut: false };
        linked.doing = Doing::Asking(asking);
        Task::Linked(linked)
    }

    /// The link is over. What was sent may still arrive.
    fn fail(&mut self, asking: Asking, outside: &mut Outside) -> Task {
        let now = self.clock(outside);
        let why = "redis is lost".to_owned();
        outside.say(self.id, || format!("loses Redis, {} requests late", asking.left.len()));
        if let Some(round) = asking.round {
            self.group.failed(round, (why.clone(), false), now);
        }
        if !asking.left.is_empty() && outside.below(2) == 0 {
            outside.redis.late.push(asking.left);
        }
        if self.group.is_leaving() {
            self.lose_lock("it stops, and told nobody", outside);
            return Task::Left;
        }
        self.group.lose(why, now);
        Task::Unlinked { until: now + self.retry() }
    }

    fn answered(&mut self, mut linked: Box<Linked>, asking: Asking, outside: &mut Outside) -> Task {
        let now = self.clock(outside);
        let Asking { round: Some(round), replies, sent_at, .. } = asking else {
            self.lose_lock("it stops", outside);
            return Task::Left;
        };
        if !replies.is_empty() {
            outside.say(self.id, || format!("hears {replies:?}"));
        }
        let (home, is_told) = (&self.home, outside.plan.twin != Twin::CatalogUntold);
        let moved = || {
            if is_told {
                home.catalog_changed();
            }
        };
        let heard_at = self.group.millis(now);
        let before = self.group.is_open();
        let heard = self.group.answered(round, replies, (sent_at, now), &home.coherence, &moved);
        outside.seen.opened += u64::from(self.group.is_open() && !before);
        match heard {
            Heard::Nothing => {}
            Heard::Time { now: t0 } => {
                let act = Act(std::array::from_fn(|_| outside.byte()));
                let (process, life) = (linked.process, LIFE);
                linked.errand = Errand::Join { t0, heard_at, process, life, act };
            }
            Heard::Members { now: t0, seq, ids: listed } => {
                if !matches!(linked.renewal, Renewal::Counting { .. }) {
                    let (asked_at, census) = (now, None);
                    linked.renewal =
                        Renewal::Counting { t0, heard_at, seq, listed, asked_at, census };
                }
            }
            Heard::Changed => {
                if let Renewal::Due(at) = &mut linked.renewal {
                    *at = now;
                }
            }
        }
        if self.group.is_leaving() {
            return self.part(linked, outside);
        }
        Task::Linked(linked)
    }

    /// What was to be told is told: it hits no more.
    fn part(&mut self, mut linked: Box<Linked>, outside: &mut Outside) -> Task {
        let now = self.clock(outside);
        let Some(last) = self.group.part("it stops", now) else {
            self.lose_lock("it stops, and told nobody", outside);
            return Task::Left;
        };
        outside.say(self.id, || format!("sends {last:?}"));
        let (left, replies) = ([last].into(), Vec::new());
        let asking = Asking { round: None, left, replies, sent_at: now, is_cut: false };
        linked.doing = Doing::Asking(asking);
        Task::Linked(linked)
    }

    // What happens to it.

    /// PostgreSQL answers the census, as it is now.
    pub(super) fn count(&mut self, outside: &mut Outside) {
        let own = [self.id];
        if let Task::Linked(linked) = &mut self.task
            && let Renewal::Counting { census: census @ None, .. } = &mut linked.renewal
        {
            let mut seen = outside.postgres.census();
            match outside.plan.twin {
                Twin::EmptyCensus => seen.retain(|id| own.contains(id)),
                Twin::DeadUnseen => seen.retain(|id| !outside.dead.contains(id)),
                Twin::None
                | Twin::Without(_)
                | Twin::NoCheck
                | Twin::UncheckedStore
                | Twin::LossSettledAtOnce
                | Twin::AlwaysGranted
                | Twin::CatalogUntold
                | Twin::Unannounced => {}
            }
            *census = Some(seen);
        }
    }

    /// Redis does what is first on its way there; gives what that was.
    pub(super) fn arrive(&mut self, outside: &mut Outside) -> Option<Request> {
        let Task::Linked(linked) = &mut self.task else { return None };
        let Doing::Asking(asking) = &mut linked.doing else { return None };
        if linked.number != outside.redis.number || outside.now < self.cut_until {
            return None;
        }
        let request = asking.left.pop_front()?;
        let reply = outside.redis.serve(&request, outside.now);
        outside.say(self.id, || format!("is answered {reply:?} to {request:?}"));
        asking.replies.push(reply);
        Some(request)
    }

    /// Its link fails under what is on its way.
    pub(super) fn cut_link(&mut self, outside: &mut Outside) {
        let Task::Linked(linked) = &mut self.task else { return };
        match &mut linked.doing {
            Doing::Asking(asking) => {
                let has_come = !asking.replies.is_empty();
                asking.is_cut = true;
                outside.strike(if has_come { Fault::Replies } else { Fault::Link });
            }
            Doing::Looking | Doing::Waiting { .. } => {}
        }
    }

    /// What it has sent may arrive though it is gone.
    pub(super) fn leave_requests(&mut self, outside: &mut Outside) {
        if let Task::Linked(linked) = std::mem::replace(&mut self.task, Task::Left)
            && let Doing::Asking(asking) = linked.doing
            && linked.number == outside.redis.number
        {
            outside.redis.late.push(asking.left);
        }
    }
}
