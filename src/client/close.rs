//! Why a connection ends: the word for log and metric, and what the peer is told.

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
    PasswordFailed {
        user: String,
    },
    NoSuchDatabase(String),
    TooManyClients,
    QueryWaitTimeout,
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
    /// In statement pooling.
    TransactionBlock,
}

impl CloseReason {
    /// As PgBouncer's log says it, where it says it.
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
            Self::PasswordFailed { user } => {
                format!("password authentication failed for user \"{user}\"")
            }
            Self::NoSuchDatabase(name) => format!("no such database: {name}"),
            Self::TooManyClients => "no more connections allowed (max_client_conn)".into(),
            Self::QueryWaitTimeout => "query_wait_timeout".into(),
            Self::ServerLost => "server conn crashed?".into(),
            Self::ServerUnreachable(message) => format!("server login failed: {message}"),
            Self::ServerFailing { message, .. } => format!(
                "server login has been failing, cached error: {message} (server_login_retry)"
            ),
            Self::ShuttingDown => "pooler is shutting down".into(),
            Self::Stopping => "server shutting down".into(),
            Self::DatabaseDisabled(name) => format!("database \"{name}\" is disabled"),
            Self::SuspendTimeout => "suspend_timeout".into(),
            Self::TlsRequired => "SSL required".into(),
            Self::StatementsMax => "too many prepared statements".into(),
            Self::PortalsMax => "too many portals".into(),
            Self::PinRefused(pin) => {
                format!(
                    "{} cannot follow a client in transaction pooling (pins = refuse)",
                    pin.name()
                )
            }
            Self::TransactionBlock => {
                "transaction blocks not allowed in statement pooling mode".into()
            }
            Self::CancelledWaiting => "canceling statement due to user request".into(),
            Self::AdminKill => "admin forced disconnect".into(),
            Self::Reconfigured => "database configuration changed".into(),
        }
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
            | Self::QueryWaitTimeout => sqlstate::PROTOCOL_VIOLATION,
            Self::StartupVersion { .. } | Self::PinRefused(_) => sqlstate::FEATURE_NOT_SUPPORTED,
            Self::NoUser | Self::TlsRequired | Self::LoginFailed(_) => {
                sqlstate::INVALID_AUTHORIZATION
            }
            Self::PasswordFailed { .. } => sqlstate::INVALID_PASSWORD,
            Self::NoSuchDatabase(_) => sqlstate::UNDEFINED_DATABASE,
            Self::TooManyClients => sqlstate::TOO_MANY_CONNECTIONS,
            Self::ServerLogin { sqlstate, .. } => sqlstate,
            Self::ServerFailing { sqlstate, .. } => {
                sqlstate.as_deref().unwrap_or(sqlstate::CONNECTION_FAILURE)
            }
            Self::ShuttingDown
            | Self::Stopping
            | Self::SuspendTimeout
            | Self::AdminKill
            | Self::Reconfigured => sqlstate::ADMIN_SHUTDOWN,
            Self::DatabaseDisabled(_) => sqlstate::CANNOT_CONNECT_NOW,
            Self::CancelledWaiting => sqlstate::QUERY_CANCELED,
            Self::StatementsMax | Self::PortalsMax => sqlstate::CONFIGURATION_LIMIT_EXCEEDED,
        }
    }

    /// The FATAL that tells the client, unless it is the one that left.
    pub fn tell(&self, out: &mut Vec<u8>) {
        if matches!(self, Self::ClientClosed | Self::ClientLost) {
            return;
        }
        backend::write_error(out, Severity::Fatal, self.sqlstate(), &self.text());
    }
}
