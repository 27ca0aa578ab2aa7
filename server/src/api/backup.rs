//! `signet.server.v1.Backup`: a backup of a server that runs, on the admin socket alone.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream;
use identity::trust_domain::TrustDomain;
use proto::signet::server::backup_server;
use proto::signet::server::{SnapshotRequest, SnapshotResponse};
use tonic::{Request, Response, Status};

use super::Services;
use super::caller::Caller;
use super::status;
use crate::audit::{Audit, Event};
use crate::store::{Backup, Store};

#[derive(Debug)]
pub(super) struct Service {
    trust_domain: TrustDomain,
    audit: Audit,
    store: Store,
}

impl Service {
    pub(super) fn new(services: &Arc<Services>, store: Store) -> Self {
        Self {
            trust_domain: services.trust_domain.clone(),
            audit: services.audit.clone(),
            store,
        }
    }
}

#[tonic::async_trait]
impl backup_server::Backup for Service {
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let caller = Caller::of(&request)?;
        let backup = Backup::of(&self.store, self.trust_domain.name())
            .await
            .map_err(|cause| status::backup(&cause))?;
        let event = Event::BackupTaken {
            revision: backup.revision,
        };
        self.audit.record(&caller, event);
        // They are encoded as the client takes them.
        let chunks = backup.into_chunks();
        let answers = chunks.map(|chunk| Ok(SnapshotResponse { chunk }));
        Ok(Response::new(Box::pin(stream::iter(answers))))
    }
}
