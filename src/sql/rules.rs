//! What the operator says of the cache: answers over which tables, and to which statements, are
//! never kept or not for long, and which functions of theirs depend on nothing but their arguments.
//!
//! Rules restrict, each by itself: where several fit, the strictest counts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::catalog::{Catalog, Relation, RelationKind};
use super::lex::display_shape;
use super::verdict::{Restriction, TableId};

/// A text in which each `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn fits(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some((_, behind)) = rest.split_once(part) else { return false };
            rest = behind;
        }
        rest.ends_with(last)
    }
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Tables, views and partitions, and with them whatever is read through or together with
    /// them. `None`: any schema.
    Relations { schema: Option<Pattern>, name: Pattern },
    /// Statements by their shape as the console shows it, in lower case.
    Statements(Pattern),
}

/// One entry of `[rules]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: String,
    /// As PostgreSQL calls it; `None`: in all.
    pub database: Option<String>,
    pub subject: Subject,
    pub deny: bool,
    pub max_age: Option<Duration>,
}

/// All that the operator says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub rules: Vec<Rule>,
    /// Schema and name.
    pub functions: Vec<(String, String)>,
}

/// What the rules come to in one catalogue.
#[derive(Debug, Default)]
pub struct Restrictions {
    relations: HashMap<u32, Restriction>,
    statements: Vec<(Pattern, Restriction)>,
    functions: HashSet<(u32, Box<str>)>,
}

impl Rule {
    fn restriction(&self) -> Restriction {
        Restriction {
            denied_by: self.deny.then(|| Arc::from(self.name.as_str())),
            max_age: self.max_age,
        }
    }
}

impl Rules {
    /// Looks at every relation once, so that verdicts need not look at names.
    pub fn in_catalog(&self, database: &str, catalog: &Catalog) -> Restrictions {
        let mut restrictions = Restrictions::default();
        let here = |rule: &&Rule| rule.database.as_ref().is_none_or(|name| name == database);
        for rule in self.rules.iter().filter(here) {
            match &rule.subject {
                Subject::Statements(pattern) => {
                    restrictions.statements.push((pattern.clone(), rule.restriction()));
                }
                Subject::Relations { schema, name } => {
                    let is_meant = |in_schema: &str, relation: &str| {
                        schema.as_ref().is_none_or(|schema| schema.fits(in_schema))
                            && name.fits(relation)
                    };
                    for (in_schema, relation, oid) in catalog.names() {
                        if is_meant(in_schema, relation) {
                            let restriction = restrictions.relations.entry(oid).or_default();
                            restriction.and(&rule.restriction());
                        }
                    }
                }
            }
        }
        restrictions.functions = self
            .functions
            .iter()
            .filter_map(|(schema, name)| Some((catalog.schema(schema)?, name.as_str().into())))
            .collect();
        restrictions
    }
}

impl Restrictions {
    /// Of a relation that is named, or read by one that is.
    pub fn of_relation(&self, oid: u32) -> Option<&Restriction> {
        self.relations.get(&oid)
    }

    /// Of a statement of this shape.
    pub fn of_shape(&self, shape: &[u8]) -> Restriction {
        let mut restriction = Restriction::default();
        if !self.statements.is_empty() {
            let shown = display_shape(shape, usize::MAX).to_lowercase();
            for (pattern, of_rule) in &self.statements {
                if pattern.fits(&shown) {
                    restriction.and(of_rule);
                }
            }
        }
        restriction
    }

    /// The operator answers for it: it writes nothing, and gives the same for the same arguments.
    pub fn allows_function(&self, schema: u32, name: &str) -> bool {
        !self.functions.is_empty() && self.functions.contains(&(schema, name.into()))
    }

    pub fn has_functions(&self) -> bool {
        !self.functions.is_empty()
    }

    /// Tables with a rule of their own; for the console.
    pub fn tables<'a>(
        &'a self,
        catalog: &'a Catalog,
    ) -> impl Iterator<Item = (TableId, &'a Restriction)> {
        let has_rows = |relation: &Relation| {
            matches!(relation.kind, RelationKind::Table | RelationKind::MaterializedView)
                && !relation.system
        };
        self.relations
            .iter()
            .filter(move |(oid, _)| catalog.relation(**oid).is_some_and(has_rows))
            .map(|(oid, restriction)| (TableId(*oid), restriction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: &str, fits: bool) {
        assert_eq!(Pattern::new(pattern).fits(text), fits, "{pattern} {text}");
    }

    #[test]
    fn a_star_stands_for_anything_and_all_else_for_itself() {
        for (pattern, text, fits) in [
            ("orders", "orders", true),
            ("orders", "orders_2024", false),
            ("orders*", "orders", true),
            ("orders*", "orders_2024", true),
            ("*_log", "audit_log", true),
            ("*_log", "audit_logs", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("", "", true),
            ("", "x", false),
            ("select count(*) from t*", "select count(*) from t where a = $1", true),
            ("select count(*) from t*", "select max(a) from t", false),
        ] {
            check(pattern, text, fits);
        }
    }
}
