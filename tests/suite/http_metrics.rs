//! Metrics: a text that Prometheus reads, of the numbers that the console shows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::console::{count, find, table};
use crate::http::start;
use crate::support::forebay::Forebay;
use crate::support::http::{get, get_with};
use crate::support::postgres::{Database, USER};
use crate::support::raw::RawClient;
use crate::support::redis::Redis;
use crate::support::wait_until;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                      INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i";

type Labels = BTreeMap<String, String>;

#[derive(Debug)]
struct Family {
    kind: String,
    /// By name and labels.
    samples: BTreeMap<(String, Labels), f64>,
}

/// By the name that is declared.
struct Metrics(BTreeMap<String, Family>);

impl Metrics {
    /// Of the one family with a sample of this name, the sample with these labels among its own.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |(known, own): &(String, Labels)| {
            let has =
                |(label, value): &(&str, &str)| own.get(*label).is_some_and(|own| own == value);
            known == name && labels.iter().all(has)
        };
        let samples = self.0.values().flat_map(|family| &family.samples);
        let found: Vec<_> = samples.filter(|(key, _)| fits(key)).collect();
        let [(_, value)] = found[..] else { panic!("{name} {labels:?} is {found:?}") };
        *value
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts")]
    fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let value = self.value(name, labels);
        assert!(value >= 0.0 && value.fract() == 0.0, "{name} is {value}");
        value as u64
    }

    fn is(&self, name: &str, labels: &[(&str, &str)], number: u64) {
        assert_eq!(self.count(name, labels), number, "{name} {labels:?}");
    }
}

/// `name{label="value",…}` and the rest of the line; every escape undone.
fn head(line: &str) -> (String, Labels, &str) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, value) = rest.split_once("=\"").unwrap();
            assert!(is_name(label) && !label.contains(':'), "{line}");
            let mut text = String::new();
            let mut letters = value.char_indices();
            let end = loop {
                match letters.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => text.push(match letters.next().unwrap().1 {
                        'n' => '\n',
                        plain @ ('"' | '\\') => plain,
                        other => panic!("escape {other}: {line}"),
                    }),
                    (_, plain) => text.push(plain),
                }
            };
            assert!(labels.insert(label.to_owned(), text).is_none(), "twice {label}: {line}");
            rest = value.get(end + 1..).unwrap();
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap();
    }
    (name.to_owned(), labels, rest.strip_prefix(' ').unwrap())
}

fn is_name(name: &str) -> bool {
    let letter = |letter: char| letter.is_ascii_alphabetic() || letter == '_' || letter == ':';
    name.starts_with(letter) && name.chars().all(|one| letter(one) || one.is_ascii_digit())
}

/// Stricter than readers are: help, then type, then the samples of that family alone.
fn read(text: &str, open_metrics: bool) -> Metrics {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut lines = text.strip_suffix('\n').unwrap().split('\n').peekable();
    if open_metrics {
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with("\n# EOF\n"));
    }
    while let Some(line) = lines.next() {
        if line == "# EOF" && open_metrics {
            break;
        }
        let (name, help) = line.strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
        assert!(is_name(name) && !help.is_empty(), "{line}");
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        let mut family = Family { kind: kind.to_owned(), samples: BTreeMap::new() };
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (sample, labels, value) = head(line);
            let suffix = sample.strip_prefix(name).unwrap_or_else(|| panic!("{line} in {name}"));
            let allowed: &[&str] = match (kind, open_metrics) {
                ("counter", true) => &["_total"],
                ("counter" | "gauge", _) => &[""],
                ("histogram", _) => &["_bucket", "_sum", "_count"],
                other => panic!("{other:?}"),
            };
            assert!(allowed.contains(&suffix), "{line} in {kind} {name}");
            let counts = sample.ends_with("_total");
            assert_eq!(counts, kind == "counter", "{line}");
            let value: f64 = value.parse().unwrap();
            let before = family.samples.insert((sample, labels), value);
            assert!(before.is_none(), "twice: {line}");
        }
        if kind == "histogram" {
            check_histogram(name, &family);
        }
        let before = families.insert(name.to_owned(), family);
        assert!(before.is_none(), "twice: {name}");
    }
    Metrics(families)
}

fn check_histogram(name: &str, family: &Family) {
    let one = |suffix: &str| family.samples[&(format!("{name}{suffix}"), Labels::new())];
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for ((sample, labels), count) in &family.samples {
        if sample.ends_with("_bucket") {
            buckets.push((labels["le"].replace("+Inf", "inf").parse().unwrap(), *count));
        }
    }
    buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
    assert!(buckets.len() > 10 && buckets.is_sorted_by(|left, right| left.1 <= right.1));
    let (bound, all) = *buckets.last().unwrap();
    assert!(bound.is_infinite());
    assert_eq!(all.to_bits(), one("_count").to_bits(), "{name}");
    // All of them lie within the last bucket before infinity, here.
    assert!(one("_sum") <= all * 33.6, "{name}");
}

fn scrape(port: u16) -> Metrics {
    let answer = get(port, "/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    read(&answer.body, false)
}

/// Reads and writes of known counts; hits among them.
fn run(client: &mut RawClient) {
    for id in [1, 2, 1, 1, 2, 3] {
        client.run(&format!("SELECT v FROM t WHERE id = {id}"));
    }
    client.run("UPDATE t SET v = 'x' WHERE id = 1");
    client.run("SELECT now(), v FROM t");
    client.query("SELECT nothing");
    client.query("SELECT 1/0");
}

struct World {
    database: Database<'static>,
    forebay: Forebay,
    port: u16,
    _client: RawClient,
}

fn world(application_name: &str) -> World {
    let database = Database::with(SCHEMA);
    let (forebay, port) = start(&database, "");
    let mut client = forebay.client_with(&[("application_name", application_name)]);
    database.until_hit(&mut client, "SELECT v FROM t WHERE id = 20");
    run(&mut client);
    World { database, forebay, port, _client: client }
}

#[test]
fn both_formats_say_the_same() {
    let world = world("web");
    let plain = scrape(world.port);
    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let answer = get_with(world.port, "/metrics", accept);
    let kind = answer.header("content-type").unwrap();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let open = read(&answer.body, true);
    let samples = |metrics: &Metrics| -> BTreeSet<(String, Labels)> {
        metrics.0.values().flat_map(|family| family.samples.keys().cloned()).collect()
    };
    assert_eq!(samples(&plain), samples(&open));
    assert!(samples(&plain).len() > 200);
}

#[test]
fn the_console_shows_the_same_numbers() {
    let world = world("web");
    let (name, mut console) = (world.database.name.as_str(), world.forebay.console());
    let stats = find(&mut console, "SHOW STATS_TOTALS", "database", name);
    let cache = table(&mut console, "SHOW CACHE").remove(0);
    let reasons = table(&mut console, "SHOW CACHE_REASONS");
    let metrics = scrape(world.port);
    let same = |metric: &str, labels: &[(&str, &str)], number: u64| {
        metrics.is(metric, labels, number);
    };
    let database = [("database", name)];
    let totals = "pgbouncer_stats_totals_";
    for (metric, column) in [
        ("queries_pooled_total", "query_count"),
        ("sql_transactions_pooled_total", "xact_count"),
        ("received_bytes_total", "bytes_received"),
        ("sent_bytes_total", "bytes_sent"),
        ("server_assignments_total", "server_assignment_count"),
        ("client_logins_total", "client_login_count"),
    ] {
        same(&format!("{totals}{metric}"), &database, count(&stats, column));
    }
    assert!(count(&stats, "query_count") >= 11);
    let seconds = metrics.value(&format!("{totals}queries_duration_seconds_total"), &database);
    assert!((seconds * 1e6 - stats["query_time"].parse::<f64>().unwrap()).abs() < 0.5);

    for (metric, column) in [
        ("hits_total", "hits"),
        ("misses_total", "misses"),
        ("fills_total", "fills"),
        ("refused_fills_total", "refused"),
        ("evictions_total", "evictions"),
        ("entries", "entries"),
        ("bytes", "bytes"),
        ("limit_bytes", "bytes_max"),
    ] {
        same(&format!("forebay_cache_{metric}"), &[], count(&cache, column));
    }
    assert!(count(&cache, "hits") >= 3 && count(&cache, "invalidated_tables") == 1);
    let tables = count(&cache, "invalidated_tables");
    same("forebay_cache_invalidations_total", &[("scope", "tables")], tables);
    for reason in &reasons {
        let label = [("reason", reason["reason"].as_str())];
        same("forebay_cache_bypasses_total", &label, count(reason, "count"));
    }
}

#[test]
fn groups_pools_and_times_are_those_of_the_console() {
    let world = world("web");
    let (name, mut console) = (world.database.name.as_str(), world.forebay.console());
    let group = find(&mut console, "SHOW CLIENT_STATS", "application_name", "web");
    let pool = find(&mut console, "SHOW POOLS", "database", name);
    let lists = table(&mut console, "SHOW LISTS");
    let statements = table(&mut console, "SHOW STATEMENTS");
    let metrics = scrape(world.port);
    let same = |metric: &str, labels: &[(&str, &str)], number: u64| {
        metrics.is(metric, labels, number);
    };
    let labels = [("database", name), ("user", USER), ("application_name", "web")];
    for (metric, column) in [
        ("queries", "queries"),
        ("hits", "hits"),
        ("misses", "misses"),
        ("bypasses", "bypasses"),
        ("writes", "writes"),
        ("transactions", "transactions"),
        ("received_bytes", "received"),
    ] {
        same(&format!("forebay_client_{metric}_total"), &labels, count(&group, column));
    }
    assert_eq!(group["error_classes"], "22=1,42=1");
    same("forebay_errors_total", &[("sqlstate_class", "22")], 1);
    let user = [("database", name), ("user", USER)];
    same("pgbouncer_pools_client_active_connections", &user, count(&pool, "cl_active"));
    same("pgbouncer_pools_server_idle_connections", &user, count(&pool, "sv_idle"));
    let pools = lists.iter().find(|row| row["list"] == "pools").unwrap();
    same("pgbouncer_pools", &[], count(pools, "items"));
    let web = [("application_name", "web"), ("state", "idle")];
    same("pgbouncer_client_connections", &web, 1);

    let sum = |column: &str| statements.iter().map(|row| count(row, column)).sum::<u64>();
    same("forebay_query_duration_seconds_count", &[], sum("calls"));
    same("forebay_hit_duration_seconds_count", &[], sum("hits"));
    same("forebay_wait_duration_seconds_count", &[], sum("calls") - sum("hits"));
    assert!(metrics.value("forebay_hit_duration_seconds_sum", &[]) > 0.0, "hits take no time");
    let time = metrics.value("forebay_query_duration_seconds_sum", &[]) * 1e6;
    assert!((time - f64::from(u32::try_from(sum("total_time")).unwrap())).abs() < 0.5);
}

#[test]
fn names_that_applications_choose_break_nothing() {
    let odd = "a\"b\\c,d}= e";
    let world = world(odd);
    let metrics = scrape(world.port);
    assert!(metrics.count("forebay_client_queries_total", &[("application_name", odd)]) > 0);
}

#[test]
fn no_counter_falls() {
    let world = world("web");
    let mut client = world.forebay.client_with(&[("application_name", "other")]);
    let before = scrape(world.port);
    run(&mut client);
    drop(client);
    let after = scrape(world.port);
    let mut seen = 0;
    for (name, family) in before.0.iter().filter(|(_, family)| family.kind != "gauge") {
        for (key, value) in &family.samples {
            let now = after.0[name].samples.get(key).unwrap_or_else(|| panic!("{key:?} is gone"));
            assert!(now >= value, "{key:?}: {now} after {value}");
            seen += usize::from(now > value);
        }
    }
    assert!(seen > 20, "{seen}");
}

/// Where Debian's package `prometheus` is installed; `tests/run.sh` installs it where it may.
#[test]
fn promtool_finds_no_fault() {
    let installed = Command::new("promtool").arg("--version").output().is_ok();
    if !installed {
        println!("promtool is not installed");
        return;
    }
    let world = world("web");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = get(world.port, "/metrics").body;
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn a_group_has_figures_of_its_own() {
    let (database, redis) = (Database::with(SCHEMA), Redis::start());
    let toml = format!(
        "[redis]\nurl = \"{}\"\ntimeout = \"5s\"\n[group]\nname = \"g\"\ntimeout = \"2s\"\n",
        redis.url()
    );
    let (forebay, port) = start(&database, &toml);
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT v FROM t");
    run(&mut client);
    let labels = [("database", database.name.as_str())];
    let metrics = scrape(port);
    for (metric, number) in [("members", 1), ("open", 1), ("lost_total", 0), ("opened_total", 1)] {
        metrics.is(&format!("forebay_group_{metric}"), &labels, number);
    }
    assert!(metrics.count("forebay_group_begins_total", &labels) > 0);
    assert!(metrics.value("forebay_group_round_median_seconds", &labels) > 0.0);
    redis.flush();
    wait_until("it is lost and opens again", || {
        let metrics = scrape(port);
        let count = |metric| metrics.count(metric, &labels);
        (count("forebay_group_lost_total"), count("forebay_group_opened_total")) == (1, 2)
    });
}

/// Names of metrics in an expression of PromQL.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let ours = ["forebay_", "pgbouncer_", "process_"];
    words.filter(move |word| ours.iter().any(|prefix| word.starts_with(prefix)))
}

#[test]
fn the_dashboard_shows_what_there_is() {
    let text = std::fs::read_to_string("config/grafana.json").unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let world = world("web");
    let metrics = scrape(world.port);
    let samples: BTreeSet<&str> = metrics
        .0
        .values()
        .flat_map(|family| family.samples.keys().map(|(name, _)| name.as_str()))
        .collect();
    let declared = |name: &str| metrics.0.contains_key(name) || samples.contains(name);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|one| one["type"] == "datasource" && one["name"] == "datasource"));
    let mut seen = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels of one id");
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert!(names(expression).next().is_some(), "{expression}");
            for name in names(expression) {
                assert!(declared(name), "{name} in {}", panel["title"]);
                seen.insert(name.to_owned());
            }
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
}
