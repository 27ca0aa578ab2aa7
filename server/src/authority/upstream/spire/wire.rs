//! What the server above answers, read.

use bytes::Bytes;
use identity::bundle::{Bundle, X509Authority};
use identity::trust_domain::{TrustDomain, TrustDomainError};
use identity::x509::{Certificate, CertificateError};
use proto::spire::types;
use runtime::report;
use tracing::debug;

use crate::api::convert::bundle::jwt_authority;

/// More certificates than any bundle has. SPIRE's servers add one for each authority of each server.
const MAX_CERTIFICATES: usize = 4096;

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it has {0} certificates, the maximum is {MAX_CERTIFICATES}")]
    TooMany(usize),
    #[error("a certificate is malformed")]
    Certificate(#[from] CertificateError),
    #[error("its bundle has a malformed trust domain")]
    TrustDomain(#[from] TrustDomainError),
    #[error("its bundle is that of `{0}`, another trust domain")]
    Foreign(TrustDomain),
    #[error("its bundle has no X.509 authority")]
    Empty,
}

pub(super) fn certificates(ders: &[Bytes]) -> Result<Vec<Certificate>, Unusable> {
    check_count(ders.len())?;
    let parsed = ders.iter().map(|der| Certificate::parse(der));
    Ok(parsed.collect::<Result<_, _>>()?)
}

/// Reads the bundle of `expected`, tainted authorities marked as such.
pub(super) fn bundle(message: &types::Bundle, expected: &TrustDomain) -> Result<Bundle, Unusable> {
    let found = TrustDomain::parse(&message.trust_domain)?;
    if found != *expected {
        return Err(Unusable::Foreign(found));
    }
    check_count(message.x509_authorities.len())?;
    let mut bundle = Bundle::new(found);
    for authority in &message.x509_authorities {
        bundle.add_x509_authority(X509Authority {
            certificate: Certificate::parse(&authority.asn1)?,
            tainted: authority.tainted,
        });
    }
    // A server that answers has one: what has none was cut or invented, and would revoke everything.
    if bundle.x509_authorities.is_empty() {
        return Err(Unusable::Empty);
    }
    for key in &message.jwt_authorities {
        match jwt_authority(key) {
            Ok(mut authority) => {
                authority.tainted = key.tainted;
                bundle.jwt_authorities.push(authority);
            }
            // A key of a kind that is not known here cannot validate any token.
            Err(error) => {
                debug!(
                    error = report::chain(&error),
                    "Passed over a JWT authority of the upstream server that cannot be used"
                );
            }
        }
    }
    bundle.sequence = message.sequence_number;
    Ok(bundle)
}

fn check_count(count: usize) -> Result<(), Unusable> {
    if count > MAX_CERTIFICATES {
        return Err(Unusable::TooMany(count));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use identity::key::PublicKey;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    fn own() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn message() -> types::Bundle {
        let key = KeyPair::generate().unwrap();
        let root = CertificateParams::default().self_signed(&key).unwrap();
        let jwt = |key_id: &str, public_key: &[u8]| types::JwtKey {
            key_id: key_id.to_owned(),
            public_key: Bytes::copy_from_slice(public_key),
            tainted: true,
            ..Default::default()
        };
        types::Bundle {
            trust_domain: "example.org".to_owned(),
            x509_authorities: vec![types::X509Certificate {
                asn1: Bytes::copy_from_slice(root.der()),
                tainted: true,
            }],
            jwt_authorities: vec![
                jwt("good", &key.subject_public_key_info()),
                jwt("odd", b"a key of the future"),
            ],
            ..Default::default()
        }
    }

    #[test]
    fn taints_are_read_and_keys_of_unknown_kinds_passed_over() {
        let read = bundle(&message(), &own()).unwrap();
        assert!(read.x509_authorities[0].tainted);
        let [key] = &read.jwt_authorities[..] else {
            panic!("{read:?}");
        };
        assert_eq!((key.key_id.as_str(), key.tainted), ("good", true));
        let spki = &message().jwt_authorities[0].public_key;
        assert!(PublicKey::from_spki_der(spki).is_ok());
    }

    #[test]
    fn adv_an_answer_that_is_no_bundle_of_ours_changes_nothing() {
        let refused = |change: fn(&mut types::Bundle)| {
            let mut message = message();
            change(&mut message);
            bundle(&message, &own()).unwrap_err().to_string()
        };
        let foreign = refused(|bundle| bundle.trust_domain = "evil.example".to_owned());
        assert!(foreign.contains("`evil.example`"), "{foreign}");
        // It would revoke everything that is tainted.
        let empty = refused(|bundle| bundle.x509_authorities.clear());
        assert!(empty.contains("no X.509 authority"), "{empty}");
        let cut = refused(|bundle| bundle.x509_authorities[0].asn1.truncate(40));
        assert!(cut.contains("malformed"), "{cut}");
        let many = refused(|bundle| {
            let one = bundle.x509_authorities[0].clone();
            bundle.x509_authorities = vec![one; MAX_CERTIFICATES + 1];
        });
        assert!(many.contains("4097"), "{many}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_certificates_or_an_error(ders in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..4)) {
            let ders: Vec<Bytes> = ders.into_iter().map(Bytes::from).collect();
            let _ = certificates(&ders);
        }
    }
}
