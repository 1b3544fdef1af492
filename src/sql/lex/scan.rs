//! Where tokens end: functions from bytes and a position to a position. Read as PostgreSQL's
//! `scan.l` reads them; each position handed in lies inside the text or at its end.

use std::ops::Range;

use super::{LexError, NotPlain, Quote};

/// What a byte begins outside quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Stray,
    Blank,
    /// Letters, `_` and every byte from 0x80 on.
    Word,
    Digit,
    Dollar,
    Quote,
    DoubleQuote,
    Dot,
    Minus,
    Slash,
    Operator,
    Open,
    Close,
    Comma,
    Semicolon,
}

#[expect(clippy::indexing_slicing, reason = "a byte indexes a table of 256")]
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Stray; 256];
    let mut byte = 0_u8;
    loop {
        classes[byte as usize] = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0C => Class::Blank,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => Class::Word,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            b'.' => Class::Dot,
            b'-' => Class::Minus,
            b'/' => Class::Slash,
            b'(' => Class::Open,
            b')' => Class::Close,
            b',' => Class::Comma,
            b';' => Class::Semicolon,
            b'[' | b']' | b':' | b'+' | b'*' | b'%' | b'^' | b'<' | b'>' | b'=' | b'~' | b'!'
            | b'@' | b'#' | b'&' | b'|' | b'`' | b'?' => Class::Operator,
            _ => Class::Stray,
        };
        if byte == u8::MAX {
            break classes;
        }
        byte += 1;
    }
};

#[expect(clippy::indexing_slicing, reason = "a byte indexes a table of 256")]
pub(super) fn class(byte: u8) -> Class {
    CLASSES[usize::from(byte)]
}

/// The byte at `at`, or NUL behind the end: the text itself holds none.
pub(super) fn byte(sql: &[u8], at: usize) -> u8 {
    sql.get(at).copied().unwrap_or(0)
}

pub(super) fn is_comment(sql: &[u8], at: usize) -> bool {
    matches!((byte(sql, at), byte(sql, at + 1)), (b'-', b'-') | (b'/', b'*'))
}

/// Most bytes of a statement are inside words, so this one question has a table of its own.
#[expect(clippy::indexing_slicing, reason = "a byte indexes a table of 256")]
const IS_IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(CLASSES[byte], Class::Word | Class::Digit | Class::Dollar);
        byte += 1;
    }
    table
};

#[expect(clippy::indexing_slicing, reason = "a byte indexes a table of 256")]
pub(super) fn word_end(sql: &[u8], from: usize) -> usize {
    let mut at = from;
    while sql.get(at).is_some_and(|byte| IS_IN_WORD[usize::from(*byte)]) {
        at += 1;
    }
    at
}

/// End of the blanks and comments at `at`, which may be none. `last`: where the last comment is.
pub(super) fn gap_end(
    sql: &[u8],
    mut at: usize,
    last: &mut Option<Range<usize>>,
) -> Result<usize, LexError> {
    loop {
        if class(byte(sql, at)) == Class::Blank {
            at += 1;
        } else if is_comment(sql, at) {
            let end = comment_end(sql, at)?;
            *last = Some(at..end);
            at = end;
        } else {
            return Ok(at);
        }
    }
}

/// The comment that the text begins with, blanks aside. Errors are those of `gap_end`, which has
/// seen it before.
pub(super) fn leading_comment(sql: &[u8]) -> Option<Range<usize>> {
    let start = position(sql, 0, |byte| class(byte) != Class::Blank)?;
    if !is_comment(sql, start) {
        return None;
    }
    Some(start..comment_end(sql, start).ok()?)
}

/// End of the comment at `start`; that of a `--` comment stands before its line break.
fn comment_end(sql: &[u8], start: usize) -> Result<usize, LexError> {
    let end = if byte(sql, start) == b'-' {
        position(sql, start, |byte| matches!(byte, b'\n' | b'\r')).unwrap_or(sql.len())
    } else {
        block_comment_end(sql, start)?
    };
    let comment = sql.get(start..end).unwrap_or_default();
    if std::str::from_utf8(comment).is_err() {
        return Err(LexError::NotPlain(NotPlain::CommentEncoding));
    }
    Ok(end)
}

/// Block comments nest.
fn block_comment_end(sql: &[u8], start: usize) -> Result<usize, LexError> {
    let mut depth = 0_usize;
    let mut at = start;
    while at < sql.len() {
        match (byte(sql, at), byte(sql, at + 1)) {
            (b'/', b'*') => {
                depth += 1;
                at += 2;
            }
            (b'*', b'/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Ok(at);
                }
            }
            _ => at += 1,
        }
    }
    Err(LexError::Unterminated(Quote::Comment))
}

/// The closing quote of a string or identifier in which a doubled quote stands for itself.
pub(super) fn doubled_close(
    sql: &[u8],
    mut at: usize,
    quote: u8,
    what: Quote,
) -> Result<usize, LexError> {
    while let Some(close) = find(sql, at, quote) {
        if byte(sql, close + 1) != quote {
            return Ok(close);
        }
        at = close + 2;
    }
    Err(LexError::Unterminated(what))
}

/// The closing quote of an `E'…'` string: a backslash takes any byte behind it.
pub(super) fn escape_string_close(sql: &[u8], mut at: usize) -> Result<usize, LexError> {
    while let Some(found) = position(sql, at, |byte| matches!(byte, b'\'' | b'\\')) {
        if byte(sql, found) == b'\'' && byte(sql, found + 1) != b'\'' {
            return Ok(found);
        }
        at = found + 2;
    }
    Err(LexError::Unterminated(Quote::String))
}

/// The closing quote of a bit string, which knows no doubled quote.
pub(super) fn bit_string_close(sql: &[u8], at: usize) -> Result<usize, LexError> {
    position(sql, at, |byte| byte == b'\'').ok_or(LexError::Unterminated(Quote::String))
}

/// The opening quote of the next part of a string that ends before `at`: blanks with at least one
/// line break lie between. A block comment ends the string for good. `--` comments do not, says
/// PostgreSQL; the parser we have takes no comment there at all, so they are refused.
pub(super) fn continuation(sql: &[u8], mut at: usize) -> Result<Option<usize>, LexError> {
    let mut newline = false;
    let mut comment = false;
    loop {
        match byte(sql, at) {
            b'\n' | b'\r' => {
                newline = true;
                at += 1;
            }
            b' ' | b'\t' | 0x0C => at += 1,
            b'-' if byte(sql, at + 1) == b'-' => {
                comment = true;
                at = comment_end(sql, at)?;
            }
            b'\'' if newline && comment => {
                return Err(LexError::NotPlain(NotPlain::CommentInString));
            }
            b'\'' if newline => return Ok(Some(at)),
            _ => return Ok(None),
        }
    }
}

/// End of the `$tag$` at `start`.
pub(super) fn dollar_tag_end(sql: &[u8], start: usize) -> Result<usize, LexError> {
    let end = position(sql, start + 1, |byte| !matches!(class(byte), Class::Word | Class::Digit));
    match end {
        Some(end) if byte(sql, end) == b'$' => Ok(end + 1),
        _ => Err(LexError::NotPlain(NotPlain::StrayDollar)),
    }
}

/// Where the closing `tag` begins. A tag holds no `$` but its own two, so trying every `$` finds
/// what the scanner finds.
pub(super) fn dollar_close(sql: &[u8], mut at: usize, tag: &[u8]) -> Result<usize, LexError> {
    while let Some(dollar) = find(sql, at, b'$') {
        if sql.get(dollar..).is_some_and(|rest| rest.starts_with(tag)) {
            return Ok(dollar);
        }
        at = dollar + 1;
    }
    Err(LexError::Unterminated(Quote::Dollar))
}

/// End of the parameter whose digits begin at `digits`.
pub(super) fn parameter_end(sql: &[u8], digits: usize) -> Result<usize, LexError> {
    let end = position(sql, digits, |byte| class(byte) != Class::Digit).unwrap_or(sql.len());
    if matches!(class(byte(sql, end)), Class::Word | Class::Dollar) {
        return Err(LexError::NotPlain(NotPlain::NumberJunk));
    }
    Ok(end)
}

/// A numeric literal.
pub(super) struct Number {
    pub(super) end: usize,
    /// Its value, at most `u64::MAX`; `None` with a point or an exponent.
    pub(super) integer: Option<u64>,
}

/// The number at `start`, which is a digit or a point before one.
pub(super) fn number(sql: &[u8], start: usize) -> Result<Number, LexError> {
    let radix = match (byte(sql, start), byte(sql, start + 1) | 0x20) {
        (b'0', b'x') => 16,
        (b'0', b'o') => 8,
        (b'0', b'b') => 2,
        _ => 10,
    };
    let (mut end, mut integer) = if radix == 10 {
        let (end, value) = decimal(sql, start);
        (end, Some(value))
    } else {
        let (end, value) = digits(sql, start + 2, radix);
        if end == start + 2 {
            return Err(LexError::NotPlain(NotPlain::NumberJunk));
        }
        (end, Some(value))
    };
    if radix == 10 && byte(sql, end) == b'.' {
        integer = None;
        end = decimal(sql, end + 1).0;
    }
    if radix == 10 && byte(sql, end) | 0x20 == b'e' {
        integer = None;
        let sign = usize::from(matches!(byte(sql, end + 1), b'+' | b'-'));
        let exponent = end + 1 + sign;
        end = decimal(sql, exponent).0;
        if end == exponent {
            return Err(LexError::NotPlain(NotPlain::NumberJunk));
        }
    }
    if matches!(class(byte(sql, end)), Class::Word | Class::Digit | Class::Dollar | Class::Dot) {
        return Err(LexError::NotPlain(NotPlain::NumberJunk));
    }
    Ok(Number { end, integer })
}

/// Decimal digits with single underscores between them: their end and value.
fn decimal(sql: &[u8], start: usize) -> (usize, u64) {
    let mut at = start;
    let mut value = 0_u64;
    loop {
        let next = byte(sql, at);
        if next.is_ascii_digit() {
            value = value.saturating_mul(10).saturating_add(u64::from(next - b'0'));
        } else if !(next == b'_' && at > start && byte(sql, at + 1).is_ascii_digit()) {
            return (at, value);
        }
        at += 1;
    }
}

/// The same behind a radix prefix, which may have an underscore behind it.
fn digits(sql: &[u8], start: usize, radix: u32) -> (usize, u64) {
    let mut at = start;
    let mut value = 0_u64;
    loop {
        let underscore = usize::from(byte(sql, at) == b'_');
        let Some(digit) = char::from(byte(sql, at + underscore)).to_digit(radix) else {
            return (at, value);
        };
        value = value.saturating_mul(u64::from(radix)).saturating_add(u64::from(digit));
        at += 1 + underscore;
    }
}

/// The next `wanted`; whole blocks without it are passed by, for long strings.
fn find(sql: &[u8], from: usize, wanted: u8) -> Option<usize> {
    const BLOCK: usize = 16;
    let mut at = from;
    while let Some(block) = sql.get(at..at + BLOCK) {
        if block.iter().fold(0, |found, &byte| found | u8::from(byte == wanted)) != 0 {
            break;
        }
        at += BLOCK;
    }
    position(sql, at, |byte| byte == wanted)
}

fn position(sql: &[u8], from: usize, found: impl Fn(u8) -> bool) -> Option<usize> {
    let rest = sql.get(from..)?;
    Some(from + rest.iter().position(|&byte| found(byte))?)
}
