//! Why it could not be found out what an engine knows of a caller.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::description::{MAX_BYTES, MalformedDescription};
use crate::workload::cgroup::CgroupError;

/// Why it could not be found out. Cloned to everybody who waits for one answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DockerError {
    /// `/proc/PID/cgroup` could not be read.
    #[error("could not read the caller's cgroups")]
    Read(#[source] Arc<io::Error>),
    /// It does not say where the process is.
    #[error("could not place the caller by its cgroups")]
    Cgroup(#[from] CgroupError),
    /// The caller is in a container of a user's Podman, which may say of it what the user likes.
    #[error(
        "the caller is in a container of user {0}'s Podman, whose word is not taken (set \
         `podman_socket_path_template` to take every user's word for their own containers)"
    )]
    UserNotAllowed(u32),
    /// No connection.
    #[error("could not reach the container engine at `{}`", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Who answers on the socket of a user is another user.
    #[error("the container engine at `{}` is not run by user {uid}", path.display())]
    NotTheUsers {
        /// The socket.
        path: PathBuf,
        /// Whose it should be.
        uid: u32,
    },
    /// No whole answer in time.
    #[error("the container engine did not answer within {0:?}")]
    Timeout(Duration),
    /// The connection broke in the middle of the answer.
    #[error("the container engine's answer broke off")]
    BrokenOff(#[source] Arc<hyper::Error>),
    /// Any other answer but 200 and 404.
    #[error("the container engine answered with status {0}")]
    Status(u16),
    /// 404.
    #[error("the container engine does not list the caller's container")]
    NotListed,
    /// The answer is larger than any description.
    #[error("the container engine's answer is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// The answer is no description of a container.
    #[error("the container engine's answer is not the description of a container")]
    Garbage(#[from] MalformedDescription),
    /// The container's first process could not be looked at.
    #[error("could not read the cgroups of process {0}, the first of the caller's container")]
    Witness(u32, #[source] Arc<io::Error>),
    /// The process is shutting down, or the attestor panicked.
    #[error("the look at the caller was interrupted")]
    Interrupted(#[source] Arc<tokio::task::JoinError>),
}

impl DockerError {
    /// Whether nothing was learned of the caller because the engine could not be asked. That it was
    /// asked and does not list the container is an answer.
    #[must_use]
    pub fn is_unasked(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout(_)
            | Self::BrokenOff(_)
            | Self::Status(_)
            | Self::Interrupted(_) => true,
            Self::Read(_)
            | Self::Cgroup(_)
            | Self::UserNotAllowed(_)
            | Self::NotTheUsers { .. }
            | Self::NotListed
            | Self::TooLarge
            | Self::Garbage(_)
            | Self::Witness(..) => false,
        }
    }

    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read(_) => "cgroup_unreadable",
            Self::Cgroup(error) => error.reason(),
            Self::UserNotAllowed(_) => "engine_of_a_user",
            Self::Unreachable { .. } => "engine_unreachable",
            Self::NotTheUsers { .. } => "engine_not_the_users",
            Self::Timeout(_) => "engine_timeout",
            Self::BrokenOff(_) => "engine_broken_off",
            Self::Status(_) => "engine_status",
            Self::NotListed => "container_not_listed",
            Self::TooLarge => "engine_too_large",
            Self::Garbage(_) => "engine_garbage",
            Self::Witness(..) => "witness_unreadable",
            Self::Interrupted(_) => "interrupted",
        }
    }
}
