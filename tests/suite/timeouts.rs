//! What takes too long ends, with the reason, and nothing else does.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, RawClient, query};
use crate::support::wait_until;

fn start(toml: &str) -> (Database<'static>, Forebay) {
    let database = Database::with("");
    let forebay = Forebay::with_config(&database, toml, &[]);
    (database, forebay)
}

/// The client is told why it has to go, and the log says it too.
fn check_ended(forebay: &Forebay, mut client: RawClient, sqlstate: &str, message: &str) {
    let errors = client.until(b'E');
    let error = errors.last().unwrap();
    assert_eq!((error.field(b'S'), error.field(b'C')), ("FATAL".into(), sqlstate.to_owned()));
    assert_eq!(error.field(b'M'), message);
    assert_eq!(client.until_closed(), "");
    forebay.log_contains(&format!("closing because: {message} (age="));
    assert_eq!(forebay.client().one("SELECT 1"), "1");
}

#[test]
fn a_statement_that_takes_too_long_ends_its_client_and_its_server() {
    let (database, forebay) = start("[pool]\nquery_timeout = \"2s\"\n");
    let mut client = forebay.client();
    client.send(&query("SELECT pg_sleep(3600)"));
    check_ended(&forebay, client, "57014", "query timeout");
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3600)'";
    wait_until("the statement is cancelled", || database.admin().one(sleeps) == "0");
}

#[test]
fn a_transaction_in_which_nothing_happens_is_ended() {
    let (_database, forebay) = start("[pool]\nidle_transaction_timeout = \"200ms\"\n");
    let mut client = forebay.client();
    client.run("BEGIN");
    check_ended(&forebay, client, "08P01", "idle transaction timeout");
}

#[test]
fn a_transaction_that_goes_on_too_long_is_ended_though_it_is_busy() {
    let (_database, forebay) = start("[pool]\ntransaction_timeout = \"3s\"\n");
    let mut client = forebay.client();
    client.run("BEGIN");
    client.send(&query("SELECT pg_sleep(0.1)"));
    client.replies();
    client.send(&query("SELECT pg_sleep(3600)"));
    check_ended(&forebay, client, "08P01", "transaction timeout");
}

#[test]
fn a_client_that_asks_for_nothing_is_parted_from_and_a_reload_says_so_to_old_clients() {
    let (_database, forebay) = start("");
    let client = forebay.client();
    forebay.reload("[listen]\nclient_idle_timeout = \"2s\"\n");
    check_ended(&forebay, client, "57P05", "client_idle_timeout");
}

#[test]
fn times_for_other_things_leave_a_client_alone_that_does_none_of_them() {
    let (_database, forebay) = start(
        "[pool]\npool_mode = \"session\"\nquery_timeout = \"1s\"\n\
         idle_transaction_timeout = \"1ms\"\ntransaction_timeout = \"1s\"\n",
    );
    // It has its server for good and is in no transaction; another client's end shows that time
    // has passed.
    let mut client = forebay.client();
    assert_eq!(client.one("SELECT 1"), "1");
    let mut other = forebay.client();
    other.run("BEGIN");
    let error = other.until(b'E');
    assert_eq!(error.last().unwrap().field(b'C'), "08P01");
    assert_eq!(client.one("SELECT 1"), "1");
}

#[test]
fn who_waits_for_a_server_is_told_and_then_given_up() {
    let (database, forebay) =
        start("[pool]\ndefault_pool_size = 1\nquery_wait_notify = \"50ms\"\n");
    let login = Login::new(USER, PASSWORD, &database.name);
    let (mut holder, mut waiter) = (forebay.client(), forebay.log_in(&login).unwrap());
    holder.hold_server();
    forebay.console().run("SET query_wait_timeout = '0.4'");
    waiter.send(&query("SELECT 1"));
    let notice = waiter.message();
    assert_eq!((notice.tag, notice.field(b'S').as_str()), (b'N', "NOTICE"));
    assert_eq!(
        notice.field(b'M'),
        "No server connection available in postgres backend, client being queued"
    );
    let error = waiter.message();
    assert_eq!(error.field(b'M'), "query_wait_timeout");
    holder.run("COMMIT");
}

#[test]
fn who_waits_for_its_server_when_it_logs_in_is_told_so_too() {
    let (database, forebay) = start(
        "[pool]\npool_mode = \"session\"\ndefault_pool_size = 1\nquery_wait_notify = \"50ms\"\n",
    );
    let holder = forebay.client();
    forebay.console().run("SET query_wait_timeout = '0.4'");
    let login = Login::new(USER, PASSWORD, &database.name);
    let mut waiter = RawClient::connect(forebay.port);
    waiter.send(&login.startup());
    assert_eq!(waiter.authenticate(&login).unwrap_err().message, "query_wait_timeout");
    let told: Vec<String> = waiter.greeting.iter().map(|message| message.field(b'M')).collect();
    assert_eq!(told, ["No server connection available in postgres backend, client being queued"]);
    holder.close();
}

#[test]
fn clients_wait_while_postgresql_is_away_and_are_served_when_it_is_back() {
    let mut postgres = crate::support::postgres::Postgres::private("");
    let (url, name) = {
        let database = postgres.database();
        (database.url(), database.name)
    };
    let toml = "[server]\nserver_login_retry = \"100ms\"\n[cache]\nmode = \"off\"\n";
    let forebay = Forebay::launch(&url, &name, toml, &[]);
    let mut client = forebay.client();
    postgres.stop();
    client.send(&query("SELECT 1"));
    forebay.log_contains("closing because: connect failed");
    postgres.start();
    assert_eq!(client.replies(), "T(?column?) D(1) C(SELECT 1) Z(I)");
}

#[test]
fn a_server_is_asked_before_it_is_used_again() {
    let (database, forebay) = start(
        "[pool]\ndefault_pool_size = 1\n[server]\nserver_check_delay = 0\n\
         server_check_query = \"SELECT 'still there'\"\n",
    );
    let mut client = forebay.client();
    let before = database.seen("SELECT 'still there'");
    client.run("SELECT now()");
    assert_eq!(database.seen("SELECT 'still there'"), before + 1);
}

#[test]
fn a_server_is_used_once_where_it_has_no_lifetime() {
    let (_database, forebay) = start("[server]\nserver_lifetime = 0\n");
    let mut client = forebay.client();
    let pid = "SELECT pg_backend_pid()";
    assert_ne!(client.one(pid), client.one(pid));
    forebay.log_contains("closing because: server lifetime over");
}

#[test]
fn a_connect_query_holds_for_every_client_of_its_database() {
    let database = Database::with("");
    let entry = format!(
        "[databases]\nslow = {{ dbname = \"{}\", connect_query = \"SET enable_seqscan = off\" }}\n\
         [pool]\ndefault_pool_size = 1\n",
        database.name
    );
    let forebay = Forebay::with_config(&database, &entry, &[]);
    let client = || forebay.log_in(&Login::new(USER, PASSWORD, "slow")).unwrap();
    let (mut one, mut other) = (client(), client());
    assert_eq!(one.one("SHOW enable_seqscan"), "off");
    one.run("SET enable_seqscan = on");
    one.run("SET timezone = 'Asia/Tokyo'");
    assert_eq!(other.one("SHOW enable_seqscan"), "off");
    assert_eq!(one.one("SHOW enable_seqscan"), "on");
    assert_eq!(forebay.client().one("SHOW enable_seqscan"), "on");
}

#[test]
fn without_a_cache_there_are_no_connections_but_those_of_clients() {
    let database = Database::with("CREATE TABLE kept (a int)");
    let forebay = Forebay::with_config(&database, "[cache]\nmode = \"off\"\n", &[]);
    assert_eq!(forebay.client().one("SELECT 1"), "1");
    assert_eq!(database.servers().len(), 1);
    // Switched on, the catalogue is read and answers are kept.
    forebay.reload("");
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT a FROM kept");
}

/// A client that has not taken what it is owed and waits for a server that another one has.
struct Deaf {
    database: Database<'static>,
    forebay: Forebay,
    client: RawClient,
    holder: RawClient,
}

fn deaf(toml: &str) -> Deaf {
    let database = Database::with("CREATE TABLE t AS SELECT repeat('x', 30000) AS v");
    let toml = format!("[listen]\ntcp_socket_buffer = 4096\n{toml}");
    let forebay = Forebay::with_config(&database, &toml, &["--pool-size", "1"]);
    let read = "SELECT v FROM t";
    let mut holder = forebay.client();
    database.until_hit(&mut holder, read);
    holder.hold_server();
    let mut client = forebay.client();
    // More than the sockets take, and less than has the client's messages wait.
    client.send(&[query(read).repeat(8), query("SELECT 2")].concat());
    Deaf { database, forebay, client, holder }
}

fn waiting(console: &mut RawClient) -> Option<String> {
    let rows = console.rows("SHOW CLIENTS");
    let row = rows.into_iter().find(|row| row[4].as_deref() == Some("waiting"))?;
    row[20].clone()
}

#[test]
fn who_takes_nothing_waits_for_a_server_no_longer_than_others() {
    let deaf = deaf("[pool]\nquery_wait_timeout = \"2s\"\n");
    deaf.forebay.log_contains("closing because: query_wait_timeout");
    assert_eq!(deaf.database.servers().len(), 2, "the holder's, and that of the catalogue");
}

#[test]
fn who_takes_nothing_and_waits_for_a_server_can_be_killed() {
    let deaf = deaf("");
    let mut console = deaf.forebay.console();
    let mut id = None;
    wait_until("it waits", || {
        id = waiting(&mut console);
        id.is_some()
    });
    console.run(&format!("KILL_CLIENT {}", id.unwrap()));
    deaf.forebay.log_contains("closing because: admin forced disconnect");
}

#[test]
fn who_takes_nothing_and_waits_for_a_server_is_parted_from_when_all_is_suspended() {
    let deaf = deaf("[admin]\nsuspend_timeout = \"300ms\"\n");
    let mut console = deaf.forebay.console();
    wait_until("it waits", || waiting(&mut console).is_some());
    console.run("SUSPEND");
    deaf.forebay.log_contains("closing because: suspend_timeout");
}

#[test]
fn who_waits_for_a_server_is_served_before_it_has_taken_all_it_is_owed() {
    let mut deaf = deaf("");
    deaf.holder.run("COMMIT");
    wait_until("it is served", || deaf.database.seen("SELECT 2") == 1);
    for _ in 0..8 {
        assert!(deaf.client.replies().ends_with("C(SELECT 1) Z(I)"));
    }
    assert_eq!(deaf.client.replies(), "T(?column?) D(2) C(SELECT 1) Z(I)");
}
