//! `grpc.health.v1.Health`, on the admin socket alone.
//!
//! Healthy means: the store answers a read, the index follows it, and our own bundle is there. So a
//! server whose disk is gone is not healthy, though it could still answer most questions.

use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use identity::trust_domain::TrustDomain;
use runtime::clock::Clock;
use runtime::shutdown::Shutdown;
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
/// How often somebody who watches is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);

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
        match timeout(ANSWER_WITHIN, self.store.probe(&key)).await {
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
    clock: Clock,
    shutdown: Shutdown,
}

impl Service {
    pub(super) fn new(probe: Probe, clock: Clock, shutdown: Shutdown) -> Self {
        Self {
            probe,
            clock,
            shutdown,
        }
    }
}

/// One who watches: what was told last, none at first.
struct Watch {
    probe: Probe,
    clock: Clock,
    shutdown: Shutdown,
    told: Option<ServingStatus>,
}

impl Watch {
    /// The next status that differs from the last one; nothing after that of the shutdown.
    async fn next(mut self) -> Option<(ServingStatus, Self)> {
        loop {
            if self.shutdown.is_requested() && self.told == Some(ServingStatus::NotServing) {
                return None;
            }
            let status = match self.shutdown.is_requested() {
                true => ServingStatus::NotServing,
                false => status(&self.probe).await,
            };
            if self.told != Some(status) {
                self.told = Some(status);
                return Some((status, self));
            }
            tokio::select! {
                () = self.shutdown.requested() => {}
                () = self.clock.sleep(LOOK_EVERY) => {}
            }
        }
    }
}

async fn status(probe: &Probe) -> ServingStatus {
    match probe.complaint().await {
        None => ServingStatus::Serving,
        Some(reason) => {
            warn!(error.reason = reason, "Failed a health check");
            ServingStatus::NotServing
        }
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

/// As in SPIRE, there is one health of all.
fn the_whole(request: &HealthCheckRequest) -> Result<(), Status> {
    if request.service.is_empty() {
        return Ok(());
    }
    Err(Status::invalid_argument(
        "per-service health is not supported",
    ))
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        the_whole(request.get_ref())?;
        Ok(Response::new(answer(status(&self.probe).await)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        the_whole(request.get_ref())?;
        let watch = Watch {
            probe: self.probe.clone(),
            clock: self.clock.clone(),
            shutdown: self.shutdown.clone(),
            told: None,
        };
        let states = stream::unfold(watch, async |watch| {
            let (status, watch) = watch.next().await?;
            Some((Ok(answer(status)), watch))
        });
        Ok(Response::new(Box::pin(states)))
    }
}
