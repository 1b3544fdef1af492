//! Statements that change the catalogue in ways that are known to change few answers, if any.
//! Whatever is not of the plainest form is left to the caller, which takes it for the worst.

use pg_raw_parse::Node;
use pg_raw_parse::nodes::{
    AlterTableStmt, AlterTableType, ConstrType, CreateStmt, DropBehavior, DropStmt, GrantStmt,
    GrantTargetType, IndexStmt, ObjectType, PartitionBoundSpec, RangeVar,
};

use super::terms::range_of;
use super::{Facts, Kind, Operations, Target};

fn target(relation: &RangeVar) -> Target {
    Target { name: range_of(relation).name, operations: Operations::default() }
}

/// CREATE TABLE: the new one, then those it becomes a part of.
pub(super) fn create(create: &CreateStmt, facts: &mut Facts) -> Option<Kind> {
    create.table_elts().iter().try_for_each(|one| name_indexes(one, &mut facts.made))?;
    facts.targets.push(target(create.relation()?));
    for parent in create.inh_relations() {
        let Node::RangeVar(parent) = parent else { return None };
        facts.targets.push(target(parent));
    }
    create.of_typename().is_none().then_some(Kind::Adds { may_exist: create.if_not_exists })
}

/// Notes the indexes that a column or constraint gives a name. `None` if it names a sequence.
fn name_indexes(element: Node<'_>, names: &mut Vec<String>) -> Option<()> {
    if let Node::ColumnDef(column) = element {
        return column.constraints().iter().try_for_each(|one| name_indexes(one, names));
    }
    let Node::Constraint(constraint) = element else { return Some(()) };
    match constraint.contype {
        ConstrType::CONSTR_PRIMARY | ConstrType::CONSTR_UNIQUE | ConstrType::CONSTR_EXCLUSION => {
            names.extend(constraint.conname().map(str::to_owned));
        }
        ConstrType::CONSTR_IDENTITY if constraint.options().iter().any(names_sequence) => {
            return None;
        }
        _ => {}
    }
    Some(())
}

fn names_sequence(option: Node<'_>) -> bool {
    matches!(option, Node::DefElem(option) if option.defname() == Some("sequence_name"))
}

/// A bound is computed when it is declared, by any code that it calls.
pub(super) fn computes_bounds(bound: Option<&PartitionBoundSpec>) -> bool {
    // MINVALUE and MAXVALUE stand there as columns do, which PostgreSQL refuses.
    let is_given = |datum| matches!(datum, Node::A_Const(_) | Node::ColumnRef(_));
    bound.is_some_and(|bound| {
        let lists = [bound.listdatums(), bound.lowerdatums(), bound.upperdatums()];
        !lists.into_iter().all(|list| list.iter().all(is_given))
    })
}

/// DROP TABLE and DROP INDEX, of what nothing else hangs on.
pub(super) fn drop(drop: &DropStmt, facts: &mut Facts) -> Option<Kind> {
    if drop.behavior != DropBehavior::DROP_RESTRICT {
        return None;
    }
    if drop.remove_type == ObjectType::OBJECT_INDEX {
        return Some(Kind::Allows);
    }
    for object in drop.objects() {
        let Node::NodeList(names) = object else { return None };
        let text = |name: Node<'_>| {
            let Node::String(name) = name else { return None };
            name.sval().map(str::to_owned)
        };
        let mut names = names.iter().map(text).collect::<Option<Vec<String>>>()?;
        let name = super::Name { name: names.pop()?, schema: names.pop() };
        if !names.is_empty() {
            return None;
        }
        facts.targets.push(Target { name, operations: Operations::default() });
    }
    (drop.remove_type == ObjectType::OBJECT_TABLE).then_some(Kind::Moves)
}

/// ATTACH and DETACH PARTITION.
pub(super) fn alter(alter: &AlterTableStmt, facts: &mut Facts) -> Option<Kind> {
    let mut commands = alter.cmds().iter();
    let (Some(Node::AlterTableCmd(command)), None) = (commands.next(), commands.next()) else {
        return None;
    };
    let moves = [AlterTableType::AT_AttachPartition, AlterTableType::AT_DetachPartition]
        .contains(&command.subtype);
    let Node::PartitionCmd(partition) = command.def() else { return None };
    // Of an index, or in two transactions.
    if !moves
        || partition.concurrent
        || computes_bounds(partition.bound())
        || alter.objtype != ObjectType::OBJECT_TABLE
    {
        return None;
    }
    facts.targets.push(target(alter.relation()?));
    facts.targets.push(target(partition.name()?));
    Some(Kind::Moves)
}

/// CREATE INDEX on columns.
pub(super) fn index(index: &IndexStmt, facts: &mut Facts) -> Option<Kind> {
    let of_columns = index
        .index_params()
        .iter()
        .all(|element| element.name().is_some() && element.opclass().is_empty());
    let plain = of_columns && matches!(index.where_clause(), Node::None);
    facts.targets.push(target(index.relation()?));
    let name = super::Name { schema: None, name: index.idxname()?.to_owned() };
    facts.targets.push(Target { name, operations: Operations::default() });
    plain.then_some(Kind::Indexes)
}

/// GRANT on tables: answers that a role has got, it may get still.
pub(super) fn grant(grant: &GrantStmt) -> Option<Kind> {
    let tables = grant.is_grant
        && grant.targtype == GrantTargetType::ACL_TARGET_OBJECT
        && grant.objtype == ObjectType::OBJECT_TABLE;
    tables.then_some(Kind::Allows)
}
