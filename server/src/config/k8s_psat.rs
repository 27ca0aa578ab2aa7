//! The clusters whose pods may attest: `NodeAttestor "k8s_psat"`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use attestors::node::k8s_psat::{AgentIdBy, Cluster, KubeConfig, Limits, ServiceAccount};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use runtime::config::{Problems, given};
use serde::Deserialize;

/// The audience of SPIRE's manifests.
const DEFAULT_AUDIENCE: &str = "spire-server";

/// The settings of the plugin, with SPIRE's keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    clusters: BTreeMap<String, ClusterSettings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClusterSettings {
    service_account_allow_list: Vec<String>,
    audience: Option<Vec<String>>,
    kube_config_file: Option<PathBuf>,
    allowed_node_label_keys: Vec<String>,
    allowed_pod_label_keys: Vec<String>,
    use_pod_uid_for_agent_id: bool,
}

/// Reads the clusters; `path` is where they stand in the file.
pub(super) fn read(
    settings: Settings,
    path: &str,
    problems: &mut Problems,
) -> BTreeMap<String, Cluster> {
    if settings.clusters.is_empty() {
        problems.warn("no clusters configured, k8s_psat attestation is effectively disabled");
    }
    let mut clusters = BTreeMap::new();
    for (name, settings) in settings.clusters {
        let path = format!("{path}.{name}");
        if !is_segment(&name) {
            let what = "the name of a cluster is a part of agent IDs: letters, digits, dots, dashes and underscores";
            problems.add(&path, what);
        }
        clusters.insert(name, cluster(settings, &path, problems));
    }
    clusters
}

fn cluster(settings: ClusterSettings, path: &str, problems: &mut Problems) -> Cluster {
    let accounts = settings.service_account_allow_list;
    let path = format!("{path}.service_account_allow_list");
    if accounts.is_empty() {
        problems.add(&path, "at least one service account must be allowed");
    }
    let mut service_accounts = BTreeSet::new();
    for account in accounts {
        match ServiceAccount::parse(&account) {
            Ok(account) => {
                service_accounts.insert(account);
            }
            Err(_) => problems.add(&path, format!("`{account}` is not `namespace:name`")),
        }
    }
    Cluster {
        service_accounts,
        audiences: settings
            .audience
            .unwrap_or_else(|| vec![DEFAULT_AUDIENCE.to_owned()]),
        kube_config: kube_config(settings.kube_config_file),
        node_label_keys: settings.allowed_node_label_keys.into_iter().collect(),
        pod_label_keys: settings.allowed_pod_label_keys.into_iter().collect(),
        agent_id_by: if settings.use_pod_uid_for_agent_id {
            AgentIdBy::PodUid
        } else {
            AgentIdBy::NodeUid
        },
        limits: Limits::default(),
    }
}

/// Without a file it is the account of the pod that the server runs in.
pub(super) fn kube_config(file: Option<PathBuf>) -> KubeConfig {
    given(file).map_or(KubeConfig::InCluster, KubeConfig::File)
}

/// Whether a SPIFFE ID of any trust domain can have this segment.
fn is_segment(name: &str) -> bool {
    let any = TrustDomain::parse("any");
    any.is_ok_and(|any| SpiffeId::from_segments(&any, [name]).is_ok())
}
