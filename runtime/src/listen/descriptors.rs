//! What is done when there are hardly any file descriptors left.
//!
//! A connection takes one, and the process that made it two. If connections could take all of them, nothing
//! could be found out any more about those who are there already, and their streams would end. So a listener
//! stops to accept while a few are left; who waits in its queue is served when somebody has gone.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::resource::{Resource, getrlimit};
use tracing::{info, warn};

/// How many descriptors are left for other things than connections, if the limit is not very low.
const RESERVE: u64 = 64;

/// One listener's look at the descriptors of the process.
#[derive(Debug)]
pub(super) struct Descriptors {
    listener: &'static str,
    // Accepting pauses while the lowest free descriptor is not below this.
    enough_below: RawFd,
    paused: AtomicBool,
}

impl Descriptors {
    pub(super) fn new(listener: &'static str) -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let enough_below = limit - RESERVE.min(limit / 4);
        Self {
            listener,
            enough_below: RawFd::try_from(enough_below).unwrap_or(RawFd::MAX),
            paused: AtomicBool::new(false),
        }
    }

    /// Whether there are enough, asked with a descriptor that has just been made: the kernel gives the
    /// lowest free number, so its number says how many are in use.
    pub(super) fn are_enough(&self, newest: &impl AsFd) -> bool {
        if newest.as_fd().as_raw_fd() < self.enough_below {
            return true;
        }
        let lowest_free = rustix::io::fcntl_dupfd_cloexec(newest, 0);
        lowest_free.is_ok_and(|fd| fd.as_raw_fd() < self.enough_below)
    }

    /// Tells of the first pause, and nothing while it lasts.
    pub(super) fn scarce(&self) {
        if !self.paused.swap(true, Ordering::Relaxed) {
            warn!(
                listener = self.listener,
                "No resources left to accept a connection"
            );
        }
    }

    /// Tells of the end of a pause.
    pub(super) fn plenty(&self) {
        if self.paused.swap(false, Ordering::Relaxed) {
            info!(listener = self.listener, "Accepting connections again");
        }
    }
}
