//! What the snapshot says of a small database made for these tests.

use super::sample::{answers, catalog};
use super::*;

#[test]
fn a_partition_shares_the_slot_of_its_root() {
    let catalog = catalog();
    assert_eq!(catalog.root(20012), TableId(20010));
    assert_eq!(catalog.root(20001), TableId(20001));
    assert_eq!(catalog.tree(TableId(20010)).count(), 3);
}

#[test]
fn tables_joined_by_a_common_child_share_a_slot() {
    let mut answers = answers();
    let row = |child: &str, parent: &str| vec![Some(child.to_owned()), Some(parent.to_owned())];
    answers[6] = vec![row("20003", "20001"), row("20003", "20002")];
    let catalog = Catalog::build(&answers).unwrap();
    assert_eq!(catalog.root(20002), catalog.root(20001));
    assert_eq!(catalog.root(20003), catalog.root(20001));
}

#[test]
fn a_type_is_classed_by_what_is_inside() {
    let catalog = catalog();
    assert_eq!(catalog.type_class(1009), TypeClass::Plain);
    assert_eq!(catalog.type_class(18001), TypeClass::Enum(18001));
    assert_eq!(catalog.type_class(18000), TypeClass::Outside);
    assert_eq!(catalog.type_class(18002), TypeClass::CheckedDomain);
    assert_eq!(catalog.type_class(99999), TypeClass::Outside);
}

#[test]
fn an_answer_that_is_missing_fails_the_snapshot() {
    let mut answers = answers();
    answers.pop();
    assert_eq!(
        Catalog::build(&answers).unwrap_err(),
        CatalogError { query: 16, problem: "wrong number of answers" }
    );
}

#[test]
fn a_row_that_does_not_read_fails_the_snapshot() {
    for query in 1..answers().len() {
        let mut answers = answers();
        answers[query] = vec![vec![Some("?".to_owned()); 20]];
        assert_eq!(Catalog::build(&answers).unwrap_err().query, query);
        answers[query] = vec![vec![]];
        assert_eq!(Catalog::build(&answers).unwrap_err().query, query);
    }
}

#[test]
fn a_cast_between_built_in_types_that_runs_code_makes_any_statement_suspect() {
    let mut answers = answers();
    assert!(!Catalog::build(&answers).unwrap().hooks());
    answers[11].push(["23", "16", "i", "false"].map(|field| Some(field.to_owned())).to_vec());
    assert!(!Catalog::build(&answers).unwrap().hooks());
    for row in [["25", "1082", "i", "false"], ["23", "16", "e", "true"]] {
        answers[11].truncate(2);
        answers[11].push(row.map(|field| Some(field.to_owned())).to_vec());
        assert!(Catalog::build(&answers).unwrap().hooks());
    }
}
