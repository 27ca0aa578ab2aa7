//! Where the first trust comes from, and what is said when it cannot be had.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

use super::*;

fn example() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn occasion(trust_domain: &TrustDomain) -> Occasion<'_> {
    Occasion {
        trust_domain,
        host: "server",
        port: 8081,
        is_again: false,
        attempts: 1,
        since: SystemTime::UNIX_EPOCH,
    }
}

fn root() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .pem()
}

async fn from_file(content: &[u8], format: BundleFormat) -> Result<Trust, BootstrapError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle");
    std::fs::write(&path, content).unwrap();
    TrustSource::File { path, format }
        .obtain(occasion(&example()))
        .await
}

#[tokio::test]
async fn reads_certificates_in_pem() {
    let Trust::Bundle(bundle) = from_file((root() + &root()).as_bytes(), BundleFormat::Pem)
        .await
        .unwrap()
    else {
        panic!("a file is a bundle");
    };
    assert_eq!(bundle.x509_authorities.len(), 2);
    assert_eq!(bundle.trust_domain, example());
}

#[tokio::test]
async fn reads_a_spiffe_bundle() {
    let json = Bundle::from_pem(example(), &root())
        .unwrap()
        .to_spiffe_json();
    let trust = from_file(json.as_bytes(), BundleFormat::Spiffe)
        .await
        .unwrap();
    assert!(matches!(trust, Trust::Bundle(bundle) if bundle.x509_authorities.len() == 1));
}

#[tokio::test]
async fn an_unusable_bundle_is_told_with_its_file() {
    for (content, format, reason) in [
        (&b"not PEM"[..], BundleFormat::Pem, "pem_empty"),
        (b"", BundleFormat::Pem, "pem_empty"),
        (b"\xff\xfe", BundleFormat::Pem, "bundle_not_text"),
        (b"not JSON", BundleFormat::Spiffe, "bundle_json"),
        (br#"{"keys":[]}"#, BundleFormat::Spiffe, "bundle_empty"),
        (
            &vec![b'a'; MAX_BUNDLE_BYTES + 1],
            BundleFormat::Pem,
            "file_too_large",
        ),
    ] {
        let error = from_file(content, format).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains("bundle`"), "{error}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn a_missing_file_is_told_with_what_to_do() {
    let source = TrustSource::File {
        path: "/nowhere/bundle.pem".into(),
        format: BundleFormat::Pem,
    };
    let error = source.obtain(occasion(&example())).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/bundle.pem"), "{error}");
    assert!(error.to_string().contains("bundle show"), "{error}");
}
