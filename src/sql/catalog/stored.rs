//! What a stored query or expression (of a view, of a row-security policy) reads, and why an answer
//! computed with it may not be kept. Object ids, not names: PostgreSQL has resolved everything.
//!
//! Default deny: a node that is not listed refuses.

use std::collections::{BTreeSet, HashMap};

use super::extensions::Trusted;
use super::{FIRST_NORMAL_OID, TypeClass, Volatility};
use crate::sql::functions;
use crate::sql::tree::{Node, Value, read};
use crate::sql::verdict::BypassReason;

/// `pg_catalog` and its kin hold no type of a smaller id; smaller numbers in fields called
/// something with `type` are enumerations.
const FIRST_TYPE_OID: u32 = 16;

/// A built-in function.
#[derive(Clone, Debug)]
pub(super) struct Routine {
    pub name: Box<str>,
    pub volatility: Volatility,
    pub arguments: usize,
}

/// What a stored tree comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub relations: BTreeSet<u32>,
    /// The first reason not to keep an answer computed with it.
    pub refusal: Option<BypassReason>,
}

/// What judging a tree needs to know of the objects it names.
pub(super) struct Judge<'a> {
    pub routines: &'a HashMap<u32, Routine>,
    pub trusted: &'a Trusted,
    pub class: &'a dyn Fn(u32) -> TypeClass,
    /// The value of the type is a moment, or contains one.
    pub is_time: &'a dyn Fn(u32) -> bool,
}

impl Judge<'_> {
    pub(super) fn judge(&self, text: &str) -> Stored {
        let mut stored = Stored::default();
        match read(text) {
            Some(tree) => self.value(&tree, &mut stored),
            None => refuse(&mut stored, BypassReason::View),
        }
        stored
    }

    fn value(&self, value: &Value<'_>, stored: &mut Stored) {
        match value {
            Value::Node(node) => self.node(node, stored),
            Value::List(items) => items.iter().for_each(|item| self.value(item, stored)),
            Value::Atom(_) | Value::Bytes(_) => {}
        }
    }

    fn node(&self, node: &Node<'_>, stored: &mut Stored) {
        match node.label {
            "QUERY" => query(node, stored),
            "RTE" | "RANGETBLENTRY" => return self.range(node, stored),
            "VAR" if node.number("varattno").is_none_or(|number| number < 0) => {
                refuse(stored, BypassReason::SystemColumn);
            }
            "SQLVALUEFUNCTION" if !is_of_the_session(node) => {
                refuse(stored, BypassReason::ValueFunction);
            }
            "COERCEVIAIO" if self.reads_moment(node) => refuse(stored, BypassReason::TimeType),
            "FUNCEXPR" => self.call(node, stored),
            "TABLEFUNC" | "XMLEXPR" | "NEXTVALUEEXPR" => refuse(stored, BypassReason::Function),
            label if KNOWN.binary_search(&label).is_ok() => {}
            _ => refuse(stored, BypassReason::Function),
        }
        for (name, value) in &node.fields {
            self.field(name, value, stored);
        }
    }

    fn field(&self, name: &str, value: &Value<'_>, stored: &mut Stored) {
        match name {
            // Noted by `call`.
            "funcid" => {}
            "aggfnoid" | "winfnoid" => each(value, |oid| self.routine(oid, None), stored),
            "opfuncid" => each(value, |oid| self.of_operator(oid), stored),
            "opno" | "opnos" | "eqop" | "sortop" => {
                each(value, |oid| self.operator(oid), stored);
            }
            name if name.to_ascii_lowercase().contains("type") => {
                each(value, |oid| self.type_use(oid), stored);
            }
            _ => {}
        }
        self.value(value, stored);
    }

    fn range(&self, node: &Node<'_>, stored: &mut Stored) {
        if node.has("tablesample") {
            refuse(stored, BypassReason::TableSample);
        }
        match (node.number("rtekind"), node.number("relid").map(u32::try_from)) {
            (Some(RTE_RELATION), Some(Ok(relation))) => {
                stored.relations.insert(relation);
            }
            (Some(RTE_RELATION | RTE_TABLEFUNC | RTE_NAMEDTUPLESTORE) | None, _) => {
                refuse(stored, BypassReason::Function);
            }
            (Some(_), _) => {}
        }
        for (name, value) in &node.fields {
            match (*name, value) {
                // Every column of both sides, used or not; those that are used stand elsewhere.
                ("joinaliasvars", Value::List(items)) => items
                    .iter()
                    .filter(|item| !matches!(item, Value::Node(node) if node.label == "VAR"))
                    .for_each(|item| self.value(item, stored)),
                ("alias" | "eref", _) => {}
                (name, value) => self.field(name, value, stored),
            }
        }
    }

    fn call(&self, node: &Node<'_>, stored: &mut Stored) {
        let function = node.number("funcid").and_then(|oid| u32::try_from(oid).ok());
        let reason = match function {
            Some(oid) => self.routine(oid, Some(node)),
            None => Some(BypassReason::Function),
        };
        if let Some(reason) = reason {
            refuse(stored, reason);
        }
    }

    fn routine(&self, oid: u32, call: Option<&Node<'_>>) -> Option<BypassReason> {
        if oid == 0 {
            return None;
        }
        if oid >= FIRST_NORMAL_OID {
            let trusted = self.trusted.functions.contains(&oid);
            return (!trusted).then_some(BypassReason::UserObject);
        }
        let Some(routine) = self.routines.get(&oid) else {
            return Some(BypassReason::Function);
        };
        let name = &*routine.name;
        let fine = match routine.volatility {
            Volatility::Immutable => !functions::immutable_refused(name),
            Volatility::Stable => {
                functions::stable_allowed(name, routine.arguments)
                    || functions::converts_moments(name)
                    || name == "current_setting" && call.is_some_and(asks_for_own_setting)
            }
            Volatility::Volatile => false,
        };
        (!fine).then_some(BypassReason::Function)
    }

    fn operator(&self, oid: u32) -> Option<BypassReason> {
        let known = oid < FIRST_NORMAL_OID || self.trusted.operators.contains(&oid);
        (!known).then_some(BypassReason::UserObject)
    }

    /// The function of an operator.
    fn of_operator(&self, oid: u32) -> Option<BypassReason> {
        let known = oid < FIRST_NORMAL_OID || self.trusted.functions.contains(&oid);
        (!known).then_some(BypassReason::UserObject)
    }

    fn type_use(&self, oid: u32) -> Option<BypassReason> {
        if oid < FIRST_TYPE_OID || self.trusted.types.contains(&oid) {
            return None;
        }
        match (self.class)(oid) {
            TypeClass::Plain | TypeClass::Moment | TypeClass::Time | TypeClass::Enum(_) => None,
            TypeClass::Reg => Some(BypassReason::RegType),
            TypeClass::TimeTz => Some(BypassReason::TimeType),
            TypeClass::Outside | TypeClass::CheckedDomain | TypeClass::CheckedElements => {
                Some(BypassReason::UserObject)
            }
        }
    }

    /// Text becomes a date or time, so `now` may stand in it.
    fn reads_moment(&self, node: &Node<'_>) -> bool {
        let target = node.number("resulttype").and_then(|oid| u32::try_from(oid).ok());
        target.is_none_or(|oid| (self.is_time)(oid))
    }
}

const RTE_RELATION: i64 = 0;
const RTE_TABLEFUNC: i64 = 4;
const RTE_NAMEDTUPLESTORE: i64 = 7;

/// Nodes that are judged by their fields alone, under their names before and since version 16.
const KNOWN: &[&str] = &[
    "AGGREF",
    "ALIAS",
    "ALTERNATIVESUBPLAN",
    "ARRAY",
    "ARRAYCOERCEEXPR",
    "ARRAYEXPR",
    "BOOLEANTEST",
    "BOOLEXPR",
    "CASE",
    "CASEEXPR",
    "CASETESTEXPR",
    "CASEWHEN",
    "COALESCE",
    "COALESCEEXPR",
    "COERCEVIAIO",
    "COLLATEEXPR",
    "COMMONTABLEEXPR",
    "CONST",
    "CONVERTROWTYPEEXPR",
    "CTECYCLECLAUSE",
    "CTESEARCHCLAUSE",
    "DISTINCTEXPR",
    "FIELDSELECT",
    "FIELDSTORE",
    "FROMEXPR",
    "GROUPINGFUNC",
    "GROUPINGSET",
    "JOINEXPR",
    "MINMAX",
    "MINMAXEXPR",
    "NAMEDARGEXPR",
    "NULLIFEXPR",
    "NULLTEST",
    "OPEXPR",
    "PARAM",
    "QUERY",
    "RANGETBLFUNCTION",
    "RANGETBLREF",
    "RELABELTYPE",
    "ROW",
    "ROWCOMPARE",
    "ROWCOMPAREEXPR",
    "ROWEXPR",
    "RTEPERMISSIONINFO",
    "SCALARARRAYOPEXPR",
    "SETOPERATIONSTMT",
    "SORTGROUPCLAUSE",
    "SQLVALUEFUNCTION",
    "SUBLINK",
    "SUBSCRIPTINGREF",
    "TARGETENTRY",
    "VAR",
    "WHEN",
    "WINDOWCLAUSE",
    "WINDOWFUNC",
    "WITHCHECKOPTION",
];

/// Judges a number, or each of a list of them.
fn each(
    value: &Value<'_>,
    judge: impl Fn(u32) -> Option<BypassReason> + Copy,
    stored: &mut Stored,
) {
    match value {
        Value::Atom(atom) => {
            if let Some(reason) = atom.parse().ok().and_then(judge) {
                refuse(stored, reason);
            }
        }
        Value::List(items) => items.iter().for_each(|item| each(item, judge, stored)),
        Value::Node(_) | Value::Bytes(_) => {}
    }
}

fn refuse(stored: &mut Stored, reason: BypassReason) {
    stored.refusal.get_or_insert(reason);
}

fn query(node: &Node<'_>, stored: &mut Stored) {
    const SELECT: i64 = 1;
    if node.number("commandType") != Some(SELECT) || node.has("hasModifyingCTE") {
        refuse(stored, BypassReason::Writes);
    }
    if node.has("hasForUpdate") || node.has("rowMarks") {
        refuse(stored, BypassReason::LocksRows);
    }
}

/// CURRENT_ROLE, CURRENT_USER, USER, SESSION_USER and CURRENT_CATALOG, which the key holds.
fn is_of_the_session(node: &Node<'_>) -> bool {
    matches!(node.number("op"), Some(9..=13))
}

/// `current_setting('app.tenant')`: a constant name of a setting that follows its client.
fn asks_for_own_setting(call: &Node<'_>) -> bool {
    let Some(Value::List(arguments)) = call.field("args") else { return false };
    let Some(Value::Node(name)) = arguments.first() else { return false };
    match (name.label, name.field("constvalue")) {
        // Four bytes of length, then the text.
        ("CONST", Some(Value::Bytes(bytes))) => {
            let name = bytes.get(4..).and_then(|name| std::str::from_utf8(name).ok());
            name.is_some_and(functions::is_own_setting)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_searched_by_halves_is_sorted() {
        assert!(KNOWN.is_sorted());
    }

    fn check(text: &str, refusal: Option<BypassReason>) {
        let routine = |name: &str, volatility, arguments| Routine {
            name: name.into(),
            volatility,
            arguments,
        };
        let routines = HashMap::from([
            (870, routine("lower", Volatility::Immutable, 1)),
            (1299, routine("now", Volatility::Stable, 0)),
            (2077, routine("current_setting", Volatility::Stable, 1)),
            (1178, routine("date", Volatility::Stable, 1)),
        ]);
        let trusted =
            Trusted { functions: [20010].into(), operators: [20011].into(), types: [20012].into() };
        let judge = Judge {
            routines: &routines,
            trusted: &trusted,
            class: &|oid| {
                if oid < FIRST_NORMAL_OID { TypeClass::Plain } else { TypeClass::Outside }
            },
            is_time: &|oid| oid == 1184,
        };
        assert_eq!(judge.judge(text).refusal, refusal, "{text}");
    }

    #[test]
    fn what_is_not_listed_refuses() {
        check("{CONST :consttype 23}", None);
        check("{NEWEXPR :consttype 23}", Some(BypassReason::Function));
        check("{CONST :consttype 20001}", Some(BypassReason::UserObject));
        check("{CONST", Some(BypassReason::View));
        check("{QUERY :commandType 3}", Some(BypassReason::Writes));
        check("{QUERY :commandType 1 :hasForUpdate true}", Some(BypassReason::LocksRows));
        check("{VAR :varattno -1 :vartype 27}", Some(BypassReason::SystemColumn));
        check("{OPEXPR :opno 20001 :opfuncid 20000}", Some(BypassReason::UserObject));
        check("{OPEXPR :opno 20011 :opfuncid 20010}", None);
        check("{OPEXPR :opno 20010 :opfuncid 20010}", Some(BypassReason::UserObject));
        check("{OPEXPR :opno 20011 :opfuncid 20011}", Some(BypassReason::UserObject));
        check("{CONST :consttype 20012}", None);
        check("{FUNCEXPR :funcid 20010 :args ({CONST :consttype 20012})}", None);
    }

    #[test]
    fn functions_are_judged_by_their_ids() {
        check("{FUNCEXPR :funcid 870}", None);
        check("{FUNCEXPR :funcid 1178}", None);
        check("{FUNCEXPR :funcid 1299}", Some(BypassReason::Function));
        check("{FUNCEXPR :funcid 20000}", Some(BypassReason::UserObject));
        check("{FUNCEXPR :funcid 5}", Some(BypassReason::Function));
        check("{AGGREF :aggfnoid 20010}", None);
        check("{AGGREF :aggfnoid 20000}", Some(BypassReason::UserObject));
        check("{SQLVALUEFUNCTION :op 10 :type 19}", None);
        check("{SQLVALUEFUNCTION :op 3 :type 1184}", Some(BypassReason::ValueFunction));
        check("{COERCEVIAIO :resulttype 25}", None);
        check("{COERCEVIAIO :resulttype 1184}", Some(BypassReason::TimeType));
    }

    #[test]
    fn a_setting_is_an_input_only_by_a_constant_name_of_the_applications_own() {
        let ask = |argument: &str| format!("{{FUNCEXPR :funcid 2077 :args ({argument})}}");
        let name = |name: &str| {
            let bytes: Vec<String> = name.bytes().map(|byte| byte.to_string()).collect();
            format!("{{CONST :constvalue 9 [ 0 0 0 0 {} ]}}", bytes.join(" "))
        };
        check(&ask(&name("a.b")), None);
        check(&ask(&name("work_mem")), Some(BypassReason::Function));
        check(&ask("{VAR :varattno 1}"), Some(BypassReason::Function));
    }
}
