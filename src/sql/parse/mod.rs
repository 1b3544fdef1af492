//! SQL text to facts, by PostgreSQL's own grammar. The only module that names the parser; what
//! the facts mean is decided elsewhere.

mod query;
mod schema;
mod setting;
mod terms;
mod utility;

use std::collections::BTreeSet;

use super::verdict::Control;

/// Longer texts are not looked into: a parse costs microseconds per kilobyte, and nothing that
/// long is repeated often enough to be worth keeping.
pub const TEXT_BYTES_MAX: usize = 256 * 1024;

/// Nodes of one statement's tree; bounds the time spent on texts built to cost.
const NODES_MAX: usize = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    TooLong,
    Unparsable,
}

/// One statement of a query string.
#[derive(Debug)]
pub struct Statement {
    pub tag: &'static str,
    pub kind: Kind,
    pub controls: Vec<Control>,
    /// A literal decided something.
    pub exact_text: bool,
    pub facts: Facts,
}

/// What kind of statement it is, as far as writing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SELECT, VALUES, TABLE.
    Select,
    /// Writes what its facts say, and its answer is never kept: INSERT and its kin, COPY,
    /// EXPLAIN ANALYZE, a cursor's query.
    Carries,
    /// Plans its facts without running them: EXPLAIN.
    Plans,
    /// Writes no table: transaction control, SET, SHOW, LISTEN, …
    Nothing,
    /// VACUUM, ANALYZE, CLUSTER, REINDEX: rows stay what they are, but index expressions run.
    Maintenance,
    /// Empties its targets, and with `cascade` whatever refers to them.
    Truncates {
        cascade: bool,
    },
    /// Fills its target, a materialised view, anew.
    Refreshes,
    /// Creates a temporary relation, filled by its facts if it has any.
    Temporary,
    Opaque {
        commits_inside: bool,
    },
    /// CREATE TABLE: its first target is the new one, the others are those it becomes part of.
    Adds {
        may_exist: bool,
    },
    /// DROP TABLE, ATTACH and DETACH PARTITION: rows of its targets come and go as a whole.
    Moves,
    /// CREATE INDEX on columns: its targets are the table and the index.
    Indexes,
    /// DROP INDEX, GRANT on tables: no answer changes.
    Allows,
    /// COMMENT.
    Comments,
    Catalog,
}

/// A possibly qualified name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub schema: Option<String>,
    pub name: String,
}

/// A relation in a FROM list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub name: Name,
    pub alias: Option<String>,
    /// Its columns are renamed by the alias, so their names say nothing.
    pub renamed: bool,
}

impl Range {
    /// The name under which its columns are known.
    pub fn known_as(&self) -> &str {
        self.alias.as_ref().unwrap_or(&self.name.name)
    }
}

/// The table that a writing statement names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub name: Name,
    pub operations: Operations,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Operations {
    pub update: bool,
    pub delete: bool,
}

/// Use of a function or operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub name: Name,
    pub arguments: Vec<Argument>,
    /// Arguments are named or spread, so their places are unknown.
    pub any_place: bool,
    /// What the first argument is, and its text if it is a literal.
    pub first: Option<(Source, Option<String>)>,
    /// What the last one is.
    pub last: Option<Source>,
}

/// What the text says of an argument's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// None of its own (a literal, a parameter, a row): it becomes what an overload asks for.
    Untyped,
    /// A numeric constant.
    Number,
    Typed,
}

/// A type named in a cast or column list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeUse {
    pub name: Name,
    pub source: Source,
}

/// What is cast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A literal or parameter: its text is at hand. Also where a type is only declared.
    Given,
    /// A column of that name, and of what.
    Column {
        qualifier: Option<String>,
        name: String,
    },
    Call(Name),
    Other,
}

/// Everything that a query's text names, at any depth. Scopes are not kept apart: a name counts
/// as everything it could be, which only ever adds tables and doubt.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub struct Facts {
    pub relations: Vec<Range>,
    pub targets: Vec<Target>,
    /// Names of common table expressions.
    pub ctes: BTreeSet<String>,
    /// Names under which anything but a plain relation stands in a FROM list.
    pub derived: BTreeSet<String>,
    pub calls: Vec<Call>,
    pub operators: Vec<Call>,
    pub types: Vec<TypeUse>,
    /// `a`, `a.b`, `a.b.c`; a star is left out and noted in `whole_rows` or `stars`.
    pub columns: Vec<Vec<String>>,
    /// `(row).field`.
    pub attributes: BTreeSet<String>,
    /// USING columns and columns written.
    pub fields: BTreeSet<String>,
    /// Names given to output columns, which hide what a column of that name holds.
    pub outputs: BTreeSet<String>,
    /// `*` or `t.*` as an output column.
    pub stars: bool,
    /// `t.*` inside an expression: a row value.
    pub whole_rows: bool,
    pub natural_join: bool,
    /// `ARRAY[…]` of anything but constants and parameters, or of a query.
    pub arrays: bool,
    /// A join in parentheses gives its columns other names.
    pub renamed_join: bool,
    /// Names that CREATE TABLE gives to indexes.
    pub made: Vec<String>,
    pub locks_rows: bool,
    pub into: bool,
    /// CURRENT_DATE and its kin; not CURRENT_USER and its kin, which the key holds.
    pub value_function: bool,
    pub table_sample: bool,
    pub time_word: bool,
    /// INSERT, UPDATE, DELETE or MERGE, at any depth.
    pub writes: bool,
    /// XML and SQL/JSON syntax: harmless, but answers are not kept.
    pub special_syntax: bool,
    /// SQL/JSON or `merge_action()`, which to servers before version 17 may be calls of functions
    /// that users wrote under these names.
    pub recent_syntax: bool,
    /// Syntax we do not know: it may do anything.
    pub unknown_syntax: bool,
}

/// Parses a query string into its statements.
pub fn parse(sql: &str) -> Result<Vec<Statement>, ParseError> {
    if sql.len() > TEXT_BYTES_MAX {
        return Err(ParseError::TooLong);
    }
    let tree = pg_raw_parse::parse(sql).map_err(|_error| ParseError::Unparsable)?;
    tree.iter().map(|raw| utility::statement(raw.stmt())).collect()
}

/// Whether the statement says in which order its rows come, though ties may be left. In doubt it
/// does. What a subquery or a view says is not promised to be kept.
pub fn fixes_order(sql: &str) -> bool {
    if sql.len() > TEXT_BYTES_MAX {
        return true;
    }
    pg_raw_parse::parse(sql)
        .map_or(true, |tree| tree.iter().any(|raw| query::fixes_order(raw.stmt())))
}

#[cfg(test)]
mod tests;
