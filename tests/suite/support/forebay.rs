//! The program under test.

use std::path::PathBuf;

use super::daemon::{Daemon, Job};
use super::postgres::{Database, PASSWORD, USER, scratch};
use super::raw::{Login, RawClient, Refused};
use super::{free_port, wait_until};

/// What an audit says of a table it did not know of.
pub const UNFORESEEN: &str = "a table was written that was not going to be made fresh";

pub struct Forebay {
    pub port: u16,
    pub admin_port: u16,
    pub daemon: Daemon,
    directory: PathBuf,
    pub database: String,
    /// Writes that it does not foresee are no failure of the test.
    pub overlooks: bool,
}

/// With `FOREBAY_AUDIT` set, every Forebay of the suite asks PostgreSQL before each commit whether
/// it knows of all tables that were written; where it does not, the test fails. A test to which the
/// number of questions matters says itself what `opaque_writes` is, and that is left alone.
fn audited(toml: &str) -> String {
    const AUDIT: &str = "opaque_writes = \"audit\"\n";
    let last_section = toml.lines().rfind(|line| line.starts_with('['));
    if std::env::var_os("FOREBAY_AUDIT").is_none() || toml.contains("opaque_writes") {
        toml.to_owned()
    } else if last_section == Some("[cache]") {
        format!("{toml}\n{AUDIT}")
    } else if toml.contains("[cache]\n") {
        toml.replace("[cache]\n", &format!("[cache]\n{AUDIT}"))
    } else {
        format!("{toml}\n[cache]\n{AUDIT}")
    }
}

/// With `FOREBAY_GROUP` set to the URL of a Redis, every Forebay of the suite is the only member of
/// a group there, unless its test is about Redis.
fn grouped(toml: String, options: &[&str], port: u16) -> String {
    match std::env::var("FOREBAY_GROUP") {
        Ok(url) if !toml.contains("[redis]") && !options.contains(&"--redis") => format!(
            "{toml}\n[redis]\nurl = \"{url}\"\ntimeout = \"5s\"\n\
             [group]\nname = \"{port}\"\nlease = \"1s\"\ntimeout = \"2s\"\n"
        ),
        Ok(_) | Err(_) => toml,
    }
}

impl Forebay {
    /// In front of this database, with these options.
    pub fn start(database: &Database<'_>, options: &[&str]) -> Self {
        Self::with_config(database, "", options)
    }

    /// The same with settings in TOML.
    pub fn with_config(database: &Database<'_>, toml: &str, options: &[&str]) -> Self {
        Self::launch(&database.url(), &database.name, toml, options)
    }

    /// On the same port as another one.
    pub fn beside(other: &Self, database: &Database<'_>, toml: &str) -> Self {
        Self::run(&database.url(), &database.name, toml, &[], &[], other.port)
    }

    /// With these variables in its environment.
    pub fn in_environment(
        database: &Database<'_>,
        toml: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        Self::run(&database.url(), &database.name, toml, &[], environment, free_port())
    }

    /// In front of any server at all.
    pub fn launch(url: &str, database: &str, toml: &str, options: &[&str]) -> Self {
        Self::run(url, database, toml, options, &[], free_port())
    }

    fn run(
        url: &str,
        database: &str,
        toml: &str,
        options: &[&str],
        environment: &[(&str, &str)],
        port: u16,
    ) -> Self {
        let directory = scratch();
        let settings = directory.join("forebay.toml");
        std::fs::write(&settings, grouped(audited(toml), options, port)).unwrap();
        let admin_port = free_port();
        let program = std::env::var("FOREBAY_BIN")
            .unwrap_or_else(|_unset| env!("CARGO_BIN_EXE_forebay").to_owned());
        let (listen, admin) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{admin_port}"));
        let environment: Vec<String> =
            environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut command = vec!["env"];
        command.extend(environment.iter().map(String::as_str));
        command.extend([program.as_str(), url, settings.to_str().unwrap()]);
        command.extend(["--listen", &listen, "--admin-listen", &admin, "--log-level", "debug"]);
        command.extend(options);
        let log = directory.join("log");
        let daemon =
            Daemon::start(&Job { command: &command, stop_signal: "KILL", log: &log, remove: None });
        let database = database.to_owned();
        let forebay = Self { port, admin_port, daemon, directory, database, overlooks: false };
        wait_until("Forebay accepts", || {
            assert!(forebay.daemon.runs(), "Forebay did not start:\n{}", forebay.log());
            std::net::TcpStream::connect(("127.0.0.1", admin_port)).is_ok()
        });
        forebay
    }

    /// The application.
    pub fn client(&self) -> RawClient {
        self.log_in(&Login::new(USER, PASSWORD, &self.database)).unwrap()
    }

    /// The application with startup parameters.
    pub fn client_with(&self, parameters: &[(&str, &str)]) -> RawClient {
        self.log_in(&Login::new(USER, PASSWORD, &self.database).with(parameters)).unwrap()
    }

    /// Replaces its settings in TOML, and has it read them.
    pub fn reload(&self, toml: &str) {
        self.write_settings(toml);
        self.console().run("RELOAD");
    }

    pub fn log_in(&self, login: &Login) -> Result<RawClient, Refused> {
        RawClient::log_in(self.port, login)
    }

    /// The console on its own port.
    pub fn console(&self) -> RawClient {
        RawClient::log_in(self.admin_port, &Login::new(USER, PASSWORD, "pgbouncer")).unwrap()
    }

    /// Replaces the settings file, which RELOAD and SIGHUP read again.
    pub fn write_settings(&self, toml: &str) {
        std::fs::write(self.directory.join("forebay.toml"), audited(toml)).unwrap();
    }

    pub fn url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{}", self.port, self.database)
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.directory.join("log")).unwrap()).into_owned()
    }

    /// Waits for a line of its log.
    pub fn log_contains(&self, text: &str) {
        wait_until(&format!("the log contains {text:?}"), || self.log().contains(text));
    }
}

impl Drop for Forebay {
    fn drop(&mut self) {
        // A failed test prints what it captured, and this with it.
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(60);
            println!("--- log of Forebay\n{}", lines[tail..].join("\n"));
        } else {
            let log = self.log();
            assert!(!log.contains("panicked"), "Forebay panicked:\n{log}");
            assert!(self.overlooks || !log.contains(UNFORESEEN), "a write was overlooked:\n{log}");
        }
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}
