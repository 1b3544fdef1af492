//! `SHOW GROUP_MEMBERS` and `SHOW GROUP_IN_FLIGHT`: what the groups of this process have agreed on,
//! read from Redis when it is asked for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin::command::Show;
use crate::admin::conversation::Outcome;
use crate::admin::group_show;
use crate::admin::part::Part;
use crate::admin::snapshot::Agreed;
use crate::cache::group::picture::Picture;
use crate::cache::group::shared::Group;
use crate::cache::group::slot::SlotName;
use crate::gateway::Gateway;
use crate::pool::database::Database;
use crate::sql::verdict::TableId;

use super::collect::Collector;

/// For all databases together.
const PATIENCE: Duration = Duration::from_secs(3);

/// The rows, with those of a database that could not be asked about saying why. Cancel-safe.
pub(super) async fn show(gateway: &Gateway, show: Show, part: Option<Part>) -> Outcome {
    let until = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    for (database, group) in Collector::new(gateway, Instant::now()).grouped() {
        let read = read(&group, until.saturating_duration_since(Instant::now())).await;
        let names = read.as_ref().map(|picture| names(&database, picture)).unwrap_or_default();
        all.push(Agreed { database: database.name.clone(), own: group.id, read, names });
    }
    let table = if show == Show::GroupMembers {
        group_show::group_members(&all)
    } else {
        group_show::group_in_flight(&all)
    };
    Outcome::Rows(match part {
        Some(part) => part.of(table),
        None => table,
    })
}

async fn read(group: &Arc<Group>, time: Duration) -> Result<Picture, String> {
    let (Some(place), Some(name)) = (group.place(), group.name()) else {
        return Err("no Redis was reached yet".to_owned());
    };
    place.picture(&name, time).await.map_err(|error| error.to_string())
}

/// Of the tables in flight.
fn names(database: &Database, picture: &Picture) -> HashMap<TableId, String> {
    let in_flight: HashSet<u32> = picture
        .in_flight
        .iter()
        .filter_map(|marked| match marked.slot {
            SlotName::Table(table) => Some(table.0),
            SlotName::Database | SlotName::Catalog => None,
        })
        .collect();
    let snapshot = database.snapshot();
    let Some(catalog) = &snapshot.catalog else { return HashMap::new() };
    let named = catalog.names().filter(|(_, _, oid)| in_flight.contains(oid));
    named.map(|(schema, name, oid)| (TableId(oid), format!("{schema}.{name}"))).collect()
}
