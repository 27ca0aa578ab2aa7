//! Facts about the exchange of bundles: our endpoint, our client, and endpoints that mean no good.

pub(crate) mod endpoint;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::bundle::{Bundle, MAX_BUNDLE_BYTES};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::Certificate;
use proto::spire::server::bundle::{GetBundleRequest, GetFederatedBundleRequest};
use proto::spire::server::localauthority::PrepareX509AuthorityRequest;
use proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use proto::spire::server::trustdomain::{
    BatchDeleteFederationRelationshipRequest, RefreshBundleRequest,
};
use proto::spire::types::{self, FederationRelationship};
use runtime::config::HostPort;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use server::config::{BundleEndpointConfig, Config, ServingConfig};
use server::federation::{self, EndpointUrl, Profile};
use server::web::CertificateFiles;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Status};

use self::endpoint::{Authority, Endpoint, Say, loopback, spiffe_id};
use super::support::{Server, config, durable, start, start_with};
use super::trustdomain::{client, create, https_spiffe, https_web};

const ENDPOINT_ID: &str = "spiffe://fed.org/endpoint";
/// How long a test waits for anything before it calls that a hang.
const HANG: Duration = Duration::from_secs(60);

async fn refresh(server: &Server, trust_domain: &str) -> Result<(), Status> {
    let request = RefreshBundleRequest {
        trust_domain: trust_domain.to_owned(),
    };
    let refreshed = client(server).refresh_bundle(request).await;
    refreshed.map(tonic::Response::into_inner)
}

async fn refused(server: &Server, trust_domain: &str) -> String {
    let status = refresh(server, trust_domain).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    let message = status.message().strip_prefix("failed to refresh bundle: ");
    message.unwrap().to_owned()
}

/// The stored bundle of another trust domain, without what SPIFFE's JSON does not carry.
async fn stored(server: &Server, trust_domain: &str) -> Option<types::Bundle> {
    let request = GetFederatedBundleRequest {
        trust_domain: trust_domain.to_owned(),
        output_mask: None,
    };
    let bundle = server.bundles().get_federated_bundle(request).await;
    bundle.ok().map(tonic::Response::into_inner)
}

async fn sequence(server: &Server, trust_domain: &str) -> Option<u64> {
    Some(stored(server, trust_domain).await?.sequence_number)
}

/// Asks until the answer is yes: what a server does by itself sends no event.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let asked = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    assert!(
        tokio::time::timeout(HANG, asked).await.is_ok(),
        "never: {what}"
    );
}

fn message(bundle: &Bundle) -> types::Bundle {
    types::Bundle {
        trust_domain: bundle.trust_domain.name().to_owned(),
        x509_authorities: bundle
            .certificates()
            .map(|certificate| types::X509Certificate {
                asn1: certificate.der().to_vec().into(),
                tainted: false,
            })
            .collect(),
        sequence_number: bundle.sequence,
        ..Default::default()
    }
}

fn with_bundle(relationship: FederationRelationship, bundle: &Bundle) -> FederationRelationship {
    FederationRelationship {
        trust_domain_bundle: Some(message(bundle)),
        ..relationship
    }
}

/// A server that federates with an endpoint of `https_spiffe`, and has its bundle of number 5.
struct Federated {
    server: Server,
    endpoint: Endpoint,
    authority: Authority,
}

impl Federated {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let authority = Authority::new();
        let leaf = authority.sign(spiffe_id(ENDPOINT_ID));
        let good = authority.bundle("fed.org", 5);
        let endpoint = Endpoint::start(leaf, Say::Bundle(good.clone())).await;
        let server = start_with(change).await;
        let relationship = https_spiffe("fed.org", &endpoint.url(), ENDPOINT_ID);
        let told = create(&server, vec![with_bundle(relationship, &good)]).await;
        assert_eq!(told[0].0, 0, "{told:?}");
        refresh(&server, "fed.org").await.unwrap();
        Self {
            server,
            endpoint,
            authority,
        }
    }

    /// The endpoint says something bad: it is refused for this reason, and the good bundle stays.
    async fn refuses(&self, say: Say, why: &str) {
        let good = stored(&self.server, "fed.org").await.unwrap();
        self.endpoint.say(say.clone());
        let refused = refused(&self.server, "fed.org").await;
        assert!(refused.contains(why), "{say:?}: {refused}");
        assert_eq!(stored(&self.server, "fed.org").await, Some(good), "{say:?}");
    }

    fn counted(&self, labels: &str) -> bool {
        let name = format!("signet_federation_refreshes_total{{{labels}}}");
        self.server.metrics.encode().contains(&name)
    }
}

#[tokio::test]
async fn a_newer_bundle_takes_the_place_of_the_stored_one() {
    let fed = Federated::start(|_| {}).await;
    let newer = Authority::new().bundle("fed.org", 6);
    fed.endpoint.say(Say::Bundle(newer.clone()));
    let audited = r#"signet_audit_events_total{event="bundle_refreshed"} 1"#;
    assert!(!fed.server.metrics.encode().contains(audited));
    refresh(&fed.server, "fed.org").await.unwrap();
    assert_eq!(stored(&fed.server, "fed.org").await, Some(message(&newer)));
    assert!(fed.server.metrics.encode().contains(audited));
    // The endpoint is known by the newest bundle from now on (SPIFFE Federation 5.2.2.4), and its own
    // certificate is not in it.
    let refused = refused(&fed.server, "fed.org").await;
    assert!(refused.contains("could not authenticate"), "{refused}");
}

#[tokio::test]
async fn adv_an_older_bundle_is_refused_with_an_alarm_and_the_last_good_one_stays() {
    let fed = Federated::start(|_| {}).await;
    let older = Authority::new().bundle("fed.org", 4);
    fed.refuses(Say::Bundle(older), "older than 5").await;
    assert!(fed.counted("outcome=\"Refused\",reason=\"bundle_older\""));
    let other = Authority::new().bundle("fed.org", 5);
    fed.refuses(Say::Bundle(other), "other authorities").await;
    assert!(fed.counted("outcome=\"Refused\",reason=\"bundle_same_number\""));
}

#[tokio::test]
async fn adv_an_empty_bundle_is_refused_with_an_alarm_and_the_last_good_one_stays() {
    let fed = Federated::start(|_| {}).await;
    for text in [
        r#"{"keys":[]}"#,
        r#"{"keys":[],"spiffe_sequence":9}"#,
        r#"{"keys":[{"use":"foo-svid","kty":"EC"}],"spiffe_sequence":9}"#,
    ] {
        fed.refuses(Say::Text(text.to_owned()), "no authority")
            .await;
    }
    assert!(fed.counted("outcome=\"Refused\",reason=\"bundle_empty\""));
}

#[tokio::test]
async fn adv_what_is_no_bundle_is_refused_and_the_last_good_one_stays() {
    let fed = Federated::start(|_| {}).await;
    for text in [
        "",
        "{}",
        "<html></html>",
        r#"{"keys":1}"#,
        r#"{"keys":[],"keys":[]}"#,
    ] {
        fed.refuses(Say::Text(text.to_owned()), "not a bundle")
            .await;
    }
    for head in [
        "404 Not Found",
        "500 Oops",
        "204 No Content",
        "401 Unauthorized",
    ] {
        fed.refuses(Say::Head(head.to_owned()), "unexpected status")
            .await;
    }
}

#[tokio::test]
async fn adv_an_oversized_bundle_is_refused_before_it_has_been_read() {
    let fed = Federated::start(|_| {}).await;
    fed.refuses(Say::Forever, "larger than").await;
    let padded =
        " ".repeat(MAX_BUNDLE_BYTES) + &fed.authority.bundle("fed.org", 9).to_spiffe_json();
    fed.refuses(Say::Text(padded), "larger than").await;
}

#[tokio::test]
async fn adv_a_redirect_is_not_followed() {
    let fed = Federated::start(|_| {}).await;
    let leaf = fed.authority.sign(spiffe_id(ENDPOINT_ID));
    let bundle = fed.authority.bundle("fed.org", 9);
    let elsewhere = Endpoint::start(leaf, Say::Bundle(bundle)).await;
    for status in ["301 Moved", "302 Found", "307 Elsewhere", "308 Gone"] {
        let head = format!("{status}\r\nLocation: {}", elsewhere.url());
        fed.refuses(Say::Head(head), "redirects are not followed")
            .await;
    }
    assert_eq!(elsewhere.asked(), 0);
}

#[tokio::test]
async fn adv_a_hanging_endpoint_is_given_up_and_holds_up_no_other() {
    let fed = Federated::start(|config| {
        config.federation.fetch_deadline = Duration::from_millis(500);
    })
    .await;
    let leaf = fed.authority.sign(spiffe_id(ENDPOINT_ID));
    let bundle = fed.authority.bundle("other.org", 1);
    let other = Endpoint::start(leaf, Say::Bundle(bundle)).await;
    fed.endpoint.say(Say::Nothing);
    let relationship = https_spiffe("other.org", &other.url(), ENDPOINT_ID);
    assert_eq!(create(&fed.server, vec![relationship]).await[0].0, 0);
    let (hanging, answering) = tokio::join!(
        refused(&fed.server, "fed.org"),
        refresh(&fed.server, "other.org")
    );
    assert!(hanging.contains("did not answer within"), "{hanging}");
    answering.unwrap();
    assert_eq!(sequence(&fed.server, "fed.org").await, Some(5));
}

#[tokio::test]
async fn adv_an_endpoint_with_another_key_or_another_name_is_not_heard() {
    let fed = Federated::start(|_| {}).await;
    let newer = fed.authority.bundle("fed.org", 9);
    let foreign = Authority::new();
    for (leaf, what) in [
        (foreign.sign(spiffe_id(ENDPOINT_ID)), "a foreign key"),
        (
            fed.authority.sign(spiffe_id("spiffe://fed.org/other")),
            "another SPIFFE ID",
        ),
        (
            fed.authority.sign(spiffe_id("spiffe://x.org/endpoint")),
            "another trust domain",
        ),
        (fed.authority.sign(loopback()), "a Web PKI certificate"),
    ] {
        let endpoint = Endpoint::start(leaf, Say::Bundle(newer.clone())).await;
        let server = start().await;
        let relationship = https_spiffe("fed.org", &endpoint.url(), ENDPOINT_ID);
        let good = fed.authority.bundle("fed.org", 5);
        create(&server, vec![with_bundle(relationship, &good)]).await;
        let refused = refused(&server, "fed.org").await;
        assert!(
            refused.contains("could not authenticate"),
            "{what}: {refused}"
        );
        assert_eq!(
            (endpoint.asked(), sequence(&server, "fed.org").await),
            (0, Some(5)),
            "{what}"
        );
    }
}

/// A server that takes this authority for one of the Web PKI.
async fn start_trusting(authority: &Authority, folder: &TempDir) -> Server {
    let roots = folder.path().join("roots.pem");
    authority.write_pem(&roots);
    start_with(|config| config.federation.web_roots = Some(roots)).await
}

#[tokio::test]
async fn https_web_takes_a_certificate_of_the_web_pki_for_the_host_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (web, foreign) = (Authority::new(), Authority::new());
    let bundle = Authority::new().bundle("fed.org", 3);
    let server = start_trusting(&web, &folder).await;
    for (leaf, taken) in [
        (foreign.sign(loopback()), false),
        (
            web.sign(rcgen::SanType::DnsName("fed.org".try_into().unwrap())),
            false,
        ),
        (web.sign(spiffe_id(ENDPOINT_ID)), false),
        (web.sign(loopback()), true),
    ] {
        let endpoint = Endpoint::start(leaf, Say::Bundle(bundle.clone())).await;
        let relationship = https_web("fed.org", &endpoint.url());
        assert_eq!(create(&server, vec![relationship]).await[0].0, 0);
        let refreshed = refresh(&server, "fed.org").await;
        assert_eq!(refreshed.is_ok(), taken, "{refreshed:?}");
        assert_eq!(sequence(&server, "fed.org").await, taken.then_some(3));
        let request = BatchDeleteFederationRelationshipRequest {
            trust_domains: vec!["fed.org".to_owned()],
        };
        let deleted = client(&server)
            .batch_delete_federation_relationship(request)
            .await;
        assert_eq!(
            deleted.unwrap().into_inner().results[0]
                .status
                .as_ref()
                .unwrap()
                .code,
            0
        );
    }
}

#[tokio::test]
async fn an_endpoint_of_another_trust_domain_is_known_by_that_ones_bundle() {
    let server = start().await;
    let authority = Authority::new();
    let leaf = authority.sign(spiffe_id("spiffe://host.org/endpoint"));
    let bundle = Authority::new().bundle("fed.org", 3);
    let endpoint = Endpoint::start(leaf, Say::Bundle(bundle)).await;
    let relationship = https_spiffe("fed.org", &endpoint.url(), "spiffe://host.org/endpoint");
    create(&server, vec![relationship]).await;
    let without = refused(&server, "fed.org").await;
    assert!(
        without.contains("local copy of bundle not found"),
        "{without}"
    );
    assert_eq!(endpoint.asked(), 0, "nothing is fetched insecurely");
    let host = https_web("host.org", "https://127.0.0.1:9/");
    let host = with_bundle(host, &authority.bundle("host.org", 1));
    assert_eq!(create(&server, vec![host]).await[0].0, 0);
    refresh(&server, "fed.org").await.unwrap();
    assert_eq!(sequence(&server, "fed.org").await, Some(3));
}

#[tokio::test]
async fn a_bundle_is_fetched_without_being_asked_for_and_not_after_its_relationship_has_ended() {
    let fed = Federated::start(|_| {}).await;
    let newer = fed.authority.bundle("fed.org", 8);
    fed.endpoint.say(Say::Bundle(newer));
    // A changed relationship is followed anew, at once.
    let request = BatchDeleteFederationRelationshipRequest {
        trust_domains: vec!["fed.org".to_owned()],
    };
    client(&fed.server)
        .batch_delete_federation_relationship(request)
        .await
        .unwrap();
    assert_eq!(
        refresh(&fed.server, "fed.org").await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(sequence(&fed.server, "fed.org").await, Some(5));
    let again = https_spiffe("fed.org", &fed.endpoint.url(), ENDPOINT_ID);
    create(&fed.server, vec![again]).await;
    eventually("the bundle is refreshed", async || {
        sequence(&fed.server, "fed.org").await == Some(8)
    })
    .await;
}

#[tokio::test]
async fn a_relationship_of_the_configuration_wins_over_one_of_the_api() {
    let authority = Authority::new();
    let say = |number| Say::Bundle(authority.bundle("fed.org", number));
    let configured = Endpoint::start(authority.sign(spiffe_id(ENDPOINT_ID)), say(7)).await;
    let made = Endpoint::start(authority.sign(spiffe_id(ENDPOINT_ID)), say(6)).await;
    let server = start_with(|config| {
        config.federation.federates_with.insert(
            TrustDomain::parse("fed.org").unwrap(),
            federation::Endpoint {
                url: EndpointUrl::parse(&configured.url()).unwrap(),
                profile: Profile::HttpsSpiffe(SpiffeId::parse(ENDPOINT_ID).unwrap()),
            },
        );
    })
    .await;
    let relationship = https_spiffe("fed.org", &made.url(), ENDPOINT_ID);
    let seed = authority.bundle("fed.org", 5);
    create(&server, vec![with_bundle(relationship, &seed)]).await;
    refresh(&server, "fed.org").await.unwrap();
    assert_eq!(sequence(&server, "fed.org").await, Some(7));
    assert_eq!(made.asked(), 0);
}

#[tokio::test]
async fn a_fetched_bundle_outlives_a_restart_without_its_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let bundle = authority.bundle("fed.org", 6);
    let leaf = authority.sign(spiffe_id(ENDPOINT_ID));
    let endpoint = Endpoint::start(leaf, Say::Bundle(bundle.clone())).await;
    let server = Server::start(durable(&folder)).await.unwrap();
    let relationship = https_spiffe("fed.org", &endpoint.url(), ENDPOINT_ID);
    let seed = authority.bundle("fed.org", 5);
    create(&server, vec![with_bundle(relationship, &seed)]).await;
    refresh(&server, "fed.org").await.unwrap();
    drop(endpoint);
    server.stop().await;
    let server = Server::start(durable(&folder)).await.unwrap();
    assert_eq!(stored(&server, "fed.org").await, Some(message(&bundle)));
    assert!(
        refused(&server, "fed.org")
            .await
            .contains("failed to fetch")
    );
    server.stop().await;
}

/// What our endpoint said.
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) cache_control: String,
    pub(crate) body: String,
}

/// Asks our endpoint, and takes its certificate if the roots or the bundle do.
async fn ask(addr: SocketAddr, request: &str, config: ClientConfig) -> std::io::Result<Said> {
    ask_as(addr, request, "x", config).await
}

/// The same of a host that is named so.
pub(crate) async fn ask_as(
    addr: SocketAddr,
    request: &str,
    host: &str,
    config: ClientConfig,
) -> std::io::Result<Said> {
    let tls = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = tls.connect(name, TcpStream::connect(addr).await?).await?;
    let request = format!("{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let header = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().to_owned()
    };
    Ok(Said {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        content_type: header("content-type: "),
        cache_control: header("cache-control: "),
        body: body.to_owned(),
    })
}

fn serving(config: &mut Config, serving: ServingConfig) {
    config.federation.bundle_endpoint = Some(BundleEndpointConfig {
        address: HostPort {
            host: "127.0.0.1".to_owned(),
            port: 0,
        },
        refresh_hint: Duration::from_secs(120),
        serving,
    });
}

fn endpoint_addr(server: &Server) -> SocketAddr {
    server
        .handle
        .as_ref()
        .unwrap()
        .bundle_endpoint_addr
        .unwrap()
}

#[tokio::test]
async fn our_endpoint_shows_the_newest_bundle_at_its_root_and_nothing_else() {
    let server = start_with(|config| serving(config, ServingConfig::HttpsSpiffe)).await;
    let addr = endpoint_addr(&server);
    let client = server.trusting(None).await;
    let said = ask(addr, "GET /", client.clone()).await.unwrap();
    assert_eq!(
        (said.status, said.content_type.as_str()),
        (200, "application/json")
    );
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let first = Bundle::from_spiffe_json(trust_domain.clone(), said.body.as_bytes()).unwrap();
    assert_eq!(first.refresh_hint, Some(Duration::from_secs(120)));
    let own = server
        .bundles()
        .get_bundle(GetBundleRequest::default())
        .await;
    let own = own.unwrap().into_inner();
    assert_eq!(
        (first.sequence, first.x509_authorities.len()),
        (own.sequence_number, 1)
    );
    assert_eq!(first.jwt_authorities.len(), own.jwt_authorities.len());
    for (request, status) in [
        ("GET /bundle", 404),
        ("GET //", 404),
        ("POST /", 405),
        ("HEAD /", 405),
        ("PUT /bundle", 405),
    ] {
        let said = ask(addr, request, client.clone()).await.unwrap();
        assert_eq!(said.status, status, "{request}");
        assert!(!said.body.contains("keys"), "{request}");
    }
    // SPIFFE Federation 5.2.2.3: the newest bundle, at once.
    LocalAuthorityClient::new(server.admin.clone())
        .prepare_x509_authority(PrepareX509AuthorityRequest {})
        .await
        .unwrap();
    let said = ask(addr, "GET /", client).await.unwrap();
    let next = Bundle::from_spiffe_json(trust_domain, said.body.as_bytes()).unwrap();
    assert_eq!(next.x509_authorities.len(), 2);
    assert!(next.sequence > first.sequence);
}

#[tokio::test]
async fn our_endpoint_of_https_web_shows_the_certificate_of_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let web = Authority::new();
    let leaf = web.sign(loopback());
    let files = CertificateFiles {
        certificate: folder.path().join("cert.pem"),
        key: folder.path().join("key.pem"),
        sync_interval: Duration::from_secs(3600),
    };
    std::fs::write(&files.certificate, leaf.certificate.pem()).unwrap();
    std::fs::write(&files.key, leaf.key.serialize_pem()).unwrap();
    let server = start_with(|config| serving(config, ServingConfig::HttpsWeb(files.clone()))).await;
    let mut roots = RootCertStore::empty();
    web.write_pem(&folder.path().join("roots.pem"));
    roots
        .add(
            Certificate::parse(web.bundle("x", 1).x509_authorities[0].certificate.der())
                .unwrap()
                .der()
                .clone(),
        )
        .unwrap();
    let config_of = || {
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth()
    };
    let said = ask(endpoint_addr(&server), "GET /", config_of())
        .await
        .unwrap();
    assert_eq!(said.status, 200);
    // It is not the server's SVID.
    assert!(
        ask(endpoint_addr(&server), "GET /", server.trusting(None).await)
            .await
            .is_err()
    );
    std::fs::remove_file(&files.key).unwrap();
    let mut broken = config(folder.path());
    serving(&mut broken, ServingConfig::HttpsWeb(files));
    let error = Server::start(broken).await.map(|_| ()).unwrap_err();
    assert_eq!(error.reason(), "serving_file_missing");
}

#[tokio::test]
async fn two_of_our_servers_federate_by_their_svids() {
    let one = start_with(|config| serving(config, ServingConfig::HttpsSpiffe)).await;
    let folder = tempfile::tempdir().unwrap();
    let mut second = config(folder.path());
    second.trust_domain = TrustDomain::parse("other.org").unwrap();
    let other = Server::start(second).await.unwrap();
    let own = one.bundles().get_bundle(GetBundleRequest::default()).await;
    let own = own.unwrap().into_inner();
    let url = format!("https://{}", endpoint_addr(&one));
    let relationship = FederationRelationship {
        trust_domain_bundle: Some(own.clone()),
        ..https_spiffe("example.org", &url, "spiffe://example.org/spire/server")
    };
    assert_eq!(create(&other, vec![relationship]).await[0].0, 0);
    LocalAuthorityClient::new(one.admin.clone())
        .prepare_x509_authority(PrepareX509AuthorityRequest {})
        .await
        .unwrap();
    refresh(&other, "example.org").await.unwrap();
    let fetched = stored(&other, "example.org").await.unwrap();
    assert_eq!(
        fetched.x509_authorities.len(),
        own.x509_authorities.len() + 1
    );
    assert!(fetched.sequence_number > own.sequence_number);
    assert_eq!(fetched.refresh_hint, 120);
}
