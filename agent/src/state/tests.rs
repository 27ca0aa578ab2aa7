//! The state file: SPIRE's, ours, and every damage to it.

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

use super::*;

fn example() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn state() -> State {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&params, &ca_key);
    let mut params = CertificateParams::default();
    let id = "spiffe://example.org/spire/agent/join_token/t";
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let leaf = params
        .signed_by(&KeyPair::generate().unwrap(), &issuer)
        .unwrap();
    State {
        svid: vec![Certificate::parse(leaf.der()).unwrap()],
        bundle: vec![Certificate::parse(ca.der()).unwrap()],
        reattestable: false,
    }
}

fn written() -> (tempfile::TempDir, State, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let state = state();
    StateFile::open(folder.path(), &example())
        .unwrap()
        .write(state.clone())
        .unwrap();
    let content = std::fs::read(folder.path().join(FILE_NAME)).unwrap();
    (folder, state, content)
}

#[test]
fn a_state_comes_back_as_it_was_written() {
    let (folder, state, _) = written();
    let file = StateFile::open(folder.path(), &example()).unwrap();
    assert_eq!(*file.state(), state);
}

#[test]
fn no_file_is_an_empty_state() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        *StateFile::open(folder.path(), &example()).unwrap().state(),
        State::default()
    );
}

#[test]
fn reads_what_spire_writes_and_keeps_its_bookkeeping() {
    let (folder, state, content) = written();
    let mut json: serde_json::Value = serde_json::from_slice(&content).unwrap();
    json.as_object_mut().unwrap().remove("signet_checksum");
    json["bootstrap_use"] = 3.into();
    std::fs::write(folder.path().join(FILE_NAME), json.to_string()).unwrap();
    let mut file = StateFile::open(folder.path(), &example()).unwrap();
    assert_eq!(*file.state(), state);
    file.write(State::default()).unwrap();
    let content = std::fs::read_to_string(folder.path().join(FILE_NAME)).unwrap();
    assert!(content.starts_with(
        r#"{"svid":null,"bundle":null,"reattestable":false,"bootstrap_use":3,"bootstrap_start_time":"0001-01-01T00:00:00Z","connection_attempts":0,"#
    ));
}

#[test]
fn certificates_are_base64_of_pem_as_in_spires_file() {
    let (_folder, state, content) = written();
    let json: serde_json::Value = serde_json::from_slice(&content).unwrap();
    let pem = BASE64.decode(json["svid"][0].as_str().unwrap()).unwrap();
    assert_eq!(String::from_utf8(pem).unwrap(), state.svid[0].to_pem());
}

#[test]
fn the_state_of_another_trust_domain_is_refused() {
    let (folder, _, content) = written();
    let other = TrustDomain::parse("other.org").unwrap();
    let error = StateFile::open(folder.path(), &other).unwrap_err();
    assert_eq!(error.reason(), "state_foreign_trust_domain");
    assert!(
        error
            .to_string()
            .contains("spiffe://example.org/spire/agent/join_token/t"),
        "{error}"
    );
    assert_eq!(
        std::fs::read(folder.path().join(FILE_NAME)).unwrap(),
        content
    );
}

#[test]
fn every_truncation_is_refused_and_the_file_is_left_alone() {
    let (folder, _, content) = written();
    let path = folder.path().join(FILE_NAME);
    for length in 0..content.len() {
        std::fs::write(&path, &content[..length]).unwrap();
        let error = StateFile::open(folder.path(), &example()).unwrap_err();
        assert!(
            error.to_string().contains("agent-data.json` is damaged"),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), &content[..length]);
    }
}

#[test]
fn an_attempt_stands_beside_the_state_until_another_state_is_written() {
    let (folder, state, _) = written();
    let open = || StateFile::open(folder.path(), &example()).unwrap();
    open().begin("try".to_owned()).unwrap();
    assert_eq!((open().attempt(), open().state()), (Some("try"), &state));
    let path = folder.path().join(FILE_NAME);
    let content = std::fs::read_to_string(&path).unwrap();
    let damaged = content.replace(r#""try""#, r#""cry""#);
    assert!(parse_bytes(damaged.as_bytes()).is_none());
    open().write(state.clone()).unwrap();
    assert_eq!((open().attempt(), open().state()), (None, &state));
}

#[test]
fn every_flipped_bit_is_refused_or_changes_nothing() {
    let (_folder, state, content) = written();
    for bit in 0..content.len() * 8 {
        let mut damaged = content.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Some(read) = parse_bytes(&damaged) {
            assert_eq!(read, state, "bit {bit}");
        }
    }
}

#[test]
fn an_svid_without_a_bundle_is_damage() {
    let (folder, state, _) = written();
    let mut file = StateFile::open(folder.path(), &example()).unwrap();
    file.write(State {
        bundle: Vec::new(),
        ..state
    })
    .unwrap();
    assert_eq!(
        StateFile::open(folder.path(), &example())
            .unwrap_err()
            .reason(),
        "state_damaged"
    );
}

proptest! {
    #[test]
    fn never_panics(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_bytes(&content);
    }

    #[test]
    fn never_panics_on_json(svid in ".{0,40}", bundle in proptest::collection::vec("[A-Za-z0-9+/=]{0,40}", 0..3)) {
        let json = serde_json::json!({ "svid": [svid], "bundle": bundle });
        let _ = parse_bytes(json.to_string().as_bytes());
    }
}
