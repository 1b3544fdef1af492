//! As whom a database is asked: one of those who are served there, and another once PostgreSQL
//! refuses that one. And what other ways a connection may fail mean.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::server::io::{ServerError, Target};
use crate::server::login::LoginError;
use crate::wire::sqlstate::{ADMIN_SHUTDOWN, UNDEFINED_DATABASE};

/// Users of a database by whom it may be asked.
const TARGETS_MAX: usize = 16;

pub(super) struct Targets {
    now: Arc<Target>,
    others: VecDeque<Arc<Target>>,
}

impl Targets {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { now: target, others: VecDeque::new() }
    }

    pub(super) fn now(&self) -> Arc<Target> {
        Arc::clone(&self.now)
    }

    /// All of them in their turns, from the one of now.
    pub(super) fn at(&self, turn: usize) -> Arc<Target> {
        let turn = turn % (self.others.len() + 1);
        let other = turn.checked_sub(1).and_then(|turn| self.others.get(turn));
        Arc::clone(other.unwrap_or(&self.now))
    }

    /// One more to try, unless its user is among them: the newest of many are as good as any.
    pub(super) fn offer(&mut self, target: Arc<Target>) {
        let is_of_it = |known: &Arc<Target>| known.user == target.user;
        if !is_of_it(&self.now) && !self.others.iter().any(is_of_it) {
            self.others.truncate(TARGETS_MAX - 2);
            self.others.push_front(target);
        }
    }

    /// The one of now was refused.
    pub(super) fn turn(&mut self) {
        if let Some(next) = self.others.pop_front() {
            self.others.push_back(std::mem::replace(&mut self.now, next));
        }
    }

    /// These and no others: first the one of now if it is among them, but rather one who has a
    /// secret.
    pub(super) fn set(&mut self, mut targets: Vec<Arc<Target>>) {
        targets.sort_by_key(|target| (target.secret.is_none(), target.user != self.now.user));
        let mut targets = targets.into_iter();
        if let Some(first) = targets.next() {
            *self = Self::new(first);
            targets.for_each(|target| self.offer(target));
        }
    }
}

/// This user may not log in; another may.
pub(super) fn is_refused(error: &ServerError) -> bool {
    match error {
        ServerError::Login(LoginError::Refused { sqlstate, .. }) => sqlstate.starts_with("28"),
        ServerError::Login(LoginError::Auth(_)) => true,
        ServerError::Login(LoginError::UnexpectedMessage { .. } | LoginError::Malformed { .. })
        | ServerError::Connect(_)
        | ServerError::Io(_)
        | ServerError::Closed
        | ServerError::Protocol
        | ServerError::Ambiguous
        | ServerError::Query { .. } => false,
    }
}

pub(super) fn is_of_missing_database(error: &ServerError) -> bool {
    matches!(
        error,
        ServerError::Login(LoginError::Refused { sqlstate, .. }) if sqlstate == UNDEFINED_DATABASE
    )
}

/// Somebody ended the connection and said so, which a crash does not.
pub(super) fn is_on_purpose(ended: &ServerError) -> bool {
    matches!(ended, ServerError::Query { sqlstate, .. } if sqlstate == ADMIN_SHUTDOWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;
    use crate::net::{Address, TlsClientConfig};
    use crate::server::hosts::Hosts;
    use crate::server::io::ServerTls;

    fn target(user: &str, secret: bool) -> Arc<Target> {
        Arc::new(Target {
            hosts: Arc::new(Hosts::new(Box::from([Address::new("127.0.0.1", 1)]), true)),
            tls: Arc::new(ServerTls::new(TlsClientConfig::disabled())),
            database: "app".into(),
            user: user.into(),
            secret: secret.then(|| Secret::parse("x")),
            learned: None,
            parameters: Vec::new(),
            connect_query: None,
            group: None,
        })
    }

    #[test]
    fn each_is_tried_in_turn_and_none_twice() {
        let mut targets = Targets::new(target("ghost", true));
        targets.offer(target("ann", true));
        targets.offer(target("ghost", true));
        let users: Vec<_> = (0..3).map(|turn| targets.at(turn).user.clone()).collect();
        assert_eq!(users, ["ghost", "ann", "ghost"]);
        targets.turn();
        assert_eq!(targets.now().user, "ann");
        targets.turn();
        assert_eq!(targets.now().user, "ghost");
        for number in 0..2 * TARGETS_MAX {
            targets.offer(target(&number.to_string(), true));
        }
        assert_eq!(targets.others.len(), TARGETS_MAX - 1);
    }

    #[test]
    fn after_a_reload_it_stays_if_it_still_has_a_secret() {
        let mut targets = Targets::new(target("ann", true));
        targets.set(vec![target("bob", true), target("ann", true)]);
        assert_eq!(targets.now().user, "ann");
        targets.set(vec![target("ann", false), target("bob", true)]);
        assert_eq!(targets.now().user, "bob");
        targets.set(Vec::new());
        assert_eq!(targets.now().user, "bob");
    }
}
