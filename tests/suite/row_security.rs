//! Tables under row-level security: kept where the policies ask for nothing but what is in the key,
//! and never shown to somebody whom the policies would have shown something else.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, Postgres, USER};
use crate::support::raw::{Login, RawClient, bind, execute, parse, sync};

const TABLE: &str = "
    CREATE TABLE doc (id int PRIMARY KEY, owner text, tenant int);
    ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
    GRANT SELECT ON doc TO PUBLIC";
const READ: &str = "SELECT id FROM doc ORDER BY id";

/// A PostgreSQL of the test's own: new roles are a change in every database of a cluster.
fn postgres() -> Postgres {
    Postgres::private("")
}

/// A database with the table, a policy, and two roles that its owner may take.
fn start<'a>(postgres: &'a Postgres, policy: &str) -> (Database<'a>, Forebay, [String; 2]) {
    let database = postgres.database();
    database.direct().run(TABLE);
    let roles = ["ann", "bob"].map(|name| format!("{}_{name}", database.name));
    let mut admin = database.admin();
    for (number, role) in roles.iter().enumerate() {
        admin.run(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'; GRANT {role} TO {USER}"
        ));
        let number = number + 1;
        admin.run(&format!("INSERT INTO doc VALUES ({number}, '{role}', {number})"));
    }
    admin.run(policy);
    // With an entry where everybody logs in as who they are.
    let toml = format!(
        "[auth]\nauth_user = \"postgres\"\n\
         [databases.direct]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"{}\"\n",
        database.postgres.port, database.name
    );
    let forebay = Forebay::with_config(&database, &toml, &[]);
    (database, forebay, roles)
}

/// Until it is answered from the cache, and as PostgreSQL answers the same session.
fn check(database: &Database<'_>, client: &mut RawClient, expected: &str) {
    assert_eq!(client.query(READ), expected);
    database.until_hit(client, READ);
    assert_eq!(client.query(READ), expected);
}

fn ids(ids: &[&str]) -> String {
    let mut rows: Vec<String> = ids.iter().map(|id| format!("D({id})")).collect();
    rows.push(format!("C(SELECT {})", ids.len()));
    format!("T(id) {} Z(I)", rows.join(" "))
}

#[test]
fn each_role_hits_its_own_rows() {
    let postgres = postgres();
    let (database, forebay, [ann, bob]) =
        start(&postgres, "CREATE POLICY own ON doc USING (owner = current_user)");
    let mut client = forebay.client();
    for (role, id) in [(&ann, "1"), (&bob, "2"), (&ann, "1")] {
        client.run(&format!("SET ROLE {role}"));
        check(&database, &mut client, &ids(&[id]));
    }
    // Logged in as such, and nobody in particular.
    let mut login = forebay.log_in(&Login::new(&bob, PASSWORD, "direct")).unwrap();
    check(&database, &mut login, &ids(&["2"]));
    // The owner of the table is above its policies until they are forced on it.
    client.run("RESET ROLE");
    check(&database, &mut client, &ids(&["1", "2"]));
    client.run("ALTER TABLE doc FORCE ROW LEVEL SECURITY");
    check(&database, &mut client, &ids(&[]));
}

#[test]
fn who_bypasses_row_security_shares_with_nobody_who_does_not() {
    let postgres = postgres();
    let (database, forebay, [ann, bob]) =
        start(&postgres, "CREATE POLICY own ON doc USING (owner = session_user)");
    let mut ann_client = forebay.log_in(&Login::new(&ann, PASSWORD, "direct")).unwrap();
    check(&database, &mut ann_client, &ids(&["1"]));
    database.admin().run(&format!("ALTER ROLE {bob} BYPASSRLS"));
    let mut bob_client = forebay.log_in(&Login::new(&bob, PASSWORD, "direct")).unwrap();
    check(&database, &mut bob_client, &ids(&["1", "2"]));
    check(&database, &mut ann_client, &ids(&["1"]));
}

#[test]
fn each_tenant_hits_its_own_rows() {
    let postgres = postgres();
    let (database, forebay, [ann, _]) = start(
        &postgres,
        "CREATE POLICY tenant ON doc USING (tenant = current_setting('app.tenant', true)::int)",
    );
    let mut client = forebay.client();
    client.run(&format!("SET ROLE {ann}"));
    check(&database, &mut client, &ids(&[]));
    for tenant in ["1", "2", "1"] {
        client.run(&format!("SET app.tenant = '{tenant}'"));
        check(&database, &mut client, &ids(&[tenant]));
    }
    // For one transaction, by statement and by function, plain and prepared.
    for set in ["SET LOCAL app.tenant = 2", "SELECT set_config('app.tenant', '2', true)"] {
        client.run("BEGIN");
        client.run(set);
        assert_eq!(client.query(READ), ids(&["2"]).replace("Z(I)", "Z(T)"));
        client.run("COMMIT");
        assert_eq!(client.query(READ), ids(&["1"]));
    }
    let set = "SELECT set_config('app.tenant', $1, false)";
    client.ask(&[parse("", set, &[]), bind("", "", &[Some("2")]), execute("", 0), sync()]);
    assert_eq!(client.query(READ), ids(&["2"]));
}

#[test]
fn what_a_policy_reads_is_read() {
    let postgres = postgres();
    let (database, forebay, [ann, _]) = start(
        &postgres,
        "CREATE TABLE access (who text, tenant int); GRANT ALL ON access TO PUBLIC;
         CREATE POLICY listed ON doc USING
         (tenant IN (SELECT a.tenant FROM access a WHERE a.who = current_user))",
    );
    let mut client = forebay.client();
    client.run(&format!("SET ROLE {ann}"));
    check(&database, &mut client, &ids(&[]));
    client.run(&format!("INSERT INTO access VALUES ('{ann}', 2)"));
    check(&database, &mut client, &ids(&["2"]));
}

#[test]
fn a_changed_policy_counts_at_once() {
    let postgres = postgres();
    let (database, forebay, [ann, _]) =
        start(&postgres, "CREATE POLICY own ON doc USING (owner = current_user)");
    let (mut owner, mut client) = (forebay.client(), forebay.client());
    client.run(&format!("SET ROLE {ann}"));
    check(&database, &mut client, &ids(&["1"]));
    database.admin().run(&format!("ALTER TABLE doc OWNER TO {USER}"));
    owner.run("CREATE POLICY even ON doc USING (id % 2 = 0)");
    check(&database, &mut client, &ids(&["1", "2"]));
    owner.run("DROP POLICY own ON doc");
    check(&database, &mut client, &ids(&["2"]));
}

#[test]
fn policies_that_ask_for_anything_else_are_not_served() {
    let postgres = postgres();
    for policy in [
        "CREATE POLICY young ON doc USING (now() < '2999-01-01')",
        "CREATE POLICY named ON doc USING (current_setting('application_name') <> 'x')",
        "CREATE POLICY anyone ON doc USING (current_setting(owner, true) IS NULL)",
        "CREATE POLICY member ON doc USING (pg_has_role(current_user, owner, 'member'))",
    ] {
        let (database, forebay, [ann, _]) = start(&postgres, policy);
        let mut client = forebay.client();
        client.run("CREATE TABLE other (id int)");
        client.run(&format!("SET ROLE {ann}"));
        client.run(READ);
        client.run("RESET ROLE");
        database.until_hit(&mut client, "SELECT id FROM other");
        client.run(&format!("SET ROLE {ann}"));
        for _ in 0..3 {
            assert!(!database.is_hit(&mut client, READ), "{policy}");
        }
    }
}

#[test]
fn who_logged_in_is_told_apart_behind_one_role_and_one_user() {
    let postgres = postgres();
    let (database, forebay, [ann, bob]) =
        start(&postgres, "CREATE POLICY own ON doc USING (owner = session_user)");
    let shared = format!("{}_shared", database.name);
    let mut admin = database.admin();
    admin.run(&format!("CREATE ROLE {shared}; GRANT SELECT ON doc TO {shared}"));
    for role in [&ann, &bob] {
        admin.run(&format!("GRANT {shared} TO {role}; ALTER ROLE {role} SET role = '{shared}'"));
    }
    for _ in 0..2 {
        for (role, id) in [(&ann, "1"), (&bob, "2")] {
            let mut client = forebay.log_in(&Login::new(role, PASSWORD, "direct")).unwrap();
            assert_eq!(client.one("SELECT current_user"), shared);
            check(&database, &mut client, &ids(&[id]));
        }
    }
    drop(forebay);
    // And by what the way to the database sets.
    admin.run("DROP POLICY own ON doc");
    admin.run("CREATE POLICY own ON doc USING (tenant = current_setting('app.tenant')::int)");
    let entry = |name: &str, tenant: &str| {
        let (port, dbname) = (database.postgres.port, &database.name);
        format!(
            "[databases.{name}]\nhost = \"127.0.0.1\"\nport = {port}\ndbname = \"{dbname}\"\n\
             options = \"-c app.tenant={tenant}\"\n"
        )
    };
    let toml =
        format!("[auth]\nauth_user = \"postgres\"\n{}{}", entry("one", "1"), entry("two", "2"));
    let forebay = Forebay::with_config(&database, &toml, &[]);
    for (name, id) in [("one", "1"), ("two", "2"), ("one", "1")] {
        let mut client = forebay.log_in(&Login::new(&ann, PASSWORD, name)).unwrap();
        check(&database, &mut client, &ids(&[id]));
    }
}
