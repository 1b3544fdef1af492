//! TLS settings, read from files once: what we show to clients, and what we ask of servers.
//!
//! PostgreSQL's `sslmode` decides what is verified. libpq never resumes sessions, so neither side
//! keeps any.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::ciphers::{Offer, OfferError};
use super::verify::{Authorities, Check, Verifier};

/// The application protocol, which PostgreSQL 17 and its clients name in the handshake. A client
/// that names only others is refused: it did not mean to talk to a database.
pub(super) const ALPN: &[u8] = b"postgresql";

/// PostgreSQL's words for how much TLS is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    /// In the clear, unless the server then refuses the log-in.
    Allow,
    /// TLS if the server has it, unverified: it could as well say that it has none.
    Prefer,
    /// TLS; verified as by `VerifyCa` if there is a CA file, else not at all.
    Require,
    /// TLS with a certificate of a trusted authority, whatever its name.
    VerifyCa,
    /// TLS with a certificate of a trusted authority for this very host.
    VerifyFull,
}

impl FromStr for SslMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "disable" => Ok(Self::Disable),
            "allow" => Ok(Self::Allow),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            _ => Err(()),
        }
    }
}

/// Why the files do not make a configuration.
#[derive(Debug)]
pub enum TlsConfigError {
    /// The file cannot be read, or is not PEM.
    File {
        path: PathBuf,
        cause: String,
    },
    /// The file holds no certificate.
    NoCertificate {
        path: PathBuf,
    },
    /// A certificate in the file cannot serve as an authority.
    Authority {
        path: PathBuf,
        cause: rustls::Error,
    },
    /// The operating system has no trusted authorities, and no CA file is set.
    NoSystemAuthorities {
        cause: String,
    },
    /// Key and certificate do not fit each other, or not this library.
    Identity {
        path: PathBuf,
        cause: rustls::Error,
    },
    /// The library refuses the whole.
    Configuration {
        cause: String,
    },
    /// Certificate and key are needed, and one of them is not set.
    NoIdentity,
    /// Clients have to show certificates, and who may sign them is not set.
    NoClientAuthorities,
    Offer(OfferError),
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, cause } => write!(f, "{}: {cause}", path.display()),
            Self::NoCertificate { path } => write!(f, "{}: no certificate", path.display()),
            Self::Authority { path, cause } => {
                write!(f, "{}: not usable as an authority: {cause}", path.display())
            }
            Self::NoSystemAuthorities { cause } => {
                write!(f, "no trusted authorities on this system, set a CA file: {cause}")
            }
            Self::Identity { path, cause } => {
                write!(f, "{}: certificate and key are not usable: {cause}", path.display())
            }
            Self::Configuration { cause } => write!(f, "TLS configuration: {cause}"),
            Self::NoIdentity => f.write_str(
                "client_tls_cert_file and client_tls_key_file are needed for TLS with clients",
            ),
            Self::NoClientAuthorities => f.write_str("client_tls_sslmode needs client_tls_ca_file"),
            Self::Offer(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TlsConfigError {}

/// Whether clients show certificates, and whose are believed.
#[derive(Clone, Copy, Debug)]
pub enum ClientCertificates<'a> {
    NotAsked,
    /// Who shows one must show one that the file vouches for.
    Asked(&'a Path),
    Required(&'a Path),
}

/// What clients are shown. Cheap to clone; a reload makes a new one for connections to come.
#[derive(Clone)]
pub struct TlsServerConfig(Arc<ServerConfig>);

impl TlsServerConfig {
    /// Reads certificate chain and key, and the authorities of clients.
    pub fn load(
        cert_file: &Path,
        key_file: &Path,
        clients: ClientCertificates<'_>,
        offer: &Offer,
    ) -> Result<Self, TlsConfigError> {
        let provider = provider(offer);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&offer.versions)
            .map_err(configuration)?;
        let verifier = |path| {
            let roots = Arc::new(Authorities::of_file(path)?.roots);
            Ok(WebPkiClientVerifier::builder_with_provider(roots, provider))
        };
        let builder = match clients {
            ClientCertificates::NotAsked => builder.with_no_client_auth(),
            ClientCertificates::Asked(path) => builder.with_client_cert_verifier(
                verifier(path)?.allow_unauthenticated().build().map_err(configuration)?,
            ),
            ClientCertificates::Required(path) => {
                builder.with_client_cert_verifier(verifier(path)?.build().map_err(configuration)?)
            }
        };
        let identity = SingleCertAndKey::from(identity(cert_file, key_file, offer)?);
        let mut config = builder.with_cert_resolver(Arc::new(identity));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0))
    }
}

/// What is asked of servers. Cheap to clone.
#[derive(Clone)]
pub struct TlsClientConfig {
    mode: SslMode,
    /// `None` if and only if `mode` is `Disable`.
    config: Option<Arc<ClientConfig>>,
    /// Of all that it was made from, files' contents included.
    digest: [u8; 32],
}

impl TlsClientConfig {
    /// No TLS at all.
    pub fn disabled() -> Self {
        Self { mode: SslMode::Disable, config: None, digest: [0; 32] }
    }

    /// Whether a server that was connected by one of them is as one connected by the other.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// The same, trying without TLS where that may do; `Allow` alone has two ways.
    #[must_use]
    pub fn first_try(&self) -> Self {
        if self.mode == SslMode::Allow { Self::disabled() } else { self.clone() }
    }

    /// Reads what `mode` needs: the authorities in `ca_file`, or those of the operating system
    /// where the mode verifies and no file is given; our own certificate and key, if any.
    pub fn load(
        mode: SslMode,
        ca_file: Option<&Path>,
        identity_files: Option<(&Path, &Path)>,
        offer: &Offer,
    ) -> Result<Self, TlsConfigError> {
        let check = match (mode, ca_file) {
            (SslMode::Disable, _) => return Ok(Self::disabled()),
            (SslMode::Allow | SslMode::Prefer, _) | (SslMode::Require, None) => Check::Nothing,
            (SslMode::Require, Some(path)) => Check::Authority(Authorities::of_file(path)?),
            (SslMode::VerifyCa, path) => Check::Authority(Authorities::of(path)?),
            (SslMode::VerifyFull, path) => Check::AuthorityAndName(Authorities::of(path)?),
        };
        let provider = provider(offer);
        let verifier = Verifier { check, algorithms: provider.signature_verification_algorithms };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&offer.versions)
            .map_err(configuration)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity_files {
            None => builder.with_no_client_auth(),
            Some((cert_file, key_file)) => {
                let identity = SingleCertAndKey::from(identity(cert_file, key_file, offer)?);
                builder.with_client_cert_resolver(Arc::new(identity))
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        let files =
            ca_file.into_iter().chain(identity_files.map(<[&Path; 2]>::from).into_iter().flatten());
        let digest = digest(mode, offer, files)?;
        Ok(Self { mode, config: Some(Arc::new(config)), digest })
    }

    pub fn mode(&self) -> SslMode {
        self.mode
    }

    pub(super) fn connector(&self) -> Option<TlsConnector> {
        self.config.as_ref().map(|config| TlsConnector::from(Arc::clone(config)))
    }
}

fn provider(offer: &Offer) -> Arc<CryptoProvider> {
    let cipher_suites = offer.suites.clone();
    Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

fn digest<'a>(
    mode: SslMode,
    offer: &Offer,
    files: impl Iterator<Item = &'a Path>,
) -> Result<[u8; 32], TlsConfigError> {
    let mut hash = Sha256::new();
    // Texts that differ where the meaning does.
    hash.update(format!("{mode:?} {:?} {:?}", offer.versions, offer.suites));
    for path in files {
        let contents = std::fs::read(path).map_err(|cause| TlsConfigError::File {
            path: path.to_owned(),
            cause: cause.to_string(),
        })?;
        hash.update(format!(" {} ", contents.len()));
        hash.update(contents);
    }
    Ok(hash.finalize().into())
}

fn configuration(cause: impl fmt::Display) -> TlsConfigError {
    TlsConfigError::Configuration { cause: cause.to_string() }
}

/// Built here since the library's own way refuses certificates of X.509 version 1, which people
/// have and which do no harm: whoever is shown one decides what it is worth.
fn identity(
    cert_file: &Path,
    key_file: &Path,
    offer: &Offer,
) -> Result<CertifiedKey, TlsConfigError> {
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|cause| TlsConfigError::File {
        path: key_file.to_owned(),
        cause: cause.to_string(),
    })?;
    let chain = certificates(cert_file)?;
    let unusable = |cause| TlsConfigError::Identity { path: cert_file.to_owned(), cause };
    let key = provider(offer).key_provider.load_private_key(key).map_err(unusable)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Err(cause @ rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(unusable(cause))
        }
        Ok(()) | Err(_) => Ok(certified),
    }
}

/// Every certificate in a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|cause| TlsConfigError::File { path: path.into(), cause: cause.to_string() })?;
    if certificates.is_empty() {
        return Err(TlsConfigError::NoCertificate { path: path.into() });
    }
    Ok(certificates)
}

/// How authorities are read; what they decide is in `verify`.
impl Authorities {
    fn of(ca_file: Option<&Path>) -> Result<Self, TlsConfigError> {
        ca_file.map_or_else(Self::of_system, Self::of_file)
    }

    fn of_file(path: &Path) -> Result<Self, TlsConfigError> {
        let listed = certificates(path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &listed {
            roots
                .add(certificate.clone())
                .map_err(|cause| TlsConfigError::Authority { path: path.into(), cause })?;
        }
        Ok(Self { roots, listed })
    }

    /// Certificates that cannot be read are left out: systems carry odd ones.
    fn of_system() -> Result<Self, TlsConfigError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let causes: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            return Err(TlsConfigError::NoSystemAuthorities { cause: causes.join("; ") });
        }
        Ok(Self { roots, listed: Vec::new() })
    }
}
