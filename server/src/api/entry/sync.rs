//! `SyncAuthorizedEntries`: an agent learns which entries it has, and asks for those that changed.
//!
//! Short lists go in one message. An agent of SPIRE takes a first message with full entries for the
//! *whole* list and drops every entry that is not in it, so a full list is never split: what is too
//! long for one message, by number or by bytes, begins with pages of revisions. The agent takes the
//! length of the first page for the page size, and asks for so many entries at most at a time.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures_util::stream::{self, Stream, StreamExt};
use prost::Message;
use proto::spire::server::entry::{
    EntryRevision, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use proto::spire::types;
use tonic::{Status, Streaming};

use super::super::convert::entry::{Mask, to_proto};
use crate::index::entries::StoredEntry;
use crate::records::to_seconds;

/// The page size of SPIRE, which its agents have always been tested with.
const PAGE_ENTRIES: usize = 500;
/// A page has no more bytes than this, unless one entry alone is larger. A SPIRE agent takes 4 MiB.
const PAGE_BYTES: usize = 1 << 20;

pub(super) type Responses =
    Pin<Box<dyn Stream<Item = Result<SyncAuthorizedEntriesResponse, Status>> + Send>>;

/// Answers the first request, and then those for full entries until the agent ends the stream.
pub(super) async fn start(
    entries: Vec<StoredEntry>,
    mut requests: Streaming<SyncAuthorizedEntriesRequest>,
) -> Result<Responses, Status> {
    let Some(first) = requests.message().await? else {
        return Ok(stream::empty().boxed());
    };
    if !first.ids.is_empty() {
        let message = "specifying IDs on initial request is not supported";
        return Err(Status::invalid_argument(message));
    }
    // Without its revision an agent cannot tell whether an entry changed.
    if first
        .output_mask
        .as_ref()
        .is_some_and(|mask| !mask.revision_number)
    {
        return Err(Status::invalid_argument("revision number cannot be masked"));
    }
    let list = List {
        mask: first.output_mask,
        entries,
    };
    if let Some(whole) = list.whole() {
        return Ok(stream::iter([Ok(whole)]).boxed());
    }
    let revisions = stream::iter(list.revisions()).map(Ok);
    let asked = stream::unfold(
        (list.by_id(), requests),
        |(by_id, mut requests)| async move {
            let pages = match requests.message().await {
                Ok(Some(request)) => by_id.pages(request.ids).into_iter().map(Ok).collect(),
                Ok(None) => return None,
                Err(status) => vec![Err(status)],
            };
            Some((stream::iter(pages), (by_id, requests)))
        },
    );
    Ok(revisions.chain(asked.flatten()).boxed())
}

/// The entries of one agent, as of the start of its stream.
struct List {
    mask: Option<types::EntryMask>,
    entries: Vec<StoredEntry>,
}

impl List {
    /// The full list in one message, if it is short enough.
    fn whole(&self) -> Option<SyncAuthorizedEntriesResponse> {
        if self.entries.len() > PAGE_ENTRIES {
            return None;
        }
        let mask = Mask(self.mask.as_ref());
        let entries = self
            .entries
            .iter()
            .map(|entry| to_proto(&entry.value, mask))
            .collect();
        let response = SyncAuthorizedEntriesResponse {
            entries,
            ..Default::default()
        };
        (response.encoded_len() <= PAGE_BYTES).then_some(response)
    }

    /// The revisions of all entries, in pages; every page but the last says that there is more.
    fn revisions(&self) -> Vec<SyncAuthorizedEntriesResponse> {
        let revision = |entry: &StoredEntry| EntryRevision {
            id: entry.value.id.as_str().to_owned(),
            revision_number: entry.value.revision,
            created_at: to_seconds(entry.value.created_at),
        };
        let pages = self.entries.chunks(PAGE_ENTRIES);
        let last = pages.len().saturating_sub(1);
        pages
            .enumerate()
            .map(|(number, page)| SyncAuthorizedEntriesResponse {
                entry_revisions: page.iter().map(revision).collect(),
                more: number < last,
                ..Default::default()
            })
            .collect()
    }

    fn by_id(self) -> ById {
        let entries = self.entries.into_iter();
        let by_id = entries
            .map(|entry| (entry.value.id.as_str().to_owned(), entry))
            .collect();
        ById {
            mask: self.mask,
            by_id,
        }
    }
}

/// The entries that an agent may ask for.
struct ById {
    mask: Option<types::EntryMask>,
    by_id: BTreeMap<String, StoredEntry>,
}

impl ById {
    /// The full entries of these ids, in pages. Unknown ids are left out, and an id that is asked
    /// for twice is answered once; there is always a last page, which may be empty.
    fn pages(&self, mut ids: Vec<String>) -> Vec<SyncAuthorizedEntriesResponse> {
        ids.sort_unstable();
        ids.dedup();
        let mask = Mask(self.mask.as_ref());
        let mut pages = Vec::new();
        let mut page = SyncAuthorizedEntriesResponse::default();
        let mut bytes = 0_usize;
        for entry in ids.iter().filter_map(|id| self.by_id.get(id)) {
            let entry = to_proto(&entry.value, mask);
            let length = entry.encoded_len();
            let full =
                page.entries.len() >= PAGE_ENTRIES || bytes.saturating_add(length) > PAGE_BYTES;
            if full && !page.entries.is_empty() {
                page.more = true;
                pages.push(std::mem::take(&mut page));
                bytes = 0;
            }
            bytes = bytes.saturating_add(length);
            page.entries.push(entry);
        }
        pages.push(page);
        pages
    }
}
