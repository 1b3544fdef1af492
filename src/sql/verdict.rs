//! The one vocabulary for what is known of a statement: what it writes, whether its answer may
//! be kept, and what it changes about the client that sends it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Object id of a relation in `pg_class`; for partition and inheritance trees that of the root,
/// so that a whole tree shares one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u32);

/// What is known of one query string (simple protocol) or one prepared statement.
///
/// A verdict depends on the shape of the text, not on its literals, unless `exact_text` says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What its statements change of what the client *is*, in order.
    pub controls: Vec<Control>,
    /// Of a string of several statements: for each, how many of the controls are its own or those
    /// of statements before it.
    pub ends: Box<[usize]>,
    pub write: Write,
    pub read: Read,
    /// How many statements the string holds; 0 for an empty string.
    pub statements: usize,
    /// First keyword(s) for people, as in a command tag: `SELECT`, `UPDATE`, `SET`.
    pub tag: &'static str,
    /// The verdict holds for this very text only: a literal decided something (`SET`,
    /// `set_config('…')`), so it may not be shared by shape.
    pub exact_text: bool,
    /// Code we do not know may have changed the session, beside what `write` says: behind DDL, or
    /// in one of several statements.
    pub taints: bool,
    /// What the operator's rules say of its answers.
    pub restriction: Restriction,
}

/// What rules come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restriction {
    /// The rule by which answers are never kept.
    pub denied_by: Option<Arc<str>>,
    /// No older answer is served.
    pub max_age: Option<Duration>,
}

impl Restriction {
    /// Both count.
    pub fn and(&mut self, other: &Self) {
        self.denied_by = self.denied_by.take().or_else(|| other.denied_by.clone());
        self.max_age = match (self.max_age, other.max_age) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
}

/// What a commit may change beyond its own database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Beyond {
    #[default]
    Nothing,
    /// Who may see what, in any database.
    Roles,
    /// What sessions start with as well.
    Starts,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other control reaches so far")]
impl Control {
    /// What it changes beyond its own database.
    pub fn beyond(&self) -> Beyond {
        match self {
            Self::ChangeDefaults => Beyond::Starts,
            Self::ChangeRoles => Beyond::Roles,
            _ => Beyond::Nothing,
        }
    }
}

impl Verdict {
    /// The rules say this too.
    pub fn restrict(&mut self, rules: &Restriction) {
        self.restriction.and(rules);
        if self.restriction.denied_by.is_some() && matches!(self.read, Read::Cacheable(_)) {
            self.read = Read::Bypass(BypassReason::Denied);
        }
    }
}

impl Verdict {
    /// The controls of one statement of the string; 0 is the first.
    pub fn controls_of(&self, statement: usize) -> &[Control] {
        if self.statements == 1 {
            return &self.controls;
        }
        let end = |statement: usize| self.ends.get(statement).copied().unwrap_or_default();
        let start = statement.checked_sub(1).map_or(0, end);
        self.controls.get(start..end(statement)).unwrap_or_default()
    }
}

/// What a statement may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Proven to write no table.
    None,
    /// Writes these tables and no others; closed over trees and foreign keys. Sorted, unique.
    Plain(Box<[TableId]>),
    /// May write anything: the whole database is invalidated.
    Opaque {
        /// It can commit by itself in the middle (CALL, DO, a multi-statement string with
        /// transaction control), so the database is in flight from send to completion.
        commits_inside: bool,
        /// Code we do not know may have changed the session (settings, temporary tables), so the
        /// server is reset before the next client has it.
        taints: bool,
    },
    /// Changes the catalogue, so the snapshot is read again, but no answer that reads none of
    /// these tables. Sorted, unique, may be empty.
    Schema(Box<[TableId]>),
    /// DDL, grants, and whatever else changes the catalogue: the whole database, and the
    /// snapshot is read again.
    Catalog,
}

/// Whether the answer may be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Yes, and it is true until one of these tables changes. Sorted, unique, may be empty
    /// never: a statement without a table is `Bypass(NoTable)`.
    Cacheable(Box<[TableId]>),
    Bypass(BypassReason),
}

/// Why a query was not looked up, alike in log, metric and console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BypassReason {
    // Decided by the text and the catalogue (`sql`).
    /// Not a SELECT, VALUES or TABLE.
    NotARead,
    /// More than one statement in the string.
    MultipleStatements,
    /// The grammar does not accept the text.
    Unparsable,
    /// Longer than `parse::TEXT_BYTES_MAX`, or nested too deeply.
    TooLong,
    /// Reads no table.
    NoTable,
    /// INTO, a writing CTE, or a function that may write.
    Writes,
    /// FOR UPDATE, FOR SHARE and their kin, at any depth.
    LocksRows,
    /// A function that is neither an immutable built-in nor on the curated list.
    Function,
    /// A function, operator, type or cast carried by an object outside `pg_catalog`.
    UserObject,
    /// `CURRENT_DATE`, `CURRENT_USER` and the other words that are functions.
    ValueFunction,
    /// Text that may be read as date or time and names a moment: now, today, tomorrow, yesterday.
    TimeWord,
    /// `timetz`, or a cast whose result depends on the clock.
    TimeType,
    /// `regclass`, `regproc` and their kin.
    RegType,
    /// A system catalogue or information_schema.
    SystemCatalog,
    /// `ctid`, `xmin`, `tableoid` and the other system columns.
    SystemColumn,
    /// A sequence, foreign, unlogged or temporary relation.
    RelationKind,
    /// A view; followed through its stored tree in a later version.
    View,
    /// Row-level security is on for a table it reads.
    RowSecurity,
    /// TABLESAMPLE.
    TableSample,
    /// A name the catalogue snapshot does not hold.
    UnknownRelation,
    /// A name that resolves to neither a column nor anything else we know.
    UnknownName,
    /// More tables than `resolve::TABLES_MAX`.
    TooManyTables,
    /// The catalogue snapshot is not loaded, or DDL has just made it old.
    CatalogLoading,
    // Decided by the client's state (`client`).
    /// The cache is switched off.
    CacheOff,
    /// Inside a transaction that wrote, or ran something opaque.
    OwnWrites,
    /// REPEATABLE READ or SERIALIZABLE.
    Isolation,
    /// The transaction has failed or its state is not known yet.
    TransactionState,
    /// Earlier requests of this client are still unanswered.
    Pipelined,
    /// The group of messages holds more than one cacheable read.
    #[default]
    Group,
    /// Execute with a row limit, or a portal used twice.
    RowLimit,
    /// A setting that we cannot follow is in force (SET LOCAL, standard_conforming_strings off).
    Settings,
    /// The client has, or may have, temporary objects.
    TemporaryObjects,
    /// The client holds state that ties it to its server in a way that changes answers.
    Pinned,
    /// The statement was prepared before the catalogue changed.
    StaleStatement,
    /// The database the answer would be of is not known yet, or replaced.
    ServerUnknown,
    /// Its answers are as old as what it has replayed, and no write we see says when that changes.
    Standby,
    /// A rule of the operator's keeps its answers out.
    Denied,
    /// It says so itself: `/* forebay:nocache */`.
    Hint,
    /// A table it reads is written so often that its answers were seldom of use.
    CutOff,
    /// PostgreSQL has not answered for longer than `cache.serve_while_down`.
    DatabaseDown,
    /// The group has not agreed yet on what is true, or cannot: Redis or a member is missing.
    GroupShut,
    /// The key would be longer than `cache::key::KEY_BYTES_MAX`.
    KeyTooLong,
}

impl BypassReason {
    /// Every reason, in the order of the declaration; the index of a counter.
    pub const ALL: [Self; 42] = [
        Self::NotARead,
        Self::MultipleStatements,
        Self::Unparsable,
        Self::TooLong,
        Self::NoTable,
        Self::Writes,
        Self::LocksRows,
        Self::Function,
        Self::UserObject,
        Self::ValueFunction,
        Self::TimeWord,
        Self::TimeType,
        Self::RegType,
        Self::SystemCatalog,
        Self::SystemColumn,
        Self::RelationKind,
        Self::View,
        Self::RowSecurity,
        Self::TableSample,
        Self::UnknownRelation,
        Self::UnknownName,
        Self::TooManyTables,
        Self::CatalogLoading,
        Self::CacheOff,
        Self::OwnWrites,
        Self::Isolation,
        Self::TransactionState,
        Self::Pipelined,
        Self::Group,
        Self::RowLimit,
        Self::Settings,
        Self::TemporaryObjects,
        Self::Pinned,
        Self::StaleStatement,
        Self::ServerUnknown,
        Self::Standby,
        Self::Denied,
        Self::Hint,
        Self::CutOff,
        Self::DatabaseDown,
        Self::GroupShut,
        Self::KeyTooLong,
    ];

    /// The name in logs, metrics and the console.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotARead => "not_a_read",
            Self::MultipleStatements => "multiple_statements",
            Self::Unparsable => "unparsable",
            Self::TooLong => "too_long",
            Self::NoTable => "no_table",
            Self::Writes => "writes",
            Self::LocksRows => "locks_rows",
            Self::Function => "function",
            Self::UserObject => "user_object",
            Self::ValueFunction => "value_function",
            Self::TimeWord => "time_word",
            Self::TimeType => "time_type",
            Self::RegType => "reg_type",
            Self::SystemCatalog => "system_catalog",
            Self::SystemColumn => "system_column",
            Self::RelationKind => "relation_kind",
            Self::View => "view",
            Self::RowSecurity => "row_security",
            Self::TableSample => "table_sample",
            Self::UnknownRelation => "unknown_relation",
            Self::UnknownName => "unknown_name",
            Self::TooManyTables => "too_many_tables",
            Self::CatalogLoading => "catalog_loading",
            Self::CacheOff => "cache_off",
            Self::OwnWrites => "own_writes",
            Self::Isolation => "isolation",
            Self::TransactionState => "transaction_state",
            Self::Pipelined => "pipelined",
            Self::Group => "group",
            Self::RowLimit => "row_limit",
            Self::Settings => "settings",
            Self::TemporaryObjects => "temporary_objects",
            Self::Pinned => "pinned",
            Self::StaleStatement => "stale_statement",
            Self::ServerUnknown => "server_unknown",
            Self::Standby => "standby",
            Self::Denied => "denied",
            Self::Hint => "hint",
            Self::CutOff => "cut_off",
            Self::DatabaseDown => "database_down",
            Self::GroupShut => "group_shut",
            Self::KeyTooLong => "key_too_long",
        }
    }
}

impl fmt::Display for BypassReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A statement that changes what the client is: its transaction, its settings, its session state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// BEGIN, START TRANSACTION. `None`: the session's default isolation applies.
    Begin {
        isolation: Option<Isolation>,
    },
    /// COMMIT, END.
    Commit {
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    ReleaseSavepoint(String),
    RollbackToSavepoint(String),
    /// PREPARE TRANSACTION: the transaction leaves the session, its writes become visible later, by
    /// this name.
    PrepareTransaction(String),
    /// COMMIT PREPARED: opaque write of the whole database.
    CommitPrepared(String),
    RollbackPrepared(String),
    /// DROP DATABASE and others that PostgreSQL refuses while anybody is connected to that
    /// database.
    Vacate(String),
    /// ALTER ROLE or DATABASE … SET: what sessions start with, once committed.
    ChangeDefaults,
    /// GRANT of a role, ALTER ROLE and the like: who may see what in any database, once committed.
    ChangeRoles,
    /// SET TRANSACTION ISOLATION LEVEL …, SET TRANSACTION SNAPSHOT (isolation `None`).
    SetTransaction {
        isolation: Option<Isolation>,
    },
    /// SET [SESSION] name = value. `value` is SQL that may follow `SET name TO`, spelled so that
    /// equal values compare equal; `name` is lower case (`timezone`, `role`, `search_path`).
    Set {
        name: String,
        value: String,
        local: bool,
    },
    /// RESET name, SET name TO DEFAULT.
    Reset {
        name: String,
        local: bool,
    },
    ResetAll,
    /// A setting that changes no answer got a value we cannot read; the server is cleaned before
    /// the next client has it.
    NeutralSetting,
    /// SET SESSION AUTHORIZATION, LOAD, or anything else of the session that cannot be replayed.
    Unreplayable,
    DiscardAll,
    DiscardTemporary,
    DiscardPlans,
    DiscardSequences,
    /// SQL-level PREPARE.
    PrepareStatement,
    /// SQL-level DEALLOCATE; `None`: ALL.
    Deallocate(Option<String>),
    Listen,
    /// UNLISTEN; `all`: UNLISTEN *.
    Unlisten {
        all: bool,
    },
    /// DECLARE CURSOR; only `hold` outlives the transaction.
    DeclareCursor {
        hold: bool,
    },
    /// CLOSE name or CLOSE ALL.
    CloseCursor {
        all: bool,
    },
    /// Creates a temporary relation.
    CreateTemporary {
        /// Reading it runs what its definition calls: a view.
        code: bool,
    },
    /// Calls a built-in that takes a session-level advisory lock.
    AdvisoryLock,
    /// `pg_advisory_unlock_all()`.
    AdvisoryUnlockAll,
    /// LOCK TABLE: from here on the transaction's reads see what it locked.
    LockTable,
    /// COPY … FROM STDIN or TO STDOUT: the connection leaves the request/reply rhythm.
    Copy,
}

/// Transaction isolation level, SQL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}
