//! Leaves the network.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

/// Why the network could not be left.
#[derive(Debug, thiserror::Error)]
#[error("could not enter a network namespace of its own; the driver has to be privileged")]
pub struct NetworkError(#[source] Errno);

impl NetworkError {
    /// The stable label of logs.
    pub fn reason(&self) -> &'static str {
        "network_namespace"
    }
}

/// Puts the calling thread, and every thread that it starts from now on, into an empty network
/// namespace: the driver runs privileged for its mounts, and needs no network at all. Sockets of the
/// file system are not of a network, and stay reachable.
///
/// Call it before there is any other thread. A probe over HTTP cannot reach the process afterwards.
pub fn leave_network() -> Result<(), NetworkError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(NetworkError)
}
