//! A descriptor of a process, which becomes readable when it exits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

#[derive(Debug)]
pub(super) struct PidFd(AsyncFd<OwnedFd>);

#[derive(Debug)]
pub(super) enum PidFdError {
    /// The process is gone already.
    Exited,
    /// The kernel, or a sandbox around us, knows no pidfds.
    Unsupported,
    Failed(io::Error),
}

impl PidFd {
    /// The pidfd of who connected, made by the kernel at connect; or, where the kernel makes none,
    /// of who has that pid now.
    pub(super) fn of_peer(stream: &UnixStream, pid: u32) -> Result<Self, PidFdError> {
        match getsockopt(stream, sockopt::PeerPidfd) {
            Ok(fd) => Self::watch(fd),
            Err(Errno::ENOPROTOOPT) => Self::of_pid(pid),
            // The kernels from 6.5 answer so once the process has been reaped.
            Err(Errno::EINVAL | Errno::ESRCH | Errno::ENODATA) => Err(PidFdError::Exited),
            Err(errno) => Err(PidFdError::Failed(errno.into())),
        }
    }

    pub(super) fn of_pid(pid: u32) -> Result<Self, PidFdError> {
        use rustix::io::Errno;
        let pid = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or(PidFdError::Exited)?;
        match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(fd) => Self::watch(fd),
            Err(Errno::SRCH) => Err(PidFdError::Exited),
            Err(Errno::NOSYS | Errno::PERM) => Err(PidFdError::Unsupported),
            Err(errno) => Err(PidFdError::Failed(errno.into())),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }

    pub(super) fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(self.0.get_ref().as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::ZERO) {
                Ok(readable) => return readable != 0,
                Err(Errno::EINTR) => {}
                // Not to know is not to trust.
                Err(_) => return true,
            }
        }
    }

    /// Waits for the exit. An error says that waiting is impossible, not that the process lives.
    pub(super) async fn exited(&self) -> io::Result<()> {
        loop {
            // An exit before this was first asked is told too: the descriptor was watched since it was made.
            let mut told = self.0.readable().await?;
            if self.has_exited() {
                return Ok(());
            }
            told.clear_ready();
        }
    }

    #[expect(
        deprecated,
        reason = "its successor is unsafe for the sake of types that do not own their descriptor; an OwnedFd does"
    )]
    fn watch(fd: OwnedFd) -> Result<Self, PidFdError> {
        AsyncFd::with_interest(fd, Interest::READABLE)
            .map(Self)
            .map_err(PidFdError::Failed)
    }
}
