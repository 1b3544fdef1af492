//! Asks over many connections and notes how long answers take: each connection as soon as it has
//! its answer, or, with a rate, when a Poisson process says. Then a time counts from the moment the
//! request should have been sent, so that a stall is felt by all who would have come meanwhile.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use clap::ValueEnum as _;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::arrivals::Arrivals;
use crate::connection::{Connection, Url};
use crate::cpu::Watched;
use crate::histogram::Histogram;
use crate::message::broken;
use crate::statement::{Protocol, Statement};

/// Requests that wait for a connection. At the rate that a proxy can bear it is up to a second of
/// them; where more wait, it cannot bear it.
const BACKLOG_MAX: usize = 10_000;

/// A request that is sent so long after it should have been is counted as late.
const LATE: Duration = Duration::from_millis(1);

/// After the end, for those that wait for a connection. Who bears the rate needs less.
const DRAIN: Duration = Duration::from_secs(1);

/// After that, for the answers that are still owed.
const SILENCE_MAX: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    url: String,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before that, of which nothing is noted.
    #[arg(long, default_value_t = 1.0)]
    warm: f64,
    /// Requests a second, whether answers come or not.
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value = "simple")]
    protocol: Protocol,
    /// `:n` in it stands for a number from 1 to `--distinct`.
    #[arg(long, default_value = "SELECT abalance FROM pgbench_accounts WHERE aid = :n")]
    query: String,
    #[arg(long, default_value_t = 100)]
    distinct: u64,
    /// NAME=PID: a process whose CPU time per request is told.
    #[arg(long, value_parser = Watched::parse)]
    cpu_of: Vec<Watched>,
}

/// The line that says how it went.
pub(crate) fn run(mut options: Options) -> io::Result<String> {
    options.cpu_of.push(Watched::this());
    // A thread that sleeps is else woken up to 50 µs late; threads started from here inherit it.
    if fs::write("/proc/self/timerslack_ns", "1").is_err() {
        eprintln!("wire: requests are sent up to 50 µs late, since timers cannot be made exact");
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(options))
}

async fn measure(options: Options) -> io::Result<String> {
    let url = Url::parse(&options.url).ok_or_else(|| broken("no URL"))?;
    let statement = Statement::new(options.protocol, &options.query, options.distinct);
    let mut connections = Vec::new();
    let mut preparation = Vec::new();
    statement.write_preparation(&mut preparation);
    for _ in 0..options.connections {
        let mut connection = Connection::open(&url).await?;
        if !preparation.is_empty() {
            connection.ask(&preparation).await?;
        }
        connections.push(connection);
    }
    let span = |seconds| Duration::try_from_secs_f64(seconds).map_err(io::Error::other);
    let from = Instant::now() + span(options.warm)?;
    let until = from + span(options.seconds)?;
    let run = Arc::new(Run { statement, from, until, tally: Mutex::default() });
    let backlog = options.rate.map(|rate| {
        let backlog = Arc::new(Backlog::default());
        let (run, filled) = (Arc::clone(&run), Arc::clone(&backlog));
        let arrivals = Arrivals::new(rate, options.seed);
        thread::spawn(move || filled.fill(&run, arrivals, options.connections));
        backlog
    });
    let mut tasks = JoinSet::new();
    for (connection, seed) in connections.into_iter().zip(options.seed..) {
        let client = Client { run: Arc::clone(&run), connection, rng: StdRng::seed_from_u64(seed) };
        match &backlog {
            Some(backlog) => tasks.spawn(client.ask_from(Arc::clone(backlog))),
            None => tasks.spawn(client.ask_again_and_again()),
        };
    }
    let watched = options.cpu_of.clone();
    let cpu = tokio::spawn(async move {
        sleep_until(from.into()).await;
        let before = times(&watched)?;
        sleep_until(until.into()).await;
        Ok::<_, io::Error>((before, times(&watched)?))
    });
    let clients = async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok::<_, io::Error>(())
    };
    let limit = until.saturating_duration_since(Instant::now()) + DRAIN + SILENCE_MAX;
    let in_time = timeout(limit, clients).await;
    in_time.map_err(|_elapsed| broken(&format!("{} connections got no answer", tasks.len())))??;
    let (before, after) = cpu.await.map_err(io::Error::other)??;
    let tally = run.tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(line(&options, &tally, &before, &after))
}

fn times(watched: &[Watched]) -> io::Result<Vec<Duration>> {
    watched.iter().map(Watched::time).collect()
}

fn line(options: &Options, tally: &Tally, before: &[Duration], after: &[Duration]) -> String {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let latencies = &tally.latencies;
    let protocol = options.protocol.to_possible_value();
    let mut line = format!(
        "protocol={} connections={} offered={:.0} rate={:.0} done={} measured={} mean={:.1} p50={:.1} p90={:.1} \
         p99={:.1} p99.9={:.1} max={:.1} late={} unsent={}",
        protocol.as_ref().map_or("", |protocol| protocol.get_name()),
        options.connections,
        options.rate.unwrap_or_default(),
        f64::from(tally.done) / options.seconds,
        tally.done,
        latencies.count(),
        micros(latencies.mean()),
        micros(latencies.quantile(500)),
        micros(latencies.quantile(900)),
        micros(latencies.quantile(990)),
        micros(latencies.quantile(999)),
        micros(latencies.max()),
        tally.late,
        tally.unsent,
    );
    for ((watched, before), after) in options.cpu_of.iter().zip(before).zip(after) {
        let each = micros(after.saturating_sub(*before)) / f64::from(tally.done.max(1));
        // Writing to a String does not fail.
        let _infallible = write!(line, " {}_cpu={each:.2}", watched.name());
    }
    line
}

struct Run {
    statement: Statement,
    /// Requests that are due from here on count.
    from: Instant,
    until: Instant,
    /// Taken by one thread, and at the end of a request by that of the arrivals.
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    /// Of requests that were due between the start and the end.
    latencies: Histogram,
    /// Answered between the two.
    done: u32,
    late: u64,
    unsent: u64,
}

impl Run {
    fn note(&self, due: Instant, sent: Instant, answered: Instant) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        if answered >= self.from && answered < self.until {
            tally.done += 1;
        }
        if due >= self.from && due < self.until {
            tally.latencies.add(answered.saturating_duration_since(due));
            tally.late += u64::from(sent.saturating_duration_since(due) > LATE);
        }
    }

    fn note_unsent(&self, due: Instant) {
        if due >= self.from {
            self.tally.lock().unwrap_or_else(PoisonError::into_inner).unsent += 1;
        }
    }
}

struct Client {
    run: Arc<Run>,
    connection: Connection,
    rng: StdRng,
}

impl Client {
    async fn ask_again_and_again(mut self) -> io::Result<()> {
        let mut request = Vec::new();
        let mut now = Instant::now();
        while now < self.run.until {
            now = self.ask(now, now, &mut request).await?;
        }
        Ok(())
    }

    async fn ask_from(mut self, backlog: Arc<Backlog>) -> io::Result<()> {
        let mut request = Vec::new();
        while let Some(due) = backlog.next().await {
            let now = Instant::now();
            if now < self.run.until + DRAIN {
                self.ask(due, now, &mut request).await?;
            } else {
                self.run.note_unsent(due);
            }
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        due: Instant,
        sent: Instant,
        request: &mut Vec<u8>,
    ) -> io::Result<Instant> {
        request.clear();
        self.run.statement.write_request(request, &mut self.rng);
        self.connection.ask(request).await?;
        let answered = Instant::now();
        self.run.note(due, sent, answered);
        Ok(answered)
    }
}

/// Requests that should have been sent and wait for a connection, the oldest first.
struct Backlog {
    /// When each was due; an end for each connection.
    waiting: Mutex<VecDeque<Option<Instant>>>,
    /// A permit for each that waits.
    ready: Semaphore,
}

impl Default for Backlog {
    fn default() -> Self {
        Self { waiting: Mutex::default(), ready: Semaphore::new(0) }
    }
}

impl Backlog {
    /// Sleeps until each arrival; from a thread of its own, since tokio's timers tick in
    /// milliseconds.
    fn fill(&self, run: &Run, arrivals: Arrivals, connections: usize) {
        let start = Instant::now();
        for at in arrivals {
            let due = start + at;
            if due >= run.until {
                break;
            }
            if let Some(wait) = due.checked_duration_since(Instant::now()) {
                thread::sleep(wait);
            }
            if !self.add(due) {
                run.note_unsent(due);
            }
        }
        for _ in 0..connections {
            self.push(None);
        }
    }

    /// Whether there was room.
    fn add(&self, due: Instant) -> bool {
        let has_room = self.len() < BACKLOG_MAX;
        if has_room {
            self.push(Some(due));
        }
        has_room
    }

    fn len(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn push(&self, due: Option<Instant>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(due);
        self.ready.add_permits(1);
    }

    async fn next(&self) -> Option<Instant> {
        self.ready.acquire().await.ok()?.forget();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::serve;

    fn run(until: Duration) -> Run {
        let from = Instant::now();
        let statement = Statement::new(Protocol::Simple, "SELECT 1", 1);
        Run { statement, from, until: from + until, tally: Mutex::default() }
    }

    #[test]
    fn a_time_counts_from_when_the_request_was_due() {
        let run = run(Duration::from_secs(10));
        let at = |millis| run.from + Duration::from_millis(millis);
        run.note(at(100), at(150), at(160));
        run.note(at(200), at(201), at(210));
        let tally = run.tally.into_inner().unwrap();
        assert_eq!(tally.latencies.max(), Duration::from_millis(60));
        assert_eq!(tally.late, 1);
        assert_eq!(tally.done, 2);
    }

    #[test]
    fn what_was_due_before_the_start_or_answered_after_the_end_is_not_done_in_between() {
        let mut run = run(Duration::from_secs(1));
        let zero = run.from;
        run.from += Duration::from_millis(100);
        let at = |millis| zero + Duration::from_millis(millis);
        run.note(at(50), at(50), at(60));
        run.note(at(500), at(500), at(1500));
        let tally = run.tally.into_inner().unwrap();
        assert_eq!(tally.done, 0);
        assert_eq!(tally.latencies.count(), 1);
    }

    #[tokio::test]
    async fn a_full_backlog_takes_no_more_and_gives_the_oldest_first() {
        let backlog = Backlog::default();
        let now = Instant::now();
        assert!(backlog.add(now));
        for _ in 1..BACKLOG_MAX {
            assert!(backlog.add(now + LATE));
        }
        assert!(!backlog.add(now + LATE));
        assert_eq!(backlog.next().await, Some(now));
        assert!(backlog.add(now + LATE));
    }

    #[tokio::test]
    async fn what_still_waits_long_after_the_end_is_not_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://user@{}/app", listener.local_addr().unwrap());
        tokio::spawn(serve::accept(listener, 1));
        let connection = Connection::open(&Url::parse(&url).unwrap()).await.unwrap();
        let mut run = run(Duration::ZERO);
        run.from = run.from.checked_sub(DRAIN).unwrap();
        run.until = run.from;
        let run = Arc::new(run);
        let backlog = Arc::new(Backlog::default());
        backlog.push(Some(run.from));
        backlog.push(None);
        let client = Client { run: Arc::clone(&run), connection, rng: StdRng::seed_from_u64(1) };
        client.ask_from(backlog).await.unwrap();
        let tally = run.tally.lock().unwrap();
        assert_eq!((tally.unsent, tally.latencies.count()), (1, 0));
    }

    #[tokio::test]
    async fn every_arrival_is_asked_for_once_by_any_protocol() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://user@{}/app", listener.local_addr().unwrap());
        tokio::spawn(serve::accept(listener, 3));
        for protocol in [Protocol::Simple, Protocol::Extended, Protocol::Prepared] {
            let mut connection = Connection::open(&Url::parse(&url).unwrap()).await.unwrap();
            let statement = Statement::new(protocol, "SELECT :n", 5);
            let mut preparation = Vec::new();
            statement.write_preparation(&mut preparation);
            if !preparation.is_empty() {
                connection.ask(&preparation).await.unwrap();
            }
            let run = Arc::new(Run { statement, ..run(Duration::from_mins(1)) });
            let backlog = Arc::new(Backlog::default());
            for _ in 0..100 {
                backlog.push(Some(run.from));
            }
            backlog.push(None);
            let client =
                Client { run: Arc::clone(&run), connection, rng: StdRng::seed_from_u64(1) };
            timeout(SILENCE_MAX, client.ask_from(backlog)).await.unwrap().unwrap();
            assert_eq!(run.tally.lock().unwrap().latencies.count(), 100);
        }
    }
}
