//! The socket of the workloads: what is served there, and how it is opened.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use attestors::workload::unix::Unix;
use runtime::listen::{self, BoundUnix, ListenError};
use runtime::metrics::Metrics;
use workload_api::options::{SdsOptions, SocketOptions};

use crate::attest::{self, Attestors, WorkloadAttestor};
use crate::config::{Config, SdsConfig, SocketConfig, WorkloadAttestorConfig};

/// Everybody on the node may connect: who they are is found out then.
const MODE: u32 = 0o777;

/// Refuses a path that another process serves, or that is no socket, before anything is done that
/// cannot be done twice. The socket itself is opened when there is something to serve.
pub fn check(path: &Path) -> Result<(), ListenError> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => Err(ListenError::InUse(path.to_owned())),
        _ => Ok(()),
    }
}

/// Opens the socket.
pub fn open(socket: &SocketConfig) -> Result<BoundUnix, ListenError> {
    listen::bind_unix(&socket.path, MODE)
}

/// The workload attestors that are configured.
pub fn attestors(config: &Config, metrics: &Metrics) -> Attestors {
    let attestor = |attestor: &WorkloadAttestorConfig| match attestor {
        WorkloadAttestorConfig::Unix(options) => WorkloadAttestor::Unix(Unix::new(*options)),
    };
    let all = config.workload_attestors.iter().map(attestor).collect();
    Attestors::new(
        all,
        config.log_selectors.clone(),
        metrics.register(attest::Metrics::register),
    )
}

/// What is served on the socket.
pub fn options(socket: &SocketConfig) -> SocketOptions {
    SocketOptions {
        workload_api: socket.workload_api,
        sds: socket.sds.as_ref().map(sds),
        allow_unauthenticated_verifiers: socket.allow_unauthenticated_verifiers,
        allowed_foreign_jwt_claims: socket.allowed_foreign_jwt_claims.clone(),
        ..SocketOptions::default()
    }
}

fn sds(sds: &SdsConfig) -> SdsOptions {
    SdsOptions {
        default_svid_name: sds.default_svid_name.clone(),
        default_bundle_name: sds.default_bundle_name.clone(),
        default_all_bundles_name: sds.default_all_bundles_name.clone(),
        disable_spiffe_cert_validation: sds.disable_spiffe_cert_validation,
    }
}

/// The name of the socket in metrics.
pub const NAME: &str = "workload";

/// Serves until shutdown.
pub async fn serve<S: workload_api::source::IdentitySource>(
    bound: BoundUnix,
    source: Arc<S>,
    options: SocketOptions,
    deps: workload_api::routes::Deps,
    serve: listen::Serve,
) -> Result<(), ServeError> {
    let routes = workload_api::routes::routes(source, options, deps)
        .map_err(|error| ServeError::Routes(error.into()))?;
    Ok(listen::serve_unix(bound, routes, serve).await?)
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("could not set up the services of the socket")]
    Routes(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ServeError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Listen(error) => error.reason(),
            Self::Routes(_) => "routes",
        }
    }
}
