//! What a reload replaces as a whole: the settings, and what was read because of them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::userlist::Password;
use crate::auth::{Method, Secret, Userlist};
use crate::cache::redis::SettingsError;
use crate::config::{AuthType, Config, SslMode};
use crate::net::{SocketOptions, TlsClientConfig, TlsConfigError, TlsServerConfig};

pub struct Running {
    pub config: Arc<Config>,
    pub users: HashMap<String, Secret>,
    pub client_tls: Option<TlsServerConfig>,
    pub server_tls: TlsClientConfig,
}

#[derive(Debug)]
pub enum GatewayError {
    Userlist(String),
    Tls(TlsConfigError),
    Redis(SettingsError),
}

impl std::fmt::Display for GatewayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Userlist(lines) => f.write_str(lines),
            Self::Tls(error) => error.fmt(f),
            Self::Redis(error) => error.fmt(f),
        }
    }
}

impl Running {
    pub fn load(config: Config) -> Result<Self, GatewayError> {
        Ok(Self {
            users: users(&config)?,
            client_tls: client_tls(&config).map_err(GatewayError::Tls)?,
            server_tls: server_tls(&config).map_err(GatewayError::Tls)?,
            config: Arc::new(config),
        })
    }

    /// How this user proves who it is, and with what.
    pub fn method(&self, user: &str) -> (Method, Option<Secret>) {
        let secret = self.users.get(user).cloned();
        match self.config.auth_type() {
            AuthType::Any => (
                Method::Trust,
                secret.or_else(|| Some(Secret::Plain(Password::new(String::new())))),
            ),
            AuthType::Trust => (Method::Trust, secret),
            AuthType::Plain => (Method::Plain, secret),
            AuthType::Md5 => (Method::Md5, secret),
            AuthType::ScramSha256 => (Method::Scram, secret),
        }
    }
}

/// Everybody who may log in.
fn users(config: &Config) -> Result<HashMap<String, Secret>, GatewayError> {
    let mut users = HashMap::new();
    if let Some(text) = &config.userlist {
        let list = Userlist::parse(text.reveal()).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            GatewayError::Userlist(lines.join("\n"))
        })?;
        users.extend(list.iter().map(|(user, secret)| (user.to_owned(), secret.clone())));
    }
    if let Some(credentials) = &config.credentials {
        let password = credentials.password.as_ref().map_or("", |password| password.reveal());
        let secret = Secret::Plain(Password::new(password.to_owned()));
        users.insert(credentials.user.clone(), secret);
    }
    Ok(users)
}

fn client_tls(config: &Config) -> Result<Option<TlsServerConfig>, TlsConfigError> {
    let tls = &config.tls;
    match (tls.client_tls_sslmode, &tls.client_tls_cert_file, &tls.client_tls_key_file) {
        (SslMode::Disable, _, _) | (_, None, _) | (_, _, None) => Ok(None),
        (mode, Some(cert), Some(key)) => {
            let verifies = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
            let ca = tls.client_tls_ca_file.as_deref().filter(|_| verifies);
            TlsServerConfig::load(cert, key, ca).map(Some)
        }
    }
}

fn server_tls(config: &Config) -> Result<TlsClientConfig, TlsConfigError> {
    use crate::net::SslMode as Wanted;
    let tls = &config.tls;
    let mode = match tls.server_tls_sslmode {
        SslMode::Disable => Wanted::Disable,
        SslMode::Allow => Wanted::Allow,
        SslMode::Prefer => Wanted::Prefer,
        SslMode::Require => Wanted::Require,
        SslMode::VerifyCa => Wanted::VerifyCa,
        SslMode::VerifyFull => Wanted::VerifyFull,
    };
    let identity: Option<(&Path, &Path)> =
        tls.server_tls_cert_file.as_deref().zip(tls.server_tls_key_file.as_deref());
    TlsClientConfig::load(mode, tls.server_tls_ca_file.as_deref(), identity)
}

pub fn socket_options(config: &Config) -> SocketOptions {
    let listen = &config.listen;
    let seconds = |count: u32| Duration::from_secs(count.into());
    SocketOptions {
        keepalive: listen.tcp_keepalive,
        keepalive_count: listen.tcp_keepcnt,
        keepalive_idle: seconds(listen.tcp_keepidle),
        keepalive_interval: seconds(listen.tcp_keepintvl),
        user_timeout: Duration::from_millis(listen.tcp_user_timeout.into()),
        buffer_bytes: usize::try_from(listen.tcp_socket_buffer).unwrap_or(0),
    }
}
