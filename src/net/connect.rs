//! How connections begin: ours to PostgreSQL, with its question for TLS, and the TLS part of a
//! client's to us.
//!
//! Invariant: no byte that arrived in the clear is ever taken for one that arrived under TLS.
//! Whoever sits on the wire could put it there (CVE-2021-23222 and its kin).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsStream;
use tokio_rustls::rustls::{self, pki_types::ServerName};

use super::tls::{ALPN, SslMode, TlsClientConfig, TlsServerConfig};
use super::{Peer, Stream};

/// `SSLRequest`: its length, and the number that stands where a version would.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// First byte of a TLS handshake; no startup packet begins with it, being 300 MB long then.
const TLS_HANDSHAKE: u8 = 0x16;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix { path: PathBuf },
}

impl Address {
    /// As libpq reads a host: `/…` is a directory of Unix sockets, `@…` one in the abstract
    /// namespace, anything else a name or an IP address.
    pub fn new(host: &str, port: u16) -> Self {
        let socket = |directory: &str| PathBuf::from(format!("{directory}/.s.PGSQL.{port}"));
        match host.strip_prefix('@') {
            Some(name) => Self::Unix { path: socket(&format!("\0{name}")) },
            None if host.starts_with('/') => Self::Unix { path: socket(host) },
            None => Self::Tcp { host: host.to_owned(), port },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => path.display().fmt(f),
        }
    }
}

/// Why there is no connection to a server.
#[derive(Debug)]
pub enum ConnectError {
    /// The name does not resolve.
    Lookup(io::Error),
    /// Nothing listens, or the connection broke.
    Io(io::Error),
    /// The server has no TLS, and `sslmode` wants it.
    TlsRefused,
    /// The server closed the connection instead of answering `SSLRequest`.
    Closed,
    /// The answer to `SSLRequest` is neither `S` nor `N`: not PostgreSQL, or an error message,
    /// which nothing vouches for and which is therefore not read.
    UnexpectedAnswer(u8),
    /// Bytes came along with the answer to `SSLRequest`; somebody else may have sent them.
    BytesBeforeTls,
    /// The host cannot be the name in a certificate.
    ServerName(String),
    /// The handshake failed; the cause names what was wrong with the certificate.
    Handshake(io::Error),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup(error) | Self::Io(error) => error.fmt(f),
            Self::TlsRefused => f.write_str("server does not support TLS, but sslmode demands it"),
            Self::Closed => f.write_str("server closed the connection when asked for TLS"),
            Self::UnexpectedAnswer(byte) => {
                write!(f, "server answered SSLRequest with byte {byte:#04x}")
            }
            Self::BytesBeforeTls => f.write_str("unencrypted bytes after the answer to SSLRequest"),
            Self::ServerName(host) => write!(f, "{host:?} cannot be the name of a TLS server"),
            Self::Handshake(error) => {
                let verify =
                    if is_about_certificate(error) { "certificate verify failed: " } else { "" };
                write!(f, "TLS handshake with server failed: {verify}{error}")
            }
        }
    }
}

impl std::error::Error for ConnectError {}

/// In OpenSSL's words, which people look for.
fn is_about_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Connects, with TLS as `tls` says; on Unix sockets there is none, as everywhere in PostgreSQL.
/// `turn`: which address is tried first of a name that has several.
///
/// Cancel-safe: dropping the future closes the connection.
pub async fn connect(
    address: &Address,
    turn: usize,
    tls: &TlsClientConfig,
) -> Result<Stream, ConnectError> {
    match address {
        Address::Unix { path } => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        Address::Tcp { host, port } => {
            let found = lookup_host((host.as_str(), *port)).await.map_err(ConnectError::Lookup)?;
            let stream = connect_first(from(turn, found.collect())).await?;
            start_tls(stream, host, tls).await
        }
    }
}

/// The same to where another connection to this address has gone.
pub async fn connect_beside(
    address: &Address,
    peer: Peer,
    tls: &TlsClientConfig,
) -> Result<Stream, ConnectError> {
    match (address, peer) {
        (Address::Tcp { host, .. }, Peer::Tcp(peer)) => {
            start_tls(connect_at(peer).await?, host, tls).await
        }
        (Address::Unix { .. }, _) | (Address::Tcp { .. }, Peer::Unix) => {
            connect(address, 0, tls).await
        }
    }
}

/// In their order, from the one whose turn it is.
fn from(turn: usize, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = turn.checked_rem(addresses.len()).unwrap_or_default();
    addresses.rotate_left(first);
    addresses
}

/// To the first that answers.
async fn connect_first(addresses: Vec<SocketAddr>) -> Result<TcpStream, ConnectError> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match connect_at(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(ConnectError::Io(last))
}

async fn connect_at(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Before it connects: what it may take at once is told with its first packet.
    super::tune::tune(&SockRef::from(&socket))?;
    socket.connect(address).await
}

async fn start_tls(
    mut stream: TcpStream,
    host: &str,
    tls: &TlsClientConfig,
) -> Result<Stream, ConnectError> {
    let Some(connector) = tls.connector() else {
        return Ok(Stream::Tcp(stream));
    };
    stream.write_all(&SSL_REQUEST).await?;
    // Room for one byte more than may come, so that it is seen.
    let mut answer = [0; 2];
    let count = stream.read(&mut answer).await?;
    match (count, answer) {
        (0, _) => Err(ConnectError::Closed),
        (1, [b'S', _]) => {
            let name = server_name(host, tls.mode(), &stream)?;
            // Boxed, or every task that may come by here is a kilobyte larger for all its life.
            let handshake = Box::pin(connector.connect(name, stream));
            let session = handshake.await.map_err(ConnectError::Handshake)?;
            Ok(Stream::Tls(Box::new(TlsStream::Client(session))))
        }
        (1, [b'N', _]) => match tls.mode() {
            SslMode::Disable | SslMode::Allow | SslMode::Prefer => Ok(Stream::Tcp(stream)),
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                Err(ConnectError::TlsRefused)
            }
        },
        (1, [other, _]) => Err(ConnectError::UnexpectedAnswer(other)),
        (_, [b'S' | b'N', _]) => Err(ConnectError::BytesBeforeTls),
        (_, [other, _]) => Err(ConnectError::UnexpectedAnswer(other)),
    }
}

/// The name for the handshake. Where no name is verified, any host will do, even one that DNS
/// would not allow.
fn server_name(
    host: &str,
    mode: SslMode,
    stream: &TcpStream,
) -> Result<ServerName<'static>, ConnectError> {
    match ServerName::try_from(host.to_owned()) {
        Ok(name) => Ok(name),
        Err(_) if mode < SslMode::VerifyFull => {
            Ok(ServerName::IpAddress(stream.peer_addr()?.ip().into()))
        }
        Err(_) => Err(ConnectError::ServerName(host.to_owned())),
    }
}

/// Why a client did not get TLS.
#[derive(Debug)]
pub enum AcceptError {
    /// The client sent more before it had our answer; somebody else may have sent that.
    BytesBeforeTls,
    /// TLS was asked for on a Unix socket, or under TLS.
    NotTcp,
    /// Direct TLS without naming PostgreSQL's protocol, as PostgreSQL 17 demands.
    NoApplicationProtocol,
    /// The connection broke before the handshake.
    Io(io::Error),
    Handshake(io::Error),
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BytesBeforeTls => f.write_str("unencrypted bytes after SSLRequest"),
            Self::NotTcp => f.write_str("TLS asked for where it is not offered"),
            Self::NoApplicationProtocol => {
                f.write_str("direct TLS without the application protocol postgresql")
            }
            Self::Io(error) => error.fmt(f),
            Self::Handshake(error) => write!(f, "TLS handshake with client failed: {error}"),
        }
    }
}

impl std::error::Error for AcceptError {}

/// Answers a client's `SSLRequest` with `S` and takes the connection into TLS. `leftover` is what
/// the caller has read after that request: anything there is refused.
///
/// Cancel-safe: dropping the future closes the connection.
pub async fn accept_tls(
    stream: Stream,
    config: &TlsServerConfig,
    leftover: &[u8],
) -> Result<Stream, AcceptError> {
    if !leftover.is_empty() {
        return Err(AcceptError::BytesBeforeTls);
    }
    let Stream::Tcp(mut stream) = stream else {
        return Err(AcceptError::NotTcp);
    };
    stream.write_all(b"S").await.map_err(AcceptError::Io)?;
    handshake(stream, config).await
}

/// Takes a connection that begins with a handshake into TLS, as of PostgreSQL 17; nothing may
/// have been read from it (`begins_with_tls`).
///
/// Cancel-safe: dropping the future closes the connection.
pub async fn accept_direct_tls(
    stream: Stream,
    config: &TlsServerConfig,
) -> Result<Stream, AcceptError> {
    let Stream::Tcp(stream) = stream else {
        return Err(AcceptError::NotTcp);
    };
    match handshake(stream, config).await? {
        Stream::Tls(session) if session.get_ref().1.alpn_protocol() == Some(ALPN) => {
            Ok(Stream::Tls(session))
        }
        Stream::Tls(_) | Stream::Tcp(_) | Stream::Unix(_) => {
            Err(AcceptError::NoApplicationProtocol)
        }
    }
}

async fn handshake(stream: TcpStream, config: &TlsServerConfig) -> Result<Stream, AcceptError> {
    // Boxed as in `start_tls`.
    let handshake = Box::pin(config.acceptor().accept(stream));
    let session = handshake.await.map_err(AcceptError::Handshake)?;
    Ok(Stream::Tls(Box::new(TlsStream::Server(session))))
}

impl Stream {
    /// Waits for a client's first byte, leaves it where it is, and says whether it begins a TLS
    /// handshake. One system call more than reading, so only where TLS is on. Cancel-safe.
    pub async fn begins_with_tls(&self) -> io::Result<bool> {
        let Self::Tcp(stream) = self else {
            return Ok(false);
        };
        let mut first = [0];
        Ok(stream.peek(&mut first).await? == 1 && first == [TLS_HANDSHAKE])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_a_name_has_its_turn() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let all = vec![address(1), address(2)];
        assert_eq!(from(0, all.clone()), [address(1), address(2)]);
        assert_eq!(from(3, all), [address(2), address(1)]);
        assert_eq!(from(3, Vec::new()), []);
    }
}
