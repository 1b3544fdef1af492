//! `SHOW GROUP`: what this process has agreed on with others, by database.

use super::snapshot::GroupMember;
use super::table::{Columns, Table, int8, text, value};

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
    int8("checks"),
    int8("begins"),
    int8("lost"),
    int8("strangers"),
    int8("stranger"),
    text("failure"),
    int8("cancels_sent"),
    int8("cancels_heard"),
    int8("cancels_dropped"),
];

pub fn group(members: &[GroupMember]) -> Table {
    let mut shown = Table::new(GROUP);
    for member in members {
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
            value(member.checks),
            value(member.begins),
            value(member.lost),
            value(member.strangers),
            member.stranger.map(|id| id.to_string()),
            member.failure.clone(),
            value(member.cancels.sent),
            value(member.cancels.heard),
            value(member.cancels.dropped),
        ]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::snapshot::Cancels;

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
            checks: 3,
            begins: 4,
            lost: 5,
            strangers: 6,
            stranger: None,
            failure: None,
            cancels: Cancels { sent: 7, heard: 8, dropped: 9 },
        };
        let shown = group(&[member]);
        let row: Vec<&str> =
            shown.rows[0].iter().map(|cell| cell.as_deref().unwrap_or("-")).collect();
        assert_eq!(row.join(" "), "app g strict 7 open nobody ab 1 2 2000 150 3 4 5 6 - - 7 8 9");
    }
}
