//! Servers that cannot be had: who needs one hears why, and PostgreSQL is left alone for a while.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, RawClient, Refused, query};
use crate::support::wait_until;

/// Servers log in as a role of the test's own, which can be locked out without harm to others.
struct World {
    database: Database<'static>,
    forebay: Forebay,
    role: String,
}

impl World {
    fn start(pool: &str, retry: &str) -> Self {
        let database = Database::apart("");
        let role = format!("server_{}", database.name);
        database.admin().run(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'"));
        let world = Self { forebay: Forebay::with_config(&database, "", &[]), database, role };
        world.reload(pool, retry);
        world
    }

    fn reload(&self, pool: &str, retry: &str) {
        let (port, name, role) = (self.database.postgres.port, &self.database.name, &self.role);
        self.forebay.write_settings(&format!(
            "[pool]\ndefault_pool_size = {pool}\n[server]\nserver_login_retry = \"{retry}\"\n\
             [databases]\nentry = {{ host = \"127.0.0.1\", port = {port}, dbname = \"{name}\", \
             user = \"{role}\", password = \"{PASSWORD}\" }}\n"
        ));
        self.forebay.console().run("RELOAD");
    }

    fn log_in(&self) -> Result<RawClient, Refused> {
        self.forebay.log_in(&Login::new(USER, PASSWORD, "entry"))
    }

    fn client(&self) -> RawClient {
        self.log_in().unwrap()
    }

    fn refused(&self) -> Refused {
        self.log_in().err().unwrap()
    }

    /// Lets servers log in or not.
    fn admit(&self, login: &str) {
        self.database.admin().run(&format!("ALTER ROLE {} {login}", self.role));
    }

    /// Waits until that many clients wait for a server.
    fn waiting(&self, count: usize) {
        let mut console = self.forebay.console();
        wait_until("clients wait", || {
            console.query("SHOW CLIENTS").matches(",waiting,").count() == count
        });
    }

    fn sentence(&self) -> String {
        format!("role \"{}\" is not permitted to log in", self.role)
    }

    fn cached(&self) -> String {
        let sentence = self.sentence();
        format!("server login has been failing, cached error: {sentence} (server_login_retry)")
    }
}

#[test]
fn after_a_failed_login_the_error_is_told_without_another_try_until_the_time_is_over() {
    let world = World::start("2", "1h");
    world.admit("NOLOGIN");
    let refused = world.refused();
    assert_eq!((refused.sqlstate.as_str(), refused.message), ("28000", world.sentence()));
    world.admit("LOGIN");
    for _ in 0..3 {
        let refused = world.refused();
        assert_eq!((refused.sqlstate.as_str(), refused.message), ("28000", world.cached()));
    }
    world.reload("2", "1ms");
    assert_eq!(world.client().one("SELECT 1"), "1");
    let shown = world.forebay.console().query("SHOW CONFIG");
    assert!(shown.contains("D(server_login_retry,0.001,15,yes)"), "{shown}");
}

#[test]
fn with_no_time_between_tries_each_client_hears_of_its_own() {
    let world = World::start("2", "0");
    world.admit("NOLOGIN");
    for _ in 0..3 {
        assert_eq!(world.refused().message, world.sentence());
    }
    world.admit("LOGIN");
    assert_eq!(world.client().one("SELECT 1"), "1");
}

#[test]
fn who_waits_is_told_the_error_when_no_server_is_left() {
    let world = World::start("1", "1h");
    let (mut holder, mut one, mut two) = (world.client(), world.client(), world.client());
    holder.run("BEGIN");
    let pid = holder.one("SELECT pg_backend_pid()");
    one.send(&query("SELECT 1"));
    world.waiting(1);
    two.send(&query("SELECT 2"));
    world.waiting(2);
    world.admit("NOLOGIN");
    world.database.admin().run(&format!("SELECT pg_terminate_backend({pid})"));
    // Both have waited for the connection that failed.
    assert_eq!(one.message().field(b'M'), world.sentence());
    assert_eq!(two.message().field(b'M'), world.sentence());
}

#[test]
fn while_others_live_a_failed_connection_is_waited_out() {
    let world = World::start("2", "1h");
    let (mut holder, mut other) = (world.client(), world.client());
    holder.hold_server();
    world.admit("NOLOGIN");
    other.send(&query("SELECT 2"));
    world.waiting(1);
    holder.run("COMMIT");
    assert_eq!(other.replies(), "T(?column?) D(2) C(SELECT 1) Z(I)");
}

#[test]
fn who_waits_is_served_when_logins_succeed_again() {
    let world = World::start("2", "50ms");
    let (mut holder, mut other) = (world.client(), world.client());
    holder.hold_server();
    world.admit("NOLOGIN");
    other.send(&query("SELECT 2"));
    world.waiting(1);
    world.admit("LOGIN");
    assert_eq!(other.replies(), "T(?column?) D(2) C(SELECT 1) Z(I)");
    holder.run("COMMIT");
}
