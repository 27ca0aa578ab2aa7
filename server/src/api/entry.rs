//! `spire.api.server.entry.v1.Entry`.

mod batch;
mod filter;
mod sync;

use std::sync::Arc;

use identity::entry::EntryId;
use proto::spire::server::entry::entry_server::Entry;
use proto::spire::server::entry::{
    BatchCreateEntryRequest, BatchCreateEntryResponse, BatchDeleteEntryRequest,
    BatchDeleteEntryResponse, BatchUpdateEntryRequest, BatchUpdateEntryResponse,
    CountEntriesRequest, CountEntriesResponse, GetAuthorizedEntriesRequest,
    GetAuthorizedEntriesResponse, GetEntryRequest, ListEntriesRequest, ListEntriesResponse,
    SyncAuthorizedEntriesRequest,
};
use proto::spire::types;
use tonic::{Request, Response, Status, Streaming};

use super::Services;
use super::caller::Caller;
use super::convert::entry::{Mask, to_proto};
use super::convert::{count, page};

pub(super) use self::batch::new_id;

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
impl Entry for Service {
    async fn count_entries(
        &self,
        request: Request<CountEntriesRequest>,
    ) -> Result<Response<CountEntriesResponse>, Status> {
        let filter = filter::of_count(&self.services.trust_domain, request.into_inner().filter)?;
        let number = self.services.index.snapshot().entries.count(&filter);
        Ok(Response::new(CountEntriesResponse {
            count: count(number),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let request = request.into_inner();
        let filter = filter::of_list(&self.services.trust_domain, request.filter)?;
        let what = "failed to list entries";
        let page = page(what, request.page_size, &request.page_token, EntryId::parse)?;
        let listed = self.services.index.snapshot().entries.list(&filter, &page);
        let mask = Mask(request.output_mask.as_ref());
        Ok(Response::new(ListEntriesResponse {
            entries: listed
                .items
                .iter()
                .map(|entry| to_proto(&entry.value, mask))
                .collect(),
            next_page_token: listed.next.map_or_else(String::new, |id| id.to_string()),
        }))
    }

    async fn get_entry(
        &self,
        request: Request<GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        let request = request.into_inner();
        if request.id.is_empty() {
            return Err(Status::invalid_argument("missing ID"));
        }
        let snapshot = self.services.index.snapshot();
        // What is no entry id is the id of no entry.
        let entry = EntryId::parse(&request.id)
            .ok()
            .and_then(|id| snapshot.entries.get(&id));
        let entry = entry.ok_or_else(|| Status::not_found("entry not found"))?;
        Ok(Response::new(to_proto(
            &entry.value,
            Mask(request.output_mask.as_ref()),
        )))
    }

    async fn batch_create_entry(
        &self,
        request: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        let caller = Caller::of(&request)?;
        let results = batch::create(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        let caller = Caller::of(&request)?;
        let results = batch::update(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        let caller = Caller::of(&request)?;
        let results = batch::delete(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(BatchDeleteEntryResponse { results }))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<GetAuthorizedEntriesRequest>,
    ) -> Result<Response<GetAuthorizedEntriesResponse>, Status> {
        let agent = Caller::agent_of(&request)?;
        let mask = request.into_inner().output_mask;
        let now = self.services.clock.now();
        let entries = self
            .services
            .index
            .snapshot()
            .entries
            .authorized(agent.asker(), now);
        let mask = Mask(mask.as_ref());
        Ok(Response::new(GetAuthorizedEntriesResponse {
            entries: entries
                .iter()
                .map(|entry| to_proto(&entry.value, mask))
                .collect(),
        }))
    }

    type SyncAuthorizedEntriesStream = sync::Responses;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<sync::Responses>, Status> {
        let agent = Caller::agent_of(&request)?;
        let now = self.services.clock.now();
        let entries = self
            .services
            .index
            .snapshot()
            .entries
            .authorized(agent.asker(), now);
        let responses = sync::start(entries, request.into_inner()).await?;
        Ok(Response::new(responses))
    }
}
