//! Facts about SVIDs that an operator has signed without an entry.

use std::time::Duration;

use identity::bundle::{Bundle, JwtAuthority};
use identity::jwt::{JwtSvid, validate};
use identity::key::PublicKey;
use identity::x509::{Attribute, Certificate, DistinguishedName, check_leaf};
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::svid::svid_client::SvidClient;
use proto::spire::server::svid::{MintJwtsvidRequest, MintX509svidRequest};
use proto::spire::types;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName as Name, DnType, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use runtime::clock::Clock;
use tonic::{Code, Status};

use super::support::{Server, csr, own, start, start_with, trust_domain};

pub(crate) fn params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = Name::new();
    for uri in uris {
        let uri = SanType::URI((*uri).try_into().unwrap());
        params.subject_alt_names.push(uri);
    }
    params
}

async fn mint_der(server: &Server, csr: Vec<u8>, ttl: i32) -> Result<types::X509svid, Status> {
    let request = MintX509svidRequest {
        csr: csr.into(),
        ttl,
    };
    let mut client = SvidClient::new(server.admin.clone());
    let answer = client.mint_x509svid(request).await?;
    Ok(answer.into_inner().svid.unwrap())
}

pub(crate) async fn mint(
    server: &Server,
    params: &CertificateParams,
    ttl: i32,
) -> Result<types::X509svid, Status> {
    let key = KeyPair::generate().unwrap();
    mint_der(server, csr(&key, params), ttl).await
}

pub(crate) async fn mint_jwt(
    server: &Server,
    id: Option<types::Spiffeid>,
    audience: &[&str],
    ttl: i32,
) -> Result<types::Jwtsvid, Status> {
    let request = MintJwtsvidRequest {
        id,
        audience: audience.iter().map(|name| (*name).to_owned()).collect(),
        ttl,
    };
    let mut client = SvidClient::new(server.admin.clone());
    let answer = client.mint_jwtsvid(request).await?;
    Ok(answer.into_inner().svid.unwrap())
}

fn leaf(svid: &types::X509svid) -> Certificate {
    Certificate::parse(&svid.cert_chain[0]).unwrap()
}

fn subject(leaf: &Certificate) -> Vec<(Attribute, String)> {
    let name = DistinguishedName::from_der(leaf.subject_der()).unwrap();
    name.iter().map(|(a, v)| (a, v.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minted_x509_svid_has_the_id_the_names_and_the_subject_of_its_request() {
    let server = start().await;
    let plain = mint(&server, &params(&["spiffe://example.org/m1"]), 0).await;
    let plain = plain.unwrap();
    assert_eq!(plain.id, own("/m1"));
    assert_eq!(check_leaf(&leaf(&plain)).unwrap().path(), "/m1");
    let spires = [
        (Attribute::Country, "US".to_owned()),
        (Attribute::Organization, "SPIRE".to_owned()),
    ];
    assert_eq!(subject(&leaf(&plain)), spires);
    let lifetime = leaf(&plain).validity().lifetime();
    assert_eq!(lifetime.as_secs() / 60, 60, "an hour by default");

    let mut asked = params(&["spiffe://example.org/m1"]);
    asked.distinguished_name.push(DnType::CommonName, "odd");
    asked
        .distinguished_name
        .push(DnType::OrganizationName, "Acme");
    for name in ["m1.example", "*.wild.example"] {
        let name = SanType::DnsName(name.try_into().unwrap());
        asked.subject_alt_names.push(name);
    }
    let named = leaf(&mint(&server, &asked, 300).await.unwrap());
    assert_eq!(named.dns_names(), ["m1.example", "*.wild.example"]);
    // The first DNS name is the common name, whatever was asked for.
    let expected = [
        (Attribute::Organization, "Acme".to_owned()),
        (Attribute::CommonName, "m1.example".to_owned()),
    ];
    assert_eq!(subject(&named), expected);
    let lifetime = named.validity().lifetime();
    assert!((300..=311).contains(&lifetime.as_secs()), "{lifetime:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_minted_svid_outlives_its_authority() {
    let server = start_with(|config| config.authority.ca_ttl = Duration::from_secs(7_200)).await;
    let long = mint(&server, &params(&["spiffe://example.org/m"]), i32::MAX).await;
    let leaf = leaf(&long.unwrap());
    assert!(leaf.validity().lifetime() <= Duration::from_secs(7_210));
    let token = mint_jwt(&server, own("/m"), &["a"], i32::MAX).await;
    let token = token.unwrap();
    assert!(token.expires_at - token.issued_at <= 7_200);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_requests_as_spire_refuses_them() {
    let server = start().await;
    let dns = |names: &[&str]| {
        let mut params = params(&["spiffe://example.org/m"]);
        for name in names {
            let name = SanType::DnsName((*name).try_into().unwrap());
            params.subject_alt_names.push(name);
        }
        params
    };
    let cases = [
        (params(&[]), "CSR URI SAN is required"),
        (
            params(&["http://example.org/m"]),
            "CSR URI SAN is invalid: scheme is missing or invalid",
        ),
        (
            params(&["spiffe://example.org"]),
            "CSR URI SAN is invalid: \"spiffe://example.org\" is not a workload in trust domain \
             \"example.org\"; path is empty",
        ),
        (
            dns(&["bad.example."]),
            "CSR DNS name is invalid: domain ends with dot",
        ),
        (
            dns(&["a.b.example", "*.b.example"]),
            "CSR DNS name contains a wildcard that covers another non-wildcard name: name \
             \"a.b.example\" overlaps with an existing wildcard name in the list: wildcard overlap",
        ),
    ];
    for (params, message) in cases {
        let refused = mint(&server, &params, 0).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, message)
        );
    }
    let missing = mint_der(&server, Vec::new(), 0).await.unwrap_err();
    assert_eq!(missing.message(), "missing CSR");
    let nonsense = mint_der(&server, b"nonsense".to_vec(), 0).await;
    let nonsense = nonsense.unwrap_err();
    assert!(nonsense.message().starts_with("malformed CSR"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dns_name_that_is_not_ascii_is_refused_by_its_name_and_not_left_out() {
    let server = start().await;
    for (name, told) in [
        ("b\u{fc}cher.example".as_bytes(), "b\u{fc}cher.example"),
        (&b"\xff.example"[..], "\u{fffd}.example"),
    ] {
        let names = [
            tlv(0x86, b"spiffe://example.org/m"),
            tlv(0x82, b"plain.example"),
            tlv(0x82, name),
        ];
        let mut asked = params(&[]);
        let names = tlv(0x30, &names.concat());
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], names);
        asked.custom_extensions.push(extension);
        let refused = mint(&server, &asked, 0).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let expected = format!(
            "CSR DNS name is invalid: {told:?} is not ASCII; ask for it in its ASCII form (\"xn--...\")"
        );
        assert_eq!(refused.message(), expected);
    }
}

/// An element in DER, of less than 128 bytes.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    [&[tag, length], content].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_no_operator_mints_ids_of_others_of_servers_or_of_agents() {
    let server = start().await;
    let reserved = "path is in the reserved namespace";
    for (uri, why) in [
        (
            "spiffe://other.org/x",
            "is not a member of trust domain \"example.org\"",
        ),
        ("spiffe://example.org/spire/server", reserved),
        ("spiffe://example.org/spire/agent/join_token/x", reserved),
        ("spiffe://example.org/spire", reserved),
    ] {
        let refused = mint(&server, &params(&[uri]), 0).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{uri}");
        let message = refused.message();
        assert!(message.starts_with("CSR URI SAN is invalid: "), "{message}");
        assert!(message.contains(why), "{message}");
        let (host, path) = uri
            .strip_prefix("spiffe://")
            .unwrap()
            .split_once('/')
            .unwrap();
        let id = types::Spiffeid {
            trust_domain: host.to_owned(),
            path: format!("/{path}"),
        };
        let refused = mint_jwt(&server, Some(id), &["a"], 0).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{uri}");
        assert!(refused.message().starts_with("invalid SPIFFE ID: "));
        assert!(refused.message().contains(why), "{}", refused.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_a_csr_with_two_uris_is_refused_also_if_they_are_the_same() {
    let server = start().await;
    for second in ["spiffe://example.org/b", "spiffe://example.org/a"] {
        let two = params(&["spiffe://example.org/a", second]);
        let refused = mint(&server, &two, 0).await.unwrap_err();
        assert_eq!(refused.message(), "only one URI SAN is expected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_what_else_a_csr_asks_for_never_reaches_the_certificate() {
    let server = start().await;
    let mut evil = params(&["spiffe://example.org/a"]);
    evil.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    evil.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let address = SanType::IpAddress([127, 0, 0, 1].into());
    let mail = SanType::Rfc822Name("root@example.org".try_into().unwrap());
    evil.subject_alt_names.extend([address, mail]);
    let evil = mint(&server, &evil, 0).await.unwrap();
    let leaf = leaf(&evil);
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap();
    assert!(!usage.key_cert_sign() && !usage.crl_sign());
    assert!(check_leaf(&leaf).is_ok());
    let bytes = &evil.cert_chain[0];
    assert!(!bytes.windows(4).any(|four| four == b"root"));
    assert!(!bytes.windows(4).any(|four| four == [127, 0, 0, 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_a_csr_for_somebody_elses_key_is_refused() {
    let server = start().await;
    let (mine, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut der = csr(&mine, &params(&["spiffe://example.org/a"]));
    let point = mine.public_key_raw();
    let at = der.windows(point.len()).position(|part| part == point);
    let at = at.unwrap();
    der[at..at + point.len()].copy_from_slice(theirs.public_key_raw());
    let refused = mint_der(&server, der, 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let message = refused.message();
    assert!(
        message.starts_with("failed to verify CSR signature"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_a_csr_whose_subject_hides_a_second_name_is_refused() {
    let server = start().await;
    let mut evil = params(&["spiffe://example.org/a"]);
    evil.distinguished_name
        .push(DnType::CommonName, "good.example\0.evil.example");
    let refused = mint(&server, &evil, 0).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "CSR subject is invalid: name has a control character"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minted_jwt_svid_is_for_its_audiences_and_verifies_by_the_bundle() {
    let server = start().await;
    let svid = mint_jwt(&server, own("/m"), &["a", "", "b"], 60).await;
    let svid = svid.unwrap();
    assert_eq!(svid.id, own("/m"));
    assert_eq!(svid.expires_at - svid.issued_at, 60);
    let token = JwtSvid::parse_unverified(&svid.token).unwrap();
    assert_eq!(token.audience(), ["a", "b"]);
    let request = GetBundleRequest::default();
    let answer = server.bundles().get_bundle(request).await.unwrap();
    let mut bundle = Bundle::new(trust_domain());
    for key in answer.into_inner().jwt_authorities {
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: key.key_id,
            public_key: PublicKey::from_spki_der(&key.public_key).unwrap(),
            expires_at: None,
            tainted: false,
        });
    }
    let now = Clock::system().now();
    let valid = validate(
        &svid.token,
        "b",
        |of| (*of == trust_domain()).then_some(&bundle),
        now,
    );
    assert_eq!(valid.unwrap().id.path(), "/m");

    let by_default = mint_jwt(&server, own("/m"), &["a"], 0).await.unwrap();
    assert_eq!(by_default.expires_at - by_default.issued_at, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_svid_without_an_audience_or_an_id_is_not_minted() {
    let server = start().await;
    for (id, audience, code, message) in [
        (
            own("/m"),
            &[][..],
            Code::InvalidArgument,
            "at least one audience is required",
        ),
        (
            own("/m"),
            &["", ""],
            Code::Internal,
            "failed to sign JWT-SVID: invalid JWT-SVID audience: cannot be empty",
        ),
        (
            None,
            &["a"],
            Code::InvalidArgument,
            "invalid SPIFFE ID: request must specify SPIFFE ID",
        ),
    ] {
        let refused = mint_jwt(&server, id, audience, 0).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, message));
    }
    let long = "a".repeat(2_049);
    let refused = mint_jwt(&server, own("/m"), &[long.as_str()], 0).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let off = start_with(|config| config.disable_jwt_svids = true).await;
    let refused = mint_jwt(&off, own("/m"), &["a"], 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}
