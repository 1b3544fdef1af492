//! Collects the facts of a query tree. Works through an explicit list of nodes instead of by
//! recursion, and steps only into nodes it knows: the parser's own walker gives up by panicking.

use std::ops::ControlFlow;

use pg_raw_parse::nodes::{
    A_Expr, A_Expr_Kind, CommonTableExpr, FuncCall, JoinExpr, OnConflictClause, RangeFunction,
    RangeVar, ResTarget, SQLValueFunctionOp, SelectStmt, SubLink, SubLinkType,
};
use pg_raw_parse::walk::{Recurse, walk_manual};
use pg_raw_parse::{ConstValue, Node};

use super::terms::{argument, call_of, literal_of, operator, range_of, source_of, type_of};
use super::{Argument, Facts, NODES_MAX, Operations, ParseError, Source, Target};
use crate::sql::functions::has_time_word;

/// Adds everything below `root` to `facts`.
pub(super) fn collect(root: Node<'_>, facts: &mut Facts) -> Result<(), ParseError> {
    let mut waiting = vec![root];
    let mut seen = 0;
    while let Some(node) = waiting.pop() {
        seen += 1;
        if seen > NODES_MAX {
            return Err(ParseError::TooLong);
        }
        if visit(node, facts) == Step::Into {
            walk_manual::<()>(node, |child| {
                waiting.push(child);
                ControlFlow::Continue(Recurse::No)
            });
        }
    }
    Ok(())
}

/// ORDER BY at the top, or anything that is no plain query.
pub(super) fn fixes_order(statement: Node<'_>) -> bool {
    if let Node::SelectStmt(select) = statement { !select.sort_clause().is_empty() } else { true }
}

#[derive(PartialEq, Eq)]
enum Step {
    Into,
    Over,
}

#[expect(clippy::too_many_lines, reason = "one arm per node; a table, not a flow")]
#[expect(clippy::wildcard_enum_match_arm, reason = "a node we do not list is unknown syntax")]
fn visit(node: Node<'_>, facts: &mut Facts) -> Step {
    match node {
        Node::SelectStmt(select) => visit_select(select, facts),
        Node::InsertStmt(insert) => {
            let update = insert.on_conflict_clause().is_some();
            write(insert.relation(), Operations { update, delete: false }, facts);
            // Column names of an INSERT stand as targets without a value.
            insert.cols().iter().for_each(|column| field(column, facts));
        }
        Node::UpdateStmt(update) => {
            write(update.relation(), Operations { update: true, delete: false }, facts);
            update.target_list().iter().for_each(|target| field(Node::ResTarget(target), facts));
        }
        Node::DeleteStmt(delete) => {
            write(delete.relation(), Operations { update: false, delete: true }, facts);
        }
        Node::MergeStmt(merge) => {
            write(merge.relation(), Operations { update: true, delete: true }, facts);
        }
        Node::RangeVar(range) => {
            if let Some(alias) = range.alias() {
                let names = alias.colnames().iter().filter_map(Node::as_str);
                facts.outputs.extend(names.map(str::to_owned));
            }
            facts.relations.push(range_of(range));
            return Step::Over;
        }
        Node::ColumnRef(column) => {
            visit_column(column.fields().iter(), false, facts);
            return Step::Over;
        }
        // An output column that is a star is expanded; anywhere else it makes a row.
        Node::ResTarget(target) => return visit_target(target, facts),
        Node::A_Indirection(indirection) => {
            for part in indirection.indirection() {
                match part {
                    Node::String(name) => facts.attributes.extend(name.sval().map(str::to_owned)),
                    Node::A_Star(_) => facts.whole_rows = true,
                    _ => {}
                }
            }
        }
        Node::A_ArrayExpr(array) => {
            let is_given =
                |element: Node<'_>| matches!(element, Node::A_Const(_) | Node::ParamRef(_));
            facts.arrays |= !array.elements().iter().all(is_given);
        }
        Node::A_Expr(expression) => visit_operator(expression, facts),
        Node::SubLink(link) => visit_sublink(link, facts),
        Node::FuncCall(call) => visit_call(call, facts),
        Node::CaseExpr(case) => {
            if !matches!(case.arg(), Node::None) {
                facts.operators.push(operator("=", vec![argument(case.arg()), Argument::Untyped]));
            }
        }
        Node::SortBy(sort) => {
            if !sort.use_op().is_empty() {
                facts.operators.push(call_of(sort.use_op().iter(), vec![Argument::Untyped; 2]));
            }
        }
        Node::JoinExpr(join) => visit_join(join, facts),
        Node::TypeCast(cast) => {
            if let Some(name) = cast.type_name() {
                facts.types.push(type_of(name, source_of(cast.arg())));
            }
        }
        Node::TypeName(name) => {
            // Reached again below a cast, where what is cast was noted.
            facts.types.push(type_of(name, Source::Given));
            return Step::Over;
        }
        Node::A_Const(constant) => {
            visit_constant(constant.val(), facts);
            return Step::Over;
        }
        Node::ColumnDef(column) => facts.outputs.extend(column.colname().map(str::to_owned)),
        Node::CommonTableExpr(cte) => visit_cte(cte, facts),
        // As of version 16 it needs no name.
        Node::RangeSubselect(range) => {
            derive(range.alias().and_then(|a| a.aliasname()).or(Some("")), facts);
        }
        Node::RangeFunction(range) => visit_range_function(range, facts),
        Node::RangeTableFunc(range) => {
            facts.special_syntax = true;
            derive(range.alias().and_then(|alias| alias.aliasname()), facts);
        }
        Node::JsonTable(range) => {
            facts.special_syntax = true;
            facts.recent_syntax = true;
            derive(range.alias().and_then(|alias| alias.aliasname()), facts);
        }
        Node::RangeTableSample(sample) => {
            facts.table_sample = true;
            facts.calls.push(call_of(
                sample.method().iter(),
                vec![Argument::Untyped; sample.args().len()],
            ));
        }
        Node::SQLValueFunction(function) => {
            facts.value_function |= !matches!(
                function.op,
                SQLValueFunctionOp::SVFOP_CURRENT_ROLE
                    | SQLValueFunctionOp::SVFOP_CURRENT_USER
                    | SQLValueFunctionOp::SVFOP_USER
                    | SQLValueFunctionOp::SVFOP_SESSION_USER
                    | SQLValueFunctionOp::SVFOP_CURRENT_CATALOG
            );
            return Step::Over;
        }
        Node::LockingClause(_) => {
            facts.locks_rows = true;
            return Step::Over;
        }
        Node::IntoClause(_) => {
            facts.into = true;
            return Step::Over;
        }
        Node::OnConflictClause(conflict) => visit_conflict(conflict, facts),
        Node::MergeWhenClause(when) => {
            when.target_list().iter().for_each(|target| field(target, facts));
        }
        Node::RangeTableFuncCol(column) => {
            facts.special_syntax = true;
            facts.types.extend(column.type_name().map(|name| type_of(name, Source::Other)));
        }
        Node::XmlExpr(_) | Node::XmlSerialize(_) => facts.special_syntax = true,
        Node::JsonReturning(_)
        | Node::JsonValueExpr(_)
        | Node::JsonIsPredicate(_)
        | Node::JsonBehavior(_)
        | Node::JsonOutput(_)
        | Node::JsonArgument(_)
        | Node::JsonFuncExpr(_)
        | Node::JsonTablePathSpec(_)
        | Node::JsonTableColumn(_)
        | Node::JsonKeyValue(_)
        | Node::JsonParseExpr(_)
        | Node::JsonScalarExpr(_)
        | Node::JsonSerializeExpr(_)
        | Node::JsonObjectConstructor(_)
        | Node::JsonArrayConstructor(_)
        | Node::JsonArrayQueryConstructor(_)
        | Node::JsonAggConstructor(_)
        | Node::JsonObjectAgg(_)
        | Node::JsonArrayAgg(_) => {
            facts.special_syntax = true;
            facts.recent_syntax = true;
        }
        Node::MergeSupportFunc(_) => {
            facts.recent_syntax = true;
            return Step::Over;
        }
        Node::NodeList(_)
        | Node::GroupingFunc(_)
        | Node::GroupingSet(_)
        | Node::NamedArgExpr(_)
        | Node::BoolExpr(_)
        | Node::RowExpr(_)
        | Node::CoalesceExpr(_)
        | Node::MinMaxExpr(_)
        | Node::NullTest(_)
        | Node::BooleanTest(_)
        | Node::CollateClause(_)
        | Node::A_Indices(_)
        | Node::MultiAssignRef(_)
        | Node::WindowDef(_)
        | Node::WithClause(_)
        | Node::InferClause(_)
        | Node::IndexElem(_)
        | Node::ReturningClause(_) => {}
        Node::Alias(alias) => {
            facts
                .outputs
                .extend(alias.colnames().iter().filter_map(Node::as_str).map(str::to_owned));
            return Step::Over;
        }
        Node::None
        | Node::ParamRef(_)
        | Node::A_Star(_)
        | Node::Integer(_)
        | Node::Float(_)
        | Node::Boolean(_)
        | Node::String(_)
        | Node::BitString(_)
        | Node::SetToDefault(_)
        | Node::CurrentOfExpr(_)
        | Node::ReturningOption(_)
        | Node::JsonFormat(_)
        | Node::CTESearchClause(_) => return Step::Over,
        _ => {
            facts.unknown_syntax = true;
            return Step::Over;
        }
    }
    Step::Into
}

fn visit_select(select: &SelectStmt, facts: &mut Facts) {
    if !select.locking_clause().is_empty() {
        facts.locks_rows = true;
    }
    if select.into_clause().is_some() {
        facts.into = true;
    }
}

fn write(relation: Option<&RangeVar>, operations: Operations, facts: &mut Facts) {
    facts.writes = true;
    if let Some(range) = relation {
        facts.targets.push(Target { name: range_of(range).name, operations });
    } else {
        facts.unknown_syntax = true;
    }
}

fn visit_target(target: &ResTarget, facts: &mut Facts) -> Step {
    facts.outputs.extend(target.name().map(str::to_owned));
    if let Node::ColumnRef(column) = target.val()
        && target.indirection().is_empty()
    {
        visit_column(column.fields().iter(), true, facts);
        return Step::Over;
    }
    Step::Into
}

fn visit_column<'a>(parts: impl Iterator<Item = Node<'a>>, output: bool, facts: &mut Facts) {
    let mut names = Vec::new();
    let mut star = false;
    for part in parts {
        match part.as_str() {
            Some(name) => names.push(name.to_owned()),
            None => star = true,
        }
    }
    if !star {
        facts.columns.push(names);
    } else if output {
        facts.stars = true;
    } else {
        facts.whole_rows = true;
    }
}

fn visit_operator(expression: &A_Expr, facts: &mut Facts) {
    let mut places = Vec::with_capacity(2);
    if !matches!(expression.lexpr(), Node::None) {
        places.push(argument(expression.lexpr()));
    }
    // IN and BETWEEN have a list here, in which any element may be without a type.
    places.push(argument(expression.rexpr()));
    match expression.kind {
        A_Expr_Kind::AEXPR_BETWEEN
        | A_Expr_Kind::AEXPR_NOT_BETWEEN
        | A_Expr_Kind::AEXPR_BETWEEN_SYM
        | A_Expr_Kind::AEXPR_NOT_BETWEEN_SYM => {
            for name in ["<", "<=", ">", ">="] {
                facts.operators.push(operator(name, places.clone()));
            }
        }
        A_Expr_Kind::AEXPR_DISTINCT
        | A_Expr_Kind::AEXPR_NOT_DISTINCT
        | A_Expr_Kind::AEXPR_NULLIF => facts.operators.push(operator("=", places)),
        _ => facts.operators.push(call_of(expression.name().iter(), places)),
    }
}

fn visit_sublink(link: &SubLink, facts: &mut Facts) {
    facts.arrays |= link.sub_link_type == SubLinkType::ARRAY_SUBLINK;
    if matches!(link.testexpr(), Node::None) {
        return;
    }
    // `(a, 'b') = (SELECT …)` compares field by field, so a row's fields decide.
    let places = vec![Argument::Untyped, Argument::Typed];
    if link.oper_name().is_empty() {
        facts.operators.push(operator("=", places));
    } else {
        facts.operators.push(call_of(link.oper_name().iter(), places));
    }
}

fn visit_call(call: &FuncCall, facts: &mut Facts) {
    let places = call.args().iter().map(argument).collect();
    let mut use_ = call_of(call.funcname().iter(), places);
    // An ordered-set aggregate takes its ORDER BY as arguments too.
    use_.any_place = call.func_variadic
        || call.agg_within_group
        || call.args().iter().any(|argument| matches!(argument, Node::NamedArgExpr(_)));
    use_.first = call.args().iter().next().map(literal_of);
    use_.last = call.args().iter().next_back().map(source_of);
    facts.calls.push(use_);
}

fn visit_join(join: &JoinExpr, facts: &mut Facts) {
    derive(join.alias().and_then(|alias| alias.aliasname()), facts);
    derive(join.join_using_alias().and_then(|alias| alias.aliasname()), facts);
    facts.natural_join |= join.is_natural;
    facts.renamed_join |= join.alias().is_some_and(|alias| !alias.colnames().is_empty());
    if join.is_natural || !join.using_clause().is_empty() {
        facts.operators.push(operator("=", vec![Argument::Typed; 2]));
    }
    facts
        .fields
        .extend(join.using_clause().iter().filter_map(|name| name.sval()).map(str::to_owned));
}

fn visit_cte(cte: &CommonTableExpr, facts: &mut Facts) {
    facts.ctes.extend(cte.ctename().map(str::to_owned));
    facts.outputs.extend(cte.aliascolnames().iter().filter_map(Node::as_str).map(str::to_owned));
    if cte.cycle_clause().is_some() {
        facts.operators.push(operator("=", vec![Argument::Untyped; 2]));
        facts.operators.push(operator("<>", vec![Argument::Untyped; 2]));
    }
}

fn visit_range_function(range: &RangeFunction, facts: &mut Facts) {
    derive(range.alias().and_then(|alias| alias.aliasname()).or(Some("")), facts);
    // Without an alias the function's own name stands for its rows.
    for function in range.functions() {
        if let Node::NodeList(pair) = function
            && let Some(Node::FuncCall(call)) = pair.first()
        {
            derive(call.funcname().iter().next_back().and_then(Node::as_str), facts);
        }
    }
}

fn visit_conflict(conflict: &OnConflictClause, facts: &mut Facts) {
    facts.derived.insert("excluded".to_owned());
    conflict.target_list().iter().for_each(|target| field(Node::ResTarget(target), facts));
}

fn visit_constant(value: Option<ConstValue<'_>>, facts: &mut Facts) {
    if let Some(ConstValue::String(text)) = value {
        facts.time_word |= has_time_word(text);
    }
}

fn derive(name: Option<&str>, facts: &mut Facts) {
    facts.derived.extend(name.map(str::to_owned));
}

fn field(node: Node<'_>, facts: &mut Facts) {
    if let Node::ResTarget(target) = node {
        facts.fields.extend(target.name().map(str::to_owned));
    }
}
