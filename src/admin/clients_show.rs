//! Who does what: `SHOW CLIENT_STATS`, `SHOW SLOW`, `SHOW PINS`, `SHOW ABANDONED`.

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
];

pub fn client_stats(groups: &[Group]) -> Table {
    let mut table = Table::new(CLIENT_STATS);
    for group in groups {
        table.push(vec![
            value(&group.user),
            value(&group.database),
            value(&group.application_name),
            value(&group.address),
            value(group.clients),
            value(group.queries),
            value(group.hits),
            value(group.misses),
            value(group.bypasses),
            value(group.writes),
            value(group.errors),
            value(percent(group.hits, group.hits.saturating_add(group.misses))),
            value(group.received),
            value(group.sent),
            value(group.query_time),
            value(group.wait_time),
            value(group.slow),
        ]);
    }
    table
}

pub const SLOW: Columns = &[
    text("time"),
    text("database"),
    text("user"),
    text("application_name"),
    text("address"),
    int8("wait_ms"),
    int8("run_ms"),
    int8("rows"),
    int4("server_pid"),
    text("cache"),
    text("failed"),
    text("statement"),
];

/// In the order given: newest first.
pub fn slow(statements: &[Slow]) -> Table {
    let mut table = Table::new(SLOW);
    for slow in statements {
        table.push(vec![
            value(time(slow.at)),
            value(&slow.database),
            value(&slow.user),
            value(&slow.application_name),
            value(&slow.address),
            value(slow.wait.as_millis()),
            value(slow.run.as_millis()),
            value(slow.rows),
            slow.server_pid.map(|pid| pid.to_string()),
            value(slow.outcome),
            value(if slow.failed { "yes" } else { "no" }),
            value(&slow.shape),
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
    use std::time::{Duration, SystemTime};

    use super::*;

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
        let group = Group {
            user: "ann".into(),
            database: "app".into(),
            application_name: "web".into(),
            address: "10.0.0.1".into(),
            clients: 2,
            queries: 12,
            hits: 9,
            misses: 1,
            bypasses: 2,
            received: 100,
            sent: 200,
            query_time: 5000,
            ..Group::default()
        };
        assert_eq!(
            rows(&client_stats(&[group])),
            ["ann|app|web|10.0.0.1|2|12|9|1|2|0|0|90.0|100|200|5000|0|0"]
        );
    }

    #[test]
    fn a_slow_statement_shows_waiting_apart_from_running() {
        let slow = Slow {
            at: SystemTime::UNIX_EPOCH,
            database: "app".into(),
            user: "ann".into(),
            application_name: "web".into(),
            address: "10.0.0.1:5".into(),
            shape: "SELECT pg_sleep(?)".into(),
            wait: Duration::from_millis(20),
            run: Duration::from_millis(1200),
            rows: 1,
            server_pid: None,
            outcome: "function",
            failed: false,
        };
        assert_eq!(
            rows(&super::slow(&[slow])),
            ["1970-01-01 00:00:00 UTC|app|ann|web|10.0.0.1:5|20|1200|1|NULL|function|no|\
              SELECT pg_sleep(?)"]
        );
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
