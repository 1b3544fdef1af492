//! Who does what: `SHOW CLIENT_STATS`, `SHOW SLOW`, `SHOW PINS`, `SHOW ABANDONED`.

use std::sync::Arc;

use crate::insight::Slow;

use super::snapshot::{Abandoned, Group, Pinned, Pool};
use super::table::{Columns, Table, int4, int8, percent, text, time, value};

pub const CLIENT_STATS: Columns = &[
    text("user"),
    text("database"),
    text("application_name"),
    text("address"),
    int8("clients"),
    int8("queries"),
    int8("hits"),
    int8("misses"),
    int8("bypasses"),
    int8("writes"),
    int8("errors"),
    text("hit_rate"),
    int8("received"),
    int8("sent"),
    int8("query_time"),
    int8("wait_time"),
    int8("slow"),
    int8("transactions"),
    int8("shared_fills"),
    int8("rows"),
    int8("run_time"),
    int8("p50"),
    int8("p95"),
    int8("p99"),
    text("bypass_reasons"),
    text("error_classes"),
];

/// Times in microseconds. `wait_time` is that in line for a server; `query_time` holds all waiting.
pub fn client_stats(groups: &[Group]) -> Table {
    let mut table = Table::new(CLIENT_STATS);
    for group in groups {
        let tally = &group.tally;
        table.push(vec![
            value(&group.user),
            value(&group.database),
            value(&group.application_name),
            value(&group.address),
            value(group.clients),
            value(tally.queries),
            value(tally.hits),
            value(tally.misses),
            value(tally.bypasses().map(|(_, count)| count).sum::<u64>()),
            value(tally.writes),
            value(tally.errors_count()),
            value(percent(tally.hits, tally.hits.saturating_add(tally.misses))),
            value(group.received),
            value(group.sent),
            value(tally.wait.saturating_add(tally.run)),
            value(group.wait_time),
            value(tally.slow),
            value(tally.transactions),
            value(tally.shared),
            value(tally.rows),
            value(tally.run),
            value(tally.times.quantile(50)),
            value(tally.times.quantile(95)),
            value(tally.times.quantile(99)),
            value(list(tally.bypasses().map(|(reason, count)| (reason.name().into(), count)))),
            value(list(tally.errors.iter().map(|(class, count)| (class_name(*class), *count)))),
        ]);
    }
    table
}

/// `function=3,not_a_read=1`.
fn list(counts: impl Iterator<Item = (String, u64)>) -> String {
    counts.map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(",")
}

fn class_name(class: [u8; 2]) -> String {
    String::from_utf8_lossy(&class).into_owned()
}

pub const SLOW: Columns = &[
    int8("id"),
    text("time"),
    text("database"),
    text("user"),
    text("application_name"),
    text("address"),
    int8("wait_ms"),
    int8("run_ms"),
    int8("rows"),
    int8("bytes"),
    int4("server_pid"),
    text("cache"),
    text("failed"),
    text("route"),
    text("statement"),
    text("text"),
];

/// In the order given: newest first. `literals`: texts are shown as they were sent.
pub fn slow(statements: &[Arc<Slow>], literals: bool) -> Table {
    let mut table = Table::new(SLOW);
    for slow in statements {
        table.push(vec![
            value(slow.id),
            value(time(slow.at)),
            value(&slow.database),
            value(&slow.user),
            value(&slow.application_name),
            value(&slow.address),
            value(slow.wait.as_millis()),
            value(slow.run.as_millis()),
            value(slow.rows),
            value(slow.bytes),
            slow.server_pid.map(|pid| pid.to_string()),
            value(slow.outcome),
            value(if slow.failed { "yes" } else { "no" }),
            slow.route.as_ref().map(|route| route.name.clone()),
            value(&slow.shape),
            slow.kept.as_ref().filter(|_| literals).map(|kept| kept.text.clone()),
        ]);
    }
    table
}

pub const PINS: Columns = &[
    int8("client"),
    text("user"),
    text("database"),
    text("pins"),
    text("since"),
    int4("server_pid"),
];

pub fn pins(clients: &[Pinned]) -> Table {
    let mut table = Table::new(PINS);
    for client in clients {
        table.push(vec![
            value(client.id),
            value(&client.user),
            value(&client.database),
            value(client.pins.join(",")),
            client.since.map(time),
            client.server_pid.map(|pid| pid.to_string()),
        ]);
    }
    table
}

pub const ABANDONED: Columns =
    &[text("database"), text("user"), int8("drained"), int8("rolled_back"), int8("closed")];

/// Servers whose client went in the middle of something, and what became of them.
pub fn abandoned(pools: &[Pool]) -> Table {
    let mut table = Table::new(ABANDONED);
    for pool in pools {
        let Abandoned { drained, rolled_back, closed } = pool.abandoned;
        table.push(vec![
            value(&pool.database),
            value(&pool.user),
            value(drained),
            value(rolled_back),
            value(closed),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::insight::{GroupTally, Kept, Outcome, Route, Sample};
    use crate::sql::verdict::BypassReason;

    fn rows(table: &Table) -> Vec<String> {
        let text = |row: &Vec<Option<String>>| {
            let values: Vec<&str> =
                row.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
            values.join("|")
        };
        table.rows.iter().map(text).collect()
    }

    #[test]
    fn a_group_shows_its_hit_rate() {
        let mut tally = GroupTally::default();
        tally.transactions = 7;
        let sample = |outcome, failed| Sample {
            is_call: true,
            outcome,
            wait: 1,
            run: 2,
            rows: 3,
            bytes: 4,
            writes: false,
            slow: false,
            failed,
        };
        tally.add(&sample(Outcome::Hit, None));
        tally.add(&sample(Outcome::SharedHit, None));
        tally.add(&sample(Outcome::Miss, Some(*b"57")));
        tally.add(&sample(Outcome::Bypass(BypassReason::Function), None));
        tally.add(&sample(Outcome::Bypass(BypassReason::NotARead), Some(*b"42")));
        let group = Group {
            number: 1,
            user: "ann".into(),
            database: "app".into(),
            application_name: "web".into(),
            address: "10.0.0.1".into(),
            clients: 2,
            received: 100,
            sent: 200,
            wait_time: 9,
            tally,
        };
        assert_eq!(
            rows(&client_stats(&[group])),
            ["ann|app|web|10.0.0.1|2|5|2|1|2|0|2|66.6|100|200|15|9|0|7|1|15|10|3|3|3|\
              not_a_read=1,function=1|42=1,57=1"]
        );
    }

    #[test]
    fn a_slow_statement_shows_waiting_apart_from_running() {
        let slow = Slow {
            id: 4,
            at: SystemTime::UNIX_EPOCH,
            database: "app".into(),
            user: "ann".into(),
            application_name: "web".into(),
            address: "10.0.0.1:5".into(),
            shape: "SELECT pg_sleep(?)".into(),
            wait: Duration::from_millis(20),
            run: Duration::from_millis(1200),
            rows: 1,
            bytes: 8,
            server_pid: None,
            outcome: "function",
            failed: false,
            route: Some(Arc::new(Route { name: "/cart".into(), application: String::new() })),
            kept: Some(Kept {
                text: "SELECT pg_sleep(1.2)".into(),
                types: Vec::new(),
                parameters: 0,
                settings: BTreeMap::new(),
                server_user: "ann".into(),
            }),
            no_plan: None,
        };
        let slow = Arc::new(slow);
        let shown = |literals| rows(&super::slow(std::slice::from_ref(&slow), literals)).remove(0);
        let without = "4|1970-01-01 00:00:00 UTC|app|ann|web|10.0.0.1:5|20|1200|1|8|NULL|function|no|\
                       /cart|SELECT pg_sleep(?)|";
        assert_eq!(shown(false), format!("{without}NULL"));
        assert_eq!(shown(true), format!("{without}SELECT pg_sleep(1.2)"));
    }

    #[test]
    fn a_pinned_client_names_its_causes() {
        let pinned = Pinned {
            id: 3,
            user: "ann".into(),
            database: "app".into(),
            pins: vec!["listen", "advisory_lock"],
            since: Some(SystemTime::UNIX_EPOCH),
            server_pid: Some(42),
        };
        assert_eq!(
            rows(&pins(&[pinned])),
            ["3|ann|app|listen,advisory_lock|1970-01-01 00:00:00 UTC|42"]
        );
    }
}
