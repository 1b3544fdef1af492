//! What is answered: status, headers and body.

use std::time::Instant;

use crate::admin::conversation::Access;
use crate::console::act;
use crate::gateway::Gateway;

use super::overview::overview;
use super::page::PAGE;
use super::ready::Readiness;
use super::request::{Refused, Wanted};
use super::scrape;

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// For what is not the page: nothing in it runs or loads.
const NO_PAGE: &str = "default-src 'none'; frame-ancestors 'none'";

/// Nobody keeps it, nobody else's page shows it, and it is what it says it is.
const ALWAYS: [(&str, &str); 5] = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
];

impl Reply {
    fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut headers: Vec<(&str, String)> =
            ALWAYS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        headers.push(("content-type", content_type.to_owned()));
        Self { status, headers, body: body.into() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A sentence.
    fn told(status: u16, text: &str) -> Self {
        Self::new(status, TEXT, format!("{text}\n")).with("content-security-policy", NO_PAGE)
    }

    pub fn refused(refused: Refused) -> Self {
        match refused {
            Refused::Token => Self::told(401, "This needs admin.http_token, as a password.")
                .with("www-authenticate", "Basic realm=\"Forebay\", charset=\"UTF-8\""),
            Refused::Host => Self::told(
                403,
                "Without admin.http_token only localhost and addresses of this machine are \
                 answered.",
            ),
            Refused::Method => {
                Self::told(405, "There is only GET and HEAD.").with("allow", "GET, HEAD")
            }
            Refused::Path => Self::told(404, "There is no such page."),
            Refused::Query => Self::told(400, "There is no such column, or no such part."),
        }
    }

    /// What was asked for could not be made.
    pub fn failed() -> Self {
        Self::told(500, "This failed; the log says more.")
    }

    /// May take some milliseconds, where there is much to show.
    pub fn of(gateway: &Gateway, wanted: &Wanted, now: Instant) -> Self {
        match wanted {
            Wanted::Live => Self::told(200, "live"),
            Wanted::Ready => {
                let readiness = Readiness::of(gateway, now);
                let status = if readiness == Readiness::Ready { 200 } else { 503 };
                Self::told(status, readiness.name())
            }
            Wanted::Page => Self::new(200, "text/html; charset=utf-8", PAGE.html.as_str())
                .with("content-security-policy", PAGE.policy.as_str()),
            Wanted::Metrics(format) => {
                let text = scrape::metrics(gateway, now, *format);
                Self::new(200, format.content_type(), text).with("content-security-policy", NO_PAGE)
            }
            Wanted::Overview => Self::json(&overview(gateway, now)),
            Wanted::Table(shown, part) => {
                Self::json(&shown.json(act::table(gateway, shown.show, Access::Look, now), part))
            }
        }
    }

    fn json(json: &serde_json::Value) -> Self {
        Self::new(200, JSON, json.to_string()).with("content-security-policy", NO_PAGE)
    }
}
