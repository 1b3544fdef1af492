//! A real PostgreSQL: one shared by all tests that need nothing special of it, each with a fresh
//! database of its own, and private ones for tests that stop it, configure it or change roles, which
//! all of its databases have in common: others would lose their answers.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::daemon::{Daemon, Job};
use super::raw::{Login, RawClient};
use super::{free_port, wait_until};

pub const USER: &str = "app";
pub const PASSWORD: &str = "secret";

/// Settings for speed, since nothing survives a test, and a log of every statement, which is how
/// tests see whether a query reached PostgreSQL.
const SETTINGS: &str = "\
unix_socket_directories = ''
listen_addresses = '127.0.0.1'
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
max_connections = 300
shared_buffers = 32MB
max_prepared_transactions = 20
log_min_messages = warning
log_statement = all
log_line_prefix = '[%d] '
timezone = 'UTC'
";

/// The superuser is trusted, so that tests can look behind the application's back.
const HBA: &str = "\
host all postgres 127.0.0.1/32 trust
host all hashed 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256
";

static SHARED: LazyLock<Postgres> = LazyLock::new(|| Postgres::boot("", HBA, (initialise, true)));
static WITH_ROLES: LazyLock<Postgres> = LazyLock::new(|| Postgres::boot("", HBA, (copy, true)));
/// What nobody has started yet; it goes with the shared one.
static UNUSED: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = SHARED.directory.join("unused");
    initialise(&directory);
    directory
});
static SCRATCH: AtomicU32 = AtomicU32::new(0);

pub struct Postgres {
    pub port: u16,
    directory: PathBuf,
    daemon: Option<Daemon>,
    databases: AtomicU32,
    shared: bool,
    statements: Mutex<Statements>,
}

/// The statements of a log, counted as it grows: it becomes long, and is asked after every query.
#[derive(Default)]
struct Statements {
    read: u64,
    /// By database and text.
    counts: HashMap<String, usize>,
}

impl Statements {
    /// Reads on to the last whole line.
    fn read(&mut self, log: &Path) {
        let mut file = File::open(log).unwrap();
        file.seek(SeekFrom::Start(self.read)).unwrap();
        let mut news = Vec::new();
        file.read_to_end(&mut news).unwrap();
        let whole = news.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.read += whole as u64;
        for line in String::from_utf8_lossy(&news[..whole]).lines() {
            let Some((database, line)) = line.split_once("LOG:  ") else { continue };
            let of_prepared = || Some(line.strip_prefix("execute ")?.split_once(": ")?.1);
            if let Some(sql) = line.strip_prefix("statement: ").or_else(of_prepared) {
                *self.counts.entry(format!("{database}{sql}")).or_default() += 1;
            }
        }
    }
}

impl Postgres {
    /// The one all tests share.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// One shared by those who can bear that roles are changed, and do so.
    pub fn shared_with_roles() -> &'static Self {
        &WITH_ROLES
    }

    /// One of the test's own, with further settings.
    pub fn private(settings: &str) -> Self {
        Self::boot(settings, HBA, (initialise, false))
    }

    /// The same with another pg_hba.conf.
    pub fn private_with_hba(settings: &str, hba: &str) -> Self {
        Self::boot(settings, hba, (initialise, false))
    }

    fn boot(settings: &str, hba: &str, (make, shared): (fn(&Path), bool)) -> Self {
        let directory = scratch();
        let port = free_port();
        let data = directory.join("data");
        make(&data);
        let mut config = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
        write!(config, "{SETTINGS}port = {port}\n{settings}\n").unwrap();
        std::fs::write(data.join("postgresql.conf"), config).unwrap();
        std::fs::write(data.join("pg_hba.conf"), hba).unwrap();
        let databases = AtomicU32::new(0);
        let mut postgres =
            Self { port, directory, daemon: None, databases, shared, statements: Mutex::default() };
        postgres.start();
        let mut admin = postgres.admin("postgres");
        admin.run(&format!("CREATE ROLE {USER} LOGIN CREATEROLE PASSWORD '{PASSWORD}'"));
        postgres
    }

    /// One of the test's own that may be copied.
    pub fn to_copy() -> Self {
        let hba = "local all all trust\nhost all all 127.0.0.1/32 trust\n\
                   host replication all 127.0.0.1/32 trust\n";
        Self::private_with_hba("wal_level = replica", hba)
    }

    /// A copy that has gone its own way, while the first one is still there.
    pub fn taken_over_from(primary: &Self) -> Self {
        let copy = Self::standby_of(primary);
        copy.admin("postgres").run("SELECT pg_promote()");
        copy
    }

    /// A copy that follows the first, which has to let the superuser replicate.
    pub fn standby_of(primary: &Self) -> Self {
        let directory = scratch();
        let port = free_port();
        let data = directory.join("data");
        let mut copy = unprivileged(&binary("pg_basebackup"));
        let from = ["-h", "127.0.0.1", "-U", "postgres", "-R", "--checkpoint=fast", "-p"];
        copy.extend(from.iter().map(|&argument| argument.to_owned()));
        copy.extend([primary.port.to_string(), "-D".to_owned(), data.to_str().unwrap().to_owned()]);
        let output = Command::new(&copy[0]).args(&copy[1..]).current_dir("/").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut config = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
        writeln!(config, "port = {port}").unwrap();
        std::fs::write(data.join("postgresql.conf"), config).unwrap();
        let databases = AtomicU32::new(0);
        let mut postgres = Self {
            port,
            directory,
            daemon: None,
            databases,
            shared: false,
            statements: Mutex::default(),
        };
        postgres.start();
        postgres
    }

    /// Starts it again after `stop`.
    pub fn start(&mut self) {
        let data = self.directory.join("data");
        let mut command = unprivileged(&binary("postgres"));
        command.extend(["-D".to_owned(), data.to_str().unwrap().to_owned()]);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        self.daemon = Some(Daemon::start(&Job {
            command: &command,
            stop_signal: "QUIT",
            log: &self.log_path(),
            remove: self.shared.then_some(&self.directory),
        }));
        wait_until("PostgreSQL accepts", || {
            assert!(self.daemon.as_ref().unwrap().runs(), "{}", self.log());
            RawClient::log_in(self.port, &Login::new("postgres", "", "postgres")).is_ok()
        });
    }

    /// At once, as in a crash: clients get no goodbye but the end of their sockets.
    pub fn stop(&mut self) {
        self.daemon = None;
    }

    /// A superuser behind the application's back.
    pub fn admin(&self, database: &str) -> RawClient {
        RawClient::log_in(self.port, &Login::new("postgres", "", database)).unwrap()
    }

    /// A database nobody else uses, owned by the application's user.
    pub fn database(&self) -> Database<'_> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut admin = self.admin("postgres");
        admin.run(&format!("CREATE DATABASE {name} OWNER {USER}"));
        self.database_called(&name)
    }

    /// One that is there.
    pub fn database_called(&self, name: &str) -> Database<'_> {
        Database { postgres: Host::Lent(self), name: name.to_owned() }
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap()).into_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.daemon = None;
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}

fn initialise(data: &Path) {
    let arguments = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N", "-D"];
    run(unprivileged(&binary("initdb")), &arguments, data);
}

/// In less time; such clusters all have one identifier.
fn copy(data: &Path) {
    run(["cp".to_owned()].into(), &["-a", UNUSED.to_str().unwrap()], data);
}

fn run(mut command: Vec<String>, arguments: &[&str], last: &Path) {
    command.extend(arguments.iter().map(|&argument| argument.to_owned()));
    command.push(last.to_str().unwrap().to_owned());
    let output = Command::new(&command[0]).args(&command[1..]).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// One database of a PostgreSQL.
pub struct Database<'a> {
    pub postgres: Host<'a>,
    pub name: String,
}

/// Where a database is; it may be all that there is.
pub enum Host<'a> {
    Lent(&'a Postgres),
    Own(Box<Postgres>),
}

impl Deref for Host<'_> {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        match self {
            Self::Lent(postgres) => postgres,
            Self::Own(postgres) => postgres,
        }
    }
}

impl Database<'static> {
    /// A fresh one of the shared PostgreSQL, after running `sql` in it as its owner.
    pub fn with(sql: &str) -> Self {
        Postgres::shared().database().after(sql)
    }

    /// The same in a PostgreSQL of its own: nobody else's roles change, nor with ours.
    pub fn apart(sql: &str) -> Self {
        let postgres = Postgres::boot("", HBA, (copy, false));
        let name = postgres.database().name;
        Self { postgres: Host::Own(Box::new(postgres)), name }.after(sql)
    }

    fn after(self, sql: &str) -> Self {
        if !sql.is_empty() {
            self.direct().run(sql);
        }
        self
    }
}

impl Database<'_> {
    pub fn url(&self) -> String {
        let (port, name) = (self.postgres.port, &self.name);
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/{name}")
    }

    /// The application's user, without Forebay between.
    pub fn direct(&self) -> RawClient {
        RawClient::log_in(self.postgres.port, &Login::new(USER, PASSWORD, &self.name)).unwrap()
    }

    pub fn admin(&self) -> RawClient {
        self.postgres.admin(&self.name)
    }

    /// How often PostgreSQL has been asked to run this very text in this database.
    pub fn seen(&self, sql: &str) -> usize {
        assert!(!sql.contains('\n'), "the log has it on several lines: {sql}");
        let mut statements =
            self.postgres.statements.lock().unwrap_or_else(PoisonError::into_inner);
        statements.read(&self.postgres.log_path());
        statements.counts.get(&format!("[{}] {sql}", self.name)).copied().unwrap_or_default()
    }

    /// Whether this query of this client's is answered without PostgreSQL.
    pub fn is_hit(&self, client: &mut RawClient, sql: &str) -> bool {
        let before = self.seen(sql);
        client.run(sql);
        self.seen(sql) == before
    }

    /// Repeats the query until it is answered from the cache: the catalogue is read in the
    /// background and the first answer has to be kept.
    pub fn until_hit(&self, client: &mut RawClient, sql: &str) {
        wait_until(&format!("{sql} is answered from the cache"), || self.is_hit(client, sql));
    }

    /// Application connections of Forebay's to this database, idle or not.
    pub fn servers(&self) -> Vec<String> {
        let rows = self.admin().rows(&format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = '{}' AND usename = '{USER}'",
            self.name
        ));
        rows.into_iter().map(|row| row[0].clone().unwrap()).collect()
    }
}

/// A directory that PostgreSQL's user may write to.
pub fn scratch() -> PathBuf {
    let number = SCRATCH.fetch_add(1, Ordering::Relaxed);
    let name = format!("forebay-suite-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir(&directory).unwrap();
    if is_root() {
        let status = Command::new("chown").arg("postgres").arg(&directory).status().unwrap();
        assert!(status.success());
    }
    directory
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}

/// PostgreSQL refuses to run as root, so there it runs as the account of its package.
fn unprivileged(program: &Path) -> Vec<String> {
    let program = program.to_str().unwrap().to_owned();
    if is_root() {
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--", &program]
            .map(str::to_owned)
            .to_vec()
    } else {
        vec![program]
    }
}

/// A program of the newest PostgreSQL that is installed.
pub fn binary(name: &str) -> PathBuf {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            let program = path.join("bin").join(name);
            program.exists().then_some((version, program))
        })
        .collect();
    versions.sort();
    versions.pop().map_or_else(|| PathBuf::from(name), |(_, program)| program)
}
