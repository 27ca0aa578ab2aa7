//! The admin socket: for what runs beside the agent on its node, and for nobody else.
//!
//! SPIRE opens it for its own services (delegated identity, debug, logger). Those are not built, and are
//! answered as unimplemented, like every service that is not known.

mod volumes;

use std::sync::Arc;

use attestors::workload::k8s::volumes::{Volume, Volumes};
use nix::unistd::geteuid;
use proto::signet::node::volumes_server::VolumesServer;
use runtime::listen::{self, BoundUnix, ListenError, Serve};
use runtime::unix::Credentials;
use tonic::service::Routes;
use tonic::{Request, Status};

/// A message names one volume.
const MAX_REQUEST_BYTES: usize = 16 << 10;

/// What the services work with.
#[expect(
    missing_debug_implementations,
    reason = "a closure has nothing to show"
)]
pub struct Services {
    pub volumes: Arc<Volumes>,
    /// Is told of each pod that is about to start.
    pub starts: Starts,
}

/// What is to be done when a pod is about to start. It must not block.
pub type Starts = Arc<dyn Fn(&Volume) + Send + Sync>;

/// Serves until shutdown.
pub async fn serve(bound: BoundUnix, services: Services, serve: Serve) -> Result<(), ListenError> {
    let volumes = volumes::Service::new(services, &serve);
    let volumes = VolumesServer::new(volumes).max_decoding_message_size(MAX_REQUEST_BYTES);
    listen::serve_unix(bound, Routes::new(volumes), serve).await
}

/// Who may speak: root, which may do everything on the node in any case, and the user that the agent
/// runs as. The socket is open to the agent's group too, as SPIRE's is; that alone allows nothing.
fn authorize<T>(request: &Request<T>) -> Result<(), Status> {
    let caller = request.extensions().get::<Credentials>();
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
