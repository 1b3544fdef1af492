//! What a statement may write for this client, and the commits that are put in flight before
//! they are sent.
//!
//! Invariant: whatever may commit puts its tables in flight before its bytes are in the buffer.
//! Attacked by the simulation and by the twin that acknowledges first.

use std::sync::Arc;

use crate::cache::Mode;
use crate::cache::coherence::Scope;
use crate::cache::home::Home;
use crate::pool::PoolMode;
use crate::server::Server;
use crate::server::base;
use crate::sql::classify::changes_names;
use crate::sql::footprint::Doubt;
use crate::sql::verdict::{Beyond, BypassReason, Control, Read, Verdict, Write};
use crate::twin::{self, Twin};

use super::pins::Pin;
use super::session::{Armed, Session};
use super::transaction::Dirty;

impl Session {
    /// Notes what the statement may write, and puts in flight what it may commit. `generation`: of
    /// the catalogue that the verdict is of, which may have been another since.
    pub(super) fn bracket(
        &mut self,
        verdict: &Verdict,
        generation: u64,
        server: &mut Server,
    ) -> Armed {
        for control in &verdict.controls {
            if let Control::Vacate(name) = control {
                self.work.vacate.push(name.clone());
            }
        }
        let discards =
            |control: &Control| matches!(control, Control::DiscardAll | Control::Deallocate(None));
        self.work.discards |= verdict.controls.iter().any(discards);
        self.work.unlocks |= verdict.controls.contains(&Control::DiscardAll);
        let renames = self.renames(verdict);
        // In one string what renames may be in front of what is named.
        self.work.transaction.renamed |= renames && verdict.statements > 1;
        let write = &self.effect(verdict);
        self.work.transaction.renamed |= renames;
        let trusted = self.is_unjudged() && server.home.group.is_none();
        let unjudged = matches!(write, Write::Opaque { .. }) && trusted;
        if (verdict.taints || matches!(write, Write::Opaque { taints: true, .. })) && !trusted {
            server.tainted = true;
            self.tainted = true;
        }
        // What sessions start with may change as well, which the poll sees: to have all servers log
        // in anew for each would be too dear.
        let write = if commits_unknown(verdict, &server.home) { &Write::Catalog } else { write };
        // What it writes was judged as if the catalogue had not been changed before.
        let late =
            self.work.transaction.catalog && !matches!(write, Write::None | Write::Schema(_));
        self.work.transaction.dirty.add(if late { &Write::Catalog } else { write });
        if *write != Write::None {
            self.work.transaction.judged_under.get_or_insert(generation);
        }
        if *write != Write::None {
            self.work.transaction.own = true;
        }
        if matches!(write, Write::Catalog | Write::Schema(_)) {
            self.work.transaction.catalog = true;
        }
        let beyond = verdict.controls.iter().map(Control::beyond).max().unwrap_or_default();
        self.work.transaction.beyond = self.work.transaction.beyond.max(beyond);
        let may_commit = if self.work.in_block {
            ends_block(verdict) || (commits_inside(verdict) && !is_atomic_in_block(verdict))
        } else {
            *write != Write::None || ends_block(verdict)
        };
        let stays = self.work.in_block && is_atomic_in_block(verdict);
        if ends_block(verdict) || (commits_inside(verdict) && !stays) || rolls_back(verdict) {
            self.work.in_block = false;
        }
        if !may_commit || self.is_bracketed_later() {
            return Armed::default();
        }
        let armed = self.arm(server, unjudged, verdict.tag);
        Armed { writes: *write != Write::None, ..armed }
    }

    /// Puts in flight what the transaction wrote so far; its commit may be sent from here on.
    ///
    /// A table may have become part of another since its write was judged, which then waited for
    /// that: after any change of the catalogue nobody knows what the write touched.
    pub(super) fn arm(&mut self, server: &mut Server, unjudged: bool, tag: &str) -> Armed {
        let generation = self.common.database.generation();
        if self.has_outlived_catalog() && self.work.transaction.dirty != Dirty::Nothing {
            self.work.transaction.dirty = Dirty::Database;
            self.work.transaction.doubt.get_or_insert(Doubt::Ddl);
        }
        let nothing_but_catalogue =
            || self.work.transaction.catalog.then(|| Scope::Tables([].into()));
        let Some(scope) = self.work.transaction.dirty.scope().or_else(nothing_but_catalogue) else {
            return Armed::default();
        };
        let doubt = match self.work.transaction.doubt {
            Some(doubt) => doubt,
            None if self.work.transaction.catalog => Doubt::Ddl,
            None => Doubt::NoMoment,
        };
        let mut armed = Armed {
            home: Some(Arc::clone(&server.home)),
            database: (scope == Scope::Database).then_some(doubt),
            catalog: self.work.transaction.catalog,
            beyond: self.work.transaction.beyond,
            generation: Some(generation),
            ..Armed::default()
        };
        if armed.database.is_some() {
            tracing::debug!(tag, ?doubt, "invalidates the whole database");
        }
        if unjudged && !armed.catalog && armed.beyond == Beyond::Nothing {
            // Nothing is remembered; should that have changed when this is over, it is as if it
            // had been in flight only then.
            armed.unbracketed = true;
        } else if twin::is(Twin::NoInFlight) || twin::is(Twin::AckBeforeInvalidation) {
            armed.late.push(scope);
        } else {
            let catalog = armed.catalog || armed.beyond != Beyond::Nothing;
            armed.guards.push(server.begin_write(&scope, catalog));
            if generation != self.common.database.generation() && scope != Scope::Database {
                // Changed in this moment, and what it writes was judged before.
                armed.guards.push(server.begin_write(&Scope::Database, false));
            }
        }
        armed
    }

    /// What stands behind it may have to be judged by other names than those that are known now.
    fn renames(&self, verdict: &Verdict) -> bool {
        let returns =
            |control: &Control| matches!(control, Control::DiscardAll | Control::ResetAll);
        let is_back = self.in_force().id == self.startup.id;
        let ends = |control: &Control| {
            matches!(
                control,
                Control::Commit { .. }
                    | Control::Rollback { .. }
                    | Control::RollbackToSavepoint(_)
                    | Control::PrepareTransaction(_)
            )
        };
        let goes_back = self.work.transaction.ends_names(&self.settings);
        verdict.controls.iter().any(|one| {
            (changes_names(one) && !(is_back && returns(one))) || (goes_back && ends(one))
        })
    }

    /// For broken twins: invalidates without having been in flight, at once or after the writer
    /// has been told.
    fn settle_late(&mut self, scopes: Vec<Scope>) {
        if twin::is(Twin::AckBeforeInvalidation) {
            self.work.unsettled.extend(scopes);
        } else {
            for scope in scopes {
                self.common.database.home().coherence.invalidate(&scope);
            }
        }
    }

    /// Lets go of what was in flight, as its outcome is known.
    pub(super) fn settle(&mut self, armed: Armed, proven_rollback: bool) {
        if armed.is_empty() {
            return;
        }
        let home = armed.home;
        let moved =
            armed.generation.is_some_and(|before| before != self.common.database.generation());
        if let Some(home) = home.as_ref().filter(|_| moved && !proven_rollback) {
            home.invalidate(&Scope::Database);
            self.common.cache_counters.invalidated_database.one();
            self.common.cache_counters.doubt(Doubt::Ddl);
        }
        if let Some(home) = home.as_ref().filter(|_| armed.catalog && !proven_rollback) {
            self.common.database.catalog_changed(home);
        }
        if !proven_rollback {
            base::changed(armed.beyond);
        }
        if armed.unbracketed {
            let home =
                home.filter(|_| self.common.main_cache.mode() != Mode::Off && !proven_rollback);
            if let Some(home) = home {
                home.invalidate(&Scope::Database);
            }
            if armed.guards.is_empty() && armed.late.is_empty() {
                return;
            }
        }
        let counters = &self.common.cache_counters;
        if !proven_rollback {
            match armed.database {
                Some(doubt) => {
                    counters.invalidated_database.one();
                    counters.doubt(doubt);
                }
                None => counters.invalidated_tables.one(),
            }
        }
        if !proven_rollback {
            self.settle_late(armed.late);
        }
        for guard in armed.guards {
            if proven_rollback { guard.rolled_back() } else { guard.committed() }
        }
    }

    /// The catalogue has changed since the first write of the transaction was judged.
    pub(super) fn has_outlived_catalog(&self) -> bool {
        let generation = self.common.database.generation();
        self.work.transaction.judged_under.is_some_and(|under| under != generation)
    }

    /// Without a cache nobody reads the catalogue, and every statement would count as code that
    /// may change the session out of sight. As in PgBouncer it is trusted not to.
    fn is_unjudged(&self) -> bool {
        self.common.main_cache.mode() == Mode::Off && !self.common.database.has_catalog()
    }

    /// What the statement may write, given what this client's session holds: temporary objects
    /// shadow the names that the verdict resolved.
    pub(super) fn effect(&mut self, verdict: &Verdict) -> Write {
        self.temporary_code |= self.makes_temporary_code(verdict);
        if self.fetches_known_cursor(verdict) {
            return Write::None;
        }
        let shadowed = match verdict.write {
            // A temporary table may have triggers and defaults of its own.
            Write::Plain(_) | Write::Schema(_) => {
                self.pins.has(Pin::TemporaryObjects)
                    || self.tainted
                    || self.work.transaction.renamed
                    || !self.knows_defaults()
            }
            // A temporary view may call anything; a table may not.
            Write::None => {
                let unknown = self.tainted && self.common.mode == PoolMode::Session;
                let renamed = self.work.transaction.renamed;
                let names = self.temporary_code || unknown || renamed || !self.knows_defaults();
                names && may_read_relations(verdict)
            }
            Write::Opaque { .. } | Write::Catalog => false,
        };
        if shadowed && matches!(verdict.write, Write::Schema(_)) {
            return Write::Catalog;
        }
        if shadowed {
            return Write::Opaque { commits_inside: false, taints: true };
        }
        verdict.write.clone()
    }

    /// After it, reading a temporary object may run code: it may be a view, or a table that has
    /// been given a policy or a rule.
    fn makes_temporary_code(&self, verdict: &Verdict) -> bool {
        let creates = verdict.controls.contains(&Control::CreateTemporary { code: true });
        let may_alter = match verdict.write {
            Write::Catalog | Write::Schema(_) => {
                verdict.statements != 1 || !matches!(verdict.tag, "DROP" | "GRANT" | "REVOKE")
            }
            Write::Opaque { .. } => true,
            Write::None | Write::Plain(_) => false,
        };
        creates || (may_alter && self.pins.has(Pin::TemporaryObjects))
    }

    /// FETCH and MOVE do what their cursor's query does. DECLARE of one that may write is opaque
    /// itself, so while nothing opaque ran, every cursor there is only reads.
    fn fetches_known_cursor(&self, verdict: &Verdict) -> bool {
        matches!(verdict.tag, "FETCH" | "MOVE")
            && verdict.statements == 1
            && matches!(self.work.transaction.dirty, Dirty::Nothing | Dirty::Tables(_))
            && !self.tainted
    }
}

/// Of statements that write nothing: whether it runs what stands behind a relation's name.
fn may_read_relations(verdict: &Verdict) -> bool {
    let reads = matches!(
        verdict.tag,
        "SELECT"
            | "SELECT INTO"
            | "CREATE TABLE AS"
            | "EXPLAIN"
            | "COPY"
            | "DECLARE CURSOR"
            | "ANALYZE"
            | "VACUUM"
            | "CLUSTER"
            | "REINDEX"
    );
    reads || verdict.statements != 1
}

/// It commits what may change the catalogue: a prepared transaction that was not seen not to. Each
/// name is believed once, as it may come again; and not in a group, where it may have come again
/// through another member.
fn commits_unknown(verdict: &Verdict, home: &Home) -> bool {
    let mut unknown = false;
    for control in &verdict.controls {
        if let Control::CommitPrepared(gid) = control {
            unknown |= !home.prepared.take(gid) || home.group.is_some();
        } else if let Control::PrepareTransaction(gid) | Control::RollbackPrepared(gid) = control {
            let _not_any_more = home.prepared.take(gid);
        }
    }
    unknown
}

/// It ends a transaction in a way that may commit.
pub(super) fn ends_block(verdict: &Verdict) -> bool {
    verdict.controls.iter().any(|control| {
        matches!(
            control,
            Control::Commit { .. } | Control::PrepareTransaction(_) | Control::CommitPrepared(_)
        )
    })
}

fn rolls_back(verdict: &Verdict) -> bool {
    verdict.controls.iter().any(|control| matches!(control, Control::Rollback { .. }))
}

/// In a block PostgreSQL lets neither procedures nor DO commit.
fn is_atomic_in_block(verdict: &Verdict) -> bool {
    verdict.statements == 1 && matches!(verdict.tag, "DO" | "CALL")
}

pub(super) fn commits_inside(verdict: &Verdict) -> bool {
    match verdict.write {
        Write::Opaque { commits_inside, .. } => commits_inside || verdict.statements > 1,
        Write::Catalog => true,
        Write::None | Write::Plain(_) | Write::Schema(_) => {
            verdict.statements > 1 && !verdict.controls.is_empty()
        }
    }
}

/// With a catalogue it may turn out to write less than the whole database.
pub(super) fn may_be_finer(verdict: &Verdict) -> bool {
    match verdict.write {
        Write::Opaque { .. } => true,
        Write::Catalog => verdict.read == Read::Bypass(BypassReason::CatalogLoading),
        Write::None | Write::Plain(_) | Write::Schema(_) => false,
    }
}
