//! The health of the socket, without the security header: probes do not send it.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use runtime::shutdown::Shutdown;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Serving as long as the agent is not shutting down: it opens its socket when it has identities.
#[derive(Clone, Debug)]
pub(crate) struct SocketHealth {
    shutdown: Shutdown,
    services: Arc<[&'static str]>,
}

impl SocketHealth {
    /// Knows the socket as a whole, which is the service without a name, and these.
    pub(crate) fn new(shutdown: Shutdown, services: &[&'static str]) -> Self {
        Self {
            shutdown,
            services: services.into(),
        }
    }

    fn status(&self) -> HealthCheckResponse {
        let status = if self.shutdown.is_requested() {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        };
        HealthCheckResponse {
            status: status.into(),
        }
    }

    fn known(&self, service: &str) -> Result<(), Status> {
        if service.is_empty() || self.services.contains(&service) {
            return Ok(());
        }
        Err(Status::not_found("no such service"))
    }
}

#[tonic::async_trait]
impl Health for SocketHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.known(&request.get_ref().service)?;
        Ok(Response::new(self.status()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.known(&request.get_ref().service)?;
        let states = stream::unfold((self.clone(), 0), |(health, told)| async move {
            match told {
                0 if !health.shutdown.is_requested() => {}
                0 | 1 => health.shutdown.requested().await,
                _ => return None,
            }
            let told = if health.shutdown.is_requested() { 2 } else { 1 };
            Some((Ok(health.status()), (health, told)))
        });
        Ok(Response::new(Box::pin(states)))
    }
}
