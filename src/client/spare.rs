//! One read buffer a thread, lent to whichever client has something to read: a client that waits
//! holds none, and none is allocated for a query.

use std::cell::Cell;

use bytes::BytesMut;

/// What is read at once.
pub const READ_BYTES: usize = 16 * 1024;

thread_local! {
    static SPARE: Cell<BytesMut> = Cell::default();
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
    fn a_buffer_that_grew_is_not_kept() {
        let mut buffer = take();
        buffer.resize(4 * READ_BYTES, 0);
        buffer.advance(4 * READ_BYTES - 1);
        give(buffer);
        assert!(take().capacity() < 2 * READ_BYTES);
    }
}
