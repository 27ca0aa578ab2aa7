//! `spire.api.server.debug.v1.Debug`: a look at a running server.

use std::sync::Arc;

use identity::x509::Certificate;
use proto::spire::server::debug::debug_server;
use proto::spire::server::debug::get_info_response::Cert;
use proto::spire::server::debug::{GetInfoRequest, GetInfoResponse};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::Services;
use super::convert::{count, id_to_proto};
use crate::records::to_seconds;

#[derive(Debug)]
pub(super) struct Service {
    services: Arc<Services>,
    started: Instant,
}

impl Service {
    pub(super) fn new(services: Arc<Services>) -> Self {
        Self {
            services,
            started: Instant::now(),
        }
    }

    /// The server's own chain, and the authority in its bundle that it ends at.
    fn chain(&self) -> Vec<Cert> {
        let svid = Arc::clone(&self.services.authorities.server_svid().borrow());
        let bundle = Arc::clone(&self.services.authorities.own_bundle().borrow());
        let chain = svid.chain();
        let signer = chain.last().and_then(Certificate::authority_key_id);
        let authority = (bundle.x509_authorities.iter())
            .find(|authority| Some(authority.authority_id()) == signer)
            .map(|authority| &authority.certificate);
        chain.iter().chain(authority).map(cert).collect()
    }
}

#[tonic::async_trait]
impl debug_server::Debug for Service {
    async fn get_info(
        &self,
        _request: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        let snapshot = self.services.index.snapshot();
        Ok(Response::new(GetInfoResponse {
            svid_chain: self.chain(),
            uptime: i32::try_from(self.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            agents_count: count(snapshot.agents.len()),
            entries_count: count(snapshot.entries.len()),
            // Our own counts too, as in SPIRE.
            federated_bundles_count: count(snapshot.bundles.len()),
        }))
    }
}

fn cert(certificate: &Certificate) -> Cert {
    Cert {
        id: certificate.spiffe_id().ok().as_ref().map(id_to_proto),
        expires_at: to_seconds(certificate.validity().not_after()),
        subject: certificate.subject(),
    }
}
