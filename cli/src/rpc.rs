//! Calls over a Unix socket, and their failures in gRPC for Go's words.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::failure::{Failure, os_error};
use crate::go;

/// The longest answer that is read. A server's bundles and entries come from its operator, so this
/// guards only against a runaway.
pub(crate) const MAX_ANSWER: usize = 64 << 20;

/// Connects to a socket. `dialed` is how SPIRE's program spells the path in its error.
pub(crate) async fn connect(path: &Path, dialed: &str) -> Result<Channel, Failure> {
    // Tried alone first, because the transport hides the operating system's answer.
    let probe = UnixStream::connect(path).await.map_err(|error| {
        unavailable(&format!(
            "transport: Error while dialing: dial unix {dialed}: connect: {}",
            os_error(&error)
        ))
    })?;
    drop(probe);
    let path = path.to_owned();
    // The name is not used: a Unix socket has no host.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|error| unavailable(&runtime::report::chain(&error)))
}

fn unavailable(why: &str) -> Failure {
    failed(&Status::unavailable(format!(
        "connection error: desc = {why:?}"
    )))
}

/// The failure of a whole call.
pub(crate) fn failed(status: &Status) -> Failure {
    Failure::new(go::status(status))
}
