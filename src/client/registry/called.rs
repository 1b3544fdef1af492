//! What a client is called, until it calls itself otherwise, and the groups of clients that look
//! alike: who did what, counted under the name that it was done under.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use crate::metrics::GroupCounters;

use super::{Entry, Hello, Registry, one_more};

/// What a client is called, until it calls itself otherwise, and what it is counted in for that.
#[derive(Clone)]
pub struct Called {
    pub application_name: Arc<str>,
    /// What it called itself, by which statistics go: `application_name` may have its address behind
    /// it, and each connection would be counted by itself.
    pub plain_name: Arc<str>,
    pub group: Arc<GroupCounters>,
}

/// Who did what, summed over clients that look alike.
pub(super) type GroupKey = (String, String, String, String);

/// Groups remembered; the rest are summed in one.
const GROUPS_MAX: usize = 1000;

/// PostgreSQL cuts longer names, between two characters.
const NAME_BYTES_MAX: usize = 63;

impl Entry {
    /// Its task has the group of it at hand.
    pub fn called(&self) -> Called {
        self.called.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Once in each, whatever it calls itself by turns.
    pub(super) fn count_in(&self, group: &GroupCounters) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if !counted.contains(&group.number) {
            counted.push(group.number);
            group.clients.one();
        }
    }
}

impl Registry {
    /// PostgreSQL calls it so from now on. Gives what it is counted in.
    pub fn rename(&self, entry: &Entry, name: &str) -> Arc<GroupCounters> {
        let before = entry.called();
        let (start, plain_start) = &entry.began_as;
        // RESET gives back the name of its start, with what was put behind that, and cut.
        let is_cut = start.len() > NAME_BYTES_MAX
            && name.len() > NAME_BYTES_MAX - char::MAX.len_utf8()
            && start.starts_with(name);
        let plain = if *name == **start || is_cut { plain_start } else { name };
        let key = group_key(&entry.user, &entry.database, plain, &entry.address);
        let group = {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            // Some call themselves otherwise for each task: the rest is for those who come.
            let is_known = groups.contains_key(&key);
            let may = is_known || groups.len() < GROUPS_MAX / 2;
            if may { counters_of(&mut groups, key) } else { Arc::clone(&before.group) }
        };
        entry.count_in(&group);
        let mut connected = self.connected();
        let called = Called {
            application_name: one_more(&mut connected.names, name.to_owned()),
            plain_name: one_more(&mut connected.names, plain.to_owned()),
            group: Arc::clone(&group),
        };
        *entry.called.lock().unwrap_or_else(PoisonError::into_inner) = called;
        connected.forget(&before);
        group
    }

    pub(super) fn group(&self, hello: &Hello) -> Arc<GroupCounters> {
        let mut key = group_key(&hello.user, &hello.database, &hello.plain_name, &hello.address);
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.len() >= GROUPS_MAX && !groups.contains_key(&key) {
            let rest = || "(others)".to_owned();
            key = (rest(), rest(), rest(), rest());
        }
        counters_of(&mut groups, key)
    }

    /// Every group with its counters, in the order of the names.
    pub fn groups(&self) -> Vec<(GroupKey, Arc<GroupCounters>)> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut groups: Vec<_> =
            groups.iter().map(|(key, group)| (key.clone(), Arc::clone(group))).collect();
        groups.sort_by(|left, right| left.0.cmp(&right.0));
        groups
    }
}

fn group_key(user: &str, database: &str, plain_name: &str, address: &str) -> GroupKey {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    (user.to_owned(), database.to_owned(), plain_name.to_owned(), host.to_owned())
}

fn counters_of(
    groups: &mut HashMap<GroupKey, Arc<GroupCounters>>,
    key: GroupKey,
) -> Arc<GroupCounters> {
    let number = u16::try_from(groups.len() + 1).unwrap_or(u16::MAX);
    let counters = || Arc::new(GroupCounters { number, ..GroupCounters::default() });
    Arc::clone(groups.entry(key).or_insert_with(counters))
}

#[cfg(test)]
mod tests {
    use super::super::Room;
    use super::super::tests::hello;
    use super::*;

    #[test]
    fn a_client_counts_once_in_each_group_and_goes_back_to_that_of_its_start() {
        let registry = Arc::new(Registry::default());
        let address = "[2001:db8:85a3:8d3:1319:8a2e:370:7348]:54321".to_owned();
        let full = format!("a long name of an app - {address}");
        let came = Hello {
            application_name: full.clone(),
            plain_name: "a long name of an app".into(),
            address,
            ..hello("app", "ann")
        };
        let one = registry.enter(came, Room::UNLIMITED).unwrap();
        let cut = full.get(..NAME_BYTES_MAX).unwrap();
        for name in ["a", "b", "a", cut, "b", full.as_str()] {
            registry.rename(&one.entry, name);
        }
        assert_eq!(&*one.entry.called().plain_name, "a long name of an app");
        let clients = registry.groups().into_iter().map(|(key, group)| (key.2, group));
        let clients: Vec<_> = clients.map(|(name, group)| (name, group.clients.value())).collect();
        let expected = ["a", "a long name of an app", "b"].map(|name| (name.to_owned(), 1));
        assert_eq!(clients, expected);
    }

    #[test]
    fn whoever_is_called_otherwise_for_each_task_leaves_groups_to_those_who_come() {
        let registry = Arc::new(Registry::default());
        let one = registry.enter(hello("app", "ann"), Room::UNLIMITED).unwrap();
        for task in 0..2 * GROUPS_MAX {
            registry.rename(&one.entry, &format!("task {task}"));
        }
        assert_eq!(registry.groups().len(), GROUPS_MAX / 2);
        assert_eq!(&*one.entry.called().application_name, format!("task {}", 2 * GROUPS_MAX - 1));
        let _two = registry.enter(hello("app", "bob"), Room::UNLIMITED).unwrap();
        assert!(registry.groups().iter().any(|((user, ..), _)| user == "bob"));
    }
}
