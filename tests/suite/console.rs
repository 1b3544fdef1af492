//! The console: PgBouncer's columns bit for bit, values that move when something happens, and
//! every way to ask.

use std::collections::HashMap;

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{
    Login, RawClient, bind, bind_formats, column_types, describe_portal, describe_statement,
    execute, parse, query, sync,
};
use crate::support::{psql::psql, wait_until};

const TABLE: &str = "CREATE TABLE t (id int, v text); INSERT INTO t VALUES (1, 'one'), (2, 'two')";
const READ: &str = "SELECT v FROM t ORDER BY id";

fn start(toml: &str, options: &[&str]) -> (Database<'static>, Forebay, RawClient) {
    let database = Database::with(TABLE);
    let forebay = Forebay::with_config(&database, toml, options);
    let console = forebay.console();
    (database, forebay, console)
}

pub type Row = HashMap<String, String>;

/// Rows by column name; NULL is `NULL`.
pub fn table(console: &mut RawClient, sql: &str) -> Vec<Row> {
    let messages = console.run_for_messages(sql);
    let description = messages.iter().find(|message| message.tag == b'T').unwrap();
    let names: Vec<String> =
        column_types(&description.body).into_iter().map(|(name, _)| name).collect();
    let row = |values: Vec<Option<String>>| {
        let values = values.into_iter().map(|value| value.unwrap_or_else(|| "NULL".to_owned()));
        names.iter().cloned().zip(values).collect()
    };
    messages.iter().filter(|message| message.tag == b'D').map(|one| row(one.columns())).collect()
}

/// The row whose `column` has this value.
pub fn find(console: &mut RawClient, sql: &str, column: &str, value: &str) -> Row {
    let rows = table(console, sql);
    let found = rows.iter().find(|row| row[column] == value);
    found.unwrap_or_else(|| panic!("{sql}: no {value} in {rows:?}")).clone()
}

pub fn fields<'a>(row: &'a Row, names: &[&str]) -> Vec<&'a str> {
    names.iter().map(|name| row[*name].as_str()).collect()
}

pub fn count(row: &Row, name: &str) -> u64 {
    row[name].parse().unwrap()
}

/// The columns of a command: `name:i` for integers and so on, text where nothing is said.
fn check_columns(console: &mut RawClient, sql: &str, expected: &str) {
    let messages = console.run_for_messages(sql);
    assert_eq!(messages[0].tag, b'T', "{sql}");
    let columns = column_types(&messages[0].body);
    let shown: Vec<String> = columns
        .into_iter()
        .map(|(name, oid)| match oid {
            25 => name,
            23 => format!("{name}:i"),
            20 => format!("{name}:q"),
            1700 => format!("{name}:N"),
            17 => format!("{name}:b"),
            other => panic!("{sql}: {name} has type {other}"),
        })
        .collect();
    assert_eq!(shown.join(" "), expected, "{sql}");
    let complete = messages.iter().find(|message| message.tag == b'C').unwrap();
    assert_eq!(complete.to_string(), "C(SHOW)", "{sql}");
}

#[test]
fn every_show_of_pgbouncer_has_its_columns_names_types_and_order() {
    let (_database, _forebay, mut console) = start("", &[]);
    let socket = "type user database replication state addr port:i local_addr local_port:i \
                  connect_time request_time wait:i wait_us:i close_needed:i ptr link \
                  remote_pid:i tls application_name prepared_statements:i id:i";
    let buffers = "recv_pos:i pkt_pos:i pkt_remain:i send_pos:i send_remain:i pkt_avail:i \
                   send_avail:i";
    let mut check = |sql: &str, expected: &str| check_columns(&mut console, sql, expected);
    check(
        "SHOW POOLS",
        "database user cl_active:i cl_waiting:i cl_active_cancel_req:i cl_waiting_cancel_req:i \
         sv_active:i sv_active_cancel:i sv_being_canceled:i sv_idle:i sv_used:i sv_tested:i \
         sv_login:i maxwait:i maxwait_us:i pool_mode load_balance_hosts",
    );
    check("SHOW CLIENTS", socket);
    check("SHOW SERVERS", socket);
    check("SHOW SOCKETS", &format!("{socket} {buffers}"));
    check("SHOW ACTIVE_SOCKETS", &format!("{socket} {buffers}"));
    check(
        "SHOW DATABASES",
        "name host port:i database force_user pool_size:i min_pool_size:i reserve_pool_size:i \
         server_lifetime:i pool_mode load_balance_hosts max_connections:i current_connections:i \
         max_client_connections:i current_client_connections:i paused:i disabled:i",
    );
    check(
        "SHOW USERS",
        "name pool_size reserve_pool_size pool_mode max_user_connections:i \
         current_connections:i max_user_client_connections:i current_client_connections:i",
    );
    check("SHOW LISTS", "list items:i");
    check("SHOW CONFIG", "key value default changeable");
    check("SHOW VERSION", "version");
    check("SHOW STATE", "key value");
    check("SHOW MEM", "name size:i used:i free:i memtotal:i");
    check("SHOW TOTALS", "name value:N");
    check(
        "SHOW FDS",
        "fd:i task user database addr port:i cancel:q link:i client_encoding std_strings \
         datestyle timezone password scram_client_key:b scram_server_key:b",
    );
    check("SHOW PEERS", "peer_id:i host port:i pool_size:i");
    check(
        "SHOW PEER_POOLS",
        "peer_id:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active_cancel:i sv_login:i",
    );
    check("SHOW DNS_HOSTS", "hostname ttl:q addrs");
    check("SHOW DNS_ZONES", "zonename serial:q count:i");
}

#[test]
fn a_client_is_called_and_counted_as_it_last_called_itself() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &["--cache", "off"]);
    let mut client = forebay.client_with(&[("application_name", "before")]);
    let mut console = forebay.console();
    let mut named = |sql| {
        client.run(sql);
        find(&mut console, "SHOW CLIENTS", "database", &database.name)["application_name"].clone()
    };
    assert_eq!(named("SELECT 1"), "before");
    assert_eq!(named("SET application_name = 'it''s'"), "it's");
    assert_eq!(named("BEGIN; SET application_name = 'other'"), "other");
    assert_eq!(named("ROLLBACK"), "it's");
    assert_eq!(named("SELECT 2"), "it's");
    assert_eq!(named("RESET application_name"), "before");
    assert_eq!(named("SET application_name = 'last'"), "last");
    assert_eq!(named("SELECT 3"), "last");
    let last = find(&mut console, "SHOW CLIENT_STATS", "application_name", "last");
    assert_eq!((count(&last, "clients"), count(&last, "queries")), (1, 2));
}

#[test]
fn active_sockets_are_those_that_do_something() {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &["--cache", "off"]);
    let (mut busy, mut idle) = (forebay.client(), forebay.client());
    busy.run("BEGIN");
    busy.run("SELECT 1");
    idle.run("SELECT 1");
    let mut console = forebay.console();
    let mut states = |sql| {
        let table = table(&mut console, sql);
        let mut states: Vec<String> = table
            .iter()
            .filter(|row| row["database"] == database.name)
            .map(|row| format!("{} {}", row["type"], row["state"]))
            .collect();
        states.sort();
        states.join(", ")
    };
    assert_eq!(states("SHOW ACTIVE_SOCKETS"), "C cl_active, S sv_active");
    assert_eq!(states("SHOW SOCKETS"), "C cl_active, C cl_idle, S sv_active, S sv_idle");
}

#[test]
fn statistics_have_pgbouncers_columns() {
    let (_database, _forebay, mut console) = start("", &[]);
    let mut check = |sql: &str, expected: &str| check_columns(&mut console, sql, expected);
    let counted = "server_assignment_count xact_count query_count received sent xact_time \
                   query_time wait_time client_parse_count server_parse_count bind_count \
                   client_login_count";
    let stats = |prefix: &str| -> String {
        let names = counted.split_whitespace().map(|name| match (prefix, name) {
            ("avg", "received") => " avg_recv:N".to_owned(),
            (prefix, name) => format!(" {prefix}_{name}:N"),
        });
        names.collect()
    };
    check("SHOW STATS", &format!("database{}{}", stats("total"), stats("avg")));
    check(
        "SHOW STATS_TOTALS",
        "database server_assignment_count:N xact_count:N query_count:N bytes_received:N \
         bytes_sent:N xact_time:N query_time:N wait_time:N client_parse_count:N \
         server_parse_count:N bind_count:N client_login_count:N",
    );
    check(
        "SHOW STATS_AVERAGES",
        "database server_assignment_count:N xact_count:N query_count:N bytes_received:N \
         bytes_sent:N xact_time:N query_time:N wait_time:N avg_client_parse_count:N \
         avg_server_parse_count:N avg_bind_count:N avg_client_login_count:N",
    );
}

#[test]
fn pools_show_clients_that_wait_and_servers_in_use() {
    let (database, forebay, mut console) = start("", &["--pool-size", "1"]);
    let name = &database.name;
    let columns = ["user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "pool_mode"];
    let mut one = forebay.client();
    let mut two = forebay.client();
    one.run("SELECT 1");
    let row = find(&mut console, "SHOW POOLS", "database", name);
    assert_eq!(fields(&row, &columns), [USER, "2", "0", "0", "1", "transaction"]);
    assert_eq!(fields(&row, &["maxwait", "maxwait_us", "load_balance_hosts"]), ["0", "0", "NULL"]);
    one.hold_server();
    let row = find(&mut console, "SHOW POOLS", "database", name);
    assert_eq!(fields(&row, &columns), [USER, "2", "0", "1", "0", "transaction"]);
    two.send(&query("SELECT 2"));
    wait_until("the second client waits", || {
        let row = find(&mut console, "SHOW POOLS", "database", name);
        fields(&row, &columns) == [USER, "1", "1", "1", "0", "transaction"]
            && count(&row, "maxwait") * 1_000_000 + count(&row, "maxwait_us") > 0
    });
    let waiting = find(&mut console, "SHOW CLIENTS", "state", "waiting");
    assert!(count(&waiting, "wait") * 1_000_000 + count(&waiting, "wait_us") > 0, "{waiting:?}");
    one.run("COMMIT");
    assert_eq!(two.replies(), "T(?column?) D(2) C(SELECT 1) Z(I)");
    two.close();
    wait_until("the second client is gone", || {
        find(&mut console, "SHOW POOLS", "database", name)["cl_active"] == "1"
    });
}

#[test]
fn a_client_and_its_server_are_shown_and_point_at_each_other() {
    let (database, forebay, mut console) = start("", &[]);
    let mut client = forebay.client_with(&[("application_name", "web")]);
    let row = find(&mut console, "SHOW CLIENTS", "application_name", "web");
    let expected = ["C", USER, &database.name, "none", "idle", "127.0.0.1", "127.0.0.1"];
    let columns = ["type", "user", "database", "replication", "state", "addr", "local_addr"];
    assert_eq!(fields(&row, &columns), expected);
    assert_eq!(count(&row, "local_port"), u64::from(forebay.port));
    assert_eq!((row["link"].as_str(), row["tls"].as_str()), ("", ""));
    assert!(row["connect_time"].ends_with(" UTC"), "{row:?}");
    client.ask(&[parse("s", READ, &[]), sync()]);
    client.run("BEGIN");
    let pid = client.one("SELECT pg_backend_pid()");
    let row = find(&mut console, "SHOW CLIENTS", "application_name", "web");
    assert_eq!((row["state"].as_str(), row["prepared_statements"].as_str()), ("active", "1"));
    let server = find(&mut console, "SHOW SERVERS", "remote_pid", &pid);
    assert_eq!(fields(&server, &["type", "state", "user"]), ["S", "active", USER]);
    assert_eq!(count(&server, "port"), u64::from(database.postgres.port));
    assert_eq!((&row["link"], &server["link"]), (&server["ptr"], &row["ptr"]));
    client.run("COMMIT");
    let server = find(&mut console, "SHOW SERVERS", "remote_pid", &pid);
    assert_eq!(fields(&server, &["state", "link"]), ["idle", ""]);
    let sockets = table(&mut console, "SHOW SOCKETS");
    let states: Vec<&str> = sockets.iter().map(|row| row["state"].as_str()).collect();
    assert!(states.contains(&"cl_idle") && states.contains(&"sv_idle"), "{states:?}");
}

#[test]
fn stats_count_what_clients_did() {
    let (database, forebay, mut console) = start("", &["--cache", "off"]);
    let mut client = forebay.client();
    let columns = [
        "total_xact_count",
        "total_query_count",
        "total_client_parse_count",
        "total_server_parse_count",
        "total_bind_count",
    ];
    let row = find(&mut console, "SHOW STATS", "database", &database.name);
    assert_eq!(fields(&row, &columns), ["0"; 5]);
    let before = row;
    client.run("SELECT 1");
    client.run("BEGIN");
    client.run("SELECT 2");
    client.run("COMMIT");
    let run = [bind("", "s", &[]), execute("", 0), sync()];
    client.ask(&[&[parse("s", READ, &[])][..], &run[..]].concat());
    client.ask(&run);
    let row = find(&mut console, "SHOW STATS", "database", &database.name);
    assert_eq!(fields(&row, &columns), ["4", "6", "1", "1", "2"]);
    for moves in ["total_received", "total_sent", "total_query_time", "total_xact_time"] {
        assert!(count(&row, moves) > count(&before, moves), "{moves}: {before:?} {row:?}");
    }
    let totals = find(&mut console, "SHOW TOTALS", "name", "total_query_count");
    assert!(count(&totals, "value") >= 6, "{totals:?}");
    let totals = find(&mut console, "SHOW STATS_TOTALS", "database", &database.name);
    assert_eq!(fields(&totals, &["xact_count", "query_count", "bind_count"]), ["4", "6", "2"]);
}

#[test]
fn averages_are_those_of_the_last_period() {
    let (database, forebay, mut console) = start("[log]\nstats_period = \"1s\"\n", &[]);
    let mut client = forebay.client();
    wait_until("an average is there", || {
        client.run("SELECT 1");
        let row = find(&mut console, "SHOW STATS", "database", &database.name);
        count(&row, "avg_query_count") > 0 && count(&row, "avg_query_time") > 0
    });
    forebay.log_contains("queries/s");
}

#[test]
fn databases_lists_and_config_tell_what_is_there() {
    let (database, forebay, mut console) = start("", &["--pool-size", "3"]);
    let _client = forebay.client();
    let row = find(&mut console, "SHOW DATABASES", "name", &database.name);
    let columns = ["host", "database", "pool_size", "current_client_connections", "paused"];
    assert_eq!(fields(&row, &columns), ["127.0.0.1", &database.name, "3", "1", "0"]);
    assert_eq!(count(&row, "port"), u64::from(database.postgres.port));
    assert_eq!(count(&row, "current_connections"), 1);
    let own = find(&mut console, "SHOW DATABASES", "name", "pgbouncer");
    assert_eq!(fields(&own, &["database", "force_user"]), ["pgbouncer", "pgbouncer"]);
    let mut used = |list| find(&mut console, "SHOW LISTS", "list", list)["items"].clone();
    assert_eq!([used("used_clients"), used("free_servers")], ["2", "1"]);
    let second = forebay.client();
    let mut used = |list| find(&mut console, "SHOW LISTS", "list", list)["items"].clone();
    assert_eq!([used("used_clients"), used("pools")], ["3", "2"]);
    drop(second);
    let row = find(&mut console, "SHOW CONFIG", "key", "default_pool_size");
    assert_eq!(fields(&row, &["value", "default", "changeable"]), ["3", "20", "yes"]);
    let row = find(&mut console, "SHOW CONFIG", "key", "listen_port");
    assert_eq!(row["changeable"], "no");
    let keys: Vec<String> =
        table(&mut console, "SHOW CONFIG").iter().map(|row| row["key"].clone()).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    let users = find(&mut console, "SHOW USERS", "name", USER);
    // On the console is the same user.
    assert_eq!(users["current_client_connections"], "2");
}

#[test]
fn the_version_is_the_one_of_the_command_line() {
    let (_database, _forebay, mut console) = start("", &[]);
    let program = std::env::var("FOREBAY_BIN")
        .unwrap_or_else(|_unset| env!("CARGO_BIN_EXE_forebay").to_owned());
    let output = std::process::Command::new(program).arg("--version").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(console.one("SHOW VERSION"), printed.lines().next().unwrap());
}

#[test]
fn the_cache_shows_what_it_did_and_why_it_did_not() {
    let (database, forebay, mut console) = start("", &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    let before = table(&mut console, "SHOW CACHE").remove(0);
    assert_eq!(fields(&before, &["mode", "max_age", "redis"]), ["on", "60s", "off"]);
    assert_eq!(count(&before, "entries"), 1);
    client.run(READ);
    client.run("UPDATE t SET v = 'three' WHERE id = 2");
    client.run(READ);
    let after = table(&mut console, "SHOW CACHE").remove(0);
    for moved in ["hits", "misses", "fills", "invalidated_tables"] {
        assert_eq!(
            count(&after, moved),
            count(&before, moved) + 1,
            "{moved}: {before:?} {after:?}"
        );
    }
    assert!(count(&after, "hit_bytes") > count(&before, "hit_bytes"));
    let reason = |console: &mut RawClient, name| {
        count(&find(console, "SHOW CACHE_REASONS", "reason", name), "count")
    };
    assert_eq!(reason(&mut console, "function"), 0);
    client.run("SELECT id, random() FROM t");
    assert_eq!(reason(&mut console, "function"), 1);
    assert_eq!(reason(&mut console, "view"), 0);
}

#[test]
fn flush_cache_forgets_every_answer() {
    let (database, forebay, mut console) = start("", &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, READ);
    database.admin().run("UPDATE t SET v = 'behind'");
    assert_eq!(client.one(READ), "one");
    // In a group it has more to say.
    assert!(console.query("FLUSH CACHE").ends_with("C(FLUSH) Z(I)"));
    assert_eq!(table(&mut console, "SHOW CACHE")[0]["entries"], "0");
    assert_eq!(client.one(READ), "behind");
}

#[test]
fn client_stats_sum_by_application_and_outlive_the_clients() {
    let (database, forebay, mut console) = start("", &[]);
    let mut client = forebay.client_with(&[("application_name", "report")]);
    database.until_hit(&mut client, READ);
    client.run(READ);
    client.run("DELETE FROM t WHERE id = 2");
    client.query("SELECT broken");
    client.close();
    let row = find(&mut console, "SHOW CLIENT_STATS", "application_name", "report");
    assert_eq!(fields(&row, &["user", "database"]), [USER, &database.name]);
    assert_eq!(fields(&row, &["address", "writes", "errors"]), ["127.0.0.1", "1", "1"]);
    assert!(count(&row, "hits") >= 2 && count(&row, "misses") >= 1, "{row:?}");
    let judged = count(&row, "hits") + count(&row, "misses") + count(&row, "bypasses");
    assert_eq!(judged, count(&row, "queries"), "{row:?}");
}

#[test]
fn slow_statements_are_shown_without_their_values() {
    let (database, forebay, mut console) = start("[slow]\nthreshold = \"50ms\"\n", &[]);
    let mut client = forebay.client_with(&[("application_name", "lazy")]);
    let pid = client.one("SELECT pg_backend_pid() FROM pg_sleep(0.06) WHERE 'secret' <> 'x'");
    let slow = table(&mut console, "SHOW SLOW");
    // On a loaded machine others may have been slow as well.
    let slow = slow.iter().find(|row| row["statement"].contains("pg_sleep")).unwrap();
    let columns = ["database", "user", "application_name", "rows", "server_pid", "failed"];
    assert_eq!(fields(slow, &columns), [&database.name, USER, "lazy", "1", &pid, "no"]);
    assert!(count(slow, "run_ms") >= 60, "{slow:?}");
    assert!(!slow["statement"].contains("secret"), "{slow:?}");
}

#[test]
fn pins_name_their_cause_and_go_with_it() {
    let (_database, forebay, mut console) = start("", &[]);
    let mut client = forebay.client();
    assert_eq!(table(&mut console, "SHOW PINS").len(), 0);
    client.run("LISTEN news");
    let pid = client.one("SELECT pg_backend_pid()");
    let pins = table(&mut console, "SHOW PINS");
    assert_eq!(fields(&pins[0], &["pins", "server_pid"]), ["listen", &pid]);
    client.run("UNLISTEN *");
    assert_eq!(table(&mut console, "SHOW PINS").len(), 0);
}

#[test]
fn kill_client_ends_that_client_and_no_other() {
    let (_database, forebay, mut console) = start("", &[]);
    let mut one = forebay.client_with(&[("application_name", "one")]);
    let mut two = forebay.client_with(&[("application_name", "two")]);
    let id = find(&mut console, "SHOW CLIENTS", "application_name", "one")["id"].clone();
    assert_eq!(console.query(&format!("KILL_CLIENT {id}")), "C(KILL_CLIENT) Z(I)");
    assert_eq!(one.until_closed(), "E(57P01)");
    assert_eq!(two.one("SELECT 1"), "1");
    assert_eq!(console.query("KILL_CLIENT 999999"), "E(08P01) Z(I)");
}

#[test]
fn the_console_is_a_database_on_the_main_port_too() {
    let (_database, forebay, _console) = start("", &[]);
    for name in ["pgbouncer", "forebay"] {
        let login = Login::new(USER, PASSWORD, name).with(&[("application_name", name)]);
        let mut console = forebay.log_in(&login).unwrap();
        let row = find(&mut console, "SHOW CLIENTS", "application_name", name);
        assert_eq!(fields(&row, &["database", "state"]), ["pgbouncer", "active"]);
    }
    let url = format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/forebay", forebay.port);
    assert_eq!(psql(&url, "SHOW VERSION").unwrap(), psql(&url, "SHOW VERSION;").unwrap());
    assert!(psql(&url, "SHOW POOLS").unwrap().starts_with("pgbouncer|pgbouncer|"));
}

#[test]
fn the_console_speaks_the_extended_protocol() {
    let (_database, _forebay, mut console) = start("", &[]);
    let version = console.one("SHOW VERSION");
    let expected = format!("1 t T(version) 2 T(version) D({version}) C(SHOW) Z(I)");
    let group = [
        parse("s", "SHOW VERSION", &[]),
        describe_statement("s"),
        bind("", "s", &[]),
        describe_portal(""),
        execute("", 0),
        sync(),
    ];
    assert_eq!(console.ask(&group), expected);
    let again = [bind("", "s", &[]), execute("", 0), sync()];
    assert_eq!(console.ask(&again), format!("2 D({version}) C(SHOW) Z(I)"));
    // As most drivers ask for numbers: in binary.
    let group =
        [parse("", "SHOW LISTS", &[]), bind_formats("", "", &[], &[0, 1]), execute("", 0), sync()];
    console.send(&group.concat());
    let messages = console.until(b'Z');
    let row = messages.iter().find(|message| message.tag == b'D').unwrap();
    assert_eq!(row.body, b"\0\x02\0\0\0\x09databases\0\0\0\x04\0\0\0\x01");
}

#[test]
fn what_is_no_command_is_refused_in_pgbouncers_words_and_the_console_goes_on() {
    let (_database, _forebay, mut console) = start("", &[]);
    for wrong in ["SELECT * FROM t", "SHOW FOO", "SHOW POOLS; SHOW POOLS", "foo"] {
        console.send(&query(wrong));
        let messages = console.until(b'Z');
        assert_eq!(messages[0].field(b'C'), "08P01", "{wrong}");
        let expected = format!("invalid command '{wrong}', use SHOW HELP;");
        assert_eq!(messages[0].field(b'M'), expected);
    }
    // After an error in the extended protocol everything up to Sync is passed over.
    let group = [parse("", "foo", &[]), bind("", "", &[]), execute("", 0), sync()];
    assert_eq!(console.ask(&group), "E(08P01) Z(I)");
    let group = [bind("", "nobody", &[]), execute("", 0), sync()];
    assert_eq!(console.ask(&group), "E(26000) Z(I)");
    assert!(console.query("SHOW HELP").starts_with("N(Console usage"));
}

#[test]
fn who_may_only_look_changes_nothing_and_others_do_not_get_in() {
    let (_database, forebay, mut console) =
        start("[admin]\nadmin_users = [\"root\"]\nstats_users = [\"app\"]\n", &[]);
    console.run("SHOW POOLS");
    for forbidden in ["FLUSH CACHE", "RELOAD", "SHUTDOWN", "KILL_CLIENT 1"] {
        console.send(&query(forbidden));
        let messages = console.until(b'Z');
        assert_eq!(messages[0].field(b'M'), "admin access needed", "{forbidden}");
    }
    assert!(forebay.daemon.runs());
    let (_database, forebay) = {
        let database = Database::with("");
        let forebay = Forebay::with_config(&database, "[admin]\nadmin_users = [\"root\"]\n", &[]);
        (database, forebay)
    };
    let refused = forebay.log_in(&Login::new(USER, PASSWORD, "pgbouncer")).err().unwrap();
    assert_eq!(refused.message, "not allowed");
    let login = Login::new(USER, "wrong", "pgbouncer");
    assert_eq!(RawClient::log_in(forebay.admin_port, &login).err().unwrap().sqlstate, "28P01");
}
