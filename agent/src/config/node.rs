//! What the agent proves itself by where an operator provisioned the node: SPIRE's keys.

use std::path::PathBuf;

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
