//! What is asked for, and whether whoever asks may have it. Knows nothing of sockets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::{Admin, ListenAddress};

use super::exposition::Format;
use super::tables::{self, Part, Shown};

/// A request, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Behind the `?`.
    pub query: &'a str,
    /// The host it was addressed to, without a port; `None`: none, or several.
    pub host: Option<&'a str>,
    pub authorization: Option<&'a str>,
    pub accept: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    Live,
    Ready,
    Page,
    Metrics(Format),
    Overview,
    Table(&'static Shown, Part),
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No token, or another.
    Token,
    /// A name that anybody may have made to mean this machine: a page of theirs would read ours.
    Host,
    Method,
    Path,
    Query,
}

/// The whole decision. Where a token is asked for, only who has it learns what else is wrong.
pub fn decide(asked: &Asked<'_>, admin: &Admin) -> Result<Wanted, Refused> {
    let open = match asked.path {
        "/live" => Some(Wanted::Live),
        "/ready" => Some(Wanted::Ready),
        _ => None,
    };
    if open.is_none() {
        may_look(asked, admin)?;
    }
    if !matches!(asked.method, "GET" | "HEAD") {
        return Err(Refused::Method);
    }
    if let Some(open) = open {
        return Ok(open);
    }
    match asked.path {
        "/" => Ok(Wanted::Page),
        "/metrics" => Ok(Wanted::Metrics(Format::of(asked.accept))),
        "/api/overview" => Ok(Wanted::Overview),
        path => {
            let table = path.strip_prefix("/api/tables/").and_then(tables::find);
            let table = table.ok_or(Refused::Path)?;
            Ok(Wanted::Table(table, Part::of(asked.query, table).ok_or(Refused::Query)?))
        }
    }
}

fn may_look(asked: &Asked<'_>, admin: &Admin) -> Result<(), Refused> {
    let token = admin.http_token.reveal();
    let listen = admin.http_listen.as_ref();
    if !token.is_empty() {
        let shown = asked.authorization.and_then(credentials);
        let fits = shown.is_some_and(|shown| is_same(shown.as_bytes(), token.as_bytes()));
        return if fits { Ok(()) } else { Err(Refused::Token) };
    }
    // A reload may have taken the token away from an address that only a restart changes.
    if !listen.is_some_and(ListenAddress::is_loopback) {
        return Err(Refused::Token);
    }
    let host = asked.host.ok_or(Refused::Host)?;
    let own = ListenAddress { host: host.to_ascii_lowercase(), port: 0 };
    if own.is_loopback() { Ok(()) } else { Err(Refused::Host) }
}

/// The token of `Bearer <token>`, or the password of `Basic <base64 of user:password>`.
fn credentials(authorization: &str) -> Option<String> {
    let (scheme, rest) = authorization.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

/// In a time that tells neither what fits nor how long it is.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    Sha256::digest(one).ct_eq(&Sha256::digest(other)).into()
}

/// The host of `host:port` without the port, and an address without its brackets.
pub fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(authority, |(address, _)| address);
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretText;

    const TOKEN: &str = "0123456789abcdef";

    fn admin(host: &str, token: &str) -> Admin {
        Admin {
            http_listen: Some(ListenAddress { host: host.to_owned(), port: 9127 }),
            http_token: SecretText::new(token),
            ..Admin::default()
        }
    }

    fn asked<'a>(path: &'a str, host: &'a str) -> Asked<'a> {
        let host = (!host.is_empty()).then_some(host);
        Asked { method: "GET", path, query: "", host, authorization: None, accept: "" }
    }

    #[test]
    fn what_load_balancers_ask_needs_no_token() {
        for admin in [admin("0.0.0.0", TOKEN), admin("127.0.0.1", ""), admin("0.0.0.0", "")] {
            assert_eq!(decide(&asked("/live", "evil"), &admin), Ok(Wanted::Live));
            assert_eq!(decide(&asked("/ready", ""), &admin), Ok(Wanted::Ready));
        }
    }

    #[test]
    fn all_else_needs_the_token_if_there_is_one() {
        let admin = admin("0.0.0.0", TOKEN);
        let with = |authorization: &str| {
            let authorization = Some(authorization);
            decide(&Asked { authorization, ..asked("/", "pooler.example") }, &admin)
        };
        let basic = |text: &str| with(&format!("Basic {}", BASE64.encode(text)));
        assert_eq!(with(&format!("Bearer {TOKEN}")), Ok(Wanted::Page));
        assert_eq!(with(&format!("bearer  {TOKEN} ")), Ok(Wanted::Page));
        assert_eq!(basic(&format!("anybody:{TOKEN}")), Ok(Wanted::Page));
        assert_eq!(basic(&format!(":{TOKEN}")), Ok(Wanted::Page));
        for wrong in ["", TOKEN, "Bearer", "Bearer 0123456789abcdeF", "Bearer ", "Basic x", "Basic"]
        {
            assert_eq!(with(wrong), Err(Refused::Token), "{wrong}");
        }
        for wrong in [TOKEN, "", ":", "anybody:0123456789abcde", "anybody:0123456789abcdef0"] {
            assert_eq!(basic(wrong), Err(Refused::Token), "{wrong}");
        }
        for path in ["/", "/metrics", "/api/overview", "/api/tables/slow", "/nothing"] {
            assert_eq!(decide(&asked(path, "localhost"), &admin), Err(Refused::Token), "{path}");
        }
    }

    #[test]
    fn without_token_only_names_of_this_machine_are_answered() {
        let admin = admin("127.0.0.1", "");
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"] {
            assert_eq!(decide(&asked("/", host), &admin), Ok(Wanted::Page), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "", "1"] {
            assert_eq!(decide(&asked("/", host), &admin), Err(Refused::Host), "{host}");
        }
    }

    #[test]
    fn a_token_that_a_reload_took_away_opens_nothing() {
        assert_eq!(decide(&asked("/", "localhost"), &admin("*", "")), Err(Refused::Token));
    }

    #[test]
    fn only_looking_is_possible() {
        let admin = admin("127.0.0.1", "");
        for path in ["/", "/live", "/metrics"] {
            for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
                let asked = Asked { method, ..asked(path, "localhost") };
                assert_eq!(decide(&asked, &admin), Err(Refused::Method), "{method} {path}");
            }
        }
        let head = Asked { method: "HEAD", ..asked("/", "localhost") };
        assert_eq!(decide(&head, &admin), Ok(Wanted::Page));
        for path in ["/nothing", "/api/tables/", "/api/tables/fds", "/live/", "//", ""] {
            assert_eq!(decide(&asked(path, "localhost"), &admin), Err(Refused::Path), "{path}");
        }
    }

    #[test]
    fn a_port_is_no_part_of_the_host() {
        let check = |authority, host| assert_eq!(without_port(authority), host);
        check("localhost:9127", "localhost");
        check("localhost", "localhost");
        check("[::1]:9127", "::1");
        check("[::1]", "::1");
        check("127.0.0.1:1", "127.0.0.1");
        check("[::1", "[::1");
    }
}
