//! Services of the protocol that are not built yet. They stand behind the gate like the others: who
//! may not call them learns that, and who may learns that they are missing.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

macro_rules! unbuilt {
    ($($name:ident = $service:literal;)*) => { $(
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name;

        impl NamedService for $name {
            const NAME: &'static str = $service;
        }

        impl Service<Request<Body>> for $name {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = Ready<Result<Response<Body>, Infallible>>;

            fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: Request<Body>) -> Self::Future {
                let method = request.uri().path().rsplit('/').next().unwrap_or_default();
                ready(Ok(super::not_built(method).into_http()))
            }
        }
    )* };
}

unbuilt! {
    // Where the process did not hand in its log.
    Logger = "spire.api.server.logger.v1.Logger";
}
