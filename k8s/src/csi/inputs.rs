//! What the driver reads of others, taken apart and written back: for fuzzing.

use std::path::{Path, PathBuf};

use proto::csi::NodePublishVolumeRequest;

use super::request;
use super::target::Target;
use super::volumes::{self, VolumeId};

/// The path of a volume of a pod below the folder `pods`.
pub fn target(pods: &Path, path: &str) -> Option<PathBuf> {
    let target = Target::parse(pods, path).ok()?;
    Some(target.path(pods))
}

/// The content of a volume's file.
pub fn volume_file(content: &[u8]) -> Option<Vec<u8>> {
    let volume = volumes::parse(VolumeId::parse("csi-1")?, content)?;
    Some(volumes::write(&volume))
}

/// What a volume that may be published would have for a file, and where it would be.
pub fn publish(pods: &Path, request: &NodePublishVolumeRequest) -> Option<(Vec<u8>, PathBuf)> {
    let volume = request::publish(pods, request).ok()?;
    Some((volumes::write(&volume), volume.target.path(pods)))
}
