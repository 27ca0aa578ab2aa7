//! Facts about servers below this one.

use identity::bundle::{Bundle, X509Authority};
use identity::x509::{Certificate, Purpose, verify_peer};
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::bundle::{GetBundleRequest, PublishJwtAuthorityRequest};
use proto::spire::server::svid::svid_client::SvidClient;
use proto::spire::server::svid::{NewDownstreamX509caRequest, NewDownstreamX509caResponse};
use proto::spire::types;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use runtime::clock::Clock;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::bundles::jwt;
use super::support::{Server, csr, entry, start, trust_domain};
use super::svids::issue;

/// A year that is far enough.
const LATER: i64 = 4_000_000_000;

/// A connection of a workload, whose entry has the flag or has not.
pub(crate) async fn workload(server: &Server, downstream: bool) -> Channel {
    let (agent, _, channel) = server.agent().await;
    let mut wanted = entry(&agent, "/below");
    wanted.downstream = downstream;
    let created = server.create(vec![wanted]).await.remove(0);
    let identity = issue(&channel, &created.entry.unwrap().id).await.unwrap();
    server.connect(Some(&identity)).await.unwrap()
}

pub(crate) async fn new_ca(
    channel: &Channel,
    csr: Vec<u8>,
    preferred_ttl: i32,
) -> Result<NewDownstreamX509caResponse, Status> {
    let request = NewDownstreamX509caRequest {
        csr: csr.into(),
        preferred_ttl,
    };
    let mut client = SvidClient::new(channel.clone());
    Ok(client.new_downstream_x509ca(request).await?.into_inner())
}

pub(crate) async fn publish(
    channel: &Channel,
    jwt_authority: Option<types::JwtKey>,
) -> Result<Vec<types::JwtKey>, Status> {
    let request = PublishJwtAuthorityRequest { jwt_authority };
    let mut client = BundleClient::new(channel.clone());
    let answer = client.publish_jwt_authority(request).await?;
    Ok(answer.into_inner().jwt_authorities)
}

async fn own_keys(server: &Server) -> Vec<types::JwtKey> {
    let request = GetBundleRequest::default();
    let bundle = server.bundles().get_bundle(request).await.unwrap();
    bundle.into_inner().jwt_authorities
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_below_signs_verifies_by_our_bundle() {
    let server = start().await;
    let channel = workload(&server, true).await;
    let key = KeyPair::generate().unwrap();
    // It may ask for what it likes: only its key counts.
    let mut asked = CertificateParams::new(["evil.example".to_owned()]).unwrap();
    asked.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let answer = new_ca(&channel, csr(&key, &asked), 600).await.unwrap();
    let [below] = answer.ca_cert_chain.as_slice() else {
        panic!("a self-signed authority is not sent")
    };
    assert!(!below.windows(4).any(|four| four == b"evil"));
    let below = Certificate::parse(below).unwrap();
    let lifetime = below.validity().lifetime().as_secs();
    assert!((600..=611).contains(&lifetime), "{lifetime}");

    // A leaf below it, as that server would sign one.
    let mut issuer = CertificateParams::default();
    issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    issuer.distinguished_name = DistinguishedName::new();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(
        "spiffe://example.org/nested".try_into().unwrap(),
    )];
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let below_der = below.der().clone();
    let issuer = Issuer::from_ca_cert_der(&below_der, &key).unwrap();
    let leaf = leaf
        .signed_by(&KeyPair::generate().unwrap(), &issuer)
        .unwrap();
    let chain = [Certificate::parse(leaf.der()).unwrap(), below];
    let mut roots = Bundle::new(trust_domain());
    for der in &answer.x509_authorities {
        let authority = Certificate::parse(der).unwrap();
        roots.add_x509_authority(X509Authority::new(authority));
    }
    let now = Clock::system().now();
    let verified = verify_peer(&chain, Purpose::ClientAuth, |_| Some(&roots), now);
    assert_eq!(verified.unwrap().path(), "/nested");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_below_gets_no_authority_for_what_is_no_csr_of_its_own() {
    let server = start().await;
    let channel = workload(&server, true).await;
    let empty = new_ca(&channel, Vec::new(), 0).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    assert!(empty.message().starts_with("malformed CSR"));
    let (mine, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut der = csr(&mine, &CertificateParams::default());
    let point = mine.public_key_raw();
    let at = der.windows(point.len()).position(|part| part == point);
    let at = at.unwrap();
    der[at..at + point.len()].copy_from_slice(theirs.public_key_raw());
    let forged = new_ca(&channel, der, 0).await.unwrap_err();
    assert_eq!(forged.code(), Code::InvalidArgument);
    assert!(forged.message().starts_with("invalid CSR signature"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_key_joins_the_bundle_and_all_keys_are_told() {
    let server = start().await;
    let channel = workload(&server, true).await;
    let before = own_keys(&server).await;
    let key = jwt("below", LATER);
    for _ in 0..2 {
        let told = publish(&channel, Some(key.clone())).await.unwrap();
        let mut expected = before.clone();
        expected.push(key.clone());
        assert_eq!(told, expected);
        assert_eq!(own_keys(&server).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_over_or_never_ends_or_has_no_name_is_not_published() {
    let server = start().await;
    let channel = workload(&server, true).await;
    let before = own_keys(&server).await;
    let nonsense = types::JwtKey {
        public_key: b"nonsense".to_vec().into(),
        ..jwt("x", LATER)
    };
    for (key, message) in [
        (None, "missing JWT authority"),
        (
            Some(jwt("x", 1_000_000_000)),
            "invalid JWT authority: it has expired",
        ),
        (Some(jwt("x", 0)), "invalid JWT authority: missing expiry"),
        (
            Some(jwt("", LATER)),
            "invalid JWT authority: missing key ID",
        ),
        (Some(nonsense), "invalid JWT authority: "),
    ] {
        let refused = publish(&channel, key).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let told = refused.message();
        assert!(told.starts_with(message), "{told}");
    }
    assert_eq!(own_keys(&server).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_a_key_under_the_id_of_another_is_not_published() {
    let server = start().await;
    let channel = workload(&server, true).await;
    let before = own_keys(&server).await;
    let active = before[0].key_id.clone();
    let refused = publish(&channel, Some(jwt(&active, LATER))).await;
    assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);
    publish(&channel, Some(jwt("mine", LATER))).await.unwrap();
    let refused = publish(&channel, Some(jwt("mine", LATER))).await;
    assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(own_keys(&server).await.len(), before.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_who_is_no_server_below_gets_no_authority_and_publishes_no_key() {
    let server = start().await;
    let before = own_keys(&server).await;
    let plain = workload(&server, false).await;
    let (_, _, agent) = server.agent().await;
    let nobody = server.connect(None).await.unwrap();
    let csr = || csr(&KeyPair::generate().unwrap(), &CertificateParams::default());
    for channel in [&plain, &agent, &nobody, &server.admin] {
        let refused = new_ca(channel, csr(), 600).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let refused = publish(channel, Some(jwt("x", LATER))).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    assert_eq!(own_keys(&server).await, before);
}
