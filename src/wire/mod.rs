//! The PostgreSQL protocol, version 3: bytes to messages and back.
//!
//! Knows nothing of sockets, states or SQL. Bodies stay bytes until a field is asked for.
//! Messages carry PostgreSQL's names; `frontend` and `backend` name a direction and nothing else.

pub mod sqlstate;
pub mod frame;
pub mod startup;
pub mod frontend;
pub mod backend;

use std::ffi::CStr;

/// Reads big-endian fields off the front of a message body; every read is checked.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(first)
    }

    pub fn i16(&mut self) -> Result<i16, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk::<2>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(i16::from_be_bytes(*bytes))
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk::<4>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(i32::from_be_bytes(*bytes))
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.i32().map(i32::cast_unsigned)
    }

    /// A count field: 16 bits, read as unsigned as PostgreSQL does for parameter counts.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        self.i16().map(|count| usize::from(count.cast_unsigned()))
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A string up to its NUL, which is consumed and not returned.
    #[inline]
    pub fn cstr(&mut self) -> Result<&'a [u8], Malformed> {
        // Most names are empty.
        if let Some((0, rest)) = self.rest.split_first() {
            self.rest = rest;
            return Ok(&[]);
        }
        self.filled_cstr()
    }

    fn filled_cstr(&mut self) -> Result<&'a [u8], Malformed> {
        // Looks at many bytes at a time, which a loop over them does not.
        let text = CStr::from_bytes_until_nul(self.rest).map_err(|_no_nul| Malformed)?.to_bytes();
        self.rest = self.rest.get(text.len() + 1..).unwrap_or_default();
        Ok(text)
    }
}

/// A body whose fields do not fit its declared length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;
