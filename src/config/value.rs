//! Values as people write them (`"60s"`, `256MB`, `on`) to the types the program uses, and back.
//! Every reader says what it expected; none repeats a secret.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A value as written, before anyone knows what it should be.
///
/// No `Debug`: it may hold a password.
#[derive(Clone, PartialEq)]
pub(super) enum Raw {
    /// From a place without types: `pgbouncer.ini`, the command line, a URL.
    Untyped(String),
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<String>),
    /// Something no setting takes: its name for people.
    Other(&'static str),
}

impl Raw {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Untyped(text) | Self::Text(text) => Some(text),
            Self::Integer(_) | Self::Float(_) | Self::Bool(_) | Self::List(_) | Self::Other(_) => {
                None
            }
        }
    }

    fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Untyped(text) => text.parse().ok(),
            Self::Integer(number) => Some(*number),
            Self::Text(_) | Self::Float(_) | Self::Bool(_) | Self::List(_) | Self::Other(_) => None,
        }
    }

    /// The value for an error text.
    pub(super) fn found(&self) -> String {
        match self {
            Self::Untyped(text) | Self::Text(text) => format!("\"{}\"", text.escape_debug()),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(kind) => (*kind).to_owned(),
        }
    }

    /// Its kind alone, where the value may be secret.
    fn found_kind(&self) -> &'static str {
        match self {
            Self::Untyped(_) | Self::Text(_) => "a text",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Other(kind) => kind,
        }
    }
}

/// What a setting admits, in the unit of its type: milliseconds for durations, bytes for sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    Any,
    /// Both ends included.
    Between(u64, u64),
    /// As `Between`; 0 means off and is admitted too.
    OffOrBetween(u64, u64),
}

impl Range {
    fn admits(self, value: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Between(low, high) => (low..=high).contains(&value),
            Self::OffOrBetween(low, high) => value == 0 || (low..=high).contains(&value),
        }
    }

    /// `from 1 to 10`, with the ends as `show` writes them; nothing for `Any`.
    pub(super) fn words(self, show: impl Fn(u64) -> String) -> Option<String> {
        match self {
            Self::Any => None,
            Self::Between(low, high) => Some(format!("from {} to {}", show(low), show(high))),
            Self::OffOrBetween(low, high) => {
                Some(format!("0 or from {} to {}", show(low), show(high)))
            }
        }
    }
}

/// For whom a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `SHOW CONFIG` in PgBouncer's manner: seconds without a unit, 1 and 0.
    PgBouncer,
    /// `SHOW CONFIG` for Forebay's own settings: `60s`, `256MB`, `on`.
    Own,
    /// A TOML file.
    Toml,
}

/// A type a setting can have.
pub(super) trait Value: Sized + PartialEq {
    /// The error is the whole sentence: what was expected, what was found.
    fn read(raw: &Raw, range: Range) -> Result<Self, String>;
    /// Hides secrets, in any style.
    fn show(&self, style: Style) -> String;
    /// The range as people write it.
    fn range_words(range: Range) -> Option<String> {
        range.words(|number| number.to_string())
    }
}

fn expected<T: Value>(what: &str, raw: &Raw, range: Range) -> String {
    let range = T::range_words(range).map_or_else(String::new, |words| format!(" {words}"));
    format!("expected {what}{range}, found {}", raw.found())
}

/// A text as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                quoted.extend(format!("\\u{:04X}", u32::from(control)).chars());
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn plain_or_quoted(text: &str, style: Style) -> String {
    match style {
        Style::Toml => quoted(text),
        Style::PgBouncer | Style::Own => text.to_owned(),
    }
}

macro_rules! whole_number {
    ($($type:ty),*) => { $(
        impl Value for $type {
            fn read(raw: &Raw, range: Range) -> Result<Self, String> {
                raw.as_integer()
                    .and_then(|number| u64::try_from(number).ok())
                    .filter(|number| range.admits(*number))
                    .and_then(|number| Self::try_from(number).ok())
                    .ok_or_else(|| expected::<Self>("a whole number", raw, range))
            }

            fn show(&self, _style: Style) -> String {
                self.to_string()
            }
        }
    )* };
}

whole_number!(u16, u32);

impl Value for bool {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        let value = match raw {
            Raw::Bool(value) => Some(*value),
            Raw::Untyped(text) => match text.to_ascii_lowercase().as_str() {
                "1" | "on" | "yes" | "true" | "t" | "y" => Some(true),
                "0" | "off" | "no" | "false" | "f" | "n" => Some(false),
                _ => None,
            },
            Raw::Text(_) | Raw::Integer(_) | Raw::Float(_) | Raw::List(_) | Raw::Other(_) => None,
        };
        value.ok_or_else(|| expected::<Self>("true or false", raw, range))
    }

    fn show(&self, style: Style) -> String {
        match (style, self) {
            (Style::PgBouncer, true) => "1",
            (Style::PgBouncer, false) => "0",
            (Style::Own | Style::Toml, true) => "true",
            (Style::Own | Style::Toml, false) => "false",
        }
        .to_owned()
    }
}

impl Value for Duration {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        let duration = match raw {
            Raw::Untyped(text) | Raw::Text(text) => parse_duration(text),
            Raw::Integer(seconds) => u64::try_from(*seconds).ok().map(Self::from_secs),
            Raw::Float(seconds) => Self::try_from_secs_f64(*seconds).ok(),
            Raw::Bool(_) | Raw::List(_) | Raw::Other(_) => None,
        };
        duration
            .filter(|duration| {
                // Rounded up, so that half a millisecond is not taken for 0, which means off.
                let milliseconds = duration.as_nanos().div_ceil(1_000_000);
                u64::try_from(milliseconds).is_ok_and(|number| range.admits(number))
            })
            .ok_or_else(|| expected::<Self>("a duration such as \"60s\"", raw, range))
    }

    fn show(&self, style: Style) -> String {
        match style {
            Style::PgBouncer => self.as_secs_f64().to_string(),
            Style::Own => duration_words(*self),
            Style::Toml => quoted(&duration_words(*self)),
        }
    }

    fn range_words(range: Range) -> Option<String> {
        range.words(|milliseconds| duration_words(Self::from_millis(milliseconds)))
    }
}

/// `250ms`, `60s`, `5m`, `1h`, `2d`; without unit seconds, decimals allowed.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text);
    let seconds_per_unit = match unit {
        "us" => 0.000_001,
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * seconds_per_unit).ok()
}

fn duration_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() == 0 {
        if seconds > 0 && seconds.is_multiple_of(86400) {
            format!("{}d", seconds / 86400)
        } else if seconds > 0 && seconds.is_multiple_of(3600) {
            format!("{}h", seconds / 3600)
        } else {
            format!("{seconds}s")
        }
    } else if duration.subsec_nanos().is_multiple_of(1_000_000) {
        format!("{}ms", duration.as_millis())
    } else {
        format!("{}s", duration.as_secs_f64())
    }
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end).unwrap_or((text, ""));
    (number, unit.trim_start())
}

/// A count of bytes. `kB`, `MB`, `GB` are powers of 1024, as PostgreSQL and Redis mean them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    pub const fn kilobytes(count: u64) -> Self {
        Self(count << 10)
    }

    pub const fn megabytes(count: u64) -> Self {
        Self(count << 20)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }
}

const SIZE_UNITS: [(&str, u64); 4] = [
    ("TB", 1 << 40),
    ("GB", 1 << 30),
    ("MB", 1 << 20),
    ("kB", 1 << 10),
];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS
            .into_iter()
            .find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes));
        match unit {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Value for Size {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        let size = match raw {
            Raw::Untyped(text) | Raw::Text(text) => parse_size(text),
            Raw::Integer(bytes) => u64::try_from(*bytes).ok().map(Self),
            Raw::Float(_) | Raw::Bool(_) | Raw::List(_) | Raw::Other(_) => None,
        };
        size.filter(|size| range.admits(size.0))
            .ok_or_else(|| expected::<Self>("a size such as \"256MB\"", raw, range))
    }

    fn show(&self, style: Style) -> String {
        plain_or_quoted(&self.to_string(), style)
    }

    fn range_words(range: Range) -> Option<String> {
        range.words(|bytes| Self(bytes).to_string())
    }
}

/// `256MB`, `1GiB`, `4096`; whole numbers only.
fn parse_size(text: &str) -> Option<Size> {
    let (number, unit) = number_and_unit(text);
    let bytes_per_unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1_u64,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(bytes_per_unit)
        .map(Size)
}

impl Value for String {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        raw.as_text()
            .map(str::to_owned)
            .ok_or_else(|| expected::<Self>("a text", raw, range))
    }

    fn show(&self, style: Style) -> String {
        plain_or_quoted(self, style)
    }
}

impl Value for Vec<String> {
    /// A list, or a text separated by commas.
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        match raw {
            Raw::List(items) => Ok(items.clone()),
            Raw::Untyped(text) | Raw::Text(text) => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect()),
            Raw::Integer(_) | Raw::Float(_) | Raw::Bool(_) | Raw::Other(_) => {
                Err(expected::<Self>("a list of texts", raw, range))
            }
        }
    }

    fn show(&self, style: Style) -> String {
        match style {
            Style::PgBouncer | Style::Own => self.join(","),
            Style::Toml => {
                let items: Self = self.iter().map(|item| quoted(item)).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }
}

impl Value for Option<PathBuf> {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        let text = raw
            .as_text()
            .ok_or_else(|| expected::<Self>("a path", raw, range))?;
        Ok((!text.is_empty()).then(|| PathBuf::from(text)))
    }

    fn show(&self, style: Style) -> String {
        let path = self
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        plain_or_quoted(&path, style)
    }
}

/// A text that never shows itself: not in `Debug`, not on the console, not in an error.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself; for the wire only.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "\"\""
        } else {
            "\"****\""
        })
    }
}

impl Value for SecretText {
    fn read(raw: &Raw, _range: Range) -> Result<Self, String> {
        raw.as_text()
            .map(Self::new)
            .ok_or_else(|| format!("expected a text, found {}", raw.found_kind()))
    }

    fn show(&self, style: Style) -> String {
        plain_or_quoted(if self.0.is_empty() { "" } else { "****" }, style)
    }
}

/// Host and port to listen on. The host is an address, a name, or `*` for every address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    pub host: String,
    pub port: u16,
}

impl ListenAddress {
    /// `127.0.0.1:6432`, `[::1]:6432`, `*:6432`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let bare = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        if bare.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            host: bare.to_owned(),
            port: port.parse().ok()?,
        })
    }

    /// Only programs on this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Value for Option<ListenAddress> {
    /// An empty text is none.
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        match raw.as_text() {
            Some("") => Ok(None),
            text => text
                .and_then(ListenAddress::parse)
                .map(Some)
                .ok_or_else(|| {
                    expected::<Self>("an address and port such as \"127.0.0.1:6433\"", raw, range)
                }),
        }
    }

    fn show(&self, style: Style) -> String {
        let address = self.as_ref().map(ToString::to_string).unwrap_or_default();
        plain_or_quoted(&address, style)
    }
}

/// Declares an enum whose values are words in the configuration.
macro_rules! words {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident { $( $(#[doc = $variant_doc:literal])* $variant:ident = $word:literal ),+ $(,)? }
    )*) => { $(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[doc = $variant_doc])* $variant ),+ }

        impl $name {
            const WORDS: &[&str] = &[$($word),+];

            /// The word for it in the configuration.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $word ),+ }
            }

            fn from_word(word: &str) -> Option<Self> {
                match word { $( $word => Some(Self::$variant), )+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl Value for $name {
            fn read(raw: &Raw, range: Range) -> Result<Self, String> {
                raw.as_text()
                    .and_then(Self::from_word)
                    .ok_or_else(|| expected::<Self>(&one_of(Self::WORDS), raw, range))
            }

            fn show(&self, style: Style) -> String {
                plain_or_quoted(self.name(), style)
            }
        }
    )* };
}

/// `a, b or c`.
fn one_of(words: &[&str]) -> String {
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

words! {
    /// When a server goes back to its pool. Statement pooling is not there yet.
    PoolMode {
        /// When the client disconnects.
        Session = "session",
        /// When the transaction ends.
        Transaction = "transaction",
    }

    /// How clients prove who they are.
    AuthType {
        /// Not at all, but the user must be known.
        Trust = "trust",
        /// Not at all, and whatever user is named the entry's own user is used.
        Any = "any",
        /// Password in the clear.
        Plain = "plain",
        /// MD5, or SCRAM for users whose stored secret is SCRAM's.
        Md5 = "md5",
        ScramSha256 = "scram-sha-256",
    }

    /// What to do about session state that cannot be replayed on another server.
    PinPolicy {
        /// Keep the server with the client until the state is gone.
        Pin = "pin",
        /// Nothing, as PgBouncer does: the state may be lost, or leak to another client.
        Ignore = "ignore",
        /// Refuse the statement that would make it.
        Refuse = "refuse",
    }

    /// Whether the cache answers.
    CacheMode {
        Off = "off",
        On = "on",
        /// Count what would have been hits, serve none.
        DryRun = "dry_run",
    }

    LogLevel {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }

    LogFormat {
        Text = "text",
        Json = "json",
    }

    /// As libpq's and PgBouncer's `sslmode`.
    SslMode {
        Disable = "disable",
        Allow = "allow",
        Prefer = "prefer",
        Require = "require",
        VerifyCa = "verify-ca",
        VerifyFull = "verify-full",
    }
}

impl Value for Option<AuthType> {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        match raw.as_text() {
            Some("auto") => Ok(None),
            text => text.and_then(AuthType::from_word).map(Some).ok_or_else(|| {
                let words = format!("auto, {}", one_of(AuthType::WORDS));
                expected::<Self>(&words, raw, range)
            }),
        }
    }

    fn show(&self, style: Style) -> String {
        plain_or_quoted(self.map_or("auto", AuthType::name), style)
    }
}
