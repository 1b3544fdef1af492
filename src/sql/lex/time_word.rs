//! Text that PostgreSQL may read as a moment: `now`, `today`, `tomorrow`, `yesterday`. Errs on
//! the side of finding one.

const WORDS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];

/// The text may name a moment when read as a date or time, or as an array, range or row of such.
///
/// A word counts where no letter stands beside it: the reader of dates splits `1now_` into three
/// fields. Backslashes and double quotes inside the word do not hide it, since arrays, ranges and
/// rows drop them.
pub fn contains_time_word(text: &[u8]) -> bool {
    contains(text, true)
}

/// As [`contains_time_word`], for the body of an `E'…'` string.
pub(super) fn may_hide_time_word(body: &[u8]) -> bool {
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        // These escapes stand for no letter and no digit; all others may.
        if *byte == b'\\'
            && !matches!(
                bytes.next(),
                Some(b'\\' | b'\'' | b'"' | b'b' | b'f' | b'n' | b'r' | b't')
            )
        {
            return true;
        }
    }
    // In `\nnow` the letter before the word is none.
    contains(body, !body.contains(&b'\\'))
}

/// All words end in `w` or `y`, which are rare: whole blocks without them are passed by.
fn contains(text: &[u8], whole: bool) -> bool {
    const BLOCK: usize = 32;
    text.chunks(BLOCK).enumerate().any(|(index, block)| {
        let candidate =
            block.iter().fold(false, |found, byte| found | matches!(byte | 0x20, b'w' | b'y'));
        candidate
            && block.iter().enumerate().any(|(offset, byte)| {
                matches!(byte | 0x20, b'w' | b'y') && ends_word(text, index * BLOCK + offset, whole)
            })
    })
}

/// A time word ends with the letter at `last`.
fn ends_word(text: &[u8], last: usize, whole: bool) -> bool {
    if whole && text.get(last + 1).is_some_and(u8::is_ascii_alphabetic) {
        return false;
    }
    let head = text.get(..=last).unwrap_or_default();
    WORDS.iter().any(|word| ends_with(head, word, whole))
}

fn ends_with(head: &[u8], word: &[u8], whole: bool) -> bool {
    let mut before = head.iter().rev();
    let spelled = word.iter().rev().all(|letter| {
        before
            .by_ref()
            .find(|byte| !matches!(byte, b'\\' | b'"'))
            .is_some_and(|byte| byte.eq_ignore_ascii_case(letter))
    });
    spelled && !(whole && before.next().is_some_and(u8::is_ascii_alphabetic))
}
