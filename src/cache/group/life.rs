//! Which PostgreSQL of a cluster is taken for the one written in, where several are: that of the higher
//! timeline, as each promotion begins one, or of one timeline the one started last. Pure.

use super::slot::parse_number;

/// One life of one PostgreSQL; the greater has taken over from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    pub timeline: u32,
    /// When it was started, in microseconds of its own clock.
    pub started: u64,
}

impl Life {
    /// `timeline` as the name of a file of the log begins with it: eight hexadecimal digits.
    pub fn parse(timeline: &str, started: &str) -> Option<Self> {
        let timeline = u32::from_str_radix(timeline, 16).ok()?;
        Some(Self { timeline, started: parse_number(started.as_bytes())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_promoted_last_is_written_in_and_else_who_was_started_last() {
        let life = |timeline: &str, started: &str| Life::parse(timeline, started).unwrap();
        assert!(life("00000002", "5") > life("00000001", "9"));
        assert!(life("0000000A", "5") > life("00000009", "5"));
        assert!(life("00000001", "10") > life("00000001", "9"));
        for (timeline, started) in
            [("", "1"), ("x", "1"), ("1", ""), ("1", "-1"), ("100000000", "1")]
        {
            assert_eq!(Life::parse(timeline, started), None);
        }
    }
}
