//! SPIRE's Delegated Identity API: a process that may act for others is given their identities.
//!
//! Whoever can open the socket may ask; the answer depends on who it is attested to be. That is looked
//! at again before each answer, and now and then in between, so a delegate that is none any more gets
//! nothing more. What is for operators and servers below (`admin`, `downstream`), or for a store, no
//! delegate gets.

mod delegate;
mod encode;
mod streams;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::try_join_all;
use identity::entry::Entry;
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use proto::spire::agent::delegatedidentity::delegated_identity_server::DelegatedIdentity;
use proto::spire::agent::delegatedidentity::{
    FetchJwtsviDsRequest, FetchJwtsviDsResponse, SubscribeToJwtBundlesRequest,
    SubscribeToJwtBundlesResponse, SubscribeToX509BundlesRequest, SubscribeToX509BundlesResponse,
    SubscribeToX509sviDsRequest, SubscribeToX509sviDsResponse,
};
use runtime::listen::Serve;
use runtime::quota::Quota;
use runtime::report;
use runtime::shutdown::Shutdown;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use tracing::warn;

use self::delegate::{Delegate, Target};
use self::streams::{Bundles, X509Svids, messages};
use super::Services;
use crate::attest::Attestors;
use crate::cache::driver::Driver;
use crate::upstream::Upstream;

/// The service.
pub(super) struct Service<U>(Arc<Shared<U>>);

/// What all calls share.
struct Shared<U> {
    attestors: Arc<Attestors>,
    driver: Arc<Driver<U>>,
    delegates: BTreeSet<SpiffeId>,
    shutdown: Shutdown,
    /// What the log takes of callers that are refused.
    quota: Quota,
}

impl<U: Upstream> Service<U> {
    pub(super) fn new(services: &Services<U>, serve: &Serve) -> Self {
        Self(Arc::new(Shared {
            attestors: Arc::clone(services.source.attestors()),
            driver: Arc::clone(services.source.driver()),
            delegates: services.delegates.clone(),
            shutdown: serve.shutdown.clone(),
            quota: Quota::default(),
        }))
    }
}

impl<U: Upstream> Shared<U> {
    /// The entries that a delegate may be given for a workload with these selectors.
    fn entries_for(&self, workload: &Selectors) -> Vec<Arc<Entry>> {
        let mut entries = self.driver.entries_of(workload);
        entries.retain(|entry| !entry.admin && !entry.downstream && !entry.store_svid);
        entries
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<U: Upstream> DelegatedIdentity for Service<U> {
    type SubscribeToX509SVIDsStream = Answers<SubscribeToX509sviDsResponse>;
    type SubscribeToX509BundlesStream = Answers<SubscribeToX509BundlesResponse>;
    type SubscribeToJWTBundlesStream = Answers<SubscribeToJwtBundlesResponse>;

    async fn subscribe_to_x509svi_ds(
        &self,
        request: Request<SubscribeToX509sviDsRequest>,
    ) -> Result<Response<Self::SubscribeToX509SVIDsStream>, Status> {
        let delegate = Delegate::open(&self.0, request.extensions()).await?;
        let asked = request.into_inner();
        let target = Target::of(&self.0, &asked.selectors, asked.pid).await?;
        let svids = X509Svids::new(delegate, target);
        Ok(Response::new(messages(svids)))
    }

    async fn subscribe_to_x509_bundles(
        &self,
        request: Request<SubscribeToX509BundlesRequest>,
    ) -> Result<Response<Self::SubscribeToX509BundlesStream>, Status> {
        let delegate = Delegate::open(&self.0, request.extensions()).await?;
        let bundles = Bundles::new(delegate, encode::x509_bundles);
        Ok(Response::new(messages(bundles)))
    }

    async fn fetch_jwtsvi_ds(
        &self,
        request: Request<FetchJwtsviDsRequest>,
    ) -> Result<Response<FetchJwtsviDsResponse>, Status> {
        let audience = &request.get_ref().audience;
        if audience.is_empty() || audience.iter().any(String::is_empty) {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        let delegate = Delegate::open(&self.0, request.extensions()).await?;
        let asked = request.into_inner();
        let target = Target::of(&self.0, &asked.selectors, asked.pid).await?;
        let (driver, audience) = (&self.0.driver, &asked.audience);
        let fetched = self.0.entries_for(target.selectors());
        let fetched = fetched.into_iter().map(|entry| async move {
            let svid = driver.jwt_svid(&entry, audience).await;
            svid.map(|svid| (entry, svid))
        });
        let fetched = tokio::select! {
            () = self.0.shutdown.requested() => return Err(shutting_down()),
            fetched = try_join_all(fetched) => fetched,
        };
        let mut svids = fetched.map_err(|error| {
            warn!(error.reason = error.reason(), error = %report::chain(&error), "Could not serve a delegate");
            Status::unavailable(format!("could not fetch JWT-SVID: {error}"))
        })?;
        // The server may have taken its time, and said other things meanwhile.
        delegate.check()?;
        let current: BTreeSet<_> = (self.0.entries_for(target.selectors()).iter())
            .map(|entry| entry.id.clone())
            .collect();
        svids.retain(|(entry, _)| current.contains(&entry.id));
        if svids.is_empty() {
            return Err(Status::permission_denied("no identity issued"));
        }
        let svids = svids.iter().map(|(entry, svid)| encode::jwt(entry, svid));
        Ok(Response::new(FetchJwtsviDsResponse {
            svids: svids.collect(),
        }))
    }

    async fn subscribe_to_jwt_bundles(
        &self,
        request: Request<SubscribeToJwtBundlesRequest>,
    ) -> Result<Response<Self::SubscribeToJWTBundlesStream>, Status> {
        let delegate = Delegate::open(&self.0, request.extensions()).await?;
        let bundles = Bundles::new(delegate, encode::jwt_bundles);
        Ok(Response::new(messages(bundles)))
    }
}

fn shutting_down() -> Status {
    Status::unavailable("the agent is shutting down")
}

#[cfg(test)]
mod tests;
