//! Views, materialised views and trees of tables: what is read through them is kept until a table
//! below changes.

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;

const SCHEMA: &str = "
    CREATE TABLE base (id int PRIMARY KEY, v text);
    INSERT INTO base VALUES (1, 'one'), (2, 'two');
    CREATE VIEW inner_view AS SELECT id, upper(v) AS v FROM base;
    CREATE VIEW outer_view AS SELECT count(*) AS n, max(v) AS v FROM inner_view;
    CREATE MATERIALIZED VIEW kept AS SELECT count(*) AS n FROM base;
    CREATE VIEW over_kept AS SELECT n FROM kept;
    CREATE TABLE parts (id int, v text) PARTITION BY LIST (id);
    CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1);
    CREATE VIEW of_parts AS SELECT count(*) AS n FROM parts";

#[test]
fn a_view_is_kept_until_a_table_below_it_is_written() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    let sql = "SELECT n, v FROM outer_view";
    database.until_hit(&mut client, sql);
    client.run("INSERT INTO base VALUES (3, 'zero')");
    assert_eq!(client.query(sql), "T(n,v) D(3,ZERO) C(SELECT 1) Z(I)");
    database.until_hit(&mut client, sql);
    // Another definition is another answer.
    client.run("CREATE OR REPLACE VIEW inner_view AS SELECT id, lower(v) AS v FROM base");
    assert_eq!(client.query(sql), "T(n,v) D(3,zero) C(SELECT 1) Z(I)");
}

#[test]
fn a_materialised_view_changes_at_its_refresh_also_below_a_view() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    let sql = "SELECT n FROM over_kept";
    database.until_hit(&mut client, sql);
    client.run("INSERT INTO base VALUES (3, 'three')");
    assert!(database.is_hit(&mut client, sql));
    client.run("REFRESH MATERIALIZED VIEW kept");
    assert_eq!(client.one(sql), "3");
}

#[test]
fn a_view_of_a_partitioned_table_follows_each_partition() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    let sql = "SELECT n FROM of_parts";
    database.until_hit(&mut client, sql);
    client.run("INSERT INTO part1 VALUES (1, 'x')");
    assert_eq!(client.one(sql), "1");
}

#[test]
fn views_whose_trees_are_too_large_are_not_followed_and_others_are() {
    let database = Database::with(SCHEMA);
    // Each constant takes more than a hundred bytes of tree.
    database.direct().run(
        "DO $$ BEGIN EXECUTE 'CREATE VIEW huge AS SELECT id FROM base WHERE id IN ('
         || (SELECT string_agg(n::text, ',') FROM generate_series(1, 150000) n) || ')'; END $$",
    );
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT n, v FROM outer_view");
    client.run("SELECT id FROM huge");
    let reasons = forebay.console().rows("SHOW CACHE_REASONS");
    assert!(reasons.iter().any(|row| row[..2] == [Some("view".into()), Some("1".into())]));
}

#[test]
fn comments_and_query_tags_do_not_split_entries() {
    let database = Database::with(SCHEMA);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, "SELECT v FROM base WHERE id IN (1, 2) ORDER BY id");
    let hits = || forebay.console().column("SHOW CACHE", "hits").parse::<u64>().unwrap();
    for sql in [
        "/* request=7 */ SELECT v FROM base WHERE id IN (1, 2) ORDER BY id",
        "SELECT v\n  FROM base -- tagged\n WHERE id IN (1, 2) ORDER BY id;",
        "SELECT v FROM base WHERE id IN (1, 2) ORDER BY id /*application:x,controller:y*/",
    ] {
        let before = hits();
        assert_eq!(client.query(sql), "T(v) D(one) D(two) C(SELECT 2) Z(I)");
        assert_eq!(hits(), before + 1, "{sql}");
    }
}
