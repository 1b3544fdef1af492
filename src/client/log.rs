//! What the log says of a client's coming and going.

use std::sync::PoisonError;

use crate::config::Config;

use super::close::CloseReason;
use super::registry::{Entry, Shown};

pub fn log_connection(config: &Config, entry: &Entry) {
    if config.log.log_connections {
        tracing::info!(
            client_id = entry.id,
            database = %entry.database,
            user = %entry.user,
            application_name = %entry.called().application_name,
            address = %entry.address,
            "login attempt: db={} user={} tls={}",
            entry.database,
            entry.user,
            entry.tls.as_deref().unwrap_or("no")
        );
    }
}

/// With what the client did, so that the log alone tells who queried and who was served.
pub fn log_disconnection(config: &Config, entry: &Entry, reason: &CloseReason) {
    if !config.log.log_disconnections {
        return;
    }
    let Shown { queries, hits, transactions, time, .. } =
        entry.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let age = entry.connected_at.elapsed().as_secs();
    tracing::info!(
        client_id = entry.id,
        database = %entry.database,
        user = %entry.user,
        application_name = %entry.called().application_name,
        address = %entry.address,
        queries,
        hits,
        transactions,
        time_ms = time / 1000,
        "closing because: {} (age={age}s)",
        reason.text()
    );
}
