//! Federation relationships, under `relationships/TRUST-DOMAIN`.

use bytes::Bytes;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use prost::Message;
use proto::records::StoredRelationship;
use proto::records::stored_relationship::Profile as StoredProfile;

use super::CodecError;
use crate::federation::{Endpoint, EndpointUrl, Profile, Relationship};

/// The profile is none that this version knows: whom to trust must not be guessed.
#[derive(Debug, thiserror::Error)]
#[error("unknown profile {0}")]
struct UnknownProfile(i32);

pub(crate) fn encode(relationship: &Relationship) -> Bytes {
    let (profile, endpoint_spiffe_id) = match &relationship.endpoint.profile {
        Profile::HttpsWeb => (StoredProfile::HttpsWeb, String::new()),
        Profile::HttpsSpiffe(id) => (StoredProfile::HttpsSpiffe, id.as_str().to_owned()),
    };
    let stored = StoredRelationship {
        trust_domain: relationship.trust_domain.name().to_owned(),
        bundle_endpoint_url: relationship.endpoint.url.as_str().to_owned(),
        profile: profile.into(),
        endpoint_spiffe_id,
    };
    stored.encode_to_vec().into()
}

pub(crate) fn decode(value: &[u8]) -> Result<Relationship, CodecError> {
    let stored = StoredRelationship::decode(value)?;
    let profile = match StoredProfile::try_from(stored.profile) {
        Ok(StoredProfile::HttpsWeb) => Profile::HttpsWeb,
        Ok(StoredProfile::HttpsSpiffe) => {
            let id = SpiffeId::parse(&stored.endpoint_spiffe_id);
            Profile::HttpsSpiffe(id.map_err(CodecError::field("endpoint_spiffe_id"))?)
        }
        Ok(StoredProfile::Unspecified) | Err(_) => {
            return Err(CodecError::field("profile")(UnknownProfile(stored.profile)));
        }
    };
    Ok(Relationship {
        trust_domain: TrustDomain::parse(&stored.trust_domain)
            .map_err(CodecError::field("trust_domain"))?,
        endpoint: Endpoint {
            url: EndpointUrl::parse(&stored.bundle_endpoint_url)
                .map_err(CodecError::field("bundle_endpoint_url"))?,
            profile,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relationship(profile: Profile) -> Relationship {
        Relationship {
            trust_domain: TrustDomain::parse("fed.org").unwrap(),
            endpoint: Endpoint {
                url: EndpointUrl::parse("https://fed.org:8443/b").unwrap(),
                profile,
            },
        }
    }

    fn https_spiffe() -> Relationship {
        let id = SpiffeId::parse("spiffe://fed.org/spire/server").unwrap();
        relationship(Profile::HttpsSpiffe(id))
    }

    #[test]
    fn a_relationship_comes_back_as_it_was_stored() {
        for relationship in [relationship(Profile::HttpsWeb), https_spiffe()] {
            assert_eq!(decode(&encode(&relationship)).unwrap(), relationship);
        }
    }

    #[test]
    fn a_relationship_is_read_as_the_first_version_wrote_it() {
        let written = b"\x0a\x07fed.org\x12\x16https://fed.org:8443/b\x18\x02\x22\x1dspiffe://fed.org/spire/server";
        assert_eq!(decode(written).unwrap(), https_spiffe());
        assert_eq!(encode(&https_spiffe())[..], written[..]);
    }

    #[test]
    fn a_profile_of_a_later_version_is_not_taken_for_another() {
        let mut written = encode(&relationship(Profile::HttpsWeb)).to_vec();
        let at = written.len() - 1;
        written[at] = 9;
        let error = decode(&written).unwrap_err();
        assert!(
            matches!(
                error,
                CodecError::Field {
                    field: "profile",
                    ..
                }
            ),
            "{error:?}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_relationship_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
