//! An operator's way out of a leaked key: SPIRE's commands, with the output recorded of SPIRE.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::running::{Running, free_port, server_file};
use support::{Program, text};

/// In the order of the recording. Names, times and seconds stand in angle brackets.
const RECORDED: &str = include_str!("localauthority.txt");

#[test]
fn authorities_are_prepared_activated_tainted_and_revoked_with_spires_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = server_file(folder.path(), free_port(), "");
    let _running = Running::start(&file, folder.path());
    let program = Program::called("spire-server");
    let mut names = BTreeMap::new();
    let mut count = 0;
    for sample in RECORDED.split("\n\n") {
        let line = sample.lines().next().unwrap();
        let words = line.trim_start_matches("$ spire-server ").split(' ');
        let words = words.map(|word| names.get(word).cloned().unwrap_or_else(|| word.to_owned()));
        let mut args: Vec<String> = words.collect();
        let socket = folder.path().join("api.sock");
        args.extend(["-socketPath".to_owned(), text(&socket).to_owned()]);
        let run = program.run(&args);
        compare(line, &said(sample, "O|"), &run.out, &mut names);
        compare(line, &said(sample, "E|"), &run.err, &mut names);
        let code = run.code.unwrap();
        assert!(
            sample.trim_end().ends_with(&format!("[exit {code}]")),
            "{line}"
        );
        count += 1;
    }
    assert!(count > 50, "only {count} samples");
    // Each name stood for another authority.
    let known: BTreeSet<&String> = names.values().collect();
    assert_eq!(known.len(), names.len());
}

fn said(sample: &str, mark: &str) -> String {
    let lines = sample.lines().filter_map(|line| line.strip_prefix(mark));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Compares what was said with what was recorded; a name in angle brackets stands for what it first was.
fn compare(line: &str, recorded: &str, found: &str, names: &mut BTreeMap<String, String>) {
    let mut rest = found;
    let mut parts = recorded.split('<');
    let first = parts.next().unwrap();
    rest = rest
        .strip_prefix(first)
        .unwrap_or_else(|| panic!("`{line}`: {found}"));
    for part in parts {
        let (name, literal) = part.split_once('>').unwrap();
        let name = format!("<{name}>");
        let digits = rest.bytes();
        let length = match name.as_str() {
            "<time>" => "2026-11-23 16:00:55 +0000 UTC".len(),
            "<seconds>" => digits.take_while(u8::is_ascii_digit).count(),
            _ => digits.take_while(u8::is_ascii_alphanumeric).count(),
        };
        let (value, behind) = rest.split_at(length);
        match name.as_str() {
            "<time>" => assert!(
                value.starts_with("20") && value.ends_with(" +0000 UTC"),
                "{value}"
            ),
            "<seconds>" => assert!(value.parse::<u64>().unwrap() > 1_700_000_000, "{value}"),
            name => {
                let known = names
                    .entry(name.to_owned())
                    .or_insert_with(|| value.to_owned());
                assert_eq!(known, value, "`{line}`: {name} in {found}");
            }
        }
        let next = behind.strip_prefix(literal);
        rest = next.unwrap_or_else(|| panic!("`{line}`: {found} instead of {recorded}"));
    }
    assert_eq!(rest, "", "`{line}`: more than {recorded}");
}
