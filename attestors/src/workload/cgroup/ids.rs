//! What cgroup paths and the kubelet call pods and containers.

use std::fmt;

/// A container's id: 64 lower-case hexadecimal digits, which containerd, CRI-O and docker all use.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ContainerId(Box<str>);

impl ContainerId {
    /// `None` if the text is not 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 64 && text.bytes().all(is_hex)).then(|| Self(text.into()))
    }

    /// Takes the kubelet's form, `containerd://ID`. The runtime's name says nothing and is not looked
    /// at: it differs between versions of one runtime.
    #[must_use]
    pub fn from_status(text: &str) -> Option<Self> {
        let (_runtime, id) = text.split_once("://")?;
        Self::parse(id)
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A pod's UID as cgroups have it: the API's UUID, or for a static pod the kubelet's digest of its
/// manifest, 32 hexadecimal digits without dashes, which is not the UID of its mirror in the API.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PodUid(Box<str>);

impl PodUid {
    /// Takes either form. The dashes may be underscores throughout: systemd gives dashes a meaning, so
    /// the kubelet writes names of slices so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_static = text.len() == 32 && text.bytes().all(is_hex);
        if is_static || is_uuid(text, '-') {
            return Some(Self(text.into()));
        }
        is_uuid(text, '_').then(|| Self(text.replace('_', "-").into()))
    }

    /// Whether it is the digest of a static pod's manifest.
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.0.len() == 32
    }

    /// The text, with dashes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_uuid(text: &str, separator: char) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let mut groups = text.split(separator);
    lengths.into_iter().all(|length| {
        let group = groups.next().unwrap_or_default();
        group.len() == length && group.bytes().all(is_hex)
    }) && groups.next().is_none()
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
