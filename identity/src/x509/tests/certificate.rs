//! Certificates are read whole, or refused.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use proptest::prelude::*;
use rcgen::{CustomExtension, SerialNumber};

use crate::{
    testing::{Authority, dns, private, uri},
    x509::*,
};

const SPIRE_PEM: &str = include_str!("../../../tests/data/spire_bundle.pem");

#[test]
fn reads_a_recorded_root_of_spire() {
    let root = &parse_pem_certificates(SPIRE_PEM).unwrap()[0];
    assert_eq!(root.to_pem(), SPIRE_PEM);
    assert_eq!(
        root.serial_decimal(),
        "320424873911668914577327657454526712347"
    );
    assert_eq!(root.spiffe_id().unwrap().as_str(), "spiffe://example.org");
    assert!(root.is_ca() && root.is_self_issued());
    assert_eq!(root.path_length(), None);
    let usage = root.key_usage().unwrap();
    assert!(usage.is_critical() && usage.key_cert_sign() && usage.crl_sign());
    assert!(!usage.digital_signature());
    let seconds = |time| UNIX_EPOCH + Duration::from_secs(time);
    assert_eq!(root.validity().not_before(), seconds(1_795_363_245));
    assert_eq!(root.validity().not_after(), seconds(1_795_449_655));
}

#[test]
fn reads_names_identifiers_and_serials() {
    let root = Authority::root("example.org");
    let (leaf, _) = root.leaf_with("spiffe://example.org/a", |params| {
        params.serial_number = Some(SerialNumber::from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0]));
        params.subject_alt_names.push(dns("a.example"));
        params.subject_alt_names.push(dns("*.b.example"));
    });
    assert_eq!(leaf.serial_decimal(), "18446744073709551616");
    assert_eq!(leaf.serial(), [1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(leaf.dns_names(), ["a.example", "*.b.example"]);
    assert_eq!(leaf.authority_key_id(), root.certificate.subject_key_id());
    assert!(!leaf.is_ca() && !leaf.is_self_issued());
}

#[test]
fn refuses_an_extension_that_appears_twice() {
    let root = Authority::root("example.org");
    let mut params = crate::testing::leaf("spiffe://example.org/a");
    // A second KeyUsage that would allow everything.
    params.custom_extensions = vec![CustomExtension::from_oid_content(
        &[2, 5, 29, 15],
        vec![3, 2, 0, 255],
    )];
    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_params(&root.params, &root.key);
    let der = params.signed_by(&key, &issuer).unwrap();
    assert_eq!(
        Certificate::parse(der.der()),
        Err(CertificateError::DuplicateExtension)
    );
}

#[test]
fn refuses_trailing_data_and_too_much_data() {
    let der = Authority::root("example.org").certificate.der().to_vec();
    let longer = [der.as_slice(), &[0]].concat();
    assert_eq!(
        Certificate::parse(&longer),
        Err(CertificateError::TrailingData)
    );
    assert_eq!(
        Certificate::parse(&der[..der.len() - 1]),
        Err(CertificateError::Malformed)
    );
    assert_eq!(Certificate::parse(&[]), Err(CertificateError::Malformed));
    // A sequence that claims a little more than 64 KiB, and has it.
    let mut huge = vec![0x30, 0x83, 0x01, 0x00, 0x10];
    huge.resize(5 + 0x1_0010, 0);
    assert_eq!(Certificate::parse(&huge), Err(CertificateError::TooLarge));
}

#[test]
fn refuses_more_extensions_than_anybody_needs() {
    let root = Authority::root("example.org");
    let issuer = rcgen::Issuer::from_params(&root.params, &root.key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = crate::testing::leaf("spiffe://example.org/a");
    params.custom_extensions = (1..=100)
        .map(|n| CustomExtension::from_oid_content(&[1, 3, n], vec![5, 0]))
        .collect();
    let der = params.signed_by(&key, &issuer).unwrap();
    assert_eq!(
        Certificate::parse(der.der()),
        Err(CertificateError::TooManyExtensions)
    );
}

#[test]
fn a_pem_text_that_was_damaged_does_not_lose_a_certificate() {
    let text = SPIRE_PEM.repeat(2);
    assert_eq!(parse_pem_certificates(&text).unwrap().len(), 2);
    for end in 1..text.trim_end().len() {
        // Cut between the two, it is a text of one certificate. A lone marker of five dashes is
        // what a text of one certificate may end with as well.
        let between = (SPIRE_PEM.trim_end().len()..=SPIRE_PEM.len()).contains(&end);
        let dashes = end == SPIRE_PEM.len() + 5;
        let read = parse_pem_certificates(text.get(..end).unwrap());
        assert_eq!(read.is_ok(), between || dashes, "cut at {end}");
    }
    for at in 0..text.len() {
        let mut damaged = text.clone().into_bytes();
        damaged[at] ^= 1;
        let damaged = String::from_utf8(damaged).unwrap();
        if let Ok(read) = parse_pem_certificates(&damaged) {
            assert_eq!(read.len(), 2, "changed at {at}");
        }
    }
}

#[test]
fn a_list_of_certificates_keeps_its_order_and_its_limit() {
    let certificates: Vec<_> = (0..20)
        .map(|_| Authority::root("example.org").certificate)
        .collect();
    let der: Vec<u8> = certificates
        .iter()
        .flat_map(|one| one.der().to_vec())
        .collect();
    assert_eq!(parse_concatenated_der(&der).unwrap(), certificates);
    assert_eq!(
        parse_pem_certificates(&to_pem(&certificates)).unwrap(),
        certificates
    );
    assert_eq!(parse_concatenated_der(&[]).unwrap(), []);
    assert!(parse_concatenated_der(&der[..der.len() - 1]).is_err());
    let many = der.repeat(MAX_LIST_BYTES / der.len() + 1);
    assert_eq!(
        parse_concatenated_der(&many),
        Err(CertificateError::TooLarge)
    );
    let text = to_pem(&certificates).repeat(MAX_LIST_BYTES / (20 * 400) + 1);
    assert_eq!(
        parse_pem_certificates(&text),
        Err(CertificateError::TooLarge)
    );
}

#[test]
fn an_svid_needs_a_leaf_of_our_profile_and_its_key() {
    let root = Authority::root("example.org");
    let between = root.intermediate(|_| {});
    let (leaf, key) = between.leaf_with("spiffe://example.org/a", |_| {});
    let chain = vec![leaf.clone(), between.certificate.clone()];
    let svid = X509Svid::new(chain.clone(), Arc::clone(&key)).unwrap();
    assert_eq!(svid.id().as_str(), "spiffe://example.org/a");
    assert_eq!((svid.leaf(), svid.chain()), (&leaf, chain.as_slice()));
    assert_eq!(svid.validity(), leaf.validity());
    // Of the authority in the bundle, not of the one between.
    assert_eq!(svid.authority_key_id(), root.certificate.subject_key_id());
    assert_eq!(parse_concatenated_der(&svid.chain_der()).unwrap(), chain);
    assert_eq!(parse_pem_certificates(&svid.chain_pem()).unwrap(), chain);
    assert!(!format!("{svid:?}").contains("pkcs8"));

    let reason = |chain: &[Certificate], key: &Arc<_>| {
        X509Svid::new(chain.to_vec(), Arc::clone(key))
            .unwrap_err()
            .reason()
    };
    let other = private(&rcgen::KeyPair::generate().unwrap());
    assert_eq!(reason(&chain, &other), "svid_key_mismatch");
    assert_eq!(reason(&[], &key), "svid_empty");
    assert_eq!(reason(&[leaf.clone(), leaf.clone()], &key), "svid_not_ca");
    assert_eq!(
        reason(std::slice::from_ref(&between.certificate), &key),
        "leaf_is_ca"
    );
    assert_eq!(reason(&vec![leaf; MAX_CHAIN + 1], &key), "svid_too_long");
}

#[test]
fn a_root_may_have_any_names() {
    // The appendix of the bundle document prints a trailing slash that the grammar forbids.
    for names in [
        vec![],
        vec!["spiffe://example.org/"],
        vec!["spiffe://a.test", "https://b"],
    ] {
        let root = Authority::root_with("example.org", |params| {
            params.subject_alt_names = names.iter().map(|name| uri(name)).collect();
        });
        let leaf = root.leaf("spiffe://example.org/a");
        let bundle = root.bundle("example.org");
        let verdict = verify_peer(
            &[leaf],
            Purpose::ServerAuth,
            |_| Some(&bundle),
            crate::testing::now(),
        );
        assert!(verdict.is_ok(), "{names:?}");
    }
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Certificate::parse(&bytes);
        let _ = Csr::parse_and_verify(&bytes);
        let _ = parse_concatenated_der(&bytes);
        let _ = parse_pem_certificates(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_damaged_certificate_never_panics_and_keeps_its_bytes(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut der = parse_pem_certificates(SPIRE_PEM).unwrap()[0].der().to_vec();
        let at = at.index(der.len());
        der[at] = byte;
        if let Ok(certificate) = Certificate::parse(&der) {
            prop_assert_eq!(certificate.der().as_ref(), der.as_slice());
            let _ = check_leaf(&certificate);
            let chain = [certificate.der().clone()];
            let none = |_: &_| None::<crate::bundle::Bundle>;
            prop_assert!(
                verify_peer_der(&chain, Purpose::ClientAuth, none, crate::testing::now()).is_err()
            );
        }
    }
}
