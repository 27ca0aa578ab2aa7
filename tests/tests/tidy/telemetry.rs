//! What a log line may look like, and that each of its fields is explained to operators.
//!
//! An operator filters by field and by message. A field that the dictionary of `docs/operations.md`
//! lacks, or a message with a value in it, cannot be filtered by.

use std::collections::BTreeSet;
use std::fs;

use crate::confinement::production;
use crate::rust::{is_word, line, words};
use crate::{report, root};

const PAPER: &str = "docs/operations.md";

/// The macros of `tracing` that write a line.
const EVENTS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// What hands fields on: spans, and the audit trail's own macro.
const FIELDS_ALONE: &[&str] = &[
    "error_span",
    "warn_span",
    "info_span",
    "debug_span",
    "trace_span",
    "line",
];

#[test]
fn every_log_field_is_in_the_dictionary() {
    let paper = fs::read_to_string(root().join(PAPER)).unwrap();
    let dictionary = dictionary(&paper);
    assert!(
        !dictionary.is_empty(),
        "{PAPER} has no table whose first column is headed `field`"
    );
    let mut complaints = Vec::new();
    for source in production() {
        let text = fs::read_to_string(root().join(&source.path)).unwrap();
        for call in calls(&source.text, &text) {
            let place = format!("{}:{}", source.path, line(&source.text, call.at));
            complaints.extend(
                judge(&call, &dictionary)
                    .into_iter()
                    .map(|complaint| format!("{place}: {complaint}")),
            );
        }
    }
    report("a log line that an operator cannot filter by", &complaints);
}

/// One call of a macro.
struct Call {
    at: usize,
    name: &'static str,
    arguments: Vec<Argument>,
}

enum Argument {
    Message(String),
    Field(String),
    /// `target: "…"`, the `self` of a macro of ours, or fields that another macro hands on.
    Other,
    Unreadable(String),
}

/// The names in the first column of the tables headed `field`.
fn dictionary(paper: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (mut in_table, mut is_dictionary) = (false, false);
    for text in paper.lines() {
        let Some(row) = text.trim().strip_prefix('|') else {
            in_table = false;
            continue;
        };
        let first = row.split('|').next().unwrap_or_default().trim();
        if !in_table {
            in_table = true;
            is_dictionary = first == "field";
        } else if is_dictionary {
            names.extend(first.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    names
}

/// The calls in `code`, which is `text` with its literals, comments and tests blanked out.
fn calls(code: &str, text: &str) -> Vec<Call> {
    // Blanking keeps the number of characters, not of bytes.
    let text: Vec<char> = text.chars().collect();
    let mut calls = Vec::new();
    for &name in EVENTS.iter().chain(FIELDS_ALONE) {
        for at in words(code, name) {
            let Some(inner) = code[at + name.len()..].strip_prefix("!(") else {
                continue;
            };
            let start = code[..code.len() - inner.len()].chars().count();
            calls.push(Call {
                at,
                name,
                arguments: arguments(inner, &text[start..]),
            });
        }
    }
    calls
}

fn arguments(code: &str, text: &[char]) -> Vec<Argument> {
    let mut arguments = Vec::new();
    let (mut depth, mut from) = (0_usize, 0);
    for (at, c) in code.chars().enumerate() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            ',' | ')' if depth == 0 => {
                let argument: String = text[from..at].iter().collect();
                if !argument.trim().is_empty() {
                    arguments.push(Argument::read(argument.trim()));
                }
                from = at + 1;
                if c == ')' {
                    break;
                }
            }
            _ => {}
        }
    }
    arguments
}

impl Argument {
    fn read(text: &str) -> Self {
        if let Some(message) = text.strip_prefix('"') {
            return Self::Message(message.trim_end_matches('"').to_owned());
        }
        let field = text.trim_start_matches(['%', '?']);
        let name: String = field
            .chars()
            .take_while(|&c| is_word(c) || c == '.')
            .collect();
        let rest = field[name.len()..].trim_start();
        let is_setting = matches!(name.as_str(), "target" | "parent" | "name");
        if text.starts_with('$') || text == "self" || (is_setting && rest.starts_with(':')) {
            Self::Other
        } else if !name.is_empty() && (rest.is_empty() || rest.starts_with('=')) {
            Self::Field(name)
        } else {
            Self::Unreadable(text.to_owned())
        }
    }
}

fn judge(call: &Call, dictionary: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    let writes = EVENTS.contains(&call.name);
    let mut message = None;
    for argument in &call.arguments {
        match argument {
            Argument::Message(text) => message = Some(text),
            Argument::Field(name) if !dictionary.contains(name) => {
                complaints.push(format!("`{name}` is not in the dictionary of {PAPER}"));
            }
            Argument::Unreadable(text) => {
                complaints.push(format!("`{text}` is no field: give it a constant name"));
            }
            Argument::Field(_) | Argument::Other => {}
        }
    }
    if !writes {
        return complaints;
    }
    let Some(message) = message else {
        complaints.push("a line without a constant message".to_owned());
        return complaints;
    };
    if message.contains(['{', '}']) {
        complaints.push(format!("\"{message}\": what varies belongs into a field"));
    }
    if !message.starts_with(char::is_uppercase) {
        complaints.push(format!(
            "\"{message}\": a message begins with a capital letter"
        ));
    }
    if message.ends_with(['.', '!', '\n']) {
        complaints.push(format!("\"{message}\": a message has no full stop"));
    }
    complaints
}

#[test]
fn a_log_line_is_read_as_tracing_reads_it() {
    let text = concat!(
        "info!(target: \"audit\", spiffe.id = %id(a, b), ?names, %error, \"Issued, X509-SVID\");\n",
        "warn!(count, \"é {count}.\");\n",
        "// error!(\"in a comment.\")\n",
        "debug!();\n",
        "line!(self, event, $($fields)*)\n",
    );
    let dictionary = dictionary(
        "| name | x |\n| --- | --- |\n| `count` | y |\n\n| field | x |\n| --- | --- |\n\
         | `spiffe.id`, `names` | y |\n| `error` | z |\n| `event` | z |\n",
    );
    let mut calls = calls(&crate::rust::code(text), text);
    calls.sort_by_key(|call| call.at);
    let complaints: Vec<_> = calls.iter().map(|call| judge(call, &dictionary)).collect();
    let counts: Vec<_> = complaints.iter().map(Vec::len).collect();
    assert_eq!(counts, [0, 4, 1, 0], "{complaints:?}");
}
