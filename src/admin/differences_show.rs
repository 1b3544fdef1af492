//! `SHOW CACHE_DIFFERENCES`: hits that would have differed from what PostgreSQL answered.

use std::time::SystemTime;

use crate::cache::verify::Difference;

use super::table::{Columns, Table, int4, int8, text, time, value};

pub const CACHE_DIFFERENCES: Columns = &[
    text("time"),
    text("database"),
    text("user"),
    text("kind"),
    int8("age_ms"),
    int8("first_byte"),
    int8("bytes_kept"),
    int8("bytes_now"),
    text("tables"),
    text("settings"),
    int4("server_pid"),
    text("statement"),
    text("parameters"),
    text("kept"),
    text("now"),
];

/// In the order given: newest first. Each with the time of day when it was found.
pub fn differences(differences: &[(SystemTime, Difference)]) -> Table {
    let mut table = Table::new(CACHE_DIFFERENCES);
    for (at, difference) in differences {
        let age = difference.at.saturating_duration_since(difference.filled_at);
        let excerpts = difference.excerpts.clone().map(|[kept, now]| (kept, now));
        let (kept, now) = excerpts.unzip();
        table.push(vec![
            value(time(*at)),
            value(&difference.database),
            value(&difference.user),
            value(difference.kind.name()),
            value(age.as_millis()),
            difference.first_byte.map(|at| at.to_string()),
            value(difference.bytes_kept),
            value(difference.bytes_now),
            value(&difference.tables),
            value(&difference.settings),
            value(difference.server_pid),
            value(&difference.statement),
            difference.parameters.clone(),
            kept,
            now,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cache::verify::Kind;

    #[test]
    fn a_difference_is_a_row_and_hides_values_unless_it_has_them() {
        let filled_at = Instant::now();
        let difference = Difference {
            at: filled_at + Duration::from_millis(250),
            filled_at,
            kind: Kind::Error(*b"42501"),
            database: "app".into(),
            user: "ann".into(),
            settings: "role = 'bob'".into(),
            statement: "SELECT v FROM t".into(),
            parameters: None,
            tables: "(database)@1, public.t@4".into(),
            first_byte: Some(12),
            bytes_kept: 30,
            bytes_now: 0,
            excerpts: None,
            server_pid: 77,
        };
        let shown = Difference {
            excerpts: Some(["one".into(), "two".into()]),
            parameters: Some("'7'".into()),
            ..difference.clone()
        };
        let at = SystemTime::UNIX_EPOCH;
        let table = differences(&[(at, difference), (at, shown)]);
        let row = |index: usize| -> Vec<&str> {
            table.rows[index].iter().map(|value| value.as_deref().unwrap_or("NULL")).collect()
        };
        let expected = "app|ann|error 42501|250|12|30|0|(database)@1, public.t@4|role = 'bob'|77|\
                        SELECT v FROM t|";
        assert_eq!(row(0)[1..].join("|"), format!("{expected}NULL|NULL|NULL"));
        assert_eq!(row(1)[1..].join("|"), format!("{expected}'7'|one|two"));
        assert_eq!(row(0).len(), CACHE_DIFFERENCES.len());
    }
}
