//! What operators do to the running program: PAUSE, SUSPEND, KILL, RECONNECT and their opposites,
//! and whether what they wait for has come about. The sentences are PgBouncer's.
//!
//! Invariant: a PAUSE is answered only when none of our connections to the database is left, so
//! that PostgreSQL may be stopped, moved or renamed. Attacked by the suite's `operations`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::admin::pause::{Activity, Pauses};
use crate::client::registry::{Entry, Leave};
use crate::gateway::{Gateway, Opened};
use crate::stop;

/// Killed clients have left after a moment; one that does not is not waited for.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// What a command waits for before it is answered. Without a name: of every database.
#[derive(Debug)]
pub enum Waiting {
    /// No server of it is connected.
    Paused(Option<String>),
    /// Nothing waits to be written. Whoever is not so far by then is disconnected.
    Suspended { until: Option<Instant> },
    /// No server is left that is to be closed.
    Closed(Option<String>),
    /// These clients have left.
    Left { clients: Vec<u64>, until: Instant },
}

/// A sentence for whoever asked.
pub type Refused = String;

pub fn pause(gateway: &Gateway, name: Option<&str>) -> Result<Waiting, Refused> {
    let Some(name) = name else {
        tracing::info!("PAUSE command issued");
        gateway.with_pauses(Pauses::pause)?;
        gateway.auth_queries.clear();
        return Ok(Waiting::Paused(None));
    };
    tracing::info!("PAUSE '{name}' command issued");
    must_be_active(gateway)?;
    check_database(gateway, "pause", name)?;
    gateway.with_pauses(|pauses| pauses.pause_database(name))?;
    gateway.leave_auth_database(name);
    Ok(Waiting::Paused(Some(name.to_owned())))
}

pub fn resume(gateway: &Gateway, name: Option<&str>) -> Result<(), Refused> {
    let Some(name) = name else {
        tracing::info!("RESUME command issued");
        if stop::has_begun(gateway) {
            return Err("pooler is shutting down".to_owned());
        }
        resume_all(gateway)?;
        return Ok(());
    };
    tracing::info!("RESUME '{name}' command issued");
    if gateway.config().database(name).is_none() {
        return Err(format!("no such database: {name}"));
    }
    gateway.with_pauses(|pauses| pauses.resume_database(name))
}

fn resume_all(gateway: &Gateway) -> Result<Activity, &'static str> {
    let was = gateway.with_pauses(Pauses::resume)?;
    if was == Activity::Suspended {
        gateway.shared.suspended.store(false, Ordering::Relaxed);
        gateway.suspended.send_replace(false);
        for entry in gateway.shared.registry.clients() {
            entry.wake();
        }
    }
    Ok(was)
}

pub fn suspend(gateway: &Gateway, now: Instant) -> Result<Waiting, Refused> {
    tracing::info!("SUSPEND command issued");
    gateway.with_pauses(Pauses::suspend)?;
    let clients = gateway.shared.registry.clients();
    for entry in &clients {
        entry.at_rest.store(false, Ordering::Relaxed);
    }
    gateway.shared.suspended.store(true, Ordering::Relaxed);
    gateway.suspended.send_replace(true);
    for entry in &clients {
        entry.wake();
    }
    let timeout = gateway.config().admin.suspend_timeout;
    Ok(Waiting::Suspended { until: (!timeout.is_zero()).then(|| now + timeout) })
}

/// The last console has gone: nobody could resume.
pub fn console_left(gateway: &Gateway) {
    let watched = gateway.shared.registry.clients().iter().any(|entry| entry.console);
    if !watched && gateway.pauses().activity() == Activity::Suspended {
        tracing::info!("admin disappeared when suspended, doing RESUME");
        // Somebody may have been faster.
        let _resumed = resume_all(gateway);
    }
}

/// SIGUSR1.
pub fn pause_signalled(gateway: &Gateway) {
    let paused = gateway.with_pauses(Pauses::pause).is_ok();
    let what = if paused { "pausing all activity" } else { "but already paused/suspended" };
    tracing::info!("got SIGUSR1, {what}");
}

/// SIGUSR2.
pub fn resume_signalled(gateway: &Gateway) {
    if stop::has_begun(gateway) {
        tracing::info!("got SIGUSR2 while shutting down, ignoring");
        return;
    }
    match resume_all(gateway) {
        Ok(Activity::Suspended) => tracing::info!("got SIGUSR2, continuing from SUSPEND"),
        Ok(Activity::Paused | Activity::Active) => {
            tracing::info!("got SIGUSR2, continuing from PAUSE");
        }
        Err(_) => tracing::info!("got SIGUSR2, but not paused/suspended"),
    }
}

pub fn disable(gateway: &Gateway, name: Option<&str>) -> Result<(), Refused> {
    let name = name.ok_or("a database is required")?;
    tracing::info!("DISABLE '{name}' command issued");
    check_database(gateway, "disable", name)?;
    gateway.with_pauses(|pauses| pauses.disable(name));
    Ok(())
}

pub fn enable(gateway: &Gateway, name: Option<&str>) -> Result<(), Refused> {
    let name = name.ok_or("a database is required")?;
    tracing::info!("ENABLE '{name}' command issued");
    check_database(gateway, "enable", name)?;
    gateway.with_pauses(|pauses| pauses.enable(name));
    Ok(())
}

pub fn reconnect(gateway: &Gateway, name: Option<&str>) -> Result<(), Refused> {
    match name {
        None => tracing::info!("RECONNECT command issued"),
        Some(name) => {
            tracing::info!("RECONNECT '{name}' command issued");
            check_database(gateway, "reconnect", name)?;
        }
    }
    for opened in pools(gateway, name) {
        opened.pool.retire_all();
    }
    match name {
        None => gateway.auth_queries.clear(),
        Some(name) => gateway.leave_auth_database(name),
    }
    Ok(())
}

/// Whoever is killed finds the database paused: it would be back at once otherwise.
pub fn kill(gateway: &Gateway, name: Option<&str>, now: Instant) -> Result<Waiting, Refused> {
    must_be_active(gateway)?;
    let names: Vec<String> = match name {
        None => {
            tracing::info!("KILL command issued");
            gateway.pools().into_iter().map(|opened| opened.pool.name.clone()).collect()
        }
        Some(name) => {
            tracing::info!("KILL '{name}' command issued");
            check_database(gateway, "kill", name)?;
            vec![name.to_owned()]
        }
    };
    gateway.with_pauses(|pauses| names.iter().try_for_each(|name| pauses.pause_database(name)))?;
    let of_them =
        |entry: &Entry| !entry.console && names.iter().any(|name| **name == *entry.database);
    Ok(Waiting::Left { clients: kill_clients(gateway, of_them), until: now + KILL_TIMEOUT })
}

pub fn kill_client(gateway: &Gateway, id: Option<u64>, now: Instant) -> Result<Waiting, Refused> {
    let id = id.ok_or("invalid client pointer supplied")?;
    let clients = kill_clients(gateway, |entry| entry.id == id);
    if clients.is_empty() {
        return Err("client not found".to_owned());
    }
    Ok(Waiting::Left { clients, until: now + KILL_TIMEOUT })
}

/// Gives their ids.
fn kill_clients(gateway: &Gateway, which: impl Fn(&Entry) -> bool) -> Vec<u64> {
    let mut killed = Vec::new();
    for entry in gateway.shared.registry.clients() {
        if which(&entry) {
            entry.ask_to_leave(Leave::Killed);
            killed.push(entry.id);
        }
    }
    killed
}

pub fn wait_close(gateway: &Gateway, name: Option<&str>) -> Result<Waiting, Refused> {
    match name {
        None => tracing::info!("WAIT_CLOSE command issued"),
        Some(name) => {
            tracing::info!("WAIT_CLOSE '{name}' command issued");
            check_database(gateway, "wait in", name)?;
        }
    }
    Ok(Waiting::Closed(name.map(str::to_owned)))
}

/// Whether it has come about; asked again and again until it has.
pub fn is_done(gateway: &Gateway, waiting: &Waiting, now: Instant) -> bool {
    match waiting {
        Waiting::Paused(name) => is_paused(gateway, name.as_deref()),
        Waiting::Suspended { until } => is_suspended(gateway, *until, now),
        Waiting::Closed(name) => is_closed(gateway, name.as_deref()),
        Waiting::Left { clients, until } => {
            let left = || {
                let here = gateway.shared.registry.clients();
                !here.iter().any(|entry| clients.contains(&entry.id))
            };
            now >= *until || left()
        }
    }
}

/// Whoever waited does not want it any longer.
pub fn give_up(gateway: &Gateway, waiting: &Waiting) {
    match waiting {
        Waiting::Paused(Some(name)) => {
            // Somebody may have been faster.
            let _resumed = gateway.with_pauses(|pauses| pauses.resume_database(name));
        }
        Waiting::Paused(None) | Waiting::Suspended { .. } => {
            let _resumed = resume_all(gateway);
        }
        Waiting::Closed(_) | Waiting::Left { .. } => {}
    }
}

fn is_paused(gateway: &Gateway, name: Option<&str>) -> bool {
    let pools = pools(gateway, name);
    let services_away = match name {
        None => gateway.databases().iter().all(|(_, service)| service.is_away()),
        // The side task of a database that has another name, at work still, has to stay.
        Some(_) => pools.iter().all(|opened| {
            let service = &opened.service;
            !service.is_paused() || service.is_away()
        }),
    };
    services_away
        && !gateway.is_looking_up(name)
        && pools.iter().all(|opened| opened.pool.total() == 0)
        && with_server(gateway, name).is_empty()
}

fn is_closed(gateway: &Gateway, name: Option<&str>) -> bool {
    let pools = pools(gateway, name);
    with_server(gateway, name).iter().all(|entry| {
        let Some(link) = entry.current() else { return true };
        let of_pool = |opened: &&Opened| Arc::ptr_eq(&opened.pool.target, &link.target);
        // One of no pool is of a pool that has been replaced.
        pools.iter().find(of_pool).is_some_and(|opened| !opened.pool.is_retired(link.server_id))
    })
}

fn is_suspended(gateway: &Gateway, until: Option<Instant>, now: Instant) -> bool {
    let mut busy = gateway.shared.registry.clients();
    busy.retain(|entry| {
        !entry.console && !entry.at_rest.load(Ordering::Relaxed) && !entry.only_waits()
    });
    if until.is_some_and(|until| now >= until) {
        for entry in busy.drain(..) {
            entry.ask_to_leave(Leave::SuspendTimeout);
        }
    }
    busy.is_empty()
}

fn pools(gateway: &Gateway, name: Option<&str>) -> Vec<Opened> {
    let mut pools = gateway.pools();
    pools.retain(|opened| name.is_none_or(|name| opened.pool.name == name));
    pools
}

/// Clients that have a server.
fn with_server(gateway: &Gateway, name: Option<&str>) -> Vec<Arc<Entry>> {
    let mut clients = gateway.shared.registry.clients();
    clients.retain(|entry| {
        name.is_none_or(|name| *entry.database == *name) && entry.current().is_some()
    });
    clients
}

fn must_be_active(gateway: &Gateway) -> Result<(), Refused> {
    gateway.pauses().must_be_active().map_err(str::to_owned)
}

fn check_database(gateway: &Gateway, doing: &str, name: &str) -> Result<(), Refused> {
    let config = gateway.config();
    if super::is_named(&config, name) {
        return Err(format!("cannot {doing} admin db: {name}"));
    }
    config.database(name).map(|_| ()).ok_or_else(|| format!("no such database: {name}"))
}
