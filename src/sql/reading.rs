//! What reading a relation comes to: whose rows it shows, and whether it may run code from outside
//! PostgreSQL, through a view's definition, a row-security policy, or a foreign data wrapper.

use std::collections::{BTreeSet, HashSet};

use super::catalog::{Catalog, RelationKind};
use super::verdict::TableId;

/// Roots of the trees whose rows it shows; a view has none of its own. `None`: not known.
pub fn tables_shown(oid: u32, catalog: &Catalog) -> Option<BTreeSet<TableId>> {
    let mut tables = BTreeSet::new();
    let mut waiting = vec![oid];
    let mut seen = HashSet::new();
    while let Some(oid) = waiting.pop() {
        if !seen.insert(oid) {
            continue;
        }
        match catalog.relation(oid)?.kind {
            RelationKind::View => waiting.extend(catalog.reads(oid)),
            RelationKind::Table
            | RelationKind::MaterializedView
            | RelationKind::Foreign
            | RelationKind::Sequence => {
                tables.insert(catalog.root(oid));
            }
        }
    }
    Some(tables)
}

/// What needs no second look: a view may name every partition of a tree.
#[derive(Debug, Default)]
pub(super) struct Looked {
    relations: HashSet<u32>,
    trees: HashSet<TableId>,
}

/// `looked` holds what has been asked about before, and is not answered for again.
pub(super) fn reading_runs_code(oid: u32, catalog: &Catalog, looked: &mut Looked) -> bool {
    let mut waiting = vec![oid];
    while let Some(oid) = waiting.pop() {
        if !looked.relations.insert(oid) {
            continue;
        }
        let Some(relation) = catalog.relation(oid) else {
            // Gone from the snapshot, or of a kind that holds no rows.
            return true;
        };
        if relation.system {
            continue;
        }
        match relation.kind {
            RelationKind::View if relation.code => return true,
            RelationKind::View => waiting.extend(catalog.reads(oid)),
            RelationKind::Table => {
                let root = catalog.root(oid);
                if !looked.trees.insert(root) {
                    continue;
                }
                for member in catalog.tree(root) {
                    if member.kind == RelationKind::Foreign || member.row_security && member.code {
                        return true;
                    }
                    if member.row_security {
                        waiting.extend(catalog.reads(member.oid));
                    }
                }
            }
            RelationKind::Foreign => return true,
            RelationKind::MaterializedView | RelationKind::Sequence => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::catalog::sample::{answers, catalog};
    use super::*;

    #[test]
    fn a_view_shows_the_tables_below_it_and_a_part_its_tree() {
        let catalog = catalog();
        for (relation, expected) in [
            (20001, 20001),
            (20012, 20010),
            (20020, 20001),
            (20022, 20001),
            // A materialised view is a table.
            (20023, 20023),
        ] {
            let shown = tables_shown(relation, &catalog).unwrap();
            assert_eq!(shown, BTreeSet::from([TableId(expected)]), "{relation}");
        }
    }

    #[test]
    fn what_a_view_shows_is_not_known_if_something_below_it_is_not() {
        let mut answers = answers();
        answers[13].push(["20021", "29999", "v"].map(|field| Some(field.to_owned())).to_vec());
        let catalog = Catalog::build(&answers).unwrap();
        assert_eq!(tables_shown(20022, &catalog), None);
        assert!(tables_shown(20020, &catalog).is_some());
    }
}
