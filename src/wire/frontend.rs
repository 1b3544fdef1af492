//! Messages applications send: tags, views of their bodies, encoders.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use super::{Malformed, Reader};

pub const BIND: u8 = b'B';
pub const CLOSE: u8 = b'C';
pub const COPY_DATA: u8 = b'd';
pub const COPY_DONE: u8 = b'c';
pub const COPY_FAIL: u8 = b'f';
pub const DESCRIBE: u8 = b'D';
pub const EXECUTE: u8 = b'E';
pub const FLUSH: u8 = b'H';
pub const FUNCTION_CALL: u8 = b'F';
pub const PARSE: u8 = b'P';
/// PasswordMessage, SASLInitialResponse, SASLResponse, GSSResponse share it.
pub const PASSWORD: u8 = b'p';
pub const QUERY: u8 = b'Q';
pub const SYNC: u8 = b'S';
pub const TERMINATE: u8 = b'X';

/// Statement or portal, as Describe and Close name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Statement,
    Portal,
}

impl Target {
    pub fn byte(self) -> u8 {
        match self {
            Self::Statement => b'S',
            Self::Portal => b'P',
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub sql: &'a [u8],
    /// Four bytes a declared type, big-endian.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let (name, sql) = (reader.cstr()?, reader.cstr()?);
        let count = reader.count()?;
        let types = reader.bytes(count * 4)?;
        if reader.is_empty() { Ok(Self { name, sql, types }) } else { Err(Malformed) }
    }

    pub fn type_oids(types: &[u8]) -> impl Iterator<Item = u32> + '_ {
        types.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    /// Everything behind the two names: formats, values, result formats.
    pub tail: &'a [u8],
    /// Two bytes a code.
    pub formats: &'a [u8],
    /// Count of parameters, and their length-prefixed values.
    pub values_count: usize,
    pub values: &'a [u8],
    /// Two bytes a code.
    pub result_formats: &'a [u8],
}

impl<'a> Bind<'a> {
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let (portal, statement) = (reader.cstr()?, reader.cstr()?);
        let tail = reader.rest();
        let count = reader.count()?;
        let formats = reader.bytes(count * 2)?;
        let values_count = reader.count()?;
        let before = reader.rest();
        for _ in 0..values_count {
            let len = reader.i32()?;
            if len < -1 {
                return Err(Malformed);
            }
            reader.bytes(usize::try_from(len).unwrap_or(0))?;
        }
        let values_len = before.len().saturating_sub(reader.rest().len());
        let values = before.get(..values_len).ok_or(Malformed)?;
        let count = reader.count()?;
        let result_formats = reader.bytes(count * 2)?;
        if !reader.is_empty() {
            return Err(Malformed);
        }
        Ok(Self { portal, statement, tail, formats, values_count, values, result_formats })
    }

    /// Whether any value is sent as text: one code speaks for all, none means all text.
    pub fn values_may_be_text(&self) -> bool {
        self.formats.is_empty() || self.formats.as_chunks::<2>().0.contains(&[0, 0])
    }
}

/// Describe and Close: what is meant, and its name.
pub fn target(body: &[u8]) -> Result<(Target, &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    let target = match reader.u8()? {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        _ => return Err(Malformed),
    };
    let name = reader.cstr()?;
    if reader.is_empty() { Ok((target, name)) } else { Err(Malformed) }
}

/// Execute: portal and the greatest number of rows, 0 for all.
pub fn execute(body: &[u8]) -> Result<(&[u8], u32), Malformed> {
    let mut reader = Reader::new(body);
    let portal = reader.cstr()?;
    let rows = reader.u32()?;
    if reader.is_empty() { Ok((portal, rows)) } else { Err(Malformed) }
}

/// Query: its text.
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body);
    let sql = reader.cstr()?;
    if reader.is_empty() { Ok(sql) } else { Err(Malformed) }
}

/// The same of a body that `query` has accepted before.
pub fn accepted_query(body: &[u8]) -> &[u8] {
    body.split_last().map_or(&[], |(_nul, sql)| sql)
}

/// Appends one message; `body` writes its fields and the length is filled in after.
pub fn write(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(word) = out.get_mut(start..start + 4) {
        word.copy_from_slice(&length.to_be_bytes());
    }
}

pub fn write_query(out: &mut Vec<u8>, sql: &str) {
    write(out, QUERY, |body| put_cstr(body, sql.as_bytes()));
}

pub fn write_parse(out: &mut Vec<u8>, name: &[u8], sql: &[u8], types: &[u8]) {
    write(out, PARSE, |body| {
        put_cstr(body, name);
        put_cstr(body, sql);
        let count = u16::try_from(types.len() / 4).unwrap_or(u16::MAX);
        body.extend_from_slice(&count.to_be_bytes());
        body.extend_from_slice(types);
    });
}

/// A Bind whose names are replaced; `tail` as in [`Bind::tail`].
pub fn write_bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], tail: &[u8]) {
    write(out, BIND, |body| {
        put_cstr(body, portal);
        put_cstr(body, statement);
        body.extend_from_slice(tail);
    });
}

/// Describe or Close.
pub fn write_target(out: &mut Vec<u8>, tag: u8, target: Target, name: &[u8]) {
    write(out, tag, |body| {
        body.push(target.byte());
        put_cstr(body, name);
    });
}

pub fn write_sync(out: &mut Vec<u8>) {
    write(out, SYNC, |_| {});
}

pub fn put_cstr(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_split_into_its_parts() {
        let mut body = b"p\0s\0".to_vec();
        body.extend_from_slice(&[0, 1, 0, 1, 0, 2]);
        body.extend_from_slice(&[0, 0, 0, 2, b'4', b'2', 255, 255, 255, 255]);
        body.extend_from_slice(&[0, 1, 0, 1]);
        let bind = Bind::read(&body).unwrap();
        assert_eq!((bind.portal, bind.statement), (&b"p"[..], &b"s"[..]));
        assert_eq!(bind.values_count, 2);
        assert_eq!(bind.values, &[0, 0, 0, 2, b'4', b'2', 255, 255, 255, 255]);
        assert_eq!(bind.result_formats, &[0, 1]);
        assert!(!bind.values_may_be_text());
        for end in 0..body.len() {
            assert_eq!(Bind::read(&body[..end]).err(), Some(Malformed), "prefix of {end}");
        }
        body.push(0);
        assert_eq!(Bind::read(&body).err(), Some(Malformed));
    }

    #[test]
    fn a_parse_is_read_back_as_written() {
        let mut out = Vec::new();
        write_parse(&mut out, b"s1", b"select $1", &[0, 0, 0, 23]);
        let body = &out[5..];
        let parse = Parse::read(body).unwrap();
        assert_eq!((parse.name, parse.sql), (&b"s1"[..], &b"select $1"[..]));
        assert_eq!(Parse::type_oids(parse.types).collect::<Vec<_>>(), [23]);
        for end in 0..body.len() {
            assert_eq!(Parse::read(&body[..end]).err(), Some(Malformed));
        }
    }

    #[test]
    fn a_negative_value_length_other_than_null_is_malformed() {
        let mut body = b"\0\0".to_vec();
        body.extend_from_slice(&[0, 0, 0, 1, 255, 255, 255, 254, 0, 0]);
        assert_eq!(Bind::read(&body).err(), Some(Malformed));
    }

    #[test]
    fn describe_names_only_statements_and_portals() {
        assert_eq!(target(b"Sx\0"), Ok((Target::Statement, &b"x"[..])));
        assert_eq!(target(b"P\0"), Ok((Target::Portal, &b""[..])));
        assert_eq!(target(b"Q\0"), Err(Malformed));
        assert_eq!(target(b"Sx"), Err(Malformed));
    }

    #[test]
    fn what_another_implementation_writes_is_read() {
        use bytes::BytesMut;
        use pgwire::messages::Message as _;
        use pgwire::messages::extendedquery;
        let mut bytes = BytesMut::new();
        let theirs = extendedquery::Parse::new(Some("s1".into()), "select $1".into(), vec![23, 25]);
        theirs.encode(&mut bytes).unwrap();
        let ours = Parse::read(&bytes[5..]).unwrap();
        assert_eq!((ours.name, ours.sql), (&b"s1"[..], &b"select $1"[..]));
        assert_eq!(Parse::type_oids(ours.types).collect::<Vec<_>>(), [23, 25]);
        bytes.clear();
        let values = vec![Some(bytes::Bytes::from_static(b"42")), None];
        let theirs = extendedquery::Bind::new(None, Some("s1".into()), vec![0, 1], values, vec![1]);
        theirs.encode(&mut bytes).unwrap();
        let ours = Bind::read(&bytes[5..]).unwrap();
        assert_eq!((ours.portal, ours.statement), (&b""[..], &b"s1"[..]));
        assert_eq!((ours.formats, ours.result_formats), (&[0, 0, 0, 1][..], &[0, 1][..]));
        assert_eq!(ours.values, &[0, 0, 0, 2, b'4', b'2', 255, 255, 255, 255]);
        // And the other way round: a whole message of ours.
        let mut message = Vec::new();
        write_parse(&mut message, b"s1", b"select $1", &[0, 0, 0, 23]);
        let context = pgwire::messages::DecodeContext::default();
        let read = extendedquery::Parse::decode(&mut BytesMut::from(&message[..]), &context);
        let read = read.unwrap().unwrap();
        assert_eq!((read.name.as_deref(), read.query.as_str()), (Some("s1"), "select $1"));
    }
}
