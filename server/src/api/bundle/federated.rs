//! The bundles of other trust domains. One batch is one commit; each item has a status of its own.

use identity::bundle::Bundle;
use identity::trust_domain::TrustDomain;
use proto::spire::server::bundle::batch_delete_federated_bundle_request::Mode as WireMode;
use proto::spire::server::bundle::{
    BatchCreateFederatedBundleRequest, BatchDeleteFederatedBundleRequest,
    BatchSetFederatedBundleRequest, BatchUpdateFederatedBundleRequest,
    batch_create_federated_bundle_response, batch_delete_federated_bundle_response,
    batch_set_federated_bundle_response, batch_update_federated_bundle_response,
};
use proto::spire::types;
use tonic::Status;

use super::super::Services;
use super::super::caller::Caller;
use super::super::convert::bundle::{from_proto, to_proto};
use super::super::status;
use crate::audit::{BundleTurn, Event};
use crate::index::Snapshot;
use crate::writes::WriteError;
use crate::writes::bundles::{BundleWrites, Entailed, MAX_ENTAILED_BYTES, Mode, Refusal, ahead};

// The paths of the RPCs, for the audit trail.
const CREATE: &str = "/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle";
const UPDATE: &str = "/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle";
const SET: &str = "/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle";
const DELETE: &str = "/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle";

/// An item that was read, or the status it is refused with already.
type Item<T> = Result<T, Status>;

pub(super) async fn create(
    services: &Services,
    caller: &Caller,
    request: BatchCreateFederatedBundleRequest,
) -> Result<Vec<batch_create_federated_bundle_response::Result>, Status> {
    let items = read_all(services, &request.bundle, "creating");
    let create = |writes: &mut BundleWrites<'_>, bundle: &Bundle| writes.create(bundle);
    let outcomes = write(services, "unable to create bundle", &items, create).await?;
    let answer = Answer::new(
        services,
        caller,
        (BundleTurn::Created, CREATE),
        request.output_mask.as_ref(),
    );
    let result = |(outcome, asked)| {
        let (status, bundle) = answer.of(outcome, asked);
        batch_create_federated_bundle_response::Result { status, bundle }
    };
    Ok(outcomes
        .into_iter()
        .zip(&request.bundle)
        .map(result)
        .collect())
}

pub(super) async fn update(
    services: &Services,
    caller: &Caller,
    request: BatchUpdateFederatedBundleRequest,
) -> Result<Vec<batch_update_federated_bundle_response::Result>, Status> {
    let items = read_all(services, &request.bundle, "updating");
    let mask = request.input_mask.as_ref();
    let update = |writes: &mut BundleWrites<'_>, bundle: &Bundle| {
        writes.update(&bundle.trust_domain, |stored| patch(stored, bundle, mask))
    };
    let outcomes = write(services, "failed to update bundle", &items, update).await?;
    let answer = Answer::new(
        services,
        caller,
        (BundleTurn::Updated, UPDATE),
        request.output_mask.as_ref(),
    );
    let result = |(outcome, asked)| {
        let (status, bundle) = answer.of(outcome, asked);
        batch_update_federated_bundle_response::Result { status, bundle }
    };
    Ok(outcomes
        .into_iter()
        .zip(&request.bundle)
        .map(result)
        .collect())
}

/// Creates or replaces. Of two bundles of one trust domain the later one stays.
pub(super) async fn set(
    services: &Services,
    caller: &Caller,
    request: BatchSetFederatedBundleRequest,
) -> Result<Vec<batch_set_federated_bundle_response::Result>, Status> {
    let items = read_all(services, &request.bundle, "setting");
    let set = |writes: &mut BundleWrites<'_>, bundle: &Bundle| Ok(writes.set(bundle));
    let outcomes = write(services, "failed to set bundle", &items, set).await?;
    let answer = Answer::new(
        services,
        caller,
        (BundleTurn::Set, SET),
        request.output_mask.as_ref(),
    );
    let result = |(outcome, asked)| {
        let (status, bundle) = answer.of(outcome, asked);
        batch_set_federated_bundle_response::Result { status, bundle }
    };
    Ok(outcomes
        .into_iter()
        .zip(&request.bundle)
        .map(result)
        .collect())
}

pub(super) async fn delete(
    services: &Services,
    caller: &Caller,
    request: BatchDeleteFederatedBundleRequest,
) -> Result<Vec<batch_delete_federated_bundle_response::Result>, Status> {
    let mode = mode(request.mode)?;
    let read = |name: &String| {
        let trust_domain = trust_domain(name)?;
        // Without our own bundle nobody could verify anybody.
        if trust_domain == services.trust_domain {
            return Err(Status::invalid_argument(
                "removing the bundle for the server trust domain is not allowed",
            ));
        }
        Ok(trust_domain)
    };
    let items: Vec<Item<TrustDomain>> = request.trust_domains.iter().map(read).collect();
    let remove = |writes: &mut BundleWrites<'_>, trust_domain: &TrustDomain| {
        let entailed = writes.delete(trust_domain, mode)?;
        Ok((trust_domain.clone(), entailed))
    };
    let what = "failed to delete federated bundle";
    let room = MAX_ENTAILED_BYTES / items.len().max(1);
    for trust_domain in items.iter().flatten() {
        clear_the_way(services, caller, trust_domain, mode, room)
            .await
            .map_err(|error| status::write(what, &error))?;
    }
    let outcomes = write(services, what, &items, remove).await?;
    let result = |(outcome, trust_domain): (Item<(TrustDomain, Entailed)>, String)| {
        let status = match outcome {
            Err(status) => status::refused_item(services, caller, (DELETE, &trust_domain), &status),
            Ok((trust_domain, entailed)) => {
                tell(services, caller, &trust_domain, &entailed);
                status::ok()
            }
        };
        batch_delete_federated_bundle_response::Result {
            status: Some(status),
            trust_domain,
        }
    };
    let outcomes = outcomes.into_iter().zip(request.trust_domains);
    Ok(outcomes.map(result).collect())
}

/// Lets entries go, or stay without the bundle, until those that are left fit into one commit with its
/// deletion.
async fn clear_the_way(
    services: &Services,
    caller: &Caller,
    trust_domain: &TrustDomain,
    mode: Mode,
    room: usize,
) -> Result<(), WriteError> {
    let plan = |snapshot: &Snapshot| ahead(snapshot, trust_domain, mode, room);
    while let Some(entailed) = services.writer.write(plan).await? {
        tell_entailed(services, caller, &entailed);
    }
    Ok(())
}

/// Applies the items that could be read, in order, and makes one transaction of what came of them.
async fn write<T, R>(
    services: &Services,
    what: &str,
    items: &[Item<T>],
    apply: impl Fn(&mut BundleWrites<'_>, &T) -> Result<R, Refusal>,
) -> Result<Vec<Item<R>>, Status> {
    let plan = |snapshot: &Snapshot| {
        let mut writes = BundleWrites::new(snapshot);
        let outcome = |item: &Item<T>| match item {
            Ok(item) => apply(&mut writes, item).map_err(status::bundle_refused),
            Err(status) => Err(status.clone()),
        };
        let outcomes = items.iter().map(outcome).collect();
        writes.into_plan(outcomes)
    };
    let outcomes = services.writer.write(plan).await;
    outcomes.map_err(|error| status::write(what, &error))
}

/// What is answered for each bundle that was written.
struct Answer<'a> {
    services: &'a Services,
    caller: &'a Caller,
    /// What becomes of the bundles, and by which RPC.
    turn: (BundleTurn, &'static str),
    mask: Option<&'a types::BundleMask>,
}

impl<'a> Answer<'a> {
    fn new(
        services: &'a Services,
        caller: &'a Caller,
        turn: (BundleTurn, &'static str),
        mask: Option<&'a types::BundleMask>,
    ) -> Self {
        Self {
            services,
            caller,
            turn,
            mask,
        }
    }

    fn of(
        &self,
        outcome: Item<Bundle>,
        asked: &types::Bundle,
    ) -> (Option<types::Status>, Option<types::Bundle>) {
        let (turn, method) = self.turn;
        match outcome {
            Err(status) => {
                let what = (method, asked.trust_domain.as_str());
                let status = status::refused_item(self.services, self.caller, what, &status);
                (Some(status), None)
            }
            Ok(bundle) => {
                let event = Event::Bundle(turn, &bundle.trust_domain);
                self.services.audit.record(self.caller, event);
                let bundle = to_proto(&bundle, self.mask);
                (Some(status::ok()), Some(bundle))
            }
        }
    }
}

fn tell(services: &Services, caller: &Caller, trust_domain: &TrustDomain, entailed: &Entailed) {
    tell_entailed(services, caller, entailed);
    let event = Event::Bundle(BundleTurn::Deleted, trust_domain);
    services.audit.record(caller, event);
}

fn tell_entailed(services: &Services, caller: &Caller, entailed: &Entailed) {
    for entry in &entailed.dissociated {
        services.audit.record(caller, Event::EntryUpdated(entry));
    }
    for entry in &entailed.deleted {
        services.audit.record(caller, Event::EntryDeleted(entry));
    }
}

/// Takes the fields that the mask names; none means all.
fn patch(stored: &mut Bundle, new: &Bundle, mask: Option<&types::BundleMask>) {
    let wants = |field: fn(&types::BundleMask) -> bool| mask.is_none_or(field);
    if wants(|mask| mask.x509_authorities) {
        stored.x509_authorities.clone_from(&new.x509_authorities);
    }
    if wants(|mask| mask.jwt_authorities) {
        stored.jwt_authorities.clone_from(&new.jwt_authorities);
    }
    if wants(|mask| mask.refresh_hint) {
        stored.refresh_hint = new.refresh_hint;
    }
    if wants(|mask| mask.sequence_number) {
        stored.sequence = new.sequence;
    }
}

fn mode(number: i32) -> Result<Mode, Status> {
    match WireMode::try_from(number) {
        Ok(WireMode::Restrict) => Ok(Mode::Restrict),
        Ok(WireMode::Dissociate) => Ok(Mode::Dissociate),
        Ok(WireMode::Delete) => Ok(Mode::Delete),
        Err(_) => Err(Status::invalid_argument(format!(
            "failed to parse deletion mode: unhandled delete mode \"{number}\""
        ))),
    }
}

fn read_all(services: &Services, bundles: &[types::Bundle], doing: &str) -> Vec<Item<Bundle>> {
    let own = &services.trust_domain;
    bundles
        .iter()
        .map(|bundle| read(own, bundle, doing))
        .collect()
}

fn read(own: &TrustDomain, bundle: &types::Bundle, doing: &str) -> Item<Bundle> {
    let trust_domain = trust_domain(&bundle.trust_domain)?;
    // SPIFFE-ID 2.1.1: nobody else says which keys are ours.
    if trust_domain == *own {
        return Err(Status::invalid_argument(format!(
            "{doing} a federated bundle for the server's own trust domain is not allowed"
        )));
    }
    from_proto(trust_domain, bundle)
        .map_err(|error| status::invalid("failed to convert bundle", &error))
}

fn trust_domain(name: &str) -> Item<TrustDomain> {
    TrustDomain::parse(name)
        .map_err(|error| status::invalid("trust domain argument is not valid", &error))
}
