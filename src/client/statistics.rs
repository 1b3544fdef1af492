//! From a finished statement to the counters of its shape and group, the slow ring and the log.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::insight::{
    Burst, Insight, Outcome, Owner, Piece, Place, Sample, Slow, Sums, Wanted, shown,
};
use crate::pool::Common;
use crate::pool::database::Known;
use crate::pool::statements::Statement;

use super::registry::Entry;
use super::session::Session;
use super::slow_text::{self, kept};
use super::underway::{Finished, Running, Shape};

/// Counts one statement for its shape and its client's group, with the transactions that ended, and
/// notes it if it was slow. Gives the microseconds that it took.
pub fn record(
    insight: &Insight,
    (entry, group): (&Entry, u16),
    session: &Session,
    finished: &Finished,
    transactions: u64,
) -> u64 {
    let (common, running) = (&*session.common, &finished.running);
    let total = finished.finished_at.saturating_duration_since(running.arrived_at);
    let wait = match running.sent_at {
        // Nearly always it need not wait, and the two were taken from one reading of the clock.
        Some(sent) if sent == running.arrived_at => Duration::ZERO,
        Some(sent) => sent.saturating_duration_since(running.arrived_at),
        // No server was had for it.
        None if running.failed.is_some() => total,
        // It was answered here.
        None => Duration::ZERO,
    };
    let (total_us, wait_us) = (micros(total), micros(wait));
    common.counters.query_time.add(total_us);
    let slow = running.is_call && insight.slow.is_slow(total_us, &entry.database, &entry.user);
    if slow {
        let (kept, no_plan) = kept(session, entry, running);
        insight.slow.note(Slow {
            id: 0,
            at: insight.slow.time_of_day(finished.finished_at),
            database: Arc::clone(&entry.database),
            user: Arc::clone(&entry.user),
            application_name: entry.called().application_name,
            address: entry.address.clone(),
            shape: shape_text(running),
            wait,
            run: total.saturating_sub(wait),
            rows: running.rows,
            bytes: running.bytes,
            server_pid: finished.server_pid,
            outcome: running.outcome.name(),
            failed: running.failed.is_some(),
            route: running.tag.as_ref().map(|tag| Arc::clone(&tag.route)),
            kept,
            no_plan,
        });
    }
    if !insight.is_enabled() {
        return total_us;
    }
    let sample = Sample {
        is_call: running.is_call,
        outcome: running.outcome,
        wait: wait_us,
        run: total_us.saturating_sub(wait_us),
        rows: running.rows,
        bytes: running.bytes,
        writes: running.writes,
        slow,
        failed: running.failed,
    };
    match &running.shape {
        Shape::Text(_) | Shape::Prepared(_) => {
            let place = place(insight, common, running);
            insight.count(place, group, &sample, transactions);
            add_to_burst(insight, entry, session, (place, finished), &sample);
        }
        Shape::Unknown => insight.count_for_group(group, &sample, transactions),
    }
    total_us
}

/// Whether all of these are hits of this very moment: nothing was waited for since they arrived.
pub fn are_hits(finished: &[Finished], now: Instant) -> bool {
    finished.iter().all(|one| one.running.outcome.is_hit() && one.finished_at == now)
}

/// They have been sent by now, which their arrival does not tell.
pub fn end(finished: &mut [Finished], ended: Instant) {
    for one in finished {
        one.finished_at = ended;
    }
}

/// A statement of another request than the burst's begins another: what repeats there is another
/// page's doing.
fn add_to_burst(
    insight: &Insight,
    entry: &Entry,
    session: &Session,
    (place, finished): (Option<Place>, &Finished),
    sample: &Sample,
) {
    let rules = insight.repeats.rules();
    let running = &finished.running;
    let (tag, arrived_at) = (running.tag.as_ref(), running.arrived_at);
    let mut guard = entry.burst.lock().unwrap_or_else(PoisonError::into_inner);
    let burst = guard.get_or_insert_with(|| Box::new(Burst::new(arrived_at, false)));
    let is_for_another = tag.is_some_and(|tag| !burst.is_for(tag));
    if is_for_another || burst.is_over(arrived_at, rules.pause) {
        if is_for_another {
            burst.end();
        }
        take(insight, entry, burst, arrived_at);
        **burst = Burst::new(arrived_at, burst.in_transaction());
    }
    burst.goes_on(finished.finished_at);
    if let Some(place) = place.filter(|_| running.is_call && rules.least > 0) {
        let route = tag.map(|tag| &tag.route);
        if burst.add(place, route, sample.total(), running.values) == rules.least
            && let Some(example) = slow_text::example(session, running)
        {
            burst.exemplify(place, example.into());
        }
    }
    let Some(tag) = tag else { return };
    let made = burst.request_of(tag).add(&sums(running, sample));
    if running.is_call && insight.routes.breaks_budget(made) {
        tell(insight, entry, burst, finished.finished_at);
    }
}

fn sums(running: &Running, sample: &Sample) -> Sums {
    let one = |counts: bool| u64::from(counts && running.is_call);
    Sums {
        queries: one(true),
        sent: one(running.sent_at.is_some()),
        hits: one(sample.outcome.is_hit()),
        misses: one(sample.outcome == Outcome::Miss),
        slow: one(sample.slow),
        time: sample.total(),
    }
}

/// Whether its transaction goes on, and with it the burst.
pub fn set_in_transaction(insight: &Insight, entry: &Entry, in_transaction: bool) {
    if !insight.is_enabled() {
        return;
    }
    let mut guard = entry.burst.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(burst) = &mut *guard {
        burst.set_in_transaction(in_transaction);
    }
}

/// Puts what the client repeats into the table; what is over is forgotten here.
pub fn take_burst(insight: &Insight, entry: &Entry, now: Instant, leaves: bool) {
    let mut guard = entry.burst.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(burst) = &mut *guard else { return };
    if leaves {
        burst.end();
    }
    take(insight, entry, burst, now);
    if burst.is_over(now, insight.repeats.rules().pause) {
        *guard = None;
    }
}

/// Puts into the tables what it did so far: from here on it does that under another name.
pub fn end_burst(insight: &Insight, entry: &Entry, now: Instant) {
    let mut guard = entry.burst.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(burst) = &mut *guard else { return };
    burst.end();
    take(insight, entry, burst, now);
    **burst = Burst::new(now, burst.in_transaction());
}

fn take(insight: &Insight, entry: &Entry, burst: &mut Burst, now: Instant) {
    let at = (now, insight.slow.time_of_day(now));
    insight.repeats.take(burst, || owner(entry), |place| insight.shape(place), at);
    tell(insight, entry, burst, now);
}

/// Puts what its request has come to into the table of routes.
fn tell(insight: &Insight, entry: &Entry, burst: &mut Burst, now: Instant) {
    if let Some(request) = &mut burst.request {
        insight.routes.tell(request, || owner(entry), insight.slow.time_of_day(now));
    }
}

fn owner(entry: &Entry) -> Owner {
    Owner {
        database: Arc::clone(&entry.database),
        user: Arc::clone(&entry.user),
        application_name: entry.called().plain_name,
    }
}

pub fn micros(duration: Duration) -> u64 {
    let whole = duration.as_secs().saturating_mul(1_000_000);
    whole.saturating_add(u64::from(duration.subsec_micros()))
}

/// Where it is counted.
fn place(insight: &Insight, common: &Common, running: &Running) -> Option<Place> {
    let database = &common.database;
    let wanted = |text| Wanted { database_id: database.id, database: &database.name, text };
    match &running.shape {
        Shape::Text(known) => match piece(known, running) {
            Some(piece) => insight.place(&piece.seat, || wanted(piece.text.to_string())),
            None => insight.place(&known.seat, || wanted(shown(known.shape()))),
        },
        Shape::Prepared(statement) => {
            insight.place(&statement.seat, || wanted(shown(prepared_shape(statement))))
        }
        Shape::Unknown => None,
    }
}

/// Which one it is of a string of several.
fn piece<'a>(known: &'a Known, running: &Running) -> Option<&'a Piece> {
    (known.verdict.statements > 1).then(|| known.piece(running.piece))
}

fn prepared_shape(statement: &Statement) -> &[u8] {
    statement.lexed.as_ref().map_or(&[], |lexed| &lexed.shape)
}

pub(super) fn shape_text(running: &Running) -> String {
    match &running.shape {
        Shape::Text(known) => match piece(known, running) {
            Some(piece) => piece.text.to_string(),
            None => shown(known.shape()),
        },
        Shape::Prepared(statement) => shown(prepared_shape(statement)),
        Shape::Unknown => shown(&[]),
    }
}
