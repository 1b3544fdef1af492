//! A small made-up database for tests: the catalogue's questions answered by hand.

use super::Catalog;

/// Rows of one answer, one a line, fields parted by blanks.
fn rows(text: &str) -> Vec<Vec<Option<String>>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| line.split(' ').map(|field| Some(field.to_owned())).collect())
        .collect()
}

/// Argument lists hold blanks themselves, so they are written with commas.
fn function_rows(text: &str) -> Vec<Vec<Option<String>>> {
    let mut rows = rows(text);
    for row in &mut rows {
        if let Some(Some(arguments)) = row.get_mut(2) {
            *arguments = arguments.replace(',', " ").replace('-', "");
        }
    }
    rows
}

/// Trees hold blanks.
fn tree_rows(text: &str) -> Vec<Vec<Option<String>>> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| line.splitn(3, ' ').map(|field| Some(field.to_owned())).collect()).collect()
}

/// The answers; a test may change one before it builds.
pub(crate) fn answers() -> Vec<Vec<Vec<Option<String>>>> {
    vec![
        rows("pg_catalog :funcid"),
        rows(BUILT_INS),
        rows("16000 150018 0 0 0 0"),
        rows("11 pg_catalog\n 13000 information_schema\n 2200 public\n 17000 tenant"),
        rows(RELATIONS),
        rows(COLUMNS),
        rows("20011 20010\n 20012 20010"),
        rows("20002 20001 c a\n 20003 20002 c c\n 20004 20001 n a\n 20006 20005 c a"),
        rows(TYPES),
        function_rows(FUNCTIONS),
        rows("### 2200 23 23\n = 2200 18000 18000\n % 2200 25 25"),
        rows("18000 25 i false\n 25 18000 a false"),
        rows("20007\n 20021\n 20014"),
        rows("20020 20001 v\n 20021 20001 v\n 20022 20021 v\n 20014 20001 p"),
        rows("18002"),
        tree_rows(TREES),
        rows("f 20700\n o 20701\n t 18000"),
    ]
}

pub(crate) fn catalog() -> Catalog {
    Catalog::build(&answers()).expect("the sample is complete")
}

/// oid name schema kind persistence row-security trigger rule
const RELATIONS: &str = "
1259 pg_class 11 r p false false false
13100 tables 13000 v p false false false
20001 users 2200 r p false false false
20002 orders 2200 r p false false false
20003 items 2200 r p false false false
20004 prefs 2200 r p false false false
20005 parent 2200 r p false false false
20006 audited 2200 r p false true false
20007 defaulted 2200 r p false false false
20008 ruled 2200 r p false false true
20010 parts 2200 p p false false false
20011 part1 2200 r p false false false
20012 part2 2200 r p false false false
20013 mails 2200 r p false false false
20014 secret 2200 r p true false false
20015 scratch 2200 r u false false false
20016 clocks 2200 r p false false false
20017 checked 2200 r p false false false
20020 v_plain 2200 v p false false false
20021 v_writes 2200 v p false false false
20022 v_outer 2200 v p false false false
20023 totals 2200 m p false false false
20024 remote 2200 f p false false false
20025 counter 2200 S p false false false
20030 users 17000 r p false false false
";

/// relation kind tree
const TREES: &str = "
20020 v ({QUERY :commandType 1 :rtable ({RTE :rtekind 0 :relid 20020} {RTE :rtekind 0 :relid 20001})})
20021 v ({QUERY :commandType 1 :rtable ({RTE :rtekind 0 :relid 20001}) :x {FUNCEXPR :funcid 20500}})
20022 v ({QUERY :commandType 1 :rtable ({RTE :rtekind 0 :relid 20021})})
20014 p {OPEXPR :opno 20600 :opfuncid 20601}
";

const COLUMNS: &str = "
20001 id 23
20001 name 25
20001 mood 18001
20001 born 1082
20001 seen 1184
20002 id 23
20002 user_id 23
20002 total 1700
20003 id 23
20003 order_id 23
20004 id 23
20004 user_id 23
20005 id 23
20006 id 23
20007 id 23
20008 id 23
20010 id 23
20011 id 23
20012 id 23
20013 id 23
20013 address 18000
20014 id 23
20015 id 23
20016 id 23
20016 at 1266
20016 which 2205
20017 id 18002
20020 id 23
20021 id 23
20022 id 23
20023 n 20
20024 id 23
20030 id 23
";

/// oid name schema kind element base
const TYPES: &str = "
16 bool 11 b 0 0
20 int8 11 b 0 0
23 int4 11 b 0 0
25 text 11 b 0 0
1009 _text 11 b 25 0
1082 date 11 b 0 0
1114 timestamp 11 b 0 0
1184 timestamptz 11 b 0 0
1266 timetz 11 b 0 0
1700 numeric 11 b 0 0
2205 regclass 11 b 0 0
3912 daterange 11 r 0 0
18000 citext 2200 b 0 0
18001 mood 2200 e 0 0
18002 positive 2200 d 0 23
18003 users 2200 c 0 0
";

/// name schema arguments defaults variadic result
const FUNCTIONS: &str = "
writes 2200 - 0 false 23
lower 2200 18000 0 false 23
fullname 2200 18003 0 false 23
rank_of 2200 18001 0 false 23
twice 2200 23 1 false 23
tenant_only 17000 23 0 false 23
";

/// name volatility takes-row id arguments
const BUILT_INS: &str = "
count i false 801 1
sum i false 802 1
max i false 803 1
lower i false 804 1
upper i false 805 1
current_setting s false 798 1
date s false 799 1
now s false 806 1
random v false 807 1
nextval v false 808 1
date_trunc s false 809 1
age s false 810 1
to_json s true 811 1
row_to_json s true 812 1
pg_column_size i true 813 1
pg_typeof s true 814 1
query_to_xml v false 815 1
set_config v false 816 1
generate_series s false 817 1
pg_advisory_lock v false 818 1
pg_advisory_unlock_all v false 819 1
bernoulli v false 820 1
percentile_cont i false 821 1
concat s true 822 1
daterange i false 823 2
ts_stat v false 824 1
pg_input_is_valid s false 825 2
jsonb_path_query_tz s false 826 2
";
