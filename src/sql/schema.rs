//! Changes of the catalogue that leave all answers as they are but those of few tables: what
//! maintenance does every hour. The catalogue is read again all the same.
//!
//! A new name changes what others mean, where it stands before them in some search path; so it
//! must be new to every schema.

use std::collections::BTreeSet;

use super::catalog::{Catalog, Relation, RelationKind};
use super::closure::is_plain;
use super::names::Path;
use super::parse::{Kind, Name, Target};
use super::verdict::{TableId, Write};

/// Names that PostgreSQL makes of longer ones are cut.
const NAME_BYTES_MAX: usize = 40;

/// What a statement of this kind touches; `Write::Catalog` if that is not known.
pub(super) fn change(
    kind: Kind,
    (targets, made): (&[Target], &[String]),
    catalog: Option<&Catalog>,
    search_path: &[String],
) -> Write {
    let Some(catalog) = catalog.filter(|catalog| !catalog.event_triggers()) else {
        return Write::Catalog;
    };
    let tables = match (kind, targets) {
        (Kind::Comments, _) => return Write::None,
        (Kind::Allows, _) => Some(BTreeSet::new()),
        (Kind::Adds { may_exist }, [new, parents @ ..]) => {
            let found = existing(&new.name, catalog, search_path).filter(|_| may_exist);
            let hides_none = |index: &String| catalog.relations_named(index).next().is_none();
            let fits =
                found.is_some() || (is_new(&new.name.name, catalog) && made.iter().all(hides_none));
            let mut tables = roots(parents, catalog, search_path).filter(|_| fits);
            if let (Some(tables), Some(found)) = (&mut tables, found) {
                tables.insert(found);
            }
            tables
        }
        (Kind::Moves, targets) => roots(targets, catalog, search_path),
        (Kind::Indexes, [table, index]) => {
            let free = catalog.relations_named(&index.name.name).next().is_none();
            let table = roots(std::slice::from_ref(table), catalog, search_path);
            let plain = |root: &TableId| {
                let mut members = catalog.tree(*root);
                members.next().is_some_and(is_plain) && members.next().is_none()
            };
            table.filter(|roots| free && roots.iter().all(plain)).map(|_| BTreeSet::new())
        }
        _ => None,
    };
    tables.map_or(Write::Catalog, |tables| Write::Schema(tables.into_iter().collect()))
}

/// The trees that these tables are of.
fn roots(
    targets: &[Target],
    catalog: &Catalog,
    search_path: &[String],
) -> Option<BTreeSet<TableId>> {
    let path = Path::new(catalog, search_path);
    let mut roots = BTreeSet::new();
    for target in targets {
        let relations = path.relations(catalog, &target.name);
        let fits = |relation: &&Relation| {
            relation.kind == RelationKind::Table && !relation.system && !relation.code
        };
        if relations.is_empty() || !relations.iter().all(fits) {
            return None;
        }
        roots.extend(relations.iter().map(|relation| catalog.root(relation.oid)));
    }
    Some(roots)
}

/// The table of that name where a new one would be made.
fn existing(name: &Name, catalog: &Catalog, search_path: &[String]) -> Option<TableId> {
    let schema = match &name.schema {
        Some(schema) => catalog.schema(schema)?,
        None => search_path.iter().find_map(|schema| catalog.schema(schema))?,
    };
    let mut named = catalog.relations_named(&name.name);
    named.find(|(of, _)| *of == schema).map(|(_, relation)| catalog.root(relation.oid))
}

/// Neither it nor what PostgreSQL makes beside it (a row type, indexes, sequences) hides anything.
fn is_new(name: &str, catalog: &Catalog) -> bool {
    let array = format!("_{name}");
    let is_free = |name: &str| {
        catalog.types_named(name).is_empty()
            && catalog.functions(name).is_empty()
            && catalog.built_in(name).is_none()
    };
    name.len() <= NAME_BYTES_MAX
        && !catalog.has_relation_like(name)
        && is_free(name)
        && is_free(&array)
}
