//! Statements about whole databases, which PostgreSQL refuses while anybody is connected there:
//! Forebay's own idle connections are nobody.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, bind, execute, parse, sync};

#[test]
fn a_database_that_only_forebay_is_connected_to_can_be_copied_renamed_and_dropped() {
    let database = Database::apart("");
    let mut admin = database.admin();
    admin.run(&format!("ALTER ROLE {USER} CREATEDB"));
    let (name, copy, other) = (
        format!("{}_Old", database.name),
        format!("{}_copy", database.name),
        format!("{}_new", database.name),
    );
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    client.run(&format!("CREATE DATABASE \"{name}\""));
    let mut inside = forebay.log_in(&Login::new(USER, PASSWORD, &name)).unwrap();
    inside.run("CREATE TABLE t AS SELECT 1 AS v");
    assert_eq!(inside.one("SELECT v FROM t"), "1");
    let create = format!("CREATE DATABASE {copy} TEMPLATE \"{name}\"");
    assert_eq!(client.query(&create), "C(CREATE DATABASE) Z(I)");
    assert_eq!(inside.one("SELECT v FROM t"), "1");
    // By the extended protocol too.
    let rename = format!("ALTER DATABASE \"{name}\" RENAME TO {other}");
    let rename = [parse("", &rename, &[]), bind("", "", &[]), execute("", 0), sync()];
    assert_eq!(client.ask(&rename), "1 2 C(ALTER DATABASE) Z(I)");
    for gone in [&copy, &other] {
        let mut inside = forebay.log_in(&Login::new(USER, PASSWORD, gone)).unwrap();
        assert_eq!(inside.one("SELECT v FROM t"), "1");
        assert_eq!(client.query(&format!("DROP DATABASE {gone}")), "C(DROP DATABASE) Z(I)");
    }
    // The name means another database from here on, for a client that was there before as well.
    client.run(&format!("CREATE DATABASE \"{name}\""));
    assert_eq!(inside.query("SELECT v FROM t"), "E(42P01) Z(I)");
    client.run(&format!("DROP DATABASE \"{name}\""));
}
