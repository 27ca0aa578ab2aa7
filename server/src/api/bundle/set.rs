//! `BatchSetFederatedBundle`: creates or replaces the bundles of other trust domains.

use std::collections::BTreeMap;

use identity::bundle::Bundle;
use identity::trust_domain::TrustDomain;
use proto::spire::server::bundle::{
    BatchSetFederatedBundleRequest, batch_set_federated_bundle_response,
};
use proto::spire::types;
use tonic::Status;

use super::super::Services;
use super::super::caller::Caller;
use super::super::convert::bundle::{from_proto, to_proto};
use super::super::status;
use crate::audit::Event;
use crate::index::Snapshot;
use crate::records::bundles::encode;
use crate::store::{Expect, Key, Txn};
use crate::writes::Plan;

pub(super) async fn set(
    services: &Services,
    caller: &Caller,
    request: BatchSetFederatedBundleRequest,
) -> Result<Vec<batch_set_federated_bundle_response::Result>, Status> {
    let read = |bundle| read(&services.trust_domain, bundle);
    let items: Vec<Result<Bundle, Status>> = request.bundle.iter().map(read).collect();
    // Of two bundles of one trust domain the later one stays, as if they came one after the other.
    let last: BTreeMap<&TrustDomain, &Bundle> = items
        .iter()
        .flatten()
        .map(|bundle| (&bundle.trust_domain, bundle))
        .collect();
    let outcome = services
        .writer
        .write(|snapshot| plan(snapshot, &last))
        .await;
    outcome.map_err(|error| status::write("failed to set bundle", &error))?;
    let mask = request.output_mask.as_ref();
    let result = |item: &Result<Bundle, Status>| {
        let (status, bundle) = match item {
            Err(status) => (status::item(status), None),
            Ok(bundle) => {
                services
                    .audit
                    .record(caller, Event::BundleSet(&bundle.trust_domain));
                (status::ok(), Some(to_proto(bundle, mask)))
            }
        };
        batch_set_federated_bundle_response::Result {
            status: Some(status),
            bundle,
        }
    };
    Ok(items.iter().map(result).collect())
}

fn plan(snapshot: &Snapshot, bundles: &BTreeMap<&TrustDomain, &Bundle>) -> Plan<()> {
    if bundles.is_empty() {
        return Plan::Nothing(());
    }
    let txn = bundles
        .iter()
        .fold(Txn::new(), |txn, (trust_domain, bundle)| {
            let key = Key::bundle(trust_domain);
            let before = snapshot
                .bundles
                .get(trust_domain)
                .map(|bundle| bundle.revision);
            txn.expect(key.clone(), Expect::seen(before))
                .put(key, encode(bundle))
        });
    Plan::Commit(txn, ())
}

fn read(own: &TrustDomain, bundle: &types::Bundle) -> Result<Bundle, Status> {
    let trust_domain = TrustDomain::parse(&bundle.trust_domain)
        .map_err(|error| status::invalid("trust domain argument is not valid", &error))?;
    // SPIFFE-ID 2.1.1: nobody else says which keys are ours.
    if trust_domain == *own {
        return Err(Status::invalid_argument(
            "setting a federated bundle for the server's own trust domain is not allowed",
        ));
    }
    from_proto(trust_domain, bundle)
        .map_err(|error| status::invalid("failed to convert bundle", &error))
}
