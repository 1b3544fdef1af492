//! `postgres://user:password@host:port/database?option=value`, as libpq reads it, to a database
//! entry and the settings it carries. Mistakes never repeat any part that may hold the password.

use std::path::PathBuf;

use super::mistake::{closest, suggestion};
use super::settings::by_name;
use super::value::Raw;
use super::{
    AuthLookup, Credentials, DatabaseEntry, DatabaseLimits, Host, LoadBalance, Place, SecretText,
    Written,
};

/// What a URL says.
pub(super) struct ServerUrl {
    /// For any database of that host.
    pub(super) entry: DatabaseEntry,
    pub(super) credentials: Credentials,
    pub(super) default_database: Option<String>,
    /// Settings it carries: `sslmode` and its kin, `connect_timeout`.
    pub(super) written: Written,
}

pub(super) fn is_url(text: &str) -> bool {
    after_scheme(text).is_some()
}

fn after_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"))
}

const PARAMETERS: &[&str] = &[
    "application_name",
    "connect_timeout",
    "host",
    "options",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
];

/// Every mistake at once.
pub(super) fn parse(text: &str) -> Result<ServerUrl, Vec<String>> {
    let rest = after_scheme(text)
        .ok_or_else(|| vec!["expected postgres://user:password@host/database".to_owned()])?;
    let mut parser = Parser::default();
    let (main, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = main.split_once('/').unwrap_or((main, ""));
    let in_name =
        |parameter: &str| parameter.split('=').next().is_some_and(|key| key.contains('@'));
    if path.contains('@')
        || query.split('&').any(in_name)
        || (!authority.contains('@') && query.contains('@'))
    {
        // What follows would name pieces of the password as if they were a port or a parameter.
        return Err(vec![
            "expected / and ? in a user or password as %2F and %3F, and @ elsewhere as %40"
                .to_owned(),
        ]);
    }
    // The last @: a password may hold one unescaped, a host may not.
    let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));

    let user = parser.decode("user", user);
    let password = parser.decode("password", password);
    let database = parser.decode("database", path);
    parser.address(address);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let key = parser.decode("parameter name", key);
        let value = parser.decode(&key, value);
        parser.parameter(&key, value);
    }
    if user.is_empty() {
        parser.mistakes.push("expected a user: postgres://user:password@host/database".to_owned());
    }
    parser.finish(user, password, database)
}

#[derive(Default)]
struct Parser {
    host: String,
    port: Option<u16>,
    application_name: Option<String>,
    options: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    written: Written,
    mistakes: Vec<String>,
}

impl Parser {
    /// `%41` to `A`; what is not proper is a mistake that names `part`.
    fn decode(&mut self, part: &str, text: &str) -> String {
        percent_decode(text).unwrap_or_else(|| {
            let part = part.escape_debug();
            self.mistakes.push(format!(
                "{part}: expected % to be followed by two hexadecimal digits that make UTF-8 \
                 without NUL"
            ));
            String::new()
        })
    }

    /// `host`, `host:port`, `[::1]:port`, or nothing.
    fn address(&mut self, address: &str) {
        let (host, port) = if let Some(rest) = address.strip_prefix('[') {
            let Some((host, port)) = rest.split_once(']') else {
                self.mistakes.push("host: expected ] after an IPv6 address".to_owned());
                return;
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                self.mistakes.push("host: expected an IPv6 address in brackets".to_owned());
            }
            (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("")))
        } else {
            let (host, port) = address.split_once(':').unwrap_or((address, ""));
            (host, (!port.contains(':')).then_some(port))
        };
        self.host = self.decode("host", host);
        match port {
            Some("") => {}
            Some(port) => self.port(port),
            None => self.mistakes.push(
                "host: expected host or host:port; an IPv6 address stands in brackets".to_owned(),
            ),
        }
    }

    fn port(&mut self, text: &str) {
        match text.parse::<u16>() {
            Ok(port) if port > 0 => self.port = Some(port),
            Ok(_) | Err(_) => {
                self.mistakes.push("port: expected a whole number from 1 to 65535".to_owned());
            }
        }
    }

    fn parameter(&mut self, key: &str, value: String) {
        match key {
            "host" => self.host = value,
            "port" => self.port(&value),
            "application_name" => self.application_name = Some(value),
            "options" => self.options = Some(value),
            "sslmode" => self.sslmode = Some(value),
            "sslrootcert" => self.sslrootcert = Some(value),
            "sslcert" => self.setting("tls", "server_tls_cert_file", value),
            "sslkey" => self.setting("tls", "server_tls_key_file", value),
            "connect_timeout" => self.setting("server", "server_connect_timeout", value),
            unknown => {
                let hint = suggestion(closest(unknown, PARAMETERS.iter().copied()));
                self.mistakes.push(format!("unknown parameter {}{hint}", unknown.escape_debug()));
            }
        }
    }

    fn setting(&mut self, section: &str, key: &str, value: String) {
        if let Some(setting) = by_name(section, key) {
            self.written.set(setting, Place::Url, Raw::Untyped(value));
        }
    }

    fn verification(&mut self) {
        let (mode, authorities) = (self.sslmode.take(), self.sslrootcert.take());
        // libpq's word for the system's trust anchors, which are worth nothing unless the host name
        // is compared too.
        let is_system = authorities.as_deref() == Some("system");
        if is_system && mode.as_deref().is_some_and(|mode| mode != "verify-full") {
            let mistake = "sslmode: expected verify-full, or none, with sslrootcert=system";
            self.mistakes.push(mistake.to_owned());
        }
        let mode = mode.or_else(|| is_system.then(|| "verify-full".to_owned()));
        let file = authorities.map(|file| if is_system { String::new() } else { file });
        for (key, value) in [("server_tls_sslmode", mode), ("server_tls_ca_file", file)] {
            if let Some(value) = value {
                self.setting("tls", key, value);
            }
        }
    }

    fn finish(
        mut self,
        user: String,
        password: String,
        database: String,
    ) -> Result<ServerUrl, Vec<String>> {
        self.verification();
        let host = if self.host.is_empty() { "localhost" } else { self.host.as_str() };
        let host = parse_host(host).unwrap_or_else(|mistake| {
            self.mistakes.push(format!("host: {mistake}"));
            Host::Name(String::new())
        });
        if !self.mistakes.is_empty() {
            return Err(self.mistakes);
        }
        let password = (!password.is_empty()).then(|| SecretText::new(password));
        let entry = DatabaseEntry {
            name: "*".to_owned(),
            host,
            port: self.port.unwrap_or(5432),
            load_balance_hosts: LoadBalance::RoundRobin,
            dbname: None,
            user: Some(user.clone()),
            password: password.clone(),
            pool_size: None,
            pool_mode: None,
            limits: DatabaseLimits::default(),
            connect_query: None,
            application_name: self.application_name,
            parameters: Vec::new(),
            options: self.options,
            auth: AuthLookup::default(),
        };
        Ok(ServerUrl {
            entry,
            credentials: Credentials { user, password },
            default_database: (!database.is_empty()).then_some(database),
            written: self.written,
        })
    }
}

/// A name, an address, or the directory of a Unix socket; one that begins with `@` has no files.
pub(super) fn parse_host(text: &str) -> Result<Host, &'static str> {
    if text.starts_with(['/', '@']) {
        Ok(Host::SocketDirectory(PathBuf::from(text)))
    } else if text.contains(',') {
        text.split(',').map(parse_host).collect::<Result<_, _>>().map(Host::Several)
    } else if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        Err("expected a host name, an address, or a directory that begins with /")
    } else {
        Ok(Host::Name(text.to_owned()))
    }
}

/// `None` for a % without two digits, for bytes that are not UTF-8, and for NUL, which no startup
/// packet can carry.
fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
            let value = digit()? * 16 + digit()?;
            decoded.push(u8::try_from(value).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok().filter(|text| !text.contains('\0'))
}
