//! A real Redis that a test can stop, freeze, empty and fill.

use std::io::{BufRead as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;

use super::daemon::{Daemon, Job};
use super::postgres::scratch;
use super::{DEADLINE, free_port, wait_until};

pub struct Redis {
    pub port: u16,
    directory: PathBuf,
    daemon: Option<Daemon>,
}

impl Redis {
    pub fn start() -> Self {
        let mut redis = Self { port: free_port(), directory: scratch(), daemon: None };
        redis.resume_from_stop();
        redis
    }

    /// Starts it again, empty, after `stop`.
    pub fn resume_from_stop(&mut self) {
        let port = self.port.to_string();
        let directory = self.directory.to_str().unwrap();
        let command = [
            "redis-server",
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            directory,
        ];
        let log = self.directory.join("log");
        let job = Job { command: &command, stop_signal: "KILL", log: &log, remove: None };
        self.daemon = Some(Daemon::start(&job));
        wait_until("Redis accepts", || self.try_command("PING").is_some());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Gone, and its port closed.
    pub fn stop(&mut self) {
        self.daemon = None;
    }

    /// Still there, but answers nothing.
    pub fn pause(&self) {
        self.daemon.as_ref().unwrap().signal("STOP");
    }

    pub fn resume(&self) {
        self.daemon.as_ref().unwrap().signal("CONT");
    }

    pub fn flush(&self) {
        assert_eq!(self.command("FLUSHALL"), "+OK\r\n");
    }

    /// Writes this value under every key there is.
    pub fn fill(&self, value: &str) {
        let script = format!(
            "EVAL \"for _, k in ipairs(redis.call('KEYS', '*')) do redis.call('SET', k, '{value}') \
             end return 1\" 0"
        );
        assert_eq!(self.command(&script), ":1\r\n");
    }

    fn command(&self, command: &str) -> String {
        self.try_command(command).unwrap()
    }

    fn try_command(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut reply = String::new();
        // `read_line` goes on after a signal, which `read` does not.
        std::io::BufReader::new(stream).read_line(&mut reply).ok().filter(|&count| count > 0)?;
        Some(reply)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.daemon = None;
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}
