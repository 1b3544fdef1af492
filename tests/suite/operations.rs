//! What operators do on the console and by signals while clients work: PAUSE, SUSPEND, KILL and
//! the rest.

use crate::console::{count, find};
use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, RawClient, SSL_REQUEST, cancel, query};
use crate::support::wait_until;

fn start() -> (Database<'static>, Forebay) {
    let database = Database::with("CREATE TABLE t (v int)");
    let forebay = Forebay::start(&database, &["--cache", "off"]);
    (database, forebay)
}

/// Until a client waits for a server, or all is suspended and it waits for that to end.
fn until_waiting(forebay: &Forebay) {
    let mut console = forebay.console();
    wait_until("a client waits", || console.query("SHOW CLIENTS").contains(",waiting,"));
}

fn state(forebay: &Forebay) -> String {
    let rows = forebay.console().rows("SHOW STATE");
    let on = rows.iter().filter(|row| row[1].as_deref() == Some("yes"));
    on.map(|row| row[0].clone().unwrap()).collect::<Vec<_>>().join(" ")
}

fn refusal(console: &mut RawClient, sql: &str) -> String {
    console.send(&query(sql));
    let messages = console.until(b'Z');
    assert_eq!(messages[0].field(b'C'), "08P01", "{sql}: {messages:?}");
    messages[0].field(b'M')
}

#[test]
fn a_pause_is_answered_when_no_server_is_left_and_clients_wait_until_it_ends() {
    let (database, forebay) = start();
    let (mut busy, mut idle, mut console) = (forebay.client(), forebay.client(), forebay.console());
    busy.run("BEGIN; INSERT INTO t VALUES (1)");
    console.send(&query("PAUSE"));
    wait_until("it is paused", || state(&forebay) == "paused");
    idle.send(&query("SELECT count(*) FROM t"));
    until_waiting(&forebay);
    busy.run("INSERT INTO t VALUES (2)");
    assert_eq!(busy.query("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(console.replies(), "C(PAUSE) Z(I)");
    // PostgreSQL refuses this while anybody is connected.
    let (name, moved) = (&database.name, format!("{}_moved", database.name));
    let mut admin = database.postgres.admin("postgres");
    admin.run(&format!("ALTER DATABASE {name} RENAME TO {moved}"));
    admin.run(&format!("ALTER DATABASE {moved} RENAME TO {name}"));
    assert_eq!(refusal(&mut console, "PAUSE"), "already suspended/paused");
    assert_eq!(console.query("RESUME"), "C(RESUME) Z(I)");
    assert_eq!(idle.replies(), "T(count) D(2) C(SELECT 1) Z(I)");
    assert_eq!(refusal(&mut console, "RESUME"), "pooler is not paused/suspended");
}

#[test]
fn a_pause_of_one_database_leaves_the_others_alone() {
    let database = Database::with("");
    let (port, dbname) = (database.postgres.port, &database.name);
    let entry = |name: &str| {
        format!("{name} = {{ host = \"127.0.0.1\", port = {port}, dbname = \"{dbname}\" }}\n")
    };
    let toml = format!("[databases]\n{}{}", entry("one"), entry("two"));
    let forebay = Forebay::with_config(&database, &toml, &["--cache", "off"]);
    let log_in = |name: &str| forebay.log_in(&Login::new(USER, PASSWORD, name)).unwrap();
    let (mut one, mut two, mut console) = (log_in("one"), log_in("two"), forebay.console());
    assert_eq!(console.query("PAUSE one"), "C(PAUSE) Z(I)");
    one.send(&query("SELECT 1"));
    until_waiting(&forebay);
    assert_eq!(two.one("SELECT 2"), "2");
    assert_eq!(state(&forebay), "active");
    let shown = console.rows("SHOW DATABASES");
    let paused = |name: &str| {
        let row = shown.iter().find(|row| row[0].as_deref() == Some(name)).unwrap();
        row[15].clone().unwrap()
    };
    assert_eq!((paused("one").as_str(), paused("two").as_str()), ("1", "0"));
    assert_eq!(refusal(&mut console, "SUSPEND"), "cannot suspend with paused databases");
    assert_eq!(refusal(&mut console, "RESUME two"), "database two is not paused");
    assert_eq!(refusal(&mut console, "PAUSE pgbouncer"), "cannot pause admin db: pgbouncer");
    console.run("RESUME one");
    assert_eq!(one.replies(), "T(?column?) D(1) C(SELECT 1) Z(I)");
}

#[test]
fn a_cancel_request_ends_the_waiting_and_the_pause() {
    let (_database, forebay) = start();
    let (mut busy, mut idle, mut console) = (forebay.client(), forebay.client(), forebay.console());
    busy.run("BEGIN");
    console.send(&query("PAUSE"));
    wait_until("it is paused", || state(&forebay) == "paused");
    let mut connection = RawClient::connect(forebay.port);
    connection.send(&cancel(console.pid, &console.key.clone()));
    assert_eq!(console.replies(), "E(57014) Z(I)");
    assert_eq!(state(&forebay), "active");
    assert_eq!(idle.one("SELECT 1"), "1");
    busy.run("COMMIT");
}

#[test]
fn a_suspension_holds_clients_where_they_are_and_ends_with_the_last_console() {
    let (database, forebay) = start();
    let (mut one, mut two) = (forebay.client(), forebay.client());
    one.run("BEGIN; INSERT INTO t VALUES (1)");
    let servers = database.servers();
    let mut console = forebay.console();
    assert_eq!(console.query("SUSPEND"), "C(SUSPEND) Z(I)");
    one.send(&query("INSERT INTO t VALUES (2)"));
    two.send(&query("SELECT count(*) FROM t"));
    assert_eq!(console.query("SHOW STATE"), STATE_SUSPENDED);
    // What it sent has not been looked at, and its server is where it was.
    assert_eq!(database.servers(), servers);
    assert_eq!(database.seen("INSERT INTO t VALUES (2)"), 0);
    console.close();
    assert_eq!(one.replies(), "C(INSERT 0 1) Z(T)");
    assert_eq!(two.replies(), "T(count) D(0) C(SELECT 1) Z(I)");
    forebay.log_contains("admin disappeared when suspended, doing RESUME");
    let mut console = forebay.console();
    console.run("SUSPEND");
    two.send(&query("SELECT 1"));
    assert_eq!(console.query("RESUME"), "C(RESUME) Z(I)");
    assert_eq!(two.replies(), "T(?column?) D(1) C(SELECT 1) Z(I)");
}

const STATE_SUSPENDED: &str =
    "T(key,value) D(active,no) D(paused,no) D(suspended,yes) C(SHOW) Z(I)";

#[test]
fn killed_clients_are_gone_and_their_database_is_paused() {
    let (_database, forebay) = start();
    let (mut one, mut two, mut console) = (forebay.client(), forebay.client(), forebay.console());
    one.run("BEGIN; INSERT INTO t VALUES (1)");
    assert_eq!(refusal(&mut console, "KILL pgbouncer"), "cannot kill admin db: pgbouncer");
    assert_eq!(console.query("KILL"), "C(KILL) Z(I)");
    // Nobody but who looks is here when it is answered.
    assert_eq!(console.rows("SHOW CLIENTS").len(), 1);
    assert_eq!((one.until_closed(), two.until_closed()), ("E(57P01)".into(), "E(57P01)".into()));
    let row = console.query("SHOW DATABASES");
    let shown = row.split("D(").find(|row| row.starts_with(&forebay.database)).unwrap();
    assert!(shown.contains(",1,0)"), "{shown}");
    console.run(&format!("RESUME {}", forebay.database));
    assert_eq!(forebay.client().one("SELECT count(*) FROM t"), "0");
}

#[test]
fn one_client_is_killed_by_its_id() {
    let (_database, forebay) = start();
    let (mut client, mut console) = (forebay.client(), forebay.console());
    assert_eq!(refusal(&mut console, "KILL_CLIENT 999999"), "client not found");
    assert_eq!(refusal(&mut console, "KILL_CLIENT x"), "invalid client pointer supplied");
    let rows = console.rows("SHOW CLIENTS");
    let row = rows.iter().find(|row| row[2].as_deref() == Some(&forebay.database)).unwrap();
    let id = row[20].clone().unwrap();
    assert_eq!(console.query(&format!("KILL_CLIENT {id}")), "C(KILL_CLIENT) Z(I)");
    assert_eq!(console.rows("SHOW CLIENTS").len(), 1);
    assert_eq!(client.until_closed(), "E(57P01)");
}

#[test]
fn a_disabled_database_takes_no_new_clients() {
    let (database, forebay) = start();
    let (mut client, mut console) = (forebay.client(), forebay.console());
    assert_eq!(refusal(&mut console, "DISABLE"), "a database is required");
    assert_eq!(console.query(&format!("DISABLE {}", database.name)), "C(DISABLE) Z(I)");
    let refused = forebay.log_in(&Login::new(USER, PASSWORD, &database.name)).err().unwrap();
    assert_eq!(refused.message, format!("database \"{}\" is disabled", database.name));
    // Who is here already stays.
    assert_eq!(client.one("SELECT 1"), "1");
    console.run(&format!("ENABLE {}", database.name));
    assert_eq!(forebay.client().one("SELECT 2"), "2");
}

fn close_needed(console: &mut RawClient, pid: &str) -> u64 {
    count(&find(console, "SHOW SERVERS", "remote_pid", pid), "close_needed")
}

#[test]
fn a_server_of_a_pool_that_is_made_anew_is_shown_as_one_to_close() {
    let database = Database::with("");
    let toml = |name: &str| {
        format!("[databases]\n{} = {{ application_name = \"{name}\" }}\n", database.name)
    };
    let forebay = Forebay::with_config(&database, &toml("one"), &[]);
    let (mut busy, mut console) = (forebay.client(), forebay.console());
    busy.run("BEGIN");
    let pid = busy.one("SELECT pg_backend_pid()");
    assert_eq!(close_needed(&mut console, &pid), 0);
    forebay.write_settings(&toml("two"));
    console.run("RELOAD");
    assert_eq!(close_needed(&mut console, &pid), 1);
}

#[test]
fn a_reconnect_replaces_servers_once_they_are_free_and_is_waited_for() {
    let (_database, forebay) = start();
    let (mut busy, mut idle, mut console) = (forebay.client(), forebay.client(), forebay.console());
    let before = idle.one("SELECT pg_backend_pid()");
    busy.run("BEGIN");
    let busy_pid = busy.one("SELECT pg_backend_pid()");
    assert_eq!(close_needed(&mut console, &busy_pid), 0);
    console.run("RECONNECT");
    assert_eq!(close_needed(&mut console, &busy_pid), 1);
    assert_ne!(idle.one("SELECT pg_backend_pid()"), before);
    assert_eq!(busy.one("SELECT pg_backend_pid()"), busy_pid);
    console.send(&query("WAIT_CLOSE"));
    // It is still waited for when the console has been asked something else meanwhile.
    assert!(forebay.console().query("SHOW SERVERS").contains(&busy_pid));
    busy.run("COMMIT");
    assert_eq!(console.replies(), "C(WAIT_CLOSE) Z(I)");
    assert_ne!(busy.one("SELECT pg_backend_pid()"), busy_pid);
    // New servers are nobody's business.
    busy.run("BEGIN");
    assert_eq!(console.query("WAIT_CLOSE"), "C(WAIT_CLOSE) Z(I)");
}

#[test]
fn signals_pause_and_resume() {
    let (_database, forebay) = start();
    let mut client = forebay.client();
    forebay.daemon.signal("USR1");
    forebay.log_contains("got SIGUSR1, pausing all activity");
    client.send(&query("SELECT 1"));
    until_waiting(&forebay);
    forebay.daemon.signal("USR1");
    forebay.log_contains("got SIGUSR1, but already paused/suspended");
    forebay.daemon.signal("USR2");
    assert_eq!(client.replies(), "T(?column?) D(1) C(SELECT 1) Z(I)");
    forebay.daemon.signal("USR2");
    forebay.log_contains("got SIGUSR2, but not paused/suspended");
    forebay.daemon.signal("TERM");
    forebay.log_contains("got SIGTERM, shutting down");
    forebay.daemon.signal("USR2");
    forebay.log_contains("got SIGUSR2 while shutting down, ignoring");
    let mut console = forebay.console();
    assert_eq!(refusal(&mut console, "RESUME"), "pooler is shutting down");
}

#[test]
fn a_client_that_does_not_take_its_answer_is_closed_by_suspend_timeout() {
    let database = Database::with("");
    let toml = "[admin]\nsuspend_timeout = \"100ms\"\n";
    let forebay = Forebay::with_config(&database, toml, &["--cache", "off"]);
    let (mut deaf, mut console) = (forebay.client(), forebay.console());
    deaf.send(&query("SELECT repeat('x', 64000000)"));
    let mut admin = database.admin();
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND wait_event = 'ClientWrite'";
    let (mut sent, mut same) = (String::new(), 0);
    wait_until("nobody takes any more", || {
        let rows = console.rows("SHOW STATS_TOTALS");
        let row = rows.into_iter().find(|row| row[0].as_deref() == Some(&database.name));
        let now = row.unwrap()[5].clone().unwrap();
        same = if now == sent && admin.one(stuck) == "1" { same + 1 } else { 0 };
        sent = now;
        // The greeting is a few hundred bytes.
        same > 200 && sent.len() > 4
    });
    assert_eq!(console.query("SUSPEND"), "C(SUSPEND) Z(I)");
    console.run("RESUME");
    forebay.log_contains("closing because: suspend_timeout");
}

#[test]
fn every_client_may_be_told_something_at_login_and_named_with_its_address() {
    let database = Database::with("");
    let toml = "[listen]\nlogin_notify_message = \"hello\"\napplication_name_add_host = true\n";
    let forebay = Forebay::with_config(&database, toml, &["--cache", "off"]);
    let mut client = forebay.client_with(&[("application_name", "web")]);
    let notice = client.greeting.iter().find(|message| message.tag == b'N').unwrap();
    assert_eq!(notice.field(b'M'), "hello");
    let name = client.one("SHOW application_name");
    assert!(name.starts_with("web - 127.0.0.1:"), "{name}");
    // Statistics are those of the application, not of each connection.
    let _other = forebay.client_with(&[("application_name", "web")]);
    let mut console = forebay.console();
    assert_eq!(
        find(&mut console, "SHOW CLIENTS", "database", &database.name)["application_name"],
        name
    );
    let group = find(&mut console, "SHOW CLIENT_STATS", "database", &database.name);
    assert_eq!((&*group["application_name"], count(&group, "clients")), ("web", 2));
}

#[test]
fn a_cancel_request_that_reaches_a_peer_is_passed_on() {
    let database = Database::with("");
    let one = Forebay::with_config(&database, "[listen]\npeer_id = 1\n", &[]);
    let peers = format!("[peers]\n1 = {{ host = \"127.0.0.1\", port = {} }}\n", one.port);
    // Without a limit for servers there is none for requests.
    let toml = format!("[listen]\npeer_id = 2\n[pool]\ndefault_pool_size = 0\n{peers}");
    let two = Forebay::with_config(&database, &toml, &[]);
    let mut client = one.client();
    client.send(&query("SELECT pg_sleep(60)"));
    let mut admin = database.admin();
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
               AND wait_event = 'PgSleep'";
    wait_until("the query runs", || admin.one(sql) == "1");
    let mut connection = RawClient::connect(two.port);
    connection.send(&cancel(client.pid, &client.key.clone()));
    assert_eq!(client.replies(), "T(pg_sleep) E(57014) Z(I)");
    assert_eq!(connection.until_closed(), "");
    let mut console = two.console();
    let shown = format!("D(1,127.0.0.1,{},0)", one.port);
    assert!(console.query("SHOW PEERS").contains(&shown));
    assert!(console.query("SHOW PEER_POOLS").contains("D(1,0,0,0,0)"));
}

#[test]
fn two_listen_on_one_port_and_one_may_go() {
    let database = Database::with("");
    let toml = "[listen]\nso_reuseport = true\n";
    let one = Forebay::with_config(&database, toml, &[]);
    let two = Forebay::beside(&one, &database, toml);
    one.daemon.signal("TERM");
    one.log_contains(&format!("no longer listening on 127.0.0.1:{}", one.port));
    // Nobody else listens there now, so every newcomer is the second one's.
    for _ in 0..20 {
        assert_eq!(two.client().one("SELECT 1"), "1");
    }
}

#[test]
fn who_was_let_in_before_the_port_was_left_to_others_is_served() {
    let database = Database::with("");
    let forebay = Forebay::with_config(&database, "[listen]\nso_reuseport = true\n", &[]);
    let mut silent = RawClient::connect(forebay.port);
    silent.send(&SSL_REQUEST);
    assert_eq!(silent.byte(), b'N');
    // The system takes this connection while the program cannot.
    forebay.daemon.signal("STOP");
    let mut queued = RawClient::connect(forebay.port);
    forebay.daemon.signal("TERM");
    forebay.daemon.signal("CONT");
    forebay.log_contains(&format!("no longer listening on 127.0.0.1:{}", forebay.port));
    for client in [&mut silent, &mut queued] {
        let login = Login::new(USER, PASSWORD, &database.name);
        client.send(&login.startup());
        client.authenticate(&login).unwrap();
        assert_eq!(client.one("SELECT 1"), "1");
    }
    drop(silent);
    assert!(forebay.daemon.runs());
    drop(queued);
    wait_until("the program has ended", || !forebay.daemon.runs());
}

#[test]
fn the_service_manager_is_told_and_the_pid_is_written() {
    use std::os::unix::net::UnixDatagram;
    let directory = crate::support::postgres::scratch();
    let (socket, pidfile) = (directory.join("notify"), directory.join("pid"));
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    let hear = || {
        let mut bytes = [0; 1000];
        let count = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let database = Database::with("");
    let toml =
        format!("[admin]\npidfile = \"{}\"\n[log]\nstats_period = \"1s\"\n", pidfile.display());
    let socket = socket.to_str().unwrap();
    let forebay = Forebay::in_environment(&database, &toml, &[("NOTIFY_SOCKET", socket)]);
    assert_eq!(hear(), "READY=1");
    let written = std::fs::read_to_string(&pidfile).unwrap();
    assert_eq!(written, format!("{}\n", forebay.daemon.pid));
    let status = hear();
    assert!(status.starts_with("STATUS=stats: 0 xacts/s, "), "{status}");
    forebay.daemon.signal("HUP");
    let mut heard = hear();
    while heard.starts_with("STATUS") {
        heard = hear();
    }
    assert!(heard.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{heard}");
    let mut heard = hear();
    while heard.starts_with("STATUS") {
        heard = hear();
    }
    assert_eq!(heard, "READY=1");
    forebay.daemon.signal("TERM");
    let mut heard = hear();
    while heard.starts_with("STATUS") {
        heard = hear();
    }
    assert_eq!(heard, "STOPPING=1");
    wait_until("the program has ended", || !forebay.daemon.runs());
    assert!(!pidfile.exists());
    std::fs::remove_dir_all(directory).unwrap();
}
