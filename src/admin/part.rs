//! `SHOW … ORDER BY column LIMIT n`: the rows of a table in another order, or not all of them.

use super::table::{Columns, Kind, Table, Value};

/// What was asked, with the column as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    column: Option<&'a str>,
    direction: Option<Direction>,
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

/// Order and number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    order: Option<(usize, Direction)>,
    limit: Option<usize>,
}

impl Part {
    /// What stands before it, and what was asked, if anything was.
    pub fn split<'a, 'b>(words: &'a [&'b str]) -> (&'a [&'b str], Option<Asked<'b>>) {
        let (rest, limit) = match words {
            [rest @ .., "limit", count] => match count.parse() {
                Ok(count) => (rest, Some(count)),
                Err(_) => return (words, None),
            },
            rest => (rest, None),
        };
        let (rest, column, direction) = match rest {
            [rest @ .., "order", "by", column, "asc"] => {
                (rest, Some(*column), Some(Direction::Ascending))
            }
            [rest @ .., "order", "by", column, "desc"] => {
                (rest, Some(*column), Some(Direction::Descending))
            }
            [rest @ .., "order", "by", column] => (rest, Some(*column), None),
            rest => (rest, None, None),
        };
        let asked = Asked { column, direction, limit };
        (rest, (column.is_some() || limit.is_some()).then_some(asked))
    }

    /// The rows so asked for.
    #[must_use]
    pub fn of(self, mut table: Table) -> Table {
        if let Some((index, direction)) = self.order {
            let kind = table.columns.get(index).map_or(Kind::Text, |column| column.kind);
            let key = |row: &Vec<Value>| key(row.get(index).cloned().flatten(), kind);
            // Rows that are alike stay in their order.
            match direction {
                Direction::Ascending => table.rows.sort_by_cached_key(key),
                Direction::Descending => {
                    table.rows.sort_by_cached_key(|row| std::cmp::Reverse(key(row)));
                }
            }
        }
        table.rows.truncate(self.limit.unwrap_or(usize::MAX));
        table
    }
}

impl Asked<'_> {
    /// `None`: there is no such column. Without a direction the largest numbers come first, and
    /// the first words.
    pub fn of(self, columns: Columns) -> Option<Part> {
        let order = match self.column {
            None => None,
            Some(name) => {
                let index = columns.iter().position(|column| column.name == name)?;
                let text = columns.get(index)?.kind == Kind::Text && !is_number(name);
                let usual = if text { Direction::Ascending } else { Direction::Descending };
                Some((index, self.direction.unwrap_or(usual)))
            }
        };
        Some(Part { order, limit: self.limit })
    }
}

/// A number that is shown as text.
fn is_number(name: &str) -> bool {
    name.ends_with("_rate") || name.ends_with("_per_request")
}

/// Numbers by their value, in thousandths, before all texts; NULL first.
fn key(value: Value, kind: Kind) -> (Option<i128>, Option<String>) {
    let number = |text: &str| -> Option<i128> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let thousandths = format!("{part:0<3}").get(..3)?.parse::<i128>().ok()?;
        whole.parse::<i128>().ok()?.checked_mul(1000)?.checked_add(thousandths)
    };
    match (value.as_deref().and_then(number), kind) {
        (Some(number), _) => (Some(number), None),
        (None, Kind::Int4 | Kind::Int8 | Kind::Numeric | Kind::Text | Kind::Bytea) => (None, value),
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{int8, text, value};
    use super::*;

    const COLUMNS: Columns = &[text("name"), int8("count"), text("hit_rate")];

    fn part(words: &str) -> Option<Part> {
        let words: Vec<&str> = words.split(' ').collect();
        let (rest, asked) = Part::split(&words);
        assert_eq!(rest, ["show"]);
        asked?.of(COLUMNS)
    }

    fn names(words: &str) -> String {
        let mut table = Table::new(COLUMNS);
        for (name, count, rate) in [("b", 9, "9.5"), ("a", 10, "10.0"), ("c", 9, "100.0")] {
            table.push(vec![value(name), value(count), value(rate)]);
        }
        table.push(vec![value("d"), None, None]);
        let table = part(words).unwrap().of(table);
        table.rows.iter().map(|row| row[0].clone().unwrap()).collect()
    }

    #[test]
    fn numbers_come_largest_first_and_words_smallest_first() {
        assert_eq!(names("show order by count"), "abcd");
        assert_eq!(names("show order by count asc"), "dbca");
        assert_eq!(names("show order by hit_rate limit 2"), "ca");
        assert_eq!(names("show order by name"), "abcd");
        assert_eq!(names("show order by name desc limit 1"), "d");
        assert_eq!(names("show limit 3"), "bac");
        assert_eq!(names("show limit 0"), "");
    }

    #[test]
    fn a_text_of_more_digits_than_numbers_have_is_a_text() {
        let digits = "9".repeat(38);
        assert_eq!(key(value(&digits), Kind::Text), (None, Some(digits)));
    }

    #[test]
    fn what_is_no_column_or_no_number_is_not_understood() {
        assert_eq!(part("show order by nothing"), None);
        assert_eq!(part("show"), None);
        for words in [&["show", "limit", "x"][..], &["show", "limit", "-1"]] {
            assert_eq!(Part::split(words), (words, None));
        }
    }
}
