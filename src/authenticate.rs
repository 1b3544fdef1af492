//! Letting a client in: finds what is known of its user, in a file or by `auth_query`, and demands
//! what `auth_type` and the rules say. What a wrong user and a wrong proof are told is alike.

use std::net::IpAddr;

use crate::auth::demand::{check_certificate, check_peer};
use crate::auth::userlist::Password;
use crate::auth::{
    AuthError, CertificateNames, Demand, Knowledge, Method, Refusal, ScramKeys, Secret,
};
use crate::auth_query::{AskError, Found};
use crate::client::close::{CloseReason, Unproven};
use crate::config::{AuthType, Config, DatabaseEntry};
use crate::console;
use crate::gateway::Gateway;
use crate::net::listen::user_name;
use crate::net::{Peer, Stream};
use crate::pool::io::server_login_failed;
use crate::running::Running;
use crate::server::io::ServerError;
use crate::server::login::LoginError;

/// What is known of a user before it has proven anything.
pub struct Candidate {
    /// As PostgreSQL spells it, where it was asked.
    pub user: String,
    /// `None`: it is unknown.
    pub secret: Option<Secret>,
    /// No file lists it, and PostgreSQL was asked.
    looked_up: bool,
    /// Somebody's users are looked up, perhaps not this one's.
    may_be_looked_up: bool,
}

/// Finds the user. `console`: it wants no database. Cancel-safe.
pub async fn find(
    gateway: &Gateway,
    running: &Running,
    database: &str,
    console: bool,
    user: &str,
) -> Result<Candidate, CloseReason> {
    let config = &running.config;
    let mut candidate = Candidate {
        user: user.to_owned(),
        secret: running.secret(user),
        looked_up: false,
        may_be_looked_up: config.looks_up_users(),
    };
    let entry = config.database(database).filter(|_| !console);
    if config.auth_type() == AuthType::Any {
        if entry.is_some_and(|entry| entry.user.is_none()) {
            tracing::error!(%database, %user, "auth_type=any requires forced user");
            return Err(CloseReason::PoolerConfig);
        }
        let nothing = || Secret::Plain(Password::new(String::new()));
        candidate.secret.get_or_insert_with(nothing);
    }
    // Of a database that does not exist nobody is asked, or its name would decide what happens.
    if candidate.secret.is_some() || (entry.is_none() && !console) {
        return Ok(candidate);
    }
    let Some(auth_user) = auth_user(config, entry) else { return Ok(candidate) };
    let auth_database = auth_database(gateway, config, entry, database)?;
    let target = gateway.auth_target(running, auth_database, auth_user).ok_or_else(|| {
        tracing::error!("authentication database \"{auth_database}\" is not configured");
        CloseReason::PoolerConfig
    })?;
    let own = entry.and_then(|entry| entry.auth.auth_query.as_deref());
    let query = own.unwrap_or(&config.auth.auth_query);
    let timeout = config.server.server_connect_timeout;
    let asking = async {
        gateway.turn_to_look_up(auth_database, &target).await?.ask(query, user, timeout).await
    };
    match asking.await {
        Ok(Some(Found { user, secret })) => {
            candidate.user = user;
            candidate.secret = Some(secret);
        }
        Ok(None) => tracing::info!(%database, "no such user: {user}"),
        Err(error) => return Err(refused(&error, database, auth_user)),
    }
    candidate.looked_up = true;
    Ok(candidate)
}

fn auth_user<'a>(config: &'a Config, entry: Option<&'a DatabaseEntry>) -> Option<&'a str> {
    let own = entry.and_then(|entry| entry.auth.auth_user.as_deref());
    own.or(Some(config.auth.auth_user.as_str()).filter(|name| !name.is_empty()))
}

/// Where users of a database are looked up.
fn auth_database<'a>(
    gateway: &Gateway,
    config: &'a Config,
    entry: Option<&'a DatabaseEntry>,
    database: &'a str,
) -> Result<&'a str, CloseReason> {
    let own = entry.and_then(|entry| entry.auth.auth_dbname.as_deref());
    let global = Some(config.auth.auth_dbname.as_str()).filter(|name| !name.is_empty());
    let name = own.or(global).unwrap_or(database);
    if console::is_named(config, name) {
        tracing::error!("cannot use the reserved \"{name}\" database as an auth_dbname");
        return Err(CloseReason::PoolerConfig);
    }
    if gateway.pauses().is_disabled(name) {
        return Err(CloseReason::AuthDatabaseDisabled(name.to_owned()));
    }
    Ok(name)
}

fn refused(error: &AskError, database: &str, auth_user: &str) -> CloseReason {
    match error {
        AskError::Query(message) => {
            tracing::error!(%database, user = %auth_user, "error in auth_query: {message}");
            CloseReason::PoolerConfig
        }
        AskError::Server(error) => {
            tracing::warn!(%database, user = %auth_user, "{}", server_login_failed(error));
            if let ServerError::Login(LoginError::Refused { sqlstate, message }) = error {
                CloseReason::ServerLogin { sqlstate: sqlstate.clone(), message: message.clone() }
            } else {
                CloseReason::ServerUnreachable(error.to_string())
            }
        }
    }
}

/// The address that rules are about; `None`: a Unix socket. Who is gone has none, and is not taken
/// for a neighbour.
pub fn address(stream: &Stream) -> Result<Option<IpAddr>, CloseReason> {
    match stream.peer() {
        Ok(Peer::Tcp(address)) => Ok(Some(address.ip())),
        Ok(Peer::Unix) => Ok(None),
        Err(_) => Err(CloseReason::ClientLost),
    }
}

impl Candidate {
    /// The method that messages prove by; or, `None`, it needs none and has been let in.
    pub fn method(&self, demand: &Demand, stream: &Stream) -> Result<Option<Method>, CloseReason> {
        let (map, checked) = match demand {
            Demand::Proof(method) => return Ok(Some(*method)),
            Demand::Certificate(map) => {
                let names = stream.peer_certificate().and_then(CertificateNames::of);
                let (map, tls) = (map.as_deref(), stream.is_tls());
                (map, check_certificate(map, tls, names.as_ref(), &self.user))
            }
            Demand::Peer(map) => {
                let peer = stream.peer_uid().ok().flatten().and_then(user_name);
                let map = map.as_deref();
                (map, check_peer(map, peer.as_deref(), &self.user))
            }
        };
        let checked = checked.and(self.secret.as_ref().map(drop).ok_or(Refusal::UnknownUser));
        match (checked, map) {
            (Ok(()), _) => return Ok(None),
            (Err(Refusal::OtherCertificate | Refusal::OtherPeer), Some(map)) => {
                tracing::warn!(user = %self.user, "ident map: {} does not have a match", map.name);
            }
            (Err(refusal), _) => tracing::warn!(user = %self.user, "{refusal}"),
        }
        let refusal = checked.err().unwrap_or(Refusal::Rejected);
        Err(CloseReason::NotAdmitted(refusal.sentence(Some(demand))))
    }

    /// What its failed proof means.
    pub fn unproven(&self, error: AuthError) -> CloseReason {
        tracing::debug!(user = %self.user, "{error}");
        let (looked_up, may_be_looked_up) = (self.looked_up, self.may_be_looked_up);
        CloseReason::Unproven(Unproven { error, looked_up, may_be_looked_up })
    }

    /// What logs in to PostgreSQL as this user, after its proof: what a file has not told.
    pub fn knowledge(&self, keys: Option<ScramKeys>) -> Knowledge {
        // Keys of a verifier that was made here fit nowhere else.
        let fits = matches!(self.secret, Some(Secret::Scram(_)));
        let secret = self.secret.clone().filter(|_| self.looked_up);
        Knowledge { secret, keys: keys.filter(|_| fits) }
    }
}
