//! Chains that must verify, and chains that must not.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyUsagePurpose, NameConstraints, date_time_ymd,
};

use crate::{
    bundle::Bundle,
    spiffe_id::SpiffeId,
    testing::{Authority, now, trust_domain},
    x509::*,
};

const ID: &str = "spiffe://example.org/a";

fn verify(chain: &[Certificate], bundle: &Bundle) -> Result<SpiffeId, VerifyError> {
    verify_at(chain, bundle, now())
}

fn verify_at(
    chain: &[Certificate],
    bundle: &Bundle,
    now: SystemTime,
) -> Result<SpiffeId, VerifyError> {
    let bundle_of = |name: &_| (*name == bundle.trust_domain).then_some(bundle);
    verify_peer(chain, Purpose::ClientAuth, bundle_of, now)
}

fn reason(verdict: Result<SpiffeId, VerifyError>) -> &'static str {
    verdict.unwrap_err().reason()
}

/// The verdict on a leaf of our profile, changed, below one root.
fn verify_leaf(change: impl FnOnce(&mut CertificateParams)) -> Result<SpiffeId, VerifyError> {
    let root = Authority::root("example.org");
    let (leaf, _) = root.leaf_with(ID, change);
    verify(&[leaf], &root.bundle("example.org"))
}

/// The verdict on a leaf below an intermediate, changed, below one root.
fn verify_below(change: impl FnOnce(&mut CertificateParams)) -> Result<SpiffeId, VerifyError> {
    let root = Authority::root("example.org");
    let between = root.intermediate(change);
    verify(
        &[between.leaf(ID), between.certificate],
        &root.bundle("example.org"),
    )
}

#[test]
fn accepts_up_to_two_intermediates_and_a_root_that_is_sent_along() {
    let root = Authority::root("example.org");
    let bundle = root.bundle("example.org");
    let one = root.intermediate(|_| {});
    let two = one.intermediate(|params| {
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationalUnitName, "two");
    });
    let leaf = two.leaf(ID);
    let (one, two, root) = (one.certificate, two.certificate, root.certificate);
    assert_eq!(
        verify(&[leaf.clone(), two.clone(), one.clone()], &bundle)
            .unwrap()
            .as_str(),
        ID
    );
    assert!(verify(&[leaf.clone(), two.clone(), one.clone(), root], &bundle).is_ok());
    assert!(
        verify(&[leaf.clone(), one, two.clone()], &bundle).is_ok(),
        "order does not matter"
    );
    assert_eq!(reason(verify(&[leaf, two], &bundle)), "no_path");
}

#[test]
fn adv_a_member_of_the_trust_domain_is_not_taken_for_another() {
    let root = Authority::root("example.org");
    let bundle = root.bundle("example.org");
    let expected = crate::testing::id(ID);
    let judge = |leaf: Certificate, bundle: &Bundle| {
        let chain = [leaf.der().clone()];
        verify_named_peer_der(&chain, Purpose::ServerAuth, bundle, &expected, now())
    };
    assert_eq!(judge(root.leaf(ID), &bundle), Ok(()));
    let other = judge(root.leaf("spiffe://example.org/b"), &bundle).unwrap_err();
    assert_eq!(other.reason(), "other_id");
    assert_eq!(
        other.to_string(),
        "it is `spiffe://example.org/b`, not `spiffe://example.org/a`"
    );
    // The same name, by the authority of another trust domain.
    let foreign = Authority::root("b.test");
    let refused = judge(foreign.leaf(ID), &foreign.bundle("b.test"));
    assert_eq!(refused.unwrap_err().reason(), "no_bundle");
}

#[test]
fn the_bundle_is_that_of_the_leafs_own_trust_domain() {
    let (a, b) = (Authority::root("a.test"), Authority::root("b.test"));
    let bundles = [a.bundle("a.test"), b.bundle("b.test")];
    let bundle_of = |name: &_| bundles.iter().find(|bundle| bundle.trust_domain == *name);
    let judge = |leaf| verify_peer(&[leaf], Purpose::ServerAuth, bundle_of, now());
    assert!(judge(a.leaf("spiffe://a.test/x")).is_ok());
    assert!(judge(b.leaf("spiffe://b.test/x")).is_ok());
    // Signed by an authority that is trusted, but for another trust domain.
    assert_eq!(reason(judge(b.leaf("spiffe://a.test/x"))), "no_path");
    assert_eq!(reason(judge(a.leaf("spiffe://c.test/x"))), "no_bundle");
}

#[test]
fn a_bundle_without_authorities_trusts_nobody() {
    let root = Authority::root("example.org");
    let empty = Bundle::new(trust_domain("example.org"));
    assert_eq!(reason(verify(&[root.leaf(ID)], &empty)), "no_path");
}

#[test]
fn tainted_authorities_are_trusted_until_they_are_revoked() {
    let root = Authority::root("example.org");
    let mut bundle = root.bundle("example.org");
    bundle.x509_authorities[0].tainted = true;
    assert!(verify(&[root.leaf(ID)], &bundle).is_ok());
}

#[test]
fn times_are_held_for_every_certificate_of_the_path() {
    let early = |p: &mut CertificateParams| p.not_after = date_time_ymd(2026, 5, 1);
    let late = |p: &mut CertificateParams| p.not_before = date_time_ymd(2026, 7, 1);
    assert_eq!(reason(verify_leaf(early)), "certificate_expired");
    assert_eq!(reason(verify_leaf(late)), "certificate_not_yet_valid");
    assert_eq!(reason(verify_below(early)), "certificate_expired");
    assert_eq!(reason(verify_below(late)), "certificate_not_yet_valid");
    for change in [early, late] {
        let root = Authority::root_with("example.org", change);
        assert_eq!(
            reason(verify(&[root.leaf(ID)], &root.bundle("example.org"))),
            "no_path"
        );
    }
}

#[test]
fn a_certificate_is_valid_through_its_last_second() {
    let root = Authority::root("example.org");
    let (leaf, _) = root.leaf_with(ID, |params| params.not_after = date_time_ymd(2026, 8, 1));
    let bundle = root.bundle("example.org");
    let end = leaf.validity().not_after();
    assert!(verify_at(std::slice::from_ref(&leaf), &bundle, end).is_ok());
    let after = end + Duration::from_secs(1);
    assert_eq!(
        reason(verify_at(std::slice::from_ref(&leaf), &bundle, after)),
        "certificate_expired"
    );
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    assert!(verify_at(&[leaf], &bundle, before_1970).is_err());
}

#[test]
fn the_key_of_the_issuer_counts_and_not_its_name() {
    let root = Authority::root("example.org");
    let impostor = Authority::root("example.org");
    assert_eq!(
        root.params.distinguished_name,
        impostor.params.distinguished_name
    );
    assert_eq!(
        reason(verify(&[impostor.leaf(ID)], &root.bundle("example.org"))),
        "no_path"
    );
}

#[test]
fn one_changed_bit_of_a_leaf_breaks_it() {
    let root = Authority::root("example.org");
    let bundle = root.bundle("example.org");
    let der = root.leaf(ID).der().to_vec();
    for at in 0..der.len() {
        let mut damaged = der.clone();
        damaged[at] ^= 1;
        let chain = [rustls_pki_types::CertificateDer::from(damaged)];
        let verdict = verify_peer_der(&chain, Purpose::ClientAuth, |_| Some(&bundle), now());
        assert!(verdict.is_err(), "byte {at}");
    }
}

#[test]
fn intermediates_must_be_allowed_to_sign() {
    assert!(verify_below(|_| {}).is_ok());
    assert_eq!(
        reason(verify_below(|p| p.is_ca = IsCa::ExplicitNoCa)),
        "no_path"
    );
    assert_eq!(reason(verify_below(|p| p.is_ca = IsCa::NoCa)), "no_path");
    let without_cert_sign =
        |p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::CrlSign];
    assert_eq!(reason(verify_below(without_cert_sign)), "no_path");
    let root = Authority::root_with("example.org", without_cert_sign);
    assert_eq!(
        reason(verify(&[root.leaf(ID)], &root.bundle("example.org"))),
        "no_path"
    );
}

#[test]
fn a_root_may_lack_basic_constraints_but_not_deny_to_be_an_authority() {
    for (is_ca, accepted) in [(IsCa::NoCa, true), (IsCa::ExplicitNoCa, false)] {
        let root = Authority::root_with("example.org", |params| params.is_ca = is_ca);
        let verdict = verify(&[root.leaf(ID)], &root.bundle("example.org"));
        assert_eq!(verdict.is_ok(), accepted);
    }
}

#[test]
fn a_leaf_does_not_sign_leaves() {
    let root = Authority::root("example.org");
    let (certificate, key) = root.leaf_with("spiffe://example.org/mallory", |_| {});
    let pair = rcgen::KeyPair::try_from(key.pkcs8_der()).unwrap();
    let params = crate::testing::leaf("spiffe://example.org/mallory");
    let mallory = Authority {
        params,
        key: pair,
        certificate,
    };
    let chain = [
        mallory.leaf("spiffe://example.org/victim"),
        mallory.certificate,
    ];
    assert_eq!(
        reason(verify(&chain, &root.bundle("example.org"))),
        "no_path"
    );
}

#[test]
fn path_lengths_are_held_by_roots_and_by_intermediates() {
    for (length, accepted) in [(0, false), (1, true)] {
        let root = Authority::root_with("example.org", |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        });
        let bundle = root.bundle("example.org");
        assert_eq!(root.certificate.path_length(), Some(u32::from(length)));
        assert!(verify(&[root.leaf(ID)], &bundle).is_ok(), "{length}");
        let between = root.intermediate(|_| {});
        let chain = [between.leaf(ID), between.certificate];
        assert_eq!(verify(&chain, &bundle).is_ok(), accepted, "{length}");
    }
    let root = Authority::root("example.org");
    let one = root.intermediate(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let two = one.intermediate(|params| {
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationalUnitName, "two");
    });
    let chain = [two.leaf(ID), two.certificate, one.certificate];
    assert_eq!(
        reason(verify(&chain, &root.bundle("example.org"))),
        "no_path"
    );
}

#[test]
fn extended_key_usage_is_held_by_the_peers_role() {
    let root = Authority::root("example.org");
    let bundle = root.bundle("example.org");
    let (server, _) = root.leaf_with(ID, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let judge = |purpose| {
        verify_peer(
            std::slice::from_ref(&server),
            purpose,
            |_| Some(&bundle),
            now(),
        )
    };
    assert!(judge(Purpose::ServerAuth).is_ok());
    assert_eq!(reason(judge(Purpose::ClientAuth)), "no_path");
    assert!(verify_leaf(|params| params.extended_key_usages.clear()).is_ok());
}

#[test]
fn an_unknown_critical_extension_is_refused() {
    let unknown = |critical| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(critical);
        move |params: &mut CertificateParams| params.custom_extensions = vec![extension]
    };
    assert!(verify_leaf(unknown(false)).is_ok());
    assert_eq!(reason(verify_leaf(unknown(true))), "no_path");
    assert_eq!(reason(verify_below(unknown(true))), "no_path");
}

/// webpki knows no URI constraints, so it refuses every certificate with a URI below one: never
/// ignored, also where the constraint would allow the name.
#[test]
fn a_uri_name_constraint_is_never_ignored() {
    // permittedSubtrees with the host `example.org`.
    let host = b"example.org";
    let length = u8::try_from(host.len()).unwrap();
    let base = [&[0x86, length], &host[..]].concat();
    let subtree = [&[0x30, length + 2], base.as_slice()].concat();
    let permitted = [&[0xa0, length + 4], subtree.as_slice()].concat();
    let content = [&[0x30, length + 6], permitted.as_slice()].concat();
    for critical in [true, false] {
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content.clone());
        extension.set_criticality(critical);
        let constrain = |params: &mut CertificateParams| {
            params.custom_extensions = vec![extension.clone()];
        };
        assert_eq!(
            reason(verify_below(constrain)),
            "no_path",
            "critical: {critical}"
        );
        let root = Authority::root_with("example.org", constrain);
        let bundle = root.bundle("example.org");
        assert_eq!(
            reason(verify(&[root.leaf(ID)], &bundle)),
            "no_path",
            "critical: {critical}"
        );
    }
}

#[test]
fn constraints_on_other_names_do_not_touch_a_spiffe_id() {
    let verdict = verify_below(|params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".to_owned())],
            excluded_subtrees: vec![],
        });
    });
    assert!(verdict.is_ok());
}

#[test]
fn a_signing_certificate_does_not_authenticate() {
    let root = Authority::root("example.org");
    let bundle = root.bundle("example.org");
    assert_eq!(
        reason(verify(std::slice::from_ref(&root.certificate), &bundle)),
        "leaf_is_ca"
    );
}

#[test]
fn every_algorithm_of_ours_makes_a_path() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA384,
        &rcgen::PKCS_RSA_SHA512,
    ] {
        let Authority { params, .. } = Authority::root("example.org");
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let certificate = Certificate::parse(params.self_signed(&key).unwrap().der()).unwrap();
        let root = Authority {
            params,
            key,
            certificate,
        };
        let verdict = verify(&[root.leaf(ID)], &root.bundle("example.org"));
        assert!(verdict.is_ok(), "{algorithm:?}: {verdict:?}");
    }
}

#[test]
fn a_chain_has_one_to_sixteen_certificates() {
    let root = Authority::root("example.org");
    let bundle = root.bundle("example.org");
    assert_eq!(reason(verify(&[], &bundle)), "chain_empty");
    let leaf = root.leaf(ID);
    let mut chain = vec![leaf];
    chain.resize(MAX_CHAIN, root.certificate.clone());
    assert!(verify(&chain, &bundle).is_ok());
    chain.push(root.certificate);
    assert_eq!(reason(verify(&chain, &bundle)), "chain_too_long");
    let ders: Vec<_> = chain
        .iter()
        .map(|certificate| certificate.der().clone())
        .collect();
    let verdict = verify_peer_der(&ders, Purpose::ClientAuth, |_| Some(&bundle), now());
    assert_eq!(reason(verdict), "chain_too_long");
}
