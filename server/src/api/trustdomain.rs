//! `spire.api.server.trustdomain.v1.TrustDomain`: whose bundles are fetched, and from where.

mod batch;

use std::sync::Arc;

use identity::trust_domain::TrustDomain as Name;
use proto::spire::server::trustdomain::trust_domain_server::TrustDomain;
use proto::spire::server::trustdomain::{
    BatchCreateFederationRelationshipRequest, BatchCreateFederationRelationshipResponse,
    BatchDeleteFederationRelationshipRequest, BatchDeleteFederationRelationshipResponse,
    BatchUpdateFederationRelationshipRequest, BatchUpdateFederationRelationshipResponse,
    GetFederationRelationshipRequest, ListFederationRelationshipsRequest,
    ListFederationRelationshipsResponse, RefreshBundleRequest,
};
use proto::spire::types;
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::convert::page;
use super::convert::relationship::to_proto;
use super::{Services, status};
use crate::audit::{BundleTurn, Event};
use crate::federation::Refreshed;

#[derive(Debug)]
pub(super) struct Service {
    services: Arc<Services>,
}

impl Service {
    pub(super) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }
}

#[tonic::async_trait]
impl TrustDomain for Service {
    async fn get_federation_relationship(
        &self,
        request: Request<GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        let request = request.into_inner();
        let trust_domain = trust_domain(&request.trust_domain)?;
        let snapshot = self.services.index.snapshot();
        let stored = snapshot.relationships.get(&trust_domain);
        let stored =
            stored.ok_or_else(|| Status::not_found("federation relationship does not exist"))?;
        let bundle = snapshot.bundles.get(&trust_domain);
        Ok(Response::new(to_proto(
            &stored.value,
            bundle.map(|bundle| &bundle.value),
            request.output_mask.as_ref(),
        )))
    }

    async fn list_federation_relationships(
        &self,
        request: Request<ListFederationRelationshipsRequest>,
    ) -> Result<Response<ListFederationRelationshipsResponse>, Status> {
        let request = request.into_inner();
        let what = "failed to list federation relationships";
        let page = page(what, request.page_size, &request.page_token, Name::parse)?;
        let snapshot = self.services.index.snapshot();
        let listed = snapshot.relationships.list(&page);
        let mask = request.output_mask.as_ref();
        let message = |stored: &crate::index::relationships::StoredRelationship| {
            let bundle = snapshot.bundles.get(&stored.value.trust_domain);
            to_proto(&stored.value, bundle.map(|bundle| &bundle.value), mask)
        };
        Ok(Response::new(ListFederationRelationshipsResponse {
            federation_relationships: listed.items.iter().map(message).collect(),
            next_page_token: listed
                .next
                .map_or_else(String::new, |name| name.to_string()),
        }))
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<BatchCreateFederationRelationshipResponse>, Status> {
        let caller = Caller::of(&request)?;
        let results = batch::create(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(BatchCreateFederationRelationshipResponse {
            results,
        }))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<BatchUpdateFederationRelationshipResponse>, Status> {
        let caller = Caller::of(&request)?;
        let results = batch::update(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(BatchUpdateFederationRelationshipResponse {
            results,
        }))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<BatchDeleteFederationRelationshipResponse>, Status> {
        let caller = Caller::of(&request)?;
        let results = batch::delete(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(BatchDeleteFederationRelationshipResponse {
            results,
        }))
    }

    async fn refresh_bundle(
        &self,
        request: Request<RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let trust_domain = trust_domain(&request.into_inner().trust_domain)?;
        let event = Event::Bundle(BundleTurn::RefreshAsked, &trust_domain);
        self.services.audit.record(&caller, event);
        match self.services.refresher.refresh(&trust_domain).await {
            Ok(Refreshed::Changed | Refreshed::Unchanged) => Ok(Response::new(())),
            Ok(Refreshed::NoRelationship) => Err(Status::not_found(format!(
                "no relationship with trust domain {:?}",
                trust_domain.name()
            ))),
            Err(error) => Err(status::not_refreshed(&trust_domain, &error)),
        }
    }
}

fn trust_domain(name: &str) -> Result<Name, Status> {
    Name::parse(name).map_err(|error| status::invalid("failed to parse trust domain", &error))
}
