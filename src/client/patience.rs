//! How long PostgreSQL lets a session be in a transaction by its own settings. It cannot see to
//! that in a transaction it has not been told of, so we do (hazard D20).

use std::time::{Duration, Instant};

use super::close::CloseReason;

/// Zero is without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    pub idle_transaction: Duration,
    pub transaction: Duration,
}

impl Patience {
    /// From the settings in force, by name; `None` if one of them is not understood.
    pub fn read(value: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let limit = |name| value(name).map_or(Some(Duration::ZERO), |value| limit(&value));
        Some(Self {
            idle_transaction: limit("idle_in_transaction_session_timeout")?,
            transaction: limit("transaction_timeout")?,
        })
    }

    /// When and why a client has to go that is in a transaction since `began` and quiet since
    /// `quiet`.
    pub fn deadline(&self, began: Instant, quiet: Instant) -> Option<(Instant, CloseReason)> {
        let after =
            |since: Instant, limit: Duration| since.checked_add(limit).filter(|_| !limit.is_zero());
        let idle = after(quiet, self.idle_transaction)
            .map(|at| (at, CloseReason::PostgresIdleTransactionTimeout));
        let whole =
            after(began, self.transaction).map(|at| (at, CloseReason::PostgresTransactionTimeout));
        idle.into_iter().chain(whole).min_by_key(|(at, _)| *at)
    }
}

/// A time-out as PostgreSQL reads it, in milliseconds unless it says otherwise; 0 is none.
/// `None` if it is not understood.
fn limit(value: &str) -> Option<Duration> {
    let value = value.trim();
    let unit_at = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let (number, unit) = value.split_at(unit_at);
    let milliseconds = match unit.trim_start() {
        "us" => 0.001,
        "" | "ms" => 1.0,
        "s" => 1000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let milliseconds = (number.parse::<f64>().ok()? * milliseconds).round_ties_even();
    Duration::try_from_secs_f64(milliseconds / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_are_read_as_postgresql_reads_them() {
        let ms = |count| Some(Duration::from_millis(count));
        for (value, expected) in [
            ("5000", ms(5000)),
            ("5s", ms(5000)),
            ("1.5 min", ms(90_000)),
            ("24h", ms(86_400_000)),
            ("1d", ms(86_400_000)),
            ("1500us", ms(2)),
            ("100us", ms(0)),
            ("0", ms(0)),
            ("0x10", None),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(limit(value), expected, "{value}");
        }
    }

    #[test]
    fn the_earlier_of_the_two_counts_and_what_is_not_understood_is_said() {
        let read = |idle: &str, whole: &str| {
            Patience::read(|name| match name {
                "transaction_timeout" => Some(whole.to_owned()),
                _ => Some(idle.to_owned()),
            })
        };
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let patience = read("2s", "5s").unwrap();
        let (idle, whole) =
            (CloseReason::PostgresIdleTransactionTimeout, CloseReason::PostgresTransactionTimeout);
        assert_eq!(patience.deadline(began, at(1)), Some((at(3), idle)));
        assert_eq!(patience.deadline(began, at(4)), Some((at(5), whole)));
        assert_eq!(Patience::read(|_| None), Some(Patience::default()));
        assert_eq!(Patience::default().deadline(began, at(1)), None);
        assert_eq!(read("5s", "?"), None);
    }
}
