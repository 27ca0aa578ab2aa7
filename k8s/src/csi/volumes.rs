//! The volumes that are there, and what the kubelet said of their pods.
//!
//! The mounts outlive the driver, and what was said must too: it is in no mount. So each volume has a
//! small file beside the driver's socket. A file counts only while its volume is mounted, so one that a
//! reboot left behind says nothing.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime::files::{self, FileError};
use runtime::report;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::warn;

use super::target::Target;

/// Of a volume's id, as the interface has it.
const MAX_ID_BYTES: usize = 128;
/// Of a volume's file.
const MAX_FILE_BYTES: u64 = 8 << 10;
/// How many files are looked at; a node has some hundred pods.
const MAX_FILES: usize = 16 << 10;

/// The name that the kubelet gave to a volume.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
// INVARIANT: a file name, and not a hidden one.
pub(crate) struct VolumeId(String);

/// One volume.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Volume {
    pub(crate) id: VolumeId,
    pub(crate) target: Target,
    pub(crate) pod_name: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
}

/// All volumes at one moment.
pub(crate) type Snapshot = Arc<BTreeMap<VolumeId, Volume>>;

/// The volumes, in memory and in files.
#[derive(Debug)]
pub(crate) struct Volumes {
    folder: PathBuf,
    all: watch::Sender<Snapshot>,
}

/// A volume's file. Fields that a later version adds are passed over.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    pod_uid: String,
    volume: String,
    pod_name: String,
    namespace: String,
    service_account: String,
}

impl VolumeId {
    /// A kubelet writes `csi-` and a hash.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let fits = (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(is_plain);
        (fits && !id.starts_with('.')).then(|| Self(id.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for VolumeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Volumes {
    /// Reads what an earlier run left in `folder`, and keeps what is `mounted` still.
    pub(crate) fn open(
        folder: PathBuf,
        mounted: impl Fn(&Target) -> bool,
    ) -> Result<Self, FileError> {
        std::fs::create_dir_all(&folder).map_err(|source| FileError {
            action: "create",
            path: folder.clone(),
            source,
        })?;
        let names = std::fs::read_dir(&folder).map_err(|source| FileError {
            action: "list",
            path: folder.clone(),
            source,
        })?;
        let mut all = BTreeMap::new();
        for name in names.flatten().take(MAX_FILES) {
            let path = name.path();
            let id = name.file_name().to_str().and_then(VolumeId::parse);
            let volume = id.and_then(|id| read(id, &path));
            match volume.filter(|volume| mounted(&volume.target)) {
                Some(volume) => {
                    all.insert(volume.id.clone(), volume);
                }
                None => remove(&path),
            }
        }
        Ok(Self {
            folder,
            all: watch::Sender::new(Arc::new(all)),
        })
    }

    /// Follows the volumes.
    pub(crate) fn follow(&self) -> watch::Receiver<Snapshot> {
        self.all.subscribe()
    }

    /// Keeps a volume. Its file comes first: a mount without a file would be forgotten by a restart.
    pub(crate) fn insert(&self, volume: Volume) -> Result<(), FileError> {
        if self.all.borrow().get(&volume.id) == Some(&volume) {
            return Ok(());
        }
        self.write(&volume)?;
        self.all.send_modify(|all| {
            Arc::make_mut(all).insert(volume.id.clone(), volume);
        });
        Ok(())
    }

    /// Forgets a volume.
    pub(crate) fn remove(&self, id: &VolumeId) {
        remove(&self.path(id));
        self.all.send_if_modified(|all| {
            all.contains_key(id) && Arc::make_mut(all).remove(id).is_some()
        });
    }

    /// Puts the file there whole. It is not flushed: a pod would wait for the disk, and what a power cut
    /// takes away is of a mount that is gone with it.
    fn write(&self, volume: &Volume) -> Result<(), FileError> {
        let path = self.path(&volume.id);
        let new = self.folder.join(format!(".{}", volume.id.as_str()));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&write(volume)))
            .and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|source| FileError {
            action: "write",
            path,
            source,
        })
    }

    fn path(&self, id: &VolumeId) -> PathBuf {
        self.folder.join(id.as_str())
    }
}

pub(super) fn write(volume: &Volume) -> Vec<u8> {
    let record = Record {
        pod_uid: volume.target.pod_uid().to_owned(),
        volume: volume.target.volume().to_owned(),
        pod_name: volume.pod_name.clone(),
        namespace: volume.namespace.clone(),
        service_account: volume.service_account.clone(),
    };
    // Five strings are always JSON.
    serde_json::to_vec(&record).unwrap_or_default()
}

fn read(id: VolumeId, path: &Path) -> Option<Volume> {
    match files::read_limited(path, MAX_FILE_BYTES) {
        Ok(content) => parse(id, &content?),
        Err(error) => {
            warn!(path = %path.display(), error.reason = error.reason(), error = %report::chain(&error), "Could not read the file of a volume");
            None
        }
    }
}

/// Reads the content of a volume's file.
pub(super) fn parse(id: VolumeId, content: &[u8]) -> Option<Volume> {
    let record: Record = serde_json::from_slice(content).ok()?;
    Some(Volume {
        id,
        target: Target::new(&record.pod_uid, &record.volume)?,
        pod_name: record.pod_name,
        namespace: record.namespace,
        service_account: record.service_account,
    })
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "Could not remove the file of a volume");
        }
        _ => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn volume(id: &str) -> Volume {
        Volume {
            id: VolumeId::parse(id).unwrap(),
            target: Target::new("11111111-2222-3333-4444-555555555555", id).unwrap(),
            pod_name: "web-0".to_owned(),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
        }
    }

    fn ids(volumes: &Volumes) -> Vec<String> {
        let all = volumes.follow();
        let all = all.borrow();
        all.keys().map(|id| id.as_str().to_owned()).collect()
    }

    #[test]
    fn a_restart_finds_the_volumes_that_are_still_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volumes");
        let volumes = Volumes::open(path.clone(), |_| true).unwrap();
        for id in ["csi-1", "csi-2", "csi-3"] {
            volumes.insert(volume(id)).unwrap();
        }
        volumes.remove(&volume("csi-2").id);
        volumes.remove(&volume("csi-2").id);
        drop(volumes);
        let again = Volumes::open(path.clone(), |target| target.volume() == "csi-1").unwrap();
        assert_eq!(ids(&again), ["csi-1"]);
        assert_eq!(again.follow().borrow()["csi-1"], volume("csi-1"));
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_no_volume() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("csi-1"), "{").unwrap();
        std::fs::write(folder.path().join(".csi-2"), write(&volume("x"))).unwrap();
        std::fs::write(folder.path().join("csi-3"), vec![b' '; 9 << 10]).unwrap();
        let volumes = Volumes::open(folder.path().to_owned(), |_| true).unwrap();
        assert!(ids(&volumes).is_empty());
    }

    #[test]
    fn the_same_volume_again_is_no_news() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(folder.path().to_owned(), |_| true).unwrap();
        volumes.insert(volume("csi-1")).unwrap();
        let follower = volumes.follow();
        volumes.insert(volume("csi-1")).unwrap();
        volumes.remove(&volume("csi-2").id);
        assert!(!follower.has_changed().unwrap());
    }

    proptest! {
        #[test]
        fn whatever_stands_in_a_file_is_read_as_it_is_written(content in proptest::collection::vec(any::<u8>(), 0..200), names in proptest::collection::vec("[a-z0-9-]{1,20}", 5)) {
            let id = VolumeId::parse("csi-1").unwrap();
            if let Some(found) = parse(id.clone(), &content) {
                prop_assert_eq!(parse(id.clone(), &write(&found)), Some(found));
            }
            let given = Volume {
                id: id.clone(),
                target: Target::new(&names[0], &names[1]).unwrap(),
                pod_name: names[2].clone(),
                namespace: names[3].clone(),
                service_account: names[4].clone(),
            };
            prop_assert_eq!(parse(id, &write(&given)), Some(given));
        }
    }
}
