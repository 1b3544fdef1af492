//! What this process is to the system: its pid file, what it tells its service manager, its
//! memory.

use std::fmt;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// `pidfile`, removed when dropped.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
}

#[derive(Debug)]
pub enum PidFileError {
    /// Another process has written it and still runs.
    InUse(u32),
    Io(io::Error),
}

impl fmt::Display for PidFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(pid) => write!(f, "process {pid} has written it and still runs"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for PidFileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl PidFile {
    /// One that a dead process left behind is replaced.
    pub fn write(path: &Path) -> Result<Self, PidFileError> {
        let own = std::process::id();
        if let Ok(text) = fs::read_to_string(path)
            && let Ok(pid) = text.trim().parse::<u32>()
            && pid != own
            && Path::new(&format!("/proc/{pid}")).exists()
        {
            return Err(PidFileError::InUse(pid));
        }
        fs::write(path, format!("{own}\n"))?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _gone = fs::remove_file(&self.path);
    }
}

/// What a service manager that asked for it (`NOTIFY_SOCKET`) is told.
/// <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Ready,
    Reloading,
    Stopping,
    Status(String),
}

impl Notice {
    fn text(&self, monotonic_usec: u64) -> String {
        match self {
            Self::Ready => "READY=1".to_owned(),
            Self::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={monotonic_usec}"),
            Self::Stopping => "STOPPING=1".to_owned(),
            Self::Status(status) => format!("STATUS={status}"),
        }
    }
}

pub fn notify(notice: &Notice) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let text = notice.text(monotonic_usec());
    let sent = match socket.to_str().and_then(|socket| socket.strip_prefix('@')) {
        Some(name) => send_abstract(name, &text),
        None => UnixDatagram::unbound()
            .and_then(|datagram| datagram.send_to(text.as_bytes(), &socket))
            .map(|_| ()),
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

fn send_abstract(name: &str, text: &str) -> io::Result<()> {
    let address = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(|_| ())
}

/// Not before now on the clock that systemd compares it with. The file counts in hundredths of a
/// second, rounded down.
fn monotonic_usec() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    uptime_usec(&text).unwrap_or_default() + 10_000
}

fn uptime_usec(text: &str) -> Option<u64> {
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1_000_000 + hundredths.parse::<u64>().ok()? * 10_000)
}

/// Memory in use, in bytes; 0 if the system does not tell.
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kilobytes.unwrap_or(0_u64) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_those_of_systemd() {
        assert_eq!(Notice::Ready.text(7), "READY=1");
        assert_eq!(Notice::Reloading.text(7), "RELOADING=1\nMONOTONIC_USEC=7");
        assert_eq!(Notice::Stopping.text(7), "STOPPING=1");
        assert_eq!(Notice::Status("stats: 1".into()).text(7), "STATUS=stats: 1");
    }

    #[test]
    fn the_time_since_the_start_of_the_system_is_read() {
        assert_eq!(uptime_usec("350735.47 234388.90\n"), Some(350_735_470_000));
        assert_eq!(uptime_usec(""), None);
    }

    #[test]
    fn a_pid_file_of_a_dead_process_is_replaced_and_of_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("forebay-pid-{}", std::process::id()));
        // No process has that id: it is above the largest there can be.
        fs::write(&path, "4194305\n").unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        fs::write(&path, "1\n").unwrap();
        assert!(matches!(PidFile::write(&path), Err(PidFileError::InUse(1))));
        fs::remove_file(&path).unwrap();
    }
}
