//! Options of TCP sockets, the same for clients and servers: `tcp_keepalive` and its kin.

use std::io;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Zero leaves a value to the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    pub keepalive: bool,
    pub keepalive_count: u32,
    pub keepalive_idle: Duration,
    pub keepalive_interval: Duration,
    pub user_timeout: Duration,
    pub buffer_bytes: usize,
}

/// For answers of megabytes.
const WIDE_BYTES: usize = 256 * 1024;

/// Guards what new sockets get; nothing else is locked inside. One for the process: a connection
/// to PostgreSQL is made far from whoever knows the settings.
static OPTIONS: RwLock<Option<SocketOptions>> = RwLock::new(None);

/// For sockets from now on.
pub fn set_socket_options(options: SocketOptions) {
    *OPTIONS.write().unwrap_or_else(PoisonError::into_inner) = Some(options);
}

/// Small messages are sent at once, and the rest is as set.
pub(super) fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let options = *OPTIONS.read().unwrap_or_else(PoisonError::into_inner);
    options.map_or(Ok(()), |options| apply(socket, options))
}

/// Where buffers are left to the system, it widens them by itself as far as is needed.
pub(super) fn widen(stream: &TcpStream) -> io::Result<()> {
    let options = *OPTIONS.read().unwrap_or_else(PoisonError::into_inner);
    if options.is_some_and(|options| options.buffer_bytes > 0) {
        SockRef::from(stream).set_recv_buffer_size(WIDE_BYTES)?;
    }
    Ok(())
}

fn apply(socket: &SockRef<'_>, options: SocketOptions) -> io::Result<()> {
    if options.keepalive {
        let mut keepalive = TcpKeepalive::new();
        if !options.keepalive_idle.is_zero() {
            keepalive = keepalive.with_time(options.keepalive_idle);
        }
        if !options.keepalive_interval.is_zero() {
            keepalive = keepalive.with_interval(options.keepalive_interval);
        }
        if options.keepalive_count > 0 {
            keepalive = keepalive.with_retries(options.keepalive_count);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if !options.user_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(options.user_timeout))?;
    }
    if options.buffer_bytes > 0 {
        socket.set_send_buffer_size(options.buffer_bytes)?;
        socket.set_recv_buffer_size(options.buffer_bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn options_are_those_of_the_socket_afterwards() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let options = SocketOptions {
            keepalive: true,
            keepalive_count: 3,
            keepalive_idle: Duration::from_secs(40),
            keepalive_interval: Duration::from_secs(7),
            user_timeout: Duration::from_secs(5),
            buffer_bytes: 8192,
        };
        apply(&SockRef::from(&socket), options).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(40));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(5)));
        // Linux doubles it for its own use.
        assert_eq!(socket.send_buffer_size().unwrap(), 16384);
    }

    #[test]
    fn what_is_not_set_is_left_to_the_system() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let before = socket.tcp_keepalive_time().unwrap();
        apply(&SockRef::from(&socket), SocketOptions::default()).unwrap();
        assert!(!socket.keepalive().unwrap());
        apply(&SockRef::from(&socket), SocketOptions { keepalive: true, ..Default::default() })
            .unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), before);
    }
}
