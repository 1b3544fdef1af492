//! What a client is told of its session when it logs in, and the server that is asked for it.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, RawClient};

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
