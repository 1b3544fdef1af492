//! `tests/HAZARDS.md` is complete, and what it names exists. Whether a test plays its hazard is
//! for people to judge.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;

use super::{root, rust_files};

/// How many hazards each group has, numbered from 1.
const GROUPS: [(char, usize); 10] = [
    ('A', 45),
    ('B', 22),
    ('C', 35),
    ('D', 21),
    ('E', 19),
    ('F', 26),
    ('G', 35),
    ('H', 36),
    ('I', 10),
    ('J', 17),
];

/// What a row may name.
#[derive(Default)]
struct Known {
    /// Test functions and plays.
    tests: HashSet<String>,
    /// Every `path` and every `path: function`; paths of sources relative to `src/` too.
    places: HashSet<String>,
}

impl Known {
    fn read() -> Self {
        let mut known = Self::default();
        known.places.insert("README.md".to_owned());
        let mut files = Vec::new();
        for directory in ["src", "tests"] {
            rust_files(&root().join(directory), &mut files);
        }
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
            known.add(path.strip_prefix("src/").unwrap_or(path), &text);
        }
        for entry in fs::read_dir(root().join("tests/suite/hazards")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "play") {
                let text = fs::read_to_string(path).unwrap();
                known.tests.extend(
                    text.lines().filter_map(|line| Some(line.strip_prefix("# ")?.to_owned())),
                );
            }
        }
        known
    }

    fn add(&mut self, path: &str, text: &str) {
        self.places.insert(path.to_owned());
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            let Some((before, after)) = line.split_once("fn ") else {
                // Attributes and remarks may stand between.
                is_test =
                    line == "#[test]" || is_test && (line.starts_with(['#', '/', '"', 'r', ')']));
                continue;
            };
            if before.is_empty() || before.ends_with(' ') {
                let name: String = after
                    .chars()
                    .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                    .collect();
                self.places.insert(format!("{path}: {name}"));
                if is_test {
                    self.tests.insert(name);
                }
            }
            is_test = false;
        }
    }
}

/// What is wrong with the table, a line each.
fn faults(table: &str, known: &Known) -> String {
    let mut faults = String::new();
    let mut expected =
        GROUPS.iter().flat_map(|(group, count)| (1..=*count).map(move |n| format!("{group}{n}")));
    for row in table.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let [number, hazard, kept_out] = cells[..] else {
            writeln!(faults, "not three cells: {row}").unwrap();
            continue;
        };
        if number.is_empty() {
            continue;
        }
        match expected.next() {
            Some(next) if next == number => {}
            next => writeln!(faults, "{number} stands where {next:?} should").unwrap(),
        }
        if hazard.is_empty() || kept_out.is_empty() {
            writeln!(faults, "{number} is empty").unwrap();
        }
        let mut names = 0;
        for name in kept_out.split('`').skip(1).step_by(2) {
            let is_code = name.starts_with("Write::");
            if !is_code && !known.tests.contains(name) && !known.places.contains(name) {
                writeln!(faults, "{number} names {name}, which is not there").unwrap();
            }
            names += usize::from(!is_code);
        }
        if names == 0 && !kept_out.starts_with("OPEN: ") {
            writeln!(faults, "{number} names neither a test nor a place").unwrap();
        }
    }
    for missing in expected {
        writeln!(faults, "{missing} is missing").unwrap();
    }
    faults
}

#[test]
fn every_hazard_has_a_row_and_what_it_names_exists() {
    let table = fs::read_to_string(root().join("tests/HAZARDS.md")).unwrap();
    let known = Known::read();
    let mut faults = faults(&table, &known);
    // A play that no row names is a play that nobody finds.
    for play in known.tests.iter().filter(|name| is_play(name)) {
        if !table.contains(&format!("`{play}`")) {
            writeln!(faults, "no row names {play}").unwrap();
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

/// Its name begins with the number of a hazard.
fn is_play(name: &str) -> bool {
    let Some((number, _)) = name.split_once('_') else { return false };
    let mut letters = number.chars();
    letters.next().is_some_and(|group| ('a'..='j').contains(&group))
        && !letters.as_str().is_empty()
        && letters.all(|letter| letter.is_ascii_digit())
}

#[test]
fn a_faulty_table_is_found() {
    let mut known = Known::default();
    known.add("cache/one.rs", "#[test]\nfn plays() {}\nfn helps() {}");
    let whole: String = GROUPS
        .iter()
        .flat_map(|(group, count)| {
            (1..=*count).map(move |n| format!("| {group}{n} | x | `plays` |\n"))
        })
        .collect();
    let check = |from: &str, to: &str, fault: &str| {
        assert_eq!(faults(&whole.replacen(from, to, 1), &known), fault);
    };
    check("", "", "");
    check("| A1 | x | `plays` |", "| A1 | x | `cache/one.rs: helps` |", "");
    check("| A1 | x | `plays` |", "| A1 | x | OPEN: nobody knows |", "");
    check("| A1 | x | `plays` |", "| A1 | x | `helps` |", "A1 names helps, which is not there\n");
    check("| A1 | x | `plays` |", "| A1 | x | nothing |", "A1 names neither a test nor a place\n");
    check("| A1 | x |", "| A1 | |", "A1 is empty\n");
    check("| J17 | x | `plays` |\n", "", "J17 is missing\n");
    check("| J17 |", "| J16 |", "J16 stands where Some(\"J17\") should\n");
}
