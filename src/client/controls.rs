//! Statements that change what the client is, applied when PostgreSQL has confirmed them.

use std::sync::Arc;

use crate::server::Server;
use crate::server::settings::Settings;
use crate::sql::classify::looks_up_names;
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
                self.work.transaction.begin(isolation, &settings);
            }
            Control::Commit { chain } => self.end_transaction(rolled_back, *chain, server),
            Control::Rollback { chain } => self.end_transaction(true, *chain, server),
            Control::PrepareTransaction(gid) => {
                if !rolled_back && self.work.transaction.wrote_tables_alone() {
                    server.home.prepared.note(gid);
                }
                self.end_transaction(rolled_back, false, server);
            }
            Control::Savepoint(name) => {
                let settings = Arc::clone(&self.settings);
                self.work.transaction.savepoint(name.clone(), &settings);
            }
            Control::ReleaseSavepoint(name) => self.work.transaction.release_savepoint(name),
            Control::RollbackToSavepoint(name) => self.roll_back_to(name, server),
            Control::SetTransaction { isolation } => {
                self.work.transaction.set_isolation(*isolation);
            }
            Control::Set { name, value, local } => self.follow(name, value, *local, server),
            Control::Reset { name, local } => {
                // The server falls back to its own default, the client to what it started with.
                let on_server = server.applied.reset(name, &server.initial);
                let settings = self.settings.reset(name, &self.startup);
                if self.concerns_names(name, *local) {
                    let in_force = self.in_force().reset(name, &self.startup);
                    self.work.transaction.set_local(in_force);
                }
                self.change(&settings, &on_server, *local, server);
            }
            Control::ResetAll => self.reset_all(server),
            Control::DiscardAll => self.discard_all(server),
            Control::Deallocate(None) => {
                self.names.prepared.clear();
                server.statements.clear();
            }
            Control::LockTable => self.work.transaction.own = true,
            Control::NeutralSetting => server.untidy = true,
            Control::Unreplayable => {
                server.tainted = true;
                self.tainted = true;
            }
            Control::ChangeDefaults
            | Control::ChangeRoles
            | Control::Vacate(_)
            | Control::CommitPrepared(_)
            | Control::RollbackPrepared(_)
            | Control::DiscardTemporary
            | Control::DiscardPlans
            | Control::DiscardSequences
            | Control::PrepareStatement
            | Control::Deallocate(Some(_))
            | Control::Listen
            | Control::Unlisten { .. }
            | Control::DeclareCursor { .. }
            | Control::CloseCursor { .. }
            | Control::CreateTemporary { .. }
            | Control::AdvisoryLock
            | Control::AdvisoryUnlockAll
            | Control::Copy => {}
        }
        if matches!(control, Control::DiscardAll | Control::DiscardTemporary) {
            self.temporary_code = false;
        }
        if self.common.pin_policy != crate::pool::PinPolicy::Ignore {
            self.pins.apply(control);
        }
    }

    fn discard_all(&mut self, server: &mut Server) {
        self.names.prepared.clear();
        self.names.unnamed = None;
        self.tainted = false;
        server.forget_client();
        let startup = Arc::clone(&self.startup);
        self.report_returned(&startup, server);
        self.settings = startup;
    }

    fn roll_back_to(&mut self, name: &str, server: &mut Server) {
        match self.work.transaction.roll_back_to(name) {
            Some(settings) => self.set(settings, server),
            None => self.forget_settings(server),
        }
        if self.work.transaction.local().is_some() {
            // Some of it may have been taken back.
            self.work.transaction.lose_local();
        }
    }

    /// One setting more; one too many stays where it is, and the client with it.
    fn follow(&mut self, name: &str, value: &str, local: bool, server: &mut Server) {
        if self.settings.has_room_for(name) && self.in_force().has_room_for(name) {
            let settings = self.settings.with(name, value);
            if self.concerns_names(name, local) {
                let in_force = self.in_force().with(name, value);
                self.work.transaction.set_local(in_force);
            }
            self.change(&settings, &settings, local, server);
            return;
        }
        if local || self.work.transaction.local().is_some() {
            self.work.transaction.lose_local();
        }
        server.tainted = true;
        self.tainted = true;
        if self.common.pin_policy != crate::pool::PinPolicy::Ignore {
            self.pins.apply(&Control::Unreplayable);
        }
    }

    /// RESET ALL leaves the role.
    fn reset_all(&mut self, server: &mut Server) {
        let role = self.settings.value("role").map(str::to_owned);
        let keep = |settings: &Settings| match &role {
            Some(role) => settings.with("role", role),
            None => settings.reset("role", &Settings::none()),
        };
        let (settings, on_server) = (keep(&self.startup), keep(&server.initial));
        if self.work.transaction.local().is_some() {
            self.work.transaction.set_local(Arc::clone(&settings));
        }
        self.change(&settings, &on_server, false, server);
    }

    pub(super) fn default_isolation(&self) -> Isolation {
        self.facts.as_ref().map_or(Isolation::Serializable, |facts| facts.isolation)
    }

    fn end_transaction(&mut self, rolled_back: bool, chain: bool, server: &mut Server) {
        if rolled_back && let Some(settings) = self.work.transaction.begun_with().cloned() {
            self.set(settings, server);
        }
        let (goes_on, settings) = (self.work.goes_on_writing(), Arc::clone(&self.settings));
        self.work.transaction.end(chain, goes_on, &settings);
    }

    /// The settings that PostgreSQL looks up names by now.
    pub(super) fn in_force(&self) -> &Arc<Settings> {
        self.work.transaction.local().unwrap_or(&self.settings)
    }

    /// Whether names of the transaction are looked up by other settings than the session's from
    /// here on. Other settings of its own concern reads alone, which are not served meanwhile.
    fn concerns_names(&self, name: &str, local: bool) -> bool {
        looks_up_names(name) && (local || self.work.transaction.local().is_some())
    }

    /// SET LOCAL and its kin hold until the transaction ends; of them only what names are looked up
    /// by is followed, by the caller.
    /// What the client should have and the server has not is replayed before its next statement,
    /// which must not be inside a transaction that could take it back.
    fn change(
        &mut self,
        settings: &Arc<Settings>,
        on_server: &Arc<Settings>,
        local: bool,
        server: &mut Server,
    ) {
        if local {
            self.work.transaction.local_settings = true;
            return;
        }
        if !self.work.transaction.is_block() {
            // The rest of the group or string may fail and take it back.
            self.work.transaction.begin_with(&self.settings);
        }
        if self.work.transaction.status != Status::Idle && settings.id != on_server.id {
            self.forget_settings(server);
        }
        self.report_returned(settings, server);
        server.applied = Arc::clone(on_server);
        self.settings = Arc::clone(settings);
    }

    /// What the server is only told later but the client falls back to now is reported now, as
    /// PostgreSQL would.
    fn report_returned(&mut self, settings: &Settings, server: &Server) {
        if server.initial.id == self.startup.id {
            return;
        }
        for (name, value) in &self.startup.values {
            let returns = settings.values.get(name) == Some(value);
            if returns && self.settings.values.get(name) != Some(value) {
                self.work.returned.push(name.clone());
            }
        }
    }

    /// The server has these settings now, and so has the client.
    pub(super) fn set(&mut self, settings: Arc<Settings>, server: &mut Server) {
        server.applied = Arc::clone(&settings);
        self.settings = settings;
    }

    /// What the settings are now is not known; the server is cleaned before its next use.
    pub(super) fn forget_settings(&mut self, server: &mut Server) {
        server.tainted = true;
        self.tainted = true;
    }
}
