//! SPIRE's Debug API: a look at a running agent.

use std::sync::Arc;

use identity::x509::Certificate;
use proto::spire::agent::debug::debug_server;
use proto::spire::agent::debug::get_info_response::Cert;
use proto::spire::agent::debug::{GetInfoRequest, GetInfoResponse};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::wire::{id, seconds};
use super::{Services, authorize};
use crate::credentials::Credentials;
use crate::source::Source;
use crate::upstream::Upstream;

/// The service.
pub(super) struct Service<U> {
    source: Arc<Source<U>>,
    credentials: Arc<Credentials>,
    started: Instant,
}

impl<U: Upstream> Service<U> {
    pub(super) fn new(services: &Services<U>) -> Self {
        Self {
            source: Arc::clone(&services.source),
            credentials: Arc::clone(&services.credentials),
            started: services.started,
        }
    }

    /// The agent's own chain, and the authority in its bundle that it ends at.
    fn chain(&self) -> Vec<Cert> {
        let (own, trust) = (self.credentials.own(), self.credentials.trust());
        let chain = own.svid.chain();
        let signer = chain.last().and_then(Certificate::authority_key_id);
        let authority = (trust.x509_authorities.iter())
            .find(|authority| Some(authority.authority_id()) == signer)
            .map(|authority| &authority.certificate);
        chain.iter().chain(authority).map(cert).collect()
    }
}

#[tonic::async_trait]
impl<U: Upstream> debug_server::Debug for Service<U> {
    #[expect(deprecated, reason = "older clients read the older field")]
    async fn get_info(
        &self,
        request: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        authorize(&request)?;
        let census = self.source.driver().census();
        let last_success = self.source.status().borrow().last_success;
        Ok(Response::new(GetInfoResponse {
            svid_chain: self.chain(),
            uptime: i32::try_from(self.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            svids_count: count(census.x509_svids),
            last_sync_success: last_success.map_or(0, seconds),
            cached_x509_svids_count: count(census.x509_svids),
            cached_jwt_svids_count: count(census.jwt_svids),
            // There are no SVID stores.
            cached_svidstore_x509_svids_count: 0,
        }))
    }
}

fn cert(certificate: &Certificate) -> Cert {
    Cert {
        id: certificate.spiffe_id().ok().as_ref().map(id),
        expires_at: seconds(certificate.validity().not_after()),
        subject: certificate.subject(),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
