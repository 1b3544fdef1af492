//! Who runs what, by statement: `SHOW STATEMENTS` and `SHOW REPEATS`.

use crate::insight::{Repeated, Statement};

use super::table::{Columns, Table, int8, percent, text, time, value};

/// What is summed.
const OTHER: &str = "(other)";

pub const STATEMENTS: Columns = &[
    int8("id"),
    text("database"),
    int8("calls"),
    int8("hits"),
    int8("shared_fills"),
    int8("misses"),
    int8("bypasses"),
    text("hit_rate"),
    text("never_cached"),
    int8("errors"),
    int8("slow"),
    int8("rows"),
    int8("bytes"),
    int8("total_time"),
    int8("mean_time"),
    int8("p50"),
    int8("p95"),
    int8("p99"),
    int8("max_time"),
    int8("wait_time"),
    int8("saved_time"),
    text("statement"),
];

/// Those first that took most time. Times in microseconds.
pub fn statements(mut statements: Vec<Statement>) -> Table {
    statements.sort_by_key(|statement| {
        (statement.shape.is_none(), std::cmp::Reverse(statement.tally.time))
    });
    let mut table = Table::new(STATEMENTS);
    for Statement { shape, tally } in &statements {
        let other = || OTHER.to_owned();
        table.push(vec![
            shape.as_ref().map(|shape| shape.id.to_string()),
            value(shape.as_ref().map_or_else(other, |shape| shape.database.as_ref().to_owned())),
            value(tally.calls),
            value(tally.hits),
            value(tally.shared),
            value(tally.misses),
            value(tally.bypasses()),
            value(percent(tally.hits, tally.hits.saturating_add(tally.misses))),
            value(tally.never_cached().map_or("", |reason| reason.name())),
            value(tally.errors),
            value(tally.slow),
            value(tally.rows),
            value(tally.bytes),
            value(tally.time),
            value(tally.mean()),
            value(tally.times.quantile(50)),
            value(tally.times.quantile(95)),
            value(tally.times.quantile(99)),
            value(tally.max),
            value(tally.wait),
            value(tally.saved()),
            value(shape.as_ref().map_or_else(other, |shape| shape.text.clone())),
        ]);
    }
    table
}

pub const REPEATS: Columns = &[
    int8("statement_id"),
    text("database"),
    text("user"),
    text("application_name"),
    int8("count"),
    int8("bursts"),
    int8("most"),
    int8("distinct_values"),
    int8("total_time"),
    text("last_seen"),
    text("route"),
    text("statement"),
    text("example"),
];

/// Those first that took most time, in microseconds. `distinct_values`: among the first calls of a
/// burst, at most; NULL if not known. `literals`: examples are shown.
pub fn repeats(mut repeats: Vec<Repeated>, literals: bool) -> Table {
    repeats.sort_by_key(|repeated| std::cmp::Reverse(repeated.time));
    let mut table = Table::new(REPEATS);
    for repeated in &repeats {
        table.push(vec![
            value(repeated.shape.id),
            value(&repeated.owner.database),
            value(&repeated.owner.user),
            value(&repeated.owner.application_name),
            value(repeated.count),
            value(repeated.bursts),
            value(repeated.most),
            (repeated.values > 0).then(|| repeated.values.to_string()),
            value(repeated.time),
            value(time(repeated.last_seen)),
            repeated.route.as_ref().map(|route| route.name.clone()),
            value(&repeated.shape.text),
            repeated.example.as_deref().filter(|_| literals).map(str::to_owned),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::insight::{Outcome, Sample, Shape, StatementTally};

    fn tally(samples: &[(Outcome, u64)]) -> StatementTally {
        let mut tally = StatementTally::default();
        for (outcome, run) in samples {
            tally.add(&Sample {
                is_call: true,
                outcome: *outcome,
                wait: 1,
                run: *run,
                rows: 2,
                bytes: 30,
                writes: false,
                slow: *run > 5,
                failed: None,
            });
        }
        tally
    }

    #[test]
    fn what_took_most_time_comes_first_and_the_rest_last() {
        let shape = |id, text: &str| {
            Some(Arc::new(Shape { id, database: "app".into(), text: text.into() }))
        };
        let rest = Statement { shape: None, tally: tally(&[(Outcome::Miss, 999)]) };
        let short = Statement { shape: shape(7, "a"), tally: tally(&[(Outcome::Hit, 0)]) };
        let long = tally(&[(Outcome::Miss, 9), (Outcome::Hit, 0), (Outcome::SharedHit, 1)]);
        let long = Statement { shape: shape(8, "select $1"), tally: long };
        let table = statements(vec![rest, short, long]);
        let row = |index: usize| {
            let values = table.rows[index].iter();
            values.map(|value| value.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join("|")
        };
        assert_eq!(row(0), "8|app|3|2|1|1|0|66.6||0|1|6|90|13|4|2|10|10|10|3|20|select $1");
        assert!(row(1).starts_with("7|app|1|1|0|0|0|100.0|"), "{}", row(1));
        assert!(row(2).starts_with("NULL|(other)|1|0|"), "{}", row(2));
    }
}
