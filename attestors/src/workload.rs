//! What an agent can see of a process that calls it.

use identity::selector::Selectors;

pub mod cgroup;
pub mod k8s;
pub mod unix;

/// What a workload attestor found out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The caller has these properties.
    Attested(Selectors),
    /// What was seen contradicts itself, so nothing may be derived from it.
    Denied(Denial),
}

/// Why a caller is not attested although everything could be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denial {
    /// The process that connected is gone; its process id may belong to another one by now.
    #[error("the caller has exited")]
    Exited,
    /// The process has other effective ids than it had when it connected: it ran a set-user-id
    /// program, or dropped its privileges, and the socket may be in other hands.
    #[error("the caller has changed its user or group since it connected")]
    CredentialsChanged,
    /// The process ran another program while it was looked at.
    #[error("the caller's executable has changed while it was attested")]
    ExecutableChanged,
}

impl Denial {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Exited => "peer_exited",
            Self::CredentialsChanged => "peer_credentials_changed",
            Self::ExecutableChanged => "peer_executable_changed",
        }
    }
}
