//! Envoy's secret discovery (SDS, version 3), state of the world.
//!
//! A separate gRPC service on the same socket: the standard lets nobody extend the Workload API, and
//! Envoy sends no security header. Attestation and limits are the same.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::protobuf::Any;
use futures_util::future::Either;
use futures_util::stream::{self, Stream};
use http::Request as HttpRequest;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};
use tower::{Service, service_fn};
use tracing::{debug, warn};
use zeroize::Zeroize;

use self::machine::{Action, Event, Machine, Remark};
use self::node::NodeTraits;
use crate::codec::Encoded;
use crate::encode;
use crate::metrics::Method;
use crate::options::SdsOptions;
use crate::session::{Context, Session};
use crate::source::IdentitySource;
use crate::status::Refusal;

mod machine;
mod node;
mod resources;

/// The service as Envoy's proto has it.
pub(crate) const NAME: &str = "envoy.service.secret.v3.SecretDiscoveryService";

/// Every request of an Envoy describes its node, with all the extensions that are compiled in: 60 KiB
/// from version 1.40, and more from each later one.
const MAX_REQUEST: usize = 1024 * 1024;

/// An Envoy asks for one name, or a few, on one stream.
const MAX_NAMES: usize = 1024;

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
        let mut grpc =
            Grpc::new(Encoded::<DiscoveryRequest>::new()).max_decoding_message_size(MAX_REQUEST);
        let refusal = match Method::of_path(request.uri().path(), NAME) {
            Method::StreamSecrets => {
                let service = service_fn(|request: Request<Streaming<DiscoveryRequest>>| {
                    let discovery = self.clone();
                    async move { discovery.stream(request).await.map_err(Status::from) }
                });
                return grpc.streaming(service, request).await;
            }
            Method::FetchSecrets => {
                let service = service_fn(|request: Request<DiscoveryRequest>| {
                    let discovery = self.clone();
                    async move { discovery.fetch(request).await.map_err(Status::from) }
                });
                return grpc.unary(service, request).await;
            }
            Method::DeltaSecrets => Refusal::NoDelta,
            _ => Refusal::NoSuchMethod,
        };
        Status::from(refusal).into_http()
    }

    async fn stream(
        self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<impl Stream<Item = Result<Bytes, Status>> + Send + 'static>, Refusal> {
        let method = Method::StreamSecrets;
        let session = Session::open(&self.context, method, request.extensions()).await?;
        let driver = Driver {
            session,
            requests: request.into_inner(),
            machine: Machine::new(self.options, first_nonce()),
        };
        Ok(Response::new(stream::try_unfold(driver, Driver::step)))
    }

    /// One answer, without version and nonce. Here an unknown name is an error: nobody waits.
    async fn fetch(self, request: Request<DiscoveryRequest>) -> Result<Response<Bytes>, Refusal> {
        let method = Method::FetchSecrets;
        let mut session = Session::open(&self.context, method, request.extensions()).await?;
        let answer = match decode(request.into_inner()) {
            Ok(asked) => session.next().await.and_then(|update| {
                let node = asked.node.unwrap_or_default();
                let validator = node.validator(self.options.disable_spiffe_cert_validation);
                let found = resources::find(&asked.names, &update, &self.options, validator);
                if found.pending.is_empty() {
                    Ok(machine::Response {
                        version: String::new(),
                        nonce: String::new(),
                        type_url: asked.type_url,
                        resources: found.resources,
                    })
                } else {
                    Err(Refusal::NotAuthorized(quoted(&found.pending)))
                }
            }),
            Err(refusal) => Err(refusal),
        };
        let response = answer.map_err(|refusal| session.refused(refusal))?;
        Ok(Response::new(encoded(response)))
    }
}

/// Moves requests and updates into the machine, and its responses out.
struct Driver<S: IdentitySource> {
    session: Session<S>,
    requests: Streaming<DiscoveryRequest>,
    machine: Machine,
}

impl<S: IdentitySource> Driver<S> {
    /// The next response; `None` when the Envoy has closed its side.
    async fn step(mut self) -> Result<Option<(Bytes, Self)>, Status> {
        loop {
            let event = {
                let request = std::pin::pin!(self.requests.message());
                let update = std::pin::pin!(self.session.next());
                match futures_util::future::select(request, update).await {
                    Either::Left((Ok(None), _)) => return Ok(None),
                    Either::Left((request, _)) => match request?.map(decode) {
                        Some(request) => request.map(Event::Requested),
                        None => return Ok(None),
                    },
                    Either::Right((update, _)) => update.map(Event::Updated),
                }
            };
            let event = event.map_err(|refusal| self.session.refused(refusal))?;
            let mut response = None;
            for action in self.machine.apply(event) {
                match action {
                    Action::Send(next) => response = Some(next),
                    Action::Remark(remark) => log(&remark),
                }
            }
            if let Some(response) = response {
                return Ok(Some((encoded(response), self)));
            }
        }
    }
}

/// A response of [`replay`].
#[cfg(any(test, feature = "test-util"))]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Replayed {
    /// Its nonce.
    pub nonce: String,
    /// How many secrets it has.
    pub secrets: usize,
}

/// What a stream answers when these bytes come as its requests, with the update after the first one
/// and again after the last; `None` ends it. For fuzzing.
#[cfg(any(test, feature = "test-util"))]
pub fn replay(requests: &[&[u8]], update: &Arc<crate::source::Update>) -> Option<Vec<Replayed>> {
    use prost::Message as _;
    let mut machine = Machine::new(Arc::default(), 0);
    let mut answers = Vec::new();
    let mut apply = |event| {
        for action in machine.apply(event) {
            if let Action::Send(response) = action {
                answers.push(Replayed {
                    nonce: response.nonce.clone(),
                    secrets: response.resources.len(),
                });
                let _ = encoded(response);
            }
        }
    };
    for (number, bytes) in requests.iter().enumerate() {
        let request = DiscoveryRequest::decode(*bytes).ok()?;
        apply(Event::Requested(decode(request).ok()?));
        if number == 0 {
            apply(Event::Updated(Arc::clone(update)));
        }
    }
    apply(Event::Updated(Arc::clone(update)));
    Some(answers)
}

fn first_nonce() -> u32 {
    let mut bytes = [0; 4];
    runtime::random::fill(&mut bytes);
    u32::from_be_bytes(bytes)
}

fn decode(request: DiscoveryRequest) -> Result<machine::Request, Refusal> {
    if request.resource_names.len() > MAX_NAMES {
        return Err(Refusal::TooManyNames(MAX_NAMES));
    }
    Ok(machine::Request {
        names: request.resource_names.into_iter().collect(),
        type_url: request.type_url,
        version: request.version_info,
        nonce: request.response_nonce,
        node: request.node.as_ref().map(NodeTraits::of),
        error: request.error_detail.map(|detail| detail.message),
    })
}

fn encoded(response: machine::Response) -> Bytes {
    let resource = |resource: resources::Resource| Any {
        type_url: resources::SECRET_TYPE.to_owned(),
        value: resource.secret.to_vec(),
    };
    let mut message = DiscoveryResponse {
        version_info: response.version,
        nonce: response.nonce,
        type_url: response.type_url,
        resources: response.resources.into_iter().map(resource).collect(),
        ..DiscoveryResponse::default()
    };
    let bytes = encode::secret(&message);
    for resource in &mut message.resources {
        resource.value.zeroize();
    }
    bytes
}

fn quoted(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    names.join(" ")
}

fn log(remark: &Remark) {
    match remark {
        Remark::StaleNonce => {
            debug!("Ignored a request for secrets that answers an older response");
        }
        Remark::Rejected { error } => warn!(error, "Envoy rejected secrets"),
        Remark::Pending { names } => debug!(?names, "Secrets are asked for that do not exist"),
    }
}
