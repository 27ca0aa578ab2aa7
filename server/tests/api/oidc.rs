//! Facts about OpenID Connect discovery.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use proto::spire::server::svid::NewJwtsvidRequest;
use proto::spire::server::svid::svid_client::SvidClient;
use runtime::config::HostPort;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value};
use server::config::OidcConfig;
use server::web::CertificateFiles;
use tempfile::TempDir;

use super::federation::endpoint::{Authority, loopback};
use super::federation::{Said, ask_as};
use super::support::{Server, start_with};

const ISSUER: &str = "https://oidc.example.org";

struct Provider {
    server: Server,
    roots: RootCertStore,
    addr: SocketAddr,
    _folder: TempDir,
}

impl Provider {
    async fn start(issuer: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let web = Authority::new();
        let leaf = web.sign(loopback());
        std::fs::write(path("cert.pem"), leaf.certificate.pem()).unwrap();
        std::fs::write(path("key.pem"), leaf.key.serialize_pem()).unwrap();
        web.write_pem(&path("roots.pem"));
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(path("roots.pem")).unwrap())
            .unwrap();
        let server = start_with(|config| {
            config.authority.jwt_issuer = issuer.map(str::to_owned);
            config.oidc = Some(OidcConfig {
                address: HostPort {
                    host: "127.0.0.1".to_owned(),
                    port: 0,
                },
                domains: ["oidc.example.org".to_owned()].into(),
                certificate: CertificateFiles {
                    certificate: path("cert.pem"),
                    key: path("key.pem"),
                    sync_interval: Duration::from_secs(3600),
                },
            });
        })
        .await;
        let addr = server.handle.as_ref().unwrap().oidc_addr.unwrap();
        Self {
            server,
            roots,
            addr,
            _folder: folder,
        }
    }

    async fn ask(&self, request: &str, host: &str) -> Said {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        ask_as(self.addr, request, host, config).await.unwrap()
    }

    async fn configuration(&self, host: &str) -> Value {
        let said = self
            .ask("GET /.well-known/openid-configuration", host)
            .await;
        assert_eq!(
            (said.status, said.content_type.as_str()),
            (200, "application/json")
        );
        assert!(said.cache_control.contains("no-store"));
        serde_json::from_str(&said.body).unwrap()
    }
}

#[tokio::test]
async fn a_jwt_svid_is_an_id_token_to_a_library_that_knows_openid_connect_alone() {
    let provider = Provider::start(Some(ISSUER)).await;
    let (agent, _, channel) = provider.server.agent().await;
    let entry_id = provider.server.entry(&agent, "/web").await;
    let request = NewJwtsvidRequest {
        entry_id,
        audience: vec!["reports".to_owned()],
    };
    let issued = SvidClient::new(channel).new_jwtsvid(request).await.unwrap();
    let token = issued.into_inner().svid.unwrap().token;

    let configuration = provider.configuration("oidc.example.org").await;
    assert_eq!(configuration["issuer"], ISSUER);
    assert_eq!(configuration["jwks_uri"], "https://oidc.example.org/keys");
    let said = provider.ask("GET /keys", "oidc.example.org:8443").await;
    assert!(said.cache_control.contains("no-store"));
    let keys: JwkSet = serde_json::from_str(&said.body).unwrap();
    let header = decode_header(&token).unwrap();
    let key = keys.find(&header.kid.unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["reports"]);
    validation.set_issuer(&[ISSUER]);
    let key = DecodingKey::from_jwk(key).unwrap();
    let claims = decode::<Map<String, Value>>(&token, &key, &validation)
        .unwrap()
        .claims;
    assert_eq!(claims["sub"], "spiffe://example.org/web");
}

#[tokio::test]
async fn keys_are_for_signatures_and_have_no_private_part() {
    let provider = Provider::start(None).await;
    let said = provider.ask("GET /keys", "oidc.example.org").await;
    let document: Value = serde_json::from_str(&said.body).unwrap();
    let keys = document["keys"].as_array().unwrap();
    assert!(!keys.is_empty());
    for key in keys {
        let names: Vec<_> = key
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
        assert_eq!((&key["use"], &key["alg"]), (&"sig".into(), &"ES256".into()));
    }
}

#[tokio::test]
async fn only_our_own_names_and_documents_are_answered() {
    let provider = Provider::start(None).await;
    let configuration = provider.configuration("OIDC.example.org:8443").await;
    assert_eq!(configuration["issuer"], "https://oidc.example.org:8443");
    for (request, host, status) in [
        ("GET /.well-known/openid-configuration", "evil.org", 400),
        ("GET /keys", "127.0.0.1", 400),
        ("GET /keys", "oidc.example.org.evil.org", 400),
        ("GET /keys", "oidc.example.org:evil", 400),
        ("GET /keys", "oidc.example.org\r\nHost: evil.org", 400),
        ("GET /", "oidc.example.org", 404),
        ("GET /keys/", "oidc.example.org", 404),
        ("POST /keys", "oidc.example.org", 405),
        (
            "HEAD /.well-known/openid-configuration",
            "oidc.example.org",
            405,
        ),
    ] {
        let said = provider.ask(request, host).await;
        assert_eq!(said.status, status, "{request} of {host}");
        assert!(
            !said.body.contains("evil"),
            "{request} of {host}: {}",
            said.body
        );
    }
}
