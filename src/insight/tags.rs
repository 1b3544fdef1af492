//! What a statement's comments say of where it comes from, as sqlcommenter, marginalia and
//! ActiveRecord's QueryLogs write it: `/*route='…',traceparent='…'*/`,
//! `/*application:Shop,controller:users,action:show*/`, at either end of the text.
//!
//! Comments are what the lexer took for such, so nothing comes from inside a literal. They are
//! the client's words: clipped, without control characters, and of use for statistics alone.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::sql::lex::Lexed;

/// Longer comments are not read.
const COMMENT_BYTES_MAX: usize = 4096;

/// What is looked at of one value.
const VALUE_BYTES_MAX: usize = 256;

/// What is shown of a name.
const NAME_BYTES_MAX: usize = 200;

/// Routes that a thread finds again without making them anew; beyond it all are forgotten.
const KNOWN_MAX: usize = 1024;

/// Where a statement comes from: one page or job of an application.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The route, else `controller#action`, else the controller, else the job.
    pub name: String,
    /// As the comment calls it; empty if it does not.
    pub application: String,
}

/// What is remembered of a statement's comments.
#[derive(Clone, Debug)]
pub struct Tag {
    pub route: Arc<Route>,
    /// A hash of the request it is for, such as the trace id; 0: not told.
    pub request: u64,
}

/// What tells routes apart, as it stands in the comment.
#[derive(Clone, Copy, Default)]
struct Tags<'a> {
    route: &'a str,
    controller: &'a str,
    action: &'a str,
    job: &'a str,
    application: &'a str,
    request: u64,
}

/// A route that was seen, with the hash and the words it was made of.
struct Known {
    words: [Box<str>; 5],
    route: Arc<Route>,
}

thread_local! {
    static KNOWN: RefCell<HashMap<u64, Known>> = RefCell::default();
}

impl Tag {
    /// Of a statement that was lexed as this. Allocates nothing for a route that was seen before.
    pub fn of(sql: &[u8], lexed: &Lexed) -> Option<Self> {
        let last = lexed.comment.clone()?;
        let first = lexed.hint.clone().filter(|first| *first != last);
        let mut tags = Tags::default();
        for range in first.into_iter().chain([last]) {
            let comment = sql.get(range).filter(|comment| comment.len() <= COMMENT_BYTES_MAX);
            if let Some(Ok(comment)) = comment.map(std::str::from_utf8) {
                tags.read(comment);
            }
        }
        let named = [tags.route, tags.controller, tags.job].iter().any(|name| !name.is_empty());
        named.then(|| Self { route: known(&tags), request: tags.request })
    }
}

impl<'a> Tags<'a> {
    /// What is not understood says nothing.
    fn read(&mut self, comment: &'a str) {
        let block = comment.strip_prefix("/*").and_then(|rest| rest.strip_suffix("*/"));
        let mut rest = block.or_else(|| comment.strip_prefix("--")).unwrap_or_default();
        while let Some((key, value, after)) = pair(rest) {
            self.note(key, value);
            rest = after;
        }
    }

    fn note(&mut self, key: &str, value: &'a str) {
        let value = value.get(..value.floor_char_boundary(VALUE_BYTES_MAX)).unwrap_or_default();
        if value.is_empty() {
            return;
        }
        match key {
            "route" => self.route = value,
            "namespaced_controller" | "controller_with_namespace" => self.controller = value,
            "controller" if self.controller.is_empty() => self.controller = value,
            "action" => self.action = value,
            "job" => self.job = value,
            "application" | "app" | "app_name" => self.application = value,
            "traceparent" => self.request = trace_id(value).map_or(self.request, hash),
            "request_id" if self.request == 0 => self.request = hash(value),
            _ => {}
        }
    }

    fn words(&self) -> [&'a str; 5] {
        [self.route, self.controller, self.action, self.job, self.application]
    }

    fn to_route(self) -> Route {
        let name = if !self.route.is_empty() {
            shown(self.route)
        } else if self.controller.is_empty() {
            shown(self.job)
        } else if self.action.is_empty() {
            shown(self.controller)
        } else {
            clipped(format!("{}#{}", shown(self.controller), shown(self.action)))
        };
        Route { name, application: shown(self.application) }
    }
}

impl Known {
    fn is_of(&self, tags: &Tags<'_>) -> bool {
        self.words.iter().zip(tags.words()).all(|(known, word)| **known == *word)
    }
}

/// The route of these tags, the same for the same words.
fn known(tags: &Tags<'_>) -> Arc<Route> {
    let hash = tags.words().iter().fold(0, |hash, word| xxh3_64_with_seed(word.as_bytes(), hash));
    KNOWN.with_borrow_mut(|known| {
        if let Some(known) = known.get(&hash).filter(|known| known.is_of(tags)) {
            return Arc::clone(&known.route);
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let route = Arc::new(tags.to_route());
        let words = tags.words().map(Box::from);
        known.insert(hash, Known { words, route: Arc::clone(&route) });
        route
    })
}

/// The next key and value, and what stands behind them. A quoted value that has no end says
/// nothing, and ends the comment.
fn pair(text: &str) -> Option<(&str, &str, &str)> {
    let mut rest = text;
    loop {
        let at = rest.find(['=', ':', ','])?;
        let (key, from_mark) = rest.split_at_checked(at)?;
        let value = from_mark.get(1..)?;
        if from_mark.starts_with(',') {
            rest = value;
            continue;
        }
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('\'') {
            Some(quoted) => {
                let (value, after) = quoted.split_at_checked(closing_quote(quoted)?)?;
                (value, after.get(1..)?)
            }
            None => value.split_at_checked(value.find(',').unwrap_or(value.len()))?,
        };
        return Some((key.trim(), value.trim(), after));
    }
}

/// A backslash stands before a quote that ends nothing.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'\'' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// The second field of a `traceparent`.
fn trace_id(value: &str) -> Option<&str> {
    let id = value.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

fn hash(value: &str) -> u64 {
    xxh3_64_with_seed(value.as_bytes(), 0).max(1)
}

/// A value as it was before it was written into a comment, fit to be shown.
fn shown(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = match (byte, after.first()) {
            // Python's sqlcommenter doubles it, which its driver undoes where there are values.
            (b'%', Some(b'%')) if hex(after.get(1..)).is_some() => after,
            (b'%', _) if let Some(decoded) = hex(Some(after)) => {
                bytes.push(decoded);
                after.get(2..).unwrap_or_default()
            }
            (b'\\', Some(b'\'')) => after,
            _ => {
                bytes.push(byte);
                after
            }
        };
    }
    let text = String::from_utf8_lossy(&bytes);
    clipped(text.chars().map(|letter| if is_hidden(letter) { ' ' } else { letter }).collect())
}

/// The byte that the next two digits are.
fn hex(text: Option<&[u8]>) -> Option<u8> {
    let mut digits = text?.get(..2)?.iter().map(|digit| char::from(*digit).to_digit(16));
    u8::try_from(digits.try_fold(0, |byte, digit| Some(byte * 16 + digit?))?).ok()
}

/// Control characters, and those that turn round how a line is read.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

fn clipped(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lex::lex;

    const TRACE: &str = "traceparent='00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01'";

    fn tag(sql: &str) -> Option<Tag> {
        let mut lexed = Lexed::default();
        lex(sql.as_bytes(), &mut lexed).unwrap();
        Tag::of(sql.as_bytes(), &lexed)
    }

    /// Route and application, and whether a request is told.
    fn check(sql: &str, route: &str, application: &str, has_request: bool) {
        let tag = tag(sql).unwrap_or_else(|| panic!("no tag in {sql}"));
        let told = (tag.route.name.as_str(), tag.route.application.as_str(), tag.request != 0);
        assert_eq!(told, (route, application, has_request), "{sql}");
    }

    #[test]
    fn tags_are_found_wherever_frameworks_put_them() {
        let django = format!(
            "SELECT 1 /*controller='shop%3Aproduct',db_driver='django.db',framework='django%3A4.2',\
             route='%5Eproducts/%28%3FP%3Cid%3E%5B0-9%5D%2B%29/%24',{TRACE}*/;"
        );
        check(&django, "^products/(?P<id>[0-9]+)/$", "", true);
        check(
            "SELECT 1 /*application:Shop,controller:users,action:show*/",
            "users#show",
            "Shop",
            false,
        );
        check(
            "/*action='show',application='Shop',controller='users'*/ SELECT 1",
            "users#show",
            "Shop",
            false,
        );
        check("-- route='/a', request_id='77'\nSELECT 1", "/a", "", true);
        check("SELECT 1 -- controller=carts", "carts", "", false);
        check("/* application:Shop */ SELECT 1 /*job:MailJob*/", "MailJob", "Shop", false);
        check("SELECT /*route='/in',app='x'*/ 1", "/in", "x", false);
        check("/* forebay:max_age=5s, route='/h' */ SELECT 1", "/h", "", false);
        check(
            "SELECT 1 /*controller='users',namespaced_controller='Admin%3A%3AUsers'*/",
            "Admin::Users",
            "",
            false,
        );
        check("/*+ SeqScan(t) */ SELECT 1 /*route='/x'*/", "/x", "", false);
        check("SELECT 1 /*route='%%3Cid%%3E%%2525'*/", "<id>%25", "", false);
        check(r"SELECT 1 /*route='/it\'s,here',action='a'*/", "/it's,here", "", false);
    }

    #[test]
    fn what_no_framework_wrote_is_no_tag() {
        for sql in [
            "SELECT 1",
            "SELECT '/*route=''/a''*/'",
            "SELECT $$ /*route='/a'*/ $$",
            "SELECT \"/*route='/a'*/\" FROM t",
            "/* just words: and more */ SELECT 1",
            "SELECT 1 /*application:Shop,action:show*/",
            "SELECT 1 /*route=''*/",
            "SELECT 1 /*route='/a*/",
            "SELECT 1 /**/",
            "SELECT 1 --",
            &format!("SELECT 1 /*{TRACE}*/"),
        ] {
            assert!(tag(sql).is_none(), "{sql}");
        }
    }

    #[test]
    fn statements_of_one_request_have_its_number_and_those_of_others_another() {
        let one = tag(&format!("SELECT 1 /*route='/a',{TRACE}*/")).unwrap();
        let same =
            tag(&format!("SELECT 2 /*{},route='/a'*/", TRACE.replace("c532", "ffff"))).unwrap();
        let other =
            tag(&format!("SELECT 1 /*route='/a',{}*/", TRACE.replace("5bd6", "aaaa"))).unwrap();
        assert_eq!(one.request, same.request);
        assert_ne!(one.request, other.request);
        assert!(Arc::ptr_eq(&one.route, &other.route), "made anew");
        assert_eq!(tag("SELECT 1 /*route='/a',traceparent='00-77-01'*/").unwrap().request, 0);
    }

    #[test]
    fn a_hostile_comment_is_clipped_and_shows_no_control_character() {
        let long = format!("SELECT 1 /*route='{}'*/", "é%".repeat(600));
        let name = &tag(&long).unwrap().route.name;
        assert!(name.len() <= NAME_BYTES_MAX && name.starts_with("é%é%"), "{name}");
        assert!(tag(&format!("SELECT 1 /*route='/a',x='{}'*/", "x".repeat(10_000))).is_none());
        check(
            "SELECT 1 /*route='/a%0Ab%1B[0m\u{7f}%E2%80%AEc%ff%zz%+f%'*/",
            "/a b [0m  c\u{FFFD}%zz%+f%",
            "",
            false,
        );
        for junk in [
            "'", "=", ":", ",", "=,=,", "route", "route=", "route='", "'''", "\\'", "%", "route:':",
        ] {
            let _nothing_fails = tag(&format!("SELECT 1 /*{junk}*/"));
            let _nothing_fails = tag(&format!("SELECT 1 /*{}*/", junk.repeat(500)));
        }
    }

    #[test]
    fn a_thread_remembers_no_more_routes_than_it_may() {
        for number in 0..KNOWN_MAX + 10 {
            check(&format!("SELECT 1 /*route='/{number}'*/"), &format!("/{number}"), "", false);
        }
        KNOWN.with_borrow(|known| assert_eq!(known.len(), 10));
    }
}
