//! Once a period: a picture of the counters for the averages, and a line in the log.

use std::sync::PoisonError;
use std::time::Instant;

use crate::admin::stats_show::Totals;
use crate::gateway::Gateway;

use super::collect::Collector;

/// When it was done last, and what the counters were then.
pub struct Report {
    at: Instant,
    sum: Totals,
}

impl Report {
    pub fn new(now: Instant) -> Self {
        Self { at: now, sum: Totals::default() }
    }

    /// Called more often than a period is long.
    pub fn tick(&mut self, gateway: &Gateway, now: Instant) {
        let config = gateway.config();
        let since = now.saturating_duration_since(self.at);
        if since < config.log.stats_period {
            return;
        }
        let totals = Collector::new(gateway, now).totals();
        let sum = totals.values().fold(Totals::default(), |sum, totals| sum.plus(*totals));
        gateway.history.lock().unwrap_or_else(PoisonError::into_inner).turn(now, totals);
        if config.log.log_stats {
            log(sum.average_since(self.sum, since));
        }
        *self = Self { at: now, sum };
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
