//! What the old server has of other trust domains, by the calls that every operator has.

use std::collections::{BTreeMap, BTreeSet};

use proto::signet::server::Outcome;
use proto::spire::server::bundle::BatchSetFederatedBundleRequest;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::trustdomain::trust_domain_client::TrustDomainClient;
use proto::spire::server::trustdomain::{
    BatchCreateFederationRelationshipRequest, BatchUpdateFederationRelationshipRequest,
};
use proto::spire::types::{Bundle, FederationRelationship, Status};
use tonic::transport::Channel;

use super::pass::Doing;
use super::tally::Tally;
use crate::failure::Failure;
use crate::rpc;

/// Takes bundles over; one that was refreshed here since has a higher number, and stays.
pub(super) async fn bundles(
    ours: &Channel,
    there: &[Bundle],
    here: &[Bundle],
    doing: Doing,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let known: BTreeMap<&str, &Bundle> = by(here, |bundle| &bundle.trust_domain);
    let mut client = BundleClient::new(ours.clone());
    for bundle in there {
        let name = &bundle.trust_domain;
        let outcome = match known.get(name.as_str()) {
            None => Outcome::Created,
            Some(ours) if same_authorities(ours, bundle) => Outcome::Unchanged,
            Some(ours) if ours.sequence_number > bundle.sequence_number => Outcome::Kept,
            Some(_) => Outcome::Updated,
        };
        let mut status = None;
        if doing == Doing::Apply && is_written(outcome) {
            let request = BatchSetFederatedBundleRequest {
                bundle: vec![bundle.clone()],
                output_mask: None,
            };
            let answer = client.batch_set_federated_bundle(request).await;
            let answer = answer.map_err(|status| rpc::failed(&status).context(name))?;
            status = first(answer.into_inner().results, |result| result.status);
        }
        tally.done(outcome, name, status.as_ref());
    }
    Ok(())
}

/// Takes relationships over.
pub(super) async fn relationships(
    ours: &Channel,
    there: &[FederationRelationship],
    here: &[FederationRelationship],
    doing: Doing,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let known = by(here, |relationship| &relationship.trust_domain);
    let mut client = TrustDomainClient::new(ours.clone());
    for relationship in there {
        let name = &relationship.trust_domain;
        let outcome = match known.get(name.as_str()) {
            None => Outcome::Created,
            Some(ours) if *ours == relationship => Outcome::Unchanged,
            Some(_) => Outcome::Updated,
        };
        let status = match (doing, outcome) {
            (Doing::Apply, Outcome::Created) => create(&mut client, relationship).await,
            (Doing::Apply, Outcome::Updated) => update(&mut client, relationship).await,
            _ => Ok(None),
        };
        let status = status.map_err(|status| rpc::failed(&status).context(name))?;
        tally.done(outcome, name, status.as_ref());
    }
    Ok(())
}

async fn create(
    client: &mut TrustDomainClient<Channel>,
    relationship: &FederationRelationship,
) -> Result<Option<Status>, tonic::Status> {
    let request = BatchCreateFederationRelationshipRequest {
        federation_relationships: vec![relationship.clone()],
        output_mask: None,
    };
    let answer = client.batch_create_federation_relationship(request).await?;
    Ok(first(answer.into_inner().results, |result| result.status))
}

async fn update(
    client: &mut TrustDomainClient<Channel>,
    relationship: &FederationRelationship,
) -> Result<Option<Status>, tonic::Status> {
    let request = BatchUpdateFederationRelationshipRequest {
        federation_relationships: vec![relationship.clone()],
        ..BatchUpdateFederationRelationshipRequest::default()
    };
    let answer = client.batch_update_federation_relationship(request).await?;
    Ok(first(answer.into_inner().results, |result| result.status))
}

fn by<T>(items: &[T], name: fn(&T) -> &str) -> BTreeMap<&str, &T> {
    items.iter().map(|item| (name(item), item)).collect()
}

fn same_authorities(one: &Bundle, other: &Bundle) -> bool {
    let x509 = |bundle: &Bundle| -> BTreeSet<Vec<u8>> {
        let authorities = bundle.x509_authorities.iter();
        authorities
            .map(|authority| authority.asn1.to_vec())
            .collect()
    };
    let jwt = |bundle: &Bundle| -> BTreeSet<(String, Vec<u8>)> {
        let keys = bundle.jwt_authorities.iter();
        keys.map(|key| (key.key_id.clone(), key.public_key.to_vec()))
            .collect()
    };
    x509(one) == x509(other) && jwt(one) == jwt(other)
}

fn is_written(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Created | Outcome::Updated)
}

fn first<T>(results: Vec<T>, status: fn(T) -> Option<Status>) -> Option<Status> {
    results.into_iter().next().and_then(status)
}
