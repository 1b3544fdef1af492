//! Durations and sizes as people write them: `250ms`, `60s`, `256MB`.

use std::fmt;
use std::time::Duration;

use super::value::{Range, Raw, Style, Value, expected, plain_or_quoted, quoted};

impl Value for Duration {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        let duration = match raw {
            Raw::Untyped(text) | Raw::Text(text) => parse_duration(text),
            Raw::Integer(seconds) => u64::try_from(*seconds).ok().map(Self::from_secs),
            Raw::Float(seconds) => Self::try_from_secs_f64(*seconds).ok(),
            Raw::Bool(_) | Raw::List(_) | Raw::Other(_) => None,
        };
        duration
            .filter(|duration| {
                // Rounded up, so that half a millisecond is not taken for 0, which means off.
                let milliseconds = duration.as_nanos().div_ceil(1_000_000);
                u64::try_from(milliseconds).is_ok_and(|number| range.admits(number))
            })
            .ok_or_else(|| expected::<Self>("a duration such as \"60s\"", raw, range))
    }

    fn show(&self, style: Style) -> String {
        match style {
            Style::PgBouncer => self.as_secs_f64().to_string(),
            Style::Own => duration_words(*self),
            Style::Toml => quoted(&duration_words(*self)),
        }
    }

    fn range_words(range: Range) -> Option<String> {
        range.words(|milliseconds| duration_words(Self::from_millis(milliseconds)))
    }
}

/// `250ms`, `60s`, `5m`, `1h`, `2d`; without unit seconds, decimals allowed.
fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text);
    let seconds_per_unit = match unit {
        "us" => 0.000_001,
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * seconds_per_unit).ok()
}

fn duration_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() == 0 {
        if seconds > 0 && seconds.is_multiple_of(86400) {
            format!("{}d", seconds / 86400)
        } else if seconds > 0 && seconds.is_multiple_of(3600) {
            format!("{}h", seconds / 3600)
        } else {
            format!("{seconds}s")
        }
    } else if duration.subsec_nanos().is_multiple_of(1_000_000) {
        format!("{}ms", duration.as_millis())
    } else {
        format!("{}s", duration.as_secs_f64())
    }
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end).unwrap_or((text, ""));
    (number, unit.trim_start())
}

/// A count of bytes. `kB`, `MB`, `GB` are powers of 1024, as PostgreSQL and Redis mean them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    pub const fn kilobytes(count: u64) -> Self {
        Self(count << 10)
    }

    pub const fn megabytes(count: u64) -> Self {
        Self(count << 20)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }
}

const SIZE_UNITS: [(&str, u64); 4] =
    [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit =
            SIZE_UNITS.into_iter().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes));
        match unit {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Value for Size {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        let size = match raw {
            Raw::Untyped(text) | Raw::Text(text) => parse_size(text),
            Raw::Integer(bytes) => u64::try_from(*bytes).ok().map(Self),
            Raw::Float(_) | Raw::Bool(_) | Raw::List(_) | Raw::Other(_) => None,
        };
        size.filter(|size| range.admits(size.0))
            .ok_or_else(|| expected::<Self>("a size such as \"256MB\"", raw, range))
    }

    fn show(&self, style: Style) -> String {
        plain_or_quoted(&self.to_string(), style)
    }

    fn range_words(range: Range) -> Option<String> {
        range.words(|bytes| Self(bytes).to_string())
    }
}

/// `256MB`, `1GiB`, `4096`; whole numbers only.
fn parse_size(text: &str) -> Option<Size> {
    let (number, unit) = number_and_unit(text);
    let bytes_per_unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1_u64,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(bytes_per_unit).map(Size)
}
