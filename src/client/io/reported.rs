//! What a client is told at login about its session, and how long it waits to hear that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use crate::client::close::CloseReason;
use crate::client::deadline::Timeouts;
use crate::pool::io::Pool;
use crate::server::io::{Reported, ServerError};
use crate::server::settings::Settings;

use super::close_reason;

/// How long a login may wait for a server, and what ends it.
pub fn login_patience(timeouts: &Timeouts, login: Duration) -> Option<(Instant, CloseReason)> {
    let began = Instant::now();
    let login = (!login.is_zero()).then(|| (began + login, CloseReason::LoginTimeout));
    login.into_iter().chain(timeouts.wait_deadline(began)).min_by_key(|(at, _)| *at)
}

/// What PostgreSQL reports to a session with these settings; asked of a server the first time,
/// so that values are PostgreSQL's own and bad ones are refused in its words.
pub async fn reported(
    pool: &Arc<Pool>,
    settings: &Arc<Settings>,
    patience: Option<(Instant, CloseReason)>,
) -> Result<Reported, CloseReason> {
    let common = &pool.common;
    let base = common.base();
    if base.id != 0
        && let Some(reported) = common.reported(base.id, settings.id)
    {
        return Ok(reported);
    }
    // Boxed: rarely has anybody to be asked, and every login has room for it.
    let asking = Box::pin(ask(pool, settings));
    match patience {
        None => asking.await,
        Some((until, expired)) => timeout_at(until.into(), asking).await.unwrap_or(Err(expired)),
    }
}

/// Cancel-safe: a server that has not answered is closed.
async fn ask(pool: &Arc<Pool>, settings: &Arc<Settings>) -> Result<Reported, CloseReason> {
    let common = &pool.common;
    // Counted from the first, or a pool could be forgotten while its first client waits.
    let _guest = pool.enter();
    let acquired = pool.acquire(None).await;
    let mut lease = acquired.map_err(|error| close_reason(&error, None))?;
    let connection = &mut lease.connection;
    let reported = connection.assume(settings).await.map_err(|error| refused(&error))?;
    let reported: Reported = reported.into();
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
