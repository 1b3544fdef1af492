//! A command in words: texts and names without their quotes, no comments.

/// `SET key = value` or `SET key TO value`: the key in lower case, the value as written, without
/// its quotes.
pub(super) fn assignment(text: &str) -> Option<(String, String)> {
    let text = text.trim().trim_end_matches([';', ' ', '\t', '\r', '\n']);
    let (set, rest) = text.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let key_end = rest.find(|c: char| c.is_whitespace() || c == '=')?;
    let (key, rest) = rest.split_at_checked(key_end)?;
    let rest = rest.trim_start();
    let to = rest.get(..2).filter(|word| word.eq_ignore_ascii_case("to"));
    let value = match rest.strip_prefix('=') {
        Some(value) => value,
        None => to.and(rest.get(2..)).filter(|value| value.starts_with(char::is_whitespace))?,
    };
    let value = value.trim();
    let quoted = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
    let value = quoted.map_or_else(|| value.to_owned(), |value| value.replace("''", "'"));
    set.eq_ignore_ascii_case("set").then(|| (key.to_lowercase(), value))
}

pub(super) struct Word {
    pub(super) text: String,
    quoted: bool,
}

impl Word {
    fn bare(text: &str) -> Self {
        Self { text: text.to_owned(), quoted: false }
    }

    /// As SQL reads names.
    pub(super) fn into_name(self) -> String {
        if self.quoted { self.text } else { self.text.to_lowercase() }
    }
}

/// Words as written, texts and names without their quotes, `=` and `*` as words of their own;
/// comments and one `;` at the end are dropped. `None`: something is not closed, or comes after
/// the end.
pub(super) fn words(text: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '-' if rest.starts_with("--") => rest.split_once('\n').map_or("", |(_, rest)| rest),
            '/' if rest.starts_with("/*") => rest.get(2..)?.split_once("*/")?.1,
            '\'' | '"' => {
                let (inner, rest) = rest.get(1..)?.split_once(first)?;
                words.push(Word { text: inner.to_owned(), quoted: true });
                rest
            }
            ';' => {
                let after = rest.trim_start_matches([';', ' ', '\t', '\r', '\n']);
                return after.is_empty().then_some(words);
            }
            '=' | '*' | ',' | '(' | ')' => {
                words.push(Word::bare(&first.to_string()));
                rest.get(1..)?
            }
            _ => {
                let ends = |c: char| c.is_whitespace() || "'\";=*,()".contains(c);
                let end = rest.find(ends).unwrap_or(rest.len());
                let (word, rest) = rest.split_at_checked(end)?;
                words.push(Word::bare(word));
                rest
            }
        };
        rest = rest.trim_start();
    }
    Some(words)
}
