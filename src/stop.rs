//! Stopping as PgBouncer does: who is refused, who may finish, when it is over.

use std::sync::Arc;

use crate::client::registry::Leave;
use crate::gateway::{Gateway, Stage};

/// Goes on to this stage, never back. Nothing waits here.
pub fn begin(gateway: &Arc<Gateway>, stage: Stage) {
    let changed = gateway.stage.send_if_modified(|now| {
        let later = stage > *now;
        if later {
            *now = stage;
        }
        later
    });
    if !changed {
        return;
    }
    tracing::info!(stage = ?stage, clients = gateway.shared.registry.count(), "shutting down");
    if stage == Stage::WaitForServers {
        // Who logs in from here on finds the stage changed and is refused.
        for entry in gateway.shared.registry.clients() {
            if !entry.console {
                entry.ask_to_leave(Leave::ShuttingDown);
            }
        }
    }
}

/// A signal to stop: the second one, whichever it is, ends the waiting.
pub fn signalled(gateway: &Arc<Gateway>, stage: Stage) {
    let stopping = *gateway.stage.borrow() != Stage::Running;
    begin(gateway, if stopping { Stage::Now } else { stage });
}

pub fn has_begun(gateway: &Gateway) -> bool {
    *gateway.stage.borrow() != Stage::Running
}

/// Resolves when the program may end.
pub async fn over(gateway: &Arc<Gateway>) {
    let registry = &gateway.shared.registry;
    let mut stage = gateway.stage.subscribe();
    loop {
        let now = *stage.borrow_and_update();
        match now {
            Stage::Now => return,
            Stage::WaitForClients | Stage::WaitForServers if registry.count() == 0 => return,
            Stage::Running | Stage::WaitForClients | Stage::WaitForServers => {}
        }
        tokio::select! {
            changed = stage.changed() => if changed.is_err() { return },
            () = registry.left.notified() => {}
        }
    }
}
