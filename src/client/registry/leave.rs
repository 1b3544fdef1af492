//! Telling a client from outside that it has to leave, and why: its task is woken, and hears it once.

use std::future::poll_fn;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use crate::client::close::CloseReason;

use super::Entry;

/// Why a client that did nothing has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The operator says so: at once.
    Killed,
    /// At the end of its transaction.
    ShuttingDown,
    /// What its database is has changed. At the end of its transaction.
    Reconfigured,
    /// It has not taken what it was sent, and all is to be suspended: at once.
    SuspendTimeout,
}

/// What its task has not heard yet. A `Notify` would do, but cost a waiter made and dropped at
/// each turn of the task, which looks here several times a query.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    asked: Option<Leave>,
    waker: Option<Waker>,
}

impl Leave {
    pub fn at_once(self) -> bool {
        matches!(self, Self::Killed | Self::SuspendTimeout)
    }

    pub fn reason(self) -> CloseReason {
        match self {
            Self::Killed => CloseReason::AdminKill,
            Self::ShuttingDown => CloseReason::Stopping,
            Self::SuspendTimeout => CloseReason::SuspendTimeout,
            Self::Reconfigured => CloseReason::Reconfigured,
        }
    }
}

impl Entry {
    pub fn ask_to_leave(&self, leave: Leave) {
        let waker = {
            let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            leaving.asked = Some(leave);
            self.asked_to_leave.store(true, Ordering::Release);
            leaving.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Has its task look round.
    pub fn wake(&self) {
        let waker = {
            let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            leaving.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether `poll_asked_to_leave` would be ready, for who is not going to wait.
    pub fn is_asked_to_leave(&self) -> bool {
        self.asked_to_leave.load(Ordering::Acquire)
    }

    /// Ready each time it has been asked. Only one task may wait.
    pub fn poll_asked_to_leave(&self, cx: &mut Context<'_>) -> Poll<Leave> {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leave) = leaving.asked.take() {
            self.asked_to_leave.store(false, Ordering::Release);
            return Poll::Ready(leave);
        }
        if !leaving.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            leaving.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// See `poll_asked_to_leave`. Cancel-safe.
    pub async fn asked_to_leave(&self) -> Leave {
        poll_fn(|cx| self.poll_asked_to_leave(cx)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::hello;
    use super::super::{Registry, Room};
    use super::*;

    #[test]
    fn that_it_is_to_leave_is_to_be_seen_until_it_has_heard_so() {
        let registry = Arc::new(Registry::default());
        let one = registry.enter(hello("app", "ann"), Room::UNLIMITED).unwrap();
        let mut context = Context::from_waker(Waker::noop());
        assert!(!one.entry.is_asked_to_leave());
        assert!(one.entry.poll_asked_to_leave(&mut context).is_pending());
        one.entry.ask_to_leave(Leave::ShuttingDown);
        assert!(one.entry.is_asked_to_leave());
        let heard = one.entry.poll_asked_to_leave(&mut context);
        assert_eq!(heard, Poll::Ready(Leave::ShuttingDown));
        assert!(!one.entry.is_asked_to_leave());
    }
}
