//! X509-SVIDs: order, hints, withdrawal.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::bundle::Bundle;
use tonic::Code;

use crate::client::X509Context;
use crate::source::Bundles;
use crate::testing::{Pki, Served};

fn ids(context: &X509Context) -> Vec<&str> {
    let svids = context.svids.iter();
    svids.map(|svid| svid.svid.id().as_str()).collect()
}

#[tokio::test]
async fn identities_come_in_the_order_of_their_entry_ids() {
    let served = Served::start();
    let pki = &served.pki;
    served.source.publish(vec![
        pki.identity("c", "/third", "", 1),
        pki.identity("a", "/first", "", 3),
        pki.identity("b", "/second", "", 2),
    ]);
    let context = served.client().await.fetch_x509().await.unwrap();
    assert_eq!(
        ids(&context),
        [pki.id("/first"), pki.id("/second"), pki.id("/third")]
    );
}

#[tokio::test]
async fn of_a_repeated_hint_the_older_entry_stays() {
    let served = Served::start();
    let pki = &served.pki;
    served.source.publish(vec![
        pki.identity("a", "/young", "internal", 9),
        pki.identity("b", "/old", "internal", 1),
        pki.identity("c", "/plain", "", 1),
        pki.identity("d", "/plain2", "", 1),
    ]);
    let context = served.client().await.fetch_x509().await.unwrap();
    assert_eq!(
        ids(&context),
        [pki.id("/old"), pki.id("/plain"), pki.id("/plain2")]
    );
    assert_eq!(context.svids[0].hint.as_deref(), Some("internal"));
    assert_eq!(context.svids[1].hint, None);
}

#[tokio::test]
async fn a_caller_without_an_identity_is_denied() {
    let served = Served::start();
    served.source.publish(vec![]);
    let error = served.client().await.fetch_x509().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::PermissionDenied));
    assert!(runtime::report::chain(&error).contains("no identity issued"));
}

#[tokio::test]
async fn a_failed_attestation_is_unavailable() {
    let served = Served::start();
    served.source.fail_attestation(true);
    let error = served.client().await.fetch_x509().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unavailable));
    let text = runtime::report::chain(&error);
    assert!(text.contains("workload attestation failed"), "{text}");
    assert!(!text.contains("told to fail"), "{text}");
}

#[tokio::test]
async fn every_message_is_the_whole_state() {
    let served = Served::start();
    let pki = &served.pki;
    let (first, second) = (
        pki.identity("a", "/first", "", 1),
        pki.identity("b", "/second", "", 1),
    );
    served
        .source
        .publish(vec![Arc::clone(&first), Arc::clone(&second)]);
    let mut watch = served.client().await.watch_x509().await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().svids.len(), 2);
    let rotated = pki.identity("b", "/second", "", 1);
    let serial = rotated.svid.leaf().serial_decimal().to_owned();
    served.source.publish(vec![first, rotated]);
    let context = watch.next().await.unwrap().unwrap();
    assert_eq!(ids(&context), [pki.id("/first"), pki.id("/second")]);
    assert_eq!(context.svids[1].svid.leaf().serial_decimal(), serial);
}

#[tokio::test]
async fn withdrawing_the_last_identity_ends_the_stream_with_a_denial() {
    let served = Served::start();
    let pki = &served.pki;
    served
        .source
        .publish(vec![pki.identity("a", "/only", "", 1)]);
    let mut watch = served.client().await.watch_x509().await.unwrap();
    watch.next().await.unwrap().unwrap();
    served.source.publish(vec![]);
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::PermissionDenied));
}

#[tokio::test]
async fn a_hundred_streams_each_get_a_message_at_once() {
    let served = Served::start();
    served
        .source
        .publish(vec![served.pki.identity("a", "/only", "", 1)]);
    let client = served.client().await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut watch = client.watch_x509().await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().svids.len(), 1);
        open.push(watch);
    }
    assert_eq!(served.source.subscribers(), 100);
}

#[tokio::test]
async fn a_client_that_goes_frees_its_subscription() {
    let served = Served::start();
    served
        .source
        .publish(vec![served.pki.identity("a", "/only", "", 1)]);
    let mut watch = served.client().await.watch_x509().await.unwrap();
    watch.next().await.unwrap().unwrap();
    drop(watch);
    while served.source.subscribers() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn shutdown_ends_every_stream() {
    let served = Served::start();
    served
        .source
        .publish(vec![served.pki.identity("a", "/only", "", 1)]);
    let mut watch = served.client().await.watch_x509().await.unwrap();
    watch.next().await.unwrap().unwrap();
    served.shut_down();
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unavailable));
}

#[tokio::test]
async fn a_foreign_bundle_without_x509_authorities_is_left_out() {
    let served = Served::start();
    let foreign = Pki::new("foreign.test");
    let empty = Arc::new(Bundle::new("empty.test".parse().unwrap()));
    let federated = BTreeMap::from([
        (foreign.trust_domain.clone(), Arc::clone(&foreign.bundle)),
        (empty.trust_domain.clone(), empty),
    ]);
    let bundles = Bundles::new(Arc::clone(&served.pki.bundle), federated);
    served.source.set_bundles(bundles);
    served
        .source
        .publish(vec![served.pki.identity("a", "/only", "", 1)]);
    let context = served.client().await.fetch_x509().await.unwrap();
    let domains: Vec<_> = context.federated.keys().collect();
    assert_eq!(domains, [&foreign.trust_domain]);
}

#[tokio::test]
async fn all_streams_of_an_update_share_one_encoding() {
    let served = Served::start();
    let pki = &served.pki;
    let update = served
        .source
        .publish(vec![pki.identity("a", "/only", "", 1)]);
    assert_eq!(update.x509_svids().as_ptr(), update.x509_svids().as_ptr());
    let bundles = update.bundles();
    assert_eq!(bundles.x509().as_ptr(), bundles.x509().as_ptr());
}
