//! Once a period: a picture of the counters for the averages, and a line in the log.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::admin::stats_show::Totals;
use crate::gateway::Gateway;

use super::collect::Collector;

/// Runs for as long as the process lives.
pub async fn keep(gateway: Arc<Gateway>) {
    let mut before = (Instant::now(), Totals::default());
    loop {
        tokio::time::sleep(gateway.config().log.stats_period).await;
        let now = Instant::now();
        let totals = Collector::new(&gateway, now).totals();
        let sum = totals.values().fold(Totals::default(), |sum, totals| sum.plus(*totals));
        gateway.history.lock().unwrap_or_else(PoisonError::into_inner).turn(now, totals);
        if gateway.config().log.log_stats {
            log(sum.average_since(before.1, now.saturating_duration_since(before.0)));
        }
        before = (now, sum);
    }
}

/// PgBouncer's line of totals.
fn log(average: Totals) {
    tracing::info!(
        "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, \
         in {} B/s, out {} B/s, xact {} us, query {} us, wait {} us",
        average.xact,
        average.query,
        average.client_parse,
        average.server_parse,
        average.bind,
        average.received,
        average.sent,
        average.xact_time,
        average.query_time,
        average.wait_time,
    );
}
