//! What the driver does with a volume, one at a time.
//!
//! A kubelet repeats what it got no answer to, so everything here may be asked for again, also while it
//! still goes on.

use parking_lot::Mutex;
use runtime::files::FileError;
use runtime::report;
use tracing::{info, warn};

use super::mount::{Condition, MountError, Mounts, Published};
use super::target::Target;
use super::volumes::{Snapshot, Volume, VolumeId, Volumes};

/// The driver without its sockets.
#[derive(Debug)]
pub(crate) struct Driver {
    mounts: Mounts,
    volumes: Volumes,
    // Held over a whole operation: two on one path would see each other's half.
    at_work: Mutex<()>,
}

/// Why a volume could not be published or unpublished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    #[error("unable to keep what is known of the volume")]
    Record(#[source] FileError),
    #[error("unable to mount the volume")]
    Publish(#[source] MountError),
    #[error("unable to unmount the volume")]
    Unpublish(#[source] MountError),
}

impl DriverError {
    /// The stable label of logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Record(error) => error.reason(),
            Self::Publish(error) | Self::Unpublish(error) => error.reason(),
        }
    }
}

/// What is wrong with a volume, if anything is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Complaint {
    /// One word.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Driver {
    pub(crate) fn new(mounts: Mounts, volumes: Volumes) -> Self {
        Self {
            mounts,
            volumes,
            at_work: Mutex::default(),
        }
    }

    pub(crate) fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Follows the volumes.
    pub(crate) fn follow(&self) -> tokio::sync::watch::Receiver<Snapshot> {
        self.volumes.follow()
    }

    /// Mounts a volume. Blocks.
    pub(crate) fn publish(&self, volume: Volume) -> Result<(), DriverError> {
        let _alone = self.at_work.lock();
        let (id, target) = (volume.id.clone(), volume.target.clone());
        let (namespace, account) = (volume.namespace.clone(), volume.service_account.clone());
        // The agent hears of the pod before the mount is made: it has a little more time.
        self.volumes.insert(volume).map_err(DriverError::Record)?;
        let published = self.mounts.publish(&target).map_err(|error| {
            self.volumes.remove(&id);
            DriverError::Publish(error)
        })?;
        let pod = target.pod_uid();
        match published {
            Published::Mounted => {
                info!(volume.id = id.as_str(), pod.uid = pod, pod.namespace = %namespace, pod.service_account = %account, "Published volume");
            }
            Published::Already => {
                info!(
                    volume.id = id.as_str(),
                    pod.uid = pod,
                    "Volume already published"
                );
            }
            Published::Replaced => {
                warn!(
                    volume.id = id.as_str(),
                    pod.uid = pod,
                    "Published volume in place of a mount that showed another folder"
                );
            }
        }
        Ok(())
    }

    /// Unmounts a volume, whoever mounted it. Blocks.
    pub(crate) fn unpublish(&self, id: &VolumeId, target: &Target) -> Result<(), DriverError> {
        let _alone = self.at_work.lock();
        let found = self
            .mounts
            .unpublish(target)
            .map_err(DriverError::Unpublish)?;
        self.volumes.remove(id);
        if found.busy {
            warn!(
                volume.id = id.as_str(),
                pod.uid = target.pod_uid(),
                "Volume was in use, and is detached"
            );
        }
        info!(
            volume.id = id.as_str(),
            pod.uid = target.pod_uid(),
            count = found.mounts,
            "Unpublished volume"
        );
        Ok(())
    }

    /// Looks at a volume. Blocks.
    pub(crate) fn complaint(&self, target: &Target) -> Option<Complaint> {
        let (reason, message) = match self.mounts.condition(target) {
            Ok(Condition::Mounted) => return None,
            Ok(Condition::NotMounted) => ("NotMounted", "volume path is not mounted".to_owned()),
            Ok(Condition::Foreign) => (
                "OtherFolder",
                "volume shows a folder that is no longer that of the agent's sockets".to_owned(),
            ),
            Ok(Condition::Unreadable(errno)) => (
                "Unreadable",
                format!("unable to list contents of volume path: {}", errno.desc()),
            ),
            Err(error) => ("Unknown", report::chain(&error)),
        };
        Some(Complaint { reason, message })
    }
}
