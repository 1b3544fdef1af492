//! From what was written to a `Config` that cannot be wrong, or to every mistake in it.
//! Order of precedence, lowest first: defaults, files, what the server URL carries, command line.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::database::{Databases, Elsewhere};
use super::limits::read_users;
use super::settings::{Applies, SETTINGS, WITHOUT_EFFECT};
use super::url::{self, ServerUrl};
use super::value::Raw;
use super::{
    AuthType, Base, CacheMode, Config, ListenAddress, Loaded, Mistake, Place, SecretText, SslMode,
    Written, WrittenEntry, WrittenSetting,
};
use super::{peer, rules};

/// A shorter token can be guessed.
const HTTP_TOKEN_CHARS_MIN: usize = 16;

/// So can a shorter secret of a group, by whoever has what it sealed.
const SECRET_CHARS_MIN: usize = 32;

/// `files` in the order given, then the command line; `read_file` is for `auth_file`.
pub(super) fn check(
    base: Base,
    mut files: Written,
    mut command_line: Written,
    read_file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Loaded, Vec<Mistake>> {
    let mut checker = Checker {
        config: Config::defaults(base),
        places: HashMap::new(),
        failed: Vec::new(),
        mistakes: std::mem::take(&mut files.mistakes),
        notices: notices(&files),
    };
    checker.mistakes.append(&mut command_line.mistakes);
    checker.apply(files.settings);
    let (first, rest): (Vec<_>, Vec<_>) =
        command_line.settings.into_iter().partition(|written| written.setting.name == "server.url");
    checker.apply(first);
    let mut server_url = checker.server_url();
    if let Some(server_url) = &mut server_url {
        checker.apply(std::mem::take(&mut server_url.written.settings));
    }
    checker.apply(rest);

    let socket_directory = checker.config.listen.unix_socket_dir.clone();
    let socket_directory = socket_directory.unwrap_or_else(|| "/tmp".into());
    checker.users(&files.users);
    checker.databases(&files.databases, server_url.as_ref(), &socket_directory.to_string_lossy());
    if let Some(server_url) = server_url {
        checker.config.default_database = server_url.default_database;
        checker.config.credentials = Some(server_url.credentials);
    }
    let (peers, mut mistakes) = peer::read(&files.peers);
    checker.config.peers = peers;
    checker.mistakes.append(&mut mistakes);
    let (rules, mut mistakes) = rules::read(&files.rules);
    checker.config.rules = rules;
    checker.mistakes.append(&mut mistakes);
    checker.listening();
    checker.http();
    checker.userlist(read_file);
    checker.authentication();
    checker.tls();
    checker.cache();
    if checker.mistakes.is_empty() {
        Ok(Loaded { config: checker.config, notices: checker.notices })
    } else {
        checker.mistakes.sort_by(|one, other| one.place.cmp(&other.place));
        Err(checker.mistakes)
    }
}

/// `config` with one setting changed, named as `SHOW CONFIG` names it; or what is wrong with that.
pub fn set(
    config: &Config,
    key: &str,
    value: &str,
    read_file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Config, String> {
    let Some(setting) = SETTINGS.iter().find(|setting| setting.shown_name() == key) else {
        let accepted = WITHOUT_EFFECT.iter().any(|(known, _)| *known == key);
        let unknown = || format!("unknown setting {}", key.escape_debug());
        return accepted.then(|| config.clone()).ok_or_else(unknown);
    };
    match setting.applies {
        Applies::OnReload => {}
        Applies::OnReloadAlone => {
            return Err(format!("{key} cannot be changed by SET: write it in the file and RELOAD"));
        }
        Applies::AtStart => return Err(format!("{key} cannot be changed without a restart")),
    }
    let mut checker = Checker {
        config: config.clone(),
        places: HashMap::new(),
        failed: Vec::new(),
        mistakes: Vec::new(),
        notices: Vec::new(),
    };
    let raw = Raw::Untyped(value.to_owned());
    checker.apply(vec![WrittenSetting { setting, place: Place::Nowhere, raw }]);
    checker.http();
    checker.userlist(read_file);
    checker.authentication();
    // Certificate and key are set one after the other; whether they fit is seen when they are read.
    checker.cache();
    if checker.mistakes.is_empty() {
        return Ok(checker.config);
    }
    let lines: Vec<String> = checker.mistakes.iter().map(ToString::to_string).collect();
    Err(lines.join("; "))
}

fn notices(files: &Written) -> Vec<String> {
    let mut ignored: Vec<_> = files.without_effect.iter().collect();
    ignored.sort_by_key(|(_, place)| *place);
    let notice = |(name, place)| format!("{place}{name}: accepted, has no effect yet");
    ignored.into_iter().map(notice).collect()
}

struct Checker {
    config: Config,
    /// Where each setting was last written, by `section.key`.
    places: HashMap<&'static str, Place>,
    /// Settings that could not be read: nothing that follows from them is a mistake of its own.
    failed: Vec<&'static str>,
    mistakes: Vec<Mistake>,
    notices: Vec<String>,
}

impl Checker {
    fn apply(&mut self, settings: Vec<WrittenSetting>) {
        for WrittenSetting { setting, place, raw } in settings {
            if let Err(text) = (setting.read)(&mut self.config, &raw, setting.range) {
                let text = match (&place, &raw) {
                    (Place::Option(_), _) => text,
                    // Places without types have no sections either.
                    (_, Raw::Untyped(_)) => format!("{}: {text}", setting.key),
                    _ => format!("{}: {text}", setting.name),
                };
                self.mistakes.push(Mistake::new(place.clone(), text));
                self.failed.push(setting.name);
            }
            self.places.insert(setting.name, place);
        }
    }

    /// A mistake that concerns `name`, at the place where it was written, if it was.
    fn mistake(&mut self, name: &'static str, text: &str) {
        let place = self.places.get(name).cloned().unwrap_or(Place::Nowhere);
        self.mistakes.push(Mistake::new(place, format!("{name}: {text}")));
    }

    fn all_read(&self, names: &[&str]) -> bool {
        !names.iter().any(|name| self.failed.contains(name))
    }

    fn server_url(&mut self) -> Option<ServerUrl> {
        if self.config.server.url.is_empty() {
            return None;
        }
        match url::parse(self.config.server.url.reveal()) {
            Ok(server_url) => Some(server_url),
            Err(texts) => {
                let place = self.places.get("server.url").cloned().unwrap_or(Place::Url);
                let name = if place == Place::Url { "" } else { "server.url: " };
                for text in texts {
                    self.mistakes.push(Mistake::new(place.clone(), format!("{name}{text}")));
                }
                self.failed.push("server.url");
                None
            }
        }
    }

    fn users(&mut self, written: &[WrittenEntry]) {
        let (users, mut mistakes) = read_users(written);
        self.config.users = users;
        self.mistakes.append(&mut mistakes);
    }

    fn databases(
        &mut self,
        written: &[WrittenEntry],
        server_url: Option<&ServerUrl>,
        socket_directory: &str,
    ) {
        let elsewhere = match (server_url, self.config.base) {
            (Some(server_url), _) => Elsewhere::Url(&server_url.entry),
            (None, _) if !self.all_read(&["server.url"]) => Elsewhere::Unreadable,
            (None, Base::PgBouncer) => Elsewhere::Directory(socket_directory),
            (None, Base::Forebay) => Elsewhere::Nowhere,
        };
        match elsewhere {
            Elsewhere::Nowhere if written.is_empty() => {
                let text = "no server: expected a postgres:// URL, server.url, or an entry in \
                            [databases] (see forebay --help)";
                self.mistakes.push(Mistake::new(Place::Nowhere, text));
            }
            // PgBouncer starts, and so does the file that packages install.
            Elsewhere::Directory(_) if written.is_empty() => {
                self.notices.push("[databases] is empty: there is the console alone".to_owned());
            }
            Elsewhere::Url(_)
            | Elsewhere::Unreadable
            | Elsewhere::Directory(_)
            | Elsewhere::Nowhere => {}
        }
        let mut databases = Databases::read(written, &elsewhere);
        self.config.databases = databases.entries;
        self.mistakes.append(&mut databases.mistakes);
    }

    fn listening(&mut self) {
        let listen = &self.config.listen;
        if listen.listen_addr.is_empty()
            && listen.unix_socket_dir.is_none()
            && self.all_read(&["listen.listen_addr", "listen.unix_socket_dir"])
        {
            let text = "expected an address such as 127.0.0.1, or a unix_socket_dir";
            self.mistake("listen.listen_addr", text);
        }
        let Some(admin) = self.config.admin.address.clone() else {
            return;
        };
        if admin.port != 0 && self.config.listen_addresses().any(|address| address == admin) {
            self.mistake("admin.address", &format!("{admin} is where clients connect already"));
        }
    }

    fn http(&mut self) {
        let admin = &self.config.admin;
        let length = admin.http_token.reveal().chars().count();
        if (1..HTTP_TOKEN_CHARS_MIN).contains(&length) {
            let text =
                format!("expected {HTTP_TOKEN_CHARS_MIN} characters at least, found {length}");
            self.mistake("admin.http_token", &text);
        }
        let Some(http) = self.config.admin.http_listen.clone() else {
            return;
        };
        let console = self.config.admin.address.iter().cloned();
        let is_taken = self.config.listen_addresses().chain(console).any(|taken| taken == http);
        if http.port != 0 && is_taken {
            let text = format!("{http} is where clients or the console connect already");
            self.mistake("admin.http_listen", &text);
        }
        if length == 0 && !http.is_loopback() && self.all_read(&["admin.http_token"]) {
            let text =
                format!("other machines could look at {http}: expected admin.http_token too");
            self.mistake("admin.http_listen", &text);
        }
    }

    fn userlist(&mut self, read_file: &dyn Fn(&Path) -> io::Result<String>) {
        let Some(path) = &self.config.auth.auth_file else {
            self.config.userlist = None;
            return;
        };
        match read_file(path) {
            Ok(text) => self.config.userlist = Some(SecretText::new(text)),
            Err(error) => {
                let text = format!("cannot read {}: {error}", path.display());
                self.mistake("auth.auth_file", &text);
            }
        }
    }

    /// Resolves `auto`, and who may use the console.
    fn authentication(&mut self) {
        if !self.all_read(&["auth.auth_type", "auth.auth_file", "server.url"]) {
            return;
        }
        let credentials = self.config.credentials.as_ref();
        let has_password = self.config.auth.auth_file.is_some()
            || credentials.is_some_and(|credentials| credentials.password.is_some())
            || self.config.looks_up_users();
        match self.config.auth.auth_type {
            None if has_password => self.config.auth.auth_type = Some(AuthType::ScramSha256),
            None if self.reached_from_here_alone() => {
                self.config.auth.auth_type = Some(AuthType::Trust);
            }
            None => self.mistake(
                "auth.auth_type",
                "other machines could connect without a password: expected a password in the \
                 server URL, an auth_file, or auth_type = \"trust\" if that is meant",
            ),
            Some(AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256)
                if !has_password && self.config.base == Base::PgBouncer =>
            {
                let notice = "auth_file is not set: nobody can log in";
                self.notices.push(notice.to_owned());
            }
            Some(AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256) if !has_password => self
                .mistake(
                    "auth.auth_type",
                    "nobody could log in: expected an auth_file, or a password in the server URL",
                ),
            Some(AuthType::Hba) if self.config.auth.auth_hba_file.is_none() => {
                self.mistake("auth.auth_type", "hba expects auth_hba_file");
            }
            Some(AuthType::Cert) if self.config.tls.client_tls_sslmode != SslMode::VerifyFull => {
                self.mistake("auth.auth_type", "cert expects client_tls_sslmode = verify-full");
            }
            // PgBouncer refuses the clients of the others.
            Some(AuthType::Any) if self.config.base == Base::PgBouncer => {}
            Some(AuthType::Any)
                if self.config.databases.iter().any(|entry| entry.user.is_none()) =>
            {
                self.mistake("auth.auth_type", "any expects a user in every entry of [databases]");
            }
            Some(
                AuthType::Trust
                | AuthType::Any
                | AuthType::Plain
                | AuthType::Md5
                | AuthType::ScramSha256
                | AuthType::Cert
                | AuthType::Peer
                | AuthType::Hba,
            ) => {}
        }
        if self.config.auth.auth_dbname == "pgbouncer" {
            let text = "cannot use the reserved \"pgbouncer\" database as an auth_dbname";
            self.mistake("auth.auth_dbname", text);
        }
        if self.config.admin.admin_users.is_empty()
            && let Some(credentials) = &self.config.credentials
        {
            self.config.admin.admin_users.push(credentials.user.clone());
        }
    }

    fn reached_from_here_alone(&self) -> bool {
        let admin = self.config.admin.address.iter().cloned();
        self.config
            .listen_addresses()
            .chain(admin)
            .all(|address: ListenAddress| address.is_loopback())
    }

    fn tls(&mut self) {
        let tls = &mut self.config.tls;
        let has_certificate = tls.client_tls_cert_file.is_some();
        let by_option =
            matches!(self.places.get("tls.client_tls_cert_file"), Some(Place::Option(_)));
        if by_option && has_certificate && tls.client_tls_sslmode == SslMode::Disable {
            tls.client_tls_sslmode = SslMode::Prefer;
        }
        let (mode, verifies) = (tls.client_tls_sslmode, tls.client_tls_ca_file.is_some());
        let client_pair = has_certificate == tls.client_tls_key_file.is_some();
        let server_pair = tls.server_tls_cert_file.is_some() == tls.server_tls_key_file.is_some();
        if !client_pair {
            self.mistake(
                "tls.client_tls_cert_file",
                "expected client_tls_cert_file and client_tls_key_file, both or neither",
            );
        }
        if !server_pair {
            self.mistake(
                "tls.server_tls_cert_file",
                "expected server_tls_cert_file and server_tls_key_file, both or neither",
            );
        }
        if mode != SslMode::Disable && !has_certificate && client_pair {
            let text = format!("{mode} expects client_tls_cert_file and client_tls_key_file");
            self.mistake("tls.client_tls_sslmode", &text);
        }
        if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) && !verifies {
            let text = format!("{mode} expects client_tls_ca_file");
            self.mistake("tls.client_tls_sslmode", &text);
        }
        if mode == SslMode::Disable && has_certificate {
            let notice = "tls.client_tls_cert_file: not used, client_tls_sslmode is disable";
            self.notices.push(notice.to_owned());
        }
    }

    fn cache(&mut self) {
        let (cache, redis) = (&self.config.cache, &self.config.redis);
        let entry_too_large = cache.max_entry_size > cache.size;
        let mode = cache.mode;
        // A group agrees there, whatever is kept.
        let redis_unused =
            mode != CacheMode::On && !redis.url.is_empty() && self.config.group.name.is_empty();
        let short =
            (1..SECRET_CHARS_MIN).contains(&self.config.group.secret.reveal().chars().count());
        let has =
            |schemes: &[&str]| schemes.iter().any(|scheme| redis.url.reveal().starts_with(scheme));
        let at_sentinels = has(&["redis+sentinel://", "rediss+sentinel://"]);
        let known_scheme =
            at_sentinels || has(&["redis://", "rediss://", "redis+unix://", "unix://"]);
        let lost_sentinels = at_sentinels && self.config.group.name.is_empty();
        let lonely = !self.config.group.name.is_empty() && redis.url.is_empty();
        let redis_unknown = !redis.url.is_empty() && !known_scheme;
        if entry_too_large && self.all_read(&["cache.size", "cache.max_entry_size"]) {
            let text = format!("expected at most cache.size, which is {}", self.config.cache.size);
            self.mistake("cache.max_entry_size", &text);
        }
        let unclear = |text: &String| rules::function(text).err();
        if let Some(text) = self.config.cache.functions.iter().find_map(unclear) {
            self.mistake("cache.functions", &text);
        }
        if redis_unknown {
            let text = "expected redis://, rediss://, redis+sentinel:// or unix:// and an address";
            self.mistake("redis.url", text);
        }
        if lost_sentinels {
            self.mistake("redis.url", "expected group.name: only a group asks sentinels");
        }
        if lonely {
            self.mistake("group.name", "expected redis.url: a group agrees through Redis");
        }
        if short {
            let text =
                format!("group.secret: fewer than {SECRET_CHARS_MIN} characters can be guessed");
            self.notices.push(text);
        }
        if redis_unused {
            self.notices.push(format!("redis.url: not used, cache.mode is {mode}"));
        }
    }
}
