//! What a client is told at the end of its login, and the server it gets there if it is to have
//! one of its own.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bytes::BytesMut;

use crate::client::close::CloseReason;
use crate::client::io::{client_gone, close_reason};
use crate::client::registry::Registered;
use crate::client::statistics::micros;
use crate::gateway::Opened;
use crate::net::Stream;
use crate::pool::io::Lease;
use crate::server::io::{Reported, ServerError};
use crate::server::settings::{Settings, replay};
use crate::server::start::Start;

/// A server that starts as the client wants, after waiting in line. From then on the client is
/// that server to others: it has its process id, and its cancel key.
pub async fn take_server(
    opened: &Opened,
    start: &Start,
    registered: &Registered,
    stream: &mut Stream,
    input: &mut BytesMut,
) -> Result<Lease, CloseReason> {
    let entry = &registered.entry;
    let show = |since| {
        let mut shown = entry.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.waiting_since = since;
    };
    let began = Instant::now();
    show(Some(began));
    let acquired = tokio::select! {
        acquired = opened.pool.acquire_for(start) => acquired,
        () = client_gone(stream, input) => return Err(CloseReason::ClientLost),
        leave = entry.asked_to_leave() => return Err(leave.reason()),
    };
    show(None);
    let waited = micros(began.elapsed());
    opened.pool.common.counters.wait_time.add(waited);
    entry.group.wait_time.add(waited);
    let lease = acquired.map_err(|error| close_reason(&error))?;
    let server = &lease.connection.server;
    registered.become_server(server.pid, &server.cancel_key);
    Ok(lease)
}

/// What PostgreSQL reports to a session with these settings; asked of a server the first time,
/// so that values are PostgreSQL's own and bad ones are refused in its words.
pub async fn reported(opened: &Opened, settings: &Arc<Settings>) -> Result<Reported, CloseReason> {
    let common = &opened.pool.common;
    let base = common.base();
    if base.id != 0
        && let Some(reported) = common.reported(base.id, settings.id)
    {
        return Ok(reported);
    }
    let mut lease = opened.pool.acquire().await.map_err(|error| close_reason(&error))?;
    let connection = &mut lease.connection;
    connection.server.clean();
    let mut values: Vec<(String, String)> = connection.server.base.reported.clone();
    // Whatever the last client left is taken back first, so that only these settings show.
    let back = replay(&connection.server.applied, &Settings::none());
    let wanted = replay(&Settings::none(), settings);
    let sql = format!("{}{}", back.unwrap_or_default(), wanted.unwrap_or_default());
    connection.heard.clear();
    if !sql.is_empty() {
        let base_id = connection.server.base.id;
        connection.query(&sql).await.map_err(|error| refused(&error))?;
        connection.server.applied = Arc::clone(settings);
        for (name, value) in connection.heard.drain(..) {
            match values.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => values.push((name, value)),
            }
        }
        let reported: Reported = values.into();
        common.set_reported(base_id, settings.id, Arc::clone(&reported));
        lease.release(Instant::now());
        return Ok(reported);
    }
    let reported: Reported = values.into();
    common.set_reported(connection.server.base.id, settings.id, Arc::clone(&reported));
    lease.release(Instant::now());
    Ok(reported)
}

fn refused(error: &ServerError) -> CloseReason {
    match error {
        ServerError::Query { sqlstate, message } => {
            CloseReason::ServerLogin { sqlstate: sqlstate.clone(), message: message.clone() }
        }
        ServerError::Connect(_)
        | ServerError::Io(_)
        | ServerError::Closed
        | ServerError::Login(_)
        | ServerError::Ambiguous
        | ServerError::Protocol => CloseReason::ServerUnreachable(error.to_string()),
    }
}
