//! `SHOW CACHE` and `SHOW CACHE_REASONS`: what the cache holds and did, and why it did not.

use std::time::Duration;

use crate::cache::worth::CutOff;
use crate::sql::verdict::BypassReason;

use super::snapshot::Cache;
use super::table::{Columns, Table, int8, percent, text, value};

pub const CACHE: Columns = &[
    text("mode"),
    int8("entries"),
    int8("bytes"),
    int8("bytes_max"),
    int8("hits"),
    int8("hits_redis"),
    int8("misses"),
    int8("would_hit"),
    int8("verified"),
    int8("other_order"),
    int8("incomparable"),
    int8("differences"),
    int8("bypasses"),
    int8("fills"),
    int8("refused"),
    text("hit_rate"),
    int8("hit_bytes"),
    int8("shared_fills"),
    int8("transactions"),
    int8("descriptions"),
    int8("invalidated_tables"),
    int8("invalidated_database"),
    int8("asked"),
    int8("asked_known"),
    int8("asked_tables"),
    int8("surplus"),
    int8("unforeseen"),
    int8("database_off"),
    int8("database_slow"),
    int8("database_no_moment"),
    int8("database_ddl"),
    int8("database_catalogue"),
    int8("database_lock"),
    int8("database_unknown"),
    int8("database_deferred"),
    text("max_age"),
    text("redis"),
    text("redis_error"),
    text("redis_exposed"),
    int8("redis_look_ups"),
    int8("redis_misses"),
    int8("redis_stores"),
    int8("redis_errors"),
    int8("redis_timeouts"),
    int8("redis_dropped"),
    int8("redis_forged"),
    int8("redis_skipped"),
    text("analysis"),
    int8("analyses"),
    int8("analyses_decided"),
    int8("analyses_failed"),
    int8("analyses_skipped"),
    text("outside_writes_seen_within"),
    int8("evictions"),
    int8("warm_ups"),
    int8("warmed"),
    int8("warm_failed"),
];

/// One row.
pub fn cache(cache: &Cache) -> Table {
    let mut table = Table::new(CACHE);
    let max_age = seconds(cache.max_age);
    let redis = &cache.redis;
    let mut row = Vec::from([
        value(cache.mode),
        value(cache.entries),
        value(cache.bytes),
        value(cache.bytes_max),
        value(cache.hits),
        value(cache.hits_redis),
        value(cache.misses),
        value(cache.would_hit),
        value(cache.verified.same),
        value(cache.verified.other_order),
        value(cache.verified.incomparable),
        value(cache.verified.differences),
        value(cache.bypasses),
        value(cache.fills),
        value(cache.refused),
        value(percent(cache.hits, cache.hits.saturating_add(cache.misses))),
        value(cache.hit_bytes),
        value(cache.shared_fills),
        value(cache.transactions),
        value(cache.descriptions),
        value(cache.invalidated_tables),
        value(cache.invalidated_database),
        value(cache.asked),
        value(cache.asked_known),
        value(cache.asked_tables),
        value(cache.surplus),
        value(cache.unforeseen),
    ]);
    row.extend(cache.doubts.map(value));
    row.extend([
        value(&max_age),
        value(redis.state),
        // The last one there was, and NULL if there was none.
        redis.last_error.clone(),
        redis.exposure.map(str::to_owned),
        value(redis.look_ups),
        value(redis.misses),
        value(redis.stores),
        value(redis.errors),
        value(redis.timeouts),
        value(redis.dropped),
        value(redis.forged),
        value(redis.skipped),
        value(cache.analysis.mode),
        value(cache.analysis.asked),
        value(cache.analysis.decided),
        value(cache.analysis.failed),
        value(cache.analysis.skipped),
        // No answer is older, so whoever writes past Forebay is seen by then.
        value(max_age),
        value(cache.evictions),
        value(cache.warm_ups.begun),
        value(cache.warm_ups.warmed),
        value(cache.warm_ups.failed),
    ]);
    table.push(row);
    table
}

/// Why a table is cut off.
pub fn cut_off_words(cut_off: CutOff) -> String {
    format!("{} hits of {} answers that writes ended", cut_off.hits, cut_off.ended)
}

/// `60s`, `0.25s`.
pub fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

pub const CACHE_REASONS: Columns = &[text("reason"), int8("count"), text("description")];

/// Every reason; those that occurred first, the most frequent of them at the top.
pub fn reasons(counts: impl Iterator<Item = (BypassReason, u64)>) -> Table {
    let mut counts: Vec<_> = counts.collect();
    // Stable, so that reasons that never occurred keep the order of the declaration.
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut table = Table::new(CACHE_REASONS);
    for (reason, count) in counts {
        table.push(vec![value(reason.name()), value(count), value(describe(reason))]);
    }
    table
}

/// For whoever wonders what to change.
pub fn describe(reason: BypassReason) -> &'static str {
    match reason {
        BypassReason::NotARead => "not a SELECT, VALUES or TABLE",
        BypassReason::MultipleStatements => "several statements in one query string",
        BypassReason::Unparsable => "the text is not understood",
        BypassReason::TooLong => "the text is too long or too deeply nested",
        BypassReason::NoTable => "reads no table",
        BypassReason::Writes => "writes, or calls a function that may",
        BypassReason::LocksRows => "locks rows: FOR UPDATE, FOR SHARE and their kin",
        BypassReason::Function => "calls a function that may give another answer each time",
        BypassReason::UserObject => "uses a function, operator, type or cast made by a user",
        BypassReason::ValueFunction => "uses CURRENT_DATE, CURRENT_USER or a word like them",
        BypassReason::TimeWord => "a text may mean a moment: now, today, tomorrow, yesterday",
        BypassReason::TimeType => "uses a time type or cast whose result depends on the clock",
        BypassReason::RegType => "uses regclass, regproc or a type like them",
        BypassReason::SystemCatalog => "reads a system catalogue or information_schema",
        BypassReason::SystemColumn => "reads ctid, xmin or another system column",
        BypassReason::RelationKind => "reads a sequence, foreign, unlogged or temporary table",
        BypassReason::View => "reads a view",
        BypassReason::RowSecurity => "reads a table with row-level security",
        BypassReason::TableSample => "uses TABLESAMPLE",
        BypassReason::UnknownRelation => "names a table that is not in the catalogue snapshot",
        BypassReason::UnknownName => "names something that is not understood",
        BypassReason::TooManyTables => "reads too many tables",
        BypassReason::CatalogLoading => "the catalogue is being read, after a start or DDL",
        BypassReason::CacheOff => "the cache is off",
        BypassReason::OwnWrites => "in a transaction that has written",
        BypassReason::Isolation => "in REPEATABLE READ or SERIALIZABLE",
        BypassReason::TransactionState => "in a failed transaction, or one in doubt",
        BypassReason::Pipelined => "earlier requests of the client are unanswered",
        BypassReason::Group => "sent together with other statements",
        BypassReason::RowLimit => "asks for some rows at a time",
        BypassReason::Settings => "a setting is in force that cannot be followed",
        BypassReason::TemporaryObjects => "the client has, or may have, temporary objects",
        BypassReason::Pinned => "the client holds session state that may change answers",
        BypassReason::StaleStatement => "prepared before the catalogue changed",
        BypassReason::ServerUnknown => "the database is not known yet, or was replaced",
        BypassReason::DatabaseDown => "PostgreSQL cannot be reached (cache.serve_while_down)",
        BypassReason::Standby => "the server is a stand-by",
        BypassReason::Denied => "kept out by a rule in the settings",
        BypassReason::Hint => "its comment says /* forebay:nocache */",
        BypassReason::CutOff => {
            "reads a table whose writes end most answers before they are of use"
        }
        BypassReason::GroupShut => "the group has not agreed on what is true (SHOW GROUP)",
        BypassReason::KeyTooLong => "statement and parameters are too long for a key",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::snapshot::{Analysis, Redis, Verified, WarmUps};

    fn snapshot() -> Cache {
        Cache {
            mode: "on",
            entries: 2,
            bytes: 300,
            bytes_max: 1000,
            evictions: 77,
            warm_ups: WarmUps { begun: 2, warmed: 30, failed: 4 },
            hits: 873,
            hits_redis: 0,
            misses: 127,
            would_hit: 0,
            verified: Verified { same: 11, other_order: 12, incomparable: 13, differences: 14 },
            bypasses: 5,
            fills: 100,
            refused: 27,
            hit_bytes: 4000,
            shared_fills: 6,
            transactions: 12,
            descriptions: 34,
            invalidated_tables: 3,
            invalidated_database: 1,
            asked: 6,
            asked_known: 4,
            asked_tables: 15,
            surplus: 16,
            unforeseen: 0,
            doubts: [1, 2, 3, 4, 5, 6, 7, 8],
            max_age: Duration::from_millis(1500),
            analysis: Analysis { mode: "auto", asked: 6, decided: 3, failed: 2, skipped: 1 },
            redis: Redis {
                state: "down",
                last_error: Some("no answer in time".to_owned()),
                exposure: Some("no password"),
                look_ups: 40,
                misses: 10,
                stores: 90,
                errors: 1,
                timeouts: 5,
                dropped: 9,
                forged: 2,
                skipped: 8,
            },
        }
    }

    #[test]
    fn the_cache_is_one_row() {
        let table = cache(&snapshot());
        let row: Vec<String> = CACHE
            .iter()
            .zip(&table.rows[0])
            .map(|(column, value)| format!("{}={}", column.name, value.as_deref().unwrap()))
            .collect();
        assert_eq!(
            row.join(" "),
            "mode=on entries=2 bytes=300 bytes_max=1000 hits=873 hits_redis=0 misses=127 \
             would_hit=0 verified=11 other_order=12 incomparable=13 differences=14 bypasses=5 fills=100 refused=27 hit_rate=87.3 hit_bytes=4000 \
             shared_fills=6 transactions=12 descriptions=34 \
             invalidated_tables=3 invalidated_database=1 asked=6 asked_known=4 \
             asked_tables=15 surplus=16 unforeseen=0 \
             database_off=1 database_slow=2 database_no_moment=3 database_ddl=4 \
             database_catalogue=5 database_lock=6 database_unknown=7 database_deferred=8 \
             max_age=1.5s redis=down redis_error=no answer in time redis_exposed=no password \
             redis_look_ups=40 redis_misses=10 redis_stores=90 \
             redis_errors=1 redis_timeouts=5 redis_dropped=9 redis_forged=2 redis_skipped=8 \
             analysis=auto analyses=6 analyses_decided=3 analyses_failed=2 analyses_skipped=1 \
             outside_writes_seen_within=1.5s evictions=77 \
             warm_ups=2 warmed=30 warm_failed=4"
        );
        assert_eq!(table.rows.len(), 1);
    }

    #[test]
    fn reasons_that_occurred_come_first() {
        let occurred = [(BypassReason::View, 2), (BypassReason::KeyTooLong, 5)];
        let count = |reason| occurred.iter().find(|(other, _)| *other == reason);
        let counts = BypassReason::ALL
            .into_iter()
            .map(|reason| (reason, count(reason).map_or(0, |(_, count)| *count)));
        let table = reasons(counts);
        let first = |row: usize| table.rows[row][0].as_deref().unwrap();
        assert_eq!(table.rows.len(), BypassReason::ALL.len());
        assert_eq!([first(0), first(1), first(2)], ["key_too_long", "view", "not_a_read"]);
    }
}
