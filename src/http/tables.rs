//! The tables of the page: which of the console's they are, which columns of them are shown, and
//! what those mean to people.
//!
//! Invariant: a column is shown over HTTP only if it stands here. Texts with literals in them
//! (`text` of SHOW SLOW) do not.

use serde_json::{Value as Json, json};

use crate::admin::command::Show;
use crate::admin::part;
use crate::admin::table::{Column, Table, Value};

/// One table of the console, as the page has it.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    /// In its address.
    pub name: &'static str,
    pub show: Show,
    title: &'static str,
    caption: &'static str,
    /// Instead of rows where there are none.
    empty: &'static str,
    /// By which rows are ordered unless asked otherwise; empty: as the console has them.
    order: &'static str,
    fields: &'static [Field],
}

#[derive(Debug, PartialEq, Eq)]
struct Field {
    column: &'static str,
    label: &'static str,
    unit: Unit,
}

/// What a value is, and so how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Text,
    /// A statement's shape.
    Sql,
    Count,
    Bytes,
    Seconds,
    Millis,
    Micros,
    Percent,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Sql => "sql",
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Micros => "us",
            Self::Percent => "percent",
        }
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Sql)
    }
}

const fn field(column: &'static str, label: &'static str, unit: Unit) -> Field {
    Field { column, label, unit }
}

use Unit::{Bytes, Count, Micros, Millis, Percent, Seconds, Sql, Text};

/// In the order of the page.
pub static TABLES: &[Shown] = &[
    Shown {
        name: "statements",
        show: Show::Statements,
        title: "Statements",
        caption: "Statements by shape, those that took most time first. Saved: what their hits \
                  would have taken as misses.",
        empty: "No statement has been run yet.",
        order: "total_time",
        fields: &[
            field("statement", "Statement", Sql),
            field("database", "Database", Text),
            field("calls", "Calls", Count),
            field("hit_rate", "Hit rate", Percent),
            field("never_cached", "Never cached because", Text),
            field("mean_time", "Mean", Micros),
            field("p95", "95 %", Micros),
            field("max_time", "Longest", Micros),
            field("total_time", "Total", Micros),
            field("saved_time", "Saved", Micros),
            field("errors", "Errors", Count),
        ],
    },
    Shown {
        name: "routes",
        show: Show::Routes,
        title: "Routes",
        caption: "What a request of each route costs, by the tags in comments. Sent: queries that \
                  PostgreSQL had to answer.",
        empty: "No statement has named its route in a comment.",
        order: "total_time",
        fields: &[
            field("route", "Route", Sql),
            field("application", "Application", Text),
            field("database", "Database", Text),
            field("requests", "Requests", Count),
            field("queries_per_request", "Queries each", Count),
            field("server_queries_per_request", "Sent each", Count),
            field("hit_rate", "Hit rate", Percent),
            field("mean_time", "Mean", Micros),
            field("p95_time", "95 %", Micros),
            field("worst_queries", "Most queries", Count),
            field("worst_time", "Longest", Micros),
            field("total_time", "Total", Micros),
            field("over_budget", "Over budget", Count),
        ],
    },
    Shown {
        name: "repeats",
        show: Show::Repeats,
        title: "Repeats",
        caption: "The same statement again and again in one burst of one client: most often a loop \
                  that should be one query.",
        empty: "Nothing was repeated.",
        order: "total_time",
        fields: &[
            field("statement", "Statement", Sql),
            field("route", "Route", Text),
            field("application_name", "Application", Text),
            field("user", "User", Text),
            field("database", "Database", Text),
            field("most", "Most in a burst", Count),
            field("bursts", "Bursts", Count),
            field("count", "Calls", Count),
            field("distinct_values", "Different values", Count),
            field("total_time", "Total", Micros),
            field("last_seen", "Last seen", Text),
        ],
    },
    Shown {
        name: "slow",
        show: Show::Slow,
        title: "Slow",
        caption: "The latest slow statements, newest first.",
        empty: "No statement was slow.",
        order: "",
        fields: &[
            field("statement", "Statement", Sql),
            field("time", "Time", Text),
            field("database", "Database", Text),
            field("user", "User", Text),
            field("application_name", "Application", Text),
            field("address", "Address", Text),
            field("wait_ms", "Waited", Millis),
            field("run_ms", "Ran", Millis),
            field("rows", "Rows", Count),
            field("bytes", "Size", Bytes),
            field("cache", "Cache", Text),
            field("failed", "Failed", Text),
        ],
    },
    Shown {
        name: "tables",
        show: Show::CacheTables,
        title: "Tables",
        caption: "What the cache is to each table, those of most use first. Without a name: the \
                  database as a whole.",
        empty: "The cache knows no table yet.",
        order: "",
        fields: &[
            field("table", "Table", Text),
            field("schema", "Schema", Text),
            field("database", "Database", Text),
            field("hits", "Hits", Count),
            field("fills", "Fills", Count),
            field("invalidations", "Invalidations", Count),
            field("entries", "Entries", Count),
            field("bytes", "Size", Bytes),
            field("cut_off_because", "Cut off because", Text),
            field("denied_by", "Denied by", Text),
            field("max_age", "Kept for", Text),
        ],
    },
    Shown {
        name: "reasons",
        show: Show::CacheReasons,
        title: "Reasons",
        caption: "Why statements were not looked up in the cache.",
        empty: "There are no reasons.",
        order: "count",
        fields: &[
            field("reason", "Reason", Text),
            field("description", "Meaning", Text),
            field("count", "Statements", Count),
        ],
    },
    Shown {
        name: "clients",
        show: Show::ClientStats,
        title: "Clients",
        caption: "Clients by user, database, application and address since the start.",
        empty: "No client has come yet.",
        order: "queries",
        fields: &[
            field("application_name", "Application", Text),
            field("user", "User", Text),
            field("database", "Database", Text),
            field("address", "Address", Text),
            field("clients", "Clients", Count),
            field("queries", "Queries", Count),
            field("hit_rate", "Hit rate", Percent),
            field("writes", "Writes", Count),
            field("errors", "Errors", Count),
            field("slow", "Slow", Count),
            field("p50", "50 %", Micros),
            field("p95", "95 %", Micros),
            field("wait_time", "Waited in line", Micros),
            field("query_time", "Total", Micros),
        ],
    },
    Shown {
        name: "pools",
        show: Show::Pools,
        title: "Pools",
        caption: "Clients and servers of each database and user now.",
        empty: "There is no pool yet.",
        order: "",
        fields: &[
            field("database", "Database", Text),
            field("user", "User", Text),
            field("pool_mode", "Mode", Text),
            field("cl_active", "Clients", Count),
            field("cl_waiting", "Waiting", Count),
            field("maxwait", "Longest wait", Seconds),
            field("sv_active", "Servers in use", Count),
            field("sv_idle", "Idle", Count),
            field("sv_login", "Connecting", Count),
        ],
    },
    Shown {
        name: "databases",
        show: Show::StatsTotals,
        title: "Databases",
        caption: "Sums of each database since the start.",
        empty: "There is no database yet.",
        order: "",
        fields: &[
            field("database", "Database", Text),
            field("xact_count", "Transactions", Count),
            field("query_count", "Queries", Count),
            field("query_time", "Query time", Micros),
            field("wait_time", "Waited in line", Micros),
            field("bytes_received", "Received", Bytes),
            field("bytes_sent", "Sent", Bytes),
        ],
    },
];

pub fn find(name: &str) -> Option<&'static Shown> {
    TABLES.iter().find(|shown| shown.name == name)
}

/// Names and titles, for the page's list of them.
pub fn titles() -> Json {
    TABLES.iter().map(|shown| json!({ "name": shown.name, "title": shown.title })).collect()
}

/// Rows given without a `limit`, and the most that may be asked for.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// Which rows are wanted, and in what order.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    order: Option<String>,
    ascending: bool,
    limit: usize,
    /// In lower case.
    filter: String,
}

impl Part {
    /// Of `order=calls&direction=asc&limit=100&filter=text`, all of it optional. `None`: it says
    /// something else, or names what is not shown.
    pub fn of(query: &str, shown: &Shown) -> Option<Self> {
        let order = Some(shown.order.to_owned()).filter(|order| !order.is_empty());
        let mut part = Self { order, ascending: false, limit: LIMIT, filter: String::new() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=')?;
            let value = decode(value)?;
            match key {
                "order" => {
                    shown.fields.iter().find(|field| field.column == value)?;
                    part.order = Some(value);
                }
                "direction" if value == "asc" => part.ascending = true,
                "direction" if value == "desc" => part.ascending = false,
                "limit" => part.limit = value.parse().ok().filter(|limit| *limit <= LIMIT_MAX)?,
                "filter" => part.filter = value.to_lowercase(),
                _ => return None,
            }
        }
        Some(part)
    }

    /// As the console reads it.
    fn rows(&self, table: Table) -> Table {
        let limit = self.limit.to_string();
        let direction = if self.ascending { "asc" } else { "desc" };
        let words = match &self.order {
            Some(order) => vec!["order", "by", order, direction, "limit", &limit],
            None => vec!["limit", &limit],
        };
        let asked = part::Part::split(&words).1.and_then(|asked| asked.of(table.columns));
        match asked {
            Some(part) => part.of(table),
            None => table,
        }
    }
}

/// A value of a query: `+` is a blank, `%41` a byte.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

impl Shown {
    /// What the page is given of the console's table.
    pub fn json(&self, table: Table, part: &Part) -> Json {
        let fields: Vec<(&Field, usize)> =
            self.fields.iter().filter_map(|field| Some((field, place(&table, field)?))).collect();
        let total = table.rows.len();
        let table = filter(table, &fields, &part.filter);
        let matched = table.rows.len();
        let table = part.rows(table);
        let row = |row: &Vec<Value>| -> Json {
            let value = |(field, at): &(&Field, usize)| {
                written(row.get(*at).and_then(Option::as_deref), field.unit)
            };
            fields.iter().map(value).collect()
        };
        let described = |(field, _): &(&Field, usize)| json!({ "name": field.column, "label": field.label, "unit": field.unit.name() });
        json!({
            "name": self.name,
            "title": self.title,
            "caption": self.caption,
            "empty": self.empty,
            "order": part.order,
            "ascending": part.ascending,
            "fields": fields.iter().map(described).collect::<Json>(),
            "total": total,
            "matched": matched,
            "rows": table.rows.iter().map(row).collect::<Json>(),
        })
    }
}

fn place(table: &Table, field: &Field) -> Option<usize> {
    table.columns.iter().position(|column: &Column| column.name == field.column)
}

/// The rows in which some text has this in it.
fn filter(mut table: Table, fields: &[(&Field, usize)], wanted: &str) -> Table {
    if !wanted.is_empty() {
        let texts: Vec<usize> =
            fields.iter().filter(|(field, _)| field.unit.is_text()).map(|(_, at)| *at).collect();
        table.rows.retain(|row| {
            let mut values = texts.iter().filter_map(|at| row.get(*at)?.as_deref());
            values.any(|value| value.to_lowercase().contains(wanted))
        });
    }
    table
}

/// Numbers as numbers; what is no number, or no text, is nothing.
fn written(value: Option<&str>, unit: Unit) -> Json {
    let Some(value) = value else { return Json::Null };
    if unit.is_text() {
        return value.into();
    }
    let whole = value.parse::<u64>().ok().map(Json::from);
    whole.or_else(|| value.parse::<f64>().ok().map(Json::from)).unwrap_or(Json::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::table::{Columns, int8, text, value};

    static SHOWN: Shown = Shown {
        name: "things",
        show: Show::Slow,
        title: "Things",
        caption: "Some.",
        empty: "None.",
        order: "count",
        fields: &[
            field("name", "Name", Text),
            field("count", "Count", Count),
            field("hit_rate", "Rate", Percent),
        ],
    };

    const COLUMNS: Columns = &[int8("count"), text("secret"), text("name"), text("hit_rate")];

    fn things() -> Table {
        let mut table = Table::new(COLUMNS);
        for (count, name, rate) in [(1, "Anna", "9.5"), (30, "bob", "10.0"), (4, "JoAnn", "0.0")] {
            table.push(vec![value(count), value("hidden"), value(name), value(rate)]);
        }
        table.push(vec![None, None, None, None]);
        table
    }

    fn rows(query: &str) -> String {
        let json = SHOWN.json(things(), &Part::of(query, &SHOWN).unwrap());
        format!("{} of {} of {}", json["rows"], json["matched"], json["total"])
    }

    #[test]
    fn rows_come_in_the_order_asked_for_and_no_more_than_asked_for() {
        assert_eq!(
            rows(""),
            "[[\"bob\",30,10.0],[\"JoAnn\",4,0.0],[\"Anna\",1,9.5],[null,null,null]] of 4 of 4"
        );
        assert_eq!(rows("order=hit_rate&limit=1"), "[[\"bob\",30,10.0]] of 4 of 4");
        assert_eq!(
            rows("order=count&direction=asc&limit=2"),
            "[[null,null,null],[\"Anna\",1,9.5]] of 4 of 4"
        );
    }

    #[test]
    fn only_rows_with_the_text_are_shown_and_columns_that_are_not_shown_do_not_count() {
        assert_eq!(rows("filter=ANN"), "[[\"JoAnn\",4,0.0],[\"Anna\",1,9.5]] of 2 of 4");
        assert_eq!(rows("filter=%41nn+a"), "[] of 0 of 4");
        assert_eq!(rows("filter=hidden"), "[] of 0 of 4");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for query in [
            "order=secret",
            "order=",
            "limit=1001",
            "limit=-1",
            "limit=x",
            "direction=up",
            "nothing=1",
            "filter",
            "filter=%4",
            "filter=%zz",
            "filter=%ff",
        ] {
            assert_eq!(Part::of(query, &SHOWN), None, "{query}");
        }
    }

    #[test]
    fn every_field_is_a_column_of_its_table() {
        for shown in TABLES {
            let columns = shown.show.columns();
            for field in shown.fields {
                let column = columns.iter().find(|column| column.name == field.column);
                assert!(column.is_some(), "{} has no {}", shown.name, field.column);
            }
            let ordered = shown.fields.iter().any(|field| field.column == shown.order);
            assert!(ordered || shown.order.is_empty(), "{}", shown.name);
        }
    }

    /// Hazards J7 and J15: whoever has the token is nobody's admin.
    #[test]
    fn texts_with_literals_and_secrets_are_not_shown() {
        let hidden = ["text", "example", "values", "cancel", "password", "value"];
        for field in TABLES.iter().flat_map(|shown| shown.fields) {
            assert!(!hidden.contains(&field.column), "{}", field.column);
        }
        let admins = [Show::Fds, Show::Config, Show::CacheDifferences];
        assert!(TABLES.iter().all(|shown| !admins.contains(&shown.show)));
    }
}
