//! The services of the Container Storage Interface, at the edge: decode, call, encode.

use std::sync::Arc;

use proto::csi::identity_server::Identity;
use proto::csi::node_server::Node;
use proto::csi::node_service_capability::rpc::Type;
use proto::csi::node_service_capability::{Rpc, Type as Kind};
use proto::csi::volume_health::VolumeHealthEntry;
use proto::csi::volume_usage::Unit;
use proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse,
    NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeHealthRequest,
    NodeGetVolumeHealthResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, ProbeRequest, ProbeResponse,
    VolumeCondition, VolumeHealth, VolumeHealthErrorType, VolumeUsage,
};
use runtime::report;
use tonic::{Request, Response, Status};
use tracing::{error, warn};

use super::driver::{Complaint, Driver, DriverError};
use super::request::{self, Refusal};

/// Both services; they are one driver.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) driver: Arc<Driver>,
    pub(crate) plugin: Arc<str>,
    pub(crate) node: Arc<str>,
}

/// What the driver can do beyond mounting. `VolumeCondition` is read by kubelets below 1.37, and
/// `GetVolumeHealth` by later ones; either passes over the other's.
const CAPABILITIES: [Type; 3] = [
    Type::GetVolumeStats,
    Type::VolumeCondition,
    Type::GetVolumeHealth,
];

#[tonic::async_trait]
impl Identity for Service {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.plugin.to_string(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..GetPluginInfoResponse::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse::default()))
    }

    /// Alive is ready: whether the agent is there is the agent's health, and no restart of this process
    /// would bring it back.
    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

#[tonic::async_trait]
impl Node for Service {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let volume = request::publish(self.driver.mounts().pods(), &request)
            .map_err(|refusal| refused(&refusal, &request.volume_id))?;
        self.run(move |driver| driver.publish(volume))
            .await?
            .map_err(|error| failed(&error, &request.volume_id))?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let pods = self.driver.mounts().pods();
        let (id, target) = request::place(pods, &request.volume_id, &request.target_path)
            .map_err(|refusal| refused(&refusal, &request.volume_id))?;
        self.run(move |driver| driver.unpublish(&id, &target))
            .await?
            .map_err(|error| failed(&error, &request.volume_id))?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        let complaint = self
            .look(&request.volume_id, &request.volume_path)
            .await?
            .map(|complaint| complaint.message);
        Ok(Response::new(NodeGetVolumeStatsResponse {
            // The volume holds nothing of its own; kubelets from 1.37 want to be told so.
            usage: vec![VolumeUsage {
                unit: Unit::Bytes.into(),
                ..VolumeUsage::default()
            }],
            volume_condition: Some(VolumeCondition {
                abnormal: complaint.is_some(),
                message: complaint.unwrap_or_else(|| "mounted".to_owned()),
            }),
        }))
    }

    async fn node_get_volume_health(
        &self,
        request: Request<NodeGetVolumeHealthRequest>,
    ) -> Result<Response<NodeGetVolumeHealthResponse>, Status> {
        let request = request.into_inner();
        let complaint = self
            .look(&request.volume_id, &request.volume_publish_path)
            .await?;
        let entry = |complaint: Complaint| VolumeHealthEntry {
            status: VolumeHealthErrorType::Inaccessible.into(),
            reason: complaint.reason.to_owned(),
            message: complaint.message,
        };
        Ok(Response::new(NodeGetVolumeHealthResponse {
            volume_health: Some(VolumeHealth {
                volume_id: request.volume_id,
                health_statuses: complaint.map(entry).into_iter().collect(),
            }),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capability = |rpc: Type| NodeServiceCapability {
            r#type: Some(Kind::Rpc(Rpc { r#type: rpc.into() })),
        };
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: CAPABILITIES.map(capability).into(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.node.to_string(),
            ..NodeGetInfoResponse::default()
        }))
    }
}

impl Service {
    async fn look(&self, id: &str, path: &str) -> Result<Option<Complaint>, Status> {
        let (_, target) = request::place(self.driver.mounts().pods(), id, path)
            .map_err(|refusal| refused(&refusal, id))?;
        let complaint = self.run(move |driver| driver.complaint(&target)).await?;
        if let Some(complaint) = &complaint {
            warn!(
                volume.id = id,
                error.reason = complaint.reason,
                error = complaint.message,
                "Volume is unhealthy"
            );
        }
        Ok(complaint)
    }

    /// Works on a thread that may block. It goes on to its end, also if the caller is gone.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Driver) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let driver = Arc::clone(&self.driver);
        tokio::task::spawn_blocking(move || work(&driver))
            .await
            .map_err(|_panicked| Status::internal("the driver failed"))
    }
}

fn refused(refusal: &Refusal, id: &str) -> Status {
    warn!(volume.id = id, error.reason = refusal.reason(), error = %refusal, "Refused a volume");
    Status::invalid_argument(refusal.to_string())
}

/// The kubelet shows the text in the events of the pod, so it says what the node's operator needs.
fn failed(failure: &DriverError, id: &str) -> Status {
    let chain = report::chain(failure);
    error!(volume.id = id, error.reason = failure.reason(), error = %chain, "Could not serve a volume");
    Status::internal(chain)
}
