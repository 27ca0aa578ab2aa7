//! Every test that a paper cites as proof exists.
//!
//! The papers are those in `PAPERS`. Their tables have a column headed `test`; a cell of it holds
//! names of tests in backticks, or says in words why there is none.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use crate::rust::{code, sources};
use crate::{report, root};

const PAPERS: &[&str] = &[
    "ARCHITECTURE.md",
    "docs/standards.md",
    "docs/threat-model.md",
];

/// Heads of the column that cites tests.
const HEADS: &[&str] = &["test", "tests", "held by"];

#[test]
fn every_cited_test_exists() {
    let tests = test_names();
    let mut complaints = Vec::new();
    for paper in PAPERS {
        let text = match fs::read_to_string(root().join(paper)) {
            Ok(text) => text,
            // A paper that is not written yet claims nothing.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => panic!("{paper}: {error}"),
        };
        let rows = rows(&text);
        if rows.is_empty() {
            complaints.push(format!("{paper} has no table with a column `test`"));
        }
        for (line, cell) in rows {
            if let Err(complaint) = check(&cell, &tests) {
                complaints.push(format!("{paper}:{line}: {complaint}"));
            }
        }
    }
    report("a paper cites a test that does not exist", &complaints);
}

/// The cells of the columns that cite tests, with their line.
fn rows(text: &str) -> Vec<(usize, String)> {
    let mut rows = Vec::new();
    let mut column = None;
    let mut in_table = false;
    for (line, text) in text.lines().enumerate() {
        let Some(row) = text.trim().strip_prefix('|') else {
            in_table = false;
            continue;
        };
        let cells: Vec<&str> = row
            .trim_end_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        if !in_table {
            in_table = true;
            column = cells
                .iter()
                .position(|cell| HEADS.contains(&cell.to_lowercase().as_str()));
            continue;
        }
        let is_rule = cells
            .iter()
            .all(|cell| cell.chars().all(|c| c == '-' || c == ':'));
        if let (Some(column), false) = (column, is_rule) {
            let cell = cells.get(column).copied().unwrap_or_default();
            rows.push((line + 1, cell.to_owned()));
        }
    }
    rows
}

/// Whether all names in backticks are tests. A path counts by its last segment.
fn check(cell: &str, tests: &BTreeSet<String>) -> Result<(), String> {
    if cell.is_empty() {
        return Err("an empty cell: cite a test, or say why there is none".to_owned());
    }
    for name in cell.split('`').skip(1).step_by(2) {
        let last = name.rsplit("::").next().unwrap_or(name);
        if !tests.contains(last) {
            return Err(format!("no test is called `{name}`"));
        }
    }
    Ok(())
}

/// The names of all functions that are marked as tests.
fn test_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources() {
        names.extend(tests_of(&code(&source.text)));
    }
    names
}

fn tests_of(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in code.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let Some((before, after)) = line.split_once("fn ") else {
            continue;
        };
        let is_function = matches!(before.trim(), "" | "async" | "pub" | "#[test]");
        if is_test && is_function {
            names.push(
                after
                    .chars()
                    .take_while(|c| crate::rust::is_word(*c))
                    .collect(),
            );
        }
        is_test = false;
    }
    names
}

#[test]
fn a_cited_name_must_be_that_of_a_test() {
    let tests = tests_of(
        "#[test]\nfn holds() {}\nfn helper() {}\n#[tokio::test(flavor)]\nasync fn waits() {}",
    );
    assert_eq!(tests, ["holds", "waits"]);
    let tests = tests.into_iter().collect();
    assert!(check("`holds`, `x::tests::waits`", &tests).is_ok());
    assert!(check("*not built yet*", &tests).is_ok());
    assert!(check("`helper`", &tests).is_err());
    assert!(check("`holds`, `hodls`", &tests).is_err());
    assert!(check("", &tests).is_err());
}

#[test]
fn the_column_is_found_by_its_head() {
    let text = "| rule | Test |\n| --- | :-- |\n| a | `x` |\n\nwords\n\n| b | c |\n|---|---|\n| `y` | `z` |\n";
    assert_eq!(rows(text), [(3, "`x`".to_owned())]);
}
