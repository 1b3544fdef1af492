//! Who gets in, how it proves itself, and what TLS says about both ends.

use std::io::{Read as _, Write as _};

use socket2::SockRef;

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, Postgres, USER, scratch};
use crate::support::psql::psql;
use crate::support::raw::{Login, RawClient, Refused, SSL_REQUEST, message, query};
use crate::support::wait_until;

fn tls(file: &str) -> String {
    format!("{}/tests/suite/support/tls/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn refused(forebay: &Forebay, user: &str, password: &str, database: &str) -> Refused {
    forebay.log_in(&Login::new(user, password, database)).err().expect("a refusal")
}

/// A Forebay whose users come from a file.
fn with_users(database: &Database<'_>, auth_type: &str, users: &str) -> Forebay {
    let directory = scratch();
    let list = directory.join("userlist.txt");
    std::fs::write(&list, users).unwrap();
    let toml = format!("[auth]\nauth_type = \"{auth_type}\"\nauth_file = \"{}\"\n", list.display());
    let forebay = Forebay::with_config(database, &toml, &[]);
    // It has been read.
    std::fs::remove_dir_all(directory).unwrap();
    forebay
}

#[test]
fn the_password_is_asked_for_by_scram() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    assert_eq!(forebay.client().one("SELECT current_user"), USER);
    let wrong = refused(&forebay, USER, "wrong", &database.name);
    assert_eq!(wrong.sqlstate, "28P01");
    assert_eq!(wrong.message, "SASL authentication failed");
}

#[test]
fn an_unknown_user_looks_like_a_wrong_password() {
    let database = Database::with("");
    for auth_type in ["scram-sha-256", "md5", "plain"] {
        let forebay = with_users(&database, auth_type, "\"ann\" \"x\"\n");
        let unknown = refused(&forebay, "nobody", PASSWORD, &database.name);
        let wrong = refused(&forebay, "ann", PASSWORD, &database.name);
        assert_eq!(unknown.sqlstate, "28P01", "{auth_type}");
        assert_eq!((unknown.sqlstate, unknown.message), (wrong.sqlstate, wrong.message));
    }
}

#[test]
fn whoever_connects_cannot_write_a_line_of_the_log() {
    let database = Database::with("");
    let forged = "x\n2026-07-10 22:19:13.042 UTC [1] WARNING forged\u{1b}[2J";
    for format in ["text", "pgbouncer"] {
        let toml = format!("[log]\nformat = \"{format}\"\n");
        let forebay = Forebay::with_config(&database, &toml, &[]);
        refused(&forebay, forged, PASSWORD, &database.name);
        forebay.log_contains("pooler error");
        let log = forebay.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("forged")).collect();
        let is_whole = |line: &&str| line.contains(r"x\n2026-07-10 22:19:13.042 UTC [1] WARNING");
        assert!(lines.len() >= 2 && lines.iter().all(is_whole), "{format}: {lines:?}");
        assert!(!log.contains('\u{1b}'), "{format}: {lines:?}");
    }
}

#[test]
fn an_unknown_database_is_told_only_to_who_has_logged_in() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    assert_eq!(refused(&forebay, USER, "wrong", "nowhere").sqlstate, "28P01");
    assert_eq!(refused(&forebay, USER, PASSWORD, "nowhere").sqlstate, "3D000");
}

#[test]
fn users_of_a_list_log_in_by_md5_and_by_scram() {
    let database = Database::with("");
    let users = "\"bob\" \"bobs secret\"\n\"ann\" \"md5876ce7acad02ea68e3ff27e0b90aedae\"\n";
    for auth_type in ["md5", "scram-sha-256", "plain"] {
        let forebay = with_users(&database, auth_type, users);
        let login = Login::new("bob", "bobs secret", &database.name);
        // The URL's user is who everybody is on the server.
        assert_eq!(forebay.log_in(&login).unwrap().one("SELECT current_user"), USER, "{auth_type}");
        assert_eq!(refused(&forebay, "bob", "wrong", &database.name).sqlstate, "28P01");
        assert_eq!(refused(&forebay, "ann", "wrong", &database.name).sqlstate, "28P01");
    }
}

#[test]
fn with_trust_no_password_is_asked_for() {
    let database = Database::with("");
    let forebay = Forebay::with_config(&database, "[auth]\nauth_type = \"trust\"\n", &[]);
    let login = Login::new(USER, "whatever", &database.name);
    assert_eq!(forebay.log_in(&login).unwrap().one("SELECT 1"), "1");
}

#[test]
fn a_server_that_wants_md5_gets_it() {
    let hba = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 md5\n";
    let postgres = Postgres::private_with_hba("password_encryption = md5", hba);
    let database = postgres.database();
    let forebay = Forebay::start(&database, &[]);
    assert_eq!(forebay.client().one("SELECT current_user"), USER);
}

#[test]
fn a_client_that_verifies_our_certificate_is_encrypted() {
    let database = Database::with("");
    let (cert, key) = (tls("server.pem"), tls("server.key"));
    let toml = "[tls]\nclient_tls_sslmode = \"require\"\n";
    let forebay = Forebay::with_config(&database, toml, &["--tls-cert", &cert, "--tls-key", &key]);
    let url =
        |mode: &str, ca: &str| format!("{}?sslmode={mode}&sslrootcert={}", forebay.url(), tls(ca));
    assert_eq!(psql(&url("verify-full", "ca.pem"), "SELECT 7"), Ok("7".to_owned()));
    let wrong = psql(&url("verify-full", "self_signed.pem"), "SELECT 7").unwrap_err();
    assert!(wrong.contains("certificate verify failed"), "{wrong}");
    let plain = psql(&url("disable", "ca.pem"), "SELECT 7").unwrap_err();
    assert!(plain.contains("SSL required"), "{plain}");
}

#[test]
fn a_set_that_does_not_make_tls_demands_none() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    let told = forebay.console().query("SET client_tls_sslmode = 'require'");
    assert!(told.contains("TLS stays as it was"), "{told}");
    assert_eq!(forebay.client().one("SELECT 7"), "7");
}

#[test]
fn on_a_unix_socket_tls_is_declined_and_the_login_goes_on() {
    let database = Database::with("");
    let directory = scratch();
    let toml = format!("[listen]\nunix_socket_dir = \"{}\"\n", directory.display());
    let (cert, key) = (tls("server.pem"), tls("server.key"));
    let options = ["--tls-cert", &cert, "--tls-key", &key];
    let forebay = Forebay::with_config(&database, &toml, &options);
    let path = directory.join(format!(".s.PGSQL.{}", forebay.port));
    forebay.log_contains("listening on /");
    let mut client = std::os::unix::net::UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    let mut answer = [0];
    client.write_all(&SSL_REQUEST).unwrap();
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    client.write_all(&Login::new(USER, PASSWORD, &database.name).startup()).unwrap();
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"R");
    drop(forebay);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn whom_postgres_asks_for_no_password_has_the_one_of_the_list() {
    let postgres = Postgres::private_with_hba("", "host all all 127.0.0.1/32 trust\n");
    let database = postgres.database();
    let directory = scratch();
    let list = directory.join("users");
    std::fs::write(&list, format!("\"{USER}\" \"{PASSWORD}\"\n")).unwrap();
    let toml = format!("[auth]\nauth_file = \"{}\"\n", list.display());
    let url = database.url().replace(&format!(":{PASSWORD}@"), "@");
    let forebay = Forebay::launch(&url, &database.name, &toml, &[]);
    assert_eq!(forebay.client().one("SELECT 7"), "7");
    refused(&forebay, USER, "", &database.name);
    drop(forebay);
    std::fs::remove_dir_all(directory).unwrap();
}

/// A PostgreSQL that lets the application in by TLS alone, and the directory of its certificate.
/// Its SCRAM is bound to that certificate, so a wrong binding is refused.
fn postgres_by_tls() -> (Postgres, std::path::PathBuf) {
    let hba = "host all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
    // PostgreSQL wants its key to itself.
    let directory = scratch();
    for file in ["server.pem", "server.key"] {
        let copy = directory.join(file);
        std::fs::copy(tls(file), &copy).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&copy, mode).unwrap();
        // Fails where we are not root, and there the file is ours and PostgreSQL's already.
        let _owner = std::process::Command::new("chown").arg("postgres").arg(&copy).output();
    }
    let path = directory.display();
    let settings = format!(
        "ssl = on\nssl_cert_file = '{path}/server.pem'\nssl_key_file = '{path}/server.key'"
    );
    (Postgres::private_with_hba(&settings, hba), directory)
}

#[test]
fn a_server_that_refuses_plain_connections_gets_tls_by_allow() {
    let (postgres, directory) = postgres_by_tls();
    let database = postgres.database();
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let url = format!("{}?sslmode=allow", database.url());
    let forebay = Forebay::launch(&url, &database.name, "", &[]);
    assert_eq!(forebay.client().one(encrypted), "t");
    let url = format!("{}?sslmode=disable", database.url());
    let forebay = Forebay::launch(&url, &database.name, "", &[]);
    assert_eq!(refused(&forebay, USER, PASSWORD, &database.name).sqlstate, "28000");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn servers_are_closed_when_their_tls_changes_and_clients_stay() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    let (mut client, mut console) = (forebay.client(), forebay.console());
    let pid = "SELECT pg_backend_pid()";
    let first = client.one(pid);
    console.run("RELOAD");
    console.run("SET client_tls_ciphers = 'HIGH'");
    assert_eq!(client.one(pid), first);
    console.run("SET server_tls_protocols = 'tlsv1.3'");
    assert_ne!(client.one(pid), first);
    forebay.log_contains("closing because: database configuration changed");
}

#[test]
fn a_process_of_this_machine_is_who_it_runs_as() {
    let database = Database::with("");
    let directory = scratch();
    let output = std::process::Command::new("id").arg("-un").output().unwrap();
    let own = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let list = directory.join("users");
    std::fs::write(&list, format!("\"{own}\" \"\"\n\"ann\" \"\"\n")).unwrap();
    let toml = format!(
        "[listen]\nunix_socket_dir = \"{}\"\n[auth]\nauth_type = \"peer\"\nauth_file = \"{}\"\n",
        directory.display(),
        list.display()
    );
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let url = |user: &str| {
        let (name, port) = (&database.name, forebay.port);
        format!("postgres://{user}@/{name}?host={}&port={port}", directory.display())
    };
    assert_eq!(psql(&url(&own), "SELECT 7"), Ok("7".to_owned()));
    let other = psql(&url("ann"), "SELECT 7").unwrap_err();
    assert!(other.contains("unix socket login rejected"), "{other}");
    let by_tcp = refused(&forebay, &own, "", &database.name);
    assert_eq!(by_tcp.message, "unix socket login rejected");
    drop(forebay);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_server_is_verified_by_its_certificate() {
    let (postgres, directory) = postgres_by_tls();
    let database = postgres.database();
    let start = |ca: &str| {
        let url = format!("{}?sslmode=verify-full&sslrootcert={}", database.url(), tls(ca));
        Forebay::launch(&url, &database.name, "", &[])
    };
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(start("ca.pem").client().one(encrypted), "t");
    let forebay = start("self_signed.pem");
    let failed = refused(&forebay, USER, PASSWORD, &database.name);
    assert!(failed.message.contains("server login failed"), "{failed:?}");
    std::fs::remove_dir_all(directory).unwrap();
}

/// A Forebay with a database `direct` where everybody is who they are, and users that no file
/// lists are asked for as the superuser.
fn looking_up(database: &Database<'_>, auth_type: &str) -> Forebay {
    let toml = format!(
        "[auth]\nauth_type = \"{auth_type}\"\nauth_user = \"postgres\"\n\
         [databases.direct]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"{}\"\n",
        database.postgres.port, database.name
    );
    Forebay::with_config(database, &toml, &[])
}

/// A role of this test's own.
fn role(database: &Database<'_>, options: &str) -> String {
    let name = format!("{}_ann", database.name);
    database.postgres.admin("postgres").run(&format!("CREATE ROLE {name} LOGIN {options}"));
    name
}

#[test]
fn a_user_of_no_list_is_asked_for_and_its_proof_logs_in_to_postgres() {
    let database = Database::apart("");
    let ann = role(&database, "PASSWORD 'pencil'");
    // The verifier alone would not do: PostgreSQL asks for SCRAM, too.
    for auth_type in ["scram-sha-256", "md5"] {
        let forebay = looking_up(&database, auth_type);
        let login = Login::new(&ann, "pencil", "direct");
        assert_eq!(forebay.log_in(&login).unwrap().one("SELECT current_user"), ann);
        let wrong = refused(&forebay, &ann, "pen", "direct");
        assert_eq!(wrong.sqlstate, "28P01");
    }
}

#[test]
fn a_changed_password_counts_at_the_next_login() {
    let database = Database::apart("");
    let ann = role(&database, "PASSWORD 'old'");
    let forebay = looking_up(&database, "scram-sha-256");
    let mut admin = database.postgres.admin("postgres");
    let log_in = |password: &str| forebay.log_in(&Login::new(&ann, password, "direct"));
    assert_eq!(log_in("old").unwrap().one("SELECT current_user"), ann);
    admin.run(&format!("ALTER ROLE {ann} PASSWORD 'new'"));
    assert_eq!(log_in("old").err().unwrap().sqlstate, "28P01");
    admin.run(&format!(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = '{ann}'"
    ));
    // On a server of its own, since the ones before are gone.
    assert_eq!(log_in("new").unwrap().one("SELECT current_user"), ann);
    admin.run(&format!("ALTER ROLE {ann} VALID UNTIL '1999-01-01'"));
    assert_eq!(log_in("new").err().unwrap().sqlstate, "28P01");
    admin.run(&format!("ALTER ROLE {ann} VALID UNTIL 'infinity'"));
    log_in("new").unwrap();
}

#[test]
fn nobody_learns_whom_postgres_knows() {
    let database = Database::apart("");
    let ann = role(&database, "PASSWORD 'pencil'");
    let forebay = looking_up(&database, "scram-sha-256");
    let unknown = refused(&forebay, "nobody", "pencil", "direct");
    assert_eq!(unknown, refused(&forebay, &ann, "pen", "direct"));
    forebay.log_contains("closing because: no such user (age=");
}

#[test]
fn a_question_that_postgres_refuses_is_the_operators_mistake() {
    let database = Database::apart("");
    let toml = format!(
        "[databases.direct]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"{}\"\n\
         auth_user = \"postgres\"\nauth_query = \"SELECT $1 FROM nowhere\"\n\
         [databases.astray]\nhost = \"127.0.0.1\"\nauth_user = \"postgres\"\nauth_dbname = \"forebay\"\n",
        database.postgres.port, database.name
    );
    let forebay = Forebay::with_config(&database, &toml, &[]);
    assert_eq!(refused(&forebay, "nobody", "x", "direct").message, "bouncer config error");
    forebay.log_contains("error in auth_query: relation \"nowhere\" does not exist");
    assert_eq!(refused(&forebay, "nobody", "x", "astray").message, "bouncer config error");
    forebay.log_contains("cannot use the reserved \"forebay\" database as an auth_dbname");
}

#[test]
fn users_are_not_looked_up_in_a_database_that_is_paused_nor_by_old_connections() {
    let database = Database::apart("");
    let ann = role(&database, "PASSWORD 'pencil'");
    let toml = format!(
        "[databases.direct]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"{}\"\n\
         auth_user = \"postgres\"\nauth_query = \"SELECT usename, passwd FROM pg_shadow \
         WHERE usename = $1 AND (SELECT pg_advisory_xact_lock_shared(7)) IS NOT NULL\"\n",
        database.postgres.port, database.name
    );
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let login = Login::new(&ann, "pencil", "direct");
    let mut admin = database.postgres.admin("postgres");
    let asking = format!(
        "SELECT coalesce(string_agg(pid::text, ','), '') FROM pg_stat_activity
         WHERE usename = 'postgres' AND datname = '{}' AND query LIKE '%pg_shadow%'",
        database.name
    );
    forebay.log_in(&login).unwrap();
    let before = admin.one(&asking);
    forebay.log_in(&login).unwrap();
    assert_eq!(admin.one(&asking), before);
    forebay.console().run("RECONNECT direct");
    forebay.log_in(&login).unwrap();
    assert_ne!(admin.one(&asking), before);

    let mut locker = database.admin();
    locker.run("SELECT pg_advisory_lock(7)");
    let mut waiting = RawClient::connect(forebay.port);
    waiting.send(&login.startup());
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'";
    wait_until("it is looked up", || locker.one(waits) == "1");
    let (mut console, mut other) = (forebay.console(), forebay.console());
    console.send(&query("PAUSE direct"));
    wait_until("it is paused", || {
        other
            .rows("SHOW DATABASES")
            .iter()
            .any(|row| row[0].as_deref() == Some("direct") && row.contains(&Some("1".to_owned())))
            && other.column("SHOW DATABASES", "paused").contains('1')
    });
    let mut stream = console.into_stream();
    stream.set_nonblocking(true).unwrap();
    assert!(stream.peek(&mut [0]).is_err(), "the pause is answered");
    stream.set_nonblocking(false).unwrap();
    locker.run("SELECT pg_advisory_unlock(7)");
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"C");
}

#[test]
fn a_secret_that_was_changed_while_it_was_asked_for_lets_nobody_in() {
    let database = Database::with("");
    let directory = scratch();
    let list = directory.join("users");
    std::fs::write(&list, format!("\"{USER}\" \"{PASSWORD}\"\n\"ann\" \"old\"\n")).unwrap();
    let toml = format!("[auth]\nauth_type = \"plain\"\nauth_file = \"{}\"\n", list.display());
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let mut clients = ["ann", USER].map(|user| {
        let mut client = RawClient::connect(forebay.port);
        client.send(&Login::new(user, "", &database.name).startup());
        client.until(b'R');
        client
    });
    std::fs::write(&list, format!("\"{USER}\" \"{PASSWORD}\"\n\"ann\" \"new\"\n")).unwrap();
    forebay.console().run("RELOAD");
    let [ann, app] = &mut clients;
    ann.send(&message(b'p', b"old\0"));
    assert_eq!(ann.until_closed(), "E(57P01)");
    app.send(&message(b'p', format!("{PASSWORD}\0").as_bytes()));
    app.until(b'Z');
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_user_whom_postgres_does_not_know_costs_others_no_hits() {
    let database = Database::with("CREATE TABLE t AS SELECT 1 AS v");
    let directory = scratch();
    let list = directory.join("users");
    std::fs::write(&list, format!("\"{USER}\" \"{PASSWORD}\"\n\"ghost\" \"x\"\n")).unwrap();
    let toml = format!(
        "[auth]\nauth_file = \"{}\"\n[databases.direct]\nhost = \"127.0.0.1\"\nport = {}\n\
         dbname = \"{}\"\n",
        list.display(),
        database.postgres.port,
        database.name
    );
    let other = Database::with("");
    let forebay = Forebay::with_config(&other, &toml, &[]);
    // The first to come.
    refused(&forebay, "ghost", "x", "direct");
    let mut client = forebay.log_in(&Login::new(USER, PASSWORD, "direct")).unwrap();
    database.until_hit(&mut client, "SELECT v FROM t");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn rules_of_the_hba_file_decide_and_a_reload_reads_them_again() {
    let database = Database::with("");
    let directory = scratch();
    let rules = directory.join("hba");
    std::fs::write(&rules, "host all app 127.0.0.1/32 scram-sha-256\n").unwrap();
    let toml = format!("[auth]\nauth_type = \"hba\"\nauth_hba_file = \"{}\"\n", rules.display());
    let forebay = Forebay::with_config(&database, &toml, &[]);
    assert_eq!(refused(&forebay, USER, "wrong", &database.name).sqlstate, "28P01");
    assert_eq!(forebay.client().one("SELECT 1"), "1");
    let stranger = refused(&forebay, "eve", PASSWORD, &database.name);
    assert_eq!(stranger.message, "no authentication method is found");
    let mut console = forebay.console();
    std::fs::write(&rules, "host all all all ldap\n").unwrap();
    console.send(&query("RELOAD"));
    let told = console.until(b'Z')[0].field(b'M');
    assert!(told.ends_with("hba: line 1: method ldap is not supported"), "{told}");
    std::fs::write(&rules, "host all app 127.0.0.1/32 reject\n").unwrap();
    console.run("RELOAD");
    assert_eq!(refused(&forebay, USER, PASSWORD, &database.name).message, "login rejected");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn who_has_reset_its_connection_is_not_taken_for_a_neighbour() {
    let database = Database::with("CREATE TABLE t (v int)");
    let directory = scratch();
    let rules = directory.join("hba");
    std::fs::write(&rules, "host all all all trust\n").unwrap();
    let toml = format!("[auth]\nauth_type = \"hba\"\nauth_hba_file = \"{}\"\n", rules.display());
    let forebay = Forebay::with_config(&database, &toml, &[]);
    std::fs::write(&rules, "local all all trust\nhost all all all reject\n").unwrap();
    forebay.console().run("RELOAD");
    let login = Login::new(USER, PASSWORD, &database.name);
    forebay.daemon.signal("STOP");
    let mut client = RawClient::connect(forebay.port);
    let insert = query("INSERT INTO t VALUES (1)");
    client.send(&[login.startup(), insert].concat());
    let stream = client.into_stream();
    SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
    forebay.daemon.signal("CONT");
    let named = format!("database={} ", database.name);
    let is_closed = |line: &str| line.contains("closing because") && line.contains(&named);
    wait_until("it is closed", || forebay.log().lines().any(is_closed));
    assert!(!forebay.log().contains(&format!("login attempt: db={}", database.name)));
    let neighbour = refused(&forebay, USER, PASSWORD, &database.name);
    assert_eq!(neighbour.message, "login rejected");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_rule_for_the_console_is_for_all_its_names_and_its_port() {
    let database = Database::with("");
    let directory = scratch();
    let rules = directory.join("hba");
    let toml = format!("[auth]\nauth_type = \"hba\"\nauth_hba_file = \"{}\"\n", rules.display());
    let refused_at = |port: u16, asked: &str| {
        let login = Login::new(USER, PASSWORD, asked);
        RawClient::log_in(port, &login).err().expect("a refusal").message
    };
    for name in ["pgbouncer", "forebay"] {
        let text = format!("host {name} all all reject\nhost all all all trust\n");
        std::fs::write(&rules, text).unwrap();
        let forebay = Forebay::with_config(&database, &toml, &[]);
        assert_eq!(forebay.client().one("SELECT 1"), "1");
        for asked in ["pgbouncer", "forebay"] {
            assert_eq!(refused_at(forebay.port, asked), "login rejected", "{name} {asked}");
            assert_eq!(refused_at(forebay.admin_port, asked), "login rejected", "{name} {asked}");
        }
        assert_eq!(refused_at(forebay.admin_port, &database.name), "login rejected", "{name}");
    }
    std::fs::write(&rules, format!("host {} all all trust\n", database.name)).unwrap();
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let refused = refused_at(forebay.admin_port, &database.name);
    assert_eq!(refused, "no authentication method is found");
    std::fs::remove_dir_all(directory).unwrap();
}

/// Settings of TLS towards clients, with the certificates of this suite.
fn client_tls(mode: &str) -> String {
    let (cert, key, ca) = (tls("server.pem"), tls("server.key"), tls("ca.pem"));
    format!(
        "[tls]\nclient_tls_sslmode = \"{mode}\"\nclient_tls_cert_file = \"{cert}\"\n\
         client_tls_key_file = \"{key}\"\nclient_tls_ca_file = \"{ca}\"\n"
    )
}

#[test]
fn a_certificate_proves_who_a_client_is() {
    let database = Database::with("");
    let directory = scratch();
    let (list, key) = (directory.join("users"), directory.join("client.key"));
    std::fs::write(&list, "\"bob\" \"\"\n\"ann\" \"\"\n").unwrap();
    std::fs::copy(tls("client.key"), &key).unwrap();
    // psql wants its key to itself.
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let toml = format!(
        "{}[auth]\nauth_type = \"cert\"\nauth_file = \"{}\"\n",
        client_tls("verify-full"),
        list.display()
    );
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let url = |user: &str| {
        format!(
            "postgres://{user}@localhost:{}/{}?sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}",
            forebay.port,
            database.name,
            tls("ca.pem"),
            tls("client.pem"),
            key.display()
        )
    };
    assert_eq!(psql(&url("bob"), "SELECT 7"), Ok("7".to_owned()));
    let other = psql(&url("ann"), "SELECT 7").unwrap_err();
    assert!(other.contains("certificate authentication failed"), "{other}");
    let unknown = psql(&url("eve"), "SELECT 7").unwrap_err();
    assert!(unknown.contains("certificate authentication failed"), "{unknown}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn ciphers_have_openssl_s_names_and_a_set_that_fails_leaves_tls_as_it_was() {
    let database = Database::with("");
    let forebay = Forebay::with_config(&database, &client_tls("require"), &[]);
    let mut console = console_by_tls(&forebay);
    let log_in = || psql(&format!("{}?sslmode=require", forebay.url()), "SELECT 7");
    console("SET client_tls13_ciphers = 'TLS_AES_128_GCM_SHA256'");
    assert_eq!(log_in(), Ok("7".to_owned()));
    forebay.log_contains("tls=TLSv1.3/TLS_AES_128_GCM_SHA256");
    console("SET client_tls13_ciphers = 'unknown'");
    forebay.log_contains("TLS setup failed: failed to set the TLSv1.3 cipher suites");
    assert_eq!(log_in(), Ok("7".to_owned()));
    console("SET client_tls_protocols = 'tlsv1.2'");
    console("SET client_tls13_ciphers = ''");
    console("SET client_tls_ciphers = 'ECDHE-ECDSA-AES256-GCM-SHA384'");
    assert_eq!(log_in(), Ok("7".to_owned()));
    forebay.log_contains("tls=TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384/ECDH=");
}

fn console_by_tls(forebay: &Forebay) -> impl FnMut(&str) {
    let url = format!(
        "postgres://{USER}:{PASSWORD}@127.0.0.1:{}/forebay?sslmode=require",
        forebay.admin_port
    );
    move |command| {
        psql(&url, command).unwrap();
    }
}

#[test]
fn a_client_may_begin_with_tls_at_once() {
    use std::io::{Read, Write};
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

    let database = Database::with("");
    let forebay = Forebay::with_config(&database, &client_tls("require"), &[]);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(tls("ca.pem")).unwrap()).unwrap();
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let mut config = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let session = ClientConnection::new(config.into(), name).unwrap();
    let socket = std::net::TcpStream::connect(("127.0.0.1", forebay.port)).unwrap();
    let mut stream = StreamOwned::new(session, socket);
    stream.write_all(&Login::new(USER, PASSWORD, &database.name).startup()).unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    // AuthenticationSASL.
    assert_eq!((answer[0], answer[8]), (b'R', 10));
}
