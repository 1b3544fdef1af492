//! `SHOW CACHE_TABLES`: of what use the cache is to each table, and which it keeps nothing of.

use std::cmp::Reverse;

use super::cache_show::{cut_off_words, seconds};
use super::snapshot::CacheTable;
use super::table::{Columns, Table, int8, text, time, value};

pub const CACHE_TABLES: Columns = &[
    text("database"),
    text("schema"),
    text("table"),
    int8("entries"),
    int8("bytes"),
    int8("hits"),
    int8("fills"),
    int8("invalidations"),
    int8("in_flight"),
    text("cut_off_since"),
    text("cut_off_because"),
    text("denied_by"),
    text("max_age"),
];

/// What is shown of tens of thousands of tables; the others are one row.
const ROWS_MAX: usize = 10_000;

/// Those of most use first. A row without a table is the whole of its database. An answer over
/// several tables counts for each.
pub fn cache_tables(tables: Vec<CacheTable>) -> Table {
    first_of(tables, ROWS_MAX)
}

fn first_of(mut tables: Vec<CacheTable>, rows_max: usize) -> Table {
    tables.sort_by(|one, other| {
        let key = |table: &CacheTable| {
            (Reverse(table.hits), Reverse(table.fills), Reverse(table.invalidations))
        };
        key(one).cmp(&key(other)).then_with(|| {
            let name = |table: &CacheTable| (table.database.clone(), table.name.clone());
            name(one).cmp(&name(other))
        })
    });
    let rest = tables.split_off(tables.len().min(rows_max));
    if !rest.is_empty() {
        let sum = |count: fn(&CacheTable) -> u64| rest.iter().map(count).sum();
        tables.push(CacheTable {
            database: String::new(),
            name: Some((String::new(), format!("({} others)", rest.len()))),
            entries: sum(|table| table.entries),
            bytes: sum(|table| table.bytes),
            hits: sum(|table| table.hits),
            fills: sum(|table| table.fills),
            invalidations: sum(|table| table.invalidations),
            in_flight: sum(|table| table.in_flight),
            ..CacheTable::default()
        });
    }
    let mut shown = Table::new(CACHE_TABLES);
    for table in tables {
        let (schema, name) = table.name.unzip();
        let (since, cut_off) = table.cut_off.unzip();
        shown.push(vec![
            value(table.database),
            schema,
            name,
            value(table.entries),
            value(table.bytes),
            value(table.hits),
            value(table.fills),
            value(table.invalidations),
            value(table.in_flight),
            since.map(time),
            cut_off.map(cut_off_words),
            table.denied_by,
            table.max_age.map(seconds),
        ]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, hits: u64, fills: u64) -> CacheTable {
        let name = Some(("public".to_owned(), name.to_owned()));
        CacheTable { database: "app".to_owned(), name, hits, fills, ..CacheTable::default() }
    }

    fn shown(table: &Table) -> Vec<String> {
        let row = |row: &Vec<Option<String>>| {
            [1, 2, 5, 6].map(|at| row[at].as_deref().unwrap_or("NULL")).join(" ")
        };
        table.rows.iter().map(row).collect()
    }

    #[test]
    fn tables_of_most_use_come_first_and_the_last_are_one_row() {
        let tables = ["d", "c", "b", "a"].map(|name| table(name, 0, 1));
        let whole = CacheTable { name: None, ..table("", 9, 9) };
        let all: Vec<_> = tables.into_iter().chain([table("e", 5, 0), whole]).collect();
        assert_eq!(
            shown(&first_of(all.clone(), 4)),
            ["NULL NULL 9 9", "public e 5 0", "public a 0 1", "public b 0 1", " (2 others) 0 2"]
        );
        assert_eq!(first_of(all, 6).rows.len(), 6);
    }
}
