//! What `EXPLAIN SLOW` shows, in PostgreSQL's own lines.

use super::table::{Columns, Table, text, value};

/// Named as PostgreSQL names it, for tools that draw plans.
pub const PLAN: Columns = &[text("QUERY PLAN")];

/// The plan of a query over thousands of partitions is longer than anybody reads.
const LINES_MAX: usize = 5000;

pub type Plan = Vec<String>;

pub fn plan(lines: &Plan) -> Table {
    let mut table = Table::new(PLAN);
    for line in lines.iter().take(LINES_MAX) {
        table.push(vec![value(line)]);
    }
    if let Some(more) = lines.len().checked_sub(LINES_MAX).filter(|more| *more > 0) {
        table.push(vec![value(format!("({more} more lines)"))]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_a_last_line() {
        assert_eq!(plan(&vec!["Result".to_owned()]).rows, [[value("Result")]]);
        let long = plan(&vec!["Append".to_owned(); LINES_MAX + 7]);
        assert_eq!(
            (long.rows.len(), &long.rows[LINES_MAX]),
            (LINES_MAX + 1, &vec![value("(7 more lines)")])
        );
    }
}
