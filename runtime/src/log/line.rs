//! One line of the log.

use std::fmt::{Debug, Write as _};
use std::time::SystemTime;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};

use super::Format;

/// A longer value is cut: whatever made it so long is not the reader's friend.
const MAX_VALUE_BYTES: usize = 4096;

/// The names that a line gives a meaning of its own.
const RESERVED: [&str; 3] = ["time", "level", "msg"];

/// The fields of an event or a span, in the order of their names.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Map<String, Value>);

/// Everything that a line says.
pub(super) struct Line {
    pub(super) time: SystemTime,
    pub(super) level: tracing::Level,
    pub(super) fields: Fields,
}

impl Fields {
    /// Adds those that are not there yet: what stands nearer to the event counts.
    pub(super) fn extend(&mut self, outer: &Self) {
        for (name, value) in &outer.0 {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), value.clone());
            }
        }
    }

    pub(super) fn insert(&mut self, name: &str, value: impl Into<Value>) {
        let name = match name.strip_prefix("r#").unwrap_or(name) {
            "message" => "msg".to_owned(),
            name if RESERVED.contains(&name) => format!("fields.{name}"),
            name => name.to_owned(),
        };
        self.0.insert(name, value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field.name(), cut(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.insert(field.name(), cut(&crate::report::chain(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.insert(field.name(), cut(&format!("{value:?}")));
    }
}

impl Line {
    pub(super) fn render(mut self, format: Format) -> String {
        let time = OffsetDateTime::from(self.time)
            .format(&Rfc3339)
            .unwrap_or_default();
        let level = level_name(self.level);
        let message = self.fields.0.remove("msg").unwrap_or_default();
        match format {
            Format::Json => {
                self.fields.0.insert("level".into(), level.into());
                self.fields.0.insert("msg".into(), message);
                self.fields.0.insert("time".into(), time.into());
                let mut line = Value::Object(self.fields.0).to_string();
                line.push('\n');
                line
            }
            Format::Text => {
                let mut line = format!("time=\"{time}\" level={level} msg=");
                push_value(&mut line, &message);
                for (name, value) in &self.fields.0 {
                    line.push(' ');
                    line.push_str(name);
                    line.push('=');
                    push_value(&mut line, value);
                }
                line.push('\n');
                line
            }
        }
    }
}

fn level_name(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warning",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    }
}

fn cut(value: &str) -> String {
    if value.len() <= MAX_VALUE_BYTES {
        return value.to_owned();
    }
    let kept = value
        .get(..value.floor_char_boundary(MAX_VALUE_BYTES))
        .unwrap_or_default();
    format!("{kept}…")
}

/// Writes a value, quoted and escaped unless it is plain: no value can end a line or a field.
fn push_value(line: &mut String, value: &Value) {
    let text = match value {
        Value::String(text) => text,
        other => {
            // Writing to a string cannot fail.
            let _ = write!(line, "{other}");
            return;
        }
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if text.chars().all(plain) {
        line.push_str(text);
        return;
    }
    line.push('"');
    for c in text.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            // Direction marks and line separators too: what a terminal obeys is not shown raw.
            c if c.is_control()
                || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('"');
}
