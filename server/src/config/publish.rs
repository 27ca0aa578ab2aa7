//! Where the trust bundle is published: the plugins `k8s_configmap` and `k8sbundle`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use runtime::config::{Plugin, Problems, given};
use serde::Deserialize;

use super::k8s_psat::kube_config;
use crate::publish::{self, ConfigMapRef, Format, Place, TargetConfig};

/// SPIRE's names where `k8sbundle` is told none.
const NAMESPACE: &str = "spire";
const CONFIG_MAP: &str = "spire-bundle";
const CONFIG_MAP_KEY: &str = "bundle.crt";
/// SPIRE warns of hints beyond these.
const HINTS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(24 * 60 * 60)];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct K8sConfigMap {
    clusters: BTreeMap<String, ApplyTo>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ApplyTo {
    configmap_name: Option<String>,
    configmap_key: Option<String>,
    namespace: Option<String>,
    kubeconfig_path: Option<PathBuf>,
    format: Option<String>,
    refresh_hint: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct K8sBundle {
    namespace: Option<String>,
    config_map: Option<String>,
    config_map_key: Option<String>,
    webhook_label: Option<String>,
    api_service_label: Option<String>,
    kube_config_file_path: Option<PathBuf>,
    clusters: Vec<Remote>,
}

/// A cluster of `k8sbundle`: the same keys as its root.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Remote {
    namespace: Option<String>,
    config_map: Option<String>,
    config_map_key: Option<String>,
    webhook_label: Option<String>,
    api_service_label: Option<String>,
    kube_config_file_path: Option<PathBuf>,
}

/// Reads BundlePublisher `k8s_configmap`.
pub(super) fn k8s_configmap(plugin: &Plugin, problems: &mut Problems) -> Vec<TargetConfig> {
    let K8sConfigMap { clusters } = plugin.settings(problems);
    problems.warn_if(
        clusters.is_empty(),
        "BundlePublisher `k8s_configmap`: no clusters are configured, so the bundle is not published",
    );
    let read = |(cluster, to): (String, ApplyTo)| {
        let path = plugin.key(&format!("clusters.{cluster}"));
        let mut needed = |key: &str, value: Option<String>| {
            let value = given(value);
            problems.add_if(value.is_none(), &format!("{path}.{key}"), "must be set");
            value
        };
        let name = needed("configmap_name", to.configmap_name);
        let key = needed("configmap_key", to.configmap_key);
        let namespace = needed("namespace", to.namespace);
        let format = needed("format", to.format);
        let hint = problems.length(
            &format!("{path}.refresh_hint"),
            given(to.refresh_hint).as_deref(),
        );
        let [least, most] = HINTS;
        problems.warn_if(
            hint.is_some_and(|hint| hint < least || hint >= most),
            "BundlePublisher `k8s_configmap`: a refresh_hint should be from 1m to less than 24h",
        );
        let format = format.and_then(|word| {
            let format = Format::parse(&word, hint);
            let what = format!("unknown bundle format: {word:?}; there are spiffe, jwks and pem");
            problems.add_if(format.is_none(), &format!("{path}.format"), what);
            format
        });
        let map = ConfigMapRef {
            namespace: namespace?,
            name: name?,
            key: key?,
        };
        Some(TargetConfig {
            plugin: publish::Plugin::K8sConfigMap,
            cluster,
            kube_config: kube_config(to.kubeconfig_path),
            place: Place::Applied(map, format?),
        })
    };
    clusters.into_iter().filter_map(read).collect()
}

/// Reads Notifier `k8sbundle`. Without any setting it is about the cluster that the server runs in;
/// with `clusters` alone, only about these.
pub(super) fn k8sbundle(plugin: &Plugin, problems: &mut Problems) -> Vec<TargetConfig> {
    let said: K8sBundle = plugin.settings(problems);
    let root = Remote {
        namespace: given(said.namespace),
        config_map: given(said.config_map),
        config_map_key: given(said.config_map_key),
        webhook_label: given(said.webhook_label),
        api_service_label: given(said.api_service_label),
        kube_config_file_path: given(said.kube_config_file_path),
    };
    let mut targets = Vec::new();
    if !root.is_empty() || said.clusters.is_empty() {
        targets.extend(root.targets(""));
    }
    for (index, remote) in said.clusters.into_iter().enumerate() {
        let path = plugin.key(&format!("clusters[{index}].kube_config_file_path"));
        let file = given(remote.kube_config_file_path.as_ref());
        problems.add_if(
            file.is_none(),
            &path,
            "cluster configuration is missing kube_config_file_path",
        );
        targets.extend(remote.targets(&format!("clusters[{index}]")));
    }
    targets
}

impl Remote {
    fn is_empty(&self) -> bool {
        let texts = [
            &self.namespace,
            &self.config_map,
            &self.config_map_key,
            &self.webhook_label,
            &self.api_service_label,
        ];
        texts.iter().all(|text| text.is_none()) && self.kube_config_file_path.is_none()
    }

    fn targets(self, cluster: &str) -> Vec<TargetConfig> {
        let or =
            |text: Option<String>, default: &str| given(text).unwrap_or_else(|| default.to_owned());
        let map = ConfigMapRef {
            namespace: or(self.namespace, NAMESPACE),
            name: or(self.config_map, CONFIG_MAP),
            key: or(self.config_map_key, CONFIG_MAP_KEY),
        };
        let webhooks = given(self.webhook_label).map(|label| Place::Webhooks { label });
        let services = given(self.api_service_label).map(|label| Place::ApiServices { label });
        let kube_config = kube_config(self.kube_config_file_path);
        let places = [Some(Place::Patched(map)), webhooks, services];
        let target = |place| TargetConfig {
            plugin: publish::Plugin::K8sBundle,
            cluster: cluster.to_owned(),
            kube_config: kube_config.clone(),
            place,
        };
        places.into_iter().flatten().map(target).collect()
    }
}
