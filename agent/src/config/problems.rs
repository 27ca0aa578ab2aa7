//! Everything that is wrong with a configuration, told at once.

use std::fmt;

use runtime::config::UnknownKey;

/// Why a configuration is refused: all reasons, each with the path of its key.
#[derive(Debug, Eq, PartialEq)]
pub struct ConfigErrors(Vec<Problem>);

/// One reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The key, such as `agent.server_port`; empty where `what` names it.
    pub path: String,
    pub what: String,
}

/// Something that is accepted, and that the operator should know of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning(pub String);

impl ConfigErrors {
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }

    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        "config_invalid"
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.what),
            path => write!(f, "`{path}`: {}", self.what),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Collects problems and warnings while a configuration is read.
#[derive(Debug)]
pub(super) struct Problems {
    found: Vec<Problem>,
    warnings: Vec<Warning>,
    allow_unknown: bool,
}

impl Problems {
    pub(super) fn new(allow_unknown: bool) -> Self {
        Self {
            found: Vec::new(),
            warnings: Vec::new(),
            allow_unknown,
        }
    }

    pub(super) fn add(&mut self, path: &str, what: impl Into<String>) {
        self.found.push(Problem {
            path: path.to_owned(),
            what: what.into(),
        });
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(Warning(text.into()));
    }

    pub(super) fn unknown(&mut self, keys: Vec<UnknownKey>) {
        for key in keys {
            if self.allow_unknown {
                self.warn(format!("unknown key {key} is passed over"));
            } else {
                self.add("", format!("unknown key {key}"));
            }
        }
    }

    /// Keeps a value, or the reason why there is none.
    pub(super) fn take<T, E: fmt::Display>(
        &mut self,
        path: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        result
            .map_err(|error| self.add(path, error.to_string()))
            .ok()
    }

    pub(super) fn finish<T>(self, value: Option<T>) -> Result<(T, Vec<Warning>), ConfigErrors> {
        match value {
            Some(value) if self.found.is_empty() => Ok((value, self.warnings)),
            _ => Err(ConfigErrors(self.found)),
        }
    }
}
