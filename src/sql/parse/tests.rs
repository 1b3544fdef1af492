//! Texts and the facts read from them.

use super::Argument::{Number, Typed, Untyped};
use super::*;

#[test]
fn every_name_of_a_query_is_seen_at_any_depth() {
    let statements = parse(
        "WITH a AS (SELECT f1() FROM t1) SELECT CASE WHEN EXISTS (SELECT 1 FROM t2 WHERE f2(x) @@@ 1) \
         THEN x::ty1 END FROM t3, LATERAL (SELECT * FROM s.t4) l \
         WHERE x = ANY (SELECT y FROM t5) GROUP BY f3(x) HAVING f4() ORDER BY f5() LIMIT f6()",
    )
    .unwrap();
    let facts = &statements[0].facts;
    let mut relations: Vec<&str> = facts.relations.iter().map(|r| r.name.name.as_str()).collect();
    relations.sort_unstable();
    assert_eq!(relations, ["t1", "t2", "t3", "t4", "t5"]);
    let mut calls: Vec<&str> = facts.calls.iter().map(|call| call.name.name.as_str()).collect();
    calls.sort_unstable();
    assert_eq!(calls, ["f1", "f2", "f3", "f4", "f5", "f6"]);
    assert!(facts.operators.iter().any(|operator| operator.name.name == "@@@"));
    assert!(facts.types.iter().any(|use_| use_.name.name == "ty1"));
    assert!(facts.ctes.contains("a") && facts.derived.contains("l"));
    assert!(!facts.unknown_syntax);
}

#[test]
fn a_literal_has_no_type_of_its_own() {
    let statements = parse("SELECT f('a', $1, 1, a, b::text, ROW(1), NULL)").unwrap();
    let call = &statements[0].facts.calls[0];
    assert_eq!(call.arguments, [Untyped, Untyped, Number, Typed, Typed, Untyped, Untyped]);
}

#[test]
fn only_is_no_table() {
    let statements = parse("DELETE FROM ONLY t").unwrap();
    assert_eq!(statements[0].facts.targets[0].name.name, "t");
}

#[test]
fn an_order_is_fixed_by_order_by_at_the_top_alone() {
    for sql in [
        "SELECT a FROM t ORDER BY a",
        "(SELECT a FROM t) ORDER BY a",
        "SELECT a FROM t UNION SELECT b FROM u ORDER BY 1",
        "WITH w AS (SELECT 1) SELECT * FROM w ORDER BY 1 LIMIT 3",
        "not understood",
        "EXPLAIN SELECT 1",
    ] {
        assert!(fixes_order(sql), "{sql}");
    }
    for sql in [
        "SELECT a FROM t",
        "SELECT a FROM (SELECT a FROM t ORDER BY a) q",
        "SELECT array_agg(a ORDER BY a) FROM t GROUP BY b",
        "SELECT a FROM t WHERE b = $1 LIMIT 3",
    ] {
        assert!(!fixes_order(sql), "{sql}");
    }
}
