//! Envoy's secret discovery (SDS, version 3): the state of the world, and what has changed.
//!
//! A separate gRPC service on the same socket: the standard lets nobody extend the Workload API, and
//! Envoy sends no security header. Attestation and limits are the same.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use futures_util::stream::Stream;
use http::Request as HttpRequest;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};
use tower::{Service, service_fn};

use self::delta::Delta;
use self::driver::Driver;
use self::machine::{Action, Desk, Dialect, Event};
use self::request::{MAX_REQUEST, WorldRequest};
use self::world::World;
use crate::codec::Encoded;
use crate::metrics::Method;
use crate::options::SdsOptions;
use crate::session::{Context, Session};
use crate::source::{IdentitySource, Update};
use crate::status::Refusal;

mod delta;
mod driver;
#[cfg(test)]
mod fixture;
mod machine;
mod node;
#[cfg(any(test, feature = "test-util"))]
mod replay;
mod request;
mod resources;
mod response;
mod secret;
mod world;

#[cfg(any(test, feature = "test-util"))]
pub use self::replay::{Replayed, replay, replay_delta};
pub(crate) use self::secret::{CertificateCell, ContextCells, Secret};

/// The service as Envoy's proto has it.
pub(crate) const NAME: &str = "envoy.service.secret.v3.SecretDiscoveryService";

/// The service.
#[derive(Debug)]
pub(crate) struct SecretDiscovery<S> {
    context: Arc<Context<S>>,
    options: Arc<SdsOptions>,
}

impl<S> SecretDiscovery<S> {
    pub(crate) fn new(context: Arc<Context<S>>, options: SdsOptions) -> Self {
        Self {
            context,
            options: Arc::new(options),
        }
    }
}

impl<S> Clone for SecretDiscovery<S> {
    fn clone(&self) -> Self {
        Self {
            context: Arc::clone(&self.context),
            options: Arc::clone(&self.options),
        }
    }
}

impl<S> NamedService for SecretDiscovery<S> {
    const NAME: &'static str = NAME;
}

impl<S: IdentitySource> Service<HttpRequest<Body>> for SecretDiscovery<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let discovery = self.clone();
        Box::pin(async move { Ok(discovery.answer(request).await) })
    }
}

impl<S: IdentitySource> SecretDiscovery<S> {
    async fn answer(self, request: HttpRequest<Body>) -> http::Response<Body> {
        match Method::of_path(request.uri().path(), NAME) {
            Method::StreamSecrets => self.stream::<World>(request).await,
            Method::DeltaSecrets => self.stream::<Delta>(request).await,
            Method::FetchSecrets => {
                let service = service_fn(|request: Request<WorldRequest>| {
                    let discovery = self.clone();
                    async move { discovery.fetch(request).await.map_err(Status::from) }
                });
                grpc::<WorldRequest>().unary(service, request).await
            }
            _ => Status::from(Refusal::NoSuchMethod).into_http(),
        }
    }

    async fn stream<D: Dialect>(self, request: HttpRequest<Body>) -> http::Response<Body> {
        let service = service_fn(|request: Request<Streaming<D::Message>>| {
            let discovery = self.clone();
            async move { discovery.open::<D>(request).await.map_err(Status::from) }
        });
        grpc::<D::Message>().streaming(service, request).await
    }

    async fn open<D: Dialect>(
        self,
        request: Request<Streaming<D::Message>>,
    ) -> Result<Response<impl Stream<Item = Result<Bytes, Status>> + Send + 'static>, Refusal> {
        let session = Session::open(&self.context, D::METHOD, request.extensions()).await?;
        let driver = Driver::<S, D> {
            session,
            requests: request.into_inner(),
            machine: D::open(Desk::new(self.options, first_nonce())),
        };
        Ok(Response::new(driver.responses()))
    }

    /// One answer, without version and nonce: what there is of the names. Nobody waits here, so if
    /// there is nothing of them, that is an error.
    async fn fetch(self, request: Request<WorldRequest>) -> Result<Response<Bytes>, Refusal> {
        let method = Method::FetchSecrets;
        let mut session = Session::open(&self.context, method, request.extensions()).await?;
        let answer = match world::Request::try_from(request.into_inner()) {
            Ok(asked) => session
                .next()
                .await
                .and_then(|update| self.answer_once(asked, update)),
            Err(refusal) => Err(refusal),
        };
        let response = answer.map_err(|refusal| session.refused(refusal))?;
        (session.context().metrics).secrets_sent(method, response.resources.len());
        Ok(Response::new(response.to_world()))
    }

    fn answer_once(
        &self,
        asked: world::Request,
        update: Arc<Update>,
    ) -> Result<machine::Response, Refusal> {
        let mut machine = World::open(Desk::new(Arc::clone(&self.options), 0));
        let names = asked.names.clone();
        machine.apply(Event::Updated(update))?;
        let actions = machine.apply(Event::Requested(asked))?;
        let answer = actions.into_iter().find_map(|action| match action {
            Action::Send(response) => Some(response),
            Action::Remark(_) => None,
        });
        let answer = answer.ok_or_else(|| Refusal::NotAuthorized(quoted(&names)))?;
        Ok(machine::Response {
            version: String::new(),
            nonce: String::new(),
            ..answer
        })
    }
}

fn grpc<R: prost::Message + Default + 'static>() -> Grpc<Encoded<R>> {
    Grpc::new(Encoded::new()).max_decoding_message_size(MAX_REQUEST)
}

fn first_nonce() -> u32 {
    let mut bytes = [0; 4];
    runtime::random::fill(&mut bytes);
    u32::from_be_bytes(bytes)
}

/// Only the first names: the text goes into a header.
fn quoted(names: &resources::Names) -> String {
    let names: Vec<_> = names
        .iter()
        .take(8)
        .map(|name| format!("{name:?}"))
        .collect();
    names.join(" ")
}
