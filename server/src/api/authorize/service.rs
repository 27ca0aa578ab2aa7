//! The gate as a layer around a generated service.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tracing::{debug, error};

use super::super::caller::Connection;
use super::{Denial, Gate, Verdict, denied, table};
use crate::audit::UNKNOWN_CALLER;

/// A service behind the gate.
#[derive(Clone, Debug)]
pub(crate) struct Gated<S> {
    gate: Arc<Gate>,
    service: S,
}

impl<S> Gated<S> {
    pub(super) fn new(gate: Arc<Gate>, service: S) -> Self {
        Self { gate, service }
    }
}

impl<S: NamedService> NamedService for Gated<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Generated services are always ready; the clone made for a call must be the one polled.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let gate = Arc::clone(&self.gate);
        let mut service = self.service.clone();
        Box::pin(async move {
            let started = tokio::time::Instant::now();
            let path = request.uri().path().to_owned();
            let response = match gate.admit(&path, &mut request).await {
                Ok(()) => service.call(request).await?,
                Err(status) => status.into_http(),
            };
            let code = response
                .extensions()
                .get::<Status>()
                .map_or(Code::Ok, Status::code);
            if let Some(rpc) = table::rpc(&path) {
                gate.metrics.answered(rpc, code, started.elapsed());
            }
            debug!(rpc.method = path, rpc.code = ?code, "Answered a call");
            Ok(response)
        })
    }
}

impl Gate {
    async fn admit(&self, path: &str, request: &mut Request<Body>) -> Result<(), Status> {
        let Ok(connection) = Connection::of(request.extensions()) else {
            let denial = Denial::CallerUnknown;
            self.audit.refused(&UNKNOWN_CALLER, path, denial.reason());
            return Err(denied(path, denial));
        };
        match self.decide(table::rpc(path), connection.clone()).await {
            Ok(Verdict::Admitted(caller)) => {
                request.extensions_mut().insert(caller);
                Ok(())
            }
            Ok(Verdict::Denied(denial)) => {
                self.audit.refused(&connection, path, denial.reason());
                Err(denied(path, denial))
            }
            Err(cause) => {
                error!(
                    caller = %connection,
                    rpc.method = path,
                    error = runtime::report::chain(&cause),
                    error.reason = cause.reason(),
                    "Could not decide whether the caller may call"
                );
                // SPIRE's agents retry what is not PERMISSION_DENIED.
                Err(Status::unavailable("unable to look up agent information"))
            }
        }
    }
}
