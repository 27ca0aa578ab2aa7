//! Bundles as SPIRE writes them, and documents that would lose an authority if they were believed.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Authority, trust_domain};

const SPIRE_JSON: &str = include_str!("../../tests/data/spire_bundle.json");
const SPIRE_PEM: &str = include_str!("../../tests/data/spire_bundle.pem");

fn parse(json: &[u8]) -> Result<Bundle, BundleError> {
    Bundle::from_spiffe_json(trust_domain("example.org"), json)
}

fn parse_value(value: &Value) -> Result<Bundle, BundleError> {
    parse(value.to_string().as_bytes())
}

fn reason(value: &Value) -> &'static str {
    parse_value(value).unwrap_err().reason()
}

/// The two entries of the recorded bundle.
fn entries() -> (Value, Value) {
    let document: Value = serde_json::from_str(SPIRE_JSON).unwrap();
    (document["keys"][0].clone(), document["keys"][1].clone())
}

fn with(mut entry: Value, name: &str, value: Value) -> Value {
    entry[name] = value;
    entry
}

fn without(mut entry: Value, name: &str) -> Value {
    entry.as_object_mut().unwrap().remove(name);
    entry
}

#[test]
fn writes_a_recorded_bundle_of_spire_byte_for_byte() {
    let bundle = parse(SPIRE_JSON.as_bytes()).unwrap();
    assert_eq!(bundle.to_spiffe_json(), SPIRE_JSON.trim_end());
    assert_eq!(bundle.x509_pem(), SPIRE_PEM);
    assert_eq!(bundle.sequence, 1);
    assert_eq!(bundle.refresh_hint, None);
    let authority = bundle
        .jwt_authority("E6fkAlz3ehnz8MoG1PSFusFiIDBJkSf4")
        .unwrap();
    assert_eq!(
        authority.public_key.algorithm(),
        crate::key::KeyAlgorithm::EcP256
    );
}

#[test]
fn sequence_and_hint_follow_the_keys_in_spires_order() {
    let mut bundle = Bundle::new(trust_domain("example.org"));
    bundle.sequence = u64::MAX;
    bundle.refresh_hint = Some(Duration::from_secs(300));
    assert_eq!(
        bundle.to_spiffe_json(),
        "{\n    \"keys\": [],\n    \"spiffe_sequence\": 18446744073709551615,\n    \
         \"spiffe_refresh_hint\": 300\n}"
    );
    assert_eq!(parse(bundle.to_spiffe_json().as_bytes()).unwrap(), bundle);
}

#[test]
fn an_rsa_authority_and_an_ed25519_root_round_trip() {
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa = crate::testing::private(&rsa).public_key().clone();
    let edwards = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let root = Authority::root("example.org");
    let root = root.params.self_signed(&edwards).unwrap();
    let mut bundle = Bundle::from_certificates(
        trust_domain("example.org"),
        [Certificate::parse(root.der()).unwrap()],
    );
    bundle.jwt_authorities.push(JwtAuthority {
        key_id: "k".to_owned(),
        public_key: rsa,
        expires_at: None,
        tainted: false,
    });
    let json = bundle.to_spiffe_json();
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["keys"][0]["kty"], "OKP");
    assert_eq!(document["keys"][1]["e"], "AQAB");
    assert_eq!(parse(json.as_bytes()).unwrap(), bundle);
}

#[test]
fn keys_of_the_workload_api_have_an_id_and_no_use() {
    let bundle = parse(SPIRE_JSON.as_bytes()).unwrap();
    let document: Value = serde_json::from_str(&bundle.jwks_json()).unwrap();
    assert_eq!(document, json!({"keys": [without(entries().1, "use")]}));
    let read = Bundle::from_jwks(trust_domain("example.org"), bundle.jwks_json().as_bytes());
    assert_eq!(read.unwrap().jwt_authorities, bundle.jwt_authorities);
    // The same key without `use` is nothing in a SPIFFE bundle.
    assert!(
        parse(bundle.jwks_json().as_bytes())
            .unwrap()
            .jwt_authorities
            .is_empty()
    );
}

#[test]
fn passes_over_what_it_does_not_know_and_what_it_cannot_use() {
    let (x509, jwt) = entries();
    let keys = [
        json!({"kty": "XYZ", "use": "foo-svid"}),
        json!({"use": "x509-svid"}),
        with(x509.clone(), "use", json!("X509-SVID")),
        with(x509.clone(), "use", json!("sig")),
        with(x509.clone(), "kty", json!("ec")),
        without(x509.clone(), "use"),
        without(x509.clone(), "kty"),
        without(x509.clone(), "x5c"),
        with(x509.clone(), "x5c", json!([])),
        with(jwt.clone(), "use", json!("wit-svid")),
        with(jwt.clone(), "crv", json!("secp256k1")),
        with(jwt.clone(), "kty", json!("oct")),
        without(jwt.clone(), "use"),
        without(jwt.clone(), "kid"),
        with(jwt.clone(), "kid", json!("")),
        json!({"kty": "RSA", "use": "jwt-svid", "kid": "weak", "n": "_w", "e": "AQAB"}),
        json!({"kty": "OKP", "crv": "Ed25519", "use": "jwt-svid", "kid": "ed", "x": ""}),
    ];
    for entry in &keys {
        let bundle = parse_value(&json!({"keys": [entry]})).unwrap();
        assert!(bundle.x509_authorities.is_empty(), "{entry}");
        assert!(bundle.jwt_authorities.is_empty(), "{entry}");
        let bundle = parse_value(&json!({"keys": [entry, x509, jwt]})).unwrap();
        assert_eq!(bundle.x509_authorities.len(), 1, "{entry}");
        assert_eq!(bundle.jwt_authorities.len(), 1, "{entry}");
    }
}

#[test]
fn only_the_first_certificate_of_an_entry_counts() {
    let (x509, _) = entries();
    let other = Authority::root("example.org").certificate;
    let first = x509["x5c"][0].clone();
    let second = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, other.der());
    let bundle =
        parse_value(&json!({"keys": [with(x509, "x5c", json!([first, second]))]})).unwrap();
    assert_eq!(bundle.x509_pem(), SPIRE_PEM);
}

#[test]
fn an_empty_list_of_keys_is_a_bundle_and_a_missing_one_is_none() {
    assert_eq!(
        parse(br#"{"keys":[]}"#).unwrap(),
        Bundle::new(trust_domain("example.org"))
    );
    for wrong in [
        json!({}),
        json!({"keys": null}),
        json!({"keys": {}}),
        json!({"Keys": []}),
    ] {
        assert_eq!(reason(&wrong), "bundle_no_keys", "{wrong}");
    }
    // Other parameters are never needed, and never harm.
    assert!(parse(br#"{"keys":[],"x":1}"#).is_ok());
}

#[test]
fn refuses_malformed_entries_rather_than_to_lose_an_authority() {
    let (x509, jwt) = entries();
    #[rustfmt::skip]
    let wrong = [
        (json!({"keys": [1]}), "bundle_parameter"),
        (json!({"keys": [with(x509.clone(), "use", json!(1))]}), "bundle_parameter"),
        (json!({"keys": [with(x509.clone(), "x5c", json!("x"))]}), "bundle_parameter"),
        (json!({"keys": [with(x509.clone(), "x5c", json!([1]))]}), "bundle_parameter"),
        (json!({"keys": [with(x509.clone(), "x5c", json!(["_-"]))]}), "bundle_parameter"),
        (json!({"keys": [with(x509, "x5c", json!(["AAAA"]))]}), "certificate_malformed"),
        (json!({"keys": [with(jwt.clone(), "x", json!("AAAA"))]}), "key_malformed"),
        (json!({"keys": [with(jwt.clone(), "x", json!("+/+/"))]}), "bundle_parameter"),
        (json!({"keys": [without(jwt.clone(), "y")]}), "bundle_parameter"),
        (json!({"keys": [with(jwt, "kid", json!("k".repeat(129)))]}), "bundle_parameter"),
        (json!({"keys": [], "spiffe_sequence": "1"}), "bundle_parameter"),
        (json!({"keys": [], "spiffe_sequence": 1.0}), "bundle_parameter"),
        (json!({"keys": [], "spiffe_sequence": -1}), "bundle_parameter"),
        (json!({"keys": [], "spiffe_refresh_hint": "300"}), "bundle_parameter"),
        (json!({"keys": [], "spiffe_refresh_hint": 300.5}), "bundle_parameter"),
        (json!([]), "bundle_json"),
    ];
    for (document, expected) in &wrong {
        assert_eq!(reason(document), *expected, "{document}");
    }
    let hint = parse_value(&json!({"keys": [], "spiffe_refresh_hint": 0}))
        .unwrap()
        .refresh_hint;
    assert_eq!(hint, None, "zero would poll without a pause");
}

#[test]
fn a_sequence_of_64_bits_is_not_rounded() {
    for sequence in [9_007_199_254_740_993, 9_223_372_036_854_775_807, u64::MAX] {
        let bundle = parse_value(&json!({"keys": [], "spiffe_sequence": sequence})).unwrap();
        assert_eq!(bundle.sequence, sequence);
    }
    assert!(parse(br#"{"keys":[],"spiffe_sequence":18446744073709551616}"#).is_err());
}

#[test]
fn one_key_id_for_two_keys_is_refused_and_a_repeated_key_is_one() {
    let (x509, jwt) = entries();
    let bundle = parse_value(&json!({"keys": [x509, x509, jwt, jwt]})).unwrap();
    assert_eq!(
        (bundle.x509_authorities.len(), bundle.jwt_authorities.len()),
        (1, 1)
    );
    let g = json!({
        "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY",
        "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
    });
    let other = with(with(jwt.clone(), "x", g["x"].clone()), "y", g["y"].clone());
    assert_eq!(
        reason(&json!({"keys": [jwt, other]})),
        "bundle_duplicate_key_id"
    );
}

#[test]
fn a_name_that_appears_twice_is_refused_at_every_depth() {
    for twice in [
        &br#"{"keys":[],"keys":[]}"#[..],
        br#"{"keys":[],"spiffe_sequence":1,"spiffe_sequence":2}"#,
        br#"{"keys":[{"kty":"EC","use":"a","use":"x509-svid"}]}"#,
        br#"{"keys":[],"x":{"a":1,"\u0061":2}}"#,
    ] {
        assert_eq!(parse(twice).unwrap_err().reason(), "bundle_json");
    }
}

#[test]
fn a_bundle_above_a_mebibyte_is_refused_unread() {
    let mut json = br#"{"keys":[]"#.to_vec();
    json.resize(MAX_BUNDLE_BYTES, b' ');
    json.pop();
    json.push(b'}');
    assert!(parse(&json).is_ok());
    json.push(b' ');
    assert_eq!(parse(&json).unwrap_err().reason(), "bundle_too_large");
}

#[test]
fn der_and_pem_round_trip_and_repeated_certificates_are_one() {
    let (one, two) = (
        Authority::root("example.org"),
        Authority::root("example.org"),
    );
    let bundle = Bundle::from_certificates(
        trust_domain("example.org"),
        [&one, &two, &one].map(|root| root.certificate.clone()),
    );
    assert_eq!(bundle.x509_authorities.len(), 2);
    let name = || trust_domain("example.org");
    assert_eq!(
        Bundle::from_x509_der(name(), &bundle.x509_der()).unwrap(),
        bundle
    );
    assert_eq!(
        Bundle::from_pem(name(), &bundle.x509_pem()).unwrap(),
        bundle
    );
    assert_eq!(
        Bundle::from_x509_der(name(), &[]).unwrap(),
        Bundle::new(name())
    );
}

#[test]
fn a_pem_text_needs_certificates_and_nothing_else() {
    let reason = |text| {
        Bundle::from_pem(trust_domain("example.org"), text)
            .unwrap_err()
            .reason()
    };
    assert_eq!(reason(""), "pem_empty");
    assert_eq!(reason("{}"), "pem_empty");
    assert_eq!(
        reason("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        "pem_tag"
    );
    assert_eq!(
        reason("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        "certificate_malformed"
    );
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
        let _ = Bundle::from_jwks(trust_domain("example.org"), &bytes);
        let _ = Bundle::from_x509_der(trust_domain("example.org"), &bytes);
        let _ = Bundle::from_pem(trust_domain("example.org"), &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_damaged_bundle_is_refused_or_reads_back_as_it_was_understood(
        at in 0..SPIRE_JSON.len(),
        byte in any::<u8>(),
    ) {
        let mut json = SPIRE_JSON.as_bytes().to_vec();
        json[at] = byte;
        if let Ok(bundle) = parse(&json) {
            prop_assert_eq!(parse(bundle.to_spiffe_json().as_bytes()).unwrap(), bundle);
        }
    }
}
