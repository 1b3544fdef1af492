//! Accepting connections, and serving each until it ends.

mod admit;
mod newcomer;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::close::CloseReason;
use crate::console::group_log::GroupLog;
use crate::console::report::Report;
use crate::gateway::Gateway;
use crate::net::Stream;
use crate::net::listen::Listener;
use crate::stop::{self, Arrival};

use admit::Admitted;
use newcomer::Newcomer;

/// As often as PgBouncer does it: who waits for an effect waits no longer.
const UPKEEP_PERIOD: Duration = Duration::from_millis(333);

/// Accepts until the process ends; clients over TCP only until it begins to stop, so that whoever
/// comes after it has the address, and whatever is shared with that one no longer, too.
/// `console`: everybody who connects here gets the console.
pub async fn accept(listener: Listener, gateway: Arc<Gateway>, console: bool) {
    let reuses_port = gateway.config().listen.so_reuseport;
    let ends_early = !listener.is_unix() && (!console || reuses_port);
    let shares_port = ends_early && reuses_port;
    let arrival = || shares_port.then(|| Arrival::of(&gateway));
    let accepting = arrival();
    let serve = |stream| {
        tokio::spawn(serve(stream, Arc::clone(&gateway), console, arrival()));
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop::begun(&gateway), if ends_early => break,
        };
        match accepted {
            Ok(stream) => serve(stream),
            Err(error) => {
                // Too many open files, most likely; accepting again at once would spin.
                tracing::error!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let address = listener.to_string();
    let (queued, accepted) = listener.close();
    queued.into_iter().for_each(serve);
    if let Err(error) = accepted {
        tracing::error!(%error, "accept failed");
    }
    tracing::info!("no longer listening on {address}");
    drop(accepting);
}

async fn serve(stream: Stream, gateway: Arc<Gateway>, console: bool, arrival: Option<Arrival>) {
    if let Err(error) = stream.tune() {
        // The socket may be gone already, and then the first read says so.
        tracing::debug!(%error, "cannot set socket options");
    }
    // Boxed: it is large, and gone once the client is served.
    let reason = match Box::pin(let_in(stream, &gateway, console, arrival)).await {
        Ok(None) => None,
        Ok(Some(admitted)) => admitted.serve(&gateway).await,
        Err(reason) => Some(reason),
    };
    if let Some(reason) = reason {
        tracing::debug!(reason = %reason.text(), "connection closed");
    }
}

/// `None`: it was a cancel request, and is done. Who is refused has been told why.
async fn let_in(
    stream: Stream,
    gateway: &Arc<Gateway>,
    console: bool,
    arrival: Option<Arrival>,
) -> Result<Option<Admitted>, CloseReason> {
    let timeout = gateway.config().listen.client_login_timeout;
    let mut newcomer = Newcomer::new(stream, Arc::clone(gateway), arrival);
    let known = {
        let login = pin!(newcomer.log_in(console));
        match timeout {
            Duration::ZERO => login.await,
            limit => {
                tokio::time::timeout(limit, login).await.unwrap_or(Err(CloseReason::LoginTimeout))
            }
        }
    };
    let admitted = match known {
        Ok(Some(known)) => newcomer.admit(known).await,
        Ok(None) => return Ok(None),
        Err(reason) => Err(reason),
    };
    if let Err(reason) = &admitted {
        newcomer.refuse(reason).await;
    }
    admitted.map(Some)
}

/// Looks after every pool and tells the totals, for as long as the process lives.
pub async fn upkeep(gateway: Arc<Gateway>) {
    let mut ticks = tokio::time::interval(UPKEEP_PERIOD);
    let mut report = Report::new(Instant::now());
    let mut groups = GroupLog::new(Instant::now());
    loop {
        ticks.tick().await;
        let now = Instant::now();
        gateway.upkeep(now);
        gateway.shared.take_bursts(now);
        let idle_timeout = gateway.config().server.server_idle_timeout;
        gateway.auth_queries.upkeep(now, idle_timeout);
        report.tick(&gateway, now);
        groups.tick(&gateway, now);
    }
}
