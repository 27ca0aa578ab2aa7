//! The tree of pods below its root: quality of service, pod, container.
//!
//! The kubelet has two drivers. With `cgroupfs` the path is `kubepods/burstable/podUID/ID`; with
//! `systemd` each slice repeats its parent's name, and the container is a scope:
//! `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-ID.scope`.
//! Guaranteed pods have no level of their own. Where the kubelet speaks systemd and the runtime does
//! not, the runtime takes `kubepods-burstable-podUID.slice:cri-containerd:ID` for a name.

use super::ids::{ContainerId, PodUid};
use super::lines::Path;

/// What one path says.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// It does not lead into a pod.
    Nothing,
    /// Into a pod, but into none of its containers.
    Pod(PodUid),
    /// Into a container.
    Container {
        pod: Option<PodUid>,
        container: ContainerId,
    },
    /// Into the tree of pods, and then where no kubelet leads.
    Unrecognized,
}

/// The services in whose cgroup their runtime makes the joined form, on hierarchies that it shares
/// with systemd. Only root can run a service of that name.
const RUNTIME_SERVICES: &[&[u8]] = &[
    b"containerd.service",
    b"crio.service",
    b"docker.service",
    b"k3s.service",
    b"k3s-agent.service",
    b"rke2-server.service",
    b"rke2-agent.service",
];

/// Reads a path that has no anchor but the reader's root.
pub(super) fn unanchored(path: &Path<'_>) -> Found {
    let components = &path.components;
    if path.up > 0 {
        // The container level that crun adds below a scope makes siblings two steps away.
        if path.up <= 2
            && let Some(container) = components.first().and_then(|name| container_id(name))
        {
            return Found::Container {
                pod: None,
                container,
            };
        }
        let found = descend(components, Start::Anywhere);
        if found != Found::Nothing {
            return found;
        }
    }
    match outermost(components) {
        Some(at) => descend(components.get(at..).unwrap_or_default(), Start::Root),
        None => Found::Nothing,
    }
}

/// Reads what stands behind the reader's anchor.
pub(super) fn anchored(components: &[&[u8]]) -> Found {
    descend(components, Start::Root)
}

/// Where the innermost tree of pods begins that leads into a container. Only for the agent's own path.
pub(super) fn innermost(components: &[&[u8]]) -> Option<usize> {
    (0..components.len()).rev().find(|at| {
        let rest = components.get(*at..).unwrap_or_default();
        matches!(descend(rest, Start::Root), Found::Container { .. })
    })
}

/// Where the tree of pods begins in a path that nobody but root can have begun so.
fn outermost(components: &[&[u8]]) -> Option<usize> {
    match components {
        [b"kubepods", b"kubepods", ..] | [b"kubelet", b"kubepods", ..] => Some(1),
        [b"kubepods", ..] => Some(0),
        [name, ..] if joined(name).is_some() => Some(0),
        [b"system.slice", service, name, ..]
            if RUNTIME_SERVICES.contains(service) && joined(name).is_some() =>
        {
            Some(2)
        }
        _ => slice_of_pods(components),
    }
}

/// Follows slices from the root, each of which must repeat its parent's name as only systemd's own
/// do, to the first `…kubepods.slice`.
fn slice_of_pods(components: &[&[u8]]) -> Option<usize> {
    let mut above: Option<&[u8]> = None;
    for (at, name) in components.iter().enumerate() {
        let stem = name.strip_suffix(b".slice")?;
        if above.is_some_and(|above| !is_child(stem, above)) {
            return None;
        }
        if is_root(stem) {
            return Some(at);
        }
        above = Some(stem);
    }
    None
}

/// Which level the first component may be of.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Start {
    Root,
    /// Any: the levels above are hidden by the reader's cgroup namespace.
    Anywhere,
}

fn descend(components: &[&[u8]], start: Start) -> Found {
    let mut above: Option<Level<'_>> = None;
    for (at, name) in components.iter().enumerate() {
        if above.is_none()
            && let Some((pod, container)) = joined(name)
        {
            let pod = Some(pod);
            return Found::Container { pod, container };
        }
        let level = Level::of(name).filter(|level| level.may_follow(above.as_ref(), start));
        match level {
            Some(Level { pod: Some(pod), .. }) => {
                return match components.get(at + 1).and_then(|name| container_id(name)) {
                    Some(container) => Found::Container {
                        pod: Some(pod),
                        container,
                    },
                    None => Found::Pod(pod),
                };
            }
            Some(level) => above = Some(level),
            None if above.is_some() => return Found::Unrecognized,
            None => return Found::Nothing,
        }
    }
    Found::Nothing
}

/// A step of the tree above the containers.
#[derive(Debug)]
struct Level<'a> {
    depth: Depth,
    /// The name of the slice; `None` with `cgroupfs`.
    stem: Option<&'a [u8]>,
    /// The pod, at the depth of pods.
    pod: Option<PodUid>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Depth {
    Root,
    Quality,
    Pod,
}

impl<'a> Level<'a> {
    fn of(name: &'a [u8]) -> Option<Self> {
        let level = |depth, stem, pod| Some(Self { depth, stem, pod });
        if let Some(stem) = name.strip_suffix(b".slice") {
            if is_root(stem) {
                return level(Depth::Root, Some(stem), None);
            }
            if is_quality(stem) {
                return level(Depth::Quality, Some(stem), None);
            }
            return pod_of_slice(stem).and_then(|pod| level(Depth::Pod, Some(stem), Some(pod)));
        }
        match name {
            b"kubepods" => level(Depth::Root, None, None),
            b"burstable" | b"besteffort" => level(Depth::Quality, None, None),
            _ => pod_uid(name.strip_prefix(b"pod")?)
                .and_then(|pod| level(Depth::Pod, None, Some(pod))),
        }
    }

    fn may_follow(&self, above: Option<&Self>, start: Start) -> bool {
        let Some(above) = above else {
            return self.depth == Depth::Root || start == Start::Anywhere;
        };
        let is_named_after = match (self.stem, above.stem) {
            (Some(stem), Some(above)) => is_child(stem, above),
            (None, None) => true,
            _ => false,
        };
        above.depth < self.depth && is_named_after
    }
}

/// `kubepods-besteffort-podUID.slice:cri-containerd:ID`.
fn joined(name: &[u8]) -> Option<(PodUid, ContainerId)> {
    let mut fields = name.split(|byte| *byte == b':');
    let (slice, runtime, id) = (fields.next()?, fields.next()?, fields.next()?);
    let is_whole = fields.next().is_none() && is_runtime(runtime);
    is_whole.then_some(())?;
    let pod = pod_of_slice(slice.strip_suffix(b".slice")?)?;
    Some((pod, bare_id(id)?))
}

/// `kubepods-burstable-podUID`, without the suffix.
fn pod_of_slice(stem: &[u8]) -> Option<PodUid> {
    let mark = b"-pod";
    let at = stem.windows(mark.len()).rposition(|part| part == mark)?;
    let (above, pod) = stem.split_at_checked(at)?;
    let is_below_pods = is_root(above) || is_quality(above);
    is_below_pods.then_some(())?;
    pod_uid(pod.strip_prefix(mark)?)
}

/// `ID`, `RUNTIME-ID` or `RUNTIME-ID.scope`.
///
/// CRI-O's monitor of a container has a cgroup beside it, `crio-conmon-ID.scope`; it is no container.
fn container_id(name: &[u8]) -> Option<ContainerId> {
    if let Some(id) = bare_id(name) {
        return Some(id);
    }
    let name = name.strip_suffix(b".scope").unwrap_or(name);
    let at = name.iter().rposition(|byte| *byte == b'-')?;
    let (runtime, id) = name.split_at_checked(at)?;
    is_runtime(runtime).then_some(())?;
    bare_id(id.strip_prefix(b"-")?)
}

fn is_runtime(name: &[u8]) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    !name.is_empty() && name.iter().all(is_plain) && !name.ends_with(b"conmon")
}

fn is_root(stem: &[u8]) -> bool {
    stem == b"kubepods" || stem.ends_with(b"-kubepods")
}

fn is_quality(stem: &[u8]) -> bool {
    [&b"-burstable"[..], b"-besteffort"]
        .iter()
        .any(|quality| stem.strip_suffix(*quality).is_some_and(is_root))
}

/// Whether a slice of this name lies in a slice of that name, as systemd nests them.
pub(super) fn is_child(stem: &[u8], above: &[u8]) -> bool {
    stem.strip_prefix(above)
        .is_some_and(|rest| rest.starts_with(b"-"))
}

pub(super) fn bare_id(id: &[u8]) -> Option<ContainerId> {
    ContainerId::parse(std::str::from_utf8(id).ok()?)
}

fn pod_uid(uid: &[u8]) -> Option<PodUid> {
    PodUid::parse(std::str::from_utf8(uid).ok()?)
}
