//! Messages of the protocol, as bytes: where they end, and how they are written.

use std::io;

/// Longer ones are a mistake of the peer or of ours; nothing here asks for or sends as much.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Of a tag and a length word.
pub(crate) const HEADER_BYTES: usize = 5;

/// The length of the whole message at the front, or `None` while it is incomplete.
pub(crate) fn whole(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(length) = bytes.get(1..HEADER_BYTES).map(number) else { return Ok(None) };
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(broken("a message of impossible length"));
    }
    Ok((bytes.len() > length).then_some(length + 1))
}

/// The same for a packet without a tag, with which a connection begins.
pub(crate) fn whole_packet(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(length) = bytes.get(..4).map(number) else { return Ok(None) };
    if !(8..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(broken("a packet of impossible length"));
    }
    Ok((bytes.len() >= length).then_some(length))
}

/// Big-endian; of what is longer than a length word, the impossible length 0.
pub(crate) fn number(bytes: &[u8]) -> usize {
    let four = bytes.try_into().map(u32::from_be_bytes);
    four.ok().and_then(|number| number.try_into().ok()).unwrap_or_default()
}

pub(crate) fn write(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    write_packet(out, body);
}

pub(crate) fn write_packet(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = length(out.len() - start);
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length);
    }
}

pub(crate) fn text(out: &mut Vec<u8>, words: &str) {
    out.extend_from_slice(words.as_bytes());
    out.push(0);
}

pub(crate) fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

pub(crate) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_with_its_last_byte() {
        let mut bytes = Vec::new();
        write(&mut bytes, b'Q', |out| text(out, "SELECT 1"));
        for end in 0..bytes.len() {
            assert_eq!(whole(&bytes[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(whole(&bytes).unwrap(), Some(bytes.len()));
        bytes.extend_from_slice(b"more");
        assert_eq!(whole(&bytes).unwrap(), Some(bytes.len() - 4));
    }

    #[test]
    fn a_length_that_cannot_be_is_an_error() {
        assert!(whole(&[b'Q', 0, 0, 0, 3]).is_err());
        assert!(whole(&[b'Q', 0xff, 0, 0, 0]).is_err());
        assert!(whole_packet(&[0, 0, 0, 7]).is_err());
    }
}
