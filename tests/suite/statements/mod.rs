//! Statements as object mappers send them, against the catalogue of a real PostgreSQL: which are
//! kept, with which tables, and that PostgreSQL accepts each of them.

mod agreement;

use std::collections::BTreeMap;

use forebay::sql::catalog::{Catalog, SETUP_QUERIES, SNAPSHOT_QUERIES};
use forebay::sql::classify::{Context, classify};
use forebay::sql::rules::Restrictions;
use forebay::sql::verdict::{Read, TableId, Verdict};

use crate::support::postgres::Database;
use crate::support::raw::{RawClient, close_statement, parse, sync};

const SCHEMA: &str = include_str!("schema.sql");
const CORPUS: &str = include_str!("corpus.txt");

/// The lines of the corpus: what is expected, and the statement.
fn corpus() -> impl Iterator<Item = (&'static str, String)> {
    let lines = CORPUS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let (expected, sql) = line.split_once(" | ").unwrap();
        (expected, sql.replace('¶', "\n"))
    })
}

/// Reads the catalogue as Forebay's service does.
fn catalog(client: &mut RawClient) -> Catalog {
    let questions = SETUP_QUERIES.iter().chain(SNAPSHOT_QUERIES);
    let answers: Vec<_> = questions.map(|question| client.rows(question)).collect();
    Catalog::build(&answers).unwrap()
}

fn judge(sql: &str, catalog: &Catalog) -> Verdict {
    let search_path = ["public".to_owned()];
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

/// A verdict in the corpus's words.
fn describe(verdict: &Verdict, names: &BTreeMap<TableId, String>) -> String {
    match &verdict.read {
        Read::Cacheable(tables) => {
            let mut names: Vec<&str> = tables.iter().map(|table| names[table].as_str()).collect();
            names.sort_unstable();
            names.join(", ")
        }
        Read::Bypass(reason) => format!("!{reason}"),
    }
}

#[test]
fn statements_of_object_mappers_are_kept_with_their_tables() {
    let database = Database::with(SCHEMA);
    let mut client = database.direct();
    let names = client
        .rows("SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        .into_iter()
        .map(|row| {
            let [oid, name] = &row[..] else { panic!("two columns") };
            (TableId(oid.as_ref().unwrap().parse().unwrap()), name.clone().unwrap())
        })
        .collect();
    let catalog = catalog(&mut client);
    let mut wrong = Vec::new();
    for (expected, sql) in corpus() {
        let mut expected: Vec<&str> = expected.split(", ").collect();
        expected.sort_unstable();
        let found = describe(&judge(&sql, &catalog), &names);
        if found != expected.join(", ") {
            wrong.push(format!("{found} instead of {}: {sql}", expected.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(corpus().count() >= 150);
}

#[test]
fn postgresql_accepts_every_statement_of_the_corpus() {
    let database = Database::with(SCHEMA);
    let mut client = database.direct();
    for (expected, sql) in corpus() {
        let known = expected != "!unknown_relation";
        let reply = client.ask(&[parse("s", &sql, &[]), close_statement("s"), sync()]);
        assert_eq!(reply == "1 3 Z(I)", known, "{reply}: {sql}");
    }
}

#[test]
fn a_temporary_child_of_two_tables_joins_no_slots() {
    let database = Database::with("CREATE TABLE one (v int); CREATE TABLE two (v int)");
    let (mut client, mut other) = (database.direct(), database.direct());
    other.run("CREATE TEMP TABLE child () INHERITS (one, two)");
    let two = TableId(client.one("SELECT 'two'::regclass::oid").parse().unwrap());
    let verdict = judge("SELECT v FROM two", &catalog(&mut client));
    assert_eq!(verdict.read, Read::Cacheable([two].into()));
}
