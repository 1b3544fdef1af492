//! SET in all its spellings, to one canonical form.

use pg_raw_parse::list::{CastNodeList, NodeList};
use pg_raw_parse::nodes::{DefElem, SelectStmt, VariableSetKind, VariableSetStmt};
use pg_raw_parse::{ConstValue, Node};

use crate::sql::search_path::split_list;
use crate::sql::verdict::{Control, Isolation};

/// Settings whose text is a list of quoted names: `SET x TO 'a, b'` is one name there, while
/// `set_config('x', 'a, b', …)` is two.
const NAME_LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// SET and RESET.
pub(super) fn set(statement: &VariableSetStmt) -> Vec<Control> {
    let name = statement.name().unwrap_or_default().to_ascii_lowercase();
    let local = statement.is_local;
    match statement.kind {
        VariableSetKind::VAR_SET_VALUE => vec![match values(statement.args()) {
            Some(value) => set_value(name, value, local),
            None => Control::Unreplayable,
        }],
        VariableSetKind::VAR_SET_DEFAULT | VariableSetKind::VAR_RESET => vec![reset(name, local)],
        VariableSetKind::VAR_RESET_ALL => vec![Control::ResetAll],
        VariableSetKind::VAR_SET_MULTI => set_many(&name, statement.args()),
        _ => vec![Control::Unreplayable],
    }
}

/// The calls of `set_config` that are columns of a SELECT without FROM, where each is called just
/// once: `SELECT set_config('name', 'value', false)`, beside whatever else it computes.
pub(super) fn set_configs(select: &SelectStmt) -> Vec<Control> {
    let alone = select.from_clause().is_empty()
        && matches!(select.where_clause(), Node::None)
        && select.group_clause().is_empty()
        && matches!(select.having_clause(), Node::None)
        && select.values_lists().is_empty()
        && select.sort_clause().is_empty()
        && matches!(select.limit_count(), Node::None)
        && matches!(select.limit_offset(), Node::None)
        && select.with_clause().is_none()
        && select.into_clause().is_none()
        && select.larg().is_none()
        && select.distinct_clause().is_empty()
        && select.locking_clause().is_empty();
    let targets = select.target_list().iter().filter(|_| alone);
    targets.filter_map(|target| set_config(&target.val())).collect()
}

fn set_config(target: &Node<'_>) -> Option<Control> {
    let Node::FuncCall(call) = target else {
        return None;
    };
    let mut parts = call.funcname().iter().rev().filter_map(Node::as_str);
    if parts.next() != Some("set_config")
        || !matches!(parts.next(), None | Some("pg_catalog"))
        || call.func_variadic
        || !matches!(call.agg_filter(), Node::None)
        || call.over().is_some()
    {
        return None;
    }
    let mut arguments = call.args().iter();
    let (name, value, local) = (arguments.next()?, arguments.next()?, arguments.next()?);
    let Node::A_Const(local) = local else {
        return None;
    };
    let ConstValue::Boolean(local) = local.val()? else {
        return None;
    };
    let name = text(name)?.to_ascii_lowercase();
    let Some(value) = text(value) else {
        return is_neutral(&name).then_some(Control::NeutralSetting);
    };
    let value = if NAME_LISTS.contains(&name.as_str()) {
        let names = split_list(&value)?;
        let quoted: Vec<String> = names.iter().map(|name| quote(name)).collect();
        if quoted.is_empty() { "''".to_owned() } else { quoted.join(", ") }
    } else {
        quote(&value)
    };
    Some(set_value(name, value, local))
}

/// Settings of the planner and the executor, which choose how an answer is computed and never
/// what it is (hazard F23).
fn is_neutral(name: &str) -> bool {
    let is_planners = name == "jit"
        || name.starts_with("jit_")
        || name.starts_with("enable_")
        || name.ends_with("_cost")
        || matches!(name, "work_mem" | "statement_timeout" | "lock_timeout" | "application_name");
    // Those of an application may have any name behind their dot.
    is_planners && !name.contains('.')
}

/// The isolation level in the options of BEGIN or SET TRANSACTION.
pub(super) fn isolation(options: &NodeList) -> Option<Isolation> {
    let mut isolation = None;
    for option in options {
        if let Node::DefElem(element) = option
            && element.defname() == Some("transaction_isolation")
        {
            isolation = text(element.arg()).and_then(|text| level(&text));
        }
    }
    isolation
}

/// Whether an option of that name stands in the list, with any value.
pub(super) fn has_option(options: &CastNodeList<DefElem>, name: &str) -> bool {
    options.iter().any(|option| option.defname().is_some_and(|n| n.eq_ignore_ascii_case(name)))
}

/// The word or string that an option of that name has.
pub(super) fn option(options: &CastNodeList<DefElem>, name: &str) -> Option<String> {
    let named = |option: &&DefElem| option.defname().is_some_and(|n| n.eq_ignore_ascii_case(name));
    let argument = options.iter().find(named)?.arg();
    if let Node::String(string) = argument {
        return string.sval().map(str::to_owned);
    }
    text(argument)
}

fn set_value(name: String, value: String, local: bool) -> Control {
    match name.as_str() {
        "session_authorization" => Control::Unreplayable,
        // Of the transaction, not of the session, however it is spelled.
        "transaction_isolation" => {
            Control::SetTransaction { isolation: level(value.trim_matches('\'')) }
        }
        _ => Control::Set { name, value, local },
    }
}

fn reset(name: String, local: bool) -> Control {
    match name.as_str() {
        "session_authorization" => Control::Unreplayable,
        _ => Control::Reset { name, local },
    }
}

/// SET TRANSACTION, SET SESSION CHARACTERISTICS, SET TRANSACTION SNAPSHOT.
fn set_many(name: &str, arguments: &NodeList) -> Vec<Control> {
    match name {
        "transaction" => isolation(arguments)
            .map(|isolation| Control::SetTransaction { isolation: Some(isolation) })
            .into_iter()
            .collect(),
        "transaction snapshot" => vec![Control::SetTransaction { isolation: None }],
        "session characteristics" => arguments.iter().map(characteristic).collect(),
        _ => vec![Control::Unreplayable],
    }
}

fn characteristic(option: Node<'_>) -> Control {
    let Node::DefElem(element) = option else {
        return Control::Unreplayable;
    };
    let value = literal(element.arg());
    match (element.defname(), value) {
        (Some(name), Some(value)) if name.starts_with("transaction_") => {
            // READ ONLY arrives as a number, and a setting takes 1 for on.
            Control::Set { name: format!("default_{name}"), value, local: false }
        }
        (_, _) => Control::Unreplayable,
    }
}

fn level(text: &str) -> Option<Isolation> {
    match text.to_ascii_lowercase().as_str() {
        "read uncommitted" => Some(Isolation::ReadUncommitted),
        "read committed" => Some(Isolation::ReadCommitted),
        "repeatable read" => Some(Isolation::RepeatableRead),
        "serializable" => Some(Isolation::Serializable),
        _ => None,
    }
}

fn values(arguments: &NodeList) -> Option<String> {
    let values = arguments.iter().map(literal).collect::<Option<Vec<String>>>()?;
    (!values.is_empty()).then(|| values.join(", "))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the type is open, and no other is a value here"
)]
fn literal(node: Node<'_>) -> Option<String> {
    let Node::A_Const(constant) = node else {
        return None;
    };
    match constant.val()? {
        ConstValue::Integer(number) => Some(number.to_string()),
        ConstValue::Float(number) => Some(number.to_owned()),
        ConstValue::Boolean(value) => Some(if value { "on" } else { "off" }.to_owned()),
        ConstValue::String(text) => Some(quote(text)),
        _ => None,
    }
}

fn text(node: Node<'_>) -> Option<String> {
    let Node::A_Const(constant) = node else {
        return None;
    };
    constant.val()?.string_value().map(str::to_owned)
}

/// A literal that reads the same with `standard_conforming_strings` on or off.
fn quote(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}
