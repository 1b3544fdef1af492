//! A server process under a guardian: a shell that holds the reading end of a pipe and stops the
//! server when the pipe closes. Pipes close however we end, so no server outlives the tests, and
//! even one kept in a static, which is never dropped, is stopped.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::wait_until;

/// Arguments: the signal that stops it, a directory to remove afterwards or nothing, the program.
///
/// A hangup comes when we are killed while the server is stopped, as to every such orphan; the
/// server may ignore it, so the guardian must not die of it.
const GUARDIAN: &str = r#"
trap : HUP
signal=$1; remove=$2; shift 2
"$@" </dev/null >&2 &
pid=$!
echo $pid
exec >/dev/null
read -r _
kill -CONT $pid; kill -$signal $pid
wait $pid
[ -z "$remove" ] || rm -rf "$remove"
"#;

pub struct Daemon {
    guardian: Child,
    pub pid: u32,
}

/// How to start and stop it.
pub struct Job<'a> {
    pub command: &'a [&'a str],
    pub stop_signal: &'a str,
    pub log: &'a Path,
    /// Removed once it has stopped.
    pub remove: Option<&'a Path>,
}

impl Daemon {
    pub fn start(job: &Job<'_>) -> Self {
        let log = File::options().create(true).append(true).open(job.log).unwrap();
        let remove = job.remove.map_or("", |path| path.to_str().unwrap());
        let mut guardian = Command::new("sh")
            .args(["-c", GUARDIAN, "guardian", job.stop_signal, remove])
            .args(job.command)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Interrupting the tests from a terminal must not interrupt the guardian.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(guardian.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap();
        Self { guardian, pid }
    }

    /// Sends a signal by name; after STOP none of its threads runs any more.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid.to_string();
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success()
        );
        if signal == "STOP" {
            wait_until("it stands", || self.stands());
        }
    }

    fn stands(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        // One that has ended since stands as well.
        let stands = |thread: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(thread.unwrap().path().join("stat"));
            status.map_or(true, |text| text.contains(") T "))
        };
        threads.into_iter().all(stands)
    }

    /// Whether the program still runs; one that has ended and is not yet waited for does not.
    pub fn runs(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
        status.is_ok_and(|text| !text.contains(") Z "))
    }

    /// Memory it has in use now, in kB.
    pub fn resident_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Waiting closes the pipe first.
        let _status = self.guardian.wait();
    }
}
