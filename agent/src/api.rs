//! The admin socket: for what runs beside the agent on its node.
//!
//! What tells of the agent, or tells it something, is for root and the agent's own user. SPIRE's
//! Delegated Identity API is for whoever may open the socket and is attested as a delegate.

mod debug;
mod delegated;
mod explain;
mod logger;
mod volumes;
mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;

use attestors::workload::k8s::volumes::{Volume, Volumes};
use identity::spiffe_id::SpiffeId;
use nix::unistd::geteuid;
use proto::signet::node::explain_server::ExplainServer;
use proto::signet::node::volumes_server::VolumesServer;
use proto::spire::agent::debug::debug_server::DebugServer;
use proto::spire::agent::delegatedidentity::delegated_identity_server::DelegatedIdentityServer;
use proto::spire::agent::logger::logger_server::LoggerServer;
use runtime::listen::{self, BoundUnix, ListenError, Serve};
use runtime::log::LogHandle;
use runtime::unix;
use tokio::time::Instant;
use tonic::service::Routes;
use tonic::{Request, Status};

pub use volumes::replay;

use crate::credentials::Credentials;
use crate::source::Source;
use crate::upstream::Upstream;

/// A message names one volume.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// A message names the selectors of one workload.
const MAX_DELEGATED_BYTES: usize = 64 << 10;

/// What the services work with.
#[expect(
    missing_debug_implementations,
    reason = "a closure has nothing to show"
)]
pub struct Services<U> {
    pub volumes: Arc<Volumes>,
    /// Is told of each pod that is about to start.
    pub starts: Starts,
    pub source: Arc<Source<U>>,
    /// Who may be given the identities of others.
    pub delegates: BTreeSet<SpiffeId>,
    /// The agent's own identity.
    pub credentials: Arc<Credentials>,
    /// `None` leaves the log's level as it is.
    pub log: Option<LogHandle>,
    /// When the agent was started.
    pub started: Instant,
}

/// What is to be done when a pod is about to start. It must not block.
pub type Starts = Arc<dyn Fn(&Volume) + Send + Sync>;

/// Serves until shutdown.
pub async fn serve<U: Upstream>(
    bound: BoundUnix,
    services: Services<U>,
    serve: Serve,
) -> Result<(), ListenError> {
    let delegated = DelegatedIdentityServer::new(delegated::Service::new(&services, &serve))
        .max_decoding_message_size(MAX_DELEGATED_BYTES);
    let volumes = volumes::Service::new(&services, &serve);
    let volumes = VolumesServer::new(volumes).max_decoding_message_size(MAX_REQUEST_BYTES);
    let explain = ExplainServer::new(explain::Service::new(&services))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let debug = DebugServer::new(debug::Service::new(&services))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let mut routes = Routes::new(volumes)
        .add_service(delegated)
        .add_service(explain)
        .add_service(debug);
    if let Some(log) = services.log {
        let logger = LoggerServer::new(logger::Service::new(log));
        routes = routes.add_service(logger.max_decoding_message_size(MAX_REQUEST_BYTES));
    }
    listen::serve_unix(bound, routes, serve).await
}

/// Who may speak: root, which may do everything on the node in any case, and the user that the agent
/// runs as. The socket is open to the agent's group too, as SPIRE's is; that alone allows nothing.
fn authorize<T>(request: &Request<T>) -> Result<(), Status> {
    let caller = request.extensions().get::<unix::Credentials>();
    let own = geteuid().as_raw();
    match caller {
        Some(caller) if caller.uid == 0 || caller.uid == own => Ok(()),
        _ => Err(Status::permission_denied(
            "only root and the agent's own user may call this service",
        )),
    }
}

#[cfg(test)]
pub(crate) mod tests;
