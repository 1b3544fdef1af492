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

/// In the order given: newest first. Each with the time of day when it was found, and with its
/// `values` if they may be seen.
pub fn differences(differences: &[(SystemTime, Difference)], values: bool) -> Table {
    let mut table = Table::new(CACHE_DIFFERENCES);
    for (at, difference) in differences {
        let age = difference.at.saturating_duration_since(difference.filled_at);
        let text = difference.text.as_ref().filter(|_| values);
        let settings = difference.settings_in_full.as_ref().filter(|_| values);
        let excerpts = difference.excerpts.clone().filter(|_| values);
        let (kept, now) = excerpts.map(|[kept, now]| (kept, now)).unzip();
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
            value(settings.unwrap_or(&difference.settings)),
            value(difference.server_pid),
            value(text.unwrap_or(&difference.statement)),
            difference.parameters.clone().filter(|_| values),
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
    fn a_difference_is_a_row_and_hides_values_unless_it_has_them_and_they_may_be_seen() {
        let filled_at = Instant::now();
        let difference = Difference {
            at: filled_at + Duration::from_millis(250),
            filled_at,
            kind: Kind::Error(*b"42501"),
            database: "app".into(),
            user: "ann".into(),
            settings: "app.key = \u{2026}".into(),
            settings_in_full: None,
            statement: "SELECT v FROM t WHERE v <> $1".into(),
            text: None,
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
            settings_in_full: Some("app.key = 'k'".into()),
            text: Some("SELECT v FROM t WHERE v <> 'x'".into()),
            parameters: Some("'7'".into()),
            ..difference.clone()
        };
        let at = SystemTime::UNIX_EPOCH;
        let both = [(at, difference), (at, shown)];
        let row = |index: usize, values| {
            let table = differences(&both, values);
            assert_eq!(table.rows[index].len(), CACHE_DIFFERENCES.len());
            let row = table.rows[index][1..].iter();
            row.map(|value| value.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join("|")
        };
        let expected = |settings, rest| {
            let head = "app|ann|error 42501|250|12|30|0|(database)@1, public.t@4";
            format!("{head}|app.key = {settings}|77|SELECT v FROM t WHERE v <> {rest}")
        };
        for (index, values) in [(0, true), (0, false), (1, false)] {
            assert_eq!(row(index, values), expected("\u{2026}", "$1|NULL|NULL|NULL"));
        }
        assert_eq!(row(1, true), expected("'k'", "'x'|'7'|one|two"));
    }
}
