//! What the names of a statement stand for in the catalogue snapshot: which tables it reads,
//! whether it can reach code from outside PostgreSQL, and why its answer may not be kept.
//!
//! Nothing here follows PostgreSQL's choice among candidates: a name counts as every object it
//! could be. That only adds tables, and doubt.

mod times;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use super::catalog::{BuiltIn, Catalog, Relation, RelationKind, Stored, TypeClass, Volatility};
use super::functions;
use super::names::{Path, Values};
use super::parse::{Argument, Call, Facts, Name, Range, Source, TypeUse};
use super::reading::{Looked, reading_runs_code};
use super::rules::Restrictions;
use super::verdict::{BypassReason, Restriction, TableId};

/// Tables of one answer; each is checked on every hit.
pub const TABLES_MAX: usize = 64;

/// From this version on the server's grammar has all SQL/JSON syntax that ours has.
const SQL_JSON_VERSION: u32 = 170_000;

/// Columns that every table has.
const SYSTEM_COLUMNS: [&str; 6] = ["cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];

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

    fn range(&mut self, range: &'a Range) {
        let relations = self.path.relations(self.catalog, &range.name);
        let cte = range.name.schema.is_none() && self.facts.ctes.contains(&range.name.name);
        if relations.is_empty() && !cte {
            self.outside(BypassReason::UnknownRelation);
        }
        for relation in &relations {
            if !self.seen.insert(relation.oid) {
                continue;
            }
            self.read(relation);
            if reading_runs_code(relation.oid, self.catalog, &mut self.looked) {
                self.outside(BypassReason::UserObject);
            }
        }
        self.ranges.push((range, relations));
    }

    fn read(&mut self, relation: &Relation) {
        self.restrict(relation);
        if relation.system {
            self.refuse(BypassReason::SystemCatalog);
            return;
        }
        match relation.kind {
            RelationKind::Table | RelationKind::MaterializedView => {
                let root = self.catalog.root(relation.oid);
                if self.resolved.tables.insert(root) {
                    self.catalog.tree(root).for_each(|member| self.read_member(member));
                }
            }
            RelationKind::View => self.follow(relation.oid),
            RelationKind::Foreign | RelationKind::Sequence => {
                self.refuse(BypassReason::RelationKind);
            }
        }
    }

    fn restrict(&mut self, relation: &Relation) {
        if let Some(restriction) = self.restrictions.of_relation(relation.oid) {
            self.resolved.restriction.and(restriction);
        }
    }

    /// A view is as good as its definition and all that it reads.
    fn follow(&mut self, view: u32) {
        if self.followed.insert(view) {
            match self.catalog.view(view) {
                Some(stored) => self.stored(stored),
                None => self.refuse(BypassReason::View),
            }
        }
    }

    fn stored(&mut self, stored: &Stored) {
        if let Some(reason) = stored.refusal {
            self.refuse(reason);
        }
        for oid in &stored.relations {
            match self.catalog.relation(*oid) {
                Some(relation) => self.read(relation),
                None => self.outside(BypassReason::UnknownRelation),
            }
        }
    }

    fn read_member(&mut self, member: &Relation) {
        self.restrict(member);
        if member.kind == RelationKind::Foreign {
            self.outside(BypassReason::RelationKind);
        }
        if member.unlogged {
            self.refuse(BypassReason::RelationKind);
        }
        if member.row_security && self.followed.insert(member.oid) {
            self.row_security(member.oid);
        }
    }

    /// Who is asked for, and with which settings, is in the key: if the policies ask for nothing
    /// else, what they let through is an answer like any other.
    fn row_security(&mut self, table: u32) {
        let catalog = self.catalog;
        match catalog.policies(table) {
            Some(policies) if policies.refusal.is_some() => {
                self.refuse(BypassReason::RowSecurity);
            }
            Some(policies) => self.stored(policies),
            // Nothing is let through but to its owner.
            None => {}
        }
    }

    /// Looks through the columns that the statement may use.
    fn note_values(&mut self, parameter_types: &[u32]) {
        let facts = self.facts;
        let used: HashSet<&str> = facts
            .columns
            .iter()
            .filter_map(|column| column.last())
            .chain(&facts.fields)
            .chain(&facts.attributes)
            .map(String::as_str)
            .collect();
        if SYSTEM_COLUMNS.iter().any(|name| used.contains(name)) {
            self.refuse(BypassReason::SystemColumn);
        }
        let ranges: HashSet<&str> = self.ranges.iter().map(|(range, _)| range.known_as()).collect();
        let names_row = facts.columns.iter().any(|column| self.names_a_row(column, &ranges));
        self.values.any |= facts.whole_rows || names_row;
        let all = facts.stars || facts.natural_join || facts.renamed_join || self.values.any;
        let mut classes: Vec<TypeClass> = parameter_types
            .iter()
            .filter(|oid| **oid != 0)
            .map(|oid| self.catalog.type_class(*oid))
            .collect();
        if classes.contains(&TypeClass::CheckedDomain) {
            // Whatever Bind brings is checked.
            self.outside(BypassReason::UserObject);
        }
        for (range, relations) in &self.ranges {
            let all = all || range.renamed;
            let columns = relations.iter().flat_map(|relation| &relation.columns);
            classes.extend(
                columns.filter(|column| all || used.contains(&*column.name)).map(|c| c.class),
            );
        }
        for class in classes {
            self.note_value(class);
        }
    }

    /// What functions return for which the operator answers may be given to others.
    fn note_results(&mut self) {
        let (facts, catalog) = (self.facts, self.catalog);
        if !self.restrictions.has_functions() {
            return;
        }
        for Call { name: Name { name, .. }, .. } in &facts.calls {
            let overloads = catalog.functions(name).iter();
            for overload in overloads {
                if self.restrictions.allows_function(overload.schema, name) {
                    overload.results.iter().for_each(|class| self.note_value(*class));
                }
            }
        }
    }

    /// `SELECT t FROM t`: the name of a FROM item is its whole row, unless it is a column.
    fn names_a_row(&self, column: &[String], ranges: &HashSet<&str>) -> bool {
        let Some(name) = column.last() else {
            return true;
        };
        self.facts.derived.contains(name)
            || self.facts.ctes.contains(name)
            || ranges.contains(name.as_str())
    }

    fn note_value(&mut self, class: TypeClass) {
        match class {
            TypeClass::Plain | TypeClass::Moment => {}
            TypeClass::Time => self.values.times = true,
            TypeClass::CheckedDomain => self.values.checked = true,
            TypeClass::CheckedElements => self.outside(BypassReason::UserObject),
            TypeClass::Reg => self.refuse(BypassReason::RegType),
            TypeClass::TimeTz => self.refuse(BypassReason::TimeType),
            TypeClass::Enum(oid) if self.catalog.has_casts(oid) => {
                self.note_value(TypeClass::Outside);
            }
            TypeClass::Enum(oid) => {
                self.values.enums.insert(oid);
            }
            TypeClass::Outside => {
                self.values.any = true;
                self.refuse(BypassReason::UserObject);
                if self.catalog.cast_code() {
                    self.resolved.code = true;
                }
            }
        }
    }

    fn type_use(&mut self, use_: &TypeUse) {
        let Name { schema, name } = &use_.name;
        let wanted = schema.as_deref().map(|schema| self.catalog.schema(schema));
        let catalog = self.catalog;
        let mut found = false;
        for candidate in catalog.types_named(name) {
            let matches = match wanted {
                Some(wanted) => wanted == Some(candidate.schema),
                None => self.path.holds(candidate.schema),
            };
            if !matches {
                continue;
            }
            if candidate.schema == catalog.pg_catalog() {
                // Searched first, so nothing else can be meant.
                self.built_in_type(candidate.class, name, &use_.source);
                if !self.path.demoted() || wanted.is_some() {
                    return;
                }
            } else if candidate.domain {
                self.refuse(BypassReason::UserObject);
                if matches!(
                    candidate.class,
                    TypeClass::CheckedDomain | TypeClass::CheckedElements | TypeClass::Outside
                ) {
                    self.resolved.code = true;
                }
                self.note_value(candidate.class);
            } else {
                if !matches!(candidate.class, TypeClass::Enum(oid) if !catalog.has_casts(oid)) {
                    self.outside(BypassReason::UserObject);
                }
                self.note_value(candidate.class);
            }
            found = true;
        }
        if !found {
            self.outside(BypassReason::UnknownName);
        }
    }

    fn built_in_type(&mut self, class: TypeClass, name: &str, source: &Source) {
        self.note_value(class);
        if !functions::is_time_type(name.trim_start_matches('_')) {
            return;
        }
        let moment = match source {
            Source::Given => true,
            Source::Column { qualifier, name } => self.holds_moments(qualifier.as_deref(), name),
            Source::Call(call) => functions::returns_moment(&call.name),
            Source::Other => false,
        };
        if !moment {
            self.refuse(BypassReason::TimeType);
        }
    }

    /// `a.b` is a column, or else the function b of the row a. In `(a).b` a may be any value, and b
    /// a type that it is cast to.
    fn columns(&mut self) {
        let facts = self.facts;
        let columns: HashSet<&[String]> = facts.columns.iter().map(Vec::as_slice).collect();
        for column in columns {
            if let [.., qualifier, name] = column
                && !self.is_column(qualifier, name)
            {
                self.attribute(name, true);
            }
        }
        for name in &facts.attributes {
            self.attribute(name, false);
            self.cast_by_call(&Name { schema: None, name: name.clone() }, &Source::Other);
        }
    }

    /// Whatever has the form of a call with one argument may be a cast to a type of that name.
    fn cast_by_call(&mut self, name: &Name, source: &Source) {
        let wanted = name.schema.as_deref().map(|schema| self.catalog.schema(schema));
        let is_meant = |schema| match wanted {
            Some(wanted) => wanted == Some(schema),
            None => self.path.holds(schema),
        };
        let types = self.catalog.types_named(&name.name);
        if types.iter().any(|candidate| !candidate.row && is_meant(candidate.schema)) {
            self.type_use(&TypeUse { name: name.clone(), source: source.clone() });
        }
    }

    fn is_column(&self, qualifier: &str, name: &str) -> bool {
        let mut candidates =
            self.ranges.iter().filter(|(range, _)| range.known_as() == qualifier).peekable();
        !self.facts.derived.contains(qualifier)
            && !self.facts.ctes.contains(qualifier)
            && candidates.peek().is_some()
            && candidates.all(|(range, relations)| {
                !range.renamed
                    && !self.facts.ctes.contains(&range.name.name)
                    && !relations.is_empty()
                    && relations.iter().all(|relation| relation.column(name).is_some())
            })
    }

    fn attribute(&mut self, name: &str, of_row: bool) {
        if self.catalog.functions(name).iter().any(|overload| self.path.holds(overload.schema)) {
            self.outside(BypassReason::UnknownName);
        }
        if let Some(built_in) = self.catalog.built_in(name)
            && (built_in.takes_row || !of_row)
        {
            if functions::runs_code(name) {
                self.resolved.code = true;
            }
            if !may_keep(name, 1, built_in) {
                self.refuse(BypassReason::Function);
            }
        }
    }

    fn call(&mut self, call: &Call) {
        if let (1, Some((source, _))) = (call.arguments.len(), &call.first) {
            self.cast_by_call(&call.name, source);
        }
        let name = &call.name.name;
        let mut overloads = Cow::Borrowed(self.catalog.functions(name));
        if self.restrictions.has_functions() {
            let allows = |schema| self.restrictions.allows_function(schema, name);
            let schema = call.name.schema.as_deref().and_then(|name| self.catalog.schema(name));
            if schema.is_some_and(allows) {
                return;
            }
            let before = overloads.len();
            overloads.to_mut().retain(|overload| {
                call.name.schema.is_some()
                    || !self.path.holds(overload.schema)
                    || !allows(overload.schema)
            });
            let none_else = !self.path.reaches(call, &overloads, &self.values);
            if overloads.len() < before && none_else && self.catalog.built_in(name).is_none() {
                return;
            }
        }
        if self.path.reaches(call, &overloads, &self.values) {
            self.outside(BypassReason::UserObject);
        }
        match self.catalog.built_in(name).or_else(|| self.older_name(call)) {
            // Its arguments do not look as if they fitted; what they are given by may make them fit.
            None if !self.catalog.functions(name).is_empty() => {
                self.outside(BypassReason::UserObject);
            }
            None => self.outside(BypassReason::Function),
            Some(built_in) => {
                if functions::runs_code(name) {
                    self.resolved.code = true;
                }
                if !may_keep(name, call.arguments.len(), built_in) && !self.is_harmless(call) {
                    self.refuse(BypassReason::Function);
                }
            }
        }
    }

    /// What it is given makes an answer worth keeping that others of its name do not give.
    fn is_harmless(&self, call: &Call) -> bool {
        match (call.name.name.as_str(), &call.first) {
            ("current_setting", Some((_, Some(name)))) => functions::is_own_setting(name),
            (function, Some((Source::Column { qualifier, name }, _)))
                if call.arguments.len() == 1 =>
            {
                functions::converts_moments(function)
                    && self.holds_moments(qualifier.as_deref(), name)
            }
            (_, _) => false,
        }
    }

    /// EXTRACT is a function of its own since version 14 only.
    fn older_name(&self, call: &Call) -> Option<BuiltIn> {
        let extract = call.name.name == "extract" && call.name.schema.is_some();
        extract.then(|| self.catalog.built_in("date_part")).flatten()
    }

    /// Beside a value of a domain a literal is one of the type below it. But what takes any type
    /// takes the domain, and makes arrays of it: there a literal becomes what is checked.
    fn literals(&mut self) {
        let is_untyped =
            |call: &Call| call.any_place || call.arguments.contains(&Argument::Untyped);
        let takes_any = |call: &Call| is_untyped(call) || call.name.name.starts_with("array_");
        let appends = |call: &Call| call.name.name == "||" && is_untyped(call);
        let facts = self.facts;
        if self.values.checked
            && (facts.arrays
                || facts.calls.iter().any(takes_any)
                || facts.operators.iter().any(appends))
        {
            self.outside(BypassReason::UserObject);
        }
    }

    fn operator(&mut self, call: &Call) {
        if self.path.reaches(call, self.catalog.operators(&call.name.name), &self.values) {
            self.outside(BypassReason::UserObject);
        }
    }
}

fn may_keep(name: &str, arguments: usize, built_in: BuiltIn) -> bool {
    match built_in.volatility {
        Volatility::Immutable => !functions::immutable_refused(name),
        Volatility::Stable => functions::stable_allowed(name, arguments),
        Volatility::Volatile => false,
    }
}
