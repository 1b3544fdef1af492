//! One buffer a thread to read into and one to answer from, lent to whichever client has something
//! to read: a client that waits holds none, and none is allocated for a query.

use std::cell::Cell;

use bytes::BytesMut;

/// What is read at once.
pub const READ_BYTES: usize = 16 * 1024;

thread_local! {
    static SPARE: Cell<BytesMut> = Cell::default();
    static SPARE_OUTPUT: Cell<Vec<u8>> = Cell::default();
}

/// An empty buffer for answers.
pub fn take_output() -> Vec<u8> {
    SPARE_OUTPUT.take()
}

/// Takes back a buffer whose content has been written. One that grew for a long answer is freed.
pub fn give_output(buffer: Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() <= 2 * READ_BYTES {
        SPARE_OUTPUT.set(buffer);
    }
}

/// An empty buffer of at least `READ_BYTES`.
pub fn take() -> BytesMut {
    let mut buffer = SPARE.take();
    buffer.reserve(READ_BYTES);
    buffer
}

/// Takes back a buffer whose content has been read. One that grew for a long message is freed.
pub fn give(mut buffer: BytesMut) {
    buffer.clear();
    if !buffer.try_reclaim(2 * READ_BYTES) {
        SPARE.set(buffer);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    #[test]
    fn the_same_buffer_is_lent_again_whole() {
        let mut buffer = take();
        let place = buffer.as_ptr();
        buffer.extend_from_slice(b"select 1");
        buffer.advance(8);
        give(buffer);
        // Had it been freed, this would be at its place.
        let _other = BytesMut::with_capacity(READ_BYTES);
        let again = take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert!(again.capacity() >= READ_BYTES);
    }

    #[test]
    fn answers_have_one_buffer_too_unless_it_grew() {
        let mut buffer = take_output();
        buffer.reserve_exact(READ_BYTES);
        let place = buffer.as_ptr();
        give_output(buffer);
        let mut again = take_output();
        assert_eq!(again.as_ptr(), place);
        again.reserve_exact(2 * READ_BYTES + 1);
        give_output(again);
        assert_eq!(take_output().capacity(), 0);
    }

    #[test]
    fn a_buffer_that_grew_is_not_kept() {
        let mut buffer = take();
        buffer.resize(4 * READ_BYTES, 0);
        buffer.advance(4 * READ_BYTES - 1);
        give(buffer);
        assert!(take().capacity() < 2 * READ_BYTES);
    }
}
