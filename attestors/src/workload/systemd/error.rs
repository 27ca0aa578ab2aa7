//! Why systemd could not be asked for a caller's unit.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use identity::selector::SelectorError;

use super::message::MessageError;

/// Why it could not be found out in which unit a process runs.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// No connection.
    #[error("could not reach the system bus at `{}`", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The bus does not take our word for who we are.
    #[error("the system bus does not let this agent in")]
    NotAuthenticated,
    /// The connection broke.
    #[error("the connection to the system bus broke off")]
    BrokenOff(#[source] io::Error),
    /// An answer cannot be read.
    #[error("the system bus sent what cannot be read")]
    Garbage(#[from] MessageError),
    /// The bus, or systemd, answered with an error of this name.
    #[error("the system bus answered `{0}`")]
    Refused(String),
    /// The bus sends and sends, and no answer.
    #[error("the system bus sent many messages, and no answer")]
    NoAnswer,
    /// The answer is no path of an object.
    #[error("systemd's answer is not the path of a unit")]
    NotAUnit,
    /// No answers in time.
    #[error("systemd did not answer within {0:?}")]
    Timeout(Duration),
    /// What was found cannot be a selector.
    #[error(transparent)]
    Selector(#[from] SelectorError),
}

impl SystemdError {
    /// Whether nothing was learned of the caller because systemd could not be asked.
    #[must_use]
    pub fn is_unasked(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::NotAuthenticated
            | Self::BrokenOff(_)
            | Self::Refused(_)
            | Self::NoAnswer
            | Self::Timeout(_) => true,
            Self::Garbage(_) | Self::NotAUnit | Self::Selector(_) => false,
        }
    }

    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "bus_unreachable",
            Self::NotAuthenticated => "bus_not_authenticated",
            Self::BrokenOff(_) => "bus_broken_off",
            Self::Garbage(_) => "bus_garbage",
            Self::Refused(_) => "bus_refused",
            Self::NoAnswer => "bus_no_answer",
            Self::NotAUnit => "systemd_not_a_unit",
            Self::Timeout(_) => "systemd_timeout",
            Self::Selector(error) => error.reason(),
        }
    }
}
