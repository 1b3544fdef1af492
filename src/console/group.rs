//! This process's part in its group, by database, for `SHOW GROUP`.

use std::sync::Arc;

use crate::admin::snapshot::{Cancels, GroupDrop, GroupMember};
use crate::cache::group::process::Info;
use crate::cache::group::shared::Group;
use crate::pool::database::Database;

use super::collect::Collector;

impl Collector<'_> {
    pub fn group(&self) -> Vec<GroupMember> {
        let grouped = self.grouped();
        grouped.iter().map(|(database, group)| self.member(database, group)).collect()
    }

    /// The databases that are kept together with others, each once.
    pub(super) fn grouped(&self) -> Vec<(Arc<Database>, Arc<Group>)> {
        let mut grouped: Vec<(Arc<Database>, Arc<Group>)> = Vec::new();
        for (database, _) in self.gateway.databases() {
            let Some(group) = database.home().group.clone() else { continue };
            // Several names may lead there.
            if !grouped.iter().any(|(_, known)| Arc::ptr_eq(known, &group)) {
                grouped.push((database, group));
            }
        }
        grouped
    }

    /// The latest first.
    pub fn group_drops(&self) -> Vec<GroupDrop> {
        let mut drops = Vec::new();
        for (database, group) in self.grouped() {
            drops.extend(group.shown().drops.into_iter().rev().map(|dropped| GroupDrop {
                database: database.name.clone(),
                at: self.time_of_day(group.instant(dropped.at)),
                what: dropped.what,
                why: dropped.why,
            }));
        }
        drops
    }

    fn member(&self, database: &Database, group: &Group) -> GroupMember {
        let (shown, act) = (group.shown(), group.act());
        let counters = &group.counters;
        GroupMember {
            database: database.name.clone(),
            name: group.settings.name.clone(),
            mode: if group.settings.local { "strict-local" } else { "strict" },
            id: group.id,
            state: match (act, group.is_open()) {
                (None, _) => "out",
                (Some(_), false) => "shut",
                (Some(_), true) => "open",
            },
            granted: group.is_granted(self.now),
            act: act.map(|act| act.to_string()),
            members: shown.members,
            in_flight: group.commits() as u64,
            lease: group.settings.lease,
            round: shown.round,
            rounds: group.round_quantiles([50, 99]),
            checks: counters.checks.value(),
            begins: counters.begins.value(),
            hears: counters.hears.value(),
            lost: counters.lost.value(),
            strangers: counters.strangers.value(),
            stranger: shown.stranger,
            failure: shown.failure,
            cancels: self.cancels(),
            opened: counters.opened.value(),
            warnings: self.warnings(shown.redis.as_ref()),
            redis: group.place().zip(shown.redis).map(|(place, info)| {
                // Without user and password.
                [format!("{place:?}"), info.version]
            }),
        }
    }

    /// What the log has warned of the Redis that is asked.
    fn warnings(&self, info: Option<&Info>) -> Vec<String> {
        let exposure = self.gateway.cache.redis.as_ref().and_then(|redis| redis.exposure());
        let exposure = exposure.map(|missing| format!("on another machine, {missing}"));
        let told = info.into_iter().flat_map(|info| &info.warnings).map(ToString::to_string);
        told.chain(exposure).collect()
    }

    fn cancels(&self) -> Cancels {
        let Some(talk) = &self.gateway.group_talk else { return Cancels::default() };
        let counters = &talk.counters;
        Cancels {
            sent: counters.sent.value(),
            heard: counters.heard.value(),
            dropped: counters.dropped.value(),
        }
    }
}
