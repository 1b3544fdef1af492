//! `auth_ident_file`: which names of the system, or of certificates, may be which users.
//!
//! One pair a line: map, system name, user; the user `all` stands for every user. No regular
//! expressions, as in PgBouncer.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::tokens::{Token, Tokens, Unclosed};

/// The maps of one file, by name.
#[derive(Clone, Debug, Default)]
pub struct IdentMaps(HashMap<String, Arc<IdentMap>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentMap {
    pub name: String,
    pairs: Vec<Pair>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    system: String,
    /// `None`: every user.
    user: Option<String>,
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentError {
    /// From 1.
    pub line: usize,
}

impl fmt::Display for IdentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: expected a map, a system name and a user", self.line)
    }
}

impl std::error::Error for IdentError {}

impl IdentMaps {
    /// Reads the file's text; all mistakes at once.
    pub fn parse(text: &str) -> Result<Self, Vec<IdentError>> {
        let mut maps: HashMap<String, IdentMap> = HashMap::new();
        let mut errors = Vec::new();
        for (index, line) in text.lines().enumerate() {
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some((name, pair))) => {
                    let map = maps.entry(name.clone()).or_default();
                    map.name = name;
                    map.pairs.push(pair);
                }
                Err(Broken) => errors.push(IdentError { line: index + 1 }),
            }
        }
        let maps = maps.into_iter().map(|(name, map)| (name, Arc::new(map))).collect();
        if errors.is_empty() { Ok(Self(maps)) } else { Err(errors) }
    }

    pub fn get(&self, name: &str) -> Option<&Arc<IdentMap>> {
        self.0.get(name)
    }
}

impl IdentMap {
    /// Whether somebody may be this user who has the names that `has_name` knows.
    pub fn allows(&self, user: &str, has_name: impl Fn(&str) -> bool) -> bool {
        self.pairs.iter().any(|pair| {
            pair.user.as_ref().is_none_or(|wanted| wanted == user) && has_name(&pair.system)
        })
    }
}

struct Broken;

impl From<Unclosed> for Broken {
    fn from(Unclosed: Unclosed) -> Self {
        Self
    }
}

/// `None`: nothing on the line.
fn parse_line(line: &str) -> Result<Option<(String, Pair)>, Broken> {
    let mut tokens = Tokens::of(line);
    let name = match tokens.next()? {
        None => return Ok(None),
        Some(Token::Word(name)) => name,
        Some(Token::Quoted(_) | Token::Comma) => return Err(Broken),
    };
    let system = match tokens.next()? {
        Some(Token::Word(system) | Token::Quoted(system)) => system,
        Some(Token::Comma) | None => return Err(Broken),
    };
    let user = match tokens.next()? {
        Some(Token::Word(word)) if word == "all" => None,
        Some(Token::Word(user) | Token::Quoted(user)) => Some(user),
        Some(Token::Comma) | None => return Err(Broken),
    };
    match tokens.next()? {
        None => Ok(Some((name, Pair { system, user }))),
        Some(_) => Err(Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(text: &str, map: &str, system: &str, user: &str) -> bool {
        let maps = IdentMaps::parse(text).expect("the maps are in order");
        maps.get(map).is_some_and(|map| map.allows(user, |name| name == system))
    }

    #[test]
    fn a_pair_lets_one_name_be_one_user() {
        let text = "# maps\n\nstaff  ann.example  ann\nstaff \"b c\" \"all\"\nops root all # any\n";
        for (map, system, user, expected) in [
            ("staff", "ann.example", "ann", true),
            ("staff", "ann.example", "bob", false),
            ("staff", "ann", "ann", false),
            ("staff", "b c", "all", true),
            ("staff", "b c", "bob", false),
            ("ops", "root", "bob", true),
            ("ops", "ann.example", "ann", false),
            ("none", "root", "root", false),
        ] {
            assert_eq!(allows(text, map, system, user), expected, "{map} {system} {user}");
        }
    }

    #[test]
    fn every_broken_line_is_named() {
        let errors = IdentMaps::parse("a b\na b c d\nok b c\n\"a\" b c\na \"b c").unwrap_err();
        let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [1, 2, 4, 5]);
    }
}
