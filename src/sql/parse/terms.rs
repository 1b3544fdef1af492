//! Small pieces of a tree: names, types, and what is known of an argument.

use pg_raw_parse::nodes::{RangeVar, TypeName};
use pg_raw_parse::{ConstValue, Node};

use super::{Argument, Call, Name, Range, Source, TypeUse};

/// What type a value has before a function, operator or column gives it one.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other node has a type")]
pub(super) fn argument(node: Node<'_>) -> Argument {
    match node {
        Node::A_Const(constant) => match constant.val() {
            Some(ConstValue::Integer(_) | ConstValue::Float(_)) => Argument::Number,
            Some(ConstValue::Boolean(_) | ConstValue::BitString(_)) => Argument::Typed,
            Some(ConstValue::String(_) | _) | None => Argument::Untyped,
        },
        Node::ParamRef(_) | Node::RowExpr(_) | Node::SetToDefault(_) => Argument::Untyped,
        Node::NamedArgExpr(named) => argument(named.arg()),
        Node::CollateClause(collate) => argument(collate.arg()),
        // The list of IN or BETWEEN, in which any element may be without a type. ARRAY['a', 'b']
        // is text[] by itself, but an array of parameters waits for its context.
        Node::NodeList(list) => argument_of_any(list.iter()),
        Node::A_ArrayExpr(array) => argument_of_any(array.elements().iter()),
        _ => Argument::Typed,
    }
}

fn argument_of_any<'a>(mut elements: impl Iterator<Item = Node<'a>>) -> Argument {
    if elements.any(|element| argument(element) == Argument::Untyped) {
        Argument::Untyped
    } else {
        Argument::Typed
    }
}

pub(super) fn range_of(range: &RangeVar) -> Range {
    Range {
        name: Name {
            schema: range.schemaname().map(str::to_owned),
            name: range.relname().unwrap_or_default().to_owned(),
        },
        alias: range.alias().and_then(|alias| alias.aliasname()).map(str::to_owned),
        renamed: range.alias().is_some_and(|alias| !alias.colnames().is_empty()),
    }
}

fn name_of<'a>(parts: impl Iterator<Item = Node<'a>>) -> Name {
    // A database name in front, three parts, can only be the current one.
    let mut parts: Vec<String> = parts.filter_map(Node::as_str).map(str::to_owned).collect();
    let name = parts.pop().unwrap_or_default();
    Name { schema: parts.pop(), name }
}

pub(super) fn call_of<'a>(parts: impl Iterator<Item = Node<'a>>, arguments: Vec<Argument>) -> Call {
    Call { name: name_of(parts), arguments, any_place: false, first: None, last: None }
}

pub(super) fn operator(name: &str, arguments: Vec<Argument>) -> Call {
    Call {
        name: Name { schema: None, name: name.to_owned() },
        arguments,
        any_place: false,
        first: None,
        last: None,
    }
}

pub(super) fn type_of(name: &TypeName, source: Source) -> TypeUse {
    TypeUse { name: name_of(name.names().iter().map(Node::String)), source }
}

/// An argument, with its text if it is a literal.
pub(super) fn literal_of(node: Node<'_>) -> (Source, Option<String>) {
    let mut literal = None;
    if let Node::A_Const(constant) = node
        && let Some(ConstValue::String(text)) = constant.val()
    {
        literal = Some(text.to_owned());
    }
    (source_of(node), literal)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other node is an expression")]
pub(super) fn source_of(node: Node<'_>) -> Source {
    match node {
        Node::A_Const(_) | Node::ParamRef(_) => Source::Given,
        Node::ColumnRef(column) => {
            let mut parts = column.fields().iter().rev().map(Node::as_str);
            match (parts.next().flatten(), parts.next().flatten().map(str::to_owned)) {
                (Some(name), qualifier) => Source::Column { qualifier, name: name.to_owned() },
                (None, _) => Source::Other,
            }
        }
        Node::FuncCall(call) => Source::Call(name_of(call.funcname().iter())),
        _ => Source::Other,
    }
}
