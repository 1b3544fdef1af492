//! What statements are shown as, for the console and the log: whole, or of a string of several each
//! by itself.

use crate::sql::lex::display_shape;

use super::seats::Seat;

/// Longest shape kept.
const SHAPE_BYTES_MAX: usize = 2000;

/// Shown for what the lexer does not vouch for: it may hold literals.
const UNREADABLE: &str = "(unreadable)";

/// Shown for statements of a string whose own text is not kept.
const SEVERAL: &str = "(several)";

/// Statements of one string that are told apart. What people write has fewer, and what a program
/// makes is no reading.
const PIECES_MAX: usize = 100;

/// A shape as `pg_stat_statements` shows it; empty is what the lexer does not vouch for.
pub fn shown(shape: &[u8]) -> String {
    if shape.is_empty() { UNREADABLE.to_owned() } else { display_shape(shape, SHAPE_BYTES_MAX) }
}

/// The statements of one string. Cut out all at once: to look for each by itself would cost the
/// length of the string as often as there are statements.
#[derive(Debug)]
pub struct Pieces {
    known: Box<[Piece]>,
    /// All others.
    rest: Piece,
}

/// What one of them is shown as, and where it is counted.
#[derive(Debug)]
pub struct Piece {
    pub text: Box<str>,
    pub seat: Seat,
}

impl Pieces {
    pub fn of(shape: &[u8]) -> Self {
        if shape.is_empty() {
            return Self { known: Box::default(), rest: Piece::new(UNREADABLE) };
        }
        Self::cut(&shown(shape))
    }

    fn cut(text: &str) -> Self {
        let known = pieces(text).take(PIECES_MAX).map(|piece| Piece::new(&renumbered(piece)));
        Self { known: known.collect(), rest: Piece::new(SEVERAL) }
    }

    /// Counted from 0. A rule may answer more often than there are statements.
    pub fn get(&self, index: usize) -> &Piece {
        self.known.get(index).unwrap_or(&self.rest)
    }
}

impl Piece {
    fn new(text: &str) -> Self {
        Self { text: text.into(), seat: Seat::default() }
    }
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let pieces = text.split(move |letter: char| {
        quoted ^= letter == '"';
        letter == ';' && !quoted
    });
    pieces.map(str::trim).filter(|piece| !piece.is_empty())
}

/// Its literals as if it stood alone.
fn renumbered(piece: &str) -> String {
    let mut numbered = String::with_capacity(piece.len());
    let (mut quoted, mut in_number, mut number) = (false, false, 0);
    for letter in piece.chars() {
        quoted ^= letter == '"';
        in_number &= letter.is_ascii_digit();
        if in_number {
            continue;
        }
        numbered.push(letter);
        if letter == '$' && !quoted {
            number += 1;
            numbered.push_str(&number.to_string());
            in_number = true;
        }
    }
    numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_of_several_is_shown_as_if_it_stood_alone() {
        let text = "select $1, $2; insert into \"a;b$7\" values ($3);; select $4 /*, ... */";
        let cut = Pieces::cut(text);
        for (index, expected) in [
            (0, "select $1, $2"),
            (1, "insert into \"a;b$7\" values ($1)"),
            (2, "select $1 /*, ... */"),
            (3, SEVERAL),
        ] {
            assert_eq!(&*cut.get(index).text, expected);
        }
        assert_eq!(&*Pieces::of(b"").get(1).text, UNREADABLE);
    }

    #[test]
    fn of_a_string_no_more_is_kept_than_people_read() {
        let cut = Pieces::of("a;".repeat(10_000).as_bytes());
        assert_eq!(cut.known.len(), PIECES_MAX);
        assert_eq!(&*cut.get(PIECES_MAX).text, SEVERAL);
        assert!(shown("a ".repeat(10_000).as_bytes()).len() <= SHAPE_BYTES_MAX);
    }
}
