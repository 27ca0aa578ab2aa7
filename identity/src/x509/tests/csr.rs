//! A request proves that its sender has the key, and says nothing else that counts.

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};

use crate::{
    key::{KeyAlgorithm, KeyError},
    testing::{dns, private, uri},
    x509::*,
};

fn request(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn accepts_every_kind_of_key_on_the_allow_list() {
    for (algorithm, expected) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, KeyAlgorithm::EcP256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, KeyAlgorithm::EcP384),
        (&rcgen::PKCS_ED25519, KeyAlgorithm::Ed25519),
        (&rcgen::PKCS_RSA_SHA256, KeyAlgorithm::Rsa(2048)),
        (&rcgen::PKCS_RSA_SHA512, KeyAlgorithm::Rsa(2048)),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let csr = Csr::parse_and_verify(&request(&key, |_| {})).unwrap();
        assert_eq!(csr.public_key().algorithm(), expected);
        assert_eq!(csr.public_key(), private(&key).public_key());
    }
}

#[test]
fn whatever_else_is_asked_for_only_the_key_and_the_names_come_out() {
    let key = KeyPair::generate().unwrap();
    let csr = Csr::parse_and_verify(&request(&key, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "root");
        params.subject_alt_names = vec![
            uri("spiffe://example.org/a"),
            uri("spiffe://example.org/b"),
            dns("a.example"),
            SanType::IpAddress([10, 0, 0, 1].into()),
        ];
    }))
    .unwrap();
    assert_eq!(csr.public_key(), private(&key).public_key());
    let uris: Vec<_> = csr.uris().collect();
    assert_eq!(
        uris,
        [
            Some("spiffe://example.org/a"),
            Some("spiffe://example.org/b")
        ]
    );
    assert_eq!(csr.dns_names(), ["a.example"]);
}

#[test]
fn a_request_for_somebody_elses_key_is_refused() {
    let (mine, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut der = request(&mine, |_| {});
    let point = mine.public_key_raw();
    let at = der
        .windows(point.len())
        .position(|window| window == point)
        .unwrap();
    der[at..at + point.len()].copy_from_slice(theirs.public_key_raw());
    assert_eq!(
        Csr::parse_and_verify(&der).unwrap_err(),
        CsrError::Signature(KeyError::Signature)
    );
}

#[test]
fn one_changed_bit_breaks_a_request() {
    let der = request(&KeyPair::generate().unwrap(), |_| {});
    for at in 0..der.len() {
        let mut damaged = der.clone();
        damaged[at] ^= 1;
        assert!(Csr::parse_and_verify(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn refuses_trailing_data_and_too_much_data() {
    let key = KeyPair::generate().unwrap();
    let longer = [request(&key, |_| {}), vec![0]].concat();
    assert_eq!(
        Csr::parse_and_verify(&longer).unwrap_err(),
        CsrError::TrailingData
    );
    let huge = request(&key, |params| {
        params.subject_alt_names = (0..2000).map(|n| dns(&format!("d{n}.example"))).collect();
    });
    assert!(huge.len() > MAX_CSR_BYTES);
    assert_eq!(
        Csr::parse_and_verify(&huge).unwrap_err(),
        CsrError::TooLarge
    );
    assert_eq!(Csr::parse_and_verify(&[]).unwrap_err(), CsrError::Malformed);
}

#[test]
fn a_request_of_another_version_is_refused() {
    let mut der = request(&KeyPair::generate().unwrap(), |_| {});
    let at = der
        .windows(3)
        .position(|window| window == [2, 1, 0])
        .unwrap();
    der[at + 2] = 1;
    assert_eq!(
        Csr::parse_and_verify(&der).unwrap_err(),
        CsrError::Malformed
    );
}

#[test]
fn a_key_on_p521_is_refused_before_its_signature() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let error = Csr::parse_and_verify(&request(&key, |_| {})).unwrap_err();
    assert_eq!(error, CsrError::PublicKey(KeyError::Weak));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_damaged_request_never_panics(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..8),
    ) {
        let mut der = request(&KeyPair::generate().unwrap(), |params| {
            params.subject_alt_names = vec![uri("spiffe://example.org/a")];
        });
        let at = at.index(der.len());
        der.splice(at..(at + bytes.len()).min(der.len()), bytes);
        let _ = Csr::parse_and_verify(&der);
    }
}
