//! From the text rows of `SETUP_QUERIES` and `SNAPSHOT_QUERIES` to a `Catalog`. A row that does not read as expected
//! fails the whole snapshot: half a catalogue would answer wrongly.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::sql::functions::is_time_type;

use super::extensions::Trusted;
use super::stored::{Judge, Routine, Stored};
use super::types::{TypeRow, Types, is_reg, types};
use super::{
    Action, BuiltIn, Catalog, Column, Demand, ForeignKey, Identity, NamedType, Overload, Relation,
    RelationKind, SETUP_QUERIES, SNAPSHOT_QUERIES, TypeClass, Volatility,
};

/// Types that a numeric constant has or is cast to implicitly; `reg…` types are more of them.
const NUMBERS: [&str; 7] = ["float4", "float8", "int2", "int4", "int8", "numeric", "oid"];

/// The answer is not what the snapshot queries ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogError {
    /// Index into `SETUP_QUERIES` and, after them, `SNAPSHOT_QUERIES`.
    pub query: usize,
    pub problem: &'static str,
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "catalogue query {}: {}", self.query, self.problem)
    }
}

impl std::error::Error for CatalogError {}

/// One answer, with the number of its query for errors.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    query: usize,
    rows: &'a [Vec<Option<String>>],
}

impl<'a> Answer<'a> {
    pub(super) fn error(self, problem: &'static str) -> CatalogError {
        CatalogError { query: self.query, problem }
    }

    pub(super) fn rows<const N: usize>(
        self,
    ) -> impl Iterator<Item = Result<[&'a str; N], CatalogError>> {
        self.rows.iter().map(move |row| {
            let mut fields = [""; N];
            if row.len() != N {
                return Err(self.error("wrong number of columns"));
            }
            for (field, text) in fields.iter_mut().zip(row) {
                *field = text.as_deref().ok_or_else(|| self.error("unexpected null"))?;
            }
            Ok(fields)
        })
    }

    pub(super) fn number(self, text: &str) -> Result<u32, CatalogError> {
        text.parse().map_err(|_error| self.error("not a number"))
    }

    fn yes(self, text: &str) -> Result<bool, CatalogError> {
        match text {
            "true" | "t" => Ok(true),
            "false" | "f" => Ok(false),
            _ => Err(self.error("not a boolean")),
        }
    }
}

impl Catalog {
    /// `results` holds one answer for each of `SETUP_QUERIES` and `SNAPSHOT_QUERIES`.
    pub fn build(results: &[Vec<Vec<Option<String>>>]) -> Result<Self, CatalogError> {
        let answer = |query: usize| {
            results
                .get(query)
                .map(|rows| Answer { query, rows })
                .ok_or(CatalogError { query, problem: "no answer" })
        };
        if results.len() != SETUP_QUERIES.len() + SNAPSHOT_QUERIES.len() {
            return Err(CatalogError { query: results.len(), problem: "wrong number of answers" });
        }
        let flags = flags(answer(2)?)?;
        let schemas = schemas(answer(3)?)?;
        let system_schema = *schemas
            .get("pg_catalog")
            .ok_or(CatalogError { query: 3, problem: "no schema pg_catalog" })?;
        let system_schemas: HashSet<u32> = schemas
            .iter()
            .filter(|(name, _)| name.starts_with("pg_") || &***name == "information_schema")
            .map(|(_, oid)| *oid)
            .collect();
        let types = types(answer(8)?, oids(answer(14)?)?, system_schemas)?;
        let code = oids(answer(12)?)?;
        let (relations, by_name) = relations(answer(4)?, answer(5)?, &code, &types)?;
        let (roots, trees) = trees(answer(6)?)?;
        let casts = casts(answer(11)?, &types)?;
        let (built_ins, routines) = built_ins(answer(1)?)?;
        let time_types = time_types(&types);
        let trusted = Trusted::read(answer(16)?)?;
        let (views, policies) = stored(answer(15)?, &types, &routines, &trusted, &time_types)?;
        Ok(Self {
            identity: flags.identity,
            system_schema,
            by_name,
            relations,
            roots,
            trees,
            foreign_keys: foreign_keys(answer(7)?)?,
            reads: reads(answer(13)?)?,
            functions: functions(answer(9)?, &types, &casts)?,
            operators: operators(answer(10)?, &types, &casts)?,
            built_ins,
            views,
            policies,
            routines,
            trusted,
            time_types,
            types: named_types(&types),
            classes: types.rows.keys().map(|oid| (*oid, types.class(*oid))).collect(),
            event_triggers: flags.event_triggers,
            reaches_out: flags.reaches_out,
            hooks: flags.outside.in_support || casts.between_built_ins,
            cast_types: casts.outside,
            cast_code: casts.code,
            index_code: flags.outside.in_indexes,
            schemas,
        })
    }
}

/// What concerns the database as a whole.
struct Flags {
    identity: Identity,
    event_triggers: bool,
    outside: OutsideCode,
    reaches_out: bool,
}

/// Where code runs that no statement names.
struct OutsideCode {
    in_support: bool,
    in_indexes: bool,
}

fn flags(answer: Answer<'_>) -> Result<Flags, CatalogError> {
    let row = answer.rows::<6>().next().ok_or_else(|| answer.error("no row"))?;
    let [database, version, event_triggers, support, indexes, outward] = row?;
    Ok(Flags {
        identity: Identity {
            database_oid: answer.number(database)?,
            server_version: answer.number(version)?,
        },
        event_triggers: answer.number(event_triggers)? > 0,
        outside: OutsideCode {
            in_support: answer.number(support)? > 0,
            in_indexes: answer.number(indexes)? > 0,
        },
        reaches_out: answer.number(outward)? > 0,
    })
}

fn schemas(answer: Answer<'_>) -> Result<HashMap<Box<str>, u32>, CatalogError> {
    answer
        .rows::<2>()
        .map(|row| row.and_then(|[oid, name]| Ok((name.into(), answer.number(oid)?))))
        .collect()
}

fn oids(answer: Answer<'_>) -> Result<HashSet<u32>, CatalogError> {
    answer.rows::<1>().map(|row| row.and_then(|[oid]| answer.number(oid))).collect()
}

fn named_types(types: &Types<'_>) -> HashMap<Box<str>, Vec<NamedType>> {
    let mut named: HashMap<Box<str>, Vec<NamedType>> = HashMap::new();
    for (oid, row) in &types.rows {
        named.entry(row.name.into()).or_default().push(NamedType {
            oid: *oid,
            schema: row.schema,
            class: types.class(*oid),
            domain: row.kind == "d",
            row: row.kind == "c",
        });
    }
    named
}

type Relations = (HashMap<u32, Relation>, HashMap<Box<str>, Vec<(u32, u32)>>);

fn relations(
    answer: Answer<'_>,
    columns: Answer<'_>,
    code: &HashSet<u32>,
    types: &Types<'_>,
) -> Result<Relations, CatalogError> {
    let mut by_table: HashMap<u32, Vec<Column>> = HashMap::new();
    for row in columns.rows::<3>() {
        let [table, name, type_oid] = row?;
        let class = types.class(columns.number(type_oid)?);
        by_table
            .entry(columns.number(table)?)
            .or_default()
            .push(Column { name: name.into(), class });
    }
    let mut relations = HashMap::new();
    let mut by_name: HashMap<Box<str>, Vec<(u32, u32)>> = HashMap::new();
    for row in answer.rows::<8>() {
        let [oid, name, schema, kind, persistence, row_security, trigger, rule] = row?;
        let oid = answer.number(oid)?;
        let schema = answer.number(schema)?;
        by_name.entry(name.into()).or_default().push((schema, oid));
        let relation = Relation {
            oid,
            kind: match kind {
                "r" | "p" => RelationKind::Table,
                "m" => RelationKind::MaterializedView,
                "v" => RelationKind::View,
                "f" => RelationKind::Foreign,
                "S" => RelationKind::Sequence,
                _ => return Err(answer.error("unknown relkind")),
            },
            unlogged: persistence != "p",
            row_security: answer.yes(row_security)?,
            trigger: answer.yes(trigger)?,
            rule: answer.yes(rule)?,
            code: code.contains(&oid),
            system: types.system_schemas.contains(&schema),
            columns: by_table.remove(&oid).unwrap_or_default().into(),
        };
        relations.insert(oid, relation);
    }
    Ok((relations, by_name))
}

type Trees = (HashMap<u32, u32>, HashMap<u32, Vec<u32>>);

/// Tables that share a parent or child share a slot, so multiple inheritance joins trees.
fn trees(answer: Answer<'_>) -> Result<Trees, CatalogError> {
    let mut neighbours: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut has_parent = HashSet::new();
    for row in answer.rows::<2>() {
        let [child, parent] = row?;
        let (child, parent) = (answer.number(child)?, answer.number(parent)?);
        has_parent.insert(child);
        neighbours.entry(child).or_default().push(parent);
        neighbours.entry(parent).or_default().push(child);
    }
    let mut roots = HashMap::new();
    let mut trees: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut tops: Vec<u32> =
        neighbours.keys().copied().filter(|oid| !has_parent.contains(oid)).collect();
    tops.sort_unstable();
    for top in tops {
        let mut waiting = vec![top];
        while let Some(oid) = waiting.pop() {
            if roots.contains_key(&oid) {
                continue;
            }
            roots.insert(oid, top);
            trees.entry(top).or_default().push(oid);
            waiting.extend(neighbours.get(&oid).into_iter().flatten());
        }
    }
    Ok((roots, trees))
}

fn foreign_keys(answer: Answer<'_>) -> Result<HashMap<u32, Vec<ForeignKey>>, CatalogError> {
    let action = |text: &str| match text {
        "a" | "r" => Ok(Action::Nothing),
        "c" => Ok(Action::Cascade),
        "n" | "d" => Ok(Action::Set),
        _ => Err(answer.error("unknown foreign key action")),
    };
    let mut keys: HashMap<u32, Vec<ForeignKey>> = HashMap::new();
    for row in answer.rows::<4>() {
        let [child, parent, on_delete, on_update] = row?;
        let key = ForeignKey {
            child: answer.number(child)?,
            on_delete: action(on_delete)?,
            on_update: action(on_update)?,
        };
        keys.entry(answer.number(parent)?).or_default().push(key);
    }
    Ok(keys)
}

fn reads(answer: Answer<'_>) -> Result<HashMap<u32, Vec<u32>>, CatalogError> {
    let mut reads: HashMap<u32, Vec<u32>> = HashMap::new();
    for row in answer.rows::<3>() {
        let [by, relation, _] = row?;
        reads.entry(answer.number(by)?).or_default().push(answer.number(relation)?);
    }
    Ok(reads)
}

/// What casts do to the question which types a value may become by itself.
struct Casts {
    /// Outside types that some built-in type is cast to implicitly.
    reachable: HashSet<u32>,
    /// Outside types with any cast from or to them.
    outside: HashSet<u32>,
    /// A cast between two built-in types was added that changes what we know of them.
    between_built_ins: bool,
    /// Numbers become text or the like by themselves.
    of_numbers: bool,
    /// A cast from an outside type runs a function from outside.
    code: bool,
}

fn casts(answer: Answer<'_>, types: &Types<'_>) -> Result<Casts, CatalogError> {
    let mut casts = Casts {
        reachable: HashSet::new(),
        outside: HashSet::new(),
        between_built_ins: false,
        of_numbers: false,
        code: false,
    };
    for row in answer.rows::<4>() {
        let [source, target, context, code] = row?;
        let target_oid = answer.number(target)?;
        let is_number = types.rows.get(&answer.number(source)?).is_some_and(is_number);
        let source = types.outside(answer.number(source)?);
        let target = types.outside(target_oid);
        casts.code |= source.is_some() && answer.yes(code)?;
        casts.outside.extend(source);
        casts.outside.extend(target);
        match (source, target) {
            // One that runs built-in code makes a type of which we assume nothing, or no more than
            // that it is not a number's.
            (None, None) => {
                casts.between_built_ins |=
                    answer.yes(code)? || types.class(target_oid) != TypeClass::Plain;
                casts.of_numbers |= is_number && context == "i";
            }
            (None, Some(target)) if context == "i" => {
                casts.reachable.insert(target);
            }
            (_, _) => {}
        }
    }
    Ok(casts)
}

fn is_number(row: &TypeRow<'_>) -> bool {
    NUMBERS.contains(&row.name)
}

fn demand(types: &Types<'_>, casts: &Casts, oid: u32) -> Demand {
    if let Some(outside) = types.outside(oid) {
        return if casts.reachable.contains(&outside) {
            Demand::Anything
        } else {
            Demand::Outside(outside)
        };
    }
    match types.rows.get(&oid) {
        // An array of numbers is no number; pseudo-types and domains may be anything.
        Some(row)
            if row.kind == "b"
                && !casts.of_numbers
                && (row.element != 0 || !(is_number(row) || is_reg(row.name))) =>
        {
            Demand::NoNumber
        }
        Some(_) | None => Demand::Anything,
    }
}

fn functions(
    answer: Answer<'_>,
    types: &Types<'_>,
    casts: &Casts,
) -> Result<HashMap<Box<str>, Vec<Overload>>, CatalogError> {
    let mut functions: HashMap<Box<str>, Vec<Overload>> = HashMap::new();
    for row in answer.rows::<6>() {
        let [name, schema, arguments, defaults, variadic, results] = row?;
        let arguments = arguments
            .split_ascii_whitespace()
            .map(|oid| Ok(demand(types, casts, answer.number(oid)?)))
            .collect::<Result<_, CatalogError>>()?;
        functions.entry(name.into()).or_default().push(Overload {
            schema: answer.number(schema)?,
            arguments,
            defaults: answer.number(defaults)? as usize,
            variadic: answer.yes(variadic)?,
            results: results
                .split_ascii_whitespace()
                .map(|oid| Ok(types.class(answer.number(oid)?)))
                .collect::<Result<_, CatalogError>>()?,
        });
    }
    Ok(functions)
}

fn operators(
    answer: Answer<'_>,
    types: &Types<'_>,
    casts: &Casts,
) -> Result<HashMap<Box<str>, Vec<Overload>>, CatalogError> {
    let mut operators: HashMap<Box<str>, Vec<Overload>> = HashMap::new();
    for row in answer.rows::<4>() {
        let [name, schema, left, right] = row?;
        // A prefix operator has no left argument (0), a postfix one, before version 14, no right.
        let mut arguments = Vec::with_capacity(2);
        for oid in [left, right] {
            let oid = answer.number(oid)?;
            if oid != 0 {
                arguments.push(demand(types, casts, oid));
            }
        }
        operators.entry(name.into()).or_default().push(Overload {
            schema: answer.number(schema)?,
            arguments: arguments.into(),
            defaults: 0,
            variadic: false,
            results: Box::default(),
        });
    }
    Ok(operators)
}

type BuiltIns = (HashMap<Box<str>, BuiltIn>, HashMap<u32, Routine>);

/// By name, which is as bad as its worst overload, and by id.
fn built_ins(answer: Answer<'_>) -> Result<BuiltIns, CatalogError> {
    let mut by_name: HashMap<Box<str>, BuiltIn> = HashMap::new();
    let mut routines = HashMap::new();
    for row in answer.rows::<5>() {
        let [name, volatility, takes_row, oid, arguments] = row?;
        let volatility = match volatility {
            "i" => Volatility::Immutable,
            "s" => Volatility::Stable,
            "v" => Volatility::Volatile,
            _ => return Err(answer.error("unknown volatility")),
        };
        let takes_row = answer.yes(takes_row)?;
        by_name
            .entry(name.into())
            .and_modify(|worst| {
                worst.volatility = worst.volatility.max(volatility);
                worst.takes_row |= takes_row;
            })
            .or_insert(BuiltIn { volatility, takes_row });
        let arguments = answer.number(arguments)? as usize;
        routines.insert(answer.number(oid)?, Routine { name: name.into(), volatility, arguments });
    }
    Ok((by_name, routines))
}

/// Arrays and domains of them too.
fn time_types(types: &Types<'_>) -> HashSet<u32> {
    let named = |oid: u32| types.rows.get(&oid).is_some_and(|row| is_time_type(row.name));
    types.rows.keys().copied().filter(|oid| named(*oid) || named(types.core(*oid).0)).collect()
}

type StoredTrees = (HashMap<u32, Stored>, HashMap<u32, Stored>);

/// Views and the policies of tables; those of one table are taken together.
fn stored(
    answer: Answer<'_>,
    types: &Types<'_>,
    routines: &HashMap<u32, Routine>,
    trusted: &Trusted,
    time_types: &HashSet<u32>,
) -> Result<StoredTrees, CatalogError> {
    let judge = Judge {
        routines,
        trusted,
        class: &|oid| types.class(oid),
        is_time: &|oid| time_types.contains(&oid),
    };
    let (mut views, mut policies) = (HashMap::new(), HashMap::<u32, Stored>::new());
    for row in answer.rows::<3>() {
        let [relation, kind, tree] = row?;
        let relation = answer.number(relation)?;
        let mut stored = judge.judge(tree);
        // Until version 16 a view's tree names the view itself.
        stored.relations.remove(&relation);
        match kind {
            "v" => drop(views.insert(relation, stored)),
            "p" => {
                let all = policies.entry(relation).or_default();
                all.relations.extend(stored.relations);
                all.refusal = all.refusal.or(stored.refusal);
            }
            _ => return Err(answer.error("unknown kind of tree")),
        }
    }
    Ok((views, policies))
}
