//! Servers counted over several pools: all of one database, or all of one user.
//!
//! Invariant: with a limit set, no more are counted than it allows, but for those that were there
//! before it was lowered. A pool that finds no room is remembered, and told when there is some.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// `M` is a pool.
#[derive(Debug)]
pub struct Quota<M> {
    /// Guards the counts. The lock of a pool may be held while this one is taken; no other is
    /// taken inside.
    counts: Mutex<Counts<M>>,
    /// Whether a pool waits, for those who only look.
    wanted: AtomicBool,
}

#[derive(Debug)]
struct Counts<M> {
    /// 0: no limit.
    max: usize,
    count: usize,
    members: Vec<Weak<M>>,
    /// Members that found no room, each once.
    waiting: VecDeque<Weak<M>>,
}

impl<M> Counts<M> {
    fn has_room(&self) -> bool {
        self.max == 0 || self.count < self.max
    }
}

impl<M> Quota<M> {
    pub fn new(max: usize) -> Self {
        let counts = Counts { max, count: 0, members: Vec::new(), waiting: VecDeque::new() };
        Self { counts: Mutex::new(counts), wanted: AtomicBool::new(false) }
    }

    pub fn join(&self, member: &Weak<M>) {
        let mut counts = self.counts();
        counts.members.retain(|member| member.strong_count() > 0);
        counts.members.push(Weak::clone(member));
    }

    /// Counts one more, if there is room.
    pub fn take(&self) -> bool {
        let mut counts = self.counts();
        let room = counts.has_room();
        counts.count += usize::from(room);
        room
    }

    /// The same; if there is no room, `next` gives this member when there is.
    pub fn take_or_wait(&self, member: &Weak<M>) -> bool {
        let mut counts = self.counts();
        let room = counts.has_room();
        counts.count += usize::from(room);
        if !room && !counts.waiting.iter().any(|other| other.ptr_eq(member)) {
            counts.waiting.push_back(Weak::clone(member));
            self.wanted.store(true, Ordering::Release);
        }
        room
    }

    /// One less. The caller then asks `next` who waits.
    pub fn give_back(&self) {
        let mut counts = self.counts();
        counts.count = counts.count.saturating_sub(1);
    }

    /// The member that has waited longest, if there is room for it.
    pub fn next(&self) -> Option<Arc<M>> {
        let mut counts = self.counts();
        while counts.has_room() {
            let waiting = counts.waiting.pop_front();
            self.wanted.store(!counts.waiting.is_empty(), Ordering::Release);
            if let Some(member) = waiting?.upgrade() {
                return Some(member);
            }
        }
        None
    }

    /// The caller then asks `next` who waits.
    pub fn set_max(&self, max: usize) {
        self.counts().max = max;
    }

    /// Whether a member waits for room.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// The members that found no room, as far as they have not been told since.
    pub fn waiting(&self) -> Vec<Arc<M>> {
        self.counts().waiting.iter().filter_map(Weak::upgrade).collect()
    }

    pub fn is_full(&self) -> bool {
        !self.counts().has_room()
    }

    pub fn count(&self) -> usize {
        self.counts().count
    }

    pub fn members(&self) -> Vec<Arc<M>> {
        self.counts().members.iter().filter_map(Weak::upgrade).collect()
    }

    fn counts(&self) -> MutexGuard<'_, Counts<M>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_counted_and_none_without_one() {
        let quota: Quota<u32> = Quota::new(2);
        assert_eq!([quota.take(), quota.take(), quota.take()], [true, true, false]);
        quota.give_back();
        assert!(quota.take());
        quota.set_max(0);
        assert!(quota.take());
        assert_eq!(quota.count(), 3);
        quota.set_max(1);
        assert!(!quota.take());
    }

    #[test]
    fn who_found_no_room_is_next_in_the_order_of_asking_each_once() {
        let (first, second, gone) = (Arc::new(1), Arc::new(2), Arc::new(3));
        let quota = Quota::new(1);
        assert!(quota.take_or_wait(&Arc::downgrade(&first)));
        for member in [&gone, &first, &second, &first] {
            assert!(!quota.take_or_wait(&Arc::downgrade(member)));
        }
        assert!(quota.is_wanted() && quota.next().is_none());
        drop(gone);
        quota.give_back();
        assert_eq!(quota.next().as_deref(), Some(&1));
        assert_eq!(quota.next().as_deref(), Some(&2));
        assert_eq!((quota.next(), quota.is_wanted()), (None, false));
    }

    #[test]
    fn members_that_are_gone_are_no_members() {
        let (one, other) = (Arc::new(1), Arc::new(2));
        let quota = Quota::new(0);
        quota.join(&Arc::downgrade(&one));
        quota.join(&Arc::downgrade(&other));
        drop(one);
        assert_eq!(quota.members(), [other]);
    }
}
