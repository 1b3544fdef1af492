//! The scanner against PostgreSQL's own: what `pg_raw_parse` reads in a text it must read in the
//! folded text too.

use std::fmt::Write as _;

use super::*;

/// One statement a line; `¶` stands for a line break.
fn corpus() -> Vec<String> {
    include_str!("corpus.txt").lines().map(|line| line.replace('¶', "\n")).collect()
}

fn lexed(sql: &str) -> Lexed {
    let mut lexed = Lexed::default();
    lex(sql.as_bytes(), &mut lexed).unwrap_or_else(|error| panic!("{sql:?}: {error}"));
    lexed
}

fn text(sql: &str) -> String {
    String::from_utf8(lexed(sql).text).unwrap()
}

/// The shape with placeholders spelled `<1>`.
fn shape(sql: &str) -> String {
    let mut shown = String::new();
    for byte in lexed(sql).shape {
        if byte < 0x20 {
            write!(shown, "<{byte:x}>").unwrap();
        } else {
            shown.push(char::from(byte));
        }
    }
    shown
}

fn error(sql: &[u8]) -> LexError {
    lex(sql, &mut Lexed::default()).unwrap_err()
}

/// What PostgreSQL's grammar makes of a text, positions aside; `None` where it refuses it.
fn tree(sql: &str) -> Option<String> {
    let parsed = pg_raw_parse::parse(sql).ok()?;
    // The crate panics on looking into some utility statements (`REVOKE … ON ALL TABLES IN
    // SCHEMA`); their deparsed text says less, but enough.
    let debug = std::panic::catch_unwind(|| format!("{:#?}", parsed.stmts().collect::<Vec<_>>()));
    let Ok(debug) = debug else {
        return pg_raw_parse::deparse_stmts(parsed.stmts()).ok();
    };
    let positions = |line: &&str| {
        line.trim_start().split_once(": ").is_none_or(|(field, _)| {
            !field.ends_with("location")
                && !matches!(field, "stmt_len" | "rexpr_list_start" | "rexpr_list_end")
                && !matches!(field, "list_start" | "list_end")
        })
    };
    // Function bodies and the like keep their text; a field's value is never split over lines.
    Some(debug.lines().filter(positions).collect::<Vec<_>>().join("\n"))
}

/// `xorshift`: enough to vary texts, the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// All that must hold of any text; says whether the grammar and the scanner both took it.
fn check_invariants(sql: &[u8], context: &dyn Fn() -> String) -> bool {
    let mut first = Lexed::default();
    let result = lex(sql, &mut first);
    let original = std::str::from_utf8(sql).ok().filter(|sql| !sql.contains('\0'));
    let expected = original.and_then(tree);
    if let Err(error) = result {
        assert!(
            expected.is_none() || matches!(error, LexError::TooLong | LexError::NotPlain(_)),
            "{error} in {:?}, which parses; {}",
            String::from_utf8_lossy(sql),
            context()
        );
        return false;
    }
    let mut second = Lexed::default();
    lex(&first.text, &mut second).unwrap();
    assert_eq!(first.text, second.text, "text again, of {sql:?}; {}", context());
    assert_eq!(first.shape, second.shape, "shape again, of {sql:?}; {}", context());
    assert_eq!(first.time_word, second.time_word, "time word again, of {sql:?}; {}", context());
    assert_eq!(first.literals, second.literals);
    assert_eq!(first.multiple, second.multiple, "{sql:?}; {}", context());
    if let Some(expected) = expected {
        let folded = String::from_utf8(first.text).unwrap();
        assert_eq!(
            Some(&expected),
            tree(&folded).as_ref(),
            "{original:?} became {folded:?}; {}",
            context()
        );
        return true;
    }
    // What is refused must not become acceptable, or a hit would hide the error.
    if let (Some(original), Ok(folded)) = (original, String::from_utf8(first.text)) {
        assert!(tree(&folded).is_none(), "{original:?} is refused, {folded:?} not; {}", context());
    }
    false
}

#[test]
fn blanks_and_comments_fold_to_one_space() {
    let check = |sql, expected: &str| assert_eq!(text(sql), expected, "{sql:?}");
    check("", "");
    check(" \t\r\n", "");
    check("select  1", "select 1");
    check("\n select\t1 \n", "select 1");
    check("select/**/1--x", "select 1");
    check("--a\n/*b*/select 1", "select 1");
    check("select /* /* ' */ \" */ 1", "select 1");
    check("select 1 +--x\r2", "select 1 + 2");
    check("select 1 ; -- x\n ;", "select 1");
    check("select ';  --' ;", "select ';  --'");
    check("select \"a  /**/\"", "select \"a  /**/\"");
    check("select $a$  --$a$  ", "select $a$  --$a$");
    check("select 1 -1", "select 1 -1");
    check("select 1 /2", "select 1 /2");
}

#[test]
fn a_line_break_between_strings_stays() {
    let check = |sql, expected: &str| assert_eq!(text(sql), expected, "{sql:?}");
    check("select 'a' \n\t 'b'", "select 'a'\n'b'");
    check("select 'a' --c\n , 'b'", "select 'a' , 'b'");
    check("select 'a' 'b'", "select 'a' 'b'");
    check("select 'a' /*\n*/ 'b'", "select 'a' 'b'");
    check("select 'a' --c\n /**/ 'b'", "select 'a' 'b'");
    check("select 'a'\n, 'b'", "select 'a' , 'b'");
    check("select 'a'\n$$b$$", "select 'a' $$b$$");
    check("set x = 'a'  \n'b'", "set x = 'a'\n'b'");
}

#[test]
fn a_literal_becomes_its_lexical_class() {
    let check = |literal: &str, expected: &str| {
        assert_eq!(shape(&format!("select {literal}")), format!("select {expected}"), "{literal}");
    };
    check("0", "<1>");
    check("2147483647", "<1>");
    check("0x7FFFFFFF", "<1>");
    check("1_000", "<1>");
    check("2147483649", "<2>");
    check("9223372036854775807", "<2>");
    check("0b11111111111111111111111111111111", "<2>");
    check("9223372036854775809", "<3>");
    check("99999999999999999999999999999999", "<3>");
    check("1.0", "<3>");
    check(".5", "<3>");
    check("5.", "<3>");
    check("1e5", "<3>");
    check("1.5E-3", "<3>");
    check("'a''b'", "<4>");
    check("E'a\\'b'", "<4>");
    check("U&'\\0061'", "<4>");
    check("$x$ $y$ $x$", "<4>");
    check("'a'\n'b'", "<4>");
    check("n'a'", "<5>");
    check("B'01'", "<6>");
    check("x'1f'", "<6>");
    check("-1", "-<1>");
    check("$1", "$1");
    check("'a' 'b'", "<4> <4>");
    check("a$b$c", "a$b$c");
    check("\"A\", U&\"b\"", "\"A\", U&\"b\"");
}

#[test]
fn literals_that_can_decide_a_verdict_stay_in_the_shape() {
    let check = |sql, expected: &str| assert_eq!(shape(sql), expected, "{sql:?}");
    check("select -2147483648", "select -2147483648");
    check("select 9223372036854775808", "select 9223372036854775808");
    check("select x::float(24)", "select x::float(24)");
    check("select x::FLOAT /**/ ( 24 )", "select x::FLOAT ( 24 )");
    check("select a order by 1, 2 limit 3", "select a order by 1, 2 limit <1>");
    check("select a group by (1), 2", "select a group by (1), 2");
    check("select a group by distinct 1", "select a group by distinct 1");
    check("select a group by rollup(1, a)", "select a group by rollup(1, a)");
    check("select distinct on (1) 5", "select distinct on (1) <1>");
    check("select a order by t.having, 2", "select a order by t.having, 2");
    check("select a order by b + 1", "select a order by b + <1>");
    check("select (select 1 order by 1), 2", "select (select <1> order by 1), <1>");
    check("select a group by 1 having a in (1, 2)", "select a group by 1 having a in (<11>)");
    check("explain (analyze 0) delete from t", "explain (analyze 0) delete from t");
    check("select 1; set x = 'y'; select 2", "select <1>; set x = 'y'; select <1>");
    check("alter role r password 'p'", "alter role r password 'p'");
}

#[test]
fn a_list_of_one_class_becomes_one_marker() {
    let check = |sql, expected: &str| assert_eq!(shape(sql), expected, "{sql:?}");
    check("select a in (1,2)", "select a in (<11>)");
    check("select a IN /**/ ( 1 , 2 , 3 )", "select a IN (<11>)");
    check("select a in ('a', e'b', $$c$$)", "select a in (<14>)");
    check("select a in (1)", "select a in (<1>)");
    check("select a in (1, 3000000000)", "select a in (<1>, <2>)");
    check("select a in (1, 2147483648)", "select a in (<1>, 2147483648)");
    check("select a in (1, b)", "select a in (<1>, b)");
    check("select a in (1, 2 + 3)", "select a in (<1>, <1> + <1>)");
    check("select a in (1, 'x' 'y')", "select a in (<1>, <4> <4>)");
    check("select a in (1, -2)", "select a in (<1>, -<1>)");
    check("select a in (1, 2, )", "select a in (<1>, <1>, )");
    check("select a in (, 1, 2)", "select a in (, <1>, <1>)");
    check("select a in ((1, 2))", "select a in ((<1>, <1>))");
    check("select a in (1, 2)(3)", "select a in (<11>)(<1>)");
    check("select s.in(1, 2)", "select s.in(<1>, <1>)");
    check("select f(1, 2)", "select f(<1>, <1>)");
}

#[test]
fn a_position_in_a_list_is_counted_and_a_hint_is_found() {
    let one = lexed("/* no-cache */ select 'a', 1");
    assert_eq!((one.literals, one.multiple, one.hint), (2, false, Some(0..14)));
    let two = lexed(" --x\nselect 1;; select 2;");
    assert_eq!((two.literals, two.multiple, two.hint), (2, true, Some(1..4)));
    assert!(!lexed("select 1; ;/**/;").multiple);
    assert!(!lexed("select ';'").multiple);
    assert_eq!(lexed("select /* x */ 1").hint, None);
}

#[test]
fn the_last_comment_is_found_wherever_it_stands_and_none_in_a_literal() {
    let check = |sql: &str, expected: Option<&str>| {
        let comment = lexed(sql).comment.and_then(|range| sql.get(range));
        assert_eq!(comment, expected, "{sql}");
    };
    check("select 1", None);
    check("select '/* a */', $$ -- b $$, \"/* c */\"", None);
    check("select 1 /* a */", Some("/* a */"));
    check("select 1/* a */;", Some("/* a */"));
    check("/* a */ select /* b */ 1", Some("/* b */"));
    check("/* a */ -- b\nselect '/* c */'", Some("-- b"));
    check("select 1 -- a", Some("-- a"));
    check("select 'a' /* b /* c */ */\n'd'", Some("/* b /* c */ */"));
}

#[test]
fn what_is_not_plain_is_refused_with_its_reason() {
    let plain = |sql: &[u8], reason| {
        assert_eq!(error(sql), LexError::NotPlain(reason), "{}", String::from_utf8_lossy(sql));
    };
    plain(b"select 1\0", NotPlain::Nul);
    plain(b"select '\0'", NotPlain::Nul);
    plain(b"select\x0b1", NotPlain::StrayByte);
    plain(b"select \x01", NotPlain::StrayByte);
    plain(b"select \\", NotPlain::StrayByte);
    plain(b"select {1}", NotPlain::StrayByte);
    plain(b"select $", NotPlain::StrayDollar);
    plain(b"select $a", NotPlain::StrayDollar);
    plain(b"select $a-$x$a-$", NotPlain::StrayDollar);
    plain(b"select 1a", NotPlain::NumberJunk);
    plain(b"select 1_", NotPlain::NumberJunk);
    plain(b"select 0x", NotPlain::NumberJunk);
    plain(b"select 1e+", NotPlain::NumberJunk);
    plain(b"select 1.2.3", NotPlain::NumberJunk);
    plain(b"select $1a", NotPlain::NumberJunk);
    plain(b"select 1..2", NotPlain::NumberJunk);
    plain(b"select a..2", NotPlain::DotDot);
    plain(b"select U&'!0061' uescape '!'", NotPlain::Uescape);
    plain(b"select U&\"!0061\"/**/UESCAPE '!'", NotPlain::Uescape);
    plain(b"select b'1''0'", NotPlain::BitStringJunk);
    plain(b"select 'a' --c\n --d\r 'b'", NotPlain::CommentInString);
    plain(b"select 1 /* \xff */", NotPlain::CommentEncoding);
    let open = |sql: &[u8], quote| assert_eq!(error(sql), LexError::Unterminated(quote));
    open(b"select 'a", Quote::String);
    open(b"select 'a''", Quote::String);
    open(b"select E'a\\'", Quote::String);
    open(b"select E'a\\", Quote::String);
    open(b"select 'a'\n'b", Quote::String);
    open(b"select $a$ $b$", Quote::Dollar);
    open(b"select \"a", Quote::Identifier);
    open(b"select /* /* */", Quote::Comment);
    open(b"select /*/", Quote::Comment);
    assert_eq!(error(&vec![b' '; SQL_BYTES_MAX + 1]), LexError::TooLong);
}

#[test]
fn time_words_are_found_wherever_a_date_reader_finds_them() {
    let yes = |text: &str| assert!(contains_time_word(text.as_bytes()), "{text:?}");
    let no = |text: &str| assert!(!contains_time_word(text.as_bytes()), "{text:?}");
    for word in ["now", "today", "tomorrow", "yesterday", "NOW", "ToDay"] {
        yes(word);
        yes(&format!("  {word} "));
        yes(&format!("1{word}_"));
        yes(&format!("[{word},2020-01-01)"));
        yes(&format!("{}{word}", " ".repeat(29)));
        yes(&format!("{}{word}{}", ".".repeat(100), ".".repeat(100)));
        no(&format!("x{word}"));
        no(&format!("{word}s"));
    }
    yes("know now");
    yes("{n\\ow}");
    yes("[n\"o\"w,)");
    no("");
    no("epoch");
    no("infinity");
    no("no w");
    no("2020-01-01");
}

#[test]
fn a_string_that_hides_its_text_counts_as_a_time_word() {
    let check = |literal: &str, expected| {
        assert_eq!(lexed(&format!("select {literal}")).time_word, expected, "{literal}");
    };
    check("'now'", true);
    check("$$today$$", true);
    check("N'now'", true);
    check("E'now'", true);
    check("E'n\\x6fw'", true);
    check("E'\\156ow'", true);
    check("E'n\\ow'", true);
    check("E'x\\nnow'", true);
    check("E'\\\\x'", false);
    check("E'a\\'b'", false);
    check("E'known'", false);
    check("U&'\\006eow'", true);
    check("U&'abc'", false);
    check("'no'\n'w'", true);
    check("\"now\"", false);
    check("now", false);
    check("'known'", false);
    check("B'1'", false);
}

#[test]
fn shapes_are_shown_without_values() {
    let check = |sql, expected: &str| {
        assert_eq!(display_shape(&lexed(sql).shape, 1000), expected, "{sql:?}");
    };
    check("select 'a', 1 from t limit 5", "select $1, $2 from t limit $3");
    check("select $3, 'a', a$9, \"$8\"", "select $3, $4, a$9, \"$8\"");
    check("select a in (1, 2), 3", "select a in ($1 /*, ... */), $2");
    check("alter role r password 'p'", "alter role r password $1");
    check("select 1 as \"a\nb\"", "select $1 as \"a b\"");
    check("select a order by 1", "select a order by 1");
    assert_eq!(display_shape("select \"ééé\"".as_bytes(), 11), "select \"é");
    assert_eq!(display_shape(b"select 'unterminated", 100), "");
}

#[test]
fn the_corpus_reads_the_same_without_its_comments() {
    let corpus = corpus();
    assert!(corpus.len() >= 200);
    let mut taken = 0;
    for sql in &corpus {
        taken += usize::from(check_invariants(sql.as_bytes(), &|| "corpus".to_owned()));
        let mut out = Lexed::default();
        if lex(sql.as_bytes(), &mut out).is_ok() {
            assert!(!display_shape(&out.shape, 10_000).contains('\''), "{sql:?}");
            assert_eq!(display_shape(&out.shape, 10_000).is_empty(), out.text.is_empty());
        }
    }
    assert!(taken * 100 >= corpus.len() * 95, "{taken} of {}", corpus.len());
}

#[test]
fn every_prefix_of_the_corpus_holds_the_invariants() {
    for sql in corpus() {
        for end in 0..sql.len() {
            check_invariants(&sql.as_bytes()[..end], &|| format!("prefix {end} of {sql:?}"));
        }
    }
}

/// Bytes at which texts change their meaning.
const EDGES: [&str; 40] = [
    "'", "''", "\"", "$", "$$", "$a$", "\\", "--", "/*", "*/", "\n", "\r", "\t", " ", ";", "(",
    ")", ",", ".", "-", "+", "/", "*", "E'", "U&'", "U&\"", "N'", "b'", "x'", "1", "e", "_", "a",
    "é", "@", ":", "0x", " in (", "\n'", "\x0c",
];

fn mutate(random: &mut Random, sql: &mut Vec<u8>) {
    for _ in 0..=random.below(3) {
        let at = random.below(sql.len() + 1);
        match random.below(5) {
            0 if at < sql.len() => {
                sql.remove(at);
            }
            1 if at < sql.len() => sql[at] = u8::try_from(random.below(256)).unwrap(),
            2 => {
                let from = random.below(sql.len() + 1);
                let piece = sql[from.min(at)..from.max(at)].to_vec();
                let to = random.below(sql.len() + 1);
                sql.splice(to..to, piece);
            }
            _ => {
                let edge = random.pick(&EDGES).bytes();
                sql.splice(at..at, edge);
            }
        }
    }
}

#[test]
fn mutated_statements_hold_the_invariants() {
    let corpus = corpus();
    let (seed, rounds) = fuzz_plan(20_000);
    let mut random = Random(seed);
    let mut taken = 0;
    for round in 0..rounds {
        let original = &corpus[random.below(corpus.len())];
        let mut sql = original.clone().into_bytes();
        mutate(&mut random, &mut sql);
        let context = || format!("seed {seed}, round {round}, from {original:?}");
        taken += usize::from(check_invariants(&sql, &context));
    }
    assert!(taken > rounds / 10, "{taken} of {rounds} were read by both");
}

/// Tokens of every kind, put together at random.
const TOKENS: [&str; 48] = [
    "'a'",
    "''",
    "'b''c'",
    "E'x\\'y'",
    "e'\\\\'",
    "$$z$$",
    "$q$ $$ $q$",
    "N'n'",
    "b'1'",
    "X'f'",
    "U&'u'",
    "\"id\"",
    "U&\"v\"",
    "1",
    "2.5",
    ".5",
    "1e3",
    "3000000000",
    "0x1f",
    "$1",
    "a",
    "b$c",
    "é",
    "e",
    "u",
    "n",
    "+",
    "-",
    "*",
    "/",
    "@",
    "<",
    "||",
    "::text",
    "as",
    "in",
    "(1,2)",
    "(",
    ")",
    ",",
    "and",
    "not",
    "from t",
    "where",
    "union select",
    "order by 1",
    "&",
    "null",
];
/// What may stand between two tokens, or nothing.
const GAPS: [&str; 14] = [
    "",
    "",
    " ",
    " ",
    " ",
    "\n",
    "\t",
    "\r\n",
    "/**/",
    "/* ' */",
    "--x\n",
    " --'\n ",
    "/*\n*/",
    " /* /* */ */ ",
];

#[test]
fn generated_token_sequences_hold_the_invariants() {
    let (seed, rounds) = fuzz_plan(20_000);
    let mut random = Random(seed);
    let mut taken = 0;
    for round in 0..rounds {
        let mut sql = "select ".to_owned();
        for _ in 0..=random.below(5) {
            sql.push_str(random.pick(&TOKENS));
            sql.push_str(random.pick(&GAPS));
        }
        taken += usize::from(check_invariants(sql.as_bytes(), &|| {
            format!("seed {seed}, round {round}")
        }));
    }
    assert!(taken > rounds / 20, "{taken} of {rounds} were read by both");
}

#[test]
fn strings_and_gaps_alone_hold_the_invariants() {
    const PARTS: [&str; 20] = [
        "'", "''", "'a'", "\n", "\r", " ", "--", "/*", "*/", "E'", "\\", "$$", "$a$", "\"", "b'",
        "n'", "u&'", ",", "1", "-",
    ];
    let (seed, rounds) = fuzz_plan(20_000);
    let mut random = Random(seed);
    let mut taken = 0;
    for round in 0..rounds {
        // DO takes several strings in a row, SELECT does not.
        let mut sql = random.pick(&["do ", "select ", "do language "]).to_owned();
        for _ in 0..=random.below(8) {
            sql.push_str(random.pick(&PARTS));
        }
        taken += usize::from(check_invariants(sql.as_bytes(), &|| {
            format!("seed {seed}, round {round}")
        }));
    }
    assert!(taken > rounds / 50, "{taken} of {rounds} were read by both");
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let mut out = Lexed::default();
    for _ in 0..50_000 {
        let len = random.below(40);
        let mut sql: Vec<u8> = (0..len).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        if lex(&sql, &mut out).is_ok() {
            assert!(display_shape(&out.shape, len).len() <= len);
        }
        assert!(display_shape(&sql, len).len() <= len);
        sql.insert(0, b'\'');
        assert!(!may_panic(&sql));
    }
}

fn may_panic(text: &[u8]) -> bool {
    let _word: bool = contains_time_word(text);
    false
}

/// Seed and number of rounds; `FOREBAY_FUZZ_SEED` and `FOREBAY_FUZZ_ROUNDS` choose others.
fn fuzz_plan(rounds: usize) -> (u64, usize) {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("FOREBAY_FUZZ_SEED").filter(|seed| *seed != 0);
    let rounds_wanted = number("FOREBAY_FUZZ_ROUNDS").map(|many| usize::try_from(many).unwrap());
    (seed.unwrap_or(0x9E37_79B9_7F4A_7C15), rounds_wanted.unwrap_or(rounds))
}

#[test]
fn the_class_of_a_number_is_the_type_postgresql_gives_it() {
    let class = |digits: &str| {
        let sql = format!("select {digits}");
        let tree = tree(&sql).unwrap_or_else(|| panic!("{digits} is refused"));
        let int4 = tree.contains("Integer(");
        assert_eq!(shape(&sql) == "select <1>", int4, "{digits}");
    };
    for shift in 1..63 {
        for value in [(1_u64 << shift) - 1, 1 << shift, (1 << shift) + 1] {
            class(&format!("{value}"));
            class(&format!("{value:#x}"));
            class(&format!("{value:#o}"));
            class(&format!("{value:#b}"));
            class(&format!("000{value}"));
            class(&format!("{value}.0"));
        }
    }
}
