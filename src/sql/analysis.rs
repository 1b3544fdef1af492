//! Asking PostgreSQL what a statement means where names alone do not tell: the text of the
//! questions, and the verdict that follows from the tree it answers with.
//!
//! The statement is never run. A temporary view is made over it in a transaction that is rolled
//! back; the view's tree names every relation, function, operator, cast and type by object id.

use super::catalog::Catalog;
use super::resolve::resolve_stored;
use super::rules::Restrictions;
use super::verdict::{BypassReason, Read, Verdict, Write};

/// Waiting for a lock, or thinking, longer than this is not worth a verdict.
const LIMITS: &str = "SET LOCAL lock_timeout = '50ms'; SET LOCAL statement_timeout = '250ms'";

/// A statement, and the session it is meant in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// One SELECT without comments, as the lexer leaves it.
    pub text: String,
    /// Declared types of parameters; 0 where PostgreSQL is to infer.
    pub types: Vec<u32>,
    /// Schemas in order, `$user` replaced.
    pub search_path: Vec<String>,
    /// What follows `SET ROLE`, if the client took one.
    pub role: Option<String>,
}

/// The names alone did not tell; the tree may.
pub fn is_undecided(verdict: &Verdict) -> bool {
    let Read::Bypass(reason) = verdict.read else { return false };
    matches!(reason, BypassReason::UserObject | BypassReason::UnknownName | BypassReason::TimeType)
        && verdict.statements == 1
        && verdict.controls.is_empty()
        && !verdict.exact_text
        && verdict.restriction.denied_by.is_none()
}

impl Question {
    /// Begins the transaction and has the statement parsed as the client's session would.
    /// `declared` are the names of the types declared, in order.
    pub fn opening(&self, declared: &[String]) -> String {
        let mut sql = format!("BEGIN READ WRITE; {LIMITS}; ");
        if let Some(role) = &self.role {
            sql.extend(["SET LOCAL ROLE ", role, "; "]);
        }
        let quoted = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
        let path: Vec<String> = self.search_path.iter().map(quoted).collect();
        let path = if path.is_empty() { "''".to_owned() } else { path.join(", ") };
        let declared =
            if declared.is_empty() { String::new() } else { format!(" ({})", declared.join(", ")) };
        format!("{sql}SET LOCAL search_path = {path}; PREPARE {NAME}{declared} AS {}", self.text)
    }

    /// The names of the types declared, for `opening`; `None`: there are none.
    pub fn declared(&self) -> Option<String> {
        type_names(&self.types)
    }

    /// The view over the statement, whose parameters have these types; its id and its tree.
    pub fn view(&self, types: &[String]) -> Option<String> {
        let text = with_nulls(&self.text, types)?;
        Some(format!(
            "CREATE TEMPORARY VIEW {NAME} AS SELECT FROM ({text}) AS {NAME}; \
             SELECT ev_class, ev_action FROM pg_catalog.pg_rewrite WHERE \
             ev_class OPERATOR(pg_catalog.=) 'pg_temp.{NAME}'::pg_catalog.regclass"
        ))
    }
}

/// Asks for the names of types, in order; `None`: there are none.
pub fn type_names(types: &[u32]) -> Option<String> {
    if types.is_empty() {
        return None;
    }
    let oids: Vec<String> = types.iter().map(ToString::to_string).collect();
    Some(format!(
        "SELECT CASE t WHEN 0 THEN 'pg_catalog.unknown' ELSE pg_catalog.format_type(t, NULL) END \
         FROM pg_catalog.unnest('{{{}}}'::pg_catalog.oid[]) WITH ORDINALITY AS u(t, n) \
         ORDER BY n",
        oids.join(",")
    ))
}

/// Of the prepared statement and the view; neither outlives the question.
const NAME: &str = "forebay_analysis";

/// The types that PostgreSQL found for the parameters.
pub const PARAMETERS_QUERY: &str = "SELECT pg_catalog.format_type(t, NULL) \
     FROM pg_catalog.pg_prepared_statements p, \
     pg_catalog.unnest(p.parameter_types) WITH ORDINALITY AS u(t, n) \
     WHERE p.name OPERATOR(pg_catalog.=) 'forebay_analysis' ORDER BY n";

/// Whether it may be asked at all: not a standby, may make temporary relations.
pub const MAY_ASK_QUERY: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
     pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMP')";

/// The verdict that the tree of the view with this id proves, if it proves more than was known.
pub fn conclude(
    view: u32,
    tree: &str,
    (catalog, restrictions): (&Catalog, &Restrictions),
    before: &Verdict,
) -> Option<Verdict> {
    let mut stored = catalog.judge(tree);
    stored.relations.remove(&view);
    let resolved = resolve_stored(&stored, catalog, restrictions);
    if resolved.refusal.is_some() || resolved.code {
        return None;
    }
    let read = Read::Cacheable(resolved.tables.into_iter().collect());
    let mut verdict = Verdict { write: Write::None, read, ..before.clone() };
    verdict.restrict(&resolved.restriction);
    Some(verdict)
}

/// The text with a NULL of its type for each parameter: a view has none. `None`: there is a
/// parameter of no known type.
fn with_nulls(text: &str, types: &[String]) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = text.get(at..)?;
        let taken = match byte {
            b'\'' => quoted_len(rest, b'\'', follows_escape_mark(bytes.get(..at)?)),
            b'"' => quoted_len(rest, b'"', false),
            b'$' => match dollar(rest) {
                Dollar::Parameter(number, len) => {
                    let name = types.get(number.checked_sub(1)?)?;
                    out.extend(["(NULL::", name, ")"]);
                    at += len;
                    continue;
                }
                Dollar::Quote(len) => len,
            },
            byte if is_word(byte) => {
                bytes.get(at..)?.iter().take_while(|b| is_word(**b) || **b == b'$').count()
            }
            _ => 1,
        };
        out.push_str(text.get(at..at + taken)?);
        at += taken;
    }
    Some(out)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// `E` stands right before, and is no end of a longer word: `date'…'`.
fn follows_escape_mark(before: &[u8]) -> bool {
    match before {
        [.., previous, b'e' | b'E'] => !is_word(*previous) && *previous != b'$',
        [b'e' | b'E'] => true,
        _ => false,
    }
}

/// How long the quoted text at the start is; the lexer has seen that it ends.
fn quoted_len(text: &str, quote: u8, escapes: bool) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        let doubled = byte == quote && bytes.get(at + 1) == Some(&quote);
        if byte == quote && !doubled {
            return at + 1;
        }
        at += if doubled || byte == b'\\' && escapes { 2 } else { 1 };
    }
    text.len()
}

enum Dollar {
    /// Its number, and its length with the `$`.
    Parameter(usize, usize),
    /// The length of a dollar-quoted string.
    Quote(usize),
}

fn dollar(text: &str) -> Dollar {
    let digits = text.bytes().skip(1).take_while(u8::is_ascii_digit).count();
    if digits > 0 {
        let number = text.get(1..=digits).and_then(|number| number.parse().ok());
        return Dollar::Parameter(number.unwrap_or(0), digits + 1);
    }
    let tag_len =
        text.bytes().skip(1).position(|byte| byte == b'$').map_or(text.len(), |at| at + 2);
    let (tag, rest) = text.split_at_checked(tag_len).unwrap_or((text, ""));
    Dollar::Quote(rest.find(tag).map_or(text.len(), |end| tag_len + end + tag_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let types = ["integer".to_owned(), "text[]".to_owned()];
        assert_eq!(with_nulls(text, &types).as_deref(), Some(expected), "{text}");
    }

    #[test]
    fn parameters_become_nulls_of_their_types() {
        check("SELECT $1+$2", "SELECT (NULL::integer)+(NULL::text[])");
        check("SELECT a$1, $1", "SELECT a$1, (NULL::integer)");
    }

    #[test]
    fn what_only_looks_like_a_parameter_stays() {
        for text in [
            "SELECT '$1', 'a''$1'",
            r"SELECT E'a\'$1', E'a''\'$1', date'2020\', '$1'",
            "SELECT \"$1\", \"a\"\"$1\", U&'$1'",
            "SELECT $$ $1 $$, $x$ $$ $1 $x$ ",
            "SELECT é$1",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn a_parameter_without_a_type_is_not_asked_about() {
        assert_eq!(with_nulls("SELECT $3", &[]), None);
        assert_eq!(with_nulls("SELECT $0", &["integer".to_owned()]), None);
    }

    #[test]
    fn the_session_is_as_the_clients() {
        let question = Question {
            text: "SELECT 1".to_owned(),
            types: vec![23, 0],
            search_path: vec!["a".to_owned(), "B\"c".to_owned()],
            role: Some("'ann'".to_owned()),
        };
        let opening = question.opening(&["integer".to_owned(), "pg_catalog.unknown".to_owned()]);
        assert!(opening.ends_with(
            "SET LOCAL ROLE 'ann'; SET LOCAL search_path = \"a\", \"B\"\"c\"; \
             PREPARE forebay_analysis (integer, pg_catalog.unknown) AS SELECT 1"
        ));
        let nowhere = Question { search_path: vec![], types: vec![], role: None, ..question };
        assert!(
            nowhere
                .opening(&[])
                .contains("SET LOCAL search_path = ''; PREPARE forebay_analysis AS")
        );
        assert_eq!(nowhere.declared(), None);
    }
}
