//! Where a kubelet may ask for a volume.
//!
//! The driver mounts and unmounts as root in the node's own tree of mounts, so a path is taken apart
//! before anything is done with it. There is one shape of path that a kubelet asks for, and no other
//! is served.

use std::path::{Path, PathBuf};

/// Below the pods folder: `POD-UID/volumes/kubernetes.io~csi/VOLUME/mount`.
const VOLUMES: &str = "volumes";
const PLUGIN: &str = "kubernetes.io~csi";
/// The last component, which alone the driver makes and removes.
pub(super) const MOUNT: &str = "mount";

/// A pod's UID has 36 bytes, a static pod's 32.
const MAX_UID_BYTES: usize = 64;
/// A file name of Linux.
const MAX_NAME_BYTES: usize = 255;

/// The folder of one volume of one pod.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Target {
    // INVARIANT: each is one component, and neither `.` nor `..`.
    pod_uid: String,
    volume: String,
}

/// Why a path is none that this driver serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("target path is not below the kubelet's folder of pods")]
    Outside,
    #[error("target path is not that of a CSI volume of a pod")]
    Shape,
}

impl Target {
    /// Takes a path of the kubelet apart, byte by byte: nothing in it is resolved.
    pub(crate) fn parse(pods: &Path, path: &str) -> Result<Self, TargetError> {
        let below = pods
            .to_str()
            .and_then(|pods| path.strip_prefix(pods))
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or(TargetError::Outside)?;
        let mut parts = below.split('/');
        let shape = [(); 5].map(|()| parts.next());
        let [
            Some(pod_uid),
            Some(VOLUMES),
            Some(PLUGIN),
            Some(volume),
            Some(MOUNT),
        ] = shape
        else {
            return Err(TargetError::Shape);
        };
        if parts.next().is_some() {
            return Err(TargetError::Shape);
        }
        Self::new(pod_uid, volume).ok_or(TargetError::Shape)
    }

    /// From a pod's UID and the name of a volume in its specification.
    pub(crate) fn new(pod_uid: &str, volume: &str) -> Option<Self> {
        let is_uid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_name = |byte: u8| is_uid(byte) || matches!(byte, b'.' | b'_' | b'~');
        let uid_fits = (1..=MAX_UID_BYTES).contains(&pod_uid.len()) && pod_uid.bytes().all(is_uid);
        let name_fits = (1..=MAX_NAME_BYTES).contains(&volume.len())
            && volume.bytes().all(is_name)
            && !matches!(volume, "." | "..");
        (uid_fits && name_fits).then(|| Self {
            pod_uid: pod_uid.to_owned(),
            volume: volume.to_owned(),
        })
    }

    pub(crate) fn pod_uid(&self) -> &str {
        &self.pod_uid
    }

    pub(crate) fn volume(&self) -> &str {
        &self.volume
    }

    /// The folders from the pods folder down to the one that holds [`MOUNT`].
    pub(super) fn folders(&self) -> [&str; 4] {
        [&self.pod_uid, VOLUMES, PLUGIN, &self.volume]
    }

    /// The path as the kubelet writes it.
    pub(crate) fn path(&self, pods: &Path) -> PathBuf {
        let mut path = pods.to_owned();
        path.extend(self.folders());
        path.join(MOUNT)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PODS: &str = "/var/lib/kubelet/pods";
    const UID: &str = "b2a1f0de-7f4c-4c6e-9d51-0a2b3c4d5e6f";

    fn parse(path: &str) -> Result<Target, TargetError> {
        Target::parse(Path::new(PODS), path)
    }

    #[test]
    fn takes_the_path_that_a_kubelet_asks_for() {
        let path = format!("{PODS}/{UID}/volumes/kubernetes.io~csi/spiffe/mount");
        let target = parse(&path).unwrap();
        assert_eq!((target.pod_uid(), target.volume()), (UID, "spiffe"));
        assert_eq!(target.path(Path::new(PODS)), Path::new(&path));
    }

    #[test]
    fn takes_the_uid_of_a_static_pod() {
        let path = format!(
            "{PODS}/{}/volumes/kubernetes.io~csi/v/mount",
            "0".repeat(32)
        );
        assert!(parse(&path).is_ok());
    }

    #[test]
    fn refuses_every_other_path() {
        let inside = |rest: &str| format!("{PODS}/{rest}");
        for path in [
            String::new(),
            "/".to_owned(),
            "/etc".to_owned(),
            "mount".to_owned(),
            PODS.to_owned(),
            inside(""),
            inside(UID),
            inside(&format!("{UID}/volumes/kubernetes.io~csi/v")),
            inside(&format!("{UID}/volumes/kubernetes.io~csi/v/mount/")),
            inside(&format!("{UID}/volumes/kubernetes.io~csi/v/mount/more")),
            inside(&format!("{UID}/volumes/kubernetes.io~csi/../mount")),
            inside(&format!("{UID}/volumes/kubernetes.io~csi/./mount")),
            inside(&format!("{UID}/volumes/kubernetes.io~csi//mount")),
            inside("../volumes/kubernetes.io~csi/v/mount"),
            inside("/volumes/kubernetes.io~csi/v/mount"),
            inside(&format!("{UID}/volumes/kubernetes.io~secret/v/mount")),
            inside(&format!("{UID}/volumes/kubernetes.io~csi/v/etc")),
            inside(&format!("{UID}/volumes/kubernetes.io~csi/v\0/mount")),
            inside(&format!(
                "{UID}/volumes/kubernetes.io~csi/{}/mount",
                "v".repeat(256)
            )),
            format!("{PODS}-of-others/{UID}/volumes/kubernetes.io~csi/v/mount"),
            format!("{PODS}/../pods/{UID}/volumes/kubernetes.io~csi/v/mount"),
            format!("/{PODS}/{UID}/volumes/kubernetes.io~csi/v/mount"),
        ] {
            assert!(parse(&path).is_err(), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_written_back_the_same(rest in "[a-z0-9./~-]{0,80}", uid in "[a-z0-9.-]{0,40}", name in "[a-z0-9._~-]{0,20}") {
            let shaped = format!("{PODS}/{uid}/volumes/kubernetes.io~csi/{name}/mount");
            for path in [format!("{PODS}/{rest}"), rest, shaped] {
                if let Ok(target) = parse(&path) {
                    prop_assert_eq!(target.path(Path::new(PODS)), Path::new(&path));
                    prop_assert!(!path.split('/').any(|part| part == ".." || part == "."));
                }
            }
        }
    }
}
