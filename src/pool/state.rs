//! Idle servers, waiting clients and the limits between them: who gets what, in what order.
//!
//! Idle servers are taken last in first out, so that few stay warm and the rest grow old, unless
//! they are to take turns; clients are served first in first out. What this pool shares with
//! others is asked for by `claim`, which gives a claim `C` on one more server, or nothing.

use std::collections::VecDeque;

/// `S` is a server, `W` a client that waits.
#[derive(Debug)]
pub struct State<S, W> {
    idle: VecDeque<S>,
    waiting: VecDeque<W>,
    /// Servers idle, in use, or being connected.
    total: usize,
    sizes: Sizes,
    connecting: Connecting,
    /// What an operator said.
    hold: Option<Hold>,
}

/// Why nobody gets a server for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// They wait, and servers that come free are closed.
    Paused,
    /// They wait, and servers stay.
    Suspended,
    /// They are told to leave, and servers that come free are closed.
    Stopping,
}

/// What a reload may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub size: usize,
    /// More than that, for who has waited long.
    pub reserve: usize,
    pub round_robin: bool,
}

/// Whether one more server may be connected while there is room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connecting {
    Allowed,
    /// PostgreSQL could not be reached a moment ago: who needs a server waits.
    Unreachable,
    /// A login failed a moment ago: who needs a server hears so when there is none.
    Refused,
    /// A limit over several pools is reached; the pool is told when it is not.
    Starved,
}

/// The answer to a client that wants a server.
#[derive(Debug, PartialEq, Eq)]
pub enum Acquire<S, C> {
    Granted(S),
    /// There is room: connect one. Its place is counted already.
    Connect(C),
    /// None is free; register with `wait`.
    Busy,
    /// There is none, and logging in has failed a moment ago.
    Failing,
    /// There will be none any more.
    Stopping,
}

/// What a waiting client is handed.
#[derive(Debug, PartialEq, Eq)]
pub enum Handed<S, C> {
    Server(S),
    /// A place has become free: connect one. Its place is counted already.
    Connect(C),
}

/// What became of a server that is free again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    HandedOn,
    Idle,
}

impl<S, W> State<S, W> {
    pub fn new(sizes: Sizes) -> Self {
        Self {
            idle: VecDeque::new(),
            waiting: VecDeque::new(),
            total: 0,
            sizes,
            connecting: Connecting::Allowed,
            hold: None,
        }
    }

    pub fn acquire<C>(&mut self, claim: impl FnOnce() -> Option<C>) -> Acquire<S, C> {
        match self.hold {
            Some(Hold::Stopping) => return Acquire::Stopping,
            Some(Hold::Paused | Hold::Suspended) => return Acquire::Busy,
            None => {}
        }
        if let Some(server) = self.take_free() {
            return Acquire::Granted(server);
        }
        // Who waits already goes first.
        if self.waiting.is_empty() && self.may_connect() {
            if let Some(claimed) = claim() {
                self.total += 1;
                return Acquire::Connect(claimed);
            }
            self.connecting = Connecting::Starved;
        }
        if self.connecting == Connecting::Refused && self.total == 0 {
            Acquire::Failing
        } else {
            Acquire::Busy
        }
    }

    /// A server that is free, for who will not wait.
    pub fn take_free(&mut self) -> Option<S> {
        if self.waiting.is_empty() && self.hold.is_none() { self.next_idle() } else { None }
    }

    fn next_idle(&mut self) -> Option<S> {
        if self.sizes.round_robin { self.idle.pop_front() } else { self.idle.pop_back() }
    }

    fn may_connect(&self) -> bool {
        self.total < self.sizes.size && self.allows_connecting()
    }

    fn allows_connecting(&self) -> bool {
        self.connecting == Connecting::Allowed && self.hold.is_none()
    }

    /// Has `acquire` take an idle server of this kind, if there is one.
    pub fn prefer(&mut self, wanted: impl Fn(&S) -> bool) {
        let Some(at) = self.idle.iter().rposition(wanted) else { return };
        let Some(server) = self.idle.remove(at) else { return };
        if self.sizes.round_robin {
            self.idle.push_front(server);
        } else {
            self.idle.push_back(server);
        }
    }

    pub fn wait(&mut self, waiter: W) {
        self.waiting.push_back(waiter);
    }

    /// A server is free again. `hand` gives it to a waiter, or gives it back if that has left.
    pub fn release<C>(
        &mut self,
        server: S,
        mut hand: impl FnMut(W, Handed<S, C>) -> Result<(), Handed<S, C>>,
    ) -> Released {
        if self.hold.is_some() {
            self.idle.push_back(server);
            return Released::Idle;
        }
        let mut handed = Handed::Server(server);
        while let Some(waiter) = self.waiting.pop_front() {
            match hand(waiter, handed) {
                Ok(()) => return Released::HandedOn,
                Err(back) => handed = back,
            }
        }
        if let Handed::Server(server) = handed {
            self.idle.push_back(server);
        }
        Released::Idle
    }

    /// A server is gone, or could not be connected; its place goes to who waits. Gives back a
    /// claim that nobody took.
    #[must_use]
    pub fn closed<C>(
        &mut self,
        claim: impl FnMut() -> Option<C>,
        hand: impl FnMut(W, Handed<S, C>) -> Result<(), Handed<S, C>>,
    ) -> Option<C> {
        self.total = self.total.saturating_sub(1);
        let spare = self.fill_places(claim, hand);
        self.send_away_if_hopeless();
        spare
    }

    /// Where nothing will come free, who waits is to look why.
    fn send_away_if_hopeless(&mut self) {
        if self.connecting == Connecting::Refused && self.total == 0 && self.hold.is_none() {
            self.waiting.clear();
        }
    }

    /// From now on nobody gets a server, or everybody may again: first who waits. As `closed` for
    /// the result.
    #[must_use]
    pub fn set_hold<C>(
        &mut self,
        hold: Option<Hold>,
        claim: impl FnMut() -> Option<C>,
        mut hand: impl FnMut(W, Handed<S, C>) -> Result<(), Handed<S, C>>,
    ) -> Option<C> {
        self.hold = hold;
        match hold {
            Some(Hold::Stopping) => self.waiting.clear(),
            Some(Hold::Paused | Hold::Suspended) => {}
            None => {
                for server in std::mem::take(&mut self.idle) {
                    self.release(server, &mut hand);
                }
                let spare = self.fill_places(claim, hand);
                self.send_away_if_hopeless();
                return spare;
            }
        }
        None
    }

    /// Servers that come free are closed.
    pub fn closes(&self) -> bool {
        matches!(self.hold, Some(Hold::Paused | Hold::Stopping))
    }

    pub fn hold_now(&self) -> Option<Hold> {
        self.hold
    }

    /// Connecting has failed: until `resume` nobody tries.
    pub fn hold(&mut self, why: Connecting) {
        self.connecting = why;
    }

    /// Connecting may be tried again, first by who waits. As `closed` for the result.
    #[must_use]
    pub fn resume<C>(
        &mut self,
        claim: impl FnMut() -> Option<C>,
        hand: impl FnMut(W, Handed<S, C>) -> Result<(), Handed<S, C>>,
    ) -> Option<C> {
        self.connecting = Connecting::Allowed;
        self.fill_places(claim, hand)
    }

    /// Another pool has given up something of what they share. As `closed` for the result.
    #[must_use]
    pub fn feed<C>(
        &mut self,
        claim: impl FnMut() -> Option<C>,
        hand: impl FnMut(W, Handed<S, C>) -> Result<(), Handed<S, C>>,
    ) -> Option<C> {
        if self.connecting == Connecting::Starved {
            self.connecting = Connecting::Allowed;
        }
        self.fill_places(claim, hand)
    }

    pub fn connecting(&self) -> Connecting {
        self.connecting
    }

    /// Whether somebody waits because a limit over several pools is reached.
    pub fn is_starved(&self) -> bool {
        self.connecting == Connecting::Starved && self.hold.is_none() && !self.waiting.is_empty()
    }

    /// Other sizes: who waits gets what they add. What is too much is closed when free, by
    /// `surplus`. As `closed` for the result.
    #[must_use]
    pub fn resize<C>(
        &mut self,
        sizes: Sizes,
        claim: impl FnMut() -> Option<C>,
        hand: impl FnMut(W, Handed<S, C>) -> Result<(), Handed<S, C>>,
    ) -> Option<C> {
        self.sizes = sizes;
        self.fill_places(claim, hand)
    }

    /// Servers beyond the limit.
    pub fn surplus(&self) -> usize {
        self.total.saturating_sub(self.sizes.size.saturating_add(self.sizes.reserve))
    }

    /// A place beyond the pool's size, for a client that has waited long; counted already.
    pub fn take_reserve<C>(&mut self, claim: impl FnOnce() -> Option<C>) -> Option<C> {
        let Sizes { size, reserve, .. } = self.sizes;
        let room = self.total < size.saturating_add(reserve);
        if !room || !self.allows_connecting() {
            return None;
        }
        let claimed = claim()?;
        self.total += 1;
        Some(claimed)
    }

    /// Places for servers that are to be there ahead of need; counted already.
    pub fn warm<C>(&mut self, least: usize, mut claim: impl FnMut() -> Option<C>) -> Vec<C> {
        let mut claims = Vec::new();
        while self.total < least && self.may_connect() {
            let Some(claimed) = claim() else { break };
            self.total += 1;
            claims.push(claimed);
        }
        claims
    }

    fn fill_places<C>(
        &mut self,
        mut claim: impl FnMut() -> Option<C>,
        mut hand: impl FnMut(W, Handed<S, C>) -> Result<(), Handed<S, C>>,
    ) -> Option<C> {
        let mut spare = None;
        while self.may_connect() && !self.waiting.is_empty() {
            let Some(claimed) = spare.take().or_else(&mut claim) else {
                self.connecting = Connecting::Starved;
                break;
            };
            spare = self.hand_place(claimed, &mut hand);
        }
        spare
    }

    /// To the first who still waits, if there is one.
    fn hand_place<C>(
        &mut self,
        claim: C,
        hand: &mut impl FnMut(W, Handed<S, C>) -> Result<(), Handed<S, C>>,
    ) -> Option<C> {
        let mut handed = Handed::Connect(claim);
        while let Some(waiter) = self.waiting.pop_front() {
            match hand(waiter, handed) {
                Ok(()) => {
                    self.total += 1;
                    return None;
                }
                Err(back) => handed = back,
            }
        }
        match handed {
            Handed::Connect(claim) => Some(claim),
            Handed::Server(_) => None,
        }
    }

    /// Takes out the idle servers that are due, to be closed by the caller.
    pub fn take_idle(&mut self, mut due: impl FnMut(&mut S) -> bool) -> Vec<S> {
        let mut taken = Vec::new();
        for _ in 0..self.idle.len() {
            let Some(mut server) = self.idle.pop_front() else { break };
            if due(&mut server) {
                taken.push(server);
            } else {
                self.idle.push_back(server);
            }
        }
        self.total = self.total.saturating_sub(taken.len());
        taken
    }

    /// Takes out the idle server with the smallest key, to be closed by the caller.
    pub fn take_oldest<K: Ord>(&mut self, key: impl Fn(&S) -> K) -> Option<S> {
        let (at, _) = self.idle.iter().enumerate().min_by_key(|(_, server)| key(server))?;
        self.total = self.total.saturating_sub(1);
        self.idle.remove(at)
    }

    pub fn idle(&self) -> impl Iterator<Item = &S> {
        self.idle.iter()
    }

    pub fn idle_count(&self) -> usize {
        self.idle.len()
    }

    /// In the order they are served.
    pub fn waiting(&self) -> impl Iterator<Item = &W> {
        self.waiting.iter()
    }

    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    pub fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pool = State<u32, char>;
    type Served = Vec<(char, Handed<u32, ()>)>;

    fn pool(size: usize) -> Pool {
        Pool::new(Sizes { size, ..Sizes::default() })
    }

    #[expect(clippy::unnecessary_wraps, reason = "a claim may be refused")]
    fn some() -> Option<()> {
        Some(())
    }

    fn none() -> Option<()> {
        None
    }

    fn left(_: char, handed: Handed<u32, ()>) -> Result<(), Handed<u32, ()>> {
        Err(handed)
    }

    fn nobody(_: char, _: Handed<u32, ()>) -> Result<(), Handed<u32, ()>> {
        panic!("nobody is handed anything")
    }

    /// Notes who is handed what.
    fn to(served: &mut Served) -> impl FnMut(char, Handed<u32, ()>) -> Result<(), Handed<u32, ()>> {
        |waiter, handed| {
            served.push((waiter, handed));
            Ok(())
        }
    }

    #[test]
    fn servers_are_connected_up_to_the_size() {
        let mut pool = pool(2);
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        assert_eq!(pool.acquire(some), Acquire::Busy);
    }

    #[test]
    fn clients_are_served_in_the_order_they_came() {
        let mut pool = pool(1);
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        pool.wait('a');
        pool.wait('b');
        let mut served = Served::new();
        assert_eq!(pool.release(7, to(&mut served)), Released::HandedOn);
        assert_eq!(served, [('a', Handed::Server(7))]);
        // A newcomer does not overtake who waits.
        assert_eq!(pool.acquire(some), Acquire::Busy);
    }

    #[test]
    fn a_waiter_that_left_is_passed_over_and_no_server_is_lost() {
        let mut pool = pool(1);
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        pool.wait('a');
        assert_eq!(pool.release(7, left), Released::Idle);
        assert_eq!(pool.idle_count(), 1);
        assert_eq!(pool.acquire(some), Acquire::Granted(7));
    }

    #[test]
    fn a_lost_server_lets_a_waiter_connect() {
        let mut pool = pool(1);
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        pool.wait('a');
        let mut served = Served::new();
        assert_eq!(pool.closed(some, to(&mut served)), None);
        assert_eq!(served, [('a', Handed::Connect(()))]);
        assert_eq!(pool.total(), 1);
    }

    #[test]
    fn a_larger_limit_serves_who_waits_and_a_smaller_one_shows_what_is_too_much() {
        let mut pool = pool(1);
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        pool.wait('a');
        pool.wait('b');
        let mut served = Served::new();
        let sizes = |size| Sizes { size, ..Sizes::default() };
        assert_eq!(pool.resize(sizes(2), some, to(&mut served)), None);
        assert_eq!(served, [('a', Handed::Connect(()))]);
        assert_eq!((pool.total(), pool.surplus()), (2, 0));
        assert_eq!(pool.resize(sizes(1), some, nobody), None);
        assert_eq!((pool.total(), pool.surplus(), pool.waiting_count()), (2, 1, 1));
    }

    #[test]
    fn while_logins_fail_who_waits_gets_a_server_or_hears_that_there_is_none() {
        let mut pool = pool(3);
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        pool.hold(Connecting::Refused);
        assert_eq!(pool.closed(some, nobody), None);
        // One server is left: it is waited for.
        assert_eq!(pool.acquire(some), Acquire::Busy);
        pool.wait('a');
        let mut served = Served::new();
        pool.release(7, to(&mut served));
        assert_eq!(served, [('a', Handed::Server(7))]);
        pool.wait('b');
        assert_eq!(pool.closed(some, nobody), None);
        assert_eq!((pool.waiting_count(), pool.acquire(some)), (0, Acquire::Failing));
        assert_eq!(pool.resume(some, nobody), None);
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
    }

    #[test]
    fn while_postgresql_cannot_be_reached_who_needs_a_server_waits_and_connects_first() {
        let mut pool = pool(2);
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        pool.hold(Connecting::Unreachable);
        pool.wait('a');
        assert_eq!(pool.closed(some, nobody), None);
        assert_eq!((pool.total(), pool.waiting_count()), (0, 1));
        assert_eq!(pool.acquire(some), Acquire::Busy);
        let mut served = Served::new();
        assert_eq!(pool.resume(some, to(&mut served)), None);
        assert_eq!(served, [('a', Handed::Connect(()))]);
        assert_eq!(pool.total(), 1);
    }

    #[test]
    fn while_it_is_paused_everybody_waits_and_what_comes_free_is_closed() {
        let mut pool = pool(2);
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        assert_eq!(pool.set_hold(Some(Hold::Paused), some, nobody), None);
        assert_eq!(pool.acquire(some), Acquire::Busy);
        assert_eq!((pool.take_free(), pool.take_reserve(some)), (None, None));
        assert_eq!(pool.warm(2, some), []);
        pool.wait('a');
        assert!(pool.closes());
        assert_eq!(pool.closed(some, nobody), None);
        assert_eq!((pool.total(), pool.waiting_count()), (0, 1));
        let mut served = Served::new();
        assert_eq!(pool.set_hold(None, some, to(&mut served)), None);
        assert_eq!(served, [('a', Handed::Connect(()))]);
    }

    #[test]
    fn while_it_is_suspended_servers_are_kept_for_who_waits() {
        let mut pool = pool(2);
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        assert_eq!(pool.set_hold(Some(Hold::Suspended), some, nobody), None);
        pool.wait('a');
        assert!(!pool.closes());
        assert_eq!(pool.release(7, nobody), Released::Idle);
        assert_eq!(pool.idle_count(), 1);
        let mut served = Served::new();
        assert_eq!(pool.set_hold(None, some, to(&mut served)), None);
        assert_eq!(served, [('a', Handed::Server(7))]);
    }

    #[test]
    fn when_it_stops_nobody_waits_any_more() {
        let mut pool = pool(1);
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        pool.wait('a');
        assert_eq!(pool.set_hold(Some(Hold::Stopping), some, nobody), None);
        assert_eq!((pool.waiting_count(), pool.acquire(some)), (0, Acquire::Stopping));
        assert!(pool.closes());
    }

    #[test]
    fn the_server_that_is_preferred_is_used_next() {
        let mut pool = pool(3);
        for _ in 1..=3 {
            assert_eq!(pool.acquire(some), Acquire::Connect(()));
        }
        for server in 1..=3 {
            pool.release(server, left);
        }
        pool.prefer(|server| *server == 2);
        assert_eq!(pool.acquire(some), Acquire::Granted(2));
        assert_eq!(pool.acquire(some), Acquire::Granted(3));
        assert_eq!(pool.take_idle(|server| *server == 1), [1]);
        assert_eq!(pool.total(), 2);
        pool.release(3, left);
        pool.release(2, left);
        let sizes = Sizes { size: 3, reserve: 0, round_robin: true };
        assert_eq!(pool.resize(sizes, some, nobody), None);
        pool.prefer(|server| *server == 2);
        assert_eq!(pool.acquire(some), Acquire::Granted(2));
    }

    #[test]
    fn at_a_limit_over_several_pools_who_waits_connects_when_another_gives_way() {
        let mut pool = pool(2);
        assert_eq!(pool.acquire(none), Acquire::Busy);
        assert_eq!(pool.connecting(), Connecting::Starved);
        assert!(!pool.is_starved(), "nobody waits");
        pool.wait('a');
        pool.wait('b');
        assert!(pool.is_starved());
        let mut served = Served::new();
        let mut room = 1;
        let claim = || {
            room -= 1;
            (room == 0).then_some(())
        };
        assert_eq!(pool.feed(claim, to(&mut served)), None);
        assert_eq!(served, [('a', Handed::Connect(()))]);
        assert_eq!((pool.total(), pool.connecting()), (1, Connecting::Starved));
    }

    #[test]
    fn a_claim_that_nobody_waits_for_any_more_is_given_back() {
        let mut pool = pool(2);
        pool.wait('a');
        assert_eq!(pool.feed(some, left), Some(()));
        assert_eq!((pool.total(), pool.waiting_count()), (0, 0));
    }

    #[test]
    fn the_reserve_is_beyond_the_size_and_no_surplus() {
        let mut pool = Pool::new(Sizes { size: 1, reserve: 1, ..Sizes::default() });
        assert_eq!(pool.acquire(some), Acquire::Connect(()));
        assert_eq!(pool.acquire(some), Acquire::Busy);
        assert_eq!(pool.take_reserve(none), None);
        assert_eq!(pool.take_reserve(some), Some(()));
        assert_eq!((pool.total(), pool.surplus()), (2, 0));
        assert_eq!(pool.take_reserve(some), None);
    }

    #[test]
    fn servers_are_connected_ahead_of_need_within_every_limit() {
        let mut pool = pool(2);
        assert_eq!(pool.warm(5, some).len(), 2);
        assert_eq!(pool.warm(5, some).len(), 0);
        let mut other = Pool::new(Sizes { size: 5, ..Sizes::default() });
        let mut room = 3;
        let claim = || {
            room -= 1;
            (room > 0).then_some(())
        };
        assert_eq!(other.warm(5, claim).len(), 2);
        // Nobody waits for it, so nobody has to give way.
        assert_eq!(other.connecting(), Connecting::Allowed);
    }

    #[test]
    fn the_server_used_last_is_used_next_unless_they_take_turns() {
        let mut pool = pool(2);
        pool.acquire(some);
        pool.acquire(some);
        pool.release(1, left);
        pool.release(2, left);
        assert_eq!(pool.acquire(some), Acquire::Granted(2));
        pool.release(2, left);
        let sizes = Sizes { size: 2, reserve: 0, round_robin: true };
        assert_eq!(pool.resize(sizes, some, nobody), None);
        assert_eq!(pool.acquire(some), Acquire::Granted(1));
        assert_eq!(pool.take_idle(|server| *server == 2), [2]);
        assert_eq!(pool.total(), 1);
    }

    #[test]
    fn the_oldest_idle_server_gives_way() {
        let mut pool = pool(2);
        pool.acquire(some);
        pool.acquire(some);
        pool.release(9, left);
        pool.release(4, left);
        assert_eq!(pool.take_oldest(|server| *server), Some(4));
        assert_eq!((pool.total(), pool.idle_count()), (1, 1));
    }
}
