//! Everything that is wrong with a configuration, told at once.
//!
//! The readers of the server's and of the agent's files collect what they find here.

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Body, ConfigError, UnknownKey, duration, given};

/// Why a configuration is refused: all reasons, each with the path of its key.
#[derive(Debug, Eq, PartialEq)]
pub struct ConfigErrors(Vec<Problem>);

/// One reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The key, such as `agent.server_port`; empty where `what` names it.
    pub path: String,
    /// What is wrong with it, and what to do.
    pub what: String,
}

/// Something that is accepted, and that the operator should know of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning(pub String);

impl ConfigErrors {
    /// The reasons, in the order in which they were found.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }

    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        "config_invalid"
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A value has the wrong type.
    #[error(transparent)]
    Decode(#[from] ConfigError),
    /// The values do not make a configuration.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
}

impl LoadError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Decode(error) => error.reason(),
            Self::Invalid(errors) => errors.reason(),
        }
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
pub struct Problems {
    found: Vec<Problem>,
    warnings: Vec<Warning>,
    allow_unknown: bool,
}

impl Problems {
    /// Begins with nothing found. `allow_unknown` makes warnings of unknown keys.
    pub fn new(allow_unknown: bool) -> Self {
        Self {
            found: Vec::new(),
            warnings: Vec::new(),
            allow_unknown,
        }
    }

    /// Adds a reason to refuse the configuration.
    pub fn add(&mut self, path: &str, what: impl Into<String>) {
        self.found.push(Problem {
            path: path.to_owned(),
            what: what.into(),
        });
    }

    /// Adds something that the operator should know of.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(Warning(text.into()));
    }

    /// Adds a reason, if there is one.
    pub fn add_if(&mut self, wrong: bool, path: &str, what: impl Into<String>) {
        if wrong {
            self.add(path, what);
        }
    }

    /// Adds something that the operator should know of, if there is something.
    pub fn warn_if(&mut self, odd: bool, text: impl Into<String>) {
        if odd {
            self.warn(text);
        }
    }

    /// Adds keys that nothing wants.
    pub fn unknown(&mut self, keys: Vec<UnknownKey>) {
        for key in keys {
            if self.allow_unknown {
                self.warn(format!("unknown key {key} is passed over"));
            } else {
                self.add("", format!("unknown key {key}"));
            }
        }
    }

    /// Keeps a value, or the reason why there is none.
    pub fn take<T, E: fmt::Display>(&mut self, path: &str, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.add(path, error.to_string()))
            .ok()
    }

    /// Decodes a part of the file. What cannot be decoded is told, and is the default.
    pub fn decode<T: DeserializeOwned + Default>(&mut self, body: &Body) -> T {
        match body.decode() {
            Ok((value, unknown)) => {
                self.unknown(unknown);
                value
            }
            Err(error) => {
                self.add("", error.to_string());
                T::default()
            }
        }
    }

    /// Reads a length of time that is more than nothing. An empty text says nothing.
    pub fn length(&mut self, path: &str, text: Option<&str>) -> Option<Duration> {
        let length = self.take(path, duration::parse(given(text)?))?;
        self.add_if(length.is_zero(), path, "must be longer than nothing");
        (!length.is_zero()).then_some(length)
    }

    /// Reads the number of a port. Zero leaves the choice to the kernel.
    pub fn port(&mut self, path: &str, port: i64) -> Option<u16> {
        let read = u16::try_from(port).map_err(|_range| format!("{port} is not a port"));
        self.take(path, read)
    }

    /// Ends with the configuration and its warnings, or with all reasons to refuse it.
    pub fn finish<T>(self, value: Option<T>) -> Result<(T, Vec<Warning>), ConfigErrors> {
        match value {
            Some(value) if self.found.is_empty() => Ok((value, self.warnings)),
            _ => Err(ConfigErrors(self.found)),
        }
    }
}
