//! Replication connections: a WAL sender for each client alone.

use std::process::Command;

use crate::support::forebay::Forebay;
use crate::support::postgres::{PASSWORD, Postgres, USER, binary};
use crate::support::raw::{Login, RawClient};
use crate::support::wait_until;

const HBA: &str = "\
host all,replication postgres 127.0.0.1/32 trust
host all,replication all 127.0.0.1/32 scram-sha-256
";

fn is_replicating(console: &mut RawClient, command: &str, kind: &str) -> bool {
    let column = 3;
    console.rows(command).iter().any(|row| row[column].as_deref() == Some(kind))
}

#[test]
fn a_client_that_replicates_has_a_server_that_nobody_else_gets() {
    let postgres = Postgres::private_with_hba("wal_level = logical", HBA);
    postgres.admin("postgres").run(&format!("ALTER ROLE {USER} REPLICATION"));
    let database = postgres.database();
    let forebay = Forebay::start(&database, &["--pool-size", "2"]);
    let login = Login::new(USER, PASSWORD, &database.name);
    let mut console = forebay.console();
    for (value, kind, answer) in [
        ("database", "logical", "T(one) D(1) C(SELECT 1) Z(I)"),
        ("yes", "physical", "E(0A000) Z(I)"),
    ] {
        let parameters = [("replication", value), ("application_name", "stand-by")];
        let mut client = forebay.log_in(&login.clone().with(&parameters)).unwrap();
        assert_eq!(client.one("SHOW application_name"), "stand-by");
        assert!(!client.one("IDENTIFY_SYSTEM").is_empty());
        assert_eq!(client.query("SELECT 1 AS one"), answer);
        for command in ["SHOW CLIENTS", "SHOW SERVERS"] {
            assert!(is_replicating(&mut console, command, kind), "{command}: {kind}");
        }
        // Another of the same pool is not disturbed, and gets none of it.
        let mut other = forebay.client();
        assert_ne!(other.one("SELECT pg_backend_pid()"), client.pid.to_string());
        client.close();
        wait_until("its server is closed", || !is_replicating(&mut console, "SHOW SERVERS", kind));
    }
    let refused = forebay.log_in(&login.with(&[("replication", "perhaps")])).err().unwrap();
    assert_eq!(refused.sqlstate, "22023");
}

#[test]
fn a_role_that_may_not_replicate_hears_it_from_postgres_and_holds_up_nobody() {
    let postgres = Postgres::private_with_hba("", HBA);
    let database = postgres.database();
    let forebay = Forebay::start(&database, &[]);
    let login = Login::new(USER, PASSWORD, &database.name).with(&[("replication", "database")]);
    let refused = forebay.log_in(&login).err().unwrap();
    assert_eq!(refused.sqlstate, "42501");
    assert_eq!(forebay.client().one("SELECT 1"), "1");
}

#[test]
fn pg_basebackup_works_through_forebay() {
    let postgres = Postgres::private_with_hba("", HBA);
    postgres.admin("postgres").run(&format!("ALTER ROLE {USER} REPLICATION"));
    let database = postgres.database();
    let forebay = Forebay::start(&database, &[]);
    let target = crate::support::postgres::scratch();
    let output = Command::new(binary("pg_basebackup"))
        .args(["-h", "127.0.0.1", "-p", &forebay.port.to_string(), "-U", USER])
        .args(["--checkpoint=fast", "-D"])
        .arg(target.join("copy"))
        .env("PGPASSWORD", PASSWORD)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(target.join("copy/backup_manifest").exists());
    std::fs::remove_dir_all(&target).unwrap();
}
