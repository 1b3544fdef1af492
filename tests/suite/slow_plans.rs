//! Slow statements once more: their plans, and who sees their texts.

use crate::console::{find, table};
use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, bind, execute, parse, query, sync};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                      INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 40) i;
                      CREATE SCHEMA other; CREATE TABLE other.hidden (id int, w text);
                      INSERT INTO other.hidden VALUES (7, 'w')";
const SLOW: &str = "[slow]\nthreshold = \"50ms\"\n";

/// Its catalogue is known, so that it is known what reads.
fn start<'a>(toml: &str) -> (Database<'a>, Forebay, RawClient) {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::with_config(&database, &format!("{SLOW}{toml}"), &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT count(*) FROM t");
    (database, forebay, client)
}

/// The id of the slow statement whose shape begins so.
fn id(console: &mut RawClient, shape: &str) -> String {
    let slow = table(console, "SHOW SLOW");
    let found = slow.iter().find(|row| row["statement"].starts_with(shape));
    found.unwrap_or_else(|| panic!("no {shape} in {slow:?}"))["id"].clone()
}

fn plan(console: &mut RawClient, shape: &str) -> String {
    let id = id(console, shape);
    let lines = console.rows(&format!("EXPLAIN SLOW {id}"));
    lines.into_iter().map(|mut line| line.remove(0).unwrap() + "\n").collect()
}

fn refusal(console: &mut RawClient, id: &str) -> String {
    console.send(&query(&format!("EXPLAIN SLOW {id}")));
    let messages = console.until(b'Z');
    messages.iter().find(|message| message.tag == b'E').unwrap().field(b'M')
}

#[test]
fn the_plan_of_a_slow_read_is_postgresqls_for_the_statement_as_it_was_sent() {
    let (database, forebay, mut client) = start("");
    let mut console = forebay.console();
    let before = database.admin().one("SELECT count(*) FROM t");
    client.run("/* tag */ SELECT v FROM t, pg_sleep(0.06) WHERE v > 'v7' AND v <> 'secret'");
    // On a loaded machine others may have been slow as well.
    let slow = table(&mut console, "SHOW SLOW").len();
    let shown = plan(&mut console, "SELECT v FROM t");
    for part in ["Function Scan on pg_sleep", "Seq Scan on t", "'v7'", "'secret'", "cost="] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    // It was planned and not run.
    assert!(!shown.contains("actual"), "{shown}");
    assert_eq!(table(&mut console, "SHOW SLOW").len(), slow);
    assert_eq!(database.admin().one("SELECT count(*) FROM t"), before);
}

#[test]
fn a_slow_statement_with_parameters_is_planned_for_any_values() {
    let (_database, forebay, mut client) = start("");
    let mut console = forebay.console();
    let sql = "SELECT v FROM t, pg_sleep($2) WHERE id = $1";
    client.ask(&[parse("p", sql, &[23, 701]), sync()]);
    client.ask(&[bind("", "p", &[Some("7"), Some("0.06")]), execute("", 0), sync()]);
    let shown = plan(&mut console, "SELECT v FROM t");
    assert!(shown.contains("(id = $1)") && shown.contains("pg_sleep"), "{shown}");
    let undeclared = "SELECT id FROM t, pg_sleep($2) WHERE v = $1";
    let run = [bind("", "", &[Some("v7"), Some("0.06")]), execute("", 0), sync()];
    client.ask(&[parse("", undeclared, &[]), run.concat()]);
    let shown = plan(&mut console, "SELECT id FROM t");
    assert!(shown.contains("(v = $1)"), "{shown}");
}

#[test]
fn the_plan_is_made_as_the_session_of_the_statement_saw_things() {
    let (_database, forebay, mut client) = start("");
    let mut console = forebay.console();
    client.run("SET search_path = other");
    client.run("SET enable_seqscan = off");
    client.run("SELECT w FROM hidden, pg_sleep(0.06) WHERE id = 7");
    // What is switched off and done all the same shows a cost that nothing else has, or says so.
    let shown = plan(&mut console, "SELECT w FROM hidden");
    let disabled = shown.contains("cost=10000000000") || shown.contains("Disabled: true");
    assert!(shown.contains("Seq Scan on hidden") && disabled, "{shown}");
    // Nothing of it is left for others.
    client.run("RESET ALL");
    client.run("SELECT v FROM t, pg_sleep(0.06)");
    let shown = plan(&mut console, "SELECT v FROM t");
    assert!(shown.contains("Seq Scan on t  (cost=0.00"), "{shown}");
}

#[test]
fn what_is_no_read_or_not_at_hand_has_no_plan() {
    let (_database, forebay, mut client) = start("");
    let mut console = forebay.console();
    client.run("UPDATE t SET v = 'x' WHERE id = 1 AND pg_sleep(0.06) IS NOT NULL");
    let update = id(&mut console, "UPDATE");
    assert_eq!(refusal(&mut console, &update), "the statement is not a read");
    client.run("WITH w AS (DELETE FROM t WHERE id = 2) SELECT pg_sleep(0.06)");
    let with = id(&mut console, "WITH");
    assert_eq!(refusal(&mut console, &with), "the statement may write");
    client.run("SELECT 1 AS one, pg_sleep(0.06); SELECT 2");
    let several = id(&mut console, "SELECT $1 AS one");
    assert_eq!(refusal(&mut console, &several), "it is one of several statements in one string");
    client.run(&format!("SELECT 2 AS two, pg_sleep(0.06), '{}'", "x".repeat(5000)));
    let long = id(&mut console, "SELECT $1 AS two");
    assert_eq!(refusal(&mut console, &long), "the statement is too long to be kept");
    client.send(&[query("SELECT 3 AS three, pg_sleep(0.06)"), query("SELECT 4")].concat());
    client.replies();
    client.replies();
    let piped = id(&mut console, "SELECT $1 AS three");
    assert_eq!(refusal(&mut console, &piped), "the text of the statement was not at hand");
    for unknown in ["0", "99999", "x"] {
        let message = "no slow statement of this id is kept, use SHOW SLOW";
        assert_eq!(refusal(&mut console, unknown), message);
    }
}

#[test]
fn a_session_that_has_set_more_than_is_kept_has_no_plan() {
    let (_database, forebay, mut client) = start("");
    let mut console = forebay.console();
    client.run(&format!("SET app.long = '{}'", "x".repeat(20_000)));
    client.run("SELECT 1 AS one, pg_sleep(0.06)");
    let long = id(&mut console, "SELECT $1 AS one");
    assert_eq!(refusal(&mut console, &long), "its session had set too much to be kept");
    client.run("RESET app.long");
    client.run("SELECT 2 AS two, pg_sleep(0.06)");
    assert!(plan(&mut console, "SELECT $1 AS two").contains("cost="));
}

#[test]
fn a_paused_database_is_not_asked_for_a_plan() {
    let (database, forebay, mut client) = start("");
    let mut console = forebay.console();
    client.run("SELECT v FROM t, pg_sleep(0.06)");
    let slow = id(&mut console, "SELECT v FROM t");
    console.run(&format!("PAUSE {}", database.name));
    let message = "the pool that the statement ran in is gone, paused or disabled";
    assert_eq!(refusal(&mut console, &slow), message);
    console.run(&format!("RESUME {}", database.name));
    assert!(plan(&mut console, "SELECT v FROM t").contains("Seq Scan on t"));
}

#[test]
fn texts_are_shown_to_admins_who_want_literals_and_to_nobody_else() {
    let admins = "[admin]\nadmin_users = [\"app\"]\n";
    let (_database, forebay, mut client) = start(admins);
    let mut console = forebay.console();
    client.run("SELECT 'secret', pg_sleep(0.06)");
    let text = |console: &mut RawClient| {
        find(console, "SHOW SLOW", "statement", "SELECT $1, pg_sleep($2)")["text"].clone()
    };
    assert_eq!(text(&mut console), "NULL");
    console.run("SET insight.literals = on");
    assert_eq!(text(&mut console), "SELECT 'secret', pg_sleep(0.06)");
    let looks = format!(
        "{SLOW}[insight]\nliterals = true\n[admin]\nadmin_users = [\"root\"]\nstats_users = [\"app\"]\n"
    );
    forebay.reload(&looks);
    let mut guest = forebay.console();
    assert_eq!(text(&mut guest), "NULL");
    let slow = id(&mut guest, "SELECT");
    assert_eq!(refusal(&mut guest, &slow), "admin access needed");
    // The log never has them.
    assert!(!forebay.log().contains("secret"));
}
