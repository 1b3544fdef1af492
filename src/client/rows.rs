//! Rows and copy data on their way from the server to the client: runs of them go through unread,
//! and uncopied where the server's buffer can become the client's.

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::frame;

use super::session::Session;

/// Copying less costs no more than exchanging buffers.
const EXCHANGED_BYTES_MIN: usize = 4 * 1024;

/// Messages of one kind in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// Of all of them; the last may reach beyond what is there.
    pub(super) bytes: usize,
    pub(super) count: u64,
}

impl Run {
    /// The messages with this tag at the front of `bytes`. What cannot be read ends it.
    pub(super) fn of(tag: u8, bytes: &[u8], length_max: usize) -> Self {
        let mut run = Self::default();
        while let Some(rest) = bytes.get(run.bytes..)
            && let Ok(Some(header)) = frame::header(rest, length_max)
            && header.tag == tag
        {
            run.bytes += header.total;
            run.count += 1;
        }
        run
    }
}

impl Session {
    /// Takes `len` bytes of rows from `input`: whole ones, or pieces of one.
    pub(super) fn pass(
        &mut self,
        input: &mut BytesMut,
        len: usize,
        forward: bool,
        out: &mut Vec<u8>,
    ) {
        if !forward {
            input.advance(len);
            return;
        }
        if let Some(fill) = &mut self.work.fill {
            fill.rows(input.get(..len).unwrap_or_default());
        }
        self.work.bytes += len as u64;
        hand_over(input, len, out);
    }
}

/// Moves the first `len` bytes of `input` to the end of `out`. Where that is nearly all there is
/// and `out` has nothing yet, the two exchange their buffers.
fn hand_over(input: &mut BytesMut, len: usize, out: &mut Vec<u8>) {
    let rest = input.get(len..).unwrap_or_default();
    if !out.is_empty() || len < EXCHANGED_BYTES_MIN || rest.len() > len / 8 {
        out.extend_from_slice(input.get(..len).unwrap_or_default());
        input.advance(len);
        return;
    }
    let mut emptied = std::mem::take(out);
    emptied.extend_from_slice(rest);
    *out = Vec::from(std::mem::replace(input, BytesMut::from(Bytes::from(emptied))));
    out.truncate(len);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize, len: usize) -> Vec<u8> {
        let length = u8::try_from(len + 4).unwrap();
        [vec![b'D', 0, 0, 0, length], vec![b'x'; len]].concat().repeat(count)
    }

    #[test]
    fn a_run_ends_with_its_kind_and_may_reach_beyond_what_is_there() {
        let mut bytes = rows(3, 10);
        assert_eq!(Run::of(b'D', &bytes[..36], 100), Run { bytes: 45, count: 3 });
        assert_eq!(Run::of(b'D', &bytes[..34], 100), Run { bytes: 30, count: 2 });
        bytes.extend(b"C\0\0\0\x04");
        assert_eq!(Run::of(b'D', &bytes, 100), Run { bytes: 45, count: 3 });
        assert_eq!(Run::of(b'd', &bytes, 100), Run::default());
        assert_eq!(Run::of(b'D', &bytes, 13), Run::default());
    }

    #[test]
    fn bytes_arrive_in_order_copied_or_not() {
        for (len, rest, before) in [(8000, 4, 0), (8000, 4, 9), (8000, 4000, 0), (100, 0, 0)] {
            let sent: Vec<u8> = (0..=250).cycle().take(len + rest).collect();
            let mut input = BytesMut::from(&[b"old", &sent[..]].concat()[..]);
            input.advance(3);
            let mut out = vec![7; before];
            hand_over(&mut input, len, &mut out);
            assert!(out[before..] == sent[..len], "{len} {rest} {before}");
            assert!(input[..] == sent[len..], "{len} {rest} {before}");
        }
    }

    #[test]
    fn a_buffer_full_of_rows_is_not_copied_and_the_other_serves_in_turn() {
        let (mut input, mut out) = (BytesMut::zeroed(9000), Vec::with_capacity(10_000));
        let (full, empty) = (input.as_ptr(), out.as_ptr());
        hand_over(&mut input, 8996, &mut out);
        assert_eq!((out.as_ptr(), out.len()), (full, 8996));
        assert_eq!((input.as_ptr(), input.len()), (empty, 4));
        assert!(input.capacity() >= 10_000);
    }
}
