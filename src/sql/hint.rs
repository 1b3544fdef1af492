//! What a statement says about itself in the comment it begins with: `/* forebay:nocache */`,
//! `/* forebay:max_age=5s */`. A hint narrows what the cache may do and never widens it, so a text
//! of a user's that comes to stand there does no harm (hazard G34).

use std::time::Duration;

use super::lex::Lexed;

/// All that follows stands up to the next blank, comma or end.
const MARK: &str = "forebay:";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// Neither served nor kept.
    pub no_cache: bool,
    /// No answer older than this.
    pub max_age: Option<Duration>,
}

impl Hint {
    /// Of a statement that was lexed as this.
    pub fn of(sql: &[u8], lexed: &Lexed) -> Self {
        let comment = lexed.hint.clone().and_then(|range| sql.get(range));
        let comment = comment.and_then(|comment| std::str::from_utf8(comment).ok());
        comment.map_or_else(Self::default, read)
    }
}

/// What is marked as a hint and not understood was meant to narrow something: nothing is kept.
fn read(comment: &str) -> Hint {
    let mut hint = Hint::default();
    for words in comment.split(MARK).skip(1) {
        let end = words.find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '*'));
        let word = words.get(..end.unwrap_or(words.len())).unwrap_or_default();
        let max_age = word.strip_prefix("max_age=").and_then(duration);
        match max_age.filter(|age| !age.is_zero()) {
            Some(age) => hint.max_age = Some(hint.max_age.map_or(age, |other| other.min(age))),
            None => hint.no_cache = true,
        }
    }
    hint
}

/// `250ms`, `5s`, `2m`, `1h`; without unit seconds.
fn duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let milliseconds_per_unit: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    Some(Duration::from_millis(number.checked_mul(milliseconds_per_unit)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lex::lex;

    fn check(sql: &str, no_cache: bool, max_age_ms: Option<u64>) {
        let mut lexed = Lexed::default();
        lex(sql.as_bytes(), &mut lexed).unwrap();
        let max_age = max_age_ms.map(Duration::from_millis);
        assert_eq!(Hint::of(sql.as_bytes(), &lexed), Hint { no_cache, max_age }, "{sql}");
    }

    #[test]
    fn a_statement_says_in_its_first_comment_what_may_not_be_done_with_it() {
        check("/* forebay:nocache */ SELECT 1", true, None);
        check("/*forebay:nocache*/SELECT 1", true, None);
        check("-- forebay:max_age=5s\nSELECT 1", false, Some(5000));
        check("/* app='shop',forebay:max_age=250ms,route='/' */ SELECT 1", false, Some(250));
        check("/* forebay:max_age=2m forebay:max_age=1h */ SELECT 1", false, Some(120_000));
        check("/* forebay:max_age=7 */ SELECT 1", false, Some(7000));
    }

    #[test]
    fn elsewhere_and_in_other_words_there_is_no_hint() {
        check("SELECT 1 /* forebay:nocache */", false, None);
        check("SELECT 'forebay:nocache'", false, None);
        check("/* nocache */ SELECT 1", false, None);
    }

    #[test]
    fn a_hint_that_is_not_understood_keeps_the_statement_out() {
        for word in ["", "cache", "ttl=999999", "max_age=", "max_age=5x", "max_age=0"] {
            check(&format!("/* forebay:{word} */ SELECT 1"), true, None);
        }
        check("/* forebay:max_age=99999999999999999999s */ SELECT 1", true, None);
        check("/* forebay:max_age=5s, forebay:ttl */ SELECT 1", true, Some(5000));
    }
}
