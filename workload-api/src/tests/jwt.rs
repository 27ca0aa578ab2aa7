//! JWT-SVIDs: fetched by audience and identity, and validated.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost_types::value::Kind;
use runtime::clock::Clock;
use serde_json::json;
use tonic::Code;

use crate::options::SocketOptions;
use crate::source::Bundles;
use crate::testing::{Pki, Served};

fn audience(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn without_an_id_there_is_a_token_for_every_identity() {
    let served = Served::start();
    let pki = &served.pki;
    served.source.grant(vec![
        pki.grant("b", "/second", "", "aud"),
        pki.grant("a", "/first", "", "aud"),
    ]);
    let client = served.client().await;
    let all = client.fetch_jwt(audience(&["aud"]), None).await.unwrap();
    let ids: Vec<_> = all.iter().map(|svid| svid.id().as_str()).collect();
    assert_eq!(ids, [pki.id("/first"), pki.id("/second")]);
    let second = pki.id("/second").parse().unwrap();
    let one = client.fetch_jwt(audience(&["aud"]), Some(&second)).await;
    assert_eq!(one.unwrap()[0].id(), &second);
}

#[tokio::test]
async fn an_identity_that_is_not_the_callers_is_denied() {
    let served = Served::start();
    served
        .source
        .grant(vec![served.pki.grant("a", "/mine", "", "aud")]);
    let client = served.client().await;
    let other = served.pki.id("/other").parse().unwrap();
    let error = client.fetch_jwt(audience(&["aud"]), Some(&other)).await;
    assert_eq!(error.unwrap_err().code(), Some(Code::PermissionDenied));
}

#[tokio::test]
async fn mandatory_fields_are_checked_before_attestation() {
    let served = Served::start();
    served.source.fail_attestation(true);
    let client = served.client().await;
    for error in [
        client.fetch_jwt(vec![], None).await.unwrap_err(),
        client.fetch_jwt(audience(&[""]), None).await.unwrap_err(),
        client.validate_jwt("", "token").await.unwrap_err(),
        client.validate_jwt("aud", "").await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Some(Code::InvalidArgument));
    }
    let request = proto::workload::JwtsvidRequest {
        audience: audience(&["aud"]),
        spiffe_id: "spiffe://example.org/a/../b".to_owned(),
    };
    let status = client.raw().fetch_jwtsvid(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status
            .message()
            .starts_with("invalid requested SPIFFE ID: ")
    );
    assert_eq!(served.source.attestations(), 0);
}

#[tokio::test]
async fn of_a_repeated_hint_one_token_stays() {
    let served = Served::start();
    let pki = &served.pki;
    served.source.grant(vec![
        pki.grant("b", "/second", "internal", "aud"),
        pki.grant("a", "/first", "internal", "aud"),
    ]);
    let client = served.client().await;
    let all = client.fetch_jwt(audience(&["aud"]), None).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].id().as_str(), pki.id("/first"));
}

#[tokio::test]
async fn a_token_that_cannot_be_had_now_is_unavailable() {
    let served = Served::start();
    served.source.fail_jwt(true);
    let client = served.client().await;
    let error = client.fetch_jwt(audience(&["aud"]), None).await;
    assert_eq!(error.unwrap_err().code(), Some(Code::Unavailable));
}

#[tokio::test]
async fn an_own_token_is_validated_with_all_its_claims() {
    let served = Served::start();
    let now = Clock::system().now();
    let more = json!({"role": {"admin": true}, "levels": [1, "two", null]});
    let token = served.pki.token("/w", &json!("aud"), now, &more);
    let client = served.client().await;
    let (id, claims) = client.validate_jwt("aud", &token).await.unwrap();
    assert_eq!(id.as_str(), served.pki.id("/w"));
    let names: Vec<_> = claims.fields.keys().map(String::as_str).collect();
    assert_eq!(names, ["aud", "exp", "iat", "levels", "role", "sub"]);
    assert!(matches!(
        claims.fields["aud"].kind,
        Some(Kind::ListValue(_))
    ));
    assert!(matches!(
        claims.fields["exp"].kind,
        Some(Kind::NumberValue(_))
    ));
}

#[tokio::test]
async fn a_foreign_token_tells_only_what_the_operator_allows() {
    let served = Served::with(SocketOptions {
        allowed_foreign_jwt_claims: ["role".to_owned()].into(),
        ..SocketOptions::default()
    });
    let foreign = Pki::new("foreign.test");
    served.source.set_bundles(Bundles::new(
        Arc::clone(&served.pki.bundle),
        BTreeMap::from([(foreign.trust_domain.clone(), Arc::clone(&foreign.bundle))]),
    ));
    let now = Clock::system().now();
    let more = json!({"role": "x", "secret": "y"});
    let token = foreign.token("/w", &json!(["aud"]), now, &more);
    let client = served.client().await;
    let (_, claims) = client.validate_jwt("aud", &token).await.unwrap();
    let names: Vec<_> = claims.fields.keys().map(String::as_str).collect();
    assert_eq!(names, ["aud", "exp", "role", "sub"]);
}

#[tokio::test]
async fn a_token_that_is_not_valid_is_an_invalid_argument_with_its_reason() {
    let served = Served::start();
    let now = Clock::system().now();
    let none = json!({});
    let own = served.pki.token("/w", &json!("aud"), now, &none);
    let stranger = Pki::new("stranger.test").token("/w", &json!("aud"), now, &none);
    let forged = Pki::new("example.org").token("/w", &json!("aud"), now, &none);
    let expired = served
        .pki
        .token("/w", &json!("aud"), now, &json!({"exp": 1000, "iat": 1}));
    let client = served.client().await;
    for (audience, token) in [
        ("other", &own),
        ("aud", &stranger),
        ("aud", &forged),
        ("aud", &expired),
        ("aud", &"a.b.c".to_owned()),
    ] {
        let error = client.validate_jwt(audience, token).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "{token}");
        assert!(!runtime::report::chain(&error).contains(token.as_str()));
    }
}
