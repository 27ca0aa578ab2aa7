//! The batches that write entries. One batch is one commit; each item has a status of its own.

use identity::entry::{CheckedEntry, Entry, EntryId};
use proto::spire::server::entry::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest,
    batch_create_entry_response, batch_delete_entry_response, batch_update_entry_response,
};
use proto::spire::types;
use tonic::Status;

use super::super::Services;
use super::super::caller::Caller;
use super::super::convert::entry::{Mask, Patch, PatchError, to_proto};
use super::super::status;
use crate::audit::Event;
use crate::index::Snapshot;
use crate::store::Txn;
use crate::writes::Plan;
use crate::writes::entries::{EntryWrites, Refusal};

type Outcome = Result<Entry, Refusal>;

// The paths of the RPCs, for the audit trail.
const CREATE: &str = "/spire.api.server.entry.v1.Entry/BatchCreateEntry";
const UPDATE: &str = "/spire.api.server.entry.v1.Entry/BatchUpdateEntry";
const DELETE: &str = "/spire.api.server.entry.v1.Entry/BatchDeleteEntry";

/// An item that was read, or the status it is refused with already.
type Item<T> = Result<T, Status>;

pub(super) async fn create(
    services: &Services,
    caller: &Caller,
    request: BatchCreateEntryRequest,
) -> Result<Vec<batch_create_entry_response::Result>, Status> {
    let now = services.clock.now();
    let items: Vec<Item<(CheckedEntry, EntryId)>> = request
        .entries
        .iter()
        .map(|entry| draft(services, entry))
        .collect();
    let plan = |snapshot: &Snapshot| {
        plan(snapshot, &items, |writes, (draft, id)| {
            writes.create(draft.clone(), id.clone(), now)
        })
    };
    let outcomes = services.writer.write(plan).await;
    let outcomes = outcomes.map_err(|error| status::write("failed to create entry", &error))?;
    let mask = Mask(request.output_mask.as_ref());
    let result = |(outcome, asked): (Item<Outcome>, &types::Entry)| {
        let path = asked.spiffe_id.as_ref().map_or("", |id| id.path.as_str());
        let refused =
            |status: &Status| status::refused_item(services, caller, (CREATE, path), status);
        let (status, entry) = match outcome {
            Err(status) => (refused(&status), None),
            Ok(Ok(entry)) => {
                services.audit.record(caller, Event::EntryCreated(&entry));
                (status::ok(), Some(to_proto(&entry, mask)))
            }
            Ok(Err(refusal)) => {
                let status = refused(&status::not_created(&refusal));
                let similar = match &refusal {
                    Refusal::Similar(entry) => Some(to_proto(entry, mask)),
                    _ => None,
                };
                (status, similar)
            }
        };
        batch_create_entry_response::Result {
            status: Some(status),
            entry,
        }
    };
    Ok(outcomes
        .into_iter()
        .zip(&request.entries)
        .map(result)
        .collect())
}

pub(super) async fn update(
    services: &Services,
    caller: &Caller,
    request: BatchUpdateEntryRequest,
) -> Result<Vec<batch_update_entry_response::Result>, Status> {
    let own = &services.trust_domain;
    let input_mask = Mask(request.input_mask.as_ref());
    let read = |entry: &types::Entry| {
        let patch = Patch::parse(own, entry, input_mask);
        let patch = patch.map_err(|error| unreadable("failed to update entry", &error))?;
        // What is no entry id is the id of no entry.
        let id = EntryId::parse(&entry.id);
        let id = id.map_err(|_not_an_id| status::not_updated(&Refusal::NotFound))?;
        Ok((id, patch))
    };
    let items: Vec<Item<(EntryId, Patch)>> = request.entries.iter().map(read).collect();
    let plan = |snapshot: &Snapshot| {
        plan(snapshot, &items, |writes, (id, patch)| {
            writes.update(id, own, |draft| patch.clone().apply(draft))
        })
    };
    let outcomes = services.writer.write(plan).await;
    let outcomes = outcomes.map_err(|error| status::write("failed to update entry", &error))?;
    let mask = Mask(request.output_mask.as_ref());
    let result = |(outcome, asked): (Item<Outcome>, &types::Entry)| {
        let refused =
            |status: &Status| status::refused_item(services, caller, (UPDATE, &asked.id), status);
        let (status, entry) = match outcome {
            Err(status) => (refused(&status), None),
            Ok(Ok(entry)) => {
                services.audit.record(caller, Event::EntryUpdated(&entry));
                (status::ok(), Some(to_proto(&entry, mask)))
            }
            Ok(Err(refusal)) => (refused(&status::not_updated(&refusal)), None),
        };
        batch_update_entry_response::Result {
            status: Some(status),
            entry,
        }
    };
    Ok(outcomes
        .into_iter()
        .zip(&request.entries)
        .map(result)
        .collect())
}

pub(super) async fn delete(
    services: &Services,
    caller: &Caller,
    request: BatchDeleteEntryRequest,
) -> Result<Vec<batch_delete_entry_response::Result>, Status> {
    let read = |id: &String| {
        if id.is_empty() {
            return Err(Status::invalid_argument("missing entry ID"));
        }
        EntryId::parse(id).map_err(|_not_an_id| Status::not_found("entry not found"))
    };
    let items: Vec<Item<EntryId>> = request.ids.iter().map(read).collect();
    let plan = |snapshot: &Snapshot| plan(snapshot, &items, |writes, id| writes.delete(id));
    let outcomes = services.writer.write(plan).await;
    let outcomes = outcomes.map_err(|error| status::write("failed to delete entry", &error))?;
    let result = |(outcome, id): (Item<Outcome>, String)| {
        let refused =
            |status: &Status| status::refused_item(services, caller, (DELETE, &id), status);
        let status = match outcome {
            Err(status) => refused(&status),
            Ok(Ok(entry)) => {
                services.audit.record(caller, Event::EntryDeleted(&entry));
                status::ok()
            }
            Ok(Err(_)) => refused(&Status::not_found("entry not found")),
        };
        batch_delete_entry_response::Result {
            status: Some(status),
            id,
        }
    };
    Ok(outcomes.into_iter().zip(request.ids).map(result).collect())
}

/// Applies the items that could be read, in order, and makes one transaction of what came of them.
fn plan<T>(
    snapshot: &Snapshot,
    items: &[Item<T>],
    apply: impl Fn(&mut EntryWrites<'_>, &T) -> Outcome,
) -> Plan<Vec<Item<Outcome>>> {
    let mut writes = EntryWrites::new(snapshot);
    let outcome = |item: &Item<T>| match item {
        Ok(item) => Ok(apply(&mut writes, item)),
        Err(status) => Err(status.clone()),
    };
    let outcomes = items.iter().map(outcome).collect();
    if writes.is_empty() {
        return Plan::Nothing(outcomes);
    }
    Plan::Commit(writes.add_to(Txn::new()), outcomes)
}

/// Reads an entry to be created, and draws an id for it.
fn draft(services: &Services, entry: &types::Entry) -> Item<(CheckedEntry, EntryId)> {
    let stored = "failed to create entry";
    let patch = Patch::parse(&services.trust_domain, entry, Mask(None));
    let patch = patch.map_err(|error| unreadable(stored, &error))?;
    let draft = patch.into_draft(&entry.id);
    let draft = draft.and_then(|draft| draft.check(&services.trust_domain));
    let draft = draft.map_err(|error| status::entry_invalid(stored, &error))?;
    Ok((draft, new_id()?))
}

fn unreadable(when_stored: &str, error: &PatchError) -> Status {
    match error {
        PatchError::Invalid(error) => status::entry_invalid(when_stored, error),
        PatchError::NoId { .. } => {
            Status::invalid_argument(format!("failed to convert entry: {error}"))
        }
    }
}

/// A random id, in the form that SPIRE gives to entries.
pub(in crate::api) fn new_id() -> Result<EntryId, Status> {
    let uuid = uuid::Uuid::new_v4().to_string();
    EntryId::parse(&uuid).map_err(|_never| Status::internal("failed to draw an entry ID"))
}
