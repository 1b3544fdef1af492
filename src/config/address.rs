//! Addresses to listen on.

use std::fmt;
use std::net::IpAddr;

use super::value::{Range, Raw, Style, Value, expected, plain_or_quoted};

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
        Some(Self { host: bare.to_owned(), port: port.parse().ok()? })
    }

    /// Only programs on this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
            text => text.and_then(ListenAddress::parse).map(Some).ok_or_else(|| {
                expected::<Self>("an address and port such as \"127.0.0.1:6433\"", raw, range)
            }),
        }
    }

    fn show(&self, style: Style) -> String {
        let address = self.as_ref().map(ToString::to_string).unwrap_or_default();
        plain_or_quoted(&address, style)
    }
}
/// Permissions of a file, as `chmod` takes them: `0777`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Value for FileMode {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        raw.as_text()
            .and_then(|text| u32::from_str_radix(text, 8).ok())
            .filter(|mode| *mode <= 0o7777)
            .map(Self)
            .ok_or_else(|| expected::<Self>("permissions in octal, such as \"0777\"", raw, range))
    }

    fn show(&self, style: Style) -> String {
        plain_or_quoted(&format!("{:04o}", self.0), style)
    }
}
