//! Recipes as bytes, for others and for later.
//!
//! ```text
//! list = (saved u64 · took u64 · user bytes32 · settings u16 × (name bytes32 · value bytes32) ·
//!         statement bytes32)*
//! ```
//!
//! Invariant: no bytes become a setting that PostgreSQL could read as anything but one value.

use std::sync::Arc;

use crate::cache::key;
use crate::sql::lex::{self, Lexed};

use super::{Asker, Recipe, STATEMENT_BYTES_MAX};

/// The first of them, as many as fit.
pub fn encode(recipes: &[Recipe], bytes_max: usize) -> Vec<u8> {
    let mut list = Vec::new();
    for recipe in recipes {
        let before = list.len();
        if put(&mut list, recipe).is_none() || list.len() > bytes_max {
            list.truncate(before);
            break;
        }
    }
    list
}

fn put(list: &mut Vec<u8>, recipe: &Recipe) -> Option<()> {
    list.extend_from_slice(&recipe.saved.to_be_bytes());
    list.extend_from_slice(&recipe.took.to_be_bytes());
    put_bytes(list, recipe.asker.user.as_bytes())?;
    let settings = &recipe.asker.settings;
    list.extend_from_slice(&u16::try_from(settings.len()).ok()?.to_be_bytes());
    for (name, value) in settings {
        put_bytes(list, name.as_bytes())?;
        put_bytes(list, value.as_bytes())?;
    }
    put_bytes(list, &recipe.statement)
}

fn put_bytes(list: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    list.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_be_bytes());
    list.extend_from_slice(bytes);
    Some(())
}

/// `None` if it is not wholly a list. Of a recipe that is none of ours nothing is kept.
pub fn decode(mut list: &[u8]) -> Option<Vec<Recipe>> {
    let mut recipes = Vec::new();
    while !list.is_empty() {
        take(&mut list, &mut recipes)?;
    }
    Some(recipes)
}

fn take(list: &mut &[u8], recipes: &mut Vec<Recipe>) -> Option<()> {
    let (saved, took) = (take_u64(list)?, take_u64(list)?);
    let user = take_text(list)?;
    let (count, rest) = list.split_first_chunk()?;
    *list = rest;
    let count = u16::from_be_bytes(*count);
    let mut settings = Vec::new();
    for _ in 0..count {
        settings.push((take_text(list)?, take_text(list)?));
    }
    let statement = take_bytes(list)?;
    let fits = statement.len() <= STATEMENT_BYTES_MAX
        && key::statement(statement).is_some()
        && settings.iter().all(|(name, value)| is_setting(name, value));
    let asker = Asker::new(user, settings.into_iter()).filter(|_| fits);
    recipes.extend(asker.map(|asker| Recipe {
        asker: Arc::new(asker),
        statement: statement.into(),
        saved,
        took,
    }));
    Some(())
}

/// Whether this is one value, to any server: what a backslash means is for settings to say.
fn is_setting(name: &str, value: &str) -> bool {
    let mut lexed = Lexed::default();
    let text = format!("SET x TO {value}");
    !name.contains(['\\', '\0'])
        && name != "standard_conforming_strings"
        && !value.contains(['\\', '\0', ';'])
        && !["--", "/*"].iter().any(|comment| value.contains(comment))
        && lex::lex(text.as_bytes(), &mut lexed).is_ok()
        && !lexed.multiple
}

fn take_u64(list: &mut &[u8]) -> Option<u64> {
    let (number, rest) = list.split_first_chunk()?;
    *list = rest;
    Some(u64::from_be_bytes(*number))
}

fn take_text<'a>(list: &mut &'a [u8]) -> Option<&'a str> {
    str::from_utf8(take_bytes(list)?).ok()
}

fn take_bytes<'a>(list: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = list.split_first_chunk()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    let (bytes, rest) = rest.split_at_checked(len)?;
    *list = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::{KeyBuffer, SessionKey, StatementKey};

    fn recipe(text: &str, settings: &[(&str, &str)]) -> Recipe {
        let mut key = KeyBuffer::default();
        let statement = StatementKey {
            text: text.as_bytes(),
            types: &[0, 0, 0, 23],
            formats: &[],
            values: &[255; 4],
            result_formats: &[0, 1],
        };
        assert!(key.set(SessionKey::default(), &statement, 0));
        let asker = Asker::new("ann", settings.iter().copied()).unwrap();
        Recipe {
            asker: Arc::new(asker),
            statement: key::split(key.bytes()).unwrap().1.into(),
            saved: 5,
            took: 7,
        }
    }

    #[test]
    fn what_was_written_is_read_as_far_as_it_fits() {
        let recipes =
            [recipe("select 1", &[("role", "bob"), ("search_path", "a, 'b'")]), recipe("q", &[])];
        let list = encode(&recipes, 1000);
        assert_eq!(decode(&list).unwrap(), recipes);
        assert_eq!(decode(&encode(&recipes, list.len() - 1)).unwrap(), recipes[..1]);
        assert_eq!(decode(&encode(&[], 1000)).unwrap(), []);
    }

    #[test]
    fn what_is_cut_short_is_no_list() {
        let list = encode(&[recipe("select 1", &[("role", "bob")])], 1000);
        for len in 1..list.len() {
            assert_eq!(decode(&list[..len]), None, "{len}");
        }
    }

    #[test]
    fn what_would_be_more_than_a_setting_is_left_out() {
        let check = |name, value, is_kept| {
            let list = encode(&[recipe("q", &[(name, value)])], 1000);
            assert_eq!(decode(&list).unwrap().len(), usize::from(is_kept), "{name} {value}");
        };
        for value in ["'UTC'", "on", "10", "a, \"B c\"", "-1", "'it''s'"] {
            check("timezone", value, true);
        }
        for value in [
            "1; DROP TABLE t",
            "1;",
            r"'\'",
            r"'\''; DROP TABLE t; --'",
            r"E'\''",
            "'open",
            "1 /* open",
            "1 -- ",
            "$$open",
        ] {
            check("timezone", value, false);
        }
        check("standard_conforming_strings", "off", false);
    }
}
