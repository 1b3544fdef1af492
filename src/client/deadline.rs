//! How long a client may take for what: the one moment at which it has to go, of all that apply.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::close::CloseReason;

/// The patience with one client; `None` is without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// For an answer.
    pub query: Option<Duration>,
    /// For a server.
    pub query_wait: Option<Duration>,
    /// For the next statement in a transaction.
    pub idle_transaction: Option<Duration>,
    /// For a transaction.
    pub transaction: Option<Duration>,
    /// For the next statement.
    pub client_idle: Option<Duration>,
    /// A client that waits longer for a server is told so.
    pub wait_notice: Option<Duration>,
}

/// What a client is doing, and since when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Doing {
    pub has_server: bool,
    /// Since when the server owes it an answer.
    pub answer_owed: Option<Instant>,
    /// Since when it is in a transaction.
    pub transaction: Option<Instant>,
}

impl Timeouts {
    /// When and why a client that goes on like this has to go. `quiet`: since when nothing has
    /// happened.
    pub fn deadline(&self, doing: &Doing, quiet: Instant) -> Option<(Instant, CloseReason)> {
        let after = |since: Option<Instant>, limit: Option<Duration>| since?.checked_add(limit?);
        let waits = doing.answer_owed.is_some();
        let in_transaction = doing.has_server && (waits || doing.transaction.is_some());
        let idle_in_transaction = in_transaction && !waits;
        let since_transaction = doing.transaction.or(doing.answer_owed).filter(|_| in_transaction);
        let quiet_if = |holds: bool| holds.then_some(quiet);
        [
            (after(doing.answer_owed, self.query), CloseReason::QueryTimeout),
            (
                after(quiet_if(idle_in_transaction), self.idle_transaction),
                CloseReason::IdleTransactionTimeout,
            ),
            (after(since_transaction, self.transaction), CloseReason::TransactionTimeout),
            // As in PgBouncer, not while it has a server: in session pooling never.
            (after(quiet_if(!doing.has_server), self.client_idle), CloseReason::ClientIdleTimeout),
        ]
        .into_iter()
        .filter_map(|(at, reason)| Some((at?, reason)))
        .min_by_key(|(at, _)| *at)
    }

    /// When and why a client that has waited for a server since `began` is given up.
    pub fn wait_deadline(&self, began: Instant) -> Option<(Instant, CloseReason)> {
        let after = |limit: Option<Duration>| began.checked_add(limit?);
        let wait = after(self.query_wait).map(|at| (at, CloseReason::QueryWaitTimeout));
        let query = after(self.query).map(|at| (at, CloseReason::QueryTimeoutWaiting));
        query.into_iter().chain(wait).min_by_key(|(at, _)| *at)
    }

    /// Whether a client that waits for nothing may ever have to go.
    fn any(&self) -> bool {
        let times = [self.query, self.idle_transaction, self.transaction, self.client_idle];
        times.iter().any(Option::is_some)
    }
}

/// The time-outs of one client, which a reload changes.
#[derive(Debug, Default)]
pub struct SharedTimeouts {
    any: AtomicBool,
    /// Mostly one for all clients of a pool. Nothing else is locked inside.
    values: Mutex<Arc<Timeouts>>,
}

impl SharedTimeouts {
    pub fn set(&self, timeouts: Arc<Timeouts>) {
        self.any.store(timeouts.any(), Ordering::Relaxed);
        *self.values.lock().unwrap_or_else(PoisonError::into_inner) = timeouts;
    }

    pub fn get(&self) -> Timeouts {
        **self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of `get`, if any of them applies outside the line for a server; costs nothing if not.
    pub fn get_any(&self) -> Option<Timeouts> {
        self.any.load(Ordering::Relaxed).then(|| self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Timeouts = Timeouts {
        query: Some(Duration::from_secs(5)),
        query_wait: Some(Duration::from_secs(2)),
        idle_transaction: Some(Duration::from_secs(3)),
        transaction: Some(Duration::from_secs(6)),
        client_idle: Some(Duration::from_secs(9)),
        wait_notice: None,
    };

    /// What happens, and after how many seconds, to a client that is quiet since `quiet`.
    fn check(
        (has_server, answer_owed, transaction): (bool, Option<u64>, Option<u64>),
        quiet: u64,
        expected: (u64, CloseReason),
    ) {
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let doing = Doing {
            has_server,
            answer_owed: answer_owed.map(at),
            transaction: transaction.map(at),
        };
        assert_eq!(ALL.deadline(&doing, at(quiet)), Some((at(expected.0), expected.1)));
        assert_eq!(Timeouts::default().deadline(&doing, at(quiet)), None);
    }

    #[test]
    fn the_earliest_of_the_times_that_apply_counts() {
        check((false, None, None), 1, (10, CloseReason::ClientIdleTimeout));
        check((true, Some(0), None), 0, (5, CloseReason::QueryTimeout));
        check((true, Some(4), Some(0)), 4, (6, CloseReason::TransactionTimeout));
        check((true, None, Some(0)), 1, (4, CloseReason::IdleTransactionTimeout));
        check((true, None, Some(0)), 4, (6, CloseReason::TransactionTimeout));
    }

    #[test]
    fn a_server_kept_between_transactions_is_no_transaction() {
        let kept = Doing { has_server: true, ..Doing::default() };
        assert_eq!(ALL.deadline(&kept, Instant::now()), None);
    }

    #[test]
    fn who_waits_for_a_server_is_given_up_at_the_earlier_time() {
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let wait = Some((at(2), CloseReason::QueryWaitTimeout));
        assert_eq!(ALL.wait_deadline(began), wait);
        let query = Timeouts { query_wait: Some(Duration::from_secs(7)), ..ALL };
        assert_eq!(query.wait_deadline(began), Some((at(5), CloseReason::QueryTimeoutWaiting)));
        assert_eq!(Timeouts::default().wait_deadline(began), None);
    }
}
