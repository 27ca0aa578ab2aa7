//! The process behind a Unix socket, held so that its pid cannot come to mean another.
//!
//! A pid is a name that the kernel gives away again. At accept the kernel hands out a pidfd of the
//! process that connected, and `/proc/PID` is opened once, while that pidfd says that the process
//! lives; so the directory is that process's and no other's. Everything that is later read of the
//! process is read below that directory, and the pidfd is polled after each read: an answer counts
//! only if the process lived when it was given.
//!
//! Below kernel 6.5 the pidfd is made from the pid at accept. A process that connects, dies, and
//! whose pid is taken before the accept is then not told from its successor.

mod blindness;
mod pidfd;
mod proc;
mod writer;

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;

pub use self::blindness::Blindness;
use self::pidfd::{PidFd, PidFdError};
use self::proc::ProcDir;
pub use self::proc::start_time_in_stat;
pub use self::writer::{Breach, SoleWriter, tell_writers};

/// How often a process is looked at where the kernel has no pidfd.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Who connected, as the kernel recorded it at connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Credentials {
    /// The process id as seen from this process; absent if it lives in a foreign pid namespace.
    pub pid: Option<u32>,
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
}

/// A process that connected, held from accept to the end of its connection.
#[derive(Debug)]
pub struct Peer {
    uid: u32,
    gid: u32,
    program: Option<Program>,
    process: Arc<Process>,
}

/// A process that is held: whatever happens to its pid, this means no other.
#[derive(Debug)]
struct Process {
    pid: u32,
    proc: ProcDir,
    life: Life,
}

/// By what it is known whether a process still runs.
#[derive(Debug)]
enum Life {
    PidFd(PidFd),
    /// Where the kernel has none. The start time, in clock ticks since boot: with the pid it names a process for
    /// one boot.
    StartTime(u64),
}

/// The file that a process executes, as its file system numbers it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Program {
    device: u64,
    inode: u64,
}

impl Program {
    /// What a process executes whose executable is this file.
    pub fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
        }
    }
}

/// Why a connection's process could not be held.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The kernel did not say who connected.
    #[error("could not read the credentials of the peer")]
    Credentials(#[source] io::Error),
    /// The peer's pid namespace is not ours nor below it, so it has no pid here.
    #[error("peer has no process id in this pid namespace (share the host's pid namespace)")]
    ForeignPidNamespace,
    /// The peer ended before it could be held.
    #[error("peer process `{0}` has exited")]
    Exited(u32),
    /// `/proc` is missing, or belongs to another pid namespace.
    #[error("/proc does not show this process's pid namespace")]
    ForeignProc,
    /// The pidfd could not be had or watched.
    #[error("could not hold peer process `{pid}`")]
    Hold {
        /// The peer.
        pid: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The peer's directory in `/proc` could not be read.
    #[error("could not open /proc of peer process `{pid}`")]
    Proc {
        /// The peer.
        pid: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl PeerError {
    /// A stable label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "peer_credentials",
            Self::ForeignPidNamespace => "foreign_pid_namespace",
            Self::Exited(_) => "peer_exited",
            Self::ForeignProc => "foreign_proc",
            Self::Hold { .. } => "peer_hold",
            Self::Proc { .. } => "peer_proc",
        }
    }
}

impl Credentials {
    /// Asks the kernel who connected.
    pub fn of(stream: &UnixStream) -> Result<Self, PeerError> {
        let found = getsockopt(stream, sockopt::PeerCredentials)
            .map_err(|errno| PeerError::Credentials(errno.into()))?;
        let pid = u32::try_from(found.pid()).ok().filter(|pid| *pid != 0);
        Ok(Self {
            pid,
            uid: found.uid(),
            gid: found.gid(),
        })
    }
}

impl Peer {
    /// Holds the process that connected. Must be called inside a Tokio runtime, right after accept.
    pub fn of(stream: &UnixStream) -> Result<Self, PeerError> {
        Self::with_credentials(stream, Credentials::of(stream)?)
    }

    /// The same, where the kernel has been asked for the credentials of this stream before.
    pub(crate) fn with_credentials(
        stream: &UnixStream,
        Credentials { pid, uid, gid }: Credentials,
    ) -> Result<Self, PeerError> {
        let pid = pid.ok_or(PeerError::ForeignPidNamespace)?;
        Self::hold(pid, uid, gid, PidFd::of_peer(stream, pid))
    }

    /// Holds a process that somebody names by its pid, with the ids that it has now.
    ///
    /// Whether it is still the process that was meant, only that somebody can know: the pid may have
    /// come to another one before this call, though not after it.
    pub fn of_pid(pid: u32) -> Result<Self, PeerError> {
        let mut peer = Self::hold(pid, 0, 0, PidFd::of_pid(pid))?;
        let ids = peer.process.proc.effective_ids();
        if !peer.is_alive() {
            return Err(PeerError::Exited(pid));
        }
        (peer.uid, peer.gid) = ids.map_err(|source| PeerError::Proc { pid, source })?;
        Ok(peer)
    }

    /// Holds any process, as if it had connected with these ids.
    #[cfg(any(test, feature = "test-util"))]
    pub fn for_test(pid: u32, uid: u32, gid: u32) -> Result<Self, PeerError> {
        Self::hold(pid, uid, gid, PidFd::of_pid(pid))
    }

    fn hold(
        pid: u32,
        uid: u32,
        gid: u32,
        pidfd: Result<PidFd, PidFdError>,
    ) -> Result<Self, PeerError> {
        let pidfd = match pidfd {
            Ok(pidfd) => Some(pidfd),
            Err(PidFdError::Unsupported) => None,
            Err(PidFdError::Exited) => return Err(PeerError::Exited(pid)),
            Err(PidFdError::Failed(source)) => return Err(PeerError::Hold { pid, source }),
        };
        let all = proc::of_our_pid_namespace().ok_or(PeerError::ForeignProc)?;
        let failed = |source: io::Error| {
            if proc::means_exited(&source) {
                PeerError::Exited(pid)
            } else {
                PeerError::Proc { pid, source }
            }
        };
        let proc = ProcDir::open(all, pid).map_err(failed)?;
        let life = match pidfd {
            Some(pidfd) => Life::PidFd(pidfd),
            None => Life::StartTime(proc.start_time().map_err(failed)?),
        };
        let process = Arc::new(Process { pid, proc, life });
        // INVARIANT: the process lives after its directory was opened, so the pid was its own then.
        Self::now(process, uid, gid).ok_or(PeerError::Exited(pid))
    }

    /// The same process, which has connected once more, if the kernel names it so and it lives.
    ///
    /// Of the connections to one listener this must be asked in the order in which the kernel gave them: one that
    /// was made before this process had its pid has then been given before. From then on no other process can have
    /// that pid while this one lives.
    pub(crate) fn again(&self, Credentials { pid, uid, gid }: Credentials) -> Option<Self> {
        if pid != Some(self.pid()) {
            return None;
        }
        Self::now(Arc::clone(&self.process), uid, gid)
    }

    /// The process as it is now, if it lives.
    fn now(process: Arc<Process>, uid: u32, gid: u32) -> Option<Self> {
        let peer = Self {
            uid,
            gid,
            // Not every agent has the right to know.
            program: process.proc.program().ok(),
            process,
        };
        peer.is_alive().then_some(peer)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// The effective user id at connect.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The effective group id at connect.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// What the process executed when it was first held, unless that could not be seen. An `exec`
    /// leaves everything else as it is: pid, start time, pidfd and open sockets.
    pub fn program(&self) -> Option<Program> {
        self.program
    }

    /// The descriptor of the process, where the kernel has one: who is shown it can look at no other.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.process.life {
            Life::PidFd(pidfd) => Some(pidfd.as_fd()),
            Life::StartTime(_) => None,
        }
    }

    /// Whether the process runs. A zombie does not.
    pub fn is_alive(&self) -> bool {
        match &self.process.life {
            Life::PidFd(pidfd) => !pidfd.has_exited(),
            Life::StartTime(start_time) => self.process.proc.is_running_since(*start_time),
        }
    }

    /// Waits until the process has exited.
    pub async fn exited(&self) {
        if let Life::PidFd(pidfd) = &self.process.life
            && pidfd.exited().await.is_ok()
        {
            return;
        }
        while self.is_alive() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Reads `/proc/PID/NAME`, at most `max` bytes of it: a larger file is an error.
    ///
    /// `name` is one component. Blocks for as long as the kernel takes.
    pub fn proc_file(&self, name: &str, max: usize) -> io::Result<Vec<u8>> {
        self.while_alive(|| self.process.proc.read(name, max))
    }

    /// Reads the symbolic link `/proc/PID/NAME`. The text means something only in the mount
    /// namespace of the peer.
    pub fn proc_link(&self, name: &str) -> io::Result<OsString> {
        self.while_alive(|| self.process.proc.link(name))
    }

    /// Opens the very file that the process executes, wherever its path points by now.
    pub fn exe_file(&self) -> io::Result<File> {
        self.while_alive(|| self.process.proc.exe())
    }

    /// One look after the read is enough: it lived when it was first held, and who lives after a read has lived
    /// all the time before.
    fn while_alive<T>(&self, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let answer = read();
        if self.is_alive() {
            answer
        } else {
            Err(exited())
        }
    }
}

fn exited() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "process has exited")
}

#[cfg(test)]
pub(crate) mod tests;
