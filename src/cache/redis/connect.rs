//! Keeping a connection to Redis: when it is tried, where it leads, and that it is still there though
//! nobody asks for anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Value};
use tokio::time::timeout;

use crate::cache::group::link::Place;

use super::settings::Way;
use super::{Failure, Redis};

/// A connection, with its log-in, is given this long; it is opened in the background.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a Redis that nobody asks is asked whether it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);

impl Redis {
    /// Connects, then connects again whenever the breaker has opened and its pause is over.
    pub(super) async fn keep_connected(self: Arc<Self>) {
        loop {
            let (due, probe_at) = {
                let mut link = self.link();
                (link.breaker.probe(Instant::now()), link.breaker.probe_at())
            };
            match probe_at {
                _ if due => self.probe().await,
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => {
                    if timeout(HEARTBEAT, self.opened.notified()).await.is_err() {
                        self.ping().await;
                    }
                }
            }
        }
    }

    /// Without clients that ask, its end would stay unseen.
    async fn ping(&self) {
        let place = self.link().place.clone();
        if let Way::Found(group) = &self.way
            && group.found.get() != place
        {
            self.failed(Failure::Lost("the group is at another redis".to_owned()));
            return;
        }
        let Some(mut connection) = self.connection() else { return };
        match self.ask::<String>(&redis::cmd("PING"), &mut connection).await {
            Ok(_pong) => self.link().breaker.succeeded(),
            Err(failure) => self.failed(failure),
        }
    }

    async fn probe(&self) {
        let place = match &self.way {
            Way::Given(_) => None,
            Way::Found(group) => Some(group.found.known().await),
        };
        let reached = timeout(CONNECT_TIMEOUT, self.connect(place.as_ref())).await;
        let reached = reached.unwrap_or(Err(Failure::Timeout));
        let mut link = self.link();
        link.breaker.probed(reached.is_ok(), Instant::now());
        match reached {
            Ok((connection, refusal)) => {
                link.connection = Some(connection);
                link.place = place;
                link.unreached = None;
                tracing::info!("redis is up");
                link.refuses = refusal.is_some();
                let is_news = link.forbidden != refusal;
                link.forbidden.clone_from(&refusal);
                if let Some(reason) = refusal {
                    if is_news {
                        tracing::warn!(%reason, "redis takes no entries");
                    }
                    link.last_error = Some(reason);
                }
            }
            Err(failure) => {
                let reason = failure.into_text();
                if link.unreached.as_ref() != Some(&reason) {
                    tracing::warn!(%reason, "redis cannot be reached");
                }
                link.last_error = Some(reason.clone());
                link.unreached = Some(reason);
            }
        }
    }

    /// A connection, and why nothing is going to be stored over it though it may be read.
    async fn connect(
        &self,
        place: Option<&Place>,
    ) -> Result<(MultiplexedConnection, Option<String>), Failure> {
        let mut connection = match (&self.way, place) {
            (Way::Given(client), _) => {
                // Time is kept here, per operation; the library's own would come on top.
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(None)
                    .set_response_timeout(None);
                client.get_multiplexed_async_connection_with_config(&config).await?
            }
            (Way::Found(_), Some(place)) => {
                place.connect().await.map_err(|error| Failure::Lost(error.to_string()))?
            }
            (Way::Found(_), None) => return Err(Failure::Lost("not found yet".to_owned())),
        };
        // One that is too slow is not up, or clients would find that out again and again.
        self.ask::<String>(&redis::cmd("PING"), &mut connection).await?;
        let [read, write] = self.probes();
        if self.is_forbidden(&read, &mut connection).await? {
            return Err(Failure::Refused(forbidden("GETRANGE")));
        }
        let refused = self.is_forbidden(&write, &mut connection).await?;
        Ok((connection, refused.then(|| forbidden("SET"))))
    }

    /// What is asked of Redis for answers, of a name that none of them has. What would be refused each
    /// time is better known at the start.
    fn probes(&self) -> [Cmd; 2] {
        let name = match &self.way {
            Way::Given(_) => format!("{}probe", self.prefix),
            Way::Found(group) => format!("fb:{{{}:0:0}}:o:probe", group.name),
        };
        let (mut read, mut write) = (redis::cmd("GETRANGE"), redis::cmd("SET"));
        read.arg(&name).arg(0).arg(0);
        // Over what is there alone, and nothing is.
        write.arg(&name).arg("").arg("PX").arg(1).arg("XX");
        [read, write]
    }

    /// Whether the user that we are there may not do this. Other errors are for those to find who
    /// need it: in a cluster it is another node's, perhaps.
    async fn is_forbidden(
        &self,
        probe: &Cmd,
        connection: &mut MultiplexedConnection,
    ) -> Result<bool, Failure> {
        match timeout(self.timeout, probe.query_async::<Value>(connection)).await {
            Ok(Ok(_)) => Ok(false),
            Ok(Err(error)) if error.code() == Some("NOPERM") => Ok(true),
            Ok(Err(error)) => match Failure::from(error) {
                Failure::Refused(_) => Ok(false),
                failure @ (Failure::Timeout | Failure::Lost(_)) => Err(failure),
            },
            Err(_elapsed) => Err(Failure::Timeout),
        }
    }
}

fn forbidden(command: &str) -> String {
    format!("the user may not run {command} on the keys of answers")
}
