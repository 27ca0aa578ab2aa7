//! The Delegated Identity API as a delegate meets it. The caller is this process.

use std::process::{Child, Command};

use identity::entry::Hint;
use proto::spire::agent::delegatedidentity::delegated_identity_client::DelegatedIdentityClient;
use proto::spire::types;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::*;
use crate::api::tests::Admin;
use crate::upstream::fake::entry;

type Client = DelegatedIdentityClient<Channel>;

/// An entry that every process of this user matches.
fn mine(name: &str) -> Entry {
    entry(name, &[&format!("unix:uid:{}", nix::unistd::geteuid())])
}

/// The entries of a delegate, and of others with the selector `x:1`.
fn entries() -> Vec<Entry> {
    let other = |name: &str| entry(name, &["x:1"]);
    vec![
        mine("delegate"),
        Entry {
            hint: Some(Hint::parse("main").unwrap()),
            ..other("other")
        },
        Entry {
            admin: true,
            ..other("operator")
        },
        Entry {
            downstream: true,
            ..other("downstream")
        },
        Entry {
            store_svid: true,
            ..other("stored")
        },
    ]
}

async fn admin() -> (Admin, Client) {
    let admin = Admin::with(&["/delegate"]);
    admin.sync(entries(), &[]).await;
    let client = DelegatedIdentityClient::new(admin.channel().await);
    (admin, client)
}

fn x() -> Vec<types::Selector> {
    vec![types::Selector {
        r#type: "x".to_owned(),
        value: "1".to_owned(),
    }]
}

async fn follow(
    client: &mut Client,
    selectors: Vec<types::Selector>,
    pid: i32,
) -> Result<Streaming<SubscribeToX509sviDsResponse>, Status> {
    let request = SubscribeToX509sviDsRequest { selectors, pid };
    let answer = client.subscribe_to_x509svi_ds(request).await;
    answer.map(Response::into_inner)
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let next = tokio::time::timeout(std::time::Duration::from_secs(30), stream.message());
    next.await.expect("the test hangs").map(Option::unwrap)
}

fn paths(update: &SubscribeToX509sviDsResponse) -> Vec<&str> {
    let svids = update.x509_svids.iter();
    svids
        .map(|svid| svid.x509_svid.as_ref().unwrap())
        .map(|svid| svid.id.as_ref().unwrap().path.as_str())
        .collect()
}

async fn tokens(
    client: &mut Client,
    selectors: Vec<types::Selector>,
    pid: i32,
) -> Result<Vec<types::Jwtsvid>, Status> {
    let request = FetchJwtsviDsRequest {
        audience: vec!["db".to_owned()],
        selectors,
        pid,
    };
    let answer = client.fetch_jwtsvi_ds(request).await;
    answer.map(|answer| answer.into_inner().svids)
}

#[tokio::test]
async fn a_delegate_gets_x509_svids_of_others_and_none_of_an_operator_a_server_or_a_store() {
    let (admin, mut client) = admin().await;
    let mut stream = follow(&mut client, x(), 0).await.unwrap();
    let update = next(&mut stream).await.unwrap();
    assert_eq!(paths(&update), ["/other"]);
    let svid = &update.x509_svids[0];
    assert!(!svid.x509_svid_key.is_empty());
    let shown = svid.x509_svid.as_ref().unwrap();
    assert_eq!((shown.hint.as_str(), shown.cert_chain.len()), ("main", 1));
    assert!(shown.expires_at > 0);
    drop(stream);
    admin.stop().await;
}

#[tokio::test]
async fn a_delegate_gets_jwt_svids_of_others_and_none_of_an_operator_a_server_or_a_store() {
    let (admin, mut client) = admin().await;
    let svids = tokens(&mut client, x(), 0).await.unwrap();
    assert_eq!(svids.len(), 1);
    assert_eq!(svids[0].id.as_ref().unwrap().path, "/other");
    assert!(svids[0].expires_at > svids[0].issued_at && !svids[0].token.is_empty());
    let status = client.fetch_jwtsvi_ds(FetchJwtsviDsRequest {
        selectors: x(),
        ..Default::default()
    });
    assert_eq!(status.await.unwrap_err().code(), Code::InvalidArgument);
    let nobody = vec![types::Selector {
        r#type: "x".to_owned(),
        value: "2".to_owned(),
    }];
    let status = tokens(&mut client, nobody, 0).await.unwrap_err();
    assert_eq!(status.message(), "no identity issued");
    admin.stop().await;
}

#[tokio::test]
async fn who_is_no_delegate_is_refused_in_spires_words() {
    let admin = Admin::with(&["/delegate"]);
    let mut client = DelegatedIdentityClient::new(admin.channel().await);
    let status = follow(&mut client, x(), 0).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "nothing is known yet");
    for (entries, words) in [
        (vec![entry("other", &["x:1"])], "no identity issued"),
        (
            vec![entry("other", &["x:1"]), mine("somebody")],
            "caller not configured as an authorized delegate",
        ),
    ] {
        admin.sync(entries, &[]).await;
        let refused = [
            follow(&mut client, x(), 0).await.unwrap_err(),
            tokens(&mut client, x(), 0).await.unwrap_err(),
            (client
                .subscribe_to_x509_bundles(SubscribeToX509BundlesRequest {})
                .await)
                .unwrap_err(),
            (client
                .subscribe_to_jwt_bundles(SubscribeToJwtBundlesRequest {})
                .await)
                .unwrap_err(),
        ];
        for status in refused {
            assert_eq!(status.code(), Code::PermissionDenied);
            assert_eq!(status.message(), words);
        }
    }
    admin.stop().await;
}

#[tokio::test]
async fn a_delegate_whose_entry_is_gone_gets_nothing_more() {
    let (admin, mut client) = admin().await;
    let mut svids = follow(&mut client, x(), 0).await.unwrap();
    next(&mut svids).await.unwrap();
    let bundles = client.subscribe_to_x509_bundles(SubscribeToX509BundlesRequest {});
    let mut bundles = bundles.await.unwrap().into_inner();
    next(&mut bundles).await.unwrap();
    let mut left = entries();
    left.remove(0);
    left[0].revision = 1;
    admin.sync(left, &["f.org"]).await;
    for status in [
        next(&mut svids).await.unwrap_err(),
        next(&mut bundles).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    admin.stop().await;
}

#[tokio::test]
async fn an_identity_that_becomes_an_operators_leaves_the_stream() {
    let (admin, mut client) = admin().await;
    let mut stream = follow(&mut client, x(), 0).await.unwrap();
    assert_eq!(paths(&next(&mut stream).await.unwrap()), ["/other"]);
    let mut entries = entries();
    (entries[1].admin, entries[1].revision) = (true, 1);
    admin.sync(entries, &[]).await;
    assert_eq!(paths(&next(&mut stream).await.unwrap()), [""; 0]);
    admin.stop().await;
}

#[tokio::test]
async fn selectors_or_a_process_must_be_given_and_not_both() {
    let (admin, mut client) = admin().await;
    let own = i32::try_from(std::process::id()).unwrap();
    let malformed = vec![types::Selector::default()];
    for (selectors, pid) in [(x(), own), (Vec::new(), 0), (malformed, 0)] {
        let status = follow(&mut client, selectors.clone(), pid).await;
        assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
        let status = tokens(&mut client, selectors, pid).await;
        assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
    }
    let status = follow(&mut client, Vec::new(), -1).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    admin.stop().await;
}

fn sleeper() -> Child {
    Command::new("sleep").arg("600").spawn().unwrap()
}

#[tokio::test]
async fn a_process_that_is_named_is_held_until_it_ends() {
    let (admin, mut client) = admin().await;
    let mut child = sleeper();
    let pid = i32::try_from(child.id()).unwrap();
    let mut stream = follow(&mut client, Vec::new(), pid).await.unwrap();
    assert_eq!(paths(&next(&mut stream).await.unwrap()), ["/delegate"]);
    assert_eq!(tokens(&mut client, Vec::new(), pid).await.unwrap().len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "workload attestation failed");
    let status = follow(&mut client, Vec::new(), pid).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    admin.stop().await;
}

#[tokio::test]
async fn bundles_of_all_trust_domains_are_followed() {
    let (admin, mut client) = admin().await;
    let x509 = client.subscribe_to_x509_bundles(SubscribeToX509BundlesRequest {});
    let mut x509 = x509.await.unwrap().into_inner();
    let jwt = client.subscribe_to_jwt_bundles(SubscribeToJwtBundlesRequest {});
    let mut jwt = jwt.await.unwrap().into_inner();
    let own = ["spiffe://example.org"];
    let first = next(&mut x509).await.unwrap().ca_certificates;
    assert_eq!(first.keys().collect::<Vec<_>>(), own);
    let first = next(&mut jwt).await.unwrap().bundles;
    assert_eq!(first.keys().collect::<Vec<_>>(), own);
    admin.sync(entries(), &["f.org"]).await;
    let both = ["spiffe://example.org", "spiffe://f.org"];
    let second = next(&mut x509).await.unwrap().ca_certificates;
    assert_eq!(second.keys().collect::<Vec<_>>(), both);
    assert!(second.values().all(|der| !der.is_empty()));
    let second = next(&mut jwt).await.unwrap().bundles;
    assert_eq!(second.keys().collect::<Vec<_>>(), both);
    admin.stop().await;
}

#[tokio::test]
async fn shutdown_ends_every_delegates_stream() {
    let (admin, mut client) = admin().await;
    let mut stream = follow(&mut client, x(), 0).await.unwrap();
    next(&mut stream).await.unwrap();
    admin.stop().await;
    assert!(next(&mut stream).await.is_err());
}
