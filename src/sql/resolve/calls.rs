//! What a statement calls: functions, operators, and what else has the form of a call.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::sql::catalog::{BuiltIn, Volatility};
use crate::sql::functions;
use crate::sql::parse::{Argument, Call, Name, Source, TypeUse};
use crate::sql::verdict::BypassReason;

use super::Resolver;

impl Resolver<'_> {
    /// `a.b` is a column, or else the function b of the row a. In `(a).b` a may be any value, and b
    /// a type that it is cast to.
    pub(super) fn columns(&mut self) {
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

    pub(super) fn is_column(&self, qualifier: &str, name: &str) -> bool {
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

    pub(super) fn call(&mut self, call: &Call) {
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

    pub(super) fn operator(&mut self, call: &Call) {
        if self.path.reaches(call, self.catalog.operators(&call.name.name), &self.values) {
            self.outside(BypassReason::UserObject);
        }
    }

    /// Beside a value of a domain a literal is one of the type below it. But what takes any type
    /// takes the domain, and makes arrays of it: there a literal becomes what is checked.
    pub(super) fn literals(&mut self) {
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
}

fn may_keep(name: &str, arguments: usize, built_in: BuiltIn) -> bool {
    match built_in.volatility {
        Volatility::Immutable => !functions::immutable_refused(name),
        Volatility::Stable => functions::stable_allowed(name, arguments),
        Volatility::Volatile => false,
    }
}
