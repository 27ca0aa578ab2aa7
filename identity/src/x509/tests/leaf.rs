//! Leaves against the rules of X509-SVID 5.2, and against our own profile.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};

use crate::{
    testing::{Authority, dns, uri},
    x509::*,
};

const ID: &str = "spiffe://example.org/a";

type Change = fn(&mut CertificateParams);

/// A certificate of our profile, changed.
fn changed(change: Change) -> Certificate {
    Authority::root("example.org").leaf_with(ID, change).0
}

/// The extension SubjectAltName with one raw URI in it.
fn raw_uri(content: &[u8]) -> CustomExtension {
    let length = u8::try_from(content.len()).unwrap();
    let der = [&[0x30, length + 2, 0x86, length], content].concat();
    CustomExtension::from_oid_content(&[2, 5, 29, 17], der)
}

#[test]
fn refuses_what_x509_svid_5_2_refuses() {
    #[rustfmt::skip]
    let table: Vec<(Change, &str)> = vec![
        (|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "leaf_is_ca"),
        (|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign), "leaf_key_cert_sign"),
        (|p| p.key_usages.push(KeyUsagePurpose::CrlSign), "leaf_crl_sign"),
        (|p| p.subject_alt_names.push(uri("spiffe://example.org/b")), "leaf_many_uris"),
        (|p| p.subject_alt_names.push(uri(ID)), "leaf_many_uris"),
        (|p| p.subject_alt_names.push(uri("https://example.org/x")), "leaf_many_uris"),
        (|p| p.subject_alt_names.insert(0, uri("https://example.org/x")), "leaf_many_uris"),
        (|p| p.subject_alt_names.clear(), "leaf_no_uri"),
        (|p| p.subject_alt_names = vec![dns("a.example")], "leaf_no_uri"),
        (|p| p.subject_alt_names = vec![uri("https://example.org/x")], "scheme_invalid"),
        (|p| p.subject_alt_names = vec![uri("SPIFFE://example.org/x")], "scheme_invalid"),
        (|p| p.subject_alt_names = vec![uri("spiffe://Example.org/x")], "trust_domain_character"),
        (|p| p.subject_alt_names = vec![uri("spiffe://example.org/x/")], "path_trailing_slash"),
        (|p| p.subject_alt_names = vec![uri("spiffe://example.org/x%2Fy")], "path_character"),
        (|p| p.subject_alt_names = vec![uri("spiffe://example.org")], "leaf_no_path"),
    ];
    for (change, reason) in table {
        let certificate = changed(change);
        assert_eq!(check_peer_leaf(&certificate).unwrap_err().reason(), reason);
        assert_eq!(check_leaf(&certificate).unwrap_err().reason(), reason);
    }
}

#[test]
fn refuses_a_uri_that_is_not_ascii() {
    let (certificate, _) = Authority::root("example.org").leaf_with(ID, |params| {
        params.subject_alt_names.clear();
        params.custom_extensions = vec![raw_uri(b"spiffe://example.org/\xe4")];
    });
    assert_eq!(check_peer_leaf(&certificate), Err(LeafError::UriNotAscii));
}

#[test]
fn refuses_a_uri_with_a_null_byte_or_a_newline() {
    for raw in [
        &b"spiffe://example.org/a\0b"[..],
        b"spiffe://example.org/a\n",
    ] {
        let (certificate, _) = Authority::root("example.org").leaf_with(ID, |params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![raw_uri(raw)];
        });
        assert_eq!(
            check_peer_leaf(&certificate).unwrap_err().reason(),
            "path_character"
        );
    }
}

#[test]
fn accepts_every_combination_of_usages_that_x509_svid_4_3_allows() {
    use KeyUsagePurpose::{DigitalSignature, KeyAgreement, KeyEncipherment};
    for usages in [
        &[DigitalSignature][..],
        &[DigitalSignature, KeyEncipherment],
        &[DigitalSignature, KeyAgreement],
        &[DigitalSignature, KeyEncipherment, KeyAgreement],
    ] {
        let (certificate, _) = Authority::root("example.org")
            .leaf_with(ID, |params| params.key_usages = usages.to_vec());
        assert_eq!(check_leaf(&certificate).unwrap().as_str(), ID, "{usages:?}");
    }
}

#[test]
fn other_kinds_of_names_may_be_there_in_any_number() {
    let (certificate, _) = Authority::root("example.org").leaf_with(ID, |params| {
        params
            .subject_alt_names
            .extend((0..50).map(|n| dns(&format!("d{n}.example"))));
        params
            .subject_alt_names
            .push(SanType::IpAddress([127, 0, 0, 1].into()));
        params
            .subject_alt_names
            .push(SanType::Rfc822Name("a@example.org".try_into().unwrap()));
    });
    assert_eq!(check_leaf(&certificate).unwrap().as_str(), ID);
}

#[test]
fn a_leaf_whose_key_may_not_sign_is_refused() {
    let certificate = changed(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    assert_eq!(
        check_peer_leaf(&certificate),
        Err(LeafError::NoDigitalSignature)
    );
}

#[test]
fn peers_may_lack_what_our_own_leaves_must_have() {
    #[rustfmt::skip]
    let table: Vec<(Change, LeafError)> = vec![
        (|p| p.is_ca = IsCa::NoCa, LeafError::NoBasicConstraints),
        (|p| p.key_usages.clear(), LeafError::KeyUsageNotCritical),
        (|p| {
            p.key_usages.clear();
            // Not critical: digitalSignature.
            p.custom_extensions =
                vec![CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80])];
        }, LeafError::KeyUsageNotCritical),
        (|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
         LeafError::ExtendedKeyUsage),
        (|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
         LeafError::ExtendedKeyUsage),
    ];
    for (change, error) in table {
        let certificate = changed(change);
        assert!(check_peer_leaf(&certificate).is_ok(), "{error}");
        assert_eq!(check_leaf(&certificate), Err(error));
    }
}

#[test]
fn extended_key_usage_may_be_absent() {
    let certificate = changed(|p| p.extended_key_usages.clear());
    assert_eq!(check_leaf(&certificate).unwrap().as_str(), ID);
}
