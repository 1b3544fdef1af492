//! The head of the page: a few numbers of now, and counters of which the page shows the change.

use std::time::Instant;

use serde_json::{Value as Json, json};

use crate::admin::snapshot::Pool;
use crate::admin::stats_show;
use crate::config::CacheMode;
use crate::console;
use crate::console::collect::Collector;
use crate::gateway::Gateway;
use crate::insight::Times;
use crate::process;

use super::ready::Readiness;
use super::tables;

pub fn overview(gateway: &Gateway, now: Instant) -> Json {
    let collector = Collector::new(gateway, now);
    // Who looks at the console is no load.
    let of_database = |pool: &Pool| pool.database != console::DATABASE;
    let pools: Vec<Pool> = collector.pools().into_iter().filter(of_database).collect();
    let totals = stats_show::sum(&pools).totals;
    let cache = collector.cache();
    let latency = gateway.shared.insight.latency();
    let sum = |count: fn(&Pool) -> usize| pools.iter().map(count).sum::<usize>();
    let max_wait = pools.iter().map(|pool| pool.max_wait).max().unwrap_or_default();
    let config = gateway.config();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": Readiness::of(gateway, now).name(),
        "uptime_s": now.saturating_duration_since(gateway.started_at).as_secs(),
        // Counters are divided by differences of it.
        "at_us": u64::try_from(now.saturating_duration_since(gateway.started_at).as_micros()).ok(),
        "insight": gateway.shared.insight.is_enabled(),
        "queries": totals.query,
        "transactions": totals.xact,
        "clients": sum(|pool| pool.clients_active + pool.clients_waiting),
        "clients_max": config.listen.max_client_conn,
        "waiting": sum(|pool| pool.clients_waiting),
        "max_wait_us": u64::try_from(max_wait.as_micros()).ok(),
        "servers_active": sum(|pool| pool.servers_active + pool.servers_canceled),
        "servers_idle": sum(|pool| pool.servers_idle),
        "memory_bytes": process::resident_bytes(),
        "cache": {
            "mode": cache.mode,
            "serves": config.cache.mode == CacheMode::On,
            "hits": cache.hits,
            "misses": cache.misses,
            "bypasses": cache.bypasses,
            "entries": cache.entries,
            "bytes": cache.bytes,
            "bytes_max": cache.bytes_max,
            "evictions": cache.evictions,
            "max_age_s": cache.max_age.as_secs_f64(),
            "redis": cache.redis.state,
        },
        "latency": {
            "query": times(&latency.query),
            "hit": times(&latency.hit),
            "wait": times(&latency.wait),
        },
        "tables": tables::titles(),
    })
}

fn times(times: &Times) -> Json {
    json!({
        "sum_us": times.sum(),
        "count": times.count(),
        "buckets": times.buckets().map(|(micros, count)| json!([micros, count])).collect::<Json>(),
    })
}
