//! Dates and times of day: which columns hold them, and what a time zone makes of them.

use super::Resolver;
use crate::sql::catalog::TypeClass;
use crate::sql::functions;
use crate::sql::parse::{Call, Range, Source};
use crate::sql::verdict::BypassReason;

impl Resolver<'_> {
    /// Every column that may be meant holds dates or times, so a cast of it reads no text. Where
    /// something else than tables stands in a FROM list, that may have a column of any name.
    pub(super) fn holds_moments(&self, qualifier: Option<&str>, name: &str) -> bool {
        self.holds(qualifier, name, &[TypeClass::Moment, TypeClass::Time])
    }

    /// Whatever column this may be, its values are of one of these classes.
    fn holds(&self, qualifier: Option<&str>, name: &str, classes: &[TypeClass]) -> bool {
        let facts = self.facts;
        if facts.renamed_join || facts.relations.iter().any(|range| range.renamed) {
            return false;
        }
        let is_of_tables = match qualifier {
            Some(qualifier) => self.is_column(qualifier, name),
            None => {
                facts.derived.is_empty() && facts.ctes.is_empty() && !facts.outputs.contains(name)
            }
        };
        let is_meant = |range: &Range| qualifier.is_none_or(|of| range.known_as() == of);
        let mut columns = self
            .ranges
            .iter()
            .filter(|(range, _)| is_meant(range))
            .flat_map(|(_, relations)| relations)
            .filter_map(|relation| relation.column(name))
            .peekable();
        is_of_tables
            && columns.peek().is_some()
            && columns.all(|column| classes.contains(&column.class))
    }

    /// A time of day is in another time zone what it would be today.
    pub(super) fn times(&mut self) {
        let facts = self.facts;
        let calls = |is: fn(&str) -> bool| {
            facts.calls.iter().map(|call| &call.name.name).chain(&facts.attributes).any(|n| is(n))
        };
        let is_time = |call: &&Call| match &call.last {
            Some(Source::Column { qualifier, name }) => {
                !self.holds(qualifier.as_deref(), name, &[TypeClass::Moment])
            }
            // What gives moments gives no time of day, but for those that are looked at by themselves.
            Some(Source::Call(of)) => !functions::returns_moment(&of.name),
            Some(Source::Given | Source::Other) | None => true,
        };
        let mut shifts = facts.calls.iter().filter(|call| functions::changes_zone(&call.name.name));
        let shifts = shifts.any(|call| is_time(&call))
            || facts.attributes.iter().any(|name| functions::changes_zone(name));
        if shifts && (self.values.times || calls(functions::makes_time)) {
            self.refuse(BypassReason::TimeType);
        }
    }
}
