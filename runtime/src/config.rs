//! Configuration files: HCL as SPIRE reads it, or JSON.
//!
//! SPIRE's files are in the first version of HCL, and real ones lean on its habits: integers in
//! quotes, keys in any case, blocks once or repeated, labels, commas or none. The libraries at hand
//! read its second version, which refuses several of these and gives `${` a meaning; so the reader
//! here is our own. What the first version refuses is refused: a bool in quotes, a list given as
//! one value.
//!
//! A file is read into a [`Document`], and decoded from there by serde: fields of structs are
//! matched in any case, keys that no field wants are collected, and errors carry the key path and
//! the line.

mod decode;
pub mod duration;
mod expand;
mod json;
mod lexer;
mod listener;
mod log;
mod parser;
mod plugin;
mod problems;
mod telemetry;
mod tree;

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use self::listener::{HealthChecks, HealthConfig, HostPort};
pub use self::log::LogSettings;
pub use self::plugin::{Nothing, Plugin, Plugins, Unbuilt};
pub use self::problems::{ConfigErrors, LoadError, Problem, Problems, Warning};
pub use self::telemetry::Telemetry;
pub use self::tree::Body;

/// The largest file that is read, and the largest that it may become by expansion.
const MAX_BYTES: usize = 1 << 20;

/// What a name in the environment stands for.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A configuration file that could be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    body: Body,
}

/// A key that nothing wants.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct UnknownKey {
    /// Where it stands, as `server.ca_subject.city`.
    pub path: String,
    /// Its line, in an HCL file.
    pub line: Option<u32>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("could not read configuration file `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is larger than any configuration.
    #[error("configuration is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// The file is no text.
    #[error("configuration is not valid UTF-8")]
    NotText,
    /// The text is not HCL.
    #[error("line {line}: {what}")]
    Syntax {
        /// The line, from 1.
        line: u32,
        /// What is wrong with it.
        what: String,
    },
    /// The text begins with `{` and is not JSON.
    #[error("could not read configuration as JSON")]
    Json(#[source] serde_json::Error),
    /// A value is missing or of the wrong type.
    #[error("{}{what}", Place(.path, *.line))]
    Value {
        /// The key.
        path: String,
        /// Its line, in an HCL file.
        line: Option<u32>,
        /// What is wrong with it.
        what: String,
    },
}

impl ConfigError {
    /// A stable label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "config_read",
            Self::TooLarge => "config_too_large",
            Self::NotText => "config_not_text",
            Self::Syntax { .. } => "config_syntax",
            Self::Json(_) => "config_json",
            Self::Value { .. } => "config_value",
        }
    }
}

/// Reads a file. With `expand_env`, `$NAME` and `${NAME}` anywhere in its text are replaced first.
pub fn load(path: &Path, expand_env: Option<Environment<'_>>) -> Result<Document, ConfigError> {
    let bytes = read(path)?;
    let text = String::from_utf8(bytes).map_err(|_not_utf8| ConfigError::NotText)?;
    match expand_env {
        Some(environment) => {
            let expanded = expand::expand(&text, environment, MAX_BYTES);
            parse(&expanded.ok_or(ConfigError::TooLarge)?)
        }
        None => parse(&text),
    }
}

/// Reads the text of a file: JSON if it begins with `{`, otherwise HCL.
pub fn parse(text: &str) -> Result<Document, ConfigError> {
    if text.len() > MAX_BYTES {
        return Err(ConfigError::TooLarge);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let object = if text.trim_start().starts_with('{') {
        json::parse(text)?
    } else {
        parser::parse(&text.replace("\r\n", "\n"))?
    };
    Ok(Document {
        body: Body::root(object),
    })
}

/// Decodes a document, and tells which of its keys `T` has no place for.
pub fn decode<T: DeserializeOwned>(
    document: &Document,
) -> Result<(T, Vec<UnknownKey>), ConfigError> {
    document.body.decode()
}

/// What is said: to SPIRE an empty text is the same as none.
pub fn given<T: AsRef<OsStr>>(text: Option<T>) -> Option<T> {
    text.filter(|text| !text.as_ref().is_empty())
}

/// Lets the command line win over the file, where it says something.
pub fn overrule<T>(said: &mut Option<T>, by: Option<T>) {
    if by.is_some() {
        *said = by;
    }
}

impl Document {
    /// All of it, for a part to be taken by name.
    pub fn body(&self) -> &Body {
        &self.body
    }
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.path)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}

struct Place<'a>(&'a str, Option<u32>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self("", None) => Ok(()),
            Self("", Some(line)) => write!(f, "line {line}: "),
            Self(path, None) => write!(f, "`{path}`: "),
            Self(path, Some(line)) => write!(f, "`{path}` (line {line}): "),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.into(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > MAX_BYTES {
        Err(ConfigError::TooLarge)
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
