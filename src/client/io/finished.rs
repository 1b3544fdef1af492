//! What a client's task tells the statistics of statements that are over.

use std::time::Instant;

use crate::client::statistics;
use crate::wire::backend::Status;

use super::Task;

/// A vector begins with room for as many; only pipelines need more.
const FINISHED_KEPT: usize = 4;

impl Task {
    /// Hands finished statements to the statistics.
    pub(super) fn report(&mut self) {
        if self.session.work.finished.is_empty() {
            return;
        }
        let now = self.now;
        if self.shared.insight.is_enabled()
            && statistics::are_hits(&self.session.work.finished, now)
        {
            statistics::end(&mut self.session.work.finished, Instant::now());
        }
        let mut all = std::mem::take(&mut self.session.work.finished);
        let transactions = u64::from(std::mem::take(&mut self.session.work.transactions));
        let mut uncounted = transactions;
        let (mut queries, mut hits, mut time, mut ended_at) = (0, 0, 0, now);
        for finished in &all {
            let running = &finished.running;
            self.transaction_began.get_or_insert(running.arrived_at);
            ended_at = finished.finished_at;
            queries += u64::from(running.is_call);
            hits += u64::from(running.outcome.is_hit());
            let ended = std::mem::take(&mut uncounted);
            let (insight, client) = (&self.shared.insight, (&*self.entry, self.group.number));
            time += statistics::record(insight, client, &self.session, finished, ended);
        }
        all.clear();
        if all.capacity() <= FINISHED_KEPT {
            self.session.work.finished = all;
        }
        let (pins, prepared) = (self.session.pins, self.session.names.prepared.len());
        self.show(|shown| {
            shown.queries += queries;
            shown.hits += hits;
            shown.transactions += transactions;
            shown.time += time;
            shown.pinned_since = (!pins.is_empty()).then(|| shown.pinned_since.unwrap_or(now));
            shown.pins = pins;
            shown.prepared_statements = prepared;
        });
        // The next answer has its own time.
        self.answer_owed = None;
        let idle = self.session.work.transaction.status == Status::Idle;
        statistics::set_in_transaction(&self.shared.insight, &self.entry, !idle);
        if idle && let Some(began) = self.transaction_began.take() {
            let lasted = ended_at.saturating_duration_since(began);
            self.session.common.counters.xact_time.add(statistics::micros(lasted));
        }
    }
}
