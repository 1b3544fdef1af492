//! The settings: read from a URL, TOML, `pgbouncer.ini` and the command line, checked once with
//! every mistake named, immutable after. Pure: files are read through a closure the caller gives.

mod mistake;
mod value;
mod quantity;
mod secret;
mod address;
mod word;
mod settings;
mod limits;
mod database;
mod peer;
mod rules;
mod url;
mod file;
mod ini;
mod check;
mod cli;
mod reference;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use address::{FileMode, ListenAddress};
pub use check::set;
pub use cli::{Exit, load};
pub use database::{AuthLookup, DatabaseEntry, Host};
pub use limits::{DatabaseLimits, UserEntry};
pub use mistake::{Mistake, Place};
pub use peer::Peer;
pub use quantity::Size;
pub use reference::reference;
pub use secret::SecretText;
pub use settings::{
    Admin, Applies, Auth, Cache, Group, Insight, Listen, Log, Origin, Pool, Redis, SECTIONS,
    SETTINGS, Server, Setting, Slow, Tls,
};
pub use value::Range;
pub use word::{
    Analysis, AuthType, CacheMode, GroupMode, LoadBalance, LogFormat, LogLevel, OpaqueWrites,
    PinPolicy, PoolMode, SslMode,
};

use crate::sql::rules::{Rule, Rules};
use settings::WITHOUT_EFFECT;
use value::Raw;

/// Everything that can be set. Made by [`load`] alone, and whole: what it says can be relied on.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub base: Base,
    pub listen: Listen,
    pub admin: Admin,
    pub auth: Auth,
    pub pool: Pool,
    pub server: Server,
    pub tls: Tls,
    pub cache: Cache,
    pub redis: Redis,
    pub group: Group,
    pub log: Log,
    pub slow: Slow,
    pub insight: Insight,
    /// Where each database is; a name stands here once. Applies on reload.
    pub databases: Vec<DatabaseEntry>,
    /// What single users have of their own; a name stands here once. Applies on reload.
    pub users: Vec<UserEntry>,
    /// Who else listens on our address, by id. Applies on reload.
    pub peers: Vec<Peer>,
    /// What is not kept, or not for long; a name stands here once. Applies on reload.
    pub rules: Vec<Rule>,
    /// The database of clients that name none: that of `server.url`. Without one it is, as
    /// everywhere, the user's name.
    pub default_database: Option<String>,
    /// The user and password of `server.url`, for clients and console alike.
    pub credentials: Option<Credentials>,
    /// The text of `auth.auth_file`, not parsed.
    pub userlist: Option<SecretText>,
}

/// Whose defaults hold for what nobody wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Started from a URL or TOML.
    Forebay,
    /// Started from `pgbouncer.ini`: session pooling, md5, the cache off.
    PgBouncer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    /// `None`: only `trust` and `any` let this user in.
    pub password: Option<SecretText>,
}

/// One row of `SHOW CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub name: &'static str,
    pub value: String,
    pub default: String,
    /// SET applies it.
    pub changeable: bool,
}

/// A configuration to run with, and what the operator should hear about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// Sentences for the log, each naming the setting and its place.
    pub notices: Vec<String>,
}

impl Config {
    /// Every setting at its default, no database yet.
    pub fn defaults(base: Base) -> Self {
        let mut config = Self {
            base,
            listen: Listen::default(),
            admin: Admin::default(),
            auth: Auth::default(),
            pool: Pool::default(),
            server: Server::default(),
            tls: Tls::default(),
            cache: Cache::default(),
            redis: Redis::default(),
            group: Group::default(),
            log: Log::default(),
            slow: Slow::default(),
            insight: Insight::default(),
            databases: Vec::new(),
            users: Vec::new(),
            peers: Vec::new(),
            rules: Vec::new(),
            default_database: None,
            credentials: None,
            userlist: None,
        };
        match base {
            Base::Forebay => {}
            Base::PgBouncer => config.take_pgbouncer_defaults(),
        }
        config
    }

    fn take_pgbouncer_defaults(&mut self) {
        self.listen.listen_addr.clear();
        self.listen.max_client_conn = 100;
        self.listen.unix_socket_dir = Some(PathBuf::from("/tmp"));
        self.admin.address = None;
        self.auth.auth_type = Some(AuthType::Md5);
        self.pool.pool_mode = PoolMode::Session;
        self.cache.mode = CacheMode::Off;
        self.log.format = LogFormat::PgBouncer;
    }

    /// The entry for a database that a client names, if it may name it.
    pub fn database(&self, name: &str) -> Option<&DatabaseEntry> {
        let named = |wanted: &str| self.databases.iter().find(|entry| entry.name == wanted);
        named(name).or_else(|| named("*"))
    }

    /// What this user has of its own.
    pub fn user(&self, name: &str) -> Option<&UserEntry> {
        self.users.iter().find(|entry| entry.name == name)
    }

    /// What the operator says of answers.
    pub fn rules(&self) -> Rules {
        let functions = self.cache.functions.iter();
        Rules {
            rules: self.rules.clone(),
            functions: functions.filter_map(|text| rules::function(text).ok()).collect(),
        }
    }

    /// How clients log in; `auto` has been resolved.
    pub fn auth_type(&self) -> AuthType {
        self.auth.auth_type.unwrap_or(AuthType::ScramSha256)
    }

    /// Whether users that no file lists are looked up anywhere.
    pub fn looks_up_users(&self) -> bool {
        let own = |entry: &DatabaseEntry| entry.auth.auth_user.is_some();
        !self.auth.auth_user.is_empty() || self.databases.iter().any(own)
    }

    /// Where to listen for clients.
    pub fn listen_addresses(&self) -> impl Iterator<Item = ListenAddress> {
        let port = self.listen.listen_port;
        self.listen.listen_addr.iter().map(move |host| ListenAddress { host: host.clone(), port })
    }

    /// The rows of `SHOW CONFIG`, by name. Secrets are hidden.
    pub fn show(&self) -> Vec<Shown> {
        let defaults = Self::defaults(self.base);
        let effective = SETTINGS.iter().map(|setting| Shown {
            name: setting.shown_name(),
            value: setting.shown_value(self),
            default: setting.shown_value(&defaults),
            changeable: setting.applies == Applies::OnReload,
        });
        let without_effect = WITHOUT_EFFECT.iter().map(|(name, default)| Shown {
            name,
            value: (*default).to_owned(),
            default: (*default).to_owned(),
            changeable: false,
        });
        let mut rows: Vec<Shown> = effective.chain(without_effect).collect();
        rows.sort_by_key(|row| row.name);
        rows
    }

    /// What a reload makes of a running configuration: `new`, but for the settings that only a
    /// restart applies.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> Self {
        let mut reloaded = new.clone();
        for setting in SETTINGS.iter().filter(|setting| setting.applies == Applies::AtStart) {
            (setting.copy)(&mut reloaded, self);
        }
        if self.keeps_proof(new) {
            // With all that proofs are made of.
            reloaded.auth.clone_from(&self.auth);
            reloaded.userlist.clone_from(&self.userlist);
            reloaded.credentials.clone_from(&self.credentials);
        }
        reloaded
    }

    /// Asking nobody for a proof may have been chosen for addresses that are not listened on.
    fn keeps_proof(&self, new: &Self) -> bool {
        let asks = |config: &Self| !matches!(config.auth_type(), AuthType::Trust | AuthType::Any);
        asks(self) && !asks(new) && !self.listens_alike(new)
    }

    fn listens_alike(&self, new: &Self) -> bool {
        self.listen.listen_addr == new.listen.listen_addr && self.admin.address == new.admin.address
    }

    /// The settings in which `new` differs and that only a restart applies, as `SHOW CONFIG`
    /// names them. All else in `new` may be used at once.
    pub fn changed_without_restart(&self, new: &Self) -> Vec<&'static str> {
        SETTINGS
            .iter()
            .filter(|setting| setting.applies == Applies::AtStart && !(setting.same)(self, new))
            .map(Setting::shown_name)
            .chain(self.keeps_proof(new).then_some("auth_type"))
            .collect()
    }
}

/// What one source of settings says, nothing resolved: assignments in the order written.
#[derive(Default)]
struct Written {
    settings: Vec<WrittenSetting>,
    databases: Vec<WrittenEntry>,
    users: Vec<WrittenEntry>,
    peers: Vec<WrittenEntry>,
    rules: Vec<WrittenEntry>,
    mistakes: Vec<Mistake>,
    /// Settings without effect, each once, with the place it was first written.
    without_effect: BTreeMap<String, Place>,
}

struct WrittenSetting {
    setting: &'static Setting,
    place: Place,
    raw: Raw,
}

struct WrittenEntry {
    name: String,
    place: Place,
    keys: Vec<WrittenKey>,
}

struct WrittenKey {
    key: String,
    place: Place,
    raw: Raw,
}

impl Written {
    fn mistake(&mut self, place: Place, text: impl Into<String>) {
        self.mistakes.push(Mistake::new(place, text));
    }

    fn set(&mut self, setting: &'static Setting, place: Place, raw: Raw) {
        self.settings.push(WrittenSetting { setting, place, raw });
    }

    fn ignore(&mut self, name: &str, place: Place) {
        self.without_effect.entry(name.to_owned()).or_insert(place);
    }

    /// `later` wins wherever both speak.
    fn append(&mut self, later: Self) {
        self.settings.extend(later.settings);
        self.databases.extend(later.databases);
        self.users.extend(later.users);
        self.peers.extend(later.peers);
        self.rules.extend(later.rules);
        self.mistakes.extend(later.mistakes);
        for (name, place) in later.without_effect {
            self.without_effect.entry(name).or_insert(place);
        }
    }
}
