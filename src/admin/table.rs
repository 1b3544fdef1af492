//! A result of the console: columns with PostgreSQL types, rows of texts.

use std::time::{Duration, SystemTime};

/// The types PgBouncer uses; clients choose how to read a value by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int4,
    Int8,
    Numeric,
    Text,
    Bytea,
}

impl Kind {
    pub fn oid(self) -> u32 {
        match self {
            Self::Int4 => 23,
            Self::Int8 => 20,
            Self::Numeric => 1700,
            Self::Text => 25,
            Self::Bytea => 17,
        }
    }

    /// `pg_type.typlen`.
    pub fn type_len(self) -> i16 {
        match self {
            Self::Int4 => 4,
            Self::Int8 => 8,
            Self::Numeric | Self::Text | Self::Bytea => -1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
}

pub const fn int4(name: &'static str) -> Column {
    Column { name, kind: Kind::Int4 }
}

pub const fn int8(name: &'static str) -> Column {
    Column { name, kind: Kind::Int8 }
}

pub const fn numeric(name: &'static str) -> Column {
    Column { name, kind: Kind::Numeric }
}

pub const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

pub const fn bytea(name: &'static str) -> Column {
    Column { name, kind: Kind::Bytea }
}

pub type Columns = &'static [Column];

/// One value; `None` is NULL.
pub type Value = Option<String>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub columns: Columns,
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    pub fn new(columns: Columns) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub fn push(&mut self, row: Vec<Value>) {
        debug_assert_eq!(row.len(), self.columns.len(), "a value for each column");
        self.rows.push(row);
    }
}

#[expect(clippy::needless_pass_by_value, reason = "most are numbers made on the spot")]
pub fn value(value: impl ToString) -> Value {
    Some(value.to_string())
}

/// A time of day as PgBouncer prints it, in UTC.
pub fn time(at: SystemTime) -> String {
    // Before 1970 there was no Forebay.
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// `127.0.0.1:5432`, `[::1]:5432`; a Unix socket has port 0.
pub fn host_and_port(address: &str) -> (&str, u16) {
    let split = address.rsplit_once(':').and_then(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        Some((bare.unwrap_or(host), port.parse().ok()?))
    });
    split.unwrap_or((address, 0))
}

/// Whole seconds and the microseconds beyond them.
pub fn seconds_and_micros(duration: Duration) -> [Value; 2] {
    [value(duration.as_secs()), value(duration.subsec_micros())]
}

/// `part` of `whole` in percent with one decimal; 0.0 of nothing.
pub fn percent(part: u64, whole: u64) -> String {
    let tenths = (u128::from(part) * 1000).checked_div(u128::from(whole)).unwrap_or(0);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_pgbouncer_writes_them() {
        let check = |seconds, expected: &str| {
            assert_eq!(time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        };
        check(0, "1970-01-01 00:00:00 UTC");
        check(951_782_400, "2000-02-29 00:00:00 UTC");
        check(951_868_800, "2000-03-01 00:00:00 UTC");
        check(1_735_689_599, "2024-12-31 23:59:59 UTC");
        check(4_107_542_400, "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn addresses_without_a_port_are_unix_sockets() {
        assert_eq!(host_and_port("unix"), ("unix", 0));
        assert_eq!(host_and_port("10.0.0.1:80"), ("10.0.0.1", 80));
        assert_eq!(host_and_port(""), ("", 0));
    }

    #[test]
    fn percents_are_rounded_down_and_safe_without_a_whole() {
        assert_eq!(percent(873, 1000), "87.3");
        assert_eq!(percent(1, 3), "33.3");
        assert_eq!(percent(0, 0), "0.0");
        assert_eq!(percent(u64::MAX, u64::MAX), "100.0");
    }
}
