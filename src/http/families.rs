//! Metrics made of the console's tables: which column is which metric.
//!
//! `pgbouncer_…` are those of prometheus-community/pgbouncer_exporter, with its names, labels and
//! units, so that its dashboards and alerts go on; `forebay_…` are our own.

use crate::admin::table::{Table, Value};

use super::exposition::{Exposition, Kind, seconds};

/// How a column's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    AsIs,
    /// Microseconds, as seconds.
    Micros,
}

/// Of `SHOW GROUP`; whether it is open, which is no number there, is written beside them.
pub const GROUP: &[Family] = &[
    gauge("members", "forebay_group_members", "Members of the group, as was last heard."),
    gauge("in_flight", "forebay_group_in_flight_commits", "Commits that others are told of."),
    Family {
        column: "round_p50_us",
        name: "forebay_group_round_median_seconds",
        kind: Kind::Gauge,
        scale: Scale::Micros,
        help: "Half of all round trips to Redis took no longer.",
    },
    Family {
        column: "round_p99_us",
        name: "forebay_group_round_p99_seconds",
        kind: Kind::Gauge,
        scale: Scale::Micros,
        help: "99 of 100 round trips to Redis took no longer.",
    },
    counter("opened", "forebay_group_opened_total", "Times that the group opened."),
    counter("lost", "forebay_group_lost_total", "Times that what had been joined was lost."),
    counter("checks", "forebay_group_checks_total", "Round trips that hits waited for."),
    counter("begins", "forebay_group_begins_total", "Commits announced."),
    counter("hears", "forebay_group_hears_total", "Questions because somebody waited."),
    counter(
        "strangers",
        "forebay_group_strangers_total",
        "Renewals refused for one whom Redis does not hear.",
    ),
];

/// One database may be there at two addresses.
pub const GROUP_LABELS: &[&str] = &["database", "member"];

/// A metric and the column it is.
pub struct Family {
    pub column: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    pub scale: Scale,
    pub help: &'static str,
}

const fn gauge(column: &'static str, name: &'static str, help: &'static str) -> Family {
    Family { column, name, kind: Kind::Gauge, scale: Scale::AsIs, help }
}

const fn counter(column: &'static str, name: &'static str, help: &'static str) -> Family {
    Family { column, name, kind: Kind::Counter, scale: Scale::AsIs, help }
}

const fn time(column: &'static str, name: &'static str, help: &'static str) -> Family {
    Family { column, name, kind: Kind::Counter, scale: Scale::Micros, help }
}

/// Of `SHOW DATABASES`.
pub const DATABASES: &[Family] = &[
    gauge("pool_size", "pgbouncer_databases_pool_size", "Servers for each user, at most."),
    gauge(
        "reserve_pool_size",
        "pgbouncer_databases_reserve_pool_size",
        "Servers beyond that for clients that wait long.",
    ),
    gauge(
        "max_connections",
        "pgbouncer_databases_max_connections",
        "Servers of the database, at most; 0 is no limit.",
    ),
    gauge(
        "current_connections",
        "pgbouncer_databases_current_connections",
        "Servers of the database.",
    ),
    gauge(
        "current_client_connections",
        "pgbouncer_databases_current_client_connections",
        "Clients of the database.",
    ),
    gauge("paused", "pgbouncer_databases_paused", "1 if the database is paused."),
    gauge("disabled", "pgbouncer_databases_disabled", "1 if the database is disabled."),
];

pub const DATABASE_LABELS: &[&str] =
    &["name", "host", "port", "database", "force_user", "pool_mode"];

/// Of `SHOW STATS_TOTALS`.
pub const STATS: &[Family] = &[
    counter(
        "query_count",
        "pgbouncer_stats_totals_queries_pooled_total",
        "Queries, answered from the cache or by a server.",
    ),
    time(
        "query_time",
        "pgbouncer_stats_totals_queries_duration_seconds_total",
        "Time that queries took.",
    ),
    counter(
        "bytes_received",
        "pgbouncer_stats_totals_received_bytes_total",
        "Bytes received from clients.",
    ),
    counter("bytes_sent", "pgbouncer_stats_totals_sent_bytes_total", "Bytes sent to clients."),
    time(
        "wait_time",
        "pgbouncer_stats_totals_client_wait_seconds_total",
        "Time that clients waited in line for a server.",
    ),
    counter(
        "xact_count",
        "pgbouncer_stats_totals_sql_transactions_pooled_total",
        "Transactions, statements by themselves among them.",
    ),
    time(
        "xact_time",
        "pgbouncer_stats_totals_server_in_transaction_seconds_total",
        "Time that transactions took.",
    ),
    counter(
        "client_parse_count",
        "pgbouncer_stats_totals_client_parses_total",
        "Statements that clients prepared.",
    ),
    counter(
        "server_parse_count",
        "pgbouncer_stats_totals_server_parses_total",
        "Statements prepared on servers.",
    ),
    counter(
        "bind_count",
        "pgbouncer_stats_totals_binds_total",
        "Times that a prepared statement was bound on a server.",
    ),
    counter(
        "server_assignment_count",
        "pgbouncer_stats_totals_server_assignments_total",
        "Times that a client was given a server.",
    ),
    counter(
        "client_login_count",
        "pgbouncer_stats_totals_client_logins_total",
        "Clients that logged in.",
    ),
];

/// Of `SHOW POOLS`; the longest wait, which has two columns, is written beside them.
pub const POOLS: &[Family] = &[
    gauge("cl_active", "pgbouncer_pools_client_active_connections", "Clients that do not wait."),
    gauge(
        "cl_waiting",
        "pgbouncer_pools_client_waiting_connections",
        "Clients in line for a server.",
    ),
    gauge(
        "cl_active_cancel_req",
        "pgbouncer_pools_client_active_cancel_connections",
        "Cancel requests on their way to a server.",
    ),
    gauge(
        "cl_waiting_cancel_req",
        "pgbouncer_pools_client_waiting_cancel_connections",
        "Cancel requests not yet on their way.",
    ),
    gauge("sv_active", "pgbouncer_pools_server_active_connections", "Servers that clients have."),
    gauge(
        "sv_active_cancel",
        "pgbouncer_pools_server_active_cancel_connections",
        "Servers that carry a cancel request.",
    ),
    gauge(
        "sv_being_canceled",
        "pgbouncer_pools_server_being_canceled_connections",
        "Servers not handed on while a cancel request is on its way to them.",
    ),
    gauge("sv_idle", "pgbouncer_pools_server_idle_connections", "Servers that nobody has."),
    gauge(
        "sv_used",
        "pgbouncer_pools_server_used_connections",
        "Servers to be tested before a client gets them; here they are idle.",
    ),
    gauge("sv_tested", "pgbouncer_pools_server_testing_connections", "Servers being tested."),
    gauge("sv_login", "pgbouncer_pools_server_login_connections", "Servers being connected."),
];

pub const POOL_LABELS: &[&str] = &["database", "user"];

/// Of `SHOW LISTS`: by its rows, not its columns.
pub const LISTS: &[Family] = &[
    gauge("databases", "pgbouncer_databases", "Databases."),
    gauge("users", "pgbouncer_users", "Users."),
    gauge("pools", "pgbouncer_pools", "Pools."),
    gauge("free_clients", "pgbouncer_free_clients", "Clients that could connect yet."),
    gauge("used_clients", "pgbouncer_used_clients", "Clients connected."),
    gauge("login_clients", "pgbouncer_login_clients", "Clients that log in."),
    gauge("free_servers", "pgbouncer_free_servers", "Servers that nobody has."),
    gauge("used_servers", "pgbouncer_used_servers", "Servers in use."),
    gauge("dns_names", "pgbouncer_cached_dns_names", "Names kept; always 0 here."),
    gauge("dns_zones", "pgbouncer_cached_dns_zones", "Zones kept; always 0 here."),
    gauge("dns_queries", "pgbouncer_in_flight_dns_queries", "Names being asked; always 0 here."),
];

/// Of `SHOW CONFIG`: by its rows.
pub const CONFIG: &[Family] = &[
    gauge(
        "max_client_conn",
        "pgbouncer_config_max_client_connections",
        "Clients connected at once, at most.",
    ),
    gauge(
        "max_user_connections",
        "pgbouncer_config_max_user_connections",
        "Servers of one user, at most; 0 is no limit.",
    ),
];

/// Of `SHOW CACHE`.
pub const CACHE: &[Family] = &[
    gauge("entries", "forebay_cache_entries", "Answers in memory."),
    gauge("bytes", "forebay_cache_bytes", "Memory that these take."),
    gauge("bytes_max", "forebay_cache_limit_bytes", "Memory that they may take."),
    counter("evictions", "forebay_cache_evictions_total", "Answers dropped for space."),
    counter("hits", "forebay_cache_hits_total", "Statements answered from the cache."),
    counter("hits_redis", "forebay_cache_redis_hits_total", "Of the hits, those from Redis."),
    counter(
        "misses",
        "forebay_cache_misses_total",
        "Statements looked up and not found, or found untrue.",
    ),
    counter(
        "would_hit",
        "forebay_cache_would_hit_total",
        "Hits that PostgreSQL was asked all the same: dry run, verify mode, the sample.",
    ),
    counter("fills", "forebay_cache_fills_total", "Answers kept."),
    counter(
        "refused",
        "forebay_cache_refused_fills_total",
        "Answers not kept: a write came between, or they were too large or unfit.",
    ),
    counter("hit_bytes", "forebay_cache_hit_bytes_total", "Bytes of answers from the cache."),
    counter(
        "shared_fills",
        "forebay_cache_shared_fills_total",
        "Hits on what another client had asked for already.",
    ),
    counter(
        "transactions",
        "forebay_cache_transactions_total",
        "Transactions that ended without having taken a server.",
    ),
    counter(
        "descriptions",
        "forebay_cache_descriptions_total",
        "Descriptions of statements given without asking PostgreSQL.",
    ),
    counter(
        "asked",
        "forebay_opaque_questions_total",
        "Times PostgreSQL was asked what a transaction wrote.",
    ),
    counter(
        "asked_known",
        "forebay_opaque_questions_answered_total",
        "Of these, it told which tables, or that there were none.",
    ),
    counter(
        "asked_tables",
        "forebay_opaque_tables_total",
        "Tables that these transactions made fresh.",
    ),
    counter(
        "surplus",
        "forebay_surplus_tables_total",
        "Tables made fresh that were not written, where that was asked.",
    ),
    counter(
        "unforeseen",
        "forebay_unforeseen_tables_total",
        "Tables written that were not going to be made fresh: a defect, seen by an audit alone.",
    ),
    counter("redis_look_ups", "forebay_redis_look_ups_total", "Times Redis was asked."),
    counter("redis_misses", "forebay_redis_misses_total", "Of these, it had nothing true."),
    counter("redis_stores", "forebay_redis_stores_total", "Answers stored in Redis."),
    counter("redis_errors", "forebay_redis_errors_total", "Operations that Redis failed."),
    counter("redis_timeouts", "forebay_redis_timeouts_total", "Operations that took too long."),
    counter("redis_dropped", "forebay_redis_dropped_total", "Answers not stored in Redis."),
    counter("redis_forged", "forebay_redis_forged_total", "Values that others put into Redis."),
    counter(
        "redis_skipped",
        "forebay_redis_skipped_total",
        "Look-ups not made since Redis was not up.",
    ),
    counter(
        "analyses",
        "forebay_analyses_total",
        "Statements whose meaning PostgreSQL was asked for.",
    ),
    counter("analyses_decided", "forebay_analyses_decided_total", "Of these, found worth keeping."),
    counter("analyses_failed", "forebay_analyses_failed_total", "Of these, not answered."),
    counter("analyses_skipped", "forebay_analyses_skipped_total", "Statements not asked about."),
    counter("warm_ups", "forebay_warm_ups_total", "Warm-ups begun."),
    counter("warmed", "forebay_warmed_total", "Answers that warm-ups have brought back."),
    counter("warm_failed", "forebay_warm_failed_total", "Statements of warm-ups that failed."),
];

/// Every metric of this list, for each row: what the columns `labels` say of it.
pub fn rows(out: &mut Exposition, table: &Table, labels: &[&'static str], families: &[Family]) {
    for family in families {
        let Some(at) = place(table, family.column) else { continue };
        out.family(family.name, family.kind, family.help);
        for row in &table.rows {
            let labels: Vec<(&str, &str)> =
                labels.iter().map(|label| (*label, text(table, row, label))).collect();
            if let Some(value) = row.get(at).and_then(Option::as_deref) {
                sample(out, &labels, value, family.scale);
            }
        }
    }
}

/// Of a table of names and values, the rows with the names of this list.
pub fn named(out: &mut Exposition, table: &Table, value: &str, families: &[Family]) {
    let Some(at) = place(table, value) else { return };
    for family in families {
        let is_it =
            |row: &&Vec<Value>| row.first().and_then(Option::as_deref) == Some(family.column);
        if let Some(value) = table.rows.iter().find(is_it).and_then(|row| row.get(at)?.as_deref()) {
            out.family(family.name, family.kind, family.help);
            sample(out, &[], value, family.scale);
        }
    }
}

fn sample(out: &mut Exposition, labels: &[(&str, &str)], value: &str, scale: Scale) {
    // What is no number is no sample; the tables are ours, and their tests see to it.
    let Ok(number) = value.parse::<u64>() else { return };
    match scale {
        Scale::AsIs => out.sample(labels, number),
        Scale::Micros => out.sample(labels, seconds(number)),
    }
}

fn place(table: &Table, column: &str) -> Option<usize> {
    table.columns.iter().position(|known| known.name == column)
}

/// NULL is nothing.
pub fn text<'a>(table: &Table, row: &'a [Value], column: &str) -> &'a str {
    place(table, column).and_then(|at| row.get(at)?.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::command::Show;
    use crate::admin::table::{Columns, int8, text as text_column, value};
    use crate::http::exposition::Format;

    #[test]
    fn every_family_is_a_number_of_its_table() {
        for (show, families, labels) in [
            (Show::Databases, DATABASES, DATABASE_LABELS),
            (Show::StatsTotals, STATS, &["database"]),
            (Show::Pools, POOLS, POOL_LABELS),
            (Show::Cache, CACHE, &[]),
            (Show::Group, GROUP, GROUP_LABELS),
        ] {
            let columns = show.columns();
            let names = families.iter().map(|family| family.column).chain(labels.iter().copied());
            for name in names {
                assert!(columns.iter().any(|column| column.name == name), "{show:?} {name}");
            }
        }
    }

    #[test]
    fn counters_are_named_as_such_and_each_name_stands_once() {
        let mut seen = std::collections::BTreeSet::new();
        for family in [DATABASES, STATS, POOLS, LISTS, CONFIG, CACHE, GROUP].into_iter().flatten() {
            assert!(seen.insert(family.name), "{}", family.name);
            let counts = family.name.ends_with("_total");
            assert_eq!(counts, family.kind == Kind::Counter, "{}", family.name);
            assert!(!family.help.contains(['\n', '\\', '"']), "{}", family.name);
        }
    }

    #[test]
    fn each_row_is_a_sample_of_each_family() {
        const COLUMNS: Columns = &[text_column("who"), int8("n"), int8("t")];
        const FAMILIES: &[Family] =
            &[counter("n", "n_total", "How many."), time("t", "t_seconds_total", "How long.")];
        let mut table = Table::new(COLUMNS);
        table.push(vec![value("a"), value(3), value(1_500_000)]);
        table.push(vec![None, value(4), None]);
        let mut out = Exposition::new(Format::Text);
        rows(&mut out, &table, &["who"], FAMILIES);
        assert_eq!(
            out.finish(),
            "# HELP n_total How many.\n# TYPE n_total counter\n\
             n_total{who=\"a\"} 3\nn_total{who=\"\"} 4\n\
             # HELP t_seconds_total How long.\n# TYPE t_seconds_total counter\n\
             t_seconds_total{who=\"a\"} 1.500000\n"
        );
    }
}
