//! What is remembered, shared with the group: read when a database is first heard of, written once a
//! minute and at a stop.

use std::time::Duration;

use tokio::time::timeout;

use crate::gateway::{Gateway, Stage};
use crate::pool::database::Database;

/// A stop waits no longer for Redis.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether there are others, or later ones, who could read it.
pub(super) fn is_kept(gateway: &Gateway) -> bool {
    gateway.cache.redis.as_ref().is_some_and(|redis| redis.is_shared())
}

/// Whether what others remember is known here now.
pub(super) async fn read(gateway: &Gateway, database: &Database) -> bool {
    let (Some(redis), Some(group)) = (&gateway.cache.redis, &database.home().group) else {
        return true;
    };
    let Some(recipes) = redis.read_list(group).await else { return false };
    gateway.cache.warm_ups.merge(database.id, recipes);
    true
}

/// For every database, with what others have put there meanwhile.
pub(super) async fn write(gateway: &Gateway) {
    let Some(redis) = gateway.cache.redis.as_ref().filter(|_| is_kept(gateway)) else { return };
    for (database, _) in gateway.databases() {
        let home = database.home();
        if let Some(group) = &home.group
            && read(gateway, &database).await
        {
            let warm_ups = &gateway.cache.warm_ups;
            let recipes = warm_ups.hottest(database.id);
            if redis.write_list(group, &recipes).await.is_some() {
                warm_ups.note_list(database.id, &recipes);
            }
        }
    }
}

/// At a stop that has waited for whom it had to.
pub async fn remember(gateway: &Gateway) {
    if gateway.cache.warm_ups.is_on() && *gateway.stage.borrow() != Stage::Now {
        gateway.cache.note_hot(None);
        // Later is as good as never.
        let _written = timeout(FAREWELL_TIMEOUT, write(gateway)).await;
    }
}
