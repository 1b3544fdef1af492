//! From a finished statement to counters, the slow ring and the log.

use std::sync::Arc;
use std::time::Duration;

use crate::insight::{Insight, Slow};
use crate::pool::Common;
use crate::sql::lex::display_shape;

use super::registry::Entry;
use super::session::{Finished, Outcome, Shape};

/// Longest shape kept for the console and the log.
const SHAPE_BYTES_MAX: usize = 2000;

/// Counts one statement for its client's group and notes it if it was slow.
pub fn record(insight: &Insight, entry: &Arc<Entry>, common: &Common, finished: &Finished) {
    let running = &finished.running;
    let total = finished.finished_at.saturating_duration_since(running.arrived_at);
    let group = &entry.group;
    group.queries.one();
    group.query_time.add(micros(total));
    common.counters.query_time.add(micros(total));
    match running.outcome {
        Outcome::Hit => group.hits.one(),
        Outcome::Miss => group.misses.one(),
        Outcome::Bypass(_) => group.bypasses.one(),
    }
    if running.writes {
        group.writes.one();
    }
    if finished.failed {
        group.errors.one();
    }
    if insight.is_slow(total) {
        group.slow.one();
        let wait = running
            .sent_at
            .map_or(total, |sent| sent.saturating_duration_since(running.arrived_at));
        insight.note_slow(Slow {
            at: insight.time_of_day(finished.finished_at),
            database: entry.database.to_string(),
            user: entry.user.to_string(),
            application_name: entry.application_name.to_string(),
            address: entry.address.clone(),
            shape: shape_text(&running.shape),
            wait,
            run: total.saturating_sub(wait),
            rows: finished.rows,
            server_pid: finished.server_pid,
            outcome: running.outcome.name(),
            failed: finished.failed,
        });
    }
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn shape_text(shape: &Shape) -> String {
    match shape {
        Shape::Text(known) if known.shape().is_empty() => "(unreadable)".into(),
        Shape::Text(known) => display_shape(known.shape(), SHAPE_BYTES_MAX),
        Shape::Prepared(statement) => match &statement.lexed {
            Some(lexed) => display_shape(&lexed.shape, SHAPE_BYTES_MAX),
            None => "(unreadable)".into(),
        },
        Shape::Unknown => "(several)".into(),
    }
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass(reason) => reason.name(),
        }
    }
}
