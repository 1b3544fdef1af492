//! Of which types the values in a statement may be: reading and writing some runs code, or depends on more
//! than tables.

use std::collections::HashSet;

use crate::sql::catalog::TypeClass;
use crate::sql::functions;
use crate::sql::parse::{Call, Name, Source, TypeUse};
use crate::sql::verdict::BypassReason;

use super::Resolver;

/// Columns that every table has.
const SYSTEM_COLUMNS: [&str; 6] = ["cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];

impl Resolver<'_> {
    /// Looks through the columns that the statement may use.
    pub(super) fn note_values(&mut self, parameter_types: &[u32]) {
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
    pub(super) fn note_results(&mut self) {
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

    pub(super) fn type_use(&mut self, use_: &TypeUse) {
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
}
