//! Facts about federation relationships made through the API.

use proto::spire::server::bundle::{GetBundleRequest, GetFederatedBundleRequest};
use proto::spire::server::trustdomain::trust_domain_client::TrustDomainClient;
use proto::spire::server::trustdomain::{
    BatchCreateFederationRelationshipRequest, BatchDeleteFederationRelationshipRequest,
    BatchUpdateFederationRelationshipRequest, GetFederationRelationshipRequest,
    ListFederationRelationshipsRequest,
};
use proto::spire::types::federation_relationship::BundleEndpointProfile;
use proto::spire::types::{
    Bundle, FederationRelationship, FederationRelationshipMask, HttpsWebProfile, HttpsspiffeProfile,
};
use tonic::Code;
use tonic::transport::Channel;

use super::support::{Server, durable, start};

pub(crate) fn client(server: &Server) -> TrustDomainClient<Channel> {
    TrustDomainClient::new(server.admin.clone())
}

pub(crate) fn https_web(trust_domain: &str, url: &str) -> FederationRelationship {
    FederationRelationship {
        trust_domain: trust_domain.to_owned(),
        bundle_endpoint_url: url.to_owned(),
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(HttpsWebProfile {})),
        trust_domain_bundle: None,
    }
}

pub(crate) fn https_spiffe(trust_domain: &str, url: &str, id: &str) -> FederationRelationship {
    FederationRelationship {
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(HttpsspiffeProfile {
            endpoint_spiffe_id: id.to_owned(),
        })),
        ..https_web(trust_domain, url)
    }
}

/// Creates relationships, and gives the code and the message of each.
pub(crate) async fn create(
    server: &Server,
    relationships: Vec<FederationRelationship>,
) -> Vec<(i32, String)> {
    let request = BatchCreateFederationRelationshipRequest {
        federation_relationships: relationships,
        output_mask: None,
    };
    let created = client(server)
        .batch_create_federation_relationship(request)
        .await;
    let results = created.unwrap().into_inner().results.into_iter();
    results
        .map(|result| {
            let status = result.status.unwrap();
            (status.code, status.message)
        })
        .collect()
}

async fn get(server: &Server, name: &str) -> Result<FederationRelationship, Code> {
    let request = GetFederationRelationshipRequest {
        trust_domain: name.to_owned(),
        output_mask: None,
    };
    let got = client(server).get_federation_relationship(request).await;
    got.map(tonic::Response::into_inner)
        .map_err(|status| status.code())
}

async fn listed(server: &Server, size: i32, token: &str) -> (Vec<String>, String) {
    let request = ListFederationRelationshipsRequest {
        page_size: size,
        page_token: token.to_owned(),
        output_mask: None,
    };
    let listed = client(server).list_federation_relationships(request).await;
    let listed = listed.unwrap().into_inner();
    let names = listed.federation_relationships.into_iter();
    (
        names
            .map(|relationship| relationship.trust_domain)
            .collect(),
        listed.next_page_token,
    )
}

/// The server's own authorities, as if they were another trust domain's.
async fn some_bundle(server: &Server, trust_domain: &str) -> Bundle {
    let own = server
        .bundles()
        .get_bundle(GetBundleRequest::default())
        .await;
    Bundle {
        trust_domain: trust_domain.to_owned(),
        ..own.unwrap().into_inner()
    }
}

#[tokio::test]
async fn what_there_is_no_relationship_with_is_not_found() {
    let server = start().await;
    assert_eq!(get(&server, "d.org").await, Err(Code::NotFound));
    assert_eq!(get(&server, "d/org").await, Err(Code::InvalidArgument));
}

#[tokio::test]
async fn each_relationship_of_a_batch_has_a_status_of_its_own() {
    let server = start().await;
    let web = https_web("a.org", "https://a.org:8443/b");
    let spiffe = https_spiffe("b.org", "https://b.org", "spiffe://c.org/endpoint");
    let mut no_profile = web.clone();
    no_profile.bundle_endpoint_profile = None;
    let other_bundle = FederationRelationship {
        trust_domain_bundle: Some(some_bundle(&server, "x.org").await),
        ..https_web("d.org", "https://d.org")
    };
    let convert = "failed to convert federation relationship: ";
    let asked = [
        (web.clone(), 0, "OK".to_owned()),
        (spiffe.clone(), 0, "OK".to_owned()),
        (
            web.clone(),
            13,
            "failed to create federation relationship: there is a federation relationship with this trust domain already".to_owned(),
        ),
        (
            https_web("example.org", "https://a.org"),
            3,
            "unable to create federation relationship for server trust domain".to_owned(),
        ),
        (
            https_web("A.org", "https://a.org"),
            3,
            format!("{convert}failed to parse trust domain: trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"),
        ),
        (
            https_web("d.org", "http://a.org"),
            3,
            format!("{convert}bundle endpoint URL must use the https scheme"),
        ),
        (
            https_web("d.org", "https://u:p@a.org"),
            3,
            format!("{convert}bundle endpoint URL must not contain user info"),
        ),
        (
            https_web("d.org", "https://"),
            3,
            format!("{convert}bundle endpoint URL must specify the host"),
        ),
        (
            no_profile,
            3,
            format!("{convert}unsupported bundle endpoint profile type: <nil>"),
        ),
        (
            https_spiffe("d.org", "https://d.org", "d.org/x"),
            3,
            format!("{convert}failed to parse endpoint SPIFFE ID: scheme is missing or invalid"),
        ),
        (
            other_bundle,
            3,
            format!("{convert}trust domain bundle (\"x.org\") must match the trust domain of the federation relationship (\"d.org\")"),
        ),
    ];
    let told = create(
        &server,
        asked.iter().map(|(asked, ..)| asked.clone()).collect(),
    )
    .await;
    for ((code, message), (asked, expected, said)) in told.iter().zip(&asked) {
        assert_eq!((code, message), (expected, said), "{asked:?}");
    }
    for (name, asked) in [("spiffe://a.org", web), ("b.org", spiffe)] {
        assert_eq!(get(&server, name).await, Ok(asked));
    }
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_and_nothing_else() {
    let server = start().await;
    let old = https_web("a.org", "https://a.org/old");
    create(&server, vec![old.clone()]).await;
    let bundle = some_bundle(&server, "a.org").await;
    let new = FederationRelationship {
        trust_domain_bundle: Some(bundle.clone()),
        ..https_spiffe("a.org", "https://a.org/new", "spiffe://a.org/endpoint")
    };
    let update = async |mask: Option<FederationRelationshipMask>, relationship| {
        let request = BatchUpdateFederationRelationshipRequest {
            federation_relationships: vec![relationship],
            input_mask: mask,
            output_mask: Some(FederationRelationshipMask {
                bundle_endpoint_url: true,
                ..Default::default()
            }),
        };
        let updated = client(&server)
            .batch_update_federation_relationship(request)
            .await;
        let result = updated.unwrap().into_inner().results.remove(0);
        (result.status.unwrap().code, result.federation_relationship)
    };
    let url_alone = FederationRelationshipMask {
        bundle_endpoint_url: true,
        ..Default::default()
    };
    let (code, shown) = update(Some(url_alone), new.clone()).await;
    let shown = shown.unwrap();
    assert_eq!(
        (code, shown.bundle_endpoint_url.as_str()),
        (0, "https://a.org/new")
    );
    assert_eq!(
        shown.bundle_endpoint_profile, None,
        "the output mask names it not"
    );
    let changed = get(&server, "a.org").await.unwrap();
    assert_eq!(changed, https_web("a.org", "https://a.org/new"));
    assert_eq!(update(None, new.clone()).await.0, 0);
    assert_eq!(get(&server, "a.org").await, Ok(new));
    let missing = https_web("nope.org", "https://nope.org");
    assert_eq!(update(None, missing).await, (13, None));
    let own = https_web("example.org", "https://a.org");
    assert_eq!(update(None, own).await, (13, None));
}

#[tokio::test]
async fn a_relationship_begins_with_the_bundle_it_brings_and_leaves_it_behind() {
    let server = start().await;
    let bundle = some_bundle(&server, "a.org").await;
    let seeded = FederationRelationship {
        trust_domain_bundle: Some(bundle.clone()),
        ..https_web("a.org", "https://a.org")
    };
    assert_eq!(create(&server, vec![seeded.clone()]).await[0].0, 0);
    assert_eq!(get(&server, "a.org").await, Ok(seeded));
    let request = BatchDeleteFederationRelationshipRequest {
        trust_domains: ["spiffe://a.org", "a.org", "", "A"]
            .map(str::to_owned)
            .to_vec(),
    };
    let deleted = client(&server)
        .batch_delete_federation_relationship(request)
        .await;
    let results = deleted.unwrap().into_inner().results.into_iter();
    let told: Vec<_> = results
        .map(|result| (result.status.unwrap().code, result.trust_domain))
        .collect();
    let expected = [(0, "a.org"), (5, "a.org"), (3, ""), (3, "A")];
    let expected = expected.map(|(code, name)| (code, name.to_owned()));
    assert_eq!(told, expected);
    assert_eq!(get(&server, "a.org").await, Err(Code::NotFound));
    let request = GetFederatedBundleRequest {
        trust_domain: "a.org".to_owned(),
        output_mask: None,
    };
    let kept = server.bundles().get_federated_bundle(request).await;
    assert_eq!(kept.unwrap().into_inner(), bundle);
}

#[tokio::test]
async fn relationships_are_listed_by_name_and_page_by_page() {
    let server = start().await;
    let names = ["c.org", "a.org", "b.org"];
    let relationships = names.map(|name| https_web(name, "https://a.org"));
    create(&server, relationships.to_vec()).await;
    let (all, token) = listed(&server, 0, "").await;
    assert_eq!(
        (all, token.as_str()),
        (vec!["a.org".into(), "b.org".into(), "c.org".into()], "")
    );
    let (page, token) = listed(&server, 2, "").await;
    assert_eq!(page, ["a.org", "b.org"]);
    let (page, token) = listed(&server, 2, &token).await;
    assert_eq!((page, token.as_str()), (vec!["c.org".into()], ""));
}

#[tokio::test]
async fn a_relationship_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(durable(&folder)).await.unwrap();
    let web = https_web("a.org", "https://a.org/b");
    let spiffe = https_spiffe("b.org", "https://b.org", "spiffe://b.org/endpoint");
    create(&server, vec![web.clone(), spiffe.clone()]).await;
    server.stop().await;
    let server = Server::start(durable(&folder)).await.unwrap();
    assert_eq!(get(&server, "a.org").await, Ok(web));
    assert_eq!(get(&server, "b.org").await, Ok(spiffe));
    server.stop().await;
}
