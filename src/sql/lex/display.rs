//! Shapes for people. Nothing here is on the path of a query.

use super::Lexed;
use super::lexer::{LIST, Lexer, Mode, is_placeholder};

/// A shape in the manner of `pg_stat_statements`: literals as `$n`, numbered from above the
/// highest parameter, lists as `$n /*, ... */`. Utility statements lose their literals here too,
/// so a password in `ALTER ROLE` is not shown. At most `bytes_max` bytes; what is not UTF-8 or a
/// control character is replaced.
pub fn display_shape(shape: &[u8], bytes_max: usize) -> String {
    let mut lexed = Lexed::default();
    if Lexer::new(shape, &mut lexed, Mode::Display).run().is_err() {
        // Not a shape; it may hold literals.
        return String::new();
    }
    let mut shown = Vec::with_capacity(lexed.shape.len().min(bytes_max));
    let mut number = highest_parameter(&lexed.shape);
    for (quoted, byte) in with_quotes(&lexed.shape) {
        if shown.len() > bytes_max {
            break;
        }
        if !quoted && is_placeholder(byte) {
            number = number.saturating_add(1);
            shown.extend_from_slice(format!("${number}").as_bytes());
            if byte & LIST != 0 {
                shown.extend_from_slice(b" /*, ... */");
            }
        } else {
            shown.push(if byte.is_ascii_control() { b' ' } else { byte });
        }
    }
    let mut shown = String::from_utf8_lossy(&shown).into_owned();
    shown.truncate(shown.floor_char_boundary(bytes_max));
    shown
}

/// Each byte, and whether it lies in a quoted identifier.
fn with_quotes(shape: &[u8]) -> impl Iterator<Item = (bool, u8)> {
    shape.iter().scan(false, |quoted, &byte| {
        *quoted ^= byte == b'"';
        Some((*quoted, byte))
    })
}

/// The greatest number of a parameter in a shape; 0: it has none.
pub fn highest_parameter(shape: &[u8]) -> u32 {
    let mut highest = 0;
    let mut current: Option<u32> = None;
    let mut in_word = false;
    for (quoted, byte) in with_quotes(shape) {
        let digit = char::from(byte).to_digit(10);
        current = match (current, digit) {
            _ if quoted => None,
            (None, _) if byte == b'$' && !in_word => Some(0),
            (Some(number), Some(digit)) => Some(number.saturating_mul(10).saturating_add(digit)),
            _ => None,
        };
        in_word = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..);
        highest = highest.max(current.unwrap_or(0));
    }
    highest
}
