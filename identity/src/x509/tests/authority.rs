//! Signing certificates that lead to a root, and those that do not.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose, date_time_ymd};

use super::super::*;
use crate::testing::{Authority, now};

fn chain(of: &[&Authority]) -> Vec<Certificate> {
    of.iter()
        .map(|authority| authority.certificate.clone())
        .collect()
}

/// A root, an authority below it, and one below that.
fn three(change: impl FnOnce(&mut CertificateParams)) -> [Authority; 3] {
    let root = Authority::root("example.org");
    let middle = root.intermediate(change);
    let low = middle.intermediate(|params| {
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "low");
    });
    [root, middle, low]
}

#[test]
fn a_chain_leads_to_the_root_that_signed_its_last_or_that_is_its_last() {
    let [root, middle, low] = three(|_| {});
    let other = Authority::root("example.org");
    let roots = chain(&[&other, &root]);
    for whole in [
        chain(&[&low, &middle]),
        chain(&[&middle]),
        chain(&[&root]),
        chain(&[&low, &middle, &root]),
    ] {
        assert_eq!(find_root(&whole, &roots, now()), Ok(&root.certificate));
    }
    for (broken, cause) in [
        (vec![], AuthorityError::Empty),
        (chain(&[&low]), AuthorityError::NoRoot),
        (
            chain(&[&middle, &low]),
            AuthorityError::NotSigned { place: 0 },
        ),
        (
            chain(&[&low, &root]),
            AuthorityError::NotSigned { place: 0 },
        ),
    ] {
        assert_eq!(find_root(&broken, &roots, now()), Err(cause));
    }
    // The same name, and another key.
    assert_eq!(
        find_root(&chain(&[&middle]), &chain(&[&other]), now()),
        Err(AuthorityError::NoRoot)
    );
    let long = vec![root.certificate; MAX_CHAIN + 1];
    assert!(matches!(
        find_root(&long, &roots, now()),
        Err(AuthorityError::TooLong { .. })
    ));
}

#[test]
fn what_may_not_sign_or_has_ended_leads_nowhere() {
    let place_1 = |change: fn(&mut CertificateParams)| {
        let [root, middle, low] = three(change);
        find_root(&chain(&[&low, &middle]), &chain(&[&root]), now()).map(|_| ())
    };
    assert_eq!(place_1(|_| {}), Ok(()));
    for (change, cause) in [
        (
            (|params| params.is_ca = IsCa::ExplicitNoCa) as fn(&mut CertificateParams),
            AuthorityError::MayNotSign { place: 1 },
        ),
        (
            |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            AuthorityError::MayNotSign { place: 1 },
        ),
        (
            |params| params.not_after = date_time_ymd(2026, 2, 1),
            AuthorityError::NotCurrent { place: 1 },
        ),
        (
            |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            AuthorityError::PathLength { place: 1 },
        ),
    ] {
        assert_eq!(place_1(change), Err(cause));
    }
}

#[test]
fn a_root_of_the_right_name_and_key_is_asked_the_same() {
    let root = Authority::root_with("example.org", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    });
    let middle = root.intermediate(|_| {});
    let low = middle.intermediate(|params| {
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "low");
    });
    let roots = chain(&[&root]);
    assert!(find_root(&chain(&[&middle]), &roots, now()).is_ok());
    assert_eq!(
        find_root(&chain(&[&low, &middle]), &roots, now()),
        Err(AuthorityError::PathLength { place: 2 })
    );
    let later = now() + Duration::from_secs(400 * 24 * 60 * 60);
    assert!(find_root(&chain(&[&root]), &roots, later).is_err());
}
