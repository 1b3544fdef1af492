//! A client's transaction as far as answers depend on it: its isolation, what it wrote, and the
//! settings it would fall back to.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cache::coherence::Scope;
use crate::server::settings::Settings;
use crate::sql::footprint::Doubt;
use crate::sql::verdict::{Beyond, BypassReason, Isolation, TableId, Write};
use crate::wire::backend::Status;

use super::patience::Patience;

/// What a transaction wrote so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Dirty {
    #[default]
    Nothing,
    Tables(BTreeSet<TableId>),
    /// Something opaque ran: these tables, and others that PostgreSQL can tell.
    Unknown(BTreeSet<TableId>),
    Database,
}

/// What an answer of PostgreSQL's makes of what was known before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// That will be made fresh.
    pub tables: usize,
    /// Of those, not written.
    pub surplus: usize,
    /// Of those, what should have been known before.
    pub unforeseen: Vec<TableId>,
}

impl Dirty {
    pub fn add(&mut self, write: &Write) {
        match write {
            Write::None => {}
            Write::Schema(tables) if tables.is_empty() => {}
            Write::Plain(tables) | Write::Schema(tables) => match self {
                Self::Nothing => *self = Self::Tables(tables.iter().copied().collect()),
                Self::Tables(known) | Self::Unknown(known) => known.extend(tables.iter().copied()),
                Self::Database => {}
            },
            Write::Opaque { .. } => match self {
                Self::Nothing => *self = Self::Unknown(BTreeSet::new()),
                Self::Tables(known) => *self = Self::Unknown(std::mem::take(known)),
                Self::Unknown(_) | Self::Database => {}
            },
            Write::Catalog => *self = Self::Database,
        }
    }

    /// PostgreSQL has told all that was written.
    pub fn add_told(&mut self, told: BTreeSet<TableId>) -> Told {
        let (known, opaque) = match std::mem::take(self) {
            Self::Nothing => (BTreeSet::new(), false),
            Self::Tables(known) => (known, false),
            Self::Unknown(known) => (known, true),
            Self::Database => {
                *self = Self::Database;
                return Told::default();
            }
        };
        let news = told.difference(&known).copied();
        let unforeseen = if opaque { Vec::new() } else { news.collect() };
        let surplus = known.difference(&told).count();
        let tables: BTreeSet<TableId> = known.into_iter().chain(told).collect();
        let told = Told { tables: tables.len(), surplus, unforeseen };
        if !tables.is_empty() {
            *self = Self::Tables(tables);
        }
        told
    }

    pub fn scope(&self) -> Option<Scope> {
        match self {
            Self::Nothing => None,
            Self::Tables(tables) => Some(Scope::Tables(tables.iter().copied().collect())),
            Self::Unknown(_) | Self::Database => Some(Scope::Database),
        }
    }
}

/// A BEGIN that was answered here; PostgreSQL is sent it in front of the first statement that
/// needs it.
#[derive(Debug)]
pub struct KeptBack {
    pub sql: String,
    /// As it says; `None`: the session's default.
    pub isolation: Option<Isolation>,
    pub patience: Patience,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Transaction {
    /// As the last ReadyForQuery told.
    pub status: Status,
    /// Of the current transaction; `None` outside one.
    isolation: Option<Isolation>,
    pub dirty: Dirty,
    /// Why the whole database will be made fresh, if that is known.
    pub doubt: Option<Doubt>,
    /// It wrote, ran something opaque, locked, or imported a snapshot: its reads are its own.
    pub own: bool,
    /// It changed the catalogue.
    pub catalog: bool,
    /// Of the catalogue under which its first write was judged.
    pub judged_under: Option<u64>,
    pub beyond: Beyond,
    /// SET LOCAL is in force.
    pub local_settings: bool,
    /// The settings that names are looked up by, if some of them were SET LOCAL.
    local: Option<Arc<Settings>>,
    /// Some were, and it is not known any more what they are.
    lost_local: bool,
    /// What names mean may change, or has changed, by what was sent; it is not known to what.
    pub renamed: bool,
    /// Nothing of it has been sent to PostgreSQL.
    pub kept_back: Option<KeptBack>,
    /// It was served from the cache, which PostgreSQL does not know.
    pub served: bool,
    /// Settings when it began, and at each savepoint.
    begun_with: Option<Arc<Settings>>,
    /// The same for a group that is no transaction of the client's making.
    implicit_with: Option<Arc<Settings>>,
    savepoints: Vec<(String, Arc<Settings>)>,
}

/// More savepoints than this are not followed; the oldest are forgotten, settings with them.
const SAVEPOINTS_MAX: usize = 1000;

impl Default for Transaction {
    fn default() -> Self {
        Self {
            status: Status::Idle,
            isolation: None,
            dirty: Dirty::Nothing,
            doubt: None,
            own: false,
            catalog: false,
            judged_under: None,
            beyond: Beyond::Nothing,
            local_settings: false,
            local: None,
            lost_local: false,
            renamed: false,
            kept_back: None,
            served: false,
            begun_with: None,
            implicit_with: None,
            savepoints: Vec::new(),
        }
    }
}

impl Transaction {
    /// There is none, and no settings that its end would bring back.
    pub fn is_over(&self) -> bool {
        self.status == Status::Idle
            && self.begun_with.is_none()
            && self.implicit_with.is_none()
            && self.kept_back.is_none()
            && self.dirty == Dirty::Nothing
            && self.savepoints.is_empty()
            && !self.renamed
    }

    /// All that it wrote is known, and none of it is the catalogue.
    pub fn wrote_tables_alone(&self) -> bool {
        matches!(self.dirty, Dirty::Nothing | Dirty::Tables(_)) && !self.catalog
    }

    /// It wrote nothing that anybody will have to know of.
    pub fn wrote_nothing(&self) -> bool {
        self.dirty == Dirty::Nothing && !self.own && !self.catalog && self.beyond == Beyond::Nothing
    }

    /// As if new, once `is_over` has said that the rest is.
    pub fn forget(&mut self) {
        let Self {
            status: _,
            isolation,
            dirty: _,
            doubt,
            own,
            catalog,
            judged_under,
            beyond,
            local_settings,
            local,
            lost_local,
            renamed: _,
            kept_back: _,
            served,
            begun_with: _,
            implicit_with: _,
            savepoints,
        } = self;
        (*isolation, *doubt, *judged_under) = (None, None, None);
        (*own, *catalog, *local_settings, *served) = (false, false, false, false);
        *beyond = Beyond::Nothing;
        (*savepoints, *local, *lost_local) = (Vec::new(), None, false);
    }

    /// The settings that names are looked up by, if they are not the session's.
    pub fn local(&self) -> Option<&Arc<Settings>> {
        self.local.as_ref()
    }

    /// By these names are looked up until it ends.
    pub fn set_local(&mut self, settings: Arc<Settings>) {
        if !self.lost_local {
            self.local = Some(settings);
        }
    }

    /// By which is not known, until it ends.
    pub fn lose_local(&mut self) {
        (self.local, self.lost_local, self.renamed) = (None, true, true);
    }

    /// Whether names will be looked up by other settings if it ends, or goes back, now.
    pub fn ends_names(&self, settings: &Settings) -> bool {
        let begun_with = self.begun_with();
        self.local.is_some()
            || self.lost_local
            || begun_with.is_some_and(|begun_with| begun_with.id != settings.id)
    }

    /// All that was sent has been answered; what it did to names is known, or over.
    pub fn settle_names(&mut self) {
        self.renamed &= self.lost_local && self.status != Status::Idle;
    }

    pub fn begin(&mut self, isolation: Isolation, settings: &Arc<Settings>) {
        if self.begun_with.is_none() {
            self.isolation = Some(isolation);
            let implicit_with = self.implicit_with.take();
            self.begun_with = Some(implicit_with.unwrap_or_else(|| Arc::clone(settings)));
        }
    }

    /// The BEGIN is answered here, and not sent for now.
    pub fn begin_here(&mut self, kept_back: KeptBack, settings: &Arc<Settings>) {
        self.begin(kept_back.isolation.unwrap_or(Isolation::ReadCommitted), settings);
        self.status = Status::InTransaction;
        self.kept_back = Some(kept_back);
    }

    /// The settings before the first that an implicit transaction changes.
    pub fn begin_with(&mut self, settings: &Arc<Settings>) {
        self.implicit_with.get_or_insert_with(|| Arc::clone(settings));
    }

    pub fn set_isolation(&mut self, isolation: Option<Isolation>) {
        match isolation {
            Some(isolation) => self.isolation = Some(isolation),
            // An imported snapshot is older than anything we could stamp.
            None => self.own = true,
        }
    }

    pub fn savepoint(&mut self, name: String, settings: &Arc<Settings>) {
        if self.savepoints.len() == SAVEPOINTS_MAX {
            self.savepoints.remove(0);
        }
        self.savepoints.push((name, Arc::clone(settings)));
    }

    pub fn release_savepoint(&mut self, name: &str) {
        if let Some(at) = self.savepoints.iter().rposition(|(known, _)| known == name) {
            self.savepoints.truncate(at);
        }
    }

    pub fn savepoint_names(&self) -> impl Iterator<Item = &str> {
        self.savepoints.iter().map(|(name, _)| name.as_str())
    }

    /// The settings in force after ROLLBACK TO; `None` if the savepoint was not followed.
    pub fn roll_back_to(&mut self, name: &str) -> Option<Arc<Settings>> {
        let at = self.savepoints.iter().rposition(|(known, _)| known == name)?;
        self.savepoints.truncate(at + 1);
        self.savepoints.last().map(|(_, settings)| Arc::clone(settings))
    }

    /// Its BEGIN has been seen and not its end, however much of the group is still to come.
    pub fn is_block(&self) -> bool {
        self.begun_with.is_some()
    }

    /// The settings it began with, to which a rollback returns.
    pub fn begun_with(&self) -> Option<&Arc<Settings>> {
        self.begun_with.as_ref().or(self.implicit_with.as_ref())
    }

    /// A transaction ended; the next one of a chain has the same isolation. `goes_on`: some of what
    /// it is said here to have written was sent behind its end, and is of the next.
    pub fn end(&mut self, chain: bool, goes_on: bool, settings: &Arc<Settings>) {
        let isolation = self.isolation;
        let written = goes_on.then(|| {
            let flags = (self.own, self.catalog, self.beyond);
            (std::mem::take(&mut self.dirty), self.doubt, self.judged_under, flags)
        });
        (self.dirty, self.kept_back) = (Dirty::Nothing, None);
        (self.begun_with, self.implicit_with) = (None, None);
        self.forget();
        if let Some((dirty, doubt, judged_under, (own, catalog, beyond))) = written {
            (self.dirty, self.doubt, self.judged_under) = (dirty, doubt, judged_under);
            (self.own, self.catalog, self.beyond) = (own, catalog, beyond);
        }
        if chain {
            self.isolation = isolation;
            self.begun_with = Some(Arc::clone(settings));
        }
    }

    /// Why its reads may not be served, if they may not. `default` is the session's isolation.
    pub fn bypass(&self, default: Isolation) -> Option<BypassReason> {
        match self.status {
            Status::Failed => return Some(BypassReason::TransactionState),
            Status::InTransaction if self.begun_with.is_none() => {
                return Some(BypassReason::TransactionState);
            }
            Status::InTransaction | Status::Idle => {}
        }
        if self.own || self.dirty != Dirty::Nothing {
            return Some(BypassReason::OwnWrites);
        }
        if self.local_settings {
            return Some(BypassReason::Settings);
        }
        match self.isolation.unwrap_or(default) {
            Isolation::ReadCommitted | Isolation::ReadUncommitted => None,
            Isolation::RepeatableRead | Isolation::Serializable => Some(BypassReason::Isolation),
        }
    }
}

/// The isolation level that a setting's value names; `None` if it names none.
pub fn isolation(value: &str) -> Option<Isolation> {
    match value.trim_matches('\'').to_ascii_lowercase().as_str() {
        "read uncommitted" => Some(Isolation::ReadUncommitted),
        "read committed" => Some(Isolation::ReadCommitted),
        "repeatable read" => Some(Isolation::RepeatableRead),
        "serializable" => Some(Isolation::Serializable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RC: Isolation = Isolation::ReadCommitted;

    fn begun() -> Transaction {
        let mut transaction = Transaction::default();
        transaction.begin(RC, &Settings::none());
        transaction.status = Status::InTransaction;
        transaction
    }

    #[test]
    fn a_read_committed_transaction_is_served_until_its_first_write() {
        let mut transaction = begun();
        assert_eq!(transaction.bypass(RC), None);
        transaction.dirty.add(&Write::Plain([TableId(7)].into()));
        assert_eq!(transaction.bypass(RC), Some(BypassReason::OwnWrites));
        transaction.end(false, false, &Settings::none());
        transaction.status = Status::Idle;
        assert_eq!(transaction.bypass(RC), None);
    }

    #[test]
    fn other_isolation_levels_bypass_in_and_outside_a_transaction() {
        let mut transaction = begun();
        transaction.set_isolation(Some(Isolation::RepeatableRead));
        assert_eq!(transaction.bypass(RC), Some(BypassReason::Isolation));
        let autocommit = Transaction::default();
        assert_eq!(autocommit.bypass(Isolation::Serializable), Some(BypassReason::Isolation));
    }

    #[test]
    fn a_failed_transaction_and_one_we_did_not_see_begin_bypass() {
        let mut transaction = begun();
        transaction.status = Status::Failed;
        assert_eq!(transaction.bypass(RC), Some(BypassReason::TransactionState));
        let unseen = Transaction { status: Status::InTransaction, ..Transaction::default() };
        assert_eq!(unseen.bypass(RC), Some(BypassReason::TransactionState));
    }

    #[test]
    fn a_begin_behind_a_set_in_one_group_falls_back_to_before_both() {
        let mut transaction = Transaction::default();
        let (before, after) = (Settings::none(), Settings::none().with("timezone", "'UTC'"));
        transaction.begin_with(&before);
        transaction.begin_with(&after);
        assert_eq!(transaction.begun_with().unwrap().id, before.id);
        transaction.begin(Isolation::RepeatableRead, &after);
        assert_eq!(transaction.begun_with().unwrap().id, before.id);
        transaction.status = Status::InTransaction;
        let reason = transaction.bypass(Isolation::ReadCommitted);
        assert_eq!(reason, Some(BypassReason::Isolation));
    }

    #[test]
    fn rolling_back_to_a_savepoint_keeps_the_transaction_dirty_and_restores_settings() {
        let mut transaction = begun();
        let before = Settings::none().with("timezone", "'UTC'");
        transaction.savepoint("a".into(), &before);
        transaction.dirty.add(&Write::Plain([TableId(7)].into()));
        let restored = transaction.roll_back_to("a").unwrap();
        assert_eq!(restored.id, before.id);
        assert_eq!(transaction.bypass(RC), Some(BypassReason::OwnWrites));
    }

    #[test]
    fn what_postgresql_tells_of_an_opaque_write_adds_to_what_is_known() {
        let table = |id| BTreeSet::from([TableId(id)]);
        let mut dirty = Dirty::Tables(table(1));
        dirty.add(&Write::Opaque { commits_inside: false, taints: true });
        let told = |tables, surplus, unforeseen: &[u32]| Told {
            tables,
            surplus,
            unforeseen: unforeseen.iter().copied().map(TableId).collect(),
        };
        assert_eq!(dirty.add_told(table(2)), told(2, 1, &[]));
        assert_eq!(dirty, Dirty::Tables([TableId(1), TableId(2)].into()));
        assert_eq!(dirty.add_told(table(3)), told(3, 2, &[3]));
        let mut nothing = Dirty::Unknown(BTreeSet::new());
        assert_eq!(nothing.add_told(BTreeSet::new()), told(0, 0, &[]));
        assert_eq!(nothing, Dirty::Nothing);
    }

    #[test]
    fn an_opaque_write_widens_to_the_database() {
        let mut dirty = Dirty::Nothing;
        dirty.add(&Write::Plain([TableId(2), TableId(1)].into()));
        assert_eq!(dirty.scope(), Some(Scope::Tables([TableId(1), TableId(2)].into())));
        dirty.add(&Write::Opaque { commits_inside: false, taints: true });
        assert_eq!(dirty.scope(), Some(Scope::Database));
    }
}
