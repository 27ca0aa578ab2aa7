//! Trust bundles, under `bundles/TRUST-DOMAIN`.

use std::time::Duration;

use bytes::Bytes;
use identity::{
    bundle::{Bundle, JwtAuthority, X509Authority},
    key::PublicKey,
    trust_domain::TrustDomain,
    x509::Certificate,
};
use prost::Message;
use proto::records::{StoredBundle, stored_bundle};

use super::{CodecError, from_seconds, to_seconds};

pub(crate) fn encode(bundle: &Bundle) -> Bytes {
    let x509 = |authority: &X509Authority| stored_bundle::X509Authority {
        der: Bytes::copy_from_slice(authority.certificate.der()),
        tainted: authority.tainted,
    };
    let jwt = |authority: &JwtAuthority| stored_bundle::JwtAuthority {
        key_id: authority.key_id.clone(),
        spki_der: Bytes::copy_from_slice(authority.public_key.spki_der()),
        expires_at: authority.expires_at.map(to_seconds),
        tainted: authority.tainted,
    };
    let stored = StoredBundle {
        trust_domain: bundle.trust_domain.name().to_owned(),
        x509_authorities: bundle.x509_authorities.iter().map(x509).collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(jwt).collect(),
        refresh_hint: bundle.refresh_hint.map(|hint| hint.as_secs()),
        sequence: bundle.sequence,
    };
    stored.encode_to_vec().into()
}

pub(crate) fn decode(value: &[u8]) -> Result<Bundle, CodecError> {
    let stored = StoredBundle::decode(value)?;
    let trust_domain =
        TrustDomain::parse(&stored.trust_domain).map_err(CodecError::field("trust_domain"))?;
    let x509 = stored.x509_authorities.iter().map(|authority| {
        let certificate =
            Certificate::parse(&authority.der).map_err(CodecError::field("x509_authorities"))?;
        Ok(X509Authority {
            certificate,
            tainted: authority.tainted,
        })
    });
    let jwt = stored.jwt_authorities.iter().map(|authority| {
        let public_key = PublicKey::from_spki_der(&authority.spki_der)
            .map_err(CodecError::field("jwt_authorities"))?;
        Ok(JwtAuthority {
            key_id: authority.key_id.clone(),
            public_key,
            expires_at: authority.expires_at.map(from_seconds),
            tainted: authority.tainted,
        })
    });
    Ok(Bundle {
        trust_domain,
        x509_authorities: x509.collect::<Result<_, CodecError>>()?,
        jwt_authorities: jwt.collect::<Result<_, CodecError>>()?,
        refresh_hint: stored.refresh_hint.map(Duration::from_secs),
        sequence: stored.sequence,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    fn bundle() -> Bundle {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let mut bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
        bundle.x509_authorities.push(X509Authority {
            certificate: Certificate::parse(certificate.der()).unwrap(),
            tainted: true,
        });
        for expires_at in [None, Some(UNIX_EPOCH + Duration::from_secs(1_800_000_000))] {
            bundle.jwt_authorities.push(JwtAuthority {
                key_id: format!("{expires_at:?}"),
                public_key: PublicKey::from_spki_der(&key.subject_public_key_info()).unwrap(),
                expires_at,
                tainted: false,
            });
        }
        bundle.refresh_hint = Some(Duration::from_secs(300));
        bundle.sequence = 7;
        bundle
    }

    #[test]
    fn a_bundle_comes_back_as_it_was_stored() {
        let bundle = bundle();
        assert_eq!(decode(&encode(&bundle)).unwrap(), bundle);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_bundle_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_damaged_bundle_is_a_bundle_or_an_error(at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut bytes = encode(&bundle()).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let _ = decode(&bytes);
        }
    }
}
