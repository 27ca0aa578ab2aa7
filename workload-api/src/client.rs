//! The other end of the socket: for health checks, `signet dev`, nested servers and tests.
//!
//! It takes only what a workload may trust: a message that lacks a mandatory field, or whose parts do
//! not fit together, is an error, and nothing of it is used.

use std::collections::BTreeMap;
use std::io;

use hyper_util::rt::TokioIo;
use identity::bundle::Bundle;
use identity::jwt::JwtSvid;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use prost_types::Struct;
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
    X509svidResponse,
};
use tokio::net::{TcpStream, UnixStream};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;

pub use self::context::{ClientSvid, X509Context};
pub use self::endpoint::{Endpoint, EndpointError};
pub use self::error::ClientError;

mod context;
mod endpoint;
mod error;

/// An answer holds all bundles that a workload may see; the default of 4 MiB is soon too small.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

type Api = SpiffeWorkloadApiClient<InterceptedService<Channel, SecurityHeader>>;

/// A connection to a Workload API. Clones share it.
#[derive(Clone, Debug)]
pub struct WorkloadClient {
    api: Api,
    channel: Channel,
}

/// Workload Endpoint 3: every request carries this.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SecurityHeader;

impl tonic::service::Interceptor for SecurityHeader {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = MetadataValue::from_static("true");
        request.metadata_mut().insert("workload.spiffe.io", value);
        Ok(request)
    }
}

impl WorkloadClient {
    /// Connects. A socket that nobody serves is an error at once.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let channel = channel(endpoint).await?;
        let api = Api::new(InterceptedService::new(channel.clone(), SecurityHeader))
            .max_decoding_message_size(MAX_ANSWER);
        Ok(Self { api, channel })
    }

    /// The generated client below, with the security header on every request.
    #[cfg(test)]
    pub(crate) fn raw(&self) -> Api {
        self.api.clone()
    }

    /// The X509-SVIDs and bundles of now.
    pub async fn fetch_x509(&self) -> Result<X509Context, ClientError> {
        let mut watch = self.watch_x509().await?;
        watch.next().await?.ok_or(ClientError::Ended)
    }

    /// Follows X509-SVIDs and bundles.
    pub async fn watch_x509(&self) -> Result<X509Watch, ClientError> {
        let answer = self.api.clone().fetch_x509svid(X509svidRequest {}).await?;
        Ok(X509Watch(answer.into_inner()))
    }

    /// The X.509 bundles of now, by trust domain.
    pub async fn fetch_x509_bundles(&self) -> Result<BTreeMap<TrustDomain, Bundle>, ClientError> {
        let request = X509BundlesRequest {};
        let answer = self.api.clone().fetch_x509_bundles(request).await?;
        context::bundles(
            first(answer.into_inner()).await?.bundles,
            Bundle::from_x509_der,
        )
    }

    /// The JWT bundles of now, by trust domain.
    pub async fn fetch_jwt_bundles(&self) -> Result<BTreeMap<TrustDomain, Bundle>, ClientError> {
        let request = JwtBundlesRequest {};
        let answer = self.api.clone().fetch_jwt_bundles(request).await?;
        context::bundles(first(answer.into_inner()).await?.bundles, Bundle::from_jwks)
    }

    /// JWT-SVIDs for an audience: of all identities, or of the one named `id`.
    pub async fn fetch_jwt(
        &self,
        audience: Vec<String>,
        id: Option<&SpiffeId>,
    ) -> Result<Vec<JwtSvid>, ClientError> {
        let request = JwtsvidRequest {
            audience,
            spiffe_id: id.map(ToString::to_string).unwrap_or_default(),
        };
        let answer = self.api.clone().fetch_jwtsvid(request).await?.into_inner();
        // Workload API 6.2.1: one or more.
        if answer.svids.is_empty() {
            return Err(ClientError::Incomplete);
        }
        answer
            .svids
            .iter()
            .map(|svid| JwtSvid::parse_unverified(&svid.svid).map_err(ClientError::Jwt))
            .collect()
    }

    /// Has a token validated. The claims are those that the agent tells.
    pub async fn validate_jwt(
        &self,
        audience: &str,
        token: &str,
    ) -> Result<(SpiffeId, Struct), ClientError> {
        let request = ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: token.to_owned(),
        };
        let answer = self
            .api
            .clone()
            .validate_jwtsvid(request)
            .await?
            .into_inner();
        let id = SpiffeId::parse(&answer.spiffe_id).map_err(ClientError::SpiffeId)?;
        Ok((id, answer.claims.ok_or(ClientError::Incomplete)?))
    }

    /// Whether the socket serves.
    pub async fn is_serving(&self) -> Result<bool, ClientError> {
        let mut health = HealthClient::new(self.channel.clone());
        let answer = health.check(HealthCheckRequest::default()).await?;
        Ok(answer.into_inner().status() == ServingStatus::Serving)
    }
}

/// A stream of X.509 contexts.
#[derive(Debug)]
pub struct X509Watch(Streaming<X509svidResponse>);

impl X509Watch {
    /// Waits for the next one; `None` if the agent has closed the stream without an error. Each one
    /// replaces the one before it as a whole.
    pub async fn next(&mut self) -> Result<Option<X509Context>, ClientError> {
        match self.0.message().await? {
            Some(message) => X509Context::parse(message).map(Some),
            None => Ok(None),
        }
    }
}

async fn first<T>(mut stream: Streaming<T>) -> Result<T, ClientError> {
    stream.message().await?.ok_or(ClientError::Ended)
}

pub(crate) async fn channel(endpoint: &Endpoint) -> Result<Channel, ClientError> {
    // The authority means nothing on a socket, but HTTP/2 asks for a valid one.
    let builder = Channel::from_static("http://localhost");
    let endpoint = endpoint.clone();
    let connector = service_fn(move |_| {
        let endpoint = endpoint.clone();
        async move { dial(&endpoint).await }
    });
    builder
        .connect_with_connector(connector)
        .await
        .map_err(ClientError::Connect)
}

async fn dial(endpoint: &Endpoint) -> io::Result<TokioIo<Stream>> {
    let stream: Stream = match endpoint {
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Endpoint::Tcp(address) => Box::new(TcpStream::connect(address).await?),
    };
    Ok(TokioIo::new(stream))
}

type Stream = Box<dyn Duplex>;

/// A connection of either kind.
trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Duplex for T {}
