//! What PostgreSQL could choose for a name: relations along the search path, overloads by what is
//! known of their arguments. Never the one choice, always every candidate.

use std::collections::HashSet;

use super::catalog::{Catalog, Demand, Overload, Relation};
use super::parse::{Argument, Call, Name};

/// The schemas that unqualified names are looked for in.
#[derive(Debug)]
pub(super) struct Path {
    schemas: Vec<u32>,
    pg_catalog: u32,
    /// A schema is searched before `pg_catalog`, so built-in names may be taken over.
    demoted: bool,
}

impl Path {
    pub(super) fn new(catalog: &Catalog, search_path: &[String]) -> Self {
        let first = search_path.iter().position(|name| name == "pg_catalog");
        Self {
            schemas: search_path.iter().filter_map(|name| catalog.schema(name)).collect(),
            pg_catalog: catalog.pg_catalog(),
            demoted: first.is_some_and(|at| at > 0),
        }
    }

    pub(super) fn holds(&self, schema: u32) -> bool {
        schema == self.pg_catalog || self.schemas.contains(&schema)
    }

    /// Every relation that the name may mean.
    pub(super) fn relations<'a>(&self, catalog: &'a Catalog, name: &Name) -> Vec<&'a Relation> {
        let wanted = name.schema.as_deref().map(|schema| catalog.schema(schema));
        catalog
            .relations_named(&name.name)
            .filter(|(schema, _)| match wanted {
                Some(wanted) => wanted == Some(*schema),
                None => self.holds(*schema),
            })
            .map(|(_, relation)| relation)
            .collect()
    }

    pub(super) fn demoted(&self) -> bool {
        self.demoted
    }

    /// One of these overloads from outside may be what PostgreSQL chooses for the call.
    pub(super) fn reaches(&self, call: &Call, overloads: &[Overload], values: &Values) -> bool {
        let qualified = match call.name.schema.as_deref() {
            None => false,
            Some("pg_catalog") => true,
            Some(_) => return true,
        };
        overloads
            .iter()
            .filter(|overload| {
                if qualified {
                    overload.schema == self.pg_catalog
                } else {
                    self.holds(overload.schema)
                }
            })
            .any(|overload| self.demoted && !qualified || accepts(overload, call, values))
    }
}

/// Which values from outside an expression of the statement may hold.
#[derive(Debug, Default)]
pub(super) struct Values {
    pub enums: HashSet<u32>,
    /// Rows, or values of a type from outside that is no enum: they reach any overload.
    pub any: bool,
    /// Values of type `time`.
    pub times: bool,
    /// Values of a domain over a built-in type whose checks call code from outside.
    pub checked: bool,
}

impl Values {
    fn fit(&self, demand: Demand, argument: Argument) -> bool {
        match (demand, argument) {
            (_, Argument::Untyped) | (Demand::Anything, _) => true,
            (_, _) if self.any => true,
            (Demand::NoNumber, argument) => argument != Argument::Number,
            (Demand::Outside(oid), _) => self.enums.contains(&oid),
        }
    }
}

fn accepts(overload: &Overload, call: &Call, values: &Values) -> bool {
    let wanted = overload.arguments.len();
    let given = call.arguments.len();
    if call.any_place || overload.variadic {
        // Places are unknown, so any value may stand in any.
        return true;
    }
    given <= wanted
        && given + overload.defaults >= wanted
        && overload.arguments.iter().zip(&call.arguments).all(|(d, a)| values.fit(*d, *a))
}
