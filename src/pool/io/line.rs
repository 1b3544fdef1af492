//! The line of clients that wait for a server of one pool, and how long they have.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::pool::state::Handed;

use super::{Claim, Idle, Pool};

pub(super) type Waiter = oneshot::Sender<Handed<Idle, Claim>>;

/// Between two looks whether the reserve has room again.
const RESERVE_POLL: Duration = Duration::from_secs(1);

pub(super) fn hand(waiter: Waiter, handed: Handed<Idle, Claim>) -> Result<(), Handed<Idle, Claim>> {
    waiter.send(handed)
}

/// A place in line; when dropped, what was handed to it goes back.
pub(super) struct Line {
    pool: Arc<Pool>,
    receiver: Option<oneshot::Receiver<Handed<Idle, Claim>>>,
}

impl Line {
    /// The place, and what the pool keeps of it.
    pub(super) fn new(pool: &Arc<Pool>) -> (Self, Waiter) {
        let (sender, receiver) = oneshot::channel();
        (Self { pool: Arc::clone(pool), receiver: Some(receiver) }, sender)
    }

    /// Waits, as one who began to at this moment. `None`: the pool has hung up. Cancel-safe.
    pub(super) async fn wait(mut self, began: Instant) -> Option<Handed<Idle, Claim>> {
        let mut reserve_at = self.pool.rules().reserve_at(began);
        loop {
            let Some(at) = reserve_at else { return self.next().await };
            if let Ok(handed) = tokio::time::timeout_at(at.into(), self.next()).await {
                return handed;
            }
            if let Some(claim) = self.pool.take_reserve() {
                let (database, user) = (&self.pool.name, &self.pool.common.user);
                tracing::warn!(%database, %user, "taking connection from reserve_pool");
                return Some(Handed::Connect(claim));
            }
            reserve_at = Some(Instant::now() + RESERVE_POLL);
        }
    }

    async fn next(&mut self) -> Option<Handed<Idle, Claim>> {
        let handed = match &mut self.receiver {
            Some(receiver) => receiver.await.ok(),
            None => None,
        };
        self.receiver = None;
        handed
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

/// Keeps the time at which a wait began, while it lasts.
pub(super) struct WaitingSince {
    pool: Arc<Pool>,
    id: u64,
    pub(super) at: Instant,
}

impl WaitingSince {
    pub(super) fn new(pool: &Arc<Pool>) -> Self {
        let id = pool.next_wait.fetch_add(1, Ordering::Relaxed);
        let mut since = pool.waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        since.insert(id, at);
        drop(since);
        Self { pool: Arc::clone(pool), id, at }
    }
}

impl Drop for WaitingSince {
    fn drop(&mut self) {
        self.pool.waiting_since.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
