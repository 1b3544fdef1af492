//! Words of a line of `auth_hba_file` and `auth_ident_file`: parted by blanks and commas, quoted
//! with doubled quotes inside, a comment after `#`.

/// What is left of a line.
pub(super) struct Tokens<'a>(&'a str);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Bare, so that it may be a keyword.
    Word(String),
    /// In quotes, so that it is a name and nothing else.
    Quoted(String),
    Comma,
}

/// A quote that is not closed on its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclosed;

impl<'a> Tokens<'a> {
    pub(super) fn of(line: &'a str) -> Self {
        Self(line)
    }

    /// `None` at the end of the line.
    pub(super) fn next(&mut self) -> Result<Option<Token>, Unclosed> {
        self.0 = self.0.trim_start();
        let mut characters = self.0.chars();
        match characters.next() {
            None | Some('#') => {
                self.0 = "";
                Ok(None)
            }
            Some(',') => {
                self.0 = characters.as_str();
                Ok(Some(Token::Comma))
            }
            Some('"') => self.quoted(characters.as_str()).map(Some),
            Some(_) => Ok(Some(self.word())),
        }
    }

    /// The next one, left where it is.
    pub(super) fn peek(&self) -> Result<Option<Token>, Unclosed> {
        Self(self.0).next()
    }

    fn word(&mut self) -> Token {
        let ends = |letter: char| letter.is_ascii_whitespace() || [',', '#', '"'].contains(&letter);
        // Whatever a word begins with belongs to it.
        let end = self.0.char_indices().skip(1).find(|(_, letter)| ends(*letter));
        let (word, rest) =
            self.0.split_at_checked(end.map_or(self.0.len(), |(at, _)| at)).unwrap_or_default();
        self.0 = rest;
        Token::Word(word.to_owned())
    }

    fn quoted(&mut self, text: &'a str) -> Result<Token, Unclosed> {
        let mut name = String::new();
        let mut rest = text;
        loop {
            let (before, after) = rest.split_once('"').ok_or(Unclosed)?;
            name.push_str(before);
            let Some(more) = after.strip_prefix('"') else {
                self.0 = after;
                return Ok(Token::Quoted(name));
            };
            name.push('"');
            rest = more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &[Token]) {
        let mut tokens = Tokens::of(line);
        let mut found = Vec::new();
        while let Some(token) = tokens.next().unwrap() {
            found.push(token);
        }
        assert_eq!(found, expected, "{line}");
    }

    fn word(text: &str) -> Token {
        Token::Word(text.to_owned())
    }

    fn quoted(text: &str) -> Token {
        Token::Quoted(text.to_owned())
    }

    #[test]
    fn words_end_at_blanks_commas_quotes_and_comments() {
        check("", &[]);
        check("  # all", &[]);
        check(" host\tall,x #y", &[word("host"), word("all"), Token::Comma, word("x")]);
        check("a\"b\"c", &[word("a"), quoted("b"), word("c")]);
        check("\"a , \"\"b#\" ,", &[quoted("a , \"b#"), Token::Comma]);
        check("map=x", &[word("map=x")]);
    }

    #[test]
    fn a_quote_must_be_closed() {
        assert_eq!(Tokens::of("\"a").next(), Err(Unclosed));
        assert_eq!(Tokens::of("\"a\"\"").next(), Err(Unclosed));
    }
}
