//! Facts about chains of any PKI.

use std::time::Duration;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};

use super::super::authorities_above;
use crate::testing::{Authority, leaf, now};
use crate::x509::Certificate;

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

fn above(chain: &[Certificate], roots: &[&Authority]) -> Result<Vec<String>, &'static str> {
    let roots: Vec<_> = roots.iter().map(|one| one.certificate.clone()).collect();
    let found = authorities_above(chain, &roots, now()).map_err(|error| error.reason())?;
    Ok(sorted(
        found.iter().map(Certificate::fingerprint_sha1).collect(),
    ))
}

fn names(of: &[&Authority]) -> Vec<String> {
    sorted(
        of.iter()
            .map(|one| one.certificate.fingerprint_sha1())
            .collect(),
    )
}

#[test]
fn tells_every_authority_on_the_way_whatever_the_certificate_is_for() {
    let root = Authority::root("example.org");
    let middle = root.intermediate(|_| {});
    let odd = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.subject_alt_names.clear();
    };
    let (leaf, _) = middle.leaf_with("spiffe://example.org/x", odd);
    let chain = [leaf, middle.certificate.clone()];
    assert_eq!(above(&chain, &[&root]), Ok(names(&[&root, &middle])));
    // The root may come along.
    let long = [chain.to_vec(), vec![root.certificate.clone()]].concat();
    assert_eq!(above(&long, &[&root]), Ok(names(&[&root, &middle])));
}

#[test]
fn tells_the_authorities_of_every_path() {
    let (one, other) = (Authority::root("one"), Authority::root("other"));
    let middle = one.intermediate(|_| {});
    // The same authority, certified by both roots.
    let crossed = other.sign(&middle.params, &middle.key);
    let chain = [
        middle.leaf("spiffe://example.org/x"),
        middle.certificate.clone(),
        crossed.clone(),
    ];
    let mut all = names(&[&one, &other, &middle]);
    all.push(crossed.fingerprint_sha1());
    assert_eq!(above(&chain, &[&one, &other]), Ok(sorted(all)));
    assert_eq!(above(&chain, &[&one]), Ok(names(&[&one, &middle])));
}

#[test]
fn adv_a_foreign_authority_of_the_same_name_certifies_nobody() {
    let (own, foreign) = (
        Authority::root("example.org"),
        Authority::root("example.org"),
    );
    assert_eq!(
        own.certificate.subject_der(),
        foreign.certificate.subject_der()
    );
    let chain = [foreign.leaf("spiffe://example.org/x")];
    assert_eq!(above(&chain, &[&own]), Err("no_path"));
    let chain = [chain[0].clone(), foreign.certificate];
    assert_eq!(above(&chain, &[&own]), Err("no_path"));
}

#[test]
fn refuses_what_is_over_and_who_may_not_sign() {
    let root = Authority::root("example.org");
    let (expired, _) = root.leaf_with("spiffe://example.org/x", |params| {
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 5, 31);
    });
    assert_eq!(above(&[expired], &[&root]), Err("certificate_expired"));
    let no_authority = root.intermediate(|params| params.is_ca = IsCa::ExplicitNoCa);
    let chain = [
        no_authority.leaf("spiffe://example.org/x"),
        no_authority.certificate,
    ];
    assert!(above(&chain, &[&root]).is_err());
    let narrow = Authority::root_with("example.org", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let middle = narrow.intermediate(|_| {});
    let chain = [middle.leaf("spiffe://example.org/x"), middle.certificate];
    assert!(above(&chain, &[&narrow]).is_err());
    let late = now() + Duration::from_secs(3600 * 24 * 365);
    let roots = [root.certificate.clone()];
    let leaf = root.leaf("spiffe://example.org/x");
    assert!(authorities_above(std::slice::from_ref(&leaf), &roots, now()).is_ok());
    assert!(authorities_above(&[leaf], &roots, late).is_err());
    assert!(authorities_above(&[], &roots, now()).is_err());
}

#[test]
fn reads_what_a_certificate_says_of_its_holder() {
    let root = Authority::root("example.org");
    let mut params = leaf("spiffe://example.org/x");
    params.serial_number = Some(vec![0x0a, 0x1b].into());
    let address = rcgen::SanType::IpAddress("192.0.2.7".parse().unwrap());
    params.subject_alt_names.push(address);
    let certificate = root.sign(&params, &KeyPair::generate().unwrap());
    assert_eq!(certificate.common_name().as_deref(), Some("leaf"));
    assert_eq!(certificate.serial_hex(), "0a1b");
    assert_eq!(certificate.ip_names(), [vec![192, 0, 2, 7]]);
    assert!(certificate.uri_names().eq(["spiffe://example.org/x"]));
    assert_eq!(certificate.fingerprint_sha1().len(), 40);
}
