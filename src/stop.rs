//! Stopping as PgBouncer does: who is refused, who may finish, when it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::registry::Leave;
use crate::gateway::{Gateway, Stage};
use crate::process::{self, Notice};

/// Between two looks at whether servers are in use, or groups are left.
const LOOK: Duration = Duration::from_millis(20);

/// For clients to be told, and gone; for groups to hear of it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Goes on to this stage, never back. Nothing waits here.
pub fn begin(gateway: &Arc<Gateway>, stage: Stage) {
    if stage > *gateway.stage.borrow() {
        // Before: the program may be over once the stage is known.
        let clients = gateway.shared.registry.count();
        tracing::info!(stage = ?stage, clients, "shutting down");
        process::notify(&Notice::Stopping);
    }
    gateway.stage.send_if_modified(|now| {
        let later = stage > *now;
        if later {
            *now = stage;
        }
        later
    });
    // Who logs in from here on finds the stage changed and is refused.
    gateway.settle_stage();
}

/// Tells the clients that are left, none of which has a server.
fn dismiss(gateway: &Gateway) {
    for entry in gateway.shared.registry.clients() {
        if !entry.console {
            entry.ask_to_leave(Leave::ShuttingDown);
        }
    }
}

fn has_servers(gateway: &Gateway) -> bool {
    let now = Instant::now();
    let leased = gateway.pools().iter().any(|opened| opened.pool.counts(now).active > 0);
    leased || gateway.shared.registry.clients().iter().any(|entry| entry.current().is_some())
}

/// A signal to stop: the second one, whichever it is, ends the waiting.
pub fn signalled(gateway: &Arc<Gateway>, stage: Stage) {
    let stopping = *gateway.stage.borrow() != Stage::Running;
    begin(gateway, if stopping { Stage::Now } else { stage });
}

/// What a stop waits for before clients are counted, as long as this lives.
pub struct Arrival(Arc<Gateway>);

impl Arrival {
    pub fn of(gateway: &Arc<Gateway>) -> Self {
        gateway.arriving.send_modify(|count| *count += 1);
        Self(Arc::clone(gateway))
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.0.arriving.send_modify(|count| *count -= 1);
    }
}

/// Whether a client is too late to log in. Where another process listens on the same port, the
/// system had given this one the connection before it closed its socket: such an `arrival` is let
/// in while clients are waited for, since nobody would tell the application to come again.
pub fn refuses(gateway: &Gateway, arrival: Option<&Arrival>) -> bool {
    match *gateway.stage.borrow() {
        Stage::Running => false,
        Stage::WaitForClients => arrival.is_none(),
        Stage::WaitForServers | Stage::Now => true,
    }
}

pub fn has_begun(gateway: &Gateway) -> bool {
    *gateway.stage.borrow() != Stage::Running
}

/// Resolves when it has.
pub async fn begun(gateway: &Gateway) {
    let mut stage = gateway.stage.subscribe();
    // The sender is the gateway's, so it is there as long as we are.
    let _begun = stage.wait_for(|stage| *stage != Stage::Running).await.is_ok();
}

/// Resolves when the program may end.
pub async fn over(gateway: &Arc<Gateway>) {
    waited(gateway).await;
    if *gateway.stage.borrow() != Stage::Now {
        let mut untold = gateway.untold.subscribe();
        // Whoever does not take the answer does without.
        let _told =
            tokio::time::timeout(FAREWELL_TIMEOUT, untold.wait_for(|count| *count == 0)).await;
    }
}

/// Resolves when the groups know that we answer nobody any more, or have had their time to. Called
/// when nothing else is to be asked of them; where clients are left something might be.
pub async fn leave_groups(gateway: &Gateway) {
    if *gateway.stage.borrow() == Stage::Now {
        return;
    }
    let groups = gateway.databases().into_iter();
    let groups = groups.filter_map(|(database, _)| database.home().group.clone());
    let joined: Vec<_> = groups.filter(|group| group.act().is_some()).collect();
    for group in &joined {
        group.leave();
    }
    let left = async {
        while joined.iter().any(|group| group.is_spoken_for()) {
            tokio::time::sleep(LOOK).await;
        }
    };
    // What does not answer finds out when our lease is over.
    let _left = tokio::time::timeout(FAREWELL_TIMEOUT, left).await;
}

/// Resolves when nobody is waited for any more.
async fn waited(gateway: &Arc<Gateway>) {
    let registry = &gateway.shared.registry;
    let mut stage = gateway.stage.subscribe();
    let mut arriving = gateway.arriving.subscribe();
    loop {
        let now = *stage.borrow_and_update();
        let arrivals = *arriving.borrow_and_update();
        match now {
            Stage::Now => return,
            Stage::WaitForClients if arrivals > 0 => {}
            Stage::WaitForClients | Stage::WaitForServers if registry.count() == 0 => return,
            Stage::WaitForServers if !has_servers(gateway) => {
                dismiss(gateway);
                return all_left(gateway).await;
            }
            Stage::Running | Stage::WaitForClients | Stage::WaitForServers => {}
        }
        tokio::select! {
            changed = stage.changed() => if changed.is_err() { return },
            changed = arriving.changed() => if changed.is_err() { return },
            () = registry.left.notified() => {}
            () = tokio::time::sleep(LOOK), if now == Stage::WaitForServers => {}
        }
    }
}

/// Resolves when the last client has left, or has had its time to.
async fn all_left(gateway: &Gateway) {
    let registry = &gateway.shared.registry;
    let left = async {
        while registry.count() > 0 {
            registry.left.notified().await;
        }
    };
    // Whoever does not take the news does without.
    let _left = tokio::time::timeout(FAREWELL_TIMEOUT, left).await;
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
            id: crate::server::io::next_id(),
            user: "ann".into(),
            server_user: "ann".into(),
            database: "app".into(),
            application_name: String::new(),
            plain_name: String::new(),
            address: "127.0.0.1:1".into(),
            local: "127.0.0.1:2".into(),
            tls: None,
            console,
            own: false,
            replication: Replication::None,
            long_keys: false,
            peer_id: 0,
            fd: 0,
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
    async fn it_is_over_when_the_console_that_asked_has_its_answer() {
        let gateway = gateway();
        gateway.untold.send_modify(|count| *count += 1);
        begin(&gateway, Stage::WaitForServers);
        let mut over = std::pin::pin!(over(&gateway));
        tokio::select! {
            biased;
            () = &mut over => panic!("over while the console waits for its answer"),
            () = std::future::ready(()) => {}
        }
        gateway.untold.send_modify(|count| *count -= 1);
        over.await;
    }

    #[tokio::test]
    async fn clients_without_a_server_are_told_when_none_is_left_and_the_console_is_not() {
        let gateway = gateway();
        let registry = &gateway.shared.registry;
        let client = registry.enter(hello(false), Room::UNLIMITED).unwrap();
        let watching = registry.enter(hello(true), Room::UNLIMITED).unwrap();
        begin(&gateway, Stage::WaitForServers);
        let told = async {
            assert_eq!(client.entry.asked_to_leave().await, Leave::ShuttingDown);
            drop(client);
        };
        tokio::join!(over(&gateway), told);
        tokio::select! {
            biased;
            leave = watching.entry.asked_to_leave() => panic!("told to leave: {leave:?}"),
            () = std::future::ready(()) => {}
        }
    }
}
