//! SHUTDOWN and the signals: who may finish, who is refused, and when the program is gone.

use std::net::TcpStream;
use std::path::Path;

use crate::support::daemon::{Daemon, Job};
use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, RawClient, query};
use crate::support::{free_port, wait_until};

fn start() -> (Database<'static>, Forebay, RawClient) {
    let database = Database::with("CREATE TABLE t (v int)");
    let forebay = Forebay::start(&database, &[]);
    let client = forebay.client();
    (database, forebay, client)
}

/// Nobody listens any more, for whoever comes next to do so.
fn refuses(forebay: &Forebay) {
    wait_until("nobody listens", || TcpStream::connect(("127.0.0.1", forebay.port)).is_err());
}

fn gone(forebay: &Forebay) {
    wait_until("the program has ended", || !forebay.daemon.runs());
    assert!(forebay.log().contains("shut down"));
}

/// Clients work on as long as they like, nobody new comes in, the last one ends it.
fn check_waits_for_clients(stop: impl FnOnce(&Forebay)) {
    let (_database, forebay, mut one) = start();
    let mut two = forebay.client();
    two.run("BEGIN; INSERT INTO t VALUES (1)");
    stop(&forebay);
    forebay.log_contains("shutting down");
    refuses(&forebay);
    one.run("INSERT INTO t VALUES (2)");
    two.run("COMMIT");
    one.close();
    assert_eq!(two.one("SELECT count(*) FROM t"), "2");
    assert!(forebay.daemon.runs());
    // Who looks is let in, and not waited for.
    let mut console = forebay.console();
    assert!(console.query("SHOW LISTS").contains("D(used_clients,2)"));
    two.close();
    gone(&forebay);
}

/// Transactions are finished, and nobody gets a server any more.
fn check_waits_for_servers(stop: impl FnOnce(&Forebay)) {
    let (database, forebay, mut idle) = start();
    let mut busy = forebay.client();
    busy.run("BEGIN; INSERT INTO t VALUES (1)");
    let mut silent = forebay.client();
    stop(&forebay);
    refuses(&forebay);
    idle.send(&query("SELECT 1"));
    assert_eq!(idle.until_closed(), "E(57P01)");
    busy.run("INSERT INTO t VALUES (2)");
    assert_eq!(busy.query("COMMIT"), "C(COMMIT) Z(I)");
    // With the last server gone, who is left is told.
    assert_eq!(busy.until_closed(), "E(57P01)");
    assert_eq!(silent.until_closed(), "E(57P01)");
    gone(&forebay);
    assert_eq!(database.direct().one("SELECT count(*) FROM t"), "2");
}

/// Nobody is waited for, and what was not committed never is.
fn check_waits_for_nobody(stop: impl FnOnce(&Forebay)) {
    let (database, forebay, mut client) = start();
    client.run("INSERT INTO t VALUES (1)");
    client.run("BEGIN; INSERT INTO t VALUES (2)");
    stop(&forebay);
    gone(&forebay);
    client.until_closed();
    wait_until("its servers are gone", || database.servers().is_empty());
    assert_eq!(database.direct().one("SELECT count(*) FROM t"), "1");
}

#[test]
fn sigterm_waits_for_clients() {
    check_waits_for_clients(|forebay| forebay.daemon.signal("TERM"));
}

#[test]
fn sigint_waits_for_servers() {
    check_waits_for_servers(|forebay| forebay.daemon.signal("INT"));
}

#[test]
fn sigquit_waits_for_nobody() {
    check_waits_for_nobody(|forebay| forebay.daemon.signal("QUIT"));
}

#[test]
fn a_second_signal_ends_the_waiting() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        check_waits_for_nobody(|forebay| {
            forebay.daemon.signal(first);
            forebay.log_contains("shutting down");
            assert!(forebay.daemon.runs());
            forebay.daemon.signal(second);
        });
    }
}

#[test]
fn shutdown_on_the_console_waits_for_whom_it_names() {
    check_waits_for_nobody(|forebay| forebay.console().send(&query("SHUTDOWN")));
    check_waits_for_clients(|forebay| forebay.console().run("SHUTDOWN WAIT_FOR_CLIENTS"));
    check_waits_for_servers(|forebay| forebay.console().run("SHUTDOWN WAIT_FOR_SERVERS"));
}

#[test]
fn a_client_that_waits_for_a_server_is_told_that_it_will_get_none() {
    let database = Database::with("CREATE TABLE t (v int)");
    let forebay = Forebay::start(&database, &["--pool-size", "1"]);
    let (mut holder, mut waiter) = (forebay.client(), forebay.client());
    holder.hold_server();
    waiter.send(&query("INSERT INTO t VALUES (1)"));
    let mut console = forebay.console();
    wait_until("the second client waits", || console.query("SHOW CLIENTS").contains(",waiting,"));
    forebay.daemon.signal("INT");
    assert_eq!(waiter.until_closed(), "E(57P01)");
    holder.run("COMMIT");
    assert_eq!(holder.until_closed(), "E(57P01)");
    gone(&forebay);
    assert_eq!(database.direct().one("SELECT count(*) FROM t"), "0");
}

/// A full disk, or whoever read the log is gone.
#[test]
fn a_log_that_cannot_be_written_stops_nobody() {
    let database = Database::with("CREATE TABLE t (v int)");
    let (port, url) = (free_port(), database.url());
    let (listen, program) = (format!("127.0.0.1:{port}"), env!("CARGO_BIN_EXE_forebay"));
    let settings = ["--listen", &listen, "--admin-listen", "", "--log-level", "debug"];
    let command = [&[program, &url][..], &settings].concat();
    let log = Path::new("/dev/full");
    let daemon = Daemon::start(&Job { command: &command, stop_signal: "KILL", log, remove: None });
    let login = Login::new(USER, PASSWORD, &database.name);
    wait_until("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let mut client = RawClient::log_in(port, &login).unwrap();
    assert_eq!(client.one("SELECT count(*) FROM t"), "0");
    daemon.signal("TERM");
    client.close();
    wait_until("the program has ended", || !daemon.runs());
}
