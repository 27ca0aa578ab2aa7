//! The state file: SPIRE's, ours, and every damage to it.

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

use super::*;

fn example() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn read(certificate: &rcgen::Certificate) -> Certificate {
    Certificate::parse(certificate.der()).unwrap()
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// As a server with an upstream authority leaves it at its agent: an SVID that is over for long, below
/// an intermediate, and two roots.
fn long_chain() -> State {
    let keys = [key(), key(), key()];
    let root = authority();
    let mut between = authority();
    between.distinguished_name = rcgen::DistinguishedName::new();
    between
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "between");
    let mut leaf = leaf();
    leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(2020, 1, 2);
    let [root_key, between_key, other_key] = &keys;
    let issuer = Issuer::from_params(&between, between_key);
    let leaf = leaf.signed_by(&key(), &issuer).unwrap();
    let issuer = Issuer::from_params(&root, root_key);
    let between = between.signed_by(between_key, &issuer).unwrap();
    let roots = [other_key, root_key].map(|key| root.self_signed(key).unwrap());
    State {
        svid: vec![read(&leaf), read(&between)],
        bundle: roots.iter().map(read).collect(),
        reattestable: true,
    }
}

/// What SPIRE would write.
fn as_spire(state: &State) -> Vec<u8> {
    let ours = encode_bytes(state);
    let text = std::str::from_utf8(&ours).unwrap();
    let (spires, _) = text.split_once(r#","signet_checksum""#).unwrap();
    format!("{spires}}}").into_bytes()
}

fn leaf() -> CertificateParams {
    let mut params = CertificateParams::default();
    let id = "spiffe://example.org/spire/agent/join_token/t";
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params
}

fn state() -> State {
    let (params, ca_key) = (authority(), key());
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&params, &ca_key);
    State {
        svid: vec![read(&leaf().signed_by(&key(), &issuer).unwrap())],
        bundle: vec![read(&ca)],
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
fn no_truncation_of_spires_file_can_be_read_and_it_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let content = as_spire(&long_chain());
    for length in 0..content.len() {
        std::fs::write(&path, &content[..length]).unwrap();
        let error = StateFile::open(folder.path(), &example()).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("agent-data.json` is damaged"), "{told}");
        assert_eq!(std::fs::read(&path).unwrap(), &content[..length]);
    }
    std::fs::write(&path, &content).unwrap();
    assert!(StateFile::open(folder.path(), &example()).is_ok());
}

#[test]
fn no_flipped_bit_of_spires_file_passes_for_another_state() {
    let state = state();
    let content = as_spire(&state);
    assert_eq!(parse_bytes(&content).as_ref(), Some(&state));
    for bit in 0..content.len() * 8 {
        let mut damaged = content.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Some(read) = parse_bytes(&damaged) {
            assert_eq!(read, state, "bit {bit}");
        }
    }
}

#[test]
fn a_certificate_of_spires_file_that_can_be_read_is_known_by_its_signature() {
    let state = long_chain();
    let damaged = |field: &'static str, index: usize| {
        let mut state = state.clone();
        let list = match field {
            "svid" => &mut state.svid,
            _ => &mut state.bundle,
        };
        let mut der = list[index].der().to_vec();
        // The last byte is of the signature.
        *der.last_mut().unwrap() ^= 1;
        list[index] = Certificate::parse(&der).unwrap();
        let told = match parse(&as_spire(&state)) {
            Err(Damage::Signature { field, index }) => Some((field, index)),
            _ => None,
        };
        assert_eq!(told, Some((field, index)));
        // A checksum speaks for the whole file.
        assert_eq!(parse_bytes(&encode_bytes(&state)), Some(state));
    };
    for index in 0..2 {
        damaged("svid", index);
        damaged("bundle", index);
    }
}

#[test]
fn an_svid_of_nobody_in_the_bundle_is_damage_where_no_checksum_speaks_for_it() {
    let (one, other) = (state(), state());
    let mixed = State {
        bundle: other.bundle,
        ..one
    };
    assert!(parse_bytes(&as_spire(&mixed)).is_none());
    // A revoked authority leaves the bundle before the SVID is renewed.
    assert!(parse_bytes(&encode_bytes(&mixed)).is_some());
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
