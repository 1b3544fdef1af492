//! Sockets that listen: TCP, and PostgreSQL's Unix sockets, `.s.PGSQL.<port>` in a directory.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use super::Stream;

/// A socket that accepts clients.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, path: PathBuf },
}

/// `*` is every address: both families where the system has them.
pub async fn listen_tcp(host: &str, port: u16) -> io::Result<Listener> {
    if host != "*" {
        return TcpListener::bind((host, port)).await.map(Listener::Tcp);
    }
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(Listener::Tcp(listener)),
        Err(_no_such_family) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.map(Listener::Tcp)
        }
    }
}

/// A socket that a dead process left behind is replaced, one that answers is in use. A directory
/// that begins with `@` names a socket without a file. `mode` as `chmod` takes it.
pub fn listen_unix(directory: &Path, port: u16, mode: u32) -> io::Result<Listener> {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    let listener = match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => {
            let address = unix::SocketAddr::from_abstract_name(name.as_bytes())?;
            unix::UnixListener::bind_addr(&address)?
        }
        None => {
            if path.exists() {
                if unix::UnixStream::connect(&path).is_ok() {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                std::fs::remove_file(&path)?;
            }
            let listener = unix::UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
            listener
        }
    };
    listener.set_nonblocking(true)?;
    Ok(Listener::Unix { listener: UnixListener::from_std(listener)?, path })
}

impl Listener {
    /// Cancel-safe: a connection is accepted whole or not at all.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix { listener, .. } => {
                listener.accept().await.map(|(stream, _)| Stream::Unix(stream))
            }
        }
    }

    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix { .. })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(error) => error.fmt(f),
            },
            Self::Unix { path, .. } => path.display().fmt(f),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self {
            // Somebody may have removed it, and a socket without a file never had one.
            let _gone = std::fs::remove_file(path);
        }
    }
}

/// The user id this process runs as: who owns its entry in `/proc`.
pub fn own_uid() -> Option<u32> {
    std::fs::metadata("/proc/self").ok().map(|process| process.uid())
}

/// The name of a user id, from the system's file of users; other directories are not asked.
pub fn user_name(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_user_is_root() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(u32::MAX - 7), None);
    }
}
