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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::registry::{Hello, Room};
    use crate::config::{Base, Config};
    use crate::wire::startup::Replication;

    fn gateway() -> Arc<Gateway> {
        Arc::new(Gateway::new(Config::defaults(Base::Forebay)).unwrap())
    }

    fn hello(console: bool) -> Hello {
        Hello {
            user: "ann".into(),
            server_user: "ann".into(),
            database: "app".into(),
            application_name: String::new(),
            address: "127.0.0.1:1".into(),
            local: "127.0.0.1:2".into(),
            tls: None,
            console,
            replication: Replication::None,
            long_keys: false,
        }
    }

    #[test]
    fn the_second_signal_ends_the_waiting() {
        let gateway = gateway();
        signalled(&gateway, Stage::WaitForClients);
        assert_eq!(*gateway.stage.borrow(), Stage::WaitForClients);
        signalled(&gateway, Stage::WaitForServers);
        assert_eq!(*gateway.stage.borrow(), Stage::Now);
    }

    #[test]
    fn stopping_never_goes_back() {
        let gateway = gateway();
        begin(&gateway, Stage::WaitForServers);
        begin(&gateway, Stage::WaitForClients);
        assert_eq!(*gateway.stage.borrow(), Stage::WaitForServers);
    }

    #[tokio::test]
    async fn it_is_over_when_the_last_client_has_left_and_not_before() {
        let gateway = gateway();
        let registry = &gateway.shared.registry;
        let client = registry.enter(hello(false), Room::UNLIMITED).unwrap();
        // Whoever watches from the console is not waited for.
        let _watching = registry.enter(hello(true), Room::UNLIMITED).unwrap();
        begin(&gateway, Stage::WaitForClients);
        let mut over = std::pin::pin!(over(&gateway));
        tokio::select! {
            biased;
            () = &mut over => panic!("over while a client is there"),
            () = std::future::ready(()) => {}
        }
        drop(client);
        over.await;
    }

    #[tokio::test]
    async fn clients_are_told_when_servers_are_waited_for_and_the_console_is_not() {
        let gateway = gateway();
        let registry = &gateway.shared.registry;
        let client = registry.enter(hello(false), Room::UNLIMITED).unwrap();
        let watching = registry.enter(hello(true), Room::UNLIMITED).unwrap();
        begin(&gateway, Stage::WaitForServers);
        assert_eq!(client.entry.asked_to_leave().await, Leave::ShuttingDown);
        tokio::select! {
            biased;
            leave = watching.entry.asked_to_leave() => panic!("told to leave: {leave:?}"),
            () = std::future::ready(()) => {}
        }
    }
}
