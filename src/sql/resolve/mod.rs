//! What the names of a statement stand for in the catalogue snapshot: which tables it reads,
//! whether it can reach code from outside PostgreSQL, and why its answer may not be kept.
//!
//! Nothing here follows PostgreSQL's choice among candidates: a name counts as every object it
//! could be. That only adds tables, and doubt.

mod calls;
mod relations;
mod times;
mod values;

use std::collections::{BTreeSet, HashSet};

use super::catalog::{Catalog, Relation, Stored};
use super::names::{Path, Values};
use super::parse::{Facts, Range};
use super::reading::{Looked, reading_runs_code};
use super::rules::Restrictions;
use super::verdict::{BypassReason, Restriction, TableId};

/// Tables of one answer; each is checked on every hit.
pub const TABLES_MAX: usize = 64;

/// From this version on the server's grammar has all SQL/JSON syntax that ours has.
const SQL_JSON_VERSION: u32 = 170_000;

/// What resolving found.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// Roots of the tables it reads.
    pub tables: BTreeSet<TableId>,
    /// It may run code from outside, or names what the snapshot does not know.
    pub code: bool,
    /// The first reason not to keep its answer.
    pub refusal: Option<BypassReason>,
    /// What the rules say of all that it reads.
    pub restriction: Restriction,
}

/// Resolves everything a statement names.
pub(super) fn resolve(
    facts: &Facts,
    catalog: &Catalog,
    search_path: &[String],
    parameter_types: &[u32],
    restrictions: &Restrictions,
) -> Resolved {
    let mut resolver = Resolver::new(facts, catalog, search_path, restrictions);
    resolver.flags();
    for range in &facts.relations {
        resolver.range(range);
    }
    resolver.note_values(parameter_types);
    for use_ in &facts.types {
        resolver.type_use(use_);
    }
    resolver.columns();
    resolver.note_results();
    for call in &facts.calls {
        resolver.call(call);
    }
    for operator in &facts.operators {
        resolver.operator(operator);
    }
    resolver.literals();
    resolver.times();
    resolver.bounded()
}

/// Resolves a query that PostgreSQL has analysed.
pub(super) fn resolve_stored(
    stored: &Stored,
    catalog: &Catalog,
    restrictions: &Restrictions,
) -> Resolved {
    let facts = Facts::default();
    let mut resolver = Resolver::new(&facts, catalog, &[], restrictions);
    resolver.flags();
    resolver.stored(stored);
    let looked = &mut Looked::default();
    if stored.relations.iter().any(|oid| reading_runs_code(*oid, catalog, looked)) {
        resolver.outside(BypassReason::UserObject);
    }
    resolver.bounded()
}

struct Resolver<'a> {
    facts: &'a Facts,
    catalog: &'a Catalog,
    path: Path,
    /// The relations that a name in a FROM list may stand for.
    ranges: Vec<(&'a Range, Vec<&'a Relation>)>,
    values: Values,
    /// Relations that FROM lists have named.
    seen: HashSet<u32>,
    /// Views and policies that have been looked at.
    followed: HashSet<u32>,
    looked: Looked,
    restrictions: &'a Restrictions,
    resolved: Resolved,
}

impl<'a> Resolver<'a> {
    fn new(
        facts: &'a Facts,
        catalog: &'a Catalog,
        search_path: &[String],
        restrictions: &'a Restrictions,
    ) -> Self {
        Self {
            facts,
            catalog,
            path: Path::new(catalog, search_path),
            ranges: Vec::new(),
            values: Values::default(),
            seen: HashSet::new(),
            followed: HashSet::new(),
            looked: Looked::default(),
            restrictions,
            resolved: Resolved::default(),
        }
    }

    fn bounded(mut self) -> Resolved {
        if self.resolved.tables.is_empty() {
            self.refuse(BypassReason::NoTable);
        } else if self.resolved.tables.len() > TABLES_MAX {
            self.refuse(BypassReason::TooManyTables);
        }
        self.resolved
    }

    fn refuse(&mut self, reason: BypassReason) {
        self.resolved.refusal.get_or_insert(reason);
    }

    /// Refused, and it may run code that we do not know.
    fn outside(&mut self, reason: BypassReason) {
        self.resolved.code = true;
        self.refuse(reason);
    }

    fn flags(&mut self) {
        let facts = self.facts;
        if facts.unknown_syntax {
            self.outside(BypassReason::Unparsable);
        }
        if facts.recent_syntax && self.catalog.identity().server_version < SQL_JSON_VERSION {
            self.outside(BypassReason::Function);
        }
        if self.catalog.hooks() {
            self.outside(BypassReason::UserObject);
        }
        for (found, reason) in [
            (facts.writes || facts.into, BypassReason::Writes),
            (facts.locks_rows, BypassReason::LocksRows),
            (facts.table_sample, BypassReason::TableSample),
            (facts.value_function, BypassReason::ValueFunction),
            (facts.time_word, BypassReason::TimeWord),
            (facts.special_syntax, BypassReason::Function),
        ] {
            if found {
                self.refuse(reason);
            }
        }
    }
}
