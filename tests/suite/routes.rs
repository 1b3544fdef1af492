//! What pages cost: requests, told apart by the comments of their statements, against pages whose
//! queries are known.

use crate::console::{Row, count, fields, find, table};
use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, USER};
use crate::support::raw::{
    RawClient, bind, close_statement, describe_portal, execute, parse, sync,
};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                      INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 40) i";

/// One burst, however slow the machine is.
const PATIENT: &str = "[insight]\nburst_pause = \"60s\"\n";

/// As sqlcommenter ends a statement.
fn tagged(sql: &str, route: &str, trace: u32) -> String {
    let route = route.replace('/', "%2F");
    format!(
        "{sql} /*framework='test',route='{route}',traceparent='00-{trace:032x}-{trace:016x}-01'*/"
    )
}

fn routes(console: &mut RawClient) -> Vec<String> {
    let row = |row: &Row| fields(row, &["route", "requests", "queries"]).join(" ");
    let mut rows: Vec<String> = table(console, "SHOW ROUTES").iter().map(row).collect();
    rows.sort();
    rows
}

#[test]
fn a_page_that_repeats_itself_and_one_that_is_slow_are_found_by_name_after_one_request_of_each() {
    let database = Database::with(SCHEMA);
    let toml = "[slow]\nthreshold = \"100ms\"\n\
                [insight]\nburst_pause = \"60s\"\nqueries_per_request = 10\n";
    let forebay = Forebay::with_config(&database, toml, &[]);
    let (mut shop, mut console) =
        (forebay.client_with(&[("application_name", "shop")]), forebay.console());
    database.until_hit(&mut shop, "SELECT count(*) FROM t");
    shop.run(&tagged("SELECT id FROM t WHERE id <= 12", "/list", 1));
    for id in 1..=12 {
        shop.run(&tagged(&format!("SELECT v FROM t WHERE id = {}", id.min(10)), "/list", 1));
    }
    shop.run(&tagged("SELECT pg_sleep(2)", "/report", 2));
    shop.run(&tagged("SELECT v FROM t WHERE id = 1", "/one", 3));
    shop.run("SELECT v FROM t WHERE id = 2");

    let list =
        find(&mut console, "SHOW ROUTES ORDER BY queries_per_request LIMIT 1", "route", "/list");
    let owner = ["database", "user", "application_name", "application"];
    assert_eq!(fields(&list, &owner), [&database.name, USER, "shop", ""]);
    // Two of the twelve were asked before.
    let counts = ["requests", "queries", "queries_per_request", "server_queries", "hit_rate"];
    assert_eq!(fields(&list, &counts), ["1", "13", "13.0", "11", "15.3"]);
    assert_eq!(fields(&list, &["worst_queries", "over_budget"]), ["13", "1"]);
    assert_eq!(list["worst_time"], list["total_time"]);
    let slow = find(&mut console, "SHOW ROUTES ORDER BY worst_time LIMIT 1", "route", "/report");
    assert_eq!(fields(&slow, &["requests", "queries", "over_budget"]), ["1", "1", "0"]);
    assert!(count(&slow, "worst_time") >= 2_000_000 && count(&slow, "slow") == 1, "{slow:?}");
    assert_eq!(routes(&mut console), ["/list 1 13", "/one 1 1", "/report 1 1"]);
    let one = find(&mut console, "SHOW ROUTES", "route", "/one");
    assert_eq!(fields(&one, &["server_queries", "hit_rate"]), ["0", "100.0"]);

    assert_eq!(find(&mut console, "SHOW REPEATS", "route", "/list")["count"], "12");
    assert_eq!(find(&mut console, "SHOW SLOW", "route", "/report")["failed"], "no");
    forebay.log_contains("request over its budget of queries");
    let log = forebay.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("over its budget")).collect();
    assert!(told.len() == 1 && told[0].contains("/list"), "{told:?}");
}

#[test]
fn a_trace_is_one_request_whichever_clients_run_it_and_however_they_ask() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::with_config(&database, PATIENT, &[]);
    let (mut one, mut two) = (forebay.client(), forebay.client());
    let mut console = forebay.console();
    let sql = |trace| tagged("SELECT v FROM t WHERE id = $1", "/cart", trace);
    let run =
        |name, id| [bind("", name, &[Some(id)]), describe_portal(""), execute("", 0)].concat();
    for id in ["1", "2"] {
        one.ask(&[parse("", &sql(7), &[23]), run("", id), sync()]);
        two.ask(&[parse("", &sql(7), &[23]), run("", id), sync()]);
    }
    assert_eq!(routes(&mut console), ["/cart 1 4"]);
    // Prepared: every Execute counts, and its text names the request once.
    one.ask(&[parse("s", &sql(8), &[23]), sync()]);
    for id in ["3", "4", "5"] {
        one.ask(&[run("s", id), sync()]);
    }
    assert_eq!(routes(&mut console), ["/cart 2 7"]);
    // In one pipeline, where two pages meet.
    let other = tagged("SELECT v FROM t WHERE id = $1", "/other", 9);
    one.ask(&[run("s", "6"), parse("", &other, &[23]), run("", "7"), run("s", "8"), sync()]);
    one.ask(&[close_statement("s"), sync()]);
    assert_eq!(routes(&mut console), ["/cart 3 9", "/other 1 1"]);
    two.run(&tagged("SELECT 1", "/cart", 8));
    assert_eq!(routes(&mut console), ["/cart 3 10", "/other 1 1"]);
}

#[test]
fn without_a_trace_a_transaction_is_a_request_and_so_is_a_burst() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::with_config(&database, PATIENT, &[]);
    let (mut client, mut console) = (forebay.client(), forebay.console());
    let users = "/*application:Shop,controller:users,action:show*/";
    for _ in 0..2 {
        client.run("BEGIN");
        for id in 1..=3 {
            client.run(&format!("{users} SELECT v FROM t WHERE id = {id}"));
        }
        client.run("COMMIT");
    }
    assert_eq!(routes(&mut console), ["users#show 2 6"]);
    let row = find(&mut console, "SHOW ROUTES", "application", "Shop");
    assert_eq!(row["queries_per_request"], "3.0");
    for id in 1..=4 {
        client.run(&format!("SELECT v FROM t WHERE id = {id} /*controller='carts'*/"));
    }
    client.run("SELECT 1");
    client.run("BEGIN");
    client.run("SELECT 2 /*controller='carts'*/");
    client.run("COMMIT");
    assert_eq!(routes(&mut console), ["carts 1 5", "users#show 2 6"]);
}

#[test]
fn what_a_hostile_comment_holds_harms_nothing() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::with_config(&database, "", &[]);
    let (mut client, mut console) = (forebay.client(), forebay.console());
    let long = "x".repeat(10_000);
    for comment in [
        &format!("route='{long}'"),
        "route='/a",
        "route=''''''",
        "''''route=',=:,\\'",
        "route",
        "route='/nested /* route='/b' */ '",
    ] {
        assert_eq!(client.one(&format!("SELECT v FROM t WHERE id = 1 /*{comment}*/")), "v1");
        assert_eq!(client.one(&format!("/*{comment}*/ SELECT v FROM t WHERE id = 1")), "v1");
    }
    client.run("SELECT '/*route=''/literal''*/' FROM t");
    client.run("SELECT 1 /*route='%0A%1B[31mred\u{1}\u{202e}%00'*/");
    let names: Vec<String> =
        table(&mut console, "SHOW ROUTES").into_iter().map(|row| row["route"].clone()).collect();
    assert!(names.contains(&"  [31mred   ".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.chars().any(char::is_control)), "{names:?}");
    assert!(names.iter().all(|name| name.len() <= 200 && name != "/literal"), "{names:?}");
}

#[test]
fn routes_beyond_the_bound_are_one_row_and_no_request_is_lost() {
    let database = Database::with(SCHEMA);
    let toml = "[insight]\nroutes_max = 2\n";
    let forebay = Forebay::with_config(&database, toml, &[]);
    let (mut client, mut console) = (forebay.client(), forebay.console());
    for number in 1..=5 {
        client.run(&tagged("SELECT 1", &format!("/{number}"), number));
    }
    assert_eq!(routes(&mut console), ["(other) 3 3", "/4 1 1", "/5 1 1"]);
}
