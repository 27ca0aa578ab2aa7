//! Answers compared with recorded ones.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as ProtoValue};
use proto::spire::server::entry::batch_create_entry_response::Result as Created;
use proto::spire::server::entry::{
    BatchCreateEntryResponse, CountEntriesResponse, ListEntriesResponse,
};
use proto::spire::types::entry::AdditionalAttributes;
use proto::spire::types::{Bundle, Entry, JwtKey, Selector, Spiffeid, Status, X509Certificate};
use proto::workload::{Jwtsvid, JwtsvidResponse, ValidateJwtsvidResponse, X509svidResponse};

use super::*;

fn id(path: &str) -> Option<Spiffeid> {
    Some(Spiffeid {
        trust_domain: "example.org".to_owned(),
        path: path.to_owned(),
    })
}

fn entry() -> Entry {
    Entry {
        id: "my-id".to_owned(),
        spiffe_id: id("/d"),
        parent_id: id("/spire/agent/join_token/t"),
        selectors: vec![Selector {
            r#type: "a".to_owned(),
            value: "b".to_owned(),
        }],
        created_at: 1_795_363_260,
        store_svid: true,
        ..Entry::default()
    }
}

#[test]
fn an_entry_reads_as_spire_prints_it() {
    let answer = ListEntriesResponse {
        entries: vec![entry()],
        next_page_token: String::new(),
    };
    // The recorded line of `entry show -output json`.
    assert_eq!(
        spire(".spire.api.server.entry.v1.ListEntriesResponse", &answer).unwrap(),
        r#"{"entries":[{"admin":false,"created_at":"1795363260","dns_names":[],"downstream":false,"expires_at":"0","federates_with":[],"hint":"","id":"my-id","jwt_svid_ttl":0,"parent_id":{"path":"/spire/agent/join_token/t","trust_domain":"example.org"},"revision_number":"0","selectors":[{"type":"a","value":"b"}],"spiffe_id":{"path":"/d","trust_domain":"example.org"},"store_svid":true,"x509_svid_ttl":0}],"next_page_token":""}"#
    );
}

#[test]
fn a_message_inside_shows_its_unset_fields_once_it_is_set() {
    let with = Entry {
        additional_attributes: Some(AdditionalAttributes {
            disable_x509_svid_prefetch: true,
            jwt_svid_include_jti: false,
        }),
        ..entry()
    };
    let text = spire(".spire.api.types.Entry", &with).unwrap();
    assert!(text.starts_with(
        r#"{"additional_attributes":{"disable_x509_svid_prefetch":true,"jwt_svid_include_jti":false},"admin":"#
    ));
}

#[test]
fn statuses_numbers_and_bytes_keep_their_kinds() {
    let answer = BatchCreateEntryResponse {
        results: vec![Created {
            status: Some(Status {
                code: 6,
                message: "similar <entry> & \"more\"".to_owned(),
            }),
            entry: None,
        }],
    };
    assert_eq!(
        spire(
            ".spire.api.server.entry.v1.BatchCreateEntryResponse",
            &answer
        )
        .unwrap(),
        r#"{"results":[{"status":{"code":6,"message":"similar \u003centry\u003e \u0026 \"more\""}}]}"#
    );
    let count = CountEntriesResponse { count: 10 };
    assert_eq!(
        spire(".spire.api.server.entry.v1.CountEntriesResponse", &count).unwrap(),
        r#"{"count":10}"#
    );
    let bundle = Bundle {
        trust_domain: "fed.org".to_owned(),
        x509_authorities: vec![X509Certificate {
            asn1: vec![0xfb, 0xff].into(),
            tainted: false,
        }],
        jwt_authorities: vec![JwtKey {
            key_id: "k".to_owned(),
            expires_at: 9,
            ..JwtKey::default()
        }],
        sequence_number: u64::MAX,
        ..Bundle::default()
    };
    assert_eq!(
        spire(".spire.api.types.Bundle", &bundle).unwrap(),
        r#"{"jwt_authorities":[{"expires_at":"9","key_id":"k","public_key":"","tainted":false}],"refresh_hint":"0","sequence_number":"18446744073709551615","trust_domain":"fed.org","wit_authorities":[],"x509_authorities":[{"asn1":"+/8=","tainted":false}]}"#
    );
    assert_eq!(spire(".google.protobuf.Empty", &()).unwrap(), "{}");
}

#[test]
fn maps_claims_and_lists_of_messages_read_as_spire_prints_them() {
    let value = |kind| ProtoValue { kind: Some(kind) };
    let text = |text: &str| value(Kind::StringValue(text.to_owned()));
    let aud = ListValue {
        values: vec![text("aud1")],
    };
    let claims = Struct {
        fields: [
            ("sub".to_owned(), text("spiffe://example.org/w1")),
            ("aud".to_owned(), value(Kind::ListValue(aud))),
            ("exp".to_owned(), value(Kind::NumberValue(1_795_363_726.0))),
            ("half".to_owned(), value(Kind::NumberValue(0.5))),
            ("none".to_owned(), value(Kind::NullValue(0))),
        ]
        .into(),
    };
    let valid = ValidateJwtsvidResponse {
        spiffe_id: "spiffe://example.org/w1".to_owned(),
        claims: Some(claims),
    };
    assert_eq!(
        workload(&[(".ValidateJWTSVIDResponse", valid.encode_to_vec())]).unwrap(),
        r#"{"claims":{"aud":["aud1"],"exp":1795363726,"half":0.5,"sub":"spiffe://example.org/w1"},"spiffe_id":"spiffe://example.org/w1"}"#
    );
    let x509 = X509svidResponse {
        federated_bundles: [("spiffe://fed.org".to_owned(), vec![1_u8].into())].into(),
        ..X509svidResponse::default()
    };
    let jwt = JwtsvidResponse {
        svids: vec![Jwtsvid::default()],
    };
    assert_eq!(
        workload(&[
            (".X509SVIDResponse", x509.encode_to_vec()),
            (".JWTSVIDResponse", jwt.encode_to_vec()),
        ])
        .unwrap(),
        r#"[{"crl":[],"federated_bundles":{"spiffe://fed.org":"AQ=="},"svids":[]},{"svids":[{"hint":"","spiffe_id":"","svid":""}]}]"#
    );
}

#[test]
fn broken_bytes_are_errors() {
    let pool = descriptors::Pool::new(proto::DESCRIPTORS).unwrap();
    for bytes in [
        &b"\x0a"[..],
        b"\x0a\x05ab",
        b"\x0d\x01",
        b"\x0b",
        b"\x08\x01",
    ] {
        assert!(
            decode::message(&pool, ".spire.api.types.Selector", bytes).is_err(),
            "{bytes:?}"
        );
    }
    assert!(decode::message(&pool, ".no.Such", b"").is_err());
}

proptest::proptest! {
    #[test]
    fn no_bytes_are_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
        let pool = descriptors::Pool::new(proto::DESCRIPTORS).unwrap();
        let _ = decode::message(&pool, ".spire.api.server.entry.v1.ListEntriesResponse", &bytes);
        let _ = decode::message(&pool, ".google.protobuf.Struct", &bytes);
    }
}
