//! What of PostgreSQL's own extensions is as good as built in, once PostgreSQL has said that it is
//! that which a statement calls.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::RawClient;
use crate::support::wait_until;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, ints int[])";
const ROWS: &str = "INSERT INTO t VALUES (1, 'one', '{1,2}'), (2, 'two', '{2,3}')";

fn start(extensions: &[&str], sql: &[&str]) -> (Database<'static>, Forebay) {
    let database = Database::with(TABLE);
    database.direct().run(ROWS);
    for extension in extensions {
        database.admin().run(&format!("CREATE EXTENSION \"{extension}\""));
    }
    for sql in sql {
        database.direct().run(sql);
    }
    let forebay = Forebay::start(&database, &[]);
    (database, forebay)
}

#[test]
fn what_computes_from_its_arguments_alone_is_kept() {
    let (database, forebay) = start(
        &["citext", "pg_trgm", "hstore", "ltree", "intarray", "fuzzystrmatch", "uuid-ossp", "cube"],
        &[
            "ALTER TABLE t ADD mail citext, ADD more hstore, ADD path ltree",
            "UPDATE t SET mail = v || '@Example.org', more = hstore('k', v), path = 'top'",
            "CREATE INDEX ON t (mail); CREATE INDEX ON t USING gin (v gin_trgm_ops)",
        ],
    );
    let mut client = forebay.client();
    for sql in [
        "SELECT id FROM t WHERE mail = 'ONE@example.org'",
        "SELECT * FROM t ORDER BY mail DESC",
        "SELECT mail, count(*) FROM t GROUP BY mail ORDER BY 1",
        "SELECT DISTINCT mail FROM t WHERE mail IN ('a', 'ONE@example.org')",
        "SELECT mail::text, array_agg(mail) FROM t GROUP BY 1",
        "SELECT id, similarity(v, 'won') FROM t ORDER BY v <-> 'won', id",
        "SELECT more -> 'k', more ? 'k', akeys(more), to_json(more) FROM t",
        "SELECT id FROM t WHERE path <@ 'top' AND nlevel(path) = 1",
        "SELECT id, ints & '{2}', icount(ints) FROM t WHERE ints @@ '2&3'",
        "SELECT id, levenshtein(v, 'on') FROM t",
        "SELECT uuid_generate_v5(uuid_ns_url(), v) FROM t",
        "SELECT cube_distance(cube(id), cube(2)) FROM t",
    ] {
        let expected = database.direct().query(sql);
        assert!(!expected.starts_with('E'), "{sql}: {expected}");
        database.until_hit(&mut client, sql);
        assert_eq!(client.query(sql), expected, "{sql}");
    }
    client.run("UPDATE t SET mail = 'ONE@EXAMPLE.ORG' WHERE id = 2");
    let by_mail = "SELECT id FROM t WHERE mail = 'ONE@example.org'";
    assert_eq!(client.query(by_mail), database.direct().query(by_mail));
}

/// What asks settings, sessions, tables, or the code of what it is handed.
#[test]
fn what_depends_on_more_is_not() {
    let (database, forebay) = start(
        &["citext", "pg_trgm", "hstore", "unaccent", "uuid-ossp"],
        &[
            "ALTER TABLE t ADD mail citext DEFAULT 'a@b'",
            "CREATE FUNCTION lower(citext) RETURNS text LANGUAGE sql IMMUTABLE \
             AS 'SELECT max(v) FROM t'",
            "CREATE DOMAIN address AS citext CHECK (VALUE <> lower('x'::citext))",
        ],
    );
    let mut client = forebay.client();
    let refused = [
        "SELECT id FROM t WHERE v % 'won'",
        "SELECT show_limit(), id FROM t",
        "SELECT hstore(t) FROM t",
        "SELECT (populate_record(t, 'id=>1')).id FROM t",
        "SELECT unaccent(v) FROM t",
        "SELECT uuid_generate_v4(), id FROM t",
        "SELECT lower(mail) FROM t",
        "SELECT mail::address FROM t",
        "SELECT regexp_replace(mail, 'a', 'b') FROM t",
    ];
    for sql in refused {
        let before = count(&forebay);
        wait_until(&format!("{sql} is asked about"), || {
            let answer = client.query(sql);
            assert!(!answer.starts_with('E'), "{sql}: {answer}");
            count(&forebay) > before
        });
    }
    database.until_hit(&mut client, "SELECT mail FROM t");
    for sql in refused {
        is_not_kept(&database, &mut client, sql);
    }
}

/// The second time at the latest it would be.
fn is_not_kept(database: &Database<'_>, client: &mut RawClient, sql: &str) {
    client.run(sql);
    for _ in 0..2 {
        assert!(!database.is_hit(client, sql), "{sql}");
    }
}

fn count(forebay: &Forebay) -> u64 {
    forebay.console().column("SHOW CACHE", "analyses").parse().unwrap()
}

#[test]
fn a_member_that_was_given_other_code_is_trusted_no_more() {
    let (database, forebay) = start(&["citext", "pg_trgm"], &["ALTER TABLE t ADD mail citext"]);
    let mut client = forebay.client();
    let (by_trigram, by_mail) =
        ("SELECT similarity(v, 'won') FROM t", "SELECT v FROM t WHERE mail IS NULL");
    database.until_hit(&mut client, by_trigram);
    database.until_hit(&mut client, by_mail);
    let mut admin = database.admin();
    admin.run(
        "CREATE OR REPLACE FUNCTION similarity(text, text) RETURNS real LANGUAGE sql IMMUTABLE \
         AS 'SELECT max(id)::real FROM t'",
    );
    admin.run("CREATE FUNCTION j(citext) RETURNS json LANGUAGE sql AS 'SELECT NULL::json'");
    admin.run("CREATE CAST (citext AS json) WITH FUNCTION j(citext)");
    let before = count(&forebay);
    wait_until("both are asked about", || {
        client.run(by_trigram);
        client.run(by_mail);
        count(&forebay) >= before + 2
    });
    database.until_hit(&mut client, "SELECT v FROM t");
    is_not_kept(&database, &mut client, by_trigram);
    is_not_kept(&database, &mut client, by_mail);
}
