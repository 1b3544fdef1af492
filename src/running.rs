//! What a reload replaces as a whole: the settings, and what was read because of them.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::userlist::Password;
use crate::auth::{Asking, Demand, Hba, IdentMaps, Refusal, Secret, Userlist};
use crate::cache::group;
use crate::cache::group::link::Found;
use crate::cache::redis::SettingsError;
use crate::config::{AuthType, Config, GroupMode, SslMode};
use crate::net::{
    ClientCertificates, Offer, OfferError, SocketOptions, TlsClientConfig, TlsConfigError,
    TlsServerConfig, Wanted,
};

/// Reads a file.
pub type Read<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// For each sentinel and node on the way to the Redis of a group.
const GROUP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

pub struct Running {
    pub config: Arc<Config>,
    pub users: HashMap<String, Secret>,
    hba: Hba,
    pub tls: RunningTls,
    /// The group that this process is part of.
    pub group: Option<Arc<group::settings::Settings>>,
    /// What the operator should hear.
    pub notices: Vec<String>,
}

/// TLS on both sides. A whole of its own: where it cannot be made, the one before goes on.
#[derive(Clone)]
pub struct RunningTls {
    pub client: Option<TlsServerConfig>,
    /// Clients over TCP have to use it.
    pub is_required: bool,
    pub server: TlsClientConfig,
}

#[derive(Debug)]
pub enum GatewayError {
    Userlist(String),
    /// `auth_hba_file` or `auth_ident_file`, a line each.
    Access(String),
    Tls(TlsConfigError),
    Redis(SettingsError),
}

impl std::fmt::Display for GatewayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Userlist(lines) | Self::Access(lines) => f.write_str(lines),
            Self::Tls(error) => write!(f, "TLS setup failed: {error}"),
            Self::Redis(error) => error.fmt(f),
        }
    }
}

impl Running {
    pub fn load(config: Config, read: Read<'_>) -> Result<Self, GatewayError> {
        let mut notices = Vec::new();
        let tls = RunningTls::load(&config, &mut notices).map_err(GatewayError::Tls)?;
        Self::load_with(config, tls, read, notices)
    }

    /// As `load`; TLS that cannot be made stays as it was, with what is wrong among the notices.
    pub fn load_after(before: &Self, config: Config, read: Read<'_>) -> Result<Self, GatewayError> {
        let mut notices = Vec::new();
        let tls = RunningTls::load(&config, &mut notices).unwrap_or_else(|error| {
            notices.push(format!("{}; TLS stays as it was", GatewayError::Tls(error)));
            before.tls.clone()
        });
        let loaded = Self::load_with(config, tls, read, notices)?;
        // Who is in it stays in it.
        Ok(Self { group: before.group.clone(), ..loaded })
    }

    fn load_with(
        config: Config,
        tls: RunningTls,
        read: Read<'_>,
        mut notices: Vec<String>,
    ) -> Result<Self, GatewayError> {
        let users = users(&config)?;
        let hba = access_rules(&config, read, &mut notices)?;
        let group = group(&config, read)?;
        if group.as_ref().is_some_and(|group| group.secret.is_empty()) {
            notices.push("answers in Redis are not shared: group.secret is empty".to_owned());
        }
        Ok(Self { users, hba, tls, group, notices, config: Arc::new(config) })
    }

    /// The secret of a listed user.
    pub fn secret(&self, user: &str) -> Option<Secret> {
        self.users.get(user).cloned()
    }

    /// What this client has to bring.
    pub fn demand(&self, asking: &Asking<'_>) -> Result<Demand, Refusal> {
        Demand::of(self.config.auth_type(), &self.hba, asking)
    }
}

/// Everybody who may log in.
fn users(config: &Config) -> Result<HashMap<String, Secret>, GatewayError> {
    let mut users = HashMap::new();
    let iterations = config.auth.scram_iterations;
    if let Some(text) = &config.userlist {
        let list = Userlist::parse(text.reveal()).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            GatewayError::Userlist(lines.join("\n"))
        })?;
        let secret = |secret: &Secret| secret.clone().with_iterations(iterations);
        users.extend(list.iter().map(|(user, listed)| (user.to_owned(), secret(listed))));
    }
    if let Some(credentials) = &config.credentials {
        let of = |password: &str| {
            Secret::Plain(Password::with_iterations(password.to_owned(), iterations))
        };
        match &credentials.password {
            Some(password) => {
                users.insert(credentials.user.clone(), of(password.reveal()));
            }
            // PostgreSQL takes us for this user without one. Clients need theirs, if anybody does.
            None if config.looks_up_users() => {}
            None => {
                users.entry(credentials.user.clone()).or_insert_with(|| of(""));
            }
        }
    }
    Ok(users)
}

/// The rules of `auth_hba_file`, if they count.
fn access_rules(
    config: &Config,
    read: Read<'_>,
    notices: &mut Vec<String>,
) -> Result<Hba, GatewayError> {
    let Some(path) = &config.auth.auth_hba_file else { return Ok(Hba::default()) };
    if config.auth_type() != AuthType::Hba {
        return Ok(Hba::default());
    }
    let text = |path: &Path| {
        read(path).map_err(|error| GatewayError::Access(format!("{}: {error}", path.display())))
    };
    let wrong = |path: &Path, errors: &[&dyn std::fmt::Display]| {
        let line = |error: &&dyn std::fmt::Display| format!("{}: {error}", path.display());
        GatewayError::Access(errors.iter().map(line).collect::<Vec<_>>().join("\n"))
    };
    let maps = match &config.auth.auth_ident_file {
        None => IdentMaps::default(),
        Some(path) => IdentMaps::parse(&text(path)?).map_err(|errors| {
            wrong(path, &errors.iter().map(|error| error as _).collect::<Vec<_>>())
        })?,
    };
    let hba = Hba::parse(path, &text(path)?, &maps, read).map_err(|errors| {
        wrong(path, &errors.iter().map(|error| error as _).collect::<Vec<_>>())
    })?;
    notices.extend(hba.lines_that_fit_nobody().map(|line| {
        format!("{}: line {line}: address does not match mask, nobody fits", path.display())
    }));
    Ok(hba)
}

impl RunningTls {
    fn load(config: &Config, notices: &mut Vec<String>) -> Result<Self, TlsConfigError> {
        let is_required = matches!(
            config.tls.client_tls_sslmode,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull
        );
        let (client, server) = (client_tls(config, notices)?, server_tls(config, notices)?);
        Ok(Self { client, is_required, server })
    }
}

fn offer(side: &str, wanted: Wanted<'_>, notices: &mut Vec<String>) -> Result<Offer, OfferError> {
    let offer = Offer::of(wanted)?;
    let notice = |word: &String| format!("{side}: {word} is not supported, and left out");
    notices.extend(offer.unsupported.iter().map(notice));
    Ok(offer)
}

fn client_tls(
    config: &Config,
    notices: &mut Vec<String>,
) -> Result<Option<TlsServerConfig>, TlsConfigError> {
    let tls = &config.tls;
    let ca = tls.client_tls_ca_file.as_deref();
    let clients = match (tls.client_tls_sslmode, ca) {
        (SslMode::Disable, _) => return Ok(None),
        (SslMode::VerifyCa | SslMode::VerifyFull, None) => {
            return Err(TlsConfigError::NoClientAuthorities);
        }
        (SslMode::VerifyCa | SslMode::VerifyFull, Some(ca)) => ClientCertificates::Required(ca),
        (SslMode::Allow | SslMode::Prefer | SslMode::Require, Some(ca)) => {
            ClientCertificates::Asked(ca)
        }
        (SslMode::Allow | SslMode::Prefer | SslMode::Require, None) => ClientCertificates::NotAsked,
    };
    let (Some(cert), Some(key)) = (&tls.client_tls_cert_file, &tls.client_tls_key_file) else {
        return Err(TlsConfigError::NoIdentity);
    };
    let wanted = Wanted {
        protocols: &tls.client_tls_protocols,
        ciphers: &tls.client_tls_ciphers,
        tls13_ciphers: &tls.client_tls13_ciphers,
    };
    let offer = offer("client_tls", wanted, notices).map_err(TlsConfigError::Offer)?;
    TlsServerConfig::load(cert, key, clients, &offer).map(Some)
}

fn server_tls(
    config: &Config,
    notices: &mut Vec<String>,
) -> Result<TlsClientConfig, TlsConfigError> {
    use crate::net::SslMode as Mode;
    let tls = &config.tls;
    let mode = match tls.server_tls_sslmode {
        SslMode::Disable => return Ok(TlsClientConfig::disabled()),
        SslMode::Allow => Mode::Allow,
        SslMode::Prefer => Mode::Prefer,
        SslMode::Require => Mode::Require,
        SslMode::VerifyCa => Mode::VerifyCa,
        SslMode::VerifyFull => Mode::VerifyFull,
    };
    let wanted = Wanted {
        protocols: &tls.server_tls_protocols,
        ciphers: &tls.server_tls_ciphers,
        tls13_ciphers: &tls.server_tls13_ciphers,
    };
    let offer = match (offer("server_tls", wanted, notices), mode) {
        (Ok(offer), _) => offer,
        (Err(error @ OfferError::NoProtocol), Mode::Allow | Mode::Prefer) => {
            notices.push(format!("server_tls_protocols: {error}; no TLS with servers"));
            return Ok(TlsClientConfig::disabled());
        }
        (Err(error), _) => return Err(TlsConfigError::Offer(error)),
    };
    let identity: Option<(&Path, &Path)> =
        tls.server_tls_cert_file.as_deref().zip(tls.server_tls_key_file.as_deref());
    TlsClientConfig::load(mode, tls.server_tls_ca_file.as_deref(), identity, &offer)
}

/// Settings of the group, if one is named.
fn group(
    config: &Config,
    read: Read<'_>,
) -> Result<Option<Arc<group::settings::Settings>>, GatewayError> {
    let (group, redis) = (&config.group, &config.redis);
    if group.name.is_empty() {
        return Ok(None);
    }
    let authorities = redis.tls_ca_file.as_ref().map(|path| {
        read(path).map(String::into_bytes).map_err(|cause| {
            let (path, cause) = (path.clone(), cause.to_string());
            GatewayError::Tls(TlsConfigError::File { path, cause })
        })
    });
    Ok(Some(Arc::new(group::settings::Settings {
        name: group.name.clone(),
        lease: group.lease,
        timeout: group.timeout,
        read_timeout: redis.timeout,
        local: group.mode == GroupMode::StrictLocal,
        link: group::link::Settings {
            url: redis.url.reveal().to_owned(),
            authorities: authorities.transpose()?,
            timeout: GROUP_CONNECT_TIMEOUT,
        },
        secret: group.secret.clone(),
        found: Found::default(),
    })))
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
