//! Which container engine has a process, by the text of `/proc/PID/cgroup`.
//!
//! The rules are those of the tree of pods: paths are read from the left, from places that only root
//! can make, and what lies below a container is not read. Docker and Podman make their containers here:
//!
//! | engine | cgroupfs | systemd |
//! | --- | --- | --- |
//! | docker | `/docker/ID`, `/ecs/TASK/ID` | a chain of slices, `docker-ID.scope` |
//! | Podman of root | `/libpod_parent/libpod-ID`, or a pod between them | a chain of slices, `libpod-ID.scope` |
//! | Podman below a service (Quadlet) | | a chain of slices, `NAME.service/libpod-payload-ID` |
//! | Podman of a user | | `/user.slice/user-UID.slice/user@UID.service/…libpod-ID…` |
//!
//! A service may have been given its cgroup to write, so what stands below one is a claim that needs a
//! witness ([`Engine::Podman`]). A user may write all that is below their own `user@UID.service`; so
//! what stands there is that user's word, and is only ever asked of that user's Podman.

use super::lines::{self, Line};
use super::path::{bare_id, is_child};
use super::{CgroupError, ContainerId, Place, Viewpoint, agree};

/// A container, and who would know of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Container {
    /// The container.
    pub id: ContainerId,
    /// Who made it.
    pub engine: Engine,
}

/// Who made a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Engine {
    /// The docker daemon.
    Docker,
    /// The Podman of root.
    Podman {
        /// The cgroup of the container, if it lies below a service: who runs as that service may have
        /// made it, so it is the container's only if the container's own first process is there too.
        claimed: Option<Box<[u8]>>,
    },
    /// The Podman of a user.
    RootlessPodman {
        /// The user, in whose slice the container is.
        uid: u32,
    },
    /// The runtime of a kubelet, which may be docker.
    Kubelet,
}

impl Viewpoint {
    /// Finds the container of the process that has this `/proc/PID/cgroup`, whoever made it. `None` if
    /// it is in none.
    pub fn container(&self, text: &[u8]) -> Result<Option<Container>, CgroupError> {
        let mut found = None;
        for line in lines::parse(text)? {
            agree(&mut found, self.container_of(&line))?;
        }
        match (found, self.locate(text)?) {
            (Some(_), Place::Pod { pod: Some(_), .. }) => Err(CgroupError::Contradiction),
            (None, Place::Pod { container, .. }) => Ok(Some(Container {
                id: container,
                engine: Engine::Kubelet,
            })),
            // A sibling of the agent's own container names no pod, and its engine's name is in its own.
            (found, _) => Ok(found),
        }
    }

    fn container_of(&self, line: &Line<'_>) -> Option<Container> {
        if !self.anchors.is_empty() {
            return from_root(self.below_anchor(line)?);
        }
        let components = &line.path.components;
        // Every ancestor of the agent's cgroup belongs to an engine or root, and so what is right below.
        let sibling = || scope(components.first()?);
        (line.path.up > 0)
            .then(sibling)
            .flatten()
            .or_else(|| from_root(components))
    }
}

fn from_root(components: &[&[u8]]) -> Option<Container> {
    match components {
        [b"docker", id, ..] | [b"ecs", _, id, ..] => of(bare_id(id)?, Engine::Docker),
        [b"libpod_parent", pod, name, ..] if bare_id(pod).is_some() => podman(cgroupfs_id(name)?),
        [b"libpod_parent", name, ..] => podman(cgroupfs_id(name)?),
        _ => from_slices(components),
    }
}

/// Follows slices, each of which must repeat its parent's name as only systemd's own do, to the unit.
fn from_slices(components: &[&[u8]]) -> Option<Container> {
    let mut above: Option<&[u8]> = None;
    for (at, name) in components.iter().enumerate() {
        let Some(stem) = name.strip_suffix(b".slice") else {
            let (slices, units) = components.split_at_checked(at)?;
            return of_unit(slices, units);
        };
        if above.is_some_and(|above| !is_child(stem, above)) {
            return None;
        }
        above = Some(stem);
    }
    None
}

fn of_unit(slices: &[&[u8]], units: &[&[u8]]) -> Option<Container> {
    let (unit, below) = units.split_first()?;
    if let Some(uid) = user_of(slices, unit) {
        let id = below.iter().find_map(|name| libpod_id(name))?;
        return of(id, Engine::RootlessPodman { uid });
    }
    if unit.ends_with(b".service") && !unit.starts_with(b"user@") {
        let name = below.first()?;
        let id = bare_id(name.strip_prefix(b"libpod-payload-")?)?;
        let parts = slices.iter().copied().chain([*unit, *name]);
        let cgroup = parts.flat_map(|part| [&b"/"[..], part]).flatten().copied();
        let claimed = Some(cgroup.collect());
        return of(id, Engine::Podman { claimed });
    }
    scope(unit)
}

/// The user whose manager of services that is.
fn user_of(slices: &[&[u8]], unit: &[u8]) -> Option<u32> {
    let [b"user.slice", slice] = slices else {
        return None;
    };
    let uid = slice.strip_prefix(b"user-")?.strip_suffix(b".slice")?;
    let manager = unit.strip_prefix(b"user@")?.strip_suffix(b".service")?;
    let digits = std::str::from_utf8(uid).ok()?;
    (uid == manager).then(|| digits.parse().ok()).flatten()
}

/// `docker-ID.scope` or `libpod-ID.scope`; or the latter without its suffix, beside an agent in a
/// container of Podman's that has no systemd.
fn scope(name: &[u8]) -> Option<Container> {
    if let Some(id) = name.strip_prefix(b"docker-") {
        return of(bare_id(id.strip_suffix(b".scope")?)?, Engine::Docker);
    }
    let stem = name.strip_suffix(b".scope").unwrap_or(name);
    podman(bare_id(stem.strip_prefix(b"libpod-")?)?)
}

fn cgroupfs_id(name: &[u8]) -> Option<ContainerId> {
    bare_id(name.strip_prefix(b"libpod-")?)
}

/// Any of Podman's forms. Its monitor, `libpod-conmon-ID.scope`, is no container.
fn libpod_id(name: &[u8]) -> Option<ContainerId> {
    let rest = name.strip_prefix(b"libpod-")?;
    let rest = rest.strip_prefix(b"payload-").unwrap_or(rest);
    bare_id(rest.strip_suffix(b".scope").unwrap_or(rest))
}

fn podman(id: ContainerId) -> Option<Container> {
    of(id, Engine::Podman { claimed: None })
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "every caller returns what it returns"
)]
fn of(id: ContainerId, engine: Engine) -> Option<Container> {
    Some(Container { id, engine })
}

#[cfg(test)]
mod tests;
