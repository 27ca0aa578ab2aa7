//! The settings of the workload attestor `k8s`: SPIRE's keys, and ours in their block `signet`.

use std::path::PathBuf;

use attestors::node::k8s_psat::KubeConfig;
use attestors::workload::k8s::Options;
use attestors::workload::k8s::kubelet::{
    Authentication, Endpoint, KubeletOptions, Secure, Verification,
};
use runtime::config::{Body, Plugin, Problems, given};
use serde::Deserialize;

use super::Variables;

/// The variable that names the node, unless `node_name_env` names another.
const NODE_NAME_ENV: &str = "MY_NODE_NAME";

/// What the settings amount to.
#[derive(Clone, Debug)]
pub struct K8sConfig {
    pub options: Options,
    pub kubelet: KubeletOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "these are SPIRE's keys, as an operator writes them"
)]
struct Said {
    kubelet_read_only_port: i64,
    kubelet_secure_port: i64,
    kubelet_ca_path: Option<PathBuf>,
    skip_kubelet_verification: bool,
    token_path: Option<PathBuf>,
    certificate_path: Option<PathBuf>,
    private_key_path: Option<PathBuf>,
    use_anonymous_authentication: bool,
    node_name_env: Option<String>,
    node_name: Option<String>,
    max_poll_attempts: i64,
    poll_retry_interval: Option<String>,
    reload_interval: Option<String>,
    disable_container_selectors: bool,
    disable_kubelet_client: bool,
    use_new_container_locator: Option<bool>,
    verbose_container_locator_logs: bool,
    enable_namespace_labels: bool,
    sigstore: Option<Body>,
    experimental: Experimental,
    signet: Ours,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Experimental {
    api_server: Option<Body>,
    broker: Option<Body>,
}

/// What SPIRE does not have.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ours {
    /// Where the kubelet is, if not where the node's name leads.
    kubelet_address: Option<String>,
    /// The kubelet's own certificate, as it lies on the node.
    kubelet_certificate_paths: Option<Vec<PathBuf>>,
    /// The socket of the kubelet's Pods API. Empty: it is not used.
    pods_api_socket: Option<PathBuf>,
    /// Whether ephemeral containers have a part in their pod's identity.
    ephemeral_containers: bool,
}

pub(super) fn read(
    plugin: &Plugin,
    variables: Variables<'_>,
    problems: &mut Problems,
) -> Option<K8sConfig> {
    let said: Said = plugin.settings(problems);
    refuse(&said, plugin, problems);
    let mut length =
        |key: &str, said: &Option<String>| problems.length(&plugin.key(key), said.as_deref());
    let pause = length("poll_retry_interval", &said.poll_retry_interval)
        .unwrap_or(KubeletOptions::POLL_RETRY_INTERVAL);
    let reload_interval =
        length("reload_interval", &said.reload_interval).unwrap_or(KubeletOptions::RELOAD_INTERVAL);
    // As with SPIRE, what is not above 0 is not set.
    let attempts = u32::try_from(said.max_poll_attempts)
        .ok()
        .filter(|attempts| *attempts > 0)
        .unwrap_or(Options::MAX_POLL_ATTEMPTS);
    let variable = given(said.node_name_env.clone());
    let node_name = given(said.node_name.clone())
        .or_else(|| given(variables(variable.as_deref().unwrap_or(NODE_NAME_ENV))));
    let pods_api_socket = match &said.signet.pods_api_socket {
        Some(socket) => given(Some(socket.clone())),
        None => Some(PathBuf::from(KubeletOptions::PODS_API_SOCKET)),
    };
    Some(K8sConfig {
        options: Options {
            node_name: node_name.clone(),
            patience: pause.saturating_mul(attempts),
            disable_container_selectors: said.disable_container_selectors,
            ephemeral_containers: said.signet.ephemeral_containers,
            namespace_labels: said
                .enable_namespace_labels
                .then_some(KubeConfig::InCluster),
        },
        kubelet: KubeletOptions {
            endpoint: Some(endpoint(said, node_name, plugin, problems)?),
            pods_api_socket,
            poll_retry_interval: pause,
            reload_interval,
            ..KubeletOptions::default()
        },
    })
}

/// Refuses what is not built, by name.
fn refuse(said: &Said, plugin: &Plugin, problems: &mut Problems) {
    for (refused, key, what) in [
        (
            said.sigstore.is_some(),
            "sigstore",
            "verifying the signatures of images is not built",
        ),
        (
            said.experimental.broker.is_some(),
            "experimental.broker",
            "the SPIFFE Broker API is not built",
        ),
        (
            said.experimental.api_server.is_some(),
            "experimental.api_server",
            "it serves the SPIFFE Broker API, which is not built",
        ),
        (
            said.disable_kubelet_client,
            "disable_kubelet_client",
            "without the kubelet only the SPIFFE Broker API could work, which is not built",
        ),
        (
            said.use_new_container_locator == Some(false),
            "use_new_container_locator",
            "SPIRE's legacy container locator is not built",
        ),
    ] {
        problems.add_if(refused, &plugin.key(key), what);
    }
    problems.warn_if(
        said.verbose_container_locator_logs,
        "`verbose_container_locator_logs` has no effect: a caller that cannot be placed is logged with its reason",
    );
}

fn endpoint(
    said: Said,
    node_name: Option<String>,
    plugin: &Plugin,
    problems: &mut Problems,
) -> Option<Endpoint> {
    let ports = (said.kubelet_read_only_port, said.kubelet_secure_port);
    if ports.0 > 0 && ports.1 > 0 {
        let key = plugin.key("kubelet_read_only_port");
        problems.add(&key, "cannot use both the read-only and secure port");
        return None;
    }
    if ports.0 > 0 {
        let port = problems.port(&plugin.key("kubelet_read_only_port"), ports.0)?;
        return Some(Endpoint::ReadOnly { port });
    }
    let port = match ports.1 {
        port if port > 0 => problems.port(&plugin.key("kubelet_secure_port"), port)?,
        _ => Secure::PORT,
    };
    Some(Endpoint::Secure(Secure {
        address: given(said.signet.kubelet_address.clone()),
        node_name,
        port,
        verification: verification(&said),
        authentication: authentication(said, plugin, problems)?,
    }))
}

fn verification(said: &Said) -> Verification {
    if said.skip_kubelet_verification {
        return Verification::Skip;
    }
    let usual = || Verification::PINNED.map(PathBuf::from).to_vec();
    let pinned = said.signet.kubelet_certificate_paths.clone();
    match (Verification::default(), given(said.kubelet_ca_path.clone())) {
        (Verification::Auto { ca, .. }, said) => Verification::Auto {
            ca: said.or(ca),
            pinned: pinned.unwrap_or_else(usual),
        },
        (Verification::Skip, _) => Verification::Skip,
    }
}

/// In SPIRE's order of precedence.
fn authentication(said: Said, plugin: &Plugin, problems: &mut Problems) -> Option<Authentication> {
    if said.use_anonymous_authentication {
        return Some(Authentication::Anonymous);
    }
    match (given(said.certificate_path), given(said.private_key_path)) {
        (Some(certificate), Some(private_key)) => Some(Authentication::Certificate {
            certificate,
            private_key,
        }),
        (Some(_), None) => {
            let what = "the private key path is required with the certificate path";
            problems.add(&plugin.key("private_key_path"), what);
            None
        }
        (None, Some(_)) => {
            let what = "the certificate path is required with the private key path";
            problems.add(&plugin.key("certificate_path"), what);
            None
        }
        (None, None) => Some(match given(said.token_path) {
            Some(token) => Authentication::Token(token),
            None => Authentication::default(),
        }),
    }
}
