//! Idle servers, waiting clients and the limit between them: who gets what, in what order.
//!
//! Idle servers are taken last in first out, so that few stay warm and the rest grow old; clients
//! are served first in first out.

use std::collections::VecDeque;

/// `S` is a server, `W` a client that waits.
#[derive(Debug)]
pub struct State<S, W> {
    idle: Vec<S>,
    waiting: VecDeque<W>,
    /// Servers idle, in use, or being connected.
    total: usize,
    size: usize,
    /// Connecting has failed; nobody is to try until `resume`.
    held: bool,
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

/// The answer to a client that wants a server.
#[derive(Debug, PartialEq, Eq)]
pub enum Acquire<S> {
    Granted(S),
    /// There is room: connect one. Its place is counted already.
    Connect,
    /// None is free; register with `wait`.
    Busy,
    /// There is none, and connecting has failed a moment ago.
    Failing,
    /// There will be none any more.
    Stopping,
}

/// What a waiting client is handed.
#[derive(Debug, PartialEq, Eq)]
pub enum Handed<S> {
    Server(S),
    /// A place has become free: connect one. Its place is counted already.
    Connect,
}

impl<S, W> State<S, W> {
    pub fn new(size: usize) -> Self {
        Self { idle: Vec::new(), waiting: VecDeque::new(), total: 0, size, held: false, hold: None }
    }

    pub fn acquire(&mut self) -> Acquire<S> {
        match self.hold {
            Some(Hold::Stopping) => return Acquire::Stopping,
            Some(Hold::Paused | Hold::Suspended) => return Acquire::Busy,
            None => {}
        }
        // Who waits already goes first.
        if self.waiting.is_empty() {
            if let Some(server) = self.idle.pop() {
                return Acquire::Granted(server);
            }
            if self.total < self.size && !self.held {
                self.total += 1;
                return Acquire::Connect;
            }
        }
        if self.held && self.total == 0 { Acquire::Failing } else { Acquire::Busy }
    }

    pub fn wait(&mut self, waiter: W) {
        self.waiting.push_back(waiter);
    }

    /// A server is free again. `hand` gives it to a waiter, or gives it back if that has left.
    pub fn release(
        &mut self,
        server: S,
        mut hand: impl FnMut(W, Handed<S>) -> Result<(), Handed<S>>,
    ) {
        if self.hold.is_some() {
            self.idle.push(server);
            return;
        }
        let mut handed = Handed::Server(server);
        while let Some(waiter) = self.waiting.pop_front() {
            match hand(waiter, handed) {
                Ok(()) => return,
                Err(back) => handed = back,
            }
        }
        if let Handed::Server(server) = handed {
            self.idle.push(server);
        }
    }

    /// A server is gone, or could not be connected; its place goes to who waits.
    pub fn closed(&mut self, mut hand: impl FnMut(W, Handed<S>) -> Result<(), Handed<S>>) {
        self.total = self.total.saturating_sub(1);
        self.fill_places(&mut hand);
        if self.held && self.total == 0 && self.hold.is_none() {
            // Nothing will come free: who waits is to look why.
            self.waiting.clear();
        }
    }

    /// From now on nobody gets a server, or everybody may again: first who waits.
    pub fn set_hold(
        &mut self,
        hold: Option<Hold>,
        mut hand: impl FnMut(W, Handed<S>) -> Result<(), Handed<S>>,
    ) {
        self.hold = hold;
        match hold {
            Some(Hold::Stopping) => self.waiting.clear(),
            Some(Hold::Paused | Hold::Suspended) => {}
            None => {
                for server in std::mem::take(&mut self.idle) {
                    self.release(server, &mut hand);
                }
                self.fill_places(&mut hand);
                if self.held && self.total == 0 {
                    self.waiting.clear();
                }
            }
        }
    }

    /// Servers that come free are closed.
    pub fn closes(&self) -> bool {
        matches!(self.hold, Some(Hold::Paused | Hold::Stopping))
    }

    pub fn hold_now(&self) -> Option<Hold> {
        self.hold
    }

    /// Connecting has failed: until `resume` nobody tries.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Connecting may be tried again, first by who waits.
    pub fn resume(&mut self, mut hand: impl FnMut(W, Handed<S>) -> Result<(), Handed<S>>) {
        self.held = false;
        self.fill_places(&mut hand);
    }

    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Another limit: who waits gets what it adds. What is too much is closed when free, by
    /// `surplus`.
    pub fn resize(
        &mut self,
        size: usize,
        mut hand: impl FnMut(W, Handed<S>) -> Result<(), Handed<S>>,
    ) {
        self.size = size;
        self.fill_places(&mut hand);
    }

    /// Servers beyond the limit.
    pub fn surplus(&self) -> usize {
        self.total.saturating_sub(self.size)
    }

    fn fill_places(&mut self, hand: &mut impl FnMut(W, Handed<S>) -> Result<(), Handed<S>>) {
        while self.total < self.size && !self.held && self.hold.is_none() {
            let Some(waiter) = self.waiting.pop_front() else { return };
            if hand(waiter, Handed::Connect).is_ok() {
                self.total += 1;
            }
        }
    }

    /// Takes out the idle servers that are due, to be closed by the caller.
    pub fn take_idle(&mut self, due: impl FnMut(&mut S) -> bool) -> Vec<S> {
        let taken: Vec<S> = self.idle.extract_if(.., due).collect();
        self.total = self.total.saturating_sub(taken.len());
        taken
    }

    pub fn idle(&self) -> impl Iterator<Item = &S> {
        self.idle.iter()
    }

    pub fn idle_count(&self) -> usize {
        self.idle.len()
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

    #[test]
    fn servers_are_connected_up_to_the_size() {
        let mut pool = Pool::new(2);
        assert_eq!(pool.acquire(), Acquire::Connect);
        assert_eq!(pool.acquire(), Acquire::Connect);
        assert_eq!(pool.acquire(), Acquire::Busy);
    }

    #[test]
    fn clients_are_served_in_the_order_they_came() {
        let mut pool = Pool::new(1);
        assert_eq!(pool.acquire(), Acquire::Connect);
        pool.wait('a');
        pool.wait('b');
        let mut served = Vec::new();
        pool.release(7, |waiter, server| {
            served.push((waiter, server));
            Ok(())
        });
        assert_eq!(served, [('a', Handed::Server(7))]);
        // A newcomer does not overtake who waits.
        assert_eq!(pool.acquire(), Acquire::Busy);
    }

    #[test]
    fn a_waiter_that_left_is_passed_over_and_no_server_is_lost() {
        let mut pool = Pool::new(1);
        assert_eq!(pool.acquire(), Acquire::Connect);
        pool.wait('a');
        pool.release(7, |_, server| Err(server));
        assert_eq!(pool.idle_count(), 1);
        assert_eq!(pool.acquire(), Acquire::Granted(7));
    }

    #[test]
    fn a_lost_server_lets_a_waiter_connect() {
        let mut pool = Pool::new(1);
        assert_eq!(pool.acquire(), Acquire::Connect);
        pool.wait('a');
        let mut served = Vec::new();
        pool.closed(|waiter, handed| {
            served.push((waiter, handed));
            Ok(())
        });
        assert_eq!(served, [('a', Handed::Connect)]);
        assert_eq!(pool.total(), 1);
    }

    #[test]
    fn a_larger_limit_serves_who_waits_and_a_smaller_one_shows_what_is_too_much() {
        let mut pool = Pool::new(1);
        assert_eq!(pool.acquire(), Acquire::Connect);
        pool.wait('a');
        pool.wait('b');
        let mut served = Vec::new();
        pool.resize(2, |waiter, handed| {
            served.push((waiter, handed));
            Ok(())
        });
        assert_eq!(served, [('a', Handed::Connect)]);
        assert_eq!((pool.total(), pool.surplus()), (2, 0));
        pool.resize(1, |_, handed| Err(handed));
        assert_eq!((pool.total(), pool.surplus(), pool.waiting_count()), (2, 1, 1));
    }

    #[test]
    fn while_connecting_fails_who_waits_gets_a_server_or_hears_that_there_is_none() {
        let mut pool = Pool::new(3);
        let nobody = |_, _| panic!("nobody connects");
        assert_eq!(pool.acquire(), Acquire::Connect);
        assert_eq!(pool.acquire(), Acquire::Connect);
        pool.hold();
        pool.closed(nobody);
        // One server is left: it is waited for.
        assert_eq!(pool.acquire(), Acquire::Busy);
        pool.wait('a');
        let mut served = Vec::new();
        pool.release(7, |waiter, server| {
            served.push((waiter, server));
            Ok(())
        });
        assert_eq!(served, [('a', Handed::Server(7))]);
        pool.wait('b');
        pool.closed(nobody);
        assert_eq!((pool.waiting_count(), pool.acquire()), (0, Acquire::Failing));
        pool.resume(nobody);
        assert_eq!(pool.acquire(), Acquire::Connect);
    }

    #[test]
    fn who_waits_is_the_first_to_connect_again() {
        let mut pool = Pool::new(2);
        assert_eq!(pool.acquire(), Acquire::Connect);
        pool.hold();
        pool.wait('a');
        let mut served = Vec::new();
        pool.resume(|waiter, handed| {
            served.push((waiter, handed));
            Ok(())
        });
        assert_eq!(served, [('a', Handed::Connect)]);
        assert_eq!(pool.total(), 2);
    }

    #[test]
    fn while_it_is_paused_everybody_waits_and_what_comes_free_is_closed() {
        let mut pool = Pool::new(2);
        let nobody = |_, _| panic!("nobody is served");
        assert_eq!(pool.acquire(), Acquire::Connect);
        pool.set_hold(Some(Hold::Paused), nobody);
        assert_eq!(pool.acquire(), Acquire::Busy);
        pool.wait('a');
        assert!(pool.closes());
        pool.closed(nobody);
        assert_eq!((pool.total(), pool.waiting_count()), (0, 1));
        let mut served = Vec::new();
        pool.set_hold(None, |waiter, handed| {
            served.push((waiter, handed));
            Ok(())
        });
        assert_eq!(served, [('a', Handed::Connect)]);
    }

    #[test]
    fn while_it_is_suspended_servers_are_kept_for_who_waits() {
        let mut pool = Pool::new(2);
        let nobody = |_, _| panic!("nobody is served");
        assert_eq!(pool.acquire(), Acquire::Connect);
        pool.set_hold(Some(Hold::Suspended), nobody);
        pool.wait('a');
        assert!(!pool.closes());
        pool.release(7, nobody);
        assert_eq!(pool.idle_count(), 1);
        let mut served = Vec::new();
        pool.set_hold(None, |waiter, handed| {
            served.push((waiter, handed));
            Ok(())
        });
        assert_eq!(served, [('a', Handed::Server(7))]);
    }

    #[test]
    fn when_it_stops_nobody_waits_any_more() {
        let mut pool = Pool::new(1);
        assert_eq!(pool.acquire(), Acquire::Connect);
        pool.wait('a');
        pool.set_hold(Some(Hold::Stopping), |_, _| panic!("nobody is served"));
        assert_eq!((pool.waiting_count(), pool.acquire()), (0, Acquire::Stopping));
        assert!(pool.closes());
    }

    #[test]
    fn the_server_used_last_is_used_next() {
        let mut pool = Pool::new(2);
        pool.acquire();
        pool.acquire();
        pool.release(1, |_, server| Err(server));
        pool.release(2, |_, server| Err(server));
        assert_eq!(pool.acquire(), Acquire::Granted(2));
        assert_eq!(pool.take_idle(|server| *server == 1), [1]);
        assert_eq!(pool.total(), 1);
    }
}
