//! `FLUSH CACHE` of a part: what was remembered is not served again, and no fill under way is kept.

use std::sync::Arc;

use crate::admin::conversation::Outcome;
use crate::cache::coherence::Scope;
use crate::gateway::Gateway;
use crate::sql::reading::tables_shown;
use crate::wire::sqlstate;

use super::is_named;

/// First the versions move, so that no fill under way is admitted after the memory is empty.
pub(super) fn all(gateway: &Arc<Gateway>) -> Outcome {
    let notices = databases(gateway);
    gateway.cache.clear();
    tracing::info!("cache flushed");
    Outcome::Done { tag: "FLUSH".into(), notices }
}

/// What others of the group will not hear of is told.
fn databases(gateway: &Arc<Gateway>) -> Vec<String> {
    let mut notices = Vec::new();
    if gateway.cache.in_group {
        notices.extend(gateway.open_named(None).iter().map(|name| unheard(name)));
        if gateway.config().databases.iter().any(|entry| entry.name == "*") {
            notices.push(
                "databases that only \"*\" names and no client has come to here are not flushed at \
                 other members: FLUSH CACHE DATABASE <name> does that"
                    .to_owned(),
            );
        }
    }
    for (database, _) in gateway.databases() {
        database.flush();
    }
    notices
}

fn unheard(name: &str) -> String {
    format!(
        "{name} is not flushed at other members: no client has come to it here, and nobody is known \
         as whom to open it"
    )
}

/// Whatever is called so by clients or by PostgreSQL. In a group one that is not open here may be so at
/// other members.
pub(super) fn database(gateway: &Arc<Gateway>, name: &str) -> Outcome {
    let unopened = if gateway.cache.in_group && !is_named(&gateway.config(), name) {
        gateway.open_named(Some(name))
    } else {
        Vec::new()
    };
    let called = gateway.databases_called(name);
    for database in &called {
        database.flush();
    }
    let mut outcome = done(called.len(), "database", name);
    let closed = unopened.iter().filter(|name| gateway.knows_database(name));
    let mut unheard = closed.map(|name| unheard(name)).peekable();
    match &mut outcome {
        Outcome::Done { notices, .. } => notices.extend(unheard),
        Outcome::Failed { message, .. } if unheard.peek().is_some() => {
            *message = unheard.collect::<Vec<_>>().join("; ");
        }
        Outcome::Failed { .. } | Outcome::Rows(_) => {}
    }
    outcome
}

/// Which roles there are is for PostgreSQL to know: one of any name is flushed.
pub(super) fn role(gateway: &Arc<Gateway>, name: &str) -> Outcome {
    if gateway.cache.in_group {
        // Which answers are a role's is known in one process alone, so all are flushed.
        let notices = databases(gateway);
        tracing::info!("cache of role {name} flushed");
        return Outcome::Done { tag: "FLUSH".into(), notices };
    }
    gateway.cache.roles.flush(name);
    done(1, "role", name)
}

/// A view goes with the tables whose rows it shows; with the whole database if they are not known.
pub(super) fn table(gateway: &Gateway, schema: Option<&str>, name: &str) -> Outcome {
    let mut flushed = 0;
    for (database, _) in gateway.databases() {
        let snapshot = database.snapshot();
        let Some(catalog) = &snapshot.catalog else {
            // It is being read, after a change that has voided everything here anyway.
            if gateway.cache.in_group {
                database.flush();
                flushed += 1;
            }
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
    let mut outcome = done(flushed, "table", name);
    if gateway.cache.in_group {
        let closed = gateway.closed(&gateway.running(), None);
        let unseen = closed.iter().map(|name| {
            format!("{name} is not open here, and none of its tables is flushed at other members")
        });
        match &mut outcome {
            Outcome::Done { notices, .. } => notices.extend(unseen),
            Outcome::Failed { message, .. } => {
                for unseen in unseen {
                    message.push_str("; ");
                    message.push_str(&unseen);
                }
            }
            Outcome::Rows(_) => {}
        }
    }
    outcome
}

fn done(count: usize, what: &str, name: &str) -> Outcome {
    if count == 0 {
        let message = format!("{what} not found: {name}");
        return Outcome::Failed { sqlstate: sqlstate::PROTOCOL_VIOLATION, message };
    }
    tracing::info!("cache of {what} {name} flushed");
    Outcome::done("FLUSH")
}
