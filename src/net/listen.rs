//! Sockets that listen: TCP, and PostgreSQL's Unix sockets, `.s.PGSQL.<port>` in a directory.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, lookup_host};

use super::Stream;

/// A socket that accepts clients.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, path: PathBuf },
}

/// How a socket listens.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Connections that wait to be accepted, at most.
    pub backlog: u32,
    /// Other processes may listen on the same address; the system shares connections out.
    pub reuse_port: bool,
}

/// `*` is every address: both families where the system has them. At a name, all of its addresses
/// that this system has, but for those `taken` before; with port 0 each has one of its own.
pub async fn listen_tcp(
    host: &str,
    port: u16,
    options: ListenOptions,
    taken: &mut BTreeSet<SocketAddr>,
) -> io::Result<Vec<Listener>> {
    if host == "*" {
        let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
        let listener = listen_at(any, options)
            .or_else(|_no_such_family| listen_at((Ipv4Addr::UNSPECIFIED, port).into(), options));
        return listener.map(|listener| vec![listener]);
    }
    // A name may have the same address several times.
    let addresses: BTreeSet<SocketAddr> = lookup_host((host, port)).await?.collect();
    let mut listening = Vec::new();
    let mut missing = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut are_taken = false;
    for address in addresses {
        if port != 0 && !taken.insert(address) {
            are_taken = true;
            continue;
        }
        match listen_at(address, options) {
            Ok(listener) => listening.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => missing = error,
        }
    }
    if listening.is_empty() && !are_taken { Err(missing) } else { Ok(listening) }
}

fn listen_at(address: SocketAddr, options: ListenOptions) -> io::Result<Listener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.set_reuseaddr(true)?;
    if options.reuse_port {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(options.backlog).map(Listener::Tcp)
}

/// Who may connect to a Unix socket.
#[derive(Clone, Debug)]
pub struct Permissions {
    /// As `chmod` takes it.
    pub mode: u32,
    /// Name or number; empty for this process's own.
    pub group: String,
}

/// A socket that a dead process left behind is replaced, one that answers is in use. A directory
/// that begins with `@` names a socket without a file, which has no permissions.
pub fn listen_unix(
    directory: &Path,
    port: u16,
    permissions: &Permissions,
    backlog: u32,
) -> io::Result<Listener> {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if let Some(name) = path.to_str().and_then(|path| path.strip_prefix('@')) {
        socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
    } else {
        if path.exists() {
            remove_dead(&path)?;
        }
        socket.bind(&SockAddr::unix(&path)?)?;
        if !permissions.group.is_empty() {
            chown(&path, None, Some(group_id(&permissions.group)?))?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(permissions.mode))?;
    }
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(Listener::Unix { listener: UnixListener::from_std(socket.into())?, path })
}

/// Whoever has no more room for connections, or lets only others in, is not dead.
fn remove_dead(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let groups = std::fs::read_to_string("/etc/group")?;
    find_group(&groups, group).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("there is no group {group}"))
    })
}

/// `name:password:id:members`, a line each.
fn find_group(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name);
        fields.nth(1).filter(|_| is_it)?.parse().ok()
    })
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

    /// Listens no longer. Gives the connections that the system has accepted for it already, over
    /// TCP; whoever comes between the last look at them and the end is reset, so nothing else is
    /// done there.
    /// Also if then one cannot be accepted.
    pub fn close(self) -> (Vec<Stream>, io::Result<()>) {
        let mut queued = Vec::new();
        let accepted = self.take_queued(&mut queued);
        drop(self);
        (queued, accepted)
    }

    fn take_queued(&self, streams: &mut Vec<Stream>) -> io::Result<()> {
        let Self::Tcp(listener) = self else { return Ok(()) };
        let listener = SockRef::from(listener);
        loop {
            match listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(true)?;
                    streams.push(Stream::Tcp(TcpStream::from_std(socket.into())?));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
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

    #[tokio::test]
    async fn only_a_dead_socket_makes_room() {
        let directory = tempfile();
        let permissions = Permissions { mode: 0o777, group: String::new() };
        let listen = |backlog| listen_unix(&directory, 5432, &permissions, backlog);
        let live = listen(1).expect("nobody is there");
        let path = directory.join(".s.PGSQL.5432");
        let mut waiting = Vec::new();
        // Until it has no more room for connections.
        loop {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("set");
            match socket.connect(&SockAddr::unix(&path).expect("an address")) {
                Ok(()) => waiting.push(socket),
                Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(listen(1).err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
        waiting.clear();
        assert_eq!(listen(1).err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
        drop(live);
        drop(std::os::unix::net::UnixListener::bind(&path).expect("one that leaves its file"));
        drop(listen(1).expect("it is dead"));
        std::fs::remove_dir(directory).expect("nothing is left");
    }

    fn tempfile() -> PathBuf {
        let directory = std::env::temp_dir().join(format!("forebay-listen-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory of our own");
        directory
    }

    #[tokio::test]
    async fn at_a_name_every_address_is_listened_on_once() {
        let options = ListenOptions { backlog: 1, reuse_port: false };
        let mut taken = BTreeSet::new();
        let all = listen_tcp("localhost", 0, options, &mut taken).await.expect("it is there");
        // Some names have addresses of families that the machine has not.
        let addresses: BTreeSet<SocketAddr> =
            lookup_host(("localhost", 0)).await.expect("known").collect();
        let here = addresses.iter().filter(|address| listen_at(**address, options).is_ok());
        assert_eq!(all.len(), here.count());
        let Some(Listener::Tcp(one)) = all.first() else { panic!("nothing listens") };
        let port = one.local_addr().expect("it is bound").port();
        drop(all);
        let first = listen_tcp("127.0.0.1", port, options, &mut taken).await.expect("it is free");
        assert_eq!(first.len(), 1);
        listen_tcp("localhost", port, options, &mut taken).await.expect("the rest of it");
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\npostgres:x:108:ann,bob\npost:x:7:\n";
        assert_eq!(find_group(groups, "post"), Some(7));
        assert_eq!(find_group(groups, "postgres"), Some(108));
        assert_eq!(find_group(groups, "ann"), None);
    }
}
