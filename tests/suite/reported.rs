//! What a client is told of its session when it logs in, and the server that is asked for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, RawClient, message};
use crate::support::scripted::{Reply, ScriptedServer, complete, ready};
use crate::support::wait_until;

/// Where all clients use one server.
fn start(toml: &str) -> (Database<'static>, Forebay) {
    let database = Database::with("");
    let forebay = Forebay::with_config(&database, toml, &["--pool-size", "1"]);
    (database, forebay)
}

fn told(client: &RawClient) -> Vec<String> {
    let reported = client.greeting.iter().filter(|message| message.tag == b'S');
    let mut told: Vec<String> = reported.map(ToString::to_string).collect();
    told.sort();
    told
}

/// The client is told what PostgreSQL tells it, on a server that it shares with those before.
fn check_told(database: &Database<'_>, forebay: &Forebay, parameters: &[(&str, &str)]) {
    let login = Login::new(USER, PASSWORD, &database.name).with(parameters);
    let direct = RawClient::log_in(database.postgres.port, &login).unwrap();
    let through = forebay.log_in(&login).unwrap();
    assert_eq!(told(&through), told(&direct), "{parameters:?}");
}

#[test]
fn a_client_is_told_its_settings_whatever_the_last_one_had() {
    let (database, forebay) = start("");
    for parameters in [
        &[("TimeZone", "Asia/Tokyo"), ("application_name", "one")][..],
        // Its server has this time zone already.
        &[("TimeZone", "Asia/Tokyo"), ("application_name", "two")],
        &[("TimeZone", "Asia/Tokyo"), ("client_encoding", "LATIN1")],
        &[("application_name", "two"), ("client_encoding", "LATIN1")],
        &[],
        &[("client_encoding", "LATIN1")],
    ] {
        check_told(&database, &forebay, parameters);
    }
}

#[test]
fn a_client_is_told_its_settings_on_a_server_that_code_has_changed() {
    let (database, forebay) = start("");
    let mut other = forebay.client();
    let pid = other.one("SELECT pg_backend_pid()");
    let set = "DO $$BEGIN PERFORM set_config('TimeZone', 'Asia/Tokyo', false); END$$";
    for parameters in [&[("TimeZone", "Asia/Tokyo")][..], &[("client_encoding", "LATIN1")]] {
        other.run(set);
        check_told(&database, &forebay, parameters);
    }
    assert_eq!(other.one("SELECT pg_backend_pid()"), pid, "the server goes on being used");
}

/// In front of a PostgreSQL that never answers when a time zone is set, and how often one was.
fn start_silent(toml: &str) -> (Forebay, Arc<AtomicUsize>) {
    let asked: Arc<AtomicUsize> = Arc::default();
    let seen = Arc::clone(&asked);
    let server = ScriptedServer::start(move |tag, body| match tag {
        b'Q' if String::from_utf8_lossy(body).starts_with("SET \"timezone\"") => {
            seen.fetch_add(1, Ordering::SeqCst);
            Reply::Send(Vec::new())
        }
        b'Q' => Reply::Send([complete("SELECT 0"), ready()].concat()),
        _ => Reply::Send(Vec::new()),
    });
    let toml = format!("{toml}[cache]\nmode = \"off\"\n");
    (Forebay::launch(&server.url(), "app", &toml, &["--pool-size", "1"]), asked)
}

/// The only server of the pool has not been handed on.
fn check_closed(forebay: &Forebay, asked: &AtomicUsize) {
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(forebay.client().query("SELECT 1"), "C(SELECT 0) Z(I)");
}

#[test]
fn a_login_is_given_up_in_time_while_its_server_is_silent_and_so_is_the_server() {
    let (forebay, asked) = start_silent("[listen]\nclient_login_timeout = \"2s\"\n");
    let login = Login::new(USER, PASSWORD, "app").with(&[("TimeZone", "Asia/Tokyo")]);
    let refused = forebay.log_in(&login).err().unwrap();
    assert_eq!(refused.message, "client_login_timeout");
    check_closed(&forebay, &asked);
}

#[test]
fn a_client_that_leaves_while_its_server_is_silent_takes_the_server_along() {
    let (forebay, asked) = start_silent("[auth]\nauth_type = \"any\"\n");
    let login = Login::new(USER, PASSWORD, "app").with(&[("TimeZone", "Asia/Tokyo")]);
    let mut client = RawClient::connect(forebay.port);
    client.send(&login.startup());
    wait_until("the server is asked", || asked.load(Ordering::SeqCst) == 1);
    drop(client);
    check_closed(&forebay, &asked);
}

#[test]
fn what_a_server_reports_beside_its_answers_is_not_kept() {
    let report = message(b'S', format!("application_name\0{}\0", "x".repeat(1 << 20)).as_bytes());
    let server = ScriptedServer::start(move |tag, body| match tag {
        b'Q' if body.starts_with(b"SELECT 'there'") => {
            Reply::Send([complete("SELECT 0"), report.clone(), ready()].concat())
        }
        b'Q' => Reply::Send([complete("SELECT 0"), ready()].concat()),
        _ => Reply::Send(Vec::new()),
    });
    let toml = "[server]\nserver_check_delay = 0\nserver_check_query = \"SELECT 'there'\"\n\
                [cache]\nmode = \"off\"\n";
    let forebay = Forebay::launch(&server.url(), "app", toml, &["--pool-size", "1"]);
    let mut client = forebay.client();
    client.run("SELECT 1");
    let before = forebay.daemon.resident_kb();
    (0..50).for_each(|_| client.run("SELECT 1"));
    let after = forebay.daemon.resident_kb();
    assert!(after < before + 20_000, "{before} kB before, {after} kB after");
}

#[test]
fn a_client_is_told_what_a_connect_query_sets() {
    for mode in ["session", "transaction"] {
        let database = Database::with("");
        let toml = format!(
            "[pool]\npool_mode = \"{mode}\"\n[databases]\n{name} = {{ host = \"127.0.0.1\", \
             port = {port}, connect_query = \"SET timezone = 'Asia/Tokyo'\" }}\n",
            name = database.name,
            port = database.postgres.port
        );
        let forebay = Forebay::with_config(&database, &toml, &[]);
        for (parameters, zone) in [
            (&[][..], "S(TimeZone=Asia/Tokyo)"),
            (&[("application_name", "one")], "S(TimeZone=Asia/Tokyo)"),
            (&[("TimeZone", "Europe/Rome")], "S(TimeZone=Europe/Rome)"),
        ] {
            let told = told(&forebay.client_with(parameters));
            assert!(told.iter().any(|told| told == zone), "{mode} {parameters:?} {told:?}");
        }
    }
}
