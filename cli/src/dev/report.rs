//! What `signet dev` shows: the sockets, the identity that it got, and how to use them.
//!
//! Pure: everything shown is handed in, so that the page can be read in a test.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use identity::bundle::Bundle;
use identity::jwt::ValidatedJwt;
use identity::key::KeyAlgorithm;
use identity::validity::Validity;
use identity::x509::{Certificate, X509Svid};
use serde_json::Value;

use crate::{go, json};

/// What there is to show.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) server_socket: &'a Path,
    pub(crate) server_address: SocketAddr,
    pub(crate) agent_socket: &'a Path,
    /// Fetched through the socket, and verified against `bundle`.
    pub(crate) x509: &'a X509Svid,
    pub(crate) bundle: &'a Bundle,
    /// Fetched through the socket, and validated.
    pub(crate) jwt: &'a ValidatedJwt,
    pub(crate) jwt_validity: Option<Validity>,
    /// How this program was called, for the examples.
    pub(crate) program: &'a str,
}

impl Report<'_> {
    /// The page, up to the line with the socket for workloads.
    pub(crate) fn page(&self) -> String {
        let trust_domain = &self.bundle.trust_domain;
        let mut page = Page(format!("Signet runs trust domain {trust_domain}.\n"));
        page.section("Running");
        page.row("State", &self.folder.display().to_string());
        page.row(
            "Server",
            &format!("{} (administration)", self.server_socket.display()),
        );
        page.row("", &format!("{} (agents, mutual TLS)", self.server_address));
        page.row(
            "Agent",
            &format!("{} (Workload API, Envoy SDS)", self.agent_socket.display()),
        );
        self.x509(&mut page);
        self.jwt(&mut page);
        self.examples(&mut page);
        page.0
    }

    /// The last line: what a workload's environment needs.
    pub(crate) fn endpoint(&self) -> String {
        format!(
            "SPIFFE_ENDPOINT_SOCKET=unix://{}",
            self.agent_socket.display()
        )
    }

    fn x509(&self, page: &mut Page) {
        let leaf = self.x509.leaf();
        page.section("X509-SVID");
        page.row("SPIFFE ID", self.x509.id().as_str());
        page.lifetime(self.x509.validity());
        page.row("Serial number", leaf.serial_decimal());
        page.row("Key", &algorithm(leaf.public_key().algorithm()));
        for (at, certificate) in self.x509.chain().iter().enumerate() {
            let what = match at {
                0 => "leaf",
                _ => "intermediate",
            };
            page.row(if at == 0 { "Chain" } else { "" }, &link(what, certificate));
        }
        for authority in self.bundle.certificates() {
            page.row("", &link("authority", authority));
        }
        page.row(
            "Verified",
            "the chain leads to an authority of the trust domain",
        );
    }

    fn jwt(&self, page: &mut Page) {
        page.section("JWT-SVID");
        page.row("SPIFFE ID", self.jwt.id.as_str());
        page.row("Audience", &self.jwt.audience.join(", "));
        match self.jwt_validity {
            Some(validity) => page.lifetime(validity),
            None => page.row("Valid until", &go::time(self.jwt.expires_at)),
        }
        page.row("Signed by", &format!("key {}", self.jwt.key_id));
        page.row(
            "Claims",
            &json::compact(&Value::Object(self.jwt.claims.clone())),
        );
        page.row(
            "Verified",
            "by its signature, times and audience, and by the agent",
        );
    }

    fn examples(&self, page: &mut Page) {
        let socket = self.agent_socket.display();
        let id = self.x509.id();
        page.section("From a program, in Python (pip install spiffe)");
        page.example(&format!(
            "export {}\n\
             python3 -c 'import spiffe; print(spiffe.WorkloadApiClient().fetch_x509_svid().spiffe_id)'",
            self.endpoint()
        ));
        page.section("From Envoy, in its configuration");
        page.example(&format!(
            "clusters:\n\
             - name: spire_agent\n  \
               connect_timeout: 1s\n  \
               typed_extension_protocol_options:\n    \
                 envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n      \
                   \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n      \
                   explicit_http_config: {{ http2_protocol_options: {{}} }}\n  \
               load_assignment:\n    \
                 cluster_name: spire_agent\n    \
                 endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ pipe: {{ path: {socket} }} }} }} }}] }}]\n\
             # and in the tls context of a listener or cluster, as common_tls_context:\n\
             tls_certificate_sds_secret_configs:\n\
             - name: {id}   # or default\n  \
               sds_config: &sds\n    \
                 resource_api_version: V3\n    \
                 api_config_source: {{ api_type: GRPC, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: spire_agent }} }}] }}\n\
             validation_context_sds_secret_config: {{ name: ROOTCA, sds_config: *sds }}"
        ));
        page.section("From the command line");
        let program = self.program;
        page.example(&format!(
            "{program} agent api fetch x509 -socketPath {socket}\n\
             {program} agent api fetch jwt -audience a-service -socketPath {socket}\n\
             {program} server entry show -socketPath {}",
            self.server_socket.display()
        ));
    }
}

/// Text in sections of two columns.
struct Page(String);

impl Page {
    fn section(&mut self, title: &str) {
        self.line(format_args!("\n{title}"));
    }

    fn row(&mut self, name: &str, value: &str) {
        self.line(format_args!("  {name:<15}{value}"));
    }

    fn example(&mut self, text: &str) {
        for line in text.lines() {
            self.line(format_args!("  {line}"));
        }
    }

    fn lifetime(&mut self, validity: Validity) {
        self.row("Valid from", &go::time(validity.not_before()));
        let lifetime = go::duration(validity.lifetime());
        self.row(
            "Valid until",
            &format!("{}, {lifetime} in all", go::time(validity.not_after())),
        );
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{line}");
    }
}

fn link(what: &str, certificate: &Certificate) -> String {
    let name = match certificate.spiffe_id() {
        Ok(id) => id.to_string(),
        Err(_) => format!("serial number {}", certificate.serial_decimal()),
    };
    let until = go::time(certificate.validity().not_after());
    format!("{what:<13}{name}, until {until}")
}

fn algorithm(algorithm: KeyAlgorithm) -> String {
    match algorithm {
        KeyAlgorithm::EcP256 => "ECDSA P-256".to_owned(),
        KeyAlgorithm::EcP384 => "ECDSA P-384".to_owned(),
        KeyAlgorithm::EcP521 => "ECDSA P-521".to_owned(),
        KeyAlgorithm::Rsa(bits) => format!("RSA {bits}"),
        KeyAlgorithm::Ed25519 => "Ed25519".to_owned(),
    }
}
