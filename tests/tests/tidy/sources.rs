//! Rules about each Rust file by itself.

use crate::report;
use crate::rust::{code, line, sources};

#[test]
fn every_file_opens_with_what_it_is_for() {
    let complaints: Vec<String> = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    report("a file opens with `//!`", &complaints);
}

#[test]
fn no_test_is_ignored_or_content_with_any_panic() {
    let mut complaints = Vec::new();
    for source in sources() {
        let code = code(&source.text);
        for (attribute, remedy) in [
            ("#[ignore", "mend the test, or remove it"),
            ("#[should_panic", "assert on the error that is returned"),
            ("#[cfg_attr(test, ignore", "mend the test, or remove it"),
        ] {
            for (at, _) in code.match_indices(attribute) {
                let line = line(&code, at);
                complaints.push(format!("{}:{line}: {attribute}: {remedy}", source.path));
            }
        }
    }
    report("a test that does not run proves nothing", &complaints);
}
