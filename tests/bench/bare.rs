//! The limit of a fetch: stock tonic on a Unix socket, which says one thing to everybody.

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

/// What an agent said once, to be said again.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) x509: X509svidResponse,
    pub(crate) jwt: JwtsvidResponse,
}

const X509: &str = "x509.message";
const JWT: &str = "jwt.message";

impl Said {
    pub(crate) fn write(&self, folder: &Path) {
        fs::write(folder.join(X509), self.x509.encode_to_vec()).unwrap();
        fs::write(folder.join(JWT), self.jwt.encode_to_vec()).unwrap();
    }

    fn read(folder: &Path) -> Self {
        let read = |name| fs::read(folder.join(name)).unwrap();
        Self {
            x509: X509svidResponse::decode(read(X509).as_slice()).unwrap(),
            jwt: JwtsvidResponse::decode(read(JWT).as_slice()).unwrap(),
        }
    }
}

/// Answers every `FetchX509SVID` and `FetchJWTSVID` with the messages in `folder`, and keeps the streams
/// open, as an agent does; from a process of its own, as an agent is.
pub(crate) fn serve(socket: &Path, folder: &Path) {
    let said = Said::read(folder);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = UnixListener::bind(socket).unwrap();
        Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(Bare(said)))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .unwrap();
    });
}

struct Bare(Said);

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
        let first = tokio_stream::once(Ok(self.0.x509.clone()));
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
        Ok(Response::new(self.0.jwt.clone()))
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
    Err(Status::unimplemented("two methods are measured"))
}
