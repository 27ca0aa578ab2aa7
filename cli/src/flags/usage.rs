//! The usage text, laid out as Go's `PrintDefaults` lays it out.

use std::fmt::Write as _;

use super::{Flag, FlagSet, Kind};

impl FlagSet {
    /// The heading and two lines for each flag, by name.
    pub(crate) fn usage(&self) -> String {
        let mut flags: Vec<&Flag> = self.flags().filter(|flag| !flag.own).collect();
        flags.sort_by_key(|flag| flag.name);
        let mut text = format!("Usage of {}:\n", self.name);
        for flag in flags {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  -{}{}\n    \t{}{}",
                flag.name,
                argument(flag.kind),
                flag.help.replace('\n', "\n    \t"),
                default(flag),
            );
        }
        text
    }
}

fn argument(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => " string",
        Kind::Switch => "",
        Kind::Int => " int",
        Kind::Span => " duration",
        Kind::Duration | Kind::List | Kind::Commas | Kind::Either | Kind::Output => " value",
    }
}

fn default(flag: &Flag) -> String {
    match (flag.default, flag.kind) {
        ("", _) => String::new(),
        (default, Kind::Text) => format!(" (default {default:?})"),
        (default, _) => format!(" (default {default})"),
    }
}
