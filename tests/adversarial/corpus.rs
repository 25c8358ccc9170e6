//! The list itself: every row has a case and a test that is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rows of the list that this issue is about: what is not here comes with its feature.
const ROWS: &[(u32, u32)] = &[(1, 56), (62, 67)];
const CORPUS: &str = include_str!("corpus.tsv");

struct Case<'a> {
    row: u32,
    what: &'a str,
    expected: &'a str,
    tests: Vec<&'a str>,
}

fn cases() -> Vec<Case<'static>> {
    let lines = CORPUS.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [row, what, expected, tests] = fields[..] else { panic!("four fields: {line:?}") };
            Case { row: row.parse().expect("a number"), what, expected, tests: tests.split(' ').collect() }
        })
        .collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if !matches!(name.to_str(), Some("target" | "gen" | ".git" | "corpus")) {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names of all test functions in the sources: `fn name(` after a line with `test]` or `test(` and perhaps more attributes.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project");
    let mut files = Vec::new();
    for part in ["agent", "certs", "cli", "coordinator", "tests"] {
        sources(&root.join(part), &mut files);
    }
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        for line in text.lines() {
            let line = line.trim_start();
            let line = line.strip_prefix("async ").unwrap_or(line);
            if let Some((name, _)) = line.strip_prefix("fn ").and_then(|rest| rest.split_once("()")) {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

#[test]
fn every_row_of_the_list_has_cases_with_an_answer_and_tests_that_exist() {
    let cases = cases();
    let rows: BTreeSet<u32> = cases.iter().map(|case| case.row).collect();
    let wanted: BTreeSet<u32> = ROWS.iter().flat_map(|(first, last)| *first..=*last).collect();
    assert_eq!(rows, wanted, "rows of the list");
    let known = tests();
    for case in &cases {
        assert!(!case.what.is_empty() && !case.expected.is_empty(), "row {}", case.row);
        for test in &case.tests {
            assert!(
                known.contains(*test),
                "row {} ({}) names `{test}`, which is no test",
                case.row,
                case.what
            );
        }
    }
}
