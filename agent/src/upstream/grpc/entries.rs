//! SyncAuthorizedEntries: what changed since the last time, page by page.
//!
//! A short list comes whole, in one message. Of a long one the server first sends ids and revisions,
//! and then those entries that the agent asks for, at most as many at a time as its first page had.

use std::collections::VecDeque;
use std::sync::Arc;

use identity::entry::EntryId;
use identity::spiffe_id::SpiffeId;
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{
    EntryRevision, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use proto::spire::types::EntryMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tracing::{debug, warn};

use super::MAX_MESSAGE_BYTES;
use super::convert::{self, protocol, seconds};
use crate::upstream::{EntrySet, UpstreamError};

/// What SPIRE's agent asks for, and when entries expire, to tell those who ask why one is gone.
/// Lifetimes and DNS names are the server's business when it signs.
const MASK: EntryMask = EntryMask {
    spiffe_id: true,
    parent_id: false,
    selectors: true,
    x509_svid_ttl: false,
    jwt_svid_ttl: false,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: true,
    dns_names: false,
    revision_number: true,
    store_svid: true,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

/// Brings `known` up to date.
pub(super) async fn sync(
    channel: Channel,
    own: &SpiffeId,
    known: &EntrySet,
) -> Result<EntrySet, UpstreamError> {
    let (requests, receiver) = mpsc::channel(1);
    let first = SyncAuthorizedEntriesRequest {
        output_mask: Some(MASK),
        ids: Vec::new(),
    };
    send(&requests, first).await?;
    let mut client = EntryClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let responses = client
        .sync_authorized_entries(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    let mut exchange = Exchange {
        requests,
        responses,
        own,
        known,
        entries: EntrySet::default(),
    };
    let first = exchange.receive().await?;
    if first.entry_revisions.is_empty() {
        // The whole list. An empty message says that there are no entries at all.
        exchange.take_entries(&first);
    } else {
        exchange.take_pages(first).await?;
    }
    Ok(exchange.entries)
}

struct Exchange<'a> {
    requests: mpsc::Sender<SyncAuthorizedEntriesRequest>,
    responses: Streaming<SyncAuthorizedEntriesResponse>,
    own: &'a SpiffeId,
    known: &'a EntrySet,
    entries: EntrySet,
}

impl Exchange<'_> {
    async fn take_pages(
        &mut self,
        first: SyncAuthorizedEntriesResponse,
    ) -> Result<(), UpstreamError> {
        let page_size = first.entry_revisions.len();
        let mut wanted = Vec::new();
        let mut page = first;
        loop {
            if !page.entries.is_empty() {
                return Err(protocol("an entry came among revisions"));
            }
            wanted.extend(
                page.entry_revisions
                    .iter()
                    .filter_map(|revision| self.take_revision(revision)),
            );
            if !page.more {
                break;
            }
            page = self.receive().await?;
        }
        debug!(
            count = wanted.len(),
            "Requesting entries that are new or changed"
        );
        // Sorted: the server looks each id up in a sorted list.
        wanted.sort_unstable();
        wanted.dedup();
        let mut wanted = VecDeque::from(wanted);
        while !wanted.is_empty() {
            let count = page_size.min(wanted.len());
            let ids = wanted
                .drain(..count)
                .map(|id| id.as_str().to_owned())
                .collect();
            send(
                &self.requests,
                SyncAuthorizedEntriesRequest {
                    output_mask: None,
                    ids,
                },
            )
            .await?;
            self.take_requested().await?;
        }
        Ok(())
    }

    async fn take_requested(&mut self) -> Result<(), UpstreamError> {
        loop {
            let page = self.receive().await?;
            if !page.entry_revisions.is_empty() {
                return Err(protocol("a revision came among entries"));
            }
            self.take_entries(&page);
            if !page.more {
                return Ok(());
            }
        }
    }

    fn take_entries(&mut self, page: &SyncAuthorizedEntriesResponse) {
        for entry in &page.entries {
            let Some(entry) = convert::entry(entry, self.own) else {
                continue;
            };
            match self
                .known
                .current(&entry.id, entry.revision, Some(entry.created_at))
            {
                Some(known) => self.entries.insert(Arc::clone(known)),
                None => self.entries.insert(Arc::new(entry)),
            }
        }
    }

    /// Keeps the entry if it is known in this revision, and otherwise tells which one is wanted.
    fn take_revision(&mut self, revision: &EntryRevision) -> Option<EntryId> {
        let id = match EntryId::parse(&revision.id) {
            Ok(id) if revision.revision_number >= 0 => id,
            _ => {
                warn!(
                    entry.revision = revision.revision_number,
                    "Passed over a malformed entry revision"
                );
                return None;
            }
        };
        match self
            .known
            .current(&id, revision.revision_number, seconds(revision.created_at))
        {
            Some(entry) => {
                self.entries.insert(Arc::clone(entry));
                None
            }
            None => Some(id),
        }
    }

    async fn receive(&mut self) -> Result<SyncAuthorizedEntriesResponse, UpstreamError> {
        let message = self.responses.message().await?;
        message.ok_or_else(|| protocol("the synchronization of entries ended early"))
    }
}

async fn send(
    requests: &mpsc::Sender<SyncAuthorizedEntriesRequest>,
    request: SyncAuthorizedEntriesRequest,
) -> Result<(), UpstreamError> {
    // The call holds the other end until it has failed.
    requests
        .send(request)
        .await
        .map_err(|_closed| UpstreamError::Unavailable("the call ended".into()))
}
