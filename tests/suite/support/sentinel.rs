//! A real Redis Sentinel.

use std::path::PathBuf;

use super::daemon::{Daemon, Job};
use super::postgres::scratch;
use super::redis::{Redis, first_line};
use super::{free_port, wait_until};

pub struct Sentinel {
    pub port: u16,
    directory: PathBuf,
    daemon: Option<Daemon>,
}

impl Sentinel {
    /// It watches this Redis by this name; `lines` are further ones of its configuration.
    pub fn start(redis: &Redis, master: &str, lines: &str) -> Self {
        let sentinel = Self { port: free_port(), directory: scratch(), daemon: None };
        sentinel.resume(redis, master, lines)
    }

    fn resume(mut self, redis: &Redis, master: &str, lines: &str) -> Self {
        let file = self.directory.join("sentinel.conf");
        let (port, watched) = (self.port, redis.port);
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor {master} 127.0.0.1 {watched} 1\n{lines}\n"
        );
        std::fs::write(&file, text).unwrap();
        let command = ["redis-server", file.to_str().unwrap(), "--sentinel"];
        let log = self.directory.join("log");
        let job = Job { command: &command, stop_signal: "KILL", log: &log, remove: None };
        let daemon = Daemon::start(&job);
        wait_until("Sentinel accepts", || {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(daemon.runs(), "Sentinel did not start:\n{}", said());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        self.daemon = Some(daemon);
        self
    }

    /// The first line that it answers.
    pub fn command(&self, command: &str) -> String {
        first_line(self.port, command).unwrap()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.daemon = None;
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}
