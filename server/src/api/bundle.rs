//! `spire.api.server.bundle.v1.Bundle`.

mod federated;
mod own;

use std::sync::Arc;

use identity::trust_domain::TrustDomain;
use proto::spire::server::bundle::bundle_server::Bundle;
use proto::spire::server::bundle::{
    AppendBundleRequest, BatchCreateFederatedBundleRequest, BatchCreateFederatedBundleResponse,
    BatchDeleteFederatedBundleRequest, BatchDeleteFederatedBundleResponse,
    BatchSetFederatedBundleRequest, BatchSetFederatedBundleResponse,
    BatchUpdateFederatedBundleRequest, BatchUpdateFederatedBundleResponse, CountBundlesRequest,
    CountBundlesResponse, GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
    ListFederatedBundlesResponse, PublishJwtAuthorityRequest, PublishJwtAuthorityResponse,
    PublishWitAuthorityRequest, PublishWitAuthorityResponse,
};
use proto::spire::types;
use tonic::{Request, Response, Status};

use super::Services;
use super::caller::Caller;
use super::convert::bundle::to_proto;
use super::convert::{count, page};
use super::status;

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
impl Bundle for Service {
    async fn get_bundle(
        &self,
        request: Request<GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let mask = request.into_inner().output_mask;
        let snapshot = self.services.index.snapshot();
        let bundle = snapshot.bundles.own().ok_or_else(not_found)?;
        Ok(Response::new(to_proto(&bundle.value, mask.as_ref())))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let request = request.into_inner();
        let trust_domain = TrustDomain::parse(&request.trust_domain);
        let trust_domain = trust_domain
            .map_err(|error| status::invalid("trust domain argument is not valid", &error))?;
        if trust_domain == self.services.trust_domain {
            return Err(Status::invalid_argument(
                "getting a federated bundle for the server's own trust domain is not allowed",
            ));
        }
        let snapshot = self.services.index.snapshot();
        let bundle = snapshot.bundles.get(&trust_domain).ok_or_else(not_found)?;
        Ok(Response::new(to_proto(
            &bundle.value,
            request.output_mask.as_ref(),
        )))
    }

    async fn count_bundles(
        &self,
        _request: Request<CountBundlesRequest>,
    ) -> Result<Response<CountBundlesResponse>, Status> {
        let number = self.services.index.snapshot().bundles.len();
        Ok(Response::new(CountBundlesResponse {
            count: count(number),
        }))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        let request = request.into_inner();
        let what = "failed to list bundles";
        let page = page(
            what,
            request.page_size,
            &request.page_token,
            TrustDomain::parse,
        )?;
        let listed = self.services.index.snapshot().bundles.list(&page);
        let mask = request.output_mask.as_ref();
        let bundles = listed
            .items
            .iter()
            .map(|bundle| to_proto(&bundle.value, mask))
            .collect();
        let next_page_token = listed
            .next
            .map_or_else(String::new, |name| name.to_string());
        Ok(Response::new(ListFederatedBundlesResponse {
            bundles,
            next_page_token,
        }))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        let caller = Caller::of(&request)?;
        let results = federated::set(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(BatchSetFederatedBundleResponse { results }))
    }

    async fn append_bundle(
        &self,
        request: Request<AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let caller = Caller::of(&request)?;
        let bundle = own::append(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(bundle))
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        let caller = Caller::of(&request)?;
        let results = federated::create(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(BatchCreateFederatedBundleResponse {
            results,
        }))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        let caller = Caller::of(&request)?;
        let results = federated::update(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(BatchUpdateFederatedBundleResponse {
            results,
        }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        let caller = Caller::of(&request)?;
        let results = federated::delete(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(BatchDeleteFederatedBundleResponse {
            results,
        }))
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        let caller = Caller::of(&request)?;
        let jwt_authorities = own::publish(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(PublishJwtAuthorityResponse {
            jwt_authorities,
        }))
    }

    async fn publish_wit_authority(
        &self,
        _request: Request<PublishWitAuthorityRequest>,
    ) -> Result<Response<PublishWitAuthorityResponse>, Status> {
        Err(Status::unimplemented(
            "WIT-SVID functionality is not yet implemented",
        ))
    }
}

fn not_found() -> Status {
    Status::not_found("bundle not found")
}
