//! Federation relationships between the wire and the server.

use identity::bundle::Bundle;
use identity::spiffe_id::{SpiffeId, SpiffeIdError};
use identity::trust_domain::{TrustDomain, TrustDomainError};
use proto::spire::types;
use proto::spire::types::federation_relationship::BundleEndpointProfile;

use super::bundle::{self, BundleError};
use crate::federation::{Endpoint, EndpointUrl, Profile, Relationship, UrlError};

/// Why a relationship of a request cannot be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::api) enum RelationshipError {
    #[error("failed to parse trust domain")]
    TrustDomain(#[source] TrustDomainError),
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("unsupported bundle endpoint profile type: <nil>")]
    NoProfile,
    #[error("failed to parse endpoint SPIFFE ID")]
    EndpointId(#[source] SpiffeIdError),
    #[error("failed to parse bundle")]
    Bundle(#[source] BundleError),
    #[error("failed to parse bundle: trust domain argument is not valid")]
    BundleTrustDomain(#[source] TrustDomainError),
    /// A bundle is never stored under the name of another trust domain.
    #[error(
        "trust domain bundle ({bundle:?}) must match the trust domain of the federation relationship ({relationship:?})"
    )]
    OtherBundle {
        bundle: String,
        relationship: String,
    },
}

/// Reads a relationship, and the bundle that it begins with.
pub(in crate::api) fn from_proto(
    message: &types::FederationRelationship,
) -> Result<(Relationship, Option<Bundle>), RelationshipError> {
    let trust_domain =
        TrustDomain::parse(&message.trust_domain).map_err(RelationshipError::TrustDomain)?;
    let url = EndpointUrl::parse(&message.bundle_endpoint_url)?;
    let profile = match &message.bundle_endpoint_profile {
        None => return Err(RelationshipError::NoProfile),
        Some(BundleEndpointProfile::HttpsWeb(_)) => Profile::HttpsWeb,
        // SPIFFE Federation 5.2.2.2: the SPIFFE ID of the endpoint is known beforehand.
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => {
            let id = SpiffeId::parse(&profile.endpoint_spiffe_id);
            Profile::HttpsSpiffe(id.map_err(RelationshipError::EndpointId)?)
        }
    };
    let seed = message.trust_domain_bundle.as_ref();
    let seed = seed.map(|seed| of(&trust_domain, seed)).transpose()?;
    let endpoint = Endpoint { url, profile };
    Ok((
        Relationship {
            trust_domain,
            endpoint,
        },
        seed,
    ))
}

fn of(trust_domain: &TrustDomain, message: &types::Bundle) -> Result<Bundle, RelationshipError> {
    let named = TrustDomain::parse(&message.trust_domain);
    let named = named.map_err(RelationshipError::BundleTrustDomain)?;
    if named != *trust_domain {
        return Err(RelationshipError::OtherBundle {
            bundle: message.trust_domain.clone(),
            relationship: trust_domain.name().to_owned(),
        });
    }
    bundle::from_proto(named, message).map_err(RelationshipError::Bundle)
}

/// A relationship, as far as the mask asks for it. The trust domain is always there.
pub(in crate::api) fn to_proto(
    relationship: &Relationship,
    bundle: Option<&Bundle>,
    mask: Option<&types::FederationRelationshipMask>,
) -> types::FederationRelationship {
    let wants = |field: fn(&types::FederationRelationshipMask) -> bool| mask.is_none_or(field);
    let mut message = types::FederationRelationship {
        trust_domain: relationship.trust_domain.name().to_owned(),
        ..Default::default()
    };
    if wants(|mask| mask.bundle_endpoint_url) {
        message.bundle_endpoint_url = relationship.endpoint.url.as_str().to_owned();
    }
    if wants(|mask| mask.bundle_endpoint_profile) {
        message.bundle_endpoint_profile = Some(match &relationship.endpoint.profile {
            Profile::HttpsWeb => BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}),
            Profile::HttpsSpiffe(id) => {
                BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
                    endpoint_spiffe_id: id.as_str().to_owned(),
                })
            }
        });
    }
    if wants(|mask| mask.trust_domain_bundle) {
        message.trust_domain_bundle = bundle.map(|bundle| bundle::to_proto(bundle, None));
    }
    message
}
