//! Who gets in, how it proves itself, and what TLS says about both ends.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, Postgres, USER, scratch};
use crate::support::psql::psql;
use crate::support::raw::{Login, Refused};

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
    assert_eq!(wrong.message, "password authentication failed for user \"app\"");
}

#[test]
fn an_unknown_user_looks_like_a_wrong_password() {
    let database = Database::with("");
    for auth_type in ["scram-sha-256", "md5"] {
        let forebay = with_users(&database, auth_type, "");
        let unknown = refused(&forebay, "nobody", PASSWORD, &database.name);
        assert_eq!(unknown.sqlstate, "28P01", "{auth_type}");
        assert_eq!(unknown.message, "password authentication failed for user \"nobody\"");
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
fn a_server_is_verified_by_its_certificate() {
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
    let postgres = Postgres::private_with_hba(&settings, hba);
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
