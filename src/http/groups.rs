//! Metrics of groups of clients, with a bound on how many series there are.

use std::collections::{BTreeMap, HashMap};

use crate::admin::snapshot::{Group, Socket};

use super::exposition::{Exposition, Kind, seconds};
use super::families::Scale;

/// Groups that have series of their own; applications choose their names. Those that came first keep
/// theirs, so that no counter ever falls.
const GROUPS_MAX: usize = 200;

/// Clients counted by what they are called and do, at most; the largest such counts are shown.
const CONNECTIONS_MAX: usize = 500;

const OTHERS: &str = "(others)";

/// What is counted of a group.
struct Counted {
    name: &'static str,
    scale: Scale,
    help: &'static str,
    of: fn(&Group) -> u64,
}

const fn count(name: &'static str, help: &'static str, of: fn(&Group) -> u64) -> Counted {
    Counted { name, scale: Scale::AsIs, help, of }
}

const fn time(name: &'static str, help: &'static str, of: fn(&Group) -> u64) -> Counted {
    Counted { name, scale: Scale::Micros, help, of }
}

const COUNTED: [Counted; 13] = [
    count("forebay_client_connections_total", "Clients that have come.", |group| group.clients),
    count("forebay_client_queries_total", "Statements.", |group| group.tally.queries),
    count("forebay_client_transactions_total", "Transactions.", |group| group.tally.transactions),
    count("forebay_client_hits_total", "Statements answered from the cache.", |group| {
        group.tally.hits
    }),
    count("forebay_client_misses_total", "Statements looked up in vain.", |group| {
        group.tally.misses
    }),
    count("forebay_client_bypasses_total", "Statements that were not looked up.", |group| {
        group.tally.bypasses().map(|(_, count)| count).sum()
    }),
    count("forebay_client_writes_total", "Statements that wrote.", |group| group.tally.writes),
    count("forebay_client_slow_total", "Slow statements.", |group| group.tally.slow),
    count("forebay_client_rows_total", "Rows of answers.", |group| group.tally.rows),
    count("forebay_client_received_bytes_total", "Bytes received.", |group| group.received),
    count("forebay_client_sent_bytes_total", "Bytes sent.", |group| group.sent),
    time("forebay_client_wait_seconds_total", "Time in line for a server.", |group| {
        group.wait_time
    }),
    time("forebay_client_query_seconds_total", "Time that statements took.", |group| {
        group.tally.wait.saturating_add(group.tally.run)
    }),
];

/// User, database and application name; addresses are summed.
type Name = [String; 3];

const LABELS: [&str; 3] = ["user", "database", "application_name"];

fn others() -> Name {
    [OTHERS; 3].map(str::to_owned)
}

/// The groups in the order in which they came, those beyond the first `max` as one.
fn sums(groups: &[Group], max: usize) -> Vec<(Name, [u64; COUNTED.len()])> {
    let mut sorted: Vec<&Group> = groups.iter().collect();
    sorted.sort_by_key(|group| group.number);
    let mut places: HashMap<Name, usize> = HashMap::new();
    let mut sums: Vec<(Name, [u64; COUNTED.len()])> = Vec::new();
    for group in sorted {
        let own = [group.user.clone(), group.database.clone(), group.application_name.clone()];
        let known = places.contains_key(&own) || places.len() < max;
        let name = if known { own } else { others() };
        let place = *places.entry(name.clone()).or_insert(sums.len());
        if place == sums.len() {
            sums.push((name, [0; COUNTED.len()]));
        }
        let Some((_, sum)) = sums.get_mut(place) else { continue };
        for (sum, counted) in sum.iter_mut().zip(&COUNTED) {
            *sum = sum.saturating_add((counted.of)(group));
        }
    }
    sums
}

fn labels(name: &Name) -> [(&str, &str); 3] {
    let [user, database, application] = name;
    let [first, second, third] = LABELS;
    [(first, user), (second, database), (third, application)]
}

pub fn counters(out: &mut Exposition, groups: &[Group]) {
    let sums = sums(groups, GROUPS_MAX);
    for (index, counted) in COUNTED.iter().enumerate() {
        out.family(counted.name, Kind::Counter, counted.help);
        for (name, sum) in &sums {
            let number = sum.get(index).copied().unwrap_or_default();
            match counted.scale {
                Scale::AsIs => out.sample(&labels(name), number),
                Scale::Micros => out.sample(&labels(name), seconds(number)),
            }
        }
    }
    let mut errors: BTreeMap<[u8; 2], u64> = BTreeMap::new();
    for (class, count) in groups.iter().flat_map(|group| &group.tally.errors) {
        *errors.entry(*class).or_default() += count;
    }
    out.family("forebay_errors_total", Kind::Counter, "Errors, by the class of their SQLSTATE.");
    for (class, count) in errors {
        out.sample(&[("sqlstate_class", &String::from_utf8_lossy(&class))], count);
    }
}

/// Connections now, as pgbouncer_exporter counts them.
pub fn connections(out: &mut Exposition, clients: &[Socket]) {
    let name = "pgbouncer_client_connections";
    out.family(name, Kind::Gauge, "Clients, by what they do.");
    for ([database, user, application, state], count) in largest(clients, CONNECTIONS_MAX) {
        let labels = [
            ("database", database),
            ("user", user),
            ("application_name", application),
            ("state", state),
        ];
        out.sample(&labels, count);
    }
}

fn largest(clients: &[Socket], max: usize) -> Vec<([&str; 4], usize)> {
    let mut counts: BTreeMap<[&str; 4], usize> = BTreeMap::new();
    for client in clients {
        let key = [&client.database, &client.user, &client.plain_name];
        let [database, user, application] = key.map(String::as_str);
        *counts.entry([database, user, application, client.state]).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest = counts.split_off(counts.len().min(max));
    if !rest.is_empty() {
        counts.push(([OTHERS; 4], rest.iter().map(|(_, count)| count).sum()));
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::snapshot::{Ends, Side};
    use crate::insight::GroupTally;
    use std::time::{Duration, SystemTime};

    fn group(number: u16, application_name: &str, address: &str, queries: u64) -> Group {
        let mut tally = GroupTally::default();
        tally.queries = queries;
        Group {
            number,
            user: "ann".into(),
            database: "app".into(),
            application_name: application_name.into(),
            address: address.into(),
            clients: 1,
            tally,
            ..Group::default()
        }
    }

    fn shown(groups: &[Group], max: usize) -> Vec<String> {
        let row = |(name, sum): (Name, [u64; COUNTED.len()])| format!("{} {}", name[2], sum[1]);
        sums(groups, max).into_iter().map(row).collect()
    }

    #[test]
    fn groups_that_came_first_keep_their_series_and_the_rest_is_one() {
        let early = [group(2, "b", "10.0.0.1", 5), group(1, "a", "10.0.0.1", 1)];
        assert_eq!(shown(&early, 2), ["a 1", "b 5"]);
        let late = [
            group(3, "c", "10.0.0.1", 9),
            group(2, "b", "10.0.0.1", 5),
            group(1, "a", "10.0.0.1", 1),
            group(4, "a", "10.0.0.2", 20),
            group(5, "d", "10.0.0.1", 30),
        ];
        assert_eq!(shown(&late, 2), ["a 21", "b 5", "(others) 39"]);
    }

    fn client(plain_name: &str, state: &'static str) -> Socket {
        Socket {
            side: Side::Client,
            id: 1,
            user: "ann".into(),
            database: "app".into(),
            state,
            ends: Ends::default(),
            connected_at: SystemTime::UNIX_EPOCH,
            request_at: SystemTime::UNIX_EPOCH,
            wait: Duration::ZERO,
            close_needed: false,
            link: None,
            remote_pid: 0,
            tls: None,
            application_name: format!("{plain_name} - 10.0.0.7:4000"),
            plain_name: plain_name.into(),
            replication: "none",
            prepared_statements: 0,
        }
    }

    #[test]
    fn connections_are_counted_by_what_they_do_and_the_smallest_counts_are_one() {
        let clients = ["web idle", "job active", "web idle", "web active", "x idle"];
        let clients = clients.map(|text| match text.split_once(' ') {
            Some((name, "idle")) => client(name, "idle"),
            Some((name, _)) => client(name, "active"),
            None => panic!("{text}"),
        });
        let shown = |max| -> Vec<String> {
            let row = |([_, _, name, state], count): ([&str; 4], usize)| {
                format!("{name} {state} {count}")
            };
            largest(&clients, max).into_iter().map(row).collect()
        };
        assert_eq!(shown(2), ["web idle 2", "job active 1", "(others) (others) 2"]);
        assert_eq!(shown(9), ["web idle 2", "job active 1", "web active 1", "x idle 1"]);
    }
}
