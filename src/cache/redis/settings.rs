//! What the operator says of the second tier, and what is wrong with it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use redis::{Client, ConnectionAddr, ConnectionInfo, TlsCertificates};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::cache::group;
use crate::cache::group::address::Address;

/// The `[redis]` section, and what it needs from elsewhere.
pub struct Settings {
    pub url: String,
    /// Authorities in PEM; the system's are trusted otherwise.
    pub authorities: Option<Vec<u8>>,
    pub prefix: String,
    pub timeout: Duration,
    pub breaker_failures: u32,
    pub breaker_reset: Duration,
    pub compress_from: usize,
    pub entry_bytes_max: usize,
    pub max_age: Duration,
    /// Random, of this process alone.
    pub secret: [u8; 32],
    /// That this process is part of.
    pub group: Option<Arc<group::settings::Settings>>,
}

/// How it is reached.
pub(super) enum Way {
    Given(Box<Client>),
    /// Where the group finds it.
    Found(Arc<group::settings::Settings>),
}

/// A setting that the client library does not take.
#[derive(Debug)]
pub enum SettingsError {
    Url(String),
    Authorities(String),
}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(text) => write!(f, "redis.url: {text}"),
            Self::Authorities(text) => write!(f, "redis.tls_ca_file: {text}"),
        }
    }
}

impl Settings {
    /// Whether there is a way to it. Nobody is asked.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.way().map(|_way| ())
    }

    /// And what keeps others from reading on the way there, and is missing.
    pub(super) fn way(&self) -> Result<(Way, Option<&'static str>), SettingsError> {
        let Some(group) = &self.group else {
            let client = self.client(&self.url)?;
            let missing = exposure(client.get_connection_info());
            return Ok((Way::Given(Box::new(client)), missing));
        };
        let address = Address::parse(&self.url);
        let urls = match address.map_err(|error| SettingsError::Url(error.to_string()))? {
            Address::One { url } => vec![url],
            Address::Sentinels { urls, .. } => urls,
        };
        let mut missing = None;
        for url in &urls {
            missing = missing.or(exposure(self.client(url)?.get_connection_info()));
        }
        Ok((Way::Found(Arc::clone(group)), missing))
    }

    fn client(&self, url: &str) -> Result<Client, SettingsError> {
        let unread = |error: redis::RedisError| SettingsError::Url(error.to_string());
        let client = Client::open(url).map_err(unread)?;
        let Some(pem) = &self.authorities else { return Ok(client) };
        if CertificateDer::pem_slice_iter(pem).next().is_none() {
            return Err(SettingsError::Authorities("no certificate".to_owned()));
        }
        let tls = TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
        Client::build_with_tls(url, tls)
            .map_err(|error| SettingsError::Authorities(error.to_string()))
    }
}

/// Values are enciphered, and names tell nothing (hazard J4). Whoever may speak to Redis, or is on
/// the way there, still deletes them, holds them up and sees how long they are; in a group it reads
/// what K says of commits, and may write it.
fn exposure(info: &ConnectionInfo) -> Option<&'static str> {
    let (host, tls) = match info.addr() {
        ConnectionAddr::Tcp(host, _) => (host.as_str(), false),
        ConnectionAddr::TcpTls { host, insecure, .. } => (host.as_str(), !insecure),
        ConnectionAddr::Unix(_) => return None,
        // Not known to us.
        _ => ("", false),
    };
    let here = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let password = info.redis_settings().password().is_some_and(|password| !password.is_empty());
    match (tls, password) {
        _ if here => None,
        (true, true) => None,
        (true, false) => Some("no password"),
        (false, true) => Some("no verified TLS"),
        (false, false) => Some("no verified TLS and no password"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_elsewhere_wants_a_password_and_tls() {
        let check = |url: &str, expected: Option<&str>| {
            assert_eq!(
                exposure(Client::open(url).unwrap().get_connection_info()),
                expected,
                "{url}"
            );
        };
        check("redis://10.0.0.1", Some("no verified TLS and no password"));
        check("redis://cache.example:6380/1", Some("no verified TLS and no password"));
        check("redis://127.0.0.1.example", Some("no verified TLS and no password"));
        check("redis://bob:@cache.example", Some("no verified TLS and no password"));
        check("redis://:secret@10.0.0.1", Some("no verified TLS"));
        check("rediss://:secret@10.0.0.1/#insecure", Some("no verified TLS"));
        check("rediss://10.0.0.1", Some("no password"));
        check("rediss://:secret@10.0.0.1", None);
        check("redis://127.0.0.1", None);
        check("redis://127.8.0.1", None);
        check("redis://[::1]:6379", None);
        check("redis://localhost", None);
        check("unix:///run/redis.sock", None);
    }

    #[test]
    fn settings_that_the_library_does_not_take_are_named() {
        let check = |url: &str, authorities: Option<&str>, expected: &str| {
            let settings = Settings {
                url: url.to_owned(),
                authorities: authorities.map(|pem| pem.as_bytes().to_vec()),
                prefix: String::new(),
                timeout: Duration::ZERO,
                breaker_failures: 1,
                breaker_reset: Duration::ZERO,
                compress_from: 0,
                entry_bytes_max: 0,
                max_age: Duration::ZERO,
                secret: [0; 32],
                group: None,
            };
            let error = settings.way().err().unwrap().to_string();
            assert!(error.starts_with(expected), "{error}");
        };
        let pem = include_str!("../../../tests/suite/support/tls/ca.pem");
        check("redis://:p@host:port/", None, "redis.url: ");
        check("rediss://host", Some("junk"), "redis.tls_ca_file: no certificate");
        check("redis://host", Some(pem), "redis.tls_ca_file: Constructing a TLS client requires");
    }
}
