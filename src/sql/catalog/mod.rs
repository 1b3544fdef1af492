//! An immutable snapshot of what one database's catalogues say that verdicts depend on. Built
//! from text rows; how they are fetched, and when again, is the caller's affair.

mod build;
mod extensions;
mod fingerprint;
mod queries;
mod stored;
mod types;

use std::collections::{HashMap, HashSet};

pub use build::CatalogError;
pub use fingerprint::FINGERPRINT_QUERY;
pub use queries::{SETUP_QUERIES, SNAPSHOT_QUERIES};
pub use stored::Stored;

use super::verdict::TableId;

/// First object id that PostgreSQL gives to objects it did not bring along.
pub const FIRST_NORMAL_OID: u32 = 16384;

/// What the snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub database_oid: u32,
    /// As `server_version_num`: 150018.
    pub server_version: u32,
}

/// `pg_class.relkind`, as far as a query may name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// Ordinary or partitioned.
    Table,
    MaterializedView,
    View,
    Foreign,
    Sequence,
}

/// What a column's type means for a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeClass {
    /// Built in, and an answer that holds it depends on nothing but rows and settings.
    Plain,
    /// Built in, a date or timestamp: not text that may be read as one.
    Moment,
    /// `time`: as `Moment`, but in another time zone it takes today's offset.
    Time,
    /// `regclass` and kin: the text depends on catalogues.
    Reg,
    /// `timetz`: input takes today's offset.
    TimeTz,
    /// An enum from outside: its code is built in, but functions may be declared for it.
    Enum(u32),
    /// Base, composite or range type from outside, or a domain over one.
    Outside,
    /// A domain over a built-in type whose checks call code from outside.
    CheckedDomain,
    /// An array of such a domain: a literal beside it becomes one too, so its checks run.
    CheckedElements,
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: Box<str>,
    pub class: TypeClass,
}

#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub struct Relation {
    pub oid: u32,
    pub kind: RelationKind,
    pub unlogged: bool,
    pub row_security: bool,
    pub trigger: bool,
    pub rule: bool,
    /// Something stored with it (default, check, policy, index, view definition) reaches code
    /// from outside, or a built-in that runs SQL text.
    pub code: bool,
    /// Lives in `pg_catalog`, `information_schema` or another schema of PostgreSQL's own.
    pub system: bool,
    pub columns: Box<[Column]>,
}

impl Relation {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| &*column.name == name)
    }
}

/// What a foreign key does to the referencing table when a referenced row goes or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    pub child: u32,
    pub on_delete: Action,
    pub on_update: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// NO ACTION, RESTRICT.
    Nothing,
    /// CASCADE: the child's row goes as the parent's does.
    Cascade,
    /// SET NULL, SET DEFAULT.
    Set,
}

/// Which values an argument accepts, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Any, or any number, or a type from outside that some built-in type becomes by itself.
    Anything,
    /// Values of some built-in type that no number becomes by itself.
    NoNumber,
    /// Values of this type from outside.
    Outside(u32),
}

/// A function or operator from outside, as far as overload resolution can reach it.
#[derive(Clone, Debug)]
pub struct Overload {
    pub schema: u32,
    pub arguments: Box<[Demand]>,
    pub defaults: usize,
    pub variadic: bool,
    /// What its results may hold; of operators nobody asks.
    pub results: Box<[TypeClass]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// A built-in function name: the worst of all its overloads.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    pub volatility: Volatility,
    /// `row.name` may call it with the whole row.
    pub takes_row: bool,
}

/// A type a statement may name.
#[derive(Clone, Copy, Debug)]
pub struct NamedType {
    pub oid: u32,
    pub schema: u32,
    pub class: TypeClass,
    /// A domain; a cast to it runs its checks.
    pub domain: bool,
    /// Of rows: nothing is cast to it by the form of a call.
    pub row: bool,
}

/// The snapshot. All look-ups are by name or object id, none fails.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub struct Catalog {
    identity: Identity,
    schemas: HashMap<Box<str>, u32>,
    system_schema: u32,
    relations: HashMap<u32, Relation>,
    by_name: HashMap<Box<str>, Vec<(u32, u32)>>,
    roots: HashMap<u32, u32>,
    trees: HashMap<u32, Vec<u32>>,
    foreign_keys: HashMap<u32, Vec<ForeignKey>>,
    reads: HashMap<u32, Vec<u32>>,
    views: HashMap<u32, Stored>,
    routines: HashMap<u32, stored::Routine>,
    /// What of extensions is as good as built in.
    trusted: extensions::Trusted,
    /// Types whose values are moments or contain some.
    time_types: HashSet<u32>,
    policies: HashMap<u32, Stored>,
    types: HashMap<Box<str>, Vec<NamedType>>,
    classes: HashMap<u32, TypeClass>,
    functions: HashMap<Box<str>, Vec<Overload>>,
    operators: HashMap<Box<str>, Vec<Overload>>,
    built_ins: HashMap<Box<str>, BuiltIn>,
    /// Types from outside that have a cast of their own: from then on conversions are code.
    cast_types: HashSet<u32>,
    event_triggers: bool,
    reaches_out: bool,
    /// A cast between built-in types, or the support of an operator class, runs code from
    /// outside: then any statement may.
    hooks: bool,
    /// A cast from a type from outside runs a function from outside.
    cast_code: bool,
    /// The expression of some index calls code from outside.
    index_code: bool,
}

impl Catalog {
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Object id of a schema.
    pub fn schema(&self, name: &str) -> Option<u32> {
        self.schemas.get(name).copied()
    }

    pub fn pg_catalog(&self) -> u32 {
        self.system_schema
    }

    pub fn relation(&self, oid: u32) -> Option<&Relation> {
        self.relations.get(&oid)
    }

    /// `schema.name` of a relation, for people: looks through all of them.
    pub fn name(&self, table: TableId) -> Option<String> {
        let (name, schema) = self.by_name.iter().find_map(|(name, relations)| {
            let found = relations.iter().find(|(_, oid)| *oid == table.0)?;
            Some((name, found.0))
        })?;
        let (schema, _) = self.schemas.iter().find(|(_, oid)| **oid == schema)?;
        Some(format!("{schema}.{name}"))
    }

    /// Schema, name and object id of every relation.
    pub fn names(&self) -> impl Iterator<Item = (&str, &str, u32)> {
        let schemas: HashMap<u32, &str> =
            self.schemas.iter().map(|(name, oid)| (*oid, &**name)).collect();
        self.by_name.iter().flat_map(move |(name, relations)| {
            let named: Vec<_> = relations
                .iter()
                .filter_map(|(schema, oid)| Some((*schemas.get(schema)?, &**name, *oid)))
                .collect();
            named
        })
    }

    /// Every relation of that name, in any schema, as `(schema, relation)`.
    pub fn relations_named(&self, name: &str) -> impl Iterator<Item = (u32, &Relation)> {
        self.by_name
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(|(schema, oid)| Some((*schema, self.relations.get(oid)?)))
    }

    /// Whether some relation has this name, or one that begins with it and `_`.
    pub fn has_relation_like(&self, name: &str) -> bool {
        let is_like = |other: &str| {
            other.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        self.by_name.keys().any(|other| is_like(other))
    }

    /// The slot of a table: the root of its partition or inheritance tree.
    pub fn root(&self, oid: u32) -> TableId {
        TableId(self.roots.get(&oid).copied().unwrap_or(oid))
    }

    /// Every member of the tree with that root, the root included.
    pub fn tree(&self, root: TableId) -> impl Iterator<Item = &Relation> {
        let alone = (!self.trees.contains_key(&root.0)).then_some(root.0);
        self.trees
            .get(&root.0)
            .into_iter()
            .flatten()
            .copied()
            .chain(alone)
            .filter_map(|oid| self.relations.get(&oid))
    }

    /// Foreign keys of other tables that refer to this one and act.
    pub fn foreign_keys(&self, oid: u32) -> &[ForeignKey] {
        self.foreign_keys.get(&oid).map_or(&[], Vec::as_slice)
    }

    /// What a view's definition, or a table's policies, read.
    pub fn reads(&self, oid: u32) -> &[u32] {
        self.reads.get(&oid).map_or(&[], Vec::as_slice)
    }

    /// What the stored tree of a query comes to.
    pub fn judge(&self, tree: &str) -> Stored {
        let judge = stored::Judge {
            routines: &self.routines,
            trusted: &self.trusted,
            class: &|oid| self.type_class(oid),
            is_time: &|oid| self.time_types.contains(&oid),
        };
        judge.judge(tree)
    }

    /// What a view's definition comes to; `None`: not looked at, or no view.
    pub fn view(&self, oid: u32) -> Option<&Stored> {
        self.views.get(&oid)
    }

    /// What the policies that restrict reading a table come to, all together; `None`: it has none.
    pub fn policies(&self, oid: u32) -> Option<&Stored> {
        self.policies.get(&oid)
    }

    pub fn types_named(&self, name: &str) -> &[NamedType] {
        self.types.get(name).map_or(&[], Vec::as_slice)
    }

    /// A type's class by object id; types we do not know are from outside.
    pub fn type_class(&self, oid: u32) -> TypeClass {
        self.classes.get(&oid).copied().unwrap_or(TypeClass::Outside)
    }

    /// Functions of that name from outside, in any schema.
    pub fn functions(&self, name: &str) -> &[Overload] {
        self.functions.get(name).map_or(&[], Vec::as_slice)
    }

    /// Operators of that name from outside, in any schema.
    pub fn operators(&self, name: &str) -> &[Overload] {
        self.operators.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn built_in(&self, name: &str) -> Option<BuiltIn> {
        self.built_ins.get(name).copied()
    }

    pub fn has_casts(&self, type_oid: u32) -> bool {
        self.cast_types.contains(&type_oid)
    }

    /// Code here may write by a connection of its own, of which its transaction knows nothing:
    /// through foreign servers, dblink and its kin, languages that may do anything (hazard C22).
    pub fn reaches_out(&self) -> bool {
        self.reaches_out
    }

    pub fn event_triggers(&self) -> bool {
        self.event_triggers
    }

    pub fn hooks(&self) -> bool {
        self.hooks
    }

    pub fn cast_code(&self) -> bool {
        self.cast_code
    }

    pub fn index_code(&self) -> bool {
        self.index_code
    }
}

#[cfg(test)]
pub(in crate::sql) mod sample;
#[cfg(test)]
mod tests;
