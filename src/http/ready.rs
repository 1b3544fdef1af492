//! Whether clients should be sent here, for `/ready`.

use std::time::{Duration, Instant};

use crate::admin::pause::Activity;
use crate::gateway::{Gateway, Opened, Stage};

/// After the last failed attempt to reach PostgreSQL and the pause that follows it, this long counts
/// as not reached: the next attempt is on its way.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    Stopping,
    Paused,
    Suspended,
    /// No database that clients have asked for could be reached a moment ago.
    Unreachable,
}

impl Readiness {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::Unreachable => "unreachable",
        }
    }

    pub fn of(gateway: &Gateway, now: Instant) -> Self {
        let settings = gateway.config();
        let server = &settings.server;
        let patience = server.server_login_retry + server.server_connect_timeout + GRACE;
        let pools = gateway.pools();
        // Who asks again brings the next attempt about: while nobody is sent here nobody asks, so
        // an old failure says nothing.
        let unreachable = |opened: &Opened| {
            let counts = opened.pool.counts(now);
            counts.active + counts.idle == 0
                && opened.pool.unreachable_for(now).is_some_and(|age| age < patience)
        };
        let unreachable = !pools.is_empty() && pools.iter().all(unreachable);
        let activity = gateway.pauses().activity();
        let stage = *gateway.stage.borrow();
        decide(stage, activity, unreachable)
    }
}

fn decide(stage: Stage, activity: Activity, unreachable: bool) -> Readiness {
    match (stage, activity) {
        (Stage::WaitForClients | Stage::WaitForServers | Stage::Now, _) => Readiness::Stopping,
        (Stage::Running, Activity::Paused) => Readiness::Paused,
        (Stage::Running, Activity::Suspended) => Readiness::Suspended,
        (Stage::Running, Activity::Active) if unreachable => Readiness::Unreachable,
        (Stage::Running, Activity::Active) => Readiness::Ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pooler_at_work_that_reaches_some_database_is_ready() {
        let check = |stage, activity, unreachable, expected: &str| {
            assert_eq!(decide(stage, activity, unreachable).name(), expected);
        };
        check(Stage::Running, Activity::Active, false, "ready");
        check(Stage::Running, Activity::Active, true, "unreachable");
        check(Stage::Running, Activity::Paused, true, "paused");
        check(Stage::Running, Activity::Suspended, false, "suspended");
        check(Stage::WaitForClients, Activity::Paused, false, "stopping");
        check(Stage::WaitForServers, Activity::Active, false, "stopping");
        check(Stage::Now, Activity::Active, true, "stopping");
    }
}
