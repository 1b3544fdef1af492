//! Why no server could be had, for those who come after.

use std::time::Instant;

use crate::net::ConnectError;
use crate::server::io::ServerError;
use crate::server::login::LoginError;
use crate::wire::sqlstate;

use super::state::Connecting;

/// A failure to connect or log in, for those who come after.
#[derive(Clone, Debug)]
pub struct Failure {
    pub at: Instant,
    /// As PostgreSQL gave it, if it was PostgreSQL that refused.
    pub sqlstate: Option<String>,
    pub message: String,
}

impl Failure {
    pub fn new(error: &ServerError, now: Instant) -> Self {
        let sqlstate = match error {
            ServerError::Login(LoginError::Refused { sqlstate, .. })
            | ServerError::Query { sqlstate, .. } => Some(sqlstate.clone()),
            ServerError::Login(_)
            | ServerError::Connect(_)
            | ServerError::Io(_)
            | ServerError::Closed
            | ServerError::Protocol
            | ServerError::Ambiguous => None,
        };
        Self { at: now, sqlstate, message: error.to_string() }
    }

    /// There was nobody to refuse, or PostgreSQL lets nobody in just now.
    pub fn out_of_reach(&self) -> bool {
        self.sqlstate.as_ref().is_none_or(|sqlstate| sqlstate == sqlstate::CANNOT_CONNECT_NOW)
    }
}

/// Whether PostgreSQL may only be away for a moment, so that clients wait for it.
pub fn hinders(error: &ServerError) -> Connecting {
    match error {
        ServerError::Connect(ConnectError::Lookup(_) | ConnectError::Io(_))
        | ServerError::Io(_)
        | ServerError::Closed => Connecting::Unreachable,
        ServerError::Login(LoginError::Refused { sqlstate, .. })
            if sqlstate == sqlstate::CANNOT_CONNECT_NOW =>
        {
            Connecting::Unreachable
        }
        ServerError::Connect(_)
        | ServerError::Login(_)
        | ServerError::Query { .. }
        | ServerError::Protocol
        | ServerError::Ambiguous => Connecting::Refused,
    }
}
