//! An agent on a node that an operator provisioned: it proves that it has a key.

use attestors::node::sshpop::fake::{Draft, FakeAuthority};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tempfile::TempDir;

use super::{Pairing, serial, wait_for_svid};
use crate::domain::{Agent, Domain, Plan};
use crate::process::eventually;
use crate::programs::Make;

/// An authority of the operator's own with an intermediate, and the files of one node.
#[derive(Debug)]
pub struct Pki {
    folder: TempDir,
}

impl Pki {
    pub fn new(key: &KeyPair) -> Self {
        let pki = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let named = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let signing = |name: &str| {
            let mut params = named(name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params
        };
        let (root, root_key) = (signing("root"), KeyPair::generate().unwrap());
        pki.write("root.pem", &root.self_signed(&root_key).unwrap().pem());
        let (middle, middle_key) = (signing("middle"), KeyPair::generate().unwrap());
        let issuer = Issuer::from_params(&root, &root_key);
        let pem = middle.signed_by(&middle_key, &issuer).unwrap().pem();
        pki.write("middle.pem", &pem);
        let mut leaf = named("host.example.org");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.serial_number = Some(vec![0x0a, 0x1b].into());
        let zone = "x509pop://example.org/zone/a".try_into().unwrap();
        let address = SanType::IpAddress("127.0.0.1".parse().unwrap());
        leaf.subject_alt_names = vec![SanType::URI(zone), address];
        let issuer = Issuer::from_params(&middle, &middle_key);
        pki.write("leaf.pem", &leaf.signed_by(key, &issuer).unwrap().pem());
        pki.write("key.pem", &key.serialize_pem());
        pki
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn fingerprint(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        let parsed = identity::x509::parse_pem_certificates(&text).unwrap();
        parsed[0].fingerprint_sha1()
    }

    /// The server's plugin, with further keys.
    pub fn verifier(&self, more: &str) -> String {
        let folder = self.folder.path().display();
        format!(
            r#"NodeAttestor "x509pop" {{ plugin_data {{ ca_bundle_path = "{folder}/root.pem" verify_client_ip = true {more} }} }}"#
        )
    }

    /// The SPIFFE ID of the node's agent.
    pub fn agent_id(&self) -> String {
        let leaf = self.fingerprint("leaf.pem");
        format!("spiffe://example.org/spire/agent/x509pop/{leaf}")
    }

    /// The agent's plugin.
    pub fn prover(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            r#"NodeAttestor "x509pop" {{ plugin_data {{
                private_key_path = "{folder}/key.pem"
                certificate_path = "{folder}/leaf.pem"
                intermediates_path = "{folder}/middle.pem"
            }} }}"#
        )
    }
}

/// The agent attests by a certificate and an ECDSA key, is known by what the certificate says, renews,
/// comes back without its state, and attests again after an operator has evicted it.
pub fn a_node_attests_by_its_certificate(pairing: Pairing) {
    let pki = Pki::new(&KeyPair::generate().unwrap());
    let domain = Plan::new(pairing.server)
        .key(r#"agent_ttl = "20s""#)
        .plugin(&pki.verifier(""))
        .start();
    let id = pki.agent_id();
    let agent = domain.agent_by(pairing.agent, &id, &pki.prover());
    let (root, middle) = (pki.fingerprint("root.pem"), pki.fingerprint("middle.pem"));
    let mut expected = vec![
        format!("x509pop:ca:fingerprint:{root}"),
        format!("x509pop:ca:fingerprint:{middle}"),
        "x509pop:san:zone:a".to_owned(),
        "x509pop:serialnumber:0a1b".to_owned(),
        "x509pop:subject:cn:host.example.org".to_owned(),
    ];
    expected.sort();
    assert_eq!(selectors(&domain, &id), expected);
    it_lives_and_attests_again(&domain, agent);
}

/// The same with an RSA key, and called after its certificate's subject.
pub fn a_node_attests_by_an_rsa_key(pairing: Pairing) {
    let pki = Pki::new(&KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());
    let named = r#"agent_path_template = "/x509pop/cn/{{ .Subject.CommonName }}""#;
    let domain = Plan::new(pairing.server)
        .plugin(&pki.verifier(named))
        .start();
    let id = "spiffe://example.org/spire/agent/x509pop/cn/host.example.org";
    let agent = domain.agent_by(pairing.agent, id, &pki.prover());
    domain.entry(&agent, "/web", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/web");
}

/// The agent attests by an SSH host key, and lives as one with a certificate does.
pub fn a_host_attests_by_its_ssh_key(pairing: Pairing) {
    let host = Host::new(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let domain = Plan::new(pairing.server)
        .key(r#"agent_ttl = "20s""#)
        .plugin(&host.verifier(
            r#"canonical_domain = "example.org" agent_path_template = "/sshpop/{{ .Hostname }}""#,
        ))
        .start();
    let id = "spiffe://example.org/spire/agent/sshpop/host";
    let agent = domain.agent_by(pairing.agent, id, &host.prover());
    it_lives_and_attests_again(&domain, agent);
}

/// The same with an RSA key, by which SPIRE's agent signs with SHA-1, and called by its fingerprint.
pub fn a_host_attests_by_an_rsa_key(pairing: Pairing) {
    let host = Host::new(&KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());
    let domain = Plan::new(pairing.server).plugin(&host.verifier("")).start();
    let id = format!(
        "spiffe://example.org/spire/agent/sshpop/{}",
        host.fingerprint
    );
    let agent = domain.agent_by(pairing.agent, &id, &host.prover());
    domain.entry(&agent, "/web", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/web");
}

/// The agent attests by the name that leads to it, once, and by nothing else until it was evicted.
pub fn a_host_attests_by_its_name(pairing: Pairing) {
    let plan = Plan::new(pairing.server)
        .key(r#"agent_ttl = "20s""#)
        .plugin(r#"NodeAttestor "http_challenge" { plugin_data { allow_non_root_ports = true } }"#);
    let plan = match pairing.server {
        Make::Signet => plan.ours(r#"http_challenge_networks = ["127.0.0.0/8"]"#),
        Make::Spire => plan,
    };
    let domain = plan.start();
    let proof = r#"NodeAttestor "http_challenge" { plugin_data { hostname = "127.0.0.1" } }"#;
    let id = "spiffe://example.org/spire/agent/http_challenge/127.0.0.1";
    let mut agent = domain.agent_by(pairing.agent, id, proof);
    assert_eq!(
        selectors(&domain, id),
        ["http_challenge:hostname:127.0.0.1"]
    );
    domain.entry(&agent, "/web", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/web");
    let first = serial(&domain, &agent);
    eventually("the server has seen a new serial", || {
        serial(&domain, &agent) != first
    });
    agent.process.kill();
    std::fs::remove_dir_all(agent.data_dir()).unwrap();
    std::fs::create_dir_all(agent.data_dir()).unwrap();
    // It has been trusted once.
    let mut second = agent.start_alone();
    second.line_after(0, "already been used");
    second.kill();
    domain.cli(&["agent", "evict", "-spiffeID", id]).success();
    agent.restart();
    wait_for_svid(&agent, "/web");
}

/// An authority for hosts, and the files of one host.
struct Host {
    folder: TempDir,
    authority: String,
    fingerprint: String,
}

impl Host {
    fn new(key: &KeyPair) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = FakeAuthority::new().unwrap();
        let draft = Draft::host("host.example.org");
        let line = authority.certify(&key.serialize_der(), &draft).unwrap();
        std::fs::write(folder.path().join("cert.pub"), &line).unwrap();
        std::fs::write(folder.path().join("key"), key.serialize_pem()).unwrap();
        let der = STANDARD.decode(line.split(' ').nth(1).unwrap()).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        Self {
            folder,
            authority: authority.line(),
            fingerprint: URL_SAFE_NO_PAD.encode(digest),
        }
    }

    fn verifier(&self, more: &str) -> String {
        let authority = &self.authority;
        format!(
            r#"NodeAttestor "sshpop" {{ plugin_data {{ cert_authorities = ["{authority}"] {more} }} }}"#
        )
    }

    fn prover(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            r#"NodeAttestor "sshpop" {{ plugin_data {{
                host_key_path = "{folder}/key"
                host_cert_path = "{folder}/cert.pub"
            }} }}"#
        )
    }
}

/// Entries of the agent are served, also after a renewal, a restart from nothing, and an eviction.
fn it_lives_and_attests_again(domain: &Domain, mut agent: Agent) {
    domain.entry(&agent, "/web", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/web");
    let first = serial(domain, &agent);
    eventually("the server has seen a new serial", || {
        serial(domain, &agent) != first
    });
    agent.process.kill();
    std::fs::remove_dir_all(agent.data_dir()).unwrap();
    std::fs::create_dir_all(agent.data_dir()).unwrap();
    agent.restart();
    wait_for_svid(&agent, "/web");
    let evict = ["agent", "evict", "-spiffeID", &agent.id];
    domain.cli(&evict).success();
    eventually("the evicted agent is back", || {
        domain.cli(&["agent", "show", "-spiffeID", &agent.id]).code == 0
    });
    wait_for_svid(&agent, "/web");
}

/// What the server knows an agent by, sorted.
fn selectors(domain: &Domain, id: &str) -> Vec<String> {
    let shown = domain.cli(&["agent", "show", "-spiffeID", id]).success();
    let lines = shown
        .lines()
        .filter_map(|line| line.strip_prefix("Selectors"));
    let mut selectors: Vec<_> = lines
        .map(|line| line.trim_start_matches([' ', ':']).to_owned())
        .collect();
    selectors.sort();
    selectors
}
