//! K as the scripts keep it, once more and without Redis: the clock is an argument, and all there
//! is to it is a value, small enough to explore. `tests/suite/group_register.rs` holds the two
//! side by side.

use std::collections::BTreeMap;

use forebay::cache::group::life::Life;
use forebay::cache::group::process::Process;
use forebay::cache::group::script::{Answer, Renew, Renewed, Request, Wait};
use forebay::cache::group::slot::{Act, Mark, Slot, SlotName};

/// A Redis that has K, or not: whoever takes it away makes this the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Register {
    pub(crate) k: Option<K>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct K {
    pub(crate) act: Act,
    pub(crate) process: Process,
    pub(crate) life: Life,
    /// Until when members of another life may hit.
    pub(crate) past: u64,
    pub(crate) lease: u64,
    pub(crate) open: bool,
    /// When the first good census was.
    pub(crate) since: Option<u64>,
    pub(crate) seq: u64,
    pub(crate) members: BTreeMap<u32, Member>,
    /// Their marks are in order here, as which came first means nothing.
    pub(crate) slots: BTreeMap<SlotName, Slot>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Member {
    pub(crate) until: u64,
    /// K's `seq` at its last `Join` or `Begin`.
    pub(crate) active: u64,
    /// The same at its last `Join`.
    pub(crate) joined: u64,
    pub(crate) applied: u64,
    /// Until when it may hit unasked; 0: never.
    pub(crate) grant: u64,
}

impl Register {
    /// What Redis answers at this moment.
    pub(crate) fn call(&mut self, request: &Request, now: u64) -> Answer {
        match request {
            Request::Join { process, life, id, until, act, lease, marks } => {
                if *until <= now {
                    return Answer::Late;
                }
                let mut past = 0;
                if let Some(k) = self.k.take_if(|k| !k.is_over(now) && k.life != *life) {
                    if k.life > *life {
                        self.k = Some(k);
                        return Answer::Passed;
                    }
                    past = now + (k.end().max(k.past) - now).min(k.lease);
                }
                let fits = |k: &K| k.process == *process && !k.is_over(now);
                if !self.k.as_ref().is_some_and(fits) {
                    self.k = Some(K { past, ..K::new(*act, (*process, *life), *lease) });
                }
                let k = self.k.as_mut().unwrap();
                if k.lease != *lease {
                    return Answer::OtherLease { lease: k.lease };
                }
                k.join((*id, *until), marks, now)
            }
            Request::Check { slots } => self.check(slots, now),
            Request::Time => Answer::Time,
            Request::Renew(Renew { act, .. })
            | Request::Begin { act, .. }
            | Request::Lag { act, .. }
            | Request::Hear { act, .. }
            | Request::End { act, .. }
            | Request::Bump { act, .. }
            | Request::Leave { act, .. }
            | Request::Members { act } => {
                let k = self.k.as_mut().filter(|k| k.act == *act && !k.is_over(now));
                let answer = k.map_or(Answer::Lost, |k| k.call(request, now));
                if self.k.as_ref().is_some_and(|k| k.members.is_empty()) {
                    self.k = None;
                }
                answer
            }
        }
    }

    /// Redis itself lets a key live through the millisecond of its end.
    fn check(&self, slots: &[SlotName], now: u64) -> Answer {
        let k = self.k.as_ref().filter(|k| now <= k.end());
        let slot = |name: &SlotName| k.map_or_else(Slot::default, |k| k.slot(*name));
        Answer::Checked {
            act: k.map(|k| k.act),
            open: k.filter(|k| k.open).map(|k| k.act),
            slots: slots.iter().map(slot).collect(),
        }
    }
}

impl K {
    fn new(act: Act, (process, life): (Process, Life), lease: u64) -> Self {
        Self {
            act,
            process,
            life,
            past: 0,
            lease,
            open: false,
            since: None,
            seq: 0,
            members: BTreeMap::new(),
            slots: BTreeMap::new(),
        }
    }

    /// It ends with the earliest lease.
    pub(crate) fn end(&self) -> u64 {
        self.members.values().map(|member| member.until).min().unwrap()
    }

    fn is_over(&self, now: u64) -> bool {
        self.end() <= now
    }

    fn slot(&self, name: SlotName) -> Slot {
        self.slots.get(&name).cloned().unwrap_or_default()
    }

    fn call(&mut self, request: &Request, now: u64) -> Answer {
        match request {
            Request::Renew(renew) => self.renew(renew, now),
            Request::Begin { id, joined, mark, slots, .. } => {
                if self.members.get(id).is_none_or(|member| member.joined != *joined) {
                    return Answer::Lost;
                }
                self.begin(*id, *mark, slots, now)
            }
            Request::Lag { id, seq, all, .. } => {
                if !self.members.contains_key(id) {
                    return Answer::Lost;
                }
                Answer::Lag { waits: self.waits(*id, *seq, *all, now) }
            }
            Request::Hear { id, applied, .. } => {
                let Some(member) = self.members.get_mut(id) else { return Answer::Lost };
                member.applied = member.applied.max(*applied);
                Answer::Heard { seq: self.seq, slots: self.news(*applied) }
            }
            Request::End { mark, committed, slots, .. } => self.end_mark(*mark, *committed, slots),
            Request::Bump { slots, .. } => {
                self.seq += 1;
                for name in slots {
                    let slot = self.slots.entry(*name).or_default();
                    slot.generation += 1;
                    slot.seq = self.seq;
                }
                self.changed(slots)
            }
            Request::Leave { id, .. } => {
                let Some(member) = self.members.get_mut(id) else { return Answer::Lost };
                member.grant = 0;
                Answer::Left
            }
            Request::Members { .. } => {
                Answer::Members { seq: self.seq, ids: self.members.keys().copied().collect() }
            }
            Request::Join { .. } | Request::Check { .. } | Request::Time => {
                unreachable!("answered by the register")
            }
        }
    }

    fn join(
        &mut self,
        (id, until): (u32, u64),
        marks: &[(Mark, Vec<SlotName>)],
        now: u64,
    ) -> Answer {
        self.seq += 1;
        let member = self.members.entry(id).or_insert(Member { until, ..Member::default() });
        (member.active, member.joined) = (self.seq, self.seq);
        for (mark, slots) in marks {
            self.mark(*mark, slots);
        }
        Answer::Joined {
            act: self.act,
            open: self.open,
            seq: self.seq,
            outlived: self.past.saturating_sub(now),
        }
    }

    fn renew(&mut self, renew: &Renew, now: u64) -> Answer {
        if !self.members.contains_key(&renew.id) {
            return Answer::Lost;
        }
        if renew.until <= now {
            return Answer::Late;
        }
        if self.end() > now + self.lease {
            self.members.clear();
            return Answer::Lost;
        }
        if let Some(stranger) = renew.seen.iter().find(|id| !self.members.contains_key(id)) {
            return Answer::Census { stranger: *stranger };
        }
        let member = self.members.get_mut(&renew.id).unwrap();
        member.until = member.until.max(renew.until);
        member.applied = member.applied.max(renew.applied);
        for gone in &renew.gone {
            self.drop_gone(*gone, renew, now);
        }
        match self.since {
            None => self.since = Some(now),
            Some(since) => self.open |= now >= since + renew.lease && now >= self.past,
        }
        let grants = self.open && (renew.local || self.members.len() == 1);
        let end = self.end();
        let member = self.members.get_mut(&renew.id).unwrap();
        if grants {
            member.grant = member.grant.max(end);
        } else if member.grant <= now {
            member.grant = 0;
        }
        Answer::Renewed(Renewed {
            open: self.open,
            seq: self.seq,
            grant: if grants { end - now } else { 0 },
            members: self.members.len() as u64,
            slots: self.news(renew.applied),
        })
    }

    fn news(&self, applied: u64) -> Vec<(SlotName, Slot)> {
        let changed = self.slots.iter().filter(|(_, slot)| slot.seq > applied);
        changed.map(|(name, slot)| (*name, slot.clone())).collect()
    }

    fn drop_gone(&mut self, gone: u32, renew: &Renew, now: u64) {
        let Some(member) = self.members.get(&gone) else { return };
        if gone == renew.id || member.active > renew.gone_seq || member.grant > now {
            return;
        }
        self.members.remove(&gone);
        self.seq += 1;
        for slot in self.slots.values_mut() {
            let count = slot.marks.len();
            slot.marks.retain(|mark| mark.id != gone);
            if slot.marks.len() < count {
                slot.generation += 1;
                slot.seq = self.seq;
            }
        }
    }

    fn begin(&mut self, id: u32, mark: Mark, slots: &[SlotName], now: u64) -> Answer {
        let Some(member) = self.members.get_mut(&id) else { return Answer::Lost };
        self.seq += 1;
        member.active = self.seq;
        let catalog = self.slot(SlotName::Catalog);
        self.mark(mark, slots);
        let all = slots.contains(&SlotName::Catalog);
        let waits = self.waits(id, self.seq, all, now);
        Answer::Begun { open: self.open, seq: self.seq, catalog, waits }
    }

    fn mark(&mut self, mark: Mark, slots: &[SlotName]) {
        for name in slots {
            let slot = self.slots.entry(*name).or_default();
            if let Err(at) = slot.marks.binary_search(&mark) {
                slot.marks.insert(at, mark);
                slot.seq = self.seq;
            }
        }
    }

    fn end_mark(&mut self, mark: Mark, committed: bool, slots: &[SlotName]) -> Answer {
        let seq = self.seq + 1;
        for name in slots {
            let Some(slot) = self.slots.get_mut(name) else { continue };
            let Ok(at) = slot.marks.binary_search(&mark) else { continue };
            slot.marks.remove(at);
            slot.generation += u64::from(committed);
            slot.seq = seq;
            self.seq = seq;
        }
        self.changed(slots)
    }

    fn changed(&self, slots: &[SlotName]) -> Answer {
        Answer::Changed { slots: slots.iter().map(|name| (*name, self.slot(*name))).collect() }
    }

    /// Who may answer from what it knew before this change, and for how long still.
    fn waits(&self, own: u32, seq: u64, all: bool, now: u64) -> Vec<Wait> {
        let till = |member: &Member| {
            if all { member.grant.max(member.until) } else { member.grant }
        };
        let others = self.members.iter().filter(|(id, member)| **id != own && member.applied < seq);
        let waits =
            others.map(|(id, member)| Wait { id: *id, ms: till(member).saturating_sub(now) });
        waits.filter(|wait| wait.ms > 0).collect()
    }
}
