//! The batches that write relationships. One batch is one commit; each item has a status of its own.

use identity::bundle::Bundle;
use identity::trust_domain::TrustDomain;
use proto::spire::server::trustdomain::{
    BatchCreateFederationRelationshipRequest, BatchDeleteFederationRelationshipRequest,
    BatchUpdateFederationRelationshipRequest, batch_create_federation_relationship_response,
    batch_delete_federation_relationship_response, batch_update_federation_relationship_response,
};
use proto::spire::types::{FederationRelationship, FederationRelationshipMask};
use tonic::Status;

use super::super::Services;
use super::super::caller::Caller;
use super::super::convert::relationship::{from_proto, to_proto};
use super::super::status;
use crate::audit::{Edit, Event};
use crate::federation::Relationship;
use crate::index::Snapshot;
use crate::writes::Plan;
use crate::writes::relationships::{Patch, Refusal, RelationshipWrites};

// The paths of the RPCs, for the audit trail.
const CREATE: &str =
    "/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship";
const UPDATE: &str =
    "/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship";
const DELETE: &str =
    "/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship";

/// An item that was read, or the status it is refused with already.
type Item<T> = Result<T, Status>;

/// What became of a relationship that was to be deleted.
type Deleted = Item<Result<(), Refusal>>;

/// A relationship as written, with the bundle of its trust domain.
type Written = (Relationship, Option<Bundle>);

pub(super) async fn create(
    services: &Services,
    caller: &Caller,
    request: BatchCreateFederationRelationshipRequest,
) -> Result<Vec<batch_create_federation_relationship_response::Result>, Status> {
    let read = |message: &FederationRelationship| {
        let (relationship, seed) = readable(message)?;
        // SPIFFE-ID 2.1.1: nobody else says which keys are ours.
        if relationship.trust_domain == services.trust_domain {
            return Err(Status::invalid_argument(
                "unable to create federation relationship for server trust domain",
            ));
        }
        Ok((relationship, seed))
    };
    let items: Vec<_> = request.federation_relationships.iter().map(read).collect();
    let written = write(
        services,
        &items,
        "failed to create federation relationship",
        |writes, (relationship, seed)| writes.create(relationship, seed.as_ref()),
    );
    let telling = Telling {
        services,
        caller,
        edit: (Edit::Created, CREATE),
        mask: request.output_mask.as_ref(),
    };
    let result = |(outcome, asked)| {
        let refused = |refusal: Refusal| {
            Status::internal(format!(
                "failed to create federation relationship: {refusal}"
            ))
        };
        let (status, federation_relationship) = telling.told(outcome, asked, refused);
        batch_create_federation_relationship_response::Result {
            status: Some(status),
            federation_relationship,
        }
    };
    let asked = &request.federation_relationships;
    Ok(written.await?.into_iter().zip(asked).map(result).collect())
}

pub(super) async fn update(
    services: &Services,
    caller: &Caller,
    request: BatchUpdateFederationRelationshipRequest,
) -> Result<Vec<batch_update_federation_relationship_response::Result>, Status> {
    let wants = |field: fn(&FederationRelationshipMask) -> bool| {
        request.input_mask.as_ref().is_none_or(field)
    };
    let read = |message: &FederationRelationship| {
        let (relationship, seed) = readable(message)?;
        let Relationship {
            trust_domain,
            endpoint,
        } = relationship;
        let patch = Patch {
            trust_domain,
            url: wants(|mask| mask.bundle_endpoint_url).then_some(endpoint.url),
            profile: wants(|mask| mask.bundle_endpoint_profile).then_some(endpoint.profile),
        };
        Ok((
            patch,
            seed.filter(|_| wants(|mask| mask.trust_domain_bundle)),
        ))
    };
    let items: Vec<_> = request.federation_relationships.iter().map(read).collect();
    let written = write(
        services,
        &items,
        "failed to update federation relationship",
        |writes, (patch, seed)| writes.update(patch, seed.as_ref()),
    );
    let telling = Telling {
        services,
        caller,
        edit: (Edit::Updated, UPDATE),
        mask: request.output_mask.as_ref(),
    };
    let result = |(outcome, asked)| {
        // SPIRE's code and words; it has no other for what is not there.
        let refused = |_not_found: Refusal| {
            Status::internal(
                "failed to update federation relationship: unable to fetch federation \
                 relationship: record not found",
            )
        };
        let (status, federation_relationship) = telling.told(outcome, asked, refused);
        batch_update_federation_relationship_response::Result {
            status: Some(status),
            federation_relationship,
        }
    };
    let asked = &request.federation_relationships;
    Ok(written.await?.into_iter().zip(asked).map(result).collect())
}

pub(super) async fn delete(
    services: &Services,
    caller: &Caller,
    request: BatchDeleteFederationRelationshipRequest,
) -> Result<Vec<batch_delete_federation_relationship_response::Result>, Status> {
    let read = |name: &String| {
        if name.is_empty() {
            return Err(Status::invalid_argument("missing trust domain"));
        }
        super::trust_domain(name)
    };
    let items: Vec<Item<TrustDomain>> = request.trust_domains.iter().map(read).collect();
    let plan = |snapshot: &Snapshot| {
        let mut writes = RelationshipWrites::new(snapshot);
        let outcomes: Vec<_> = items
            .iter()
            .map(|item| Ok(writes.delete(item.as_ref().map_err(Clone::clone)?)))
            .collect();
        planned(writes, outcomes)
    };
    let outcomes = services.writer.write(plan).await;
    let outcomes = outcomes
        .map_err(|error| status::write("failed to delete federation relationship", &error))?;
    let result = |((outcome, item), asked): ((Deleted, &Item<TrustDomain>), &String)| {
        let refused =
            |status: &Status| status::refused_item(services, caller, (DELETE, asked), status);
        let status = match (outcome, item) {
            (Ok(Ok(())), Ok(trust_domain)) => {
                services
                    .audit
                    .record(caller, Event::Relationship(Edit::Deleted, trust_domain));
                status::ok()
            }
            (Ok(Err(refusal)), _) => refused(&Status::not_found(refusal.to_string())),
            (Err(status), _) => refused(&status),
            (_, Err(status)) => refused(status),
        };
        // What was asked for by its SPIFFE ID is answered by its name, as SPIRE does.
        let trust_domain = item
            .as_ref()
            .map_or_else(|_| asked.clone(), |name| name.name().to_owned());
        batch_delete_federation_relationship_response::Result {
            status: Some(status),
            trust_domain,
        }
    };
    let asked = request.trust_domains.iter();
    Ok(outcomes
        .into_iter()
        .zip(&items)
        .zip(asked)
        .map(result)
        .collect())
}

fn readable(message: &FederationRelationship) -> Result<(Relationship, Option<Bundle>), Status> {
    from_proto(message)
        .map_err(|error| status::invalid("failed to convert federation relationship", &error))
}

/// Writes the items that were read, in order.
async fn write<T>(
    services: &Services,
    items: &[Item<T>],
    what: &str,
    step: impl Fn(&mut RelationshipWrites<'_>, &T) -> Result<Relationship, Refusal>,
) -> Result<Vec<Item<Result<Written, Refusal>>>, Status> {
    let plan = |snapshot: &Snapshot| {
        let mut writes = RelationshipWrites::new(snapshot);
        let outcomes: Vec<Item<Result<Written, Refusal>>> = items
            .iter()
            .map(|item| {
                let item = item.as_ref().map_err(Clone::clone)?;
                Ok(step(&mut writes, item).map(|relationship| {
                    let bundle = writes.bundle(&relationship.trust_domain).cloned();
                    (relationship, bundle)
                }))
            })
            .collect();
        planned(writes, outcomes)
    };
    let outcomes = services.writer.write(plan).await;
    outcomes.map_err(|error| status::write(what, &error))
}

fn planned<T>(writes: RelationshipWrites<'_>, outcomes: T) -> Plan<T> {
    if writes.is_empty() {
        Plan::Nothing(outcomes)
    } else {
        Plan::Commit(writes.into_txn(), outcomes)
    }
}

/// What is answered for each relationship that was written.
struct Telling<'a> {
    services: &'a Services,
    caller: &'a Caller,
    /// What becomes of the relationships, and by which RPC.
    edit: (Edit, &'static str),
    mask: Option<&'a FederationRelationshipMask>,
}

impl Telling<'_> {
    fn told(
        &self,
        outcome: Item<Result<Written, Refusal>>,
        asked: &FederationRelationship,
        refused: impl FnOnce(Refusal) -> Status,
    ) -> (proto::spire::types::Status, Option<FederationRelationship>) {
        let (edit, method) = self.edit;
        match outcome.and_then(|written| written.map_err(refused)) {
            Err(status) => {
                let what = (method, asked.trust_domain.as_str());
                let status = status::refused_item(self.services, self.caller, what, &status);
                (status, None)
            }
            Ok((relationship, bundle)) => {
                let event = Event::Relationship(edit, &relationship.trust_domain);
                self.services.audit.record(self.caller, event);
                let message = to_proto(&relationship, bundle.as_ref(), self.mask);
                (status::ok(), Some(message))
            }
        }
    }
}
