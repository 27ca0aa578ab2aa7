//! The crate `spiffe`, an implementation of the standards that is not ours, and rustls with webpki.

use std::time::Duration;

use spiffe::{
    BundleSource as _, JwtSvid, TrustDomain, WorkloadApiClient, WorkloadApiError, X509Source,
};
use tests::domain::{Agent, Domain, Plan};
use tests::process::HANG;
use tests::programs::Make::Signet;
use tests::scenarios::wait_for_svid;

fn start(server_keys: &str) -> (Domain, Agent) {
    let domain = Plan::new(Signet).key(server_keys).start();
    let agent = domain.agent(Signet);
    (domain, agent)
}

fn own() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crate_spiffe_fetches_and_validates_everything() {
    let (domain, agent) = start("");
    domain.entry(&agent, "/first", "unix:uid:0", &["-hint", "internal"]);
    wait_for_svid(&agent, "/first");
    let client = WorkloadApiClient::connect_to(agent.endpoint())
        .await
        .unwrap();

    let svid = client.fetch_x509_svid().await.unwrap();
    assert_eq!(svid.spiffe_id().to_string(), "spiffe://example.org/first");
    assert_eq!(svid.hint(), Some("internal"));
    let context = client.fetch_x509_context().await.unwrap();
    let bundles = client.fetch_x509_bundles().await.unwrap();
    let bundle = bundles.get(&own()).unwrap();
    assert_eq!(bundle.authorities().len(), 1);
    assert_eq!(context.bundle_set().get(&own()), Some(bundle));

    let token = client.fetch_jwt_svid(["reports"], None).await.unwrap();
    assert_eq!(token.spiffe_id().to_string(), "spiffe://example.org/first");
    assert_eq!(token.hint(), Some("internal"));
    let bundles = client.fetch_jwt_bundles().await.unwrap();
    assert!(bundles.bundle_for_trust_domain(&own()).unwrap().is_some());
    // By its own hand, and by the agent's.
    let by_hand = |audience| JwtSvid::parse_and_validate(token.token(), &bundles, &[audience]);
    assert_eq!(by_hand("reports").unwrap().spiffe_id(), token.spiffe_id());
    by_hand("other").unwrap_err();
    let by_agent = |audience| client.validate_jwt_token(audience, token.token());
    let valid = by_agent("reports").await.unwrap();
    assert_eq!(valid.spiffe_id(), token.spiffe_id());
    by_agent("other").await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_without_entries_is_told_so_in_the_words_of_the_standard() {
    let (_domain, agent) = start("");
    let client = WorkloadApiClient::connect_to(agent.endpoint())
        .await
        .unwrap();
    let told = [
        client.fetch_x509_svid().await.unwrap_err(),
        client.fetch_jwt_svid(["reports"], None).await.unwrap_err(),
    ];
    for error in told {
        assert!(
            matches!(error, WorkloadApiError::NoIdentityIssued),
            "{error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_the_crate_spiffe_follows_rotations() {
    let (domain, agent) = start(r#"default_x509_svid_ttl = "20s""#);
    domain.entry(&agent, "/first", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/first");
    let source = X509Source::builder()
        .endpoint(agent.endpoint())
        .initial_sync_timeout(Duration::from_secs(30))
        .build();
    let source = in_time(source).await.unwrap();
    let mut updates = source.updated();
    let mut seen = vec![source.svid().unwrap()];
    while seen.len() < 3 {
        in_time(updates.changed()).await.unwrap();
        let svid = source.svid().unwrap();
        assert_ne!(
            svid.private_key().as_bytes(),
            seen.last().unwrap().private_key().as_bytes()
        );
        seen.push(svid);
    }
    for svid in &seen {
        assert_eq!(svid.spiffe_id().to_string(), "spiffe://example.org/first");
    }
    source.shutdown().await;
}
