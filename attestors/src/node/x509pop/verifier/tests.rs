//! Facts about nodes that prove themselves by a certificate, and about those who pretend to.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, SanType, date_time_ymd,
};
use tempfile::TempDir;

use super::super::{Holder, Prover, VerifyError};
use super::*;
use crate::node::{Decision, Lasting, Refusal};

const PREFIX: &str = "/spire-exchange/";

/// The start of 2026-06-01.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_272_000)
}

fn own() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    fn signing(name: &str) -> CertificateParams {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    fn root(name: &str) -> Self {
        let (params, key) = (Self::signing(name), KeyPair::generate().unwrap());
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (Self::signing(name), KeyPair::generate().unwrap());
        let pem = self.sign(&params, &key);
        Self { params, key, pem }
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> String {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().pem()
    }

    fn certificate(&self) -> Certificate {
        identity::x509::parse_pem_certificates(&self.pem)
            .unwrap()
            .remove(0)
    }
}

fn leaf(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A node with its files.
struct Node(TempDir);

impl Node {
    fn new(chain: &str, key: &KeyPair) -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        std::fs::write(node.path("cert.pem"), chain).unwrap();
        std::fs::write(node.path("key.pem"), key.serialize_pem()).unwrap();
        node
    }

    fn of(authority: &Authority, params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::new(&authority.sign(params, &key), &key)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::join(self.0.path(), name)
    }

    fn prover(&self) -> Prover {
        Prover {
            private_key_path: self.path("key.pem"),
            certificate_path: self.path("cert.pem"),
            intermediates_path: None,
        }
    }

    fn load(&self) -> Holder {
        self.prover().load().unwrap()
    }
}

fn options(trust: Trust) -> Options {
    Options {
        template: template(None, &trust).unwrap(),
        trust,
        max_intermediates: 4,
        max_rsa_bits: 8192,
        verify_client_ip: false,
    }
}

fn verifier(authority: &Authority, change: impl FnOnce(&mut Options)) -> Verifier {
    let mut options = options(Trust::Roots(vec![authority.certificate()]));
    change(&mut options);
    Verifier::new(own(), options)
}

fn at(authorities: &[Certificate]) -> Circumstances<'_> {
    Circumstances {
        now: now(),
        from: Some("192.0.2.7".parse().unwrap()),
        authorities,
    }
}

fn attest(verifier: &Verifier, holder: &Holder) -> Result<Attested, VerifyError> {
    let challenged = verifier.begin(holder.payload(), at(&[]))?;
    let answer = holder.answer(&challenged.challenge()).unwrap();
    challenged.conclude(&answer)
}

fn refusal(outcome: Result<Attested, VerifyError>) -> (&'static str, Decision) {
    let error = outcome.unwrap_err();
    (error.reason(), error.decision())
}

fn values(attested: &Attested) -> Vec<String> {
    attested
        .selectors()
        .iter()
        .map(|one| one.value().to_owned())
        .collect()
}

#[test]
fn a_node_is_known_by_its_certificate_and_by_all_above_it() {
    let root = Authority::root("root");
    let middle = root.below("middle");
    let mut params = leaf("host.example.org");
    params.serial_number = Some(vec![0x0a, 0x1b, 0x2c].into());
    params.subject_alt_names = vec![
        uri("x509pop://example.org/zone/a/b"),
        uri("x509pop://other.org/zone/c"),
        uri("x509pop://example.org/alone"),
    ];
    let key = KeyPair::generate().unwrap();
    let node = Node::new(&(middle.sign(&params, &key) + &middle.pem), &key);
    let attested = attest(&verifier(&root, |_| {}), &node.load()).unwrap();
    let chain = std::fs::read_to_string(node.path("cert.pem")).unwrap();
    let leaf = identity::x509::parse_pem_certificates(&chain)
        .unwrap()
        .remove(0);
    assert_eq!(
        attested.agent_id().path(),
        format!("/spire/agent/x509pop/{}", leaf.fingerprint_sha1())
    );
    let mut expected = vec![
        "subject:cn:host.example.org".to_owned(),
        format!("ca:fingerprint:{}", root.certificate().fingerprint_sha1()),
        format!("ca:fingerprint:{}", middle.certificate().fingerprint_sha1()),
        "serialnumber:0a1b2c".to_owned(),
        "san:zone:a/b".to_owned(),
    ];
    expected.sort();
    assert_eq!(values(&attested), expected);
    assert_eq!(attested.lasting(), Lasting::Repeatable);
}

#[test]
fn every_kind_of_key_that_the_agent_has_is_taken() {
    let root = Authority::root("root");
    for key in [
        KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA256).unwrap(),
    ] {
        let node = Node::new(&root.sign(&leaf("host"), &key), &key);
        let outcome = attest(&verifier(&root, |_| {}), &node.load());
        assert!(outcome.is_ok(), "{:?}: {outcome:?}", key.algorithm());
    }
    for key in [
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
    ] {
        let node = Node::new(&root.sign(&leaf("host"), &key), &key);
        assert_eq!(node.prover().load().unwrap_err().reason(), "key_algorithm");
    }
}

#[test]
fn an_operator_has_agents_called_after_what_the_certificate_says() {
    let root = Authority::root("root");
    let mut params = leaf("host");
    params.subject_alt_names = vec![
        uri("x509pop://example.org/zone/a"),
        SanType::DnsName("n1".try_into().unwrap()),
    ];
    let node = Node::of(&root, &params);
    let text = "/cn/{{ .Subject.CommonName }}/{{ .URISanSelectors.zone }}/{{ index .DNSNames 0 }}";
    let verifier = verifier(&root, |options| {
        options.template = template(Some(text), &options.trust).unwrap();
    });
    let attested = attest(&verifier, &node.load()).unwrap();
    assert_eq!(attested.agent_id().path(), "/spire/agent/cn/host/a/n1");
}

#[test]
fn adv_a_name_in_a_certificate_takes_no_agent_of_another_attestor() {
    let root = Authority::root("root");
    let node = Node::of(&root, &leaf("join_token/6e7ca5e0"));
    let verifier = verifier(&root, |options| {
        let text = Some("/{{ .Subject.CommonName }}");
        options.template = template(text, &options.trust).unwrap();
    });
    let outcome = attest(&verifier, &node.load());
    assert_eq!(refusal(outcome).0, "outside_namespace");
}

#[test]
fn adv_a_response_to_an_earlier_challenge_is_refused() {
    let root = Authority::root("root");
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    for node in [
        Node::of(&root, &leaf("host")),
        Node::new(&root.sign(&leaf("host"), &key), &key),
    ] {
        let (holder, verifier) = (node.load(), verifier(&root, |_| {}));
        let begin = || verifier.begin(holder.payload(), at(&[])).unwrap();
        let first = begin();
        let answer = holder.answer(&first.challenge()).unwrap();
        assert!(first.conclude(&answer).is_ok());
        let expected = ("signature_invalid", Decision::Denied);
        assert_eq!(refusal(begin().conclude(&answer)), expected);
    }
}

#[test]
fn adv_a_signature_by_another_key_is_refused() {
    let root = Authority::root("root");
    let (node, thief) = (Node::of(&root, &leaf("a")), Node::of(&root, &leaf("b")));
    let challenged = verifier(&root, |_| {});
    let challenged = challenged.begin(node.load().payload(), at(&[])).unwrap();
    let answer = thief.load().answer(&challenged.challenge()).unwrap();
    let refused = refusal(challenged.conclude(&answer));
    assert_eq!(refused, ("signature_invalid", Decision::Denied));
    // One whose files do not fit notices it himself.
    std::fs::copy(thief.path("key.pem"), node.path("key.pem")).unwrap();
    assert_eq!(node.prover().load().unwrap_err().reason(), "key_mismatch");
}

#[test]
fn adv_a_foreign_authority_with_the_name_of_ours_certifies_nobody() {
    let (root, foreign) = (Authority::root("root"), Authority::root("root"));
    let key = KeyPair::generate().unwrap();
    let chain = foreign.sign(&leaf("host"), &key) + &foreign.pem;
    let outcome = attest(&verifier(&root, |_| {}), &Node::new(&chain, &key).load());
    assert_eq!(refusal(outcome), ("no_path", Decision::Denied));
}

#[test]
fn adv_too_many_intermediates_are_not_even_parsed() {
    let root = Authority::root("root");
    let key = KeyPair::generate().unwrap();
    let chain = root.sign(&leaf("host"), &key) + &root.pem.repeat(5);
    let node = Node::new(&chain, &key);
    let outcome = attest(&verifier(&root, |_| {}), &node.load());
    let expected = ("too_many_intermediates", Decision::Malformed);
    assert_eq!(refusal(outcome), expected);
    let outcome = attest(
        &verifier(&root, |options| options.max_intermediates = 5),
        &node.load(),
    );
    assert!(outcome.is_ok());
}

#[test]
fn adv_a_key_that_costs_too_much_is_refused_before_anything_is_computed() {
    let (root, foreign) = (Authority::root("root"), Authority::root("foreign"));
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    // The signature on it is not looked at: it is of a stranger.
    let node = Node::new(&foreign.sign(&leaf("host"), &key), &key);
    let small = verifier(&root, |options| options.max_rsa_bits = 2047);
    let expected = ("key_too_large", Decision::Malformed);
    assert_eq!(refusal(attest(&small, &node.load())), expected);
    let outcome = attest(&verifier(&root, |_| {}), &node.load());
    assert_eq!(refusal(outcome).0, "no_path");
}

#[test]
fn adv_an_expired_certificate_is_refused() {
    let root = Authority::root("root");
    let mut params = leaf("host");
    params.not_after = date_time_ymd(2026, 5, 31);
    let outcome = attest(&verifier(&root, |_| {}), &Node::of(&root, &params).load());
    assert_eq!(refusal(outcome), ("certificate_expired", Decision::Denied));
}

#[test]
fn a_certificate_that_is_not_for_signatures_is_not_challenged() {
    let root = Authority::root("root");
    for usages in [vec![], vec![KeyUsagePurpose::KeyEncipherment]] {
        let mut params = leaf("host");
        params.key_usages = usages;
        let outcome = attest(&verifier(&root, |_| {}), &Node::of(&root, &params).load());
        assert_eq!(refusal(outcome).0, "certificate_not_for_signatures");
    }
}

#[test]
fn an_agent_calls_from_an_address_of_its_certificate_where_that_is_asked() {
    let root = Authority::root("root");
    for (address, reason) in [
        ("192.0.2.7", None),
        ("192.0.2.8", Some("address_not_certified")),
    ] {
        let mut params = leaf("host");
        params.subject_alt_names = vec![SanType::IpAddress(address.parse().unwrap())];
        let node = Node::of(&root, &params);
        let strict = verifier(&root, |options| options.verify_client_ip = true);
        let outcome = attest(&strict, &node.load());
        assert_eq!(
            outcome.err().map(|error| error.reason()),
            reason,
            "{address}"
        );
        assert!(attest(&verifier(&root, |_| {}), &node.load()).is_ok());
    }
}

#[test]
fn an_svid_below_the_prefix_is_exchanged_and_no_other() {
    let root = Authority::root("root");
    let trust = Trust::OwnDomain {
        prefix: PREFIX.to_owned(),
    };
    let verifier = Verifier::new(own(), options(trust));
    let authorities = [root.certificate()];
    for (ids, outcome) in [
        (
            &["spiffe://example.org/spire-exchange/h/1"][..],
            Ok("/spire/agent/x509pop/h/1"),
        ),
        (
            &["spiffe://example.org/other/h"],
            Err("svid_outside_prefix"),
        ),
        (
            &["spiffe://other.org/spire-exchange/h"],
            Err("svid_outside_prefix"),
        ),
        (&[], Err("leaf_without_uri")),
        (
            &[
                "spiffe://example.org/spire-exchange/h",
                "spiffe://example.org/spire-exchange/i",
            ],
            Err("leaf_with_many_uris"),
        ),
    ] {
        let mut params = leaf("host");
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = ids.iter().map(|id| uri(id)).collect();
        let holder = Node::of(&root, &params).load();
        let begun = verifier.begin(holder.payload(), at(&authorities));
        let attested = begun.and_then(|challenged| {
            let answer = holder.answer(&challenged.challenge()).unwrap();
            challenged.conclude(&answer)
        });
        match (attested, outcome) {
            (Ok(attested), Ok(path)) => assert_eq!(attested.agent_id().path(), path),
            (Err(error), Err(_)) => {
                assert_eq!(error.decision(), Decision::Denied, "{error:?}");
            }
            (attested, _) => panic!("{ids:?}: {attested:?}"),
        }
        // Without an authority of its own, the server takes nobody.
        assert!(verifier.begin(holder.payload(), at(&[])).is_err());
    }
}

#[test]
fn files_are_read_anew_for_each_try() {
    let root = Authority::root("root");
    let (node, next) = (Node::of(&root, &leaf("a")), Node::of(&root, &leaf("b")));
    let prover = node.prover();
    let first = prover.load().unwrap();
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(next.path(name), node.path(name)).unwrap();
    }
    assert_ne!(prover.load().unwrap().payload(), first.payload());
    std::fs::remove_file(node.path("key.pem")).unwrap();
    assert_eq!(prover.load().unwrap_err().reason(), "file_not_found");
    assert_eq!(format!("{first:?}"), "Holder(redacted)");
}
