//! The limit of a first fetch: stock tonic on a Unix socket, which says one thing to everybody.

use std::fs;
use std::path::Path;
use std::pin::Pin;

use prost::Message as _;
use proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest,
    WitsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Answers every `FetchX509SVID` with the message in the file `message`, and keeps the stream open,
/// as an agent does; from a process of its own, as an agent is.
pub(crate) fn serve(socket: &Path, message: &Path) {
    let message = fs::read(message).unwrap();
    let message = X509svidResponse::decode(message.as_slice()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = UnixListener::bind(socket).unwrap();
        Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(Bare(message)))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .unwrap();
    });
}

struct Bare(X509svidResponse);

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Bare {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchWITSVIDStream = Messages<WitsvidResponse>;
    type FetchWITBundlesStream = Messages<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Answer<Self::FetchX509SVIDStream> {
        let first = tokio_stream::once(Ok(self.0.clone()));
        Ok(Response::new(Box::pin(
            first.chain(tokio_stream::pending()),
        )))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Answer<Self::FetchX509BundlesStream> {
        nothing()
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Answer<JwtsvidResponse> {
        nothing()
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Answer<Self::FetchJWTBundlesStream> {
        nothing()
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Answer<ValidateJwtsvidResponse> {
        nothing()
    }

    async fn fetch_witsvid(&self, _: Request<WitsvidRequest>) -> Answer<Self::FetchWITSVIDStream> {
        nothing()
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Answer<Self::FetchWITBundlesStream> {
        nothing()
    }
}

fn nothing<T>() -> Answer<T> {
    Err(Status::unimplemented("one method is measured"))
}
