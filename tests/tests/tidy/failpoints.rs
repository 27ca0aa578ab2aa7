//! Points at which a test lets the server die: each has a case, and no release has any.

use std::fs;

use crate::rust::sources;
use crate::{report, root};

/// The cases.
const CASES: &str = "tests/tests/attack/failpoints.rs";
/// Where a point is named, and what it is called there.
const CALLS: &[&str] = &["failpoint::reach(", "reach::<A>("];
const FOR_DEBUG: &str = "#[cfg(debug_assertions)]";

/// The points of a text: the last word of each call, with its scope if that is a word too.
fn points(text: &str) -> Vec<String> {
    let after = CALLS.iter().flat_map(|call| text.split(call).skip(1));
    let arguments = after.filter_map(|rest| rest.split_once(')'));
    let words = arguments.filter_map(|(arguments, _)| {
        // `kind.name(), "point"` ends at the first bracket: what is not a word has none here.
        let words: Vec<&str> = arguments.split('"').skip(1).step_by(2).collect();
        (!words.is_empty()).then(|| words.join("."))
    });
    let plain = words.collect::<Vec<_>>();
    let scoped = text.split(".name(), \"").skip(1);
    let scoped = scoped.filter_map(|rest| rest.split_once("\");"));
    let scoped = scoped.map(|(point, _)| point.to_owned());
    plain.into_iter().chain(scoped).collect()
}

#[test]
fn every_failpoint_has_a_case() {
    let cases = fs::read_to_string(root().join(CASES)).unwrap();
    let (mut complaints, mut count) = (Vec::new(), 0);
    for source in sources() {
        let is_ours =
            source.path.starts_with("server/src") || source.path == "runtime/src/files.rs";
        if !is_ours || !source.text.contains("failpoint") {
            continue;
        }
        for point in points(&source.text) {
            count += 1;
            if !cases.contains(&format!("{point}\"")) {
                complaints.push(format!("{}: `{point}` is not in {CASES}", source.path));
            }
        }
    }
    assert!(count > 25, "only {count} points are found");
    report("a point at which nobody lets the server die", &complaints);
}

#[test]
fn a_release_has_no_failpoints() {
    let mut complaints = Vec::new();
    let own = "runtime/src/failpoint.rs";
    let text = fs::read_to_string(root().join(own)).unwrap();
    for item in ["pub use self::armed", "mod armed"] {
        if !text.contains(&format!("{FOR_DEBUG}\n{item}")) {
            complaints.push(format!("{own}: `{item}` is not for debug builds alone"));
        }
    }
    let empty = "#[cfg(not(debug_assertions))]\n#[inline]\npub const fn reach(_scope: &str, _point: &str) {}";
    if !text.contains(empty) {
        complaints.push(format!("{own}: `reach` of a release is not empty"));
    }
    for source in sources()
        .into_iter()
        .filter(|source| source.path.starts_with("cli/"))
    {
        let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
        for (before, line) in lines.iter().zip(lines.iter().skip(1)) {
            if line.contains("failpoint::VARIABLE") && *before != FOR_DEBUG {
                complaints.push(format!("{}: reads the variable in a release", source.path));
            }
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    if manifest.contains("debug-assertions") {
        complaints
            .push("Cargo.toml: a profile says for itself whether it is a debug build".to_owned());
    }
    report("a release that can be told where to die", &complaints);
}

#[test]
fn a_point_is_read_with_its_scope_if_that_is_a_word() {
    let text = "failpoint::reach(\"a\", \"b\");\nreach::<A>(\"c.d\");\nfailpoint::reach(kind.name(), \"e\");";
    assert_eq!(points(text), ["a.b", "c.d", "e"]);
}
