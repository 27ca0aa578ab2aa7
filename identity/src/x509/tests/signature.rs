//! A certificate bears its signer's signature, and nothing else passes for that.

use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm};

use crate::{testing::Authority, x509::*};

#[test]
fn a_certificate_is_signed_by_its_issuer_alone() {
    let (root, other) = (
        Authority::root("example.org"),
        Authority::root("example.org"),
    );
    let leaf = root.leaf("spiffe://example.org/a");
    let signed_by = |signer: &Authority| leaf.signed_by(signer.certificate.public_key());
    assert_eq!(signed_by(&root), Signed::Yes);
    assert_eq!(signed_by(&other), Signed::No);
    assert_eq!(leaf.signed_by(leaf.public_key()), Signed::No);
    let key = root.certificate.public_key();
    assert_eq!(root.certificate.signed_by(key), Signed::Yes);
}

#[test]
fn keys_of_every_kind_are_told_apart() {
    let recorded = include_str!("../../../tests/data/spire_bundle.pem");
    let recorded = parse_pem_certificates(recorded).unwrap().remove(0);
    let kinds: [&'static SignatureAlgorithm; 2] = [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
    let mut roots = vec![recorded];
    roots.extend(kinds.map(self_signed));
    for root in &roots {
        for other in &roots {
            let expected = if root == other {
                Signed::Yes
            } else {
                Signed::No
            };
            assert_eq!(root.signed_by(other.public_key()), expected);
        }
    }
}

fn self_signed(kind: &'static SignatureAlgorithm) -> Certificate {
    let key = rcgen::KeyPair::generate_for(kind).unwrap();
    let root = rcgen::CertificateParams::default()
        .self_signed(&key)
        .unwrap();
    Certificate::parse(root.der()).unwrap()
}

#[test]
fn no_flipped_bit_of_a_certificate_keeps_its_signature() {
    let root = Authority::root("example.org");
    let leaf = root.leaf("spiffe://example.org/a");
    for bit in 0..leaf.der().len() * 8 {
        let mut damaged = leaf.der().to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(damaged) = Certificate::parse(&damaged) {
            let signed = damaged.signed_by(root.certificate.public_key());
            assert_eq!(signed, Signed::No, "bit {bit}");
        }
    }
}

#[test]
fn an_algorithm_that_is_not_checked_is_told_as_unknown() {
    let root = Authority::root("example.org").certificate;
    // ecdsa-with-SHA256, in both of its places, becomes ecdsa-with-SHA1.
    let known = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let mut der = root.der().to_vec();
    let places: Vec<_> = (0..der.len() - known.len())
        .filter(|at| der[*at..].starts_with(&known))
        .collect();
    assert_eq!(places.len(), 2);
    for at in places {
        der[at + known.len() - 1] = 7;
    }
    let old = Certificate::parse(&der).unwrap();
    assert_eq!(old.signed_by(old.public_key()), Signed::Unknown);
}
