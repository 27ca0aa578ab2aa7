//! What a command says when it fails.
//!
//! A command is the outermost layer: its failure has one reader, the person at the terminal, and
//! scripts compare its words with SPIRE's. So it is a text; what a program must tell apart stays typed
//! below.

use std::fmt;

/// A failure, in the words that are printed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// An error with everything that caused it.
    pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(runtime::report::chain(error))
    }

    /// Puts what was tried before it.
    pub(crate) fn context(self, tried: impl fmt::Display) -> Self {
        Self(format!("{tried}: {}", self.0))
    }
}

/// Go's words for what a file system call failed of.
pub(crate) fn os_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    // Rust appends the number, and begins with a capital: "No such file or directory (os error 2)".
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

impl From<crate::json::DecodeError> for Failure {
    fn from(error: crate::json::DecodeError) -> Self {
        Self::chain(&error)
    }
}
