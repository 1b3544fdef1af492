//! The verdict on one query string: what it writes, whether its answer may be kept, and what it
//! changes about the client.

pub use super::search_path::parse_search_path;

use super::catalog::Catalog;
use super::closure::{UNKNOWN_CODE, refresh, truncate, write};
use super::parse::{Facts, Kind, ParseError, Statement, parse};
use super::resolve::{Resolved, resolve};
use super::rules::Restrictions;
use super::schema;
use super::verdict::{BypassReason, Control, Read, Restriction, Verdict, Write};

/// What a verdict depends on besides the text.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// `None` until the snapshot is loaded, or while it is known to be old.
    pub catalog: Option<&'a Catalog>,
    /// Schemas in order, as resolved from the setting: `$user` replaced, without the implicit
    /// `pg_catalog` and `pg_temp`.
    pub search_path: &'a [String],
    /// Declared types of `$1`, `$2`, …; 0 where PostgreSQL is to infer.
    pub parameter_types: &'a [u32],
    pub restrictions: &'a Restrictions,
}

/// Judges a query string. Never fails: what is not understood is opaque and not kept.
///
/// Temporary relations are not in the snapshot. For a client that has or may have some, any name
/// may mean one of them, a view that calls anything included: its reads must not be kept, nor
/// its `Write::None` and `Write::Plain` believed.
pub fn classify(sql: &str, context: &Context<'_>) -> Verdict {
    // The grammar's bindings panic on tree nodes they do not expect; nothing outlives the call.
    let judged =
        std::panic::catch_unwind(|| parse(sql).map(|statements| judge(statements, context)));
    match judged.unwrap_or(Err(ParseError::Unparsable)) {
        Ok(verdict) => verdict,
        // Nearly always PostgreSQL rejects it too, but it may be newer syntax.
        Err(ParseError::Unparsable) => not_understood(BypassReason::Unparsable),
        Err(ParseError::TooLong) => not_understood(BypassReason::TooLong),
    }
}

fn not_understood(reason: BypassReason) -> Verdict {
    Verdict {
        controls: Vec::new(),
        ends: Box::default(),
        write: Write::Opaque { commits_inside: true, taints: true },
        read: Read::Bypass(reason),
        statements: 1,
        tag: "UNKNOWN",
        exact_text: false,
        taints: false,
        restriction: Restriction::default(),
    }
}

fn judge(statements: Vec<Statement>, context: &Context<'_>) -> Verdict {
    let count = statements.len();
    let mut verdict = Verdict {
        controls: Vec::new(),
        ends: Box::default(),
        write: Write::None,
        read: Read::Bypass(BypassReason::NotARead),
        statements: count,
        tag: statements.first().map_or("", |statement| statement.tag),
        exact_text: false,
        taints: false,
        restriction: Restriction::default(),
    };
    let mut ends = Vec::new();
    let mut ends_transaction = false;
    // An earlier statement of the string has changed what the names in later ones mean.
    let mut other_names = false;
    let mut restriction = Restriction::default();
    // Those before it may be missing, or not for this role.
    let temporary = context.search_path.iter().any(|schema| schema.starts_with("pg_temp"));
    for mut statement in statements {
        let (mut write, read) = effect(&statement, context, &mut restriction);
        if temporary && matches!(write, Write::Catalog | Write::Schema(_)) {
            // What it creates may be the session's own.
            write = Write::Catalog;
            statement.controls.push(Control::CreateTemporary { code: true });
        }
        if other_names && !touches_nothing(&statement.facts) {
            write = union(write, UNKNOWN_CODE);
        }
        verdict.taints |= taints(&statement, &write, context);
        other_names |= statement.controls.iter().any(changes_names);
        verdict.write = union(verdict.write, write);
        verdict.read = read;
        verdict.exact_text |= statement.exact_text || statement.facts.time_word;
        ends_transaction |= statement.controls.iter().any(is_transaction_control);
        verdict.controls.extend(statement.controls);
        ends.push(verdict.controls.len());
    }
    if count > 1 {
        verdict.ends = ends.into();
        verdict.read = Read::Bypass(BypassReason::MultipleStatements);
        // What it names is in flight from its beginning to its end; only what it does not name
        // has to be told that it may be committed in the middle.
        if ends_transaction && let Write::Opaque { commits_inside, .. } = &mut verdict.write {
            *commits_inside = true;
        }
    }
    verdict.restrict(&restriction);
    verdict
}

/// Whether code we do not know may change the session when the statement runs.
fn taints(statement: &Statement, write: &Write, context: &Context<'_>) -> bool {
    match write {
        Write::Opaque { taints, .. } => *taints,
        Write::None | Write::Plain(_) => false,
        Write::Schema(_) | Write::Catalog => match statement.kind {
            // Rules of the system's own views, or a cursor's query.
            Kind::Select | Kind::Carries => true,
            Kind::Catalog => runs_code(&statement.facts, context) || fires_events(context),
            Kind::Plans
            | Kind::Nothing
            | Kind::Maintenance
            | Kind::Truncates { .. }
            | Kind::Refreshes
            | Kind::Temporary
            | Kind::Opaque { .. }
            | Kind::Adds { .. }
            | Kind::Moves
            | Kind::Indexes
            | Kind::Allows
            | Kind::Comments => fires_events(context),
        },
    }
}

fn fires_events(context: &Context<'_>) -> bool {
    context.catalog.is_none_or(Catalog::event_triggers)
}

fn effect(
    statement: &Statement,
    context: &Context<'_>,
    restriction: &mut Restriction,
) -> (Write, Read) {
    let not_a_read = Read::Bypass(BypassReason::NotARead);
    match statement.kind {
        Kind::Select => select(statement, context, restriction),
        Kind::Carries => (carried(statement, context), not_a_read),
        Kind::Plans => {
            let write =
                if runs_code(&statement.facts, context) { UNKNOWN_CODE } else { Write::None };
            (write, not_a_read)
        }
        Kind::Nothing => (Write::None, not_a_read),
        Kind::Maintenance => {
            // Expressions of indexes run; so do the triggers of events that some raise.
            let clean = context.catalog.is_some_and(|c| !c.index_code() && !c.event_triggers());
            let opaque = Write::Opaque { commits_inside: true, taints: false };
            (if clean { Write::None } else { opaque }, not_a_read)
        }
        Kind::Truncates { .. } | Kind::Refreshes => (emptied(statement, context), not_a_read),
        Kind::Temporary => {
            let clean = context.catalog.is_some_and(|c| !c.event_triggers())
                && !runs_code(&statement.facts, context)
                && !statement.facts.writes;
            (if clean { Write::None } else { UNKNOWN_CODE }, not_a_read)
        }
        Kind::Opaque { commits_inside } => {
            (Write::Opaque { commits_inside, taints: true }, not_a_read)
        }
        Kind::Adds { .. } | Kind::Moves | Kind::Indexes | Kind::Allows | Kind::Comments => {
            let names = (&*statement.facts.targets, &*statement.facts.made);
            let write = schema::change(statement.kind, names, context.catalog, context.search_path);
            let finer = Read::Bypass(BypassReason::CatalogLoading);
            (write, if context.catalog.is_none() { finer } else { not_a_read })
        }
        Kind::Catalog => (Write::Catalog, not_a_read),
    }
}

fn resolved(facts: &Facts, catalog: &Catalog, context: &Context<'_>) -> Resolved {
    let Context { search_path, parameter_types, restrictions, .. } = context;
    resolve(facts, catalog, search_path, parameter_types, restrictions)
}

fn select(
    statement: &Statement,
    context: &Context<'_>,
    restriction: &mut Restriction,
) -> (Write, Read) {
    let facts = &statement.facts;
    let Some(catalog) = context.catalog else {
        return (carried(statement, context), Read::Bypass(BypassReason::CatalogLoading));
    };
    let resolved = resolved(facts, catalog, context);
    let write = written(facts, &resolved, catalog, context);
    let read = match resolved.refusal {
        Some(reason) => Read::Bypass(reason),
        None if write != Write::None => Read::Bypass(BypassReason::Writes),
        None => Read::Cacheable(resolved.tables.into_iter().collect()),
    };
    restriction.and(&resolved.restriction);
    (write, read)
}

/// What a statement that carries a query writes.
fn carried(statement: &Statement, context: &Context<'_>) -> Write {
    let facts = &statement.facts;
    let write = match context.catalog {
        None if touches_nothing(facts) => Write::None,
        None => UNKNOWN_CODE,
        Some(catalog) => written(facts, &resolved(facts, catalog, context), catalog, context),
    };
    let held = statement.controls.contains(&Control::DeclareCursor { hold: true });
    if held && write != Write::None {
        // Such a cursor's query runs within the commit, after the last moment to ask what was
        // written: only what a commit after DDL does covers it.
        return Write::Catalog;
    }
    write
}

/// What TRUNCATE or REFRESH MATERIALIZED VIEW touches.
fn emptied(statement: &Statement, context: &Context<'_>) -> Write {
    let targets = &statement.facts.targets;
    let Some(catalog) = context.catalog.filter(|catalog| !catalog.event_triggers()) else {
        return UNKNOWN_CODE;
    };
    if let Kind::Truncates { cascade } = statement.kind {
        truncate(targets, cascade, catalog, context.search_path)
    } else {
        refresh(targets, catalog, context.search_path)
    }
}

fn written(facts: &Facts, resolved: &Resolved, catalog: &Catalog, context: &Context<'_>) -> Write {
    if resolved.code {
        UNKNOWN_CODE
    } else if facts.writes {
        write(&facts.targets, catalog, context.search_path)
    } else {
        Write::None
    }
}

fn runs_code(facts: &Facts, context: &Context<'_>) -> bool {
    match context.catalog {
        None => !touches_nothing(facts),
        Some(catalog) => resolved(facts, catalog, context).code,
    }
}

/// Not even without a catalogue can it reach anything.
fn touches_nothing(facts: &Facts) -> bool {
    facts.relations.is_empty()
        && facts.calls.is_empty()
        && facts.operators.is_empty()
        && facts.types.is_empty()
        && facts.columns.is_empty()
        && facts.attributes.is_empty()
        && facts.targets.is_empty()
        && !facts.writes
        && !facts.unknown_syntax
}

/// A setting that says what names, or texts, mean.
pub fn looks_up_names(setting: &str) -> bool {
    matches!(setting, "search_path" | "role" | "standard_conforming_strings")
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other control concerns names")]
pub fn changes_names(control: &Control) -> bool {
    match control {
        Control::Set { name, .. } | Control::Reset { name, .. } => looks_up_names(name),
        Control::ResetAll
        | Control::Unreplayable
        | Control::DiscardAll
        | Control::CreateTemporary { .. } => true,
        _ => false,
    }
}

fn is_transaction_control(control: &Control) -> bool {
    matches!(
        control,
        Control::Begin { .. }
            | Control::Commit { .. }
            | Control::Rollback { .. }
            | Control::Savepoint(_)
            | Control::ReleaseSavepoint(_)
            | Control::RollbackToSavepoint(_)
            | Control::PrepareTransaction(_)
            | Control::CommitPrepared(_)
    )
}

/// Both happen.
fn union(one: Write, other: Write) -> Write {
    match (one, other) {
        (Write::None, write) | (write, Write::None) => write,
        // What follows it in the string was judged as if it had not been.
        (Write::Catalog | Write::Schema(_), _) | (_, Write::Catalog | Write::Schema(_)) => {
            Write::Catalog
        }
        (
            Write::Opaque { commits_inside: a, taints: b },
            Write::Opaque { commits_inside: c, taints: d },
        ) => Write::Opaque { commits_inside: a || c, taints: b || d },
        (opaque @ Write::Opaque { .. }, Write::Plain(_))
        | (Write::Plain(_), opaque @ Write::Opaque { .. }) => opaque,
        (Write::Plain(one), Write::Plain(other)) => {
            let mut tables: Vec<_> = one.into_iter().chain(other).collect();
            tables.sort_unstable();
            tables.dedup();
            Write::Plain(tables.into())
        }
    }
}

#[cfg(test)]
mod tests;
