//! What the catalogue cannot say of PostgreSQL's own functions: which stable ones depend on
//! nothing but rows and settings of the key, and which run SQL text or code they are handed.
//!
//! Names, not overloads: a name is as bad as its worst overload. Lists are sorted.

/// STABLE, because of `TimeZone`, `DateStyle`, output settings, encoding, enum order or the default
/// text search configuration. Settings are in the key, and catalogue changes empty the cache.
/// Missing on purpose: whatever reads the clock, the session or a catalogue, whatever turns
/// text into values of time types (`json_to_record`, `timestamptz`), where `now` may stand, and
/// whatever gives a time of day the offset of today (`jsonb_path_query_tz`).
const STABLE: &[&str] = &[
    "array_to_json",
    "array_to_string",
    "concat",
    "concat_ws",
    "convert",
    "convert_from",
    "convert_to",
    "date_part",
    "date_trunc",
    "enum_first",
    "enum_last",
    "enum_range",
    "extract",
    "format",
    "generate_series",
    "json_agg",
    "json_agg_strict",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "json_object_agg_strict",
    "json_object_agg_unique",
    "json_object_agg_unique_strict",
    "json_to_tsvector",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "jsonb_object_agg_strict",
    "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict",
    "jsonb_to_tsvector",
    "length",
    "make_timestamptz",
    "overlaps",
    "phraseto_tsquery",
    "plainto_tsquery",
    "quote_literal",
    "quote_nullable",
    "row_to_json",
    "timezone",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
    "to_tsquery",
    "to_tsvector",
    "ts_headline",
    "websearch_to_tsquery",
];

/// The immutable built-ins called `pg_…` whose answer depends on their arguments alone; the
/// others look at catalogues, timelines or storage whatever their label says.
const PG_IMMUTABLE: &[&str] = &["pg_lsn", "pg_size_bytes", "pg_size_pretty", "pg_wal_lsn_diff"];

/// May run SQL, expressions of indexes, checks of domains or foreign code, or change catalogues.
const RUNS_CODE: &[&str] = &[
    "array_in",
    "array_recv",
    "brin_desummarize_range",
    "brin_summarize_new_values",
    "brin_summarize_range",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "domain_in",
    "domain_recv",
    "gin_clean_pending_list",
    "json_populate_record",
    "json_populate_recordset",
    "jsonb_populate_record",
    "jsonb_populate_record_valid",
    "jsonb_populate_recordset",
    "multirange_in",
    "multirange_recv",
    "pg_extension_config_dump",
    "pg_import_system_collations",
    "pg_input_error_info",
    "pg_input_is_valid",
    "pg_logical_slot_get_binary_changes",
    "pg_logical_slot_get_changes",
    "pg_logical_slot_peek_binary_changes",
    "pg_logical_slot_peek_changes",
    "pg_nextoid",
    "pg_stop_making_pinned_objects",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "range_in",
    "range_recv",
    "record_in",
    "record_recv",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
    "ts_rewrite",
    "ts_stat",
];

/// Session-level advisory locks: only the session that took one can give it back.
const ADVISORY_LOCKS: &[&str] = &[
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
];

/// Words that PostgreSQL reads as a moment where a date or time is wanted.
const TIME_WORDS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];

/// Types whose input takes time words, or that an input of another type leads to.
const TIME_TYPES: &[&str] = &[
    "abstime",
    "date",
    "daterange",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsmultirange",
    "tsrange",
    "tstzmultirange",
    "tstzrange",
    "datemultirange",
];

/// An answer computed with this stable built-in may be kept; `arguments` is how many it is given.
pub fn stable_allowed(name: &str, arguments: usize) -> bool {
    // With one argument it counts from today.
    STABLE.binary_search(&name).is_ok() || name == "age" && arguments == 2
}

/// Converts between dates, times and amounts that are values already. In a text the same name
/// may read a literal, which these never do.
pub fn converts_moments(name: &str) -> bool {
    matches!(name, "date" | "money" | "numeric" | "time" | "timestamp" | "timestamptz")
}

/// A setting that only applications know (`app.tenant`): what a client sets of them is in the key.
pub fn is_own_setting(name: &str) -> bool {
    name.contains('.')
}

/// An answer computed with this immutable built-in may not be kept all the same.
pub fn immutable_refused(name: &str) -> bool {
    name.starts_with("pg_") && !PG_IMMUTABLE.contains(&name)
}

/// A statement that calls this built-in may do anything.
pub fn runs_code(name: &str) -> bool {
    RUNS_CODE.binary_search(&name).is_ok() || name.starts_with("binary_upgrade_")
}

pub fn takes_advisory_lock(name: &str) -> bool {
    ADVISORY_LOCKS.contains(&name)
}

/// Whatever it is given, the result is a date or time, never text.
pub fn returns_moment(name: &str) -> bool {
    matches!(
        name,
        "date_trunc"
            | "make_date"
            | "make_timestamp"
            | "make_timestamptz"
            | "timezone"
            | "to_date"
            | "to_timestamp"
    )
}

/// Gives the time in another time zone: of a `time` by today's offset.
pub fn changes_zone(name: &str) -> bool {
    name == "timezone"
}

/// The result is a `time` though no argument is one.
pub fn makes_time(name: &str) -> bool {
    name == "make_time"
}

/// The value of a built-in type of this name is a moment or contains one.
pub fn is_time_type(name: &str) -> bool {
    TIME_TYPES.contains(&name)
}

/// The text may be read as a date or time that depends on the clock. Errs on the side of yes.
pub fn has_time_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    TIME_WORDS.iter().any(|word| {
        bytes.windows(word.len()).enumerate().any(|(at, window)| {
            let alone = |byte: Option<&u8>| !byte.is_some_and(u8::is_ascii_alphabetic);
            window.eq_ignore_ascii_case(word)
                && alone(at.checked_sub(1).and_then(|before| bytes.get(before)))
                && alone(bytes.get(at + word.len()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_searched_by_halves_are_sorted() {
        assert!(STABLE.is_sorted());
        assert!(RUNS_CODE.is_sorted());
    }

    #[test]
    fn time_words_are_found_in_any_case_and_place() {
        for text in ["now", " NOW ", "Today", "(,today]", "[yesterday,tomorrow)", "{now}"] {
            assert!(has_time_word(text), "{text}");
        }
        for text in ["", "knowing", "snow", "todays", "2024-01-01"] {
            assert!(!has_time_word(text), "{text}");
        }
    }
}
