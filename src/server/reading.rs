//! How much of a server's answer is read at once: much of one that streams, little of others, so
//! that a server at rest holds no large buffer.

use bytes::BytesMut;

/// More than most answers have.
const BYTES_MIN: usize = 16 * 1024;

/// What still lies in the processor's nearer caches when it is written out again.
const BYTES_MAX: usize = 128 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    bytes: usize,
}

impl Default for Reading {
    fn default() -> Self {
        Self { bytes: BYTES_MIN }
    }
}

impl Reading {
    /// Makes room for the next read, and gives how much there is.
    pub fn make_room(self, input: &mut BytesMut) -> usize {
        // A message cut short is left in front; without the slack its buffer would be doubled.
        if input.capacity() - input.len() < self.bytes - self.bytes / 8 {
            input.reserve(self.bytes);
        }
        input.capacity() - input.len()
    }

    /// A read into that much room gave that many bytes.
    pub fn read(&mut self, count: usize, room: usize) {
        if count >= room {
            self.bytes = (self.bytes * 4).min(BYTES_MAX);
        }
    }

    /// Its answer comes as fast as it is read.
    pub fn is_streaming(self) -> bool {
        self.bytes > BYTES_MIN
    }

    /// Nothing more is owed.
    pub fn rest(&mut self, input: &mut BytesMut) {
        if self.is_streaming() {
            *self = Self::default();
            // What is left of it, if anything, is short.
            *input = BytesMut::from(&**input);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    #[test]
    fn room_grows_while_reads_fill_it_and_is_given_back_at_rest() {
        let (mut reading, mut input) = (Reading::default(), BytesMut::new());
        let room = reading.make_room(&mut input);
        assert!((BYTES_MIN..BYTES_MAX).contains(&room));
        reading.read(room - 1, room);
        assert_eq!(reading, Reading::default());
        assert!(!reading.is_streaming());
        for _ in 0..2 {
            let room = reading.make_room(&mut input);
            reading.read(room, room);
            assert!(reading.is_streaming());
        }
        assert!(reading.make_room(&mut input) >= BYTES_MAX);
        input.extend_from_slice(b"Z");
        reading.rest(&mut input);
        assert_eq!(&input[..], b"Z");
        assert!(reading.make_room(&mut input) < BYTES_MAX);
    }

    #[test]
    fn messages_cut_short_make_no_buffer_grow() {
        let (mut reading, mut input) = (Reading::default(), BytesMut::new());
        for _ in 0..100 {
            let room = reading.make_room(&mut input);
            input.resize(input.len() + room, 0);
            reading.read(room, room);
            input.advance(input.len() - 4);
        }
        assert!(input.capacity() <= 2 * BYTES_MAX);
    }
}
