//! PgBouncer's `userlist.txt`: who may log in, and with which secret.
//!
//! One user a line, `"name" "secret"`; a quote inside is doubled, the rest of the line is ignored,
//! as are blank lines and those that begin with `;` or `#`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use subtle::ConstantTimeEq;

use super::md5::Md5Hash;
use super::scram::{ITERATIONS, ScramVerifier};

/// What proves that a user is who it says.
#[derive(Clone)]
pub enum Secret {
    Plain(Password),
    Md5(Md5Hash),
    Scram(Arc<ScramVerifier>),
}

impl Secret {
    /// Takes what looks like a hash or a verifier as one, like PostgreSQL, anything else as a
    /// plain password.
    pub fn parse(text: &str) -> Self {
        if let Some(hash) = Md5Hash::parse(text) {
            Self::Md5(hash)
        } else if let Some(verifier) = ScramVerifier::parse(text) {
            Self::Scram(Arc::new(verifier))
        } else {
            Self::Plain(Password::new(text.to_owned()))
        }
    }

    /// One that no proof fits, of the kind that says least.
    pub fn impossible() -> Self {
        Self::Md5(Md5Hash::impossible())
    }

    /// The same, with `scram_iterations` for the verifier of a plain password.
    #[must_use]
    pub fn with_iterations(self, iterations: u32) -> Self {
        match self {
            Self::Plain(password) => {
                Self::Plain(Password::with_iterations(password.as_str().to_owned(), iterations))
            }
            Self::Md5(_) | Self::Scram(_) => self,
        }
    }

    /// Whether both are written alike, so that who logged in with one need not do so again. Both
    /// are ours, so that the time it takes gives nothing away.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain(one), Self::Plain(other)) => one.0.text == other.0.text,
            (Self::Md5(one), Self::Md5(other)) => one == other,
            (Self::Scram(one), Self::Scram(other)) => one == other,
            (Self::Plain(_) | Self::Md5(_) | Self::Scram(_), _) => false,
        }
    }
}

/// Names the kind and never the secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(…)",
            Self::Md5(_) => "Md5(…)",
            Self::Scram(_) => "Scram(…)",
        })
    }
}

/// A password in the clear, with the SCRAM verifier that is derived from it once.
#[derive(Clone)]
pub struct Password(Arc<Derived>);

struct Derived {
    text: String,
    iterations: u32,
    verifier: OnceLock<Option<Arc<ScramVerifier>>>,
}

impl Password {
    pub fn new(text: String) -> Self {
        Self::with_iterations(text, ITERATIONS)
    }

    pub fn with_iterations(text: String, iterations: u32) -> Self {
        Self(Arc::new(Derived { text, iterations, verifier: OnceLock::new() }))
    }

    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The verifier; the first call derives it (about a millisecond), later ones and those on
    /// clones share it. Calling it at start keeps that cost out of the first login, where its
    /// time would also tell that the user exists. `None` for an empty password, which proves
    /// nothing.
    pub fn verifier(&self) -> Option<&Arc<ScramVerifier>> {
        let derive = || {
            let text = Some(self.as_str()).filter(|text| !text.is_empty())?;
            let verifier = ScramVerifier::of_password(text, self.0.iterations, rand::random());
            Some(Arc::new(verifier))
        };
        self.0.verifier.get_or_init(derive).as_ref()
    }

    /// An empty password is never right.
    pub fn accepts(&self, password: &[u8]) -> bool {
        !password.is_empty() && bool::from(self.as_str().as_bytes().ct_eq(password))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// The users of one file. If a name is listed twice the later line counts, as in PgBouncer.
#[derive(Clone, Debug, Default)]
pub struct Userlist {
    users: HashMap<String, Secret>,
}

/// A line that cannot be read. Never holds text of the line, which may be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserlistError {
    /// From 1.
    pub line: usize,
    pub cause: UserlistCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserlistCause {
    /// The line does not begin with a quoted name.
    NameExpected,
    /// No quoted secret follows the name.
    SecretExpected,
    /// A quote is not closed on its line.
    Unterminated,
    EmptyName,
}

impl fmt::Display for UserlistError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self.cause {
            UserlistCause::NameExpected => "a user name in double quotes expected",
            UserlistCause::SecretExpected => "a secret in double quotes expected after the name",
            UserlistCause::Unterminated => "a double quote is not closed",
            UserlistCause::EmptyName => "the user name is empty",
        };
        write!(f, "line {}: {cause}", self.line)
    }
}

impl std::error::Error for UserlistError {}

impl Userlist {
    /// Reads the file's text; all mistakes at once.
    pub fn parse(text: &str) -> Result<Self, Vec<UserlistError>> {
        let mut users = HashMap::new();
        let mut errors = Vec::new();
        for (index, line) in text.lines().enumerate() {
            match parse_line(line) {
                Ok(Some((name, secret))) => {
                    users.insert(name, Secret::parse(&secret));
                }
                Ok(None) => {}
                Err(cause) => errors.push(UserlistError { line: index + 1, cause }),
            }
        }
        if errors.is_empty() { Ok(Self { users }) } else { Err(errors) }
    }

    pub fn get(&self, user: &str) -> Option<&Secret> {
        self.users.get(user)
    }

    /// In no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.users.iter().map(|(name, secret)| (name.as_str(), secret))
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

fn parse_line(line: &str) -> Result<Option<(String, String)>, UserlistCause> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with([';', '#']) {
        return Ok(None);
    }
    let rest = line.strip_prefix('"').ok_or(UserlistCause::NameExpected)?;
    let (name, rest) = quoted(rest).ok_or(UserlistCause::Unterminated)?;
    if name.is_empty() {
        return Err(UserlistCause::EmptyName);
    }
    let rest = rest.trim_start().strip_prefix('"').ok_or(UserlistCause::SecretExpected)?;
    let (secret, _ignored) = quoted(rest).ok_or(UserlistCause::Unterminated)?;
    Ok(Some((name, secret)))
}

/// Reads up to the closing quote; returns what was quoted and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        value.push_str(part);
        match after.strip_prefix('"') {
            Some(after_pair) => {
                value.push('"');
                rest = after_pair;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "md521f3163f8f86fa10bdefbfbd502a8f06";
    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    fn kind(secret: &Secret) -> &'static str {
        match secret {
            Secret::Plain(_) => "plain",
            Secret::Md5(_) => "md5",
            Secret::Scram(_) => "scram",
        }
    }

    fn check(text: &str, expected: &[(&str, &str)]) {
        let list = Userlist::parse(text).expect("the list is well formed");
        let mut users: Vec<_> = list
            .iter()
            .map(|(name, secret)| match secret {
                Secret::Plain(password) => (name, password.as_str()),
                Secret::Md5(_) | Secret::Scram(_) => (name, kind(secret)),
            })
            .collect();
        users.sort_unstable();
        assert_eq!(users, expected, "{text:?}");
    }

    fn check_errors(text: &str, expected: &[(usize, UserlistCause)]) {
        let errors = Userlist::parse(text).expect_err("the list is broken");
        let errors: Vec<_> = errors.iter().map(|error| (error.line, error.cause)).collect();
        assert_eq!(errors, expected, "{text:?}");
    }

    #[test]
    fn a_list_is_read_as_pgbouncer_reads_it() {
        check("", &[]);
        check("\n ; note\n# note\n\t\n", &[]);
        check("\"bob\" \"secret\"", &[("bob", "secret")]);
        check("\"bob\"\t\"secret\"\r\n", &[("bob", "secret")]);
        check("  \"bob\"\"\" \"a\"\"b\" 17 \"x", &[("bob\"", "a\"b")]);
        check("\"bob\" \"\"", &[("bob", "")]);
        check("\"bob\" \"\"\"\"", &[("bob", "\"")]);
        check("\"a b\" \"c;d#\"\n\"é\" \"ü\"\n", &[("a b", "c;d#"), ("é", "ü")]);
        check("\"bob\" \"old\"\n\"bob\" \"new\"\n", &[("bob", "new")]);
    }

    #[test]
    fn secrets_are_told_apart_as_postgresql_does() {
        for (text, expected) in [
            (MD5, "md5"),
            (SCRAM, "scram"),
            ("md5", "plain"),
            ("md5secret", "plain"),
            ("SCRAM-SHA-256$", "plain"),
            ("SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$a:b", "plain"),
            (SCRAM.trim_end_matches('='), "plain"),
            ("", "plain"),
        ] {
            assert_eq!(kind(&Secret::parse(text)), expected, "{text}");
        }
    }

    #[test]
    fn all_mistakes_are_reported_with_their_lines() {
        check_errors(
            "bob secret\n\"ok\" \"x\"\n\"bob\n\"bob\"\n\"bob\" secret\n\"bob\" \"secret\n\"\" \"x\"",
            &[
                (1, UserlistCause::NameExpected),
                (3, UserlistCause::Unterminated),
                (4, UserlistCause::SecretExpected),
                (5, UserlistCause::SecretExpected),
                (6, UserlistCause::Unterminated),
                (7, UserlistCause::EmptyName),
            ],
        );
    }

    #[test]
    fn an_error_says_where_and_what_without_the_secret() {
        let errors = Userlist::parse("\n\"bob\" \"hunter2").expect_err("the quote is open");
        assert_eq!(errors[0].to_string(), "line 2: a double quote is not closed");
    }

    #[test]
    fn every_prefix_of_a_list_is_read_without_panic() {
        let text = format!("\"bob\" \"se\"\"cret\"\n; é\n\"é\" \"{MD5}\" x\n\"ü\" \"{SCRAM}\"\n");
        for (end, _) in text.char_indices() {
            let text = text.get(..end).expect("a boundary");
            let lines = text.lines().count();
            match Userlist::parse(text) {
                Ok(list) => assert!(list.len() <= 3),
                Err(errors) => assert!(errors.iter().all(|error| error.line <= lines)),
            }
        }
    }

    #[test]
    fn debug_output_names_the_kind_and_not_the_secret() {
        let list =
            Userlist::parse(&format!("\"a\" \"hunter2\"\n\"b\" \"{MD5}\"\n\"c\" \"{SCRAM}\""))
                .expect("the list is well formed");
        let shown = format!("{list:?}");
        for secret in ["hunter2", "21f316", "W22Za", "WG5d8"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("Plain(…)"), "{shown}");
    }

    #[test]
    fn a_password_has_one_verifier_and_an_empty_one_none() {
        let password = Password::new("pencil".to_owned());
        let first = password.verifier().expect("derived");
        let clone = password.clone();
        assert!(Arc::ptr_eq(first, clone.verifier().expect("shared")));
        assert!(Password::new(String::new()).verifier().is_none());
    }

    #[test]
    fn an_empty_password_is_never_right() {
        assert!(!Password::new(String::new()).accepts(b""));
        assert!(!Password::new("x".to_owned()).accepts(b""));
        assert!(Password::new("x".to_owned()).accepts(b"x"));
    }
}
