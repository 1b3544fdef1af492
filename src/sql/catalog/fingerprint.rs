//! The cheap question whether the snapshot is still true.
//!
//! Rows count by `xmin`, so that a change and its reversal show too, and by content where
//! PostgreSQL updates rows for reasons that change no verdict (a new file for a table, in
//! `pg_class`). Left out: whatever belongs to temporary schemas, statistics, and PostgreSQL's own
//! rows in the large catalogues, which only a superuser at odds with the manual changes; but not
//! those of functions with privileges of their own, for to revoke one is no such thing.

/// A catalogue with an `oid`, restricted by `$where`.
macro_rules! rows {
    ($table:literal, $where:literal) => {
        concat!(
            "(SELECT count(*) || ':' || coalesce(sum(hashint8extended(xmin::text::bigint, oid::bigint)), 0) \
              FROM ",
            $table,
            " WHERE ",
            $where,
            "), "
        )
    };
    ($table:literal) => {
        rows!($table, "true")
    };
}

/// A catalogue that belongs to relations through `$column`.
macro_rules! of_relations {
    ($table:literal, $column:literal, $seed:literal) => {
        concat!(
            "(SELECT count(*) || ':' || coalesce(sum(hashint8extended(x.xmin::text::bigint, ",
            $seed,
            ")), 0) FROM ",
            $table,
            " x JOIN relations r ON r.oid = x.",
            $column,
            "), "
        )
    };
}

/// One row, one text value; it changes whenever anything a verdict or a permission depends on
/// has changed. Run it with `search_path = pg_catalog`, so that its names mean what they say.
/// No `md5()`, which PostgreSQL has not got with OpenSSL in FIPS mode.
pub const FINGERPRINT_QUERY: &str = concat!(
    "WITH temporary AS MATERIALIZED \
     (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp_'), \
     relations AS MATERIALIZED (SELECT oid FROM pg_class \
     WHERE oid >= 16384 AND relpersistence <> 't' AND relkind <> 't') \
     SELECT concat_ws(',', ",
    "(SELECT count(*) || ':' || coalesce(sum(hashtextextended(concat_ws('|', oid, relname, \
     relnamespace, relowner, relkind, relpersistence, relrowsecurity, relforcerowsecurity, \
     relispartition, reltype, reloftype, relam, relacl, reloptions, relpartbound), 0)), 0) \
     FROM pg_class JOIN relations USING (oid)), ",
    of_relations!(
        "pg_attribute",
        "attrelid AND x.attnum > 0",
        "(x.attrelid::bigint << 16) + x.attnum"
    ),
    of_relations!("pg_attrdef", "adrelid", "x.oid::bigint"),
    of_relations!("pg_constraint", "conrelid", "x.oid::bigint"),
    of_relations!("pg_trigger", "tgrelid", "x.oid::bigint"),
    of_relations!("pg_rewrite", "ev_class", "x.oid::bigint"),
    of_relations!("pg_policy", "polrelid", "x.oid::bigint"),
    of_relations!("pg_inherits", "inhrelid", "(x.inhrelid::bigint << 31) + x.inhparent::bigint"),
    of_relations!("pg_partitioned_table", "partrelid", "x.partrelid::bigint"),
    of_relations!("pg_foreign_table", "ftrelid", "x.ftrelid::bigint"),
    // An index is used or not without changing an answer; its definition may call code.
    "(SELECT count(*) || ':' || coalesce(sum(hashint8extended(x.indexrelid::bigint, x.indrelid::bigint)), 0) \
     FROM pg_index x JOIN relations r ON r.oid = x.indrelid), ",
    rows!("pg_constraint", "contypid <> 0 AND oid >= 16384"),
    rows!(
        "pg_proc",
        "(oid >= 16384 OR proacl IS NOT NULL) AND pronamespace NOT IN (SELECT oid FROM temporary)"
    ),
    rows!("pg_type", "oid >= 16384 AND typnamespace NOT IN (SELECT oid FROM temporary)"),
    rows!("pg_namespace", "oid NOT IN (SELECT oid FROM temporary)"),
    rows!("pg_operator", "oid >= 16384"),
    rows!("pg_cast", "oid >= 16384"),
    rows!("pg_opclass", "oid >= 16384"),
    rows!("pg_amproc", "oid >= 16384"),
    rows!("pg_amop", "oid >= 16384"),
    rows!(
        "pg_enum",
        "enumtypid NOT IN (SELECT t.oid FROM pg_type t JOIN temporary n ON n.oid = t.typnamespace)"
    ),
    rows!("pg_collation"),
    rows!("pg_statistic_ext"),
    rows!("pg_language"),
    rows!("pg_event_trigger"),
    rows!("pg_foreign_server"),
    rows!("pg_ts_config"),
    rows!("pg_ts_dict"),
    "(SELECT count(*) || ':' || coalesce(sum(hashint8extended(xmin::text::bigint, \
     (mapcfg::bigint << 16) + maptokentype * 64 + mapseqno)), 0) FROM pg_ts_config_map), ",
    "(SELECT count(*) || ':' || coalesce(sum(hashint8extended(xmin::text::bigint, aggfnoid::oid::bigint)), 0) \
     FROM pg_aggregate WHERE aggfnoid::oid >= 16384), ",
    // Who may do what, and with which settings a session begins.
    "(SELECT count(*) || ':' || coalesce(sum(hashtextextended(concat_ws('|', oid, rolname, rolsuper, \
     rolinherit, rolcanlogin, rolbypassrls, rolvaliduntil), 0)), 0) FROM pg_roles), ",
    "(SELECT count(*) || ':' || coalesce(sum(hashint8extended(xmin::text::bigint, \
     (roleid::bigint << 31) + member::bigint)), 0) FROM pg_auth_members), ",
    "(SELECT count(*) || ':' || coalesce(sum(hashint8extended(xmin::text::bigint, \
     (setdatabase::bigint << 31) + setrole::bigint)), 0) FROM pg_db_role_setting \
     WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))), ",
    "(SELECT concat_ws('|', oid, datname, datdba, datacl) FROM pg_database \
     WHERE datname = current_database()), ",
    // Which server this is. A copy of it, promoted, has another start time at least.
    "pg_conf_load_time(), pg_postmaster_start_time(), pg_is_in_recovery())"
);
