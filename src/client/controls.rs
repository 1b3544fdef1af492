//! Statements that change what the client is, applied when PostgreSQL has confirmed them.

use std::sync::Arc;

use crate::server::Server;
use crate::server::settings::Settings;
use crate::sql::verdict::{Control, Isolation};
use crate::wire::backend::Status;

use super::session::Session;

impl Session {
    /// One confirmed statement. `rolled_back`: its command tag was ROLLBACK, which COMMIT answers
    /// in a failed transaction (hazard D7).
    pub fn apply(&mut self, control: &Control, rolled_back: bool, server: &mut Server) {
        match control {
            Control::Begin { isolation } => {
                let isolation = isolation.unwrap_or_else(|| self.default_isolation());
                let settings = Arc::clone(&self.settings);
                self.transaction.begin(isolation, &settings);
            }
            Control::Commit { chain } => self.end_transaction(rolled_back, *chain, server),
            Control::Rollback { chain } => self.end_transaction(true, *chain, server),
            Control::PrepareTransaction => self.end_transaction(rolled_back, false, server),
            Control::Savepoint(name) => {
                let settings = Arc::clone(&self.settings);
                self.transaction.savepoint(name.clone(), &settings);
            }
            Control::ReleaseSavepoint(name) => self.transaction.release_savepoint(name),
            Control::RollbackToSavepoint(name) => match self.transaction.roll_back_to(name) {
                Some(settings) => self.set(settings, server),
                None => self.forget_settings(server),
            },
            Control::SetTransaction { isolation } => self.transaction.set_isolation(*isolation),
            Control::Set { name, value, local } => {
                let settings = self.settings.with(name, value);
                self.change(settings, *local, server);
            }
            Control::Reset { name, local } => {
                let settings = self.settings.reset(name, &self.startup);
                // The server's own default is not what this client started with.
                let differs = settings.value(name).is_some();
                self.change(settings, *local, server);
                self.reassume(differs, server);
            }
            Control::ResetAll => {
                let role = self.settings.value("role").map(str::to_owned);
                let mut settings = Arc::clone(&self.startup);
                if let Some(role) = role {
                    settings = settings.with("role", &role);
                }
                let differs = !self.startup.values.is_empty();
                self.change(settings, false, server);
                self.reassume(differs, server);
            }
            Control::DiscardAll => {
                let differs = !self.startup.values.is_empty();
                self.names.prepared.clear();
                self.names.unnamed = None;
                server.statements.clear();
                server.unnamed = None;
                server.tainted = false;
                self.tainted = false;
                self.change(Arc::clone(&self.startup), false, server);
                self.reassume(differs, server);
            }
            Control::Deallocate(None) => {
                self.names.prepared.clear();
                server.statements.clear();
            }
            Control::LockTable => self.transaction.own = true,
            Control::Unreplayable => {
                server.tainted = true;
                self.tainted = true;
            }
            Control::CommitPrepared
            | Control::DiscardTemporary
            | Control::DiscardPlans
            | Control::DiscardSequences
            | Control::PrepareStatement
            | Control::Deallocate(Some(_))
            | Control::Listen
            | Control::Unlisten { .. }
            | Control::DeclareCursor { .. }
            | Control::CloseCursor { .. }
            | Control::CreateTemporary
            | Control::AdvisoryLock
            | Control::AdvisoryUnlockAll
            | Control::Copy => {}
        }
        if self.common.pin_policy != crate::pool::PinPolicy::Ignore {
            self.pins.apply(control);
        }
    }

    fn default_isolation(&self) -> Isolation {
        self.facts.as_ref().map_or(Isolation::Serializable, |facts| facts.isolation)
    }

    fn end_transaction(&mut self, rolled_back: bool, chain: bool, server: &mut Server) {
        if rolled_back && let Some(settings) = self.transaction.begun_with().cloned() {
            self.set(settings, server);
        }
        let settings = Arc::clone(&self.settings);
        self.transaction.end(chain, &settings);
    }

    /// SET LOCAL and its kin hold until the transaction ends; until then we do not follow them.
    fn change(&mut self, settings: Arc<Settings>, local: bool, server: &mut Server) {
        if local {
            self.transaction.local_settings = true;
        } else {
            self.set(settings, server);
        }
    }

    /// The server has these settings now, and so has the client.
    fn set(&mut self, settings: Arc<Settings>, server: &mut Server) {
        server.applied = Arc::clone(&settings);
        self.settings = settings;
    }

    /// After RESET the server has its own default where the client had one from its startup:
    /// the difference is replayed before its next statement.
    fn reassume(&mut self, differs: bool, server: &mut Server) {
        if differs {
            server.applied = Settings::none();
            if self.transaction.status == Status::Idle {
                self.reassume_needed = true;
            } else {
                self.forget_settings(server);
            }
        }
    }

    /// What the settings are now is not known; the server is cleaned before its next use.
    fn forget_settings(&mut self, server: &mut Server) {
        server.tainted = true;
        self.tainted = true;
    }
}
