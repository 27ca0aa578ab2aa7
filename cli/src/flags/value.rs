//! The values of flags, and the texts that Go accepts for them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Flag, FlagError, Kind};

/// How a command prints its answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Output {
    #[default]
    Pretty,
    Json,
}

impl Output {
    fn name(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}

/// The flags of a command line after parsing: each text has been checked against its flag's kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    texts: BTreeMap<&'static str, Vec<String>>,
    defaults: BTreeMap<&'static str, &'static str>,
    output: Option<Output>,
}

impl Values {
    pub(super) fn with_defaults(flags: impl Iterator<Item = &'static Flag>) -> Self {
        Self {
            defaults: flags.map(|flag| (flag.name, flag.default)).collect(),
            ..Self::default()
        }
    }

    pub(super) fn set(&mut self, flag: &Flag, text: &str) -> Result<(), FlagError> {
        let refuse = |why: String| FlagError::Value {
            name: flag.name,
            value: text.to_owned(),
            why,
        };
        match flag.kind {
            Kind::Switch if go_bool(text).is_none() => {
                return Err(FlagError::Boolean {
                    name: flag.name,
                    value: text.to_owned(),
                });
            }
            Kind::Int => go_int(text)
                .map(drop)
                .map_err(|why| refuse(why.to_owned()))?,
            Kind::Duration => go_duration(text)
                .map(drop)
                .ok_or_else(|| refuse(format!("time: invalid duration {text:?}")))?,
            Kind::Span if go_span(text).is_none() => return Err(refuse("parse error".to_owned())),
            Kind::Output => self.set_output(text).map_err(refuse)?,
            _ => {}
        }
        let texts = self.texts.entry(flag.name).or_default();
        if flag.kind != Kind::List {
            texts.clear();
        }
        texts.push(text.to_owned());
        Ok(())
    }

    fn set_output(&mut self, text: &str) -> Result<(), String> {
        if let Some(given) = self.output
            && given.name() != text
        {
            return Err(format!(
                "the output format has already been set to {:?}",
                given.name()
            ));
        }
        self.output = Some(match text.to_lowercase().as_str() {
            "json" => Output::Json,
            "pretty" | "prettyprint" => Output::Pretty,
            _ => {
                return Err(format!(
                    "bad formatter flag: unknown format option: {text:?}"
                ));
            }
        });
        Ok(())
    }

    /// The text of a flag, or its default.
    pub(crate) fn text(&self, name: &str) -> &str {
        match self.texts.get(name).and_then(|texts| texts.last()) {
            Some(text) => text,
            None => self.defaults.get(name).copied().unwrap_or_default(),
        }
    }

    /// The text of a flag, where it is not empty.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    pub(crate) fn switch(&self, name: &str) -> bool {
        go_bool(self.text(name)).unwrap_or_default()
    }

    /// Whether the flag stands on the command line at all.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.texts.contains_key(name)
    }

    pub(crate) fn int(&self, name: &str) -> i64 {
        go_int(self.text(name)).unwrap_or_default()
    }

    pub(crate) fn duration(&self, name: &str) -> Duration {
        go_duration(self.text(name)).unwrap_or_default()
    }

    /// The nanoseconds of a span.
    pub(crate) fn nanos(&self, name: &str) -> i64 {
        go_span(self.text(name)).unwrap_or_default()
    }

    pub(crate) fn list(&self, name: &str) -> &[String] {
        self.texts.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn commas(&self, name: &str) -> Vec<String> {
        match self.texts.get(name).and_then(|texts| texts.last()) {
            Some(text) => text.split(',').map(str::to_owned).collect(),
            None => Vec::new(),
        }
    }

    /// `Some` where the flag says `true` or `false`.
    pub(crate) fn either(&self, name: &str) -> Option<bool> {
        match self.text(name) {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    pub(crate) fn output(&self) -> Output {
        self.output.unwrap_or_default()
    }
}

/// Reads a truth value as Go's `strconv.ParseBool` does.
pub(super) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads an integer as Go's `strconv.ParseInt` does with base 0: sign, base prefix, underscores.
pub(super) fn go_int(text: &str) -> Result<i64, &'static str> {
    const SYNTAX: &str = "parse error";
    const RANGE: &str = "value out of range";
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = if let Some(body) = lower.strip_prefix("0x") {
        (16, body)
    } else if let Some(body) = lower.strip_prefix("0b") {
        (2, body)
    } else if let Some(body) = lower.strip_prefix("0o") {
        (8, body)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower.get(1..).unwrap_or_default())
    } else {
        (10, lower.as_str())
    };
    // Go lets an underscore stand only behind a base prefix or between digits.
    let underscored =
        body.contains('_') && (radix == 10 || body.ends_with('_') || body.contains("__"));
    let body = body.replace('_', "");
    if underscored || body.is_empty() || !body.chars().all(|c| c.is_digit(radix)) {
        return Err(SYNTAX);
    }
    let magnitude = i128::from_str_radix(&body, radix).ok().ok_or(RANGE)?;
    i64::try_from(if negative { -magnitude } else { magnitude })
        .ok()
        .ok_or(RANGE)
}

/// Reads a length of time as Go's `time.ParseDuration` does, refusing a negative one.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    if text.is_empty() || text == "0" || text == "+0" {
        return (!text.is_empty()).then_some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
                .len();
        let (digits, tail) = rest.split_at_checked(number)?;
        let unit = tail.len()
            - tail
                .trim_start_matches(|c: char| !c.is_ascii_digit() && c != '.')
                .len();
        let (unit, tail) = tail.split_at_checked(unit)?;
        let nanos = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000_u128,
            _ => return None,
        };
        total = total.checked_add(scaled(digits, nanos)?)?;
        rest = tail;
    }
    u64::try_from(total)
        .ok()
        .filter(|nanos| i64::try_from(*nanos).is_ok())
        .map(Duration::from_nanos)
}

/// The nanoseconds of a length of time that may be negative.
pub(super) fn go_span(text: &str) -> Option<i64> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) if !rest.starts_with('+') => (-1, rest),
        Some(_) => return None,
        None => (1, text),
    };
    let nanos = i64::try_from(go_duration(text)?.as_nanos()).ok()?;
    Some(sign * nanos)
}

fn scaled(digits: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let mut total = match whole {
        "" => 0,
        _ => whole.parse::<u128>().ok()?.checked_mul(unit)?,
    };
    let mut scale = unit;
    for digit in fraction.chars() {
        scale /= 10;
        total += u128::from(digit.to_digit(10)?) * scale;
    }
    Some(total)
}
