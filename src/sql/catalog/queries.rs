//! The text of the questions put to PostgreSQL's catalogues. They work for any role that may
//! connect, on PostgreSQL 12 to 18, and know nothing of what is made of the answers.
//!
//! "Outside" means outside `pg_catalog`: code or types that PostgreSQL did not bring. Built-in
//! objects are pinned and leave no row in `pg_depend`, all others do, so a stored expression that
//! reaches outside code shows it there.

use super::extensions;

/// Objects of `pg_depend` that are code or types from outside, and not merely an enum: an enum's
/// operators and its input and output are PostgreSQL's own.
macro_rules! outside_code {
    () => {
        "(d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass, \
          'pg_opfamily'::regclass, 'pg_cast'::regclass, 'pg_language'::regclass) AND d.refobjid >= 16384 \
          OR d.refclassid = 'pg_type'::regclass AND d.refobjid >= 16384 AND NOT EXISTS ( \
             SELECT FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typlen = -1 \
             WHERE t.oid = d.refobjid AND 'e' IN (t.typtype, e.typtype)))"
    };
}

/// Calls, in the text of a stored node tree, of built-ins that run SQL text.
macro_rules! runs_sql {
    ($text:literal) => {
        concat!("(", $text, ")::text ~ current_setting('forebay.runs_sql')")
    };
}

/// Asked once a connection, before anything else; what they answer never changes. One text
/// result set each.
///
/// The first makes the names in the others mean PostgreSQL's own, whatever the role's settings,
/// and keeps the pattern of calls of built-ins that run SQL text (`runs_sql!`), since to find
/// them among all functions takes longer than the rest of a snapshot.
pub const SETUP_QUERIES: &[&str] = &[
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false), \
     pg_catalog.set_config('forebay.runs_sql', ':(aggfnoid|winfnoid|funcid|opfuncid) (' || \
     (SELECT string_agg(oid::text, '|') FROM pg_catalog.pg_proc \
     WHERE pronamespace = 'pg_catalog'::regnamespace AND proname ~ \
     '^(query_to_xml|cursor_to_xml|table_to_xml|schema_to_xml|database_to_xml|ts_stat$|\
     ts_rewrite$|lo_import|lo_export|pg_import_system|set_config$|\
     pg_(try_)?advisory_(lock|unlock_all))') || ') ', false)",
    // Built-in functions: name, volatility, whether `row.name` may call it, id, arguments.
    "SELECT proname::text, provolatile::text, \
     (pronargs >= 1 AND pronargs - pronargdefaults <= 1 AND proargtypes[0] IN \
     (2249, 2276, 2283, 2776, 5077, 5079))::text, oid::text, pronargs::text \
     FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND oid < 16384",
];

/// One text result set each, in this order, inside one REPEATABLE READ READ ONLY transaction.
pub const SNAPSHOT_QUERIES: &[&str] = &[
    // One row: database, version, event triggers, code in the support of operator classes, and
    // in the expressions of indexes and statistics, and what may write by a connection of its own.
    "SELECT (SELECT oid FROM pg_database WHERE datname = current_database())::text, \
     current_setting('server_version_num'), \
     (SELECT count(*) FROM pg_event_trigger WHERE evtenabled <> 'D')::text, \
     (SELECT count(*) FROM pg_amproc a JOIN pg_proc p ON p.oid = a.amproc::oid \
      WHERE p.oid >= 16384 AND p.prolang NOT IN (12, 13))::text, \
     ((SELECT count(*) FROM pg_index i JOIN pg_depend d ON d.classid = 'pg_class'::regclass \
      AND d.objid = i.indexrelid AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) \
      WHERE d.refobjid >= 16384) \
      + (SELECT count(*) FROM pg_depend d WHERE d.classid = 'pg_statistic_ext'::regclass \
      AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) \
      AND d.refobjid >= 16384))::text, \
     ((SELECT count(*) FROM pg_foreign_server) \
      + (SELECT count(*) FROM pg_language WHERE lanispl AND NOT lanpltrusted) \
      + (SELECT count(*) FROM pg_proc p WHERE p.oid >= 16384 AND p.prolang = 13 \
         AND p.proname ~ '^(dblink|pg_background)'))::text",
    "SELECT oid::text, nspname::text FROM pg_namespace \
     WHERE nspname !~ '^pg_(toast_)?temp_' AND nspname <> 'pg_toast'",
    // Relations. Indexes and composite types are no relation that a query may name.
    "SELECT c.oid::text, c.relname::text, c.relnamespace::text, c.relkind::text, \
     c.relpersistence::text, c.relrowsecurity::text, \
     EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid \
      AND (NOT t.tgisinternal OR t.tgfoid >= 16384))::text, \
     EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN')::text \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't' \
     AND n.nspname !~ '^pg_toast'",
    "SELECT a.attrelid::text, a.attname::text, a.atttypid::text \
     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
     JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
     AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
     ORDER BY a.attrelid, a.attnum",
    // A temporary child is read and written by its own session alone, which is known to have some.
    "SELECT i.inhrelid::text, i.inhparent::text FROM pg_inherits i \
     JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relpersistence <> 't'",
    "SELECT conrelid::text, confrelid::text, confdeltype::text, confupdtype::text \
     FROM pg_constraint WHERE contype = 'f'",
    // Types. A multirange's or range's element does not matter here: outside is outside.
    "SELECT oid::text, typname::text, typnamespace::text, typtype::text, \
     CASE WHEN typlen = -1 AND typcategory = 'A' THEN typelem ELSE 0 END::text, typbasetype::text \
     FROM pg_type t WHERE NOT EXISTS (SELECT FROM pg_namespace n WHERE n.oid = t.typnamespace \
     AND n.nspname ~ '^pg_(toast_)?temp_')",
    // Functions outside. Types of output arguments are given with those of the others.
    "SELECT proname::text, pronamespace::text, proargtypes::text, pronargdefaults::text, \
     (provariadic <> 0)::text, concat_ws(' ', prorettype, array_to_string(proallargtypes, ' ')) \
     FROM pg_proc WHERE pronamespace <> 'pg_catalog'::regnamespace \
     OR oid >= 16384",
    "SELECT oprname::text, oprnamespace::text, oprleft::text, oprright::text FROM pg_operator \
     WHERE oprnamespace <> 'pg_catalog'::regnamespace OR oid >= 16384",
    "SELECT castsource::text, casttarget::text, castcontext::text, (castfunc >= 16384)::text \
     FROM pg_cast WHERE oid >= 16384",
    // Tables whose defaults, generated columns, checks, policies, partition keys or indexes
    // reach outside code, and views whose definition does.
    concat!(
        "WITH stored(classid, objid, relid) AS ( \
         SELECT 'pg_attrdef'::regclass, oid, adrelid FROM pg_attrdef \
         UNION ALL SELECT 'pg_constraint'::regclass, oid, conrelid FROM pg_constraint WHERE conrelid <> 0 \
         UNION ALL SELECT 'pg_policy'::regclass, oid, polrelid FROM pg_policy \
         UNION ALL SELECT 'pg_rewrite'::regclass, oid, ev_class FROM pg_rewrite \
         UNION ALL SELECT 'pg_class'::regclass, indexrelid, indrelid FROM pg_index \
         UNION ALL SELECT 'pg_class'::regclass, partrelid, partrelid FROM pg_partitioned_table) \
         SELECT DISTINCT s.relid::text FROM stored s \
         JOIN pg_depend d ON d.classid = s.classid AND d.objid = s.objid WHERE \
         NOT (s.classid = 'pg_class'::regclass AND d.refclassid = 'pg_type'::regclass) AND ",
        outside_code!(),
        " UNION SELECT adrelid::text FROM pg_attrdef WHERE ",
        runs_sql!("adbin"),
        " UNION SELECT conrelid::text FROM pg_constraint WHERE conrelid <> 0 AND ",
        runs_sql!("conbin"),
        " UNION SELECT polrelid::text FROM pg_policy WHERE ",
        runs_sql!("concat(polqual, polwithcheck)"),
        " UNION SELECT indrelid::text FROM pg_index WHERE ",
        runs_sql!("concat(indexprs, indpred)"),
        " UNION SELECT ev_class::text FROM pg_rewrite WHERE oid >= 16384 AND ",
        runs_sql!("ev_action")
    ),
    // What a view or policy reads: (view or table, relation).
    "SELECT DISTINCT r.ev_class::text, d.refobjid::text, 'v' FROM pg_rewrite r JOIN pg_depend d \
     ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid \
     AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class \
     UNION SELECT DISTINCT p.polrelid::text, d.refobjid::text, 'p' FROM pg_policy p JOIN pg_depend d \
     ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid \
     AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> p.polrelid",
    // Domains that run outside code in a check or default, directly.
    concat!(
        "SELECT DISTINCT c.contypid::text FROM pg_constraint c JOIN pg_depend d \
         ON d.classid = 'pg_constraint'::regclass AND d.objid = c.oid WHERE c.contypid <> 0 \
         AND d.refobjid <> c.contypid AND ",
        outside_code!(),
        " UNION SELECT contypid::text FROM pg_constraint WHERE contypid <> 0 AND ",
        runs_sql!("conbin"),
        " UNION SELECT t.oid::text FROM pg_type t JOIN pg_depend d ON d.classid = 'pg_type'::regclass \
         AND d.objid = t.oid WHERE t.typtype = 'd' AND t.typdefaultbin IS NOT NULL \
         AND d.refobjid <> t.typbasetype AND ",
        outside_code!(),
        " UNION SELECT oid::text FROM pg_type WHERE typtype = 'd' AND ",
        runs_sql!("typdefaultbin")
    ),
    // The trees of views, and of policies as far as they concern reading. The largest of them are
    // left out, and not followed, when all together are more than 16 MB.
    "SELECT relation::text, kind, CASE WHEN sum(octet_length(tree)) OVER \
     (ORDER BY octet_length(tree), relation, kind ROWS UNBOUNDED PRECEDING) <= 16777216 \
     THEN tree ELSE '' END FROM ( \
     SELECT ev_class, 'v', ev_action::text FROM pg_rewrite JOIN pg_class c ON c.oid = ev_class \
     WHERE c.relkind = 'v' AND c.oid >= 16384 AND c.relpersistence <> 't' AND rulename = '_RETURN' \
     UNION ALL SELECT polrelid, 'p', polqual::text FROM pg_policy \
     WHERE polcmd IN ('r', '*') AND polqual IS NOT NULL) AS stored(relation, kind, tree)",
    extensions::QUERY,
];
