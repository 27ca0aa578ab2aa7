//! The SPIFFE Workload API.
//!
//! The service is written by hand, and not over the generated trait, for two reasons: the security
//! header is looked at before a byte of the request is decoded, whatever the method; and responses
//! are bytes that all streams of the same identities share.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::{Extensions, HeaderMap, Request};
use prost::Message;
use proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
};
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tower::{Service, service_fn};

use crate::codec::Encoded;
use crate::metrics::Method;
use crate::options::SocketOptions;
use crate::session::{Context, Session};
use crate::source::{IdentitySource, Update};
use crate::status::Refusal;

mod claims;
mod jwt;

/// The service without a package, as the standard's proto has it.
pub(crate) const NAME: &str = "SpiffeWorkloadAPI";

/// Larger requests are refused unread: no workload needs more.
const MAX_REQUEST: usize = 64 * 1024;

const SECURITY_HEADER: &str = "workload.spiffe.io";

/// The service.
#[derive(Debug)]
pub(crate) struct WorkloadApi<S>(Arc<Context<S>>);

impl<S> WorkloadApi<S> {
    pub(crate) fn new(context: Arc<Context<S>>) -> Self {
        Self(context)
    }
}

impl<S> Clone for WorkloadApi<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> NamedService for WorkloadApi<S> {
    const NAME: &'static str = NAME;
}

impl<S: IdentitySource> Service<Request<Body>> for WorkloadApi<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let context = Arc::clone(&self.0);
        Box::pin(async move { Ok(answer(context, request).await) })
    }
}

async fn answer<S: IdentitySource>(
    context: Arc<Context<S>>,
    request: Request<Body>,
) -> http::Response<Body> {
    let method = Method::of_path(request.uri().path(), NAME);
    // Workload Endpoint 3: without the header a request is refused, before anything else.
    if !has_security_header(request.headers()) {
        return refuse(&context, method, Refusal::SecurityHeader);
    }
    match method {
        Method::FetchX509Svid => {
            stream::<S, X509svidRequest>(context, method, request, x509_svids).await
        }
        Method::FetchX509Bundles => {
            stream::<S, X509BundlesRequest>(context, method, request, x509_bundles).await
        }
        Method::FetchJwtBundles => {
            stream::<S, JwtBundlesRequest>(context, method, request, jwt_bundles).await
        }
        Method::FetchJwtSvid => {
            unary(request, |fields: JwtsvidRequest, extensions| {
                jwt::fetch(context, fields, extensions)
            })
            .await
        }
        Method::ValidateJwtSvid => {
            unary(request, |fields: ValidateJwtsvidRequest, extensions| {
                jwt::validate(context, fields, extensions)
            })
            .await
        }
        Method::FetchWitSvid => refuse(&context, method, Refusal::NoWitSvids),
        Method::FetchWitBundles => refuse(&context, method, Refusal::NoWitBundles),
        _ => refuse(&context, method, Refusal::NoSuchMethod),
    }
}

/// Exactly one value, and exactly this one: a proxy that adds its own makes the request suspect.
fn has_security_header(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(SECURITY_HEADER).iter();
    values.next().is_some_and(|value| value == "true") && values.next().is_none()
}

fn refuse<S>(context: &Context<S>, method: Method, refusal: Refusal) -> http::Response<Body> {
    context.refused(method, None, &refusal);
    Status::from(refusal).into_http()
}

fn grpc<R: Message + Default + 'static>() -> Grpc<Encoded<R>> {
    // No `accept_compressed`: a compressed request is refused, so no small one can grow large here.
    Grpc::new(Encoded::new()).max_decoding_message_size(MAX_REQUEST)
}

async fn unary<R, F>(
    request: Request<Body>,
    call: impl FnOnce(R, Extensions) -> F + Clone,
) -> http::Response<Body>
where
    R: Message + Default + 'static,
    F: Future<Output = Result<Bytes, Refusal>>,
{
    let service = service_fn(|request: tonic::Request<R>| {
        let call = call.clone();
        let (_, extensions, fields) = request.into_parts();
        async move { Ok(tonic::Response::new(call(fields, extensions).await?)) }
    });
    grpc().unary(service, request).await
}

/// What a method makes of an update.
type Compose = fn(&Update, &SocketOptions) -> Result<Bytes, Refusal>;

async fn stream<S: IdentitySource, R: Message + Default + 'static>(
    context: Arc<Context<S>>,
    method: Method,
    request: Request<Body>,
    compose: Compose,
) -> http::Response<Body> {
    let service = service_fn(|request: tonic::Request<R>| {
        let context = Arc::clone(&context);
        async move {
            let session = Session::open(&context, method, request.extensions()).await?;
            Ok(tonic::Response::new(messages(session, compose)))
        }
    });
    grpc().server_streaming(service, request).await
}

/// The messages of one stream: the whole state at once, then again whenever it has changed.
fn messages<S: IdentitySource>(
    session: Session<S>,
    compose: Compose,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    stream::try_unfold(
        (session, Bytes::new()),
        move |(mut session, sent)| async move {
            let message = next_message(&mut session, &sent, compose)
                .await
                .map_err(|refusal| session.refused(refusal))?;
            Ok(Some((message.clone(), (session, message))))
        },
    )
}

async fn next_message<S: IdentitySource>(
    session: &mut Session<S>,
    sent: &Bytes,
    compose: Compose,
) -> Result<Bytes, Refusal> {
    loop {
        let update = session.next().await?;
        let message = compose(&update, &session.context().options)?;
        // Workload API 4.3: a message is an event that changed the answer. No message is empty, so
        // the first one always differs.
        if message != sent {
            return Ok(message);
        }
    }
}

fn x509_svids(update: &Update, _: &SocketOptions) -> Result<Bytes, Refusal> {
    // Workload API 5.2.1: never an empty list, but a denial, also when the last identity is withdrawn.
    if update.identities().is_empty() {
        return Err(Refusal::NoIdentity);
    }
    Ok(update.x509_svids().clone())
}

fn x509_bundles(update: &Update, options: &SocketOptions) -> Result<Bytes, Refusal> {
    may_verify(update, options)?;
    Ok(update.bundles().x509().clone())
}

fn jwt_bundles(update: &Update, options: &SocketOptions) -> Result<Bytes, Refusal> {
    may_verify(update, options)?;
    Ok(update.bundles().jwt().clone())
}

fn may_verify(update: &Update, options: &SocketOptions) -> Result<(), Refusal> {
    if update.identities().is_empty() && !options.allow_unauthenticated_verifiers {
        return Err(Refusal::NoIdentity);
    }
    Ok(())
}
