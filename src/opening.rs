//! What a client waits for at the end of its login: a server, if it is to have one of its own, or
//! what PostgreSQL reports to sessions like this.

use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bytes::BytesMut;

use crate::client::close::CloseReason;
use crate::client::io::{WAIT_NOTICE, at, client_gone, close_reason, reported as ask_reported};
use crate::client::registry::{Entry, Registered};
use crate::client::startup::{self, Accepted};
use crate::client::statistics::micros;
use crate::config::Config;
use crate::gateway::Opened;
use crate::net::Stream;
use crate::pool::io::Lease;
use crate::server::io::Reported;
use crate::server::settings::Settings;
use crate::server::start::Start;
use crate::wire::backend;
use crate::wire::startup::{Replication, Startup};

/// How long, and what ends the wait.
type Patience = Option<(Instant, CloseReason)>;

/// How a server that is this client's alone is to start.
pub fn start(
    startup: &Startup,
    replication: Replication,
    config: &Config,
) -> Result<Start, CloseReason> {
    let accepted = Accepted {
        ignored: &config.listen.ignore_startup_parameters,
        tracked: &config.listen.track_extra_parameters,
    };
    let parameters = startup::parameters(startup, accepted)?;
    let settings = Settings::intern(startup::settings(&parameters));
    let parameters = Arc::new(parameters);
    Ok(Start { replication, settings, parameters })
}

/// A client that is not let in yet.
pub struct Newcomer<'a> {
    pub stream: &'a mut Stream,
    pub input: &'a mut BytesMut,
    /// What it is to hear first; sent with the notice that it has to wait.
    pub out: &'a mut Vec<u8>,
}

/// A server that starts as the client wants, after waiting in line. From then on the client has its
/// process id.
pub async fn take_server(
    opened: &Opened,
    start: &Start,
    registered: &Registered,
    newcomer: Newcomer<'_>,
    patience: Patience,
) -> Result<Lease, CloseReason> {
    let Newcomer { stream, input, out } = newcomer;
    let entry = &registered.entry;
    let began = Instant::now();
    show_wait(entry, Some(began));
    // Counted from the first, or a pool could be forgotten while its first client waits.
    let _guest = opened.pool.enter();
    let (until, expired) = patience.unzip();
    let mut acquiring = pin!(opened.pool.acquire_for(start, until));
    let wait_notice = entry.timeouts.get().wait_notice;
    let mut notice_at = wait_notice.and_then(|after| began.checked_add(after));
    let acquired = loop {
        tokio::select! {
            // Who is given up late is told first that it waits, too.
            biased;
            () = at(notice_at) => {
                notice_at = None;
                backend::write_notice(out, WAIT_NOTICE);
                stream.write_all(out).await.or(Err(CloseReason::ClientLost))?;
                out.clear();
            }
            acquired = &mut acquiring => break acquired,
            () = client_gone(stream, input) => return Err(CloseReason::ClientLost),
            leave = entry.asked_to_leave() => return Err(leave.reason()),
        }
    };
    show_wait(entry, None);
    let waited = micros(began.elapsed());
    opened.pool.common.counters.wait_time.add(waited);
    entry.called().group.wait_time.add(waited);
    let lease = acquired.map_err(|error| close_reason(&error, expired))?;
    registered.take_pid(lease.connection.server.pid);
    Ok(lease)
}

/// What PostgreSQL reports to a session with these settings, for a client whose servers change.
/// `gone` resolves when there is no such client any more.
pub async fn reported(
    opened: &Opened,
    settings: &Arc<Settings>,
    entry: &Entry,
    patience: Patience,
    gone: impl Future<Output = ()>,
) -> Result<Reported, CloseReason> {
    show_wait(entry, Some(Instant::now()));
    let reported = tokio::select! {
        // Mostly nobody has to be asked, nor looked for.
        biased;
        reported = ask_reported(&opened.pool, settings, patience) => reported?,
        () = gone => return Err(CloseReason::ClientLost),
        leave = entry.asked_to_leave() => return Err(leave.reason()),
    };
    show_wait(entry, None);
    Ok(reported)
}

fn show_wait(entry: &Entry, since: Option<Instant>) {
    entry.shown.lock().unwrap_or_else(PoisonError::into_inner).waiting_since = since;
}
