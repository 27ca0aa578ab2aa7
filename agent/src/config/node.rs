//! What the agent proves itself by where an operator provisioned the node: SPIRE's keys.

use std::path::PathBuf;

use attestors::node::http_challenge::{self, AgentName, HostName};
use attestors::node::{sshpop, x509pop};
use runtime::config::{Body, Plugin, Problems, given};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct X509pop {
    private_key_path: Option<PathBuf>,
    certificate_path: Option<PathBuf>,
    intermediates_path: Option<PathBuf>,
    spiffe_endpoint_socket: Option<Body>,
}

pub(super) fn x509pop(plugin: &Plugin, problems: &mut Problems) -> Option<x509pop::Prover> {
    let said: X509pop = plugin.settings(problems);
    let what = "an SVID of another agent is not built as a proof; use files";
    let socket = plugin.key("spiffe_endpoint_socket");
    problems.add_if(said.spiffe_endpoint_socket.is_some(), &socket, what);
    let mut required = |key, path: Option<PathBuf>| {
        let path = given(path);
        problems.add_if(
            path.is_none(),
            &plugin.key(key),
            format!("{key} is required"),
        );
        path
    };
    let private_key_path = required("private_key_path", said.private_key_path);
    let certificate_path = required("certificate_path", said.certificate_path);
    Some(x509pop::Prover {
        private_key_path: private_key_path?,
        certificate_path: certificate_path?,
        intermediates_path: given(said.intermediates_path),
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sshpop {
    host_key_path: Option<PathBuf>,
    host_cert_path: Option<PathBuf>,
}

pub(super) fn sshpop(plugin: &Plugin, problems: &mut Problems) -> sshpop::Prover {
    let said: Sshpop = plugin.settings(problems);
    let key = given(said.host_key_path);
    let certificate = given(said.host_cert_path);
    sshpop::Prover {
        host_key_path: key.unwrap_or_else(|| sshpop::DEFAULT_KEY_PATH.into()),
        host_cert_path: certificate.unwrap_or_else(|| sshpop::DEFAULT_CERT_PATH.into()),
    }
}

/// What SPIRE's agent is called on its host.
const DEFAULT_AGENT_NAME: &str = "default";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HttpChallenge {
    hostname: Option<String>,
    agentname: Option<String>,
    port: i64,
    advertised_port: i64,
}

pub(super) fn http_challenge(
    plugin: &Plugin,
    problems: &mut Problems,
) -> Option<http_challenge::Prover> {
    let said: HttpChallenge = plugin.settings(problems);
    let hostname = said.hostname.filter(|name| !name.is_empty());
    let hostname = hostname.map(|name| HostName::parse(&name)).transpose();
    let hostname = problems.take(&plugin.key("hostname"), hostname);
    let name = said.agentname.filter(|name| !name.is_empty());
    let agent = AgentName::parse(name.as_deref().unwrap_or(DEFAULT_AGENT_NAME));
    let agent = problems.take(&plugin.key("agentname"), agent);
    let mut port = |key, port: i64| problems.take(&plugin.key(key), u16::try_from(port));
    let own = port("port", said.port);
    let advertised = port("advertised_port", said.advertised_port);
    Some(http_challenge::Prover {
        hostname: hostname?,
        agent: agent?,
        port: own?,
        advertised_port: advertised.filter(|port| *port > 0),
    })
}
