//! Federation of our server with SPIRE's, by both profiles and in both directions.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tests::domain::{Domain, Plan, free_port};
use tests::programs::Make::{Signet, Spire};

/// Our server beside SPIRE's, each with a bundle endpoint.
struct Pair {
    domains: [(Domain, u16); 2],
}

impl Pair {
    /// `plan` adds to each what its endpoint needs, and gives its profile.
    fn start(endpoint: impl Fn(Plan, u16) -> Plan) -> Self {
        let domain = |make, name: &str| {
            let port = free_port();
            let plan = Plan::new(make).trust_domain(name);
            (endpoint(plan, port).start(), port)
        };
        Self {
            domains: [domain(Signet, "ours.test"), domain(Spire, "theirs.test")],
        }
    }

    /// Makes each federate with the other, and fetch its bundle; then both replace an authority, and
    /// each hears of it.
    fn federate(&self, profile: &str) {
        for (one, other) in self.directions() {
            relate(one, other, profile);
            refresh(one, other);
            assert_eq!(certificates(one, other), 1);
        }
        for (one, _) in &self.domains {
            one.cli(&["localauthority", "x509", "prepare"]).success();
        }
        for (one, other) in self.directions() {
            refresh(one, other);
            assert_eq!(certificates(one, other), 2);
            let theirs = other.0.cli(&["bundle", "show"]).success();
            assert_eq!(bundle(one, other), theirs);
        }
    }

    fn directions(&self) -> [(&Domain, &(Domain, u16)); 2] {
        let [ours, theirs] = &self.domains;
        [(&ours.0, theirs), (&theirs.0, ours)]
    }
}

fn relate(one: &Domain, (other, port): &(Domain, u16), profile: &str) {
    let name = &other.plan.trust_domain;
    let url = format!("https://127.0.0.1:{port}");
    let mut words = vec!["federation", "create", "-trustDomain", name];
    words.extend([
        "-bundleEndpointURL",
        &url,
        "-bundleEndpointProfile",
        profile,
    ]);
    let id = format!("spiffe://{name}/spire/server");
    let seed = one.folder().join("seed.json");
    let seed_path = seed.to_str().unwrap();
    if profile == "https_spiffe" {
        let shown = other.cli(&["bundle", "show", "-format", "spiffe"]);
        std::fs::write(&seed, shown.success()).unwrap();
        words.extend([
            "-endpointSpiffeID",
            &id,
            "-trustDomainBundlePath",
            seed_path,
        ]);
        words.extend(["-trustDomainBundleFormat", "spiffe"]);
    }
    one.cli(&words).success();
}

fn refresh(one: &Domain, (other, _): &(Domain, u16)) {
    let refreshed = one.cli(&["federation", "refresh", "-id", &other.plan.trust_domain]);
    assert_eq!(refreshed.success(), "Bundle refreshed\n");
}

/// The bundle that `one` has of the other.
fn bundle(one: &Domain, (other, _): &(Domain, u16)) -> String {
    let listed = one.cli(&["bundle", "list", "-id", &other.plan.trust_domain]);
    listed.success()
}

fn certificates(one: &Domain, other: &(Domain, u16)) -> usize {
    bundle(one, other).matches("BEGIN CERTIFICATE").count()
}

fn is_there() -> bool {
    tests::peers::folder("spire").is_some()
}

#[test]
fn our_server_and_spires_federate_both_ways_by_their_svids() {
    if !is_there() {
        return;
    }
    let pair = Pair::start(|plan, port| {
        plan.key(&format!(
            r#"federation {{ bundle_endpoint {{ address = "127.0.0.1" port = {port} profile "https_spiffe" {{}} }} }}"#
        ))
    });
    pair.federate("https_spiffe");
}

#[test]
fn our_server_and_spires_federate_both_ways_by_the_web_pki() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let web = Web::write(folder.path());
    let pair = Pair::start(|plan, port| {
        let (certificate, key) = (web.certificate.display(), web.key.display());
        // Go reads both; its folder of authorities is to have nothing.
        plan.variable("SSL_CERT_FILE", web.roots.to_str().unwrap())
            .variable("SSL_CERT_DIR", folder.path().to_str().unwrap())
            .key(&format!(
                r#"federation {{ bundle_endpoint {{ address = "127.0.0.1" port = {port}
                profile "https_web" {{ serving_cert_file {{
                    cert_file_path = "{certificate}" key_file_path = "{key}" file_sync_interval = "1h"
                }} }} }} }}"#
            ))
    });
    pair.federate("https_web");
}

/// An authority that stands for the Web PKI, and a certificate of it for this machine.
struct Web {
    roots: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Web {
    fn write(folder: &Path) -> Self {
        let root_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&root_key).unwrap();
        let issuer = Issuer::new(params, root_key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let file = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        Self {
            roots: file("roots.pem", root.pem()),
            certificate: file("cert.pem", leaf.pem()),
            key: file("key.pem", key.serialize_pem()),
        }
    }
}
