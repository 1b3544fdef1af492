//! Which tables a write touches: its targets, their partition and inheritance trees, and what
//! foreign keys carry on. Knows only what is fixed in the catalogue; triggers end its knowledge.

use std::collections::{BTreeSet, HashSet};

use super::catalog::{Action, Catalog, Relation, RelationKind, TypeClass};
use super::names::Path;
use super::parse::{Operations, Target};
use super::reading::{Looked, reading_runs_code};

use super::verdict::{TableId, Write};

/// Code that we do not know runs in the session.
pub(super) const UNKNOWN_CODE: Write = Write::Opaque { commits_inside: false, taints: true };

/// What writing to these tables touches.
pub(super) fn write(targets: &[Target], catalog: &Catalog, search_path: &[String]) -> Write {
    match resolve(targets, catalog, search_path) {
        Err(write) => write,
        Ok(found) => {
            let roots = found
                .into_iter()
                .map(|(relation, operations)| (catalog.root(relation.oid), operations))
                .collect();
            verdict(follow(roots, catalog))
        }
    }
}

/// What TRUNCATE of these tables touches. It evaluates nothing stored with them, but has
/// triggers of its own.
pub(super) fn truncate(
    targets: &[Target],
    cascade: bool,
    catalog: &Catalog,
    search_path: &[String],
) -> Write {
    let mut waiting: Vec<TableId> = match resolve(targets, catalog, search_path) {
        Err(write) => return write,
        Ok(found) => found.into_iter().map(|(relation, _)| catalog.root(relation.oid)).collect(),
    };
    let mut tables = BTreeSet::new();
    while let Some(root) = waiting.pop() {
        if !tables.insert(root) {
            continue;
        }
        for member in catalog.tree(root) {
            if member.kind != RelationKind::Table || member.trigger {
                return UNKNOWN_CODE;
            }
            if cascade {
                let keys = catalog.foreign_keys(member.oid).iter();
                waiting.extend(keys.map(|key| catalog.root(key.child)));
            }
        }
    }
    verdict(Some(tables))
}

/// What REFRESH of these materialised views touches: they hold no rows but their own.
pub(super) fn refresh(targets: &[Target], catalog: &Catalog, search_path: &[String]) -> Write {
    let found = match resolve(targets, catalog, search_path) {
        Err(write) => return write,
        Ok(found) => found,
    };
    let mut looked = Looked::default();
    let mut clean = |relation: &Relation| {
        relation.kind == RelationKind::MaterializedView
            && !relation.code
            && !catalog
                .reads(relation.oid)
                .iter()
                .any(|read| reading_runs_code(*read, catalog, &mut looked))
    };
    let clean = found.iter().all(|(relation, _)| clean(relation));
    let views = found.iter().map(|(relation, _)| TableId(relation.oid)).collect();
    verdict(clean.then_some(views))
}

/// The relations that the targets may mean; or the verdict, if that cannot be told.
fn resolve<'a>(
    targets: &[Target],
    catalog: &'a Catalog,
    search_path: &[String],
) -> Result<Vec<(&'a Relation, Operations)>, Write> {
    let path = Path::new(catalog, search_path);
    let mut found = Vec::new();
    for target in targets {
        let relations = path.relations(catalog, &target.name);
        if relations.is_empty() {
            return Err(UNKNOWN_CODE);
        }
        if relations.iter().any(|relation| relation.system) {
            return Err(Write::Catalog);
        }
        found.extend(relations.into_iter().map(|relation| (relation, target.operations)));
    }
    if found.is_empty() { Err(UNKNOWN_CODE) } else { Ok(found) }
}

fn verdict(tables: Option<BTreeSet<TableId>>) -> Write {
    tables.map_or(UNKNOWN_CODE, |tables| Write::Plain(tables.into_iter().collect()))
}

/// The closure over trees and foreign keys; `None` if code from outside runs on the way.
fn follow(mut waiting: Vec<(TableId, Operations)>, catalog: &Catalog) -> Option<BTreeSet<TableId>> {
    let mut tables = BTreeSet::new();
    // Each partition has a foreign key of its own, and all of them lead to one tree.
    let mut seen: HashSet<_> = waiting.iter().copied().collect();
    while let Some((root, mut operations)) = waiting.pop() {
        let members: Vec<&Relation> = catalog.tree(root).collect();
        // A row that changes its partition is deleted in one and inserted in the other.
        operations.delete |= operations.update && members.len() > 1;
        tables.insert(root);
        if members.is_empty() || !members.iter().all(|member| is_plain(member)) {
            return None;
        }
        for key in members.iter().flat_map(|member| catalog.foreign_keys(member.oid)) {
            let child = catalog.root(key.child);
            let deletes = operations.delete && key.on_delete == Action::Cascade;
            let updates = operations.delete && key.on_delete == Action::Set
                || operations.update && key.on_update != Action::Nothing;
            let next = (child, Operations { update: updates, delete: deletes });
            if (deletes || updates) && seen.insert(next) {
                waiting.push(next);
            }
        }
    }
    Some(tables)
}

/// Writing a row of it runs nothing but PostgreSQL's own code.
pub(super) fn is_plain(table: &Relation) -> bool {
    table.kind == RelationKind::Table
        && !table.trigger
        && !table.rule
        && !table.code
        && !table.columns.iter().any(|column| {
            matches!(
                column.class,
                TypeClass::Outside | TypeClass::CheckedDomain | TypeClass::CheckedElements
            )
        })
}
