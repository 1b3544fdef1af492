//! What an operator says of who may have a server: PAUSE, SUSPEND, SHUTDOWN.

use crate::pool::rules::Retirement;
use crate::pool::state::Hold;

use super::line::hand;
use super::{AcquireError, Pool};

impl Pool {
    /// Where servers are to be closed, idle ones are gone when this returns.
    pub fn set_hold(&self, hold: Option<Hold>) {
        let gone = self.change(|state, claim| {
            if state.hold_now() == hold {
                return (Vec::new(), None);
            }
            let spare = state.set_hold(hold, claim, hand);
            let gone = if state.closes() { state.take_idle(|_| true) } else { Vec::new() };
            (gone, spare)
        });
        for idle in &gone {
            self.log_end(&idle.connection, Retirement::Paused);
        }
    }

    /// Servers idle, in use, or being connected.
    pub fn total(&self) -> usize {
        self.state().total()
    }

    /// Why a client that waited is to wait no longer.
    pub(super) fn sent_away(&self) -> AcquireError {
        match self.state().hold_now() {
            Some(Hold::Stopping) => AcquireError::Stopping,
            Some(Hold::Paused | Hold::Suspended) | None => AcquireError::Failed(self.failure()),
        }
    }
}
