//! `SHOW GROUP` and its kin: what this process has agreed on with others, by database; who they are
//! and what they have in flight, as Redis has it; what was dropped and why.

use crate::cache::group::picture::Marked;
use crate::cache::group::slot::SlotName;

use super::snapshot::{Agreed, GroupDrop, GroupMember};
use super::table::{Columns, Table, Value, int8, text, time, value};

pub const GROUP: Columns = &[
    text("database"),
    text("name"),
    text("mode"),
    int8("member"),
    text("state"),
    text("asks"),
    text("act"),
    int8("members"),
    int8("in_flight"),
    int8("lease_ms"),
    int8("round_us"),
    int8("round_p50_us"),
    int8("round_p99_us"),
    int8("checks"),
    int8("begins"),
    int8("hears"),
    int8("lost"),
    int8("strangers"),
    int8("stranger"),
    text("failure"),
    int8("cancels_sent"),
    int8("cancels_heard"),
    int8("cancels_dropped"),
    int8("opened"),
    text("redis"),
    text("redis_version"),
    text("warnings"),
];

pub fn group(members: &[GroupMember]) -> Table {
    let mut shown = Table::new(GROUP);
    for member in members {
        let [redis, version] = member.redis.clone().map_or([None, None], |told| told.map(Some));
        shown.push(vec![
            value(&member.database),
            value(&member.name),
            value(member.mode),
            value(member.id),
            value(member.state),
            value(if member.granted { "nobody" } else { "redis" }),
            member.act.clone(),
            value(member.members),
            value(member.in_flight),
            value(member.lease.as_millis()),
            value(member.round.as_micros()),
            value(member.rounds[0]),
            value(member.rounds[1]),
            value(member.checks),
            value(member.begins),
            value(member.hears),
            value(member.lost),
            value(member.strangers),
            member.stranger.map(|id| id.to_string()),
            member.failure.clone(),
            value(member.cancels.sent),
            value(member.cancels.heard),
            value(member.cancels.dropped),
            value(member.opened),
            redis,
            version,
            Some(member.warnings.join("; ")).filter(|warnings| !warnings.is_empty()),
        ]);
    }
    shown
}

pub const GROUP_MEMBERS: Columns = &[
    text("database"),
    int8("member"),
    text("own"),
    int8("lease_left_ms"),
    text("asks"),
    int8("behind"),
    text("failure"),
];

/// Whose lease ends first comes first, since with it ends what all have agreed on.
pub fn group_members(all: &[Agreed]) -> Table {
    let mut shown = Table::new(GROUP_MEMBERS);
    for agreed in all {
        match &agreed.read {
            Ok(picture) => {
                let mut members: Vec<_> = picture.members.iter().collect();
                members.sort_by_key(|member| (member.lease, member.id));
                for member in members {
                    shown.push(vec![
                        value(&agreed.database),
                        value(member.id),
                        value(yes(member.id == agreed.own)),
                        value(member.lease),
                        value(if member.granted { "nobody" } else { "redis" }),
                        value(member.behind),
                        None,
                    ]);
                }
            }
            Err(failure) => shown.push(failed(agreed, GROUP_MEMBERS, failure)),
        }
    }
    shown
}

pub const GROUP_IN_FLIGHT: Columns = &[
    text("database"),
    text("table"),
    int8("member"),
    text("own"),
    int8("commits"),
    int8("changes_since"),
    text("failure"),
];

/// What is shown of one database; the others are one row.
const ROWS_MAX: usize = 1000;

pub fn group_in_flight(all: &[Agreed]) -> Table {
    let mut shown = Table::new(GROUP_IN_FLIGHT);
    for agreed in all {
        match &agreed.read {
            Ok(picture) => in_flight(&mut shown, agreed, &picture.in_flight),
            Err(failure) => shown.push(failed(agreed, GROUP_IN_FLIGHT, failure)),
        }
    }
    shown
}

fn in_flight(shown: &mut Table, agreed: &Agreed, marked: &[Marked]) {
    let (first, rest) = marked.split_at_checked(ROWS_MAX).unwrap_or((marked, &[]));
    for one in first {
        let name = match one.slot {
            SlotName::Database => "(database)".to_owned(),
            SlotName::Catalog => "(catalogue)".to_owned(),
            SlotName::Table(table) => match agreed.names.get(&table) {
                Some(name) => name.clone(),
                None => table.0.to_string(),
            },
        };
        shown.push(vec![
            value(&agreed.database),
            Some(name),
            value(one.id),
            value(yes(one.id == agreed.own)),
            value(one.commits),
            value(one.changes),
            None,
        ]);
    }
    if !rest.is_empty() {
        let commits: u64 = rest.iter().map(|one| one.commits).sum();
        let name = format!("({} others)", rest.len());
        shown.push(vec![
            value(&agreed.database),
            Some(name),
            None,
            None,
            value(commits),
            None,
            None,
        ]);
    }
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// A row of what could not be read: why, as the last value.
fn failed(agreed: &Agreed, columns: Columns, failure: &str) -> Vec<Value> {
    let mut row = vec![None; columns.len()];
    if let [database, .., last] = row.as_mut_slice() {
        (*database, *last) = (value(&agreed.database), value(failure));
    }
    row
}

pub const GROUP_DROPS: Columns = &[text("database"), text("time"), text("what"), text("why")];

pub fn group_drops(drops: &[GroupDrop]) -> Table {
    let mut shown = Table::new(GROUP_DROPS);
    for drop in drops {
        shown.push(vec![
            value(&drop.database),
            value(time(drop.at)),
            value(&drop.what),
            value(&drop.why),
        ]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;
    use crate::admin::snapshot::Cancels;
    use crate::cache::group::picture::{Picture, Seen};
    use crate::sql::verdict::TableId;

    #[test]
    fn a_member_is_a_row() {
        let member = GroupMember {
            database: "app".to_owned(),
            name: "g".to_owned(),
            mode: "strict",
            id: 7,
            state: "open",
            granted: true,
            act: Some("ab".to_owned()),
            members: 1,
            in_flight: 2,
            lease: Duration::from_secs(2),
            round: Duration::from_micros(150),
            rounds: [140, 190],
            checks: 3,
            begins: 4,
            hears: 10,
            lost: 5,
            strangers: 6,
            stranger: None,
            failure: None,
            cancels: Cancels { sent: 7, heard: 8, dropped: 9 },
            opened: 11,
            redis: Some(["host:6379".to_owned(), "7.0.15".to_owned()]),
            warnings: vec!["one".to_owned(), "two".to_owned()],
        };
        let lost = GroupMember { redis: None, warnings: Vec::new(), ..member.clone() };
        let expected = "app g strict 7 open nobody ab 1 2 2000 150 140 190 3 4 10 5 6 - - 7 8 9 11";
        assert_eq!(
            rows(&group(&[member, lost])),
            [format!("{expected} host:6379 7.0.15 one; two"), format!("{expected} - - -")]
        );
    }

    fn rows(table: &Table) -> Vec<String> {
        let cell = |cell: &Value| cell.clone().unwrap_or("-".to_owned());
        table.rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join(" ")).collect()
    }

    fn agreed(read: Result<Picture, String>) -> Agreed {
        let names = HashMap::from([(TableId(5), "public.t".to_owned())]);
        Agreed { database: "app".to_owned(), own: 7, read, names }
    }

    #[test]
    fn members_are_in_the_order_in_which_their_leases_end() {
        let seen = |id, lease, granted| Seen { id, lease, granted, behind: 2 };
        let members = vec![seen(7, 900, false), seen(8, 800, true)];
        let picture = Picture { members, in_flight: Vec::new() };
        let shown = group_members(&[agreed(Ok(picture)), agreed(Err("gone".to_owned()))]);
        assert_eq!(
            rows(&shown),
            ["app 8 no 800 nobody 2 -", "app 7 yes 900 redis 2 -", "app - - - - - gone"]
        );
    }

    #[test]
    fn what_is_in_flight_has_the_name_of_its_table_and_beyond_the_bound_is_one_row() {
        let marked = |slot, id| Marked { slot, id, commits: 3, changes: 4 };
        let table = |oid| SlotName::Table(TableId(oid));
        let mut in_flight = vec![
            marked(SlotName::Database, 7),
            marked(SlotName::Catalog, 8),
            marked(table(5), 7),
            marked(table(6), 7),
        ];
        let shown = |in_flight: &[Marked]| {
            let picture = Picture { members: Vec::new(), in_flight: in_flight.to_vec() };
            rows(&group_in_flight(&[agreed(Ok(picture)), agreed(Err("gone".to_owned()))]))
        };
        assert_eq!(
            shown(&in_flight),
            [
                "app (database) 7 yes 3 4 -",
                "app (catalogue) 8 no 3 4 -",
                "app public.t 7 yes 3 4 -",
                "app 6 7 yes 3 4 -",
                "app - - - - - gone"
            ]
        );
        in_flight.resize(ROWS_MAX + 2, marked(table(6), 8));
        assert_eq!(shown(&in_flight)[ROWS_MAX], "app (2 others) - - 6 - -");
    }
}
