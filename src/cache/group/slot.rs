//! What K is made of, as words: the name of its life, its slots, and their marks.

use std::fmt;

use crate::sql::verdict::TableId;

/// Commits in flight on one slot, over all members, at most. More are an answer that is not
/// believed.
pub const MARKS_MAX: usize = 65_536;

/// The name of one life of K: a version is an act and a generation, so none ever comes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Act(pub [u8; 16]);

impl Act {
    /// From 32 hex digits.
    pub fn parse(word: &[u8]) -> Option<Self> {
        parse_hex(word).map(Self)
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// One commit in flight: the number of the member's that announced it, and its own there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    pub id: u32,
    pub n: u64,
}

impl Mark {
    /// From `<id>.<n>`.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let dot = word.iter().position(|&byte| byte == b'.')?;
        let (id, n) = word.split_at_checked(dot)?;
        Some(Self { id: u32::try_from(parse_number(id)?).ok()?, n: parse_number(n.get(1..)?)? })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.n)
    }
}

/// What has a generation of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotName {
    /// Part of every stamp: what cannot be told by table.
    Database,
    Catalog,
    Table(TableId),
}

impl SlotName {
    pub fn parse(word: &[u8]) -> Option<Self> {
        match word {
            b"*" => Some(Self::Database),
            b"c" => Some(Self::Catalog),
            _ => Some(Self::Table(TableId(u32::try_from(parse_number(word)?).ok()?))),
        }
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database => f.write_str("*"),
            Self::Catalog => f.write_str("c"),
            Self::Table(table) => write!(f, "{}", table.0),
        }
    }
}

/// What K says of a slot. One that it does not have is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    pub generation: u64,
    /// K's count of changes at the last one of this slot.
    pub seq: u64,
    pub marks: Vec<Mark>,
}

impl Slot {
    /// From `<generation> <seq>[ <mark>]…`, words parted by one space.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut words = value.split(|&byte| byte == b' ');
        let generation = parse_number(words.next()?)?;
        let seq = parse_number(words.next()?)?;
        let marks: Option<Vec<Mark>> = words.take(MARKS_MAX + 1).map(Mark::parse).collect();
        let marks = marks.filter(|marks| marks.len() <= MARKS_MAX)?;
        Some(Self { generation, seq, marks })
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.generation, self.seq)?;
        self.marks.iter().try_for_each(|mark| write!(f, " {mark}"))
    }
}

/// Decimal digits and nothing else: no sign, no space.
pub fn parse_number(word: &[u8]) -> Option<u64> {
    if !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Two hex digits a byte, in small letters as Redis and we write them.
pub(super) fn parse_hex<const BYTES: usize>(word: &[u8]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    let (pairs, rest) = word.as_chunks::<2>();
    if pairs.len() != BYTES || !rest.is_empty() {
        return None;
    }
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

pub(super) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        let act = Act(std::array::from_fn(|at| u8::try_from(at * 17).unwrap()));
        assert_eq!(act.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(Act::parse(act.to_string().as_bytes()), Some(act));
        for name in [SlotName::Database, SlotName::Catalog, SlotName::Table(TableId(u32::MAX))] {
            assert_eq!(SlotName::parse(name.to_string().as_bytes()), Some(name));
        }
        let marks = vec![Mark { id: 1, n: 2 }, Mark { id: 11, n: u64::MAX }];
        for marks in [Vec::new(), marks] {
            let slot = Slot { generation: 3, seq: 4, marks };
            assert_eq!(Slot::parse(slot.to_string().as_bytes()), Some(slot));
        }
    }

    #[test]
    fn other_words_are_none() {
        for word in
            ["", "0", "00112233445566778899AABBCCDDEEFF", "00112233445566778899aabbccddeeff0"]
        {
            assert_eq!(Act::parse(word.as_bytes()), None, "{word}");
        }
        for word in ["", "-1", "+1", " 1", "4294967296", "cc", "**"] {
            assert_eq!(SlotName::parse(word.as_bytes()), None, "{word}");
        }
        for value in
            ["", "1", "1 ", " 1 2", "1  2", "1 2 ", "1 2 3", "1 2 3.", "1 2 .3", "1 2 3.4.5"]
        {
            assert_eq!(Slot::parse(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn a_slot_with_more_marks_than_may_be_is_none() {
        let value = |marks| format!("1 2{}", " 1.1".repeat(marks));
        assert!(Slot::parse(value(MARKS_MAX).as_bytes()).is_some());
        assert!(Slot::parse(value(MARKS_MAX + 1).as_bytes()).is_none());
    }
}
