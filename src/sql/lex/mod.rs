//! One pass over a statement: its text without comments, and its shape without literals. Runs on
//! every query, so it writes into buffers that the caller keeps and allocates nothing when warm.
//!
//! Follows PostgreSQL's scanner, of every version: where versions differ, it refuses. Knows no
//! grammar; what a refused statement is, the parser decides. Preconditions:
//! `standard_conforming_strings` is on, and the client's encoding never uses a byte below 0x80
//! inside a longer character (so not SJIS, BIG5, GBK, UHC, GB18030, JOHAB).

mod scan;
mod time_word;
mod lexer;
mod display;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

pub use display::{display_shape, highest_parameter};
pub use time_word::contains_time_word;

use lexer::{Lexer, Mode};

/// Longer statements are refused: at about a nanosecond a byte this is a millisecond, and the
/// buffers of a `Lexed` stay as large as the longest statement they saw.
pub const SQL_BYTES_MAX: usize = 1 << 20;

/// Reusable output of [`lex`]; holds nothing of use after an error.
#[derive(Debug, Default)]
pub struct Lexed {
    /// The statement without comments, each run of blanks and comments folded to one space, no
    /// blank at either end, no `;` at the end. Case is kept. PostgreSQL reads it as it reads the
    /// original.
    pub text: Vec<u8>,
    /// `text` with each literal replaced by a byte below 0x20 that names its lexical class, and
    /// an `IN` list of two or more literals of one class by one such byte.
    ///
    /// Literals that can decide what a statement reads, calls or writes stay: all of them in
    /// utility statements (`EXPLAIN (ANALYZE 0) DELETE …`), the precision in `float(24)`, bare
    /// integers where ORDER BY, GROUP BY and DISTINCT ON take a position, and 2^31 and 2^63,
    /// whose type depends on a minus sign before them.
    pub shape: Vec<u8>,
    /// A string literal holds a time word, or hides its text behind escapes or continuation.
    pub time_word: bool,
    /// How many literals were replaced.
    pub literals: u32,
    /// A `;` is followed by something other than blanks, comments and further `;`.
    pub multiple: bool,
    /// Where in the input the comment stands with which it begins, markers included.
    pub hint: Option<Range<usize>>,
    /// The same of its last comment, wherever that stands.
    pub comment: Option<Range<usize>>,
}

impl Lexed {
    /// For one that is kept: the room that growing texts leave is given back.
    #[must_use]
    pub fn trimmed(mut self) -> Self {
        self.text.shrink_to_fit();
        self.shape.shrink_to_fit();
        self
    }
}

/// Why a statement was not read. None of them means that PostgreSQL would refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LexError {
    /// Longer than [`SQL_BYTES_MAX`].
    TooLong,
    /// The text ends inside this.
    Unterminated(Quote),
    NotPlain(NotPlain),
}

/// What may be left open at the end of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    String,
    Dollar,
    Identifier,
    Comment,
}

/// What is refused because versions or settings of PostgreSQL read it differently, or refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotPlain {
    /// A NUL byte, which ends a protocol string.
    Nul,
    /// A byte that begins no token: control characters, `\`, `{`, `}`; vertical tab is a blank
    /// from PostgreSQL 16 on only.
    StrayByte,
    /// A `$` that begins neither a parameter nor a dollar quote.
    StrayDollar,
    /// Letters, digits, `$` or `.` right behind a number or parameter.
    NumberJunk,
    /// `..`, which separates numbers in PL/pgSQL only.
    DotDot,
    /// `UESCAPE`, which changes what the string before it means.
    Uescape,
    /// A bit string followed by a quote, which is not a doubled quote there.
    BitStringJunk,
    /// A comment between two parts of one string: see `scan::continuation`.
    CommentInString,
    /// A comment that is not UTF-8: PostgreSQL may refuse the statement for it, and the text
    /// without it would be answered.
    CommentEncoding,
}

impl fmt::Display for LexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "statement is longer than {SQL_BYTES_MAX} bytes"),
            Self::Unterminated(quote) => write!(f, "statement ends inside {quote:?}"),
            Self::NotPlain(reason) => write!(f, "statement is not plain: {reason:?}"),
        }
    }
}

impl std::error::Error for LexError {}

/// Reads `sql` into `out`, whose earlier content is dropped.
pub fn lex(sql: &[u8], out: &mut Lexed) -> Result<(), LexError> {
    Lexer::new(sql, out, Mode::Statement).run()
}
