//! The Forebays of a group, each a process of the checker's own with a way of its own to Redis.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::counters;
use crate::faults::signal;
use crate::link::Link;
use crate::wire::{Connection, Url};

/// How many there are.
pub(crate) const MEMBERS: usize = 3;

/// A member that takes longer to start does not start.
const START_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

pub(crate) struct Member {
    command: Vec<String>,
    log: String,
    pub(crate) url: Url,
    pub(crate) admin: Url,
    pub(crate) link: Link,
    child: Option<Child>,
    /// What its console counted in its lives before this one.
    counted: BTreeMap<String, u64>,
}

/// In the order of `World::urls`.
pub(crate) struct Members(Vec<Member>);

impl Members {
    /// `command` is completed with addresses and where PostgreSQL is found; `log` with a number.
    pub(crate) fn start(
        command: &[String],
        log: &str,
        (url, direct): (&Url, &Url),
        redis: &str,
    ) -> io::Result<Self> {
        let mut members = Vec::new();
        let Url { address, user, password, database } = direct;
        let direct = format!("postgres://{user}:{password}@{address}/{database}");
        for number in 0..MEMBERS {
            let (address, admin) = (free_address()?, free_address()?);
            let link = Link::to(redis.to_owned())?;
            let mut command = command.to_vec();
            command.push(direct.clone());
            let redis = format!("redis://{}", link.address());
            let arguments = ["--listen", &address, "--admin-listen", &admin, "--redis", &redis];
            command.extend(arguments.map(str::to_owned));
            let url = Url { address, ..url.clone() };
            let admin = Url { address: admin, database: "forebay".to_owned(), ..url.clone() };
            let log = format!("{log}.{number}");
            members.push(Member {
                command,
                log,
                url,
                admin,
                link,
                child: None,
                counted: BTreeMap::new(),
            });
        }
        let mut members = Self(members);
        members.0.iter_mut().try_for_each(Member::start)?;
        Ok(members)
    }

    pub(crate) fn urls(&self) -> Vec<Url> {
        self.0.iter().map(|member| member.url.clone()).collect()
    }

    pub(crate) fn of(&mut self, number: usize) -> &mut Member {
        &mut self.0[number]
    }

    /// The numbers of their consoles, summed over all of them in all their lives.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        for member in &self.0 {
            add(&mut sum, member.counted.clone());
            add(&mut sum, counters(Some(&member.admin)));
        }
        sum
    }
}

impl Member {
    /// Returns when it lets clients in.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        let (program, arguments) = self.command.split_first().unwrap();
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut starting = Command::new(program);
        starting.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = self.child.insert(starting.spawn()?);
        let deadline = Instant::now() + START_MAX;
        while Connection::open(&self.admin).is_err() || Connection::open(&self.url).is_err() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(io::Error::other(format!("{} does not start", self.log)));
            }
            thread::park_timeout(POLL);
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> io::Result<()> {
        add(&mut self.counted, counters(Some(&self.admin)));
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// As an operator does, who kills what does not end in time: a client may hold its server. Gives
    /// whether it ended by itself.
    pub(crate) fn stop(&mut self, time: Duration) -> io::Result<bool> {
        add(&mut self.counted, counters(Some(&self.admin)));
        let Some(mut child) = self.child.take() else { return Ok(false) };
        let (asked, mut ended) = (Instant::now(), signal(child.id(), "-INT")?);
        while ended && child.try_wait()?.is_none() {
            ended = asked.elapsed() < time;
            thread::park_timeout(POLL);
        }
        if !ended {
            child.kill()?;
            child.wait()?;
        }
        Ok(ended)
    }

    /// In this life.
    pub(crate) fn hits(&self) -> u64 {
        counters(Some(&self.admin)).get("hits").copied().unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Gone already, if it was killed.
        if let Some(mut child) = self.child.take() {
            let _killed = child.kill().and_then(|()| child.wait());
        }
    }
}

fn add(sum: &mut BTreeMap<String, u64>, counters: BTreeMap<String, u64>) {
    for (name, count) in counters {
        *sum.entry(name).or_default() += count;
    }
}

/// Where nobody listens now.
pub(crate) fn free_address() -> io::Result<String> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    Ok(format!("127.0.0.1:{port}"))
}
