//! The PostgreSQL behind everything: restarted, or taken over from by a copy of itself while it
//! lives on.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::faults::{first_text, run};
use crate::link::Link;
use crate::members::free_address;
use crate::wire::{Connection, Url};

/// A copy that is not as far by then does not get there.
const WAIT_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// So often in a row nobody was seen: logins take less.
const LOOKS: usize = 5;

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

/// Whom Forebay keeps for questions of its own, by what was asked last.
const ASKS_FOR_FOREBAY: &str = "(strpos(query, 'WITH temporary AS MATERIALIZED') > 0 \
     OR strpos(query, 'FROM pg_db_role_setting') > 0 OR strpos(query, 'FROM pg_catalog.pg_locks') > 0)";

pub(crate) struct Cluster {
    /// `pg_ctl` with its words, but for what is to be done.
    pg_ctl: Vec<String>,
    direct: Url,
    /// The way there, where it may come to lead to another.
    way: Option<Link>,
    copies: usize,
}

/// Has been taken over from, and lives. Ends with its owner.
pub(crate) struct Old {
    pg_ctl: Vec<String>,
    data: String,
    url: Url,
}

impl Cluster {
    pub(crate) fn new(pg_ctl: Vec<String>, direct: Url, way: Option<Link>) -> Self {
        Self { pg_ctl, direct, way, copies: 0 }
    }

    pub(crate) fn restart(&self, mode: &str) -> io::Result<()> {
        call(&self.pg_ctl, &["-w", "-s", "-m", mode, "restart"])
    }

    /// A copy takes over, and all that is new goes there. Nobody may write meanwhile. Of those
    /// connected to the old one stay those alone that ask questions of Forebay's own.
    pub(crate) fn hand_over(&mut self) -> io::Result<Option<Old>> {
        let Some(way) = &self.way else { return Ok(None) };
        let url = Url { address: way.leads_to(), ..self.direct.clone() };
        self.copies += 1;
        let (before, after) = (word_after(&self.pg_ctl, "-D")?, free_address()?);
        let data = format!("{before}.{}", self.copies);
        let of_copy: Vec<String> = self
            .pg_ctl
            .iter()
            .map(|word| if *word == before { data.clone() } else { word.clone() })
            .collect();
        copy(&of_copy, &data, &url)?;
        let port = after.rsplit(':').next().unwrap_or_default();
        call(&of_copy, &["-w", "-s", "-o", &format!("-p {port}"), "start"])?;
        // From here on the copy ends with us.
        let old = Old { pg_ctl: std::mem::replace(&mut self.pg_ctl, of_copy), data: before, url };
        way.lead(NOWHERE.to_owned());
        old.close_clients()?;
        let copy = Url { address: after.clone(), ..self.direct.clone() };
        let is_there = format!(
            "SELECT pg_last_wal_replay_lsn() >= '{}'",
            old.ask("SELECT pg_current_wal_lsn()")?
        );
        until(|| Ok(ask(&copy, &is_there)? == "t"))?;
        call(&self.pg_ctl, &["-w", "-s", "promote"])?;
        way.lead(after);
        Ok(Some(old))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The first one is not ours.
        if self.copies > 0 {
            let _stopped = call(&self.pg_ctl, &["-s", "-m", "immediate", "stop"]);
        }
    }
}

impl Old {
    fn ask(&self, sql: &str) -> io::Result<String> {
        ask(&self.url, sql)
    }

    fn close_clients(&self) -> io::Result<()> {
        let end = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND NOT {ASKS_FOR_FOREBAY}"
        );
        let mut looks = 0;
        until(|| {
            looks = if self.ask(&end)? == "0" { looks + 1 } else { 0 };
            Ok(looks == LOOKS)
        })
    }

    /// How many ask it for Forebay, and know of no other.
    pub(crate) fn asked_by(&self) -> io::Result<u64> {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND";
        let count = self.ask(&format!("{count} {ASKS_FOR_FOREBAY}"))?;
        count.parse().map_err(io::Error::other)
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        // Whatever is left is stopped and removed by who has called the checker.
        let _removed = call(&self.pg_ctl, &["-s", "-m", "immediate", "stop"])
            .and_then(|()| fs::remove_dir_all(&self.data));
    }
}

/// A standby of `of`, not started.
fn copy(pg_ctl: &[String], data: &str, of: &Url) -> io::Result<()> {
    let named = |word: &String| word.strip_suffix("pg_ctl").map(|at| format!("{at}pg_basebackup"));
    let at = pg_ctl.iter().position(|word| named(word).is_some());
    let at = at.ok_or_else(|| io::Error::other("--pg-ctl does not name pg_ctl"))?;
    let mut command = pg_ctl[..at].to_vec();
    command.extend(named(&pg_ctl[at]));
    let Url { address, user, password, .. } = of;
    let of = format!("postgres://{user}:{password}@{address}/");
    call(&command, &["-D", data, "-d", &of, "-R", "-X", "stream", "-c", "fast", "--no-sync"])
}

fn call(command: &[String], more: &[&str]) -> io::Result<()> {
    let command = [command, &more.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()].concat();
    if run(&command)? { Ok(()) } else { Err(io::Error::other(format!("{command:?} failed"))) }
}

fn ask(url: &Url, sql: &str) -> io::Result<String> {
    first_text(Connection::open(url)?.simple(sql)?)
}

fn until(mut happens: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let deadline = Instant::now() + WAIT_MAX;
    while !happens()? {
        if Instant::now() > deadline {
            return Err(io::Error::other("a copy of PostgreSQL cannot take over"));
        }
        thread::park_timeout(POLL);
    }
    Ok(())
}

fn word_after(words: &[String], option: &str) -> io::Result<String> {
    let word = words.iter().skip_while(|word| *word != option).nth(1);
    word.cloned().ok_or_else(|| io::Error::other(format!("--pg-ctl has no {option}")))
}
