//! The HTTP port: who is let in, how many, and what load balancers hear.

use std::io::Write as _;

use crate::support::forebay::Forebay;
use crate::support::http::{Answer, connect, get, get_with, read, send};
use crate::support::postgres::{Database, Postgres};
use crate::support::raw::query;
use crate::support::{free_port, wait_until};

const TOKEN: &str = "a token of some length";
/// `anybody:a token of some length`, as browsers send it.
const BASIC: &str = "authorization: Basic YW55Ym9keTphIHRva2VuIG9mIHNvbWUgbGVuZ3Ro";

/// With an HTTP port, and more settings.
pub fn start(database: &Database<'_>, toml: &str) -> (Forebay, u16) {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    (Forebay::with_config(database, toml, &["--http-listen", &listen]), port)
}

fn ready(port: u16) -> (u16, String) {
    let Answer { status, body, .. } = get(port, "/ready");
    (status, body.trim_end().to_owned())
}

#[test]
fn it_is_ready_unless_it_is_paused_or_stops() {
    let database = Database::with("");
    let (forebay, port) = start(&database, "");
    let told = |status, word: &str| assert_eq!(ready(port), (status, word.to_owned()));
    told(200, "ready");
    let mut console = forebay.console();
    console.run("PAUSE");
    told(503, "paused");
    console.run("RESUME");
    told(200, "ready");
    console.run("SUSPEND");
    told(503, "suspended");
    console.run("RESUME");
    let client = forebay.client();
    console.run("SHUTDOWN WAIT_FOR_CLIENTS");
    told(503, "stopping");
    assert_eq!(get(port, "/live").status, 200);
    client.close();
    wait_until("it has stopped", || !forebay.daemon.runs());
}

#[test]
fn where_no_database_can_be_reached_it_is_not_ready() {
    let mut postgres = Postgres::private("");
    let (forebay, port) = start(&postgres.database(), "[server]\nserver_login_retry = \"1s\"\n");
    let mut client = forebay.client();
    client.run("SELECT 1");
    postgres.stop();
    // Until somebody asks for a server, nothing says that there is none.
    client.send(&query("SELECT 2"));
    wait_until("it is not ready", || ready(port) == (503, "unreachable".to_owned()));
    assert_eq!(get(port, "/live").status, 200);
    postgres.start();
    wait_until("it is ready", || ready(port).0 == 200);
}

#[test]
fn who_has_no_token_learns_nothing_but_that_it_lives_and_is_ready() {
    let database = Database::with("");
    let settings = |token: &str| format!("[admin]\nhttp_token = \"{token}\"\n");
    let (forebay, port) = start(&database, &settings(TOKEN));
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    for path in ["/", "/metrics", "/api/overview", "/api/tables/slow", "/nothing"] {
        for header in ["accept: */*", &bearer("a token of some lengtH"), "cookie: a=b"] {
            let answer = get_with(port, path, header);
            assert_eq!(answer.status, 401, "{path} {header}");
            let asked = answer.header("www-authenticate").unwrap();
            assert!(asked.starts_with("Basic "), "{asked}");
            assert!(!answer.body.contains(TOKEN));
        }
        let known = if path == "/nothing" { 404 } else { 200 };
        assert_eq!(get_with(port, path, &bearer(TOKEN)).status, known, "{path}");
        assert_eq!(get_with(port, path, BASIC).status, known, "{path}");
    }
    assert_eq!((get(port, "/live").status, get(port, "/ready").status), (200, 200));
    assert!(forebay.console().query("SHOW CONFIG").contains("admin.http_token,****"));
    let set = "a token that was typed in";
    forebay.console().run(&format!("SET admin.http_token = '{set}'"));
    assert_eq!(get_with(port, "/", &bearer(set)).status, 200);
    forebay.log_contains("admin.http_token");
    assert!(!forebay.log().contains(set), "{}", forebay.log());
    forebay.reload(&settings("another token of some length"));
    assert_eq!(get_with(port, "/", BASIC).status, 401);
    assert_eq!(get_with(port, "/", &bearer("another token of some length")).status, 200);
}

#[test]
fn a_page_of_somebody_elses_cannot_read_ours_by_a_name_that_means_this_machine() {
    let database = Database::with("");
    let (_forebay, port) = start(&database, "");
    let status = |head: &str| send(port, head).status;
    assert_eq!(status(&format!("GET / HTTP/1.1\r\nhost: localhost:{port}")), 200);
    assert_eq!(status("GET / HTTP/1.1\r\nhost: [::1]"), 200);
    assert_eq!(status(&format!("GET / HTTP/1.1\r\nhost: evil.example:{port}")), 403);
    assert_eq!(status("GET http://evil.example/ HTTP/1.1\r\nhost: localhost"), 403);
    assert_eq!(status("GET / HTTP/1.1\r\nhost: localhost\r\nhost: localhost"), 403);
    assert_eq!(status("GET / HTTP/1.0"), 403);
    assert_eq!(status("GET /live HTTP/1.0"), 200);
    let answer = get_with(port, "/api/overview", "origin: http://evil.example");
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[test]
fn it_only_looks() {
    let database = Database::with("");
    let (_forebay, port) = start(&database, "");
    let host = format!("HTTP/1.1\r\nhost: localhost:{port}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = send(port, &format!("{method} /metrics {host}\r\ncontent-length: 0"));
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    let (head, whole) = (send(port, &format!("HEAD / {host}")), get(port, "/"));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let length = whole.body.len().to_string();
    assert_eq!(head.header("content-length"), Some(length.as_str()));
    assert_eq!(get(port, "/favicon.ico").status, 404);
    assert_eq!(get(port, "/api/tables/statements?order=nothing").status, 400);
}

#[test]
fn browsers_are_told_what_they_may_do_with_it() {
    let database = Database::with("");
    let (_forebay, port) = start(&database, "");
    for path in ["/", "/metrics", "/live", "/ready", "/api/overview", "/nothing"] {
        let answer = get(port, path);
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
    }
}

#[test]
fn whoever_sends_too_much_or_too_slowly_is_let_go() {
    let database = Database::with("");
    let (_forebay, port) = start(&database, "");
    // Of a connection that says nothing nobody hears until its time is over; the others go first.
    let mut silent = connect(port);
    silent.write_all(b"GET / HT").unwrap();
    let long = format!("GET /live HTTP/1.1\r\nx: {}", "x".repeat(20_000));
    assert_eq!(send(port, &long).status, 431);
    let many = "\r\nx: y".repeat(200);
    assert_eq!(send(port, &format!("GET /live HTTP/1.1{many}")).status, 431);
    // One request a connection.
    let mut twice = connect(port);
    twice.write_all("GET /live HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2).as_bytes()).unwrap();
    let answer = read(&mut twice).unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "live\n"));
    assert!(read(&mut silent).is_none_or(|answer| answer.status == 408));
}

#[test]
fn connections_are_bounded_and_a_place_is_free_again_when_one_goes() {
    let database = Database::with("");
    let (forebay, port) = start(&database, "");
    let holding: Vec<_> = (0..64).map(|_| connect(port)).collect();
    let mut one_more = connect(port);
    // Not before: where it is closed at once, sending fails.
    forebay.log_contains("an HTTP connection is one too many");
    let _closed = one_more.write_all(b"GET /live HTTP/1.1\r\n\r\n");
    assert!(read(&mut one_more).is_none_or(|answer| answer.status == 503));
    drop(holding);
    wait_until("there is a place again", || {
        let mut next = connect(port);
        let sent = next.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n");
        sent.is_ok() && read(&mut next).is_some_and(|answer| answer.status == 200)
    });
}
