//! Whether reading a relation may run code from outside PostgreSQL: through a view's definition, a
//! row-security policy, or a foreign data wrapper.

use std::collections::HashSet;

use super::catalog::{Catalog, RelationKind};

pub(super) fn reading_runs_code(oid: u32, catalog: &Catalog) -> bool {
    let mut waiting = vec![oid];
    let mut seen = HashSet::new();
    while let Some(oid) = waiting.pop() {
        if !seen.insert(oid) {
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
                for member in catalog.tree(catalog.root(oid)) {
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
