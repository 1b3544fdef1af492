//! What the operator, or a statement itself, says may not be kept, or not for long.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{RawClient, bind, execute, parse, sync};
use crate::support::wait_until;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one');
    CREATE SCHEMA payroll; CREATE TABLE payroll.salaries (id int, amount int);
    CREATE VIEW w AS SELECT amount FROM payroll.salaries; CREATE VIEW x AS SELECT v FROM t;
    CREATE TABLE parts (id int) PARTITION BY RANGE (id);
    CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (10)";
const READ: &str = "SELECT v FROM t";

fn start(toml: &str) -> (Database<'static>, Forebay, RawClient) {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::with_config(&database, toml, &[]);
    let client = forebay.client();
    (database, forebay, client)
}

/// None of them is served, although each is asked again and the catalogue is known.
fn never(database: &Database<'_>, client: &mut RawClient, kept: &str, statements: &[&str]) {
    database.until_hit(client, kept);
    for sql in statements.iter().flat_map(|sql| [sql; 3]) {
        assert!(!database.is_hit(client, sql), "{sql}");
    }
}

#[test]
fn what_a_rule_denies_is_never_kept_from_the_moment_it_is_read() {
    let rule = "[rules]\naudited = { table = \"payroll.*\", deny = true }\n";
    let (database, forebay, mut client) = start("");
    let denied = [
        "SELECT amount FROM payroll.salaries",
        "SELECT amount FROM w",
        "SELECT v FROM t JOIN payroll.salaries s USING (id)",
        "SELECT v FROM t WHERE id IN (SELECT id FROM payroll.salaries)",
    ];
    for sql in denied {
        database.until_hit(&mut client, sql);
    }
    forebay.reload(rule);
    never(&database, &mut client, READ, &denied);
    let mut console = forebay.console();
    assert!(console.query("SHOW CACHE_REASONS").contains("D(denied,12,"));
    let why = client.query(&format!("EXPLAIN CACHE {}", denied[1]));
    assert!(why.contains("D(reason,denied)") && why.contains("D(rule,audited)"), "{why}");
    // Prepared before, and again under the rule.
    client.ask(&[parse("s", denied[0], &[]), sync()]);
    let mut run = || {
        let before = database.seen(denied[0]);
        client.ask(&[bind("", "s", &[]), execute("", 0), sync()]);
        database.seen(denied[0]) - before
    };
    assert_eq!([run(), run(), run()], [1, 1, 1]);
    forebay.reload("");
    for sql in denied {
        database.until_hit(&mut client, sql);
    }
}

#[test]
fn a_rule_may_name_a_view_a_partition_a_schema_or_another_database() {
    let (database, forebay, mut client) = start(
        "[rules]\nview = { table = \"x\", deny = true }\npart = { table = \"part*\", deny = true }\n\
         schema = { schema = \"payroll\", deny = true }\n",
    );
    never(
        &database,
        &mut client,
        READ,
        &[
            "SELECT v FROM x",
            "SELECT id FROM parts",
            "SELECT id FROM part1",
            "SELECT amount FROM w",
        ],
    );
    forebay.reload(
        "[rules]\nview = { table = \"x\", deny = true, database = \"another\" }\n\
         root = { table = \"part1\", deny = true }\n",
    );
    never(&database, &mut client, "SELECT v FROM x", &["SELECT id FROM parts"]);
}

#[test]
fn a_statement_is_known_by_its_shape() {
    let rule = "[rules]\ncounts = { statement = \"SELECT count(*) FROM  t WHERE id = *\", \
                deny = true }\n";
    let (database, _forebay, mut client) = start(rule);
    never(
        &database,
        &mut client,
        "SELECT count(*) FROM t",
        &["SELECT count(*) FROM t WHERE id = 1", "select /* a */ count(*) from T where id = 2"],
    );
}

#[test]
fn an_answer_grows_too_old_for_a_rule_before_it_does_for_others() {
    let (database, forebay, mut client) =
        start("[rules]\nprices = { table = \"t\", max_age = \"1s\" }\n");
    database.until_hit(&mut client, READ);
    wait_until("it is too old", || !database.is_hit(&mut client, READ));
    assert!(client.query(&format!("EXPLAIN CACHE {READ}")).contains("D(max age,1s)"));
    // By a hint, of one statement that shares the entry of another.
    forebay.reload("");
    database.until_hit(&mut client, READ);
    let hinted = format!("/* forebay:max_age=1s */ {READ}");
    wait_until("it is too old for this one", || {
        let other = database.is_hit(&mut client, READ);
        assert!(other, "the entry is there for all others");
        !database.is_hit(&mut client, &hinted)
    });
    // What it was answered with is there for them too.
    assert!(database.is_hit(&mut client, READ));
}

#[test]
fn a_statement_may_say_that_it_is_not_kept() {
    let (database, _forebay, mut client) = start("");
    let (hinted, odd) =
        ("/* forebay:nocache */ SELECT v FROM t", "/* forebay:what */ SELECT v FROM t");
    never(&database, &mut client, READ, &[hinted, odd]);
    assert!(database.is_hit(&mut client, READ));
    client.ask(&[parse("s", hinted, &[]), sync()]);
    for before in 0..3 {
        client.ask(&[bind("", "s", &[]), execute("", 0), sync()]);
        assert_eq!(database.seen(hinted), 3 + before + 1);
    }
    assert!(client.query(&format!("EXPLAIN CACHE {hinted}")).contains("D(reason,hint)"));
}

#[test]
fn a_function_that_the_operator_answers_for_is_no_hindrance() {
    let (database, forebay, mut client) = start("");
    client.run(
        "CREATE FUNCTION slug(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN lower($1); END';
         CREATE FUNCTION other(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN lower($1); END'",
    );
    let calls = ["SELECT slug(v) FROM t", "SELECT public.slug(v) FROM t"];
    never(&database, &mut client, READ, &calls);
    forebay.reload("[cache]\nfunctions = [\"public.slug\"]\n");
    for sql in calls {
        database.until_hit(&mut client, sql);
    }
    never(
        &database,
        &mut client,
        READ,
        &["SELECT slug(other(v)) FROM t", "SELECT other(v) FROM t"],
    );
    // Another one of that name that may be meant.
    client.run("CREATE SCHEMA s; CREATE FUNCTION s.slug(text) RETURNS text RETURN random()::text");
    client.run("SET search_path = s, public");
    never(&database, &mut client, "SELECT v FROM public.t", &[calls[0], "SELECT s.slug(v) FROM t"]);
    // It is written anew: what was computed with the old one is not served.
    client.run("RESET search_path");
    database.until_hit(&mut client, calls[0]);
    client.run("CREATE OR REPLACE FUNCTION slug(text) RETURNS text RETURN 'new'");
    assert_eq!(client.one(calls[0]), "new");
}

#[test]
fn what_such_a_function_returns_may_be_given_to_code_nobody_answers_for() {
    let toml = "[cache]\nfunctions = [\"public.price\", \"public.prices\", \"public.plain\"]\n";
    let (database, _forebay, mut client) = start(toml);
    client.run(
        "CREATE TYPE money2 AS (amt numeric, cur text);
         CREATE FUNCTION plain(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION price(int) RETURNS money2 LANGUAGE sql AS 'SELECT ROW(1, 2)::money2';
         CREATE FUNCTION prices(int, OUT a money2, OUT b int) LANGUAGE sql
            AS 'SELECT ROW(1, 2)::money2, 3';
         CREATE FUNCTION conv(money2, text) RETURNS int LANGUAGE sql AS 'SELECT count(*) FROM parts';
         CREATE OPERATOR || (LEFTARG = money2, RIGHTARG = text, FUNCTION = conv)",
    );
    let calls = [
        "SELECT price(id) || 'EUR' FROM t",
        "SELECT public.price(id) || 'EUR' FROM t",
        "SELECT a || 'EUR' FROM t, prices(id)",
    ];
    never(&database, &mut client, "SELECT plain(id) + 1 FROM t", &calls);
}
