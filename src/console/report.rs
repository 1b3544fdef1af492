//! Once a period: a picture of the counters for the averages, and a line in the log.

use std::sync::PoisonError;
use std::time::Instant;

use crate::admin::stats_show::Totals;
use crate::gateway::Gateway;
use crate::process::{self, Notice};

use super::collect::Collector;

/// When it was done last.
pub struct Report {
    at: Instant,
}

impl Report {
    pub fn new(now: Instant) -> Self {
        Self { at: now }
    }

    /// Called more often than a period is long.
    pub fn tick(&mut self, gateway: &Gateway, now: Instant) {
        let config = gateway.config();
        if now.saturating_duration_since(self.at) < config.log.stats_period {
            return;
        }
        let totals = Collector::new(gateway, now).totals();
        let span = {
            let mut history = gateway.history.lock().unwrap_or_else(PoisonError::into_inner);
            history.turn(now, totals)
        };
        let average = span.average();
        if config.log.log_stats {
            tracing::info!("{}", line(average, "us"));
        }
        process::notify(&Notice::Status(line(average, "\u{3bc}s")));
        self.at = now;
    }
}

/// PgBouncer's line of totals.
fn line(average: Totals, micros: &str) -> String {
    format!(
        "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, \
         {} client logins/s, in {} B/s, out {} B/s, xact {} {micros}, query {} {micros}, \
         wait {} {micros}",
        average.xact,
        average.query,
        average.client_parse,
        average.server_parse,
        average.bind,
        average.login,
        average.received,
        average.sent,
        average.xact_time,
        average.query_time,
        average.wait_time,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_totals_is_pgbouncers() {
        let average = Totals {
            server_assignment: 0,
            xact: 1,
            query: 2,
            received: 7,
            sent: 8,
            xact_time: 9,
            query_time: 10,
            wait_time: 11,
            client_parse: 3,
            server_parse: 4,
            bind: 5,
            login: 6,
        };
        assert_eq!(
            line(average, "us"),
            "stats: 1 xacts/s, 2 queries/s, 3 client parses/s, 4 server parses/s, 5 binds/s, \
             6 client logins/s, in 7 B/s, out 8 B/s, xact 9 us, query 10 us, wait 11 us"
        );
    }
}
