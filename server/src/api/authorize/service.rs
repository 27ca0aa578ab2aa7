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
use super::super::status::refusal;
use super::table::Rpc;
use super::{Denial, Gate, Verdict, denied, table};
use crate::audit::UNKNOWN_CALLER;
use crate::errand;

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
    S::Future: Send + 'static,
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
            let rpc = table::rpc(&path);
            let response = match gate.admit(rpc, &path, &mut request).await {
                Err(status) => status.into_http(),
                Ok(connection) => match rpc {
                    Some(rpc) if rpc.acts => {
                        let call = act(Arc::clone(&gate), service, request, connection);
                        let acted = errand::run(&gate.tasks, rpc.method, call).await;
                        acted.unwrap_or_else(|| Ok(cut_short().into_http()))?
                    }
                    _ => service.call(request).await?,
                },
            };
            let code = status_of(&response).map_or(Code::Ok, Status::code);
            if let Some(rpc) = rpc {
                gate.metrics.answered(rpc, code, started.elapsed());
            }
            debug!(rpc.method = path, rpc.code = ?code, "Answered a call");
            Ok(response)
        })
    }
}

/// Lets a service do what it is called for, and keeps its refusal in the audit trail. What it did it keeps
/// there itself.
///
/// This runs to its end, also when the caller resets its stream meanwhile: what is committed must be told
/// to the trail.
async fn act<S>(
    gate: Arc<Gate>,
    mut service: S,
    request: Request<Body>,
    connection: Connection,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let path = request.uri().path().to_owned();
    let response = service.call(request).await?;
    if let Some(status) = status_of(&response) {
        gate.audit.record(&connection, refusal(&path, status));
    }
    Ok(response)
}

/// What a call was answered, if not by a message.
fn status_of(response: &Response<Body>) -> Option<&Status> {
    let status = response.extensions().get::<Status>();
    status.filter(|status| status.code() != Code::Ok)
}

fn cut_short() -> Status {
    Status::internal("the call was cut short; what it asked for may have been done")
}

impl Gate {
    /// Makes out the caller, and lets the call through or not.
    async fn admit(
        self: &Arc<Self>,
        rpc: Option<Rpc>,
        path: &str,
        request: &mut Request<Body>,
    ) -> Result<Connection, Status> {
        let Ok(connection) = Connection::of(request.extensions()) else {
            let denial = Denial::CallerUnknown;
            self.audit.refused(&UNKNOWN_CALLER, path, denial.reason());
            return Err(denied(path, denial));
        };
        match self.decide(rpc, connection.clone()).await {
            Ok(Verdict::Admitted(caller)) => {
                request.extensions_mut().insert(caller);
                Ok(connection)
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
