//! Keeping a connection to Redis: when it is tried, where it leads, and that it is still there though
//! nobody asks for anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
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
            Ok(connection) => {
                link.connection = Some(connection);
                link.place = place;
                link.unreached = None;
                link.refuses = false;
                tracing::info!("redis is up");
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

    async fn connect(&self, place: Option<&Place>) -> Result<MultiplexedConnection, Failure> {
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
        Ok(connection)
    }
}
