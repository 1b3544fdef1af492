//! Sockets: one `Stream` over TCP, Unix sockets and TLS, with the same few calls for all.
//!
//! Plain sockets cost one system call a read or write, and none that readiness rules out. Nothing
//! here times out, retries or decides: callers do.

mod verify;
pub mod ciphers;
pub mod tls;
mod tune;
pub mod connect;
pub mod listen;

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;
use tokio_rustls::rustls::ProtocolVersion;

pub use ciphers::{Offer, OfferError, Wanted};
pub use connect::{
    AcceptError, Address, ConnectError, accept_direct_tls, accept_tls, connect, connect_beside,
};
pub use tls::{ClientCertificates, SslMode, TlsClientConfig, TlsConfigError, TlsServerConfig};
pub use tune::{SocketOptions, set_socket_options};

/// What a buffer that has been written out keeps for the next time: as much as is read at once.
const KEPT_BYTES: usize = 128 * 1024;

/// A connection to a client or a server.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed: a TLS session is a kilobyte, and most connections have none.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Who is at the other end, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl Peer {
    /// An IPv4 address that came through an IPv6 socket is one all the same.
    fn of(address: SocketAddr) -> Self {
        Self::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl Stream {
    /// Reads once into the spare capacity of `buf` and no further; how much to reserve is the
    /// caller's to say, and asking with none left is an error of kind `InvalidInput`. 0 bytes
    /// mean that the peer has closed.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_read_spare(stream, cx, buf),
            Self::Unix(stream) => poll_read_spare(stream, cx, buf),
            Self::Tls(stream) => poll_read_spare(&mut **stream, cx, buf).map(close_is_end),
        }
    }

    /// Ready when a read would make progress: bytes, end or error. A plain socket needs no buffer
    /// to wait, and may be wrong once (the read is then pending); TLS decrypts into its own.
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => {
                let filled = ready!(Pin::new(&mut **stream).poll_fill_buf(cx));
                Poll::Ready(close_is_end(filled.map(<[u8]>::len)).map(|_len| ()))
            }
        }
    }

    /// Ready when a write would make progress.
    pub fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
            Self::Tls(stream) => stream.get_ref().0.poll_write_ready(cx),
        }
    }

    /// Writes once; may take less than all. TLS may hold on to what it took until `poll_flush`.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writer().poll_write(cx, bytes)
    }

    /// Like `poll_write`, of many pieces in one system call.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writer().poll_write_vectored(cx, pieces)
    }

    /// Whether `poll_write_out` of these may do anything. TLS may hold what it took before.
    #[inline]
    pub fn may_have_to_write(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty() || self.is_tls()
    }

    /// Writes what `bytes` holds from `written` on, as much as goes now, and gives how much that
    /// was; pending if it was nothing. Empties the buffer when all of it is gone. While a caller
    /// waits it must come back whenever it is woken, also with an empty buffer: TLS may still
    /// hold what it took.
    pub fn poll_write_out(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Vec<u8>,
        written: &mut usize,
    ) -> Poll<io::Result<usize>> {
        let end = bytes.len();
        self.poll_write_part(cx, bytes, written, end)
    }

    /// The same, of what lies before `end`.
    pub fn poll_write_part(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Vec<u8>,
        written: &mut usize,
        end: usize,
    ) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while let Some(rest) = bytes.get(*written..end).filter(|rest| !rest.is_empty()) {
            match self.poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    *written += count;
                    taken += count;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if taken > 0 => return Poll::Ready(Ok(taken)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if taken > 0 && *written == bytes.len() {
            bytes.clear();
            bytes.shrink_to(KEPT_BYTES);
            *written = 0;
        }
        if self.is_tls()
            && let Poll::Ready(Err(error)) = self.poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    /// Hands to the kernel what TLS has taken; nothing to do on a plain socket.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer().poll_flush(cx)
    }

    /// Says to the peer that nothing more comes, after flushing.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer().poll_shutdown(cx)
    }

    /// See `poll_read_ready`. Cancel-safe.
    pub async fn wait_readable(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_read_ready(cx)).await
    }

    /// See `poll_read`. Cancel-safe: a read that was dropped has taken nothing.
    pub async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Writes everything and flushes. Not cancel-safe: a dropped write leaves an unknown part
    /// sent, so the connection can only be closed after it.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = poll_fn(|cx| self.poll_write(cx, rest)).await?;
            rest = rest.get(count..).filter(|_| count > 0).ok_or(io::ErrorKind::WriteZero)?;
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Gives a TCP socket the options that all have; a Unix socket needs none.
    pub fn tune(&self) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |stream| tune::tune(&SockRef::from(stream)))
    }

    /// Takes a `tcp_socket_buffer` back: with a small one, much data takes seconds.
    pub fn widen(&self) -> io::Result<()> {
        self.tcp().map_or(Ok(()), tune::widen)
    }

    /// The number of its descriptor, for people.
    pub fn fd(&self) -> i32 {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
            Self::Tls(stream) => stream.get_ref().0.as_raw_fd(),
        }
    }

    /// Asks the kernel each time, so callers keep the answer.
    pub fn peer(&self) -> io::Result<Peer> {
        self.tcp().map_or(Ok(Peer::Unix), |tcp| tcp.peer_addr().map(Peer::of))
    }

    /// Our own end; as `peer`.
    pub fn local(&self) -> io::Result<Peer> {
        self.tcp().map_or(Ok(Peer::Unix), |tcp| tcp.local_addr().map(Peer::of))
    }

    /// The user id of the process at the other end of a Unix socket.
    pub fn peer_uid(&self) -> io::Result<Option<u32>> {
        match self {
            Self::Unix(stream) => Ok(Some(stream.peer_cred()?.uid())),
            Self::Tcp(_) | Self::Tls(_) => Ok(None),
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Protocol and cipher suite as OpenSSL names them: `TLSv1.3/TLS_AES_256_GCM_SHA384`, before
    /// TLS 1.3 the curve as well.
    pub fn tls_description(&self) -> Option<String> {
        let Self::Tls(stream) = self else { return None };
        let (_socket, session) = stream.get_ref();
        let version = session.protocol_version()?;
        let suite = ciphers::openssl_name(session.negotiated_cipher_suite()?.suite())?;
        let group = session
            .negotiated_key_exchange_group()
            .filter(|_| version != ProtocolVersion::TLSv1_3)
            .and_then(|group| ciphers::openssl_group(group.name()))
            .map_or_else(String::new, |group| format!("/ECDH={group}"));
        Some(format!("{}/{suite}{group}", ciphers::openssl_version(version)))
    }

    /// The certificate that the other end has shown, in DER.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let Self::Tls(stream) = self else { return None };
        stream.get_ref().1.peer_certificates()?.first().map(AsRef::as_ref)
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Unix(_) => None,
        }
    }

    fn writer(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self {
            Self::Tcp(stream) => Pin::new(stream),
            Self::Unix(stream) => Pin::new(stream),
            Self::Tls(stream) => Pin::new(&mut **stream),
        }
    }
}

/// One read into the spare capacity. Of the ways to read into memory that is not yet written,
/// `read_buf` is the one without `unsafe`; it clears readiness after a short read, which saves
/// the system call that would only say so.
fn poll_read_spare<R: AsyncRead + Unpin>(
    reader: &mut R,
    cx: &mut Context<'_>,
    buf: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let spare = buf.capacity() - buf.len();
    if spare == 0 {
        // `read_buf` would return 0, which means the end.
        return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
    }
    // Without the limit a full buffer would be made longer.
    let mut spare = buf.limit(spare);
    pin!(reader.read_buf(&mut spare)).poll(cx)
}

/// A peer that closes without TLS's own farewell has closed all the same. Nothing can be cut off
/// unseen by that: PostgreSQL's messages carry their lengths.
fn close_is_end(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        Ok(_) | Err(_) => result,
    }
}

#[cfg(test)]
mod tests;
