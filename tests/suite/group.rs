//! Several Forebays that answer as one: what one of them writes no other answers from before, and
//! whatever is lost meanwhile costs hits.

use crate::console::find;
use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, Postgres, USER};
use crate::support::raw::{Login, RawClient, query};
use crate::support::redis::Redis;
use crate::support::wait_until;

const TABLES: &str = "CREATE TABLE t (v int); INSERT INTO t VALUES (1); \
     CREATE TABLE u (v int); INSERT INTO u VALUES (1)";
const READ: &str = "SELECT v FROM t";

/// Some members in front of one database.
struct Together {
    database: Database<'static>,
    redis: Redis,
    mode: &'static str,
    /// Settings of all of them.
    settings: String,
    members: Vec<Forebay>,
    clients: Vec<RawClient>,
}

impl Together {
    fn start(count: usize) -> Self {
        Self::with(count, "strict")
    }

    fn with(count: usize, mode: &'static str) -> Self {
        Self::of(Database::with(TABLES), count, mode, String::new())
    }

    fn of(database: Database<'static>, count: usize, mode: &'static str, settings: String) -> Self {
        let (members, clients) = (Vec::new(), Vec::new());
        let redis = Redis::start();
        let mut members = Self { database, redis, mode, settings, members, clients };
        for _ in 0..count {
            members.add();
        }
        members
    }

    fn add(&mut self) {
        let toml = format!(
            "[redis]\ntimeout = \"5s\"\n[group]\nname = \"g\"\nmode = \"{}\"\n\
             lease = \"600ms\"\ntimeout = \"2s\"\n{}",
            self.mode, self.settings
        );
        let url = self.redis.url();
        let forebay = Forebay::with_config(&self.database, &toml, &["--redis", &url]);
        self.clients.push(forebay.client());
        self.members.push(forebay);
    }

    /// What SHOW GROUP says at one of them.
    fn shown(&self, member: usize, column: &str) -> String {
        self.members[member].console().column("SHOW GROUP", column)
    }

    fn until_hits(&mut self, sql: &str) {
        for client in &mut self.clients {
            self.database.until_hit(client, sql);
        }
    }

    /// All members say the same, which is this.
    fn all_read(&mut self, sql: &str, expected: &str) {
        for client in &mut self.clients {
            assert_eq!(client.one(sql), expected);
        }
    }
}

#[test]
fn one_alone_hits() {
    let mut one = Together::start(1);
    one.until_hits(READ);
    one.clients[0].run("UPDATE t SET v = 2");
    one.all_read(READ, "2");
    one.until_hits(READ);
}

#[test]
fn what_one_writes_every_other_sees() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    for value in 2..100 {
        two.clients[value % 2].run(&format!("UPDATE t SET v = {value}"));
        two.all_read(READ, &value.to_string());
    }
    two.until_hits(READ);
}

#[test]
fn a_write_to_one_table_leaves_the_answers_of_another() {
    let mut two = Together::start(2);
    wait_until("an answer is left, which it is not where a lease ends meanwhile", || {
        two.until_hits(READ);
        two.clients[1].run("UPDATE u SET v = v + 1");
        two.database.is_hit(&mut two.clients[0], READ)
    });
}

#[test]
fn a_change_of_the_catalogue_is_known_to_all() {
    let mut two = Together::start(2);
    two.clients[0].run("CREATE VIEW w AS SELECT v FROM t");
    two.until_hits("SELECT v FROM w");
    two.clients[0].run("CREATE OR REPLACE VIEW w AS SELECT v FROM u");
    two.clients[0].run("UPDATE u SET v = 7");
    two.all_read("SELECT v FROM w", "7");
    two.until_hits("SELECT v FROM w");
    two.clients[0].run("UPDATE u SET v = 8");
    two.all_read("SELECT v FROM w", "8");
    // What a statement writes is judged under the new catalogue, too.
    two.until_hits(READ);
    two.clients[0].run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN UPDATE t SET v = 9; RETURN NEW; END'",
    );
    two.clients[0].run("CREATE TRIGGER x AFTER UPDATE ON u FOR EACH ROW EXECUTE FUNCTION f()");
    two.clients[1].run("UPDATE u SET v = 10");
    two.all_read(READ, "9");
}

#[test]
fn one_that_is_killed_leaves_the_others_to_hit() {
    let mut three = Together::start(3);
    three.until_hits(READ);
    three.clients.pop();
    drop(three.members.pop());
    three.until_hits(READ);
    three.clients[0].run("UPDATE t SET v = 2");
    three.all_read(READ, "2");
    three.until_hits(READ);
    three.add();
    three.until_hits(READ);
}

#[test]
fn a_redis_that_forgets_or_goes_costs_hits_alone() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    two.redis.flush();
    two.clients[0].run("UPDATE t SET v = 2");
    two.all_read(READ, "2");
    two.until_hits(READ);
    two.redis.stop();
    two.clients[1].run("UPDATE t SET v = 3");
    two.all_read(READ, "3");
    two.redis.resume_from_stop();
    wait_until("the group is back", || two.database.is_hit(&mut two.clients[0], READ));
    two.clients[0].run("UPDATE t SET v = 4");
    two.all_read(READ, "4");
}

#[test]
fn without_asking_before_each_hit_nothing_old_is_seen_either() {
    let mut two = Together::with(2, "strict-local");
    two.until_hits(READ);
    for value in 2..8 {
        two.clients[value % 2].run(&format!("UPDATE t SET v = {value}"));
        two.all_read(READ, &value.to_string());
    }
    two.until_hits(READ);
    assert_eq!(two.shown(0, "asks"), "nobody");
}

#[test]
fn who_is_waited_for_is_told_at_once() {
    let mut two = Together::with(2, "strict-local");
    two.until_hits(READ);
    let heard = |two: &Together| two.shown(1, "hears").parse::<u32>().unwrap();
    let writes = 40;
    // It has heard, and told so; who learns of a write by renewing its lease does the latter alone.
    wait_until("one is told of all writes, which it is not where a lease ends meanwhile", || {
        let before = heard(&two);
        for value in 0..writes {
            two.clients[0].run(&format!("UPDATE t SET v = {value}"));
        }
        heard(&two) - before > writes * 3 / 2
    });
}

#[test]
fn the_console_tells_how_the_group_stands() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    two.clients[0].run("UPDATE t SET v = 2");
    wait_until("both are known", || {
        let both = |column| [0, 1].map(|member| two.shown(member, column));
        let [one, other] = both("act");
        both("state") == ["open"; 2] && both("members") == ["2"; 2] && one == other
    });
    assert_ne!(two.shown(0, "member"), two.shown(1, "member"));
    assert_ne!(two.shown(0, "begins"), "0");
    assert_ne!(two.shown(1, "checks"), "0");
    two.redis.stop();
    wait_until("it is out", || two.shown(0, "state") == "out");
    assert_ne!(two.shown(0, "failure"), "");
    two.clients[0].one(READ);
    let mut console = two.members[0].console();
    let reason = find(&mut console, "SHOW CACHE_REASONS", "reason", "group_shut");
    assert_ne!(reason["count"], "0");
}

#[test]
fn a_client_that_discards_all_is_no_danger_to_others() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    for value in 2..6 {
        two.clients[0].run("DISCARD ALL");
        two.clients[0].run(&format!("UPDATE t SET v = {value}"));
        two.all_read(READ, &value.to_string());
    }
    let locks = "SELECT count(*) > 1 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(two.database.direct().one(locks), "t");
}

#[test]
fn without_redis_a_server_that_lost_its_lock_for_a_moment_is_vouched_for() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    two.redis.stop();
    wait_until("it is out", || two.shown(0, "state") == "out");
    let of_ours =
        format!("[{}] LOG:  statement: SELECT 1 FROM pg_catalog.pg_locks", two.database.name);
    let mut value = 2;
    wait_until("PostgreSQL is asked for the lock that was there all the time", || {
        value += 1;
        // The first lets go of the server's lock, which is taken again with the next statement.
        two.clients[0].run("DISCARD ALL");
        two.clients[0].run(&format!("UPDATE t SET v = {value}"));
        two.database.postgres.log().contains(&of_ours)
    });
    two.all_read(READ, &value.to_string());
    // It was shown.
    assert!(!two.members[0].log().contains("out of the group"), "{}", two.members[0].log());
    two.redis.resume_from_stop();
    two.until_hits(READ);
}

#[test]
fn a_client_that_goes_while_its_commit_waits_for_the_group_holds_up_nobody() {
    let (database, redis) = (Database::with(TABLES), Redis::start());
    let toml = "[listen]\nworkers = 1\n\
         [group]\nname = \"g\"\nlease = \"600ms\"\ntimeout = \"2s\"\n";
    let forebay = Forebay::with_config(&database, toml, &["--redis", &redis.url()]);
    let (mut writer, mut other) = (forebay.client(), forebay.client());
    database.until_hit(&mut other, READ);
    // It has its server, so that what it sends is on its way.
    writer.run("BEGIN");
    writer.run("UPDATE t SET v = 2");
    redis.pause();
    writer.send(&query("COMMIT"));
    drop(writer);
    assert_eq!(other.one("SELECT v FROM u"), "1");
    redis.resume();
    wait_until("it is committed", || database.direct().one(READ) == "2");
}

#[test]
fn who_is_paused_is_out_of_the_group_and_back_after_it() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    let mut console = two.members[0].console();
    console.run("PAUSE");
    two.clients[1].run("UPDATE t SET v = 2");
    assert_eq!(two.clients[1].one(READ), "2");
    console.run("RESUME");
    two.all_read(READ, "2");
    two.clients[0].run("UPDATE t SET v = 3");
    two.all_read(READ, "3");
    two.until_hits(READ);
}

#[test]
fn a_server_that_was_tidied_for_its_next_client_holds_the_lock_again() {
    let (database, redis) = (Database::with(TABLES), Redis::start());
    let toml = "[pool]\npool_mode = \"session\"\ndefault_pool_size = 1\n\
         [group]\nname = \"g\"\nlease = \"600ms\"\ntimeout = \"2s\"\n";
    let forebay = Forebay::with_config(&database, toml, &["--redis", &redis.url()]);
    let lock = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
         AND mode = 'ShareLock' AND pid = pg_backend_pid()";
    // The first servers are from before it was known what sessions start with, and go.
    let mut before = String::new();
    wait_until("a server had a client before", || {
        let mut client = forebay.client();
        let pid = client.one("SELECT pg_backend_pid()");
        assert_eq!(client.one(lock), "1");
        std::mem::replace(&mut before, pid.clone()) == pid
    });
}

#[test]
fn discard_all_in_a_block_is_refused_and_no_more() {
    let mut two = Together::start(2);
    two.until_hits(READ);
    two.clients[0].run("BEGIN");
    assert_eq!(two.clients[0].query("DISCARD ALL"), "E(25001) Z(E)");
    two.clients[0].run("ROLLBACK");
    two.clients[0].run("UPDATE t SET v = 2");
    two.all_read(READ, "2");
}

/// A role that may not ask which cluster this is, and the entry `reports` that logs in as it.
fn stranger(database: &Database<'_>) -> (String, String) {
    let (mut admin, port) = (database.admin(), database.postgres.port);
    let role = format!("reporting_{}", database.name);
    admin.run(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'; GRANT ALL ON t TO {role}"));
    admin.run("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    admin.run(&format!("GRANT EXECUTE ON FUNCTION pg_control_system() TO {USER}"));
    let entry = format!(
        "[databases]\nreports = {{ host = \"127.0.0.1\", port = {port}, dbname = \"{}\", \
         user = \"{role}\", password = \"{PASSWORD}\" }}\n",
        database.name
    );
    (role, entry)
}

#[test]
fn who_may_not_ask_for_the_cluster_announces_its_writes_too() {
    let database = Database::apart(TABLES);
    let (role, entry) = stranger(&database);
    let mut two = Together::of(database, 2, "strict", entry);
    two.until_hits(READ);
    let mut reporting = two.members[0].log_in(&Login::new(USER, PASSWORD, "reports")).unwrap();
    assert_eq!(reporting.one("SELECT current_user"), role);
    for value in 2..6 {
        two.until_hits(READ);
        reporting.run(&format!("UPDATE t SET v = {value}"));
        two.all_read(READ, &value.to_string());
    }
}

#[test]
fn a_name_of_the_database_that_cannot_speak_for_it_leaves_that_to_another() {
    let database = Database::apart(TABLES);
    let (_, entry) = stranger(&database);
    let redis = Redis::start();
    let toml = format!("[group]\nname = \"g\"\nlease = \"600ms\"\n{entry}");
    let forebay = Forebay::with_config(&database, &toml, &["--redis", &redis.url()]);
    let mut reporting = forebay.log_in(&Login::new(USER, PASSWORD, "reports")).unwrap();
    reporting.run("SELECT 1");
    forebay.log_contains("out of the group");
    let why = forebay.console().column("SHOW GROUP", "failure");
    assert_eq!(why, "permission denied for function pg_control_system");
    database.until_hit(&mut forebay.client(), READ);
}

#[test]
fn a_primary_of_redis_that_gets_its_first_replica_goes_on_for_all() {
    let mut three = Together::start(2);
    three.until_hits(READ);
    let primary = format!("127.0.0.1 {}", three.redis.port);
    let _replica = Redis::with(&["--replicaof", &primary, "--repl-diskless-sync-delay", "0"]);
    let redis = &three.redis;
    let replicas = "return select(2, redis.call('INFO', 'replication'):gsub('state=online', ''))";
    wait_until("there is a replica", || redis.number(replicas) == 1);
    // It knows Redis by the name that it has now, those before by the one it had.
    three.add();
    for value in 2..6 {
        three.until_hits(READ);
        three.clients[value % 3].run(&format!("UPDATE t SET v = {value}"));
        three.all_read(READ, &value.to_string());
    }
}

#[test]
fn a_member_with_another_lease_is_not_let_in_and_says_so() {
    let mut two = Together::start(1);
    two.until_hits(READ);
    let toml = "[group]\nname = \"g\"\nlease = \"200ms\"\ntimeout = \"2s\"\n";
    let other = Forebay::with_config(&two.database, toml, &["--redis", &two.redis.url()]);
    other.client().run("UPDATE t SET v = 2");
    two.all_read(READ, "2");
    other.log_contains("not let into the group");
    other.client().run("UPDATE t SET v = 3");
    two.all_read(READ, "3");
    // Without it the others go on.
    drop(other);
    two.until_hits(READ);
}

#[test]
fn what_another_postgres_answers_is_not_judged_by_the_one_before() {
    let postgres = Postgres::to_copy();
    let before = postgres.database();
    before.direct().run(TABLES);
    let copy = Postgres::taken_over_from(&postgres);
    let after = copy.database_called(&before.name);
    let redis = Redis::start();
    let settings = |database: &Database<'_>| {
        format!(
            "[group]\nname = \"g\"\nlease = \"600ms\"\n[databases]\nmoved = {{ host = \"127.0.0.1\", \
             port = {}, dbname = \"{}\", user = \"{USER}\", password = \"{PASSWORD}\" }}\n",
            database.postgres.port, database.name
        )
    };
    let options = ["--redis", &redis.url()];
    let members = [(); 2].map(|()| Forebay::with_config(&before, &settings(&before), &options));
    let login = Login::new(USER, PASSWORD, "moved");
    let mut clients = members.each_ref().map(|member| member.log_in(&login).unwrap());
    for client in &mut clients {
        before.until_hit(client, READ);
    }
    for member in &members {
        member.write_settings(&settings(&after));
        member.console().run("RELOAD");
    }
    let mut clients = members.each_ref().map(|member| member.log_in(&login).unwrap());
    // The one before is still there, and nothing but a server tells that it is not the one.
    let [one, other] = &mut clients;
    for value in 2..20 {
        for _ in 0..4 {
            other.run(READ);
        }
        one.run(&format!("UPDATE t SET v = {value}"));
        assert_eq!(other.one(READ), value.to_string());
    }
    for client in &mut clients {
        after.until_hit(client, READ);
    }
}
