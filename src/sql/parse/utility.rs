//! One statement: its kind, what it changes about the client, and the query it carries.

use pg_raw_parse::Node;
use pg_raw_parse::list::CastNodeList;
use pg_raw_parse::nodes::{
    self, CopyStmt, CreateTableAsStmt, DiscardMode, DropBehavior, DropStmt, ExplainStmt,
    ObjectType, RangeVar, SelectStmt, TransactionStmt, TransactionStmtKind, TruncateStmt,
};

use super::query::collect;
use super::terms::range_of;
use super::{Facts, Kind, Operations, ParseError, Statement, Target, schema, setting};
use crate::sql::functions::takes_advisory_lock;
use crate::sql::verdict::Control;

/// `relpersistence` of a temporary relation.
const TEMPORARY: u8 = b't';

/// DECLARE … WITH HOLD, `CURSOR_OPT_HOLD` in PostgreSQL's sources.
const HOLD: i32 = 0x20;

/// Names in FROM lists times what is looked for in each: bounds the time to resolve them.
const COMPARISONS_MAX: usize = 10_000_000;

pub(super) fn statement(node: Node<'_>) -> Result<Statement, ParseError> {
    let mut statement = Statement {
        tag: tag(node),
        kind: Kind::Nothing,
        controls: Vec::new(),
        exact_text: false,
        facts: Facts::default(),
    };
    fill(node, &mut statement)?;
    let facts = &statement.facts;
    let looked_up = facts.columns.len() + facts.types.len() + facts.calls.len();
    if facts.relations.len().saturating_mul(looked_up) > COMPARISONS_MAX {
        return Err(ParseError::TooLong);
    }
    note_calls(&mut statement);
    Ok(statement)
}

#[expect(clippy::too_many_lines, reason = "one arm per statement; a table, not a flow")]
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every statement not listed changes the catalogue"
)]
fn fill(node: Node<'_>, statement: &mut Statement) -> Result<(), ParseError> {
    let controls = &mut statement.controls;
    statement.kind = match node {
        Node::SelectStmt(select) => return fill_select(select, statement),
        Node::InsertStmt(_) | Node::UpdateStmt(_) | Node::DeleteStmt(_) | Node::MergeStmt(_) => {
            collect(node, &mut statement.facts)?;
            Kind::Carries
        }
        Node::TransactionStmt(transaction) => return transact(transaction, statement),
        Node::VariableSetStmt(set) => {
            controls.extend(setting::set(set));
            statement.exact_text = true;
            Kind::Nothing
        }
        Node::VariableShowStmt(_) | Node::NotifyStmt(_) | Node::CheckPointStmt(_) => Kind::Nothing,
        Node::ListenStmt(_) => {
            controls.push(Control::Listen);
            Kind::Nothing
        }
        Node::UnlistenStmt(unlisten) => {
            controls.push(Control::Unlisten { all: unlisten.conditionname().is_none() });
            Kind::Nothing
        }
        Node::DiscardStmt(discard) => {
            controls.push(match discard.target {
                DiscardMode::DISCARD_PLANS => Control::DiscardPlans,
                DiscardMode::DISCARD_SEQUENCES => Control::DiscardSequences,
                DiscardMode::DISCARD_TEMP => Control::DiscardTemporary,
                _ => Control::DiscardAll,
            });
            Kind::Nothing
        }
        Node::PrepareStmt(_) => {
            controls.push(Control::PrepareStatement);
            Kind::Nothing
        }
        Node::DeallocateStmt(deallocate) => {
            let name = deallocate.name().filter(|_| !deallocate.isall).map(str::to_owned);
            controls.push(Control::Deallocate(name));
            Kind::Nothing
        }
        Node::DeclareCursorStmt(declare) => {
            controls.push(Control::DeclareCursor { hold: declare.options & HOLD != 0 });
            collect(declare.query(), &mut statement.facts)?;
            Kind::Carries
        }
        Node::ClosePortalStmt(close) => {
            controls.push(Control::CloseCursor { all: close.portalname().is_none() });
            Kind::Nothing
        }
        Node::LockStmt(_) => {
            controls.push(Control::LockTable);
            Kind::Nothing
        }
        // Looks at no expression of any index.
        Node::VacuumStmt(vacuum)
            if vacuum.is_vacuumcmd
                && !setting::has_option(vacuum.options(), "analyze")
                && !setting::has_option(vacuum.options(), "full") =>
        {
            Kind::Nothing
        }
        Node::VacuumStmt(_) | Node::ClusterStmt(_) | Node::ReindexStmt(_) => Kind::Maintenance,
        Node::CopyStmt(copy) => return fill_copy(copy, statement),
        Node::ExplainStmt(explain) => return fill_explain(explain, statement),
        Node::TruncateStmt(truncate) => return fill_truncate(truncate, statement),
        Node::RefreshMatViewStmt(refresh) => {
            statement.facts.targets.extend(refresh.relation().map(target));
            Kind::Refreshes
        }
        Node::CreateTableAsStmt(create) => return fill_create_as(create, statement),
        Node::CreateStmt(create) => match temporary(create.relation(), false, controls) {
            kind if schema::computes_bounds(create.partbound()) => {
                statement.facts.unknown_syntax = true;
                kind
            }
            Kind::Catalog => schema::create(create, &mut statement.facts).unwrap_or(Kind::Catalog),
            kind => kind,
        },
        Node::CreateSeqStmt(create) => temporary(create.sequence(), false, controls),
        Node::ViewStmt(view) => temporary(view.view(), true, controls),
        Node::DropStmt(drop) if drops_temporary(drop) => Kind::Temporary,
        Node::DropStmt(drop) => schema::drop(drop, &mut statement.facts).unwrap_or(Kind::Catalog),
        Node::AlterTableStmt(alter) => {
            let kind = schema::alter(alter, &mut statement.facts);
            // It may compute what its rows are to hold, or look whether they may be there.
            statement.facts.unknown_syntax |= kind.is_none();
            kind.unwrap_or(Kind::Catalog)
        }
        Node::IndexStmt(index) => {
            schema::index(index, &mut statement.facts).unwrap_or(Kind::Catalog)
        }
        Node::GrantStmt(grant) => schema::grant(grant).unwrap_or(Kind::Catalog),
        Node::CommentStmt(_) => Kind::Comments,
        // A cursor's rows come from a statement of another message, an EXECUTE's text too; the
        // deferred triggers that SET CONSTRAINTS fires may do anything.
        Node::FetchStmt(_) | Node::ExecuteStmt(_) | Node::ConstraintsSetStmt(_) => {
            Kind::Opaque { commits_inside: false }
        }
        Node::LoadStmt(_) => {
            controls.push(Control::Unreplayable);
            Kind::Opaque { commits_inside: false }
        }
        Node::DoStmt(_) | Node::CallStmt(_) => Kind::Opaque { commits_inside: true },
        Node::RenameStmt(rename) if rename.rename_type == ObjectType::OBJECT_ROLE => {
            controls.push(Control::ChangeRoles);
            Kind::Catalog
        }
        Node::DropdbStmt(drop) => vacate(drop.dbname(), controls),
        Node::RenameStmt(rename) if rename.rename_type == ObjectType::OBJECT_DATABASE => {
            vacate(rename.subname(), controls)
        }
        Node::AlterDatabaseStmt(alter) if setting::has_option(alter.options(), "tablespace") => {
            vacate(alter.dbname(), controls)
        }
        Node::CreatedbStmt(create) => {
            // Its name may be a literal.
            statement.exact_text = true;
            let template = setting::option(create.options(), "template");
            vacate(Some(template.as_deref().unwrap_or("template1")), controls)
        }
        // Roles are those of all databases.
        Node::AlterRoleStmt(_) | Node::DropRoleStmt(_) | Node::GrantRoleStmt(_) => {
            controls.push(Control::ChangeRoles);
            Kind::Catalog
        }
        Node::AlterRoleSetStmt(_) | Node::AlterDatabaseSetStmt(_) => {
            controls.push(Control::ChangeDefaults);
            Kind::Catalog
        }
        _ => {
            if names_temporary(node) {
                controls.push(Control::CreateTemporary { code: true });
            }
            // Checks of what is there, and what a script calls.
            statement.facts.unknown_syntax |= matches!(
                node,
                Node::AlterDomainStmt(_)
                    | Node::CreateExtensionStmt(_)
                    | Node::AlterExtensionStmt(_)
            );
            Kind::Catalog
        }
    };
    Ok(())
}

/// Creates a type, a function or the like in the temporary schema: not for `DROP TABLE` alone,
/// but in the way of names all the same.
#[expect(clippy::wildcard_enum_match_arm, reason = "nothing else can be temporary")]
fn names_temporary(node: Node<'_>) -> bool {
    let schema = match node {
        Node::CompositeTypeStmt(create) => create.typevar().and_then(|range| range.schemaname()),
        Node::CreateFunctionStmt(create) => match create.funcname().iter().next() {
            Some(Node::String(name)) => name.sval(),
            _ => None,
        },
        Node::CreateDomainStmt(create) => first_name(create.domainname()),
        Node::CreateEnumStmt(create) => first_name(create.type_name()),
        Node::CreateRangeStmt(create) => first_name(create.type_name()),
        Node::DefineStmt(create) => first_name(create.defnames()),
        _ => None,
    };
    schema.is_some_and(|schema| schema.starts_with("pg_temp"))
}

fn first_name(names: &CastNodeList<nodes::String>) -> Option<&str> {
    names.iter().next()?.sval()
}

fn fill_select(select: &SelectStmt, statement: &mut Statement) -> Result<(), ParseError> {
    collect(Node::SelectStmt(select), &mut statement.facts)?;
    if let Some(into) = leftmost_into(select) {
        statement.tag = "SELECT INTO";
        statement.kind = temporary(Some(into), false, &mut statement.controls);
        return Ok(());
    }
    if statement.facts.into {
        // Not where the grammar's meaning of INTO is known to us.
        statement.kind = Kind::Catalog;
        return Ok(());
    }
    statement.kind = Kind::Select;
    let settings = setting::set_configs(select);
    statement.exact_text |= !settings.is_empty();
    statement.controls.extend(settings);
    Ok(())
}

/// What the functions that a statement calls, and the rows it locks, do to the session.
fn note_calls(statement: &mut Statement) {
    let facts = &statement.facts;
    // The forms that can be followed are among the controls already.
    let is_select = matches!(statement.kind, Kind::Select);
    let followed = if is_select { statement.controls.len() } else { 0 };
    let calls = facts.calls.iter().filter(|call| call.name.name == "set_config").count();
    if calls > followed {
        statement.controls.push(Control::Unreplayable);
    }
    // `(value).function` is a call, too.
    let calls = facts.calls.iter().map(|call| &call.name.name).chain(&facts.attributes);
    for name in calls.map(String::as_str) {
        // The name it asks for decides.
        statement.exact_text |= name == "current_setting";
        if takes_advisory_lock(name) {
            statement.controls.push(Control::AdvisoryLock);
        } else if name == "pg_advisory_unlock_all" {
            statement.controls.push(Control::AdvisoryUnlockAll);
        }
    }
    if facts.locks_rows {
        statement.controls.push(Control::LockTable);
    }
}

/// INTO belongs to the first branch of a set operation.
fn leftmost_into(select: &SelectStmt) -> Option<&RangeVar> {
    let mut select = select;
    loop {
        if let Some(into) = select.into_clause() {
            return into.rel();
        }
        select = select.larg()?;
    }
}

fn transact(transaction: &TransactionStmt, statement: &mut Statement) -> Result<(), ParseError> {
    let chain = transaction.chain;
    let name = || transaction.savepoint_name().unwrap_or_default().to_owned();
    let gid = || transaction.gid().unwrap_or_default().to_owned();
    let control = match transaction.kind {
        TransactionStmtKind::TRANS_STMT_BEGIN | TransactionStmtKind::TRANS_STMT_START => {
            Control::Begin { isolation: setting::isolation(transaction.options()) }
        }
        TransactionStmtKind::TRANS_STMT_COMMIT => Control::Commit { chain },
        TransactionStmtKind::TRANS_STMT_ROLLBACK => Control::Rollback { chain },
        TransactionStmtKind::TRANS_STMT_SAVEPOINT => Control::Savepoint(name()),
        TransactionStmtKind::TRANS_STMT_RELEASE => Control::ReleaseSavepoint(name()),
        TransactionStmtKind::TRANS_STMT_ROLLBACK_TO => Control::RollbackToSavepoint(name()),
        TransactionStmtKind::TRANS_STMT_PREPARE => Control::PrepareTransaction(gid()),
        TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED => {
            statement.kind = Kind::Opaque { commits_inside: true };
            Control::CommitPrepared(gid())
        }
        TransactionStmtKind::TRANS_STMT_ROLLBACK_PREPARED => Control::RollbackPrepared(gid()),
        _ => return Err(ParseError::Unparsable),
    };
    statement.controls.push(control);
    Ok(())
}

fn fill_truncate(truncate: &TruncateStmt, statement: &mut Statement) -> Result<(), ParseError> {
    for relation in truncate.relations() {
        let Node::RangeVar(range) = relation else {
            return Err(ParseError::Unparsable);
        };
        statement.facts.targets.push(target(range));
    }
    let cascade = truncate.behavior == DropBehavior::DROP_CASCADE;
    statement.kind = Kind::Truncates { cascade };
    Ok(())
}

fn target(relation: &RangeVar) -> Target {
    Target { name: range_of(relation).name, operations: Operations::default() }
}

fn fill_copy(copy: &CopyStmt, statement: &mut Statement) -> Result<(), ParseError> {
    if copy.filename().is_none() {
        statement.controls.push(Control::Copy);
    }
    // A program may do anything, to this database too.
    if copy.is_program {
        statement.kind = Kind::Opaque { commits_inside: true };
        return Ok(());
    }
    statement.kind = Kind::Carries;
    let facts = &mut statement.facts;
    collect(copy.query(), facts)?;
    collect(copy.where_clause(), facts)?;
    if let Some(relation) = copy.relation() {
        facts.relations.push(range_of(relation));
        if copy.is_from {
            facts.writes = true;
            facts.targets.push(target(relation));
        }
    }
    Ok(())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what cannot be explained is an error anyway")]
fn fill_explain(explain: &ExplainStmt, statement: &mut Statement) -> Result<(), ParseError> {
    // ANALYZE may be switched off by its value; taking it as on is the safe side.
    let runs = setting::has_option(explain.options(), "analyze");
    let carried = if runs { Kind::Carries } else { Kind::Plans };
    statement.kind = match explain.query() {
        Node::DeclareCursorStmt(declare) => {
            collect(declare.query(), &mut statement.facts)?;
            carried
        }
        Node::CreateTableAsStmt(create) if !runs => {
            collect(create.query(), &mut statement.facts)?;
            carried
        }
        Node::CreateTableAsStmt(_) => Kind::Catalog,
        query @ (Node::SelectStmt(_)
        | Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_)) => {
            collect(query, &mut statement.facts)?;
            carried
        }
        _ => Kind::Opaque { commits_inside: false },
    };
    if statement.facts.into {
        statement.kind = if runs { Kind::Catalog } else { Kind::Plans };
    }
    Ok(())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "anything but a query is an EXECUTE")]
fn fill_create_as(create: &CreateTableAsStmt, statement: &mut Statement) -> Result<(), ParseError> {
    let into = create.into().and_then(|into| into.rel());
    statement.kind = temporary(into, false, &mut statement.controls);
    match create.query() {
        query @ Node::SelectStmt(_) => collect(query, &mut statement.facts)?,
        _ if statement.kind == Kind::Temporary => {
            statement.kind = Kind::Opaque { commits_inside: false };
        }
        _ => statement.facts.unknown_syntax = true,
    }
    Ok(())
}

fn vacate(database: Option<&str>, controls: &mut Vec<Control>) -> Kind {
    controls.extend(database.map(|name| Control::Vacate(name.to_owned())));
    Kind::Catalog
}

/// What creating this relation is: of the session alone, or of the catalogue.
fn temporary(relation: Option<&RangeVar>, code: bool, controls: &mut Vec<Control>) -> Kind {
    let temporary = relation.is_some_and(|relation| {
        relation.relpersistence.cast_unsigned() == TEMPORARY
            || relation.schemaname().is_some_and(|schema| schema.starts_with("pg_temp"))
    });
    if temporary {
        controls.push(Control::CreateTemporary { code });
        Kind::Temporary
    } else {
        Kind::Catalog
    }
}

/// Drops relations that its text says are temporary, and nothing that hangs on them.
fn drops_temporary(drop: &DropStmt) -> bool {
    use ObjectType::{OBJECT_SEQUENCE, OBJECT_TABLE, OBJECT_VIEW};
    let relations = [OBJECT_TABLE, OBJECT_VIEW, OBJECT_SEQUENCE].contains(&drop.remove_type);
    let named_temporary = |object: Node<'_>| {
        let Node::NodeList(names) = object else { return false };
        let mut names = names.iter();
        let Some(Node::String(schema)) = names.next() else { return false };
        names.len() == 1 && schema.sval() == Some("pg_temp")
    };
    relations
        && drop.behavior == DropBehavior::DROP_RESTRICT
        && drop.objects().iter().all(named_temporary)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the rest shares a name")]
fn tag(node: Node<'_>) -> &'static str {
    match node {
        Node::SelectStmt(_) => "SELECT",
        Node::InsertStmt(_) => "INSERT",
        Node::UpdateStmt(_) => "UPDATE",
        Node::DeleteStmt(_) => "DELETE",
        Node::MergeStmt(_) => "MERGE",
        Node::TransactionStmt(transaction) => transaction_tag(transaction),
        Node::VariableSetStmt(_) => "SET",
        Node::VariableShowStmt(_) => "SHOW",
        Node::ListenStmt(_) => "LISTEN",
        Node::NotifyStmt(_) => "NOTIFY",
        Node::UnlistenStmt(_) => "UNLISTEN",
        Node::DiscardStmt(_) => "DISCARD",
        Node::PrepareStmt(_) => "PREPARE",
        Node::ExecuteStmt(_) => "EXECUTE",
        Node::DeallocateStmt(_) => "DEALLOCATE",
        Node::DeclareCursorStmt(_) => "DECLARE CURSOR",
        Node::FetchStmt(_) => "FETCH",
        Node::ClosePortalStmt(_) => "CLOSE",
        Node::LockStmt(_) => "LOCK TABLE",
        Node::VacuumStmt(vacuum) if vacuum.is_vacuumcmd => "VACUUM",
        Node::VacuumStmt(_) => "ANALYZE",
        Node::ClusterStmt(_) => "CLUSTER",
        Node::ReindexStmt(_) => "REINDEX",
        Node::CheckPointStmt(_) => "CHECKPOINT",
        Node::CopyStmt(_) => "COPY",
        Node::ExplainStmt(_) => "EXPLAIN",
        Node::CreateTableAsStmt(_) => "CREATE TABLE AS",
        Node::CreateStmt(_) => "CREATE TABLE",
        Node::CreateSeqStmt(_) => "CREATE SEQUENCE",
        Node::ViewStmt(_) => "CREATE VIEW",
        Node::IndexStmt(_) => "CREATE INDEX",
        Node::CreateFunctionStmt(_) => "CREATE FUNCTION",
        Node::AlterTableStmt(_) => "ALTER TABLE",
        Node::TruncateStmt(_) => "TRUNCATE TABLE",
        Node::RefreshMatViewStmt(_) => "REFRESH MATERIALIZED VIEW",
        Node::DropStmt(_) => "DROP",
        Node::GrantStmt(grant) if grant.is_grant => "GRANT",
        Node::GrantStmt(_) => "REVOKE",
        Node::DoStmt(_) => "DO",
        Node::CallStmt(_) => "CALL",
        Node::LoadStmt(_) => "LOAD",
        Node::ConstraintsSetStmt(_) => "SET CONSTRAINTS",
        Node::CommentStmt(_) => "COMMENT",
        _ => "DDL",
    }
}

fn transaction_tag(transaction: &TransactionStmt) -> &'static str {
    match transaction.kind {
        TransactionStmtKind::TRANS_STMT_BEGIN => "BEGIN",
        TransactionStmtKind::TRANS_STMT_START => "START TRANSACTION",
        TransactionStmtKind::TRANS_STMT_COMMIT => "COMMIT",
        TransactionStmtKind::TRANS_STMT_SAVEPOINT => "SAVEPOINT",
        TransactionStmtKind::TRANS_STMT_RELEASE => "RELEASE",
        TransactionStmtKind::TRANS_STMT_PREPARE => "PREPARE TRANSACTION",
        TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED => "COMMIT PREPARED",
        TransactionStmtKind::TRANS_STMT_ROLLBACK_PREPARED => "ROLLBACK PREPARED",
        _ => "ROLLBACK",
    }
}
