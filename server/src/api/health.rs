//! `grpc.health.v1.Health`, on the admin socket alone.
//!
//! Healthy means: the store answers a read, the index follows it, and our own bundle is there. So a
//! server whose disk is gone is not healthy, though it could still answer most questions.

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use identity::trust_domain::TrustDomain;
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tracing::warn;

use crate::index::Index;
use crate::store::{Key, Store};

/// A store that takes longer for one read is not healthy.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Looks whether the server can do its work.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) store: Store,
    pub(crate) index: Index,
    pub(crate) trust_domain: TrustDomain,
}

impl Probe {
    /// Why the server is not healthy; nothing if it is.
    pub(crate) async fn complaint(&self) -> Option<&'static str> {
        let key = Key::bundle(&self.trust_domain);
        match timeout(ANSWER_WITHIN, self.store.read(&key)).await {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return Some("bundle is missing"),
            Ok(Err(_)) => return Some("unable to fetch bundle"),
            Err(_) => return Some("the datastore does not answer"),
        }
        if self.index.is_stalled() {
            return Some("the index cannot follow the datastore");
        }
        if self.index.snapshot().bundles.own().is_none() {
            return Some("bundle is missing");
        }
        None
    }
}

#[derive(Debug)]
pub(super) struct Service {
    probe: Probe,
}

impl Service {
    pub(super) fn new(probe: Probe) -> Self {
        Self { probe }
    }
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.into_inner().service.is_empty() {
            return Err(Status::invalid_argument(
                "per-service health is not supported",
            ));
        }
        let status = match self.probe.complaint().await {
            None => ServingStatus::Serving,
            Some(reason) => {
                warn!(error.reason = reason, "Failed a health check");
                ServingStatus::NotServing
            }
        };
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        _request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(super::not_built("Watch"))
    }
}
