//! Messages PostgreSQL sends: tags, views of their bodies, encoders for those we make up.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use super::frontend::{put_cstr, write};
use super::sqlstate::FEATURE_NOT_SUPPORTED;
use super::{Malformed, Reader};

pub const AUTHENTICATION: u8 = b'R';
pub const BACKEND_KEY_DATA: u8 = b'K';
pub const BIND_COMPLETE: u8 = b'2';
pub const CLOSE_COMPLETE: u8 = b'3';
pub const COMMAND_COMPLETE: u8 = b'C';
pub const COPY_BOTH_RESPONSE: u8 = b'W';
pub const COPY_DATA: u8 = b'd';
pub const COPY_DONE: u8 = b'c';
pub const COPY_IN_RESPONSE: u8 = b'G';
pub const COPY_OUT_RESPONSE: u8 = b'H';
pub const DATA_ROW: u8 = b'D';
pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
pub const ERROR_RESPONSE: u8 = b'E';
pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
pub const NO_DATA: u8 = b'n';
pub const NOTICE_RESPONSE: u8 = b'N';
pub const NOTIFICATION_RESPONSE: u8 = b'A';
pub const PARAMETER_DESCRIPTION: u8 = b't';
pub const PARAMETER_STATUS: u8 = b'S';
pub const PARSE_COMPLETE: u8 = b'1';
pub const PORTAL_SUSPENDED: u8 = b's';
pub const READY_FOR_QUERY: u8 = b'Z';
pub const ROW_DESCRIPTION: u8 = b'T';

/// ParseComplete, BindComplete, CloseComplete and NoData as whole messages.
pub const PARSE_COMPLETE_MESSAGE: &[u8] = &[PARSE_COMPLETE, 0, 0, 0, 4];
pub const BIND_COMPLETE_MESSAGE: &[u8] = &[BIND_COMPLETE, 0, 0, 0, 4];
pub const CLOSE_COMPLETE_MESSAGE: &[u8] = &[CLOSE_COMPLETE, 0, 0, 0, 4];
pub const NO_DATA_MESSAGE: &[u8] = &[NO_DATA, 0, 0, 0, 4];

/// The status byte of ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Idle,
    InTransaction,
    Failed,
}

impl Status {
    pub fn read(body: &[u8]) -> Result<Self, Malformed> {
        match body {
            b"I" => Ok(Self::Idle),
            b"T" => Ok(Self::InTransaction),
            b"E" => Ok(Self::Failed),
            _ => Err(Malformed),
        }
    }

    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// The number at the end of a command tag, and so of what ends in a CommandComplete message: how
/// many rows it was about. `None`: the tag has none.
pub fn rows_of_tag(bytes: &[u8]) -> Option<u64> {
    let tag = bytes.strip_suffix(b"\0")?;
    let count = tag.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (before, digits) = tag.split_at_checked(tag.len() - count)?;
    let number = digits.iter().try_fold(0_u64, |number, digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })?;
    (count > 0 && before.ends_with(b" ")).then_some(number)
}

/// One field of an ErrorResponse or NoticeResponse, such as `C` for the SQLSTATE.
pub fn error_field(body: &[u8], field: u8) -> Option<&[u8]> {
    let mut reader = Reader::new(body);
    loop {
        match reader.u8() {
            Ok(0) | Err(Malformed) => return None,
            Ok(code) => {
                let text = reader.cstr().ok()?;
                if code == field {
                    return Some(text);
                }
            }
        }
    }
}

/// ParameterStatus: name and value.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    Ok((reader.cstr()?, reader.cstr()?))
}

/// The values of a DataRow.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, Malformed> {
    let mut reader = Reader::new(body);
    let count = reader.count()?;
    let mut values = Vec::with_capacity(count.min(reader.rest().len()));
    for _ in 0..count {
        values.push(match usize::try_from(reader.i32()?) {
            Ok(len) => Some(reader.bytes(len)?),
            Err(_null) => None,
        });
    }
    Ok(values)
}

/// Severity of a message that we raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Fatal,
}

/// ErrorResponse in PostgreSQL's field order.
pub fn write_error(out: &mut Vec<u8>, severity: Severity, sqlstate: &str, message: &str) {
    let severity = match severity {
        Severity::Error => "ERROR",
        Severity::Fatal => "FATAL",
    };
    write(out, ERROR_RESPONSE, |body| put_fields(body, severity, sqlstate, message));
}

/// ParameterDescription: four bytes a type.
pub fn write_parameter_description(out: &mut Vec<u8>, types: &[u8]) {
    write(out, PARAMETER_DESCRIPTION, |body| {
        let count = u16::try_from(types.len() / 4).unwrap_or(u16::MAX);
        body.extend_from_slice(&count.to_be_bytes());
        body.extend_from_slice(types);
    });
}

/// What PostgreSQL says where a prepared statement would give another result than when it was
/// parsed. Drivers know it by its routine, and parse the statement anew.
pub fn write_result_changed(out: &mut Vec<u8>) {
    write(out, ERROR_RESPONSE, |body| {
        for (field, text) in [
            (b'S', "ERROR"),
            (b'V', "ERROR"),
            (b'C', FEATURE_NOT_SUPPORTED),
            (b'M', "cached plan must not change result type"),
            (b'F', "plancache.c"),
            (b'R', "RevalidateCachedQuery"),
        ] {
            body.push(field);
            put_cstr(body, text.as_bytes());
        }
        body.push(0);
    });
}

pub fn write_notice(out: &mut Vec<u8>, message: &str) {
    write(out, NOTICE_RESPONSE, |body| put_fields(body, "NOTICE", "00000", message));
}

fn put_fields(body: &mut Vec<u8>, severity: &str, sqlstate: &str, message: &str) {
    for (field, text) in [(b'S', severity), (b'V', severity), (b'C', sqlstate), (b'M', message)] {
        body.push(field);
        put_cstr(body, text.as_bytes());
    }
    body.push(0);
}

pub fn write_ready(out: &mut Vec<u8>, status: Status) {
    out.extend_from_slice(&[READY_FOR_QUERY, 0, 0, 0, 5, status.byte()]);
}

pub fn write_command_complete(out: &mut Vec<u8>, tag: &str) {
    write(out, COMMAND_COMPLETE, |body| put_cstr(body, tag.as_bytes()));
}

/// AuthenticationRequest with the four-byte method and its data already in `body`.
pub fn write_authentication(out: &mut Vec<u8>, body: &[u8]) {
    write(out, AUTHENTICATION, |out| out.extend_from_slice(body));
}

pub fn write_parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    write(out, PARAMETER_STATUS, |body| {
        put_cstr(body, name.as_bytes());
        put_cstr(body, value.as_bytes());
    });
}

pub fn write_backend_key_data(out: &mut Vec<u8>, pid: u32, key: &[u8]) {
    write(out, BACKEND_KEY_DATA, |body| {
        body.extend_from_slice(&pid.to_be_bytes());
        body.extend_from_slice(key);
    });
}

/// NegotiateProtocolVersion of a server: the newest minor version it speaks.
pub fn negotiate(body: &[u8]) -> Result<u16, Malformed> {
    let version = Reader::new(body).u32()?;
    if version >> 16 == 3 {
        u16::try_from(version & 0xffff).or(Err(Malformed))
    } else {
        Err(Malformed)
    }
}

/// NegotiateProtocolVersion: the minor version that will be spoken and the options we do not know.
pub fn write_negotiate<'a>(out: &mut Vec<u8>, minor: u16, options: impl Iterator<Item = &'a str>) {
    let options: Vec<&str> = options.collect();
    write(out, NEGOTIATE_PROTOCOL_VERSION, |body| {
        body.extend_from_slice(&(3_u32 << 16 | u32::from(minor)).to_be_bytes());
        body.extend_from_slice(&u32::try_from(options.len()).unwrap_or(u32::MAX).to_be_bytes());
        for option in options {
            put_cstr(body, option.as_bytes());
        }
    });
}

/// A column of a RowDescription that we make up: text format, no table.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    pub name: &'a str,
    pub type_oid: u32,
    pub type_len: i16,
}

pub fn write_row_description(out: &mut Vec<u8>, columns: &[Column<'_>]) {
    write(out, ROW_DESCRIPTION, |body| {
        body.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(u16::MAX).to_be_bytes());
        for column in columns {
            put_cstr(body, column.name.as_bytes());
            body.extend_from_slice(&[0; 6]);
            body.extend_from_slice(&column.type_oid.to_be_bytes());
            body.extend_from_slice(&column.type_len.to_be_bytes());
            body.extend_from_slice(&(-1_i32).to_be_bytes());
            body.extend_from_slice(&[0; 2]);
        }
    });
}

pub fn write_data_row<'a>(
    out: &mut Vec<u8>,
    values: impl ExactSizeIterator<Item = Option<&'a str>>,
) {
    write(out, DATA_ROW, |body| {
        body.extend_from_slice(&u16::try_from(values.len()).unwrap_or(u16::MAX).to_be_bytes());
        for value in values {
            match value {
                None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(text) => {
                    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
                    body.extend_from_slice(&len.to_be_bytes());
                    body.extend_from_slice(text.as_bytes());
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_ends_in_how_many_rows_it_was_about_if_it_tells() {
        for (tag, expected) in [
            (&b"SELECT 3\0"[..], Some(3)),
            (b"INSERT 0 12\0", Some(12)),
            (b"D\0\0\0\x04C\0\0\0\rSELECT 0\0", Some(0)),
            (b"BEGIN\0", None),
            (b"X7\0", None),
            (b"7\0", None),
            (b"SELECT 99999999999999999999999\0", None),
            (b"SELECT 3", None),
            (b"", None),
        ] {
            assert_eq!(rows_of_tag(tag), expected, "{tag:?}");
        }
    }

    #[test]
    fn error_fields_are_found_by_letter() {
        let mut out = Vec::new();
        write_error(&mut out, Severity::Fatal, "3D000", "no such database");
        let body = &out[5..];
        assert_eq!(error_field(body, b'C'), Some(&b"3D000"[..]));
        assert_eq!(error_field(body, b'V'), Some(&b"FATAL"[..]));
        assert_eq!(error_field(body, b'D'), None);
        for end in 0..body.len() {
            let _unfinished = error_field(&body[..end], b'D');
        }
    }

    #[test]
    fn a_data_row_is_read_back_as_written() {
        let mut out = Vec::new();
        write_data_row(&mut out, [Some("a"), None].into_iter());
        assert_eq!(data_row(&out[5..]), Ok(vec![Some(&b"a"[..]), None]));
        assert_eq!(data_row(&out[5..out.len() - 1]), Err(Malformed));
    }
}
