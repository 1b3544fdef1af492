//! Which tables a write touches: its targets, their partition and inheritance trees, and what
//! foreign keys carry on. Knows only what is fixed in the catalogue; triggers end its knowledge.

use std::collections::BTreeSet;

use super::catalog::{Action, Catalog, Relation, RelationKind, TypeClass};
use super::parse::{Operations, Target};
use super::resolve::Path;
use super::verdict::{TableId, Write};

/// Code that we do not know runs in the session.
pub(super) const UNKNOWN_CODE: Write = Write::Opaque {
    commits_inside: false,
    taints: true,
};

/// What writing to these tables touches.
pub(super) fn write(targets: &[Target], catalog: &Catalog, search_path: &[String]) -> Write {
    let path = Path::new(catalog, search_path);
    let mut waiting = Vec::new();
    for target in targets {
        let relations = path.relations(catalog, &target.name);
        if relations.is_empty() {
            return UNKNOWN_CODE;
        }
        if relations.iter().any(|relation| relation.system) {
            return Write::Catalog;
        }
        waiting.extend(
            relations
                .iter()
                .map(|r| (catalog.root(r.oid), target.operations)),
        );
    }
    match follow(waiting, catalog) {
        Some(tables) => Write::Plain(tables.into_iter().collect()),
        None => UNKNOWN_CODE,
    }
}

/// The closure over trees and foreign keys; `None` if code from outside runs on the way.
fn follow(mut waiting: Vec<(TableId, Operations)>, catalog: &Catalog) -> Option<BTreeSet<TableId>> {
    let mut tables = BTreeSet::new();
    let mut seen = Vec::new();
    while let Some((root, mut operations)) = waiting.pop() {
        let members: Vec<&Relation> = catalog.tree(root).collect();
        // A row that changes its partition is deleted in one and inserted in the other.
        operations.delete |= operations.update && members.len() > 1;
        if seen.contains(&(root, operations)) {
            continue;
        }
        seen.push((root, operations));
        tables.insert(root);
        if members.is_empty() || !members.iter().all(|member| plain(member)) {
            return None;
        }
        for key in members
            .iter()
            .flat_map(|member| catalog.foreign_keys(member.oid))
        {
            let child = catalog.root(key.child);
            let deletes = operations.delete && key.on_delete == Action::Cascade;
            let updates = operations.delete && key.on_delete == Action::Set
                || operations.update && key.on_update != Action::Nothing;
            if deletes || updates {
                waiting.push((
                    child,
                    Operations {
                        update: updates,
                        delete: deletes,
                    },
                ));
            }
        }
    }
    Some(tables)
}

/// Writing a row of it runs nothing but PostgreSQL's own code.
fn plain(table: &Relation) -> bool {
    table.kind == RelationKind::Table
        && !table.trigger
        && !table.rule
        && !table.code
        && !table
            .columns
            .iter()
            .any(|column| matches!(column.class, TypeClass::Outside | TypeClass::CheckedDomain))
}
