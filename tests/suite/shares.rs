//! Who gets how many servers: sizes, the reserve, limits over several pools, and what is kept
//! ready ahead of need.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER, scratch};
use crate::support::raw::{Login, RawClient, query};
use crate::support::wait_until;

/// A database under several names.
struct World {
    database: Database<'static>,
    forebay: Forebay,
}

impl World {
    /// `settings` in TOML; `entries` are names with more keys of theirs.
    fn start(settings: &str, entries: &[(&str, &str)]) -> Self {
        let database = Database::with("");
        let toml = toml(&database, settings, entries);
        let forebay = Forebay::with_config(&database, &toml, &[]);
        Self { database, forebay }
    }

    fn client(&self, name: &str) -> RawClient {
        self.forebay.log_in(&Login::new(USER, PASSWORD, name)).unwrap()
    }

    /// Waits until that many clients wait for a server.
    fn waiting(&self, count: usize) {
        let mut console = self.forebay.console();
        wait_until("clients wait", || {
            console.query("SHOW CLIENTS").matches(",waiting,").count() == count
        });
    }

    /// Servers under this name, as `SHOW DATABASES` counts them.
    fn servers(&self, name: &str) -> usize {
        let mut console = self.forebay.console();
        let rows = console.rows("SHOW DATABASES");
        let row = rows.iter().find(|row| row[0].as_deref() == Some(name)).unwrap();
        row[12].as_deref().unwrap().parse().unwrap()
    }
}

fn toml(database: &Database<'_>, settings: &str, entries: &[(&str, &str)]) -> String {
    let port = database.postgres.port;
    let entries: Vec<String> = entries
        .iter()
        .map(|(name, keys)| {
            format!(
                "{name} = {{ host = \"127.0.0.1\", port = {port}, dbname = \"{}\", \
                 user = \"{USER}\", password = \"{PASSWORD}\"{keys} }}\n",
                database.name
            )
        })
        .collect();
    let entries = entries.concat();
    format!("{settings}\n[databases]\n{entries}")
}

fn begin(client: &mut RawClient) {
    client.hold_server();
}

#[test]
fn an_idle_server_of_another_pool_gives_way_at_the_limit_of_the_user() {
    let users = format!("[users]\n{USER} = {{ max_user_connections = 1 }}\n");
    let world = World::start(&users, &[("one", ""), ("two", "")]);
    let (mut one, mut two) = (world.client("one"), world.client("two"));
    for _ in 0..3 {
        assert_eq!(one.one("SELECT pg_backend_pid() > 0"), "t");
        assert_eq!((world.servers("one"), world.servers("two")), (1, 0));
        assert_eq!(two.one("SELECT pg_backend_pid() > 0"), "t");
        assert_eq!((world.servers("one"), world.servers("two")), (0, 1));
    }
    world.forebay.log_contains("closing because: evicted");
}

#[test]
fn who_finds_every_server_of_the_user_busy_gets_the_next_that_is_free() {
    let users = format!("[users]\n{USER} = {{ max_user_connections = 1 }}\n");
    let world = World::start(&users, &[("one", ""), ("two", "")]);
    let (mut one, mut two) = (world.client("one"), world.client("two"));
    begin(&mut one);
    two.send(&query("SELECT 2"));
    world.waiting(1);
    one.run("COMMIT");
    assert_eq!(two.replies(), "T(?column?) D(2) C(SELECT 1) Z(I)");
}

#[test]
fn an_idle_server_of_another_pool_gives_way_when_a_paused_one_resumes() {
    let users = format!("[users]\n{USER} = {{ max_user_connections = 1 }}\n");
    let world = World::start(&users, &[("one", ""), ("two", "")]);
    let (mut one, mut two) = (world.client("one"), world.client("two"));
    let mut console = world.forebay.console();
    console.run("PAUSE one");
    one.send(&query("SELECT 1"));
    world.waiting(1);
    assert_eq!(two.one("SELECT 2"), "2");
    assert_eq!(world.servers("two"), 1);
    console.run("RESUME one");
    assert_eq!(one.replies(), "T(?column?) D(1) C(SELECT 1) Z(I)");
}

#[test]
fn a_higher_limit_serves_who_waits_for_it_at_once() {
    let entries = [("one", ", max_db_connections = 1"), ("two", "")];
    let world = World::start("", &entries);
    let (mut holder, mut other) = (world.client("one"), world.client("one"));
    begin(&mut holder);
    other.send(&query("SELECT 2"));
    world.waiting(1);
    let entries = [("one", ", max_db_connections = 2"), ("two", "")];
    world.forebay.reload(&toml(&world.database, "", &entries));
    assert_eq!(other.replies(), "T(?column?) D(2) C(SELECT 1) Z(I)");
    assert_eq!(world.servers("one"), 2);
}

#[test]
fn who_gets_past_one_limit_finds_room_at_the_next() {
    let users = format!("[users]\n{USER} = {{ max_user_connections = 2 }}\n");
    let entries = [("one", ", max_db_connections = 1"), ("two", "")];
    let world = World::start(&users, &entries);
    let (mut holder, mut other) = (world.client("one"), world.client("one"));
    begin(&mut holder);
    other.send(&query("SELECT 2"));
    world.waiting(1);
    assert_eq!(world.client("two").one("SELECT 3"), "3");
    assert_eq!(world.servers("two"), 1);
    let entries = [("one", ", max_db_connections = 2"), ("two", "")];
    world.forebay.reload(&toml(&world.database, &users, &entries));
    assert_eq!(other.replies(), "T(?column?) D(2) C(SELECT 1) Z(I)");
    assert_eq!((world.servers("one"), world.servers("two")), (2, 0));
}

#[test]
fn the_reserve_serves_who_has_waited_and_no_more_than_it_has() {
    let settings = "[pool]\nreserve_pool_timeout = \"20ms\"\n";
    let world = World::start(settings, &[("one", ", pool_size = 1, reserve_pool_size = 1")]);
    let (mut first, mut second) = (world.client("one"), world.client("one"));
    begin(&mut first);
    begin(&mut second);
    world.forebay.log_contains("taking connection from reserve_pool");
    let mut third = world.client("one");
    third.send(&query("SELECT 3"));
    world.waiting(1);
    first.run("COMMIT");
    assert_eq!(third.replies(), "T(?column?) D(3) C(SELECT 1) Z(I)");
    assert_eq!(world.servers("one"), 2);
}

#[test]
fn servers_are_kept_ready_without_a_client_where_the_user_is_known() {
    let world = World::start("", &[("one", ", min_pool_size = 3"), ("two", "")]);
    wait_until("three servers are ready", || world.servers("one") == 3);
    assert_eq!(world.servers("two"), 0);
    let row = world.forebay.console().query("SHOW DATABASES");
    assert!(row.contains(",20,3,0,3600,"), "{row}");
}

#[test]
fn servers_are_kept_ready_for_a_user_of_whom_a_client_is_there() {
    let database = Database::with("");
    let list = scratch().join("userlist.txt");
    std::fs::write(&list, format!("\"{USER}\" \"{PASSWORD}\"\n")).unwrap();
    let toml = format!(
        "[auth]\nauth_file = \"{}\"\n[databases]\n\
         one = {{ host = \"127.0.0.1\", port = {}, dbname = \"{}\", min_pool_size = 3 }}\n",
        list.display(),
        database.postgres.port,
        database.name
    );
    let forebay = Forebay::with_config(&database, &toml, &[]);
    let world = World { database, forebay };
    let _client = world.client("one");
    wait_until("three servers are ready", || world.servers("one") == 3);
}

#[test]
fn a_database_and_a_user_have_as_many_clients_as_their_limits_say() {
    let settings = "[listen]\nmax_user_client_connections = 3\n";
    let world = World::start(settings, &[("one", ", max_db_client_connections = 2"), ("two", "")]);
    let refused = |name| {
        let refused = world.forebay.log_in(&Login::new(USER, PASSWORD, name)).err().unwrap();
        (refused.sqlstate, refused.message)
    };
    let error = |setting| ("53300".to_owned(), format!("client connections exceeded ({setting})"));
    let first = world.client("one");
    let _second = world.client("one");
    assert_eq!(refused("one"), error("max_db_client_connections"));
    // The console's clients are counted too, but who may do everything there is let in.
    let third = world.client("two");
    assert_eq!(refused("two"), error("max_user_client_connections"));
    let users = world.forebay.console().query("SHOW USERS");
    assert!(users.contains(&format!("D({USER},,,NULL,0,2,3,4)")), "{users}");
    drop((first, third));
    wait_until("there is room again", || {
        world.forebay.log_in(&Login::new(USER, PASSWORD, "one")).is_ok()
    });
}

#[test]
fn a_pool_that_nobody_has_used_is_forgotten_and_made_again() {
    let settings =
        "[pool]\npool_idle_timeout = \"10ms\"\n[server]\nserver_idle_timeout = \"10ms\"\n";
    let world = World::start(settings, &[("one", "")]);
    let client = world.client("one");
    client.close();
    world.forebay.log_contains("cleaning up idle pool for user");
    // That may have been one from before the client, of the catalogue's first reading.
    let mut console = world.forebay.console();
    wait_until("the pool is gone", || !console.query("SHOW POOLS").contains("D(one,"));
    assert_eq!(world.client("one").one("SELECT 1"), "1");
}

#[test]
fn clients_of_several_users_share_the_pool_of_a_forced_user() {
    let world = World::start("[auth]\nauth_type = \"any\"\n", &[("one", "")]);
    let client = |user| world.forebay.log_in(&Login::new(user, "", "one")).unwrap();
    let (mut ann, mut bob) = (client("ann"), client("bob"));
    assert_eq!(ann.one("SELECT pg_backend_pid()"), bob.one("SELECT pg_backend_pid()"));
    let pools = world.forebay.console().query("SHOW POOLS");
    assert!(pools.contains(&format!("D(one,{USER},2,0,")), "{pools}");
}
