//! Why a connection ends: the word for log and metric, and what the peer is told.

use crate::auth::AuthError;
use crate::wire::backend::{self, Severity};
use crate::wire::sqlstate;

use super::pins::Pin;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Terminate, or the socket's end between two requests.
    ClientClosed,
    /// The socket's end in the middle of something.
    ClientLost,
    MalformedMessage {
        tag: u8,
    },
    UnknownMessage {
        tag: u8,
    },
    MessageTooLarge {
        tag: u8,
    },
    StartupMalformed,
    StartupVersion {
        major: u32,
        minor: u32,
    },
    NoUser,
    LoginTimeout,
    LoginFailed(String),
    /// It has not proven who it is.
    Unproven(Unproven),
    /// Certificate, process or address will not do; PgBouncer's sentence for it.
    NotAdmitted(&'static str),
    /// The log has the mistake; it is none of the client's business.
    PoolerConfig,
    NoSuchDatabase(String),
    TooManyClients,
    TooManyDatabaseClients,
    TooManyUserClients,
    QueryWaitTimeout,
    /// The time for an answer was over before there was a server to ask.
    QueryTimeoutWaiting,
    QueryTimeout,
    IdleTransactionTimeout,
    TransactionTimeout,
    /// PostgreSQL's own time-outs, in a transaction it has not been told of.
    PostgresIdleTransactionTimeout,
    PostgresTransactionTimeout,
    ClientIdleTimeout,
    ServerLost,
    ServerLogin {
        sqlstate: String,
        message: String,
    },
    ServerUnreachable(String),
    /// Logins failed a moment ago, and nobody has tried since.
    ServerFailing {
        sqlstate: Option<String>,
        message: String,
    },
    ShuttingDown,
    /// The same for one that was here before.
    Stopping,
    DatabaseDisabled(String),
    /// The one where its user would be looked up.
    AuthDatabaseDisabled(String),
    SuspendTimeout,
    TlsRequired,
    StatementsMax,
    PortalsMax,
    AdminKill,
    /// A cancel request while it waited for a server; as PgBouncer does.
    CancelledWaiting,
    /// A reload changed what its database is.
    Reconfigured,
    /// Session state that the policy does not allow in transaction pooling.
    PinRefused(Pin),
    /// This process itself asks only what the cache keeps: anything else may do more than read.
    NotKept,
    /// In statement pooling.
    TransactionBlock,
}

impl CloseReason {
    /// As PgBouncer's log says it, where it says it; but for `Unproven` the client is told the same.
    pub fn text(&self) -> String {
        match self {
            Self::ClientClosed => "client close request".into(),
            Self::ClientLost => "client unexpected eof".into(),
            Self::MalformedMessage { tag } => {
                format!("invalid message format: type '{}'", char::from(*tag).escape_default())
            }
            Self::UnknownMessage { tag } => {
                format!("invalid frontend message type {tag}")
            }
            Self::MessageTooLarge { tag } => {
                format!("message of type '{}' is too large", char::from(*tag).escape_default())
            }
            Self::StartupMalformed => "invalid startup packet".into(),
            Self::StartupVersion { major, minor } => {
                format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0")
            }
            Self::NoUser => "no PostgreSQL user name specified in startup packet".into(),
            Self::LoginTimeout => "client_login_timeout".into(),
            Self::LoginFailed(message) | Self::ServerLogin { message, .. } => message.clone(),
            Self::Unproven(unproven) => unproven.logged().into(),
            Self::NotAdmitted(sentence) => (*sentence).into(),
            Self::PoolerConfig => "bouncer config error".into(),
            Self::NoSuchDatabase(name) => format!("no such database: {name}"),
            Self::TooManyClients => "no more connections allowed (max_client_conn)".into(),
            Self::TooManyDatabaseClients => {
                "client connections exceeded (max_db_client_connections)".into()
            }
            Self::TooManyUserClients => {
                "client connections exceeded (max_user_client_connections)".into()
            }
            Self::QueryWaitTimeout => "query_wait_timeout".into(),
            Self::QueryTimeoutWaiting => "query_timeout".into(),
            Self::QueryTimeout => "query timeout".into(),
            Self::IdleTransactionTimeout => "idle transaction timeout".into(),
            Self::TransactionTimeout => "transaction timeout".into(),
            Self::PostgresIdleTransactionTimeout => {
                "terminating connection due to idle-in-transaction timeout".into()
            }
            Self::PostgresTransactionTimeout => {
                "terminating connection due to transaction timeout".into()
            }
            Self::ClientIdleTimeout => "client_idle_timeout".into(),
            Self::ServerLost => "server conn crashed?".into(),
            Self::ServerUnreachable(message) => format!("server login failed: {message}"),
            Self::ServerFailing { message, .. } => format!(
                "server login has been failing, cached error: {message} (server_login_retry)"
            ),
            Self::ShuttingDown => "pooler is shutting down".into(),
            Self::Stopping => "server shutting down".into(),
            Self::DatabaseDisabled(name) => format!("database \"{name}\" is disabled"),
            Self::AuthDatabaseDisabled(name) => {
                format!("authentication database \"{name}\" is disabled")
            }
            Self::SuspendTimeout => "suspend_timeout".into(),
            Self::TlsRequired => "SSL required".into(),
            Self::StatementsMax => "too many prepared statements".into(),
            Self::PortalsMax => "too many portals".into(),
            Self::PinRefused(pin) => {
                let pin = pin.name();
                format!("{pin} cannot follow a client in transaction pooling (pins = refuse)")
            }
            Self::NotKept => "the answer would not be kept".into(),
            Self::TransactionBlock => {
                "transaction blocks not allowed in statement pooling mode".into()
            }
            Self::CancelledWaiting => "canceling statement due to user request".into(),
            Self::AdminKill => "admin forced disconnect".into(),
            Self::Reconfigured => "database configuration changed".into(),
        }
    }

    /// The class of the SQLSTATE that the client is told.
    pub fn class(&self) -> [u8; 2] {
        self.sqlstate().as_bytes().first_chunk().copied().unwrap_or_default()
    }

    fn sqlstate(&self) -> &str {
        match self {
            Self::ClientClosed
            | Self::ClientLost
            | Self::ServerLost
            | Self::ServerUnreachable(_) => sqlstate::CONNECTION_FAILURE,
            Self::MalformedMessage { .. }
            | Self::UnknownMessage { .. }
            | Self::MessageTooLarge { .. }
            | Self::StartupMalformed
            | Self::LoginTimeout
            | Self::TransactionBlock
            // As PgBouncer has it; to drivers PostgreSQL's own, 25P03, is no lost connection.
            | Self::IdleTransactionTimeout
            | Self::TransactionTimeout
            | Self::QueryWaitTimeout => sqlstate::PROTOCOL_VIOLATION,
            Self::StartupVersion { .. } | Self::PinRefused(_) | Self::NotKept => {
                sqlstate::FEATURE_NOT_SUPPORTED
            }
            Self::NoUser | Self::TlsRequired | Self::LoginFailed(_) | Self::NotAdmitted(_) => {
                sqlstate::INVALID_AUTHORIZATION
            }
            Self::Unproven(unproven) => unproven.error.message().0,
            Self::PoolerConfig => sqlstate::CONFIG_FILE_ERROR,
            Self::NoSuchDatabase(_) => sqlstate::UNDEFINED_DATABASE,
            Self::TooManyClients | Self::TooManyDatabaseClients | Self::TooManyUserClients => {
                sqlstate::TOO_MANY_CONNECTIONS
            }
            Self::PostgresIdleTransactionTimeout => sqlstate::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            Self::PostgresTransactionTimeout => sqlstate::TRANSACTION_TIMEOUT,
            Self::ClientIdleTimeout => sqlstate::IDLE_SESSION_TIMEOUT,
            Self::ServerLogin { sqlstate, .. } => sqlstate,
            Self::ServerFailing { sqlstate, .. } => {
                sqlstate.as_deref().unwrap_or(sqlstate::CONNECTION_FAILURE)
            }
            Self::ShuttingDown
            | Self::Stopping
            | Self::SuspendTimeout
            | Self::AdminKill
            | Self::Reconfigured => sqlstate::ADMIN_SHUTDOWN,
            Self::DatabaseDisabled(_) | Self::AuthDatabaseDisabled(_) => sqlstate::CANNOT_CONNECT_NOW,
            Self::CancelledWaiting | Self::QueryTimeout | Self::QueryTimeoutWaiting => {
                sqlstate::QUERY_CANCELED
            }
            Self::StatementsMax | Self::PortalsMax => sqlstate::CONFIGURATION_LIMIT_EXCEEDED,
        }
    }

    /// The FATAL that tells the client, unless it is the one that left.
    pub fn tell(&self, out: &mut Vec<u8>) {
        if matches!(self, Self::ClientClosed | Self::ClientLost) {
            return;
        }
        let sentence =
            if let Self::Unproven(unproven) = self { unproven.told() } else { self.text() };
        backend::write_error(out, Severity::Fatal, self.sqlstate(), &sentence);
    }
}

/// A failed proof. The log says what was wrong; the client is told the same of an unknown user and
/// of a wrong password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unproven {
    pub error: AuthError,
    /// PostgreSQL was asked for the user and does not know it either.
    pub looked_up: bool,
    /// Such users are asked for somewhere, so that scripts look for PgBouncer's "no such user".
    pub may_be_looked_up: bool,
}

impl Unproven {
    fn logged(self) -> &'static str {
        let unknown = matches!(self.error, AuthError::UnknownUser(_));
        if unknown && self.looked_up { "no such user" } else { self.error.message().1 }
    }

    fn told(self) -> String {
        let why = if self.may_be_looked_up { " (wrong password or no such user)" } else { "" };
        format!("{}{why}", self.error.message().1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Method;

    fn told(error: AuthError, looked_up: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let unproven = Unproven { error, looked_up, may_be_looked_up: true };
        CloseReason::Unproven(unproven).tell(&mut out);
        out
    }

    #[test]
    fn a_client_is_told_the_same_of_an_unknown_user_and_a_wrong_password() {
        for method in [Method::Trust, Method::Md5, Method::Scram, Method::Plain] {
            let wrong = told(AuthError::WrongPassword(method), false);
            assert_eq!(told(AuthError::UnknownUser(method), true), wrong);
            assert_eq!(told(AuthError::UnknownUser(method), false), wrong);
        }
    }

    #[test]
    fn the_log_knows_which_it_was() {
        let error = AuthError::UnknownUser(Method::Md5);
        let logged = |looked_up| {
            let unproven = Unproven { error, looked_up, may_be_looked_up: true };
            CloseReason::Unproven(unproven).text()
        };
        assert_eq!(logged(true), "no such user");
        assert_eq!(logged(false), "password authentication failed");
    }
}
