//! The workload attestor `docker`: what docker or Podman knows of the caller's container.
//!
//! The kernel names the container, by the cgroup of the process, and thereby who made it; the engine
//! tells the labels, variables and image that the container was made with. The engine of root is asked
//! of what only root can have made. The Podman of a user says of that user's containers what the user
//! likes, so it is asked only if the operator says so, and only if that user's process answers.
//!
//! A process in no container has no selectors. A container that its engine does not list is an error,
//! as with SPIRE, unless a kubelet made it: that one may be another runtime's.

mod client;
pub mod description;
mod error;
mod options;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use identity::selector::Selectors;
use parking_lot::Mutex;
use runtime::unix::Peer;

use self::client::{Found, Socket};
pub use self::error::DockerError;
pub use self::options::{ApiVersion, Options, OptionsError, UserSockets, socket_path};
use super::cgroup::engine::{Container, Engine};
use super::cgroup::{self, CgroupError, ContainerId, Viewpoint};
use super::{Denial, Verdict};

/// The name of this attestor in configuration, and the kind of its selectors.
pub const NAME: &str = "docker";

/// The attestor. Clones share the questions that are under way.
#[derive(Clone, Debug)]
pub struct Docker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    viewpoint: Viewpoint,
    inquiries: Inquiries,
}

impl Docker {
    /// An attestor that looks from `viewpoint`, which is the agent's own.
    #[must_use]
    pub fn new(options: Options, viewpoint: Viewpoint) -> Self {
        Self(Arc::new(Inner {
            options,
            viewpoint,
            inquiries: Inquiries::default(),
        }))
    }

    /// Finds out in which container a process runs, and what its engine knows of it.
    pub async fn attest(&self, peer: &Arc<Peer>) -> Result<Verdict, DockerError> {
        let container = match self.place(peer).await {
            Ok(container) => container,
            // A read that fails because the process is gone is no failure of ours.
            Err(_) if !peer.is_alive() => return Ok(Verdict::Denied(Denial::Exited)),
            Err(DockerError::Cgroup(CgroupError::Contradiction)) => {
                return Ok(Verdict::Denied(Denial::CgroupContradiction));
            }
            Err(error) => return Err(error),
        };
        let Some(container) = container else {
            return Ok(Verdict::Attested(Selectors::default()));
        };
        let verdict = tokio::select! {
            biased;
            () = peer.exited() => return Ok(Verdict::Denied(Denial::Exited)),
            verdict = self.find(&container) => verdict?,
        };
        if !peer.is_alive() {
            return Ok(Verdict::Denied(Denial::Exited));
        }
        Ok(verdict)
    }

    /// The kernel makes this text under locks that a busy node holds for long.
    async fn place(&self, peer: &Arc<Peer>) -> Result<Option<Container>, DockerError> {
        let (inner, peer) = (Arc::clone(&self.0), Arc::clone(peer));
        blocking(move || {
            let text = peer
                .proc_file("cgroup", cgroup::MAX_BYTES)
                .map_err(|error| DockerError::Read(Arc::new(error)))?;
            Ok(inner.container(&text)?)
        })
        .await
    }

    async fn find(&self, container: &Container) -> Result<Verdict, DockerError> {
        let socket = self.0.options.socket(&container.engine)?;
        let asked = self.0.inquiries.of(socket, &container.id).await;
        let found = match asked {
            Err(DockerError::NotListed) if container.engine == Engine::Kubelet => {
                return Ok(Verdict::Attested(Selectors::default()));
            }
            asked => asked?,
        };
        let is_same = found.id == container.id.as_str();
        if !is_same || !self.is_witnessed(container, found.pid).await? {
            return Ok(Verdict::Denied(Denial::ContainerMismatch));
        }
        Ok(Verdict::Attested(found.selectors.clone()))
    }

    /// Whether the container's first process is where the caller claims that the container is, if that
    /// is no more than a claim.
    async fn is_witnessed(&self, container: &Container, pid: u32) -> Result<bool, DockerError> {
        if !matches!(container.engine, Engine::Podman { claimed: Some(_) }) {
            return Ok(true);
        }
        let (inner, container) = (Arc::clone(&self.0), container.clone());
        blocking(move || {
            let text =
                cgroup_of(pid).map_err(|error| DockerError::Witness(pid, Arc::new(error)))?;
            Ok(inner.container(&text)? == Some(container))
        })
        .await
    }
}

impl Inner {
    fn container(&self, text: &[u8]) -> Result<Option<Container>, CgroupError> {
        match &self.options.patterns {
            Some(patterns) => patterns.container(text),
            None => self.viewpoint.container(text),
        }
    }
}

fn cgroup_of(pid: u32) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let limit = u64::try_from(cgroup::MAX_BYTES).unwrap_or(u64::MAX);
    // One byte more than fits is enough for the parser to refuse it.
    File::open(format!("/proc/{pid}/cgroup"))?
        .take(limit.saturating_add(1))
        .read_to_end(&mut text)?;
    Ok(text)
}

async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, DockerError> + Send + 'static,
) -> Result<T, DockerError> {
    tokio::task::spawn_blocking(look)
        .await
        .map_err(|error| DockerError::Interrupted(Arc::new(error)))?
}

type Answer = Result<Arc<Found>, DockerError>;
type Inquiry = BoxFuture<'static, Answer>;

/// The questions that are under way: callers of one container share the answer. What an engine says of
/// a container is settled when it is made, so an answer that was asked for a moment ago is as good.
#[derive(Debug, Default)]
struct Inquiries(Mutex<BTreeMap<(PathBuf, ContainerId), WeakShared<Inquiry>>>);

impl Inquiries {
    fn of(&self, socket: Socket, id: &ContainerId) -> Shared<Inquiry> {
        let key = (socket.path.clone(), id.clone());
        let mut open = self.0.lock();
        let is_open = |inquiry: &Shared<Inquiry>| inquiry.peek().is_none();
        open.retain(|_, inquiry| inquiry.upgrade().is_some_and(|open| is_open(&open)));
        if let Some(inquiry) = open.get(&key).and_then(WeakShared::upgrade) {
            return inquiry;
        }
        let asked = id.clone();
        let inquiry = async move { client::ask(&socket, &asked).await.map(Arc::new) };
        let inquiry = inquiry.boxed().shared();
        open.extend(inquiry.downgrade().map(|weak| (key, weak)));
        inquiry
    }
}

#[cfg(test)]
mod tests;
