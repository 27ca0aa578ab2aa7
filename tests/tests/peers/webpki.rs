//! rustls with webpki: it knows nothing of SPIFFE, and accepts our chains all the same.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use spiffe::{WorkloadApiClient, X509Bundle, X509Svid};
use tests::domain::Plan;
use tests::programs::Make::Signet;
use tests::scenarios::wait_for_svid;

#[tokio::test(flavor = "multi_thread")]
async fn two_workloads_talk_mutual_tls_by_rustls_alone() {
    let domain = Plan::new(Signet).start();
    let agent = domain.agent(Signet);
    domain.entry(&agent, "/web", "unix:uid:0", &["-dns", "web.example.org"]);
    domain.entry(&agent, "/client", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/web");
    wait_for_svid(&agent, "/client");
    let client = WorkloadApiClient::connect_to(agent.endpoint())
        .await
        .unwrap();
    let context = client.fetch_x509_context().await.unwrap();
    let svid = |path: &str| {
        let id = format!("spiffe://example.org{path}");
        let mut svids = context.svids().iter();
        svids
            .find(|svid| svid.spiffe_id().to_string() == id)
            .unwrap()
    };
    let (web, caller) = (svid("/web"), svid("/client"));
    let bundle = context.bundle_set().get(web.spiffe_id().trust_domain());
    let roots = roots(&bundle.unwrap());

    let verifier = WebPkiClientVerifier::builder(Arc::clone(&roots)).build();
    let server = ServerConfig::builder()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(chain(web), key(web))
        .unwrap();
    let verifier = WebPkiServerVerifier::builder(roots).build();
    let client = ClientConfig::builder()
        .with_webpki_verifier(verifier.unwrap())
        .with_client_auth_cert(chain(caller), key(caller))
        .unwrap();
    let name = ServerName::try_from("web.example.org").unwrap();
    let mut client = Connection::from(ClientConnection::new(Arc::new(client), name).unwrap());
    let mut server = Connection::from(ServerConnection::new(Arc::new(server)).unwrap());
    shake_hands(&mut client, &mut server);

    assert_eq!(client.peer_certificates(), Some(&*chain(web)));
    assert_eq!(server.peer_certificates(), Some(&*chain(caller)));
}

fn roots(bundle: &X509Bundle) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in bundle.authorities() {
        let authority = authority.as_bytes().to_vec();
        roots.add(CertificateDer::from(authority)).unwrap();
    }
    Arc::new(roots)
}

fn chain(svid: &X509Svid) -> Vec<CertificateDer<'static>> {
    let certificates = svid.cert_chain().iter();
    certificates
        .map(|certificate| CertificateDer::from(certificate.as_bytes().to_vec()))
        .collect()
}

fn key(svid: &X509Svid) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec()).into()
}

/// Carries the bytes of both sides over until neither has more to say.
fn shake_hands(client: &mut Connection, server: &mut Connection) {
    while client.wants_write() || server.wants_write() {
        carry(client, server);
        carry(server, client);
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
}

fn carry(from: &mut Connection, to: &mut Connection) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut bytes = bytes.as_slice();
    while !bytes.is_empty() {
        to.read_tls(&mut bytes).unwrap();
        to.process_new_packets().unwrap();
    }
}
