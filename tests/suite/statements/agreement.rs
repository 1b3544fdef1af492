//! The resolver against PostgreSQL: what it says of a statement and what PostgreSQL's own tree of
//! it says, over statements made from a seed.

use forebay::sql::analysis::{PARAMETERS_QUERY, Question, conclude};
use forebay::sql::rules::Restrictions;
use forebay::sql::verdict::{BypassReason, Read, TableId};

use super::{SCHEMA, catalog, corpus, judge};
use crate::support::postgres::Database;
use crate::support::raw::{Message, RawClient, query};

const STATEMENTS: usize = 1500;
const SEEDS: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 20_241_121];

/// The view that PostgreSQL makes of the statement, and its tree; `None`: it refuses it.
fn tree(client: &mut RawClient, sql: &str) -> Option<(u32, String)> {
    let question = Question {
        text: sql.to_owned(),
        types: Vec::new(),
        search_path: vec!["public".to_owned()],
        role: None,
    };
    let mut rows = |sql: &str| -> Option<Vec<Vec<Option<String>>>> {
        client.send(&query(sql));
        let messages = client.until(b'Z');
        if messages.iter().any(|message| message.tag == b'E') {
            return None;
        }
        let rows = messages.iter().filter(|message| message.tag == b'D');
        Some(rows.map(Message::columns).collect())
    };
    let tree = rows(&question.opening(&[]))
        .and_then(|_| rows(PARAMETERS_QUERY))
        .and_then(|types| question.view(&types.into_iter().flatten().flatten().collect::<Vec<_>>()))
        .and_then(|view| rows(&view))
        .map(|rows| {
            let [Some(view), Some(tree)] = &rows[0][..] else { panic!("an id and a tree") };
            (view.parse().unwrap(), tree.clone())
        });
    client.query("ROLLBACK");
    client.query("DEALLOCATE ALL");
    tree
}

/// Both decide, and both say the same: the same tables, or neither keeps it. Only where the
/// resolver says that names alone do not tell may PostgreSQL's tree prove more. Tells whether it
/// was kept; `None`: PostgreSQL refuses the statement.
fn agree(
    client: &mut RawClient,
    catalog: &forebay::sql::catalog::Catalog,
    sql: &str,
) -> Option<bool> {
    let local = judge(sql, catalog);
    let (view, tree) = tree(client, sql)?;
    let asked = conclude(view, &tree, (catalog, &Restrictions::default()), &local)
        .map(|verdict| verdict.read);
    match (&local.read, asked) {
        (Read::Cacheable(tables), Some(Read::Cacheable(found))) => {
            // A name that counts as all it could be may add tables, never lose one.
            let missing: Vec<&TableId> = found.iter().filter(|t| !tables.contains(t)).collect();
            assert!(missing.is_empty(), "{missing:?} missing: {sql}");
            assert_eq!(tables, &found, "{sql}");
            Some(true)
        }
        (Read::Cacheable(_), _) => panic!("PostgreSQL's tree forbids what was kept: {sql}\n{tree}"),
        (Read::Bypass(reason), Some(_)) => {
            let left_open = matches!(
                reason,
                BypassReason::UserObject
                    | BypassReason::UnknownName
                    | BypassReason::TimeType
                    | BypassReason::Function
                    | BypassReason::TimeWord
            );
            assert!(left_open, "{reason}, but its tree forbids nothing: {sql}");
            Some(false)
        }
        (Read::Bypass(_), None) => Some(false),
    }
}

/// A small generator of numbers, so that a failure can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    /// A number, of a row called `x`.
    fn number(&mut self, depth: usize) -> String {
        if depth == 0 {
            let leaves = ["x.id", "x.n", "1", "2.5", "length(x.s)", "$1::int", "3000000000"];
            return self.pick(&leaves).to_owned();
        }
        let inner = self.number(depth - 1);
        match self.below(12) {
            0 => format!("({inner} + {})", self.number(depth - 1)),
            1 => format!("coalesce({inner}, 0)"),
            2 => format!("CASE WHEN {} THEN {inner} ELSE 0 END", self.condition(depth - 1)),
            3 => format!("({inner})::numeric"),
            4 => format!("abs({inner})"),
            5 => format!("(SELECT count(*) FROM {} x)", self.source(depth - 1)),
            6 => "extract(epoch FROM x.t)".to_owned(),
            7 => "date_part('year', x.d)".to_owned(),
            8 => format!("twice({inner})"),
            9 => format!("round(({inner})::numeric, 2)"),
            10 => self.pick(&["random()", "extract(epoch FROM now())", "x.stamp"]).to_owned(),
            _ => inner,
        }
    }

    fn text(&mut self, depth: usize) -> String {
        let leaves = ["x.s", "'a'", "upper(x.s)", "$2::text", "x.t::text", "x.m::text"];
        let inner = self.pick(&leaves);
        match self.below(14) {
            0 => format!("concat({inner}, {})", self.number(depth)),
            1 => format!("lower({inner})"),
            2 => format!("to_char(x.t, 'YYYY') || {inner}"),
            3 => format!("format('%s', {inner})"),
            4 => self.pick(&["current_user", "CURRENT_DATE::text", "session_user"]).to_owned(),
            5 => "jsonb_build_object('a', x.s) ->> 'a'".to_owned(),
            6 => "current_setting('app.x', true)".to_owned(),
            7 => self.pick(&["'one'::regclass::text", "x.ctid::text", "version()"]).to_owned(),
            _ => inner.to_owned(),
        }
    }

    fn moment(&mut self) -> String {
        let moments = [
            "x.t",
            "x.t::date",
            "date(x.t)",
            "date_trunc('day', x.t)",
            "x.d + 1",
            "(x.t + interval '1 day')::date",
            "'2024-01-01'::date",
            "x.s::date",
            "'today'::date",
            "x.t AT TIME ZONE 'UTC'",
            "$3::timestamptz",
            "now()",
            "to_timestamp(x.id)",
            "make_date(2024, 1, 2)",
            "x.d::timestamptz",
        ];
        self.pick(&moments).to_owned()
    }

    fn condition(&mut self, depth: usize) -> String {
        match self.below(9) {
            0 => format!("{} = {}", self.text(0), self.text(0)),
            1 => format!("{} < {}", self.moment(), self.moment()),
            2 => "x.s ILIKE '%a%'".to_owned(),
            3 => "x.m = 'ok'".to_owned(),
            4 => "x.id IN (1, 2, 3)".to_owned(),
            5 if depth > 0 => format!("EXISTS (SELECT 1 FROM {} y)", self.source(depth - 1)),
            6 if depth > 0 => {
                format!("x.id = ANY (SELECT x.id FROM {} x)", self.source(depth - 1))
            }
            7 => "x.id ### 2 IS NULL".to_owned(),
            _ => format!("{} > 1", self.number(depth.min(1))),
        }
    }

    /// Rows with the columns id, n, s, t (a timestamp), d (a date) and m (an enum).
    fn source(&mut self, depth: usize) -> String {
        if depth > 0 && self.below(4) == 0 {
            let (inner, condition) = (self.source(depth - 1), self.condition(depth - 1));
            return format!("(SELECT x.* FROM {inner} x WHERE {condition})");
        }
        let plain =
            ["one", "two", "parted", "parted_1", "kept", "view_one", "view_both", "ONLY one"];
        match self.below(12) {
            0 => "view_now".to_owned(),
            1 => "secret".to_owned(),
            _ => self.pick(&plain).to_owned(),
        }
    }

    fn statement(&mut self) -> String {
        let source = self.source(2);
        let (number, text, moment) = (self.number(2), self.text(1), self.moment());
        let condition = self.condition(2);
        match self.below(9) {
            0 => format!("SELECT count(*) FILTER (WHERE {condition}), max(x.n) FROM {source} x"),
            1 => format!(
                "SELECT x.s, sum(x.n) FROM {source} x WHERE {condition} GROUP BY x.s \
                 HAVING count(*) > 1"
            ),
            2 => format!(
                "WITH w AS (SELECT {number} AS id FROM {source} x) SELECT * FROM w JOIN one USING (id)"
            ),
            3 => format!("SELECT x.id FROM {source} x UNION SELECT y.id FROM two y"),
            4 => format!(
                "SELECT DISTINCT ON (x.s) x.s, {moment} AS a FROM {source} x ORDER BY x.s, x.id"
            ),
            5 => format!(
                "SELECT x.id, l.id FROM {source} x LEFT JOIN LATERAL \
                 (SELECT y.id FROM two y WHERE y.id = x.id LIMIT 1) l ON true"
            ),
            6 => format!("SELECT row_number() OVER (ORDER BY {number}) FROM {source} x"),
            7 => format!(
                "SELECT x.* FROM {source} x WHERE {condition} ORDER BY {moment} LIMIT 5 OFFSET $1"
            ),
            _ => format!(
                "SELECT {number} AS a, {text} AS b, {moment} AS c FROM {source} x WHERE {condition}"
            ),
        }
    }
}

const WORLD: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE one (id int, n numeric, s text, t timestamptz, d date, m mood);
    CREATE TABLE two (id bigint, n float8, s varchar, t timestamp, d date, m mood);
    CREATE TABLE parted (id int, n numeric, s text, t timestamptz, d date, m mood)
        PARTITION BY LIST (id);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
    CREATE TABLE secret (id int, n numeric, s text, t timestamptz, d date, m mood);
    ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON secret
        USING (s = current_user AND id IN (SELECT two.id FROM two));
    CREATE MATERIALIZED VIEW kept AS SELECT * FROM one;
    CREATE VIEW view_one AS SELECT id, n, s, t, d, m FROM one WHERE n > 1;
    CREATE VIEW view_both AS
        SELECT one.id, two.n, one.s, two.t, one.d, two.m FROM view_one one JOIN two USING (id);
    CREATE VIEW view_now AS SELECT * FROM one WHERE t < now();
    CREATE FUNCTION twice(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION lower(mood) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
    CREATE FUNCTION stamp(one) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE OPERATOR ### (FUNCTION = int4pl, LEFTARG = int, RIGHTARG = int)";

#[test]
fn resolver_and_postgresql_agree_on_statements_made_from_seeds() {
    let database = Database::with(WORLD);
    let mut client = database.direct();
    let catalog = catalog(&mut client);
    client.run("RESET search_path");
    let (mut judged, mut kept) = (0, 0);
    for seed in SEEDS {
        println!("seed {seed}");
        let mut random = Random(seed);
        for _ in 0..STATEMENTS {
            let sql = random.statement();
            if let Some(is_kept) = agree(&mut client, &catalog, &sql) {
                judged += 1;
                kept += usize::from(is_kept);
            }
        }
    }
    println!("{judged} judged, {kept} kept");
    assert!(judged >= 1000 && kept >= 300, "{judged} judged, {kept} kept");
}

#[test]
fn resolver_and_postgresql_agree_on_the_corpus() {
    let database = Database::with(SCHEMA);
    let mut client = database.direct();
    let catalog = catalog(&mut client);
    client.run("RESET search_path");
    let kept = corpus()
        .filter(|(_, sql)| agree(&mut client, &catalog, sql.trim_end_matches(';')) == Some(true));
    assert!(kept.count() >= 120);
}
