//! What the kubelet asks for, checked.
//!
//! The rules and their words are those of SPIRE's driver, so that a pod which one of them refuses, the
//! other refuses alike; what a pod's author reads in the pod's events is the same text.

use std::collections::BTreeMap;
use std::path::Path;

use proto::csi::NodePublishVolumeRequest;
use proto::csi::volume_capability::access_mode::Mode;
use proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};

use super::target::{Target, TargetError};
use super::volumes::{Volume, VolumeId};

/// The kubelet says of the pod, where the CSIDriver object has `podInfoOnMount`:
mod context {
    pub(super) const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
    pub(super) const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
    pub(super) const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
    pub(super) const NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
    pub(super) const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
}

/// A name of Kubernetes.
const MAX_NAME_BYTES: usize = 253;

/// Why a request is refused. The text is for the author of the pod.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("request missing required volume id")]
    NoVolumeId,
    #[error("request volume id is not valid")]
    VolumeId,
    #[error("request missing required target path")]
    NoTarget,
    #[error("request {0}")]
    Target(#[from] TargetError),
    #[error("request missing required volume capability")]
    NoCapability,
    #[error("request missing required volume capability access type")]
    NoAccessType,
    #[error("request volume capability access type must be a simple mount")]
    NotASimpleMount,
    #[error("request missing required volume capability access mode")]
    NoAccessMode,
    #[error("request volume capability access mode is not valid")]
    AccessMode,
    #[error("pod.spec.volumes[].csi.readOnly must be set to 'true'")]
    Writable,
    #[error("only ephemeral volumes are supported")]
    NotEphemeral,
    #[error("request lacks `{0}`; the CSIDriver object must set podInfoOnMount")]
    NoPod(&'static str),
    #[error("request is for the folder of another pod than it names")]
    OtherPod,
}

impl Refusal {
    /// The stable label of logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoVolumeId | Self::VolumeId => "volume_id",
            Self::NoTarget | Self::Target(_) => "target_path",
            Self::NoCapability | Self::NoAccessType | Self::NotASimpleMount => "access_type",
            Self::NoAccessMode | Self::AccessMode => "access_mode",
            Self::Writable => "not_read_only",
            Self::NotEphemeral => "not_ephemeral",
            Self::NoPod(_) => "no_pod_info",
            Self::OtherPod => "other_pod",
        }
    }
}

/// A volume that may be published.
pub(crate) fn publish(pods: &Path, request: &NodePublishVolumeRequest) -> Result<Volume, Refusal> {
    let (id, target) = place(pods, &request.volume_id, &request.target_path)?;
    let capability = request
        .volume_capability
        .as_ref()
        .ok_or(Refusal::NoCapability)?;
    match &capability.access_type {
        None => return Err(Refusal::NoAccessType),
        Some(AccessType::Mount(mount)) if is_simple(mount) => {}
        Some(_) => return Err(Refusal::NotASimpleMount),
    }
    match capability.access_mode {
        None => return Err(Refusal::NoAccessMode),
        Some(AccessMode { mode }) if mode == Mode::SingleNodeReaderOnly as i32 => {
            return Err(Refusal::AccessMode);
        }
        Some(_) => {}
    }
    if !request.readonly {
        return Err(Refusal::Writable);
    }
    let said = &request.volume_context;
    if said.get(context::EPHEMERAL).map(String::as_str) != Some("true") {
        return Err(Refusal::NotEphemeral);
    }
    // The folder is of the pod that the kubelet names, so that what is told to the agent of the pod is
    // of the pod that gets the volume.
    if name(said, context::POD_UID)? != target.pod_uid() {
        return Err(Refusal::OtherPod);
    }
    Ok(Volume {
        id,
        pod_name: name(said, context::POD_NAME)?,
        namespace: name(said, context::NAMESPACE)?,
        service_account: account(said)?,
        target,
    })
}

/// The volume and the place that a request is about.
pub(crate) fn place(pods: &Path, id: &str, path: &str) -> Result<(VolumeId, Target), Refusal> {
    if id.is_empty() {
        return Err(Refusal::NoVolumeId);
    }
    if path.is_empty() {
        return Err(Refusal::NoTarget);
    }
    let id = VolumeId::parse(id).ok_or(Refusal::VolumeId)?;
    Ok((id, Target::parse(pods, path)?))
}

fn is_simple(mount: &MountVolume) -> bool {
    mount.fs_type.is_empty() && mount.mount_flags.is_empty()
}

fn name(said: &BTreeMap<String, String>, key: &'static str) -> Result<String, Refusal> {
    said.get(key)
        .filter(|name| (1..=MAX_NAME_BYTES).contains(&name.len()))
        .cloned()
        .ok_or(Refusal::NoPod(key))
}

/// A static pod has no service account.
fn account(said: &BTreeMap<String, String>) -> Result<String, Refusal> {
    match said.get(context::SERVICE_ACCOUNT).map(String::as_str) {
        Some("") => Ok(String::new()),
        _ => name(said, context::SERVICE_ACCOUNT),
    }
}

#[cfg(test)]
pub(super) mod tests;
