//! This process's part in its group, by database, for `SHOW GROUP`.

use std::sync::Arc;

use crate::admin::snapshot::{Cancels, GroupMember};
use crate::cache::group::shared::Group;
use crate::pool::database::Database;

use super::collect::Collector;

impl Collector<'_> {
    pub fn group(&self) -> Vec<GroupMember> {
        let mut shown = Vec::new();
        let mut seen: Vec<Arc<Group>> = Vec::new();
        for (database, _) in self.gateway.databases() {
            let Some(group) = database.home().group.clone() else { continue };
            // Several names may lead there.
            if !seen.iter().any(|known| Arc::ptr_eq(known, &group)) {
                shown.push(self.member(&database, &group));
                seen.push(group);
            }
        }
        shown
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
            checks: counters.checks.value(),
            begins: counters.begins.value(),
            lost: counters.lost.value(),
            strangers: counters.strangers.value(),
            stranger: shown.stranger,
            failure: shown.failure,
            cancels: self.cancels(),
        }
    }

    fn cancels(&self) -> Cancels {
        let Some(cancels) = &self.gateway.group_cancels else { return Cancels::default() };
        let counters = &cancels.counters;
        Cancels {
            sent: counters.sent.value(),
            heard: counters.heard.value(),
            dropped: counters.dropped.value(),
        }
    }
}
