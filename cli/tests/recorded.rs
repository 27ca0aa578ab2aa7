//! Command lines of SPIRE's programs that need no server, with their recorded output and exit code.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::Program;

const RECORDED: &str = include_str!("recorded.txt");

#[derive(Default)]
struct Sample<'a> {
    line: &'a str,
    out: String,
    err: String,
}

#[test]
fn every_recorded_command_line_is_answered_byte_for_byte() {
    let mut sample = Sample::default();
    let mut count = 0;
    for line in RECORDED.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            sample = Sample {
                line: command,
                ..Sample::default()
            };
        } else if let Some(text) = line.strip_prefix("O|") {
            sample.out += &format!("{text}\n");
        } else if let Some(text) = line.strip_prefix("E|") {
            sample.err += &format!("{text}\n");
        } else if let Some(code) = line.strip_prefix("[exit ") {
            let code = code.trim_end_matches(']').parse().unwrap();
            check(&sample, code);
            count += 1;
        }
    }
    assert!(count > 40, "only {count} samples");
}

fn check(sample: &Sample<'_>, code: i32) {
    let words = words(sample.line);
    let (name, args) = words.split_first().unwrap();
    let run = Program::called(name).run(args);
    let line = sample.line;
    assert_eq!(run.out, sample.out, "standard output of `{line}`");
    assert_eq!(run.err, sample.err, "standard error of `{line}`");
    assert_eq!(run.code, Some(code), "exit code of `{line}`");
}

/// Splits as a shell does, as far as the samples need: a backslash keeps a space.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        let word = words.last_mut().unwrap();
        match letter {
            '\\' => word.extend(letters.next()),
            ' ' => words.push(String::new()),
            letter => word.push(letter),
        }
    }
    words
}
