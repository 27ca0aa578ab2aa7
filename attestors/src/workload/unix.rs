//! The workload attestor `unix`: ids, groups, and on request the path and digest of the executable.
//!
//! Everything is read through the one handle that the [`Peer`] holds, which answers only while the
//! process lives. The effective ids must still be those that the kernel recorded at connect: a
//! process that connects, hands its socket to a child and then runs a set-user-id program would
//! otherwise be attested as that program's owner.
//!
//! `path` and `sha256` say what the process runs now. A socket outlives an `exec`, so it must be the file
//! that the process ran when its connection was accepted, and a change between the first and the last
//! read is a denial. They are weaker than the ids all the same: an `exec` before the accept is not seen,
//! nor one of the same file, and whoever starts a program chooses its arguments and its environment.

use std::sync::Arc;

use identity::selector::{Selector, SelectorError, Selectors};
use runtime::unix::Peer;

use self::executable::{Executable, ExecutableError};
use self::names::{Id, Named, Names};
use self::status::{Status, StatusError};
use super::{Denial, Verdict};

pub mod executable;
mod names;
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

/// The attestor. Clones share one memory of digests and names.
#[derive(Clone, Debug)]
pub struct Unix {
    options: Options,
    digests: Arc<executable::Digests>,
    names: Arc<Names>,
}

impl Unix {
    /// An attestor that remembers nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            digests: Arc::default(),
            names: Arc::default(),
        }
    }

    /// Looks at a process, away from the threads that serve sockets if it may take long: names may
    /// come from a directory on the network, and programs are large.
    pub async fn attest(&self, peer: &Arc<Peer>) -> Result<Verdict, UnixError> {
        if let Some(verdict) = self.glance(peer) {
            return Ok(verdict);
        }
        let (unix, peer) = (self.clone(), Arc::clone(peer));
        tokio::task::spawn_blocking(move || unix.look(&peer))
            .await
            .map_err(UnixError::Interrupted)?
    }

    /// Looks at a process, on this thread, for as long as it takes.
    pub fn look(&self, peer: &Peer) -> Result<Verdict, UnixError> {
        match self.selectors(peer, || ()) {
            Ok(verdict) => Ok(verdict),
            // A read that fails because the process is gone is no failure of ours.
            Err(_) if !peer.is_alive() => Ok(Verdict::Denied(Denial::Exited)),
            Err(error) => Err(error),
        }
    }

    /// The same, if it takes no more than a read of the kernel's memory.
    fn glance(&self, peer: &Peer) -> Option<Verdict> {
        if self.options.discover_workload_path {
            return None;
        }
        // Whatever goes wrong here goes wrong again, and is told then.
        let status = own_status(peer).ok()??;
        let named = self.names.remembered(&named_ids(&status))?;
        // The status was a living process's, and nothing else was read of it.
        let found = ids(&status, &named).ok()?;
        Some(Verdict::Attested(found.into_iter().collect()))
    }

    /// `between` stands for what the process does between the two looks at its executable.
    fn selectors(&self, peer: &Peer, between: impl FnOnce()) -> Result<Verdict, UnixError> {
        let Some(status) = own_status(peer)? else {
            return Ok(Verdict::Denied(Denial::CredentialsChanged));
        };
        let mut found = ids(&status, &self.names.ask(&named_ids(&status)))?;
        if self.options.discover_workload_path {
            let Some(program) = self.executable(peer, between)? else {
                return Ok(Verdict::Denied(Denial::ExecutableChanged));
            };
            found.extend(program);
        }
        if !peer.is_alive() {
            return Ok(Verdict::Denied(Denial::Exited));
        }
        Ok(Verdict::Attested(found.into_iter().collect::<Selectors>()))
    }

    /// `None` if the process ran something else at accept, or before the last read than at the first.
    fn executable(
        &self,
        peer: &Peer,
        between: impl FnOnce(),
    ) -> Result<Option<Vec<Selector>>, UnixError> {
        let before = Executable::of(peer)?;
        if !before.has_connected(peer) {
            return Ok(None);
        }
        let mut found = vec![selector("path", &before.path)?];
        if let Some(limit) = before.limit(self.options.workload_size_limit) {
            let Some(digest) = self.digests.of(&before, limit)? else {
                return Ok(None);
            };
            found.push(selector("sha256", &hex::encode(digest))?);
        }
        between();
        let after = Executable::of(peer)?;
        Ok(before.is_same(&after).then_some(found))
    }
}

/// The status of a process that still has the ids with which it connected.
fn own_status(peer: &Peer) -> Result<Option<Status>, UnixError> {
    let text = peer
        .proc_file("status", status::MAX_BYTES)
        .map_err(UnixError::Read)?;
    let status = Status::parse(&text)?;
    let is_own = (status.uid, status.gid) == (peer.uid(), peer.gid());
    Ok(is_own.then_some(status))
}

fn named_ids(status: &Status) -> Vec<Id> {
    let groups = std::iter::once(&status.gid).chain(&status.groups);
    std::iter::once(Id::User(status.uid))
        .chain(groups.map(|&gid| Id::Group(gid)))
        .collect()
}

/// An id without a name, or whose name cannot be had now, gives one selector and not two.
fn ids(status: &Status, named: &Named) -> Result<Vec<Selector>, UnixError> {
    let mut found = Vec::new();
    let mut add = |id: Id, number: (&str, u32), name: &str| -> Result<(), UnixError> {
        found.push(selector(number.0, &number.1.to_string())?);
        if let Some(Some(text)) = named.get(&id) {
            found.push(selector(name, text)?);
        }
        Ok(())
    };
    add(Id::User(status.uid), ("uid", status.uid), "user")?;
    add(Id::Group(status.gid), ("gid", status.gid), "group")?;
    for &group in &status.groups {
        let number = ("supplementary_gid", group);
        add(Id::Group(group), number, "supplementary_group")?;
    }
    Ok(found)
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
