//! The line of clients that wait for a server of one pool, and how long they have.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::pool::state::Handed;

use super::{Claim, Idle, Next, Pool};

/// What the pool keeps of a place in line.
pub(super) struct Waiter {
    sender: oneshot::Sender<Handed<Idle, Claim>>,
    /// When the client began to wait, in this place or another.
    since: Instant,
}

impl Waiter {
    /// `None`: it has left.
    pub(super) fn since(&self) -> Option<Instant> {
        (!self.sender.is_closed()).then_some(self.since)
    }
}

/// Between two looks whether the reserve has room again.
const RESERVE_POLL: Duration = Duration::from_secs(1);

pub(super) fn hand(waiter: Waiter, handed: Handed<Idle, Claim>) -> Result<(), Handed<Idle, Claim>> {
    waiter.sender.send(handed)
}

/// A place in line; when dropped, what was handed to it goes back.
pub struct Line {
    pool: Arc<Pool>,
    since: Instant,
    receiver: Option<oneshot::Receiver<Handed<Idle, Claim>>>,
}

impl Line {
    /// The place of a client that waits since this moment, and what the pool keeps of it.
    pub(super) fn new(pool: &Arc<Pool>, since: Instant) -> (Self, Waiter) {
        let (sender, receiver) = oneshot::channel();
        let line = Self { pool: Arc::clone(pool), since, receiver: Some(receiver) };
        (line, Waiter { sender, since })
    }

    /// Waits for what is handed to it. Cancel-safe.
    pub async fn wait(mut self) -> Next {
        let mut reserve_at = self.pool.rules().reserve_at(self.since);
        loop {
            let Some(at) = reserve_at else { return poll_fn(|cx| self.poll_next(cx)).await };
            let next = poll_fn(|cx| self.poll_next(cx));
            if let Ok(next) = tokio::time::timeout_at(at.into(), next).await {
                return next;
            }
            if let Some(claim) = self.pool.take_reserve() {
                let (database, user) = (&self.pool.name, &self.pool.common.user);
                tracing::warn!(%database, %user, "taking connection from reserve_pool");
                return Next::Handed(Handed::Connect(claim));
            }
            reserve_at = Some(Instant::now() + RESERVE_POLL);
        }
    }

    /// Ready with what is handed to it, the reserve left aside.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let Some(receiver) = &mut self.receiver else { return Poll::Ready(Next::SentAway) };
        let handed = ready!(Pin::new(receiver).poll(cx));
        self.receiver = None;
        Poll::Ready(handed.map_or(Next::SentAway, Next::Handed))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(mut receiver) = self.receiver.take() else { return };
        receiver.close();
        match receiver.try_recv() {
            Ok(Handed::Server(idle)) => self.pool.put_back(idle),
            Ok(Handed::Connect(claim)) => drop(self.pool.place(claim)),
            Err(_nothing_was_sent) => {}
        }
    }
}
