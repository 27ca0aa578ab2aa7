//! The certificates that are signed.

use std::time::UNIX_EPOCH;

use identity::{
    entry::DnsName,
    key::PrivateKey,
    trust_domain::TrustDomain,
    x509::{Csr, check_leaf},
};
use proptest::prelude::*;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use zeroize::Zeroizing;

use super::*;
use crate::keys::Keys;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn config() -> Config {
    Config::new(TrustDomain::parse("example.org").unwrap())
}

async fn authority(kind: KeyType) -> X509Ca {
    let signer = Keys::memory().generate("x509-CA-A", kind).await.unwrap();
    X509Ca::create(signer, &config(), now()).await.unwrap()
}

fn public_key() -> PublicKey {
    PublicKey::from_spki_der(&KeyPair::generate().unwrap().subject_public_key_info()).unwrap()
}

fn request<'a>(id: &'a SpiffeId, public_key: &'a PublicKey) -> X509SvidRequest<'a> {
    let ttl = Duration::from_secs(3_600);
    X509SvidRequest {
        id,
        public_key,
        dns_names: &[],
        ttl,
        subject: Subject::Workload,
        name: None,
    }
}

fn chain(issued: &IssuedX509Svid) -> Vec<Certificate> {
    issued
        .chain
        .iter()
        .map(|der| Certificate::parse(der).unwrap())
        .collect()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

#[tokio::test]
async fn an_authority_has_the_profile_of_spires() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let authority = authority(kind).await;
        let certificate = authority.certificate();
        assert!(certificate.is_ca() && certificate.is_self_issued());
        assert_eq!(certificate.path_length(), None);
        let usage = certificate.key_usage().unwrap();
        assert!(usage.is_critical() && usage.key_cert_sign() && usage.crl_sign());
        assert!(!usage.digital_signature());
        assert_eq!(
            certificate.spiffe_id().unwrap().as_str(),
            "spiffe://example.org"
        );
        assert_eq!(certificate.authority_key_id(), None);
        assert_eq!(
            certificate.subject_key_id().unwrap(),
            authority.authority_id()
        );
        let validity = certificate.validity();
        assert_eq!(validity.not_before(), now() - Duration::from_secs(10));
        assert_eq!(
            validity.not_after(),
            now() + Duration::from_secs(24 * 60 * 60)
        );
        // The serial number stands in the subject, so that no two authorities have one name.
        let text = String::from_utf8_lossy(certificate.subject_der()).into_owned();
        assert!(text.contains("US") && text.contains("SPIFFE"));
        assert!(text.contains(certificate.serial_decimal()), "{text:?}");
    }
}

#[tokio::test]
async fn a_leaf_keeps_the_profile_and_verifies_below_its_authority() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let authority = authority(kind).await;
        let (id, key) = (id("spiffe://example.org/a/b"), public_key());
        let issued = authority.sign(&request(&id, &key), now()).unwrap();
        let chain = chain(&issued);
        let [leaf] = chain.as_slice() else {
            panic!("a self-signed authority is not sent")
        };
        assert_eq!(check_leaf(leaf).unwrap(), id);
        assert_eq!(leaf.serial_decimal(), issued.serial);
        assert_eq!(leaf.validity().not_after(), issued.not_after);
        assert_eq!(leaf.authority_key_id().unwrap(), authority.authority_id());
        assert_eq!(
            leaf.subject_key_id().unwrap(),
            hex::encode(key.subject_key_id())
        );
        assert_eq!(
            leaf.validity().not_before(),
            now() - Duration::from_secs(10)
        );
        assert_eq!(issued.not_after, now() + Duration::from_secs(3_600));
        let mut bundle = Bundle::new(id.trust_domain().clone());
        authority.publish(&mut bundle);
        let verified = identity::x509::verify_peer(
            &chain,
            identity::x509::Purpose::ClientAuth,
            |trust_domain| (trust_domain == id.trust_domain()).then_some(&bundle),
            now(),
        );
        assert_eq!(verified.unwrap(), id);
    }
}

#[tokio::test]
async fn a_leaf_never_outlives_its_authority() {
    let authority = authority(KeyType::EcP256).await;
    let (id, key) = (id("spiffe://example.org/a"), public_key());
    let mut request = request(&id, &key);
    request.ttl = Duration::from_secs(u64::MAX);
    assert_eq!(
        authority.sign(&request, now()).unwrap().not_after,
        authority.not_after()
    );
    let refused = authority.sign(&request, authority.not_after());
    assert!(matches!(refused, Err(SignError::AuthorityEnded)));
}

#[tokio::test]
async fn refuses_ids_that_the_subject_may_not_have() {
    use Subject::{Agent, Server, Workload};
    let authority = authority(KeyType::EcP256).await;
    let key = public_key();
    for (text, subject, allowed) in [
        ("spiffe://example.org/a", Workload, true),
        ("spiffe://example.org/a", Agent, false),
        ("spiffe://example.org", Workload, false),
        ("spiffe://other.org/a", Workload, false),
        ("spiffe://example.org/spire/server", Workload, false),
        ("spiffe://example.org/spire/server", Agent, false),
        ("spiffe://example.org/spire/server", Server, true),
        (
            "spiffe://example.org/spire/agent/join_token/x",
            Workload,
            false,
        ),
        ("spiffe://example.org/spire/agent/join_token/x", Agent, true),
        ("spiffe://other.org/spire/agent/join_token/x", Agent, false),
    ] {
        let id = id(text);
        let request = X509SvidRequest {
            subject,
            ..request(&id, &key)
        };
        assert_eq!(
            authority.sign(&request, now()).is_ok(),
            allowed,
            "{text} as {subject:?}"
        );
    }
}

#[tokio::test]
async fn nothing_of_a_csr_but_its_key_reaches_the_certificate() {
    let authority = authority(KeyType::EcP256).await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["evil.example.org".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI(
        "spiffe://example.org/evil".try_into().unwrap(),
    ));
    params.is_ca = IsCa::NoCa;
    let csr = params.serialize_request(&key).unwrap();
    let csr = Csr::parse_and_verify(csr.der()).unwrap();
    let id = id("spiffe://example.org/good");
    let issued = authority
        .sign(&request(&id, csr.public_key()), now())
        .unwrap();
    let text = String::from_utf8_lossy(&issued.chain[0]).into_owned();
    assert!(!text.contains("evil"));
    assert_eq!(chain(&issued)[0].spiffe_id().unwrap(), id);
}

/// Splits DER into its values; enough of a reader to compare two certificates.
fn values(mut der: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (header, length) = match der[1] {
            short @ ..=0x7f => (2, usize::from(short)),
            0x81 => (3, usize::from(der[2])),
            0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
            other => panic!("length of {other:#x}"),
        };
        let (value, rest) = der.split_at(header + length);
        all.push(value);
        der = rest;
    }
    all
}

fn inside(value: &[u8]) -> &[u8] {
    let header = if value[1] < 0x80 {
        2
    } else {
        2 + usize::from(value[1] & 0x7f)
    };
    &value[header..]
}

fn sorted(mut values: Vec<&[u8]>) -> Vec<&[u8]> {
    values.sort_unstable();
    values
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The own assembler writes what rcgen writes, but for the order of the extensions.
    #[test]
    fn writes_the_same_certificate_as_rcgen(
        path in "(/[a-zA-Z0-9._-]{1,200}x){1,8}",
        names in prop::collection::vec("[a-z]([a-z0-9]{0,20}[a-z0-9])?(\\.[a-z]{1,9}){0,3}", 0..12),
        begins in 0..4_000_000_000_u64,
        lasts in 1..400_000_000_u64,
        serial in any::<[u8; 16]>(),
    ) {
        let ca_key = KeyPair::generate().unwrap();
        let key_id = vec![7; 20];
        let mut ca = CertificateParams::default();
        ca.key_identifier_method = KeyIdMethod::PreSpecified(key_id.clone());
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = Certificate::parse(ca.self_signed(&ca_key).unwrap().der()).unwrap();
        let leaf_key = KeyPair::generate().unwrap();
        let public_key = PublicKey::from_spki_der(&leaf_key.subject_public_key_info()).unwrap();
        let serial = { let mut s = serial; s[0] = s[0] & 0x7f | 0x40; s };
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let id = id(&format!("spiffe://example.org{path}"));
        let dns_names: Vec<DnsName> = names.iter().map(|name| DnsName::parse(name).unwrap()).collect();

        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = at(begins).into();
        params.not_after = at(begins + lasts).into();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let mut name = |kind, value: &str| {
            let value = rcgen::DnValue::PrintableString(value.try_into().unwrap());
            params.distinguished_name.push(kind, value);
        };
        name(rcgen::DnType::CountryName, "US");
        name(rcgen::DnType::OrganizationName, "SPIRE");
        if let Some(first) = names.first() {
            name(rcgen::DnType::CommonName, first);
        }
        params.subject_alt_names = names.iter().map(|name| SanType::DnsName(name.as_str().try_into().unwrap())).collect();
        params.subject_alt_names.push(SanType::URI(id.as_str().try_into().unwrap()));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::PreSpecified(public_key.subject_key_id().to_vec());
        let issuer = Issuer::new(ca, &ca_key);
        let oracle = params.signed_by(&leaf_key, &issuer).unwrap();

        let template = Template::new(identity::key::KeyAlgorithm::EcP256, certificate.subject_der(), &key_id);
        let to_be_signed = template.to_be_signed(&Body {
            serial,
            not_before: at(begins),
            not_after: at(begins + lasts),
            spki: public_key.spki_der(),
            subject_key_id: public_key.subject_key_id(),
            uri: id.as_str(),
            subject: Name::Default { common_name: dns_names.first().map(DnsName::as_str) },
            shape: Shape::Leaf { dns_names: &dns_names },
        });
        let own = values(inside(&to_be_signed));
        let parts = values(inside(oracle.der()));
        let theirs = values(inside(parts[0]));
        prop_assert_eq!(own.len(), theirs.len());
        let (own_last, own) = own.split_last().unwrap();
        let (their_last, theirs) = theirs.split_last().unwrap();
        prop_assert_eq!(own, theirs);
        let extensions = |value| sorted(values(inside(inside(value))));
        prop_assert_eq!(extensions(own_last), extensions(their_last));
        prop_assert!(profile::is_leaf_of(&to_be_signed, &id));
        // Whole: the signature of the oracle fits into our frame.
        let whole = template.certificate(parts[0], &inside(parts[2])[1..]);
        prop_assert_eq!(whole.as_slice(), &oracle.der()[..]);
    }
}

/// A key that may not be certified is refused here too, whatever the caller checked.
#[tokio::test]
async fn refuses_keys_that_may_not_be_certified() {
    let authority = authority(KeyType::EcP256).await;
    let weak = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let weak = PublicKey::from_spki_der(&weak.subject_public_key_info()).unwrap();
    let id = id("spiffe://example.org/a");
    assert!(matches!(
        authority.sign(&request(&id, &weak), now()),
        Err(SignError::PublicKey(_))
    ));
}

#[tokio::test]
async fn makes_an_svid_with_the_callers_key() {
    let authority = authority(KeyType::EcP256).await;
    let der = KeyPair::generate().unwrap().serialize_der();
    let key = PrivateKey::from_pkcs8_der(Zeroizing::new(der)).unwrap();
    let id = id("spiffe://example.org/a");
    let names = ["a.example.org", "*.example.org"].map(|name| DnsName::parse(name).unwrap());
    let request = X509SvidRequest {
        dns_names: &names,
        ..request(&id, key.public_key())
    };
    let issued = authority.sign(&request, now()).unwrap();
    assert_eq!(
        chain(&issued)[0].dns_names(),
        ["a.example.org", "*.example.org"]
    );
    let svid = identity::x509::X509Svid::new(chain(&issued), Arc::new(key)).unwrap();
    assert_eq!(*svid.id(), id);
}

/// The last look before the signature sees what a broken writer would let through.
#[test]
fn signs_nothing_that_is_not_the_leaf_asked_for() {
    let key = KeyPair::generate().unwrap();
    let asked = id("spiffe://example.org/a");
    let judge = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(asked.as_str().try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        let parts = values(inside(certificate.der()));
        profile::is_leaf_of(parts[0], &asked)
    };
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    assert!(judge(&|_| ()));
    assert!(judge(&|p| p
        .subject_alt_names
        .push(SanType::DnsName("a.org".try_into().unwrap()))));
    assert!(!judge(&|p| p
        .subject_alt_names
        .push(uri("spiffe://example.org/b"))));
    assert!(!judge(&|p| p
        .subject_alt_names
        .push(uri("spiffe://example.org/a"))));
    assert!(!judge(
        &|p| p.subject_alt_names = vec![uri("spiffe://example.org/b")]
    ));
    assert!(!judge(&|p| p.subject_alt_names.clear()));
    assert!(!judge(&|p| p
        .subject_alt_names
        .push(SanType::Rfc822Name("a@b.org".try_into().unwrap()))));
    assert!(
        !judge(&|p| p.is_ca = IsCa::NoCa),
        "the extension is asked for"
    );
    assert!(!judge(
        &|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)
    ));
    assert!(!judge(&|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)));
    assert!(!judge(&|p| p.key_usages.push(KeyUsagePurpose::CrlSign)));
    assert!(!judge(&|p| p.key_usages.clear()));
}

/// The same for signing certificates: neither is ever taken for the other.
#[test]
fn signs_no_authority_that_is_not_one_of_the_trust_domain() {
    let key = KeyPair::generate().unwrap();
    let own = id("spiffe://example.org");
    let judge_as = |asked: &SpiffeId, change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(asked.as_str().try_into().unwrap())];
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        let parts = values(inside(certificate.der()));
        assert!(!profile::is_leaf_of(parts[0], asked));
        profile::is_authority_of(parts[0], asked)
    };
    let judge = |change: &dyn Fn(&mut CertificateParams)| judge_as(&own, change);
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    assert!(judge(&|_| ()));
    assert!(!judge_as(&id("spiffe://example.org/a"), &|_| ()));
    assert!(!judge(
        &|p| p.subject_alt_names = vec![uri("spiffe://other.org")]
    ));
    assert!(!judge(&|p| p
        .subject_alt_names
        .push(uri("spiffe://example.org/a"))));
    assert!(!judge(&|p| p
        .subject_alt_names
        .push(SanType::DnsName("a.org".try_into().unwrap()))));
    assert!(!judge(&|p| p.subject_alt_names.clear()));
    assert!(!judge(&|p| p.is_ca = IsCa::ExplicitNoCa));
    assert!(!judge(
        &|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(3))
    ));
    assert!(!judge(&|p| p
        .key_usages
        .push(KeyUsagePurpose::DigitalSignature)));
    assert!(!judge(&|p| p.key_usages.clear()));
}

#[tokio::test]
async fn an_authority_of_a_server_below_has_the_profile_of_spires() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let authority = authority(kind).await;
        let key = public_key();
        let request = DownstreamRequest {
            public_key: &key,
            ttl: Duration::from_secs(u64::MAX),
        };
        let issued = authority.sign_downstream(&request, now()).unwrap();
        let chain = chain(&issued);
        let [below] = chain.as_slice() else {
            panic!("a self-signed authority is not sent")
        };
        assert!(below.is_ca());
        assert_eq!(below.path_length(), None);
        let usage = below.key_usage().unwrap();
        assert!(usage.is_critical() && usage.key_cert_sign() && usage.crl_sign());
        assert!(!usage.digital_signature());
        assert_eq!(below.spiffe_id().unwrap().as_str(), "spiffe://example.org");
        assert!(below.dns_names().is_empty());
        assert_eq!(below.authority_key_id().unwrap(), authority.authority_id());
        assert_eq!(
            below.subject_key_id().unwrap(),
            hex::encode(key.subject_key_id())
        );
        assert_eq!(issued.not_after, authority.not_after(), "capped");
        let above = authority.certificate().serial_decimal();
        assert_eq!(
            below.subject(),
            format!("SERIALNUMBER={above},OU=DOWNSTREAM-1,O=SPIFFE,C=US")
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_confuse_the_last_look(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(!profile::is_leaf_of(&bytes, &id("spiffe://example.org/a")));
        prop_assert!(!profile::is_authority_of(&bytes, &id("spiffe://example.org")));
    }
}
