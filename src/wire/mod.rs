//! The PostgreSQL protocol, version 3: bytes to messages and back.
//!
//! Knows nothing of sockets, states or SQL. Bodies stay bytes until a field is asked for.
//! Messages carry PostgreSQL's names; `frontend` and `backend` name a direction and nothing else.

pub mod sqlstate;
pub mod frame;
pub mod startup;
pub mod frontend;
pub mod backend;

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
        let end = nul_at(self.rest).ok_or(Malformed)?;
        let (text, rest) = self.rest.split_at_checked(end).ok_or(Malformed)?;
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(text)
    }
}

/// Where the first NUL is. Eight bytes at a time: of a word's bytes, taken one off each, the lowest
/// that borrows is the first that was none.
pub fn nul_at(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let nuls = word.wrapping_sub(ONES) & !word & HIGH_BITS;
        if nuls != 0 {
            return Some(index * 8 + nuls.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|&byte| byte == 0)?;
    Some(words.len() * 8 + at)
}

/// A body whose fields do not fit its declared length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_nul_is_found_wherever_it_is_and_whatever_stands_around() {
        for filler in [1, 2, 0x7F, 0x80, 0x81, 0xFF] {
            for len in 0..40 {
                let mut bytes = vec![filler; len];
                assert_eq!(nul_at(&bytes), None, "{filler} {len}");
                for at in (0..len).rev() {
                    bytes[at] = 0;
                    assert_eq!(nul_at(&bytes), Some(at), "{filler} {len}");
                    // One behind a NUL borrows from it, and is none itself.
                    bytes[at] = 1;
                }
            }
        }
        assert_eq!(nul_at(b"\x01\0\x01\0"), Some(1));
        assert_eq!(nul_at(b"abcdef\0\x01abc\0"), Some(6));
    }

    #[test]
    fn a_string_ends_with_its_nul_and_none_is_malformed() {
        let mut reader = Reader::new(b"\0name of nine\0rest");
        assert_eq!(reader.cstr(), Ok(&b""[..]));
        assert_eq!(reader.cstr(), Ok(&b"name of nine"[..]));
        assert_eq!(reader.rest(), b"rest");
        assert_eq!(reader.cstr(), Err(Malformed));
        assert_eq!(Reader::new(b"").cstr(), Err(Malformed));
    }
}
