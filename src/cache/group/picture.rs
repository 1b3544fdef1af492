//! All of K as it lies in Redis, for people. Pure; nothing is decided by it.

use std::collections::BTreeMap;

use super::member::Millis;
use super::script::{MEMBERS_MAX, Malformed};
use super::slot::{Slot, SlotName, parse_number};

/// A field of K and its value.
pub type Field = (Vec<u8>, Vec<u8>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    pub members: Vec<Seen>,
    pub in_flight: Vec<Marked>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub id: u32,
    /// What is left of its lease.
    pub lease: Millis,
    /// It hits without asking.
    pub granted: bool,
    /// Changes of K that it has not said to know.
    pub behind: u64,
}

/// Commits of one member on one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    pub slot: SlotName,
    pub id: u32,
    pub commits: u64,
    /// Changes of K since the slot's last one.
    pub changes: u64,
}

impl Picture {
    /// Empty where there is no K; `now` is Redis's clock.
    pub fn read(fields: &[Field], now: Millis) -> Result<Self, Malformed> {
        let (mut seq, mut end) = (0, 0);
        let mut members: BTreeMap<u32, [Millis; 3]> = BTreeMap::new();
        let mut slots = Vec::new();
        for (at, (name, value)) in fields.iter().enumerate() {
            let malformed = |expected| Malformed { word: 2 * at + 2, expected };
            let number = || parse_number(value).ok_or(malformed("a number"));
            let mut of_member = |id: &[u8], which: usize| {
                let id = parse_number(id).and_then(|id| u32::try_from(id).ok());
                let member = members.entry(id.ok_or(malformed("a member"))?).or_default();
                if let Some(field) = member.get_mut(which) {
                    *field = number()?;
                }
                Ok(())
            };
            match name.as_slice() {
                b"seq" => seq = number()?,
                b"end" => end = number()?,
                [b'm', b':', id @ ..] => of_member(id, 0)?,
                [b'g', b':', id @ ..] => of_member(id, 1)?,
                [b'k', b':', id @ ..] => of_member(id, 2)?,
                [b's', b':', slot @ ..] => {
                    let slot = SlotName::parse(slot).ok_or(malformed("the name of a slot"))?;
                    slots.push((slot, Slot::parse(value).ok_or(malformed("a slot"))?));
                }
                _ => {}
            }
        }
        if members.len() > MEMBERS_MAX {
            return Err(Malformed { word: 2 * fields.len(), expected: "no more members" });
        }
        if end <= now {
            return Ok(Self::default());
        }
        let member = |(id, [lease, grant, applied]): (u32, [u64; 3])| Seen {
            id,
            lease: lease.saturating_sub(now),
            granted: grant > now,
            behind: seq.saturating_sub(applied),
        };
        slots.sort_unstable();
        let in_flight = slots.iter().flat_map(|(name, slot)| marked(*name, slot, seq)).collect();
        Ok(Self { members: members.into_iter().map(member).collect(), in_flight })
    }
}

fn marked(name: SlotName, slot: &Slot, seq: u64) -> impl Iterator<Item = Marked> {
    let mut commits: BTreeMap<u32, u64> = BTreeMap::new();
    for mark in &slot.marks {
        *commits.entry(mark.id).or_default() += 1;
    }
    let changes = seq.saturating_sub(slot.seq);
    commits.into_iter().map(move |(id, commits)| Marked { slot: name, id, commits, changes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::verdict::TableId;

    fn read(fields: &[(&str, &str)], now: Millis) -> Result<Picture, Malformed> {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let fields: Vec<Field> =
            fields.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
        Picture::read(&fields, now)
    }

    const K: &[(&str, &str)] = &[
        ("act", "00112233445566778899aabbccddeeff"),
        ("seq", "9"),
        ("end", "1500"),
        ("ids", "7 8"),
        ("m:8", "1500"),
        ("m:7", "2000"),
        ("a:7", "3"),
        ("k:7", "9"),
        ("k:8", "4"),
        ("g:8", "1500"),
        ("g:7", "900"),
        ("l:1", "9 16384"),
        ("s:16384", "3 9 7.1 8.4 7.2"),
        ("s:*", "1 2"),
        ("s:c", "0 5 8.3"),
    ];

    #[test]
    fn k_is_its_members_and_what_they_have_in_flight() {
        let picture = read(K, 1000).unwrap();
        let seen = |id, lease, granted, behind| Seen { id, lease, granted, behind };
        assert_eq!(picture.members, [seen(7, 1000, false, 0), seen(8, 500, true, 5)]);
        let table = SlotName::Table(TableId(16384));
        let marked = |slot, id, commits, changes| Marked { slot, id, commits, changes };
        let catalog = marked(SlotName::Catalog, 8, 1, 4);
        assert_eq!(picture.in_flight, [catalog, marked(table, 7, 2, 0), marked(table, 8, 1, 0)]);
    }

    #[test]
    fn one_that_has_ended_is_none() {
        assert_eq!(read(K, 1500), Ok(Picture::default()));
        assert_eq!(read(&[], 1), Ok(Picture::default()));
    }

    #[test]
    fn what_k_never_has_is_not_believed() {
        for (field, expected) in [
            (("seq", "x"), "a number"),
            (("end", "-1"), "a number"),
            (("m:7", ""), "a number"),
            (("m:x", "1"), "a member"),
            (("k:4294967296", "1"), "a member"),
            (("s:x", "1 2"), "the name of a slot"),
            (("s:*", "1"), "a slot"),
            (("s:1", "1 2 3"), "a slot"),
        ] {
            assert_eq!(read(&[("act", ""), field], 0), Err(Malformed { word: 4, expected }));
        }
        let many: Vec<Field> =
            (0..=MEMBERS_MAX).map(|id| (format!("m:{id}").into_bytes(), b"1".to_vec())).collect();
        assert!(Picture::read(&many, 0).is_err());
        assert!(Picture::read(&many[1..], 0).is_ok());
    }
}
