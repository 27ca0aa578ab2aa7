//! Bundle streams: who gets them, their keys, and that nothing is said twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::workload::{JwtBundlesRequest, X509BundlesRequest};
use tonic::Code;

use crate::options::SocketOptions;
use crate::source::Bundles;
use crate::testing::{Pki, Served};

fn federated(served: &Served, foreign: &Pki) -> Bundles {
    let domain = foreign.trust_domain.clone();
    Bundles::new(
        Arc::clone(&served.pki.bundle),
        BTreeMap::from([(domain, Arc::clone(&foreign.bundle))]),
    )
}

#[tokio::test]
async fn bundles_are_keyed_by_the_id_of_their_trust_domain() {
    let served = Served::start();
    served
        .source
        .set_bundles(federated(&served, &Pki::new("foreign.test")));
    served
        .source
        .publish(vec![served.pki.identity("a", "/only", "", 1)]);
    let mut api = served.client().await.raw();
    let x509 = api.fetch_x509_bundles(X509BundlesRequest {}).await.unwrap();
    let x509 = x509.into_inner().message().await.unwrap().unwrap();
    let jwt = api.fetch_jwt_bundles(JwtBundlesRequest {}).await.unwrap();
    let jwt = jwt.into_inner().message().await.unwrap().unwrap();
    let expected = ["spiffe://example.org", "spiffe://foreign.test"];
    assert!(x509.bundles.keys().eq(expected));
    assert!(jwt.bundles.keys().eq(expected));
}

#[tokio::test]
async fn a_jwt_bundle_is_a_key_set_without_x509_authorities() {
    let served = Served::start();
    served
        .source
        .publish(vec![served.pki.identity("a", "/only", "", 1)]);
    let mut api = served.client().await.raw();
    let stream = api.fetch_jwt_bundles(JwtBundlesRequest {}).await.unwrap();
    let message = stream.into_inner().message().await.unwrap().unwrap();
    let set: serde_json::Value =
        serde_json::from_slice(&message.bundles["spiffe://example.org"]).unwrap();
    let keys = set["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    assert!(keys[0].get("kid").is_some() && keys[0].get("kty").is_some());
    assert!(keys[0].get("x5c").is_none() && keys[0].get("use").is_none());
}

#[tokio::test]
async fn a_caller_without_an_identity_gets_bundles_only_where_the_operator_says_so() {
    let served = Served::start();
    served.source.publish(vec![]);
    let client = served.client().await;
    for error in [
        client.fetch_x509_bundles().await.unwrap_err(),
        client.fetch_jwt_bundles().await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Some(Code::PermissionDenied));
    }

    let served = Served::with(SocketOptions {
        allow_unauthenticated_verifiers: true,
        ..SocketOptions::default()
    });
    served
        .source
        .set_bundles(federated(&served, &Pki::new("foreign.test")));
    served.source.publish(vec![]);
    let client = served.client().await;
    let own = [served.pki.trust_domain.clone()];
    assert!(
        client
            .fetch_x509_bundles()
            .await
            .unwrap()
            .into_keys()
            .eq(own.clone())
    );
    assert!(
        client
            .fetch_jwt_bundles()
            .await
            .unwrap()
            .into_keys()
            .eq(own)
    );
    let error = client.fetch_x509().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::PermissionDenied));
}

#[tokio::test]
async fn an_update_that_leaves_the_bundles_as_they_are_sends_nothing() {
    let served = Served::start();
    let pki = &served.pki;
    served
        .source
        .publish(vec![pki.identity("a", "/only", "", 1)]);
    let mut api = served.client().await.raw();
    let stream = api.fetch_x509_bundles(X509BundlesRequest {}).await.unwrap();
    let mut stream = stream.into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().bundles.len(), 1);
    // Two rotations, then a change: the next message has the change.
    served
        .source
        .publish(vec![pki.identity("a", "/only", "", 1)]);
    tokio::task::yield_now().await;
    served
        .source
        .publish(vec![pki.identity("a", "/only", "", 1)]);
    tokio::task::yield_now().await;
    served
        .source
        .set_bundles(federated(&served, &Pki::new("foreign.test")));
    served
        .source
        .publish(vec![pki.identity("a", "/only", "", 1)]);
    assert_eq!(stream.message().await.unwrap().unwrap().bundles.len(), 2);
}
