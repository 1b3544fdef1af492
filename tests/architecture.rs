//! The rules of the source tree that the compiler does not check: the order of modules, what may
//! do input and output, how long files are, and that dependencies and files say what they are for.
//!
//! Text checks: they can be fooled on purpose, not by accident.
#![expect(clippy::unwrap_used, clippy::string_slice, reason = "a check fails by panicking")]

#[path = "hazards_table.rs"]
mod hazards_table;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Files that may touch sockets, files, clocks and threads. A folder counts for all in it.
const IO_FILES: &[&str] = &[
    "main.rs",
    "opening.rs",
    "listener/",
    "warm_up/",
    "log.rs",
    // How many processors there are.
    "metrics/counter.rs",
    "service/away.rs",
    "service/mod.rs",
    "service/round.rs",
    "membership.rs",
    "analyst.rs",
    "auth_query.rs",
    "authenticate.rs",
    "gateway/",
    "process.rs",
    "cancel.rs",
    "net/",
    "cache/group/link.rs",
    "cache/group/talk.rs",
    "cache/redis/",
    "client/io/",
    "client/parting.rs",
    "client/relay.rs",
    "client/registry/leave.rs",
    "client/registry/mod.rs",
    "pool/io/",
    "server/hosts.rs",
    "server/io.rs",
    "server/link.rs",
    "server/sending.rs",
    "console/agreed.rs",
    "console/io.rs",
    "console/plan_slow.rs",
    "stop.rs",
    "http/io.rs",
];

const IMPURE: &[&str] = &[
    "tokio::",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::fs",
    "Instant::now",
    "SystemTime::now",
    "async fn",
    ".await",
    "thread::",
];

const LINES_MAX: usize = 600;

/// What must not reach the main branch. In pieces, so that this file does not name them.
const FORBIDDEN: &[&str] = &[
    concat!("todo", "!("),
    concat!("dbg", "!("),
    concat!("unimpl", "emented!("),
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
];

struct Source {
    /// Relative to `src/`, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
    }

    /// The lines before the tests at the foot of the file, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        self.text[..end].lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The same without comments.
    fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let directory = root().join("src");
    let mut paths = Vec::new();
    rust_files(&directory, &mut paths);
    paths.sort();
    let source = |path: PathBuf| Source {
        path: path.strip_prefix(&directory).unwrap().to_str().unwrap().to_owned(),
        text: fs::read_to_string(&path).unwrap(),
    };
    paths.into_iter().map(source).collect()
}

/// Rank of every module in the list of `src/lib.rs`.
fn module_order() -> HashMap<String, usize> {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let order: HashMap<String, usize> =
        modules.enumerate().map(|(rank, name)| (name.to_owned(), rank)).collect();
    assert!(order.len() > 5, "src/lib.rs declares no modules");
    order
}

fn top_module(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first)
}

fn leading_identifier(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    &text[..end.unwrap_or(text.len())]
}

/// The modules that a line names: `crate::one::…` and `crate::{one::…, two::…}`.
fn modules_used(line: &str) -> Vec<&str> {
    let mut used = Vec::new();
    for rest in line.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => {
                used.extend(list.split([',', '}']).map(|item| leading_identifier(item.trim())));
            }
            None => used.push(leading_identifier(rest)),
        }
    }
    used
}

/// Uses of modules declared below, as `path:line: …`.
fn upward_uses(sources: &[Source], order: &HashMap<String, usize>) -> String {
    let mut faults = String::new();
    for source in sources {
        let Some(&rank) = order.get(top_module(&source.path)) else {
            continue;
        };
        for (number, line) in source.statements() {
            for used in modules_used(line) {
                if order.get(used).is_some_and(|&other| rank < other) {
                    writeln!(faults, "{}:{number}: uses {used}, declared below it", source.path)
                        .unwrap();
                }
            }
        }
    }
    faults
}

/// Whether the line has the word, and not merely as the beginning of a longer one.
fn names(line: &str, word: &str) -> bool {
    let is_whole = |rest: &str| {
        word.ends_with("::")
            || !rest.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_')
    };
    line.split(word).skip(1).any(is_whole)
}

fn impurities(sources: &[Source]) -> String {
    let mut faults = String::new();
    for source in sources {
        let may = IO_FILES
            .iter()
            .any(|io| source.path == *io || (io.ends_with('/') && source.path.starts_with(io)));
        if may || source.is_test() {
            continue;
        }
        for (number, line) in source.statements() {
            for word in IMPURE.iter().filter(|word| names(line, word)) {
                writeln!(faults, "{}:{number}: {word} in a pure file", source.path).unwrap();
            }
        }
    }
    faults
}

#[test]
fn modules_use_only_modules_above_them() {
    let faults = upward_uses(&sources(), &module_order());
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn a_use_of_a_lower_module_is_found() {
    let source = |text: &str| Source { path: "one/io.rs".to_owned(), text: text.to_owned() };
    let order = HashMap::from([("one".to_owned(), 0), ("two".to_owned(), 1)]);
    let check = |text: &str, faulty: bool| {
        assert_eq!(!upward_uses(&[source(text)], &order).is_empty(), faulty, "{text}");
    };
    check("use crate::two::Thing;", true);
    check("let thing = crate::two::thing();", true);
    check("use crate::{one::Other, two::Thing};", true);
    check("use crate::one::Other;", false);
    check("// crate::two knows nothing of this", false);
}

#[test]
fn only_files_named_for_it_do_input_and_output() {
    let faults = impurities(&sources());
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn impurity_in_a_pure_file_is_found() {
    let source = |path: &str| Source {
        path: path.to_owned(),
        text: "async fn go() { std::thread::yield_now(); }\n".to_owned(),
    };
    assert_eq!(
        impurities(&[source("cache/entry.rs"), source("client/io/mod.rs"), source("net/tls.rs")]),
        "cache/entry.rs:1: async fn in a pure file\ncache/entry.rs:1: thread:: in a pure file\n"
    );
}

/// Past 400 lines a second concept is moving in; past 600 it has.
#[test]
fn files_are_short() {
    let mut faults = String::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let lines = source.code().count();
        if lines > LINES_MAX {
            writeln!(faults, "{}: {lines} lines before its tests", source.path).unwrap();
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn files_say_what_they_are_for() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    assert!(silent.is_empty(), "no opening documentation: {silent:?}");
}

#[test]
fn no_unfinished_work_is_left_in_the_code() {
    let mut files = Vec::new();
    for directory in ["src", "tests"] {
        rust_files(&root().join(directory), &mut files);
    }
    let mut faults = String::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        for (index, line) in text.lines().enumerate() {
            for word in FORBIDDEN.iter().filter(|word| line.contains(*word)) {
                writeln!(faults, "{}:{}: {word}", path.display(), index + 1).unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn unsafe_code_is_forbidden() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\nunsafe_code = \"forbid\"\n"));
}

/// In each section of dependencies a comment stands above every line or run of lines.
#[test]
fn every_dependency_gives_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut in_dependencies = false;
    let mut reason = false;
    let mut without = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]");
            reason = false;
        } else if in_dependencies && line.starts_with('#') {
            reason = true;
        } else if in_dependencies && line.contains('=') && !std::mem::take(&mut reason) {
            without.push(line);
        }
    }
    assert!(without.is_empty(), "no reason above: {without:#?}");
}
