//! The entries of `[databases]`: which database a client may name, and where each one is.

use std::fmt;
use std::path::PathBuf;

use super::limits::{DatabaseLimits, POOL_SIZE};
use super::mistake::{closest, suggestion};
use super::url::parse_host;
use super::value::{Raw, Value};
use super::{LoadBalance, Mistake, PoolMode, Range, SecretText, WrittenEntry, WrittenKey};

/// One database that clients may name, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseEntry {
    /// What clients call it; `*` stands for every name that has no entry of its own.
    pub name: String,
    pub host: Host,
    pub port: u16,
    /// How connections are spread over several hosts.
    pub load_balance_hosts: LoadBalance,
    /// What PostgreSQL calls it. `None`: the name the client used.
    pub dbname: Option<String>,
    /// Log in as this user, whoever the client is. `None`: as the client's.
    pub user: Option<String>,
    pub password: Option<SecretText>,
    /// Instead of `pool.default_pool_size`.
    pub pool_size: Option<u32>,
    /// Instead of `pool.pool_mode`.
    pub pool_mode: Option<PoolMode>,
    pub limits: DatabaseLimits,
    /// Run on every server once it is connected.
    pub connect_query: Option<String>,
    /// Startup parameter of servers whose client gives none.
    pub application_name: Option<String>,
    /// More of these: `client_encoding`, `datestyle`, `timezone`.
    pub parameters: Vec<(&'static str, String)>,
    /// The startup parameter `options`, for servers whose client gives none.
    pub options: Option<String>,
    /// Instead of the settings of the same names.
    pub auth: AuthLookup,
}

/// How users are looked up that no file lists. Empty texts are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthLookup {
    pub auth_user: Option<String>,
    pub auth_query: Option<String>,
    pub auth_dbname: Option<String>,
}

/// Where PostgreSQL listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or an address.
    Name(String),
    /// The directory of its Unix socket, `.s.PGSQL.<port>`.
    SocketDirectory(PathBuf),
    /// Such a directory, which no setting of the database names.
    Unnamed(PathBuf),
    /// At several of these; connections are spread over them, or go to the first that can be
    /// reached.
    Several(Vec<Self>),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::SocketDirectory(path) | Self::Unnamed(path) => path.display().fmt(f),
            Self::Several(hosts) => {
                for (index, host) in hosts.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{host}")?;
                }
                Ok(())
            }
        }
    }
}

/// Keys of an entry of `[databases]`, in TOML and in `pgbouncer.ini`.
pub(super) const DATABASE_KEYS: &[&str] = &[
    "application_name",
    "auth_dbname",
    "auth_query",
    "auth_user",
    "client_encoding",
    "connect_query",
    "datestyle",
    "dbname",
    "host",
    "load_balance_hosts",
    "max_db_client_connections",
    "max_db_connections",
    "min_pool_size",
    "options",
    "password",
    "pool_mode",
    "pool_size",
    "port",
    "query_wait_timeout",
    "reserve_pool",
    "reserve_pool_size",
    "server_lifetime",
    "slow_threshold",
    "timezone",
    "user",
];

/// Where an entry is that names no host.
pub(super) enum Elsewhere<'a> {
    /// At the server URL, with its user and password.
    Url(&'a DatabaseEntry),
    /// At a Unix socket in this directory, as in PgBouncer.
    Directory(&'a str),
    /// Nowhere: a mistake.
    Nowhere,
    /// At a server URL that could not be read: a mistake already told.
    Unreadable,
}

/// What `[databases]` comes to.
#[derive(Default)]
pub(super) struct Databases {
    pub(super) entries: Vec<DatabaseEntry>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Databases {
    /// A later entry of the same name takes the place of an earlier one.
    pub(super) fn read(written: &[WrittenEntry], elsewhere: &Elsewhere<'_>) -> Self {
        let mut databases = Self::default();
        for database in written {
            let entry = databases.entry(database, elsewhere);
            databases.entries.retain(|existing| existing.name != entry.name);
            databases.entries.push(entry);
        }
        if let Elsewhere::Url(entry) = elsewhere
            && !databases.entries.iter().any(|entry| entry.name == "*")
        {
            databases.entries.push((*entry).clone());
        }
        databases
    }

    fn entry(&mut self, written: &WrittenEntry, elsewhere: &Elsewhere<'_>) -> DatabaseEntry {
        let mut entry = self.template(written, elsewhere);
        entry.name.clone_from(&written.name);
        if written.keys.iter().any(|key| key.key == "user") {
            // The password of another user is of no use.
            entry.password = None;
        }
        for key in &written.keys {
            if let Err(text) = set(&mut entry, key) {
                let name = format!("databases.{}.{}", written.name, key.key);
                let text = format!("{}: {text}", name.escape_debug());
                self.mistakes.push(Mistake::new(key.place.clone(), text));
            }
        }
        if written.name == "pgbouncer" {
            let text = "databases.pgbouncer: this name is the console's";
            self.mistakes.push(Mistake::new(written.place.clone(), text));
        }
        entry
    }

    /// What an entry starts from. One that names a host takes nothing from the server URL: its
    /// password must not go to another machine.
    fn template(&mut self, written: &WrittenEntry, elsewhere: &Elsewhere<'_>) -> DatabaseEntry {
        if written.keys.iter().any(|key| key.key == "host" && !key.raw.is_empty_text()) {
            return bare_entry(Host::Name(String::new()));
        }
        match elsewhere {
            Elsewhere::Url(entry) => (*entry).clone(),
            Elsewhere::Directory(path) => bare_entry(Host::Unnamed(path.into())),
            Elsewhere::Unreadable => bare_entry(Host::Name(String::new())),
            Elsewhere::Nowhere => {
                let text = format!("databases.{}: expected a host", written.name.escape_debug());
                self.mistakes.push(Mistake::new(written.place.clone(), text));
                bare_entry(Host::Name(String::new()))
            }
        }
    }
}

fn set(entry: &mut DatabaseEntry, key: &WrittenKey) -> Result<(), String> {
    let raw = &key.raw;
    if entry.limits.set(&key.key, raw)? {
        return Ok(());
    }
    match key.key.as_str() {
        "host" => {
            let text = String::read(raw, Range::Any)?;
            // As in PgBouncer, an empty host says nothing.
            if !text.is_empty() {
                entry.host = parse_host(&text).map_err(str::to_owned)?;
            }
        }
        "load_balance_hosts" => entry.load_balance_hosts = LoadBalance::read(raw, Range::Any)?,
        "port" => entry.port = u16::read(raw, Range::Between(1, 65_535))?,
        "dbname" => entry.dbname = Some(String::read(raw, Range::Any)?),
        "user" => entry.user = Some(String::read(raw, Range::Any)?),
        "password" => entry.password = Some(SecretText::read(raw, Range::Any)?),
        "pool_size" => entry.pool_size = Some(u32::read(raw, POOL_SIZE)?),
        "pool_mode" => entry.pool_mode = Some(PoolMode::read(raw, Range::Any)?),
        "connect_query" => {
            let text = String::read(raw, Range::Any)?;
            entry.connect_query = (!text.is_empty()).then_some(text);
        }
        "application_name" => entry.application_name = Some(String::read(raw, Range::Any)?),
        "client_encoding" => add(entry, "client_encoding", String::read(raw, Range::Any)?),
        "datestyle" => add(entry, "datestyle", String::read(raw, Range::Any)?),
        "timezone" => add(entry, "timezone", String::read(raw, Range::Any)?),
        "options" => entry.options = Some(String::read(raw, Range::Any)?),
        "auth_user" => entry.auth.auth_user = filled(raw)?,
        "auth_query" => entry.auth.auth_query = filled(raw)?,
        "auth_dbname" => entry.auth.auth_dbname = filled(raw)?,
        unknown => {
            let hint = suggestion(closest(unknown, DATABASE_KEYS.iter().copied()));
            return Err(format!("unknown key{hint}"));
        }
    }
    Ok(())
}

fn filled(raw: &Raw) -> Result<Option<String>, String> {
    Ok(Some(String::read(raw, Range::Any)?).filter(|text| !text.is_empty()))
}

/// The last value of a name counts.
fn add(entry: &mut DatabaseEntry, name: &'static str, value: String) {
    entry.parameters.retain(|(known, _)| *known != name);
    entry.parameters.push((name, value));
}

fn bare_entry(host: Host) -> DatabaseEntry {
    DatabaseEntry {
        name: String::new(),
        host,
        port: 5432,
        load_balance_hosts: LoadBalance::RoundRobin,
        dbname: None,
        user: None,
        password: None,
        pool_size: None,
        pool_mode: None,
        limits: DatabaseLimits::default(),
        connect_query: None,
        application_name: None,
        parameters: Vec::new(),
        options: None,
        auth: AuthLookup::default(),
    }
}
