//! What a client makes of what it gets: the order of a chain, withdrawal, and which bundle is for what.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::jwt;
use identity::x509::{Purpose, parse_concatenated_der, verify_peer};
use proto::workload::X509svidRequest;
use runtime::clock::Clock;
use serde_json::json;
use tonic::Code;

use crate::source::Bundles;
use crate::testing::{Pki, Served};

#[tokio::test]
async fn each_message_replaces_the_one_before_it_as_a_whole() {
    let served = Served::start();
    let pki = &served.pki;
    let foreign = Pki::new("foreign.test");
    let federated = BTreeMap::from([(foreign.trust_domain.clone(), Arc::clone(&foreign.bundle))]);
    let own = Arc::clone(&pki.bundle);
    let with = Bundles::new(Arc::clone(&own), federated);
    served.source.set_bundles(with);
    served.source.publish(vec![
        pki.identity("a", "/first", "internal", 1),
        pki.identity("b", "/second", "", 1),
    ]);
    let mut watch = served.client().await.watch_x509().await.unwrap();
    let context = watch.next().await.unwrap().unwrap();
    assert_eq!(context.svids.len(), 2);
    assert_eq!(context.svids[0].hint.as_deref(), Some("internal"));
    assert_eq!(context.federated.len(), 1);

    let without = Bundles::new(own, BTreeMap::new());
    served.source.set_bundles(without);
    let only = vec![pki.identity("a", "/first", "", 1)];
    served.source.publish(only);
    let context = watch.next().await.unwrap().unwrap();
    assert_eq!(context.svids.len(), 1);
    assert_eq!(context.svids[0].hint, None);
    assert!(context.federated.is_empty());
}

#[tokio::test]
async fn a_chain_goes_out_leaf_first_and_without_its_root() {
    let served = Served::start();
    let identity = served.pki.identity_below_an_intermediate("a", "/only");
    let expected = identity.svid.chain().to_vec();
    assert_eq!(expected.len(), 2);
    served.source.publish(vec![identity]);
    let mut api = served.client().await.raw();
    let stream = api.fetch_x509svid(X509svidRequest {}).await.unwrap();
    let message = stream.into_inner().message().await.unwrap().unwrap();
    let chain = parse_concatenated_der(&message.svids[0].x509_svid).unwrap();
    let der = |chain: &[identity::x509::Certificate]| -> Vec<Vec<u8>> {
        chain.iter().map(|one| one.der().to_vec()).collect()
    };
    assert_eq!(der(&chain), der(&expected));
    assert!(!chain[0].is_ca() && chain[1].is_ca());
    let bundle = |_: &_| Some(Arc::clone(&served.pki.bundle));
    let now = Clock::system().now();
    let id = verify_peer(&chain, Purpose::ServerAuth, bundle, now).unwrap();
    assert_eq!(id.as_str(), served.pki.id("/only"));
}

#[tokio::test]
async fn a_bundle_for_certificates_verifies_no_token_and_the_other_way_round() {
    let served = Served::start();
    let pki = &served.pki;
    let identity = pki.identity("a", "/only", "", 1);
    served.source.publish(vec![Arc::clone(&identity)]);
    let client = served.client().await;
    let x509 = client.fetch_x509_bundles().await.unwrap();
    let jwt = client.fetch_jwt_bundles().await.unwrap();

    let now = Clock::system().now();
    let token = pki.token("/only", &json!("aud"), now, &json!({}));
    let chain = identity.svid.chain();
    let purpose = Purpose::ServerAuth;
    assert!(jwt::validate(&token, "aud", |of| jwt.get(of), now).is_ok());
    assert!(jwt::validate(&token, "aud", |of| x509.get(of), now).is_err());
    assert!(verify_peer(chain, purpose, |of| x509.get(of), now).is_ok());
    assert!(verify_peer(chain, purpose, |of| jwt.get(of), now).is_err());
}

#[tokio::test]
async fn a_caller_without_an_identity_gets_no_token() {
    let served = Served::start();
    served.source.grant(vec![]);
    let client = served.client().await;
    let error = client.fetch_jwt(vec!["aud".to_owned()], None).await;
    assert_eq!(error.unwrap_err().code(), Some(Code::PermissionDenied));
}
