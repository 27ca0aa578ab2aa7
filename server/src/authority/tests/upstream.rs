//! Authorities that another one signs.

use std::{fs, path::Path};

use identity::{
    key::PublicKey,
    x509::{Certificate, Purpose, verify_peer},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _,
};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority of an operator's own PKI.
struct Above {
    key: KeyPair,
    params: CertificateParams,
    pem: String,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (now() - DAY).into();
    params.not_after = (now() + 300 * DAY).into();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Above {
    fn root(name: &str) -> Self {
        let (key, params) = (KeyPair::generate().unwrap(), params(name));
        let pem = params.self_signed(&key).unwrap().pem();
        Self { key, params, pem }
    }

    fn below(&self, name: &str) -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), params(name));
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_params(&self.params, &self.key);
        let pem = params.signed_by(&key, &issuer).unwrap().pem();
        Self { key, params, pem }
    }

    fn id(&self) -> String {
        let certificate = Certificate::parse(pem_der(&self.pem).as_slice()).unwrap();
        certificate.subject_key_id().unwrap()
    }

    fn write(&self, folder: &Path) -> DiskConfig {
        let config = DiskConfig {
            cert_file_path: folder.join("ca.crt"),
            key_file_path: folder.join("ca.key"),
            bundle_file_path: None,
        };
        fs::write(&config.cert_file_path, &self.pem).unwrap();
        fs::write(&config.key_file_path, self.key.serialize_pem()).unwrap();
        config
    }
}

fn pem_der(pem: &str) -> Vec<u8> {
    let certificates = identity::x509::parse_pem_certificates(pem).unwrap();
    certificates[0].der().to_vec()
}

fn config(files: DiskConfig) -> Config {
    let upstream = Upstream::disk(files, now()).unwrap();
    Config {
        upstream: Some(upstream),
        ..Config::new(own())
    }
}

async fn start(files: &DiskConfig, store: &Store, keys: &Keys, clock: &Clock) -> Server {
    Server::start_with(config(files.clone()), store, keys, clock)
        .await
        .unwrap()
}

/// An SVID of a workload, as the authority that is active signs it.
fn svid(server: &Server, now: SystemTime) -> Vec<Certificate> {
    let key = KeyPair::generate().unwrap();
    let public_key = PublicKey::from_spki_der(&key.subject_public_key_info()).unwrap();
    let id = SpiffeId::from_path(&own(), "/workload").unwrap();
    let request = X509SvidRequest {
        id: &id,
        public_key: &public_key,
        dns_names: &[],
        ttl: Duration::from_secs(60),
        subject: Subject::Workload,
        name: None,
    };
    let issued = server.authorities.sign_x509_svid(&request, now).unwrap();
    let chain = issued.chain.iter().map(|der| Certificate::parse(der));
    chain.collect::<Result<_, _>>().unwrap()
}

fn verify(chain: &[Certificate], bundle: &Bundle, now: SystemTime) -> bool {
    let purpose = Purpose::ServerAuth;
    verify_peer(chain, purpose, |_| Some(bundle), now).is_ok()
}

#[tokio::test(start_paused = true)]
async fn an_upstream_root_alone_is_in_the_bundle_and_what_is_signed_leads_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let above = Above::root("upstream");
    let files = above.write(folder.path());
    let (store, keys, clock) = (Store::memory(), Keys::memory(), Clock::simulated(now()));
    let server = start(&files, &store, &keys, &clock).await;
    let found = bundle(&store).await;
    let authorities: Vec<_> = found.x509_authorities.iter().collect();
    assert_eq!(authorities.len(), 1);
    assert_eq!(authorities[0].authority_id(), above.id());
    let chain = svid(&server, now());
    assert_eq!(chain.len(), 2, "leaf and our authority, without the root");
    assert!(verify(&chain, &found, now()));
    assert!(!verify(&chain[..1], &found, now()));
    let own = server.authorities.server_svid().borrow().clone();
    assert!(verify(own.chain(), &found, now()));
    // A restart takes it up, and signs nothing new.
    let before = server.authorities.active_ids();
    server.stop().await;
    let server = start(&files, &store, &keys, &clock).await;
    assert_eq!(server.authorities.active_ids(), before);
    assert!(verify(&svid(&server, now()), &bundle(&store).await, now()));
}

#[tokio::test(start_paused = true)]
async fn what_leads_from_the_upstream_authority_to_its_root_stands_in_every_svid() {
    let folder = tempfile::tempdir().unwrap();
    let root = Above::root("root");
    let middle = root.below("middle");
    let above = middle.below("upstream");
    let mut files = above.write(folder.path());
    let bundle_file = folder.path().join("bundle.crt");
    fs::write(&bundle_file, &root.pem).unwrap();
    let all = format!("{}{}{}", above.pem, middle.pem, root.pem);
    fs::write(&files.cert_file_path, all).unwrap();
    // Without the bundle there is no saying which of them is trusted.
    let refused = Upstream::disk(files.clone(), now());
    assert!(matches!(refused, Err(DiskError::NotSelfSigned(_))));
    files.bundle_file_path = Some(bundle_file);
    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    let server = start(&files, &store, &Keys::memory(), &clock).await;
    let found = bundle(&store).await;
    assert_eq!(found.x509_authorities[0].authority_id(), root.id());
    let chain = svid(&server, now());
    assert_eq!(chain.len(), 4);
    assert!(verify(&chain, &found, now()));
    let states = server.authorities.states(Kind::X509).await;
    assert_eq!(states.active.unwrap().upstream_id, Some(root.id()));
}

#[tokio::test(start_paused = true)]
async fn files_that_do_not_belong_together_are_refused_and_later_ones_leave_the_last_good() {
    let folder = tempfile::tempdir().unwrap();
    let (above, other) = (Above::root("upstream"), Above::root("other"));
    let files = above.write(folder.path());
    fs::write(&files.key_file_path, other.key.serialize_pem()).unwrap();
    let refused = Upstream::disk(files.clone(), now());
    assert!(matches!(refused, Err(DiskError::OtherKey)));
    let below = other.below("below");
    let files = below.write(folder.path());
    let refused = Upstream::disk(files.clone(), now());
    assert!(matches!(refused, Err(DiskError::NotSelfSigned(_))));
    let late = now() + 301 * DAY;
    let files = above.write(folder.path());
    assert!(matches!(
        Upstream::disk(files.clone(), late),
        Err(DiskError::Chain(_))
    ));

    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    let server = start(&files, &store, &Keys::memory(), &clock).await;
    fs::write(&files.cert_file_path, "damaged").unwrap();
    let states = server.authorities.prepare(Kind::X509).await.unwrap();
    assert_eq!(states.prepared.unwrap().upstream_id, Some(above.id()));
    // Good ones again, and others: the next authority is theirs.
    other.write(folder.path());
    let states = server.authorities.prepare(Kind::X509).await.unwrap();
    assert_eq!(states.prepared.unwrap().upstream_id, Some(other.id()));
    let ids = bundle(&store).await.x509_authorities;
    assert_eq!(ids.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_authority_ends_with_the_one_above_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut above = Above::root("upstream");
    above.params.not_after = (now() + Duration::from_secs(3_600)).into();
    above.pem = above.params.self_signed(&above.key).unwrap().pem();
    let files = above.write(folder.path());
    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    let server = start(&files, &store, &Keys::memory(), &clock).await;
    let active = server.authorities.states(Kind::X509).await.active.unwrap();
    assert_eq!(active.not_after, now() + Duration::from_secs(3_600));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_authority_is_tainted_and_revoked_once_what_it_signed_signs_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Above::root("first"), Above::root("second"));
    let files = first.write(folder.path());
    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    let server = start(&files, &store, &Keys::memory(), &clock).await;
    let authorities = &server.authorities;
    let refused = |outcome: Result<(), RotateError>| match outcome {
        Err(RotateError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    };
    let taint = async |id: String| authorities.taint_upstream(&id).await;
    assert_eq!(refused(taint(first.id()).await), Refused::UpstreamActive);
    let active = authorities.active_ids().0;
    assert!(matches!(
        authorities.taint(Kind::X509, &active).await,
        Err(RotateError::Refused(Refused::HasUpstream))
    ));
    second.write(folder.path());
    let prepared = authorities.prepare(Kind::X509).await.unwrap().prepared;
    assert_eq!(refused(taint(second.id()).await), Refused::UpstreamPrepared);
    let chain = svid(&server, now());
    let id = prepared.unwrap().authority_id;
    authorities.activate(Kind::X509, &id).await.unwrap();
    let revoked = authorities.revoke_upstream(&first.id()).await;
    assert_eq!(refused(revoked), Refused::NotTainted);
    assert_eq!(
        refused(taint("00".to_owned()).await),
        Refused::NotUpstreamOfOld
    );
    let before = authorities.server_svid().borrow().clone();
    assert_eq!(before.authority_key_id(), Some(first.id()));
    taint(first.id()).await.unwrap();
    // Our own SVID moves below the sound root at once.
    let after = authorities.server_svid().borrow().clone();
    assert_eq!(after.authority_key_id(), Some(second.id()));
    assert_eq!(refused(taint(first.id()).await), Refused::AlreadyTainted);
    assert!(
        verify(&chain, &bundle(&store).await, now()),
        "until it is revoked"
    );
    authorities.revoke_upstream(&first.id()).await.unwrap();
    let found = bundle(&store).await;
    assert!(!verify(&chain, &found, now()));
    assert!(verify(&svid(&server, now()), &found, now()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_given_an_upstream_authority_keeps_its_own_until_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let above = Above::root("upstream");
    let files = above.write(folder.path());
    let (store, keys, clock) = (Store::memory(), Keys::memory(), Clock::simulated(now()));
    let server = Server::start(&store, &keys, &clock).await;
    let before = server.authorities.active_ids();
    let chain = svid(&server, now());
    server.stop().await;
    let server = start(&files, &store, &keys, &clock).await;
    assert_eq!(server.authorities.active_ids(), before);
    let prepared = server
        .authorities
        .prepare(Kind::X509)
        .await
        .unwrap()
        .prepared;
    let id = prepared.unwrap().authority_id;
    server.authorities.activate(Kind::X509, &id).await.unwrap();
    let found = bundle(&store).await;
    assert!(verify(&svid(&server, now()), &found, now()));
    assert!(verify(&chain, &found, now()));
}

#[tokio::test(start_paused = true)]
async fn a_name_of_several_domain_components_is_repeated_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut above = Above::root("upstream");
    // 0.9.2342.19200300.100.1.25, twice, which some writers of names keep once.
    let oid = [
        0x06, 0x0a, 0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19,
    ];
    let component = |value: &str| {
        let pair = [&oid[..], &short(0x16, value.as_bytes())].concat();
        short(0x31, &short(0x30, &pair))
    };
    let name = short(0x30, &[component("corp"), component("example")].concat());
    above.pem = renamed(&above, &name);
    let files = above.write(folder.path());
    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    let server = start(&files, &store, &Keys::memory(), &clock).await;
    assert!(verify(&svid(&server, now()), &bundle(&store).await, now()));
}

/// A value in DER of less than 128 bytes.
fn short(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    [&[tag, length], content].concat()
}

/// The certificate of an authority with another name, as subject and issuer, signed anew by its key.
fn renamed(above: &Above, name: &[u8]) -> String {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
    };
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let old = Certificate::parse(&pem_der(&above.pem)).unwrap();
    let (der, old_name) = (old.der().as_ref(), old.subject_der());
    // Both names are in the part that is signed, whose head takes four bytes, as does the certificate's.
    let signed_length = usize::from(der[6]) << 8 | usize::from(der[7]);
    let mut body = der[8..8 + signed_length].to_vec();
    while let Some(at) = body
        .windows(old_name.len())
        .position(|part| part == old_name)
    {
        body.splice(at..at + old_name.len(), name.iter().copied());
    }
    let long = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    };
    let signed = long(0x30, &body);
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, above.key.serialized_der());
    let signature = pair.unwrap().sign(&SystemRandom::new(), &signed).unwrap();
    let algorithm = [
        0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
    ];
    let bits = short(0x03, &[&[0][..], signature.as_ref()].concat());
    let all = long(0x30, &[&signed[..], &algorithm, &bits].concat());
    let text = STANDARD.encode(all);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[tokio::test(start_paused = true)]
async fn an_authority_ends_with_the_first_of_all_above_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut root = Above::root("root");
    root.params.not_after = (now() + Duration::from_secs(3_600)).into();
    root.pem = root.params.self_signed(&root.key).unwrap().pem();
    let above = root.below("upstream");
    let mut files = above.write(folder.path());
    let bundle_file = folder.path().join("bundle.crt");
    fs::write(&bundle_file, &root.pem).unwrap();
    files.bundle_file_path = Some(bundle_file);
    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    let server = start(&files, &store, &Keys::memory(), &clock).await;
    let active = server.authorities.states(Kind::X509).await.active.unwrap();
    assert_eq!(active.not_after, now() + Duration::from_secs(3_600));
}

#[tokio::test(start_paused = true)]
async fn a_key_is_tainted_with_all_its_certificates_and_with_those_that_come() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, second) = (Above::root("first"), Above::root("second"));
    let mut files = first.write(folder.path());
    let bundle_file = folder.path().join("bundle.crt");
    let twin = first.params.self_signed(&first.key).unwrap().pem();
    fs::write(&bundle_file, format!("{}{twin}", first.pem)).unwrap();
    files.bundle_file_path = Some(bundle_file.clone());
    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    let server = start(&files, &store, &Keys::memory(), &clock).await;
    let authorities = &server.authorities;
    second.write(folder.path());
    fs::write(&bundle_file, &second.pem).unwrap();
    let next = authorities
        .prepare(Kind::X509)
        .await
        .unwrap()
        .prepared
        .unwrap();
    authorities
        .activate(Kind::X509, &next.authority_id)
        .await
        .unwrap();
    authorities.taint_upstream(&first.id()).await.unwrap();
    let id = first.id();
    let of_first = async || {
        let mut found = bundle(&store).await.x509_authorities;
        found.retain(|authority| authority.authority_id() == id);
        found
    };
    assert_eq!(of_first().await.len(), 2);
    assert!(of_first().await.iter().all(|authority| authority.tainted));
    // Another certificate of the same key.
    first.pem = first.params.self_signed(&first.key).unwrap().pem();
    first.write(folder.path());
    fs::write(&bundle_file, &first.pem).unwrap();
    authorities.prepare(Kind::X509).await.unwrap();
    assert_eq!(of_first().await.len(), 3);
    assert!(of_first().await.iter().all(|authority| authority.tainted));
}
