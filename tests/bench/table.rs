//! The table: what was measured, beside what it is measured by.

use std::fmt::Write as _;

/// A number, and which side of the goal it should be on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// A limit of the machine, or of a peer: it is there to be compared with.
    Limit,
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) goal: Goal,
    /// The number that the goal is about.
    pub(crate) measured: f64,
    pub(crate) unit: &'static str,
    /// What the number was made of.
    pub(crate) from: String,
}

impl Row {
    pub(crate) fn limit(name: &'static str, measured: f64, unit: &'static str) -> Self {
        Self {
            name,
            goal: Goal::Limit,
            measured,
            unit,
            from: String::new(),
        }
    }
}

impl Goal {
    fn verdict(self, measured: f64) -> &'static str {
        let passes = match self {
            Self::AtLeast(goal) => measured >= goal,
            Self::AtMost(goal) => measured <= goal,
            Self::Limit => return "",
        };
        if passes { "pass" } else { "MISS" }
    }

    fn print(self, unit: &str) -> String {
        match self {
            Self::AtLeast(goal) => format!("at least {goal:.2}{unit}"),
            Self::AtMost(goal) => format!("at most {goal:.2}{unit}"),
            Self::Limit => String::new(),
        }
    }
}

/// What stands above the rows, in Markdown.
pub(crate) const HEAD: &str =
    "| row | goal | measured | | made of |\n| --- | --- | --- | --- | --- |\n";

/// The rows in Markdown.
pub(crate) fn print(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        writeln!(
            text,
            "| {} | {} | {:.2}{} | {} | {} |",
            row.name,
            row.goal.print(row.unit),
            row.measured,
            row.unit,
            row.goal.verdict(row.measured),
            row.from
        )
        .unwrap();
    }
    text
}
