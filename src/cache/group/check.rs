//! A client's question to the group, from when it asks to when K has answered.

use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// A client's question whether what is known here is what K says.
#[derive(Debug, Default)]
pub struct Check(Mutex<Checking>);

#[derive(Debug, Default)]
struct Checking {
    answer: Option<bool>,
    waker: Option<Waker>,
}

impl Check {
    pub(super) fn answer(&self, holds: bool) {
        let mut checking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        checking.answer = Some(holds);
        if let Some(waker) = checking.waker.take() {
            waker.wake();
        }
    }

    /// Whether K is open, and all it says of what was asked about is known here now.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut checking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = checking.answer {
            return Poll::Ready(answer);
        }
        checking.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
