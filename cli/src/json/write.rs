//! JSON text as Go's encoder writes it.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// One line with HTML characters escaped, as SPIRE's `-output json`.
pub(crate) fn escaped(value: &Value) -> String {
    text(value, true)
}

/// One line, as protojson writes a message by itself.
pub(crate) fn compact(value: &Value) -> String {
    text(value, false)
}

fn text(value: &Value, html: bool) -> String {
    let mut out = String::new();
    write(&mut out, value, html);
    out
}

fn write(out: &mut String, value: &Value, html: bool) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => string(out, text, html),
        Value::Array(values) => {
            out.push('[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(out, value, html);
            }
            out.push(']');
        }
        Value::Object(fields) => object(out, fields, html),
    }
}

fn object(out: &mut String, fields: &Map<String, Value>, html: bool) {
    // Sorted here too: a library elsewhere in the build may have switched the map's order on.
    let mut names: Vec<(&String, &Value)> = fields.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    out.push('{');
    for (at, (name, value)) in names.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        string(out, name, html);
        out.push(':');
        write(out, value, html);
    }
    out.push('}');
}

fn string(out: &mut String, text: &str, html: bool) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if html => unicode(out, letter),
            letter if letter < ' ' => unicode(out, letter),
            letter => out.push(letter),
        }
    }
    out.push('"');
}

fn unicode(out: &mut String, letter: char) {
    // Writing to a string cannot fail.
    let _ = write!(out, "\\u{:04x}", u32::from(letter));
}
