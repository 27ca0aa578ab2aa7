//! Who is believed to be the kubelet, and how the agent shows itself.

use std::path::PathBuf;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};

use super::super::{Authentication, Endpoint, Kubelet, KubeletError, KubeletOptions, Verification};
use super::{Bench, Ca, serving};

fn by(ca: Option<PathBuf>, pinned: Vec<PathBuf>) -> Verification {
    Verification::Auto { ca, pinned }
}

async fn outcome(kubelet: &Kubelet) -> &'static str {
    kubelet
        .snapshot()
        .await
        .as_ref()
        .err()
        .map_or("ok", KubeletError::reason)
}

fn secure(options: &mut KubeletOptions) -> &mut super::Secure {
    match &mut options.endpoint {
        Some(Endpoint::Secure(secure)) => secure,
        _ => panic!("not secure"),
    }
}

#[tokio::test]
async fn a_certificate_of_the_clusters_authority_must_have_the_nodes_name() {
    let bench = Bench::new();
    let ca = Ca::new();
    let authority = bench.write("ca.crt", &ca.pem);
    for (node, expected) in [("n1", "ok"), ("n2", "kubelet_certificate")] {
        let trust = by(Some(authority.clone()), Vec::new());
        let (_fake, options) = bench.secure(ca.kubelet(node).0, trust).await;
        assert_eq!(outcome(&bench.kubelet(&options)).await, expected, "{node}");
    }
}

#[tokio::test]
async fn without_a_name_the_authority_alone_is_checked() {
    let bench = Bench::new();
    let (ca, other) = (Ca::new(), Ca::new());
    let authority = bench.write("ca.crt", &ca.pem);
    for (signer, expected) in [(&ca, "ok"), (&other, "kubelet_certificate")] {
        let trust = by(Some(authority.clone()), Vec::new());
        let (_fake, mut options) = bench.secure(signer.kubelet("n2").0, trust).await;
        (secure(&mut options).address, secure(&mut options).node_name) = (None, None);
        assert_eq!(outcome(&bench.kubelet(&options)).await, expected);
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_believed_if_it_lies_on_the_node() {
    let bench = Bench::new();
    let ca = bench.write("ca.crt", &Ca::new().pem);
    let certificate = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
        let signed = params.self_signed(&key).unwrap();
        (serving(signed.der().clone(), &key), signed.pem())
    };
    let (own, pem) = certificate();
    let pinned = vec![bench.path("missing.pem"), bench.write("kubelet.crt", &pem)];
    let (_fake, options) = bench
        .secure(own, by(Some(ca.clone()), pinned.clone()))
        .await;
    assert_eq!(outcome(&bench.kubelet(&options)).await, "ok");

    // Another one of the same name is not.
    let (_fake, options) = bench.secure(certificate().0, by(Some(ca), pinned)).await;
    assert_eq!(
        outcome(&bench.kubelet(&options)).await,
        "kubelet_certificate"
    );
}

#[tokio::test]
async fn an_authority_behind_a_pinned_certificate_signs_for_nobody_else() {
    let bench = Bench::new();
    let ca = Ca::new();
    let (_, own) = ca.kubelet("n1");
    let pinned = bench.write("kubelet.crt", &format!("{own}{}", ca.pem));
    let (_fake, options) = bench
        .secure(ca.kubelet("n1").0, by(None, vec![pinned]))
        .await;
    assert_eq!(
        outcome(&bench.kubelet(&options)).await,
        "kubelet_certificate"
    );
}

#[tokio::test]
async fn with_nothing_to_check_by_nobody_is_asked() {
    let bench = Bench::new();
    let nothing = by(
        Some(bench.path("missing")),
        vec![bench.path("missing, too")],
    );
    let (fake, options) = bench.secure(Ca::new().kubelet("n1").0, nothing).await;
    assert_eq!(
        outcome(&bench.kubelet(&options)).await,
        "kubelet_credentials"
    );
    assert_eq!(fake.connections(), 0);
}

#[tokio::test]
async fn a_name_that_no_certificate_has_does_not_switch_the_check_off() {
    let bench = Bench::new();
    let ca = Ca::new();
    let authority = bench.write("ca.crt", &ca.pem);
    let (_fake, mut options) = bench
        .secure(ca.kubelet("n1").0, by(Some(authority), Vec::new()))
        .await;
    secure(&mut options).node_name = Some("not a name".to_owned());
    assert_eq!(outcome(&bench.kubelet(&options)).await, "kubelet_node_name");
}

#[tokio::test]
async fn verification_can_be_switched_off() {
    let bench = Bench::new();
    let (_fake, options) = bench
        .secure(Ca::new().kubelet("n2").0, Verification::Skip)
        .await;
    assert_eq!(outcome(&bench.kubelet(&options)).await, "ok");
}

#[tokio::test]
async fn a_refused_token_is_read_again() {
    let bench = Bench::new();
    let (fake, mut options) = bench
        .secure(Ca::new().kubelet("n1").0, Verification::Skip)
        .await;
    options.poll_retry_interval = Duration::ZERO;
    fake.know("second");
    let kubelet = bench.kubelet(&options);
    assert_eq!(outcome(&kubelet).await, "kubelet_unauthorized");
    bench.write("token", "second");
    assert_eq!(outcome(&kubelet).await, "ok");
    // The kubelet forgets it, and the file is replaced while the request is on its way.
    fake.know("third");
    bench.write("token", "third");
    assert_eq!(outcome(&kubelet).await, "ok");
}

#[tokio::test]
async fn an_empty_token_is_not_shown() {
    let bench = Bench::new();
    let (fake, options) = bench
        .secure(Ca::new().kubelet("n1").0, Verification::Skip)
        .await;
    bench.write("token", " \n");
    assert_eq!(
        outcome(&bench.kubelet(&options)).await,
        "kubelet_credentials"
    );
    assert_eq!(fake.requests(), 0);
}

#[tokio::test]
async fn a_client_certificate_takes_the_place_of_a_token() {
    let bench = Bench::new();
    let (fake, mut options) = bench
        .secure(Ca::new().kubelet("n1").0, Verification::Skip)
        .await;
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["agent".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    secure(&mut options).authentication = Authentication::Certificate {
        certificate: bench.write("own.pem", &own.pem()),
        private_key: bench.write("own.key", &key.serialize_pem()),
    };
    assert_eq!(outcome(&bench.kubelet(&options)).await, "ok");
    fake.know("a token");
    options.poll_retry_interval = Duration::ZERO;
    assert_eq!(
        outcome(&bench.kubelet(&options)).await,
        "kubelet_unauthorized"
    );
}

#[tokio::test]
async fn certificates_are_read_again_after_the_reload_interval() {
    let bench = Bench::new();
    let (fake, mut options) = bench
        .secure(Ca::new().kubelet("n1").0, Verification::Skip)
        .await;
    (options.poll_retry_interval, options.reload_interval) = (Duration::ZERO, Duration::ZERO);
    let kubelet = bench.kubelet(&options);
    assert_eq!(outcome(&kubelet).await, "ok");
    assert_eq!(outcome(&kubelet).await, "ok");
    assert_eq!(fake.connections(), 2);
}
