//! Statements and the verdicts they deserve.

use super::*;
use crate::sql::catalog::sample;
use crate::sql::rules::{Pattern, Restrictions, Rule, Rules, Subject};
use crate::sql::verdict::{Isolation, TableId};
use BypassReason as Reason;

fn verdict_in(sql: &str, catalog: &Catalog, path: &[&str]) -> Verdict {
    let search_path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
    classify(
        sql,
        &Context {
            catalog: Some(catalog),
            search_path: &search_path,
            parameter_types: &[],
            restrictions: &Restrictions::default(),
        },
    )
}

fn verdict(sql: &str) -> Verdict {
    verdict_in(sql, &sample::catalog(), &["public"])
}

fn tables(oids: &[u32]) -> Box<[TableId]> {
    oids.iter().map(|oid| TableId(*oid)).collect()
}

#[track_caller]
fn cacheable(sql: &str, oids: &[u32]) {
    let verdict = verdict(sql);
    assert_eq!(verdict.read, Read::Cacheable(tables(oids)), "{sql}");
    assert_eq!(verdict.write, Write::None, "{sql}");
}

/// Not kept, but proven to write nothing.
#[track_caller]
fn harmless(sql: &str, reason: BypassReason) {
    let verdict = verdict(sql);
    assert_eq!((verdict.write, verdict.read), (Write::None, Read::Bypass(reason)), "{sql}");
}

#[track_caller]
fn opaque(sql: &str) {
    let write = verdict(sql).write;
    assert_eq!(write, Write::Opaque { commits_inside: false, taints: true }, "{sql}");
}

#[track_caller]
fn plain(sql: &str, oids: &[u32]) {
    assert_eq!(verdict(sql).write, Write::Plain(tables(oids)), "{sql}");
}

#[track_caller]
fn controls(sql: &str, expected: &[Control]) {
    let verdict = verdict(sql);
    assert_eq!(verdict.controls, expected, "{sql}");
}

fn set(name: &str, value: &str, local: bool) -> Control {
    Control::Set { name: name.to_owned(), value: value.to_owned(), local }
}

#[test]
fn reads_of_plain_tables_are_kept() {
    cacheable("SELECT * FROM users WHERE id = $1", &[20001]);
    cacheable("TABLE users", &[20001]);
    cacheable(
        "SELECT count(*), max(total) FROM orders GROUP BY user_id HAVING count(*) > 1",
        &[20002],
    );
    cacheable("SELECT u.name FROM users u JOIN orders o ON o.user_id = u.id", &[20001, 20002]);
    cacheable("SELECT 1 FROM users WHERE id IN (SELECT user_id FROM orders)", &[20001, 20002]);
    cacheable("SELECT id FROM users UNION ALL SELECT id FROM orders", &[20001, 20002]);
    cacheable("SELECT * FROM totals", &[20023]);
    cacheable("SELECT date_trunc('day', seen)::date FROM users", &[20001]);
    cacheable("SELECT seen::date FROM users", &[20001]);
    cacheable("SELECT row_to_json(u) FROM users u", &[20001]);
    cacheable("SELECT age(seen, born) FROM users", &[20001]);
    cacheable("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total) FROM orders", &[20002]);
}

#[test]
fn a_tree_is_one_table() {
    cacheable("SELECT * FROM part1", &[20010]);
    cacheable("SELECT * FROM ONLY parts", &[20010]);
}

#[test]
fn a_common_table_expression_hides_no_table() {
    cacheable("WITH users AS (SELECT * FROM users) SELECT * FROM users", &[20001]);
    cacheable("WITH t AS (SELECT id FROM users) SELECT t.id FROM t", &[20001]);
}

#[test]
fn a_list_of_column_names_hides_no_type() {
    cacheable("SELECT a FROM orders AS x(a)", &[20002]);
    cacheable("SELECT a FROM (users u JOIN orders o ON true) AS x(a)", &[20001, 20002]);
    harmless("SELECT a FROM clocks AS x(i, a)", Reason::TimeType);
    harmless("SELECT a FROM (users u JOIN clocks c ON true) AS x(a)", Reason::TimeType);
    for sql in [
        "SELECT b = 'x' FROM mails AS x(a, b)",
        "SELECT b = 'x' FROM (mails m JOIN users u ON true) AS x(a, b)",
        "WITH x(b) AS (SELECT address FROM mails) SELECT b = 'x' FROM x",
        "WITH x(b) AS (TABLE mails) SELECT b = 'x' FROM x",
        "SELECT b = 'x' FROM (SELECT address FROM mails) AS x(b)",
        "SELECT b = 'x' FROM (SELECT address AS b FROM mails) AS x",
    ] {
        opaque(sql);
    }
}

#[test]
fn enums_are_built_in_enough() {
    cacheable("SELECT mood FROM users WHERE mood = 'ok' AND mood <> 'sad'::mood", &[20001]);
}

#[test]
fn overloads_for_types_that_are_not_there_do_not_matter() {
    cacheable("SELECT lower(name) FROM users WHERE name = 'x' OR id = 1", &[20001]);
    cacheable("SELECT id FROM mails WHERE id = 1", &[20013]);
    cacheable("SELECT id % 2, 2 % id FROM users", &[20001]);
}

#[test]
fn overloads_that_can_be_chosen_may_write() {
    opaque("SELECT lower('x')");
    opaque("SELECT lower($1) FROM users");
    opaque("SELECT * FROM mails WHERE address = 'x'");
    opaque("SELECT lower(address) FROM mails");
    opaque("SELECT rank_of(mood) FROM users");
    opaque("SELECT 'a' % 'b'");
    opaque("SELECT name % 'b' FROM users");
    opaque("SELECT * FROM xmltable('/a' PASSING '<a/>' COLUMNS b positive)");
    opaque("SELECT '1'::positive");
    opaque("SELECT id ### 1 FROM users");
    opaque("SELECT id FROM users ORDER BY id USING ###");
    opaque("SELECT twice() FROM users");
    opaque("SELECT id OPERATOR(public.+) 1 FROM users");
}

#[test]
fn an_overload_out_of_the_path_is_not_reached() {
    let catalog = sample::catalog();
    let sql = "SELECT u.tenant_only FROM users u";
    assert_eq!(verdict_in(sql, &catalog, &["public"]).write, Write::None);
    assert_eq!(verdict_in(sql, &catalog, &["public", "tenant"]).write, UNKNOWN_CODE);
}

#[test]
fn a_path_before_pg_catalog_takes_names_over() {
    let catalog = sample::catalog();
    let sql = "SELECT lower(name) FROM users";
    assert_eq!(verdict_in(sql, &catalog, &["pg_catalog", "public"]).write, Write::None);
    assert_eq!(verdict_in(sql, &catalog, &["public", "pg_catalog"]).write, UNKNOWN_CODE);
}

#[test]
fn a_name_counts_in_every_schema_of_the_path() {
    let catalog = sample::catalog();
    let verdict = verdict_in("SELECT id FROM users", &catalog, &["tenant", "public"]);
    assert_eq!(verdict.read, Read::Cacheable(tables(&[20001, 20030])));
}

#[test]
fn attribute_notation_calls_functions() {
    opaque("SELECT u.fullname FROM users u");
    opaque("SELECT (u).fullname FROM users u");
    opaque("SELECT fullname(u) FROM users u");
    harmless("SELECT u.pg_column_size FROM users u", Reason::Function);
    cacheable("SELECT u.name FROM users u", &[20001]);
}

#[test]
fn attribute_notation_is_a_call_of_any_value_or_a_cast() {
    harmless("SELECT (seen).age FROM users", Reason::Function);
    harmless("SELECT (id).pg_advisory_lock FROM users", Reason::Function);
    harmless("SELECT ('a').current_setting, id FROM users", Reason::Function);
    harmless("SELECT (name).daterange FROM users", Reason::TimeType);
    opaque("SELECT ('x').ts_stat, id FROM users");
    opaque("SELECT (id).positive FROM users");
    cacheable("SELECT (name).upper FROM users", &[20001]);
    // Of a row it may be a column.
    cacheable("SELECT q.age, q.date FROM (SELECT id AS age, id AS date FROM users) q", &[20001]);
    controls("SELECT (id).pg_advisory_lock FROM users", &[Control::AdvisoryLock]);
    assert!(verdict("SELECT ('a').current_setting FROM users").exact_text);
}

#[test]
fn a_call_with_one_argument_may_be_a_cast() {
    harmless("SELECT daterange(name) FROM users", Reason::TimeType);
    harmless("SELECT pg_catalog.daterange(name) FROM users", Reason::TimeType);
    cacheable("SELECT daterange(born, born) FROM users", &[20001]);
    cacheable("SELECT date(seen) FROM users", &[20001]);
    opaque("SELECT positive(id) FROM users");
    // Of a table's name it is none.
    cacheable("SELECT lower(name), count(id) FROM users", &[20001]);
}

#[test]
fn a_column_holds_moments_only_where_it_is_a_tables() {
    cacheable("SELECT u.seen::date AS seen FROM users u", &[20001]);
    cacheable("SELECT seen::date FROM users u", &[20001]);
    for sql in [
        "SELECT kv.seen::date FROM users u, generate_series(1, 2) kv",
        "SELECT seen::date FROM users u, generate_series(1, 2) AS seen",
        "SELECT seen::date FROM generate_series(1, 2), users u",
        "SELECT q.born::date FROM (SELECT max(name) FROM users) q, users",
        "SELECT born::date FROM (SELECT max(name) FROM users), users",
        "SELECT o.seen::date FROM orders o, users",
    ] {
        harmless(sql, Reason::TimeType);
    }
    cacheable("SELECT u.seen::date FROM users u, generate_series(1, 2) kv", &[20001]);
}

#[test]
fn built_ins_that_run_checks_or_read_the_offset_of_today() {
    opaque("SELECT pg_input_is_valid('5', 'positive')");
    harmless("SELECT jsonb_path_query_tz(name, '$') FROM users", Reason::Function);
}

#[test]
fn numbers_that_become_text_reach_operators_for_text() {
    let mut answers = sample::answers();
    let sql = "SELECT name % 1 FROM users";
    let of =
        |answers: &[Vec<_>]| verdict_in(sql, &Catalog::build(answers).unwrap(), &["public"]).write;
    assert_eq!(of(&answers), Write::None);
    answers[11].push(["23", "25", "i", "false"].map(|field| Some(field.to_owned())).to_vec());
    assert_eq!(of(&answers), UNKNOWN_CODE);
}

#[test]
fn what_takes_too_long_to_resolve_is_not_understood() {
    let many = |item: &str| vec![item; 40_000].join(",");
    let verdict = verdict(&format!("SELECT {} FROM {}", many("a"), many("t")));
    assert_eq!(verdict.read, Read::Bypass(Reason::TooLong));
}

#[test]
fn functions_of_users_may_write() {
    opaque("SELECT writes()");
    opaque("VALUES (writes())");
    opaque("SELECT id FROM users WHERE id > (SELECT writes())");
    opaque("COPY (SELECT writes()) TO STDOUT");
    opaque("EXPLAIN SELECT writes()");
    opaque("SELECT public.lower(name) FROM users");
    opaque("SELECT no_such_function(1)");
    opaque("SELECT query_to_xml('select 1', true, false, '')");
}

#[test]
fn views_are_judged_by_what_they_reach() {
    cacheable("SELECT * FROM v_plain", &[20001]);
    cacheable("SELECT 1 FROM v_plain, orders", &[20001, 20002]);
    opaque("SELECT * FROM v_writes");
    opaque("SELECT * FROM v_outer");
}

#[test]
fn a_view_whose_tree_was_left_out_is_not_followed() {
    let mut answers = sample::answers();
    answers[15].remove(0);
    let read = |answers: &[Vec<_>]| {
        let catalog = Catalog::build(answers).unwrap();
        verdict_in("SELECT * FROM v_plain", &catalog, &["public"]).read
    };
    assert_eq!(read(&answers), Read::Bypass(Reason::View));
    answers[15].push(["20020", "v", ""].map(|field| Some(field.to_owned())).to_vec());
    assert_eq!(read(&answers), Read::Bypass(Reason::View));
}

#[test]
fn row_security_is_as_good_as_its_policies() {
    let read = |policies: &[&str]| {
        let mut answers = sample::answers();
        answers[12].retain(|row| row[0].as_deref() != Some("20014"));
        answers[13].retain(|row| row[0].as_deref() != Some("20014"));
        answers[15].retain(|row| row[0].as_deref() != Some("20014"));
        let row = |tree: &&str| ["20014", "p", tree].map(|field| Some(field.to_owned())).to_vec();
        answers[15].extend(policies.iter().map(row));
        let catalog = Catalog::build(&answers).unwrap();
        verdict_in("SELECT * FROM secret", &catalog, &["public"]).read
    };
    let user = "{OPEXPR :opno 98 :opfuncid 67 :args ({SQLVALUEFUNCTION :op 10 :type 25})}";
    let orders =
        "{SUBLINK :subselect {QUERY :commandType 1 :rtable ({RTE :rtekind 0 :relid 20002})}}";
    let clock = "{SQLVALUEFUNCTION :op 3 :type 1184}";
    assert_eq!(read(&[]), Read::Cacheable(tables(&[20014])));
    assert_eq!(read(&[user]), Read::Cacheable(tables(&[20014])));
    assert_eq!(read(&[user, orders]), Read::Cacheable(tables(&[20002, 20014])));
    assert_eq!(read(&[user, clock]), Read::Bypass(Reason::RowSecurity));
    assert_eq!(read(&[""]), Read::Bypass(Reason::RowSecurity));
}

#[test]
fn what_the_key_holds_of_the_session_may_be_asked_for() {
    cacheable("SELECT id FROM users WHERE name = CURRENT_USER OR name = SESSION_USER", &[20001]);
    harmless("SELECT id FROM users WHERE name = CURRENT_SCHEMA", Reason::ValueFunction);
    let sql = "SELECT id FROM users WHERE name = current_setting('app.tenant')";
    cacheable(sql, &[20001]);
    assert!(verdict(sql).exact_text);
    for argument in ["'work_mem'", "name", "$1", "'app.' || name"] {
        let sql = format!("SELECT id FROM users WHERE name = current_setting({argument})");
        harmless(&sql, Reason::Function);
    }
}

#[test]
fn a_call_that_converts_a_moment_reads_no_text() {
    cacheable("SELECT date(seen) FROM users", &[20001]);
    harmless("SELECT date(name) FROM users", Reason::TimeType);
    harmless("SELECT date('2024-01-01') FROM users", Reason::Function);
}

#[test]
fn reads_that_are_not_kept() {
    harmless("SELECT now() FROM users", Reason::Function);
    harmless("SELECT random() FROM users", Reason::Function);
    harmless("SELECT age(seen) FROM users", Reason::Function);
    harmless("SELECT CURRENT_DATE FROM users", Reason::ValueFunction);
    harmless("SELECT * FROM users WHERE seen > 'Yesterday'", Reason::TimeWord);
    harmless("SELECT name::date FROM users", Reason::TimeType);
    harmless("SELECT x.seen::date FROM (SELECT name AS seen FROM users) x", Reason::TimeType);
    harmless("SELECT at FROM clocks", Reason::TimeType);
    harmless("SELECT which FROM clocks", Reason::RegType);
    harmless("SELECT 'users'::regclass FROM users", Reason::RegType);
    harmless("SELECT * FROM users FOR UPDATE", Reason::LocksRows);
    harmless("SELECT * FROM (SELECT * FROM users FOR SHARE) x", Reason::LocksRows);
    harmless("SELECT * FROM users TABLESAMPLE bernoulli (10)", Reason::TableSample);
    harmless("SELECT ctid FROM users", Reason::SystemColumn);
    harmless("SELECT * FROM pg_class", Reason::SystemCatalog);
    harmless("SELECT * FROM information_schema.tables", Reason::SystemCatalog);
    harmless("SELECT * FROM scratch", Reason::RelationKind);
    harmless("SELECT * FROM counter", Reason::RelationKind);
    harmless("SELECT 1", Reason::NoTable);
    harmless("SELECT 1; SELECT 2", Reason::MultipleStatements);
    opaque("SELECT * FROM no_such_table");
    opaque("SELECT * FROM remote");
    opaque("SELECT * FROM secret");
}

#[test]
fn plain_writes_are_closed_over_trees_and_foreign_keys() {
    plain("INSERT INTO users (name) VALUES ('x')", &[20001]);
    plain("UPDATE users SET name = 'x'", &[20001]);
    plain("DELETE FROM users WHERE id = 1", &[20001, 20002, 20003, 20004]);
    plain("UPDATE orders SET id = 2", &[20002, 20003]);
    plain("INSERT INTO part1 VALUES (1)", &[20010]);
    plain("COPY users FROM STDIN", &[20001]);
    plain("WITH w AS (INSERT INTO users DEFAULT VALUES RETURNING id) SELECT * FROM w", &[20001]);
    plain("EXPLAIN ANALYZE INSERT INTO users DEFAULT VALUES", &[20001]);
    plain("INSERT INTO users DEFAULT VALUES; UPDATE parent SET id = 1", &[20001, 20005]);
    plain("MERGE INTO parts p USING users u ON p.id = u.id WHEN MATCHED THEN DELETE", &[20010]);
}

#[test]
fn emptying_tables_is_a_plain_write() {
    plain("TRUNCATE users", &[20001]);
    plain("TRUNCATE users CASCADE", &[20001, 20002, 20003, 20004]);
    plain("TRUNCATE part1, users", &[20001, 20010]);
    plain("REFRESH MATERIALIZED VIEW CONCURRENTLY totals", &[20023]);
    opaque("TRUNCATE parent CASCADE");
    opaque("TRUNCATE v_plain");
    opaque("REFRESH MATERIALIZED VIEW no_such_view");
}

#[test]
fn a_materialised_view_over_writing_code_refreshes_opaquely() {
    let mut answers = sample::answers();
    let row = ["20023", "20021", "v"].map(|field| Some(field.to_owned()));
    answers[13].push(row.to_vec());
    let catalog = Catalog::build(&answers).unwrap();
    let sql = "REFRESH MATERIALIZED VIEW totals";
    assert_eq!(verdict_in(sql, &catalog, &["public"]).write, UNKNOWN_CODE);
}

#[test]
fn event_triggers_make_all_they_fire_for_opaque() {
    let mut answers = sample::answers();
    answers[2][0][2] = Some("1".to_owned());
    let catalog = Catalog::build(&answers).unwrap();
    for sql in ["CREATE TEMP TABLE x (id int)", "REFRESH MATERIALIZED VIEW totals"] {
        assert_eq!(verdict_in(sql, &catalog, &["public"]).write, UNKNOWN_CODE, "{sql}");
    }
}

#[test]
fn analysing_runs_the_code_of_indexes() {
    let mut answers = sample::answers();
    answers[2][0][4] = Some("1".to_owned());
    let catalog = Catalog::build(&answers).unwrap();
    let opaque = Write::Opaque { commits_inside: true, taints: false };
    for (sql, write) in
        [("ANALYZE", opaque.clone()), ("VACUUM FULL users", opaque), ("VACUUM users", Write::None)]
    {
        assert_eq!(verdict_in(sql, &catalog, &["public"]).write, write, "{sql}");
        assert_eq!(verdict(sql).write, Write::None, "{sql}");
    }
}

#[test]
fn syntax_newer_than_the_server_may_be_a_call() {
    let mut answers = sample::answers();
    let sql = "SELECT json_value('{}', '$.a') FROM users";
    opaque(sql);
    answers[2][0][1] = Some("170000".to_owned());
    let catalog = Catalog::build(&answers).unwrap();
    assert_eq!(verdict_in(sql, &catalog, &["public"]).write, Write::None);
}

#[test]
fn writes_that_run_unknown_code_are_opaque() {
    opaque("INSERT INTO audited VALUES (1)");
    opaque("DELETE FROM parent");
    opaque("INSERT INTO defaulted DEFAULT VALUES");
    opaque("INSERT INTO ruled VALUES (1)");
    opaque("INSERT INTO checked VALUES (1)");
    opaque("INSERT INTO v_plain VALUES (1)");
    opaque("INSERT INTO mails VALUES (1, 'x')");
    opaque("INSERT INTO no_such_table VALUES (1)");
    opaque("INSERT INTO users (name) SELECT writes()::text");
    opaque("UPDATE users SET name = 'x' RETURNING writes()");
    assert_eq!(verdict("INSERT INTO pg_class VALUES (1)").write, Write::Catalog);
}

#[test]
fn ddl_and_the_unknown_change_the_catalogue() {
    for sql in [
        "ALTER TABLE users ADD y int",
        "GRANT app TO public",
        "GRANT USAGE ON SCHEMA tenant TO public",
        "REVOKE SELECT ON users FROM public",
        "CREATE TABLE x (id int); CREATE TABLE y (id int)",
        "SELECT INTO x FROM users",
        "CREATE TABLE x AS SELECT 1",
        "SELECT writes(); DROP TABLE users",
        "DECLARE c CURSOR WITH HOLD FOR SELECT writes()",
    ] {
        assert_eq!(verdict(sql).write, Write::Catalog, "{sql}");
    }
}

#[test]
fn what_runs_code_behind_ddl_leaves_a_session_that_is_not_known() {
    for sql in [
        "ALTER TABLE users ADD y int DEFAULT writes()",
        "ALTER DOMAIN positive ADD CHECK (VALUE > writes())",
        "CREATE TABLE x AS SELECT writes()",
        "CREATE TABLE x AS EXECUTE p",
        "CREATE EXTENSION e",
        "SELECT writes() INTO x",
        "SELECT writes(); DROP TABLE users",
        "DECLARE c CURSOR WITH HOLD FOR SELECT writes()",
        "UPDATE pg_class SET relname = 'x'",
    ] {
        assert!(verdict(sql).taints, "{sql}");
    }
    for sql in [
        "CREATE SCHEMA s",
        "CREATE VIEW v AS SELECT 1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE x AS SELECT id FROM users",
        "CREATE TABLE x (id int)",
        "CREATE INDEX i ON users (id)",
        "DROP TABLE users CASCADE",
        "GRANT app TO public",
        "ALTER ROLE app SET work_mem = '5MB'",
    ] {
        assert!(!verdict(sql).taints, "{sql}");
    }
}

#[test]
fn a_bound_that_is_computed_runs_code() {
    for sql in [
        "CREATE TABLE x PARTITION OF parts FOR VALUES IN (1, writes())",
        "CREATE TABLE x PARTITION OF parts FOR VALUES FROM (writes()) TO (MAXVALUE)",
        "CREATE TABLE x PARTITION OF parts FOR VALUES FROM (1) TO ('5'::positive)",
        "ALTER TABLE parts ATTACH PARTITION orders FOR VALUES IN (1 + writes())",
    ] {
        catalogue(sql);
        assert!(verdict(sql).taints, "{sql}");
    }
    opaque("CREATE TEMP TABLE x PARTITION OF y FOR VALUES IN (writes())");
    schema(
        "CREATE TABLE x PARTITION OF parts FOR VALUES FROM (MINVALUE, -1) TO (1, 'x')",
        &[20010],
    );
    schema("CREATE TABLE x PARTITION OF parts FOR VALUES WITH (MODULUS 4, REMAINDER 1)", &[20010]);
    schema("ALTER TABLE parts ATTACH PARTITION orders FOR VALUES IN (NULL, true)", &[20002, 20010]);
}

#[track_caller]
fn schema(sql: &str, oids: &[u32]) {
    assert_eq!(verdict(sql).write, Write::Schema(tables(oids)), "{sql}");
}

#[track_caller]
fn catalogue(sql: &str) {
    assert_eq!(verdict(sql).write, Write::Catalog, "{sql}");
}

#[test]
fn a_table_of_a_new_name_changes_the_tree_it_joins_alone() {
    schema("CREATE TABLE x (id int PRIMARY KEY, u int REFERENCES users)", &[]);
    schema("CREATE TABLE IF NOT EXISTS x (id int)", &[]);
    schema("CREATE TABLE tenant.x PARTITION OF parts FOR VALUES IN (1)", &[20010]);
    schema("CREATE TABLE x (id int) INHERITS (users, part1)", &[20001, 20010]);
    schema("CREATE TABLE IF NOT EXISTS part1 PARTITION OF parts FOR VALUES IN (1)", &[20010]);
    // It hides another, or what is made beside it does.
    catalogue("CREATE TABLE users (id int)");
    catalogue("CREATE TABLE IF NOT EXISTS tenant.orders (id int)");
    catalogue("CREATE TABLE v (id int)");
    catalogue("CREATE TABLE lower (id int)");
    catalogue("CREATE TABLE x OF mood");
    catalogue("CREATE TABLE x PARTITION OF no_such_table DEFAULT");
    catalogue("CREATE TABLE x () INHERITS (defaulted)");
    // Its index or sequence takes a name that another has.
    schema("CREATE TABLE x (id int UNIQUE CONSTRAINT users CHECK (id > 0))", &[]);
    schema("CREATE TABLE x (id int CONSTRAINT pk_x PRIMARY KEY)", &[]);
    catalogue("CREATE TABLE x (id int CONSTRAINT users PRIMARY KEY)");
    catalogue("CREATE TABLE x (id int, CONSTRAINT users UNIQUE (id))");
    catalogue("CREATE TABLE x (id int, CONSTRAINT users EXCLUDE (id WITH =))");
    catalogue("CREATE TABLE x (id int GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME users))");
    schema("CREATE TABLE x (id int GENERATED ALWAYS AS IDENTITY (START 5))", &[]);
    catalogue(&format!("CREATE TABLE {} (id int)", "x".repeat(41)));
}

#[test]
fn tables_that_come_and_go_as_a_whole_change_their_trees_alone() {
    schema("DROP TABLE part1, orders", &[20002, 20010]);
    schema("ALTER TABLE parts ATTACH PARTITION orders DEFAULT", &[20002, 20010]);
    schema("ALTER TABLE parts DETACH PARTITION part1", &[20010]);
    catalogue("DROP TABLE orders CASCADE");
    catalogue("DROP TABLE no_such_table");
    catalogue("DROP VIEW v_plain");
    catalogue("ALTER TABLE parts DETACH PARTITION part1 CONCURRENTLY");
    catalogue("DROP TABLE orders; INSERT INTO users VALUES (1)");
}

#[test]
fn what_changes_no_answer_has_the_catalogue_read_again_at_most() {
    schema("CREATE INDEX CONCURRENTLY i ON orders (id)", &[]);
    schema("DROP INDEX i", &[]);
    schema("GRANT SELECT ON users TO public", &[]);
    assert_eq!(verdict("COMMENT ON TABLE users IS 'x'").write, Write::None);
    catalogue("CREATE INDEX i ON orders (lower('x'))");
    catalogue("CREATE INDEX i ON orders (id) WHERE id > 0");
    catalogue("CREATE INDEX i ON audited (id)");
    catalogue("CREATE INDEX i ON parts (id)");
    catalogue("CREATE INDEX users ON orders (id)");
    catalogue("CREATE INDEX ON orders (id)");
    catalogue("DROP INDEX i CASCADE");
}

#[test]
fn event_triggers_may_write_anything_on_the_way() {
    let mut answers = sample::answers();
    answers[2][0][2] = Some("1".to_owned());
    let catalog = Catalog::build(&answers).unwrap();
    for sql in ["CREATE TABLE x (id int)", "COMMENT ON TABLE users IS 'x'", "DROP TABLE orders"] {
        assert_eq!(verdict_in(sql, &catalog, &["public"]).write, Write::Catalog, "{sql}");
    }
}

#[test]
fn what_commits_by_itself_says_so() {
    for sql in ["DO 'begin end'", "CALL p()", "SELECT 1; CALL p()", "COPY users TO PROGRAM 'x'"] {
        let write = verdict(sql).write;
        assert_eq!(write, Write::Opaque { commits_inside: true, taints: true }, "{sql}");
    }
    assert_eq!(
        verdict("BEGIN; SELECT writes(); COMMIT").write,
        Write::Opaque { commits_inside: true, taints: true }
    );
}

#[test]
fn transaction_control_beside_plain_statements_widens_nothing() {
    let plain = verdict("UPDATE users SET name = 'x'").write;
    assert_eq!(verdict("BEGIN; UPDATE users SET name = 'x'; COMMIT").write, plain);
    assert_eq!(verdict("BEGIN; SELECT 1; COMMIT").write, Write::None);
}

#[test]
fn what_does_not_parse_may_do_anything() {
    assert_eq!(
        verdict("not sql"),
        Verdict {
            controls: vec![],
            ends: Box::default(),
            write: Write::Opaque { commits_inside: true, taints: true },
            read: Read::Bypass(Reason::Unparsable),
            statements: 1,
            tag: "UNKNOWN",
            exact_text: false,
            taints: false,
            restriction: Restriction::default(),
        }
    );
}

#[test]
fn names_after_a_change_of_path_in_the_same_string_are_unknown() {
    opaque("SET search_path = tenant; UPDATE users SET id = 1");
    opaque("SELECT set_config('search_path', 'tenant', true); TRUNCATE users");
    opaque("CREATE TEMP VIEW users AS SELECT 1; SELECT * FROM users");
    plain("SET timezone = 'UTC'; UPDATE users SET id = 1", &[20001]);
}

#[test]
fn temporary_relations_belong_to_the_session() {
    for sql in [
        "CREATE TEMP TABLE x (id int)",
        "CREATE TABLE pg_temp.x (id int)",
        "SELECT * INTO TEMP x FROM users",
        "CREATE TEMP TABLE x AS SELECT * FROM users",
    ] {
        controls(sql, &[Control::CreateTemporary { code: false }]);
        assert_eq!(verdict(sql).write, Write::None, "{sql}");
    }
    opaque("CREATE TEMP TABLE x AS SELECT writes()");
    controls("CREATE TEMP VIEW x AS SELECT 1", &[Control::CreateTemporary { code: true }]);
    for sql in [
        "CREATE DOMAIN pg_temp.d AS int",
        "CREATE TYPE pg_temp.e AS ENUM ('x')",
        "CREATE TYPE pg_temp.c AS (a int)",
        "CREATE TYPE pg_temp.r AS RANGE (subtype = int)",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE AGGREGATE pg_temp.a(int) (SFUNC = int4pl, STYPE = int)",
    ] {
        controls(sql, &[Control::CreateTemporary { code: true }]);
        assert_eq!(verdict(sql).write, Write::Catalog, "{sql}");
    }
    controls("CREATE DOMAIN d AS int", &[]);
}

#[test]
fn what_is_created_where_the_path_has_the_temporary_schema_may_be_the_sessions() {
    let path = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let check = |names: &[&str], temporary: bool| {
        let context = Context {
            catalog: None,
            search_path: &path(names),
            parameter_types: &[],
            restrictions: &Restrictions::default(),
        };
        let controls = classify("CREATE TABLE x (id int)", &context).controls;
        assert_eq!(controls.contains(&Control::CreateTemporary { code: true }), temporary);
    };
    check(&["pg_temp", "public"], true);
    // There may be no `app`, or not for this role.
    check(&["app", "pg_temp"], true);
    check(&["app", "public"], false);
}

#[test]
fn only_a_drop_of_what_is_said_to_be_temporary_leaves_the_catalogue() {
    for sql in ["DROP TABLE pg_temp.x", "DROP VIEW IF EXISTS pg_temp.x, pg_temp.users"] {
        assert_eq!(verdict(sql).write, Write::None, "{sql}");
    }
    for sql in [
        "DROP TABLE x",
        "DROP TABLE pg_temp.x, users",
        "DROP TABLE pg_temp.x CASCADE",
        "DROP TABLE db.pg_temp.x",
        "DROP SCHEMA pg_temp",
        "DROP FUNCTION pg_temp.x",
    ] {
        assert_eq!(verdict(sql).write, Write::Catalog, "{sql}");
    }
}

#[test]
fn transactions_are_controls() {
    controls("BEGIN", &[Control::Begin { isolation: None }]);
    controls(
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
        &[Control::Begin { isolation: Some(Isolation::Serializable) }],
    );
    controls("END AND CHAIN", &[Control::Commit { chain: true }]);
    controls("ABORT", &[Control::Rollback { chain: false }]);
    controls("SAVEPOINT a", &[Control::Savepoint("a".to_owned())]);
    controls("ROLLBACK TO a", &[Control::RollbackToSavepoint("a".to_owned())]);
    controls("RELEASE a", &[Control::ReleaseSavepoint("a".to_owned())]);
    controls("PREPARE TRANSACTION 'x'", &[Control::PrepareTransaction("x".to_owned())]);
    controls("COMMIT PREPARED 'x'", &[Control::CommitPrepared("x".to_owned())]);
    controls("ROLLBACK PREPARED 'x'", &[Control::RollbackPrepared("x".to_owned())]);
    controls(
        "SET transaction_isolation = 'repeatable read'",
        &[Control::SetTransaction { isolation: Some(Isolation::RepeatableRead) }],
    );
    controls("SET TRANSACTION READ ONLY", &[]);
    controls("SET TRANSACTION SNAPSHOT 'x'", &[Control::SetTransaction { isolation: None }]);
}

#[test]
fn settings_have_one_spelling() {
    controls("SET TimeZone = 'UTC'", &[set("timezone", "'UTC'", false)]);
    controls("SET TIME ZONE 'UTC'", &[set("timezone", "'UTC'", false)]);
    controls(
        "SET TIME ZONE LOCAL",
        &[Control::Reset { name: "timezone".to_owned(), local: false }],
    );
    controls("SET NAMES 'utf8'", &[set("client_encoding", "'utf8'", false)]);
    controls("SET LOCAL work_mem TO 64", &[set("work_mem", "64", true)]);
    controls("SET ROLE alice", &[set("role", "'alice'", false)]);
    controls("SET search_path = a, \"B\"", &[set("search_path", "'a', 'B'", false)]);
    controls(
        "SELECT set_config('search_path', 'a, \"B\"', false)",
        &[set("search_path", "'a', 'B'", false)],
    );
    controls(
        "SELECT set_config('DateStyle', 'ISO, MDY', true)",
        &[set("datestyle", "'ISO, MDY'", true)],
    );
    controls(
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        &[set("default_transaction_isolation", "'serializable'", false)],
    );
    controls("RESET work_mem", &[Control::Reset { name: "work_mem".to_owned(), local: false }]);
    controls("RESET ALL", &[Control::ResetAll]);
    assert!(verdict("SET work_mem = 1").exact_text);
    assert!(verdict("SELECT set_config('work_mem', '1', false)").exact_text);
}

#[test]
fn settings_made_beside_other_columns_are_followed() {
    controls(
        "SELECT current_setting('jit') AS old, set_config('jit', 'off', false) AS new",
        &[Control::Set { name: "jit".to_owned(), value: "'off'".to_owned(), local: false }],
    );
    controls("SELECT set_config('jit', $1, false)", &[Control::NeutralSetting]);
    controls(
        "SELECT set_config('app.max_cost', '5', false)",
        &[Control::Set { name: "app.max_cost".to_owned(), value: "'5'".to_owned(), local: false }],
    );
}

#[test]
fn settings_that_cannot_be_followed_are_not_replayed() {
    controls("SELECT set_config('app.tenant', $1, false), 1", &[Control::Unreplayable]);
    controls("SELECT upper(set_config('work_mem', '1', false))", &[Control::Unreplayable]);
    controls("SELECT set_config('a' || 'b', '1', false)", &[Control::Unreplayable]);
    controls("SELECT set_config(name, '1', false) FROM users", &[Control::Unreplayable]);
    let copied = [Control::Copy, Control::Unreplayable];
    controls("COPY (SELECT set_config('search_path', 'b', false)) TO STDOUT", &copied);
    let declared = [Control::DeclareCursor { hold: false }, Control::Unreplayable];
    controls("DECLARE c CURSOR FOR SELECT set_config('search_path', 'b', false)", &declared);
    controls("SET SESSION AUTHORIZATION alice", &[Control::Unreplayable]);
    controls("RESET SESSION AUTHORIZATION", &[Control::Unreplayable]);
    controls("SET TIME ZONE INTERVAL '1' HOUR TO MINUTE", &[Control::Unreplayable]);
}

#[test]
fn session_state_is_named() {
    controls("LISTEN x", &[Control::Listen]);
    controls("UNLISTEN *", &[Control::Unlisten { all: true }]);
    controls("DISCARD ALL", &[Control::DiscardAll]);
    controls("DISCARD TEMP", &[Control::DiscardTemporary]);
    controls("PREPARE x AS SELECT 1", &[Control::PrepareStatement]);
    controls("DEALLOCATE x", &[Control::Deallocate(Some("x".to_owned()))]);
    controls("DEALLOCATE ALL", &[Control::Deallocate(None)]);
    controls("DECLARE c CURSOR WITH HOLD FOR SELECT 1", &[Control::DeclareCursor { hold: true }]);
    controls("CLOSE ALL", &[Control::CloseCursor { all: true }]);
    controls("LOCK users", &[Control::LockTable]);
    controls("SELECT * FROM (SELECT * FROM users FOR SHARE) x; SELECT 1", &[Control::LockTable]);
    controls("COPY users TO STDOUT", &[Control::Copy]);
    controls("SELECT pg_advisory_lock(1)", &[Control::AdvisoryLock]);
    controls("SELECT pg_advisory_unlock_all()", &[Control::AdvisoryUnlockAll]);
}

#[test]
fn without_a_catalogue_only_what_names_nothing_is_known() {
    let context = Context {
        catalog: None,
        search_path: &[],
        parameter_types: &[],
        restrictions: &Restrictions::default(),
    };
    let verdict = |sql: &str| classify(sql, &context);
    assert_eq!(verdict("SELECT 1").write, Write::None);
    assert_eq!(verdict("SELECT 1").read, Read::Bypass(Reason::CatalogLoading));
    assert_eq!(verdict("SELECT a FROM b").write, UNKNOWN_CODE);
    assert_eq!(verdict("INSERT INTO b VALUES (1)").write, UNKNOWN_CODE);
    assert_eq!(verdict("BEGIN").write, Write::None);
}

#[test]
fn declared_parameter_types_count() {
    let catalog = sample::catalog();
    let path = ["public".to_owned()];
    let read = |oid: u32| {
        let context = Context {
            catalog: Some(&catalog),
            search_path: &path,
            parameter_types: &[oid],
            restrictions: &Restrictions::default(),
        };
        classify("SELECT id FROM users WHERE id < $1", &context).read
    };
    assert_eq!(read(23), Read::Cacheable(tables(&[20001])));
    assert_eq!(read(0), Read::Cacheable(tables(&[20001])));
    assert_eq!(read(2205), Read::Bypass(Reason::RegType));
    assert_eq!(read(18000), Read::Bypass(Reason::UserObject));
}

#[test]
fn a_value_for_a_parameter_of_a_checked_domain_runs_its_checks() {
    let catalog = sample::catalog();
    let path = ["public".to_owned()];
    let context = Context {
        catalog: Some(&catalog),
        search_path: &path,
        parameter_types: &[18002],
        restrictions: &Restrictions::default(),
    };
    let verdict = classify("SELECT id FROM users WHERE id < $1", &context);
    assert_eq!(verdict.read, Read::Bypass(Reason::UserObject));
    assert_eq!(verdict.write, UNKNOWN_CODE);
}

#[test]
fn a_literal_that_becomes_a_checked_domain_runs_its_checks() {
    cacheable("SELECT id FROM checked WHERE id = 1 OR id IN (2, 3)", &[20017]);
    cacheable("SELECT count(*), coalesce(max(id), 5) FROM checked", &[20017]);
    opaque("SELECT concat(id, '5') FROM checked");
    opaque("SELECT array_agg(id) FROM checked");
    opaque("SELECT ARRAY[id] FROM checked");
    opaque("SELECT ARRAY(SELECT id FROM checked)");
    opaque("SELECT '{}' || id FROM checked");
    // Without the column it is a call like any other.
    cacheable("SELECT concat(id, '5') FROM users", &[20001]);
}

#[test]
fn a_search_path_is_read_as_postgresql_prints_it() {
    let parse = |value: &str| parse_search_path(value, "bob");
    let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(parse("\"$user\", public"), names(&["bob", "public"]));
    assert_eq!(parse(""), names(&[]));
    assert_eq!(parse("\"\""), names(&[""]));
    assert_eq!(parse("a,\"B \"\"c\", D"), names(&["a", "B \"c", "d"]));
    for wrong in ["a b", "a,", ",a", "\"a", "a\"b\""] {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
}

/// A small generator of numbers, so that a failure can be repeated from its seed.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state % 1_000_003).unwrap()
}

#[test]
fn no_text_makes_it_panic() {
    let seeds = [
        "WITH RECURSIVE r(a) AS (VALUES (1) UNION SELECT a + 1 FROM r) SEARCH DEPTH FIRST BY a SET o CYCLE a SET c USING p SELECT * FROM r",
        "SELECT (u).*, u.*, ROW(u.*), ARRAY[1,2][1:2], a[1].b FROM users u TABLESAMPLE system (1) REPEATABLE (2)",
        "SELECT xmlelement(name a, xmlattributes(1 AS b), 'c'), xmlserialize(content x AS text), json_object('a': 1), json_arrayagg(x), json_value('{}', '$.a' RETURNING int), JSON('{}') IS JSON FROM users",
        "SELECT * FROM json_table('[]', '$[*]' COLUMNS (a int PATH '$', NESTED PATH '$' COLUMNS (b int))) j, xmltable('/a' PASSING x COLUMNS b int PATH 'c' DEFAULT 1) x, ROWS FROM (f(1), g(2) AS (a int)) WITH ORDINALITY",
        "MERGE INTO users u USING (SELECT 1 id) s ON u.id = s.id WHEN MATCHED AND s.id > 1 THEN UPDATE SET (name, id) = (SELECT 'x', 1) WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN NOT MATCHED THEN INSERT (id) OVERRIDING SYSTEM VALUE VALUES (DEFAULT) RETURNING merge_action(), u.*",
        "INSERT INTO users AS x (id, name[1], mood.y) VALUES (1, DEFAULT) ON CONFLICT (lower(name) COLLATE \"C\" text_ops) WHERE id > 1 DO UPDATE SET name = excluded.name WHERE x.id > 1 RETURNING WITH (OLD AS o, NEW AS n) o.id, n.*",
        "SELECT GROUPING(a), rank() OVER w, count(*) FILTER (WHERE a > 1) FROM users GROUP BY GROUPING SETS ((a), CUBE (b, c), ROLLUP (d)) WINDOW w AS (PARTITION BY a ORDER BY b USING < ROWS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE TIES) FETCH FIRST 2 ROWS WITH TIES FOR NO KEY UPDATE OF users SKIP LOCKED",
        "UPDATE users SET a[1:2] = '{}', (b, c) = ROW(1, 2) FROM LATERAL (SELECT 1) x JOIN y USING (a) AS j WHERE CURRENT OF cur",
        "SELECT U&'\\00e9', E'\\xc3\\xa9', B'101', x'ff', $tag$a$tag$, 1.5e10, INTERVAL '1' DAY, a::numeric(3,2)[], CAST(b AS x.y%TYPE)",
        "EXPLAIN (ANALYZE off, FORMAT json) CREATE MATERIALIZED VIEW m AS SELECT 1",
        "CREATE TABLE x (LIKE y INCLUDING ALL, a int GENERATED ALWAYS AS IDENTITY) PARTITION BY RANGE (a)",
        "SELECT a NOT BETWEEN SYMMETRIC 1 AND 2, b SIMILAR TO 'x' ESCAPE 'y', c IS DISTINCT FROM NULL, (a, b) OVERLAPS (c, d), NULLIF(a, b), d AT TIME ZONE 'x', e COLLATE \"C\", f IS NOT TRUE, GREATEST(a, b), TREAT(a AS b)",
    ];
    let catalog = sample::catalog();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for seed in seeds {
        verdict_in(seed, &catalog, &["public"]);
        let words: Vec<&str> = seed.split(' ').collect();
        for _ in 0..150 {
            let mut words = words.clone();
            for _ in 0..=next(&mut state) % 3 {
                let (one, other) = (next(&mut state) % words.len(), next(&mut state) % words.len());
                match next(&mut state) % 3 {
                    0 => words.swap(one, other),
                    1 => words[one] = words[other],
                    _ => drop(words.remove(one)),
                }
                if words.is_empty() {
                    break;
                }
            }
            verdict_in(&words.join(" "), &catalog, &["public"]);
        }
    }
}

#[test]
fn hostile_text_is_turned_down() {
    let many = |part: &str, count: usize| part.repeat(count);
    for sql in [
        "SELECT E'\\xff'".to_owned(),
        "SELECT 'a\0b'".to_owned(),
        format!("SELECT 1 AS {}", many("é", 60)),
        format!("SELECT 1 AS x{}", many("é", 60)),
        format!("SELECT {}1{}", many("(", 50_000), many(")", 50_000)),
        format!("SELECT 1{}", many("+1", 100_000)),
        format!("SELECT {}1", many("- ", 100_000)),
        format!("SELECT {}1", many("NOT ", 50_000)),
        format!("SELECT 1{}", many("::int", 40_000)),
        format!("SELECT 1 FROM a{}", many(" NATURAL JOIN a", 15_000)),
        format!("SELECT 1{}", many(" UNION SELECT 1", 15_000)),
        format!("SELECT a{}", many("[1]", 60_000)),
        many("SELECT 1;", 20_000),
    ] {
        verdict(&sql);
    }
    assert_eq!(
        verdict(&format!("SELECT '{}'", many("x", 300_000))).read,
        Read::Bypass(Reason::TooLong)
    );
}

#[test]
fn rules_are_followed_through_views_trees_and_foreign_names() {
    let catalog = sample::catalog();
    let path = ["public".to_owned()];
    let restriction = |sql: &str, subject: &str| {
        let rule = Rule {
            name: "r".to_owned(),
            database: None,
            subject: Subject::Relations {
                schema: Some(Pattern::new("public")),
                name: Pattern::new(subject),
            },
            deny: true,
            max_age: None,
        };
        let rules = Rules { rules: vec![rule], functions: vec![] };
        let restrictions = rules.in_catalog("d", &catalog);
        let context = Context {
            catalog: Some(&catalog),
            search_path: &path,
            parameter_types: &[],
            restrictions: &restrictions,
        };
        classify(sql, &context).read
    };
    let denied = Read::Bypass(Reason::Denied);
    for (sql, subject) in [
        ("SELECT id FROM users", "users"),
        ("SELECT id FROM v_plain", "users"),
        ("SELECT id FROM v_plain", "v_plain"),
        ("SELECT id FROM parts", "part1"),
        ("SELECT id FROM part1", "parts"),
        ("SELECT u.id FROM orders, users u", "users"),
        ("SELECT 1 FROM orders WHERE EXISTS (SELECT FROM users)", "us*"),
    ] {
        assert_eq!(restriction(sql, subject), denied, "{sql} {subject}");
        assert_ne!(restriction(sql, "mails"), denied, "{sql}");
    }
    assert_eq!(restriction("SELECT id FROM users", "v_plain"), Read::Cacheable(tables(&[20001])));
}
