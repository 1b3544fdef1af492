//! The types of a database, and what one of them means for a verdict.

use std::collections::{HashMap, HashSet};

use super::build::{Answer, CatalogError};
use super::{FIRST_NORMAL_OID, TypeClass};

/// `timetz`.
const TIMETZ: u32 = 1266;

/// `time`.
const TIME: u32 = 1083;

/// date, timestamp, timestamptz.
const MOMENTS: [u32; 3] = [1082, 1114, 1184];

/// A row of `pg_type`.
pub(super) struct TypeRow<'a> {
    pub name: &'a str,
    pub schema: u32,
    pub kind: &'a str,
    pub element: u32,
    base: u32,
}

/// All types, with what classifying one needs.
pub(super) struct Types<'a> {
    pub rows: HashMap<u32, TypeRow<'a>>,
    checked: HashSet<u32>,
    pub system_schemas: HashSet<u32>,
}

/// Whether domains around a type have checks that call code from outside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Checks {
    None,
    /// Of the value as a whole.
    Whole,
    /// Of the elements of an array.
    Elements,
}

impl Types<'_> {
    /// The type without array and domain around it, and what these check.
    pub(super) fn core(&self, oid: u32) -> (u32, Checks) {
        let mut oid = oid;
        let mut checks = Checks::None;
        let mut in_array = false;
        // Types cannot be recursive; the bound is for answers that lie.
        for _ in 0..32 {
            let Some(row) = self.rows.get(&oid) else {
                break;
            };
            if self.checked.contains(&oid) {
                checks = if in_array { Checks::Elements } else { Checks::Whole };
            }
            if row.kind == "d" {
                oid = row.base;
            } else if row.element != 0 {
                in_array = true;
                oid = row.element;
            } else {
                break;
            }
        }
        (oid, checks)
    }

    /// The type that a value must have to be this, if it is from outside.
    pub(super) fn outside(&self, oid: u32) -> Option<u32> {
        let (core, _) = self.core(oid);
        if core == 0 {
            return None;
        }
        match self.rows.get(&core) {
            Some(row) if core < FIRST_NORMAL_OID && self.system_schemas.contains(&row.schema) => {
                None
            }
            Some(_) | None => Some(core),
        }
    }

    pub(super) fn class(&self, oid: u32) -> TypeClass {
        let (core, checks) = self.core(oid);
        if let Some(outside) = self.outside(oid) {
            return match self.rows.get(&outside) {
                Some(row) if row.kind == "e" && checks == Checks::None => TypeClass::Enum(outside),
                Some(_) | None => TypeClass::Outside,
            };
        }
        match checks {
            Checks::None => self.built_in(core),
            Checks::Whole => TypeClass::CheckedDomain,
            Checks::Elements => TypeClass::CheckedElements,
        }
    }

    fn built_in(&self, core: u32) -> TypeClass {
        if core == TIMETZ {
            TypeClass::TimeTz
        } else if core == TIME {
            TypeClass::Time
        } else if MOMENTS.contains(&core) {
            TypeClass::Moment
        } else if self.rows.get(&core).is_some_and(|row| prints_names(row.name)) {
            TypeClass::Reg
        } else {
            TypeClass::Plain
        }
    }
}

/// `regclass`, `regtype` and kin; `aclitem` prints role names and is of their kind.
pub(super) fn is_reg(name: &str) -> bool {
    name.starts_with("reg") || name == "aclitem"
}

/// What it prints follows names in catalogues that change without an answer being forgotten.
/// Text search configurations and dictionaries are changed by DDL alone, which forgets all.
fn prints_names(name: &str) -> bool {
    is_reg(name) && !matches!(name, "regconfig" | "regdictionary")
}

pub(super) fn types(
    answer: Answer<'_>,
    checked: HashSet<u32>,
    system_schemas: HashSet<u32>,
) -> Result<Types<'_>, CatalogError> {
    let mut rows = HashMap::new();
    for row in answer.rows::<6>() {
        let [oid, name, schema, kind, element, base] = row?;
        let row = TypeRow {
            name,
            schema: answer.number(schema)?,
            kind,
            element: answer.number(element)?,
            base: answer.number(base)?,
        };
        rows.insert(answer.number(oid)?, row);
    }
    Ok(Types { rows, checked, system_schemas })
}
