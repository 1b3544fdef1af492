//! What prometheus-community/pgbouncer_exporter asks at each scrape, as its driver asks it: all
//! that it reads is there, has a type its driver understands, and reads as what it takes it for.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, Message, RawClient, column_types};

struct Answer {
    columns: Vec<(String, u32)>,
    rows: Vec<Vec<Option<String>>>,
}

impl Answer {
    fn values(&self, name: &str) -> Vec<Option<&str>> {
        let at = self.columns.iter().position(|(column, _)| column == name);
        let at = at.unwrap_or_else(|| panic!("no column {name}"));
        self.rows.iter().map(|row| row[at].as_deref()).collect()
    }

    /// Every value of it reads as a number; NULL is none, and shown as such.
    fn is_metric(&self, name: &str) {
        for value in self.values(name).into_iter().flatten() {
            assert!(value.parse::<f64>().is_ok(), "{name} is {value}");
        }
    }

    /// Its driver gives other types than these as bytes, which the exporter cannot read.
    fn is_label(&self, name: &str) {
        let (_, oid) = self.columns.iter().find(|(column, _)| column == name).unwrap();
        assert!([23, 20, 25, 1043].contains(oid), "{name} has type {oid}");
    }
}

fn ask(console: &mut RawClient, sql: &str) -> Answer {
    let messages = console.run_for_messages(sql);
    let columns = column_types(&messages[0].body);
    let rows = messages.iter().filter(|message| message.tag == b'D');
    let rows: Vec<_> = rows.map(Message::columns).collect();
    assert!(!rows.is_empty(), "{sql}: nothing to read");
    Answer { columns, rows }
}

/// A database with a client of it, and the connection that a scrape makes.
fn start() -> (Database<'static>, Forebay, RawClient, RawClient) {
    let database = Database::with("");
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client_with(&[("application_name", "web")]);
    client.run("SELECT 1");
    // Its driver sends this parameter whether it is wanted or not.
    let login = Login::new(USER, PASSWORD, "pgbouncer").with(&[("extra_float_digits", "2")]);
    let console = forebay.log_in(&login).unwrap();
    (database, forebay, client, console)
}

#[test]
fn version_lists_settings_and_clients_are_what_a_scrape_takes_them_for() {
    let (_database, _forebay, _client, mut console) = start();
    ask(&mut console, "SHOW STATS");

    let version = ask(&mut console, "SHOW VERSION;");
    let names: Vec<&str> = version.columns.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["version"]);

    let lists = ask(&mut console, "SHOW LISTS;");
    assert_eq!(lists.columns.len(), 2);
    lists.is_metric("items");
    let listed = lists.values("list");
    for name in "databases users pools free_clients used_clients login_clients free_servers \
                 used_servers dns_names dns_zones dns_queries"
        .split(' ')
    {
        assert!(listed.contains(&Some(name)), "no {name}");
    }

    let config = ask(&mut console, "SHOW CONFIG;");
    assert!([3, 4].contains(&config.columns.len()));
    assert!(config.values("key").iter().chain(&config.values("changeable")).all(Option::is_some));
    for key in ["max_client_conn", "max_user_connections"] {
        let at = config.values("key").iter().position(|known| *known == Some(key)).unwrap();
        assert!(config.values("value")[at].unwrap().parse::<f64>().is_ok(), "{key}");
    }

    let clients = ask(&mut console, "SHOW CLIENTS;");
    for label in ["database", "user", "state", "application_name"] {
        clients.is_label(label);
        assert!(clients.values(label).iter().all(Option::is_some), "{label}");
    }
    assert!(clients.values("application_name").contains(&Some("web")));
}

#[test]
fn databases_statistics_and_pools_have_the_labels_and_metrics_of_a_scrape() {
    let (database, _forebay, _client, mut console) = start();
    let mut check = |sql: &str, labels: &str, metrics: &str| {
        let answer = ask(&mut console, sql);
        for label in labels.split(' ') {
            answer.is_label(label);
        }
        for metric in metrics.split(' ') {
            answer.is_metric(metric);
        }
        let first = labels.split(' ').next().unwrap();
        assert!(answer.values(first).contains(&Some(database.name.as_str())), "{sql}");
    };
    check(
        "SHOW databases;",
        "name host port database force_user pool_mode",
        "pool_size reserve_pool_size max_connections current_connections paused disabled",
    );
    check(
        "SHOW stats_totals;",
        "database",
        "query_count query_time bytes_received bytes_sent wait_time xact_count xact_time \
         client_parse_count server_parse_count bind_count server_assignment_count",
    );
    check(
        "SHOW pools;",
        "database user",
        "cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active \
         sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait",
    );
}
