//! Where one message ends: a tag byte, a four-byte length that counts itself, a body.
//! Not for what a message means.

/// Tag and length word.
pub const HEADER_BYTES: usize = 5;

/// The first five bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// The whole message on the wire, header included; at least `HEADER_BYTES`.
    pub total: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length word counts itself, so less than 4 is impossible.
    LengthTooSmall {
        tag: u8,
    },
    LengthTooLarge {
        tag: u8,
        length: usize,
    },
}

/// The header at the front of `bytes`, or `None` while it is incomplete.
///
/// `body_max` bounds the length word; a larger one is an error before any body is buffered.
pub fn header(bytes: &[u8], length_max: usize) -> Result<Option<Header>, FrameError> {
    let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    let Ok(length) = usize::try_from(length) else {
        return Err(FrameError::LengthTooLarge { tag, length: usize::MAX });
    };
    if length < 4 {
        return Err(FrameError::LengthTooSmall { tag });
    }
    if length > length_max {
        return Err(FrameError::LengthTooLarge { tag, length });
    }
    Ok(Some(Header { tag, total: length.saturating_add(1) }))
}

/// The tag and body of the complete message at the front of `bytes`, or `None`.
pub fn split(bytes: &[u8], length_max: usize) -> Result<Option<(Header, &[u8])>, FrameError> {
    let Some(header) = header(bytes, length_max)? else { return Ok(None) };
    Ok(bytes.get(HEADER_BYTES..header.total).map(|body| (header, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_incomplete_until_five_bytes_are_there() {
        let message = b"Q\x00\x00\x00\x09abcd\0";
        for end in 0..HEADER_BYTES {
            assert_eq!(header(&message[..end], 100), Ok(None));
        }
        assert_eq!(header(message, 100), Ok(Some(Header { tag: b'Q', total: 10 })));
    }

    #[test]
    fn a_length_below_four_is_wrong_and_never_incomplete() {
        for length in 0..4 {
            assert_eq!(
                header(&[b'Q', 0, 0, 0, length], 100),
                Err(FrameError::LengthTooSmall { tag: b'Q' })
            );
        }
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_its_body_arrives() {
        assert_eq!(
            header(&[b'Q', 0, 0, 0, 101], 100),
            Err(FrameError::LengthTooLarge { tag: b'Q', length: 101 })
        );
        assert_eq!(
            header(&[b'Q', 255, 255, 255, 255], 100),
            Err(FrameError::LengthTooLarge { tag: b'Q', length: 4_294_967_295 })
        );
    }

    #[test]
    fn a_body_is_given_only_when_whole() {
        let message = b"Q\x00\x00\x00\x06ab+";
        assert_eq!(split(&message[..6], 100), Ok(None));
        let (header, body) = split(message, 100).unwrap().unwrap();
        assert_eq!((header.tag, header.total, body), (b'Q', 7, &b"ab"[..]));
    }
}
