//! The text of the questions by which PostgreSQL is asked how it would run a statement. It is
//! planned and never run: no `ANALYZE`, since that runs what was slow once more.

/// Longer planning, or waiting for a lock, is given up.
const LIMIT: &str = "SET LOCAL statement_timeout = '5s'";

const NAME: &str = "forebay_slow";

/// Planning may call functions of the user's; what they write is refused, and rolled back.
pub fn opening() -> String {
    format!("BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY; {LIMIT}")
}

/// In brackets, so that a text that begins with ANALYZE is a mistake and not a run.
pub fn explain(text: &str) -> String {
    format!("EXPLAIN (COSTS) {text}")
}

/// A statement with parameters is planned for any values: those it had are not kept. `declared`
/// are the names of the types declared for them, in order.
pub fn prepare(text: &str, declared: &[String]) -> String {
    let types =
        if declared.is_empty() { String::new() } else { format!(" ({})", declared.join(", ")) };
    format!("SET LOCAL plan_cache_mode = force_generic_plan; PREPARE {NAME}{types} AS {text}")
}

pub fn explain_prepared(parameters: u32) -> String {
    let nulls = vec!["NULL"; usize::try_from(parameters).unwrap_or(usize::MAX)].join(", ");
    format!("EXPLAIN (COSTS) EXECUTE {NAME} ({nulls})")
}

/// One of the words stands at the front that a read begins with, or a bracket.
pub fn may_be_read(text: &str) -> bool {
    begins_with(text, &["select", "with", "values", "table"]) || text.starts_with('(')
}

/// It has values at most, no secrets: passwords stand in utility statements.
pub fn is_data(text: &str) -> bool {
    may_be_read(text) || begins_with(text, &["insert", "update", "delete", "merge"])
}

fn begins_with(text: &str, words: &[&str]) -> bool {
    let end = text.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let first = text.get(..end).unwrap_or_default();
    words.iter().any(|word| first.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_statement_is_planned_for_any_values() {
        let types = ["integer".to_owned(), "pg_catalog.unknown".to_owned()];
        let text = "SELECT $1, $2";
        assert_eq!(
            prepare(text, &types),
            "SET LOCAL plan_cache_mode = force_generic_plan; \
             PREPARE forebay_slow (integer, pg_catalog.unknown) AS SELECT $1, $2"
        );
        assert!(prepare(text, &[]).ends_with("PREPARE forebay_slow AS SELECT $1, $2"));
        assert_eq!(explain_prepared(2), "EXPLAIN (COSTS) EXECUTE forebay_slow (NULL, NULL)");
    }

    #[test]
    fn only_texts_that_begin_as_reads_are_planned() {
        for text in
            ["SELECT 1", "with a as (select 1) select 2", "VALUES (1)", "TABLE t", "(select 1)"]
        {
            assert!(may_be_read(text) && is_data(text), "{text}");
        }
        for text in ["insert into t", "UPDATE t", "delete from t", "MERGE INTO t"] {
            assert!(!may_be_read(text) && is_data(text), "{text}");
        }
        for text in ["", "ANALYZE t", "selects", "EXPLAIN SELECT 1", "ALTER ROLE a PASSWORD 'x'"] {
            assert!(!may_be_read(text) && !is_data(text), "{text}");
        }
    }
}
