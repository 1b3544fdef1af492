//! The untagged first packets: StartupMessage, SSLRequest, GSSENCRequest, CancelRequest.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use super::{Malformed, Reader};

/// PostgreSQL's own bound for a startup packet.
pub const PACKET_BYTES_MAX: usize = 10_000;
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const PROTOCOL_MAJOR: u32 = 3;

/// The newest minor version, ours and PostgreSQL 18's. It differs from 3.0 in longer cancel keys.
pub const MINOR: u16 = 2;

/// Cancel keys are four bytes in protocol 3.0 and up to 256 in 3.2.
pub const CANCEL_KEY_BYTES_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    SslRequest,
    GssencRequest,
    Cancel { pid: u32, key: Vec<u8> },
    Startup(Startup),
}

/// A StartupMessage as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The minor version asked for; above `MINOR` it is answered by NegotiateProtocolVersion.
    pub minor: u16,
    /// In the order sent, names as sent.
    pub parameters: Vec<(String, String)>,
}

impl Startup {
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What the client wants to replicate; an error if PostgreSQL would not understand it.
    pub fn replication(&self) -> Result<Replication, Malformed> {
        self.parameter("replication").map_or(Ok(Replication::None), Replication::read)
    }

    /// Whether PostgreSQL would send cancel keys longer than four bytes.
    pub fn has_long_keys(&self) -> bool {
        self.minor >= 2
    }

    /// Protocol extensions asked for (`_pq_.…`), none of which we know.
    pub fn extensions(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|(key, _)| key.as_str()).filter(|key| key.starts_with("_pq_."))
    }
}

/// Whether a connection is one to a WAL sender, and of which kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replication {
    #[default]
    None,
    /// Of one database.
    Logical,
    Physical,
}

impl Replication {
    /// The startup parameter, as PostgreSQL reads it: `database`, or any word for a boolean.
    fn read(value: &str) -> Result<Self, Malformed> {
        let word = value.to_ascii_lowercase();
        let begins = |full: &str, least: usize| word.len() >= least && full.starts_with(&word);
        if word == "database" {
            Ok(Self::Logical)
        } else if word == "1" || begins("true", 1) || begins("yes", 1) || word == "on" {
            Ok(Self::Physical)
        } else if word == "0" || begins("false", 1) || begins("no", 1) || begins("off", 2) {
            Ok(Self::None)
        } else {
            Err(Malformed)
        }
    }

    /// The value that asks a server for the same.
    pub fn parameter(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Logical => Some("database"),
            Self::Physical => Some("yes"),
        }
    }

    /// As the console says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Logical => "logical",
            Self::Physical => "physical",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartupError {
    /// Shorter than a packet can be, or over `PACKET_BYTES_MAX`.
    Length(u32),
    Version {
        major: u32,
        minor: u32,
    },
    Malformed,
    NotUtf8,
}

impl From<Malformed> for StartupError {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// The packet at the front of `bytes` and its length, or `None` while incomplete.
pub fn read(bytes: &[u8]) -> Result<Option<(Packet, usize)>, StartupError> {
    let Some((length_word, _)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length_word = u32::from_be_bytes(*length_word);
    let total = usize::try_from(length_word)
        .ok()
        .filter(|total| (8..=PACKET_BYTES_MAX).contains(total))
        .ok_or(StartupError::Length(length_word))?;
    let Some(body) = bytes.get(4..total) else { return Ok(None) };
    packet(body).map(|packet| Some((packet, total)))
}

fn packet(body: &[u8]) -> Result<Packet, StartupError> {
    let mut reader = Reader::new(body);
    match reader.u32()? {
        SSL_REQUEST if reader.is_empty() => Ok(Packet::SslRequest),
        GSSENC_REQUEST if reader.is_empty() => Ok(Packet::GssencRequest),
        CANCEL_REQUEST => {
            let pid = reader.u32()?;
            let key = reader.rest();
            if key.is_empty() || key.len() > CANCEL_KEY_BYTES_MAX {
                return Err(StartupError::Malformed);
            }
            Ok(Packet::Cancel { pid, key: key.to_vec() })
        }
        version => {
            let (major, minor) = (version >> 16, version & 0xffff);
            if major != PROTOCOL_MAJOR {
                return Err(StartupError::Version { major, minor });
            }
            let minor = u16::try_from(minor).unwrap_or(u16::MAX);
            Ok(Packet::Startup(Startup { minor, parameters: parameters(reader)? }))
        }
    }
}

fn parameters(mut reader: Reader<'_>) -> Result<Vec<(String, String)>, StartupError> {
    let mut parameters = Vec::new();
    loop {
        let name = reader.cstr()?;
        if name.is_empty() {
            // PostgreSQL refuses bytes behind the terminator.
            return if reader.is_empty() { Ok(parameters) } else { Err(StartupError::Malformed) };
        }
        let value = reader.cstr()?;
        parameters.push((utf8(name)?, utf8(value)?));
    }
}

fn utf8(bytes: &[u8]) -> Result<String, StartupError> {
    std::str::from_utf8(bytes).map(str::to_owned).or(Err(StartupError::NotUtf8))
}

/// Appends a StartupMessage of version 3.`minor`.
pub fn write_startup<'a>(
    out: &mut Vec<u8>,
    minor: u16,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(PROTOCOL_MAJOR << 16 | u32::from(minor)).to_be_bytes());
    for (name, value) in parameters {
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.extend_from_slice(value.as_bytes());
        out.push(0);
    }
    out.push(0);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(word) = out.get_mut(start..start + 4) {
        word.copy_from_slice(&length.to_be_bytes());
    }
}

/// A CancelRequest for a backend's key.
pub fn cancel_request(pid: u32, key: &[u8]) -> Vec<u8> {
    let length = u32::try_from(12 + key.len()).unwrap_or(u32::MAX);
    let mut packet = Vec::with_capacity(12 + key.len());
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
    packet.extend_from_slice(&pid.to_be_bytes());
    packet.extend_from_slice(key);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup_bytes() -> Vec<u8> {
        let mut bytes = Vec::new();
        write_startup(&mut bytes, 0, [("user", "ann"), ("database", "app")]);
        bytes
    }

    #[test]
    fn a_startup_message_is_read_back_as_written() {
        let bytes = startup_bytes();
        let (packet, total) = read(&bytes).unwrap().unwrap();
        assert_eq!(total, bytes.len());
        let Packet::Startup(startup) = packet else { panic!("not a startup") };
        assert_eq!(startup.parameter("user"), Some("ann"));
        assert_eq!(startup.parameter("database"), Some("app"));
    }

    #[test]
    fn every_prefix_is_incomplete() {
        let bytes = startup_bytes();
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(None));
        }
    }

    #[test]
    fn lengths_outside_the_bounds_are_refused() {
        assert_eq!(read(&[0, 0, 0, 7, 0, 0, 0]), Err(StartupError::Length(7)));
        assert_eq!(read(&[0, 0, 0x27, 0x11]), Err(StartupError::Length(10_001)));
        assert_eq!(read(b"GET / HTTP"), Err(StartupError::Length(0x4745_5420)));
    }

    #[test]
    fn requests_and_cancels_are_told_apart() {
        assert_eq!(read(&[0, 0, 0, 8, 4, 210, 22, 47]), Ok(Some((Packet::SslRequest, 8))));
        assert_eq!(read(&[0, 0, 0, 8, 4, 210, 22, 48]), Ok(Some((Packet::GssencRequest, 8))));
        let cancel = cancel_request(7, &[1, 2, 3, 4]);
        assert_eq!(read(&cancel), Ok(Some((Packet::Cancel { pid: 7, key: vec![1, 2, 3, 4] }, 16))));
    }

    #[test]
    fn truncated_parameters_are_malformed() {
        let mut bytes = startup_bytes();
        bytes.pop();
        let length = u8::try_from(bytes.len()).unwrap();
        bytes[3] = length;
        assert_eq!(read(&bytes), Err(StartupError::Malformed));
    }

    #[test]
    fn replication_is_read_as_postgres_reads_it() {
        for (value, expected) in [
            ("database", Ok(Replication::Logical)),
            ("yes", Ok(Replication::Physical)),
            ("TRUE", Ok(Replication::Physical)),
            ("1", Ok(Replication::Physical)),
            ("off", Ok(Replication::None)),
            ("0", Ok(Replication::None)),
            ("o", Err(Malformed)),
            ("", Err(Malformed)),
            ("logical", Err(Malformed)),
        ] {
            assert_eq!(Replication::read(value), expected, "{value}");
        }
    }

    #[test]
    fn version_two_is_refused_by_name() {
        assert_eq!(
            read(&[0, 0, 0, 8, 0, 2, 0, 0]),
            Err(StartupError::Version { major: 2, minor: 0 })
        );
    }
}
