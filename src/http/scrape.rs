//! All metrics at one moment.

use std::time::{Instant, SystemTime};

use crate::admin::command::Show;
use crate::admin::conversation::Access;
use crate::admin::snapshot::Pool;
use crate::admin::table::{Kind as ColumnKind, Table};
use crate::console::act::table;
use crate::console::collect::Collector;
use crate::gateway::Gateway;
use crate::insight::{Latency, Times};
use crate::process;

use super::exposition::{Exposition, Format, Kind, seconds};
use super::families::{self, text};
use super::groups;
use super::ready::Readiness;

pub fn metrics(gateway: &Gateway, now: Instant, format: Format) -> String {
    let collector = Collector::new(gateway, now);
    let mut out = Exposition::new(format);
    of_pgbouncer(&mut out, gateway, &collector, now);
    of_process(&mut out, gateway, now);
    of_cache(&mut out, gateway, now);
    of_group(&mut out, gateway, now);
    of_statements(&mut out, gateway);
    groups::counters(&mut out, &collector.groups());
    out.finish()
}

fn of_pgbouncer(out: &mut Exposition, gateway: &Gateway, collector: &Collector<'_>, now: Instant) {
    out.family("pgbouncer_up", Kind::Gauge, "1: this was answered.");
    out.sample(&[], 1);
    let version = table(gateway, Show::Version, Access::Look, now);
    out.family("pgbouncer_version_info", Kind::Gauge, "The version, as SHOW VERSION tells it.");
    let row = version.rows.first().map(Vec::as_slice).unwrap_or_default();
    out.sample(&[("version", text(&version, row, "version"))], 1);
    families::named(out, &table(gateway, Show::Lists, Access::Look, now), "items", families::LISTS);
    families::named(
        out,
        &table(gateway, Show::Config, Access::Look, now),
        "value",
        families::CONFIG,
    );
    let databases = table(gateway, Show::Databases, Access::Look, now);
    families::rows(out, &databases, families::DATABASE_LABELS, families::DATABASES);
    let stats = table(gateway, Show::StatsTotals, Access::Look, now);
    families::rows(out, &stats, &["database"], families::STATS);
    families::rows(
        out,
        &table(gateway, Show::Pools, Access::Look, now),
        families::POOL_LABELS,
        families::POOLS,
    );
    let pools = collector.pools();
    let name = "pgbouncer_pools_client_maxwait_seconds";
    out.family(name, Kind::Gauge, "How long the first in line has waited.");
    for pool in &pools {
        out.sample(&of_pool(pool), micros(pool.max_wait));
    }
    groups::connections(out, &collector.clients());
    let name = "forebay_pool_abandoned_total";
    out.family(name, Kind::Counter, "Servers whose client went in the middle of something.");
    for pool in &pools {
        let abandoned = pool.abandoned;
        for (outcome, count) in [
            ("drained", abandoned.drained),
            ("rolled_back", abandoned.rolled_back),
            ("closed", abandoned.closed),
        ] {
            let [database, user] = of_pool(pool);
            out.sample(&[database, user, ("outcome", outcome)], count);
        }
    }
}

fn of_pool(pool: &Pool) -> [(&str, &str); 2] {
    [("database", &pool.database), ("user", &pool.user)]
}

fn micros(duration: std::time::Duration) -> String {
    seconds(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

fn of_process(out: &mut Exposition, gateway: &Gateway, now: Instant) {
    out.family("forebay_build_info", Kind::Gauge, "The version of Forebay.");
    out.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    out.family("forebay_ready", Kind::Gauge, "1 if /ready says so.");
    out.sample(&[], u8::from(Readiness::of(gateway, now) == Readiness::Ready));
    let started = gateway.shared.insight.slow.time_of_day(gateway.started_at);
    let started = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    out.family("process_start_time_seconds", Kind::Gauge, "When it was started, since 1970.");
    out.sample(&[], micros(started));
    out.family("process_resident_memory_bytes", Kind::Gauge, "Memory in use.");
    out.sample(&[], process::resident_bytes());
}

fn of_cache(out: &mut Exposition, gateway: &Gateway, now: Instant) {
    let cache = table(gateway, Show::Cache, Access::Look, now);
    families::rows(out, &cache, &[], families::CACHE);
    let row = cache.rows.first().map(Vec::as_slice).unwrap_or_default();
    out.family("forebay_cache_mode", Kind::Gauge, "1 for the mode that the cache is in.");
    let mode = text(&cache, row, "mode");
    for known in ["off", "on", "dry_run", "verify"] {
        out.sample(&[("mode", known)], u8::from(known == mode));
    }
    out.family("forebay_cache_max_age_seconds", Kind::Gauge, "No answer is served when older.");
    out.sample(&[], text(&cache, row, "max_age").trim_end_matches('s'));
    out.family("forebay_redis_up", Kind::Gauge, "1 if there is a Redis and it answers.");
    let is_up = gateway.cache.redis.as_ref().is_some_and(|redis| redis.is_up());
    out.sample(&[], u8::from(is_up));

    let name = "forebay_cache_verified_total";
    out.family(name, Kind::Counter, "Hits compared with PostgreSQL's answer, by what it was.");
    for (column, result) in [
        ("verified", "same"),
        ("other_order", "other_order"),
        ("incomparable", "incomparable"),
        ("differences", "different"),
    ] {
        out.sample(&[("result", result)], text(&cache, row, column));
    }
    let name = "forebay_cache_invalidations_total";
    out.family(name, Kind::Counter, "Writes that were settled, by what they made fresh.");
    for (column, scope) in [("invalidated_tables", "tables"), ("invalidated_database", "database")]
    {
        out.sample(&[("scope", scope)], text(&cache, row, column));
    }
    let name = "forebay_cache_database_invalidations_total";
    out.family(name, Kind::Counter, "Why whole databases were made fresh.");
    for (cause, column) in causes(&cache) {
        out.sample(&[("cause", cause)], text(&cache, row, column));
    }
    let reasons = table(gateway, Show::CacheReasons, Access::Look, now);
    let name = "forebay_cache_bypasses_total";
    out.family(name, Kind::Counter, "Statements that were not looked up, and why.");
    for row in &reasons.rows {
        let reason = text(&reasons, row, "reason");
        out.sample(&[("reason", reason)], text(&reasons, row, "count"));
    }
}

fn of_group(out: &mut Exposition, gateway: &Gateway, now: Instant) {
    let group = table(gateway, Show::Group, Access::Look, now);
    families::rows(out, &group, families::GROUP_LABELS, families::GROUP);
    out.family("forebay_group_open", Kind::Gauge, "1 if hits are served as the group has agreed.");
    for row in &group.rows {
        let labels = families::GROUP_LABELS.iter().map(|label| (*label, text(&group, row, label)));
        let is_open = text(&group, row, "state") == "open";
        out.sample(&labels.collect::<Vec<_>>(), u8::from(is_open));
    }
}

/// The columns `database_…` of SHOW CACHE.
fn causes(cache: &Table) -> impl Iterator<Item = (&'static str, &'static str)> {
    let columns = cache.columns.iter().filter(|column| column.kind == ColumnKind::Int8);
    columns.filter_map(|column| Some((column.name.strip_prefix("database_")?, column.name)))
}

fn of_statements(out: &mut Exposition, gateway: &Gateway) {
    let insight = &gateway.shared.insight;
    let latency = insight.latency();
    for (name, help, times) in [
        ("forebay_query_duration_seconds", "Time that statements took.", &latency.query),
        ("forebay_hit_duration_seconds", "Of these, those answered from the cache.", &latency.hit),
        (
            "forebay_wait_duration_seconds",
            "Time that the others took before they were sent to a server.",
            &latency.wait,
        ),
    ] {
        out.family(name, Kind::Histogram, help);
        histogram(out, times);
    }
    out.family("forebay_slow_statements_unlogged_total", Kind::Counter, "Beyond the log's rate.");
    out.sample(&[], insight.slow.suppressed.load(std::sync::atomic::Ordering::Relaxed));
    let name = "forebay_statement_shapes_evicted_total";
    out.family(name, Kind::Counter, "Statement shapes that made room for others.");
    out.sample(&[], insight.evicted());
}

fn histogram(out: &mut Exposition, times: &Times) {
    for bound in Latency::BOUNDS {
        out.sample_of("_bucket", &[("le", &seconds(bound))], times.below(bound));
    }
    out.sample_of("_bucket", &[("le", "+Inf")], times.count());
    out.sample_of("_sum", &[], seconds(times.sum()));
    out.sample_of("_count", &[], times.count());
}
