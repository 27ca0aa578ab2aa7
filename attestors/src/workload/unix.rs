//! The workload attestor `unix`: ids, groups, and on request the path and digest of the executable.
//!
//! Everything is read through the one handle that the [`Peer`] holds, which answers only while the
//! process lives. The effective ids must still be those that the kernel recorded at connect: a
//! process that connects, hands its socket to a child and then runs a set-user-id program would
//! otherwise be attested as that program's owner.
//!
//! `path` and `sha256` say what the process runs now. A socket outlives an `exec`, so they are weaker
//! than the ids; a change between the first and the last read is a denial.

use std::sync::Arc;

use identity::selector::{Selector, SelectorError, Selectors};
use nix::unistd::{Gid, Group, Uid, User};
use runtime::unix::Peer;

use self::executable::{Executable, ExecutableError};
use self::status::{Status, StatusError};
use super::{Denial, Verdict};

pub mod executable;
pub mod status;

/// The name of this attestor in configuration, and the kind of its selectors.
pub const NAME: &str = "unix";

/// What an operator may ask for beyond the ids.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Adds `path`, and `sha256` if the size limit allows it. The agent needs the right to look at
    /// other users' processes for it.
    pub discover_workload_path: bool,
    /// The largest executable that is hashed, in bytes. 0 sets no limit; below 0 nothing is hashed.
    pub workload_size_limit: i64,
}

/// The attestor. Clones share one memory of digests.
#[derive(Clone, Debug)]
pub struct Unix {
    options: Options,
    digests: Arc<executable::Digests>,
}

impl Unix {
    /// An attestor that remembers no digest yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            digests: Arc::default(),
        }
    }

    /// Looks at a process, away from the threads that serve sockets: user and group names may come
    /// from a directory on the network.
    pub async fn attest(&self, peer: &Arc<Peer>) -> Result<Verdict, UnixError> {
        let (unix, peer) = (self.clone(), Arc::clone(peer));
        tokio::task::spawn_blocking(move || unix.look(&peer))
            .await
            .map_err(UnixError::Interrupted)?
    }

    /// The same, on this thread.
    pub fn look(&self, peer: &Peer) -> Result<Verdict, UnixError> {
        match self.selectors(peer) {
            Ok(verdict) => Ok(verdict),
            // A read that fails because the process is gone is no failure of ours.
            Err(_) if !peer.is_alive() => Ok(Verdict::Denied(Denial::Exited)),
            Err(error) => Err(error),
        }
    }

    fn selectors(&self, peer: &Peer) -> Result<Verdict, UnixError> {
        let text = peer
            .proc_file("status", status::MAX_BYTES)
            .map_err(UnixError::Read)?;
        let status = Status::parse(&text)?;
        if (status.uid, status.gid) != (peer.uid(), peer.gid()) {
            return Ok(Verdict::Denied(Denial::CredentialsChanged));
        }
        let mut found = ids(&status)?;
        if self.options.discover_workload_path {
            let Some(program) = self.executable(peer)? else {
                return Ok(Verdict::Denied(Denial::ExecutableChanged));
            };
            found.extend(program);
        }
        if !peer.is_alive() {
            return Ok(Verdict::Denied(Denial::Exited));
        }
        Ok(Verdict::Attested(found.into_iter().collect::<Selectors>()))
    }

    /// `None` if the process ran something else before the last read than at the first.
    fn executable(&self, peer: &Peer) -> Result<Option<Vec<Selector>>, UnixError> {
        let before = Executable::of(peer)?;
        let mut found = vec![selector("path", &before.path)?];
        if let Some(limit) = before.limit(self.options.workload_size_limit) {
            let Some(digest) = self.digests.of(&before, limit)? else {
                return Ok(None);
            };
            found.push(selector("sha256", &hex::encode(digest))?);
        }
        let after = Executable::of(peer)?;
        Ok(before.is_same(&after).then_some(found))
    }
}

fn ids(status: &Status) -> Result<Vec<Selector>, UnixError> {
    let mut found = vec![selector("uid", &status.uid.to_string())?];
    if let Ok(Some(user)) = User::from_uid(Uid::from_raw(status.uid)) {
        found.push(selector("user", &user.name)?);
    }
    found.push(selector("gid", &status.gid.to_string())?);
    if let Some(name) = group_name(status.gid) {
        found.push(selector("group", &name)?);
    }
    for &group in &status.groups {
        found.push(selector("supplementary_gid", &group.to_string())?);
        if let Some(name) = group_name(group) {
            found.push(selector("supplementary_group", &name)?);
        }
    }
    Ok(found)
}

/// An id without a name, or whose name cannot be had now, gives no selector.
fn group_name(gid: u32) -> Option<String> {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten()?;
    Some(group.name)
}

fn selector(name: &str, value: &str) -> Result<Selector, UnixError> {
    Ok(Selector::new(NAME, &format!("{name}:{value}"))?)
}

/// Why a process could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum UnixError {
    /// `/proc/PID/status` could not be read.
    #[error("could not read the caller's process status")]
    Read(#[source] std::io::Error),
    /// It is not what a kernel writes.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The executable could not be looked at.
    #[error(transparent)]
    Executable(#[from] ExecutableError),
    /// What was found cannot be a selector.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// The process is shutting down, or the attestor panicked.
    #[error("the look at the caller was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl UnixError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read(_) => "status_unreadable",
            Self::Status(error) => error.reason(),
            Self::Executable(error) => error.reason(),
            Self::Selector(error) => error.reason(),
            Self::Interrupted(_) => "interrupted",
        }
    }
}

#[cfg(test)]
mod tests;
