//! A real Redis, or Valkey, that a test can stop, freeze, empty, fill and spoil.

use std::io::{BufRead as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;

use super::daemon::{Daemon, Job};
use super::postgres::scratch;
use super::{DEADLINE, free_port, wait_until};

/// What a user of Redis needs for a group, as the README says.
pub const RIGHTS_OF_GROUP: &str = "~fb:* &fb:* +hmget +info +script|load +evalsha +time +hget +hset +hdel +hgetall \
     +hlen +del +pexpireat +publish +subscribe +ping +getrange +set";

/// And where answers alone are kept there.
pub const RIGHTS_OF_CACHE: &str = "~forebay:* +ping +getrange +set";

pub struct Redis {
    pub port: u16,
    program: String,
    options: Vec<String>,
    directory: PathBuf,
    daemon: Option<Daemon>,
}

impl Redis {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With further options.
    pub fn with(options: &[&str]) -> Self {
        Self::run("redis-server", options)
    }

    /// Another program that is one.
    pub fn run(program: &str, options: &[&str]) -> Self {
        let mut redis = Self::missing();
        program.clone_into(&mut redis.program);
        redis.options = options.iter().map(|&option| option.to_owned()).collect();
        redis.resume_from_stop();
        redis
    }

    /// With a user f, password p, who has these rights alone.
    pub fn with_rights(rights: &str) -> Self {
        let mut options = vec!["--user", "f", "on", ">p", "resetchannels", "-@all"];
        options.extend(rights.split(' '));
        Self::with(&options)
    }

    /// Of that user.
    pub fn url_of_user(&self) -> String {
        format!("redis://f:p@127.0.0.1:{}/0", self.port)
    }

    /// A port with nothing behind it, until `resume_from_stop`.
    pub fn missing() -> Self {
        let program = "redis-server".to_owned();
        Self { port: free_port(), program, options: Vec::new(), directory: scratch(), daemon: None }
    }

    /// Starts it again after `stop`, empty but for what a SAVE has left.
    pub fn resume_from_stop(&mut self) {
        let port = self.port.to_string();
        let directory = self.directory.to_str().unwrap();
        let socket = self.socket();
        let mut command = vec![
            &self.program,
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
            "--unixsocket",
            &socket,
        ];
        command.extend(self.options.iter().map(String::as_str));
        let log = self.directory.join("log");
        let job = Job { command: &command, stop_signal: "KILL", log: &log, remove: None };
        let daemon = Daemon::start(&job);
        wait_until("Redis accepts", || {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(daemon.runs(), "Redis did not start:\n{}", said());
            self.try_command("PING").is_some()
        });
        self.daemon = Some(daemon);
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// The path of its Unix socket.
    pub fn socket(&self) -> String {
        self.directory.join("socket").to_str().unwrap().to_owned()
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

    /// Takes no more than this, and evicts nothing.
    pub fn set_memory(&self, bytes: &str) {
        assert_eq!(self.command(&format!("CONFIG SET maxmemory {bytes}")), "+OK\r\n");
    }

    /// Runs Lua for every key `k` with its value `v`. Gives how many there are.
    pub fn for_every_key(&self, lua: &str) -> usize {
        self.number(&format!(
            "local keys = redis.call('KEYS', '*') \
             for _, k in ipairs(keys) do local v = redis.call('GET', k) {lua} end return #keys"
        ))
    }

    /// How many keys begin with this.
    pub fn keys(&self, prefix: &str) -> usize {
        self.number(&format!("return #redis.call('KEYS', '{prefix}*')"))
    }

    /// Its version, as it says itself.
    pub fn version(&self) -> String {
        let found = "string.match(redis.call('INFO', 'server'), 'redis_version:([^%c]+)')";
        let reply = self.command(&format!("EVAL \"return redis.status_reply({found})\" 0"));
        reply.trim_start_matches('+').trim_end().to_owned()
    }

    /// What this Lua returns.
    pub fn number(&self, lua: &str) -> usize {
        let reply = self.command(&format!("EVAL \"{lua}\" 0"));
        let number = reply.strip_prefix(':').and_then(|number| number.trim_end().parse().ok());
        number.unwrap_or_else(|| panic!("{lua}: {reply}"))
    }

    /// The first line that it answers.
    pub fn command(&self, command: &str) -> String {
        self.try_command(command).unwrap()
    }

    fn try_command(&self, command: &str) -> Option<String> {
        first_line(self.port, command)
    }
}

/// Of what is answered there; nothing where nobody answers.
pub fn first_line(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut reply = String::new();
    // `read_line` goes on after a signal, which `read` does not.
    std::io::BufReader::new(stream).read_line(&mut reply).ok().filter(|&count| count > 0)?;
    Some(reply)
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.daemon = None;
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}
