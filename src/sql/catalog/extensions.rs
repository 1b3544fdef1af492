//! Functions, operators and types of extensions that come with PostgreSQL and are as good as built
//! in: compiled code that computes from its arguments alone. By object id, for where PostgreSQL has
//! said what is called; a name tells nothing, since anybody may give it to something else.

use std::collections::HashSet;

use super::build::{Answer, CatalogError};

/// Which they are: `f`, `o` or `t`, and the id.
///
/// A function counts if it is a member of its extension, immutable, and code of that extension's
/// own library or of PostgreSQL; it takes and gives no pseudo-type, through which it would run the
/// code of whatever it is handed (`hstore(record)`). An operator counts by its function. A type
/// counts if its input and output are of that kind too, and no cast of it, which built-ins such as
/// `to_json` look for, runs other code.
///
/// Not among the extensions: what reads tables, files or settings (`unaccent`, `PostGIS`, `isn`),
/// what runs SQL text (`tablefunc`), and `pgcrypto`, whose answers are secrets.
pub(super) const QUERY: &str = "WITH trusted(name, library) AS (VALUES \
     ('btree_gist', 'btree_gist'), ('citext', 'citext'), ('cube', 'cube'), \
     ('fuzzystrmatch', 'fuzzystrmatch'), ('hstore', 'hstore'), ('intarray', '_int'), \
     ('ltree', 'ltree'), ('pg_trgm', 'pg_trgm'), ('seg', 'seg'), ('uuid-ossp', 'uuid-ossp')), \
     member AS MATERIALIZED (SELECT d.classid, d.objid, '$libdir/' || t.library AS library \
     FROM trusted t JOIN pg_extension e ON e.extname = t.name \
     JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid \
     AND d.deptype = 'e'), \
     code AS MATERIALIZED (SELECT p.* FROM member m JOIN pg_proc p ON p.oid = m.objid \
     WHERE m.classid = 'pg_proc'::regclass AND p.prokind = 'f' AND p.provolatile <> 'v' \
     AND NOT p.prosecdef AND p.proconfig IS NULL AND (p.prolang = 13 AND p.probin = m.library \
     OR p.prolang = 12 AND EXISTS (SELECT FROM pg_proc b WHERE b.oid < 16384 \
     AND b.prosrc = p.prosrc AND b.prolang = 12 AND b.provolatile <> 'v'))), \
     pure AS MATERIALIZED (SELECT oid FROM code WHERE provolatile = 'i' \
     AND NOT EXISTS (SELECT FROM pg_type t WHERE t.typtype = 'p' \
     AND (t.oid = prorettype OR t.oid = ANY (proargtypes)))), \
     types AS MATERIALIZED (SELECT t.oid FROM member m JOIN pg_type t ON t.oid = m.objid \
     WHERE m.classid = 'pg_type'::regclass AND t.typtype = 'b' \
     AND t.typinput IN (SELECT oid FROM code) AND t.typoutput IN (SELECT oid FROM code) \
     AND (t.typsend = 0 OR t.typsend IN (SELECT oid FROM code)) \
     AND (t.typreceive = 0 OR t.typreceive IN (SELECT oid FROM code)) \
     AND NOT EXISTS (SELECT FROM pg_cast c WHERE c.castsource = t.oid \
     AND c.castfunc >= 16384 AND c.castfunc NOT IN (SELECT oid FROM pure))) \
     SELECT 'f', oid::text FROM pure \
     UNION ALL SELECT 'o', o.oid::text FROM pg_operator o JOIN pure p ON p.oid = o.oprcode \
     UNION ALL SELECT 't', oid::text FROM types \
     UNION ALL SELECT 't', a.oid::text FROM pg_type a JOIN types t ON a.oid IN \
     (SELECT typarray FROM pg_type e WHERE e.oid = t.oid)";

/// Object ids of the answer to `QUERY`.
#[derive(Debug, Default)]
pub(super) struct Trusted {
    pub functions: HashSet<u32>,
    pub operators: HashSet<u32>,
    pub types: HashSet<u32>,
}

impl Trusted {
    pub(super) fn read(answer: Answer<'_>) -> Result<Self, CatalogError> {
        let mut trusted = Self::default();
        for row in answer.rows::<2>() {
            let [kind, oid] = row?;
            let known = match kind {
                "f" => &mut trusted.functions,
                "o" => &mut trusted.operators,
                "t" => &mut trusted.types,
                _ => return Err(answer.error("unknown kind of object")),
            };
            known.insert(answer.number(oid)?);
        }
        Ok(trusted)
    }
}
