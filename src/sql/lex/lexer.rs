//! The scanner itself: a loop over tokens that copies what stays in pieces as long as possible.

use super::scan::{self, Class};
use super::time_word::{contains_time_word, may_hide_time_word};
use super::{LexError, Lexed, NotPlain, Quote, SQL_BYTES_MAX};

// Placeholders: the lexical classes by which PostgreSQL types a literal before it resolves names.
// The scanner refuses these bytes outside quotes, so no statement can spell one.
const INT4: u8 = 0x01;
const INT8: u8 = 0x02;
const NUMERIC: u8 = 0x03;
const STRING: u8 = 0x04;
const NATIONAL: u8 = 0x05;
const BITS: u8 = 0x06;
/// Added to a class: two or more literals of that class, as a whole `IN` list.
pub(super) const LIST: u8 = 0x10;

/// What a text is lexed for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Statement,
    /// The text is a shape: placeholders are tokens, and utility statements lose their literals.
    Display,
}

/// What the last token means for the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Previous {
    Start,
    Other,
    Dot,
    Comma,
    Open,
    In,
    /// `BY`, also with `ALL` or `DISTINCT` behind it.
    By,
    Distinct,
    Float,
    FloatOpen,
    /// `U&'…'` or `U&"…"`.
    Unicode,
}

/// The prefix of a string literal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    None,
    Escape,
    Unicode,
    National,
    Bits,
}

/// An `IN` list that may yet turn out to hold literals of one class only.
#[derive(Clone, Copy)]
struct List {
    /// Length of the shape behind the `(`.
    start: usize,
    /// 0 before the first literal.
    class: u8,
    count: u32,
    wants_literal: bool,
}

/// Invariant: `text` and `shape` hold what came before `text_from` and `shape_from`; what lies
/// between there and the current position is yet to be copied, unchanged, in one piece.
pub(super) struct Lexer<'a> {
    sql: &'a [u8],
    out: &'a mut Lexed,
    mode: Mode,
    text_from: usize,
    shape_from: usize,
    previous: Previous,
    /// Literals of the current statement are replaced.
    lift: bool,
    /// Parentheses open.
    depth: u32,
    /// Depth of the clause in which bare integers are positions; `u32::MAX`: none.
    positions_depth: u32,
    list: Option<List>,
    semicolons: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(sql: &'a [u8], out: &'a mut Lexed, mode: Mode) -> Self {
        out.text.clear();
        out.shape.clear();
        out.time_word = false;
        out.literals = 0;
        out.multiple = false;
        out.hint = None;
        out.comment = None;
        Self {
            sql,
            out,
            mode,
            text_from: 0,
            shape_from: 0,
            previous: Previous::Start,
            lift: false,
            depth: 0,
            positions_depth: u32::MAX,
            list: None,
            semicolons: 0,
        }
    }

    pub(super) fn run(mut self) -> Result<(), LexError> {
        if self.sql.len() > SQL_BYTES_MAX {
            return Err(LexError::TooLong);
        }
        if self.sql.contains(&0) {
            return Err(LexError::NotPlain(NotPlain::Nul));
        }
        let mut at = 0;
        if scan::class(scan::byte(self.sql, 0)) != Class::Word {
            at = self.gap(0)?;
            self.out.hint = scan::leading_comment(self.sql);
        }
        while let Some(&byte) = self.sql.get(at) {
            at = match scan::class(byte) {
                Class::Blank if self.is_one_space(at, byte) => at + 1,
                Class::Blank => self.gap(at)?,
                Class::Word => self.word(at, byte)?,
                Class::Digit => self.number(at)?,
                Class::Quote => self.string(at, at, Prefix::None)?,
                Class::DoubleQuote => self.identifier(at, Previous::Other)?,
                Class::Dollar => self.dollar(at)?,
                Class::Dot => self.dot(at)?,
                Class::Minus | Class::Slash if scan::is_comment(self.sql, at) => self.gap(at)?,
                Class::Operator | Class::Minus | Class::Slash => {
                    self.list = None;
                    self.previous = Previous::Other;
                    at + 1
                }
                Class::Open => self.open(at),
                Class::Close => self.close(at),
                Class::Comma => self.comma(at),
                Class::Semicolon => self.semicolon(at),
                Class::Stray => self.stray(at, byte)?,
            };
        }
        self.finish();
        Ok(())
    }

    /// The gap that nearly all are, which stays as it is.
    fn is_one_space(&self, at: usize, byte: u8) -> bool {
        let next = scan::class(scan::byte(self.sql, at + 1));
        byte == b' '
            && at > 0
            && !matches!(next, Class::Blank | Class::Minus | Class::Slash | Class::Stray)
    }

    /// Blanks and comments: one space, or nothing at the start.
    fn gap(&mut self, start: usize) -> Result<usize, LexError> {
        let single = scan::byte(self.sql, start) == b' ' && start > 0;
        let end = scan::gap_end(self.sql, start, &mut self.out.comment)?;
        if end > start && !(single && end == start + 1) {
            let space = (start > 0).then_some(b' ');
            self.replace_in_text(start, end, space);
            self.replace_in_shape(start, end, space);
        }
        Ok(end)
    }

    fn word(&mut self, start: usize, first: u8) -> Result<usize, LexError> {
        let second = scan::byte(self.sql, start + 1);
        if matches!(second, b'\'' | b'&') {
            match (first | 0x20, second, scan::byte(self.sql, start + 2)) {
                (b'e', b'\'', _) => return self.string(start, start + 1, Prefix::Escape),
                (b'n', b'\'', _) => return self.string(start, start + 1, Prefix::National),
                (b'b' | b'x', b'\'', _) => return self.string(start, start + 1, Prefix::Bits),
                (b'u', b'&', b'\'') => return self.string(start, start + 2, Prefix::Unicode),
                (b'u', b'&', b'"') => return self.identifier(start + 2, Previous::Unicode),
                _ => {}
            }
        }
        let end = scan::word_end(self.sql, start + 1);
        let word = self.sql.get(start..end).unwrap_or_default();
        self.list = None;
        if self.previous == Previous::Start {
            self.lift = self.mode == Mode::Display || lifts(word);
            self.previous = Previous::Other;
        } else {
            self.previous = self.keyword(word)?;
        }
        Ok(end)
    }

    /// The few words that change how literals behind them are treated. All are reserved, so they
    /// are names only right behind a dot.
    fn keyword(&mut self, word: &[u8]) -> Result<Previous, LexError> {
        let is = |keyword: &[u8]| word.eq_ignore_ascii_case(keyword);
        Ok(match word.len() {
            2 if is(b"in") && self.previous != Previous::Dot => Previous::In,
            2 if is(b"by") => {
                self.positions_depth = self.positions_depth.min(self.depth);
                Previous::By
            }
            2 if is(b"on") && self.previous == Previous::Distinct => {
                self.positions_depth = self.positions_depth.min(self.depth + 1);
                Previous::Other
            }
            3 if is(b"all") && self.previous == Previous::By => Previous::By,
            8 if is(b"distinct") && self.previous == Previous::By => Previous::By,
            8 if is(b"distinct") => Previous::Distinct,
            5 if is(b"float") => Previous::Float,
            7 if is(b"uescape") && self.previous == Previous::Unicode => {
                return Err(LexError::NotPlain(NotPlain::Uescape));
            }
            5 | 6 | 9
                if self.depth == self.positions_depth
                    && self.previous != Previous::Dot
                    && (is(b"union") || is(b"having") || is(b"except") || is(b"intersect")) =>
            {
                self.positions_depth = u32::MAX;
                Previous::Other
            }
            _ => Previous::Other,
        })
    }

    fn number(&mut self, start: usize) -> Result<usize, LexError> {
        let number = scan::number(self.sql, start)?;
        let class = match number.integer {
            Some(0..=0x7FFF_FFFF) => INT4,
            // With a minus sign before it the parser makes it the smallest int4 or int8, without
            // one it is of the next type.
            Some(0x8000_0000 | 0x8000_0000_0000_0000) => 0,
            Some(0..=0x7FFF_FFFF_FFFF_FFFF) => INT8,
            Some(_) | None => NUMERIC,
        };
        let position = self.positions_depth != u32::MAX
            && matches!(self.previous, Previous::By | Previous::Comma | Previous::Open);
        if class == 0 || (class == INT4 && (position || self.previous == Previous::FloatOpen)) {
            self.list = None;
        } else {
            self.literal(start, number.end, class);
        }
        self.previous = Previous::Other;
        Ok(number.end)
    }

    /// `start` is where the prefix begins, `quote` where its first quote stands.
    fn string(&mut self, start: usize, quote: usize, prefix: Prefix) -> Result<usize, LexError> {
        if self.lift {
            self.flush_shape(start);
        }
        let mut body = quote + 1;
        let end = loop {
            let close = match prefix {
                Prefix::Escape => scan::escape_string_close(self.sql, body)?,
                Prefix::Bits => scan::bit_string_close(self.sql, body)?,
                Prefix::None | Prefix::Unicode | Prefix::National => {
                    scan::doubled_close(self.sql, body, b'\'', Quote::String)?
                }
            };
            self.note_time_word(body, close, prefix);
            let Some(next) = scan::continuation(self.sql, close + 1)? else {
                break close + 1;
            };
            // Joined without the break between them, the parts may spell a time word.
            self.out.time_word = true;
            if self.sql.get(close + 1..next) != Some(b"\n") {
                self.replace_in_text(close + 1, next, Some(b'\n'));
                if !self.lift {
                    self.replace_in_shape(close + 1, next, Some(b'\n'));
                }
            }
            body = next + 1;
        };
        if prefix == Prefix::Bits && scan::byte(self.sql, end) == b'\'' {
            return Err(LexError::NotPlain(NotPlain::BitStringJunk));
        }
        let (class, previous) = match prefix {
            Prefix::None | Prefix::Escape => (STRING, Previous::Other),
            Prefix::Unicode => (STRING, Previous::Unicode),
            Prefix::National => (NATIONAL, Previous::Other),
            Prefix::Bits => (BITS, Previous::Other),
        };
        self.literal(start, end, class);
        self.previous = previous;
        Ok(end)
    }

    fn note_time_word(&mut self, body: usize, close: usize, prefix: Prefix) {
        let body = self.sql.get(body..close).unwrap_or_default();
        self.out.time_word |= match prefix {
            Prefix::None | Prefix::National => contains_time_word(body),
            Prefix::Escape => may_hide_time_word(body),
            Prefix::Unicode => body.contains(&b'\\') || contains_time_word(body),
            Prefix::Bits => false,
        };
    }

    fn identifier(&mut self, quote: usize, previous: Previous) -> Result<usize, LexError> {
        self.list = None;
        self.previous = previous;
        Ok(scan::doubled_close(self.sql, quote + 1, b'"', Quote::Identifier)? + 1)
    }

    /// A parameter or a dollar-quoted string.
    fn dollar(&mut self, start: usize) -> Result<usize, LexError> {
        if scan::class(scan::byte(self.sql, start + 1)) == Class::Digit {
            self.list = None;
            self.previous = Previous::Other;
            return scan::parameter_end(self.sql, start + 1);
        }
        let body = scan::dollar_tag_end(self.sql, start)?;
        let tag = self.sql.get(start..body).unwrap_or_default();
        let close = scan::dollar_close(self.sql, body, tag)?;
        self.note_time_word(body, close, Prefix::None);
        let end = close + tag.len();
        self.literal(start, end, STRING);
        self.previous = Previous::Other;
        Ok(end)
    }

    fn dot(&mut self, at: usize) -> Result<usize, LexError> {
        let next = scan::byte(self.sql, at + 1);
        if next.is_ascii_digit() {
            return self.number(at);
        }
        if next == b'.' {
            return Err(LexError::NotPlain(NotPlain::DotDot));
        }
        self.list = None;
        self.previous = Previous::Dot;
        Ok(at + 1)
    }

    fn open(&mut self, at: usize) -> usize {
        self.depth += 1;
        self.list = None;
        if self.previous == Previous::In && self.lift {
            self.flush_shape(at + 1);
            let start = self.out.shape.len();
            self.list = Some(List { start, class: 0, count: 0, wants_literal: true });
        }
        if self.previous == Previous::Start {
            self.lift = true;
        }
        self.previous =
            if self.previous == Previous::Float { Previous::FloatOpen } else { Previous::Open };
        at + 1
    }

    fn close(&mut self, at: usize) -> usize {
        self.depth = self.depth.saturating_sub(1);
        if self.positions_depth != u32::MAX && self.depth < self.positions_depth {
            self.positions_depth = u32::MAX;
        }
        if let Some(list) = self.list.take()
            && !list.wants_literal
            && list.count > 1
        {
            self.out.shape.truncate(list.start);
            self.out.shape.push(LIST | list.class);
            self.shape_from = at;
        }
        self.previous = Previous::Other;
        at + 1
    }

    fn comma(&mut self, at: usize) -> usize {
        self.list = self
            .list
            .filter(|list| !list.wants_literal)
            .map(|list| List { wants_literal: true, ..list });
        self.previous = Previous::Comma;
        at + 1
    }

    fn semicolon(&mut self, at: usize) -> usize {
        self.list = None;
        self.semicolons += 1;
        self.depth = 0;
        self.positions_depth = u32::MAX;
        self.previous = Previous::Start;
        at + 1
    }

    fn stray(&mut self, at: usize, byte: u8) -> Result<usize, LexError> {
        if self.mode == Mode::Display && is_placeholder(byte) {
            self.previous = Previous::Other;
            return Ok(at + 1);
        }
        Err(LexError::NotPlain(NotPlain::StrayByte))
    }

    fn literal(&mut self, start: usize, end: usize, class: u8) {
        if !self.lift {
            return;
        }
        self.flush_shape(start);
        self.out.shape.push(class);
        self.shape_from = end;
        self.out.literals += 1;
        self.list = self
            .list
            .filter(|list| list.wants_literal && (list.count == 0 || list.class == class))
            .map(|list| List { class, count: list.count + 1, wants_literal: false, ..list });
    }

    fn flush_text(&mut self, to: usize) {
        let pending = self.sql.get(self.text_from..to).unwrap_or_default();
        self.out.text.extend_from_slice(pending);
        self.text_from = to;
    }

    fn flush_shape(&mut self, to: usize) {
        let pending = self.sql.get(self.shape_from..to).unwrap_or_default();
        self.out.shape.extend_from_slice(pending);
        self.shape_from = to;
    }

    fn replace_in_text(&mut self, start: usize, end: usize, by: Option<u8>) {
        self.flush_text(start);
        self.out.text.extend(by);
        self.text_from = end;
    }

    fn replace_in_shape(&mut self, start: usize, end: usize, by: Option<u8>) {
        self.flush_shape(start);
        self.out.shape.extend(by);
        self.shape_from = end;
    }

    /// The last byte of the text is `;` or a space only where that is a token or a gap: quotes end
    /// with their quote.
    fn finish(&mut self) {
        self.flush_text(self.sql.len());
        self.flush_shape(self.sql.len());
        trim_end(&mut self.out.shape);
        self.out.multiple = self.semicolons > trim_end(&mut self.out.text);
    }
}

/// Drops spaces and semicolons at the end; returns how many semicolons.
fn trim_end(text: &mut Vec<u8>) -> usize {
    let mut semicolons = 0;
    while let Some(b' ' | b';') = text.last() {
        semicolons += usize::from(text.pop() == Some(b';'));
    }
    semicolons
}

/// Statements in which a literal is a value and nothing else, by their first word. Utility
/// statements take options as literals: `EXPLAIN (ANALYZE 1)` runs what `EXPLAIN (ANALYZE 0)`
/// only plans.
fn lifts(first_word: &[u8]) -> bool {
    const WORDS: [&[u8]; 13] = [
        b"select", b"with", b"values", b"table", b"insert", b"update", b"delete", b"merge",
        b"call", b"execute", b"declare", b"fetch", b"move",
    ];
    WORDS.iter().any(|word| first_word.eq_ignore_ascii_case(word))
}

pub(super) fn is_placeholder(byte: u8) -> bool {
    matches!(byte & !LIST, INT4..=BITS)
}
