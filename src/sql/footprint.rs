//! What a transaction has written so far, asked of PostgreSQL itself, on the very connection and
//! before its commit is sent: the question, and what its answer means.
//!
//! Invariant: the question names everything by schema, operators included, since the session's
//! `search_path` is its client's. Attacked by the suite: `writes`.

use std::collections::BTreeSet;

use super::catalog::Catalog;
use super::verdict::TableId;

/// One row of text. A relation that was written is locked in a mode of writers until the
/// transaction ends, whoever wrote it: a trigger, a foreign key, dynamic SQL. Changes of
/// catalogues leave no such lock, but are counted in this backend; catalogues beside which a
/// temporary table is made too are counted apart. The counts may include transactions of a
/// moment ago, since PostgreSQL hands them on now and then only.
///
/// Code that runs within the commit comes after the question: deferred triggers of users, and
/// cursors that outlive the transaction.
pub const QUESTION: &str = "\
SELECT w.xid, w.holds, w.counts, k.common, k.rare, l.strong, l.lasting, l.unknown, l.deferred, \
l.tables, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) \
pg_catalog.statement_timestamp())::pg_catalog.text \
FROM (SELECT pg_catalog.txid_current_if_assigned()::pg_catalog.text AS xid, \
(EXISTS (SELECT FROM pg_catalog.pg_cursor() AS p WHERE p.is_holdable))::pg_catalog.text AS holds, \
pg_catalog.current_setting('track_counts') AS counts) AS w, \
(SELECT pg_catalog.sum(n.n) FILTER (WHERE n.place OPERATOR(pg_catalog.<=) 4)::pg_catalog.text \
AS common, \
pg_catalog.sum(n.n) FILTER (WHERE n.place OPERATOR(pg_catalog.>) 4)::pg_catalog.text AS rare \
FROM (SELECT c.place, pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) \
OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(c.oid) \
OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid) AS n \
FROM pg_catalog.unnest('{pg_catalog.pg_class,pg_catalog.pg_attribute,pg_catalog.pg_type,\
pg_catalog.pg_namespace,pg_catalog.pg_proc,pg_catalog.pg_operator,pg_catalog.pg_cast,\
pg_catalog.pg_policy,pg_catalog.pg_trigger,pg_catalog.pg_rewrite,pg_catalog.pg_enum,\
pg_catalog.pg_event_trigger,pg_catalog.pg_constraint,pg_catalog.pg_attrdef,pg_catalog.pg_inherits,\
pg_catalog.pg_aggregate,pg_catalog.pg_range,pg_catalog.pg_language,pg_catalog.pg_opclass,\
pg_catalog.pg_opfamily,pg_catalog.pg_amop,pg_catalog.pg_amproc,pg_catalog.pg_collation,\
pg_catalog.pg_conversion,pg_catalog.pg_ts_config,pg_catalog.pg_ts_config_map,pg_catalog.pg_ts_dict,\
pg_catalog.pg_ts_parser,pg_catalog.pg_ts_template,pg_catalog.pg_transform,pg_catalog.pg_authid,\
pg_catalog.pg_auth_members,pg_catalog.pg_db_role_setting,pg_catalog.pg_foreign_table,\
pg_catalog.pg_sequence,pg_catalog.pg_extension}'::pg_catalog.regclass[]) \
WITH ORDINALITY AS c(oid, place)) AS n) AS k, \
(SELECT pg_catalog.bool_or(m.strong)::pg_catalog.text AS strong, \
pg_catalog.bool_or(m.strong AND m.relpersistence OPERATOR(pg_catalog.<>) 't')::pg_catalog.text \
AS lasting, \
pg_catalog.bool_or(m.relkind IS NULL)::pg_catalog.text AS unknown, \
pg_catalog.bool_or(m.relhastriggers AND EXISTS (SELECT FROM pg_catalog.pg_trigger AS t \
WHERE t.tgrelid OPERATOR(pg_catalog.=) m.relation AND t.tgdeferrable \
AND t.tgfoid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid))::pg_catalog.text AS deferred, \
pg_catalog.string_agg(m.relation::pg_catalog.text, ',') \
FILTER (WHERE m.relpersistence OPERATOR(pg_catalog.<>) 't' \
AND m.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,m}'::pg_catalog.\"char\"[])) AS tables \
FROM (SELECT l.relation, l.mode OPERATOR(pg_catalog.<>) 'RowExclusiveLock' AS strong, \
c.relkind, c.relpersistence, c.relhastriggers \
FROM pg_catalog.pg_lock_status() AS l \
LEFT JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) l.relation \
WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() \
AND l.relation OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
AND l.locktype OPERATOR(pg_catalog.=) 'relation' \
AND l.mode OPERATOR(pg_catalog.<>) ALL \
('{AccessShareLock,RowShareLock}'::pg_catalog.text[])) AS m) AS l";

/// More tables than this in one transaction are not told apart.
const TABLES_MAX: usize = 1000;

/// Why a commit that may have written anything makes the whole database fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// `cache.opaque_writes` is `database`, or this server lets not everybody ask.
    Off,
    /// Asking takes too long at present.
    Slow,
    /// There was no moment to ask: it commits by itself, or was sent together with its commit.
    NoMoment,
    /// A statement that changes the catalogue.
    Ddl,
    /// The transaction changed a catalogue on its way, or PostgreSQL does not count that.
    Catalogue,
    /// It locked a table as more than a writer of rows.
    Lock,
    /// It wrote a table that the catalogue snapshot does not hold, or too many, or may have written
    /// by a connection of its own.
    Unknown,
    /// User code may run within the commit: deferred triggers, cursors WITH HOLD.
    Deferred,
}

impl Doubt {
    /// Every one, in the order of the declaration; the index of a counter.
    pub const ALL: [Self; 8] = [
        Self::Off,
        Self::Slow,
        Self::NoMoment,
        Self::Ddl,
        Self::Catalogue,
        Self::Lock,
        Self::Unknown,
        Self::Deferred,
    ];
}

/// What PostgreSQL says was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footprint {
    /// These tables at most, as slots; possibly none.
    Tables(BTreeSet<TableId>),
    Doubt {
        why: Doubt,
        /// Verdicts may depend on what was changed.
        catalogue: bool,
    },
}

/// An answer that is not of the form asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The answer and the seconds PostgreSQL spent on it.
pub fn read<'a>(
    row: &[Option<&'a [u8]>],
    catalog: &Catalog,
) -> Result<(Footprint, f64), Malformed> {
    let text = |value: Option<&'a [u8]>| value.map(std::str::from_utf8).transpose();
    let values: Vec<Option<&str>> =
        row.iter().map(|value| text(*value)).collect::<Result<_, _>>().or(Err(Malformed))?;
    let &[xid, holds, counts, common, rare, strong, lasting, unknown, deferred, tables, seconds] =
        values.as_slice()
    else {
        return Err(Malformed);
    };
    let seconds = seconds.and_then(|text| text.parse().ok()).ok_or(Malformed)?;
    let is = |flag: Option<&str>| flag == Some("true");
    let changed = |count: Option<&str>| count != Some("0");
    let doubt = |why, catalogue| Ok((Footprint::Doubt { why, catalogue }, seconds));
    if is(holds) {
        return doubt(Doubt::Deferred, false);
    }
    if xid.is_none() {
        return Ok((Footprint::Tables(BTreeSet::new()), seconds));
    }
    if is(unknown) {
        return doubt(Doubt::Unknown, true);
    }
    if counts != Some("on") || changed(rare) {
        return doubt(Doubt::Catalogue, true);
    }
    if is(strong) {
        return doubt(Doubt::Lock, is(lasting));
    }
    if changed(common) {
        return doubt(Doubt::Catalogue, false);
    }
    if is(deferred) {
        return doubt(Doubt::Deferred, false);
    }
    let mut found = BTreeSet::new();
    for oid in tables.unwrap_or_default().split(',').filter(|oid| !oid.is_empty()) {
        let oid: u32 = oid.parse().or(Err(Malformed))?;
        if catalog.relation(oid).is_none() || found.len() == TABLES_MAX {
            return doubt(Doubt::Unknown, catalog.relation(oid).is_none());
        }
        found.insert(catalog.root(oid));
    }
    Ok((Footprint::Tables(found), seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::catalog::sample;

    /// Flags of an answer in the order of the question, up to the tables; `-` is NULL.
    fn answer(row: &str) -> Result<(Footprint, f64), Malformed> {
        let values: Vec<Option<&[u8]>> =
            row.split(' ').map(|field| (field != "-").then_some(field.as_bytes())).collect();
        read(&values, &sample::catalog())
    }

    fn check(row: &str, expected: Footprint) {
        assert_eq!(answer(row), Ok((expected, 0.5)), "{row}");
    }

    fn doubt(why: Doubt, catalogue: bool) -> Footprint {
        Footprint::Doubt { why, catalogue }
    }

    fn tables(oids: &[u32]) -> Footprint {
        Footprint::Tables(oids.iter().copied().map(TableId).collect())
    }

    #[test]
    fn what_was_written_counts_as_the_trees_it_belongs_to() {
        check("7 false on 0 0 false false false false 20001,20012 0.5", tables(&[20001, 20010]));
        check("7 false on 0 0 - - - - - 0.5", tables(&[]));
    }

    #[test]
    fn without_a_transaction_id_nothing_was_written() {
        check("- false on 9 9 true true true true 20001 0.5", tables(&[]));
    }

    #[test]
    fn what_may_run_within_the_commit_is_in_doubt() {
        check("- true on 0 0 - - - - - 0.5", doubt(Doubt::Deferred, false));
        let deferred = "7 false on 0 0 false false false true 20001 0.5";
        check(deferred, doubt(Doubt::Deferred, false));
    }

    #[test]
    fn changes_of_the_catalogue_are_in_doubt() {
        check("7 false on 0 1 false false false false - 0.5", doubt(Doubt::Catalogue, true));
        check("7 false on 3 0 false false false false - 0.5", doubt(Doubt::Catalogue, false));
        check("7 false off 0 0 false false false false - 0.5", doubt(Doubt::Catalogue, true));
        // As temporary tables leave it, and as others do.
        check("7 false on 3 0 true false false false - 0.5", doubt(Doubt::Lock, false));
        check("7 false on 3 0 true true false false 20001 0.5", doubt(Doubt::Lock, true));
    }

    #[test]
    fn tables_that_the_snapshot_does_not_hold_are_in_doubt() {
        check("7 false on 0 0 false false true false - 0.5", doubt(Doubt::Unknown, true));
        check("7 false on 0 0 false false false false 29999 0.5", doubt(Doubt::Unknown, true));
    }

    #[test]
    fn another_form_of_answer_is_none() {
        assert_eq!(answer("7 false on 0 0 false false false false 20001"), Err(Malformed));
        assert_eq!(answer("7 false on 0 0 - - - - x 0.5"), Err(Malformed));
        assert_eq!(answer("7 false on 0 0 - - - - - -"), Err(Malformed));
    }
}
