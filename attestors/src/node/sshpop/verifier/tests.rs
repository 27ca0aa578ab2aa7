//! Facts about nodes that prove themselves by a host certificate, and about those who pretend to.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use tempfile::TempDir;

use super::super::fake::{Draft, FakeAuthority};
use super::super::{CertificateError, Holder, Prover};
use super::*;
use crate::node::{Decision, Lasting, Refusal};

const NOW: u64 = 1_780_272_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn own() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn verifier(authorities: &str, change: impl FnOnce(&mut Options)) -> Verifier {
    let mut options = Options {
        authorities: Authorities::parse(authorities).unwrap(),
        canonical_domain: None,
        template: template(None).unwrap(),
    };
    change(&mut options);
    Verifier::new(own(), options)
}

/// A node with its files.
struct Node(TempDir);

impl Node {
    fn new(authority: &FakeAuthority, key: &KeyPair, draft: &Draft) -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        std::fs::write(node.path("key"), key.serialize_pem()).unwrap();
        let certificate = authority.certify(&key.serialize_der(), draft).unwrap();
        std::fs::write(node.path("cert"), certificate).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn prover(&self) -> Prover {
        Prover {
            host_key_path: self.path("key"),
            host_cert_path: self.path("cert"),
        }
    }

    fn load(&self) -> Holder {
        self.prover().load().unwrap()
    }
}

fn ed25519() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
}

fn begin(verifier: &Verifier, holder: &Holder) -> Result<Challenged, VerifyError> {
    let at = Circumstances {
        now: now(),
        from: None,
        authorities: &[],
    };
    verifier.begin(holder.payload(), at)
}

fn attest(verifier: &Verifier, holder: &Holder) -> Result<Attested, VerifyError> {
    let challenged = begin(verifier, holder)?;
    let answer = holder.answer(&challenged.challenge()).unwrap();
    challenged.conclude(&answer)
}

fn refusal(outcome: Result<Attested, VerifyError>) -> &'static str {
    let error = outcome.unwrap_err();
    assert_eq!(error.decision(), Decision::Undecided);
    error.reason()
}

#[test]
fn what_ssh_keygen_writes_is_read_and_named_by_its_fingerprint() {
    let authorities = include_str!("../keygen/ca.pub");
    for (key, certificate, fingerprint) in [
        (
            include_str!("../keygen/host_rsa"),
            include_str!("../keygen/host_rsa-cert.pub"),
            "mm-tiQBkHYtxFsKZ1y_mpLgoJM0-aBnZloQWNiQdHRM",
        ),
        (
            include_str!("../keygen/host_ecdsa"),
            include_str!("../keygen/host_ecdsa-cert.pub"),
            "X9JB5XGID-tZBm1r1zjY193nY26itJUYct04NrHdiHA",
        ),
        (
            include_str!("../keygen/host_ed25519"),
            include_str!("../keygen/host_ed25519-cert.pub"),
            "t-7E3VLC91X1zyF9j7QkJzQTn9LKAEMYjvLTUoCy-0g",
        ),
    ] {
        let node = Node(tempfile::tempdir().unwrap());
        std::fs::write(node.path("key"), key).unwrap();
        std::fs::write(node.path("cert"), certificate).unwrap();
        let attested = attest(&verifier(authorities, |_| {}), &node.load()).unwrap();
        let id = format!("/spire/agent/sshpop/{fingerprint}");
        assert_eq!(attested.agent_id().path(), id);
        assert_eq!(attested.lasting(), Lasting::Repeatable);
        assert_eq!(attested.selectors().iter().count(), 0);
    }
}

#[test]
fn every_kind_of_host_key_is_taken() {
    let authority = FakeAuthority::new().unwrap();
    for key in [
        KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap(),
        ed25519(),
    ] {
        let node = Node::new(&authority, &key, &Draft::host("h"));
        let outcome = attest(&verifier(&authority.line(), |_| {}), &node.load());
        assert!(outcome.is_ok(), "{:?}: {outcome:?}", key.algorithm());
    }
}

#[test]
fn hosts_are_of_the_operators_domain_and_called_as_he_likes() {
    let authority = FakeAuthority::new().unwrap();
    let node = Node::new(&authority, &ed25519(), &Draft::host("h.example.org"));
    let named = |domain: Option<&str>, text: &str| {
        verifier(&authority.line(), |options| {
            options.canonical_domain = domain.map(str::to_owned);
            options.template = template(Some(text)).unwrap();
        })
    };
    for (domain, text, path) in [
        (Some("example.org"), "/sshpop/{{ .Hostname }}", "/sshpop/h"),
        (None, "/sshpop/{{ .Hostname }}", "/sshpop/h.example.org"),
        (
            None,
            "/static/{{ index .ValidPrincipals 0 }}",
            "/static/h.example.org",
        ),
        (None, "/s/{{ .Serial }}", "/s/1"),
    ] {
        let attested = attest(&named(domain, text), &node.load()).unwrap();
        assert_eq!(attested.agent_id().path(), format!("/spire/agent{path}"));
    }
    for domain in ["example.com", "ample.org", "h.example.org"] {
        let verifier = named(Some(domain), "/sshpop/{{ .Hostname }}");
        let outcome = attest(&verifier, &node.load());
        assert_eq!(refusal(outcome), "host_of_other_domain", "{domain}");
    }
}

#[test]
fn adv_a_certificate_of_a_user_is_none_of_a_host() {
    let authority = FakeAuthority::new().unwrap();
    let draft = Draft {
        kind: 1,
        ..Draft::host("h")
    };
    let node = Node::new(&authority, &ed25519(), &draft);
    let outcome = attest(&verifier(&authority.line(), |_| {}), &node.load());
    assert_eq!(refusal(outcome), "certificate_not_of_a_host");
}

#[test]
fn adv_who_is_certified_by_nobody_trusted_or_at_another_time_or_with_conditions_is_refused() {
    let authority = FakeAuthority::new().unwrap();
    let foreign = FakeAuthority::new().unwrap();
    let host = Draft::host("h");
    let verifier = verifier(&authority.line(), |_| {});
    for (by, draft, reason) in [
        (&foreign, host.clone(), "certificate_unknown_authority"),
        (
            &authority,
            Draft {
                valid: 0..NOW,
                ..host.clone()
            },
            "certificate_not_in_its_time",
        ),
        (
            &authority,
            Draft {
                valid: NOW + 1..u64::MAX,
                ..host.clone()
            },
            "certificate_not_in_its_time",
        ),
        (
            &authority,
            Draft {
                critical: Some("force-command"),
                ..host.clone()
            },
            "certificate_critical_option",
        ),
        (
            &authority,
            Draft {
                principals: vec![],
                ..host.clone()
            },
            "certificate_without_principals",
        ),
    ] {
        let node = Node::new(by, &ed25519(), &draft);
        assert_eq!(refusal(attest(&verifier, &node.load())), reason);
    }
    let draft = Draft {
        valid: NOW..NOW + 1,
        ..host
    };
    let node = Node::new(&authority, &ed25519(), &draft);
    assert!(attest(&verifier, &node.load()).is_ok());
}

#[test]
fn adv_a_response_to_an_earlier_challenge_is_refused() {
    let authority = FakeAuthority::new().unwrap();
    for key in [ed25519(), KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap()] {
        let holder = Node::new(&authority, &key, &Draft::host("h")).load();
        let verifier = verifier(&authority.line(), |_| {});
        let first = begin(&verifier, &holder).unwrap();
        let answer = holder.answer(&first.challenge()).unwrap();
        assert!(first.conclude(&answer).is_ok());
        let second = begin(&verifier, &holder).unwrap();
        assert_eq!(refusal(second.conclude(&answer)), "signature_invalid");
    }
}

#[test]
fn adv_a_signature_by_another_key_is_refused() {
    let authority = FakeAuthority::new().unwrap();
    let node = Node::new(&authority, &ed25519(), &Draft::host("h"));
    let thief = Node::new(&authority, &ed25519(), &Draft::host("t"));
    let verifier = verifier(&authority.line(), |_| {});
    let challenged = begin(&verifier, &node.load()).unwrap();
    let answer = thief.load().answer(&challenged.challenge()).unwrap();
    assert_eq!(refusal(challenged.conclude(&answer)), "signature_invalid");
    std::fs::copy(thief.path("key"), node.path("key")).unwrap();
    assert_eq!(node.prover().load().unwrap_err().reason(), "key_mismatch");
}

#[test]
fn adv_a_flipped_bit_of_a_certificate_makes_it_another_or_none() {
    let authority = FakeAuthority::new().unwrap();
    let authorities = Authorities::parse(&authority.line()).unwrap();
    let line = authority.certify(&ed25519().serialize_der(), &Draft::host("h"));
    let line = line.unwrap();
    let bytes = STANDARD.decode(line.split(' ').nth(1).unwrap()).unwrap();
    let verify = |bytes: &[u8]| HostCertificate::verify(bytes, &authorities, now());
    assert!(verify(&bytes).is_ok());
    for position in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[position] ^= 1;
        assert!(verify(&changed).is_err(), "{position}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(verify(&longer).is_err());
    let huge = vec![0; 16 * 1024 + 1];
    assert_eq!(verify(&huge).unwrap_err(), CertificateError::TooLong);
}

#[test]
fn authorities_are_read_as_lines_and_a_bad_one_is_told_by_its_number() {
    let (one, other) = (FakeAuthority::new().unwrap(), FakeAuthority::new().unwrap());
    let text = format!(
        "# hosts\n\n{}\ncert-authority {}\n",
        one.line(),
        other.line()
    );
    assert!(Authorities::parse(&text).is_ok_and(|read| !read.is_empty()));
    assert!(Authorities::parse("").unwrap().is_empty());
    let text = format!("{}\nssh-ed25519 AAAA\n", one.line());
    let error = Authorities::parse(&text).unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
}

proptest! {
    #[test]
    fn any_bytes_are_a_certificate_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _outcome = HostCertificate::verify(&bytes, &Authorities::default(), now());
    }
}
