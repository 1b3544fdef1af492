//! Session state that cannot be replayed on another server, and so ties a client to its server
//! until it is gone. Counted and shown with its cause.

use crate::sql::verdict::Control;

/// Why a client keeps its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pin {
    Listen,
    TemporaryObjects,
    AdvisoryLock,
    HoldCursor,
    SqlPrepare,
    SessionState,
}

impl Pin {
    pub const ALL: [Self; 6] = [
        Self::Listen,
        Self::TemporaryObjects,
        Self::AdvisoryLock,
        Self::HoldCursor,
        Self::SqlPrepare,
        Self::SessionState,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::TemporaryObjects => "temporary_objects",
            Self::AdvisoryLock => "advisory_lock",
            Self::HoldCursor => "hold_cursor",
            Self::SqlPrepare => "sql_prepare",
            Self::SessionState => "session_state",
        }
    }

    fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

/// The causes in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u8);

impl Pins {
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn has(self, pin: Pin) -> bool {
        self.0 & pin.bit() != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Pin> {
        Pin::ALL.into_iter().filter(move |pin| self.has(*pin))
    }

    fn add(&mut self, pin: Pin) {
        self.0 |= pin.bit();
    }

    fn remove(&mut self, pin: Pin) {
        self.0 &= !pin.bit();
    }

    /// The first cause that these statements would add.
    pub fn added_by(controls: &[Control]) -> Option<Pin> {
        let mut pins = Self::default();
        for control in controls {
            pins.apply(control);
        }
        pins.iter().next()
    }

    /// What a completed statement did to them.
    pub fn apply(&mut self, control: &Control) {
        match control {
            Control::Listen => self.add(Pin::Listen),
            Control::Unlisten { all: true } => self.remove(Pin::Listen),
            Control::CreateTemporary { .. } => self.add(Pin::TemporaryObjects),
            Control::DiscardTemporary => self.remove(Pin::TemporaryObjects),
            Control::AdvisoryLock => self.add(Pin::AdvisoryLock),
            Control::AdvisoryUnlockAll => self.remove(Pin::AdvisoryLock),
            Control::DeclareCursor { hold: true } => self.add(Pin::HoldCursor),
            Control::CloseCursor { all: true } => self.remove(Pin::HoldCursor),
            Control::PrepareStatement => self.add(Pin::SqlPrepare),
            Control::Deallocate(None) => self.remove(Pin::SqlPrepare),
            Control::Unreplayable => self.add(Pin::SessionState),
            Control::DiscardAll => *self = Self::default(),
            Control::Begin { .. }
            | Control::Commit { .. }
            | Control::Rollback { .. }
            | Control::Savepoint(_)
            | Control::ReleaseSavepoint(_)
            | Control::RollbackToSavepoint(_)
            | Control::PrepareTransaction(_)
            | Control::CommitPrepared(_)
            | Control::RollbackPrepared(_)
            | Control::ChangeDefaults
            | Control::ChangeRoles
            | Control::Vacate(_)
            | Control::SetTransaction { .. }
            | Control::Set { .. }
            | Control::Reset { .. }
            | Control::ResetAll
            | Control::NeutralSetting
            | Control::DiscardPlans
            | Control::DiscardSequences
            | Control::Deallocate(Some(_))
            | Control::Unlisten { all: false }
            | Control::DeclareCursor { hold: false }
            | Control::CloseCursor { all: false }
            | Control::LockTable
            | Control::Copy => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_stays_until_its_cause_is_gone() {
        let mut pins = Pins::default();
        pins.apply(&Control::Listen);
        pins.apply(&Control::AdvisoryLock);
        pins.apply(&Control::Unlisten { all: false });
        assert_eq!(pins.iter().map(Pin::name).collect::<Vec<_>>(), ["listen", "advisory_lock"]);
        pins.apply(&Control::Unlisten { all: true });
        assert_eq!(pins.iter().map(Pin::name).collect::<Vec<_>>(), ["advisory_lock"]);
        pins.apply(&Control::DiscardAll);
        assert!(pins.is_empty());
    }
}
