//! `FLUSH CACHE` of a part: what was remembered is not served again, and no fill under way is kept.

use crate::admin::conversation::Outcome;
use crate::cache::coherence::Scope;
use crate::gateway::Gateway;
use crate::sql::reading::tables_shown;
use crate::wire::sqlstate;

pub(super) fn database(gateway: &Gateway, name: &str) -> Outcome {
    let named: Vec<_> =
        gateway.databases().into_iter().filter(|(database, _)| database.name == name).collect();
    for (database, _) in &named {
        database.home().invalidate(&Scope::Database);
    }
    done(named.len(), "database", name)
}

/// Which roles there are is for PostgreSQL to know: one of any name is flushed.
pub(super) fn role(gateway: &Gateway, name: &str) -> Outcome {
    if gateway.cache.in_group {
        // Which answers are a role's is known in one process alone, so all are flushed.
        for (database, _) in gateway.databases() {
            database.home().invalidate(&Scope::Database);
        }
    } else {
        gateway.cache.roles.flush(name);
    }
    done(1, "role", name)
}

/// A view goes with the tables whose rows it shows; with the whole database if they are not known.
pub(super) fn table(gateway: &Gateway, schema: Option<&str>, name: &str) -> Outcome {
    let mut flushed = 0;
    for (database, _) in gateway.databases() {
        let snapshot = database.snapshot();
        let Some(catalog) = &snapshot.catalog else {
            // It is being read, after a change that has voided everything anyway.
            continue;
        };
        let wanted = schema.map(|schema| catalog.schema(schema));
        let named = catalog
            .relations_named(name)
            .filter(|(schema, _)| wanted.is_none_or(|wanted| wanted == Some(*schema)));
        for (_, relation) in named {
            let scope = match tables_shown(relation.oid, catalog) {
                Some(tables) => Scope::Tables(tables.into_iter().collect()),
                None => Scope::Database,
            };
            snapshot.home.invalidate(&scope);
            flushed += 1;
        }
    }
    done(flushed, "table", name)
}

fn done(count: usize, what: &str, name: &str) -> Outcome {
    if count == 0 {
        let message = format!("{what} not found: {name}");
        return Outcome::Failed { sqlstate: sqlstate::PROTOCOL_VIOLATION, message };
    }
    tracing::info!("cache of {what} {name} flushed");
    Outcome::done("FLUSH")
}
